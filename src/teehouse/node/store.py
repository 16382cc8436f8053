"""What a node remembers of its CVMs, on disk (design.md 6).

    DIRECTORY/            0700
      node.lock           held while a node process lives
      sealing.key         32 bytes, when nobody gives a sealing key
      cvms/ID/spec.json   what the CVM is to be
      cvms/ID/state.json  what is wanted and how far that got; of a running CVM, its keys, sealed
      cvms/ID/machine/    the driver's state and the runtime event log; of a running CVM only
      cvms/ID/workload/   the runner's
      removed/ID          an id that is not to be used again

Rules:

S1. Each file is replaced whole or not at all. A write that fails leaves the former state, and is refused with
    `node.disk`.
S2. A CVM exists when it has a `state.json`, which is written last and taken away first. A directory without one is
    what a crash left of a creation or a removal, and is cleared when the node opens.
S3. Keys are in the same file as the phase RUNNING, written together with it and gone with it: whatever the instant
    of a crash, only a CVM whose boot was finished has keys on disk. They are sealed for that CVM and that boot.
S4. One process at a time has the directory.
S5. All files are 0600: user_config may hold a token, and the environment's names are nobody's business.
"""

import base64
import binascii
import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from teehouse.base.files import PRIVATE, write_atomic
from teehouse.base.findings import Finding, MisuseError, Outcome, TeehouseError, misuse, unavailable
from teehouse.keys.sealing import SEALING_KEY_SIZE, seal, unseal
from teehouse.node.api import CvmPhase, CvmSpec
from teehouse.node.workload import check_cvm_id

REMOVED_LIMIT = 10_000  # ids of removed CVMs that are remembered
_NONCE_SIZE = 12

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CvmRecord:
    """The content of `state.json`.

    `wanted` is the last wish, `pending` whether it still has to be fulfilled, `fresh` whether it asks for another
    boot of a CVM that runs; `deadline` are the seconds that a stop leaves the app. `instance_seed` has 20 bytes.
    `touched` says that a runner may have left something behind that only it can find. `interrupted` counts boots in a row that the node process did not survive. `host_boot` names the machine's boot
    in which the CVM last started. `sealed_keys` is empty unless the phase is RUNNING (S3).
    """

    cvm_id: str
    app_id: bytes
    instance_seed: bytes
    phase: CvmPhase = CvmPhase.CREATED
    wanted: CvmPhase = CvmPhase.CREATED
    pending: bool = False
    fresh: bool = False
    deadline: float = 0.0
    step: str = ""
    error: Finding | None = None
    instance_id: bytes = b""
    boot_count: int = 0
    touched: bool = False
    interrupted: int = 0
    started_at: datetime | None = None
    pages_port: int = 0
    host_boot: str = ""
    correlation_id: str = ""
    sealed_keys: bytes = field(default=b"", repr=False)

    @property
    def sealed_name(self) -> str:
        """What the keys are sealed for."""
        return f"{self.cvm_id}/{self.boot_count}"


