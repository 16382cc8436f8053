"""What a node offers, in process or over RPC: one Protocol, its records, and the phases of a CVM (design.md 6).

Rules:

N1. Every call names a CVM by `cvm_id` and may be repeated: what is so already stays so. `create` with another
    spec under the same id is refused (`node.cvm-exists`), an id that was removed is never used again
    (`node.cvm-removed`), an id that nobody created is refused (`node.cvm-unknown`).
N2. `start`, `stop`, `shutdown`, `restart` and `remove` set what is wanted. They answer as soon as that is on
    disk, with the state as it then is; what happens next is told by `state` and `events`. The last wish counts.
N3. Phases change by `TRANSITIONS` and not otherwise. The work on one CVM goes on one step after another.
N4. A boot or a stop that fails ends in ERROR, with the step and the reason in `error`. Nothing of that boot runs
    then. The next `start` boots anew.
N5. Nothing secret is in a state, an event or an error.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from teehouse.base.findings import Finding, MisuseError, misuse
from teehouse.keys.envbox import BOX_LIMIT
from teehouse.node.workload import ContainerState, check_cvm_id
from teehouse.wire.app_compose import COMPOSE_LIMIT

APP_ID_SIZE: Final = 20  # bytes
NAME_LIMIT: Final = 128  # characters
USER_CONFIG_LIMIT: Final = 1024 * 1024  # bytes
URL_LIMIT: Final = 2048  # characters of a KMS's URL
URLS_LIMIT: Final = 16
CORRELATION_LIMIT: Final = 128  # characters
STOP_DEADLINE: Final = 60.0  # seconds that an app gets to end by itself, when nobody says
DEADLINE_LIMIT: Final = 3600.0  # seconds

_CORRELATION = re.compile(rf"[0-9A-Za-z._:/-]{{0,{CORRELATION_LIMIT}}}")
_SETTLE_POLL = 0.02  # seconds


class CvmPhase(Enum):
    """Where a CVM is in its life."""

    CREATED = "created"
    BOOTING = "booting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"
    REMOVED = "removed"


TRANSITIONS: Final[Mapping[CvmPhase, frozenset[CvmPhase]]] = MappingProxyType(
    {
        # Nothing runs that could fail; a removal can.
        CvmPhase.CREATED: frozenset({CvmPhase.BOOTING, CvmPhase.ERROR, CvmPhase.REMOVED}),
        # A boot that is interrupted, by a wish or by the end of the node, is undone: STOPPED.
        CvmPhase.BOOTING: frozenset({CvmPhase.RUNNING, CvmPhase.STOPPED, CvmPhase.ERROR}),
        # A running CVM whose agent can neither be kept nor brought back ends in ERROR.
        CvmPhase.RUNNING: frozenset({CvmPhase.STOPPING, CvmPhase.ERROR}),
        CvmPhase.STOPPING: frozenset({CvmPhase.STOPPED, CvmPhase.ERROR}),
        CvmPhase.STOPPED: frozenset({CvmPhase.BOOTING, CvmPhase.ERROR, CvmPhase.REMOVED}),
        # Asked to stop, a CVM in ERROR is STOPPED: it runs no more anyway, and the error has been read.
        CvmPhase.ERROR: frozenset({CvmPhase.BOOTING, CvmPhase.STOPPED, CvmPhase.REMOVED}),
        CvmPhase.REMOVED: frozenset(),
    }
)


@dataclass(frozen=True, slots=True)
class CvmSpec:
    """What a CVM is to be.

    `cvm_id` is a UUID as 32 hex digits; `compose` the app-compose file, byte for byte; `encrypted_env` the box of
    trust.md 14, empty for none; `user_config` goes to the guest as it is, and may hold the launch token. `app_id`
    has 20 bytes, or is None: then it follows from the compose file of the first `create`. `memory_size` and
    `disk_size` are bytes. `image` names one of the node's, empty for the first; `kms_urls` empty for the node's.
    Raises `MisuseError` for what is out of bounds; the compose file itself is judged by `create`.
    """

    cvm_id: str
    name: str
    compose: bytes = field(repr=False)
    encrypted_env: bytes = field(default=b"", repr=False)
    user_config: str = field(default="", repr=False)
    app_id: bytes | None = None
    cpu_count: int = 1
    memory_size: int = 2 * 1024**3
    disk_size: int = 10 * 1024**3
    image: str = ""
    kms_urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_cvm_id(self.cvm_id)
        _bounded("name", len(self.name), 1, NAME_LIMIT, "characters")
        if not self.name.isprintable():
            raise misuse("node.spec", "name of the CVM", expected="printable text", found=ascii(self.name))
        _bounded("compose file", len(self.compose), 1, COMPOSE_LIMIT, "bytes")
        _bounded("encrypted environment", len(self.encrypted_env), 0, BOX_LIMIT, "bytes")
        _bounded(
            "user_config",
            len(self.user_config.encode("utf-8", "surrogatepass")),
            0,
            USER_CONFIG_LIMIT,
            "bytes",
        )
        if self.app_id is not None:
            _bounded("app id", len(self.app_id), APP_ID_SIZE, APP_ID_SIZE, "bytes")
        _bounded("cpu_count", self.cpu_count, 1, 1024, "processors")
        _bounded("memory_size", self.memory_size, 1024**2, 1024**4 * 16, "bytes")
        _bounded("disk_size", self.disk_size, 0, 1024**5, "bytes")
        _bounded("name of the image", len(self.image), 0, NAME_LIMIT, "characters")
        _bounded("kms_urls", len(self.kms_urls), 0, URLS_LIMIT, "addresses")
        for url in self.kms_urls:
            _bounded("a KMS's URL", len(url), 1, URL_LIMIT, "characters")


@dataclass(frozen=True, slots=True)
class CvmEndpoints:
    """Where the agent of a running CVM is reached, on the node's host.

    `directory` is the socket directory; `dstack`, `tappd` and `external` are sockets in it; `pages_url` is the
    external listener (port 8090 of a CVM) at an address of its own.
    """

    directory: Path
    dstack: Path
    tappd: Path
    external: Path
    pages_url: str


@dataclass(frozen=True, slots=True)
class CvmState:
    """How a CVM stands.

    `step` is the boot step under way, or the last one reached; `error` why the CVM is in ERROR: its code is
    `node.boot.STEP`, `node.stop`, `node.remove` or `node.resume`, its `check` the code of the refusal behind it.
    `app_id` has 20 bytes; `instance_id` 20 or none; `compose_hash` 32.
    `boot_count` counts the boots begun; `started_at` is when the last one ended in RUNNING. `endpoints` and
    `containers` are those of a running CVM. `wanted` is the last wish (N2): RUNNING, STOPPED, REMOVED, or CREATED
    before the first; `settled` says that nothing is left to do for it.
    """

    cvm_id: str
    name: str
    phase: CvmPhase
    step: str = ""
    error: Finding | None = None
    app_id: bytes = b""
    instance_id: bytes = b""
    compose_hash: bytes = b""
    boot_count: int = 0
    started_at: datetime | None = None
    endpoints: CvmEndpoints | None = None
    containers: tuple[ContainerState, ...] = ()
    emulated: bool = False
    correlation_id: str = ""
    wanted: CvmPhase = CvmPhase.CREATED
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Resources:
    """Processors, and bytes of memory and disk."""

    cpu_count: int
    memory_size: int
    disk_size: int


@dataclass(frozen=True, slots=True)
class CvmStats:
    """What a CVM takes at this instant.

    `cpu_seconds` since the workload's processes started; `memory_bytes` resident, `disk_bytes` under the CVM's
    directory. None where the runner cannot tell.
    """

    cvm_id: str
    time: datetime
    processes: int | None
    cpu_seconds: float | None
    memory_bytes: int | None
    disk_bytes: int | None


@dataclass(frozen=True, slots=True)
class NodeImage:
    """An OS image that the node can boot; `os_image_hash` has 32 bytes."""

    name: str
    version: str
    os_image_hash: bytes


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node is.

    `root` names the root its quotes verify under (`TrustedRoot.name`); `device_id` has 32 bytes. `capacity` is
    what it gives in all, `free` what is not taken by a CVM that boots, runs or stops (disk: by any CVM).
    `incarnation` is another number each time the node process has started.
    """

    name: str
    version: str
    emulated: bool
    root: str
    device_id: bytes
    capacity: Resources
    free: Resources
    images: tuple[NodeImage, ...]
    cvm_count: int
    running_count: int
    kms_urls: tuple[str, ...]
    incarnation: int


