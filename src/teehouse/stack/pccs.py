"""`teehouse pccs --emulated`: the collateral of one installation's root, over HTTP."""

import asyncio
from pathlib import Path

from starlette.applications import Starlette

from teehouse.base.clock import SystemClock
from teehouse.base.listener import Listener
from teehouse.guest.sockets import bind_tcp
from teehouse.stack.addresses import http_url, loopback_address
from teehouse.stack.installation import open_installation
from teehouse.stack.serving import run_until_stopped
from teehouse.tee_emulated.pccs import pccs_routes


def run_pccs(directory: Path, *, tcp: str, seed: bytes | None) -> None:
    """Serve until SIGINT or SIGTERM. Raises `MisuseError`."""
    address = loopback_address(tcp)
    installation = open_installation(directory, SystemClock(), seed=seed)

    async def serve(stop: asyncio.Event) -> None:
        port = bind_tcp(address)
        app = Starlette(routes=pccs_routes(installation.collateral))
        listener = Listener(app, [port], ident="Teehouse PCCS (EMULATED)")
        await listener.start()
        print(  # noqa: T201 - what a user waits for
            f"EMULATED PCCS at {http_url(port)}\nroot {installation.root.name}   {installation.root_pem}",
            flush=True,
        )
        await stop.wait()
        await listener.stop()

    run_until_stopped(serve)
