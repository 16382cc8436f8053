"""R8: whoever counts requests hears of each one once, in names that clients cannot invent."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Receive, Scope, Send

from support.guest_agent import agent, door_of
from teehouse.rpc.app import RpcApp
from teehouse.wire.methods import resolve


async def page(request: Request) -> Response:
    if request.path_params["name"] == "missing":
        raise HTTPException(404, "No such page")
    return PlainTextResponse("here")


async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("below")(scope, receive, send)


async def breaks_off(_: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise RuntimeError("gone")

    return StreamingResponse(pieces())


class Bare(BaseRoute):
    """A route that has no pattern."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL if scope["path"] == "/bare" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("bare")(scope, receive, send)


PAGES = [Route("/pages/{name}", page), Mount("/static", app=mounted), Route("/breaks", breaks_off), Bare()]


async def test_r8_each_request_is_told_once(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    async with (
        agent(tmp_path) as made,
        made.door(
            "all", extra_routes=PAGES, observe=lambda what, status: seen.append((what, status))
        ) as client,
    ):
        for path in ("/Version", "/prpc/Tappd.Version", "/v0/Info", "/prpc/Worker.GetAttestationForAppKey"):
            await client.get(path)
        await client.delete("/Version")
        await client.post("/Sign", json={"algorithm": "none"})
        await client.post("/Sign", content=b"x" * (11 << 20))
        await client.head("/pages/a")
        for path in ("/pages/missing", "/static/x", "/bare", "/nowhere", "/nowhere/else"):
            await client.get(path)
        await client.post("/pages/a")
        with pytest.raises(RuntimeError):
            await client.get("/breaks")
    assert seen == [
        ("DstackGuest.Version", 200),
        ("Tappd.Version", 200),
        ("DstackGuest.Info", 200),
        ("Worker.GetAttestationForAppKey", 400),
        ("DstackGuest.Version", 405),
        ("DstackGuest.Sign", 400),
        ("DstackGuest.Sign", 400),
        ("/pages/{name}", 200),
        ("/pages/{name}", 404),
        ("/static", 200),
        ("page", 200),
        ("unknown", 404),
        ("unknown", 404),
        ("unknown", 405),
        ("/breaks", 200),
    ]


async def test_r8_an_exchange_that_broke_off_has_no_status() -> None:
    seen: list[tuple[str, int]] = []

    async def version(_: object) -> Empty:
        raise KeyboardInterrupt

    app = RpcApp(
        partial(resolve, "internal"),
        {"DstackGuest": {"Version": version}},
        observe=lambda what, status: seen.append((what, status)),
    )
    async with door_of(app) as client:
        with pytest.raises(KeyboardInterrupt):
            await client.get("/Version")
    assert seen == [("DstackGuest.Version", 0)]
