"""kill -9 of the control plane at each point of deploy, update and delete; on DBOS at some of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import postgres

ROOT = Path(__file__).parents[2]
MANY = 60  # more points than there are


def walk(engine: str, folder: Path, first: int, stride: int, urls: list[str]) -> int:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "support.cloud_life_killed",
            engine,
            str(folder),
            str(first),
            str(stride),
            *urls,
        ],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return int(done.stdout.split()[-1])


SQLITE = "sqlite+aiosqlite:///{folder}/cloud.sqlite"


@pytest.mark.parametrize("first", [1, 2])
def test_killed_at_each_point(tmp_path: Path, first: int) -> None:
    assert walk("inline", tmp_path, first, 2, [SQLITE] * MANY) >= 18


@pytest.mark.parametrize("first", [5, 12, 19])
def test_killed_on_dbos(tmp_path: Path, first: int) -> None:
    assert walk("dbos", tmp_path, first, 3, [SQLITE] * 2) == 2


def test_killed_on_dbos_with_postgresql(tmp_path: Path) -> None:
    postgres.require()
    cluster = postgres.shared_cluster()
    assert walk("dbos", tmp_path, 8, 9, [cluster.new_database() for _ in range(2)]) == 2
