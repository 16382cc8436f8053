"""The dashboard of `teehouse agent --emulated --tcp` in a browser, as a person uses it."""

import itertools
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
import pytest
from dstack_sdk import DstackClient
from playwright.sync_api import Page, expect

from support.browser import Window, browser
from support.docker_engine import IMAGE, docker_engine
from support.processes import Process, free_port, started

SEED = "0d" * 32
NAME = "<script>alert(1)</script>büro"
COMPOSE = {
    "manifest_version": 2,
    "name": NAME,
    "runner": "docker-compose",
    "kms_enabled": True,
    "public_logs": True,
    "public_sysinfo": True,
}
Start = Callable[..., "Served"]


class Served:
    """A running agent."""

    def __init__(self, directory: Path, arguments: tuple[str, ...]) -> None:
        self.directory = directory
        self._arguments = arguments
        self.process: Process
        self.start()

    def start(self) -> None:
        self.process = started(self.directory.with_suffix(".log"), self._arguments, until="dashboard:")

    @property
    def url(self) -> str:
        return self.process.url() + "/"

    @property
    def root(self) -> str:
        found = re.search(r"emulated:[0-9a-f]{32}", self.process.output())
        assert found
        return found.group()

    def emit(self, event: str, payload: bytes) -> None:
        client = DstackClient(str(self.directory / "dstack.sock"))
        with client:
            client.emit_event(event, payload)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Start]:
    """Starts an agent over `COMPOSE`; ends it at the end."""
    running: list[Served] = []

    def one(*more: str, **members: object) -> Served:
        compose = tmp_path / "app-compose.json"
        compose.write_text(json.dumps({**COMPOSE, **members}, ensure_ascii=False), encoding="utf-8")
        address = f"127.0.0.1:{free_port()}"
        fixed = ("agent", "--emulated", "--seed", SEED, "--dir", str(tmp_path / "agent"))
        served = Served(tmp_path / "agent", (*fixed, "--tcp", address, "--compose", str(compose), *more))
        running.append(served)
        return served

    yield one
    for served in running:
        served.process.kill()


def opened(window: Window, served: Served) -> Page:
    window.page.goto(served.url)
    return window.page


