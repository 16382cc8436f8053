"""The record of every hand-out: append only, each record chained to the one before it.

A record is one line of JSON, at most `RECORD_LIMIT` bytes, ASCII, its members always all there:

* `sequence` from 0, `previous` the SHA-256 of the line before (64 zeros in the first), `time` in UTC;
* `rpc`, `decision` (`allowed`, `refused`, `failed`, or `note` for what the log says of itself), `reason`;
* `app_id`, `instance_id`, `device_id`, `compose_hash` as verified evidence says them (hex, empty when there is none),
  `root` the name of the root it verified under, `evidence` the SHA-256 of the quote;
* `peer` the client's address, `peer_certificate` the SHA-256 of its TLS certificate.

No record holds key material.

Rules:

A1. A record is on the disk before the hand-out it tells of: when it cannot be written, nothing is handed out.
A2. What follows the last line feed was torn off by a crash, before its hand-out. It is cut when the log is
    opened, and a note says how much it was.
A3. A log whose chain is broken is not continued.
A4. One process at a time writes a log; within it, records are written one after the other.
A5. A failed write leaves the log as it was.
A6. The chain shows every change and every gap within the log. That records are missing at its end shows only
    to somebody who noted the last `Head` elsewhere.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Literal

from teehouse.base.clock import Clock
from teehouse.base.files import PRIVATE
from teehouse.base.findings import (
    CollateralError,
    EvidenceError,
    Finding,
    Outcome,
    misuse,
    rejected,
    unavailable,
)
from teehouse.base.hashes import sha256

Decided = Literal["allowed", "refused", "failed", "note"]

RECORD_LIMIT = 8 * 1024  # bytes of a line, line feed included
TEXT_LIMIT = 1024  # characters of any free text
FIRST = "0" * 64

_HEX = 2 * 32


@dataclass(frozen=True, slots=True)
class Who:
    """Whom a record is about; all empty where nobody proved anything. Ids and hashes in bytes."""

    app_id: bytes = b""
    instance_id: bytes = b""
    device_id: bytes = b""
    compose_hash: bytes = b""
    root: str = ""
    evidence: bytes = b""
    peer: str = ""
    peer_certificate: bytes = b""


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the log, decoded; hashes and ids as hex."""

    sequence: int
    previous: str
    time: str
    rpc: str
    decision: str
    reason: str
    app_id: str
    instance_id: str
    device_id: str
    compose_hash: str
    root: str
    evidence: str
    peer: str
    peer_certificate: str


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a log: how many records it has, and the hash of the last one's line (hex)."""

    count: int
    hash: str


_MEMBERS = tuple(field.name for field in fields(Record))
EMPTY = Head(0, FIRST)


def encode_record(record: Record) -> bytes:
    """The line of a record, line feed included."""
    return json.dumps(asdict(record), separators=(",", ":")).encode("ascii") + b"\n"


def decode_record(line: bytes) -> Record:
    """The record of a line, with or without its line feed. Raises `EvidenceError`.

    Only the one encoding of a record is read: `encode_record(decode_record(line)) == line`.
    """
    try:
        members = json.loads(line)
        record = Record(**members)
        texts = [getattr(record, name) for name in _MEMBERS[1:]]
        whole = all(isinstance(text, str) for text in texts) and type(record.sequence) is int
    except (ValueError, TypeError, RecursionError):
        raise rejected("audit.record", "a line that is no record") from None
    if not whole or encode_record(record).rstrip(b"\n") != line.rstrip(b"\n"):
        raise rejected("audit.record", "a line that is no record")
    return record


def read_records(path: Path) -> Iterator[Record]:
    """The records of a log in order, unchecked; a torn last line is left out. Raises `EvidenceError`, OSError."""
    with path.open("rb") as file:
        while line := file.readline(RECORD_LIMIT + 1):
            if not line.endswith(b"\n"):
                return
            yield decode_record(line)


def verify_chain(path: Path, noted: Head | None = None) -> tuple[Finding, ...]:
    """Whether a log is what was written: one finding for each fault, or one that says how many records hold.

    `noted` is a head that somebody kept: the log must still have it (A6). The first fault in the chain ends
    the walk. Raises OSError.
    """
    head, fault, torn = _walk(path, noted)
    findings = [] if fault is None else [fault]
    if torn and fault is None:
        findings.append(
            Finding(
                "audit.torn",
                "the last line of the audit log is torn",
                Outcome.MALFORMED,
                expected="a line feed at the end",
                found=f"{torn} bytes after the last one",
                remedy="start the KMS: it cuts what was never handed out, and notes it",
            )
        )
    if not findings:
        findings.append(Finding("audit.chain", "the audit log is whole", found=f"{head.count} records"))
    return tuple(findings)


