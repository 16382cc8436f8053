"""Certificates by GetTlsKey and DeriveKey: profile, chain, evidence, validity (guest-agent.md 4.1, 5.1, 9)."""

import ipaddress
import itertools
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from support import emulated
from support.guest_agent import Agent, agent
from teehouse.attestation.abi import parse_quote
from teehouse.attestation.envelope import decode_attestation
from teehouse.attestation.eventlog import parse_event_log, replay
from teehouse.attestation.identity import decode_app_info, device_id
from teehouse.base.findings import unavailable
from teehouse.guest.attest import Evidence
from teehouse.guest.tls import issued_signer
from teehouse.keys.appkeys import generate_with_self_made_kms
from teehouse.keys.derive import application_key, p256_from_scalar
from teehouse.keys.pem import private_key_pem
from teehouse.ratls.csr import SigningRequest
from teehouse.ratls.oids import APP_ID, APP_INFO, ATTESTATION, EVENT_LOG, QUOTE, USAGE
from teehouse.ratls.read import check_binding, read_certificate


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Agent]:
    async with agent(tmp_path) as made:
        yield made


@pytest.fixture
async def door(running: Agent) -> AsyncIterator[httpx.AsyncClient]:
    async with running.door() as client:
        yield client


async def issued(
    door: httpx.AsyncClient, method: str = "GetTlsKey", **request: Any
) -> tuple[str, list[x509.Certificate]]:
    """The key and the chain, after looking at what holds for every answer."""
    answer = await door.post(f"/{method}", json=request)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["key", "certificate_chain"]
    pems = answer.json()["certificate_chain"]
    assert all(pem.endswith("-----END CERTIFICATE-----\n") for pem in pems)
    chain = [x509.load_pem_x509_certificate(pem.encode()) for pem in pems]
    for lower, upper in itertools.pairwise(chain):
        lower.verify_directly_issued_by(upper)
    key = load_pem_private_key(answer.json()["key"].encode(), None)
    assert key.public_key() == chain[0].public_key()
    return answer.json()["key"], chain


def content(certificate: x509.Certificate, oid: str) -> bytes | None:
    """What an extension of ours carries, out of its inner OCTET STRING."""
    try:
        found = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
    except x509.ExtensionNotFound:
        return None
    raw = found.public_bytes()
    skip = 2 if raw[1] < 0x80 else 2 + (raw[1] & 0x7F)
    return raw[skip:]


def der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


async def test_a_certificate_with_everything(running: Agent, door: httpx.AsyncClient) -> None:
    """guest-agent.md 22, 7."""
    _, (leaf, ca) = await issued(
        door,
        subject="büro",
        alt_names=["localhost", "127.0.0.1", "::1"],
        usage_ra_tls=True,
        usage_server_auth=True,
        usage_client_auth=True,
        with_app_info=True,
    )
    assert [a.value for a in leaf.subject] == ["büro"]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    ]
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    assert [e.oid.dotted_string for e in leaf.extensions if e.oid.dotted_string.startswith("1.3.6")] == [
        APP_INFO,
        USAGE,
        QUOTE,
        EVENT_LOG,
        ATTESTATION,
    ]
    assert content(leaf, USAGE) == b"app:custom"
    assert leaf.not_valid_before_utc == datetime(1975, 1, 1, tzinfo=UTC)
    assert leaf.not_valid_after_utc == emulated.NOW + timedelta(days=3650)
    assert running.keys.ca_cert == (await door.get("/GetTlsKey")).json()["certificate_chain"][1]
    assert ca.subject == leaf.issuer

    evidence = read_certificate(der(leaf))
    assert check_binding(evidence).ok
    raw = content(leaf, ATTESTATION)
    assert raw is not None
    attested = decode_attestation(raw)
    td = parse_quote(attested.quote).body
    assert replay(attested.event_log, 3) == td.rt_mr3  # type: ignore[union-attr]
    assert attested.runtime_events == running.log.events
    # guest-agent.md 9.3: register 3 with digests, and the three ACPI events.
    assert [event.event for event in attested.event_log if event.imr != 3] == [
        "acpi-loader",
        "acpi-rsdp",
        "acpi-tables",
    ]
    assert all(len(event.digest) == 48 for event in attested.event_log)
    # The legacy pair says the same.
    assert content(leaf, QUOTE) == attested.quote
    legacy_log = content(leaf, EVENT_LOG)
    assert legacy_log is not None
    assert tuple(replay(parse_event_log(legacy_log), imr) for imr in range(4)) == td.rtmrs  # type: ignore[union-attr]

    packed = content(leaf, APP_INFO)
    assert packed is not None
    info = decode_app_info(packed)
    assert info.app_id == running.log.events[1].payload
    assert info.compose_hash == running.compose.compose_hash
    assert info.device_id == device_id(emulated.host().ppid)
    assert info.key_provider_info == b'{"name":"none","id":""}'


