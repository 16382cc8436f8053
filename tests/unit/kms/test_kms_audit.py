"""The audit log; the numbers are the rules of `kms.audit`."""

import fcntl
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import emulated
from teehouse.base.findings import CollateralError, EvidenceError, MisuseError, Outcome
from teehouse.base.hashes import sha256
from teehouse.kms.audit import (
    EMPTY,
    FIRST,
    RECORD_LIMIT,
    AuditLog,
    Head,
    Record,
    Who,
    decode_record,
    encode_record,
    read_records,
    verify_chain,
)

WHO = Who(
    b"\x01" * 20,
    b"\x02" * 20,
    b"\x03" * 32,
    b"\x04" * 32,
    "emulated:aa",
    b"\x05" * 32,
    "peer:1",
    b"\x06" * 32,
)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "kms" / "audit.jsonl", emulated.clock())


def filled(log: AuditLog, count: int = 4) -> Path:
    for number in range(count):
        log.append("GetAppKey", "allowed" if number % 2 else "refused", f"reason {number}", WHO)
    log.close()
    return log.path


def codes(path: Path, noted: Head | None = None) -> list[tuple[str, bool]]:
    return [(finding.code, finding.ok) for finding in verify_chain(path, noted)]


WHOLE = [("audit.chain", True)]
BROKEN = [("audit.broken", False)]


def test_a_record_says_who_what_and_why(log: AuditLog) -> None:
    record = log.append("GetAppKey", "refused", "Boot denied: no", WHO)
    line = log.path.read_bytes()
    assert line == encode_record(record)
    assert json.loads(line) == {
        "sequence": 0,
        "previous": FIRST,
        "time": "2026-11-20T12:00:00.000Z",
        "rpc": "GetAppKey",
        "decision": "refused",
        "reason": "Boot denied: no",
        "app_id": "01" * 20,
        "instance_id": "02" * 20,
        "device_id": "03" * 32,
        "compose_hash": "04" * 32,
        "root": "emulated:aa",
        "evidence": "05" * 32,
        "peer": "peer:1",
        "peer_certificate": "06" * 32,
    }
    assert log.append("GetKmsKey", "allowed").previous == sha256(line).hex()
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_a_chain_holds_over_several_openings(log: AuditLog) -> None:
    path = filled(log)
    again = AuditLog(path, emulated.clock())
    assert again.head == Head(4, sha256(path.read_bytes().splitlines(keepends=True)[-1]).hex())
    filled(again, 2)
    assert [record.sequence for record in read_records(path)] == list(range(6))
    assert verify_chain(path)[0].found == "6 records"
    assert codes(path) == WHOLE


def test_an_empty_log_is_whole(log: AuditLog) -> None:
    assert (log.head, codes(log.path)) == (EMPTY, WHOLE)


def edited(path: Path, number: int, **members: object) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    changed = {**json.loads(lines[number]), **members}
    lines[number] = json.dumps(changed, separators=(",", ":")).encode() + b"\n"
    path.write_bytes(b"".join(lines))


def test_a6_changed_records_break_the_chain(log: AuditLog) -> None:
    path = filled(log)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    edited(path, 1, decision="refused")
    assert codes(path) == BROKEN
    assert verify_chain(path)[0].subject == "the chain of the audit log breaks at record 2"
    for tampered in (
        lines[1:],  # the first is gone
        [lines[0], *lines[2:]],  # one is gone
        [lines[0], lines[2], lines[1], lines[3]],  # two have changed places
        [*lines, lines[3]],  # one is there twice
        [*lines[:2], b"\n", *lines[2:]],  # a line that is none
        [*lines[:2], lines[2].replace(b'"root"', b'"Root"'), lines[3]],
        [*lines[:2], lines[2].replace(b'":', b'": ', 1), lines[3]],  # another writing of the same
        [*lines[:3], lines[3].replace(b'"sequence":3', b'"sequence":true')],
        [*lines[:3], lines[3].replace(b'"reason 3"', b"3")],
        [*lines[:3], b"[]\n"],
        [*lines[:3], b"x" * (RECORD_LIMIT + 2)],
    ):
        path.write_bytes(b"".join(tampered))
        assert codes(path) == BROKEN, tampered
        with pytest.raises(EvidenceError, match="the chain of the audit log breaks"):
            AuditLog(path, emulated.clock())  # A3
    path.write_bytes(whole)
    assert codes(path) == WHOLE


