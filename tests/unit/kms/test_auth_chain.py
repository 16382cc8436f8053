"""Authorisation by a chain (auth_chain.py; onchain.md 5, trust.md 13.5)."""

import logging
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.auth_support import BOOT_INFO, DEVICE, IMAGE, MR, boot_info
from support.chain_support import ADDRESS, CHAIN_ID, KEY, FakeNode, reverting
from support.kms_support import APP_ID, COMPOSE_HASH, house
from support.kms_support import DEVICE as CVM_DEVICE
from support.kms_support import IMAGE as CVM_IMAGE
from teehouse.base.findings import CollateralError, TeehouseError
from teehouse.chain import calls as abi
from teehouse.chain.deploy import DeployPlan, created_address, deploy
from teehouse.chain.endpoint import TIMEOUT
from teehouse.chain.writer import RpcWriter
from teehouse.kms.auth import AuthInfo, Decision
from teehouse.kms.auth_chain import ChainAuth
from teehouse.kms.auth_http import TIMEOUT as KMS_TIMEOUT
from teehouse.kms.auth_server import auth_app
from teehouse.wire import kms_pb2

UNAVAILABLE = {"isAllowed": False, "gatewayAppId": "", "reason": "authorization backend unavailable"}


class House:
    """A KMS's contract with one app on a node in the process."""

    def __init__(self, **settings: Any) -> None:
        self.node = FakeNode()
        self.node.with_evm()
        self.reader = self.node.reader(**settings)
        self.writer = RpcWriter(self.node.endpoint(), CHAIN_ID, KEY)

    async def built(
        self, image: bytes = IMAGE, device: bytes = DEVICE, compose: bytes = BOOT_INFO.compose_hash
    ) -> ChainAuth:
        plan = DeployPlan(
            os_images=[image], kms_aggregated_mrs=[MR], kms_devices=[DEVICE], gateway_app_id="gateway"
        )
        self.record = await deploy(self.node.reader(), self.writer, plan)
        self.kms = self.record.kms_contract
        made = abi.DEPLOY_AND_REGISTER_APP(self.writer.address, False, False, False, device, compose)
        await self.writer.send(self.kms, made)
        self.app = created_address(self.kms, 1)
        self.auth = ChainAuth(self.reader, self.kms, rpc_shown=self.reader.shown)
        return self.auth

    async def post(self, path: str, **changes: Any) -> dict[str, Any]:
        """What the service answers, which is 200 in every case."""
        asked = boot_info(app_id=self.app, **changes).as_dict()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(auth_app(self.auth)), base_url="http://a"
        ) as client:
            response = await client.post(path, json=asked)
        assert response.status_code == 200
        answer: dict[str, Any] = response.json()
        return answer


async def test_the_three_routes_answer_from_the_chain() -> None:
    chain = House()
    auth = await chain.built()
    assert await auth.info() == AuthInfo(
        kms_contract_address=f"0x{chain.kms.hex()}",
        gateway_app_id="gateway",
        chain_id=CHAIN_ID,
        app_implementation=f"0x{chain.record.app_implementation.hex()}",
        app_auth_implementation=f"0x{chain.record.app_implementation.hex()}",
        eth_rpc_url=chain.node.name,  # rule 5: no path and no query
    )
    allowed = {"isAllowed": True, "reason": "", "gatewayAppId": "gateway"}
    assert await chain.post("/bootAuth/app") == allowed
    assert await chain.post("/bootAuth/kms") == allowed
    assert await chain.post("/bootAuth/kms", mr_aggregated=b"\1" * 32) == {
        **allowed,
        "isAllowed": False,
        "reason": "Aggregated MR not allowed",
    }


async def test_revocation_holds_at_the_next_question() -> None:  # rule 1
    chain = House()
    auth = await chain.built()
    question = boot_info(app_id=chain.app)
    assert (await auth.boot_app(question)).is_allowed
    await chain.writer.send(chain.app, abi.REMOVE_COMPOSE_HASH(question.compose_hash))
    assert await auth.boot_app(question) == Decision(False, "Compose hash not allowed", "gateway")
    await chain.writer.send(chain.app, abi.ADD_COMPOSE_HASH(question.compose_hash))
    assert (await auth.boot_app(question)).is_allowed
    await chain.writer.send(chain.app, abi.REMOVE_DEVICE(DEVICE))
    assert await auth.boot_app(question) == Decision(False, "Device not allowed", "gateway")


