"""What `teehouse up` shows: what runs, under which root, and what to type next."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from teehouse.attestation.verify import Verdict
from teehouse.base.findings import Finding
from teehouse.client.cloud.calls import KEY_VARIABLE, URL_VARIABLE

BAND = " EMULATED TDX "


def command() -> str:
    """How this program can be called from where the user stands: by name, or by path when it is not on PATH."""
    program = Path(sys.argv[0])
    found = shutil.which("teehouse")
    if program.name == "teehouse" and not (found and Path(found).samefile(program)):
        return os.path.relpath(program)
    return "teehouse" if program.name == "teehouse" else f"{Path(sys.executable).name} -m teehouse"


def show_ready(
    facts: dict[str, Any], verdict: Verdict, steps: Sequence[Finding], console: Console | None = None
) -> None:
    """Print the ready screen; of a chain that is another's, the endpoint's URL is not shown."""
    console = console or Console(highlight=False)
    band = Text.assemble(
        (BAND, "bold black on yellow"),
        "  Nothing here is protected by hardware.\n"
        "Quotes verify under this installation's own root, and under no other.",
    )
    rows = {
        "root": f"{facts['root']}\n{facts['root_ca']}",
        "sample app": f"{facts['app_url']}\nits CVM's agent: {facts['agent_url']}\n"
        f"app {facts['app_id']}\ninstance {facts['instance_id']}",
        "API": f"{facts['api_url']}\nkey in {facts['api_key_file']}\nworkspace {facts['workspace']}, "
        f"documented at {facts['docs_url']}",
        "KMS": _kms(facts),
        **({"chain": _chain(facts)} if "chain_id" in facts else {}),
        "for you": f"{facts['endpoint']}  (agent and PCCS)\n{facts['dstack_socket']}\n{facts['tappd_socket']}",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(Panel(Group(band, Text(), table), title=f"Teehouse {facts['version']}", title_align="left"))

    console.print("The chain of trust, as just checked:", style="bold")
    first = f"a quote taken through your socket is genuine: {len(verdict.findings)} checks passed"
    for line in [first, *(finding.sentence() for finding in steps)]:
        console.print(Text.assemble(("  ✓ ", "green"), line), soft_wrap=True)
    console.print(f"  EMULATED: all of it rests on {verdict.root}", style="yellow")

    # Not wrapped: these lines are there to be copied.
    for title, lines in {
        "Point the official clients of the cloud here (phala, @phala/cloud, phala-cloud):": (
            f"export {URL_VARIABLE}={facts['api_url']}",
            f'export {KEY_VARIABLE}="$(cat {shlex.quote(facts["api_key_file"])})"',
            f'curl -H "X-API-Key: ${KEY_VARIABLE}" ${URL_VARIABLE}/apps',
        ),
        "Point the official SDKs for programs in a CVM here:": (
            f"export DSTACK_SIMULATOR_ENDPOINT={facts['dstack_socket']}",
            f"export TAPPD_SIMULATOR_ENDPOINT={facts['tappd_socket']}",
        ),
        "Ask the sample app, take a quote, check it:": (
            f"curl -k '{facts['app_url']}/'",
            f"curl -sk '{facts['app_url']}/quote?nonce=00ff' > quote.json",
            _verify(facts),
        ),
        **(_governing(facts) if "chain_id" in facts else {}),
    }.items():
        console.print(title, style="bold")
        for line in lines:
            console.print(f"  {line}", soft_wrap=True)
    console.print("Ctrl-C ends it; keys and identities stay for the next time.")


def _kms(facts: dict[str, Any]) -> str:
    if "offchain_kms_url" not in facts:
        return str(facts["kms_url"])
    return f"{facts['kms_url']}  (on chain)\n{facts['offchain_kms_url']}  (off chain)"


def _rpc(facts: dict[str, Any]) -> str:
    """The chain's endpoint as it may be shown: a path or a user in it may be a key."""
    parts = urlsplit(facts["rpc_url"])
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _chain(facts: dict[str, Any]) -> str:
    key = facts.get("deployer_key_file")
    hint = f"its key, which everybody knows: {key}" if key else "its key: the one that you gave"
    return (
        f"{_rpc(facts)}  chain id {facts['chain_id']}\nKMS contract {facts['kms_contract']}\n"
        f"deployer {facts['deployer']}\nowns the sample app's contract, the app id;\n{hint}"
    )


def _verify(facts: dict[str, Any]) -> str:
    """The command that judges a quote of the sample, on chain its contract too."""
    line = (
        f"{command()} verify quote quote.json --root emulated:{facts['root_ca']} --pccs {facts['pccs_url']}"
    )
    if "chain_id" not in facts:
        return line
    contract = f"--kms-contract {facts['kms_contract']} --expect-owner {facts['deployer']}"
    return f"{line} --rpc-url {_rpc(facts)} {contract}"


def _governing(facts: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Taking back what the sample runs, and giving it again."""
    key = facts.get("deployer_key_file")
    signed = f"--key-file {shlex.quote(key)}" if key else "--key-file FILE"
    change = f"{facts['app_id']} {facts['compose_hash']} {signed}"
    return {
        "Decide on chain what the sample app may run, from its next boot on:": (
            f"export ETH_RPC_URL={_rpc(facts)}",
            f"{command()} governance show {facts['app_id']}",
            f"{command()} governance dry-run {facts['app_id']} remove-compose {facts['compose_hash']}",
            f"{command()} governance remove-compose {change}",
            f"{command()} governance allow-compose {change}",
        )
    }


def show_refused(findings: Sequence[Finding], console: Console | None = None) -> None:
    """Print what did not verify: a fault of ours, in full."""
    console = console or Console(highlight=False, stderr=True)
    console.print("Not everything verified; this should not happen.", style="bold red")
    for finding in findings:
        console.print(Text.assemble(("  ✗ ", "red"), f"{finding.code}: {finding.sentence()}"), soft_wrap=True)
