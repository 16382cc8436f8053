"""Root keys and seeds that tests of keys and certificates share."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

# guest-agent.md 19.1: root keys published for tests.
DUMMY = bytes.fromhex("1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d7e8f9a0b1c2d3e4f5a6b7c8d9e0f1a2b")
SIM = bytes.fromhex("d6e88992cdeeee35fe70b5db61ab66cdb191fb9b6ec9313757ef162dd7214d5d")
SEED = bytes(range(32))
APP_ID = bytes.fromhex("5bb4ff9a3837357f19dc176407a5709c62eb6c56")
NOW = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)


def sample(name: str) -> Path:
    """A file of real evidence; skips where the samples are not at hand, fails where CI lost one."""
    folder = os.environ.get("TEEHOUSE_SAMPLES")
    if not folder:
        pytest.skip("TEEHOUSE_SAMPLES is not set")
    path = Path(folder) / name
    if not path.is_file():
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing from the samples")
        pytest.skip(f"{name} is not among the samples")
    return path


def simulator_keys() -> dict[str, Any]:
    """The key file of the original simulator."""
    content: dict[str, Any] = json.loads(sample("simulator-appkeys.json").read_text())
    return content