class NodeStore:
    """The directory of a node. Methods block for the time of a write; all raise `CollateralError` (S1)."""

    def __init__(self, directory: Path, *, sealing_key: bytes | None = None) -> None:
        self.directory = directory.absolute()
        self._cvms = self.directory / "cvms"
        self._removed = self.directory / "removed"
        self._sealing_key = sealing_key
        self._lock = -1

    def open(self) -> None:
        """Take the directory (S4), made when missing, and clear what crashes left (S2). Raises `MisuseError`."""
        with _disk():
            for directory in (self.directory, self._cvms, self._removed):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(self.directory / "node.lock")
        try:
            with _disk():
                if self._sealing_key is None:
                    self._sealing_key = _sealing_key(self.directory / "sealing.key")
                for directory in self._cvms.iterdir():
                    if not (directory / "state.json").exists():
                        shutil.rmtree(directory)
                self._prune()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the directory; harmless a second time."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def cvm_directory(self, cvm_id: str) -> Path:
        """The directory of one CVM."""
        return self._cvms / check_cvm_id(cvm_id)

    def load(self) -> Iterator[tuple[CvmSpec, CvmRecord]]:
        """All CVMs, by id. Raises `MisuseError` for files that cannot be read."""
        for directory in sorted(self._cvms.iterdir()):
            yield (
                _read(directory / "spec.json", _spec),
                _read(directory / "state.json", _record),
            )

    def create(self, spec: CvmSpec, record: CvmRecord) -> None:
        """Take a CVM in (S2)."""
        directory = self.cvm_directory(spec.cvm_id)
        with _disk():
            try:
                directory.mkdir(mode=0o700)
                self.save_spec(spec)
                self.save(record)
            except BaseException:
                with suppress(OSError):
                    (directory / "state.json").unlink(missing_ok=True)
                shutil.rmtree(directory, ignore_errors=True)
                raise

    def save_spec(self, spec: CvmSpec) -> None:
        """Replace the spec."""
        self._write(spec.cvm_id, "spec.json", _spec_members(spec))

    def save(self, record: CvmRecord) -> None:
        """Replace the record."""
        self._write(record.cvm_id, "state.json", _record_members(record))

    def remove(self, cvm_id: str) -> None:
        """Forget a CVM and all its files, and never use its id again."""
        directory = self.cvm_directory(cvm_id)
        with _disk():
            write_atomic(self._removed / cvm_id, b"")
            (directory / "state.json").unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)  # what is left is cleared at the next start (S2)

    def was_removed(self, cvm_id: str) -> bool:
        """Whether the id is one of a removed CVM."""
        return (self._removed / check_cvm_id(cvm_id)).exists()

    def seal(self, record: CvmRecord, content: bytes) -> CvmRecord:
        """The record with `content` sealed as its keys (S3)."""
        nonce = secrets.token_bytes(_NONCE_SIZE)
        return replace(record, sealed_keys=seal(self._key(), record.sealed_name, content, nonce))

    def unseal(self, record: CvmRecord) -> bytes:
        """What was sealed. Raises `MisuseError`."""
        return unseal(self._key(), record.sealed_name, record.sealed_keys)

    def _key(self) -> bytes:
        if self._sealing_key is None:
            raise misuse("node.closed", "the node's directory has not been opened")
        return self._sealing_key

    def _write(self, cvm_id: str, name: str, members: dict[str, Any]) -> None:
        with _disk():
            write_atomic(
                self.cvm_directory(cvm_id) / name, json.dumps(members, separators=(",", ":")).encode()
            )

    def _prune(self) -> None:
        removed = sorted(self._removed.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in removed[: max(0, len(removed) - REMOVED_LIMIT)]:
            path.unlink(missing_ok=True)


@contextmanager
def _disk() -> Iterator[None]:
    """Rule S1."""
    try:
        yield
    except OSError as error:
        raise disk_error(error) from error


def disk_error(error: OSError) -> TeehouseError:
    """The refusal for a disk that does not take what is to be written."""
    return unavailable(
        "node.disk",
        "the node's state cannot be written; the former state stays",
        found=error.strerror or str(error),
        remedy="make room on the disk, or give the directory back to the user the node runs as",
    )


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise misuse(
            "node.in-use",
            f"another node has the directory {path.parent}",
            expected=f"{path.name} not locked",
            found="locked",
            remedy="end the other node, or give this one another directory",
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sealing_key(path: Path) -> bytes:
    """The stored sealing key, made at random when there is none. Raises `MisuseError`, OSError."""
    if not path.exists():
        write_atomic(path, secrets.token_bytes(SEALING_KEY_SIZE))
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        key = file.read(SEALING_KEY_SIZE + 1)
    if mode & (stat.S_IRWXG | stat.S_IRWXO) or len(key) != SEALING_KEY_SIZE:
        raise misuse(
            "node.sealing-key",
            f"{path} is not this node's secret any more",
            expected=f"{SEALING_KEY_SIZE} bytes, mode 0600",
            found=f"{len(key)} bytes, mode {mode:04o}",
            remedy="restore it; or delete it: running CVMs then end in error, and get their keys anew when started",
        )
    return key


def _read(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    try:
        return parse(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, MisuseError) as error:
        raise misuse(
            "node.state-damaged",
            f"{path} cannot be read",
            found=type(error).__name__,
            remedy="restore it; or end what the CVM runs and delete its directory",
        ) from None


def _spec_members(spec: CvmSpec) -> dict[str, Any]:
    return {
        "cvm_id": spec.cvm_id,
        "name": spec.name,
        "compose": base64.b64encode(spec.compose).decode(),
        "encrypted_env": base64.b64encode(spec.encrypted_env).decode(),
        "user_config": spec.user_config,
        "app_id": None if spec.app_id is None else spec.app_id.hex(),
        "cpu_count": spec.cpu_count,
        "memory_size": spec.memory_size,
        "disk_size": spec.disk_size,
        "image": spec.image,
        "kms_urls": list(spec.kms_urls),
    }


def _spec(members: dict[str, Any]) -> CvmSpec:
    app_id = members.pop("app_id")
    for name in ("compose", "encrypted_env"):
        members[name] = base64.b64decode(members[name], validate=True)
    members["kms_urls"] = tuple(members["kms_urls"])
    return CvmSpec(app_id=None if app_id is None else bytes.fromhex(app_id), **members)


_BYTES = ("app_id", "instance_seed", "instance_id", "sealed_keys")
_PHASES = ("phase", "wanted")


def _record_members(record: CvmRecord) -> dict[str, Any]:
    members: dict[str, Any] = {name: getattr(record, name) for name in CvmRecord.__dataclass_fields__}
    members |= {name: members[name].hex() for name in _BYTES}
    members |= {name: members[name].value for name in _PHASES}
    members["error"] = None if record.error is None else record.error.as_dict()
    members["started_at"] = None if record.started_at is None else record.started_at.isoformat()
    return members


def _record(members: dict[str, Any]) -> CvmRecord:
    members |= {name: binascii.unhexlify(members[name]) for name in _BYTES}
    members |= {name: CvmPhase(members[name]) for name in _PHASES}
    if (error := members["error"]) is not None:
        members["error"] = Finding(**{**error, "outcome": Outcome(error["outcome"])})
    if (started := members["started_at"]) is not None:
        members["started_at"] = datetime.fromisoformat(started).astimezone(UTC)
    return CvmRecord(**members)
