"""Who may have keys of an emulated KMS: `auth-config.json` (onchain.md 5.3), as this installation writes it.

Rules:

1. What is added or taken away is what this installation started itself; every other entry stays as its owner wrote
   it.
2. The file is replaced whole, readable by its owner only. Writers, of this process or another, wait for each other on
   a lock beside it; the KMS reads at any time.
3. What nobody uses is asked under that lock: what another process allows meanwhile, it allows afterwards.
"""

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from teehouse.base.files import PRIVATE, locked, write_atomic
from teehouse.base.findings import MisuseError, misuse
from teehouse.cloud.allowlists.authorisations import Unused

LOCK_PAUSE = 0.02  # seconds between two looks at a lock that somebody has
_NOBODY: dict[str, Any] = {"osImages": [], "kms": {"mrAggregated": [], "devices": []}, "apps": {}}


class FileAuthorisations:
    """The control plane's `Authorisations` in the file at `path` (rules 1 to 3)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()

    async def allow(self, app_id: str, compose_hash: str) -> None:
        """See `Authorisations.allow`."""
        app = bytes.fromhex(app_id), bytes.fromhex(compose_hash)
        async with self._turn:
            await asyncio.to_thread(allow, self._path, app=app)

    async def forget(self, app_id: str, unused: Unused) -> None:
        """See `Authorisations.forget`."""
        async with self._turn, _turn_of(self._path):
            hashes = frozenset(bytes.fromhex(text) for text in await unused())
            if hashes:
                change = _forgetting(self._path, bytes.fromhex(app_id), hashes)
                await asyncio.to_thread(_replace, self._path, change)


def allow(
    path: Path,
    *,
    os_image: bytes | None = None,
    kms: bytes | None = None,
    app: tuple[bytes, bytes] | None = None,
) -> None:
    """Add to the file what may boot: an OS image hash, a KMS's mrAggregated, an app id with a compose hash.

    The file is made when it is missing. Raises `MisuseError` for a file that cannot be used.
    """

    def change(config: dict[str, Any]) -> None:
        if os_image is not None:
            _add(_list(path, config, "osImages"), os_image)
        if kms is not None:
            _add(_list(path, _table(path, config, "kms"), "mrAggregated"), kms)
        if app is not None:
            app_id, compose_hash = app
            apps = _table(path, config, "apps")
            apps.setdefault(_text(app_id), {"devices": []})
            _add(_list(path, _table(path, apps, _text(app_id)), "composeHashes"), compose_hash)

    _rewrite(path, change)


def forget(path: Path, app_id: bytes, compose_hashes: frozenset[bytes]) -> None:
    """Take these compose hashes from an app; an entry that says nothing else goes with its last. Raises as `allow`."""
    _rewrite(path, _forgetting(path, app_id, compose_hashes))


def _forgetting(
    path: Path, app_id: bytes, compose_hashes: frozenset[bytes]
) -> Callable[[dict[str, Any]], None]:
    gone = {_text(value) for value in compose_hashes}

    def change(config: dict[str, Any]) -> None:
        apps = _table(path, config, "apps")
        entry = apps.get(_text(app_id))
        if entry is None:
            return
        listed = _list(path, _table(path, apps, _text(app_id)), "composeHashes")
        listed[:] = [text for text in listed if text not in gone]
        if entry == {"devices": [], "composeHashes": []}:
            del apps[_text(app_id)]

    return change


def _rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    try:
        with locked(_lock_of(path)):
            _replace(path, change)
    except OSError as error:
        raise _unwritable(path, error) from error


def _replace(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """For whoever holds the lock."""
    try:
        config = _read(path)
        before = json.dumps(config)
        change(config)
        if json.dumps(config) != before or not path.exists():
            write_atomic(path, (json.dumps(config, indent=2) + "\n").encode())
    except OSError as error:
        raise _unwritable(path, error) from error


@asynccontextmanager
async def _turn_of(path: Path) -> AsyncIterator[None]:
    """The lock of the file (rule 2), without keeping the event loop from other work. Raises `MisuseError`."""
    try:
        descriptor = os.open(_lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(LOCK_PAUSE)
        yield
    finally:
        os.close(descriptor)


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _unwritable(path: Path, error: OSError) -> MisuseError:
    return misuse("auth-file.unwritable", f"{path} cannot be written", found=error.strerror or str(error))


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return deepcopy(_NOBODY)
    except ValueError:
        config = None
    members: dict[str, Any] = _checked(path, config, dict, "the whole")
    return members


def _table(path: Path, members: dict[str, Any], name: str) -> dict[str, Any]:
    table: dict[str, Any] = _checked(path, members.setdefault(name, {}), dict, name)
    return table


def _list(path: Path, members: dict[str, Any], name: str) -> list[str]:
    listed: list[str] = _checked(path, members.setdefault(name, []), list, name)
    return listed


def _checked(path: Path, value: Any, kind: type[Any], name: str) -> Any:
    if not isinstance(value, kind):
        raise misuse(
            "auth-file.unreadable",
            f"{name} of {path}",
            expected="a JSON object" if kind is dict else "a JSON list",
            remedy="mend it, or delete it to begin with an empty one",
        )
    return value


def _add(listed: list[str], value: bytes) -> None:
    if _text(value) not in listed:
        listed.append(_text(value))


def _text(value: bytes) -> str:
    return f"0x{value.hex()}"