def _walk(path: Path, noted: Head | None) -> tuple[Head, Finding | None, int]:
    """The head that the walk reached, the first fault, and the bytes of a torn last line."""
    head = EMPTY
    seen = noted is None or noted == EMPTY
    with path.open("rb") as file:
        while line := file.readline(RECORD_LIMIT + 1):
            if not line.endswith(b"\n"):
                if len(line) > RECORD_LIMIT:
                    return head, _broken(head, "a line that is too long"), 0
                break
            try:
                record = decode_record(line)
            except EvidenceError as error:
                return head, _broken(head, error.finding.subject), 0
            if record.sequence != head.count:
                return head, _broken(head, f"sequence {record.sequence}"), 0
            if record.previous != head.hash:
                return head, _broken(head, f"previous {record.previous[:_HEX]}", head.hash), 0
            head, line = Head(head.count + 1, sha256(line).hex()), b""
            seen = seen or head == noted
    if not seen and noted is not None:
        return (
            head,
            Finding(
                "audit.head",
                "the audit log does not have the record that was noted",
                Outcome.REJECTED,
                expected=f"{noted.count} records, the last {noted.hash[:_HEX]}",
                found=f"{head.count} records",
                remedy="somebody cut or rewrote the log; compare it with a copy",
            ),
            len(line),
        )
    return head, None, len(line)


class AuditLog:
    """The log at `path`, opened for writing; made (0600) when it is missing.

    Opening reads it whole. Raises `EvidenceError` for a broken chain (A3), `MisuseError` when another process
    has it (A4), OSError.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, PRIVATE)
        try:
            os.fchmod(self._descriptor, PRIVATE)
            self._take()
            self._head, torn = _intact(path)
            self._size = os.fstat(self._descriptor).st_size - torn
            if torn:
                os.ftruncate(self._descriptor, self._size)
                self.append("AuditLog", "note", f"cut a torn line of {torn} bytes")
        except BaseException:
            self.close()
            raise

    @property
    def head(self) -> Head:
        """The end of the log, for whoever wants to note it (A6)."""
        return self._head

    def append(self, rpc: str, decision: Decided, reason: str = "", who: Who | None = None) -> Record:
        """Write one record to the disk. Raises `CollateralError` when it cannot be written (A1, A5)."""
        who = who or Who()
        with self._lock:
            record = Record(
                sequence=self._head.count,
                previous=self._head.hash,
                time=_instant(self._clock.now()),
                rpc=rpc,
                decision=decision,
                reason=reason[:TEXT_LIMIT],
                app_id=who.app_id.hex(),
                instance_id=who.instance_id.hex(),
                device_id=who.device_id.hex(),
                compose_hash=who.compose_hash.hex(),
                root=who.root[:TEXT_LIMIT],
                evidence=who.evidence.hex(),
                peer=who.peer[:TEXT_LIMIT],
                peer_certificate=who.peer_certificate.hex(),
            )
            line = encode_record(record)
            if len(line) > RECORD_LIMIT:  # escapes make text longer
                record = _shortened(record)
                line = encode_record(record)
            self._write(line)
            self._head = Head(record.sequence + 1, sha256(line).hex())
            self._size += len(line)
            return record

    def close(self) -> None:
        """Let the log go. A closed log refuses records."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _take(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise misuse(
                "audit.taken",
                f"another process writes {self.path}",
                remedy="give each KMS an audit log of its own",
            ) from None

    def _write(self, line: bytes) -> None:
        try:
            if self._descriptor < 0:
                raise OSError("the log is closed")  # noqa: TRY301 - refused as any other write that fails
            view = memoryview(line)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError as error:
            if self._descriptor >= 0:
                self._withdraw()
            raise not_recorded(error) from error

    def _withdraw(self) -> None:
        """A5. When not even that succeeds, the log is let go: its next opening sees what really is there."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            os.close(self._descriptor)
            self._descriptor = -1


def _intact(path: Path) -> tuple[Head, int]:
    """Head and torn bytes of a log. Raises `EvidenceError` (A3)."""
    head, fault, torn = _walk(path, None)
    if fault is not None:
        raise EvidenceError(fault)
    return head, torn


def not_recorded(error: OSError) -> CollateralError:
    """A1."""
    return unavailable(
        "audit.write",
        "the audit log cannot be written, and nothing is handed out without it",
        found=error.strerror or str(error),
        remedy="give the disk of the KMS room",
    )


def _broken(head: Head, found: str, expected: str = "") -> Finding:
    return Finding(
        "audit.broken",
        f"the chain of the audit log breaks at record {head.count}",
        Outcome.REJECTED,
        expected=expected,
        found=found,
        remedy="somebody changed the log; keep it, find out who, and begin a new one",
    )


def _shortened(record: Record) -> Record:
    members = asdict(record)
    for name in ("reason", "root", "peer", "rpc"):
        members[name] = members[name].encode("ascii", "replace").decode()[: TEXT_LIMIT // 4]
    return Record(**members)


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
