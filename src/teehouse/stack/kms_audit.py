"""What `teehouse kms audit` and `teehouse kms meta` print."""

import asyncio
import json
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from teehouse.base.findings import OUTCOME_TABLE, EvidenceError, Finding, misuse, worst
from teehouse.base.hashes import sha256
from teehouse.kms.audit import FIRST, Head, Record, encode_record, read_records, verify_chain
from teehouse.kms.client.connection import KmsConnection
from teehouse.kms.client.public import KmsMeta, get_meta

AUDIT_LOG = "audit.jsonl"
# Where a folder has its log: that of `teehouse kms serve`, that of an installation.
_PLACES = (AUDIT_LOG, "state/kms-audit.log", "kms-audit.log")
_FILE_WIDTH = 200  # columns where nobody's terminal says how many there are
ROOT_LIMIT = 64 * 1024  # bytes
_SHOWN_HEX = 12  # digits of ids and hashes in the table; JSON has them whole
_STYLES = {"allowed": "green", "refused": "red", "failed": "red"}


def show_audit(
    place: Path, *, last: int, noted: str | None, as_json: bool, console: Console | None = None
) -> int:
    """Print a log and the state of its chain; the exit code follows the latter. Raises `MisuseError`.

    `place` is a KMS's folder or the log itself; `last` how many records to show, 0 for all; `noted` a head as
    COUNT:HASH.
    """
    path = place
    if place.is_dir():
        path = next((place / name for name in _PLACES if (place / name).is_file()), place / AUDIT_LOG)
    wanted = None if noted is None else _head(noted)
    try:
        findings = verify_chain(path, wanted)
        records = _records(path, last)
    except OSError as error:
        raise misuse(
            "audit.unreadable", f"the audit log {path}", found=error.strerror or "cannot be read"
        ) from None
    outcome = worst(findings)
    if as_json:
        head = _end(records)
        report = {
            "accepted": all(finding.ok for finding in findings),
            "outcome": outcome.value,
            "findings": [finding.as_dict() for finding in findings],
            "head": {"count": head.count, "hash": head.hash},
            "records": [asdict(record) for record in records],
        }
        print(json.dumps(report, indent=2))  # noqa: T201 - what the command is for
    else:
        _print_audit(records, findings, console or _console())
    return OUTCOME_TABLE[outcome].exit_code


def _head(text: str) -> Head:
    count, _, digest = text.partition(":")
    if not (count.isdecimal() and len(count) < 20) or len(digest) != len(FIRST):
        raise misuse("audit.noted", "--noted", expected="COUNT:HASH", found=ascii(text[:100]))
    return Head(int(count), digest.lower())


def _records(path: Path, last: int) -> Sequence[Record]:
    """The last records up to the first line that is none."""
    kept: deque[Record] = deque(maxlen=last or None)
    with suppress(EvidenceError):  # the chain's findings say where
        kept.extend(read_records(path))
    return tuple(kept)


def _end(records: Sequence[Record]) -> Head:
    if not records:
        return Head(0, FIRST)
    return Head(records[-1].sequence + 1, sha256(encode_record(records[-1])).hex())


def _print_audit(records: Sequence[Record], findings: Sequence[Finding], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("#", "time", "RPC", "decision", "app", "instance", "evidence", "peer"):
        table.add_column(name, overflow="fold")
    table.add_column("reason", overflow="fold")
    for record in records:
        table.add_row(
            str(record.sequence),
            _plain(record.time),
            _plain(record.rpc),
            Text(_printable(record.decision), style=_STYLES.get(record.decision, "")),
            *(_plain(text[:_SHOWN_HEX]) for text in (record.app_id, record.instance_id, record.evidence)),
            _plain(record.peer),
            _plain(record.reason),
        )
    console.print(table)
    for finding in findings:
        mark = ("✓", "green") if finding.ok else ("✗", "red")
        console.print(Text.assemble(mark, " ", _printable(finding.sentence())))
    if findings and all(finding.ok for finding in findings):
        head = _end(records)
        # Not wrapped: this line is there to be copied.
        console.print(Text(f"note the end: --noted {head.count}:{head.hash}"), soft_wrap=True)


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)


def _plain(text: str) -> Text:
    return Text(_printable(text))


def _printable(text: str) -> str:
    """Records repeat what strangers said: what a terminal would act upon is made visible."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def show_meta(url: str, *, root_ca: Path | None, as_json: bool, console: Console | None = None) -> None:
    """Print what a KMS says of itself. Raises `MisuseError`, and what the KMS's client raises."""
    root = None if root_ca is None else _read_root(root_ca)
    found = asyncio.run(_ask(url, root))
    members = {
        "kms_id": found.kms_id.hex(),
        "k256_public_key": found.k256_public_key.hex(),
        "gateway_app_id": found.gateway_app_id,
        "kms_contract_address": found.kms_contract_address,
        "chain_id": found.chain_id,
        "app_auth_implementation": found.app_auth_implementation,
        "is_dev": found.is_dev,
        "allow_any_upgrade": found.allow_any_upgrade,
        "bootstrap_attestation": found.bootstrap_attestation.hex(),
        "ca_certificate": found.ca_certificate,
    }
    if as_json:
        print(json.dumps({"checked_root": root is not None, **members}, indent=2))  # noqa: T201 - as above
        return
    console = console or _console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    members["bootstrap_attestation"] = f"{len(found.bootstrap_attestation)} bytes"
    del members["ca_certificate"]
    for name, value in members.items():
        table.add_row(name, _plain("not told" if value is None else str(value)))
    console.print(table)
    console.print(
        Text("The server's certificate is under the root CA that was given.")
        if root is not None
        else Text("Nobody proved to be this KMS: compare kms_id or k256_public_key with what you trust.")
    )


async def _ask(url: str, root: str | None) -> KmsMeta:
    async with KmsConnection(url, root=root) as connection:
        return await get_meta(connection)


def _read_root(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(ROOT_LIMIT).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else "no PEM"
        raise misuse("kms.root", f"the root certificate {path}", found=found) from None
