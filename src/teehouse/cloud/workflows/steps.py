"""The steps of operations, each an effect on a node that may be repeated.

Rules:

S1. Before its effect a step writes that the operation is at it; an operation that has ended meanwhile has no
    further effect.
S2. A node that cannot be reached is asked again, with growing pauses, for `patience` seconds.
S3. What a node refuses, or a boot that fails, ends the operation; so does a boot or stop longer than `limit`.
S4. A CVM that a node does not know is as good as stopped and removed. Where it is to start or to change, it is
    taken in anew.
S5. A boot follows the specification that is wanted, and its compose hash may have keys by then
    (`allowlists.authorisations`). What no CVM needs any more is taken away when a change has succeeded.
S6. `finish` takes over the node's last word, whatever it is by then.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from teehouse.base.clock import Clock
from teehouse.base.findings import (
    CollateralError,
    Finding,
    MisuseError,
    Outcome,
    TeehouseError,
    misuse,
    unavailable,
)
from teehouse.cloud.allowlists.authorisations import Authorisations, NoAuthorisations
from teehouse.cloud.db.engine import Database
from teehouse.cloud.nodes.directory import NodeDirectory
from teehouse.cloud.tracing import operation_step
from teehouse.cloud.workflows.api import BEGIN, FINISH
from teehouse.cloud.workflows.journal import EndedError, Journal, Work
from teehouse.cloud.workflows.plan import Step
from teehouse.node.api import STOP_DEADLINE, CvmPhase, CvmState, Node

PATIENCE: Final = 120.0  # seconds
LIMIT: Final = 900.0  # seconds of a boot or a stop
ENDED: Final = "ended"
UNKNOWN: Final = "node.cvm-unknown"
GONE: Final = frozenset({UNKNOWN, "node.cvm-removed"})

_FIRST_PAUSE = 0.01  # seconds
_LONGEST_PAUSE = 1.0
_SETTLED: Final = {
    Step.RUNNING: frozenset({CvmPhase.RUNNING}),
    Step.STOPPED: frozenset({CvmPhase.STOPPED, CvmPhase.CREATED, CvmPhase.REMOVED}),
    Step.REMOVED: frozenset({CvmPhase.REMOVED}),
}
_log = structlog.get_logger(__name__)


class Steps:
    """Runs single steps. Nothing is kept between them: each may run in another process."""

    def __init__(
        self,
        database: Database,
        nodes: NodeDirectory,
        clock: Clock,
        *,
        patience: float = PATIENCE,
        limit: float = LIMIT,
        stop_deadline: float = STOP_DEADLINE,
        authorisations: Authorisations | None = None,
    ) -> None:
        self._nodes = nodes
        self._authorisations = authorisations or NoAuthorisations()
        self._journal = Journal(database, clock, deadline=stop_deadline)
        self._patience = patience
        self._limit = limit

    async def plan(self, operation_id: int) -> tuple[Step, ...] | None:
        """All steps of the operation; None for one that has ended."""
        try:
            work = await self._journal.load(operation_id)
        except EndedError:
            return None
        return work.plan

    async def rest(self, operation_id: int) -> tuple[Step, ...] | None:
        """The steps that are left, the one under way included; None for an operation that has ended."""
        try:
            work = await self._journal.load(operation_id)
        except EndedError:
            return None
        if work.phase not in work.plan:
            return work.plan
        return work.plan[work.plan.index(Step(work.phase)) :]

    async def run(self, name: str, operation_id: int) -> str:
        """One step: "" when the next one may follow, else why the operation ends here.

        Raises what the database raises: then the step is to be repeated.
        """
        try:
            work = await self._journal.load(operation_id)
            log = _log.bind(
                correlation_id=work.correlation_id, cvm=work.vm_uuid, operation=work.operation_type.value
            )
            try:
                with operation_step(name, work.trace_id, work.correlation_id):
                    await self._step(name, work)
            except TeehouseError as error:
                log.warning("operation failed", step=name, reason=error.finding.sentence())
                await self._journal.fail(work, error.finding)
                return error.finding.code
        except EndedError:
            return ENDED
        log.info("step done", step=name)
        return ""

    async def _step(self, name: str, work: Work) -> None:
        if name == BEGIN:
            return
        if name == FINISH:
            state = await self._patiently(lambda: self._state(work))
            if not work.on_chain:
                await self._authorisations.forget(work.app_id, lambda: self._journal.unused(work))
            await self._journal.finish(work, state)
            return
        step = Step(name)
        await self._journal.enter(work, step)
        if step is Step.AUTHORISE:
            if not work.on_chain:
                await self._authorisations.allow(work.app_id, work.compose_hash)
        elif step in _SETTLED:
            await self._await(work, step)
        else:
            await self._patiently(lambda: self._effect(work, step))

    async def _effect(self, work: Work, step: Step) -> CvmState | None:
        node, cvm_id, mark = self._node(work), work.vm_uuid, work.correlation_id
        try:
            match step:
                case Step.TAKE_IN:
                    return await node.create(work.spec, correlation_id=mark)
                case Step.CHANGE:
                    return await node.update(work.spec, correlation_id=mark)
                case Step.START:
                    await node.update(work.spec, correlation_id=mark)
                    return await node.start(cvm_id, correlation_id=mark)
                case Step.STOP:
                    return await node.stop(cvm_id, correlation_id=mark)
                case Step.SHUTDOWN:
                    return await node.shutdown(cvm_id, deadline=work.deadline, correlation_id=mark)
                case _:
                    return await node.remove(cvm_id, correlation_id=mark)
        except MisuseError as error:
            return await self._unknown(work, step, error)

    async def _unknown(self, work: Work, step: Step, error: MisuseError) -> CvmState | None:
        """Rule S4."""
        code = error.finding.code
        node = self._node(work)
        if code in GONE and step in {Step.STOP, Step.SHUTDOWN, Step.REMOVE}:
            return None
        if code == UNKNOWN and step in {Step.CHANGE, Step.START}:
            state = await node.create(work.spec, correlation_id=work.correlation_id)
            if step is Step.CHANGE:
                return state
            return await node.start(work.vm_uuid, correlation_id=work.correlation_id)
        raise error

    async def _await(self, work: Work, step: Step) -> None:
        """Until the node has settled in what the step awaits (rule S3)."""
        pause, told = _FIRST_PAUSE, ""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limit
        while True:
            state = await self._patiently(lambda: self._state(work))
            if state is None:
                if step is Step.RUNNING:
                    raise _lost(work)
                return
            if state.settled:
                if state.phase in _SETTLED[step]:
                    return
                raise OtherPhaseError(state, step)
            if loop.time() >= end:
                raise _too_long(state, step, self._limit)
            if step is Step.RUNNING and state.step and state.step != told:
                told = state.step
                await self._journal.progress(work, told)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def _state(self, work: Work) -> CvmState | None:
        """How the node says the CVM stands; None for one that it does not know."""
        try:
            return await self._node(work).state(work.vm_uuid)
        except MisuseError as error:
            if error.finding.code in GONE:
                return None
            raise

    async def _patiently(self, ask: Callable[[], Awaitable[CvmState | None]]) -> CvmState | None:
        """Rule S2."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return await ask()
            except CollateralError:
                if loop.time() + pause > end:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE * 5)

    def _node(self, work: Work) -> Node:
        if work.node_id is None:
            raise misuse("cloud.no-node", "the node of the CVM", expected="one", found="none")
        return self._nodes.node(work.node_id)


class OtherPhaseError(MisuseError):
    """The node has settled in another phase than the one awaited: with its own error where it has one."""

    def __init__(self, state: CvmState, step: Step) -> None:
        finding = state.error
        if finding is None:
            finding = Finding(
                "cloud.other-phase",
                "phase of the CVM",
                Outcome.MISUSE,
                step.value,
                state.phase.value,
                "something else changed it meanwhile; ask again",
            )
        super().__init__(finding)


def _lost(work: Work) -> MisuseError:
    return misuse(
        "cloud.cvm-lost",
        "the CVM on its node",
        expected=f"CVM {work.vm_uuid}",
        found="the node does not know it",
        remedy="start it again; the node takes it in anew, without its data",
    )


def _too_long(state: CvmState, step: Step, limit: float) -> CollateralError:
    return unavailable(
        "cloud.too-long",
        "the CVM's way to " + step.value,
        expected=f"at most {limit:g} seconds",
        found=f"still {state.phase.value}, step {state.step or 'none'}",
        remedy="see the CVM's log, then stop or delete it",
    )
