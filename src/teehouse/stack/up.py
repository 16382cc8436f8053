"""`teehouse up`: from nothing to an app in a CVM whose chain of trust has been walked, in one process and folder.

1. In this order: the agent for programs on this machine; where one is asked for, a chain with the contracts and the
   KMS on it; KMS, node, control plane, sample app, which is deployed through the API; then the checks of
   `chain_of_trust`. A check that fails ends the start.
2. `ready.json` is written when everything serves and every check has passed; it is removed on the way out,
   and a stale one on the way in.
3. On the way out the control plane goes first, so that it sees nothing of what comes then: all CVMs are shut down
   on the node. The next start boots those that are wanted. After a crash it finds them as they are.
"""

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from teehouse import __version__
from teehouse.attestation.evidence import Evidence
from teehouse.attestation.verify import Verdict, verify
from teehouse.base.clock import SystemClock
from teehouse.base.files import write_atomic
from teehouse.base.findings import Finding
from teehouse.chain.checks import OnChain, check_app
from teehouse.cli.verify import boot_info
from teehouse.client.guest import AsyncGuestClient
from teehouse.client.verification import ChainChecks
from teehouse.guest.sockets import TcpAddress
from teehouse.stack.addresses import LOOPBACK
from teehouse.stack.agent_emulated import ServedCvm, serve_emulated
from teehouse.stack.chain_of_trust import walk
from teehouse.stack.cloud_emulated import ServedCloud, serve_cloud
from teehouse.stack.compose import load_compose
from teehouse.stack.installation import Installation, open_installation
from teehouse.stack.kms_emulated import serve_kms
from teehouse.stack.node_emulated import emulated_node
from teehouse.stack.onchain_emulated import ChainChoice, Onchain, chosen_chain, serve_onchain
from teehouse.stack.sample import WORKLOAD
from teehouse.stack.sample_cvm import STOP_SECONDS, SampleCvm, port_is_lost, start_sample
from teehouse.stack.screen import show_ready, show_refused
from teehouse.stack.serving import end_start, run_until_stopped
from teehouse.tee_emulated.image import DEFAULT_NAME, DEV_NAME

READY = "ready.json"
IMAGES = (DEFAULT_NAME, DEV_NAME)  # two, so that apps can be moved from one to the other


def run_up(directory: Path, *, port: int, seed: bytes | None, choice: ChainChoice | None = None) -> None:
    """Serve until SIGINT or SIGTERM, on a chain where one is chosen, or where the folder is.

    Raises `TeehouseError`; SystemExit 10 when a check fails.
    """
    installation = open_installation(directory, SystemClock(), seed=seed)
    choice = chosen_chain(installation, choice)

    async def serve(stop: asyncio.Event) -> None:
        ready = installation.directory.resolve() / READY
        async with (
            serve_emulated(installation, load_compose(None), TcpAddress(LOOPBACK, port)) as served,
            _maybe_onchain(installation, choice) as onchain,
            serve_kms(installation) as kms,
            emulated_node(installation, (kms.url,), images=IMAGES) as node,
        ):
            ready.unlink(missing_ok=True)
            verdict = await first_quote(installation)
            other_port = await port_is_lost(installation, node)
            try:
                async with serve_cloud(installation, kms, node, onchain) as cloud:
                    sample = await start_sample(installation, node, cloud, onchain, other_port=other_port)
                    checks = None if onchain is None else chain_checks(onchain)
                    steps = await walk(installation, sample.deployed, checks)
                    refused = [f for f in (*verdict.findings, *steps) if not f.ok]
                    if refused:
                        show_refused(refused)
                        raise SystemExit(10)
                    facts = ready_facts(installation, served, sample, cloud, kms.url, onchain)
                    end_start()
                    write_atomic(ready, (json.dumps(facts, indent=2) + "\n").encode())
                    show_ready(facts, verdict, steps)
                    await stop.wait()
                    ready.unlink(missing_ok=True)
            finally:
                ready.unlink(missing_ok=True)
                await node.shutdown_all(STOP_SECONDS)

    run_until_stopped(serve)


@asynccontextmanager
async def _maybe_onchain(
    installation: Installation, choice: ChainChoice | None
) -> AsyncIterator[Onchain | None]:
    if choice is None:
        yield None
        return
    async with serve_onchain(installation, choice, IMAGES) as onchain:
        yield onchain


def chain_checks(onchain: Onchain) -> ChainChecks:
    """What asks the chain about the sample: its contract is the deployer's, its KMS's contract this one."""
    expected = OnChain(onchain.record.kms_contract, onchain.deployer)

    async def ask(verdict: Verdict) -> tuple[Finding, ...]:
        async with await onchain.reader() as reader:
            return await check_app(reader, boot_info(verdict), expected)

    return ask


async def first_quote(installation: Installation) -> Verdict:
    """A quote over 64 random bytes, taken through the socket, and what the verifier says of it."""
    nonce = secrets.token_bytes(64)
    async with AsyncGuestClient(str(installation.directory.resolve() / "dstack.sock")) as client:
        answer = await client.get_quote(nonce)
    evidence = Evidence.from_quote(answer.quote, event_log=answer.event_log, vm_config=answer.vm_config)
    return verify(evidence, installation.current_collateral(), installation.root, installation.clock.now())


def ready_facts(
    installation: Installation,
    served: ServedCvm,
    sample: SampleCvm,
    cloud: ServedCloud,
    kms_url: str,
    onchain: Onchain | None = None,
) -> dict[str, Any]:
    """What ready.json says; README.md lists the members. `kms_url` is the KMS off chain."""
    folder = installation.directory.resolve()
    endpoints = sample.state.endpoints
    return {
        "emulated": True,
        "root": installation.root.name,
        "root_ca": str(folder / installation.root_pem.name),
        "pccs_url": served.url,
        "endpoint": served.url,
        "dstack_socket": str(folder / "dstack.sock"),
        "tappd_socket": str(folder / "tappd.sock"),
        "api_url": cloud.api_url,
        "api_key": cloud.api_key,
        "api_key_file": str(cloud.key_file),
        "workspace": cloud.workspace,
        "docs_url": f"{cloud.url}/docs",
        "kms_url": kms_url if onchain is None else onchain.kms.url,
        "app_id": sample.state.app_id.hex(),
        "instance_id": sample.state.instance_id.hex(),
        "compose_hash": sample.state.compose_hash.hex(),
        "app_url": sample.deployed.url,
        "agent_url": endpoints.pages_url if endpoints else None,
        "workload": WORKLOAD,
        "cvm_id": sample.state.cvm_id,
        "vm_uuid": sample.vm_uuid,
        **({} if onchain is None else {"offchain_kms_url": kms_url, **onchain.facts()}),
        "pid": os.getpid(),
        "version": __version__,
    }
