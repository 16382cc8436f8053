"""`teehouse agent`, `teehouse pccs` and `teehouse verify` as a user starts them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dstack_sdk import DstackClient

from support.functional_support import need, registers_of, run_js
from support.processes import Process, started

SEED = "07" * 32
Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `teehouse …` and waits for a word in what it prints; ends all of them at the end."""
    running: list[Process] = []

    def one(*arguments: str, until: str, environ: dict[str, str] | None = None) -> Process:
        process = started(tmp_path / f"log-{len(running)}", arguments, until=until, environ=environ)
        running.append(process)
        return process

    yield one
    for process in running:
        process.kill()


def teehouse(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "teehouse", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environ or {})},
    )


def info(directory: Path) -> Any:
    client = DstackClient(str(directory / "dstack.sock"))
    with client:
        return client.info()


def test_state_survives_a_restart_and_a_kill(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "agent"
    arguments = ("agent", "--emulated", "--dir", str(directory), "--seed", SEED)
    first = start(*arguments, until="ready")
    client = DstackClient(str(directory / "dstack.sock"))
    with client:
        client.emit_event("before", b"restart")
        key = client.get_key("a", "b").key
        before = client.info()
    assert first.stop(signal.SIGTERM) == 0
    assert not (directory / "dstack.sock").exists()

    second = start(*arguments, until="ready")
    again = info(directory)
    assert (again.app_id, again.instance_id, again.tcb_info.rtmr3, again.device_id) == (
        before.app_id,
        before.instance_id,
        before.tcb_info.rtmr3,
        before.device_id,
    )
    second.kill()  # no clean end: the socket files stay behind

    start(*arguments, until="ready")
    client = DstackClient(str(directory / "dstack.sock"))
    with client:
        client.emit_event("after", b"kill")
        quote = client.get_quote(b"x")
        assert client.get_key("a", "b").key == key
    replayed = quote.replay_rtmrs()
    assert tuple(replayed[i] for i in range(4)) == registers_of(quote.quote)
    assert [e.event for e in quote.decode_event_log()][-2:] == ["before", "after"]


def test_another_compose_file_is_another_app(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "agent"
    compose = tmp_path / "docker-compose.yaml"
    compose.write_text("services: {}\n")
    start("agent", "--emulated", "--dir", str(directory), until="ready").stop(signal.SIGINT)
    process = start("agent", "--emulated", "--dir", str(directory), until="ready")
    default = info(directory)
    process.stop(signal.SIGINT)
    start("agent", "--emulated", "--dir", str(directory), "--compose", str(compose), until="ready")
    other = info(directory)
    assert other.app_name == tmp_path.name
    assert json.loads(other.tcb_info.app_compose)["docker_compose_file"] == "services: {}\n"
    assert other.app_id != default.app_id
    assert other.tcb_info.rtmr3 != default.tcb_info.rtmr3


def test_a_second_agent_in_the_same_folder_is_refused(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "agent"
    start("agent", "--emulated", "--dir", str(directory), until="ready")
    refused = teehouse("agent", "--emulated", "--dir", str(directory))
    assert refused.returncode == 2
    assert "socket" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert info(directory).app_id  # the first one goes on


def test_text_beyond_ascii_and_answers_beyond_64_kib(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "agent"
    compose = tmp_path / "app-compose.json"
    text = json.dumps(
        {
            "manifest_version": 2,
            "name": "tée-hüt 🫖",
            "runner": "docker-compose",
            "docker_compose_file": "# naïve\n" * 10_000,
        },
        ensure_ascii=False,
    )
    compose.write_text(text, encoding="utf-8")
    start("agent", "--emulated", "--dir", str(directory), "--compose", str(compose), until="ready")
    answer = info(directory)
    assert (answer.app_name, answer.tcb_info.app_compose) == ("tée-hüt 🫖", text)
    if need("node", "nodejs npm"):
        seen = run_js("info.mjs", str(directory / "dstack.sock"))
        assert seen == {"name": "tée-hüt 🫖", "compose": len(text.encode("utf-16-le")) // 2}


def test_certificates_openssl_accepts_and_teehouse_verifies(tmp_path: Path, start: Start) -> None:
    openssl = need("openssl", "openssl")
    directory = tmp_path / "agent"
    process = start("agent", "--emulated", "--dir", str(directory), "--tcp", "127.0.0.1:0", until="ready")
    url = process.url()
    client = DstackClient(url)
    with client:
        tls = client.get_tls_key("example.com", ["example.com", "127.0.0.1"], usage_ra_tls=True)
    leaf, app_ca, kms_ca = (tmp_path / name for name in ("leaf.pem", "app-ca.pem", "kms-ca.pem"))
    for path, pem in zip((leaf, app_ca, kms_ca), tls.certificate_chain, strict=True):
        path.write_text(pem)
    done = subprocess.run(
        [
            openssl,
            "verify",
            "-CAfile",
            kms_ca,
            "-untrusted",
            app_ca,
            "-verify_ip",
            "127.0.0.1",
            "-verify_hostname",
            "example.com",
            leaf,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{leaf}: OK\n"), done.stderr

    root = f"emulated:{directory / 'root-ca.pem'}"
    accepted = teehouse("verify", "certificate", str(leaf), "--root", root, "--pccs", url, "--json")
    report = json.loads(accepted.stdout)
    assert (accepted.returncode, report["outcome"]) == (0, "accepted")
    refused = teehouse("verify", "certificate", str(leaf), "--pccs", url)
    assert refused.returncode == 10
    assert "Traceback" not in refused.stderr + refused.stdout


def test_verify_takes_the_agents_own_answers(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "agent"
    url = start("agent", "--emulated", "--dir", str(directory), "--tcp", "127.0.0.1:0", until="ready").url()
    curl = need("curl", "curl")
    root = f"emulated:{directory / 'root-ca.pem'}"
    for kind, method in (("quote", "GetQuote"), ("attestation", "Attest")):
        file = tmp_path / f"{kind}.json"
        socket = str(directory / "dstack.sock")
        with file.open("wb") as out:
            subprocess.run(
                [curl, "-s", "--unix-socket", socket, f"http://dstack/{method}?report_data=00ff"],
                stdout=out,
                check=True,
            )
        accepted = teehouse("verify", kind, str(file), "--root", root, "--pccs", url)
        assert accepted.returncode == 0, accepted.stdout
        last = accepted.stdout.strip().splitlines()[-1]
        assert last.startswith("ACCEPTED EMULATED under root emulated:")
        missing = teehouse("verify", kind, str(file), "--root", root)
        assert missing.returncode == 40
    assert teehouse("verify", "quote", str(tmp_path / "none"), "--root", root).returncode == 2


def test_the_pccs_alone(tmp_path: Path, start: Start) -> None:
    url = start(
        "pccs", "--emulated", "--dir", str(tmp_path / "pccs"), "--tcp", "127.0.0.1:0", until="EMULATED"
    ).url()
    curl = need("curl", "curl")
    crl = subprocess.run(
        [curl, "-s", f"{url}/sgx/certification/v4/rootcacrl"], capture_output=True, check=True, text=True
    ).stdout
    assert bytes.fromhex(crl)[:1] == b"\x30"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("agent", "--emulated", "--tcp", "0.0.0.0:1"), 2, "loopback"),
        (("agent", "--emulated", "--tcp", "nonsense"), 2, "HOST:PORT"),
        (("agent", "--tcp", "127.0.0.1:1"), 2, "--emulated"),
        (("agent", "--emulated", "--seed", "zz"), 2, "64 hex digits"),
        (("pccs",), 2, "--emulated"),
        (("verify", "quote"), 2, "FILE"),
    ],
)
def test_misuse_is_said_in_a_line(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = teehouse(*arguments, environ={"HOME": str(tmp_path), "COLUMNS": "200"})
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (code, True, False), (
        done.stderr
    )


def test_production_starts_without_the_emulator(tmp_path: Path) -> None:
    """Delete the emulator's packages: the production agent still starts, and says that no TDX is present."""
    source = Path(__file__).parents[2] / "src"
    shutil.copytree(source, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(tmp_path / "src" / "teehouse" / "tee_emulated")
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from teehouse.stack.main import run; sys.exit(run())"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "src"), "agent"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    if Path("/dev/tdx_guest").exists():
        pytest.skip("this machine has TDX")
    assert done.returncode == 40
    assert "there is no Intel TDX here" in done.stderr
    assert "tdx.absent" in done.stderr
    assert "Traceback" not in done.stderr
