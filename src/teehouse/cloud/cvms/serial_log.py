"""The boot log of a CVM: what was done with it, and what its node told of it, as lines of text (cloud-api.md 13.1).

Rules:

1. A link to the log carries its own permission, as published clients show no key there: a MAC over the CVM's UUID
   and a time, by a key of the installation's. It is good for `LINK_SECONDS` after the answer that carries it.
2. Channel `serial` has all lines, `stderr` those of failures, `stdout` none: where no machine is emulated, nothing
   but the boot writes there.
3. Lines stand by their time. Operations come from the database; steps of a boot from the node, as far as it still
   knows them. A node that is silent takes nothing from the rest.
4. Without `follow` the log ends with what was known when it was asked for. With it, it goes on with what the node
   tells, for `FOLLOW_SECONDS`.
"""

import asyncio
import hmac
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.base.findings import TeehouseError
from teehouse.cloud.cvms.models import Cvm, CvmEvent
from teehouse.cloud.errors import CloudError, refusal
from teehouse.cloud.nodes.directory import NodeDirectory
from teehouse.cloud.secrets import derived_key
from teehouse.cloud.settings import CloudSettings
from teehouse.node.api import EventKind, Node, NodeEvent
from teehouse.wire.cloud.base import time_text

LINK_SECONDS: Final = 3600
FOLLOW_SECONDS: Final = 600.0
LINES_LIMIT: Final = 10_000  # of the database, newest first
QUIET: Final = 0.2  # seconds in which a node tells what it still knows

Channel = Literal["serial", "stdout", "stderr"]
_PURPOSE: Final = "cvm-log-links"
_RELATIVE: Final = re.compile(r"(\d{1,9})(s|m|h|d)")
_FAILED: Final = "failed"  # the event that ends an operation which could not be done
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_log = structlog.get_logger(__name__)


class SignedLogLinks:
    """Links to boot logs (rule 1), good from `now` on."""

    def __init__(self, settings: CloudSettings, now: datetime) -> None:
        self._key = derived_key(settings, _PURPOSE)  # once: a list has a link for each CVM
        self._start = f"{settings.api_url}/cvms/"
        self._until = int(now.timestamp()) + LINK_SECONDS

    def serial(self, vm_uuid: str) -> str:
        token = _token(self._key, vm_uuid, self._until)
        return f"{self._start}{vm_uuid}/serial-log?until_time={self._until}&token={token}"


def link_token(settings: CloudSettings, vm_uuid: str, until: int) -> str:
    """64 hex digits for a CVM's UUID (32 hex digits) and the last second that they are good for."""
    return _token(derived_key(settings, _PURPOSE), vm_uuid, until)


def _token(key: bytes, vm_uuid: str, until: int) -> str:
    return hmac.digest(key, f"{vm_uuid}.{until}".encode(), "sha256").hex()


def check_link(settings: CloudSettings, vm_uuid: str, until: int, token: str, now: datetime) -> None:
    """Raises `CloudError` 403 for a link that is not, or no longer, good."""
    right = link_token(settings, vm_uuid, until)
    if not hmac.compare_digest(right.encode(), token.encode()) or now.timestamp() > until:
        raise refusal(403, "This link to a log is not good, or not any more: ask for the CVM again")


@dataclass(frozen=True, slots=True)
class Line:
    """One line, when it happened, and whether it tells of a failure."""

    at: datetime
    text: str
    failure: bool = False

    def shown(self, *, timestamps: bool) -> str:
        """As it is sent. Without `timestamps` it is the text alone."""
        return f"{time_text(self.at)} {self.text}\n" if timestamps else f"{self.text}\n"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a log is asked for. `tail` is the number of last lines; None is all."""

    channel: Channel = "serial"
    since: datetime | None = None
    until: datetime | None = None
    tail: int | None = None

    def takes(self, line: Line) -> bool:
        """Whether the line belongs to the answer (rule 2)."""
        if self.channel == "stdout" or (self.channel == "stderr" and not line.failure):
            return False
        return (self.since is None or line.at >= self.since) and (self.until is None or line.at <= self.until)


def parse_moment(text: str, now: datetime) -> datetime:
    """RFC 3339, Unix seconds, or how long ago (`90s`, `42m`, `3h`, `2d`). Raises `CloudError` 400."""
    relative = _RELATIVE.fullmatch(text)
    try:
        if relative:
            return now - timedelta(seconds=int(relative[1]) * _SECONDS[relative[2]])
        if text.isascii() and text.isdigit():
            return datetime.fromtimestamp(int(text), UTC)
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        raise refusal(400, f"{text[:40]!a} is no time: use RFC 3339, Unix seconds, or 42m") from None


async def load_lines(session: AsyncSession, vm_uuid: str) -> tuple[int | None, list[Line]]:
    """The CVM's node and what the database knows of it. Raises `CloudError` 404."""
    row = (
        await session.execute(
            select(Cvm.id, Cvm.node_id).where(Cvm.vm_uuid == vm_uuid, Cvm.deleted_at.is_(None))
        )
    ).one_or_none()
    if row is None:
        raise CloudError(None, "CVM not found", status=404)
    question = select(CvmEvent).where(CvmEvent.cvm_id == row.id).order_by(CvmEvent.id.desc())
    events = (await session.scalars(question.limit(LINES_LIMIT))).all()
    lines = [
        Line(one.created_at, f"{one.event}: {one.body}", one.event == _FAILED) for one in reversed(events)
    ]
    return row.node_id, lines


def node_of(nodes: NodeDirectory, node_id: int | None) -> Node | None:
    """The node, where this process has a way to it."""
    try:
        return None if node_id is None else nodes.node(node_id)
    except TeehouseError:
        return None


async def told(node: Node | None, vm_uuid: str, now: datetime) -> tuple[list[Line], int]:
    """What the node still knows of the CVM, and the number of the last event heard (rule 3)."""
    lines: list[Line] = []
    last = 0
    if node is None:
        return lines, last
    stream = node.events(0)
    try:
        while True:
            async with asyncio.timeout(QUIET):
                event = await anext(stream)
            if event.time > now:
                break
            last = event.sequence
            lines += _lines(event, vm_uuid)
    except (TimeoutError, StopAsyncIteration):
        pass
    except TeehouseError as error:
        _log.warning("node does not tell", vm_uuid=vm_uuid, error=str(error))
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
    return lines, last


async def log_of(
    node: Node | None, vm_uuid: str, known: Sequence[Line], wanted: Wanted, now: datetime
) -> tuple[list[Line], int]:
    """The lines asked for, by their time, and the number of the last event heard."""
    lines, last = await told(node, vm_uuid, now)
    found = [line for line in sorted([*known, *lines], key=lambda line: line.at) if wanted.takes(line)]
    return (found if wanted.tail is None else found[max(0, len(found) - wanted.tail) :]), last


async def followed(node: Node | None, vm_uuid: str, after: int, wanted: Wanted) -> AsyncIterator[Line]:
    """What happens from now on (rule 4)."""
    if node is None:
        return
    try:
        async with asyncio.timeout(FOLLOW_SECONDS):
            async for event in node.events(after):
                for line in _lines(event, vm_uuid):
                    if wanted.takes(line):
                        yield line
    except (TimeoutError, TeehouseError):
        return


def _lines(event: NodeEvent, vm_uuid: str) -> list[Line]:
    if event.cvm_id != vm_uuid or event.kind is EventKind.GAP:
        return []
    text = f"{event.kind.value}: {event.detail}" if event.detail else event.kind.value
    return [Line(event.time, text, event.kind is EventKind.ERROR)]
