"""The certificate profile (teehouse.keys.certificate), by the rule numbers of its docstring."""

import ipaddress
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from support.keys_support import APP_ID, NOW, SEED, SIM
from support.openssl_support import openssl
from teehouse.base.findings import MisuseError
from teehouse.keys.appkeys import generate_with_self_made_kms, generate_without_kms
from teehouse.keys.certificate import (
    CertificateFields,
    Issuer,
    issue,
    octet_string,
    self_signed,
    serial_number,
    validity,
)
from teehouse.keys.derive import application_key, p256_from_scalar
from teehouse.keys.pem import certificate_pem

ISSUER = generate_without_kms(SEED, NOW).own_issuer()
KEY = p256_from_scalar(application_key(SIM, "/"))  # guest-agent.md 19.3


def issued(**fields: object) -> x509.Certificate:
    made = CertificateFields(**({"common_name": "app"} | fields))  # type: ignore[arg-type]  # test data
    return x509.load_der_x509_certificate(issue(made, KEY.public_key(), ISSUER, NOW))


def test_rule_1_the_serial_of_a_key() -> None:
    assert f"{serial_number(KEY.public_key()):x}" == "673b6ffc6b7ed60f3387db077fef0dcfc1fbbda5"
    assert issued().serial_number == serial_number(KEY.public_key())


def test_rule_1_the_top_bit_of_a_serial_is_clear() -> None:
    serials = [serial_number(p256_from_scalar(n.to_bytes(32, "big")).public_key()) for n in range(1, 40)]
    assert all(0 < serial < 1 << 159 for serial in serials)


def test_rule_2_names() -> None:
    assert issued().subject.rfc4514_string() == "CN=app"
    assert issued(organisation="Dstack").subject.rfc4514_string() == "CN=app,O=Dstack"
    assert issued().issuer.rfc4514_string() == "CN=App Root Cert"


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("", "06035504030c00"),
        ("ü" * 33, "06035504030c42" + "c3bc" * 33),
        ("a" * 64, "06035504030c40" + "61" * 64),
    ],
)
def test_rule_2_a_common_name_may_be_empty_or_long(name: str, encoded: str) -> None:
    der = issue(CertificateFields(name), KEY.public_key(), ISSUER, NOW)
    assert bytes.fromhex(encoded) in x509.load_der_x509_certificate(der).tbs_certificate_bytes


def test_rule_2_an_issuer_with_an_empty_name_issues() -> None:
    nameless = Issuer(KEY, self_signed(CertificateFields("", ca_level=0), KEY, NOW))
    certificate = x509.load_der_x509_certificate(
        issue(CertificateFields("leaf"), ISSUER.key.public_key(), nameless, NOW)
    )
    assert bytes.fromhex("300b3109300706035504030c00") in certificate.tbs_certificate_bytes


def test_rule_2_half_a_surrogate_pair_is_misuse() -> None:
    for fields in ({"common_name": "\ud800"}, {"organisation": "\ud800"}, {"alt_names": ("\ud800",)}):
        with pytest.raises(MisuseError) as refusal:
            issued(**fields)
        assert refusal.value.finding.code == "text.not-unicode"


def test_rule_3_default_validity() -> None:
    certificate = issued()
    assert certificate.not_valid_before_utc == datetime(1975, 1, 1, tzinfo=UTC)
    assert certificate.not_valid_after_utc == NOW.replace(microsecond=0) + timedelta(days=3650)


