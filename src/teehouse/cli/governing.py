"""What the commands of `teehouse governance` do and print."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from teehouse.attestation import strictjson
from teehouse.base.findings import EvidenceError, misuse
from teehouse.chain import app as contracts
from teehouse.chain import calls as abi
from teehouse.chain.app import AppQuestion, AppSettings
from teehouse.chain.calls import Function
from teehouse.chain.dry_run import Allowed, Consequence, Kind, ProposedChange, RunningCvm, consequences
from teehouse.chain.endpoint import Endpoint
from teehouse.chain.history import History, complete
from teehouse.chain.reader import Block, Call, Reader
from teehouse.chain.writer import RpcWriter
from teehouse.cli.chain_options import ChainOptions, private_key, word
from teehouse.cli.chain_shown import show_app, show_consequences

REFUSED_EXIT: Final = 10  # as of a rejection: some CVMs would be refused
LIST_LIMIT: Final = 16 * 1024 * 1024  # bytes of a list of CVMs
_LIST = "cvms"

_ALLOWS: Final[
    dict[str, tuple[Function, bool, Function]]
] = {  # what is read, what it must be, what is written
    "allow-compose": (abi.ALLOWED_COMPOSE_HASHES, True, abi.ADD_COMPOSE_HASH),
    "remove-compose": (abi.ALLOWED_COMPOSE_HASHES, False, abi.REMOVE_COMPOSE_HASH),
    "allow-device": (abi.ALLOWED_DEVICE_IDS, True, abi.ADD_DEVICE),
    "remove-device": (abi.ALLOWED_DEVICE_IDS, False, abi.REMOVE_DEVICE),
}


def show_app_contract(options: ChainOptions, contract: bytes, *, from_block: int, as_json: bool) -> None:
    """Print a contract's settings, lists and changes. Raises `TeehouseError`."""

    async def read() -> tuple[AppSettings, History, bool]:
        async with await options.open() as reader:
            block = await reader.pinned()
            _, settings = await contracts.settings(reader, contract, block)
            history = await complete(reader, History(contract), block, from_block=from_block)
            return settings, history, bool(await reader.code(settings.owner, block))

    settings, history, is_contract = asyncio.run(read())
    if as_json:
        _print(_app_members(contract, settings, history, is_contract=is_contract))
    else:
        show_app(_hex(contract), settings, history, is_contract=is_contract, console=_console())


def make_change(
    options: ChainOptions, contract: bytes, change: str, value: bytes, key_file: Path | None, *, as_json: bool
) -> None:
    """Change one entry, unless it is so already; then say what was done. Raises `TeehouseError`."""
    reads, wanted, writes = _ALLOWS[change]
    key = private_key(key_file)

    async def work() -> dict[str, Any]:
        async with await options.open() as reader:
            block, (answer,) = await reader.call_many([Call(contract, reads(value))])
            done = {"app": _hex(contract), "change": change, "value": _hex(value)}
            if contracts.decoded(answer, abi.decode_bool) is wanted:
                return {**done, "transaction_hash": None, "block_number": block.number}
            endpoint = Endpoint(options.rpc_urls[0])
            try:
                receipt = await RpcWriter(endpoint, reader.chain_id, key).send(contract, writes(value))
            finally:
                await endpoint.aclose()
            return {
                **done,
                "transaction_hash": _hex(receipt.transaction_hash),
                "block_number": receipt.block_number,
            }

    done = asyncio.run(work())
    if as_json:
        _print(done)
    elif done["transaction_hash"] is None:
        _console().print(f"It is so already, at block {done['block_number']}: nothing was sent.")
    else:
        text = f"done in block {done['block_number']}, transaction {done['transaction_hash']}"
        _console().print(Text.assemble(("✓ ", "green"), text), soft_wrap=True)


def try_change(
    options: ChainOptions,
    contract: bytes,
    change: Kind,
    value: bytes,
    *,
    cvms: Path | None,
    api_url: str | None,
    as_json: bool,
) -> int:
    """Print what a change would mean for the CVMs that run; the exit code. Raises `TeehouseError`."""
    proposed = ProposedChange(change, value)
    if cvms is None:
        running, skipped = _running(contract, api_url)
        note = f"{skipped} more have no compose hash or no device yet, and are not judged." if skipped else ""
        if change in {Kind.REQUIRE_TCB, Kind.ANY_TCB}:
            note = "The control plane tells no TCB statuses: all are taken to be up to date. " + note
    else:
        running, note = _listed(cvms), ""

    async def work() -> tuple[Block, tuple[Consequence, ...]]:
        async with await options.open() as reader:
            block, allowed = await _allowed(reader, contract, running)
            return block, consequences(list(zip(running, allowed, strict=True)), proposed)

    block, found = asyncio.run(work())
    refused = [one for one in found if one.newly_refused]
    if as_json:
        _print(_tried_members(contract, change.value, value, block, found, note))
    else:
        what = change.value.replace("-", " ") + (f" {value.hex()[:16]}…" if value else "")
        show_consequences(found, what=what, note=note.strip(), console=_console())
    return REFUSED_EXIT if refused else 0


