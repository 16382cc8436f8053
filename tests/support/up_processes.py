"""`teehouse up` started, ended and killed in a folder; what it leaves running."""

import os
from pathlib import Path

from support.processes import Process, free_port, started

READY = "Ctrl-C ends it"


def up(folder: Path, name: str) -> Process:
    return started(folder / name, ("up", "--dir", str(folder / "t"), "--port", str(free_port())), until=READY)


def sample_processes(folder: Path) -> list[int]:
    """The processes whose environment names this folder's sockets."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = entry.joinpath("environ").read_bytes()
            except OSError:
                continue
            if f"DSTACK_SIMULATOR_ENDPOINT={folder}/".encode() in environment:
                found.append(int(entry.name))
    return found
