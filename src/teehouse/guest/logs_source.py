"""Where logs come from: the Docker Engine, or the files of a workload without one (guest-agent.md 13.2).

A source gives the pieces as they were written, each with its channel. Which of them a query asks for, every source
decides alike:

1. `tail` counts entries of the whole log, of both channels; `since` and `until` then choose among these. An entry is a
   line, or a piece of a line longer than 16 KiB.
2. An entry counts whose time is not before `since` and not after `until`; after the first later one nothing follows.
3. With `timestamps` each entry begins with its time (RFC 3339, UTC, nine digits) and a blank.
4. With `follow` a stream ends when the container does, and at once where it does not run.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from teehouse.base.findings import MisuseError, misuse
from teehouse.guest.logs_query import LogQuery

# Channel (stdin, stdout, stderr, console) and bytes. A plain pair: a stream of 100 MB has a million of them.
Frame = tuple[str, bytes]

UNKNOWN = "logs.unknown-container"
CONSOLE = "console"


class LogStream(Protocol):
    """One reader of one log. It reads only when asked to, and holds a bounded part of the log."""

    async def read(self) -> Sequence[Frame] | None:
        """The next frames, once there are any; None at the end.

        Raises `CollateralError` when the log breaks off. A call that is cancelled takes nothing away.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; harmless a second time."""
        ...


class LogSource(Protocol):
    """Containers with their logs."""

    async def resolve(self, name: str) -> Any | None:
        """What `stream` wants for a container, None where there is none of that name.

        Raises `CollateralError` when that cannot be found out.
        """
        ...

    async def stream(self, handle: Any, query: LogQuery) -> LogStream:
        """Open a log. Raises `MisuseError` `logs.unknown-container` when the container has gone, `CollateralError`."""
        ...


def no_such_container(name: str) -> MisuseError:
    """The refusal of a name, in the Docker Engine's words."""
    return misuse(UNKNOWN, f"No such container: {name}")