async def _allowed(
    reader: Reader, contract: bytes, running: Sequence[RunningCvm]
) -> tuple[Block, list[Allowed]]:
    """What the contract says now of each CVM. Raises `EvidenceError` when it gives no answer."""
    questions = [AppQuestion(contract, cvm.compose_hash, cvm.device_id) for cvm in running]
    block, found = await contracts.verdicts(reader, questions)
    _, settings = await contracts.settings(reader, contract, block)
    return block, [
        Allowed(
            one.compose_hash_allowed,
            one.allow_any_device,
            bool(one.device_allowed),
            settings.require_tcb_up_to_date,
        )
        for one in found
    ]


def _running(contract: bytes, api_url: str | None) -> tuple[list[RunningCvm], int]:
    """The app's CVMs that the control plane knows, and how many it skipped."""
    from teehouse.client.cloud.clients import CloudClient

    with CloudClient(api_url) as client:
        found = client.check_app_cvms_is_allowed(contract.hex())
    if not found.is_onchain:
        raise misuse(
            "governance.off-chain",
            f"app {contract.hex()} is not governed on chain",
            remedy="off-chain apps are allowed by their KMS's list",
        )
    running = [
        RunningCvm(
            str(one.cvm_id), word(one.compose_hash, "a compose hash"), word(one.device_id, "a device id")
        )
        for one in found.results
    ]
    return running, len(found.skipped_cvm_ids)


def _listed(path: Path) -> list[RunningCvm]:
    """The CVMs of a JSON list. Raises `MisuseError`."""
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(LIST_LIMIT + 1)
        found = strictjson.load(content, _LIST, limit=LIST_LIMIT)
        if not isinstance(found, list):
            raise misuse("governance.cvms", f"the list {path}", expected="a JSON list of objects")
        return [_cvm(one) for one in found]
    except OSError as error:
        raise misuse("governance.cvms", f"the list {path}", found=error.strerror or "unreadable") from None
    except EvidenceError as error:
        raise misuse("governance.cvms", f"the list {path}", found=error.finding.sentence()) from None


def _cvm(members: Any) -> RunningCvm:
    if not isinstance(members, dict):
        raise misuse("governance.cvms", "an entry of the list", expected="an object")
    return RunningCvm(
        strictjson.text_member(members, "name", _LIST),
        word(strictjson.text_member(members, "compose_hash", _LIST), "a compose hash"),
        word(strictjson.text_member(members, "device_id", _LIST), "a device id"),
        strictjson.text_member(members, "tcb_status", _LIST, "UpToDate"),
    )


def _app_members(
    contract: bytes, settings: AppSettings, history: History, *, is_contract: bool
) -> dict[str, Any]:
    block = history.block
    return {
        "app": _hex(contract),
        "block_number": None if block is None else block.number,
        "owner": _hex(settings.owner),
        "owner_is_contract": is_contract,
        "pending_owner": None if settings.pending_owner is None else _hex(settings.pending_owner),
        "implementation": None if history.implementation is None else _hex(history.implementation),
        "upgrades_disabled": history.upgrades_disabled,
        "require_tcb_up_to_date": settings.require_tcb_up_to_date,
        "allow_any_device": settings.allow_any_device,
        "compose_hashes": [_hex(one) for one in sorted(history.compose_hashes)],
        "device_ids": [_hex(one) for one in sorted(history.device_ids)],
        "changes": [
            {
                "block_number": one.block_number,
                "transaction_hash": _hex(one.transaction_hash),
                "actor": _hex(one.actor),
                "policy": one.policy,
                "value": _hex(one.value),
                "enabled": one.enabled,
            }
            for one in history.changes
        ],
    }


def _tried_members(
    contract: bytes, change: str, value: bytes, block: Block, found: Sequence[Consequence], note: str
) -> dict[str, Any]:
    return {
        "app": _hex(contract),
        "block_number": block.number,
        "change": change,
        "value": _hex(value) if value else None,
        "refused_count": sum(one.newly_refused for one in found),
        "cvms": [
            {
                "name": one.cvm.name,
                "compose_hash": _hex(one.cvm.compose_hash),
                "device_id": _hex(one.cvm.device_id),
                "reason_now": one.now,
                "reason_after": one.after,
                "newly_refused": one.newly_refused,
            }
            for one in found
        ],
        "note": note.strip(),
    }


def _print(members: dict[str, Any]) -> None:
    print(json.dumps(members, indent=2))


def _console() -> Console:
    return Console(highlight=False)


def _hex(data: bytes) -> str:
    return f"0x{data.hex()}"
