"""A node in this process: many CVMs, their agents and their boots in one event loop (design.md 6).

Rules:

1. Nothing here waits for a CVM: a call writes a wish down and answers (api N2). What runs in threads is the disk.
2. A CVM that is quiet costs its state alone: no task, no timer. One task looks after all agents.
3. Processors and memory are given once, and asked for at `start`; disk at `create`. A node that comes back has given
   what it had given.
4. Every part comes from outside: driver, keys, clock, runners. None of them is known here by name.
"""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from teehouse import __version__
from teehouse.attestation.identity import derive_app_id
from teehouse.base.findings import MisuseError, misuse
from teehouse.node import wishes
from teehouse.node.agents import LOOPBACK, AgentPlace, check_socket_root
from teehouse.node.api import (
    STOP_DEADLINE,
    CvmPhase,
    CvmSpec,
    CvmState,
    CvmStats,
    EventKind,
    NodeEvent,
    NodeInfo,
    Resources,
    check_correlation_id,
    check_deadline,
    settled,
    unknown_cvm,
)
from teehouse.node.boot import BOOT_STEPS, BootParts, BootPlan, BootStep, machine_request
from teehouse.node.boot_inputs import boot_identity, check_key_provider
from teehouse.node.cvm import SEED_SIZE, Cvm
from teehouse.node.history import HISTORY_LIMIT, History
from teehouse.node.journal import to_the_end
from teehouse.node.room import free_of, require_room, taken_by
from teehouse.node.store import CvmRecord, NodeStore
from teehouse.node.supervise import boot_id
from teehouse.node.surroundings import Surroundings, WorkloadFactory
from teehouse.node.usage import ProcessTable, disk_usage
from teehouse.wire.app_compose import parse_app_compose

