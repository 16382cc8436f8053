"""`teehouse node`: bundles, the CA, and a node of real apps behind mutual TLS; the numbers are those of `node_serving`."""

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.node_suite import BOOT_SECONDS, cvm_spec, removed, running
from support.node_workloads import until
from teehouse.base.clock import FixedClock, SystemClock
from teehouse.base.findings import EvidenceError, MisuseError
from teehouse.guest.sockets import TcpAddress
from teehouse.node.api import CvmPhase, settled
from teehouse.node.bundle import NodeBundle, load_bundle, open_authority, parse_address
from teehouse.node.identity import Role
from teehouse.node.remote import Patience, RemoteNode
from teehouse.stack import node_command, node_serving
from teehouse.stack.node_command import node_app
from teehouse.stack.node_serving import NodeOptions, serve_node, step_authority, write_bundle

LOOPBACK = "127.0.0.1:0"
runner = CliRunner()


@pytest.fixture
def house() -> Iterator[Path]:
    """An installation's folder, with a path short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="th", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


@asynccontextmanager
async def serving(options: NodeOptions) -> AsyncIterator[TcpAddress]:
    stop, ready = asyncio.Event(), asyncio.Queue[TcpAddress]()
    task = asyncio.create_task(
        serve_node(options, SystemClock(), stop, lambda _, address: ready.put_nowait(address))
    )
    waiting = asyncio.create_task(ready.get())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if task.done():
            task.result()
        yield waiting.result()
    finally:
        stop.set()
        await task


def caller(house: Path, address: TcpAddress, name: str = "tea-1") -> RemoteNode:
    path = house / "controller.json"
    write_bundle(house, path, name, str(address), controller="cloud")
    return RemoteNode.of_bundle(load_bundle(path), SystemClock(), patience=Patience(timeout=20.0))


def node_bundle(house: Path) -> Path:
    path = house / "tea-1.json"
    write_bundle(house, path, "tea-1", LOOPBACK)
    return path


# The commands


def test_bundles_of_a_node_and_of_its_controller(house: Path) -> None:
    for name, role, more in (
        ("tea-1", Role.NODE, []),
        ("cloud", Role.CONTROLLER, ["--controller", "cloud"]),
    ):
        out = house / f"{name}.json"
        command = ["bundle", "tea-1", "10.0.0.7:8443", "--dir", str(house), "--out", str(out), "--days", "30"]
        result = runner.invoke(node_app, [*command, *more])
        assert result.exit_code == 0
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        bundle = load_bundle(out)
        assert (bundle.identity.role, bundle.identity.name, bundle.node) == (role, name, "tea-1")
        assert bundle.address == TcpAddress("10.0.0.7", 8443)
        expires = bundle.identity.expires
        assert timedelta(days=29) < expires - SystemClock().now() < timedelta(days=31)
        assert result.output == (
            f"{out}: {role.value} {name}, valid until {expires:%Y-%m-%d}\npin {bundle.identity.pin.hex()}\n"
        )


def test_a_ca_is_replaced_in_three_steps(house: Path) -> None:
    shown = [runner.invoke(node_app, ["ca", step.value, "--dir", str(house)]) for step in node_command.CaStep]
    assert [result.output for result in shown] == [
        "2 trusted; now make every bundle anew\n",
        "2 trusted; now make every bundle anew\n",
        "1 trusted; now make every bundle anew\n",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "add --emulated"),
        (["--emulated"], "--bundle FILE"),
        (["--emulated", "--bundle", "x", "--pin", "00"], "--pin takes 64 hex digits"),
        (["--emulated", "--bundle", "x", "--seed", "s3cret"], "--seed takes 64 hex digits"),
        (["ca", "swap"], "Invalid value"),
    ],
)
def test_misuse_of_the_command(arguments: list[str], text: str) -> None:
    result = runner.invoke(node_app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 2
    assert text in result.output
    assert "s3cret" not in result.output


def test_the_options_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[NodeOptions] = []
    monkeypatch.setattr(node_serving, "run_node", given.append)
    command = ["--emulated", "--dir", "/d", "--bundle", "/b", "--listen", "127.0.0.1:1", "--kms", "https://k"]
    more = ["--kms", "https://l", "--pin", "0a" * 32, "--unsafe-expose", "--seed", "0b" * 32]
    assert runner.invoke(node_app, [*command, *more]).exit_code == 0
    assert given == [
        NodeOptions(
            Path("/d"),
            Path("/b"),
            "127.0.0.1:1",
            ("https://k", "https://l"),
            frozenset({b"\x0a" * 32}),
            unsafe_expose=True,
            seed=b"\x0b" * 32,
        )
    ]
    assert "0b0b" not in repr(given)


# The node


async def test_a_cvm_is_booted_from_elsewhere_and_outlives_the_node_s_process(house: Path) -> None:
    options = NodeOptions(house, node_bundle(house))
    spec = cvm_spec(memory_size=2 * 1024**3)
    async with serving(options) as address, caller(house, address) as node:
        info = await node.info()
        assert (info.name, info.emulated, info.root[:9]) == ("tea-1", True, "emulated:")
        state = await running(node, spec)
        assert (state.error, state.phase) == (None, CvmPhase.RUNNING)
    async with serving(options) as address, caller(house, address) as node:
        again = await settled(node, spec.cvm_id, timeout_seconds=BOOT_SECONDS)
        assert (again.phase, again.boot_count, again.instance_id) == (
            CvmPhase.RUNNING,
            1,
            state.instance_id,
        )
        assert (await removed(node, spec.cvm_id)).phase is CvmPhase.REMOVED


async def test_nodes_of_one_seed_are_different_machines(house: Path) -> None:
    devices = []
    for name in ("tea-1", "tea-2"):
        write_bundle(house, house / "bundle.json", name, LOOPBACK)
        options = NodeOptions(house / name, house / "bundle.json", seed=b"\x01" * 32)
        async with serving(options) as address, caller(house, address, name) as node:
            info = await node.info()
            devices.append((info.root, info.device_id))
    assert devices[0][0] == devices[1][0]
    assert devices[0][1] != devices[1][1]


@pytest.mark.parametrize("expose", [False, True])
async def test_other_addresses_than_loopback_need_a_word(house: Path, *, expose: bool) -> None:  # rule 1
    options = NodeOptions(house, node_bundle(house), listen="0.0.0.0:0", unsafe_expose=expose)
    if expose:
        async with serving(options) as address:
            assert address.host == "0.0.0.0"  # noqa: S104 - what was asked for
        return
    with pytest.raises(MisuseError) as raised:
        async with serving(options):
            pass
    finding = raised.value.finding
    assert (finding.code, finding.expected, finding.found) == (
        "node.exposed",
        "a loopback address",
        "0.0.0.0:0",
    )
    assert "--unsafe-expose" in finding.remedy


async def test_a_certificate_that_cannot_serve(house: Path) -> None:  # rule 2
    controller = house / "controller.json"
    write_bundle(house, controller, "tea-1", LOOPBACK, controller="cloud")
    with pytest.raises(MisuseError) as misused:
        async with serving(NodeOptions(house, controller)):
            pass
    assert misused.value.finding.code == "node.role"
    later = FixedClock(SystemClock().now() + timedelta(days=400))
    with pytest.raises(EvidenceError) as expired:
        await serve_node(NodeOptions(house, node_bundle(house)), later, asyncio.Event(), lambda *_: None)
    assert expired.value.finding.code == "node.certificate-expired"


async def test_an_address_in_use(house: Path) -> None:
    path = node_bundle(house)
    async with serving(NodeOptions(house, path)) as address:
        with pytest.raises(MisuseError) as raised:
            async with serving(NodeOptions(house / "other", path, listen=str(address))):
                pass
        assert raised.value.finding.code == "socket.bind"
        with pytest.raises(MisuseError):
            async with serving(NodeOptions(house, path)):  # the folder is in use
                pass


async def test_a_hang_up_reads_the_bundle_anew(
    house: Path, caplog: pytest.LogCaptureFixture
) -> None:  # rule 3
    path = node_bundle(house)

    async def hang_up(text: str) -> None:
        caplog.clear()
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: text in caplog.text)

    async with serving(NodeOptions(house, path)) as address:
        async with caller(house, address) as node:
            await node.info()
        step_authority(house, "trust-next")
        step_authority(house, "use-next")
        write_bundle(house, path, "tea-1", LOOPBACK)
        await hang_up("the certificate is now valid until")
        async with caller(house, address) as node:  # whose bundle is of the new CA
            await node.info()
        other = open_authority(house / "state" / "node-ca.json", SystemClock().now())
        wrong = other.issue(Role.NODE, "tea-2", SystemClock().now())
        NodeBundle(wrong, "tea-2", address).save(path)
        await hang_up("the bundle stays as it was: the node of")
        path.write_text(json.dumps({}))
        await hang_up("the bundle stays as it was: the node bundle cannot be used")
        async with caller(house, address) as node:
            assert (await node.info()).name == "tea-1"


async def test_pinned_controllers_alone(house: Path) -> None:
    options = replace(NodeOptions(house, node_bundle(house)), pins=frozenset({b"\x00" * 32}))
    async with serving(options) as address, caller(house, address) as node:
        with pytest.raises(EvidenceError) as raised:
            await node.info()
    assert raised.value.finding.code == "node.certificate-pin"


def test_the_command_serves_until_it_is_told_to_stop(house: Path) -> None:
    code = "from teehouse.stack.node_command import node_app; node_app()"
    command = [
        sys.executable,
        "-c",
        code,
        "--emulated",
        "--dir",
        str(house),
        "--bundle",
        str(node_bundle(house)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline().decode()
        address = parse_address(first.split()[4])

        async def info() -> str:
            async with caller(house, address) as node:
                return (await node.info()).name

        assert asyncio.run(info()) == "tea-1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_the_words_at_the_start(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(house, house / "b.json", "tea-1", LOOPBACK)
    node_serving._say(bundle, TcpAddress("127.0.0.1", 8443))
    assert capsys.readouterr().out == (
        f"EMULATED node tea-1 at 127.0.0.1:8443 (mutual TLS), certificate valid until"
        f" {bundle.identity.expires:%Y-%m-%d}\nNothing here is protected by hardware.\n"
    )
