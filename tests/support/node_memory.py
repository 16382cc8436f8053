"""A node that boots nothing: `Node` in memory, with every phase, for what speaks to nodes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from teehouse.base.clock import Clock
from teehouse.base.findings import misuse
from teehouse.base.hashes import sha256
from teehouse.node.api import (
    STOP_DEADLINE,
    TRANSITIONS,
    CvmEndpoints,
    CvmPhase,
    CvmSpec,
    CvmState,
    CvmStats,
    EventKind,
    NodeEvent,
    NodeImage,
    NodeInfo,
    Resources,
    check_correlation_id,
    check_deadline,
    unknown_cvm,
)
from teehouse.node.workload import ContainerState, PublishedPort
from teehouse.wire.app_compose import parse_app_compose

CAPACITY = Resources(8, 16 * 1024**3, 100 * 1024**3)
KEPT = 100  # events


class MemoryNode:
    """Boots take no time and leave one container. `kept` events are remembered, numbered from `first`."""

    def __init__(self, clock: Clock, *, first: int = 1, kept: int = KEPT, incarnation: int = 1) -> None:
        self.clock = clock
        self.specs: dict[str, CvmSpec] = {}
        self.states: dict[str, CvmState] = {}
        self.calls: list[str] = []
        self.readers = 0
        self._incarnation = incarnation
        self._next = first
        self._kept = kept
        self._events: list[NodeEvent] = []
        self._more = asyncio.Event()
        self._closed = False

    # Events

    def tell(self, cvm_id: str, kind: EventKind, detail: str = "", correlation_id: str = "") -> NodeEvent:
        event = NodeEvent(self._next, self.clock.now(), cvm_id, kind, detail, correlation_id)
        self._next += 1
        self._events = [*self._events, event][-self._kept :]
        self._wake()
        return event

    def close(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def events(self, after: int = 0) -> AsyncIterator[NodeEvent]:
        self.readers += 1
        try:
            oldest = self._events[0].sequence if self._events else self._next
            if after and not oldest - 1 <= after < self._next:
                after = oldest - 1
                yield NodeEvent(after, self.clock.now(), "", EventKind.GAP, "events were missed")
            while True:
                more = self._more
                for event in [one for one in self._events if one.sequence > after]:
                    after = event.sequence
                    yield event
                if self._closed:
                    return
                await more.wait()
        finally:
            self.readers -= 1

    # Calls

    async def info(self) -> NodeInfo:
        self.calls.append("info")
        running = [state for state in self.states.values() if state.phase is CvmPhase.RUNNING]
        taken = [self.specs[state.cvm_id] for state in running]
        return NodeInfo(
            name="memory",
            version="0",
            emulated=True,
            root="emulated:00",
            device_id=sha256(b"device"),
            capacity=CAPACITY,
            free=Resources(
                CAPACITY.cpu_count - sum(spec.cpu_count for spec in taken),
                CAPACITY.memory_size - sum(spec.memory_size for spec in taken),
                CAPACITY.disk_size,
            ),
            images=(NodeImage("none", "0", sha256(b"image")),),
            cvm_count=len(await self.list()),
            running_count=len(running),
            kms_urls=("https://kms.example:8000",),
            incarnation=self._incarnation,
        )

    async def create(self, spec: CvmSpec, *, correlation_id: str = "") -> CvmState:
        self.calls.append("create")
        check_correlation_id(correlation_id)
        known = self.states.get(spec.cvm_id)
        if known is not None and known.phase is CvmPhase.REMOVED:
            raise misuse("node.cvm-removed", "the CVM was removed", found=spec.cvm_id)
        if known is not None:
            if self.specs[spec.cvm_id] != spec:
                raise misuse("node.cvm-exists", "another CVM has this id", found=spec.cvm_id)
            return known
        compose = parse_app_compose(spec.compose)
        app_id = spec.app_id or compose.compose_hash[:20]
        self.specs[spec.cvm_id] = spec
        self.states[spec.cvm_id] = state = CvmState(
            spec.cvm_id,
            spec.name,
            CvmPhase.CREATED,
            app_id=app_id,
            instance_id=sha256(app_id)[:20],
            compose_hash=compose.compose_hash,
            emulated=True,
            correlation_id=correlation_id,
        )
        self.tell(spec.cvm_id, EventKind.CREATED, spec.name, correlation_id)
        return state

    async def update(self, spec: CvmSpec, *, correlation_id: str = "") -> CvmState:
        state = self._known(spec.cvm_id, correlation_id)
        compose_hash = parse_app_compose(spec.compose).compose_hash
        self.specs[spec.cvm_id] = spec
        state = replace(state, name=spec.name, compose_hash=compose_hash, correlation_id=correlation_id)
        self.states[spec.cvm_id] = state
        self.tell(spec.cvm_id, EventKind.UPDATED, spec.name, correlation_id)
        return state

    async def start(self, cvm_id: str, *, correlation_id: str = "") -> CvmState:
        state = self._known(cvm_id, correlation_id)
        if state.phase is not CvmPhase.RUNNING:
            self._enter(cvm_id, CvmPhase.BOOTING, correlation_id)
            self._enter(cvm_id, CvmPhase.RUNNING, correlation_id)
        return self.states[cvm_id]

    async def stop(self, cvm_id: str, *, deadline: float = 0.0, correlation_id: str = "") -> CvmState:
        check_deadline(deadline)
        self.calls.append(f"stop {deadline}")
        if self._known(cvm_id, correlation_id).phase is CvmPhase.RUNNING:
            self._enter(cvm_id, CvmPhase.STOPPING, correlation_id)
            self._enter(cvm_id, CvmPhase.STOPPED, correlation_id)
        return self.states[cvm_id]

    async def shutdown(
        self, cvm_id: str, *, deadline: float = STOP_DEADLINE, correlation_id: str = ""
    ) -> CvmState:
        return await self.stop(cvm_id, deadline=deadline, correlation_id=correlation_id)

    async def restart(
        self, cvm_id: str, *, deadline: float = STOP_DEADLINE, correlation_id: str = ""
    ) -> CvmState:
        self.calls.append("restart")
        await self.stop(cvm_id, deadline=deadline, correlation_id=correlation_id)
        return await self.start(cvm_id, correlation_id=correlation_id)

    async def remove(self, cvm_id: str, *, correlation_id: str = "") -> CvmState:
        if self._known(cvm_id, correlation_id).phase is not CvmPhase.REMOVED:
            await self.stop(cvm_id, correlation_id=correlation_id)
            self._enter(cvm_id, CvmPhase.REMOVED, correlation_id)
        return self.states[cvm_id]

    async def state(self, cvm_id: str) -> CvmState:
        self.calls.append("state")
        return self._known(cvm_id, "")

    async def list(self) -> tuple[CvmState, ...]:
        left = [state for state in self.states.values() if state.phase is not CvmPhase.REMOVED]
        return tuple(sorted(left, key=lambda state: state.cvm_id))

    async def stats(self, cvm_id: str) -> CvmStats:
        state = self._known(cvm_id, "")
        if state.phase is not CvmPhase.RUNNING:
            return CvmStats(cvm_id, self.clock.now(), None, None, None, None)
        return CvmStats(cvm_id, self.clock.now(), 1, 0.25, 1024, 4096)

    def _known(self, cvm_id: str, correlation_id: str) -> CvmState:
        check_correlation_id(correlation_id)
        if cvm_id not in self.states:
            raise unknown_cvm(cvm_id)
        return self.states[cvm_id]

    def _enter(self, cvm_id: str, phase: CvmPhase, correlation_id: str) -> None:
        state = self.states[cvm_id]
        assert phase in TRANSITIONS[state.phase]
        running = phase is CvmPhase.RUNNING
        folder = Path("/run/cvm") / cvm_id
        self.states[cvm_id] = replace(
            state,
            phase=phase,
            boot_count=state.boot_count + (phase is CvmPhase.BOOTING),
            started_at=self.clock.now() - timedelta(milliseconds=1) if running else state.started_at,
            endpoints=CvmEndpoints(
                folder, folder / "dstack.sock", folder / "tappd.sock", folder / "x.sock", "http://127.0.0.1:1"
            )
            if running
            else None,
            containers=(
                ContainerState(
                    "app", "", "running", "Up", command="sh", ports=(PublishedPort("127.0.0.1", 1, 80),)
                ),
            )
            if running
            else (),
            correlation_id=correlation_id,
            wanted=phase if phase in {CvmPhase.RUNNING, CvmPhase.STOPPED, CvmPhase.REMOVED} else state.wanted,
        )
        self.tell(cvm_id, EventKind.PHASE, phase.value, correlation_id)
