"""kill -9 at every point of a CVM's life (`cvm` L2 and L3, `store` S2 and S3): before and behind each step of a boot,
before and behind each write of the node. No CVM is lost or doubled, and none that is half booted has keys."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support import node_killed
from support.node_killed import CVM_ID
from support.node_support import TestNode, app_keys, cvm_spec, memory_directory, short_directory
from teehouse.keys.derive import application_key
from teehouse.node.api import CvmPhase, CvmState, settled
from teehouse.node.local import LocalNode

SECONDS = 10.0
Members = dict[str, object]


@pytest.fixture(scope="module")
def sockets() -> Path:
    return short_directory()


@pytest.fixture(scope="module")
def lives(sockets: Path) -> tuple[Path, dict[str, bool]]:
    """The directories of all lives, and which of them came to their end."""
    directory = memory_directory()
    script = node_killed.__file__
    run = subprocess.run(
        [sys.executable, script, str(directory), str(sockets)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    return directory, {line["name"]: line["whole"] for line in lines}


async def test_no_cvm_is_lost_or_doubled(lives: tuple[Path, dict[str, bool]], sockets: Path) -> None:
    directory, names = lives
    assert len(names) > 50
    assert [name for name, whole in names.items() if whole] == ["before-write-17", "behind-write-17"]
    phases: dict[str, str] = {}
    for name in names:
        place = directory / name
        made = TestNode(place / "node", sockets=sockets / name)
        left = record(made)
        check_disk(made, left, name)
        async with made.node() as node:
            phases[name] = await check_recovered(made, node, left, name)
    assert phases == {name: expected_phase(name) for name in names}


def expected_phase(name: str) -> str:
    """What was wanted when the process died: `node_killed.life` writes 17 times, in this order."""
    where, kind, number = (*name.split("-", 2), "")[:3]
    if kind != "write":
        return "running"  # a boot step
    written = int(number) - (where == "before")  # how many writes were made
    if written < 2:
        return "nowhere"  # the spec alone
    bounds = ((3, "created"), (7, "running"), (10, "stopped"), (13, "running"))
    return next((phase for bound, phase in bounds if written < bound), "removed")


def record(made: TestNode) -> Members | None:
    path = made.directory / "cvms" / CVM_ID / "state.json"
    return dict(json.loads(path.read_bytes())) if path.exists() else None


def check_disk(made: TestNode, left: Members | None, name: str) -> None:
    """S3, as the dead process left it: no plain key anywhere, and sealed ones only of a boot that was finished."""
    if left is not None:
        keys = app_keys(bytes.fromhex(str(left["app_id"])), bytes.fromhex(str(left["instance_id"])))
        assert made.secrets_on_disk(keys) == [], name
        assert (left["sealed_keys"] != "") == (left["phase"] in {"running", "stopping"}), name


async def check_recovered(made: TestNode, node: LocalNode, left: Members | None, name: str) -> str:
    states = await node.list()
    if left is None:
        assert states == (), name
        assert not (made.directory / "cvms" / CVM_ID).exists(), name
        if not (made.directory / "removed" / CVM_ID).exists():
            assert (await node.create(cvm_spec(cvm_id=CVM_ID))).phase is CvmPhase.CREATED
            return "nowhere"
        return (await node.state(CVM_ID)).phase.value
    state = await settled(node, CVM_ID, timeout_seconds=SECONDS)
    if state.phase is CvmPhase.REMOVED:
        assert not (made.directory / "cvms" / CVM_ID).exists(), name
        assert not (made.sockets / CVM_ID).exists(), name
        return "removed"
    assert len(states) == 1, name
    assert state.error is None, name
    if state.phase is CvmPhase.RUNNING:
        assert (made.directory / "cvms" / CVM_ID / "app.running").exists(), name
        resumed = left["phase"] == "running" and not left["fresh"]
        assert state.boot_count == int(str(left["boot_count"])) + (0 if resumed else 1), name
        assert [call for call in made.apps.calls if call[1] == "start"] == (
            [] if resumed else [(CVM_ID, "start")]
        ), name
        assert await key_of(state) == expected_key(state), name
    else:
        assert made.leftovers(CVM_ID) == [], name
    return state.phase.value


async def key_of(state: CvmState) -> str:
    assert state.endpoints is not None
    transport = httpx.AsyncHTTPTransport(uds=str(state.endpoints.dstack))
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        answer = await client.post("/GetKey", json={"path": "a", "purpose": "b"})
    return str(answer.json()["key"])


def expected_key(state: CvmState) -> str:
    return str(application_key(app_keys(state.app_id, state.instance_id).k256_key, "a").hex())
