"""The life of one CVM: what is wanted of it, on disk first, and the one task that works towards that.

Rules:

L1. A wish is on disk before anything is done for it, and before its caller is answered. Work goes on until the last
    wish is fulfilled or has failed; a wish that comes meanwhile interrupts a boot that is not wanted any more, and
    a stop that it shortens.
L2. The phase on disk is never ahead of what is so: BOOTING is written before anything is made, RUNNING (with the
    keys, sealed) after everything is, STOPPING before anything ends, STOPPED after everything has.
L3. A node that comes back finds, by the phase alone, what to do: BOOTING is undone and, where still wanted, booted
    anew; RUNNING gets its agent back, or is booted anew when the host itself has restarted; STOPPING is stopped; a
    removal is finished. After `INTERRUPTED_LIMIT` boots in a row that the node process did not survive, the CVM is
    left in ERROR: it may be what ends the process.
L4. What has failed and cannot even be written down is so in memory; the next start of the node finds the phase
    before, and rule L3 holds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from teehouse.base.findings import Finding, Outcome, TeehouseError, misuse
from teehouse.guest.boot import BootIdentity
from teehouse.keys.appkeys import parse_app_keys
from teehouse.node.agents import AgentPlace
from teehouse.node.api import CvmPhase, CvmSpec, CvmState, EventKind
from teehouse.node.boot import Boot, BootPlan, resume, run_boot, undo
from teehouse.node.boot_faults import BootError, failure
from teehouse.node.boot_inputs import boot_identity
from teehouse.node.journal import Change, Journal, to_the_end
from teehouse.node.shown import shown_state
from teehouse.node.store import CvmRecord
from teehouse.node.surroundings import Surroundings
from teehouse.node.workload import ContainerState
from teehouse.wire.app_compose import parse_app_compose

INTERRUPTED_LIMIT = 3
BOOT_WISHES = frozenset({CvmPhase.CREATED, CvmPhase.RUNNING})  # that end with a boot, or before the first
SEED_SIZE = 20  # bytes of an instance id's seed

_logger = logging.getLogger(__name__)


class Cvm:
    """One CVM. `spec` and `record` are what is on disk. Raises `MisuseError` for a compose file nobody can run."""

    def __init__(self, around: Surroundings, spec: CvmSpec, record: CvmRecord) -> None:
        self._around = around
        self.spec = spec
        self._journal = Journal(around.store, around.history, record)
        compose = parse_app_compose(spec.compose)
        self._compose_hash = compose.compose_hash
        self._own_keys = compose.key_provider == "none"
        self._directory = around.store.cvm_directory(spec.cvm_id)
        self._workload = around.workloads(spec.cvm_id, self._directory, compose)
        self._boot: Boot | None = None
        self._step = record.step
        self._worker: asyncio.Task[None] | None = None
        self._action: asyncio.Task[None] | None = None
        self._outdated: Callable[[CvmRecord], bool] = _never

    # What others see

    @property
    def record(self) -> CvmRecord:
        """What is on disk, or (L4) would be."""
        return self._journal.record

    @property
    def takes_part(self) -> bool:
        """Whether processors and memory are taken."""
        record = self.record
        return record.phase in {CvmPhase.BOOTING, CvmPhase.RUNNING, CvmPhase.STOPPING} or (
            record.pending and record.wanted is CvmPhase.RUNNING
        )

    async def state(self) -> CvmState:
        """The state, with containers."""
        containers: tuple[ContainerState, ...] = ()
        if self.record.phase in {CvmPhase.RUNNING, CvmPhase.STOPPING}:
            with suppress(TeehouseError, OSError):  # the engine may be away; the rest is known all the same
                containers = tuple(await self._workload.state())
        return self.state_now(containers)

    def state_now(self, containers: tuple[ContainerState, ...] = ()) -> CvmState:
        """The state as this process knows it."""
        return shown_state(
            self.spec,
            self.record,
            self._boot,
            step=self._step,
            compose_hash=self._compose_hash,
            emulated=self._around.parts.driver.emulated,
            containers=containers,
        )

    # Wishes

    async def wish(self, wish: Change) -> CvmState:
        """Write down what `wish` makes of the record, and begin (L1). Raises `CollateralError`."""
        await to_the_end(self._wish(wish))
        return await self.state()

    async def _wish(self, wish: Change) -> None:
        if await self._journal.change(wish, strict=True):
            self._interrupt()
            self._begin()

    async def replace_spec(self, spec: CvmSpec, correlation_id: str) -> None:
        """Take another spec (`Node.update`), which the caller has judged; no wish may come meanwhile.

        Raises `MisuseError` while the CVM is not at rest, `CollateralError`.
        """
        if self.takes_part or self.record.pending:
            raise misuse(
                "node.cvm-busy",
                "a CVM is updated while it does not run",
                expected="phase created, stopped or error, and nothing under way",
                found=self.record.phase.value,
                remedy="shut it down first",
            )
        compose = parse_app_compose(spec.compose)
        identity = boot_identity(self.record.app_id, self.record.instance_seed, compose)
        await self._note(strict=True, correlation_id=correlation_id)
        await to_the_end(asyncio.to_thread(self._around.store.save_spec, spec))
        self.spec = spec
        self._compose_hash = compose.compose_hash
        self._own_keys = compose.key_provider == "none"
        await self._note(instance_id=identity.instance_id)
        self._tell(EventKind.UPDATED, spec.name)

    def _interrupt(self) -> None:
        """Rule L1."""
        if self._action is not None and self._outdated(self.record):
            self._action.cancel()

    # From one life of the node to the next

    async def recover(self) -> None:
        """Begin where the former process ended (L3)."""
        record = self.record
        if record.phase is CvmPhase.BOOTING:
            await self._recover_boot()
        elif record.phase is CvmPhase.RUNNING and record.host_boot == self._around.host_boot:
            await self._resume()
        elif record.phase is CvmPhase.RUNNING and not record.pending:
            await self._note(pending=True, fresh=True, deadline=0.0)
        self._begin()

    async def _recover_boot(self) -> None:
        interrupted = self.record.interrupted + 1
        await self._note(interrupted=interrupted)
        if interrupted >= INTERRUPTED_LIMIT and self.record.wanted is CvmPhase.RUNNING:
            with suppress(TeehouseError, OSError):
                await undo(self._new_boot(), 0)
            error = Finding(
                "node.boot.interrupted",
                "the node process ended during the boot",
                Outcome.COLLATERAL_MISSING,
                expected="a boot that the node survives",
                found=f"{interrupted} in a row that it did not",
                remedy="look for what ended it; then start the CVM again",
            )
            await self._fail(error, BOOT_WISHES)

    async def _resume(self) -> None:
        """Bring the agent back. What cannot be brought back is ended."""
        boot = self._new_boot()
        try:
            keys = parse_app_keys(self._around.store.unseal(self.record))
            await resume(boot, keys)
            await self._workload.adopt()
            self._boot = boot
            if boot.pages_port != self.record.pages_port:
                await self._note(pages_port=boot.pages_port)
        except Exception as error:  # noqa: BLE001 - whatever it is, this CVM has no agent; the others have theirs
            _logger.warning("cvm %s cannot be resumed: %s", self.record.cvm_id, type(error).__name__)
            with suppress(TeehouseError, OSError):
                await undo(boot, 0)
            self._boot = None
            finding = failure("node.resume", "the CVM's agent cannot be brought back", error)
            await self._fail(finding, BOOT_WISHES)

    def look(self) -> None:
        """Bring the agent back when it has ended by itself."""
        boot = self._boot
        if self.record.phase is not CvmPhase.RUNNING or self._worker is not None or boot is None:
            return
        try:
            if boot.agent is not None:
                boot.agent.check()
        except TeehouseError as error:
            _logger.warning("cvm %s: %s", self.record.cvm_id, error)
            self._begin(lambda: self._revive(boot))

    async def _revive(self, boot: Boot) -> None:
        if boot.agent is not None:
            await boot.agent.stop()
        await self._resume()

    async def close(self) -> None:
        """Leave the CVM as it is and let go of it: what runs goes on without its agent; a boot is undone."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        boot = self._boot
        if boot is None:
            return
        if self.record.phase is CvmPhase.BOOTING:
            with suppress(TeehouseError, OSError):
                await undo(boot, 0)
            await self._note(phase=CvmPhase.STOPPED)  # and still wanted: the next life of the node boots it
        elif boot.agent is not None:
            await boot.agent.stop()

    # The work

    def _begin(self, first: Callable[[], Awaitable[None]] | None = None) -> None:
        if self._worker is None and (first is not None or self.record.pending):
            self._worker = asyncio.create_task(self._work(first))

    async def _work(self, first: Callable[[], Awaitable[None]] | None) -> None:
        try:
            if first is not None:
                await first()
            while self.record.pending:
                await self._approach()
        except Exception:
            _logger.exception("work on cvm %s", self.record.cvm_id)
        finally:
            self._worker = None

    async def _approach(self) -> None:
        """One piece of work towards what is wanted."""
        phase, wanted = self.record.phase, self.record.wanted
        unwanted = phase is CvmPhase.RUNNING and (wanted is not CvmPhase.RUNNING or self.record.fresh)
        leftover = phase is CvmPhase.ERROR and wanted is CvmPhase.STOPPED
        if unwanted or leftover or phase in {CvmPhase.BOOTING, CvmPhase.STOPPING}:
            await self._end()
        elif wanted is CvmPhase.REMOVED:
            await self._remove()
        elif wanted is CvmPhase.RUNNING and phase is not CvmPhase.RUNNING:
            await self._bring_up()
        else:
            await self._note(pending=False)

    async def _bring_up(self) -> None:
        try:
            await self._note(strict=True, **self._beginning())
        except TeehouseError as error:
            await self._fail(BootError("record", error).finding, BOOT_WISHES)
            return
        boot = self._boot = self._new_boot()
        work = run_boot(boot, self._around.steps, self._at_step)
        action = await self._act(work, lambda record: record.wanted is not CvmPhase.RUNNING)
        if action.cancelled():
            return  # not wanted any more: what there is of it is ended next
        problem = action.exception()
        if problem is None:
            try:
                await self._journal.change(self._booted, strict=True)
            except TeehouseError as error:
                problem = BootError("record", error)
            else:
                return
        with suppress(TeehouseError, OSError):
            await undo(boot, 0)
        self._boot = None
        if not isinstance(problem, BootError):
            problem = BootError(self._step, problem)
        await self._fail(problem.finding, BOOT_WISHES, touched=boot.touched)

    def _identity(self, record: CvmRecord) -> BootIdentity:
        return boot_identity(record.app_id, record.instance_seed, parse_app_compose(self.spec.compose))

    def _beginning(self) -> dict[str, Any]:
        record = self.record
        if self._own_keys and record.boot_count:
            record = replace(record, instance_seed=self._around.parts.random_bytes(SEED_SIZE))
        return {
            "phase": CvmPhase.BOOTING,
            "fresh": False,
            "step": "",
            "error": None,
            "instance_seed": record.instance_seed,
            "instance_id": self._identity(record).instance_id,
            "boot_count": record.boot_count + 1,
            "host_boot": self._around.host_boot,
            "sealed_keys": b"",
        }

    def _booted(self, record: CvmRecord) -> CvmRecord:
        """Running, with the keys (L2). A wish that came meanwhile stays."""
        boot = self._boot
        done = record.wanted is CvmPhase.RUNNING and not record.fresh
        booted = replace(
            record,
            phase=CvmPhase.RUNNING,
            pending=record.pending and not done,
            step=self._step,
            started_at=self._around.parts.clock.now(),
            pages_port=0 if boot is None else boot.pages_port,
            interrupted=0,
        )
        if boot is None or boot.keys is None:
            return booted
        return self._around.store.seal(booted, boot.keys.to_json().encode())

    async def _end(self) -> None:
        if self.record.phase is CvmPhase.RUNNING:
            await self._note(phase=CvmPhase.STOPPING)
        boot = self._boot or self._new_boot()
        deadline = self.record.deadline if self.record.phase is CvmPhase.STOPPING else 0.0
        action = await self._act(undo(boot, deadline), lambda record: record.deadline < deadline)
        if action.cancelled():
            return  # to be ended sooner
        self._boot = None
        error = action.exception()
        if error is None:
            await self._journal.change(_ended, strict=False)
        else:
            finding = failure("node.stop", "the CVM could not be ended", error)
            await self._fail(finding, BOOT_WISHES | {CvmPhase.STOPPED})

    async def _remove(self) -> None:
        cvm_id = self.record.cvm_id
        try:
            if self.record.touched:
                await self._workload.remove()
            await asyncio.to_thread(self._around.store.remove, cvm_id)
        except Exception as error:  # noqa: BLE001 - told in the state
            finding = failure("node.remove", "the CVM could not be removed", error)
            await self._note(phase=CvmPhase.ERROR, error=finding, pending=False)
            return
        self._journal.record = replace(self.record, phase=CvmPhase.REMOVED, pending=False)
        self._tell(EventKind.PHASE, CvmPhase.REMOVED.value)

    async def _act(
        self, work: Coroutine[Any, Any, None], outdated: Callable[[CvmRecord], bool]
    ) -> "asyncio.Task[None]":
        """Do something that a wish may interrupt, when it makes it `outdated`; the task, when it has ended."""
        action = self._action = asyncio.create_task(work)
        self._outdated = outdated
        self._interrupt()  # by a wish of the moment before
        try:
            await asyncio.wait([action])
        except asyncio.CancelledError:
            action.cancel()
            await asyncio.wait([action])
            raise
        finally:
            self._action = None
        return action

    def _new_boot(self) -> Boot:
        around, record = self._around, self.record
        place = AgentPlace(around.sockets / record.cvm_id, around.pages_host, record.pages_port)
        plan = BootPlan(
            self.spec, record.app_id, record.instance_seed, self._directory, place, self._workload
        )
        return Boot(
            around.parts, plan, lambda text: self._tell(EventKind.STEP, text), self._touch, record.touched
        )

    async def _touch(self) -> None:
        await self._note(strict=True, touched=True)

    def _at_step(self, step: str) -> None:
        self._step = step
        self._tell(EventKind.STEP, step)

    # Writing down

    async def _note(self, *, strict: bool = False, **changes: Any) -> None:
        """Change these members of the record."""
        await self._journal.change(lambda record: replace(record, **changes), strict=strict)

    async def _fail(
        self, error: Finding, failed: Collection[CvmPhase], *, touched: bool | None = None
    ) -> None:
        """Phase ERROR. The wishes `failed` have failed with it; others are still to be fulfilled."""

        def change(record: CvmRecord) -> CvmRecord:
            pending = record.pending and record.wanted not in failed
            return replace(
                record,
                phase=CvmPhase.ERROR,
                error=error,
                pending=pending,
                fresh=False,
                step=self._step,
                interrupted=0,
                sealed_keys=b"",
                touched=record.touched if touched is None else touched,
            )

        await self._journal.change(change, strict=False)

    def _tell(self, kind: EventKind, detail: str) -> None:
        self._journal.tell(kind, detail)


def _ended(record: CvmRecord) -> CvmRecord:
    pending = record.pending and record.wanted is not CvmPhase.STOPPED
    return replace(record, phase=CvmPhase.STOPPED, error=None, sealed_keys=b"", pending=pending)


def _never(_record: CvmRecord) -> bool:
    return False
