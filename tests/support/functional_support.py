"""What several functional tests need; no door of ours is used here but the published layouts."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

JS = Path(__file__).parent.parent / "functional" / "js"
RTMR_OFFSETS = (376, 424, 472, 520)  # guest-agent.md 10.7


def registers_of(quote_hex: str) -> tuple[str, ...]:
    """RTMR0 to RTMR3 of a v4 quote, hex."""
    raw = bytes.fromhex(quote_hex)
    return tuple(raw[offset : offset + 48].hex() for offset in RTMR_OFFSETS)


def need(program: str, package: str) -> str:
    """The path of a program, or a skip with the reason; in CI its absence is a failure."""
    found = shutil.which(program)
    if found:
        return found
    reason = f"{program} is not installed (Debian: apt-get install {package})"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need_javascript() -> str:
    """The path of Node where the clients of js/ are installed; else a skip, which fails in CI."""
    node = need("node", "nodejs npm")
    if not (JS / "node_modules").is_dir():
        reason = "the JavaScript clients are not installed (make test-js, which needs npm)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return node


def run_js(script: str, *arguments: str, environ: dict[str, str] | None = None) -> Any:
    """What one of the scripts in js/ printed, decoded."""
    node = need_javascript()
    done = subprocess.run(
        [node, script, *arguments],
        cwd=JS,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, **(environ or {})},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
