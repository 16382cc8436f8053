"""`teehouse kms` and `teehouse auth`, as they are typed, and the KMS that they put together."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from typer.testing import CliRunner, Result

from support.auth_support import BOOT_INFO, rules_file
from support.emulated import SEED, clock
from teehouse.attestation.mrconfig import ConfiguredIdentity
from teehouse.base.clock import SystemClock
from teehouse.base.findings import MisuseError, TeehouseError
from teehouse.base.listener import Listener
from teehouse.cli.chain_options import ChainOptions
from teehouse.guest.attest import EvidenceSource
from teehouse.guest.boot import BootIdentity, measure_before_keys
from teehouse.guest.measurements import MeasurementLog
from teehouse.guest.sockets import TcpAddress, bind_tcp
from teehouse.keys.appkeys import KmsProvider
from teehouse.kms.audit import AuditLog, Head, Who, read_records
from teehouse.kms.auth_chain import ChainAuth
from teehouse.kms.auth_file import FileAuth
from teehouse.kms.auth_http import HttpAuth
from teehouse.kms.auth_mock import MockAuth
from teehouse.kms.client.appkeys import KeyRequest, get_app_keys
from teehouse.kms.client.connection import KmsConnection, KmsRefusedError
from teehouse.kms.client.public import get_meta
from teehouse.stack import kms_audit
from teehouse.stack.addresses import http_url
from teehouse.stack.agent_emulated import serve_emulated
from teehouse.stack.compose import wrapped
from teehouse.stack.installation import Installation, open_installation
from teehouse.stack.kms_commands import auth_app, kms_app
from teehouse.stack.kms_serving import KmsOptions, any_address, authorisation, open_kms, trusted_roots
from teehouse.tee_emulated.image import EmulatedImage
from teehouse.tee_emulated.pccs import pccs_routes
from teehouse.tee_emulated.td import EmulatedTd

LOOPBACK = "127.0.0.1:0"
ZERO = "0x" + "00" * 20


def typed(app: Any, *arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def audited(directory: Path) -> Head:
    """A log of three records in a KMS's folder."""
    log = AuditLog(directory / "audit.jsonl", clock())
    who = Who(app_id=b"\x0a" * 20, instance_id=b"\x0b" * 20, evidence=b"\x0e" * 32, peer="192.0.2.1:5")
    log.append("GetTempCaCert", "allowed")
    log.append("GetAppKey", "allowed", "", who)
    log.append("GetAppKey", "refused", "Boot denied: [red]no[/red] \x1b[2J", who)
    log.close()
    return log.head


def test_the_log_is_shown_and_its_chain_checked(tmp_path: Path) -> None:
    head = audited(tmp_path)
    result = typed(kms_app, "audit", tmp_path)
    assert result.exit_code == 0
    for text in ("GetTempCaCert", "allowed", "refused", "0a0a0a0a0a0a", "0e0e0e0e0e0e", "192.0.2.1:5"):
        assert text in result.stdout
    assert "\x1b" not in result.stdout
    assert "✓ the audit log is whole: found 3 records" in result.stdout
    assert f"--noted {head.count}:{head.hash}" in result.stdout


def test_the_log_as_json(tmp_path: Path) -> None:
    head = audited(tmp_path)
    result = typed(kms_app, "audit", tmp_path / "audit.jsonl", "--json", "--last", 1)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    records = report.pop("records")
    assert report == {
        "accepted": True,
        "outcome": "accepted",
        "findings": [
            {
                "check": "",
                "code": "audit.chain",
                "outcome": "accepted",
                "subject": "the audit log is whole",
                "expected": "",
                "found": "3 records",
                "remedy": "",
            }
        ],
        "head": {"count": head.count, "hash": head.hash},
    }
    assert [(record["sequence"], record["decision"]) for record in records] == [(2, "refused")]


def test_a_changed_log_is_exit_10(tmp_path: Path) -> None:
    audited(tmp_path)
    path = tmp_path / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"allowed", b"refused") + lines[2])
    result = typed(kms_app, "audit", tmp_path)
    assert result.exit_code == 10
    assert "✗ the chain of the audit log breaks at record 2" in result.stdout
    assert "--noted" not in result.stdout
    path.write_bytes(lines[0] + b"{}\n" + lines[2])
    report = json.loads(typed(kms_app, "audit", tmp_path, "--json").stdout)
    assert (report["accepted"], len(report["records"])) == (False, 1)


