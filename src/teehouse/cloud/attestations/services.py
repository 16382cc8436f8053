"""Evidence of CVMs, asked from their agents, all at once.

Rules:

1. Instances are asked at the same time, `AT_ONCE` at most, each within `DEADLINE` seconds; all of them together
   have `WHOLE_DEADLINE`. One that fails is an entry with its error, never a failed answer.
2. What was learnt of a CVM, a failure too, is kept for `KEPT` seconds, for `ENTRIES` CVMs: anybody may ask, and
   each question costs an agent a quote. Those who ask meanwhile wait for the same answer.
3. Only running CVMs are asked.
4. Errors say what happened in words for strangers; addresses and details go to the log.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from teehouse.base.findings import EvidenceError, TeehouseError
from teehouse.cloud.attestations.agents import AgentReader
from teehouse.cloud.attestations.evidence import OUT_OF_STEP, InstanceEvidence, read_evidence
from teehouse.cloud.cvms.models import CvmStatus
from teehouse.cloud.cvms.records import CvmRow

AT_ONCE: Final = 32
DEADLINE: Final = 5.0  # seconds
WHOLE_DEADLINE: Final = 10.0  # seconds
KEPT: Final = 3.0  # seconds
ENTRIES: Final = 256

NOT_RUNNING: Final = "CVM is not running"
NOT_REACHED: Final = "The CVM's agent cannot be reached"
UNREADABLE: Final = "The CVM's evidence cannot be read"
TOO_SLOW: Final = "The CVM's agent did not answer in time"

log = structlog.stdlib.get_logger("teehouse.cloud.attestations")


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking one CVM: evidence, or why there is none."""

    evidence: InstanceEvidence | None = None
    error: str | None = None


@dataclass(slots=True)
class _Entry:
    """`until` is set when the answer is there."""

    task: asyncio.Task[Asked]
    until: float = 0.0


class Attestations:
    """Asks agents, and keeps what they said for a while (rule 2). For one event loop."""

    def __init__(
        self, *, deadline: float = DEADLINE, whole: float = WHOLE_DEADLINE, kept: float = KEPT
    ) -> None:
        self._deadline = deadline
        self._whole = whole
        self._kept = kept
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._asking: set[asyncio.Task[Asked]] = set()  # the loop itself would forget them
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    async def of(self, agents: AgentReader | None, cvms: Sequence[CvmRow]) -> list[Asked]:
        """What came of asking each of them, in their order (rules 1 to 3)."""
        waiting = [self._ask(agents, cvm) for cvm in cvms]
        tasks = [task for task in waiting if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self._whole)
        return [_outcome(task) for task in waiting]

    def _ask(self, agents: AgentReader | None, cvm: CvmRow) -> asyncio.Task[Asked] | None:
        if cvm.status != CvmStatus.RUNNING:
            return None
        now = asyncio.get_running_loop().time()
        # A CVM that was restarted is another one: what the last boot said is of no use.
        key = f"{cvm.vm_uuid} {cvm.node_id} {cvm.started_at}"
        entry = self._entries.get(key)
        if entry is None or (entry.task.done() and entry.until <= now):
            entry = self._entries[key] = _Entry(asyncio.create_task(self._bounded(agents, cvm)))
            self._entries.move_to_end(key)
            self._asking.add(entry.task)
            entry.task.add_done_callback(partial(self._answered, entry))
            while len(self._entries) > ENTRIES:
                self._entries.popitem(last=False)
        return entry.task

    def _answered(self, entry: _Entry, task: asyncio.Task[Asked]) -> None:
        entry.until = task.get_loop().time() + self._kept
        self._asking.discard(task)

    async def _bounded(self, agents: AgentReader | None, cvm: CvmRow) -> Asked:
        if agents is None or cvm.node_id is None:
            return Asked(error=NOT_REACHED)
        try:
            async with self._turns, asyncio.timeout(self._deadline):
                return Asked(await _evidence(agents, cvm.node_id, cvm.vm_uuid))
        except TimeoutError:
            return Asked(error=TOO_SLOW)
        except TeehouseError as error:
            log.warning("no evidence", vm_uuid=cvm.vm_uuid, finding=error.finding.as_dict())
            return Asked(error=UNREADABLE if isinstance(error, EvidenceError) else NOT_REACHED)


async def _evidence(agents: AgentReader, node_id: int, vm_uuid: str) -> InstanceEvidence:
    try:
        return read_evidence(await agents.evidence(node_id, vm_uuid))
    except EvidenceError as error:
        if error.finding.code != OUT_OF_STEP:
            raise
        return read_evidence(await agents.evidence(node_id, vm_uuid))


def _outcome(task: asyncio.Task[Asked] | None) -> Asked:
    if task is None:
        return Asked(error=NOT_RUNNING)
    return task.result() if task.done() and not task.cancelled() else Asked(error=TOO_SLOW)
