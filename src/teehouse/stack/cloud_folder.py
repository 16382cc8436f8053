"""The folder of a control plane that runs apart: what a replica needs beside the database.

    secret-key   64 hex digits, the same on all replicas
    api_key      the first API key, where `teehouse cloud init` ran
    nodes/       the controller's bundle of each node
    cloud.sqlite the database, where no other one is named

Rules:

1. Files with secrets are their owner's alone: they are made so, and refused when others can read them.
2. A new replica gets `secret-key` and `nodes/`; nothing else in here is needed by a second one.
3. What a file holds is in no message.
"""

import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teehouse.base.files import locked, write_atomic
from teehouse.base.findings import MisuseError, misuse
from teehouse.cloud.accounts.keys import PREFIX, new_token
from teehouse.cloud.settings import SECRET_KEY_SIZE

KEY_OF_ALL: Final = "secret-key"
KEY_FILE: Final = "api_key"
NODES: Final = "nodes"
DATABASE: Final = "cloud.sqlite"
FILE_LIMIT: Final = 4096  # bytes of a file with one secret


@dataclass(frozen=True, slots=True)
class CloudFolder:
    """The folder at `path`."""

    path: Path

    @property
    def nodes(self) -> Path:
        """Where the bundles of nodes are."""
        return self.path / NODES

    @property
    def key_file(self) -> Path:
        """Where the first API key is."""
        return self.path / KEY_FILE

    def make(self) -> None:
        """Make the folder, its owner's alone. Raises `MisuseError`."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.nodes.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _unusable("cloud.folder", self.path, error) from error

    def secret_key(self) -> bytes:
        """The secret key, 32 bytes. Raises `MisuseError` where there is none, or none that can be used."""
        path = self.path / KEY_OF_ALL
        if not path.exists():
            raise misuse(
                "cloud.secret-key",
                f"the secret key {path}",
                found="no such file",
                remedy="run `teehouse cloud init`; or copy it from another replica, readable by its owner alone",
            )
        with suppress(ValueError):
            key = bytes.fromhex(read_private(path, "cloud.secret-key"))
            if len(key) == SECRET_KEY_SIZE:
                return key
        raise misuse(
            "cloud.secret-key", f"the secret key {path}", expected=f"{2 * SECRET_KEY_SIZE} hex digits"
        )

    def made_secret_key(self) -> bytes:
        """The secret key, made where there is none: by one process alone. Raises `MisuseError`."""
        path = self.path / KEY_OF_ALL
        try:
            with locked(path.with_name(f".{KEY_OF_ALL}.lock")):
                if not path.exists():
                    write_atomic(path, f"{secrets.token_hex(SECRET_KEY_SIZE)}\n".encode())
        except OSError as error:
            raise _unusable("cloud.secret-key", path, error) from error
        return self.secret_key()

    def made_api_key(self) -> str:
        """The key of the file, or a new one that is written there. Raises `MisuseError`."""
        if self.key_file.exists():
            return read_private(self.key_file, "cloud.api-key")
        key = new_token(PREFIX)
        self.keep_api_key(key)
        return key

    def keep_api_key(self, key: str) -> None:
        """Write the key. Raises `MisuseError`."""
        try:
            write_atomic(self.key_file, f"{key}\n".encode())
        except OSError as error:
            raise _unusable("cloud.api-key", self.key_file, error) from error

    def bundle(self, name: str) -> Path:
        """The file of a bundle by its bare name. Raises `MisuseError`."""
        if not name or Path(name).name != name:
            raise misuse(
                "cloud.node-bundle", "name of a bundle", expected="a bare file name", found=ascii(name[:80])
            )
        return self.nodes / name


def read_private(path: Path, code: str) -> str:
    """The ASCII text of a file that its owner alone can read, without blanks around it. Raises `MisuseError`."""
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise misuse(
                    code,
                    str(path),
                    expected="a file that its owner alone can read",
                    remedy=f"chmod 600 {path}, and make another secret if a stranger may have read it",
                )
            content = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise _unusable(code, path, error) from error
    try:
        text = content.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(content) > FILE_LIMIT:
        raise misuse(code, str(path), expected=f"one line of ASCII, at most {FILE_LIMIT} bytes")
    return text


def _unusable(code: str, path: Path, error: OSError) -> MisuseError:
    return misuse(code, f"{path} cannot be used", found=error.strerror or str(error))
