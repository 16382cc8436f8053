"""Certificates between controllers and nodes; the numbers are the rules of `node.identity` and `node.bundle`."""

import json
import ssl
import stat
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from support.node_tls_support import NOW, party
from teehouse.base.findings import Finding, MisuseError, Outcome
from teehouse.guest.sockets import TcpAddress
from teehouse.keys.certificate import CertificateFields, issue
from teehouse.keys.pem import certificate_pem, private_key_pem
from teehouse.node import bundle as files
from teehouse.node.bundle import (
    FILE_LIMIT,
    NodeBundle,
    authority_json,
    change_authority,
    is_loopback,
    load_bundle,
    open_authority,
    parse_address,
    parse_authority,
    parse_bundle,
)
from teehouse.node.identity import (
    AUTHORITY_LIFETIME,
    AUTHORITY_LIMIT,
    LEAF_LIFETIME,
    SKEW,
    Identity,
    NodeAuthority,
    Role,
    client_context,
    host_name,
    judge_certificate,
    load_identity,
    name_in,
    server_context,
)

HOUSE = party()
ADDRESS = TcpAddress("10.0.0.7", 8443)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[bytes, bytes]:
    """A whole handshake in memory; the certificates that server and client saw of each other."""
    pipes = [ssl.MemoryBIO() for _ in range(4)]
    there = server.wrap_bio(pipes[0], pipes[1], server_side=True)
    here = client.wrap_bio(pipes[2], pipes[3], server_hostname=name)
    for _ in range(6):
        for end in (here, there):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
            pipes[0].write(pipes[3].read())
            pipes[2].write(pipes[1].read())
    shown = there.getpeercert(binary_form=True), here.getpeercert(binary_form=True)
    assert shown[0] is not None
    assert shown[1] is not None
    assert there.version() == "TLSv1.3"
    return shown[0], shown[1]


def mutual(node: Identity, controller: Identity, name: str = "tea-1") -> tuple[bytes, bytes]:
    return handshake(server_context(node), client_context(controller), host_name(Role.NODE, name))


def refusal(raised: pytest.ExceptionInfo[MisuseError]) -> tuple[str, str]:
    return raised.value.finding.code, raised.value.finding.found


# Rules 1 to 3: what the certificates say


def test_the_authority_is_a_p256_ca_with_path_length_0() -> None:
    certificate = x509.load_der_x509_certificate(HOUSE.authority.authorities[0])
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=True, path_length=0))
    assert certificate.not_valid_before_utc == NOW - SKEW
    assert certificate.not_valid_after_utc == NOW + AUTHORITY_LIFETIME


@pytest.mark.parametrize(
    ("identity", "host", "usage"),
    [
        (HOUSE.node, "tea-1.node.teehouse.internal", "serverAuth"),
        (HOUSE.controller, "cloud.controller.teehouse.internal", "clientAuth"),
    ],
)
def test_a_certificate_is_for_one_role_and_one_name(identity: Identity, host: str, usage: str) -> None:
    certificate = x509.load_der_x509_certificate(identity.certificate_der)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert names == x509.SubjectAlternativeName([x509.DNSName(host)])
    assert [one._name for one in usages] == [usage]
    assert certificate.subject.rfc4514_string() == f"CN={host},O=Teehouse"
    assert identity.expires == NOW + LEAF_LIFETIME
    assert (
        name_in(identity.certificate_der, Role.NODE),
        name_in(identity.certificate_der, Role.CONTROLLER),
    ) == (("tea-1", None) if usage == "serverAuth" else (None, "cloud"))
    assert judge_certificate(identity.certificate_der, identity.role, NOW, {identity.pin}) == Finding(
        "node.certificate", f"the certificate of {identity.role.value} {identity.name}"
    )


@pytest.mark.parametrize("name", ["", "A", "a.b", "-a", "a-", "a" * 41, "é", "*", "a\n"])
def test_a_name_that_is_no_label_is_refused(name: str) -> None:
    with pytest.raises(MisuseError) as raised:
        HOUSE.authority.issue(Role.NODE, name, NOW)
    assert raised.value.finding.code == "node.name"


def test_the_longest_name_has_a_certificate() -> None:
    identity = HOUSE.authority.issue(Role.CONTROLLER, "a" * 40, NOW)
    assert name_in(identity.certificate_der, Role.CONTROLLER) == "a" * 40


# Rules 2, 3, 7: the handshake


def test_node_and_controller_know_each_other() -> None:
    assert mutual(HOUSE.node, HOUSE.controller) == (
        HOUSE.controller.certificate_der,
        HOUSE.node.certificate_der,
    )


