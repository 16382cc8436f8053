"""Making root keys, sealing them, and the directory they lie in; numbers are the rules of the module named."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from support.kms_support import DOMAIN, NOW, counted, key, root_keys
from teehouse.base.findings import EvidenceError, MisuseError
from teehouse.keys import sealing
from teehouse.keys.certificate import CertificateFields, Issuer, self_signed
from teehouse.keys.derive import KeyDerivationError, dh_secret, p256_scalar
from teehouse.keys.pem import certificate_pem, private_key_pem, spki_der
from teehouse.kms import rootkeys
from teehouse.kms.rootkeys import (
    ROOT_CA,
    BootstrapInfo,
    RootKeys,
    adopted_ca,
    check_domain,
    new_root_keys,
    parse_bootstrap_info,
)
from teehouse.kms.rootstore import REQUIRED, RootKeyStore

SEALING = bytes(range(32))
RPC_CERT = b"\x30\x00"
KEYS = root_keys()


def made(directory: Path, sealing_key: bytes | None = None, keys: RootKeys = KEYS) -> RootKeyStore:
    store = RootKeyStore(directory / "keys", sealing_key, random=counted())
    store.create(keys, RPC_CERT)
    return store


def same(found: RootKeys, expected: RootKeys = KEYS) -> bool:
    def shown(keys: RootKeys) -> tuple[object, ...]:
        root = keys.root
        return (
            p256_scalar(root.ca.key),
            root.ca.certificate_der,
            p256_scalar(root.temporary_ca.key),
            root.temporary_ca.certificate_der,
            root.k256_key,
            p256_scalar(keys.rpc_key),
            keys.domain,
            keys.bootstrap_info,
        )

    return shown(found) == shown(expected)


# Deriving (trust.md 13.4)


def test_the_published_vector_of_the_shared_secret() -> None:
    """trust.md 13.4: upstream's own test vector."""
    scalar = bytes.fromhex("f57527cea4ab7ffb49af99b158cdc0e3ec06398f528349ea236b7d2afe19cec1")
    secret = dh_secret(scalar, b"context one", b"context two")
    assert secret.hex() == "663afd58820be8ad645f9c035e93199d114ab16f738db62393bc1d7d623e8813"


# Making (`kms.rootkeys`)


def test_1_each_key_is_drawn_on_its_own() -> None:
    keys = new_root_keys(DOMAIN, NOW)
    other = new_root_keys(DOMAIN, NOW)
    drawn = [
        *(p256_scalar(k.key) for k in (keys.root.ca, keys.root.temporary_ca, other.root.ca)),
        p256_scalar(keys.rpc_key),
        keys.root.k256_key,
        other.root.k256_key,
    ]
    assert len(set(drawn)) == len(drawn)


def test_1_what_is_no_scalar_is_drawn_again() -> None:
    draws = [bytes(32), b"\xff" * 32, bytes(31) + b"\x01"]
    assert p256_scalar(rootkeys.new_p256_key(lambda _: draws.pop(0))) == bytes(31) + b"\x01"


def test_the_certificates_are_those_of_the_interface() -> None:
    root = x509.load_der_x509_certificate(KEYS.root.ca.certificate_der)
    temporary = x509.load_der_x509_certificate(KEYS.root.temporary_ca.certificate_der)
    assert root.subject.rfc4514_string() == "CN=Dstack KMS CA,O=Dstack"
    assert temporary.subject.rfc4514_string() == "CN=Dstack Client Temp CA,O=Dstack"
    levels = [
        c.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        for c in (root, temporary)
    ]
    assert levels == [1, 0]


def test_no_repr_shows_a_key() -> None:
    shown = repr(KEYS)
    for secret in (KEYS.root.k256_key, p256_scalar(KEYS.root.ca.key), p256_scalar(KEYS.rpc_key)):
        assert secret.hex() not in shown
        assert repr(secret) not in shown


@pytest.mark.parametrize(
    "domain", ["a", "kms.example.test", "127.0.0.1", "a-b.c", "a" * 63, ".".join(["a" * 49] * 5)]
)
def test_2_domains(domain: str) -> None:
    assert check_domain(domain) == domain


@pytest.mark.parametrize(
    "domain",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a",
        "a-",
        "a_b",
        "a b",
        "a\n",
        "ä.test",
        "a" * 64,
        ".".join(["a" * 50] * 5),
    ],
)
def test_2_what_is_no_domain(domain: str) -> None:
    with pytest.raises(MisuseError, match="invalid domain"):
        check_domain(domain)


def test_a_ca_of_another_kms_is_kept_when_it_is_what_we_would_make() -> None:
    ca = KEYS.root.ca
    later = NOW + timedelta(days=400)
    assert adopted_ca(ROOT_CA, ca.key, ca.certificate_der, later).certificate_der == ca.certificate_der