def test_a_shortened_log_shows_to_who_noted_its_end(tmp_path: Path) -> None:
    head = audited(tmp_path)
    noted = f"{head.count}:{head.hash}"
    assert typed(kms_app, "audit", tmp_path, "--noted", noted).exit_code == 0
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert typed(kms_app, "audit", tmp_path).exit_code == 0
    assert typed(kms_app, "audit", tmp_path, "--noted", noted).exit_code == 10


def test_an_installation_has_its_log_in_its_state(tmp_path: Path) -> None:
    head = audited(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "audit.jsonl").rename(tmp_path / "state" / "kms-audit.log")
    report = json.loads(typed(kms_app, "audit", tmp_path, "--json").stdout)
    assert report["head"] == {"count": head.count, "hash": head.hash}


def test_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").touch()
    report = json.loads(typed(kms_app, "audit", tmp_path, "--json").stdout)
    assert report["head"] == {"count": 0, "hash": "0" * 64}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["audit", "missing"], "audit.unreadable"),
        (["audit", ".", "--noted", "3"], "audit.noted"),
        (["audit", ".", "--noted", "x:" + "0" * 64], "audit.noted"),
        (["meta", "ftp://kms"], "kms.url"),
        (["meta", "https://127.0.0.1:9", "--root-ca", "missing"], "kms.root"),
        (["meta", "https://127.0.0.1:9"], "kms.unreachable"),
        (["serve", "--policy", "allow-all"], "auth-mock.not-emulated"),
        (["serve", "--policy", "nonsense", "--emulated", "--root", "emulated:root.pem"], "auth-mock.policy"),
        (["serve", "--auth-file", "x", "--emulated"], "kms.roots"),
        (["serve", "--auth-file", "x", "--root", "emulated:root.pem"], "kms.roots"),
        (["serve", "--auth-file", "x", "--emulated", "--root", "emulated:root.pem"], "kms.pccs"),
        (["serve", "--auth-file", "x"], "kms.no-guest-agent"),
        (["serve", "--auth-file", "x", "--tcp", "x"], "address.form"),
        (["serve", "--auth-file", "x", "--tcp", "192.0.2.1:1"], "address.taken"),
        (["serve", "--auth-file", "x", "--sealing-key", "missing"], "kms.sealing-key"),
        (["serve", "--auth-url", "x"], "auth-http.url"),
    ],
)
def test_what_cannot_be_done_says_so(
    arguments: list[str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audit.jsonl").touch()
    installation = open_installation(tmp_path / "installation", SystemClock(), seed=SEED)
    (tmp_path / "root.pem").write_bytes(installation.root_pem.read_bytes())
    if arguments[0] == "serve":
        arguments = [*arguments, "--dir", str(tmp_path / "kms"), "--onboard-tcp", LOOPBACK]
        arguments += [] if "--tcp" in arguments else ["--tcp", LOOPBACK]
    result = typed(kms_app, *arguments)
    assert isinstance(result.exception, TeehouseError)
    assert result.exception.finding.code == code


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (kms_app, ["serve"]),
        (kms_app, ["serve", "--auth-file", "x", "--auth-url", "http://x"]),
        (auth_app, ["serve"]),
        (auth_app, ["serve", "--config", "x", "--device", "00"]),
        (auth_app, ["serve", "--config", "x", "--mr-aggregated", "00"]),
        (auth_app, ["serve", "--backend", "mock", "--emulated", "--config", "x"]),
    ],
)
def test_what_does_not_go_together_is_usage(app: Any, arguments: list[str]) -> None:
    assert typed(app, *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--backend", "mock"], "auth-mock.not-emulated"),
        (["--backend", "mock", "--policy", "x", "--emulated"], "auth-mock.policy"),
        (["--backend", "mock", "--device", "x", "--emulated"], "option.hex"),
        (["--backend", "mock", "--emulated", "--tcp", "0.0.0.0:1"], "address.exposed"),
        (["--backend", "file", "--config", "x", "--tcp", "x"], "address.form"),
        (["--backend", "chain", "--kms-contract", "0x12"], "chain.hex"),
        (["--backend", "chain", "--kms-contract", ZERO, "--rpc-url", "ftp://x"], "chain.url"),
        (["--backend", "chain", "--kms-contract", ZERO, "--chain-id", "1", "--quorum", "2"], "chain.quorum"),
    ],
)
def test_an_authorization_that_cannot_be(arguments: list[str], code: str) -> None:
    result = typed(auth_app, "serve", *arguments)
    assert isinstance(result.exception, MisuseError)
    assert result.exception.finding.code == code


