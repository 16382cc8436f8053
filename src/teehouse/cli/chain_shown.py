"""Tables of what stands on a chain, for a screen of 80 columns."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from teehouse.chain.app import AppSettings
from teehouse.chain.dry_run import Consequence
from teehouse.chain.history import History

CHANGES_SHOWN = 10
_ROWS = {
    "rpc_url": "RPC",
    "chain_id": "chain id",
    "kms_contract": "KMS contract",
    "kms_owner": "its owner",
    "kms_implementation": "its code",
    "app_implementation": "code of apps",
    "proxy_blueprint": "their proxy",
    "multicall": "multicall",
    "block_number": "block",
}


def show_record(facts: Mapping[str, Any], *, title: str, console: Console) -> None:
    """Print the record of a deployment, and what had to be done for it."""
    table = _grid(title)
    for name, shown in _ROWS.items():
        if name in facts:
            table.add_row(shown, str(facts[name]))
    console.print(table)
    for step in facts["done"]:
        console.print(Text.assemble(("  ✓ ", "green"), step))
    if not facts["done"]:
        console.print("  all of it stood there before")


def show_app(
    contract: str, settings: AppSettings, history: History, *, is_contract: bool, console: Console
) -> None:
    """Print what an app's contract allows, and who changed it last. `is_contract` is said of its owner."""
    block = history.block.number if history.block else 0
    table = _grid(f"App {contract} at block {block}")
    kind = "a contract" if is_contract else "one key alone (EOA)"
    table.add_row(
        "owner", Text.assemble(_hex(settings.owner), (f"\n{kind}", "" if is_contract else "yellow"))
    )
    if settings.pending_owner is not None:
        table.add_row("to be owned by", Text(_hex(settings.pending_owner), style="yellow"))
    table.add_row("code", _hex(history.implementation) if history.implementation else "no proxy's")
    table.add_row("upgrades", "disabled for good" if history.upgrades_disabled else "by the owner")
    table.add_row("TCB", "must be up to date" if settings.require_tcb_up_to_date else "any")
    table.add_row("compose hashes", _listed(history.compose_hashes))
    devices = _listed(history.device_ids)
    table.add_row("devices", Text("any device", style="yellow") if settings.allow_any_device else devices)
    console.print(table)
    changes = history.changes[-CHANGES_SHOWN:]
    if changes:
        console.print(f"The last {len(changes)} of {len(history.changes)} changes:", style="bold")
    for change in changes:
        mark = ("+", "green") if change.enabled else ("-", "red")
        console.print(
            Text.assemble(
                f"  block {change.block_number}  ",
                mark,
                f" {change.policy} {change.value.hex()[:16]}…  by {_hex(change.actor)}",
            ),
            soft_wrap=True,
        )


def show_consequences(found: tuple[Consequence, ...], *, what: str, note: str, console: Console) -> None:
    """Print which CVMs a change would refuse keys."""
    refused = [one for one in found if one.newly_refused]
    allowed = [one for one in found if one.newly_allowed]
    console.print(f"If you {what}, of {len(found)} running CVMs:", style="bold")
    for title, ones, style in (
        ("would be refused keys", refused, "red"),
        ("would be allowed", allowed, "green"),
    ):
        console.print(Text.assemble((f"  {len(ones)} {title}", style if ones else "")))
        for one in ones:
            why = one.after or one.now
            console.print(Text.assemble("    ", (one.cvm.name, "bold"), f"  {why}"), soft_wrap=True)
    already = [one for one in found if one.now and one.after]
    console.print(f"  {len(already)} refused before and after")
    for one in already:
        console.print(Text.assemble("    ", (one.cvm.name, "bold"), f"  {one.after}"), soft_wrap=True)
    console.print("CVMs that run keep their keys until they boot again.")
    if note:
        console.print(note, style="yellow")


def _grid(title: str) -> Table:
    table = Table.grid(padding=(0, 2))
    table.title = Text(title, style="bold")
    table.title_justify = "left"
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _listed(values: frozenset[bytes]) -> str:
    return "\n".join(value.hex() for value in sorted(values)) or "none"


def _hex(value: bytes) -> str:
    return f"0x{value.hex()}"
