"""The agent on real sockets: its beginning, its end, and what clients see of HTTP (guest-agent.md 2.7, 2.8, 15)."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from support import emulated
from support.guest_agent import COMPOSE, SIM_KEY, with_root_key
from teehouse.attestation.identity import derive_app_id, mr_config_id_v1
from teehouse.base.findings import MisuseError
from teehouse.guest.agent import Door, GuestAgent, GuestParts, open_service
from teehouse.guest.boot import BootIdentity, BootKeys, key_provider_payload, measure_after_keys
from teehouse.guest.config import ListenerConfig
from teehouse.guest.info import GuestFacts
from teehouse.guest.sockets import TcpAddress, UnixAddress, listen
from teehouse.keys.appkeys import generate_with_self_made_kms, generate_without_kms
from teehouse.tee.platform import PlatformError
from teehouse.wire.app_compose import parse_app_compose


async def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


def parts(directory: Path) -> GuestParts:
    compose = parse_app_compose(json.dumps(COMPOSE))
    td = emulated.td(directory, mr_config_id=mr_config_id_v1(compose.compose_hash))
    return GuestParts(
        platform=td,
        directory=directory / "log",
        keys=with_root_key(generate_without_kms(bytes(32), emulated.NOW), SIM_KEY),
        vm_config=td.vm_config,
        facts=GuestFacts(compose=compose, build="test"),
        clock=emulated.clock(),
    )


async def agent_of(made: GuestParts, directory: Path) -> GuestAgent:
    log, service = await open_service(made)
    compose = made.facts.compose
    identity = BootIdentity(derive_app_id(compose.raw), compose.compose_hash, bytes(20))
    await measure_after_keys(log, identity, BootKeys(key_provider_payload("none")))
    inner = UnixAddress(directory / "dstack" / "dstack.sock")
    outer = TcpAddress("127.0.0.1", 0)
    doors = [
        Door("internal", listen(inner), ListenerConfig(inner, limits={"Sign": 1000})),
        Door(
            "external",
            listen(outer),
            ListenerConfig(outer, ident="ident of the outside"),
            extra_routes=[Route("/", hello)],
            headers=(("X-More", "1"),),
        ),
    ]
    return GuestAgent(log, service, doors)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[GuestAgent]:
    made = await agent_of(parts(directory), directory)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def inside(directory: Path, name: str = "dstack/dstack.sock") -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=str(directory / name)), base_url="http://dstack"
    )


def outside(made: GuestAgent) -> httpx.AsyncClient:
    port = made._doors[1].listening.sockets[0].getsockname()[1]
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}")


async def test_every_door_serves_what_it_should(tmp_path: Path) -> None:
    async with running(tmp_path) as made:
        for name in ("dstack/dstack.sock", "dstack.sock"):
            async with inside(tmp_path, name) as client:
                answer = await client.post("/GetQuote", json={"report_data": "00ff"})
                assert answer.status_code == 200
                assert answer.headers["server"] == "dstack guest agent"
                assert answer.headers["content-length"] == str(len(answer.content))
                assert "transfer-encoding" not in answer.headers
                assert "x-app-version" not in answer.headers
        async with outside(made) as client:
            answer = await client.get("/prpc/Worker.Version")
            assert answer.headers["server"] == "ident of the outside"
            assert answer.headers.get_list("x-app-version") == ["v0.5.11 (test)"]
            assert answer.headers["x-more"] == "1"
            assert (await client.get("/")).text == "hello"
            for path in ("/GetKey", "/prpc/GetKey", "/prpc/EmitEvent"):
                refused = await client.post(path, json={})
                assert refused.status_code == 404
                assert refused.headers["x-app-version"] == "v0.5.11 (test)"


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_answered(tmp_path: Path, declared: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 65536

    async with running(tmp_path), inside(tmp_path) as client:
        body: Any = b"x" * (4 << 20) if declared else chunks()
        answer = await client.post("/Sign", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert answer.json() == {"error": "failed to read data: payload too large"}
        assert answer.headers["connection"] == "close"
        assert (await client.get("/Version")).status_code == 200


async def test_a_client_that_half_closes_gets_its_answer(tmp_path: Path) -> None:
    """guest-agent.md 22, 13; 2.8 c."""
    async with running(tmp_path):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "dstack.sock"))
        writer.write(b"POST /Info HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n")
        writer.write(b"Content-Type: application/json\r\n\r\n{}")
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 5)  # until the server closes its side
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(body)["app_name"] == COMPOSE["name"]
        writer.close()


async def test_an_agent_that_starts_again_goes_on(tmp_path: Path) -> None:
    made = parts(tmp_path)
    first = await agent_of(made, tmp_path)
    await first.start()
    async with inside(tmp_path) as client:
        await client.post("/EmitEvent", json={"event": "a", "payload": "62"})
        before = (await client.get("/GetKey?path=p")).json()
    await first.stop()
    assert not (tmp_path / "dstack.sock").exists()
    second = await agent_of(made, tmp_path)
    await second.start()
    async with inside(tmp_path) as client:
        log = json.loads((await client.get("/GetQuote")).json()["event_log"])
        assert [event["event"] for event in log][-2:] == ["system-ready", "a"]
        assert (await client.get("/GetKey?path=p")).json() == before
    await second.stop()


async def test_g1_a_log_out_of_step_keeps_the_agent_from_starting(tmp_path: Path) -> None:
    made = parts(tmp_path)
    await made.platform.extend(bytes(48))
    with pytest.raises(PlatformError, match="RTMR3 is not what the runtime event log replays to"):
        await open_service(made)


async def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    made = parts(tmp_path)
    with pytest.raises(MisuseError, match="vm_config cannot be read"):
        await open_service(replace(made, vm_config="{"))
    under_kms = generate_with_self_made_kms(bytes(32), bytes(20), b"", emulated.NOW).keys
    with pytest.raises(MisuseError, match="the app's CA key is with its KMS"):
        await open_service(replace(made, keys=under_kms))


async def test_g2_one_door_that_cannot_open_closes_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await agent_of(parts(tmp_path), tmp_path)

    async def fail() -> None:
        raise OSError("no")

    monkeypatch.setattr(made._listeners[1], "start", fail)
    with pytest.raises(OSError, match="no"):
        await made.start()
    assert not (tmp_path / "dstack.sock").exists()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(FileNotFoundError):
        client.connect(str(tmp_path / "dstack.sock"))


async def test_g3_a_listener_that_ends_is_noticed(tmp_path: Path) -> None:
    async with running(tmp_path) as made:
        watching = asyncio.create_task(made.watch(0.01))
        await asyncio.sleep(0.05)
        assert not watching.done()
        [server] = made._listeners[1]._servers
        server.close()
        with pytest.raises(PlatformError, match="has ended by itself"):
            await asyncio.wait_for(watching, 5)