class EventKind(Enum):
    """What a `NodeEvent` tells of; its `detail` says which phase, step or reason."""

    CREATED = "created"
    UPDATED = "updated"
    PHASE = "phase"
    STEP = "step"
    ERROR = "error"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """Something that happened. `sequence` grows by one from event to event while the node process lives.

    A GAP event (without `cvm_id`) comes first when events after the asked sequence are no longer known, or came
    from an earlier life of the node: whoever sees it reads all states anew.
    """

    sequence: int
    time: datetime
    cvm_id: str
    kind: EventKind
    detail: str
    correlation_id: str = ""


class Node(Protocol):
    """A host that runs CVMs. All calls raise `MisuseError` (N1); a remote node also `CollateralError`.

    `correlation_id` (up to 128 of letters, digits and `._:/-`) comes back in states and events. Deadlines are
    seconds that an app gets to end by itself before it is ended.
    """

    async def info(self) -> NodeInfo:
        """What the node is, and what it has left."""
        ...

    async def create(self, spec: CvmSpec, *, correlation_id: str = "") -> CvmState:
        """Take the CVM in, without booting it. Raises `MisuseError` for a spec that could not boot here."""
        ...

    async def update(self, spec: CvmSpec, *, correlation_id: str = "") -> CvmState:
        """Replace the spec of a CVM, from its next boot on. Its app id and instance id stay."""
        ...

    async def start(self, cvm_id: str, *, correlation_id: str = "") -> CvmState:
        """Boot the CVM, unless it runs. Raises `MisuseError` `node.capacity` when it does not fit any more."""
        ...

    async def stop(self, cvm_id: str, *, deadline: float = 0.0, correlation_id: str = "") -> CvmState:
        """End the CVM. A boot under way is undone."""
        ...

    async def shutdown(
        self, cvm_id: str, *, deadline: float = STOP_DEADLINE, correlation_id: str = ""
    ) -> CvmState:
        """End the CVM gracefully: `stop` with time for the app."""
        ...

    async def restart(
        self, cvm_id: str, *, deadline: float = STOP_DEADLINE, correlation_id: str = ""
    ) -> CvmState:
        """End the CVM, if it runs, and boot it anew. Repeated before that boot is over, it is one restart."""
        ...

    async def remove(self, cvm_id: str, *, correlation_id: str = "") -> CvmState:
        """End the CVM at once and forget it with all its data."""
        ...

    async def state(self, cvm_id: str) -> CvmState:
        """How the CVM stands; phase REMOVED for one that is gone."""
        ...

    async def list(self) -> tuple[CvmState, ...]:
        """All CVMs that are not removed, by id; without their containers."""
        ...

    async def stats(self, cvm_id: str) -> CvmStats:
        """What the CVM takes."""
        ...

    def events(self, after: int = 0) -> AsyncIterator[NodeEvent]:
        """The events with a higher `sequence` than `after`, those that are known first, then as they happen."""
        ...


