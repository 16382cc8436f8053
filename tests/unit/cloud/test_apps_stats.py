"""GET /stats/dstack_app and /stats/entity_profile, which a trust center reads (cloud-api.md 10.3)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.cloud_core_support import KINDS, cloud
from support.cloud_read_support import (
    COMPOSE_YAML,
    KEY,
    MALLORY,
    NOW,
    World,
    app_id_of,
    conforms,
    counted,
    world,
)
from teehouse.cloud.revisions.models import ComposeFile
from teehouse.wire.cloud.stats import AppStats, EntityProfile, StatsPage

CREATED = "2026-03-19T10:30:00Z"


@pytest.fixture(name="cloud")
async def _cloud(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def read(cloud: World, feed: str, **query: Any) -> Any:
    """As the trust center asks: with a bearer token, and no version."""
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = await cloud.client.get(f"/api/v1/stats/{feed}", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_apps_are_told_with_their_current_cvm(cloud: World) -> None:
    await cloud.deploy(1, [{}, {"status": "stopped"}], listed=True)
    on_chain = {"kms_id": 2, "kms_type": "base", "chain_id": 8453, "contract_address": f"0x{app_id_of(2)}"}
    await cloud.deploy(2, [{"node_id": None}], **on_chain)
    await cloud.deploy(3, workspace=MALLORY)
    await cloud.deploy(4, [])
    one = {
        "dstack_app_id": app_id_of(1), "app_id": 1, "app_name": "app-1", "workspace_id": 1, "creator_id": 1,
        "chain_id": None, "kms_contract_address": None, "contract_address": None, "base_image": "dstack-0.5.4",
        "tproxy_base_domain": "dstack.example.org", "gateway_domain_suffix": "dstack.example.org", "listed": True,
        "username": "alice", "email": "alice@example.org", "app_created_at": CREATED, "vm_created_at": CREATED,
        "docker_compose_file": COMPOSE_YAML,
    }  # fmt: skip
    two = one | {
        "dstack_app_id": app_id_of(2), "app_id": 2, "app_name": "app-2", "chain_id": 8453, "listed": False,
        "kms_contract_address": "0x2f83172A49584C017F2B256F0FB2Dca14126Ba9C",
        "contract_address": f"0x{app_id_of(2)}", "tproxy_base_domain": None, "gateway_domain_suffix": None,
    }  # fmt: skip
    found = await read(cloud, "dstack_app")
    assert found == {"data": [two, one], "total": 3, "page": 1, "page_size": 1000, "pages": 1}
    conforms(StatsPage[AppStats], found)
    last = await read(cloud, "dstack_app", page=3, page_size=1)
    assert (last["data"], last["pages"]) == ([one], 3)


async def test_an_app_without_a_docker_compose_file(cloud: World) -> None:
    body = b'{"bash_script":"true","runner":"bash"}'
    await cloud.add(ComposeFile(compose_hash="ab" * 32, body=body, services=[], created_at=NOW))
    await cloud.deploy(1, [{"compose_hash": "ab" * 32}])
    (one,) = (await read(cloud, "dstack_app"))["data"]
    assert one["docker_compose_file"] is None


async def test_profiles_of_the_workspace_its_members_and_apps(cloud: World) -> None:
    profile = {
        "display_name": "My app",
        "avatar_url": None,
        "description": "shows",
        "custom_domain": "a.example",
    }
    await cloud.deploy(1, **profile)
    await cloud.deploy(2)
    await cloud.deploy(3, workspace=MALLORY, **profile)
    nothing = {"avatar_url": None, "description": None, "custom_domain": None, "updated_at": None}
    workspace = nothing | {
        "entity_type": "workspace", "entity_id": 1, "display_name": "alice's projects", "created_at": CREATED,
    }  # fmt: skip
    viewer = nothing | {
        "entity_type": "user", "entity_id": 3, "display_name": "viewer", "created_at": CREATED
    }  # fmt: skip
    alice = viewer | {"entity_id": 1, "display_name": "alice"}
    app = {"entity_type": "app", "entity_id": 1, "created_at": CREATED, "updated_at": CREATED} | profile
    found = await read(cloud, "entity_profile")
    assert found == {
        "data": [workspace, viewer, alice, app], "total": 4, "page": 1, "page_size": 1000, "pages": 1
    }  # fmt: skip
    conforms(StatsPage[EntityProfile], found)
    assert (await read(cloud, "entity_profile", page=2, page_size=2))["data"] == [alice, app]


@pytest.mark.parametrize("feed", ["dstack_app", "entity_profile"])
async def test_statements_do_not_grow_and_a_key_is_needed(cloud: World, feed: str) -> None:
    await cloud.deploy(1, display_name="one")
    await read(cloud, feed)
    with counted(cloud.database) as before:
        await read(cloud, feed)
    for number in range(2, 8):
        await cloud.deploy(number, [{}, {}], display_name="more")
    with counted(cloud.database) as after:
        await read(cloud, feed)
    assert len(before) == len(after)
    assert (await cloud.get(f"/stats/{feed}", key=None)).status_code == 401
    assert (await cloud.get(f"/stats/{feed}", page_size=1001)).status_code == 422


@pytest.mark.parametrize("kind", KINDS)
async def test_both_databases_tell_them(kind: str, tmp_path: Path) -> None:
    async with cloud(kind, tmp_path) as made:
        client = made.client()
        assert (await client.get("/api/v1/stats/dstack_app")).json()["data"] == []
        told = (await client.get("/api/v1/stats/entity_profile")).json()["data"]
    kinds = [(one["entity_type"], one["display_name"], one["updated_at"]) for one in told]
    assert kinds == [("workspace", "Alice's", None), ("user", "alice", None)]
