"""Certificates of the emulated installation: profile, determinism, names, and the seed on disk."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from support import emulated
from teehouse.attestation.pck import parse_pck_extension
from teehouse.base.findings import MisuseError
from teehouse.base.hashes import sha256
from teehouse.tee_emulated import pki as pki_module
from teehouse.tee_emulated.installation import load_or_create_seed
from teehouse.tee_emulated.pki import PLATFORM_CA_LABEL, EmulatedPki, p256_scalar, pck_label

# Golden: the root of seed 000102…1f, made once by this code; it changes for nobody's installation.
GOLDEN_ROOT = "ca9f43e0074c14537632605904f2da19d10ef924f5eb13ff6f2d8e19096ece91"


def certificates() -> dict[str, x509.Certificate]:
    pki = emulated.pki()
    ders = {
        "root": pki.root_der,
        "ca": pki.platform_ca_der,
        "tcb": pki.tcb_signer_der,
        "pck": emulated.host().pck_der,
    }
    return {name: x509.load_der_x509_certificate(der) for name, der in ders.items()}


def test_a_seed_always_makes_the_same_root() -> None:
    assert EmulatedPki(emulated.SEED).root_fingerprint == GOLDEN_ROOT
    assert EmulatedPki(emulated.SEED).root_fingerprint == sha256(emulated.pki().root_der).hex()
    assert EmulatedPki(b"\x01" * 32).root_fingerprint != GOLDEN_ROOT


def test_a_host_is_the_same_after_a_restart() -> None:
    again = EmulatedPki(emulated.SEED).host("alpha")
    former = emulated.host()
    report = emulated.td_report().encode()
    assert again == former
    assert again.quote(report) == former.quote(report)


def test_two_hosts_are_two_devices_under_one_root() -> None:
    alpha, beta = emulated.host("alpha"), emulated.host("beta")
    roots = [x509.load_pem_x509_certificates(host.pck_chain)[-1] for host in (alpha, beta)]
    assert roots == [certificates()["root"]] * 2
    assert alpha != beta
    assert sha256(alpha.ppid) != sha256(beta.ppid)
    assert alpha.platform_instance_id != beta.platform_instance_id
    assert alpha.pck_der != beta.pck_der
    assert alpha.attestation_key.public_key() != beta.attestation_key.public_key()


def test_the_key_scheme_is_the_fields() -> None:
    # trust.md 6.4: SHA-256 over domain, seed, label, big-endian counter
    expected = sha256(b"dstack-mock-p256-v1" + emulated.SEED + b"tdx-root" + bytes(4))
    assert p256_scalar(emulated.SEED, "tdx-root") == int.from_bytes(expected)


@pytest.mark.parametrize("refused", [0, pki_module._P256_ORDER, (1 << 256) - 1])
def test_an_invalid_private_number_raises_the_counter(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    asked: list[bytes] = []

    def hashed(data: bytes) -> bytes:
        asked.append(data[-4:])
        return (refused if len(asked) == 1 else 7).to_bytes(32)

    monkeypatch.setattr(pki_module, "sha256", hashed)
    assert p256_scalar(emulated.SEED, "tdx-root") == 7
    assert asked == [bytes(4), (1).to_bytes(4)]


def test_every_subject_says_emulated() -> None:
    names = {name: certificate.subject.rfc4514_string() for name, certificate in certificates().items()}
    organisation = "O=Teehouse Emulated TDX\\, not Intel"
    assert names == {
        "root": f"C=ZZ,{organisation},CN=Emulated SGX Root CA",
        "ca": f"C=ZZ,{organisation},CN=Emulated SGX PCK Platform CA",
        "tcb": f"C=ZZ,{organisation},CN=Emulated SGX TCB Signing",
        "pck": f"C=ZZ,{organisation},CN=Emulated SGX PCK Certificate",
    }


@pytest.mark.parametrize(
    ("name", "issuer", "path_length", "extra"),
    [("root", "root", 1, 0), ("ca", "root", 0, 0), ("tcb", "root", None, 0), ("pck", "ca", None, 1)],
)
def test_the_profile_of_each_certificate(name: str, issuer: str, path_length: int | None, extra: int) -> None:
    # trust.md 6.1
    certificate, signer = certificates()[name], certificates()[issuer]
    ca = path_length is not None
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    certificate.verify_directly_issued_by(signer)
    assert isinstance(key := certificate.public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert (basic.critical, basic.value) == (True, x509.BasicConstraints(ca, path_length))
    assert usage.critical is True
    assert (usage.value.key_cert_sign, usage.value.crl_sign) == (ca, ca)
    assert (usage.value.digital_signature, usage.value.content_commitment) == (not ca, not ca)
    subject_key = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert subject_key.value == x509.SubjectKeyIdentifier.from_public_key(key)
    assert isinstance(signer_key := signer.public_key(), ec.EllipticCurvePublicKey)
    assert authority.value == x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key)
    assert len(certificate.extensions) == 4 + extra
    assert certificate.not_valid_before_utc == datetime(2020, 1, 1, tzinfo=UTC)
    assert certificate.not_valid_after_utc == datetime(2100, 1, 1, tzinfo=UTC)
    assert certificate.serial_number.bit_length() == 127
    assert len({c.serial_number for c in certificates().values()}) == 4


def test_the_sgx_extension_reads_back() -> None:
    # trust.md 2.10, 6.2
    host = emulated.host()
    read = parse_pck_extension(host.pck_der)
    assert {name: getattr(read, name) for name in read.__slots__} == {
        "ppid": host.ppid,
        "cpu_svn": bytes.fromhex("0303020204010005") + bytes(8),
        "tcb_components": (3, 3, 2, 2, 4, 1, 0, 5, *[0] * 8),
        "pce_svn": 13,
        "pce_id": bytes(2),
        "fmspc": bytes.fromhex("00806f050000"),
        "sgx_type": 1,
        "platform_instance_id": host.platform_instance_id,
        "dynamic_platform": False,
        "cached_keys": False,
        "smt_enabled": False,
    }


@given(st.text(alphabet="abcXYZ019._-", min_size=1, max_size=64))
def test_any_well_formed_label_is_a_host(label: str) -> None:
    host = emulated.pki().host(label)
    assert parse_pck_extension(host.pck_der).ppid == host.ppid


@pytest.mark.parametrize("label", ["", "a" * 65, "a b", "ä", "a\n", "\ud800", "a:b"])
def test_a_label_of_another_form_is_refused(label: str) -> None:
    with pytest.raises(MisuseError) as refused:
        emulated.pki().host(label)
    assert refused.value.finding.code == "emulated.host.label"


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(MisuseError, match=f"expected 32 bytes, found {size}"):
        EmulatedPki(bytes(size))


def test_only_known_certificates_can_be_revoked() -> None:
    with pytest.raises(MisuseError, match="found alpha"):
        EmulatedPki(emulated.SEED, revoked=frozenset({"alpha", PLATFORM_CA_LABEL, pck_label("x")}))


def test_the_seed_is_not_shown() -> None:
    assert repr(emulated.pki()) == "EmulatedPki(revoked=frozenset())"


def test_a_seed_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    made = load_or_create_seed(path)
    assert len(made) == 32
    assert path.read_bytes() == made == load_or_create_seed(path) == load_or_create_seed(path, made)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_seed(tmp_path / "other") != made


def test_a_given_seed_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    assert load_or_create_seed(path, emulated.SEED) == emulated.SEED == load_or_create_seed(path)


def test_another_seed_than_the_stored_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    load_or_create_seed(path, emulated.SEED)
    with pytest.raises(MisuseError) as refused:
        load_or_create_seed(path, bytes(32))
    assert refused.value.finding.code == "emulated.seed.other"
    assert path.read_bytes() == emulated.SEED
    assert emulated.SEED.hex() not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_seed_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "seed"
    load_or_create_seed(path)
    path.chmod(mode)
    with pytest.raises(MisuseError, match=f"expected 0600, found {mode:04o}"):
        load_or_create_seed(path)
    path.chmod(0o600)
    assert len(load_or_create_seed(path)) == 32


@pytest.mark.parametrize(("size", "found"), [(0, "0"), (31, "31"), (33, "more than 32")])
def test_a_seed_file_of_another_size_is_refused(tmp_path: Path, size: int, found: str) -> None:
    path = tmp_path / "seed"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(MisuseError, match=f"expected 32 bytes, found {found}"):
        load_or_create_seed(path)


def test_a_given_seed_of_another_size_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="found 31"):
        load_or_create_seed(tmp_path / "seed", bytes(31))
    assert list(tmp_path.iterdir()) == []
