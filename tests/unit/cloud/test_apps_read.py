"""GET /apps, /apps/{app_id}, /apps/{app_id}/cvms, /apps/filter-options (cloud-api.md 11.1 to 11.3, 11.6)."""

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from support.cloud_read_support import (
    COMPOSE_HASH,
    COMPOSE_YAML,
    DEVICE,
    FOREIGN_KEY,
    IMAGE_HASH,
    KEY,
    MALLORY,
    NOW,
    World,
    app_id_of,
    conforms,
    counted,
    dashed,
    instance_of,
    make_operation,
    uuid_of,
    world,
)
from teehouse.cloud.ids import Kind, encode
from teehouse.wire.cloud.apps import AppPageV1, AppPageV2, AppPageV3, FilterOptions
from teehouse.wire.cloud.cvms import CvmV1, CvmV2, CvmV3
from teehouse.wire.cloud.references import KmsRef

VERSIONS = ("2025-10-28", "2026-01-21", "2026-05-22", "2026-06-23")


class BothV1(CvmV1, CvmV3):
    """What both published clients take at V1 (2.2)."""

    kms_info: KmsRef | None  # type: ignore[assignment]  # the one member of which they ask different things
    vm_uuid: str


PAGES = dict(zip(VERSIONS, (AppPageV1, AppPageV2, AppPageV3, AppPageV3), strict=True))
LISTS = dict(zip(VERSIONS, (list[BothV1], list[CvmV2], list[CvmV3], list[CvmV3]), strict=True))