@pytest.mark.parametrize(
    ("node", "controller", "name"),
    [
        pytest.param(HOUSE.node, HOUSE.controller, "tea-2", id="another node"),
        pytest.param(HOUSE.node, party().controller, "tea-1", id="controller of another CA"),
        pytest.param(party().node, HOUSE.controller, "tea-1", id="node of another CA"),
        pytest.param(HOUSE.node, HOUSE.node, "tea-1", id="a node as controller"),
        pytest.param(HOUSE.controller, HOUSE.controller, "tea-1", id="a controller as node"),
        pytest.param(
            HOUSE.node,
            HOUSE.authority.issue(
                Role.CONTROLLER, "old", NOW - timedelta(days=2), lifetime=timedelta(days=1)
            ),
            "tea-1",
            id="expired controller",
        ),
        pytest.param(
            HOUSE.authority.issue(Role.NODE, "tea-1", NOW - timedelta(days=2), lifetime=timedelta(days=1)),
            HOUSE.controller,
            "tea-1",
            id="expired node",
        ),
    ],
)
def test_others_do_not_get_through_the_handshake(node: Identity, controller: Identity, name: str) -> None:
    with pytest.raises(ssl.SSLError):
        mutual(node, controller, name)


def test_nobody_gets_in_without_a_certificate() -> None:
    client = ssl.create_default_context(cadata=certificate_pem(HOUSE.authority.authorities[0]))
    client.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with pytest.raises(ssl.SSLError, match=r"did not return a certificate"):
        handshake(server_context(HOUSE.node), client, host_name(Role.NODE, "tea-1"))


def test_old_tls_is_not_spoken() -> None:
    client = client_context(HOUSE.controller)
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        handshake(server_context(HOUSE.node), client, host_name(Role.NODE, "tea-1"))


# Rules 4, 5: what is judged with the time of the caller


@pytest.mark.parametrize(
    ("moment", "code", "remedy"),
    [
        (NOW - SKEW, "node.certificate", ""),
        (NOW + LEAF_LIFETIME, "node.certificate", ""),
        (
            NOW - SKEW - timedelta(seconds=1),
            "node.certificate-early",
            "set the clocks of both machines right",
        ),
        (
            NOW + LEAF_LIFETIME + timedelta(seconds=1),
            "node.certificate-expired",
            "issue a new one with `teehouse node bundle`",
        ),
    ],
)
def test_dates_are_judged_by_the_time_given(moment: Any, code: str, remedy: str) -> None:
    finding = judge_certificate(HOUSE.node.certificate_der, Role.NODE, moment)
    span = f"valid {(NOW - SKEW).isoformat()} to {(NOW + LEAF_LIFETIME).isoformat()}"
    subject = "the certificate of node tea-1"
    assert finding == (
        Finding(code, subject)
        if not remedy
        else Finding(code, subject, Outcome.REJECTED, span, moment.isoformat(), remedy)
    )


def test_pins_narrow_what_the_ca_allows() -> None:
    der = HOUSE.controller.certificate_der
    assert judge_certificate(der, Role.CONTROLLER, NOW, {HOUSE.node.pin}) == Finding(
        "node.certificate-pin",
        "the certificate of controller cloud",
        Outcome.REJECTED,
        "a key that is pinned",
        "another",
    )
    assert judge_certificate(der, Role.CONTROLLER, NOW, {HOUSE.node.pin, HOUSE.controller.pin}).ok


def test_a_renewed_certificate_for_the_same_key_keeps_its_pin() -> None:
    again = HOUSE.authority.issue(Role.NODE, "tea-1", NOW + timedelta(days=300), key=HOUSE.node.key)
    assert again.pin == HOUSE.node.pin
    assert judge_certificate(again.certificate_der, Role.NODE, NOW + timedelta(days=400), {again.pin}).ok


def _odd_certificate(**members: Any) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return issue(CertificateFields("odd", **members), key.public_key(), HOUSE.authority.issuers[0], NOW)


@pytest.mark.parametrize(
    "der",
    [
        b"no certificate",
        _odd_certificate(),
        _odd_certificate(alt_names=("tea-1.node.teehouse.internal",)),
        _odd_certificate(alt_names=("tea-1.node.teehouse.internal",), server_auth=True, client_auth=True),
        _odd_certificate(alt_names=("TEA.node.teehouse.internal",), server_auth=True),
        _odd_certificate(alt_names=("example.org",), server_auth=True),
        HOUSE.controller.certificate_der,
    ],
)
def test_certificates_of_another_kind_are_of_no_node(der: bytes) -> None:
    assert judge_certificate(der, Role.NODE, NOW) == Finding(
        "node.certificate-role", "the peer's certificate", Outcome.REJECTED, "one of a node", "another"
    )


# Rule 6: rotation


