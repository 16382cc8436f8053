"""The engine that carries operations on, whatever happens to processes: a Protocol, and what it drives."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from teehouse.cloud.workflows.plan import Step

BEGIN: Final = "begin"
FINISH: Final = "finish"

# One step of one operation: its name and the operation's id; gives "" or why it ends here (`Steps.run`).
Call = Callable[[str, int], Awaitable[str]]


class Workflows(Protocol):
    """Carries on the operations of `teehouse.cloud.cvms.models.Operation`.

    An operation whose transaction is committed is carried on, at the latest by `sweep`, also when the process that
    wrote it dies before it called `start`.
    """

    async def launch(self) -> None:
        """Begin, and go on with what was under way."""
        ...

    async def start(self, operation_id: int) -> None:
        """Carry on an operation, after the transaction that wrote it. Repeated, it changes nothing."""
        ...

    async def sweep(self) -> int:
        """Take up what nobody carries on: it says how many operations. To be called from time to time."""
        ...

    async def close(self) -> None:
        """Let go. What is under way is carried on by the next `launch`, or by another process."""
        ...


async def drive(call: Call, operation_id: int, plan: tuple[Step, ...]) -> None:
    """The steps of an operation one after another, until one says that it ends here."""
    for name in (BEGIN, *plan, FINISH):
        if await call(name, operation_id):
            return