async def test_a_decision_waits_for_its_confirmations() -> None:
    chain = House(confirmations=1000)
    await chain.built()
    chain.node.head = 999
    assert await chain.post("/bootAuth/app") == UNAVAILABLE
    chain.node.head = 1000
    assert (await chain.post("/bootAuth/app"))["isAllowed"]


async def test_a_short_instance_id_is_filled_up_on_the_left() -> None:
    chain = House()
    auth = await chain.built()
    assert (await auth.boot_app(boot_info(app_id=chain.app, instance_id=b""))).is_allowed
    assert (await auth.boot_app(boot_info(app_id=chain.app, instance_id=b"\1"))).is_allowed


@pytest.mark.parametrize(
    "fault", ["down", "wrong chain", "revert", "garbage", "gone", "burns gas", "megabytes", "reorganised"]
)
async def test_without_an_answer_of_the_contract_keys_are_refused(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:  # rule 4, onchain.md 5.2
    chain = House()
    await chain.built()
    node = chain.node
    match fault:
        case "down":
            node.down = True
        case "wrong chain":
            node.chain_id = 1
        case "revert":
            node.contracts[chain.kms] = reverting()
        case "garbage":
            node.contracts[chain.kms] = lambda _: b"\xff" * 96
        case "gone":
            node.contracts[chain.kms] = lambda _: b""
        case "burns gas":
            node.methods["eth_call"] = lambda *_: node._evm_call("0x" + chain.kms.hex(), b"", 1)
        case "megabytes":
            node.contracts[chain.kms] = lambda _: bytes(9_000_000)
        case "reorganised":
            block = node.eth_getBlockByNumber

            def forking(tag: str, full: bool) -> Any:
                node.forks[0] = node.forks.get(0, "") + "another"
                return block(tag, full)

            node.methods["eth_getBlockByNumber"] = forking
    with caplog.at_level(logging.DEBUG, "teehouse"):
        assert await chain.post("/bootAuth/app") == UNAVAILABLE
    assert not any(secret in caplog.text for secret in ("secret", "hidden", "/v1"))
    assert caplog.records[0].levelname == "ERROR"
    with pytest.raises(CollateralError):
        await chain.auth.info()


async def test_a_silent_chain_ends_before_the_kms_gives_up() -> None:
    assert TIMEOUT < KMS_TIMEOUT
    chain = House(timeout=0.2)
    await chain.built()
    chain.node.delay = 30
    began = time.monotonic()
    assert await chain.post("/bootAuth/app") == UNAVAILABLE
    assert time.monotonic() - began < 2


async def test_a_kms_gives_keys_by_the_contract_and_none_after_revocation(tmp_path: Path) -> None:
    chain = House()
    await chain.built(CVM_IMAGE, CVM_DEVICE, COMPOSE_HASH)

    def renamed(data: bytes) -> bytes:
        """The app of the tests' evidence, which has no contract, as the app that has one."""
        asked = data.replace(APP_ID.rjust(32, b"\0"), chain.app.rjust(32, b"\0"))
        return node._evm_call(f"0x{chain.kms.hex()}", asked, 5_000_000)

    node = chain.node
    node.contracts[ADDRESS] = renamed
    kms = house(tmp_path, enforce=False, auth=ChainAuth(chain.reader, ADDRESS, rpc_shown=""))  # type: ignore[arg-type] - any AuthApi
    request = kms_pb2.GetAppKeyRequest(api_version=1)
    assert (await kms.service.get_app_key(request, kms.peer())).gateway_app_id == "gateway"
    await chain.writer.send(chain.app, abi.REMOVE_COMPOSE_HASH(COMPOSE_HASH))
    with pytest.raises(TeehouseError) as refused:
        await kms.service.get_app_key(request, kms.peer())
    assert "Boot denied: Compose hash not allowed" in str(refused.value)
    node.down = True
    with pytest.raises(TeehouseError):
        await kms.service.get_app_key(request, kms.peer())
    assert [record.decision for record in kms.records()] == ["allowed", "refused", "refused"]