def test_a6_a_cut_end_shows_against_a_noted_head(log: AuditLog) -> None:
    path = filled(log)
    noted = log.head
    lines = path.read_bytes().splitlines(keepends=True)
    assert codes(path, noted) == WHOLE
    path.write_bytes(b"".join(lines[:3]))
    assert codes(path) == WHOLE
    assert codes(path, noted) == [("audit.head", False)]
    assert codes(path, EMPTY) == WHOLE
    edited(path, 2, reason="another")  # the last record changed, which the chain alone does not show
    assert codes(path) == WHOLE
    assert codes(path, Head(3, sha256(lines[2]).hex())) == [("audit.head", False)]


def test_a2_a_torn_line_is_cut_and_noted(log: AuditLog) -> None:
    path = filled(log, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"sequence":2,')
    (finding,) = verify_chain(path)
    assert (finding.code, finding.outcome, finding.found) == (
        "audit.torn",
        Outcome.MALFORMED,
        "14 bytes after the last one",
    )
    assert len(list(read_records(path))) == 2
    again = AuditLog(path, emulated.clock())
    filled(again, 1)
    assert path.read_bytes().startswith(whole)
    notes = [(r.rpc, r.decision, r.reason) for r in read_records(path)][2:]
    assert notes == [
        ("AuditLog", "note", "cut a torn line of 14 bytes"),
        ("GetAppKey", "refused", "reason 0"),
    ]
    assert codes(path) == WHOLE


def test_a4_one_process_at_a_time(log: AuditLog) -> None:
    with pytest.raises(MisuseError, match="another process writes"):
        AuditLog(log.path, emulated.clock())
    log.close()
    AuditLog(log.path, emulated.clock()).close()


def test_a4_threads_write_one_after_the_other(log: AuditLog) -> None:
    threads = [
        threading.Thread(target=lambda: [log.append("GetAppKey", "allowed") for _ in range(10)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.head.count == 80
    assert codes(log.path) == WHOLE


def test_a1_a_closed_log_refuses(log: AuditLog) -> None:
    log.close()
    log.close()
    with pytest.raises(CollateralError, match="nothing is handed out without it: found the log is closed"):
        log.append("GetAppKey", "allowed")


def test_a5_a_full_disk_leaves_the_log_as_it_was(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append("GetAppKey", "allowed")
    before, head = log.path.read_bytes(), log.head
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:10]) if len(data) > 50 else _full())
    with pytest.raises(CollateralError, match="No space left on device"):
        log.append("GetAppKey", "allowed")
    monkeypatch.undo()
    assert (log.path.read_bytes(), log.head) == (before, head)
    log.append("GetAppKey", "allowed")
    assert codes(log.path) == WHOLE


def _full() -> int:
    raise OSError(28, "No space left on device")


def test_a5_when_nothing_can_be_undone_the_log_is_let_go(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(CollateralError, match="Input/output error"):
        log.append("GetAppKey", "allowed")
    monkeypatch.undo()
    with pytest.raises(CollateralError, match="the log is closed"):
        log.append("GetAppKey", "allowed")
    again = AuditLog(log.path, emulated.clock())
    assert again.head.count == 1
    assert codes(log.path) == WHOLE


def test_texts_are_bounded(log: AuditLog) -> None:
    for text in ("x" * 10_000, "\0" * 10_000, "\U0001f980" * 10_000, "\ud800" * 10):
        log.append(text[:1000], "refused", text, Who(root=text, peer=text))
    lines = log.path.read_bytes().splitlines(keepends=True)
    assert max(map(len, lines)) <= RECORD_LIMIT
    assert codes(log.path) == WHOLE
    assert decode_record(lines[0]).reason == "x" * 1024


def test_an_unlocked_file_is_no_lock(log: AuditLog) -> None:
    """The lock is on the file itself: a second descriptor sees it."""
    with log.path.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


texts = st.text(max_size=20)


@given(st.builds(Record, st.integers(0), *[texts] * 13))
def test_records_round_trip(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


@given(st.binary(max_size=100))
def test_other_bytes_are_no_record(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        decode_record(data)