WATCH_INTERVAL = 1.0  # seconds between two looks at all agents
RECOVERY_WIDTH = 16  # CVMs whose agents come back at the same time
CVM_LIMIT = 4096
REMOVED_KEPT = 256  # states of removed CVMs that are still told
ID_SHOWN = 64  # characters

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a node is called, what it gives, and where it serves.

    `sockets` is where the CVMs' socket directories are made, None for one below the node's directory; its path must
    be short. `pages_host` is the address of the CVMs' pages.
    """

    name: str
    capacity: Resources
    sockets: Path | None = None
    pages_host: str = LOOPBACK
    history_limit: int = HISTORY_LIMIT


class LocalNode:
    """A `Node`. Use it as a context, or `open` and `close` it.

    `steps` is the sequence of a boot; `host_boot` names this boot of the host; `sealing_key` (32 bytes) seals the
    keys of running CVMs, a stored one does when it is None.
    """

    def __init__(
        self,
        directory: Path,
        settings: NodeSettings,
        parts: BootParts,
        workloads: WorkloadFactory,
        *,
        sealing_key: bytes | None = None,
        steps: Sequence[BootStep] = BOOT_STEPS,
        host_boot: Callable[[], str] = boot_id,
        watch_interval: float = WATCH_INTERVAL,
    ) -> None:
        self.settings = settings
        self._parts = parts
        self._store = NodeStore(directory, sealing_key=sealing_key)
        self._history = History(parts.clock, limit=settings.history_limit)
        self._around = Surroundings(
            parts=parts,
            store=self._store,
            history=self._history,
            workloads=workloads,
            sockets=(settings.sockets or self._store.directory / "s").absolute(),
            pages_host=settings.pages_host,
            steps=steps,
            host_boot=host_boot(),
        )
        self._cvms: dict[str, Cvm] = {}
        self._removed: OrderedDict[str, CvmState] = OrderedDict()
        self._admission = asyncio.Lock()
        self._watch_interval = watch_interval
        self._watcher: asyncio.Task[None] | None = None
        self._processes: ProcessTable | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Take the directory, and go on where the former process ended (`cvm` L3).

        Raises `MisuseError` for a directory in use or damaged, or an address that must not be served.
        """
        check_socket_root(self._around.sockets)
        for host in (self.settings.pages_host, self._parts.ports.address):
            self._parts.driver.check_address(host)
        await asyncio.to_thread(self._store.open)
        try:
            self._around.sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
            for spec, record in self._store.load():
                self._cvms[spec.cvm_id] = Cvm(self._around, spec, record)
            await self._recover()
        except BaseException:
            await self.close()
            raise
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Let go of everything: agents end, boots are undone, what runs goes on. May be repeated."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
            self._watcher = None
        await asyncio.gather(*(cvm.close() for cvm in self._cvms.values()))
        self._cvms.clear()
        self._history.close()
        self._store.close()

    async def shutdown_all(self, deadline: float = STOP_DEADLINE) -> None:
        """Shut all CVMs down, and wait until they have ended."""
        for cvm_id in list(self._cvms):
            await self.shutdown(cvm_id, deadline=deadline)
        for cvm_id in list(self._cvms):
            await settled(self, cvm_id, timeout_seconds=deadline + STOP_DEADLINE)

    # The Protocol

    async def info(self) -> NodeInfo:
        """See `Node.info`."""
        driver, capacity = self._parts.driver, self.settings.capacity
        return NodeInfo(
            name=self.settings.name,
            version=__version__,
            emulated=driver.emulated,
            root=driver.root,
            device_id=driver.device_id,
            capacity=capacity,
            free=free_of(capacity, self._taken()),
            images=tuple(driver.images),
            cvm_count=len(self._known()),
            running_count=sum(cvm.record.phase is CvmPhase.RUNNING for cvm in self._cvms.values()),
            kms_urls=self._parts.kms_urls,
            incarnation=self._history.first,
        )

    async def create(self, spec: CvmSpec, *, correlation_id: str = "") -> CvmState:
        """See `Node.create`."""
        check_correlation_id(correlation_id)
        async with self._admission:
            if self._gone(spec.cvm_id) is not None:
                raise _removed(spec.cvm_id)
            if (known := self._cvms.get(spec.cvm_id)) is not None:
                if known.spec != spec:
                    raise misuse(
                        "node.cvm-exists",
                        "another CVM has this id",
                        found=spec.cvm_id,
                        remedy="choose another id, or update that CVM",
                    )
                return await known.state()
            if len(self._cvms) >= CVM_LIMIT:
                raise misuse("node.capacity", "CVMs of this node", expected=f"at most {CVM_LIMIT}")
            self._check(spec)
            self._require_room(spec, Resources(0, 0, self._taken().disk_size))
            compose = parse_app_compose(spec.compose)
            app_id = derive_app_id(spec.compose) if spec.app_id is None else spec.app_id
            seed = secrets.token_bytes(SEED_SIZE)
            record = CvmRecord(
                spec.cvm_id,
                app_id,
                seed,
                instance_id=boot_identity(app_id, seed, compose).instance_id,
                correlation_id=correlation_id,
            )
            cvm = Cvm(self._around, spec, record)
            await to_the_end(self._take_in(cvm))
        return await cvm.state()

    async def _take_in(self, cvm: Cvm) -> None:
        await asyncio.to_thread(self._store.create, cvm.spec, cvm.record)
        self._cvms[cvm.spec.cvm_id] = cvm
        self._history.tell(cvm.spec.cvm_id, EventKind.CREATED, cvm.spec.name, cvm.record.correlation_id)

    async def update(self, spec: CvmSpec, *, correlation_id: str = "") -> CvmState:
        """See `Node.update`."""
        check_correlation_id(correlation_id)
        async with self._admission:
            cvm = self._cvm(spec.cvm_id)
            if cvm.spec == spec:
                return await cvm.state()
            self._check(spec)
            if spec.app_id not in {None, cvm.record.app_id}:
                raise _kept("app id", cvm.record.app_id.hex())
            if (runner := parse_app_compose(cvm.spec.compose).runner) != parse_app_compose(
                spec.compose
            ).runner:
                raise _kept("runner", runner)
            others = self._taken(besides=cvm)
            self._require_room(spec, Resources(0, 0, others.disk_size))
            await cvm.replace_spec(spec, correlation_id)
        return await cvm.state()

    async def start(self, cvm_id: str, *, correlation_id: str = "") -> CvmState:
        """See `Node.start`."""
        check_correlation_id(correlation_id)
        async with self._admission:
            cvm = self._cvm(cvm_id)
            self._require_room(cvm.spec, self._taken(besides=cvm))
            return await cvm.wish(lambda record: wishes.started(record, correlation_id))

    async def stop(self, cvm_id: str, *, deadline: float = 0.0, correlation_id: str = "") -> CvmState:
        """See `Node.stop`."""
        check_correlation_id(correlation_id)
        check_deadline(deadline)
        return await self._cvm(cvm_id).wish(lambda record: wishes.stopped(record, deadline, correlation_id))

    async def shutdown(
        self, cvm_id: str, *, deadline: float = STOP_DEADLINE, correlation_id: str = ""
    ) -> CvmState:
        """See `Node.shutdown`."""
        return await self.stop(cvm_id, deadline=deadline, correlation_id=correlation_id)

    async def restart(
        self, cvm_id: str, *, deadline: float = STOP_DEADLINE, correlation_id: str = ""
    ) -> CvmState:
        """See `Node.restart`."""
        check_correlation_id(correlation_id)
        check_deadline(deadline)
        async with self._admission:
            cvm = self._cvm(cvm_id)
            self._require_room(cvm.spec, self._taken(besides=cvm))
            return await cvm.wish(lambda record: wishes.restarted(record, deadline, correlation_id))

    async def remove(self, cvm_id: str, *, correlation_id: str = "") -> CvmState:
        """See `Node.remove`."""
        check_correlation_id(correlation_id)
        if (gone := self._gone(cvm_id)) is not None:
            return gone
        return await self._cvm(cvm_id).wish(lambda record: wishes.removed(record, correlation_id))

    async def state(self, cvm_id: str) -> CvmState:
        """See `Node.state`."""
        return self._gone(cvm_id) or await self._cvm(cvm_id).state()

    async def list(self) -> tuple[CvmState, ...]:
        """See `Node.list`."""
        return tuple(self._cvms[cvm_id].state_now() for cvm_id in sorted(self._known()))

    async def stats(self, cvm_id: str) -> CvmStats:
        """See `Node.stats`."""
        directory = self._store.cvm_directory(self._cvm(cvm_id).spec.cvm_id)
        if self._processes is None:
            self._processes = ProcessTable(asyncio.get_running_loop().time)
        usage = await self._processes.usage(directory)
        disk = await asyncio.to_thread(disk_usage, directory)
        return CvmStats(
            cvm_id=cvm_id,
            time=self._parts.clock.now(),
            processes=None if usage is None else usage.processes,
            cpu_seconds=None if usage is None else usage.cpu_seconds,
            memory_bytes=None if usage is None else usage.memory_bytes,
            disk_bytes=disk,
        )

    def events(self, after: int = 0) -> AsyncIterator[NodeEvent]:
        """See `Node.events`."""
        return self._history.follow(after)

    # What it takes

    def _known(self) -> Sequence[str]:
        return [cvm_id for cvm_id, cvm in self._cvms.items() if cvm.record.phase is not CvmPhase.REMOVED]

    def _cvm(self, cvm_id: str) -> Cvm:
        if self._gone(cvm_id) is not None:
            raise _removed(cvm_id)
        cvm = self._cvms.get(cvm_id)
        if cvm is None:
            raise unknown_cvm(
                cvm_id
                if cvm_id.isascii() and cvm_id.isalnum() and len(cvm_id) <= ID_SHOWN
                else ascii(cvm_id[:ID_SHOWN])
            )
        return cvm

    def _gone(self, cvm_id: str) -> CvmState | None:
        """The state of a removed CVM, None for others. Of the last ones, what they were is still known."""
        cvm = self._cvms.get(cvm_id)
        if cvm is not None:
            if cvm.record.phase is not CvmPhase.REMOVED:
                return None
            del self._cvms[cvm_id]
            self._removed[cvm_id] = cvm.state_now()
            if len(self._removed) > REMOVED_KEPT:
                self._removed.popitem(last=False)
        if (known := self._removed.get(cvm_id)) is not None:
            return known
        try:
            removed = self._store.was_removed(cvm_id)
        except MisuseError:  # no id at all
            removed = False
        phase, emulated = CvmPhase.REMOVED, self._parts.driver.emulated
        return CvmState(cvm_id, "", phase, emulated=emulated, wanted=phase) if removed else None

    def _check(self, spec: CvmSpec) -> None:
        """Raises `MisuseError` for a spec that could not boot here, whatever the time."""
        compose = parse_app_compose(spec.compose)
        check_key_provider(compose, has_environment=bool(spec.encrypted_env))
        directory = self._store.cvm_directory(spec.cvm_id)
        workload = self._around.workloads(spec.cvm_id, directory, compose)
        place = AgentPlace(self._around.sockets / spec.cvm_id)
        plan = BootPlan(spec, spec.app_id or b"", b"", directory, place, workload)
        self._parts.driver.check(machine_request(plan))
        self._require_room(spec, Resources(0, 0, 0))

    def _taken(self, besides: Cvm | None = None) -> Resources:
        """What is given to CVMs, but to `besides` (rule 3)."""
        return taken_by(cvm for cvm in self._cvms.values() if cvm is not besides)

    def _require_room(self, spec: CvmSpec, taken: Resources) -> None:
        require_room(self.settings.capacity, spec, taken)

    # Looking after them

    async def _recover(self) -> None:
        width = asyncio.Semaphore(RECOVERY_WIDTH)

        async def recover(cvm: Cvm) -> None:
            async with width:
                await cvm.recover()

        await asyncio.gather(*(recover(cvm) for cvm in self._cvms.values()))

    async def _watch(self) -> None:
        """Rule 2."""
        while True:
            await asyncio.sleep(self._watch_interval)
            for cvm in list(self._cvms.values()):
                cvm.look()


def _removed(cvm_id: str) -> MisuseError:
    return misuse(
        "node.cvm-removed",
        "the CVM with this id was removed",
        found=cvm_id,
        remedy="create another, under another id",
    )


def _kept(what: str, kept: str) -> MisuseError:
    return misuse(
        "node.update",
        f"the {what} of a CVM stays what it is",
        expected=kept,
        found="another",
        remedy="create another CVM",
    )
