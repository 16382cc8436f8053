"""Routes of instance types, images, KMSs, nodes and quotas (cloud-api.md 10.2, 12.2 to 12.4, 14.1)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from support.cloud_read_support import (
    ALICE,
    CREATED,
    DEVICE,
    FOREIGN_KEY,
    IMAGE_HASH,
    World,
    conforms,
    counted,
    world,
)
from support.kms_client_support import APP_ID, KEYS, NOW, OTHER_KEYS, FakeKms, refuse, replies, say
from teehouse.base.clock import FixedClock
from teehouse.cloud.accounts.models import Quota, Workspace
from teehouse.cloud.apps.app_ids import app_id_of
from teehouse.cloud.cvms.models import Reservation
from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.inventory.env_keys import AskedKmsKeys, EnvironmentKeysByKms
from teehouse.cloud.inventory.models import InstanceType, KmsContract, KmsNode
from teehouse.cloud.nodes.models import Node, NodeKms
from teehouse.keys.envbox import check_environment_key
from teehouse.kms.answers import env_public_key_response
from teehouse.wire.cloud.inventory import (
    AvailableNodes,
    CvmCreateResources,
    FamilyInstanceTypes,
    InstanceTypes,
    OsImage,
    WorkspaceQuotas,
)
from teehouse.wire.cloud.kms import KmsContract as KmsContractBody
from teehouse.wire.cloud.kms import KmsContractNodes, NextAppIds, OnChainKms
from teehouse.wire.cloud.paging import PageA
from teehouse.wire.cloud.references import KmsRef, NodeRef

V1, V2, V3, V4 = "2025-10-28", "2026-01-21", "2026-05-22", "2026-06-23"
SMALL = {
    "id": "tdx.small", "name": "tdx.small", "description": "1 vCPU", "vcpu": 1, "memory_mb": 2048,
    "hourly_rate": "0.058", "requires_gpu": False, "default_disk_size_gb": 20, "family": "cpu",
}  # fmt: skip
PHALA = {
    "id": encode(Kind.KMS, 1), "slug": "kms-phala", "url": "https://kms.example.org", "version": "v0.5.4",
    "chain_id": None, "kms_contract_address": None, "gateway_app_id": None,
}  # fmt: skip
BASE = {
    "id": encode(Kind.KMS, 2), "slug": "kms-base", "url": "https://kms-base.example.org", "version": "v0.5.4",
    "chain_id": 8453, "kms_contract_address": "0x2f83172A49584C017F2B256F0FB2Dca14126Ba9C",
    "gateway_app_id": "0x" + "ab" * 20,
}  # fmt: skip
CONTRACT = {
    "id": encode(Kind.KMS_CONTRACT, 1), "slug": "phala", "label": None, "contract_address": "phala",
    "chain_id": 0, "k256_pubkey": "02" + "17" * 32, "ca_pubkey": None, "node_count": 1,
}  # fmt: skip
IMAGES: list[dict[str, Any]] = [
    {"name": "dstack-0.5.5", "is_dev": False, "version": [0, 5, 5], "os_image_hash": None},
    {"name": "dstack-dev-0.5.4", "is_dev": True, "version": [0, 5, 4], "os_image_hash": None},
    {"name": "dstack-0.5.4", "is_dev": False, "version": [0, 5, 4], "os_image_hash": IMAGE_HASH},
]
DEVICES = [{"device_id": DEVICE, "algorithm_version": "v1", "os_image_ids": [1, 2], "enabled": True}]
NODE = {
    "teepod_id": 1, "name": "prod5", "listed": True, "resource_score": 0.95, "remaining_vcpu": 63,
    "remaining_memory": 129024, "remaining_cvm_slots": 19, "images": IMAGES, "support_onchain_kms": True,
    "fmspc": None, "device_id": DEVICE, "region_identifier": "us-west", "default_kms": "kms-base",
    "kms_list": ["kms-phala", "kms-base"], "device_ids": DEVICES,
}  # fmt: skip
CAPACITY = {"max_instances": 4, "max_vcpu": 8, "max_memory": 8192, "max_disk": 100}
GPUS = {
    "has_reserved_gpus": False, "reserved_gpu_count": 0, "has_public_gpus": False, "public_gpu_count": 0,
}  # fmt: skip


@pytest.fixture(name="cloud")
async def _cloud(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, kms_keys=AskedKmsKeys(FixedClock(NOW))) as made:
        async with made.database.write() as session:
            first, second, third = [await session.get_one(Node, number) for number in (1, 2, 3)]
            first.default_kms_id, first.used_vcpu, first.used_memory_mb, first.used_slots = 2, 1, 2048, 1
            second.workspace_id = 2
            third.status = "draining"
        await made.add(
            Quota(workspace_id=ALICE, vm_slots=4, vcpu=8, memory_mb=8192, disk_gb=100, reserved_nodes=1, reserved_gpus=0),
            NodeKms(node_id=1, kms_id=1),
            NodeKms(node_id=1, kms_id=2),
            Reservation(workspace_id=ALICE, node_id=1, vcpu=1, memory_mb=2048, disk_gb=20, created_at=CREATED),
        )  # fmt: skip
        yield made


async def answered(cloud: World, path: str, version: str = V4, **query: Any) -> Any:
    answer = await cloud.get(path, version, **query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    return answer.json()


@pytest.mark.parametrize("version", [V1, V2, V3, V4])
async def test_instance_types_by_family(cloud: World, version: str) -> None:
    whole = await answered(cloud, "/instance-types", version)
    assert whole == {"result": [{"name": "cpu", "items": [SMALL], "total": 1}]}
    conforms(InstanceTypes, whole)
    family = await answered(cloud, "/instance-types/cpu", version)
    assert family == {"items": [SMALL], "total": 1, "family": "cpu"}
    conforms(FamilyInstanceTypes, family)


async def test_a_type_that_is_disabled_is_not_told_and_its_family_not_found(cloud: World) -> None:
    async with cloud.database.write() as session:
        (await session.get_one(InstanceType, "tdx.small")).enabled = False
    assert await answered(cloud, "/instance-types") == {"result": []}
    assert (await cloud.get("/instance-types/cpu")).status_code == 404


async def test_os_images_in_pages_newest_first(cloud: World) -> None:
    newest = {
        "name": "dstack-0.5.5", "slug": "dstack-0.5.5", "version": "0.5.5", "os_image_hash": None,
        "is_dev": False, "requires_gpu": False,
    }  # fmt: skip
    page = await answered(cloud, "/os-images", page_size=1)
    assert page == {"items": [newest], "total": 3, "page": 1, "page_size": 1, "pages": 3}
    conforms(PageA[OsImage], page)
    dev = await answered(cloud, "/os-images", is_dev="true")
    assert [image["name"] for image in dev["items"]] == ["dstack-dev-0.5.4"]
    stable = await answered(cloud, "/os-images", is_dev="false")
    assert [image["name"] for image in stable["items"]] == ["dstack-0.5.5", "dstack-0.5.4"]


@pytest.mark.parametrize("version", [V1, V2, V3])
async def test_kms_list_has_nodes_and_no_other_members_up_to_v3(cloud: World, version: str) -> None:
    page = await answered(cloud, "/kms", version)
    assert page == {"items": [PHALA, BASE], "total": 2, "page": 1, "page_size": 100, "pages": 1}
    conforms(PageA[KmsRef], page)
    for onchain, expected in (("true", [BASE]), ("false", [PHALA])):
        found = await answered(cloud, "/kms", version, is_onchain=onchain)
        assert (found["items"], found["total"]) == (expected, 1)


@pytest.mark.parametrize("name", ["kms-base", encode(Kind.KMS, 2), "base", "BASE"])
async def test_one_kms_by_slug_id_and_type(cloud: World, name: str) -> None:
    assert await answered(cloud, f"/kms/{name}", V3) == BASE


async def test_v4_has_contracts(cloud: World) -> None:
    page = await answered(cloud, "/kms", is_onchain="false")
    assert page == {"items": [CONTRACT], "total": 1, "page": 1, "page_size": 100, "pages": 1}
    conforms(PageA[KmsContractBody], page)
    for name in ("phala", encode(Kind.KMS_CONTRACT, 1)):
        assert await answered(cloud, f"/kms/{name}") == CONTRACT
    by_address = await answered(cloud, "/kms/0x2F83172A49584c017f2b256f0fb2dca14126ba9c")
    assert by_address["slug"] == "base"
    for name in ("kms-phala", encode(Kind.KMS, 1)):  # a KMS that runs for it names it as well
        assert await answered(cloud, f"/kms/{name}") == CONTRACT
    nodes = await answered(cloud, "/kms/phala/nodes")
    member = {name: PHALA[name] for name in ("id", "slug", "url", "version")} | {"kms_type": "phala"}
    assert nodes == {"items": [member], "total": 1}
    conforms(KmsContractNodes, nodes)


@pytest.mark.parametrize("version", [V3, V4])
@pytest.mark.parametrize("path", ["/kms/nobody", "/kms/kms_00000000", "/kms/nobody/nodes", "/kms/on-chain/solana"])  # fmt: skip
async def test_what_is_unknown_is_not_found(cloud: World, version: str, path: str) -> None:
    answer = await cloud.get(path, version)
    assert answer.status_code == 404
    assert set(answer.json()) == {"detail", "request_id"}


async def test_a_kms_that_is_disabled_is_gone(cloud: World) -> None:
    async with cloud.database.write() as session:
        (await session.get_one(KmsNode, 1)).enabled = False
    assert (await cloud.get("/kms/kms-phala", V3)).status_code == 404
    assert (await answered(cloud, "/kms/phala"))["node_count"] == 0


@pytest.mark.parametrize("chain", ["base", "Base"])
async def test_on_chain_kms_with_devices_and_images(cloud: World, chain: str) -> None:
    told = await answered(cloud, f"/kms/on-chain/{chain}", V2)
    image = {
        "name": "dstack-0.5.4",
        "version": "0.5.4",
        "os_image_hash": IMAGE_HASH,
        "on_chain_allowed": None,
    }
    assert {key: told[key] for key in ("chain_name", "chain_id")} == {"chain_name": "base", "chain_id": 8453}
    (contract,) = told["contracts"]
    assert contract["devices"] == [
        {"device_id": f"0x{DEVICE}", "node_name": "prod5", "on_chain_allowed": None}
    ]
    assert contract["os_images"][0] == image
    assert len(contract["os_images"]) == 3
    conforms(OnChainKms, told)


async def test_a_chain_that_no_kms_is_on_has_no_contracts(cloud: World) -> None:
    told = await answered(cloud, "/kms/on-chain/ethereum")
    assert told == {"chain_name": "ethereum", "chain_id": 1, "contracts": []}
    conforms(OnChainKms, told)


async def test_next_app_ids_are_those_of_the_next_nonces_and_take_nothing(cloud: World) -> None:
    async with cloud.database.read() as session:
        seeds = {row.id: row.app_id_seed for row in await session.scalars(select(Workspace))}
    first = [{"app_id": app_id_of(ALICE, nonce, seeds[ALICE]), "nonce": nonce} for nonce in range(3)]
    expected = {"app_ids": first}
    for _ in range(2):
        told = await answered(cloud, "/kms/phala/next_app_id", counts=3)
        assert told == expected
    conforms(NextAppIds, expected)
    other = (await cloud.get("/kms/phala/next_app_id", key=FOREIGN_KEY)).json()
    assert other["app_ids"][0] == {"app_id": app_id_of(2, 0, seeds[2]), "nonce": 0}


def test_app_ids_of_control_planes_under_one_kms_differ() -> None:
    ids = {app_id_of(1, 0, seed) for seed in (None, "00" * 16, "01" * 16)}
    assert len(ids) == 3
    assert app_id_of(1, 0, None) == "bc9f818e80b9e4f19edd7c7229493f4eadf254f0"  # as the first release gave it
    assert app_id_of(1, 0, "00" * 16) != app_id_of(1, 1, "00" * 16)


@pytest.mark.parametrize("counts", ["0", "21", "x"])
async def test_one_to_twenty_app_ids_at_once(cloud: World, counts: str) -> None:
    assert (await cloud.get("/kms/phala/next_app_id", counts=counts)).status_code == 422


async def trust(cloud: World, url: str, key: str | None) -> None:
    async with cloud.database.write() as session:
        (await session.get_one(KmsNode, 1)).url = url
        (await session.get_one(KmsContract, 1)).k256_pubkey = key


@pytest.mark.parametrize("app_id", [APP_ID.hex(), f"0x{APP_ID.hex()}", APP_ID.hex().upper()])
@pytest.mark.parametrize("kms", ["kms-phala", "phala", encode(Kind.KMS, 1)])
async def test_the_environment_key_has_the_signature_without_a_time(
    cloud: World, kms: str, app_id: str
) -> None:
    trusted = KEYS.root.k256_public_key
    async with FakeKms(replies()) as served:
        await trust(cloud, served.url, trusted.hex())
        told = await answered(cloud, f"/kms/{kms}/pubkey/{app_id}", V3)
    assert set(told) == {"public_key", "signature"}
    public_key, signature = bytes.fromhex(told["public_key"]), bytes.fromhex(told["signature"])
    assert check_environment_key(APP_ID, public_key, signature, trusted).ok


async def test_a_key_that_the_registered_kms_did_not_sign_is_not_passed_on(cloud: World) -> None:
    async with FakeKms(replies()) as served:
        await trust(cloud, served.url, OTHER_KEYS.root.k256_public_key.hex())
        answer = await cloud.get(f"/kms/kms-phala/pubkey/{APP_ID.hex()}", V3)
    assert answer.status_code == 403
    assert "public_key" not in answer.json()


async def test_a_signature_without_a_time_that_is_not_the_kms_own_is_not_passed_on(cloud: World) -> None:
    told = env_public_key_response(KEYS, APP_ID, NOW)
    other = env_public_key_response(OTHER_KEYS, APP_ID, NOW)
    told.signature = other.signature
    async with FakeKms({**replies(), "GetAppEnvEncryptPubKey": say(told)}) as served:
        await trust(cloud, served.url, KEYS.root.k256_public_key.hex())
        answer = await cloud.get(f"/kms/kms-phala/pubkey/{APP_ID.hex()}", V3)
    assert answer.status_code == 403


async def test_a_kms_that_does_not_answer_is_503_and_one_without_key_as_well(cloud: World) -> None:
    async with FakeKms({**replies(), "GetAppEnvEncryptPubKey": refuse(500, "down")}) as served:
        await trust(cloud, served.url, KEYS.root.k256_public_key.hex())
        assert (await cloud.get(f"/kms/kms-phala/pubkey/{APP_ID.hex()}", V3)).status_code == 503
    await trust(cloud, served.url, None)
    assert (await cloud.get(f"/kms/kms-phala/pubkey/{APP_ID.hex()}", V3)).status_code == 503


async def test_an_app_id_that_is_none_is_refused_before_anybody_is_asked(cloud: World) -> None:
    answer = await cloud.get("/kms/kms-phala/pubkey/abc", V3)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "ERR-02-008")


async def test_the_key_by_the_number_of_its_kms(cloud: World) -> None:
    async with FakeKms(replies()) as served:
        await trust(cloud, served.url, KEYS.root.k256_public_key.hex())
        keys = EnvironmentKeysByKms(cloud.database, AskedKmsKeys(FixedClock(NOW)))
        told = await keys.environment_key(1, APP_ID.hex())
        assert told == (await answered(cloud, f"/kms/phala/pubkey/{APP_ID.hex()}", V3))["public_key"]


@pytest.mark.parametrize("version", [V1, V2, V3, V4])
async def test_available_nodes_are_those_that_take_cvms_of_the_workspace(cloud: World, version: str) -> None:
    told = await answered(cloud, "/teepods/available", version)
    assert told == {
        "tier": "free",
        "capacity": CAPACITY,
        "nodes": [NODE],
        "kms_list": [PHALA, BASE],
        "gpu_availability": GPUS,
    }
    conforms(AvailableNodes, told)


async def test_nodes_with_old_images_only(cloud: World) -> None:
    assert (await answered(cloud, "/teepods/available", v03x_only=1))["nodes"] == []


async def test_a_reserved_node_comes_first(cloud: World) -> None:
    async with cloud.database.write() as session:
        node = await session.get_one(Node, 3)
        node.status, node.workspace_id, node.listed, node.gpus, node.used_vcpu = "online", ALICE, False, 8, 60
    told = await answered(cloud, "/teepods/available")
    assert [node["name"] for node in told["nodes"]] == ["prod7", "prod5"]
    assert told["gpu_availability"] == GPUS | {"has_reserved_gpus": True, "reserved_gpu_count": 8}
    other = (await cloud.get("/teepods/available", key=FOREIGN_KEY)).json()
    assert [node["name"] for node in other["nodes"]] == ["prod6", "prod5"]


async def test_resources_for_a_new_cvm(cloud: World) -> None:
    told = await answered(cloud, "/teepods/cvm-create-resources", V4)
    conforms(CvmCreateResources, told)
    assert (told["nodes"], told["capacity"]) == ([NODE], CAPACITY)
    assert told["kms_nodes"][1] == {
        "id": encode(Kind.KMS, 2), "slug": "kms-base", "url": "https://kms-base.example.org", "version": "v0.5.4",
        "kms_type": "base", "chain_id": 8453, "kms_contract_id": encode(Kind.KMS_CONTRACT, 2),
        "kms_contract_address": BASE["kms_contract_address"], "gateway_app_id": BASE["gateway_app_id"],
        "supported_os_images": ["dstack-0.5.4", "dstack-0.5.5", "dstack-dev-0.5.4"],
    }  # fmt: skip
    assert told["node_kms_relations"][0] == {
        "teepod_id": 1, "kms_id": encode(Kind.KMS, 1), "kms_type": "phala",
        "kms_contract_id": encode(Kind.KMS_CONTRACT, 1), "kms_contract_address": "phala",
        "supported_os_images": ["dstack-0.5.5", "dstack-dev-0.5.4", "dstack-0.5.4"],
    }  # fmt: skip
    assert told["gateway_nodes"][0]["domain_suffix"] == "dstack.example.org"
    assert told["instance_types"] == [
        {
            "id": "tdx.small", "name": "tdx.small", "vcpu": 1, "memory_mb": 2048, "default_disk_size_gb": 20,
            "requires_gpu": False, "requires_gpu_count": 0, "family": "cpu", "display_order": 0,
        }
    ]  # fmt: skip


async def test_nodes_of_the_workspace_whatever_their_status(cloud: World) -> None:
    page = await answered(cloud, "/workspaces/alice-projects/nodes", V2)
    conforms(PageA[NodeRef], page)
    assert page["items"][0] == {
        "object_type": "node", "id": 1, "name": "prod5", "region": "us-west", "device_id": f"0x{DEVICE}",
        "ppid": "78" * 16, "status": "online", "version": "v0.5.4",
        "device_ids": [DEVICES[0] | {"device_id": f"0x{DEVICE}"}],
    }  # fmt: skip
    assert [(node["name"], node["status"]) for node in page["items"]] == [
        ("prod5", "online"),
        ("prod7", "draining"),
    ]
    assert {key: page[key] for key in ("total", "page", "page_size", "pages")} == {
        "total": 2, "page": 1, "page_size": 30, "pages": 1,
    }  # fmt: skip
    second = await answered(cloud, "/workspaces/alice-projects/nodes", V2, page=2, page_size=1)
    assert [node["name"] for node in second["items"]] == ["prod7"]


async def test_quotas_of_the_workspace(cloud: World) -> None:
    told = await answered(cloud, "/workspaces/alice-projects/quotas", V2)
    conforms(WorkspaceQuotas, told)
    assert told == {
        "team_slug": "alice-projects",
        "tier": "free",
        "as_of": "2026-03-20T08:00:00Z",
        "quotas": {
            "vm_slots": {"limit": 4, "remaining": 3},
            "vcpu": {"limit": 8, "remaining": 7},
            "memory_mb": {"limit": 8192, "remaining": 6144},
            "disk_gb": {"limit": 100, "remaining": 80},
        },
        "reserved_nodes": {"limit": 1, "remaining": 1},
        "reserved_gpu": {"gpus": {"limit": 0, "remaining": 0}, "in_use": 0, "misconfigured": 0},
    }


@pytest.mark.parametrize("path", ["nodes", "quotas"])
async def test_another_workspace_is_not_found(cloud: World, path: str) -> None:
    assert (await cloud.get(f"/workspaces/alice-projects/{path}", key=FOREIGN_KEY)).status_code == 404
    assert (await cloud.get(f"/workspaces/alice-projects/{path}", key=None)).status_code == 401


async def test_the_number_of_statements_does_not_grow_with_the_nodes(cloud: World) -> None:
    with counted(cloud.database) as few:
        await answered(cloud, "/teepods/available")
    for number in range(10, 40):
        await cloud.add(
            Node(
                id=number, name=f"n{number}", region="x", version="v", emulated=True, root="r", vcpu=8,
                memory_mb=8192, disk_gb=100, slots=4, created_at=CREATED,
            )
        )  # fmt: skip
    with counted(cloud.database) as many:
        assert len((await answered(cloud, "/teepods/available"))["nodes"]) == 31
    assert len(many) == len(few)