def scrolls_sideways(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def test_a_person_sees_what_runs_here_and_under_whose_root(serve: Start) -> None:
    served = serve()
    with browser() as window:
        page = opened(window, served)
        expect(page).to_have_title("Worker Information")
        band = page.get_by_role("complementary", name="Emulated platform")
        expect(band).to_contain_text("Nothing here is protected by hardware.")
        expect(band.get_by_text(served.root)).to_be_in_viewport()
        expect(page.get_by_role("heading", level=1)).to_have_text(NAME)
        headings = page.get_by_role("heading", level=2)
        expect(headings).to_have_text(
            ["Deployed Containers", "Node Information", "Host", "Measurements", "Events in RTMR3", "TCB Info"]
        )
        page.mouse.wheel(0, 1500)  # the band stays in sight
        expect(band.get_by_text(served.root)).to_be_in_viewport()
        expect(page.get_by_role("status")).to_have_text("Live: refreshed every 2 seconds")
        assert window.complaints == []
        assert {urlsplit(address).netloc for address in window.addresses} == {urlsplit(served.url).netloc}


def test_it_refreshes_without_a_reload(serve: Start) -> None:
    served = serve()
    with browser() as window:
        page = opened(window, served)
        page.evaluate("window.kept = true")
        boot = page.locator("#events-RTMR0")
        boot.locator("summary").click()
        page.get_by_text("Registers, event log and app-compose file as JSON").click()
        register = page.locator("#measurements dd", has_text="The app: the events").locator("code")
        before = register.inner_text()
        served.emit("<img src=x onerror=alert(1)>", b"it happened")
        expect(page.locator("#events li").last).to_contain_text("<img src=x onerror=alert(1)>", timeout=5000)
        expect(page.locator("#events li").last).to_contain_text("it happened")
        expect(page.locator("#summary")).to_contain_text("Events in RTMR3")
        assert register.inner_text() != before
        expect(page.locator("textarea")).to_have_value(re.compile(b"it happened".hex()))
        expect(boot).to_have_attribute("open", "")
        assert page.evaluate("window.kept") is True
        assert window.complaints == []


def test_what_a_reader_does_survives_a_refresh(serve: Start) -> None:
    served = serve()
    with browser() as window:
        page = opened(window, served)
        button = page.get_by_role("button", name="Copy App ID")
        button.focus()
        link = page.locator("#measurements summary").first
        link.focus()
        for _ in range(2):
            served.emit("again", b"")
            count = page.locator("#events li").count()
            expect(page.locator("#events li")).to_have_count(count + 1, timeout=5000)
        expect(link).to_be_focused()
        page.evaluate("getSelection().selectAllChildren(document.querySelector('#events'))")
        selected = page.evaluate("getSelection().toString()")
        served.emit("while somebody reads", b"")
        expect(page.locator("#measurements")).to_contain_text("RTMR3")
        page.wait_for_timeout(2500)
        assert page.evaluate("getSelection().toString()") == selected
        page.evaluate("getSelection().removeAllRanges()")
        expect(page.locator("#events li").last).to_contain_text("while somebody reads", timeout=5000)


def test_identifiers_are_copied_whole(serve: Start) -> None:
    served = serve()
    info = httpx.get(served.url + "prpc/Worker.Info").json()
    with browser(permissions=("clipboard-read", "clipboard-write")) as window:
        page = opened(window, served)
        for name, value in (("App ID", info["app_id"]), ("os_image_hash", info["os_image_hash"])):
            button = page.get_by_role("button", name=f"Copy {name}")
            button.click()
            expect(button).to_have_text("Copied")
            assert page.evaluate("navigator.clipboard.readText()") == value


def test_an_agent_that_goes_and_comes_back(serve: Start) -> None:
    served = serve()
    with browser() as window:
        page = opened(window, served)
        status = page.get_by_role("status")
        expect(status).to_have_text("Live: refreshed every 2 seconds")
        assert served.process.stop(signal.SIGTERM) == 0
        expect(status).to_contain_text("No answer since", timeout=8000)
        expect(page.get_by_role("heading", level=1)).to_have_text(NAME)
        served.start()
        expect(status).to_have_text("Live: refreshed every 2 seconds", timeout=8000)


def test_it_works_without_javascript(serve: Start) -> None:
    served = serve()
    served.emit("from-the-test", b"\x01\x02")
    with browser(javascript=False) as window:
        page = opened(window, served)
        expect(page.get_by_role("complementary")).to_contain_text(served.root)
        expect(page.locator("#events")).to_contain_text("from-the-test")
        expect(page.get_by_role("status")).to_have_text("Reload this page to refresh it")
        expect(page.locator("button")).to_have_count(0)
        page.get_by_text("Registers, event log and app-compose file as JSON").click()
        expect(page.locator("textarea")).to_be_visible()
        page.get_by_role("link", name="Metrics").click()
        expect(page.locator("body")).to_contain_text("teehouse_emulated")


def test_it_fits_every_screen(serve: Start) -> None:
    served = serve()
    served.emit("a-name-that-is-one-long-word-" * 8, b"\xff" * 400)
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for width, scheme in itertools.product((1280, 390, 320), schemes):
        with browser(width=width, height=844, scheme=scheme) as window:
            page = opened(window, served)
            for details in page.locator("details").all():
                details.locator("summary").click()
            assert not scrolls_sideways(page), (width, scheme)
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            brightness = sum(int(part) for part in re.findall(r"\d+", ground)[:3])
            assert (brightness > 600) == (scheme == "light")


def test_a_log_is_followed(serve: Start, tmp_path_factory: pytest.TempPathFactory) -> None:
    """From the table to the container's log, where a line is seen within two seconds of its writing."""
    with docker_engine(tmp_path_factory.mktemp("engine")) as engine:
        script = "echo ready; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo it appeared; sleep 600"
        engine.run("run", "-d", "--name", "web-1", "--network", "none", IMAGE, "sh", "-c", script)
        engine.run("run", "--name", "job-1", "--network", "none", IMAGE, "sh", "-c", "echo done")
        served = serve("--engine", str(engine.socket))
        with browser() as window:
            page = opened(window, served)
            expect(page.locator("#summary")).to_contain_text("1 of 2 running")
            job, web = page.locator("#containers tbody tr").all()
            expect(job).to_contain_text("exited")
            expect(web).to_contain_text("running")
            web.get_by_role("link", name="Follow").click(no_wait_after=True)
            expect(page.locator("body")).to_contain_text("ready", timeout=10_000)
            engine.run("exec", "web-1", "touch", "/tmp/go")  # noqa: S108 - in the container
            written = time.monotonic()
            expect(page.locator("body")).to_contain_text("it appeared", timeout=5000)
            assert time.monotonic() - written < 2
            assert "/logs/web-1?text&bare&timestamps&follow&tail=20" in page.url
        with browser() as window:
            page = opened(window, served)
            engine.run("rm", "-f", "web-1")
            expect(page.locator("#containers tbody tr")).to_have_count(1, timeout=5000)
