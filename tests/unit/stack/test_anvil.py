"""Finding anvil, and what is said where it is not (stack/anvil.py)."""

import fcntl
import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from teehouse.base.findings import CollateralError, MisuseError
from teehouse.stack import anvil
from teehouse.stack.anvil import end_left_behind, find_anvil, run_anvil
from teehouse.stack.chain_serving import serve_chain


def program(path: Path, text: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without anvil; the working directory."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(anvil, "_SOURCE_TREE", tmp_path / "tree")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    here = tmp_path / "project" / "below"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    return here


def packaged(folder: Path, name: str = "anvil-linux-amd64") -> Path:
    return folder / "node_modules" / "@foundry-rs" / name / "bin" / "anvil"


def test_path_comes_first_then_packages_from_here_upward_then_the_source_tree(
    alone: Path, tmp_path: Path
) -> None:
    in_tree = program(packaged(tmp_path / "tree"))
    assert find_anvil() == in_tree
    above = program(packaged(alone.parent))
    assert find_anvil() == above
    here = program(packaged(alone))
    assert find_anvil() == here
    assert find_anvil(alone.parent) == above
    on_path = program(tmp_path / "bin" / "anvil")
    assert find_anvil() == on_path


def test_the_package_is_the_machines(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(packaged(alone))
    arm = program(packaged(alone, "anvil-darwin-arm64"))
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert find_anvil() == arm
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(CollateralError):
        find_anvil()


def test_without_anvil_the_refusal_says_how_to_get_it(alone: Path) -> None:
    with pytest.raises(CollateralError) as refused:
        find_anvil()
    finding = refused.value.finding
    assert finding.code == "chain.no-anvil"
    assert "npm install @foundry-rs/anvil@1.7.1" in finding.remedy


async def test_one_that_does_not_start_is_refused_with_what_it_said(tmp_path: Path) -> None:
    broken = program(tmp_path / "broken", "echo 'Address already in use' >&2; exit 1")
    with pytest.raises(CollateralError) as refused:
        async with run_anvil(tmp_path / "chain" / "state.json", program=broken):
            pytest.fail("it runs")
    assert refused.value.finding.code == "chain.anvil-start"
    assert refused.value.finding.found == "Address already in use"


async def test_one_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anvil, "START_SECONDS", 0.3)
    monkeypatch.setattr(anvil, "STOP_SECONDS", 0.2)
    silent = program(
        tmp_path / "silent", f"trap '' INT; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    )
    with pytest.raises(CollateralError) as refused:
        async with run_anvil(tmp_path / "chain" / "state.json", program=silent):
            pytest.fail("it runs")
    assert refused.value.finding.found == "no word of it"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_folder_that_cannot_be_made_is_misuse(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MisuseError):
        async with serve_chain(tmp_path / "file"):
            pytest.fail("it runs")


async def test_a_folder_has_one_chain_and_one_process_that_runs_it(tmp_path: Path) -> None:
    folder = tmp_path / "chain"
    folder.mkdir()
    held = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    for chain_id, code in ((None, "chain.runs-already"), (1, "chain.other-id")):
        (folder / "chain-id").write_text("8453")
        with pytest.raises(MisuseError) as refused:
            async with serve_chain(tmp_path, chain_id=chain_id):
                pytest.fail("it runs")
        assert refused.value.finding.code == code
        fcntl.flock(held, fcntl.LOCK_UN)
    (folder / "chain-id").unlink()
    (folder / "anvil-state.json").write_text("{}")  # of a version that kept no id
    with pytest.raises(MisuseError) as refused:
        async with serve_chain(tmp_path, chain_id=8453):
            pytest.fail("it runs")
    assert (refused.value.finding.expected, refused.value.finding.found) == ("31337", "8453")
    os.close(held)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_one_left_behind_is_ended_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    monkeypatch.setattr(anvil, "STOP_SECONDS", 0.2 if stubborn else 10.0)
    state, other = tmp_path / "state.json", tmp_path / "other.json"
    loop = program(
        tmp_path / "loop", f"trap '{'' if stubborn else 'exit 0'}' INT; echo $2; while :; do sleep 0.02; done"
    )

    def process(path: Path) -> subprocess.Popen[bytes]:
        made = subprocess.Popen([loop, "--state", path], stdout=subprocess.PIPE)
        assert made.stdout is not None
        made.stdout.readline()
        made.stdout.close()
        state.with_name("anvil.pid").write_text(str(made.pid))
        return made

    stranger = process(other)
    await end_left_behind(state)
    assert stranger.poll() is None
    left = process(state)
    await end_left_behind(state)
    assert left.wait(timeout=5) == (-signal.SIGKILL if stubborn else 0)
    for content in ("", "x", str(left.pid)):
        state.with_name("anvil.pid").write_text(content)
        await end_left_behind(state)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
