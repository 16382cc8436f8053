"""What `teehouse up` shows: what runs, under which root, and what to type next."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from teehouse.attestation.verify import Verdict

BAND = " EMULATED TDX "


def command() -> str:
    """How this program can be called from where the user stands: by name, or by path when it is not on PATH."""
    program = Path(sys.argv[0])
    found = shutil.which("teehouse")
    if program.name == "teehouse" and not (found and Path(found).samefile(program)):
        return os.path.relpath(program)
    return "teehouse" if program.name == "teehouse" else f"{Path(sys.executable).name} -m teehouse"


def show_ready(facts: dict[str, Any], verdict: Verdict, console: Console | None = None) -> None:
    """Print the ready screen."""
    console = console or Console(highlight=False)
    band = Text.assemble(
        (BAND, "bold black on yellow"),
        "  Nothing here is protected by hardware.\n"
        "Quotes verify under this installation's own root, and under no other.",
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {
        "root": f"{facts['root']}\n{facts['root_ca']}",
        "app": f"{facts['app_id']}  (instance {facts['instance_id']})",
        "sockets": f"{facts['dstack_socket']}\n{facts['tappd_socket']}",
        "HTTP": f"{facts['agent_url']}  (agent and PCCS)",
        "first quote": f"taken through the socket and verified: {verdict.tcb_status}, "
        f"{len(verdict.findings)} checks passed, root {verdict.root}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(Panel(Group(band, Text(), table), title=f"Teehouse {facts['version']}", title_align="left"))
    console.print("Point the official SDKs here:", style="bold")
    # Not wrapped: these lines are there to be copied.
    commands = [
        f"  export DSTACK_SIMULATOR_ENDPOINT={facts['dstack_socket']}",
        f"  export TAPPD_SIMULATOR_ENDPOINT={facts['tappd_socket']}",
    ]
    checks = [
        f"  curl -s --unix-socket {facts['dstack_socket']} 'http://dstack/GetQuote?report_data=00ff' > quote.json",
        f"  {command()} verify quote quote.json --root emulated:{facts['root_ca']} --pccs {facts['pccs_url']}",
    ]
    for line in commands:
        console.print(line, soft_wrap=True)
    console.print("Take a quote and check it:", style="bold")
    for line in checks:
        console.print(line, soft_wrap=True)
    console.print("Ctrl-C ends it; keys and registers stay for the next time.")


def show_refused(verdict: Verdict, console: Console | None = None) -> None:
    """Print why the first quote was refused: a fault of ours, in full."""
    console = console or Console(highlight=False, stderr=True)
    console.print("The first quote did not verify; this should not happen.", style="bold red")
    for finding in verdict.findings:
        if not finding.ok:
            console.print(f"  {finding.check} {finding.code}: {finding.sentence()}", soft_wrap=True)
