"""A node process that is killed at every point of a CVM's life, each time on a directory of its own.

    python node_killed.py DIRECTORY SOCKETS

Prints one line of JSON for each directory below DIRECTORY: its name, and whether its life went on to the end. SOCKETS
has a short path, and gets a directory of the same name. The parts are made once; each life is a fork, which kills itself with SIGKILL.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import teehouse.node.store as store_module
from support.node_support import TestNode, cvm_spec, emulated_pki, replaced, root, step_names
from teehouse.node.api import settled
from teehouse.node.boot import BOOT_STEPS, Boot

SECONDS = 30.0
CVM_ID = "c" * 32


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def life(made: TestNode, step: str = "", *, behind: bool = False) -> None:
    """From creation to removal; with `step`, to death before that boot step, or `behind` it."""
    steps = BOOT_STEPS
    if step:
        work = dict(BOOT_STEPS)[step]

        async def deadly(boot: Boot) -> None:
            if behind:
                await work(boot)
            die()

        steps = replaced(step, deadly)
    async with made.node(steps=steps) as node:
        spec = cvm_spec(cvm_id=CVM_ID)
        await node.create(spec)
        await node.start(CVM_ID)
        await settled(node, CVM_ID, timeout_seconds=SECONDS)
        await node.shutdown(CVM_ID, deadline=1.0)
        await settled(node, CVM_ID, timeout_seconds=SECONDS)
        await node.restart(CVM_ID)
        await settled(node, CVM_ID, timeout_seconds=SECONDS)
        await node.remove(CVM_ID)
        await settled(node, CVM_ID, timeout_seconds=SECONDS)


def _die_at(step: str, behind: bool, made: TestNode) -> None:
    asyncio.run(life(made, step, behind=behind))


def dies_at_write(number: int, *, behind: bool) -> None:
    """Death before the node's write of that number, or behind it."""
    write = vars(store_module)["write_atomic"]
    left = [number]

    def deadly(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] == 0 and not behind:
            die()
        write(path, data)
        if left[0] == 0:
            die()

    vars(store_module)["write_atomic"] = deadly


def forked(directory: Path, run: Callable[[TestNode], None]) -> bool:
    """A life in a process of its own; whether it came to its end."""
    made = TestNode(directory / "node", sockets=Path(sys.argv[2]) / directory.name)
    child = os.fork()
    if child == 0:
        run(made)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def report(directory: Path, name: str, run: Callable[[TestNode], None]) -> bool:
    place = directory / name
    place.mkdir()
    whole = forked(place, run)
    sys.stdout.write(json.dumps({"name": name, "whole": whole}) + "\n")
    sys.stdout.flush()
    return whole


def main(directory: Path) -> None:
    emulated_pki()
    root()
    for behind in (False, True):
        where = "behind" if behind else "before"
        for step in step_names():
            report(
                directory,
                f"{where}-{step}",
                partial(_die_at, step, behind),
            )
        for number in range(1, 100):

            def run(made: TestNode, number: int = number, behind: bool = behind) -> None:
                dies_at_write(number, behind=behind)
                asyncio.run(life(made))

            if report(directory, f"{where}-write-{number}", run):
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]))