def test_a_ca_of_another_shape_or_that_has_ended_is_issued_anew() -> None:
    ca = KEYS.root.ca
    odd = self_signed(CertificateFields("Odd CA", ca_level=3), ca.key, NOW)
    assert adopted_ca(ROOT_CA, ca.key, odd, NOW).certificate_der == ca.certificate_der
    late = NOW + timedelta(days=4000)
    renewed = adopted_ca(ROOT_CA, ca.key, ca.certificate_der, late).certificate_der
    assert x509.load_der_x509_certificate(renewed).not_valid_after_utc > late
    with pytest.raises(MisuseError, match="does not belong to the key"):
        adopted_ca(ROOT_CA, key(), ca.certificate_der, NOW)


@given(st.binary(max_size=99), st.binary(max_size=33), st.binary(max_size=200))
def test_bootstrap_info_round_trips(ca: bytes, k256: bytes, proof: bytes) -> None:
    info = BootstrapInfo(ca, k256, proof)
    assert parse_bootstrap_info(info.to_json()) == info


@given(st.binary(max_size=200))
def test_what_is_no_bootstrap_info_is_bad_evidence(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_bootstrap_info(data)


# The store (`kms.rootstore`)


@pytest.mark.parametrize("size", [0, 16, 33])
def test_a_sealing_key_of_another_size_opens_no_store(tmp_path: Path, size: int) -> None:
    with pytest.raises(MisuseError, match="expected 32 bytes"):
        RootKeyStore(tmp_path, bytes(size))


def test_what_is_stored_is_what_is_loaded(tmp_path: Path) -> None:
    store = made(tmp_path)
    assert store.exists()
    assert same(store.load(NOW))
    names = {path.name for path in (tmp_path / "keys").iterdir()}
    assert names == {*REQUIRED, "bootstrap-info.json"}
    modes = {name: stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode) for name in names}
    assert {modes[name] for name in names if name.endswith(".key")} == {0o600}
    assert (tmp_path / "keys" / "root-k256.key").read_bytes() == KEYS.root.k256_key
    assert (tmp_path / "keys" / "root-ca.key").read_text() == private_key_pem(KEYS.root.ca.key)
    assert (tmp_path / "keys" / "rpc-domain").read_text() == DOMAIN
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_keys_without_bootstrap_info_are_whole(tmp_path: Path) -> None:
    bare = replace(KEYS, bootstrap_info=None)
    assert same(made(tmp_path, keys=bare).load(NOW), bare)


def test_an_empty_directory_may_be_there_before(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    assert not RootKeyStore(tmp_path / "keys").exists()
    assert same(made(tmp_path).load(NOW))


def test_no_keys_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="there are no root keys"):
        RootKeyStore(tmp_path / "keys").load(NOW)


@pytest.mark.parametrize("name", REQUIRED)
def test_1_a_store_that_lacks_a_file_is_refused(name: str, tmp_path: Path) -> None:
    store = made(tmp_path)
    (tmp_path / "keys" / name).unlink()
    for work in (store.exists, lambda: store.load(NOW), lambda: store.create(KEYS, RPC_CERT)):
        with pytest.raises(MisuseError, match=f"not complete.*no {name}"):
            work()


def test_1_a_directory_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "note.txt").write_text("mine")
    with pytest.raises(MisuseError, match="is not empty"):
        made(tmp_path)
    assert sorted(p.name for p in (tmp_path / "keys").iterdir()) == ["note.txt"]