@pytest.mark.parametrize(
    ("given_values", "expected"),
    [
        ((0, 0), (datetime(1970, 1, 1, tzinfo=UTC), datetime(2036, 2, 27, 12, 30, 15, tzinfo=UTC))),
        (
            (1_700_000_000, 1_700_000_001),
            (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC)),
        ),
        (
            (2_524_608_000, 253402300799),
            (datetime(2050, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ),
    ],
)
def test_rule_3_given_validity(given_values: tuple[int, int], expected: tuple[datetime, datetime]) -> None:
    assert validity(*given_values, NOW) == expected
    certificate = issued(not_before=given_values[0], not_after=given_values[1])
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == expected


def test_rule_3_time_encodings_turn_over_in_2050() -> None:
    tbs = issued(not_before=2_524_607_999, not_after=2_524_608_000).tbs_certificate_bytes
    assert b"\x17\x0d491231235959Z\x18\x0f20500101000000Z" in tbs


@pytest.mark.parametrize(
    ("begin", "end", "subject"),
    [
        (5, 5, "not_before must be earlier than not_after"),
        (6, 5, "not_before must be earlier than not_after"),
        (None, 1, "not_before must be earlier than not_after"),
        (253402300799, None, "not_before must be earlier than not_after"),
        (253402300800, None, "not_before is out of range"),
        (None, 253402300800, "not_after is out of range"),
        (None, (1 << 64) - 1, "not_after is out of range"),
        (-1, None, "not_before is out of range"),
    ],
)
def test_rule_3_validity_that_is_refused(begin: int | None, end: int | None, subject: str) -> None:
    with pytest.raises(MisuseError) as refusal:
        issued(not_before=begin, not_after=end)
    assert refusal.value.finding.subject == subject


def _shape(certificate: x509.Certificate) -> list[tuple[str, bool]]:
    return [(extension.oid._name, extension.critical) for extension in certificate.extensions]


def test_rule_4_extensions_of_leaf_and_ca() -> None:
    assert _shape(issued()) == [("keyUsage", True)]
    leaf = issued(alt_names=("a.test",), server_auth=True, client_auth=True, extensions=(("1.2.3", b"x"),))
    assert _shape(leaf) == [
        ("subjectAltName", False),
        ("keyUsage", True),
        ("extendedKeyUsage", False),
        ("Unknown OID", False),
    ]
    authority = issued(alt_names=("a.test",), client_auth=True, ca_level=3, extensions=(("1.2.3", b"x"),))
    assert _shape(authority) == [
        ("subjectAltName", False),
        ("keyUsage", True),
        ("extendedKeyUsage", False),
        ("subjectKeyIdentifier", False),
        ("basicConstraints", True),
        ("Unknown OID", False),
    ]


def test_rule_4_key_usages() -> None:
    leaf, authority = issued(server_auth=True, client_auth=True), issued(ca_level=0)
    usages = [
        c.extensions.get_extension_for_class(x509.KeyUsage).value.public_bytes() for c in (leaf, authority)
    ]
    assert [usage.hex() for usage in usages] == ["03020780", "03020186"]
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


def test_rule_5_alternative_names() -> None:
    names = ("a.test", "10.1.2.3", "2001:db8::1", "::ffff:1.2.3.4", "fe80::1%eth0", "01.2.3.4", "", "*.test")
    found = issued(alt_names=names).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(found) == [
        x509.DNSName("a.test"),
        x509.IPAddress(ipaddress.ip_address("10.1.2.3")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
        x509.IPAddress(ipaddress.ip_address("::ffff:1.2.3.4")),
        x509.DNSName("fe80::1%eth0"),
        x509.DNSName("01.2.3.4"),
        x509.DNSName(""),
        x509.DNSName("*.test"),
    ]


def test_rule_5_a_dns_name_is_ascii() -> None:
    with pytest.raises(MisuseError) as refusal:
        issued(alt_names=("bücher.test",))
    assert refusal.value.finding.subject == (
        "Failed to sign the CSR: Failed to sign certificate: Invalid IA5String: 'bücher.test'"
    )


def test_rule_6_contents_are_wrapped_twice() -> None:
    # guest-agent.md 9.2: the example for usage app:custom
    der = issue(
        CertificateFields("a", extensions=(("1.3.6.1.4.1.62397.1.4", b"app:custom"),)),
        KEY.public_key(),
        ISSUER,
        NOW,
    )
    assert bytes.fromhex("060a2b0601040183e73d0104" + "040c040a6170703a637573746f6d") in der


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, "0400"),
        (127, "047f"),
        (128, "048180"),
        (255, "0481ff"),
        (256, "04820100"),
        (65535, "0482ffff"),
        (65536, "0483010000"),
    ],
)
def test_rule_6_octet_strings_are_der(size: int, head: str) -> None:
    assert octet_string(b"x" * size) == bytes.fromhex(head) + b"x" * size


def test_rule_7_certificates_are_reproducible() -> None:
    certificate = issued()
    assert certificate.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256
    assert certificate.version is x509.Version.v3
    assert certificate == issued()
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(ISSUER.certificate_der))


def test_openssl_reads_and_verifies_both_chains(tmp_path: Path) -> None:
    under_kms = generate_with_self_made_kms(SEED, APP_ID, b"", NOW)
    chains = {
        "own": (ISSUER, [], ISSUER.certificate_der),
        "kms": (under_kms.app_ca, [under_kms.chain[0]], under_kms.chain[1]),
    }
    fields = CertificateFields(
        "app",
        alt_names=("a.test", "10.1.2.3"),
        server_auth=True,
        client_auth=True,
        extensions=(("1.2.3", b"x"),),
    )
    for name, (issuer, between, root) in chains.items():
        leaf, above, anchor = (tmp_path / f"{name}-{part}.pem" for part in ("leaf", "above", "root"))
        leaf.write_text(certificate_pem(issue(fields, KEY.public_key(), issuer, NOW)))
        above.write_text("".join(certificate_pem(der) for der in between))
        anchor.write_text(certificate_pem(root))
        untrusted = ["-untrusted", str(above)] if between else []
        # Not -x509_strict: that wants an authorityKeyIdentifier, which this profile leaves out on purpose.
        purpose = ["-purpose", "sslserver", "-attime", str(int(NOW.timestamp()))]
        checked = subprocess.run(
            [openssl(), "verify", *purpose, "-CAfile", str(anchor), *untrusted, str(leaf)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (checked.stdout, checked.returncode) == (f"{leaf}: OK\n", 0), checked.stderr


def test_openssl_prints_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "leaf.pem"
    fields = CertificateFields("app", alt_names=("a.test", "10.1.2.3"), server_auth=True, client_auth=True)
    path.write_text(certificate_pem(issue(fields, KEY.public_key(), ISSUER, NOW)))
    printed = subprocess.run(
        [openssl(), "x509", "-in", str(path), "-noout", "-text"], capture_output=True, text=True, check=True
    ).stdout
    lines = [line.strip() for line in printed.splitlines()]
    for expected in (
        "Version: 3 (0x2)",
        "67:3b:6f:fc:6b:7e:d6:0f:33:87:db:07:7f:ef:0d:cf:c1:fb:bd:a5",
        "Issuer: CN = App Root Cert",
        "Not Before: Jan  1 00:00:00 1975 GMT",
        "Not After : Feb 27 12:30:15 2036 GMT",
        "Subject: CN = app",
        "DNS:a.test, IP Address:10.1.2.3",
        "X509v3 Key Usage: critical",
        "Digital Signature",
        "TLS Web Server Authentication, TLS Web Client Authentication",
    ):
        assert expected in lines or expected.replace(" = ", "=") in lines, expected
