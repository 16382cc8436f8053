"""What the folder keeps of the sample app: who it is, and where it listens."""

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from teehouse.base.files import write_atomic
from teehouse.stack.addresses import LOOPBACK

RECORD: Final = "sample.json"


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """`app_id` has 40 hex digits; `nonce` is 0 on chain; `port` is of the loopback."""

    app_id: str
    nonce: int
    port: int


def read_record(path: Path) -> SampleRecord | None:
    """What was kept; None before the first deployment."""
    try:
        members = json.loads(path.read_text(encoding="utf-8"))
        record = SampleRecord(str(members["app_id"]), int(members["nonce"]), int(members["port"]))
        bytes.fromhex(record.app_id)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record


def keep_record(path: Path, record: SampleRecord) -> None:
    """Raises OSError."""
    write_atomic(path, json.dumps(asdict(record)).encode())


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        return int(listening.getsockname()[1])
