"""What a CVM runs once it has booted, and what every runner offers the boot (design.md 4 and 6).

Rules:

1. A workload belongs to one CVM: its processes, containers, networks, volumes and names never meet another's.
2. What runs outlives the node process. A new `Workload` on the same directory finds it by `adopt`, without the
   environment: that is needed to start only.
3. `start` on what runs already, `stop` on what has stopped, and `remove` on what is gone change nothing.
4. A refusal is a `WorkloadError`, or a `CollateralError` when the machine lacks a part; both name a remedy.
5. The environment is secret: it is in no argument list, no log, no error and no repr.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from teehouse.base.findings import Finding, MisuseError, Outcome, misuse
from teehouse.wire.app_compose import AppCompose

LOOPBACK = "127.0.0.1"
_CVM_ID = re.compile(r"[0-9a-f]{32}")

ContainerStatus = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]


class WorkloadError(MisuseError):
    """What the app asks for cannot be run, or did not run; `findings` holds every fault, `finding` the first."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__(findings[0])
        self.findings = findings
        if len(findings) > 1:
            self.args = ("; ".join(finding.sentence() for finding in findings),)


def refusal(
    code: str, subject: str, *, expected: str = "", found: str = "", remedy: str = ""
) -> WorkloadError:
    """A `WorkloadError` of one finding."""
    return WorkloadError((Finding(code, subject, Outcome.MISUSE, expected, found, remedy),))


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of a container that the host serves; `wanted` is the host port the app asked for, or None."""

    address: str
    port: int
    container_port: int
    protocol: Literal["tcp", "udp"] = "tcp"
    wanted: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerState:
    """One container (or the one script of runner bash), in the Docker Engine's words.

    `name` is the one the app chose where it chose one; `container_id` the engine's, empty for runner bash.
    `status` is the sentence a person reads ("Up 5 minutes"); `exit_code` is None while it runs. `created` is in
    UNIX seconds, 0 when unknown.
    """

    name: str
    image: str
    state: ContainerStatus
    status: str
    exit_code: int | None = None
    container_id: str = ""
    service: str = ""
    command: str = ""
    created: int = 0
    ports: tuple[PublishedPort, ...] = ()


@dataclass(frozen=True, slots=True)
class PortsPolicy:
    """Where published ports are served. An address other than loopback needs `unsafe_expose`."""

    address: str = LOOPBACK
    unsafe_expose: bool = False

    def __post_init__(self) -> None:
        """Raises `MisuseError` for an address that would serve strangers unasked."""
        if self.address != LOOPBACK and not self.unsafe_expose:
            raise misuse(
                "workload.address",
                "address of published ports",
                expected=LOOPBACK,
                found=self.address,
                remedy="emulation isolates nothing; --unsafe-expose serves it nevertheless",
            )


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one workload: seconds, bytes, numbers of files."""

    pre_launch_seconds: float = 300.0
    start_seconds: float = 600.0
    log_bytes: int = 10 * 1024 * 1024
    log_files: int = 3


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """What to run. `cvm_id` is the VM's UUID as 32 hex digits; `directory` is the CVM's own, and exists.

    `environment` is the opened environment, filtered by `allowed_envs` already. `socket_directory` holds the
    agent's `dstack.sock` and `tappd.sock`.
    """

    cvm_id: str
    directory: Path
    app_compose: AppCompose
    socket_directory: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    ports: PortsPolicy = field(default_factory=PortsPolicy)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_cvm_id(self.cvm_id)


def check_cvm_id(cvm_id: str) -> str:
    """The id itself. Raises `MisuseError` unless it is 32 lower-case hex digits: it names files and projects."""
    if not _CVM_ID.fullmatch(cvm_id):
        raise misuse(
            "workload.cvm-id", "CVM id", expected="32 lower-case hex digits", found=repr(cvm_id[:64])
        )
    return cvm_id


class Workload(Protocol):
    """The app of one CVM. Made from the CVM's id and directory; one runner at a time."""

    async def start(self, spec: WorkloadSpec) -> None:
        """Run the pre-launch script, then the app, and return when it runs. Start again after `stop`: the same.

        Raises `WorkloadError` with code `workload.pre-launch` when that script failed or took too long, with
        another code when the app itself cannot run; `CollateralError` when a program or the engine is missing.
        Nothing of the app runs after a raise.
        """
        ...

    async def stop(self, deadline: float) -> None:
        """Ask the app to end, and end it after `deadline` seconds. What it wrote stays.

        The deadline holds even when the node process dies meanwhile.
        """
        ...

    async def remove(self) -> None:
        """Stop at once and remove all that `start` made: containers, networks, volumes, logs, work directory."""
        ...

    async def state(self) -> list[ContainerState]:
        """The containers, sorted by name; empty when nothing was started."""
        ...

    async def adopt(self) -> bool:
        """Find again what ran when the node process ended; True when something still runs."""
        ...
