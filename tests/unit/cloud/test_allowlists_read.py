"""Device allow-lists and the three questions whether something is allowed (cloud-api.md 11.8 to 11.10)."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.cloud_read_support import (
    COMPOSE_HASH,
    DEVICE,
    FOREIGN_KEY,
    MALLORY,
    VIEWER_KEY,
    World,
    app_id_of,
    conforms,
    counted,
    world,
)
from teehouse.base.findings import unavailable
from teehouse.cloud.allowlists.services import ContractState, Question, Verdict
from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.nodes.models import Node
from teehouse.wire.cloud.allowlists import CvmsAllowed, DeviceAllowlist, IsAllowed

VERSIONS = ("2025-10-28", "2026-01-21", "2026-05-22", "2026-06-23")
ADDRESS = "0x3F1c9a5e7b2d4c6f8091a2b3c4d5e6f708192a3B"
ON_CHAIN: dict[str, Any] = {"kms_id": 2, "kms_type": "base", "chain_id": 8453, "contract_address": ADDRESS}
OTHER = "ee" * 32
APP = f"/apps/{app_id_of(1)}"


@dataclass
class Contracts:
    """One contract for all addresses."""

    hashes: set[str] = field(default_factory=lambda: {COMPOSE_HASH})
    device_ids: set[str] = field(default_factory=lambda: {DEVICE})
    allow_any_device: bool = False
    broken: bool = False
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    async def ask(self, chain_id: int, address: str, questions: Sequence[Question]) -> list[Verdict]:
        self._called("ask", chain_id, address, len(questions))
        return [
            Verdict(
                q.compose_hash in self.hashes,
                self.allow_any_device,
                q.device_id in self.device_ids if q.device_id else None,
            )
            for q in questions
        ]

    async def devices(self, chain_id: int, address: str, device_ids: Sequence[str]) -> ContractState:
        self._called("devices", chain_id, address, len(device_ids))
        return ContractState(self.allow_any_device, {d: d in self.device_ids for d in device_ids})

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.broken:
            raise unavailable("chain.rpc", "the chain does not answer")


@pytest.fixture(name="contracts")
def _contracts() -> Contracts:
    return Contracts()


@pytest.fixture(name="cloud")
async def _cloud(tmp_path: Path, contracts: Contracts) -> AsyncIterator[World]:
    async with world(tmp_path, contracts=contracts) as made:
        await made.add(Node(
            id=4, name="prod8", region="us-west", version="v", emulated=True, root="r", vcpu=1, memory_mb=1,
            disk_gb=1, slots=1, device_id=OTHER, created_at=made.clock.now(),
        ))  # fmt: skip
        yield made


def named(number: int, version: str) -> int | str:
    return number if version in VERSIONS[:2] else encode(Kind.CVM, number)


@pytest.mark.parametrize("version", VERSIONS)
async def test_off_chain(cloud: World, contracts: Contracts, version: str) -> None:
    await cloud.deploy(1)
    listed = (await cloud.get(f"{APP}/device-allowlist", version)).json()
    assert listed == {
        "is_onchain_kms": False, "allow_any_device": None, "chain_id": None, "app_contract_address": None,
        "devices": [],
    }  # fmt: skip
    conforms(DeviceAllowlist, listed)
    cvms = (await cloud.post(f"{APP}/cvms/is-allowed", {}, version)).json()
    assert cvms == {
        "is_onchain": False, "results": [], "total": 0, "allowed_count": 0, "denied_count": 0,
        "error_count": 0, "skipped_cvm_ids": [],
    }  # fmt: skip
    conforms(CvmsAllowed, cvms)
    for answer in (
        await cloud.post(f"{APP}/is-allowed", {"compose_hash": COMPOSE_HASH}, version),
        await cloud.post("/cvms/cvm-1/is-allowed", {}, version),
    ):
        assert (answer.status_code, answer.json()["error_code"]) == (400, "ERR-02-008")
    assert contracts.calls == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_devices_of_an_app_on_chain(cloud: World, contracts: Contracts, version: str) -> None:
    await cloud.deploy(1, [{}, {"node_id": 4}, {}, {"node_id": 2}, {"node_id": None}], **ON_CHAIN)
    listed = (await cloud.get(f"{APP}/device-allowlist", version)).json()
    assert listed == {
        "is_onchain_kms": True, "allow_any_device": False, "chain_id": 8453, "app_contract_address": ADDRESS,
        "devices": [
            {
                "device_id": f"0x{DEVICE}", "node_name": "prod5",
                "cvm_ids": [named(1, version), named(3, version)], "allowed_onchain": True, "status": "allowed",
            },
            {
                "device_id": f"0x{OTHER}", "node_name": "prod8", "cvm_ids": [named(2, version)],
                "allowed_onchain": False, "status": "not_allowed",
            },
        ],
    }  # fmt: skip
    conforms(DeviceAllowlist, listed)
    assert contracts.calls == [("devices", 8453, ADDRESS, 2)]


@pytest.mark.parametrize("broken", [True, False])
async def test_devices_when_the_chain_cannot_be_asked(
    cloud: World, contracts: Contracts, broken: bool
) -> None:
    contracts.broken = True
    cloud.parts.contracts = contracts if broken else None
    await cloud.deploy(1, **ON_CHAIN)
    listed = (await cloud.get(f"{APP}/device-allowlist")).json()
    assert listed["allow_any_device"] is None
    (device,) = listed["devices"]
    assert (device["allowed_onchain"], device["status"]) == (False, "unknown")
    conforms(DeviceAllowlist, listed)


QUESTION = {"compose_hash": f"0x{COMPOSE_HASH}", "device_id": f"0x{DEVICE}"}
ANSWER = {
    "app_contract_address": ADDRESS, "compose_hash": f"0x{COMPOSE_HASH}", "device_id": f"0x{DEVICE}",
    "compose_hash_allowed": True, "allow_any_device": False, "device_id_allowed": True, "is_allowed": True,
    "error": None,
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
async def test_is_allowed_for_an_app(cloud: World, version: str) -> None:
    await cloud.deploy(1, **ON_CHAIN)
    answer = (await cloud.post(f"{APP}/is-allowed", QUESTION, version)).json()
    assert answer == ANSWER
    conforms(IsAllowed, answer)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ({"compose_hash": COMPOSE_HASH.upper(), "node_id": 1}, {}),
        ({"device_id": f"0X{OTHER}"}, {"device_id": f"0x{OTHER}", "device_id_allowed": False, "is_allowed": False}),
        ({"node_id": 4, "device_id": None}, {"device_id": f"0x{OTHER}", "device_id_allowed": False, "is_allowed": False}),
        ({"device_id": None}, {"device_id": "", "device_id_allowed": None, "is_allowed": False}),
        ({"node_id": 2, "device_id": None}, {"device_id": "", "device_id_allowed": None, "is_allowed": False}),
        ({"compose_hash": "ab" * 32}, {"compose_hash": "0x" + "ab" * 32, "compose_hash_allowed": False, "is_allowed": False}),
    ],
)  # fmt: skip
async def test_what_is_asked(cloud: World, question: dict[str, Any], expected: dict[str, Any]) -> None:
    await cloud.deploy(1, **ON_CHAIN)
    assert (await cloud.post(f"{APP}/is-allowed", QUESTION | question)).json() == ANSWER | expected


async def test_any_device(cloud: World, contracts: Contracts) -> None:
    contracts.allow_any_device = True
    await cloud.deploy(1, **ON_CHAIN)
    answer = (await cloud.post(f"{APP}/is-allowed", {"compose_hash": COMPOSE_HASH})).json()
    assert answer == ANSWER | {
        "device_id": "", "allow_any_device": True, "device_id_allowed": None, "is_allowed": True,
    }  # fmt: skip


async def test_with_a_chain_no_app_is_needed(cloud: World, contracts: Contracts) -> None:
    answer = await cloud.post(f"/apps/{ADDRESS}/is-allowed", QUESTION | {"chain_id": 1})
    assert answer.json() == ANSWER | {"app_contract_address": ADDRESS.lower()}
    assert contracts.calls == [("ask", 1, ADDRESS.lower(), 1)]
    assert (await cloud.post("/apps/no-address/is-allowed", QUESTION | {"chain_id": 1})).status_code == 400


@pytest.mark.parametrize(
    "question", [{"compose_hash": "xy" * 32}, {"compose_hash": "ab"}, {"device_id": "0x00"}, {"node_id": 99}]
)
async def test_questions_that_make_no_sense(cloud: World, question: dict[str, Any]) -> None:
    await cloud.deploy(1, **ON_CHAIN)
    answer = await cloud.post(f"{APP}/is-allowed", QUESTION | {"device_id": None} | question)
    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] == next(iter(question))
    assert (await cloud.post(f"{APP}/is-allowed", {})).status_code == 422


async def test_a_node_of_another_workspace_is_no_node(cloud: World) -> None:
    async with cloud.database.write() as session:
        (await session.get_one(Node, 4)).workspace_id = MALLORY
    await cloud.deploy(1, **ON_CHAIN)
    answer = await cloud.post(f"{APP}/is-allowed", {"compose_hash": COMPOSE_HASH, "node_id": 4})
    assert answer.json()["error_code"] == "ERR-01-001"


@pytest.mark.parametrize("version", VERSIONS)
async def test_all_cvms_in_one_question(cloud: World, contracts: Contracts, version: str) -> None:
    await cloud.deploy(1, [{}, {"node_id": None}, {"node_id": 4}, {"node_id": 2}], **ON_CHAIN)
    answer = (await cloud.post(f"{APP}/cvms/is-allowed", {}, version)).json()
    denied = {"device_id": f"0x{OTHER}", "device_id_allowed": False, "is_allowed": False}
    assert answer == {
        "is_onchain": True,
        "results": [
            {"cvm_id": named(1, version)} | ANSWER, {"cvm_id": named(3, version)} | ANSWER | denied,
        ],
        "total": 2, "allowed_count": 1, "denied_count": 1, "error_count": 0,
        "skipped_cvm_ids": [named(2, version), named(4, version)],
    }  # fmt: skip
    conforms(CvmsAllowed, answer)
    assert contracts.calls == [("ask", 8453, ADDRESS, 2)]


async def test_no_cvm_needs_no_question(cloud: World, contracts: Contracts) -> None:
    await cloud.deploy(1, [], **ON_CHAIN)
    assert (await cloud.post(f"{APP}/cvms/is-allowed", {})).json()["total"] == 0
    assert contracts.calls == []


@pytest.mark.parametrize(
    ("broken", "error"),
    [(True, "the chain does not answer"), (False, "This control plane has no way to the chain")],
)
async def test_a_chain_that_does_not_answer_allows_nothing(
    cloud: World, contracts: Contracts, broken: bool, error: str
) -> None:
    contracts.broken = True
    cloud.parts.contracts = contracts if broken else None
    await cloud.deploy(1, [{}, {}], **ON_CHAIN)
    nothing = {"compose_hash_allowed": False, "device_id_allowed": None, "is_allowed": False, "error": error}
    assert (await cloud.post(f"{APP}/is-allowed", QUESTION)).json() == ANSWER | nothing
    answer = (await cloud.post(f"{APP}/cvms/is-allowed", {})).json()
    counts = {name: answer[name] for name in ("total", "allowed_count", "denied_count", "error_count")}
    assert counts == {"total": 2, "allowed_count": 0, "denied_count": 0, "error_count": 2}
    assert [result["error"] for result in answer["results"]] == [error, error]


@pytest.mark.parametrize("version", VERSIONS)
async def test_is_allowed_for_a_cvm(cloud: World, version: str) -> None:
    await cloud.deploy(1, **ON_CHAIN)
    expected = {"cvm_id": named(1, version)} | ANSWER
    answer = (await cloud.post("/cvms/cvm-1/is-allowed", {}, version)).json()
    assert answer == expected
    conforms(IsAllowed, answer)
    other = await cloud.post("/cvms/cvm-1/is-allowed", {"node_id": 4, "compose_hash": "ab" * 32}, version)
    assert other.json() == expected | {
        "device_id": f"0x{OTHER}", "compose_hash": "0x" + "ab" * 32, "compose_hash_allowed": False,
        "device_id_allowed": False, "is_allowed": False,
    }  # fmt: skip


async def test_a_cvm_without_node_and_a_question_without_body(cloud: World) -> None:
    await cloud.deploy(1, [{"node_id": None}], **ON_CHAIN)
    answer = await cloud.client.post("/api/v1/cvms/cvm-1/is-allowed", headers={"X-API-Key": VIEWER_KEY})
    assert answer.json()["device_id"] == ""
    assert answer.json()["is_allowed"] is False


async def test_statements_do_not_grow_and_other_workspaces_see_nothing(cloud: World) -> None:
    async def statements() -> int:
        with counted(cloud.database) as sent:
            assert (await cloud.post(f"{APP}/cvms/is-allowed", {})).status_code == 200
        return len(sent)

    await cloud.deploy(1, **ON_CHAIN)
    await statements()
    before = await statements()
    await cloud.deploy(2, [{"app_record_id": 1} for _ in range(20)], **ON_CHAIN)
    assert await statements() == before
    assert (await cloud.get(f"{APP}/device-allowlist", key=FOREIGN_KEY)).status_code == 404
    for path, body in (
        (f"{APP}/is-allowed", QUESTION),
        (f"{APP}/cvms/is-allowed", {}),
        ("/cvms/cvm-1/is-allowed", {}),
    ):
        assert (await cloud.post(path, body, key=FOREIGN_KEY)).status_code == 404
        assert (await cloud.post(path, body, key=None)).status_code == 401
