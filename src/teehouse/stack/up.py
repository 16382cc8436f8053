"""`teehouse up`: from nothing to a quote that somebody else's verifier accepts, in one process and one folder.

1. `ready.json` is written when everything serves and the first quote has verified; it is removed on the way
   out, and a stale one on the way in.
2. The quote is taken as a program takes it: through the socket, over fresh random report data.
"""

import asyncio
import json
import os
import secrets
from pathlib import Path
from typing import Any

from teehouse import __version__
from teehouse.attestation.evidence import Evidence
from teehouse.attestation.verify import Verdict, verify
from teehouse.base.clock import SystemClock
from teehouse.base.files import write_atomic
from teehouse.client.guest import AsyncGuestClient
from teehouse.guest.sockets import TcpAddress
from teehouse.stack.agent_emulated import ServedCvm, serve_emulated
from teehouse.stack.compose import load_compose
from teehouse.stack.installation import Installation, open_installation
from teehouse.stack.screen import show_ready, show_refused
from teehouse.stack.serving import run_until_stopped

READY = "ready.json"
LOOPBACK = "127.0.0.1"


def run_up(directory: Path, *, port: int, seed: bytes | None) -> None:
    """Serve until SIGINT or SIGTERM. Raises `MisuseError`, `PlatformError`; SystemExit 10 for a bad quote."""
    installation = open_installation(directory, SystemClock(), seed=seed)
    ready = installation.directory.resolve() / READY

    async def serve(stop: asyncio.Event) -> None:
        async with serve_emulated(installation, load_compose(None), TcpAddress(LOOPBACK, port)) as served:
            ready.unlink(missing_ok=True)
            verdict = await first_quote(installation)
            if not verdict.accepted:
                show_refused(verdict)
                raise SystemExit(10)
            facts = ready_facts(installation, served)
            write_atomic(ready, (json.dumps(facts, indent=2) + "\n").encode())
            show_ready(facts, verdict)
            try:
                await stop.wait()
            finally:
                ready.unlink(missing_ok=True)

    run_until_stopped(serve)


async def first_quote(installation: Installation) -> Verdict:
    """A quote over 64 random bytes, taken through the socket, and what the verifier says of it."""
    nonce = secrets.token_bytes(64)
    async with AsyncGuestClient(str(installation.directory.resolve() / "dstack.sock")) as client:
        answer = await client.get_quote(nonce)
    evidence = Evidence.from_quote(answer.quote, event_log=answer.event_log, vm_config=answer.vm_config)
    return verify(evidence, installation.current_collateral(), installation.root, installation.clock.now())


def ready_facts(installation: Installation, served: ServedCvm) -> dict[str, Any]:
    """What ready.json says; README.md lists the members."""
    folder = installation.directory.resolve()
    return {
        "emulated": True,
        "root": installation.root.name,
        "root_ca": str(folder / installation.root_pem.name),
        "pccs_url": served.url,
        "agent_url": served.url,
        "dstack_socket": str(folder / "dstack.sock"),
        "tappd_socket": str(folder / "tappd.sock"),
        "app_id": served.cvm.identity.app_id.hex(),
        "instance_id": served.cvm.identity.instance_id.hex(),
        "compose_hash": served.cvm.identity.compose_hash.hex(),
        "pid": os.getpid(),
        "version": __version__,
    }
