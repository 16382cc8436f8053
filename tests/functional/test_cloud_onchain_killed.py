"""kill -9 of the control plane at each point of an on-chain deployment and its update in two phases."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", [1, 2])
def test_killed_at_each_point(tmp_path: Path, first: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "support.cloud_onchain_killed", str(tmp_path), str(first), "2"],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[-1]) >= 15
