"""GET /apps/{app_id}/revisions and one of them (cloud-api.md 11.4, 11.5)."""

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from support.cloud_read_support import (
    COMPOSE,
    COMPOSE_HASH,
    COMPOSE_TEXT,
    FOREIGN_KEY,
    NOW,
    VIEWER_KEY,
    World,
    app_id_of,
    conforms,
    counted,
    dashed,
    make_revision,
    uuid_of,
    world,
)
from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.revisions.models import ComposeFile
from teehouse.wire.cloud.revisions import RevisionDetail, RevisionPage

VERSIONS = ("2025-10-28", "2026-01-21", "2026-05-22", "2026-06-23")
REV = encode(Kind.REVISION, 1)
PATH = f"/apps/{app_id_of(1)}/revisions"
SHOWN = {
    "revision_id": REV, "app_id": app_id_of(1), "vm_uuid": dashed(uuid_of(1)), "compose_hash": COMPOSE_HASH,
    "created_at": "2026-03-20T08:00:00Z", "trace_id": "0a" * 16, "correlation_id": "op-1",
    "operation_type": "update", "changed": ["docker_compose_file"],
    "triggered_by": {"object_type": "user", "id": encode(Kind.USER, 1), "username": "alice", "avatar_url": None},
    "cvm": {
        "object_type": "cvm", "id": encode(Kind.CVM, 1), "name": "cvm-1", "app_id": app_id_of(1),
        "vm_uuid": dashed(uuid_of(1)),
    },
    "workspace": {
        "object_type": "workspace", "id": encode(Kind.WORKSPACE, 1), "name": "alice's projects",
        "slug": "alice-projects", "avatar_url": None,
    },
}  # fmt: skip


@pytest.fixture(name="cloud")
async def _cloud(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        app = await made.deploy(1)
        await made.add(make_revision(1, app, 1))
        yield made


@pytest.mark.parametrize("version", VERSIONS)
async def test_whole_answers(cloud: World, version: str) -> None:
    page = (await cloud.get(PATH, version)).json()
    assert page == {"revisions": [SHOWN], "total": 1, "page": 1, "page_size": 20, "total_pages": 1}
    conforms(RevisionPage, page)
    detail = (await cloud.get(f"{PATH}/{REV}", version)).json()
    assert detail == SHOWN | {"compose_file": COMPOSE, "encrypted_env": "", "user_config": ""}
    conforms(RevisionDetail, detail)
    parsed = await cloud.get(f"{PATH}/{REV}", version, raw_compose_file="false")
    assert parsed.json() == detail


async def test_raw_is_the_text_that_was_hashed(cloud: World) -> None:
    detail = (await cloud.get(f"{PATH}/{REV}", raw_compose_file="true")).json()
    assert detail == SHOWN | {"compose_file": COMPOSE_TEXT, "encrypted_env": "", "user_config": ""}
    assert hashlib.sha256(detail["compose_file"].encode()).hexdigest() == detail["compose_hash"]


async def test_what_was_deployed_with_it(cloud: World) -> None:
    text = '{"b": "\\u00e9 ü",\n "a": 1}'  # neither compact nor in order: nothing is written anew
    digest = hashlib.sha256(text.encode()).hexdigest()
    app = await cloud.deploy(2)
    await cloud.add(
        ComposeFile(compose_hash=digest, body=text.encode(), services=[], created_at=NOW),
        make_revision(
            2, app, 2, compose_hash=digest, encrypted_env=b"\x00\xff", user_config="hostname", user_id=None,
            trace_id=None, correlation_id=None, changed=[],
        ),
    )  # fmt: skip
    path = f"/apps/{app_id_of(2)}/revisions/{encode(Kind.REVISION, 2)}"
    raw = (await cloud.get(path, raw_compose_file="true")).json()
    conforms(RevisionDetail, raw)
    assert (raw["compose_file"], raw["encrypted_env"], raw["user_config"]) == (text, "00ff", "hostname")
    assert (raw["triggered_by"], raw["trace_id"], raw["changed"]) == (None, None, [])
    assert (await cloud.get(path)).json()["compose_file"] == {"b": "é ü", "a": 1}


async def test_newest_first_in_pages_of_up_to_a_thousand(cloud: World) -> None:
    app = await cloud.deploy(3, [{}, {"deleted_at": NOW}])
    rows = [make_revision(n, app, 2 + n % 2, created_at=NOW - timedelta(hours=n)) for n in range(10, 15)]
    await cloud.add(*rows)
    path = f"/apps/{app_id_of(3)}/revisions"
    page = (await cloud.get(path, page=2, page_size=2)).json()
    assert [r["revision_id"] for r in page.pop("revisions")] == [encode(Kind.REVISION, n) for n in (12, 11)]
    assert page == {"total": 5, "page": 2, "page_size": 2, "total_pages": 3}
    assert (await cloud.get(path, page_size=1000)).json()["page_size"] == 1000
    for query in ({"page_size": 1001}, {"page_size": 0}, {"page": 0}):
        assert (await cloud.get(path, **query)).status_code == 422


async def test_statements_do_not_grow(cloud: World) -> None:
    async def statements() -> int:
        with counted(cloud.database) as sent:
            assert (await cloud.get(PATH, page_size=1000)).status_code == 200
        return len(sent)

    before = await statements()
    app = await cloud.deploy(4)
    await cloud.add(*(make_revision(n, app, 1, app_record_id=1) for n in range(100, 150)))
    assert await statements() == before == 5


async def test_only_revisions_of_this_app_and_workspace(cloud: World) -> None:
    await cloud.deploy(5)
    other = f"/apps/{app_id_of(5)}/revisions/{REV}"
    for path in (other, f"{PATH}/rev_00000000", f"{PATH}/1", f"{PATH}/{encode(Kind.CVM, 1)}"):
        answer = await cloud.get(path)
        assert (answer.status_code, answer.json()["detail"]) == (404, "Revision not found")
    assert (await cloud.get(f"{PATH}/{REV}", key=FOREIGN_KEY)).status_code == 404
    assert (await cloud.get(f"{PATH}/{REV}", key=None)).status_code == 401
    assert (await cloud.get(f"{PATH}/{REV}", key=VIEWER_KEY)).status_code == 200
