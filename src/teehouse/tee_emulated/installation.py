"""The seed of an emulated installation, on disk.

1. Made at random when the installation has none, then never changed: root and device ids follow from it.
2. A seed that is given must be the stored one; another would silently make another root.
3. The file is for its owner alone (0600). One that others may read is refused, not repaired: whoever
   read it can make quotes under this root, and the person who runs it has to know.
"""

import hmac
import os
import secrets
import stat
from pathlib import Path

from teehouse.base.files import locked, write_atomic
from teehouse.base.findings import MisuseError, misuse
from teehouse.tee_emulated.pki import SEED_SIZE

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def load_or_create_seed(path: Path, given: bytes | None = None) -> bytes:
    """The 32 bytes of the seed in `path`, made when the file is missing: of `given`, or at random.

    Two processes that start at once get the same seed. Raises `MisuseError` for a file or a `given` of
    another size, for a `given` that is not the stored seed, and for a file that others may read; OSError
    when the file cannot be read or written.
    """
    if given is not None and len(given) != SEED_SIZE:
        raise _bad_size("seed that was given", len(given))
    with locked(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            write_atomic(path, secrets.token_bytes(SEED_SIZE) if given is None else given)
        seed = _read(path)
    if given is not None and not hmac.compare_digest(seed, given):
        raise misuse(
            "emulated.seed.other",
            "seed that was given",
            expected=f"the one in {path}",
            found="another one",
            remedy="omit the seed, or start another installation with it in a directory of its own",
        )
    return seed


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & _OTHERS:
            raise misuse(
                "emulated.seed.mode",
                f"permissions of {path}",
                expected="0600",
                found=f"{mode:04o}",
                remedy=f"chmod 600 {path}; or, if others may have read it, remove it to get a new root",
            )
        seed = file.read(SEED_SIZE + 1)
    if len(seed) != SEED_SIZE:
        raise _bad_size(str(path), len(seed))
    return seed


def _bad_size(what: str, size: int) -> MisuseError:
    found = f"{size}" if size <= SEED_SIZE else f"more than {SEED_SIZE}"
    return misuse("emulated.seed.size", what, expected=f"{SEED_SIZE} bytes", found=found)
