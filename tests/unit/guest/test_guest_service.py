"""The methods of the guest agent, through the HTTP door: keys, signatures, quotes, attestations, events."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import emulated
from support.guest_agent import Agent, agent
from teehouse.attestation.abi import TdReport, parse_quote
from teehouse.attestation.envelope import decode_attestation, encode_attestation
from teehouse.attestation.eventlog import RuntimeEvent, parse_event_log, replay, replay_runtime
from teehouse.guest import service as service_module
from teehouse.guest.service import GuestService
from teehouse.keys.derive import hkdf, p256_from_scalar
from teehouse.keys.pem import private_key_pem
from teehouse.wire import guest_pb2 as wire


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Agent]:
    async with agent(tmp_path) as made:
        yield made


@pytest.fixture
async def door(running: Agent) -> AsyncIterator[httpx.AsyncClient]:
    async with running.door() as client:
        yield client


async def call(door: httpx.AsyncClient, method: str, **request: Any) -> dict[str, Any]:
    answer = await door.post(f"/{method}", json=request)
    assert answer.status_code == 200, answer.text
    decoded: dict[str, Any] = answer.json()
    return decoded


async def refusal(door: httpx.AsyncClient, method: str, **request: Any) -> tuple[int, str]:
    answer = await door.post(f"/{method}", json=request)
    return answer.status_code, answer.json()["error"]


# GetKey: golden vectors of guest-agent.md 19.1, key SIM

KEY_VECTORS = [
    (
        "",
        "",
        "secp256k1",
        "aa221ae548b5a8f52fcb8687cfd873712f6a1232b2717e5ee3d58ab74f21905b",
        (
            "64ce2f1b381d04f7404fda78bdc942c314d89b7069d97eea1897e51b249dd3b1"
            "700995cbf7efe7ff04195dd6e31f153b702eeeeaffc5941510739dc39b9bd9cf01"
        ),
    ),
    (
        "/",
        "test",
        "k256",
        "f6c1ed94488394d78e0a4e5ab75d62e9f085d73b0b555d0614fb90ca13d9464d",
        (
            "0b0fa470162c54f108850d143442c48d43f1cc42983b8e9c589679345b831d2b"
            "5bb5b97b21c2d2d036520209deae8b6111318c68eafc786190d6edc52e5cf0c201"
        ),
    ),
    (
        "/",
        "test",
        "ed25519",
        "f6c1ed94488394d78e0a4e5ab75d62e9f085d73b0b555d0614fb90ca13d9464d",
        (
            "7752352aa2ad8b337a3845661073fb42ef1b1d3313d8ce0b8976ccc21505e0c6"
            "2e79eb7aaf9b51768b0f9762e62098710ce4e8cabd450670b2fb0040e8551cb300"
        ),
    ),
    (
        "my/key/path",
        "signing",
        "",
        "866d0884686e5afdbdaace8bd77c0b4f69a30dbe9506d69270a07bf247c8f4f0",
        (
            "4e9bccd54a86c85b72d04453183a9aa8c989861142cc5caf2cdba12f99e834c8"
            "1c0117311cf290357f9db94b79faba8074e3fe8764e6576a5fb657a89060fe3301"
        ),
    ),
]


@pytest.mark.parametrize("vector", KEY_VECTORS)
async def test_get_key_vectors(door: httpx.AsyncClient, vector: tuple[str, ...]) -> None:
    path, purpose, algorithm, key, link0 = vector
    for _ in range(2):  # the second answer is a kept one
        answer = await call(door, "GetKey", path=path, purpose=purpose, algorithm=algorithm)
        assert answer == {"key": key, "signature_chain": [link0, ""]}
    answer = await call(door, "DeriveK256Key", path=path, purpose=purpose, algorithm=algorithm)
    assert answer == {"k256_key": key, "k256_signature_chain": [link0, ""]}


async def test_link_1_is_that_of_the_keys_file(running: Agent) -> None:
    keys = replace(running.keys, k256_signature=b"\xab" * 65)
    signer, facts = running.service._signer, running.service.facts
    made = GuestService(running.source, keys, signer, facts, emulated.clock())
    answer = (await made.get_key(wire.GetKeyArgs())).message
    assert isinstance(answer, wire.GetKeyResponse)
    assert answer.signature_chain[1] == b"\xab" * 65


async def test_s3_kept_keys_are_bounded_and_never_shown(
    running: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "KEY_CACHE_LIMIT", 2)
    service = running.service
    for path in ("a", "b", "a", "c", "x" * 2000):
        await service.get_key(wire.GetKeyArgs(path=path))
    assert [path for path, _, _ in service._key_answers] == ["a", "c"]
    key = (await service.get_key(wire.GetKeyArgs(path="a"))).message
    assert isinstance(key, wire.GetKeyResponse)
    await service.sign(wire.SignRequest(algorithm="ed25519"))
    shown = repr(service) + repr(service._key_answers) + repr(service._sign_keys)
    for secret in (key.key, running.keys.k256_key, service._sign_keys["ed25519"].secret):
        assert secret.hex() not in shown
        assert repr(secret) not in shown


# Sign and Verify: guest-agent.md 19.2

MESSAGE = b"Test message for signing".hex()
SECP_KEY = "036105f01d1fd781568f7c208b087b1c4f522601410ed7e9c7870d573de7c46d54"
ED_KEY = "698f56bd587d8ce3ca8db0e1c361ba9d190089f98dc4d9df800ff92ed073a65d"
SECP_LINK = (
    "51ec279eb0da3fb45335c2fd6badaf701905bf35f229912976c4ae3c9d649cf9"
    "7f964473f2dce7118743bad84a6df707d11c9b5f0b38379204e14fd2c7baddba01"
)
ED_LINK = (
    "d61ff204728dae76ba4e29313003433d533d069f9c98ebb3382104145f1c664c"
    "59fac4326a86420ec3f450303d3a675d595f546448076a464343bcc25143c4a300"
)
SIGN_VECTORS = [
    (
        "secp256k1",
        MESSAGE,
        (
            "673932366ab5452967919dbb290a20b095e0a65ef35baa7bd47abcc23e37f0dc"
            "3f42c80fc1680af6ba57c9cb5bcf08f5d89aa4b6f69c819ef28045b0e0134992"
        ),
        SECP_KEY,
        SECP_LINK,
    ),
    (
        "ed25519",
        MESSAGE,
        (
            "5d1b901403e9a4a03b4f854d0895abd7289f68381cd1044212c0e0c779493fc4"
            "886bfd139e3b8e6bf214d38b2ae15a32708f8f18805061a2079cca1c79288f04"
        ),
        ED_KEY,
        ED_LINK,
    ),
    (
        "secp256k1_prehashed",
        "5f78c33274e43fa9de5659265c1d917e25c03722dcb0b8d27db8d5feaa813953",
        (
            "03a365030a087f52246dad00e2ce9160a18462a880b760be82177d44dde1dac0"
            "32de945b6d6eb35edf602518de3364191f42931b8c282f22a36a167bd24ced3f"
        ),
        SECP_KEY,
        SECP_LINK,
    ),
]


@pytest.mark.parametrize("vector", SIGN_VECTORS)
async def test_sign_vectors(door: httpx.AsyncClient, vector: tuple[str, ...]) -> None:
    algorithm, data, signature, key, link0 = vector
    answer = await call(door, "Sign", algorithm=algorithm, data=data)
    assert answer == {"signature": signature, "signature_chain": [signature, link0, ""], "public_key": key}
    checked = await door.post(
        "/Verify", json={"algorithm": algorithm, "data": data, "signature": signature, "public_key": key}
    )
    assert checked.content == b'{"valid":true}'
    wrong = await call(
        door, "Verify", algorithm=algorithm, data="00" * 32, signature=signature, public_key=key
    )
    assert wrong == {"valid": False}


async def test_verify_says_false_to_a_high_s(door: httpx.AsyncClient) -> None:
    high = (
        "03a365030a087f52246dad00e2ce9160a18462a880b760be82177d44dde1dac0"
        "cd216ba492914ca1209fdae721cc9be59b6c49cb232071191c684810fde95402"
    )
    answer = await call(
        door, "Verify", algorithm="secp256k1", data="deadbeef", signature=high, public_key=SECP_KEY
    )
    assert answer == {"valid": False}


# Quotes


def td_of(quote_hex: str) -> TdReport:
    body = parse_quote(bytes.fromhex(quote_hex)).body
    assert isinstance(body, TdReport)
    return body


@pytest.mark.parametrize("data", ["", "00ff", "ab" * 64])
async def test_get_quote(running: Agent, door: httpx.AsyncClient, data: str) -> None:
    answer = await call(door, "GetQuote", report_data=data)
    padded = data.ljust(128, "0")
    assert list(answer) == ["quote", "event_log", "report_data", "vm_config"]
    assert answer["report_data"] == padded
    assert answer["vm_config"] == running.td.vm_config
    td = td_of(answer["quote"])
    assert td.report_data.hex() == padded
    events = parse_event_log(answer["event_log"])
    assert tuple(replay(events, imr) for imr in range(4)) == td.rtmrs
    # guest-agent.md 10.3, PRODUCT row: digests everywhere, payloads of ACPI and runtime events.
    assert all(len(event.digest) == 48 for event in events)
    for event in events:
        shown = event.imr == 3 or event.event in ("acpi-loader", "acpi-rsdp", "acpi-tables")
        assert shown or not event.event_payload
    assert [event.event for event in events if event.imr == 3] == [e.event for e in running.log.events]
    assert {e.event: e.event_payload for e in events}["app-id"] == running.log.events[1].payload


async def test_emitted_events_show_everywhere(running: Agent, door: httpx.AsyncClient) -> None:
    before = (await call(door, "Info"))["mr_aggregated"]
    await asyncio.gather(*(door.post("/EmitEvent", json={"event": f"e{i}"}) for i in range(50)))
    quote = await call(door, "GetQuote")
    events = parse_event_log(quote["event_log"])
    assert len([event for event in events if event.event.startswith("e")]) == 50
    assert replay(events, 3) == td_of(quote["quote"]).rt_mr3
    info = await call(door, "Info")
    tcb_info = json.loads(info["tcb_info"])
    assert tcb_info["rtmr3"] == td_of(quote["quote"]).rt_mr3.hex()
    assert info["mr_aggregated"] == tcb_info["mr_aggregated"] != before
    assert [e["event"] for e in tcb_info["event_log"]] == [event.event for event in events]
    attested = decode_attestation(bytes.fromhex((await call(door, "Attest"))["attestation"]))
    assert attested.runtime_events == running.log.events


async def test_the_attestation_may_stand_beside_the_quote(tmp_path: Path) -> None:
    async with agent(tmp_path, attestation_in_quote=True) as made, made.door() as door:
        answer = await call(door, "GetQuote", report_data="01")
        attested = decode_attestation(bytes.fromhex(answer["attestation"]))
        assert attested.quote.hex() == answer["quote"]
        assert attested.report_data.hex() == answer["report_data"]


async def test_attest(running: Agent, door: httpx.AsyncClient) -> None:
    """guest-agent.md 22, 6."""
    answer = await call(door, "Attest", report_data="0102")
    raw = bytes.fromhex(answer["attestation"])
    attested = decode_attestation(raw)
    assert raw[0] == 0
    assert encode_attestation(attested) == raw
    assert attested.report_data == b"\x01\x02" + bytes(62)
    assert attested.config == running.td.vm_config
    assert attested.runtime_events == running.log.events
    td = td_of(attested.quote.hex())
    assert td.report_data == attested.report_data
    assert tuple(replay(attested.event_log, imr) for imr in range(4)) == td.rtmrs
    boot = [event for event in attested.event_log if event.imr != 3]
    assert [event.event_payload for event in boot] == [e.payload for e in running.td.boot_events()]


async def test_version_2_events_make_a_v1_attestation(tmp_path: Path) -> None:
    async with agent(tmp_path, compose={"event_log_version": 2}) as made, made.door() as door:
        await call(door, "EmitEvent", event="a", payload="62")
        raw = bytes.fromhex((await call(door, "Attest"))["attestation"])
        attested = decode_attestation(raw)
        assert raw[0] == 0x83
        assert attested.runtime_events[-1] == RuntimeEvent("a", b"b", 2)
        assert replay_runtime(attested.runtime_events) == td_of(attested.quote.hex()).rt_mr3
        [entry] = json.loads((await call(door, "GetQuote"))["event_log"])[-1:]
        assert entry["version"] == 2
        assert bytes.fromhex(entry["preimage"]) == b'{"name":"a","payload":"62","type":134217729}'


# The quotes of Tappd: guest-agent.md 5.3, 5.4


@pytest.mark.parametrize(
    ("request_", "data", "algorithm", "prefix"),
    [
        ({}, hashlib.sha512(b"app-data:x").digest(), "sha512", "app-data"),
        ({"prefix": "p:"}, hashlib.sha512(b"p::x").digest(), "sha512", "p:"),
        ({"hash_algorithm": "sha256"}, hashlib.sha256(b"app-data:x").digest(), "sha256", "app-data"),
        ({"hash_algorithm": "sha3-384"}, hashlib.sha3_384(b"app-data:x").digest(), "sha3-384", "app-data"),
    ],
)
async def test_tdx_quote(
    door: httpx.AsyncClient, request_: dict[str, str], data: bytes, algorithm: str, prefix: str
) -> None:
    answer = await call(door, "TdxQuote", report_data=b"x".hex(), **request_)
    assert td_of(answer["quote"]).report_data == data.ljust(64, b"\0")
    assert (answer["hash_algorithm"], answer["prefix"]) == (algorithm, prefix)
    assert replay(parse_event_log(answer["event_log"]), 3) == td_of(answer["quote"]).rt_mr3


async def test_raw_quotes(door: httpx.AsyncClient) -> None:
    data = bytes(range(64))
    raw = await call(door, "TdxQuote", report_data=data.hex(), hash_algorithm="raw", prefix="ignored")
    also_raw = await call(door, "prpc/Tappd.RawQuote", report_data=data.hex())
    for answer in (raw, also_raw):
        assert list(answer) == ["quote", "event_log", "hash_algorithm", "prefix"]
        assert td_of(answer["quote"]).report_data == data
        assert (answer["hash_algorithm"], answer["prefix"]) == ("raw", "")


# Worker


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        ("secp256k1", b"dip1::secp256k1c-pk:A2EF8B0f14FWj3wgiwh7HE9SJgFBDtfpx4cNVz3nxG1U"),
        ("secp256k1_prehashed", b"dip1::secp256k1c-pk:A2EF8B0f14FWj3wgiwh7HE9SJgFBDtfpx4cNVz3nxG1U"),
        ("ed25519", b"dip1::ed25519-pk:aY9WvVh9jOPKjbDhw2G6nRkAifmNxNnfgA_5LtBzpl0"),
    ],
)
async def test_attestation_for_the_app_key(running: Agent, algorithm: str, text: bytes) -> None:
    """Texts: guest-agent.md 19.2."""
    async with running.door("external") as outside:
        answer = await call(outside, "prpc/GetAttestationForAppKey", algorithm=algorithm)
        assert list(answer) == ["quote", "event_log", "report_data", "vm_config"]
        assert bytes.fromhex(answer["report_data"]) == text.ljust(64, b"\0")
        assert td_of(answer["quote"]).report_data == text.ljust(64, b"\0")
        assert await refusal(outside, "prpc/GetAttestationForAppKey") == (400, "Unsupported algorithm")


async def test_s1_the_outside_cannot_ask_for_many_quotes(
    running: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    quote = running.td.quote

    async def counted(report_data: bytes) -> bytes:
        nonlocal taken
        taken += 1
        return await quote(report_data)

    monkeypatch.setattr(running.td, "quote", counted)
    async with running.door("external") as outside:
        names = ["secp256k1", "k256", "secp256k1_prehashed", "ed25519"] * 5
        answers = await asyncio.gather(
            *(call(outside, "prpc/GetAttestationForAppKey", algorithm=name) for name in names)
        )
        assert taken == 2
        assert len({answer["quote"] for answer in answers}) == 2
        monkeypatch.setattr(service_module, "APP_KEY_LIFETIME", -1.0)
        await call(outside, "prpc/GetAttestationForAppKey", algorithm="ed25519")
        assert taken == 3


# Version, GpuInfo


async def test_version(door: httpx.AsyncClient, running: Agent) -> None:
    assert await call(door, "Version") == {"version": "0.5.11", "rev": "test"}
    assert running.service.facts.app_version == "v0.5.11 (test)"


async def test_gpu_info(tmp_path: Path) -> None:
    path = tmp_path / "attestation.out"
    async with agent(tmp_path, gpu_evidence=path) as made, made.door() as door:
        assert await call(door, "GpuInfo") == {"attestation": ""}
        path.write_text('{"a": "ü"}', encoding="utf-8")
        assert await call(door, "GpuInfo") == {"attestation": '{"a": "ü"}'}
        path.write_bytes(b"\xff")
        assert await call(door, "GpuInfo") == {"attestation": ""}


# Failures


async def test_a_scalar_outside_the_group_is_500(running: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """guest-agent.md 3.3: neither reduced nor tried again."""
    monkeypatch.setattr(service_module, "application_key", lambda *_: bytes(32))
    async with running.door() as door:
        assert await refusal(door, "GetKey", path="p") == (500, "Failed to parse k256 key")
        assert await refusal(door, "Sign", algorithm="k256") == (500, "Failed to parse k256 key")
        assert await refusal(door, "DeriveKey", path="p") == (500, "Failed to derive key")


async def test_a_register_ahead_of_its_log_stops_every_quote(running: Agent, door: httpx.AsyncClient) -> None:
    await running.td.extend(bytes(48))
    for method in ("GetQuote", "Attest", "Info", "GetTlsKey", "TdxQuote"):
        status, text = await refusal(door, method)
        assert (status, text.split(":")[0]) == (500, "RTMR3 is not what the runtime event log replays to")
    assert (await door.post("/GetKey", json={})).status_code == 200


async def test_tls_keys_come_from_the_random_bytes_given(running: Agent) -> None:
    seed = bytes(range(32))
    made = GuestService(
        running.source,
        running.keys,
        running.service._signer,
        running.service.facts,
        emulated.clock(),
        random_bytes=lambda size: seed[:size],
    )
    answer = await made.get_tls_key(wire.GetTlsKeyArgs())
    assert isinstance(answer, wire.GetTlsKeyResponse)
    assert answer.key == private_key_pem(p256_from_scalar(hkdf(seed)))
    answer = await made.derive_key(wire.DeriveKeyArgs(path="p", random_seed=True))
    assert isinstance(answer, wire.GetTlsKeyResponse)
    assert answer.key == private_key_pem(p256_from_scalar(hkdf(seed, b"p")))
