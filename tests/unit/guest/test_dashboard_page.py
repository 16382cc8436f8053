"""The dashboard as a reader finds it (guest-agent.md 13.4; rules of `guest.dashboard` and `guest.assets`)."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.guest_agent import Agent, agent
from support.pages_support import HOST, ROOT, Document, FixedContainers, outside
from teehouse.attestation.roots import TrustedRoot
from teehouse.base.findings import unavailable
from teehouse.guest.assets import SECURITY_HEADERS
from teehouse.guest.containers import Container
from teehouse.guest.dashboard import duration, grouped, host_rows, log_link, size, tone

OPEN = {"public_logs": True, "public_sysinfo": True}
WEB = Container("web-1", "running", "Up 3 hours", "web:2")
JOB = Container("job-1", "exited", "Exited (0) 3 hours ago")
HOSTILE = """<script>alert(1)</script>"'&</title><img src=x onerror=alert(1)>\u202e{{ 7*7 }}"""


async def read(client: httpx.AsyncClient, path: str = "/") -> Document:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    return Document(answer.text)


async def test_what_a_person_finds(tmp_path: Path) -> None:
    async with (
        agent(tmp_path, compose=OPEN, cloud_vendor="QEMU", cloud_product="Standard PC") as made,
        outside(made, containers=FixedContainers((WEB, JOB))) as client,
    ):
        info = (await client.get("/prpc/Worker.Info")).json()
        page = await read(client)
    words = page.words
    assert words.startswith(
        "Worker Information Skip to content EMULATED Nothing here is protected by hardware."
    )
    assert f"Quotes verify under this root only: {ROOT.name}" in words
    assert [tag for tag, _ in page.tags if tag in {"h1", "h2"}] == ["h1"] + ["h2"] * 6
    for heading in (
        "Node Information",
        "Host",
        "Deployed Containers",
        "Measurements",
        "Events in RTMR3",
        "TCB Info",
    ):
        assert heading in words
    for row in (
        "App Name büro",
        f"App ID {info['app_id']}",
        f"Instance ID {info['instance_id']}",
        f"Device ID {info['device_id']}",
        f"Compose Hash {info['compose_hash']}",
        "Key Provider Info No provider: the keys were made here and nobody else vouches for them.",
        "Machine Provider QEMU (Standard PC)",
        "Operating System dstack 0.5.4",
        "Kernel Version 6.9.0-dstack",
        "CPU cpu0 @800 MHz (4 cores)",
        "Memory Usage 2.00 GB / 8.00 GB",
        "Swap Usage 4.00 KB / 1.00 GB",
        "Load Average 0.13, 1.00, 12.35",
        "System Uptime 1 d 2 h 3 min",
        "Disk / 15.00 GB / 20.00 GB",
        "Containers 1 of 2 running",
        "web-1 web:2 running Up 3 hours",
        "job-1 exited Exited (0) 3 hours ago",
        "Root EMULATED Keys from none",
        f"os_image_hash The system image: firmware, kernel, initial file system {info['os_image_hash']}",
        "1 system-preparing The system began to prepare the app no payload",
        f"3 compose-hash SHA-256 of the app-compose file {info['compose_hash']}",
    ):
        assert row in words
    [area] = page.all("textarea")
    assert "readonly" in area
    assert info["tcb_info"] in page.text
    links = [link["href"] for link in page.all("a")]
    assert links[0] == "#main"
    assert "/metrics" in links
    assert "/logs/web-1?text&bare&timestamps&follow&tail=20" in links
    assert [meter["aria-label"] for meter in page.all("meter")] == ["Memory Usage", "Swap Usage", "Disk /"]


async def test_d1_names_are_text_everywhere(tmp_path: Path) -> None:
    """Item 4 of what the pages must do: markup in a name changes no tag of the page."""
    pages = []
    for directory, name in (("benign", "name"), ("hostile", HOSTILE)):
        container = Container(name, name, name, name)
        async with (
            agent(
                tmp_path / directory, compose={**OPEN, "name": name}, cloud_vendor=name, cloud_product=name
            ) as made,
            outside(made, containers=FixedContainers((container,))) as client,
        ):
            await made.log.emit(name, b"payload")
            pages.append(await read(client))
    benign, hostile = pages
    assert [tag for tag, _ in benign.tags if tag != "wbr"] == [tag for tag, _ in hostile.tags if tag != "wbr"]
    assert hostile.text.count(HOSTILE) >= 8
    assert "49" not in hostile.words.replace(HOSTILE, "").split()
    [log] = [link["href"] for link in hostile.all("a") if str(link["href"]).startswith("/logs")]
    assert log is not None
    assert not set("<>\"' {}") & set(log)
    for _, attributes in hostile.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)


async def test_d2_the_band_is_for_emulation_alone(tmp_path: Path) -> None:
    async with agent(tmp_path) as made, outside(made, TrustedRoot.intel()) as client:
        page = await read(client)
        assert "emulated" not in page.words.replace("Emulated TDX", "").lower()
        assert page.all("aside") == []
        assert "Root Intel SGX Root CA" in page.words


async def test_d3_parts_are_those_of_the_page(tmp_path: Path) -> None:
    async with (
        agent(tmp_path, compose=OPEN) as made,
        outside(made, containers=FixedContainers((WEB,))) as client,
    ):
        page = (await client.get("/")).text
        live = (await client.get("/?fragment=1")).text
        tcb = (await client.get("/?fragment=tcb")).text
        assert live in page
        assert tcb in page
        parts = [section["id"] for section in Document(live).all("section") if "data-live" in section]
        assert parts == ["summary", "containers", "node", "host", "measurements", "events"]
        await client.get("/prpc/Worker.Version")
        await made.log.emit("deployed", b"\x01")
        later = Document((await client.get("/?fragment=1")).text)
        assert "deployed Emitted by the app 01" in later.words