@pytest.fixture(name="cloud")
async def _cloud(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


URL = {
    "app": f"https://{app_id_of(1)}-80.dstack.example.org",
    "instance": f"https://{instance_of(1)}-80.dstack.example.org",
}
MACHINE = {"vcpu": 1, "memory": 2048, "disk_size": 40, "gpu_count": 0}
BASIC_V1 = {
    "vm_uuid": dashed(uuid_of(1)), "app_id": app_id_of(1), "name": "cvm-1", "status": "running", "vcpu": 1,
    "memory": 2048, "disk_size": 40, "teepod_id": 1, "teepod_name": "prod5", "region_identifier": "us-west",
    "kms_type": "phala", "instance_type": "tdx.small", "listed": False, "base_image": "dstack-0.5.4",
    "kms_slug": "kms-phala", "kms_id": encode(Kind.KMS, 1), "instance_id": instance_of(1),
    "machine_info": MACHINE, "updated_at": "2026-03-20T08:00:00Z",
}  # fmt: skip
CVM_V1 = {
    "hosted": {
        "id": dashed(uuid_of(1)), "name": "cvm-1", "status": "running", "uptime": "21h 30m",
        "app_url": f"https://{app_id_of(1)}-8090.dstack.example.org", "app_id": app_id_of(1),
        "instance_id": instance_of(1), "configuration": None, "exited_at": None, "boot_progress": "done",
        "boot_error": None, "shutdown_progress": None, "image_version": "dstack-0.5.4",
    },
    "name": "cvm-1", "managed_user": {"id": 1, "username": "alice"},
    "node": {"id": 1, "name": "prod5", "region_identifier": "us-west"}, "listed": False, "status": "running",
    "in_progress": False, "dapp_dashboard_url": f"https://{app_id_of(1)}-8090.dstack.example.org/",
    "syslog_endpoint": None, "allow_upgrade": True, "project_id": None, "project_type": "docker-compose",
    "billing_period": "hourly",
    "kms_info": {
        "id": encode(Kind.KMS, 1), "slug": "kms-phala", "url": "https://kms.example.org", "version": "v0.5.4",
        "chain_id": None, "kms_contract_address": None, "gateway_app_id": None,
    },
    "vcpu": 1, "memory": 2048, "disk_size": 40, "gateway_domain": "dstack.example.org", "public_urls": [URL],
    "machine_info": MACHINE, "updated_at": "2026-03-20T08:00:00Z",
}  # fmt: skip
CVM_V2 = {
    "id": encode(Kind.CVM, 1), "name": "cvm-1", "app_id": app_id_of(1), "vm_uuid": dashed(uuid_of(1)),
    "instance_id": instance_of(1),
    "resource": {
        "instance_type": "tdx.small", "vcpu": 1, "memory_in_gb": 2, "disk_in_gb": 40, "gpus": 0,
        "compute_billing_price": "0.058", "billing_period": "hourly",
    },
    "node_info": {
        "object_type": "node", "id": 1, "name": "prod5", "region": "us-west", "device_id": f"0x{DEVICE}",
        "ppid": "78" * 16, "status": "online", "version": "v0.5.4",
    },
    "os": {"name": "dstack-0.5.4", "version": "0.5.4", "is_dev": False, "os_image_hash": IMAGE_HASH},
    "kms_type": "phala",
    "kms_info": {
        "chain_id": None, "dstack_kms_address": None, "dstack_app_address": None, "deployer_address": None,
        "rpc_endpoint": None, "encrypted_env_pubkey": "e3" * 32,
    },
    "status": "running", "progress": None, "compose_hash": COMPOSE_HASH,
    "gateway": {"base_domain": "dstack.example.org", "cname": None},
    "services": [{"name": "web", "image": "nginx:1.27-alpine"}], "endpoints": [URL], "public_logs": True,
    "public_sysinfo": True, "public_tcbinfo": True, "gateway_enabled": True, "secure_time": False,
    "listed": False,
    "workspace": {
        "object_type": "workspace", "id": encode(Kind.WORKSPACE, 1), "name": "alice's projects",
        "slug": "alice-projects", "avatar_url": None,
    },
    "creator": {"object_type": "user", "id": encode(Kind.USER, 1), "username": "alice", "avatar_url": None},
    "storage_fs": "zfs",
}  # fmt: skip
CVM_V3 = CVM_V2 | {
    "node_info": CVM_V2["node_info"] | {  # type: ignore[operator]  # a literal of many kinds
        "device_ids": [
            {"device_id": f"0x{DEVICE}", "algorithm_version": "v1", "os_image_ids": [1, 2], "enabled": True}
        ]
    },
    "kms_info": CVM_V2["kms_info"] | {"k256_pubkey": "02" + "17" * 32},  # type: ignore[operator]  # as above
    "in_progress": False,
    "docker_compose_hash": hashlib.sha256(COMPOSE_YAML.encode()).hexdigest(),
    "pre_launch_script_hash": None,
    "logs": {"serial": None, "stdout": None, "stderr": None, "container_log_base": None},
    "created_at": "2026-03-19T10:30:00Z", "deleted_at": None, "project_type": "docker-compose",
    "updated_at": "2026-03-20T08:00:00Z", "app_url": f"https://{app_id_of(1)}-8090.dstack.example.org",
    "base_image": "dstack-0.5.4", "features": ["kms", "tproxy-net"], "runner": "docker-compose",
    "manifest_version": "2", "hourly_rate": {"total": "0.058", "compute": "0.058", "disk": "0"},
    "billing_interval": "hourly", "gpu_rental_order": None,
}  # fmt: skip
IN_APP = dict(zip(VERSIONS, (BASIC_V1, CVM_V2, CVM_V3, CVM_V3), strict=True))
IN_LIST = dict(zip(VERSIONS, (CVM_V3 | CVM_V1, CVM_V2, CVM_V3, CVM_V3), strict=True))


def shown_app(cvm: Any) -> dict[str, Any]:
    return {
        "id": encode(Kind.APP, 1), "name": "app-1", "app_id": app_id_of(1), "app_provision_type": "user",
        "app_icon_url": None, "created_at": "2026-03-19T10:30:00Z", "kms_type": "phala",
        "profile": {"display_name": None, "avatar_url": None, "description": None, "custom_domain": None},
        "team_slug": "alice-projects", "team_name": "alice's projects", "current_cvm": cvm, "cvms": [cvm],
        "cvm_count": 1,
    }  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
async def test_whole_answers_of_an_app(cloud: World, version: str) -> None:
    await cloud.deploy(1)
    answer = await cloud.get("/apps", version)
    assert answer.headers["content-type"] == "application/json"
    app = shown_app(IN_APP[version])
    assert answer.json() == {"dstack_apps": [app], "page": 1, "page_size": 20, "total": 1, "total_pages": 1}
    conforms(PAGES[version], answer.json())
    for spelling in (app_id_of(1), f"0x{app_id_of(1).upper()}", f"app_{app_id_of(1)}"):
        assert (await cloud.get(f"/apps/{spelling}", version)).json() == app
    listed = (await cloud.get(f"/apps/{app_id_of(1)}/cvms", version)).json()
    assert listed == [IN_LIST[version]]
    conforms(LISTS[version], listed)


async def test_an_operation_under_way_is_shown(cloud: World) -> None:
    await cloud.deploy(1)
    await cloud.add(make_operation(1, 1, finished_at=NOW, outcome="succeeded"), make_operation(2, 1))
    progress = {"target": "running", "started_at": "2026-03-20T08:00:00Z", "correlation_id": "op-2"}
    (v1,) = (await cloud.get(f"/apps/{app_id_of(1)}/cvms", "2025-10-28")).json()
    (v3,) = (await cloud.get(f"/apps/{app_id_of(1)}/cvms")).json()
    assert v1 == CVM_V3 | CVM_V1 | {"in_progress": True, "allow_upgrade": False, "progress": progress}
    assert v3 == CVM_V3 | {"in_progress": True, "progress": progress}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_cvm_without_what_may_be_missing(cloud: World, version: str) -> None:
    bare = {
        "status": "creating", "node_id": None, "instance_type": None, "instance_id": None, "storage_fs": None,
        "memory_mb": 1536, "started_at": None, "boot_progress": None,
    }  # fmt: skip
    await cloud.deploy(1, [bare])
    page = (await cloud.get("/apps", version)).json()
    conforms(PAGES[version], page)
    listed = (await cloud.get(f"/apps/{app_id_of(1)}/cvms", version)).json()
    conforms(LISTS[version], listed)
    (shown,) = page["dstack_apps"][0]["cvms"]
    if version == "2025-10-28":
        assert (shown["teepod_id"], shown["teepod_name"], shown["region_identifier"]) == (0, "", None)
        assert (listed[0]["hosted"]["uptime"], listed[0]["public_urls"], listed[0]["node"]) == ("", [], None)
    else:
        assert shown["resource"] == {
            "instance_type": None, "vcpu": 1, "memory_in_gb": 1.5, "disk_in_gb": 40, "gpus": 0,
            "compute_billing_price": None, "billing_period": "skip",
        }  # fmt: skip
        assert "storage_fs" not in shown
        assert (shown["node_info"], shown["endpoints"], shown["gateway"]["base_domain"]) == (None, [], None)


async def test_an_app_on_chain(cloud: World) -> None:
    await cloud.deploy(
        1, kms_id=2, kms_type="base", chain_id=8453, contract_address="0x" + "3f" * 20,
        deployer_address="0x" + "5a" * 20,
    )  # fmt: skip
    (v1,) = (await cloud.get(f"/apps/{app_id_of(1)}/cvms", "2025-10-28")).json()
    (v3,) = (await cloud.get(f"/apps/{app_id_of(1)}/cvms")).json()
    assert v1["kms_info"] == {
        "id": encode(Kind.KMS, 2), "slug": "kms-base", "url": "https://kms-base.example.org",
        "version": "v0.5.4", "chain_id": 8453,
        "kms_contract_address": "0x2f83172A49584C017F2B256F0FB2Dca14126Ba9C",
        "gateway_app_id": "0x" + "ab" * 20,
    }  # fmt: skip
    assert v3["kms_type"] == "base"
    assert v3["kms_info"] == {
        "chain_id": 8453, "dstack_kms_address": "0x2f83172A49584C017F2B256F0FB2Dca14126Ba9C",
        "dstack_app_address": "0x" + "3f" * 20, "deployer_address": "0x" + "5a" * 20, "rpc_endpoint": None,
        "encrypted_env_pubkey": "e3" * 32, "k256_pubkey": None,
    }  # fmt: skip


async def test_current_is_the_newest_that_runs_and_deleted_cvms_are_not_shown(cloud: World) -> None:
    statuses = ("running", "running", "stopped", "running")
    cvms: list[dict[str, Any]] = [{"status": status} for status in statuses]
    cvms[3]["deleted_at"] = NOW
    await cloud.deploy(1, cvms)
    app = (await cloud.get(f"/apps/{app_id_of(1)}")).json()
    assert [cvm["name"] for cvm in app["cvms"]] == ["cvm-3", "cvm-2", "cvm-1"]
    assert (app["current_cvm"]["name"], app["cvm_count"]) == ("cvm-2", 3)


async def test_current_is_the_newest_where_none_runs(cloud: World) -> None:
    await cloud.deploy(1, [{"status": "stopped"}, {"status": "error"}])
    await cloud.deploy(2, [])
    apps = (await cloud.get("/apps")).json()["dstack_apps"]
    assert [app["current_cvm"] and app["current_cvm"]["name"] for app in apps] == [None, "cvm-2"]


async def test_uptimes(cloud: World) -> None:
    await cloud.deploy(1, [{"started_at": NOW - timedelta(seconds=s)} for s in (5, 65, 3600, -5)])
    listed = (await cloud.get(f"/apps/{app_id_of(1)}/cvms", "2025-10-28")).json()
    assert [cvm["hosted"]["uptime"] for cvm in listed] == ["0s", "1h 0m", "1m 5s", "5s"]


async def test_pages_are_newest_first_and_bounded(cloud: World) -> None:
    for number in range(1, 6):
        await cloud.deploy(number)
    await cloud.deploy(6, deleted_at=NOW)
    page = (await cloud.get("/apps", page=2, page_size=2)).json()
    assert [app["name"] for app in page.pop("dstack_apps")] == ["app-3", "app-2"]
    assert page == {"page": 2, "page_size": 2, "total": 5, "total_pages": 3}
    beyond = (await cloud.get("/apps", page=9)).json()
    assert beyond == {"dstack_apps": [], "page": 9, "page_size": 20, "total": 5, "total_pages": 1}
    for query in (
        {"page": 0},
        {"page_size": 0},
        {"page_size": 101},
        {"search": "a" * 129},
        {"listed": "maybe"},
    ):
        assert (await cloud.get("/apps", **query)).status_code == 422


async def test_filter_options(cloud: World) -> None:
    await cloud.deploy(1, [{"status": "stopped"}, {"node_id": 2, "base_image": "dstack-0.5.5"}])
    await cloud.deploy(2, [{"node_id": None, "instance_type": None}], kms_id=2, kms_type="base")
    await cloud.deploy(3, [{"status": "error", "node_id": 3, "deleted_at": NOW}], deleted_at=NOW)
    await cloud.deploy(4, [{"status": "exited"}], workspace=MALLORY)
    with counted(cloud.database) as sent:
        answer = await cloud.get("/apps/filter-options")
    assert answer.json() == {
        "statuses": ["running", "stopped"], "image_versions": ["dstack-0.5.4", "dstack-0.5.5"],
        "instance_types": ["tdx.small"], "kms_slugs": ["kms-base", "kms-phala"],
        "kms_types": ["base", "phala"], "regions": ["eu-north", "us-west"], "nodes": ["prod5", "prod6"],
    }  # fmt: skip
    conforms(FilterOptions, answer.json())
    assert len(sent) == 2  # the key, the options


async def test_filter_options_of_nothing(cloud: World) -> None:
    names = FilterOptions.model_fields
    assert (await cloud.get("/apps/filter-options")).json() == {name: [] for name in names}


@pytest.mark.parametrize("path", ["", "/cvms", "/revisions"])
async def test_another_workspace_sees_nothing(cloud: World, path: str) -> None:
    await cloud.deploy(1)
    foreign = await cloud.get(f"/apps/{app_id_of(1)}{path}", key=FOREIGN_KEY)
    missing = await cloud.get(f"/apps/{app_id_of(9)}{path}")
    assert (foreign.status_code, missing.status_code) == (404, 404)
    assert foreign.json()["detail"] == missing.json()["detail"] == "App not found"
    assert (await cloud.get(f"/apps/no-id{path}")).status_code == 404
    assert (await cloud.get("/apps", key=FOREIGN_KEY)).json()["total"] == 0
    assert (await cloud.get(f"/apps/{app_id_of(1)}{path}", key=None)).status_code == 401


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_number_of_statements_does_not_grow(cloud: World, version: str) -> None:
    async def statements(path: str) -> int:
        await cloud.get(path, version)  # compose files are read once
        with counted(cloud.database) as sent:
            assert (await cloud.get(path, version)).status_code == 200
        return len(sent)

    await cloud.deploy(1, [{}, {"node_id": 2}])
    paths = ("/apps?page_size=100", f"/apps/{app_id_of(1)}", f"/apps/{app_id_of(1)}/cvms")
    before = [await statements(path) for path in paths]
    for number in range(2, 40):
        await cloud.deploy(number, [{}, {"node_id": 3}], kms_id=1 + number % 2)
    assert [await statements(path) for path in paths] == before
    assert max(before) <= 11


async def test_a_key_is_needed(cloud: World) -> None:
    assert (await cloud.get("/apps", key=None)).status_code == 401
    assert (await cloud.get("/apps", key=KEY)).status_code == 200
