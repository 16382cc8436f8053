"""A node that boots nothing and takes no time: what is measured with it is the control plane alone."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from teehouse.base.clock import Clock
from teehouse.base.hashes import sha256
from teehouse.node.api import (
    STOP_DEADLINE,
    CvmEndpoints,
    CvmPhase,
    CvmSpec,
    CvmState,
    CvmStats,
    EventKind,
    NodeEvent,
    NodeInfo,
    Resources,
    unknown_cvm,
)
from teehouse.wire.app_compose import parse_app_compose

_ENDLESS = Resources(10**6, 10**15, 10**15)


class MemoryNode:
    """A `Node` in memory. `pages` are the addresses of agents, by CVM."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._states: dict[str, CvmState] = {}
        self._events: list[NodeEvent] = []
        self._more = asyncio.Condition()
        self.pages: dict[str, str] = {}

    async def events(self, after: int = 0) -> AsyncIterator[NodeEvent]:
        while True:
            async with self._more:
                await self._more.wait_for(lambda: len(self._events) > after)  # noqa: B023 - asked within the turn
            for event in self._events[after:]:
                after = event.sequence
                yield event

    async def info(self) -> NodeInfo:
        return NodeInfo(
            name="memory",
            version="0",
            emulated=True,
            root="emulated:00",
            device_id=sha256(b"device"),
            capacity=_ENDLESS,
            free=_ENDLESS,
            images=(),
            cvm_count=len(self._states),
            running_count=len(self._states),
            kms_urls=(),
            incarnation=1,
        )

    async def create(self, spec: CvmSpec, *, correlation_id: str = "") -> CvmState:
        if spec.cvm_id not in self._states:
            compose = parse_app_compose(spec.compose)
            app_id = spec.app_id or compose.compose_hash[:20]
            self._states[spec.cvm_id] = CvmState(
                spec.cvm_id,
                spec.name,
                CvmPhase.CREATED,
                app_id=app_id,
                instance_id=sha256(spec.cvm_id.encode())[:20],
                compose_hash=compose.compose_hash,
                emulated=True,
                correlation_id=correlation_id,
            )
            await self._tell(spec.cvm_id, EventKind.CREATED, spec.name, correlation_id)
        return self._states[spec.cvm_id]

    async def update(self, spec: CvmSpec, *, correlation_id: str = "") -> CvmState:
        await self._tell(spec.cvm_id, EventKind.UPDATED, spec.name, correlation_id)
        return await self.state(spec.cvm_id)

    async def start(self, cvm_id: str, *, correlation_id: str = "") -> CvmState:
        return await self._enter(cvm_id, CvmPhase.RUNNING, correlation_id)

    async def stop(self, cvm_id: str, *, deadline: float = 0.0, correlation_id: str = "") -> CvmState:
        assert deadline >= 0
        return await self._enter(cvm_id, CvmPhase.STOPPED, correlation_id)

    async def shutdown(
        self, cvm_id: str, *, deadline: float = STOP_DEADLINE, correlation_id: str = ""
    ) -> CvmState:
        return await self.stop(cvm_id, deadline=deadline, correlation_id=correlation_id)

    async def restart(
        self, cvm_id: str, *, deadline: float = STOP_DEADLINE, correlation_id: str = ""
    ) -> CvmState:
        await self.stop(cvm_id, deadline=deadline, correlation_id=correlation_id)
        return await self.start(cvm_id, correlation_id=correlation_id)

    async def remove(self, cvm_id: str, *, correlation_id: str = "") -> CvmState:
        return await self._enter(cvm_id, CvmPhase.REMOVED, correlation_id)

    async def state(self, cvm_id: str) -> CvmState:
        if cvm_id in self.pages:
            return CvmState(cvm_id, "", CvmPhase.RUNNING, endpoints=_endpoints(cvm_id, self.pages[cvm_id]))
        if cvm_id not in self._states:
            raise unknown_cvm(cvm_id)
        return self._states[cvm_id]

    async def list(self) -> tuple[CvmState, ...]:
        return tuple(self._states.values())

    async def stats(self, cvm_id: str) -> CvmStats:
        return CvmStats(cvm_id, self._clock.now(), None, None, None, None)

    async def _enter(self, cvm_id: str, phase: CvmPhase, correlation_id: str) -> CvmState:
        state = await self.state(cvm_id)
        running = phase is CvmPhase.RUNNING
        self._states[cvm_id] = state = replace(
            state,
            phase=phase,
            wanted=phase,
            started_at=self._clock.now() if running else state.started_at,
            endpoints=_endpoints(cvm_id, "http://127.0.0.1:1") if running else None,
            correlation_id=correlation_id,
        )
        await self._tell(cvm_id, EventKind.PHASE, phase.value, correlation_id)
        return state

    async def _tell(self, cvm_id: str, kind: EventKind, detail: str, correlation_id: str) -> None:
        async with self._more:
            number = len(self._events) + 1
            self._events.append(NodeEvent(number, self._clock.now(), cvm_id, kind, detail, correlation_id))
            self._more.notify_all()


def _endpoints(cvm_id: str, pages: str) -> CvmEndpoints:
    folder = Path("/run/cvm") / cvm_id
    return CvmEndpoints(folder, folder / "dstack.sock", folder / "tappd.sock", folder / "x.sock", pages)
