"""The sample app on chain: its contract is its app id, and says what may run.

Rules:

1. The contract is made by the KMS contract's factory with the deployer's key, for this compose hash and this device:
   no other may run. The deployer owns it.
2. A compose hash or device that the sample needs anew is added by the deployer. What its owner took back stays
   taken back: the start ends with the contract's reason.
3. Where the chain has lost the contract (its state was deleted), the sample is another app, with a contract of its own.
"""

from typing import Any, Final

from teehouse.base.findings import Finding, misuse
from teehouse.chain import app as contracts
from teehouse.chain import calls as abi
from teehouse.chain.app import AppQuestion
from teehouse.chain.reader import Reader
from teehouse.chain.writer import Writer
from teehouse.client.cloud import AsyncCloudClient
from teehouse.client.cloud.calls import CloudCall
from teehouse.keys.appkeys import KmsRoot
from teehouse.node.api import Node
from teehouse.stack.cloud_emulated import ONCHAIN_SLUG
from teehouse.stack.sample import ALLOWED_ENVS, NAME
from teehouse.stack.sample_deploying import Sample
from teehouse.stack.sample_record import SampleRecord, free_port
from teehouse.wire.cloud.lifecycle import ProvisionAnswer

DEPLOYED: Final = abi.topic("AppDeployedViaFactory(address,address)")


class OnchainSample(Sample):
    """The sample under the KMS on chain; `kms_contract` (20 bytes) is that KMS's, `writer` the deployer's."""

    kms_slug = ONCHAIN_SLUG

    def __init__(
        self,
        client: AsyncCloudClient,
        node: Node,
        compose: bytes,
        kms: KmsRoot,
        *,
        reader: Reader,
        writer: Writer,
        kms_contract: bytes,
    ) -> None:
        super().__init__(client, node, compose, kms)
        self._reader = reader
        self._writer = writer
        self._kms_contract = kms_contract

    async def record(self, kept: SampleRecord | None) -> SampleRecord:
        """As it was kept, or a new contract (rules 1, 3)."""
        if kept is not None:
            block = await self._reader.pinned()
            if await self._reader.code(bytes.fromhex(kept.app_id), block):
                return kept
        answer = await self._provisioned()
        contract = await self._new_contract(answer.compose_hash, answer.device_id or "")
        return SampleRecord(contract.hex(), 0, free_port() if kept is None else kept.port)

    async def created(self, record: SampleRecord) -> str:
        """A new CVM of the contract's app; its UUID."""
        answer = await self._provisioned()
        await self.permitted(record, answer.compose_hash, answer.device_id or "")
        body = {
            "app_id": record.app_id,
            "compose_hash": answer.compose_hash,
            "encrypted_env": await self.sealed(record),
            "env_keys": sorted(ALLOWED_ENVS),
            "kms_id": ONCHAIN_SLUG,
            "contract_address": f"0x{record.app_id}",
            "deployer_address": f"0x{self._writer.address.hex()}",
        }
        made: dict[str, Any] = await self.client.call(CloudCall("POST", "/cvms", dict[str, Any], body=body))
        return str(made["vm_uuid"])

    async def permitted(self, record: SampleRecord, compose_hash: str, device_id: str) -> None:
        """Rule 2, for a compose file or a device that is new to the contract. Raises `EvidenceError`."""
        contract = bytes.fromhex(record.app_id)
        question = AppQuestion(contract, bytes.fromhex(compose_hash), bytes.fromhex(device_id))
        _, (verdict,) = await contracts.verdicts(self._reader, [question])
        if not verdict.compose_hash_allowed:
            await self._writer.send(contract, abi.ADD_COMPOSE_HASH(question.compose_hash))
        if not (verdict.allow_any_device or verdict.device_allowed):
            await self._writer.send(contract, abi.ADD_DEVICE(bytes.fromhex(device_id)))

    def refused(self, error: Finding) -> Exception:
        """With the contract's reason, and how its owner changes its mind."""
        return misuse(
            error.code,
            "the sample app's CVM did not boot",
            expected="phase running",
            found=error.sentence(),
            remedy="what its owner took back stays so; `teehouse chain up` with the same --dir runs the chain alone, "
            "to allow it again with `teehouse governance allow-compose`",
        )

    async def _provisioned(self) -> ProvisionAnswer:
        body = {
            "name": NAME,
            "compose_file": dict(self.members),
            "kms_id": ONCHAIN_SLUG,
            "env_keys": sorted(ALLOWED_ENVS),
        }
        call: CloudCall[ProvisionAnswer] = CloudCall("POST", "/cvms/provision", ProvisionAnswer, body=body)
        return await self.client.call(call)

    async def _new_contract(self, compose_hash: str, device_id: str) -> bytes:
        """Rule 1: its address, 20 bytes. Raises `EvidenceError`, `CollateralError`, `MisuseError`."""
        values = (False, False, False, bytes.fromhex(device_id), bytes.fromhex(compose_hash))
        made = abi.DEPLOY_AND_REGISTER_APP(self._writer.address, *values)
        receipt = await self._writer.send(self._kms_contract, made)
        for log in receipt.logs:
            if log.address == self._kms_contract and log.topics[:1] == (DEPLOYED,):
                return log.topics[1][12:]
        raise misuse(
            "up.no-app",
            f"the factory of the KMS's contract 0x{self._kms_contract.hex()}",
            expected="an app's address",
            found="a transaction without one",
            remedy="name a contract of this version",
        )
