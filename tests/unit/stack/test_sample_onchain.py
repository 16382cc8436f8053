"""The sample app's contract: made once, given what it lacks, and another one where the chain has lost it."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from support.cloud_onchain_support import KMS, ScriptedChain
from support.emulated import SEED, clock
from support.node_memory import MemoryNode
from teehouse.base.findings import MisuseError, rejected
from teehouse.base.hashes import sha256
from teehouse.chain import calls as abi
from teehouse.chain.reader import Log, Receipt
from teehouse.keys.appkeys import kms_root
from teehouse.stack.sample import sample_compose
from teehouse.stack.sample_onchain import DEPLOYED, OnchainSample
from teehouse.stack.sample_record import SampleRecord
from teehouse.wire.cloud.lifecycle import ProvisionAnswer

DEVICE = "d1" * 32
OWNER = b"\x0e" * 20
COMPOSE = sample_compose()
HASH = sha256(COMPOSE).hex()


@dataclass
class Deployer:
    """A `Writer` that does to the scripted chain what a contract would do."""

    chain: ScriptedChain
    tells: bool = True
    address: bytes = OWNER
    chain_id: int = 8453
    sent: list[bytes] = field(default_factory=list)

    async def send(self, to: bytes, data: bytes) -> Receipt:
        self.sent.append(data[:4])
        logs: tuple[Log, ...] = ()
        if to == bytes.fromhex(KMS[2:]):
            app = bytes.fromhex(self.chain.deploy(data[-32:].hex(), data[-64:-32].hex()))
            topics = (DEPLOYED, bytes(12) + app, bytes(12) + OWNER)
            logs = (Log(to, topics, b"", 1, bytes(32), bytes(32), 0),) if self.tells else ()
        elif data[:4] == abi.ADD_DEVICE.selector:
            self.chain.apps[to.hex()].devices.add(data[4:].hex())
        else:
            self.chain.add_compose_hash(to.hex(), data[4:].hex())
        return Receipt(bytes(32), ok=True, block_number=1, logs=logs)


class Api:
    """Answers a provision."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def call(self, call: Any) -> ProvisionAnswer:
        assert (call.method, call.path) == ("POST", "/cvms/provision")
        self.asked.append(call.body)
        members: dict[str, Any] = dict.fromkeys(ProvisionAnswer.model_fields)
        return ProvisionAnswer.model_construct(**{**members, "compose_hash": HASH, "device_id": DEVICE})


def sample(chain: ScriptedChain, deployer: Deployer, api: Any) -> OnchainSample:
    kms = kms_root(SEED, clock().now())
    contract = bytes.fromhex(KMS[2:])
    node = MemoryNode(clock())
    return OnchainSample(api, node, COMPOSE, kms, reader=chain, writer=deployer, kms_contract=contract)


async def test_the_contract_is_made_for_this_compose_hash_and_this_device_alone() -> None:
    chain = ScriptedChain()
    api = Api()
    made = await sample(chain, Deployer(chain), api).record(None)
    contract = chain.apps[made.app_id]
    assert (contract.hashes, contract.devices, contract.any_device) == ({HASH}, {DEVICE}, False)
    assert api.asked[0]["kms_id"] == "onchain"
    kept = await sample(chain, Deployer(chain), api).record(made)
    assert kept == made
    assert (len(chain.apps), len(api.asked)) == (1, 1)


async def test_a_contract_that_the_chain_has_lost_is_another_one_at_the_same_port() -> None:
    chain = ScriptedChain()
    lost = SampleRecord("ab" * 20, 0, 4711)
    found = await sample(chain, Deployer(chain), Api()).record(lost)
    assert found.port == lost.port
    assert found.app_id in chain.apps


async def test_only_what_the_contract_lacks_is_written() -> None:
    chain = ScriptedChain()
    deployer = Deployer(chain)
    app = chain.deploy("00" * 32)
    record = SampleRecord(app, 0, 1)
    await sample(chain, deployer, Api()).permitted(record, HASH, DEVICE)
    assert deployer.sent == [abi.ADD_COMPOSE_HASH.selector, abi.ADD_DEVICE.selector]
    await sample(chain, deployer, Api()).permitted(record, HASH, DEVICE)
    assert len(deployer.sent) == 2
    chain.apps[app].any_device = True
    chain.apps[app].devices.clear()
    await sample(chain, deployer, Api()).permitted(record, HASH, "ee" * 32)
    assert len(deployer.sent) == 2


async def test_a_factory_that_tells_no_address_is_refused() -> None:
    chain = ScriptedChain()
    with pytest.raises(MisuseError) as refused:
        await sample(chain, Deployer(chain, tells=False), Api()).record(None)
    assert refused.value.finding.code == "up.no-app"


def test_a_boot_that_its_owner_refused_says_how_to_go_on() -> None:
    chain = ScriptedChain()
    reason = rejected("kms.refused", "Boot denied: Compose hash not allowed").finding
    refused = sample(chain, Deployer(chain), Api()).refused(reason)
    assert isinstance(refused, MisuseError)
    assert "Compose hash not allowed" in refused.finding.found
    assert "governance allow-compose" in refused.finding.remedy