def _issued(authority: NodeAuthority) -> tuple[Identity, Identity]:
    return authority.issue(Role.NODE, "tea-1", NOW), authority.issue(Role.CONTROLLER, "cloud", NOW)


def test_a_ca_is_replaced_step_by_step_and_nobody_is_locked_out_on_the_way() -> None:
    steps = [HOUSE.authority]
    steps.append(steps[-1].with_next(NOW))
    steps.append(steps[-1].promoted())
    steps.append(steps[-1].without_former())
    old, new = steps[1].authorities
    assert [step.authorities for step in steps] == [(old,), (old, new), (new, old), (new,)]
    for before, after in pairwise(steps):
        (old_node, old_controller), (new_node, new_controller) = _issued(before), _issued(after)
        mutual(new_node, old_controller)  # bundles are handed out in any order
        mutual(old_node, new_controller)
    with pytest.raises(ssl.SSLError):
        mutual(_issued(steps[0])[0], _issued(steps[3])[1])


def test_a_server_takes_a_new_certificate_while_it_runs() -> None:
    context = server_context(HOUSE.node)
    renewed = HOUSE.authority.issue(Role.NODE, "tea-1", NOW)
    load_identity(context, renewed)
    assert handshake(context, client_context(HOUSE.controller), host_name(Role.NODE, "tea-1")) == (
        HOUSE.controller.certificate_der,
        renewed.certificate_der,
    )


def test_the_number_of_cas_is_bounded() -> None:
    full = NodeAuthority(HOUSE.authority.issuers * AUTHORITY_LIMIT)
    with pytest.raises(MisuseError) as raised:
        full.with_next(NOW)
    assert raised.value.finding.code == "node.authority-limit"


def test_a_leaf_does_not_outlive_its_ca() -> None:
    late = NOW + AUTHORITY_LIFETIME - timedelta(days=1)
    assert HOUSE.authority.issue(Role.NODE, "tea-1", late).expires == NOW + AUTHORITY_LIFETIME
    with pytest.raises(MisuseError) as raised:
        HOUSE.authority.issue(Role.NODE, "tea-1", NOW + AUTHORITY_LIFETIME)
    assert refusal(raised) == (
        "node.authority-expired",
        f"expired {(NOW + AUTHORITY_LIFETIME).isoformat()}",
    )


# Rule 7, and the files


def test_no_repr_shows_a_key(tmp_path: Path) -> None:
    secret = f"{HOUSE.node.key.private_numbers().private_value:x}"
    shown = repr(HOUSE) + repr(NodeBundle(HOUSE.node, "tea-1", ADDRESS)) + repr(HOUSE.authority)
    assert secret not in shown
    assert "BEGIN" not in shown
    assert "PrivateKey" not in shown


def test_a_bundle_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tea-1.json"
    for bundle in (
        NodeBundle(HOUSE.node, "tea-1", ADDRESS),
        NodeBundle(HOUSE.controller, "tea-1", TcpAddress("::1", 1)),
    ):
        bundle.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        read = load_bundle(path)
        assert (read.node, read.address) == (bundle.node, bundle.address)
        assert read.to_json() == bundle.to_json() == path.read_bytes()
    mutual(HOUSE.node, read.identity)


def test_the_authority_is_made_once_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ca.json"
    made = open_authority(path, NOW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_authority(path, NOW + timedelta(days=1)).authorities == made.authorities
    changed = change_authority(path, NOW, lambda authority: authority.with_next(NOW))
    assert changed.authorities[:1] == made.authorities
    assert open_authority(path, NOW).authorities == changed.authorities
    assert authority_json(parse_authority(path.read_bytes())) == path.read_bytes()


STORED = NodeBundle(HOUSE.node, "tea-1", ADDRESS).to_json()


def _altered(**members: Any) -> bytes:
    stored = json.loads(STORED)
    for name, value in members.items():
        if value is None:
            del stored[name]
        else:
            stored[name] = value
    return json.dumps(stored).encode()


MEMBERS = "other members than those of version 1"
ANOTHER = "a certificate for another key, role or name"
TEXT = "a member that should be text and is not"


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no JSON object"),
        (b" " * (FILE_LIMIT + 1), f"more than {FILE_LIMIT} bytes"),
        (_altered(version=2), MEMBERS),
        (_altered(key=None), MEMBERS),
        (_altered(more=1), MEMBERS),
        (_altered(role="owner"), "a role that is none"),
        (_altered(role=[]), "a role that is none"),
        (_altered(role="controller"), ANOTHER),
        (_altered(name="tea-2"), ANOTHER),
        (_altered(name=1), TEXT),
        (_altered(key=private_key_pem(HOUSE.controller.key)), ANOTHER),
        (_altered(key="s3cret"), "no private key can be read from the PEM text"),
        (
            _altered(certificate="s3cret"),
            "no certificate in the PEM text: expected -----BEGIN CERTIFICATE-----",
        ),
        (_altered(certificate=certificate_pem(b"not DER")), ANOTHER),
        (_altered(authorities=[]), f"not 1 to {AUTHORITY_LIMIT} CAs"),
        (_altered(authorities=[""] * 9), f"not 1 to {AUTHORITY_LIMIT} CAs"),
        (_altered(authorities="x"), f"not 1 to {AUTHORITY_LIMIT} CAs"),
        (_altered(authorities=[certificate_pem(b"not DER")]), "a CA's certificate cannot be read"),
        (_altered(node="tea-2"), "a node's bundle for another node"),
        (
            _altered(node="?"),
            "the name of a node: expected 1 to 40 lower-case letters, digits and inner hyphens, found '?'",
        ),
        (_altered(address="x"), "no such address: expected HOST:PORT, found 'x'"),
    ],
)
def test_a_damaged_bundle_is_refused_without_its_content(raw: bytes, found: str) -> None:
    with pytest.raises(MisuseError) as raised:
        parse_bundle(raw)
    assert raised.value.finding == Finding(
        "node.file",
        "the node bundle cannot be used",
        Outcome.MISUSE,
        found=found,
        remedy="make it again with `teehouse node bundle`",
    )