async def test_addresses_and_who_authorizes(tmp_path: Path) -> None:
    assert any_address("[::]:1", emulated=False) == TcpAddress("::", 1)
    with pytest.raises(MisuseError):
        any_address("[::]:1", emulated=True)
    options = KmsOptions(tmp_path, LOOPBACK, LOOPBACK)
    async with AsyncExitStack() as stack:
        for given, kind in (
            ({"auth_url": "http://x"}, HttpAuth),
            ({"auth_file": tmp_path}, FileAuth),
            ({"policy": "deny-all", "emulated": True}, MockAuth),
            ({"chain": ChainOptions(chain_id=1), "kms_contract": bytes(20)}, ChainAuth),
        ):
            assert isinstance(await authorisation(replace(options, **given), stack), kind)  # type: ignore[arg-type] - members of different kinds
    assert [root.name for root in trusted_roots(["intel"], emulated=False)] == ["intel"]


@asynccontextmanager
async def emulated_house(tmp_path: Path) -> AsyncIterator[tuple[Installation, KmsOptions]]:
    """An emulated machine with its guest agent and PCCS, and a KMS's options for it."""
    directory = tmp_path / "machine"
    installation = open_installation(directory, SystemClock(), seed=SEED)
    pccs = bind_tcp(TcpAddress("127.0.0.1", 0))
    url = http_url(pccs)
    listener = Listener(Starlette(routes=pccs_routes(installation.collateral)), [pccs], ident="PCCS")
    await listener.start()
    try:
        async with serve_emulated(installation, wrapped("kms", "services: {}"), None):
            yield (
                installation,
                KmsOptions(
                    tmp_path / "kms",
                    LOOPBACK,
                    LOOPBACK,
                    policy="allow-all",
                    roots=(f"emulated:{installation.root_pem}",),
                    pccs=url,
                    agent=directory / "dstack.sock",
                    domain="127.0.0.1",
                    emulated=True,
                ),
            )
    finally:
        await listener.stop()


async def instance(installation: Installation, folder: Path) -> tuple[BootIdentity, EvidenceSource]:
    """A CVM that has measured its boot up to `boot-mr-done`."""
    image = EmulatedImage.default()
    vm_config = image.vm_config(2, 2 << 30)
    td = EmulatedTd(
        installation.pki.host("host-1"),
        image,
        vm_config=vm_config,
        mr_config_id=bytes(48),
        register_path=folder / "rtmr3",
    )
    td.reset()
    log = MeasurementLog(td, folder, 1)
    await log.open()
    identity = BootIdentity(b"\x0a" * 20, b"\x0c" * 32, b"\x0b" * 20, ())
    await measure_before_keys(log, identity)
    return identity, EvidenceSource(log, td.boot_events(), vm_config)


async def test_a_kms_put_together_gives_keys_for_evidence(tmp_path: Path) -> None:
    warnings: list[str] = []
    async with emulated_house(tmp_path) as (installation, options):
        identity, source = await instance(installation, tmp_path)

        async def attest(report_data: bytes) -> bytes:
            return (await source.take(report_data)).certificate_attestation()

        wanted = KeyRequest("", ConfiguredIdentity(identity.compose_hash, identity.app_id))
        async with open_kms(options, warn=warnings.append) as (server, rpc, _):
            assert server.state == "serving"
            received = await get_app_keys(f"https://{rpc}", wanted, attest, SystemClock().now())
            async with KmsConnection(f"https://{rpc}", root=received.keys.ca_cert) as connection:
                meta = await get_meta(connection)
        assert isinstance(received.keys.key_provider, KmsProvider)
        assert (meta.kms_id, meta.is_dev) == (received.kms_id, True)
        # The same folder again, and now nobody is allowed.
        refusing = replace(options, policy=None, auth_file=tmp_path / "auth.json", self_check=False)
        (tmp_path / "auth.json").write_text(rules_file())
        async with open_kms(refusing, warn=warnings.append) as (_, rpc, _):
            with pytest.raises(KmsRefusedError) as caught:
                await get_app_keys(f"https://{rpc}", wanted, attest, SystemClock().now())
        assert "OS image is not allowed" in caught.value.finding.found
        await source.log.close()
    assert warnings == ["UNSAFE: this KMS does not prove what it runs on"]
    log = tmp_path / "kms" / kms_audit.AUDIT_LOG
    assert [(record.rpc, record.decision) for record in read_records(log)][-2:] == [
        ("GetTempCaCert", "allowed"),
        ("GetAppKey", "refused"),
    ]


