"""The boot log of a CVM, read by the link that its detail shows (cloud-api.md 12.5, 13.1)."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.cloud_api_support import Api, api
from teehouse.base.findings import unavailable
from teehouse.cloud.cvms import serial_log
from teehouse.cloud.cvms.serial_log import Line, Wanted, followed, log_of, parse_moment
from teehouse.cloud.errors import CloudError
from teehouse.node.api import EventKind, NodeEvent

NOW = datetime(2026, 6, 23, 12, 0, tzinfo=UTC)
V1 = {"X-Phala-Version": "2025-10-28"}
UUID = "5f" * 16


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Api]:
    async with api("sqlite", tmp_path) as made:
        assert made.cloud.parts.lifecycle is not None
        made.cloud.parts.nodes = made.cloud.parts.lifecycle.nodes
        yield made


async def endpoint(served: Api) -> str:
    """The CVM's `syslog_endpoint`, from the API's prefix on."""
    url: str = (await served.call("GET", "/cvms/my-app", headers=V1)).json()["syslog_endpoint"]
    prefix = served.cloud.parts.settings.public_url
    assert url.startswith(prefix)
    assert "?" in url
    return url.removeprefix(prefix)


async def test_the_link_of_the_detail_leads_to_the_log(served: Api) -> None:
    """What the CLI appends is `&ch=...&tail=N&lines=N&timestamps&ansi`, and it shows no key."""
    await served.deploy()
    anonymous, link = served.cloud.client(None), await endpoint(served)
    whole = await anonymous.get(f"{link}&ch=serial&ansi")
    assert (whole.status_code, whole.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    lines = whole.text.splitlines()
    assert "succeeded: operation create" in lines
    assert "phase: running" in lines
    last = await anonymous.get(f"{link}&ch=serial&tail=1&lines=1&timestamps&ansi")
    assert last.text == f"2026-06-23T12:00:00Z {lines[-1]}\n"
    for channel in ("stdout", "stderr"):
        assert (await anonymous.get(f"{link}&ch={channel}")).text == ""
    assert (await anonymous.get(f"{link}&ch=serial&since=2027-01-01T00:00:00Z")).text == ""
    assert (await anonymous.get(f"{link}&ch=serial&since=42m&until=2027-01-01T00:00:00Z")).text == whole.text


async def test_a_link_is_good_for_its_cvm_and_its_time(served: Api) -> None:
    cvm = await served.deploy()
    uuid = cvm["vm_uuid"].replace("-", "")
    anonymous, link = served.cloud.client(None), await endpoint(served)
    other = link.replace(uuid, "0" * 32)
    longer = link.replace("until_time=", "until_time=9")
    for forged in (other, longer, link[:-1] + ("0" if link[-1] != "0" else "1")):
        assert (await anonymous.get(forged)).status_code == 403
    served.cloud.clock.advance(timedelta(seconds=serial_log.LINK_SECONDS))
    assert (await anonymous.get(link)).status_code == 200
    served.cloud.clock.advance(timedelta(seconds=1))
    assert (await anonymous.get(link)).status_code == 403


@pytest.mark.parametrize("query", ["ch=other", "tail=-1", "tail=10001", "since=yesterday", "until=-1m"])
async def test_what_is_no_channel_count_or_time_is_refused(served: Api, query: str) -> None:
    await served.deploy()
    answer = await served.cloud.client(None).get(f"{await endpoint(served)}&{query}")
    assert answer.status_code in {400, 422}


async def test_a_deleted_cvm_has_no_log(served: Api) -> None:
    await served.deploy()
    link = await endpoint(served)
    await served.call("DELETE", "/cvms/my-app")
    assert (await served.cloud.client(None).get(link)).status_code == 404


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("42m", NOW - timedelta(minutes=42)),
        ("3h", NOW - timedelta(hours=3)),
        ("2d", NOW - timedelta(days=2)),
        (str(int(NOW.timestamp())), NOW),
        ("2026-06-23T14:00:00+02:00", NOW),
        ("2026-06-23T12:00:00", NOW),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "999999999d", "9" * 30, "soon"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(CloudError, match="is no time"):
        parse_moment(text, NOW)


class Telling:
    """A node of which only the events are asked."""

    def __init__(self, *events: NodeEvent, error: bool = False, quiet: bool = False) -> None:
        self._events = events
        self._error = error
        self._quiet = quiet

    async def events(self, after: int = 0) -> AsyncIterator[NodeEvent]:
        for event in self._events:
            if event.sequence > after:
                yield event
        if self._error:
            raise unavailable("node.silent", "the node")
        if self._quiet:
            await asyncio.sleep(60)


def event(
    sequence: int, detail: str, kind: EventKind = EventKind.STEP, *, seconds: int = 0, uuid: str = UUID
) -> NodeEvent:
    return NodeEvent(sequence, NOW + timedelta(seconds=seconds), uuid, kind, detail)


KNOWN = (
    Line(NOW - timedelta(seconds=5), "create: operation create"),
    Line(NOW, "failed: no keys", failure=True),
)


async def test_lines_of_database_and_node_by_their_time() -> None:
    """Rules 2, 3."""
    node: Any = Telling(
        event(1, "", EventKind.GAP, uuid=""),
        event(2, "keys", seconds=-3),
        event(3, "of another", uuid="00" * 16),
        event(4, "no keys", EventKind.ERROR, seconds=-1),
        event(5, "after the question", seconds=1),
        quiet=True,
    )
    lines, last = await log_of(node, UUID, KNOWN, Wanted(), NOW)
    assert [line.text for line in lines] == [
        "create: operation create",
        "step: keys",
        "error: no keys",
        "failed: no keys",
    ]
    assert last == 4
    failures, _ = await log_of(node, UUID, KNOWN, Wanted("stderr"), NOW)
    assert [line.text for line in failures] == ["error: no keys", "failed: no keys"]
    assert await log_of(node, UUID, KNOWN, Wanted("stdout"), NOW) == ([], 4)
    last_one, _ = await log_of(node, UUID, KNOWN, Wanted(tail=1), NOW)
    assert [line.text for line in last_one] == ["failed: no keys"]
    assert (await log_of(node, UUID, KNOWN, Wanted(tail=0), NOW))[0] == []


@pytest.mark.parametrize("node", [None, Telling(error=True), Telling(quiet=True), Telling()])
async def test_a_silent_node_takes_nothing_away(node: Any) -> None:
    assert (await log_of(node, UUID, KNOWN, Wanted(), NOW))[0] == list(KNOWN)


async def test_a_followed_log_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 4."""
    monkeypatch.setattr(serial_log, "FOLLOW_SECONDS", 0.1)
    node: Any = Telling(event(1, "known"), event(2, "new"), event(3, "other", uuid="00" * 16), quiet=True)
    assert [line.text async for line in followed(node, UUID, 1, Wanted())] == ["step: new"]
    assert [line async for line in followed(node, UUID, 1, Wanted("stdout"))] == []
    failing: Any = Telling(event(2, "new"), error=True)
    assert [line.text async for line in followed(failing, UUID, 1, Wanted())] == ["step: new"]
    assert [line async for line in followed(None, UUID, 0, Wanted())] == []


async def test_following_through_the_api(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_log, "FOLLOW_SECONDS", 0.1)
    await served.deploy()
    anonymous, link = served.cloud.client(None), await endpoint(served)
    begun = (await anonymous.get(link)).text
    answer = await anonymous.get(f"{link}&follow&timestamps")
    assert [line.partition(" ")[2] for line in answer.text.splitlines()] == begun.splitlines()
