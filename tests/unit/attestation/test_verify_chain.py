"""Certificates, paths, revocation lists, raw signatures, and the names of roots."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from support.adversary import Adversary
from support.adversary_certificates import FROM, UNTIL, ca, certificate, der, key_usage, named, new_key
from teehouse.attestation import chain
from teehouse.attestation.chain import (
    CERTIFICATE_LIMIT,
    CHAIN_LIMIT,
    CRL_LIMIT,
    PathFault,
    crl_signed_by,
    load_certificate,
    load_crl,
    name_of,
    out_of_date,
    path_to_root,
    signed_by,
    verify_raw_signature,
)
from teehouse.attestation.roots import (
    ROOT_LIMIT,
    TrustedRoot,
    describe_root,
    emulated_name,
    intel_root_der,
)
from teehouse.base.findings import EvidenceError, MisuseError
from teehouse.base.hashes import sha256
from teehouse.tee_emulated.quote import raw_public_key, raw_signature

OWNER = Adversary()
ROOT_KEY, CA_KEY, LEAF_KEY = new_key(), new_key(), new_key()
ROOT_NAME, CA_NAME, LEAF_NAME = named("root"), named("ca"), named("leaf")
ROOT = certificate(ROOT_NAME, ROOT_KEY, ROOT_NAME, ROOT_KEY, ca(1))
CA = certificate(CA_NAME, CA_KEY, ROOT_NAME, ROOT_KEY, ca(0))
LEAF = certificate(LEAF_NAME, LEAF_KEY, CA_NAME, CA_KEY)


def path(*certificates: x509.Certificate) -> Any:
    return path_to_root(tuple(der(each) for each in certificates), der(ROOT))


def test_a_path_leads_from_leaf_to_root() -> None:
    assert path(LEAF, CA, ROOT) == (LEAF, CA, ROOT)
    assert path(LEAF, CA) == (LEAF, CA, ROOT)


@pytest.mark.parametrize(
    ("certificates", "expected"),
    [
        pytest.param([], f"1 to {CHAIN_LIMIT} certificates", id="empty"),
        pytest.param([LEAF] * (CHAIN_LIMIT + 1), f"1 to {CHAIN_LIMIT} certificates", id="too-long"),
        pytest.param([LEAF, ROOT], "CN=leaf signed by CN=root", id="ca-left-out"),
        pytest.param([CA, LEAF, ROOT], "CN=ca signed by CN=leaf", id="out-of-order"),
        pytest.param(
            [LEAF, certificate(CA_NAME, new_key(), ROOT_NAME, ROOT_KEY, ca(0))],
            "CN=leaf signed by CN=ca",
            id="another-key-of-that-name",
        ),
        pytest.param(
            [LEAF, certificate(CA_NAME, CA_KEY, ROOT_NAME, ROOT_KEY)], "a CA above CN=leaf", id="no-ca"
        ),
        pytest.param(
            [
                LEAF,
                certificate(
                    CA_NAME, CA_KEY, ROOT_NAME, ROOT_KEY, x509.BasicConstraints(ca=False, path_length=None)
                ),
            ],
            "a CA above CN=leaf",
            id="ca-false",
        ),
        pytest.param(
            [
                LEAF,
                certificate(
                    CA_NAME, CA_KEY, ROOT_NAME, ROOT_KEY, ca(), key_usage(cert_sign=True, crl_sign=False)
                ),
            ],
            "a CA above CN=leaf",
            id="ca-without-crl-sign",
        ),
        pytest.param(
            [
                LEAF,
                certificate(
                    CA_NAME, CA_KEY, ROOT_NAME, ROOT_KEY, ca(), key_usage(cert_sign=False, crl_sign=True)
                ),
            ],
            "a CA above CN=leaf",
            id="ca-without-cert-sign",
        ),
        pytest.param(
            [certificate(LEAF_NAME, LEAF_KEY, ROOT_NAME, ROOT_KEY, algorithm=SHA384())],
            "CN=leaf signed by CN=root",
            id="sha384",
        ),
    ],
)
def test_a_path_that_breaks_a_rule_leads_nowhere(certificates: list[x509.Certificate], expected: str) -> None:
    fault = path(*certificates)
    assert isinstance(fault, PathFault)
    assert fault.expected == expected


def test_a_path_keeps_its_length() -> None:
    between = certificate(named("between"), LEAF_KEY, CA_NAME, CA_KEY, ca())
    last = certificate(LEAF_NAME, new_key(), named("between"), LEAF_KEY)
    assert path(last, between, CA) == PathFault("at most 0 CAs below CN=ca", "1")


def test_an_issuer_on_another_curve_signs_nothing() -> None:
    key = new_key(ec.SECP384R1())
    root = certificate(ROOT_NAME, key, ROOT_NAME, key, ca())
    assert not signed_by(certificate(LEAF_NAME, LEAF_KEY, ROOT_NAME, key), root)


def test_a_certificate_is_valid_from_its_first_to_its_last_second() -> None:
    assert out_of_date((LEAF, ROOT), FROM) is None
    assert out_of_date((LEAF, ROOT), UNTIL) is None
    assert out_of_date((LEAF, ROOT), FROM - timedelta(seconds=1)) is LEAF
    assert out_of_date((LEAF, ROOT), UNTIL + timedelta(seconds=1)) is LEAF


def test_names_are_shown_as_people_know_them() -> None:
    assert name_of(named("x")) == "CN=x"
    assert name_of(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "o")])) == "O=o"
    assert name_of(x509.Name([])) == "an empty name"


def crl(
    key: Any = ROOT_KEY, issuer: x509.Name = ROOT_NAME, algorithm: Any = None
) -> x509.CertificateRevocationList:
    made = x509.CertificateRevocationListBuilder().issuer_name(issuer).last_update(FROM).next_update(UNTIL)
    return made.sign(key, SHA256() if algorithm is None else algorithm)


CRL_DER = crl().public_bytes(Encoding.DER)


def crl_tbs() -> bytes:
    return load_crl(CRL_DER).tbs_certlist_bytes


def test_a_revocation_list_is_its_issuers() -> None:
    assert crl_signed_by(crl(), ROOT)
    assert not crl_signed_by(crl(key=CA_KEY), ROOT)
    assert not crl_signed_by(crl(issuer=CA_NAME), ROOT)
    assert not crl_signed_by(crl(algorithm=SHA384()), ROOT)
    key = new_key(ec.SECP384R1())
    assert not crl_signed_by(crl(key=key), certificate(ROOT_NAME, key, ROOT_NAME, key, ca()))


def test_bounds_are_kept() -> None:
    for load, limit, code in (
        (load_certificate, CERTIFICATE_LIMIT, "certificate.too-long"),
        (load_crl, CRL_LIMIT, "crl.too-long"),
    ):
        with pytest.raises(EvidenceError) as refused:
            load(bytes(limit + 1))
        assert refused.value.finding.code == code


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for load in (load_certificate, load_crl):
        with pytest.raises(EvidenceError):
            load(data)


@given(st.integers(0, len(der(LEAF)) - 1), st.integers(1, 255))
def test_a_changed_certificate_never_raises_anything_else(offset: int, change: int) -> None:
    raw = der(LEAF)
    changed = raw[:offset] + bytes([raw[offset] ^ change]) + raw[offset + 1 :]
    try:
        found = path_to_root((changed, der(CA)), der(ROOT))
    except EvidenceError:
        return
    assert isinstance(found, PathFault)


@given(st.integers(0, len(CRL_DER) - 1), st.integers(1, 255))
def test_a_changed_list_never_raises_anything_else(offset: int, change: int) -> None:
    try:
        found = load_crl(CRL_DER[:offset] + bytes([CRL_DER[offset] ^ change]) + CRL_DER[offset + 1 :])
    except EvidenceError:
        return
    # The encoding of the signature itself is signed by nobody; what it covers has not changed then.
    assert not crl_signed_by(found, ROOT) or found.tbs_certlist_bytes == crl_tbs()


def test_a_list_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No builder makes one; the decoder below is what a list without nextUpdate would give."""

    class Endless:
        issuer = last_update_utc = extensions = signature_hash_algorithm = next_update_utc = None

    monkeypatch.setattr(chain.x509, "load_der_x509_crl", lambda _: Endless())
    with pytest.raises(EvidenceError) as refused:
        load_crl(b"a list without nextUpdate")
    assert refused.value.finding.code == "crl.no-next-update"


