"""`teehouse up` started, ended and killed in a folder; what it leaves running."""

import os
from pathlib import Path

from support.processes import Process, free_port, started

READY = "Ctrl-C ends it"
# What ready.json says, off chain.
MEMBERS = {
    "emulated", "root", "root_ca", "pccs_url", "endpoint", "dstack_socket", "tappd_socket", "kms_url", "app_id", "api_url", "api_key", "api_key_file", "docs_url", "workspace", "vm_uuid",
    "instance_id", "compose_hash", "app_url", "agent_url", "workload", "cvm_id", "pid", "version",
}  # fmt: skip


def up(folder: Path, name: str, *options: str, environ: dict[str, str] | None = None) -> Process:
    """`teehouse up` in the folder `t`, with these options; `name` is that of the file with what it prints."""
    command = ("up", "--dir", str(folder / "t"), "--port", str(free_port()), *options)
    return started(folder / name, command, until=READY, environ=environ)


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