def test_1_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        made(tmp_path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == [".keys.lock"]
    assert same(made(tmp_path).load(NOW))


def test_1_what_a_dead_process_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / ".keys.new-0123456789ab"
    left.mkdir()
    (left / "root-k256.key").write_bytes(bytes(32))
    made(tmp_path)
    assert not left.exists()


def test_2_keys_are_never_overwritten(tmp_path: Path) -> None:
    store = made(tmp_path)
    with pytest.raises(MisuseError, match="has its root keys already"):
        store.create(root_keys(1000), RPC_CERT)
    assert same(store.load(NOW))


def test_3_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    store = made(tmp_path)
    (tmp_path / "keys" / "tmp-ca.key").chmod(0o640)
    with pytest.raises(MisuseError, match=r"tmp-ca\.key is readable by others.*found 0640"):
        store.load(NOW)


def test_4_a_sealed_store_shows_no_key_and_opens_with_its_key_alone(tmp_path: Path) -> None:
    store = made(tmp_path, SEALING)
    assert same(store.load(NOW))
    for name in REQUIRED:
        if name.endswith(".key"):
            content = (tmp_path / "keys" / name).read_bytes()
            assert sealing.is_sealed(content)
            assert KEYS.root.k256_key not in content
            assert b"PRIVATE" not in content
    with pytest.raises(MisuseError, match=r"root-k256\.key is sealed"):
        RootKeyStore(tmp_path / "keys").load(NOW)
    with pytest.raises(MisuseError, match=r"root-k256\.key cannot be unsealed"):
        RootKeyStore(tmp_path / "keys", bytes(32)).load(NOW)


def test_4_an_open_store_is_sealed_when_it_is_opened_with_a_key(tmp_path: Path) -> None:
    made(tmp_path)
    assert same(RootKeyStore(tmp_path / "keys", SEALING).load(NOW))
    contents = [(tmp_path / "keys" / name).read_bytes() for name in REQUIRED if name.endswith(".key")]
    assert all(map(sealing.is_sealed, contents))
    assert same(RootKeyStore(tmp_path / "keys", SEALING).load(NOW))


def test_4_swapped_sealed_files_do_not_open(tmp_path: Path) -> None:
    store = made(tmp_path, SEALING)
    directory = tmp_path / "keys"
    content = (directory / "tmp-ca.key").read_bytes()
    (directory / "root-ca.key").write_bytes(content)
    with pytest.raises(MisuseError, match=r"root-ca\.key cannot be unsealed"):
        store.load(NOW)


def test_5_ca_certificates_are_renewed_within_a_year_of_their_end(tmp_path: Path) -> None:
    store = made(tmp_path)
    end = x509.load_der_x509_certificate(KEYS.root.ca.certificate_der).not_valid_after_utc
    before = end - timedelta(days=365, seconds=1)
    assert same(store.load(before))
    due = end - timedelta(days=365)
    renewed = store.load(due)
    for name, issuer, former in (
        ("root-ca", renewed.root.ca, KEYS.root.ca),
        ("tmp-ca", renewed.root.temporary_ca, KEYS.root.temporary_ca),
    ):
        certificate = x509.load_der_x509_certificate(issuer.certificate_der)
        assert certificate.not_valid_after_utc == due.replace(microsecond=0) + timedelta(days=3650)
        assert spki_der(issuer.key.public_key()) == spki_der(former.key.public_key())
        assert (tmp_path / "keys" / f"{name}.crt").read_text() == certificate_pem(issuer.certificate_der)
    assert same(store.load(due), renewed)


def test_6_the_rpc_certificate_is_replaced(tmp_path: Path) -> None:
    store = made(tmp_path)
    der = rootkeys.rpc_certificate(KEYS, None, NOW)
    store.put_rpc_certificate(der)
    assert (tmp_path / "keys" / "rpc.crt").read_text() == certificate_pem(der)


def other_bootstrap_info(directory: Path) -> None:
    (directory / "bootstrap-info.json").write_text(BootstrapInfo(b"\1", b"\2", b"").to_json())


def broken_bootstrap_info(directory: Path) -> None:
    (directory / "bootstrap-info.json").write_text("{")


def mixed_ca(directory: Path) -> None:
    other = Issuer(key(), self_signed(CertificateFields("x", ca_level=1), key(), NOW))
    (directory / "root-ca.crt").write_text(certificate_pem(other.certificate_der))


def short_k256(directory: Path) -> None:
    (directory / "root-k256.key").write_bytes(bytes(31))


def no_k256(directory: Path) -> None:
    (directory / "root-k256.key").write_bytes(bytes(32))


def no_pem(directory: Path) -> None:
    (directory / "rpc.key").write_bytes(b"\xff\xfe")


def binary_domain(directory: Path) -> None:
    (directory / "rpc-domain").write_bytes(b"\xff")


def wrong_domain(directory: Path) -> None:
    (directory / "rpc-domain").write_bytes(b"a b")


def long_file(directory: Path) -> None:
    (directory / "rpc-domain").write_bytes(b"a" * (1024 * 1024 + 1))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (other_bootstrap_info, "bootstrap-info.json is about other keys"),
        (broken_bootstrap_info, "bootstrap-info"),
        (mixed_ca, "root-ca.key does not belong to root-ca.crt"),
        (short_k256, "root-k256.key has the wrong size"),
        (no_pem, "rpc.key: no private key can be read"),
        (binary_domain, "rpc-domain is not text"),
        (wrong_domain, "invalid domain"),
        (long_file, "rpc-domain is too long"),
    ],
)
def test_1_files_that_do_not_belong_together_are_refused(
    damage: Callable[[Path], None], text: str, tmp_path: Path
) -> None:
    store = made(tmp_path)
    damage(tmp_path / "keys")
    with pytest.raises(MisuseError) as caught:
        store.load(NOW)
    assert str(caught.value).startswith(f"the root keys in {tmp_path / 'keys'}: ")
    assert text in str(caught.value)


def test_an_impossible_k256_key_is_refused(tmp_path: Path) -> None:
    store = made(tmp_path)
    no_k256(tmp_path / "keys")
    with pytest.raises(KeyDerivationError, match="Failed to parse k256 key"):
        store.load(NOW)