def test_raw_signatures_are_those_of_a_point_or_a_certificate() -> None:
    signature = raw_signature(LEAF_KEY, b"data")
    point = raw_public_key(LEAF_KEY)
    assert verify_raw_signature(point, signature, b"data")
    assert verify_raw_signature(LEAF, signature, b"data")
    assert not verify_raw_signature(point, signature, b"date")
    assert not verify_raw_signature(CA, signature, b"data")
    assert not verify_raw_signature(bytes(64), signature, b"data")  # no point of the curve
    assert not verify_raw_signature(point, signature[:-1], b"data")
    assert not verify_raw_signature(point, bytes(64), b"data")
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder().subject_name(LEAF_NAME).issuer_name(LEAF_NAME).serial_number(1)
    other = builder.public_key(key.public_key()).not_valid_before(FROM).not_valid_after(UNTIL).sign(key, None)
    assert not verify_raw_signature(other, signature, b"data")


INTEL_FINGERPRINT = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"


def test_intels_root_is_the_published_one() -> None:
    """SHA-256 of Intel's SGX Root CA certificate (CN=Intel SGX Root CA, 2018 to 2049)."""
    root = TrustedRoot.intel()
    assert (root.name, root.emulated) == ("intel", False)
    assert sha256(root.certificate_der).hex() == INTEL_FINGERPRINT
    loaded = load_certificate(root.certificate_der)
    assert loaded.not_valid_after_utc == datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert describe_root(intel_root_der()) == "intel (Intel SGX Root CA)"