async def test_without_keys_and_domain_a_kms_waits_to_be_onboarded(tmp_path: Path) -> None:
    async with (
        emulated_house(tmp_path) as (_, options),
        open_kms(replace(options, domain=None)) as (server, rpc, onboard),
    ):
        assert server.state == "onboarding"
        with socket.socket() as early, pytest.raises(ConnectionRefusedError):
            early.connect((rpc.host, rpc.port))
        async with httpx.AsyncClient(base_url=f"http://{onboard}", trust_env=False) as client:
            assert "no root keys yet" in (await client.get("/")).text


def started(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", STARTER, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


STARTER = (
    "import sys, typer; from teehouse.stack.kms_commands import auth_app, kms_app; app = typer.Typer(); "
    "app.add_typer(auth_app); app.add_typer(kms_app); app()"
)


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@pytest.mark.parametrize("backend", ["file", "mock"])
async def test_an_authorization_is_served_until_it_is_stopped(backend: str, tmp_path: Path) -> None:
    config = tmp_path / "auth.json"
    config.write_text(rules_file())
    options = ["--config", config] if backend == "file" else ["--policy", "deny-app", "--emulated"]
    process = started("auth", "serve", "--backend", backend, *options, "--tcp", LOOPBACK)
    line = await asyncio.to_thread(first_line, process)
    async with HttpAuth(line.split()[-1]) as auth:
        decision = await auth.boot_app(BOOT_INFO)
    assert decision.is_allowed is (backend == "file")
    assert ("EMULATED" in line) is (backend == "mock")
    assert await asyncio.to_thread(ended, process) == (0, "")


async def test_a_kms_is_served_from_bootstrap_until_it_is_stopped(tmp_path: Path) -> None:
    async with emulated_house(tmp_path) as (_, options):
        process = started(
            *("kms", "serve", "--dir", options.directory, "--tcp", LOOPBACK, "--onboard-tcp", LOOPBACK),
            *("--policy", "allow-all", "--root", options.roots[0], "--pccs", options.pccs),
            *("--agent", options.agent, "--emulated", "--site-name", "here"),
        )
        waiting = await asyncio.to_thread(first_line, process)
        assert waiting.startswith("EMULATED KMS without root keys")
        async with httpx.AsyncClient(base_url=waiting.split()[-1], trust_env=False) as client:
            made = await client.post("/prpc/Onboard.Bootstrap", json={"domain": "127.0.0.1"})
            assert made.status_code == 200, made.text
            assert (await client.get("/finish")).status_code == 200
        serving = await asyncio.to_thread(first_line, process)
        url = serving.split()[3]
        shown = await asyncio.to_thread(typed, kms_app, "meta", url, "--json")
        told = json.loads(shown.stdout)
        assert (told["kms_id"], told["is_dev"], told["checked_root"]) == (
            made.json()["ca_pubkey"],
            True,
            False,
        )
        root = tmp_path / "root-ca.pem"
        root.write_text(told["ca_certificate"])
        checked = await asyncio.to_thread(typed, kms_app, "meta", url, "--root-ca", root)
        assert told["kms_id"] in checked.stdout.replace("\n", "").replace(" ", "")
        assert "The server's certificate is under the root CA that was given." in checked.stdout
        unchecked = await asyncio.to_thread(typed, kms_app, "meta", url)
        assert "Nobody proved to be this KMS" in unchecked.stdout
        code, errors = await asyncio.to_thread(ended, process)
        assert (code, errors) == (0, "")
    audited_folder = typed(kms_app, "audit", options.directory)
    assert audited_folder.exit_code == 0
    assert "Bootstrap" in audited_folder.stdout


async def test_a_kms_that_waits_can_be_stopped(tmp_path: Path) -> None:
    async with emulated_house(tmp_path) as (_, options):
        process = started(
            *("kms", "serve", "--dir", options.directory, "--tcp", LOOPBACK, "--onboard-tcp", LOOPBACK),
            *("--policy", "allow-all", "--root", options.roots[0], "--pccs", options.pccs),
            *("--unsafe-no-self-check", "--emulated"),
        )
        assert "UNSAFE" in await asyncio.to_thread(first_line, process)
        assert "without root keys" in await asyncio.to_thread(first_line, process)
        assert await asyncio.to_thread(ended, process) == (0, "")