async def test_d3_what_has_not_changed_is_not_sent_again(tmp_path: Path) -> None:
    async with agent(tmp_path, compose=OPEN) as made, outside(made) as client:
        first = await client.get("/?fragment=1")
        assert first.headers["cache-control"] == "no-cache"
        tag = first.headers["etag"]
        for shown, status in ((tag, 304), (f'"other", W/{tag}', 304), ('"other"', 200)):
            again = await client.get("/?fragment=1", headers={"if-none-match": shown})
            assert again.status_code == status
            assert again.headers["etag"] == tag
            assert bool(again.content) == (status == 200)
        await made.log.emit("deployed", b"")
        assert (await client.get("/?fragment=1", headers={"if-none-match": tag})).status_code == 200


async def test_d4_nothing_from_elsewhere_and_nothing_inline(tmp_path: Path) -> None:
    async with agent(tmp_path, compose=OPEN) as made, outside(made) as client:
        page = await read(client)
        addresses = [script["src"] for script in page.all("script")]
        addresses += [link["href"] for link in page.all("link")]
        assert len(addresses) == 3
        assert page.all("style") == []
        for address in addresses:
            assert address is not None
            assert address.startswith("/static/")
            answer = await client.get(address)
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert b"http" not in answer.content.replace(b"http://www.w3.org/2000/svg", b"")
            plain = address.split("?")[0]
            assert (await client.get(plain)).headers["cache-control"] == "no-cache"
            stale = await client.get(plain + "?v=0", headers={"if-none-match": answer.headers["etag"]})
            assert (stale.status_code, stale.headers["cache-control"]) == (304, "no-cache")
        for path in ("/static/", "/static/../pages.py", "/static/%2e%2e/pages.py", "/static/dashboard.css/x"):
            assert (await client.get(path)).status_code == 404


async def test_d5_an_engine_that_is_gone(tmp_path: Path) -> None:
    gone = FixedContainers(fault=unavailable("engine", "no engine", found="/secret/path"))
    async with agent(tmp_path, compose=OPEN) as made, outside(made, containers=gone) as client:
        page = await read(client)
        assert "The container engine does not answer." in page.words
        assert "/secret/path" not in page.text
        assert "Containers unknown" in page.words


async def test_d5_an_agent_that_cannot_say_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent(tmp_path) as made, outside(made) as client:
        await made.log.close()
        answer = await client.get("/")
        assert answer.status_code == 500
        assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [({}, "No workload is attached to this agent."), ({"containers": FixedContainers()}, "No containers.")],
)
async def test_an_agent_without_containers(tmp_path: Path, sources: dict[str, Any], sentence: str) -> None:
    async with agent(tmp_path) as made, outside(made, **sources) as client:
        assert sentence in (await read(client)).words


async def test_readers_who_come_together(tmp_path: Path) -> None:
    async with agent(tmp_path, compose=OPEN) as made, outside(made) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert made.service.observed.quotes.counts[-1] <= 2  # Info, and the demonstration certificate


def unknown_names() -> list[tuple[Container, str]]:
    return [
        (WEB, "good"),
        (JOB, "calm"),
        (Container("a", "exited", "Exited (137) 1 second ago"), "bad"),
        (Container("a", "created", "Created"), "calm"),
        (Container("a", "paused", "Up 1 hour (Paused)"), "calm"),
        (Container("a", "restarting", "Restarting (1)"), "bad"),
        (Container("a", "", ""), "bad"),
    ]


@pytest.mark.parametrize(("container", "expected"), unknown_names())
def test_which_containers_need_a_look(container: Container, expected: str) -> None:
    assert tone(container) == expected


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0.00 B"),
        (1023, "1023.00 B"),
        (1024, "1.00 KB"),
        (1536, "1.50 KB"),
        (1024**2, "1.00 MB"),
        (8 * 1024**3, "8.00 GB"),
        (1024**4, "1.00 TB"),
        (1024**6 * 5000, "5000.00 EB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h 0 min"),
        (86400, "1 d 0 h 0 min"),
    ],
)
def test_durations(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_long_identifiers_may_be_broken_and_are_escaped() -> None:
    assert grouped("0123456789abcdef01") == "01234567<wbr>89abcdef<wbr>01"
    assert grouped("<b>") == "&lt;b&gt;"
    assert grouped("") == ""


def test_links_of_logs() -> None:
    assert log_link("a/b?c#d e") == "/logs/a%2Fb%3Fc%23d%20e?text&bare&timestamps&follow&tail=20"


def test_a_host_with_one_processor_and_without_disks() -> None:
    from dataclasses import replace

    rows = host_rows(replace(HOST, num_cpus=1, disks=(), os_version=""))
    assert [row.text for row in rows[:3]] == ["dstack", "6.9.0-dstack", "cpu0 @800 MHz (1 core)"]
    assert len(rows) == 7


async def test_the_tcb_info_of_another_agent_is_not_kept(tmp_path: Path) -> None:
    async with agent(tmp_path / "a") as one, agent(tmp_path / "b", compose={"name": "other"}) as two:
        for made, name in ((one, "büro"), (two, "other")):
            made_page = await first_page(made)
            assert f"App Name {name}" in made_page.words


async def first_page(made: Agent) -> Document:
    async with outside(made) as client:
        return await read(client)