def test_an_emulated_root_is_called_by_its_fingerprint() -> None:
    root = TrustedRoot.emulated_root(OWNER.pki.root_der)
    assert root.name == f"emulated:{OWNER.pki.root_fingerprint[:32]}"
    assert root.emulated
    assert describe_root(OWNER.pki.root_der) == f"{root.name} (CN=Emulated SGX Root CA)"


def test_a_root_is_read_from_pem_and_der() -> None:
    assert TrustedRoot.emulated_file(OWNER.pki.root_pem.encode()) == OWNER.root
    assert TrustedRoot.emulated_file(OWNER.pki.root_der) == OWNER.root


def intel_pem() -> bytes:
    return load_certificate(intel_root_der()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"nothing", "root.malformed", id="no-certificate"),
        pytest.param(b"-----BEGIN nothing", "root.malformed", id="no-pem"),
        pytest.param(bytes(ROOT_LIMIT + 1), "root.too-long", id="too-long"),
        pytest.param(OWNER.pki.pck_crl_issuer_chain.encode(), "root.not-one", id="a-chain"),
        pytest.param(OWNER.pki.platform_ca_der, "root.not-a-root", id="a-ca-that-is-no-root"),
        pytest.param(OWNER.host.pck_der, "root.not-a-root", id="a-leaf"),
        pytest.param(intel_root_der(), "root.misnamed", id="intels-root-called-emulated"),
        pytest.param(intel_pem(), "root.misnamed", id="intels-root-called-emulated-pem"),
    ],
)
def test_what_is_no_emulated_root_is_refused(content: bytes, code: str) -> None:
    with pytest.raises(MisuseError) as refused:
        TrustedRoot.emulated_file(content)
    assert refused.value.finding.code == code


@pytest.mark.parametrize(
    ("name", "certificate_der", "emulated"),
    [
        pytest.param("intel", OWNER.pki.root_der, False, id="an-emulated-root-called-intel"),
        pytest.param("other", OWNER.pki.root_der, True, id="another-name"),
        pytest.param("Intel", intel_root_der(), False, id="nearly-intel"),
        pytest.param(emulated_name(intel_root_der()), intel_root_der(), True, id="intel-called-emulated"),
    ],
)
def test_a_root_cannot_take_another_ones_name(name: str, certificate_der: bytes, emulated: bool) -> None:
    with pytest.raises(MisuseError) as refused:
        TrustedRoot(name, certificate_der, emulated)
    assert refused.value.finding.code == "root.misnamed"