def _issuer(**members: Any) -> bytes:
    stored = json.loads(authority_json(HOUSE.authority))
    stored["issuers"][0].update(members)
    return json.dumps(stored).encode()


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (json.dumps({"version": 1, "issuers": [1]}).encode(), "no JSON object"),
        (json.dumps({"version": 1}).encode(), MEMBERS),
        (_issuer(more=1), "a CA with other members than certificate and key"),
        (_issuer(key=private_key_pem(HOUSE.node.key)), "a CA whose certificate is for another key"),
        (_issuer(key=7), TEXT),
    ],
)
def test_a_damaged_authority_is_refused(raw: bytes, found: str) -> None:
    with pytest.raises(MisuseError) as raised:
        parse_authority(raw)
    assert refusal(raised) == ("node.file", found)
    assert raised.value.finding.remedy == files.AUTHORITY_REMEDY


@given(st.binary(max_size=200) | st.text(max_size=50).map(lambda text: _altered(key=text, name=text)))
@settings(max_examples=60, deadline=None)
def test_arbitrary_files_are_refused_and_never_more(raw: bytes) -> None:
    for parse in (parse_bundle, parse_authority):
        with pytest.raises(MisuseError):
            parse(raw)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    NodeBundle(HOUSE.node, "tea-1", ADDRESS).save(path)
    path.chmod(0o640)
    with pytest.raises(MisuseError) as raised:
        load_bundle(path)
    assert raised.value.finding == Finding(
        "node.file-mode",
        f"the node bundle {path}",
        Outcome.MISUSE,
        "readable by its owner alone",
        remedy=f"chmod 600 {path}, and make it again if a stranger may have read it",
    )


def test_files_that_cannot_be_read_or_written_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none" / "bundle.json"
    with pytest.raises(MisuseError) as raised:
        load_bundle(missing)
    assert refusal(raised) == ("node.file", "No such file or directory")
    with pytest.raises(MisuseError) as raised:
        NodeBundle(HOUSE.node, "tea-1", ADDRESS).save(missing)
    assert refusal(raised) == ("node.file", "No such file or directory")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MisuseError) as raised:
        open_authority(tmp_path / "file" / "ca.json", NOW)
    assert raised.value.finding.code == "node.file"


# Addresses


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:8443", TcpAddress("127.0.0.1", 8443), True),
        ("127.8.0.1:0", TcpAddress("127.8.0.1", 0), True),
        ("localhost:1", TcpAddress("localhost", 1), True),
        ("[::1]:65535", TcpAddress("::1", 65535), True),
        ("[fe80::1]:1", TcpAddress("fe80::1", 1), False),
        ("0.0.0.0:1", TcpAddress("0.0.0.0", 1), False),  # noqa: S104 - to be told from loopback
        ("node-1.example.org:1", TcpAddress("node-1.example.org", 1), False),
    ],
)
def test_addresses(text: str, address: TcpAddress, loopback: bool) -> None:
    assert parse_address(text) == address
    assert str(address) == text
    assert is_loopback(address) is loopback


@pytest.mark.parametrize(
    "text",
    ["", ":1", "host", "host:", "host:x", "host:65536", "::1:1", "[::1]", "a b:1", "[host]:1", "h:1\n"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(MisuseError) as raised:
        parse_address(text)
    assert refusal(raised) == ("node.address", ascii(text))
