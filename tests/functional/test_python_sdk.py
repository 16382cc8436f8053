"""The published dstack-sdk 0.5.4, unmodified, sync and async, over the sockets and over one TCP address."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from dstack_sdk import AsyncDstackClient, AsyncTappdClient, DstackClient, TappdClient

from support.functional_support import registers_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # the SDK deprecates its own Tappd client


@pytest.fixture(params=["socket", "tcp"])
def endpoints(request: pytest.FixtureRequest, teehouse: Any) -> tuple[str, str]:
    if request.param == "socket":
        return teehouse.dstack_socket, teehouse.tappd_socket
    return teehouse.url, teehouse.url


def replayed(answer: Any) -> tuple[str, ...]:
    registers = answer.replay_rtmrs()
    return tuple(registers[i] for i in range(4))


@pytest.fixture
def dstack(endpoints: tuple[str, str]) -> Iterator[DstackClient]:
    client = DstackClient(endpoints[0])
    with client:  # what `as` would give is the asynchronous client inside
        yield client


@pytest.fixture
def tappd(endpoints: tuple[str, str]) -> Iterator[TappdClient]:
    client = TappdClient(endpoints[1])
    with client:
        yield client


def test_dstack_client_sync(dstack: DstackClient) -> None:
    client = dstack
    assert client.is_reachable()
    assert tuple(int(n) for n in client.version().version.split(".")) >= (0, 5, 11)

    info = client.info()
    compose_hash = hashlib.sha256(info.tcb_info.app_compose.encode()).hexdigest()
    assert info.compose_hash == info.tcb_info.compose_hash == compose_hash
    assert len(info.app_id) == 40
    assert json.loads(info.vm_config)["os_image_hash"] == info.os_image_hash == info.tcb_info.os_image_hash

    secp = client.get_key("eth/test", "wallet")
    ed = client.get_key("eth/test", "wallet", "ed25519")
    assert secp.decode_key() == ed.decode_key()
    assert [len(link) for link in secp.decode_signature_chain()] == [65, 65]

    quote = client.get_quote(b"\x01\x02")
    assert quote.report_data == "0102" + "00" * 62
    assert replayed(quote) == registers_of(quote.quote)
    client.emit_event("from-python", b"payload")
    after = client.get_quote(b"\x00")
    assert replayed(after) == registers_of(after.quote)
    assert registers_of(after.quote)[:3] == registers_of(quote.quote)[:3]
    assert registers_of(after.quote)[3] != registers_of(quote.quote)[3]

    assert client.attest(b"user:1").decode_attestation()[:2] == b"\x00\x00"

    tls = client.get_tls_key("example.com", ["www.example.com"], usage_ra_tls=True, with_app_info=True)
    assert tls.key.startswith("-----BEGIN PRIVATE KEY-----\n")
    assert len(tls.certificate_chain) == 3

    for algorithm, data in (("ed25519", b"data"), ("secp256k1", b"data"), ("secp256k1_prehashed", bytes(32))):
        signed = client.sign(algorithm, data)
        signature, public_key = signed.decode_signature(), signed.decode_public_key()
        assert client.verify(algorithm, data, signature, public_key).valid is True
        other = bytes([data[0] ^ 1]) + data[1:]
        assert client.verify(algorithm, other, signature, public_key).valid is False


async def test_dstack_client_async(endpoints: tuple[str, str]) -> None:
    async with AsyncDstackClient(endpoints[0]) as client:
        assert await client.is_reachable()
        await asyncio.gather(*(client.emit_event(f"many-{i}", bytes([i])) for i in range(50)))
        quote = await client.get_quote(b"\x03")
        assert replayed(quote) == registers_of(quote.quote)
        names = [event.event for event in quote.decode_event_log()]
        assert {f"many-{i}" for i in range(50)} <= set(names)
        info = await client.info()
        assert info.tcb_info.rtmr3 == registers_of(quote.quote)[3]
        key = await client.get_key("a", "b", "k256")
        assert key.key == (await client.get_key("a", "b")).key
        assert (await client.attest(b"x")).attestation
        tls = await client.get_tls_key(not_before=0, not_after=0)
        assert len(tls.certificate_chain) == 3
        signed = await client.sign("ed25519", "text")
        assert (
            await client.verify("ed25519", "text", signed.decode_signature(), signed.decode_public_key())
        ).valid
        assert (await client.version()).version


def test_tappd_client_sync(tappd: TappdClient, dstack: DstackClient) -> None:
    client = tappd
    assert client.is_reachable()
    derived = client.derive_key("/", "test")
    assert derived.key == client.derive_key("/", "test").key
    assert len(derived.certificate_chain) == 3
    quote = client.tdx_quote("test", "sha512")
    tagged = hashlib.sha512(b"app-data:test").hexdigest()
    assert quote.quote[2 * 568 : 2 * 632] == tagged
    assert replayed(quote) == registers_of(quote.quote)
    raw = client.tdx_quote(b"x" * 64, "raw")
    assert raw.quote[2 * 568 : 2 * 632] == (b"x" * 64).hex()
    assert client.info().app_id
    # methods inherited from the Dstack client go to /prpc/Tappd.<Method>, which no published server knew
    assert client.get_key("eth/test", "wallet").key == dstack.get_key("eth/test", "wallet").key


async def test_tappd_client_async(endpoints: tuple[str, str]) -> None:
    async with AsyncTappdClient(endpoints[1]) as client:
        for algorithm in (
            "sha256",
            "sha384",
            "sha512",
            "sha3-256",
            "sha3-384",
            "sha3-512",
            "keccak256",
            "keccak384",
            "keccak512",
        ):
            quote = await client.tdx_quote("test", algorithm)
            assert replayed(quote) == registers_of(quote.quote)
        assert (await client.derive_key("/", "test")).key
        assert (await client.info()).instance_id


def test_bad_input_reaches_a_python_user_as_an_exception(dstack: DstackClient) -> None:
    import httpx

    with pytest.raises(httpx.HTTPStatusError) as refused:
        dstack.sign("rsa", b"data")
    assert refused.value.response.status_code == 400
    assert refused.value.response.json() == {"error": "Unsupported algorithm"}
