"""The control plane of an emulated installation: what its folder keeps, what its KMS allows, what is deployed first."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from support import postgres
from support.emulated import SEED
from support.node_memory import MemoryNode
from teehouse.base.clock import SystemClock
from teehouse.base.findings import MisuseError
from teehouse.base.hashes import sha256
from teehouse.cloud.accounts.models import ApiKey
from teehouse.cloud.cvms.compose import new_compose
from teehouse.cloud.db.engine import open_database, sqlite_url
from teehouse.stack.addresses import kept_port
from teehouse.stack.auth_list import FileAuthorisations, allow
from teehouse.stack.cloud_emulated import DATABASE_VARIABLE, KEY_FILE, ServedCloud, serve_cloud
from teehouse.stack.installation import Installation, open_installation
from teehouse.stack.kms_emulated import ServedKms, serve_kms
from teehouse.stack.log_file import LogFile
from teehouse.stack.sample import sample_compose
from teehouse.stack.sample_cvm import RECORD, port_is_lost

APP, ONE, TWO = "03" * 20, "04" * 32, "05" * 32


async def unused(*hashes: str) -> list[str]:
    return list(hashes)


def apps(file: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(file.read_text())["apps"]
    return found


async def test_what_is_deployed_is_allowed_and_forgotten_and_all_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    listed = FileAuthorisations(file)
    for compose_hash in (ONE, TWO, ONE):
        await listed.allow(APP, compose_hash)
    assert apps(file) == {f"0x{APP}": {"devices": [], "composeHashes": [f"0x{ONE}", f"0x{TWO}"]}}
    assert file.stat().st_mode & 0o777 == 0o600
    await listed.forget(APP, lambda: unused(ONE))
    await listed.forget(APP, unused)
    await listed.forget("ff" * 20, lambda: unused(TWO))
    assert apps(file) == {f"0x{APP}": {"devices": [], "composeHashes": [f"0x{TWO}"]}}
    await listed.forget(APP, lambda: unused(ONE, TWO))
    assert apps(file) == {}

    owner = json.loads(file.read_text())
    owner["apps"][f"0x{APP}"] = {"devices": ["0x01"], "composeHashes": [f"0x{ONE}"], "note": "mine"}
    file.write_text(json.dumps(owner))
    await listed.forget(APP, lambda: unused(ONE))
    assert apps(file) == {f"0x{APP}": {"devices": ["0x01"], "composeHashes": [], "note": "mine"}}


async def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    lists = [FileAuthorisations(file) for _ in range(4)]
    names = [f"{number:040x}" for number in range(32)]
    await asyncio.gather(*(lists[number % 4].allow(name, ONE) for number, name in enumerate(names)))
    assert sorted(apps(file)) == [f"0x{name}" for name in names]


async def test_what_is_allowed_while_another_process_forgets_stays(tmp_path: Path) -> None:
    """Rule 3 of `auth_list`: two processes, each with a list of its own on the same file."""
    file = tmp_path / "auth.json"
    one, two = FileAuthorisations(file), FileAuthorisations(file)
    await one.allow(APP, ONE)
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow() -> list[str]:
        asked.set()
        await answer.wait()
        return [ONE]  # as it was when it was asked

    forgetting = asyncio.create_task(one.forget(APP, slow))
    await asked.wait()
    allowing = asyncio.create_task(two.allow(APP, ONE))  # a CVM begins to boot with it
    waiting = asyncio.create_task(two.forget("ff" * 20, unused))
    await asyncio.sleep(0.1)
    assert not allowing.done()
    assert not waiting.done()
    answer.set()
    await asyncio.gather(forgetting, allowing, waiting)
    assert apps(file) == {f"0x{APP}": {"devices": [], "composeHashes": [f"0x{ONE}"]}}
    missing = FileAuthorisations(tmp_path / "none" / "auth.json")
    with pytest.raises(MisuseError) as caught:
        await missing.forget(APP, unused)
    assert caught.value.finding.code == "auth-file.unwritable"


@pytest.mark.parametrize(
    "content",
    [{"apps": []}, {"apps": {f"0x{APP}": 7}}, {"apps": {f"0x{APP}": {"composeHashes": {}}}}],
)
async def test_a_list_of_another_form_is_refused_and_left_alone(
    tmp_path: Path, content: dict[str, object]
) -> None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps(content))
    for work in (
        FileAuthorisations(file).allow(APP, ONE),
        FileAuthorisations(file).forget(APP, lambda: unused(ONE)),
    ):
        with pytest.raises(MisuseError) as refused:
            await work
        assert refused.value.finding.code == "auth-file.unreadable"
    assert json.loads(file.read_text()) == content


def test_a_list_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(MisuseError) as refused:
        allow(tmp_path / "no-folder" / "auth.json", kms=b"\x02" * 32)
    assert refused.value.finding.code == "auth-file.unwritable"


def test_a_port_is_kept_while_it_is_free(tmp_path: Path) -> None:
    file = tmp_path / "port"
    with kept_port(file) as first:
        port = first.getsockname()[1]
        with kept_port(file) as second:
            other = second.getsockname()[1]
    assert other != port
    with kept_port(file) as third:
        assert third.getsockname()[1] == other
    for content in ("x", "70000", "-1", ""):
        file.write_text(content)
        with kept_port(file) as found:
            assert found.getsockname()[1] == int(file.read_text())


def test_a_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "cloud.log"
    for start in range(2):
        log = LogFile(file, limit=20)
        for number in range(3):
            log.write(f"line {start} {number}\n")
            log.flush()
        log.close()
    assert (file.read_text(), (tmp_path / "cloud.log.1").read_text()) == (
        "line 1 1\nline 1 2\n",
        "line 0 2\nline 1 0\n",
    )
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("pin", ["", "ab" * 91])
def test_the_sample_is_deployed_byte_for_byte(pin: str) -> None:
    """What a control plane makes of its members is the file itself."""
    compose = sample_compose(pin)
    made = new_compose(json.loads(compose), env_keys=["GREETING", "PORT"])
    assert made.body == compose
    assert made.compose_hash == sha256(compose).hex()


@dataclass(frozen=True)
class Alone:
    """An installation with its KMS and a node in memory."""

    installation: Installation
    kms: ServedKms
    node: MemoryNode


@asynccontextmanager
async def alone(folder: Path) -> AsyncIterator[Alone]:
    installation = open_installation(folder, SystemClock(), seed=SEED)
    async with serve_kms(installation) as kms:
        yield Alone(installation, kms, MemoryNode(SystemClock()))


async def test_the_first_key_is_made_once_and_kept_in_a_file(tmp_path: Path) -> None:
    async def start(made: Alone) -> ServedCloud:
        async with serve_cloud(made.installation, made.kms, made.node) as cloud:
            async with httpx.AsyncClient(headers={"X-API-Key": cloud.api_key}) as http:
                assert (await http.get(f"{cloud.api_url}/apps")).status_code == 200
                me = (await http.get(f"{cloud.api_url}/auth/me")).json()
                assert me["workspace"]["slug"] == cloud.workspace == "default"
                answer = await http.get(f"{cloud.url}/readyz")
                assert (answer.status_code, answer.headers["X-Teehouse-Emulated"]) == (200, "true")
            assert cloud.key_file.read_text() == f"{cloud.api_key}\n"
            assert cloud.api_key not in repr(cloud)
            return cloud

    async with alone(tmp_path) as made:
        first = await start(made)
        file = tmp_path / KEY_FILE
        file.chmod(0o644)  # by somebody else
        assert await start(made) == first
        assert file.stat().st_mode & 0o777 == 0o600
        database = open_database(sqlite_url(tmp_path / "state" / "cloud" / "cloud.sqlite"))
        async with database.write() as session:
            await session.execute(update(ApiKey).values(revoked_at=SystemClock().now()))
        await database.dispose()
        another = await start(made)
        assert another.api_key != first.api_key
        file.unlink()
        assert (await start(made)).api_key not in {first.api_key, another.api_key}
    for path in (tmp_path / "cloud.log", *(tmp_path / "state" / "cloud").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert "phak_" not in (tmp_path / "cloud.log").read_text()


async def test_another_database_is_named_by_the_environment(tmp_path: Path, monkeypatch: Any) -> None:
    postgres.require()
    monkeypatch.setenv(DATABASE_VARIABLE, postgres.shared_cluster().new_database())
    async with alone(tmp_path) as made:
        keys = set()
        for _ in range(2):
            async with (
                serve_cloud(made.installation, made.kms, made.node) as cloud,
                httpx.AsyncClient() as http,
            ):
                answer = await http.get(f"{cloud.api_url}/apps", headers={"X-API-Key": cloud.api_key})
                assert (answer.status_code, answer.json()["total"]) == (200, 0)
                keys.add(cloud.api_key)
        assert len(keys) == 1
    assert not (tmp_path / "state" / "cloud").exists()


async def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    async with alone(tmp_path) as made:
        (tmp_path / "state" / "cloud").write_text("no folder")
        with pytest.raises(MisuseError) as refused:
            async with serve_cloud(made.installation, made.kms, made.node):
                pass
        assert refused.value.finding.code == "cloud.folder"


async def test_a_port_that_somebody_else_has_by_now_is_lost(tmp_path: Path) -> None:
    installation = open_installation(tmp_path, SystemClock(), seed=SEED)
    node = MemoryNode(SystemClock())
    assert not await port_is_lost(installation, node)
    with socket.create_server(("127.0.0.1", 0)) as other:
        record = {"app_id": APP, "nonce": 0, "port": other.getsockname()[1]}
        (installation.state / RECORD).write_text(json.dumps(record))
        assert await port_is_lost(installation, node)
    assert not await port_is_lost(installation, node)