@pytest.mark.filterwarnings("ignore:Attribute.s length must be")  # its common name is empty
async def test_a_plain_certificate_has_no_evidence_but_costs_a_quote(
    running: Agent, door: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule T1."""
    asked: list[bytes] = []
    quote = running.td.quote

    async def watched(report_data: bytes) -> bytes:
        asked.append(report_data)
        return await quote(report_data)

    monkeypatch.setattr(running.td, "quote", watched)
    _, (leaf, _) = await issued(door)
    assert len(asked) == 1
    assert [a.value for a in leaf.subject] == [""]
    assert [e.oid for e in leaf.extensions] == [
        ExtensionOID.KEY_USAGE,
        x509.ObjectIdentifier(USAGE),
    ]
    await door.post("/GetTlsKey", json={"not_before": 5, "not_after": 4})
    assert len(asked) == 1  # rule T2


@pytest.mark.parametrize(
    ("request_", "begin", "end"),
    [
        ({"not_before": 0, "not_after": 0}, 0, None),
        ({"not_after": 0}, None, None),
        ({"not_before": 1_700_000_000, "not_after": 1_800_000_000}, 1_700_000_000, 1_800_000_000),
        ({"not_after": 253402300799}, None, 253402300799),
    ],
)
async def test_validity(
    door: httpx.AsyncClient, request_: dict[str, Any], begin: int | None, end: int | None
) -> None:
    _, (leaf, _) = await issued(door, **request_)
    starts = datetime(1975, 1, 1, tzinfo=UTC) if begin is None else datetime.fromtimestamp(begin, UTC)
    ends = emulated.NOW + timedelta(days=3650) if end is None else datetime.fromtimestamp(end, UTC)
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (starts, ends)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"not_before": 7, "not_after": 7}, "not_before must be earlier than not_after"),
        ({"not_after": 253402300800}, "not_after is out of range"),
        (
            {"alt_names": ["bü.ro"]},
            "Failed to sign the CSR: Failed to sign certificate: Invalid IA5String: 'bü.ro'",
        ),
    ],
)
async def test_what_no_certificate_can_say(
    door: httpx.AsyncClient, request_: dict[str, Any], text: str
) -> None:
    answer = await door.post("/GetTlsKey", json=request_)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(text)


async def test_a_key_of_its_own_each_time(door: httpx.AsyncClient) -> None:
    first, _ = await issued(door)
    second, _ = await issued(door)
    assert first != second
    first, _ = await issued(door, "DeriveKey", path="p", random_seed=True)
    second, _ = await issued(door, "DeriveKey", path="p", random_seed=True)
    assert first != second


async def test_derive_key_is_the_key_of_its_path(running: Agent, door: httpx.AsyncClient) -> None:
    pem, (leaf, _) = await issued(
        door, "prpc/Tappd.DeriveKey", path="p", subject="s", alt_names=["a"], usage_ra_tls=True
    )
    key = p256_from_scalar(application_key(running.keys.k256_key, "p"))
    assert pem == private_key_pem(key)
    assert leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "s"
    assert check_binding(read_certificate(der(leaf))).ok
    assert ExtensionOID.EXTENDED_KEY_USAGE not in [extension.oid for extension in leaf.extensions]
    assert content(leaf, APP_INFO) is None


async def test_t4_the_legacy_pair_can_be_left_out(tmp_path: Path) -> None:
    async with agent(tmp_path, legacy_extensions=False) as made, made.door() as door:
        _, (leaf, _) = await issued(door, usage_ra_tls=True)
        assert content(leaf, QUOTE) is None
        assert content(leaf, EVENT_LOG) is None
        assert check_binding(read_certificate(der(leaf))).ok


async def test_t3_with_a_kms_the_chain_has_three_links(tmp_path: Path, running: Agent) -> None:
    app_id = running.log.events[1].payload
    made_keys = generate_with_self_made_kms(bytes(32), app_id, b"", emulated.NOW)
    signer = issued_signer(made_keys, running.source, emulated.clock())
    async with agent(tmp_path / "with-kms", signer=signer) as made, made.door() as door:
        _, chain = await issued(door, usage_server_auth=True)
        leaf, app_ca, root = chain
        assert content(leaf, APP_ID) == content(app_ca, APP_ID) == app_id
        assert content(app_ca, USAGE) == b"app:ca"
        assert root.subject == root.issuer


async def test_a_signer_elsewhere_may_fail(tmp_path: Path) -> None:
    seen: list[tuple[SigningRequest, Evidence]] = []

    class Away:
        async def certify(
            self, request: SigningRequest, key: ec.EllipticCurvePrivateKey, evidence: Evidence
        ) -> tuple[str, ...]:
            seen.append((request, evidence))
            raise unavailable("kms.away", "the KMS does not answer")

    async with agent(tmp_path, signer=Away()) as made, made.door() as door:
        answer = await door.post("/GetTlsKey", json={"subject": "s", "usage_ra_tls": True, "not_after": 0})
        assert (answer.status_code, answer.json()) == (500, {"error": "the KMS does not answer"})
    [(request, evidence)] = seen
    assert (request.subject, request.ext_quote, request.not_after) == ("s", True, None)
    td = parse_quote(evidence.quote).body
    assert td.report_data == evidence.report_data
    assert json.loads(answer.content)["error"]