def unknown_cvm(cvm_id: str) -> MisuseError:
    """Rule N1."""
    return misuse(
        "node.cvm-unknown",
        "no such CVM on this node",
        found=cvm_id,
        remedy="list the node's CVMs, or create it first",
    )


def check_deadline(deadline: float) -> float:
    """The deadline itself. Raises `MisuseError`."""
    if not 0 <= deadline <= DEADLINE_LIMIT:
        raise misuse(
            "node.deadline",
            "seconds to end in",
            expected=f"0 to {DEADLINE_LIMIT:g}",
            found=f"{deadline!r}",
        )
    return deadline


def check_correlation_id(text: str) -> str:
    """The id itself. Raises `MisuseError`: it goes into logs, files and headers."""
    if not _CORRELATION.fullmatch(text):
        raise misuse(
            "node.correlation-id",
            "correlation id",
            expected=f"at most {CORRELATION_LIMIT} of letters, digits and ._:/-",
            found=ascii(text[:40]),
        )
    return text


async def settled(node: Node, cvm_id: str, *, timeout_seconds: float) -> CvmState:
    """The state of the CVM once its last wish is settled. Raises `TimeoutError`."""
    async with asyncio.timeout(timeout_seconds):
        while not (state := await node.state(cvm_id)).settled:  # noqa: ASYNC110 - the node may be another process
            await asyncio.sleep(_SETTLE_POLL)
    return state


def _bounded(what: str, value: int, least: int, most: int, unit: str) -> None:
    if not least <= value <= most:
        expected = f"{least} {unit}" if least == most else f"{least} to {most} {unit}"
        raise misuse("node.spec", f"{what} of the CVM", expected=expected, found=str(value))
