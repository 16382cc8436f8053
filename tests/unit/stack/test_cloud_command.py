"""`teehouse cloud`: what operators set up, what is refused, a replica that serves; rules of `stack.cloud_*`."""

import asyncio
import atexit
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text
from typer.testing import CliRunner

from support import postgres
from support.node_memory import MemoryNode
from support.node_remote_support import HOUSE, served
from support.node_tls_support import NOW, party
from teehouse.base.clock import FixedClock, SystemClock
from teehouse.base.findings import CollateralError, MisuseError, TeehouseError
from teehouse.cloud.db.engine import open_database, sqlite_url
from teehouse.cloud.db.migrate import downgrade, head
from teehouse.cloud.inventory.models import KmsNode, KmsType
from teehouse.cloud.nodes.models import Node, NodeKms
from teehouse.guest.sockets import TcpAddress
from teehouse.node.api import NodeInfo
from teehouse.node.bundle import NodeBundle
from teehouse.stack import cloud_replica, cloud_setup
from teehouse.stack.cloud_command import cloud_app
from teehouse.stack.cloud_nodes import BundledNodes
from teehouse.stack.cloud_place import DATABASE_VARIABLE, Place
from teehouse.stack.cloud_replica import ReplicaOptions, serve_replica
from teehouse.stack.cloud_serving import Role
from teehouse.stack.cloud_setup import KmsOptions, NodeOptions
from teehouse.stack.installation import open_installation
from teehouse.stack.kms_emulated import serve_kms

ANYWHERE = "127.0.0.1:0"
runner = CliRunner()
clock = SystemClock()


class Tea(MemoryNode):
    """A node that calls itself as its bundle does."""

    name = "tea-1"

    async def info(self) -> NodeInfo:
        return replace(await super().info(), name=self.name)


def initialised(place: Place) -> Place:
    asyncio.run(cloud_setup.init(place, clock, username="admin", email="a@localhost", workspace="default"))
    return place


@functools.cache
def template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="teehouse-cloud-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return initialised(Place(folder / "c")).directory


async def made(folder: Path) -> Place:
    """A control plane that was set up; a copy of one, where there is none yet."""
    place = Place(folder / "c")
    if place.directory.exists():
        return await asyncio.to_thread(initialised, place)
    await asyncio.to_thread(lambda: shutil.copytree(template(), place.directory))
    return place


def bundle_at(path: Path, address: TcpAddress, node: str = "tea-1") -> Path:
    identity = HOUSE.controller if node == "tea-1" else party(node=node).controller
    NodeBundle(identity, node, address).save(path)
    return path


@asynccontextmanager
async def replica(place: Place, **options: Any) -> AsyncIterator[str]:
    """A replica that serves; its URL."""
    stop, told = asyncio.Event(), asyncio.Queue[str]()
    given = ReplicaOptions(**{"place": place, "tcp": ANYWHERE, **options})
    task = asyncio.create_task(serve_replica(given, clock, stop, lambda _, url: told.put_nowait(url)))
    waiting = asyncio.create_task(told.get())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if task.done():
            task.result()
        yield waiting.result()
    finally:
        stop.set()
        await task


async def get(url: str, key: str | None = None) -> tuple[int, Any]:
    async with httpx.AsyncClient(headers={} if key is None else {"X-API-Key": key}) as client:
        answer = await client.get(url)
    return answer.status_code, answer.json()


async def refused(work: Any) -> str:
    with pytest.raises(TeehouseError) as caught:
        await work
    return caught.value.finding.code


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(20):
        while not (found := await condition()):  # noqa: ASYNC110 - another process's answers
            await asyncio.sleep(0.02)
    return found


async def rows(place: Place, model: Any) -> list[Any]:
    database = open_database(place.database_url())
    async with database.read() as session:
        found = list(await session.scalars(select(model)))
    await database.dispose()
    return found


# Setting up


def test_init_makes_it_once_and_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    outputs = [runner.invoke(cloud_app, ["init", "--dir", str(folder)]) for _ in range(2)]
    assert [one.exit_code for one in outputs] == [0, 0]
    assert outputs[0].output == f"workspace default, API key in {folder}/api_key\n" == outputs[1].output
    secret = (folder / "secret-key").read_text()
    assert len(bytes.fromhex(secret)) == 32
    for name in ("secret-key", "api_key", "cloud.sqlite"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    key = (folder / "api_key").read_text()
    (folder / "api_key").unlink()
    again = runner.invoke(cloud_app, ["init", "--dir", str(folder)])
    assert (again.exit_code, (folder / "secret-key").read_text()) == (0, secret)
    assert (folder / "api_key").read_text() != key


async def test_a_revoked_key_is_replaced(tmp_path: Path) -> None:
    place = await made(tmp_path)
    before = place.folder.key_file.read_text()
    database = open_database(place.database_url())
    async with database.write() as session:
        await session.execute(text("UPDATE api_keys SET revoked_at = created_at"))
    await database.dispose()
    await made(tmp_path)
    assert place.folder.key_file.read_text() != before


@asynccontextmanager
async def kms(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """A KMS: its URL, and the file of its root CA."""
    installation = open_installation(folder / "k", clock)
    async with serve_kms(installation) as one:
        root = folder / "root.pem"
        root.write_text(installation.kms_root_pem)
        yield one.url, root


async def test_a_control_plane_is_set_up_and_serves(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(cloud_replica, "LOOK", 0.02)
    place = await made(tmp_path)
    node = Tea(FixedClock(NOW))
    auth = tmp_path / "auth.json"
    async with kms(tmp_path) as (url, root), served(node) as house:
        bundle = bundle_at(tmp_path / "b.json", house.address)
        options = NodeOptions(bundle, "here", ("phala",), slots=7, auth_file=auth, gateway_domain="apps.test")
        assert await refused(cloud_setup.add_node(place, clock, options)) == "cloud.kms-unknown"
        for slug in ("phala", "other", "phala"):
            row = await cloud_setup.add_kms(place, clock, KmsOptions(url, slug, root))
            assert (row.slug, row.url, row.kms_type) == (slug, url, "phala")
        for _ in range(2):
            info = await cloud_setup.add_node(place, clock, replace(options, kms=("phala", "other")))
            assert info.name == "tea-1"
        (known,) = await rows(place, Node)
        assert (known.name, known.region, known.slots, known.bundle) == ("tea-1", "here", 7, "tea-1.json")
        assert (known.url, known.gateway_domain) == (f"https://{house.address}", "apps.test")
        kept = place.folder.nodes / "tea-1.json"
        assert (kept.read_bytes(), kept.stat().st_mode & 0o777) == (bundle.read_bytes(), 0o600)
        slugs = {row.id: row.slug for row in await rows(place, KmsNode)}
        assert slugs[known.default_kms_id] == "phala"
        assert {slugs[row.kms_id] for row in await rows(place, NodeKms)} == {"phala", "other"}
        assert json.loads(auth.read_text())["osImages"] == [
            f"0x{image.os_image_hash.hex()}" for image in info.images
        ]

        async with replica(place, public_url="https://cloud.test", drain=0.2, auth_file=auth) as served_at:
            fine = {"status": "ok", "database": head(), "workflows": "ok", "nodes": "ok"}
            assert await get(f"{served_at}/readyz") == (200, fine)
            key = place.folder.key_file.read_text().strip()
            status, told = await get(f"{served_at}/api/v1/teepods/available", key)
            assert (status, [one["name"] for one in told["nodes"]]) == (200, ["tea-1"])
            assert await refused(
                serve_replica(ReplicaOptions(place, ANYWHERE), clock, asyncio.Event(), _nobody)
            ) == ("cloud.serving")
            kept.rename(tmp_path / "away.json")

            async def missing() -> Any:
                return (await get(f"{served_at}/readyz"))[1].get("nodes") != "ok"

            await until(missing)
            assert await get(f"{served_at}/readyz") == (
                503,
                {"status": "unavailable", "database": head(), "nodes": "tea-1: No such file or directory"},
            )
        assert await refused(
            serve_replica(ReplicaOptions(place, ANYWHERE), clock, asyncio.Event(), _nobody)
        ) == ("cloud.node-bundle")


def _nobody(_role: Role, _url: str) -> None:
    raise AssertionError("it serves")


async def test_it_says_that_it_stops_before_it_stops(tmp_path: Path) -> None:
    place = await made(tmp_path)
    stop, told = asyncio.Event(), asyncio.Queue[str]()
    options = ReplicaOptions(place, ANYWHERE, drain=1.0)
    task = asyncio.create_task(serve_replica(options, clock, stop, lambda _, url: told.put_nowait(url)))
    url = await told.get()
    assert (await get(f"{url}/readyz"))[0] == 200
    stop.set()

    async def stopping() -> Any:
        return (await get(f"{url}/readyz"))[1].get("process")

    assert await until(stopping) == "stopping"
    assert (await get(f"{url}/healthz"))[0] == 200
    await task


# What is refused


async def test_a_replica_needs_the_key_of_all(tmp_path: Path) -> None:
    place = await made(tmp_path)
    other = Place(tmp_path / "other", tmp_path / "url")
    other.folder.make()
    other.database_url_file.write_text(place.database_url())  # type: ignore[union-attr] - given above
    other.database_url_file.chmod(0o600)  # type: ignore[union-attr] - given above
    options = ReplicaOptions(other, ANYWHERE)
    assert await refused(serve_replica(options, clock, asyncio.Event(), _nobody)) == "cloud.secret-key"
    other.folder.made_secret_key()
    with pytest.raises(MisuseError) as caught:
        await serve_replica(options, clock, asyncio.Event(), _nobody)
    assert (caught.value.finding.code, caught.value.finding.found) == ("cloud.secret-key", "another one")
    assert (
        await refused(
            cloud_setup.init(other, clock, username="admin", email="a@localhost", workspace="default")
        )
        == "cloud.secret-key"
    )
    shutil.copy2(place.directory / "secret-key", other.directory)
    async with replica(other) as url:
        assert (await get(f"{url}/readyz"))[0] == 200


async def test_the_database_is_at_this_version_or_refused(tmp_path: Path) -> None:
    place = await made(tmp_path)
    database = open_database(place.database_url())
    serving = ReplicaOptions(place, ANYWHERE)
    async with database.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert await refused(serve_replica(serving, clock, asyncio.Event(), _nobody)) == "cloud.database-newer"
    async with database.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": head()})
    await downgrade(database, "-1")
    assert await refused(serve_replica(serving, clock, asyncio.Event(), _nobody)) == "cloud.database-behind"
    await downgrade(database, "base")
    assert await refused(serve_replica(serving, clock, asyncio.Event(), _nobody)) == "cloud.database-empty"
    await made(tmp_path)
    async with database.write() as session:
        await session.execute(text("DELETE FROM installation"))
    with pytest.raises(MisuseError) as caught:
        await serve_replica(serving, clock, asyncio.Event(), _nobody)
    assert caught.value.finding.found == "none was agreed on"
    await database.dispose()


@pytest.mark.parametrize(
    ("url", "code", "exit_type"),
    [
        ("postgresql+psycopg://u:secret-word@127.0.0.1:1/x", "cloud.database", CollateralError),
        ("mysql://u:secret-word@127.0.0.1:1/x", "cloud.database-url", MisuseError),
        ("nonsense", "cloud.database-url", MisuseError),
    ],
)
async def test_databases_that_cannot_be_used(
    tmp_path: Path, monkeypatch: Any, url: str, code: str, exit_type: type[TeehouseError]
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, url)
    with pytest.raises(exit_type) as caught:
        await cloud_setup.init(Place(tmp_path / "c"), clock, username="a", email="a@b", workspace="default")
    assert caught.value.finding.code == code
    assert "secret-word" not in str(caught.value)


async def test_a_password_that_the_driver_repeats_is_not(tmp_path: Path, monkeypatch: Any) -> None:
    postgres.require()
    place = postgres.shared_cluster().url("no-such-database").replace("teehouse@", "teehouse:no-such@")
    monkeypatch.setenv(DATABASE_VARIABLE, place)
    with pytest.raises(CollateralError) as caught:
        await cloud_setup.init(Place(tmp_path / "c"), clock, username="a", email="a@b", workspace="default")
    assert 'database "***-database" does not exist' in caught.value.finding.found


@pytest.mark.parametrize("role", [Role.API, Role.WORKER])
async def test_sqlite_is_for_one_process(tmp_path: Path, role: Role) -> None:
    options = ReplicaOptions(await made(tmp_path), ANYWHERE, role=role)
    assert await refused(serve_replica(options, clock, asyncio.Event(), _nobody)) == "cloud.role"


def _spoil(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.write_bytes(content)
    path.chmod(mode)


@pytest.mark.parametrize(
    ("name", "content", "mode", "code"),
    [
        ("secret-key", b"00" * 32, 0o640, "cloud.secret-key"),
        ("secret-key", b"00" * 31, 0o600, "cloud.secret-key"),
        ("secret-key", b"zz" * 32, 0o600, "cloud.secret-key"),
        ("secret-key", b"\xff" * 32, 0o600, "cloud.secret-key"),
        ("secret-key", b"0" * 4097, 0o600, "cloud.secret-key"),
        ("api_key", b"phak_x\n", 0o604, "cloud.api-key"),
        ("api_key", b"", 0o600, "cloud.api-key"),
    ],
)
async def test_files_with_secrets_that_cannot_be_used(
    tmp_path: Path, name: str, content: bytes, mode: int, code: str
) -> None:
    place = await made(tmp_path)
    _spoil(place.directory / name, content, mode)
    with pytest.raises(MisuseError) as caught:
        await cloud_setup.init(place, clock, username="admin", email="a@b", workspace="default")
    assert caught.value.finding.code == code
    assert not content or content[:4].decode("latin-1") not in str(caught.value)


async def test_folders_and_settings_that_cannot_be_used(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").touch()
    for place, code in (
        (Place(tmp_path / "file"), "cloud.folder"),
        (Place(tmp_path / "c", tmp_path / "none"), "cloud.database-url"),
    ):
        work = cloud_setup.init(place, clock, username="admin", email="a@b", workspace="default")
        assert await refused(work) == code
    place = await made(tmp_path)
    monkeypatch.setenv("TEEHOUSE_DATABASE_POOL_SIZE", "none")
    with pytest.raises(MisuseError) as caught:
        place.settings()
    assert caught.value.finding.found == "no good value of TEEHOUSE_DATABASE_POOL_SIZE"


async def test_a_kms_is_asked_under_its_root(tmp_path: Path) -> None:
    place = await made(tmp_path)
    async with kms(tmp_path) as (url, _root):
        other = tmp_path / "other.pem"
        other.write_text(open_installation(tmp_path / "o", clock).kms_root_pem)
        with pytest.raises(TeehouseError):
            await cloud_setup.add_kms(place, clock, KmsOptions(url, "phala", other))
    assert await rows(place, KmsNode) == []
    for content in (None, b"\xff"):
        if content is not None:
            other.write_bytes(content)
        path = tmp_path / "missing.pem" if content is None else other
        assert (
            await refused(cloud_setup.add_kms(place, clock, KmsOptions(url, "phala", path)))
            == "cloud.root-ca"
        )


async def test_a_node_is_the_one_of_its_bundle_and_answers(tmp_path: Path) -> None:
    place = await made(tmp_path)
    node = Tea(FixedClock(NOW))
    node.name = "another"
    async with kms(tmp_path) as (url, root):
        await cloud_setup.add_kms(place, clock, KmsOptions(url, "phala", root, KmsType.BASE))
        async with served(node) as house:
            options = NodeOptions(bundle_at(tmp_path / "b.json", house.address), "here", ("phala",))
            assert await refused(cloud_setup.add_node(place, clock, options)) == "cloud.node-name"
        assert await refused(cloud_setup.add_node(place, clock, options)) == "node.unreachable"
    assert await rows(place, Node) == []
    assert list(place.folder.nodes.iterdir()) == []


# Ways to nodes


@asynccontextmanager
async def with_rows(
    tmp_path: Path, *named: tuple[str, str | None]
) -> AsyncIterator[tuple[BundledNodes, Place, Any]]:
    """A database with these nodes, by name and bundle."""
    place = await made(tmp_path)
    database = open_database(sqlite_url(place.directory / "cloud.sqlite"))
    async with database.write() as session:
        for name, bundle in named:
            session.add(
                Node(
                    name=name, bundle=bundle, region="here", version="0", emulated=True, root="emulated:00",
                    vcpu=1, memory_mb=1, disk_gb=1, slots=1, created_at=clock.now(),
                )
            )  # fmt: skip
    nodes = BundledNodes(database, place.folder, clock)
    try:
        yield nodes, place, database
    finally:
        await nodes.close()
        await database.dispose()


async def test_bundles_are_taken_up_replaced_and_left(tmp_path: Path, monkeypatch: Any) -> None:
    """Rules 1 to 3 of `cloud_nodes`."""
    async with (
        with_rows(tmp_path, ("tea-1", "tea-1.json"), ("in-process", None)) as (nodes, place, database),
        served(Tea(FixedClock(NOW))) as one,
        served(Tea(FixedClock(NOW))) as two,
    ):
        with pytest.raises(CollateralError) as caught:
            nodes.node(1)
        assert (caught.value.finding.code, caught.value.finding.found) == ("cloud.node-unknown", "none yet")
        await nodes.look()
        assert nodes.trouble() == "tea-1: No such file or directory"
        path = bundle_at(place.folder.nodes / "tea-1.json", one.address)
        await nodes.look()
        first = nodes.node(1)
        assert (nodes.trouble(), (await first.info()).name) == (None, "tea-1")
        await nodes.look()
        assert nodes.node(1) is first
        bundle_at(path, two.address)
        await nodes.look()
        assert nodes.node(1) is not first
        assert (await first.info()).name == "tea-1"  # calls under way go on
        path.write_text("{}")
        await nodes.look()
        assert "node bundle cannot be used" in str(nodes.trouble())
        assert (await nodes.node(1).info()).name == "tea-1"  # by the way that was known
        monkeypatch.setattr("teehouse.stack.cloud_nodes.LINGER", -1.0)
        async with database.write() as session:
            await session.execute(text("DELETE FROM nodes WHERE name = 'tea-1'"))
        await nodes.look()
        assert nodes.trouble() is None
        with pytest.raises(CollateralError):
            nodes.node(1)


async def test_bundles_of_others_and_elsewhere(tmp_path: Path) -> None:
    """Rule 4 of `cloud_nodes`."""
    named = (("tea-1", "tea-2.json"), ("tea-3", "../secret-key"), ("tea-4", "node.json"))
    async with with_rows(tmp_path, *named) as (nodes, place, _database):
        bundle_at(place.folder.nodes / "tea-2.json", TcpAddress("127.0.0.1", 1), "tea-2")
        NodeBundle(party(node="tea-4").node, "tea-4", TcpAddress("127.0.0.1", 1)).save(
            place.folder.nodes / "node.json"
        )
        await nodes.look()
        trouble = str(nodes.trouble()).split("; ")
        assert [one.partition(": ")[0] for one in trouble] == ["tea-1", "tea-3", "tea-4"]
        assert "expected tea-1, found tea-2" in trouble[0]
        assert "expected a bare file name" in trouble[1]
        assert "expected controller, found node" in trouble[2]


# Roles


async def test_one_process_answers_and_another_works(tmp_path: Path) -> None:
    """Rules N1, 2 and 4: a worker serves no API, and an API carries nothing on."""
    postgres.require()
    url = tmp_path / "url"
    _spoil(url, postgres.shared_cluster().new_database().encode())
    place = Place(tmp_path / "c", url)
    await cloud_setup.init(place, clock, username="admin", email="a@localhost", workspace="default")
    key = place.folder.key_file.read_text().strip()
    async with replica(place, role=Role.API) as api, replica(place, role=Role.WORKER) as worker:
        assert await get(f"{api}/readyz") == (200, {"status": "ok", "database": head(), "nodes": "ok"})
        assert (await get(f"{worker}/readyz"))[1]["workflows"] == "ok"
        assert (await get(f"{api}/api/v1/auth/me", key))[0] == 200
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{worker}/api/v1/auth/me")).status_code == 404
            assert "teehouse_http_requests_total" in (await client.get(f"{worker}/metrics")).text


# The command


@pytest.mark.parametrize("role", ["api", "worker", "all"])
def test_the_options_of_serve(tmp_path: Path, monkeypatch: Any, role: str) -> None:
    came: list[ReplicaOptions] = []
    monkeypatch.setattr(cloud_replica, "run_replica", came.append)
    monkeypatch.setattr("teehouse.stack.serving.begin_start", lambda: None)
    given = [
        "--role",
        role,
        "--tcp",
        "[::1]:9",
        "--public-url",
        "https://x",
        "--drain",
        "3",
        "--dir",
        str(tmp_path),
    ]
    chain = ["--rpc-url", "http://127.0.0.1:1", "--chain-id", "31337"]
    assert runner.invoke(cloud_app, ["serve", *given, *chain, "--auth-file", "/a"]).exit_code == 0
    (options,) = came
    assert (options.role, options.tcp, options.public_url, options.drain) == (
        Role(role),
        "[::1]:9",
        "https://x",
        3.0,
    )
    assert (options.place, options.auth_file) == (Place(tmp_path), Path("/a"))
    assert options.chain is not None
    assert options.chain.chain_id == 31337
    assert runner.invoke(cloud_app, ["serve", *given], env={"ETH_RPC_URL": ""}).exit_code == 0
    assert came[1].chain is None


def test_the_options_of_add_kms_and_add_node(tmp_path: Path, monkeypatch: Any) -> None:
    came: list[Any] = []

    async def add_kms(place: Place, _clock: Any, options: KmsOptions) -> KmsNode:
        came.append((place, options))
        return KmsNode(slug=options.slug, kms_type="base", url=options.url)

    async def add_node(place: Place, _clock: Any, options: NodeOptions) -> NodeInfo:
        came.append((place, options))
        return await Tea(FixedClock(NOW)).info()

    monkeypatch.setattr(cloud_setup, "add_kms", add_kms)
    monkeypatch.setattr(cloud_setup, "add_node", add_node)
    folder = ["--dir", str(tmp_path)]
    kms_given = [
        "https://k",
        "--root-ca",
        "/r",
        "--slug",
        "k",
        "--chain-name",
        "base",
        "--public-rpc-url",
        "https://c",
    ]
    done = runner.invoke(cloud_app, ["add-kms", *kms_given, *folder])
    assert (done.exit_code, done.output) == (0, "KMS k (base) at https://k\n")
    node_given = ["/b", "--region", "r", "--kms", "a", "--kms", "b", "--slots", "3", "--gateway-domain", "g"]
    done = runner.invoke(cloud_app, ["add-node", *node_given, "--auth-file", "/a", *folder])
    assert (done.exit_code, done.output) == (0, "EMULATED node tea-1, images none\n")
    assert came == [
        (Place(tmp_path), KmsOptions("https://k", "k", Path("/r"), KmsType.BASE, "https://c")),
        (Place(tmp_path), NodeOptions(Path("/b"), "r", ("a", "b"), 3, "g", Path("/a"))),
    ]


def test_it_works_without_the_emulator(tmp_path: Path) -> None:
    program = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.startswith("teehouse.tee_emulated"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from teehouse.stack.main import app
app(["cloud", "init", "--dir", sys.argv[1]], standalone_mode=False)
import teehouse.stack.cloud_replica
print([name for name in sys.modules if "emulated" in name])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "c")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["[]"]), done.stderr
