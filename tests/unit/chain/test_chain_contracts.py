"""What contracts say, and what is said to them: app.py, kms.py, history.py, deploy.py, writer.py, transaction.py.

The contracts are the shipped ones, on an EVM behind a JSON-RPC endpoint in the process.
"""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.chain_support import (
    ADDRESS,
    CHAIN_ID,
    COMPOSE,
    DEVICE,
    IMAGE,
    INFO,
    KEY,
    OWNER,
    STRANGER,
    Account,
    FakeNode,
    OnChain,
    Refusal,
    reader_of,
    reverting,
)
from support.evm import create_address, word
from teehouse.base.findings import CollateralError, EvidenceError, MisuseError
from teehouse.chain import app, kms
from teehouse.chain import calls as abi
from teehouse.chain.app import AppQuestion, AppSettings, AppVerdict
from teehouse.chain.calls import BootInfo
from teehouse.chain.deploy import DeployPlan, create2_address, created_address, deploy
from teehouse.chain.history import Change, Deployment, History, complete, deployments, extended, follow
from teehouse.chain.reader import Block, Log
from teehouse.chain.transaction import Transaction, address_of, rlp
from teehouse.chain.writer import parse_key

# --- verdicts


async def test_verdicts_of_many_are_one_round_trip_and_ask_each_thing_once() -> None:
    chain = OnChain()
    contract = await chain.with_app()
    questions = [AppQuestion(contract, COMPOSE, DEVICE)] * 100 + [
        AppQuestion(contract, COMPOSE, b"\1" * 32),
        AppQuestion(contract, b"\1" * 32, DEVICE),
        AppQuestion(contract, COMPOSE),
    ]
    chain.node.posts.clear()
    block, found = await app.verdicts(chain.reader, questions)
    assert chain.node.posts == [2, 6]  # two hashes, two devices, any device, and the block again
    assert block.number == chain.node.head
    assert found == (
        *(AppVerdict(questions[0], True, False, True),) * 100,
        AppVerdict(questions[100], True, False, False),
        AppVerdict(questions[101], False, False, True),
        AppVerdict(questions[102], True, False, None),
    )
    assert [one.is_allowed for one in found[99:]] == [True, False, False, False]


async def test_any_device_is_allowed_where_the_contract_says_so() -> None:
    chain = OnChain()
    contract = await chain.with_app(any_device=True)
    _, (found,) = await app.verdicts(chain.reader, [AppQuestion(contract, COMPOSE, b"\1" * 32)])
    assert (found.allow_any_device, found.device_allowed, found.is_allowed) == (True, False, True)


@pytest.mark.parametrize(
    ("contract", "error"),
    [
        (reverting(), "the contract refused: found execution reverted"),
        (
            lambda _: b"",
            "nothing answers at this address: expected a contract (check the address and the chain)",
        ),
        (lambda _: word(2), "a bool of a contract's answer: expected 0 or 1"),
        (lambda _: bytes(10_000_000), "the contract refused: found the answer is too long"),
    ],
)
async def test_a_hostile_contract_spoils_its_own_verdict_only(contract: Any, error: str) -> None:  # rule 3
    node = FakeNode()
    node.contracts[ADDRESS] = lambda _: word(1)
    node.contracts[b"\xbb" * 20] = contract
    questions = [AppQuestion(ADDRESS, COMPOSE, DEVICE), AppQuestion(b"\xbb" * 20, COMPOSE, DEVICE)]
    async with node.reader() as reader:
        _, found = await app.verdicts(reader, questions)
    assert found == (AppVerdict(questions[0], True, True, True), AppVerdict(questions[1], error=error))
    assert not found[1].is_allowed


@pytest.mark.parametrize(
    "question",
    [
        AppQuestion(b"\1" * 19, COMPOSE),
        AppQuestion(ADDRESS, b"\1" * 31),
        AppQuestion(ADDRESS, COMPOSE, b"\1"),
        AppQuestion(ADDRESS, COMPOSE, b"\1" * 33),
    ],
)
async def test_questions_of_another_size_are_misuse(question: AppQuestion) -> None:
    with pytest.raises(MisuseError):
        await app.verdicts(FakeNode().reader(), [question])


async def test_too_many_questions_are_misuse() -> None:
    with pytest.raises(MisuseError):
        await app.verdicts(FakeNode().reader(), [AppQuestion(ADDRESS, COMPOSE)] * (app.QUESTIONS_LIMIT + 1))


async def test_an_app_tells_its_settings_and_devices() -> None:
    chain = OnChain()
    contract = await chain.with_app()
    assert (await app.settings(chain.reader, contract))[1] == AppSettings(OWNER, None, False, False)
    await chain.owner.send(contract, abi.TRANSFER_OWNERSHIP(STRANGER))
    await chain.owner.send(contract, abi.SET_REQUIRE_TCB_UP_TO_DATE(True))
    block, found = await app.settings(chain.reader, contract)
    assert found == AppSettings(OWNER, STRANGER, False, True)
    assert await app.devices_allowed(chain.reader, contract, [DEVICE, b"\1" * 32]) == (
        block,
        False,
        (True, False),
    )
    with pytest.raises(EvidenceError):
        await app.devices_allowed(chain.reader, b"\1" * 20, [])


# --- decisions


def boot_info(app_id: bytes, **changed: Any) -> BootInfo:
    known = BootInfo(app_id, COMPOSE, b"\x1d" * 20, DEVICE, b"\xa6" * 32, b"\x55" * 32, IMAGE, "UpToDate", ())
    return replace(known, **changed)


async def test_decisions_are_the_contracts_word_for_word() -> None:  # onchain.md 4.3
    chain = OnChain()
    contract = await chain.with_app()
    kms_contract = chain.record.kms_contract
    await chain.owner.send(kms_contract, abi.SET_GATEWAY_APP_ID("gateway"))

    async def of_app(**changed: Any) -> tuple[bool, str]:
        found = await kms.decide_app(chain.reader, kms_contract, boot_info(**{"app_id": contract, **changed}))
        assert found.gateway_app_id == "gateway"
        return found.is_allowed, found.reason

    assert await of_app() == (True, "")
    assert await of_app(app_id=b"\1" * 20) == (False, "App not registered")
    assert await of_app(os_image_hash=b"\1" * 32) == (False, "OS image is not allowed")
    assert await of_app(compose_hash=b"\1" * 32) == (False, "Compose hash not allowed")
    assert await of_app(device_id=b"\1" * 32) == (False, "Device not allowed")
    assert await of_app(tcb_status="OutOfDate", advisory_ids=("INTEL-SA-1",) * 3) == (True, "")

    async def of_kms(**changed: Any) -> tuple[bool, str]:
        found = await kms.decide_kms(chain.reader, kms_contract, boot_info(**{"app_id": contract, **changed}))
        return found.is_allowed, found.reason

    assert await of_kms() == (True, "")
    assert await of_kms(mr_aggregated=b"\1" * 32) == (False, "Aggregated MR not allowed")
    assert await of_kms(device_id=b"\1" * 32) == (False, "KMS is not allowed to boot on this device")


async def test_a_decision_is_one_round_trip_with_the_chain_checked() -> None:  # rule 1
    chain = OnChain()
    contract = await chain.with_app()
    chain.node.posts.clear()
    chain.node.asked.clear()
    await kms.decide_app(chain.reader, chain.record.kms_contract, boot_info(contract))
    assert chain.node.posts == [2, 3]
    assert chain.node.asked[:4] == ["eth_chainId", "eth_getBlockByNumber", "eth_call", "eth_call"]


@pytest.mark.parametrize("contract", [reverting(), lambda _: b"", lambda _: word(1), lambda _: b"\xff" * 96])
async def test_a_contract_that_answers_nonsense_decides_nothing(contract: Any) -> None:  # rule 2
    node = FakeNode()
    node.contracts[ADDRESS] = contract
    with pytest.raises(EvidenceError):
        await kms.decide_app(node.reader(), ADDRESS, boot_info(ADDRESS))


async def test_a_kms_tells_its_settings() -> None:
    chain = OnChain()
    contract = await chain.with_app()
    record = chain.record
    assert (await kms.settings(chain.reader, record.kms_contract))[1] == kms.KmsSettings(
        OWNER, None, record.app_implementation, ""
    )
    assert (await kms.kms_info(chain.reader, record.kms_contract))[1] == INFO
    assert (await kms.is_registered(chain.reader, record.kms_contract, contract))[1]
    assert not (await kms.is_registered(chain.reader, record.kms_contract, ADDRESS))[1]
    assert (await kms.os_image_allowed(chain.reader, record.kms_contract, IMAGE))[1]


# --- deployment


async def test_deployment_is_done_once() -> None:
    chain = OnChain()
    first = await chain.deployed()
    assert [step.split(" at ")[0].split(" 0x")[0] for step in first.done] == [
        "app implementation",
        "app proxy blueprint",
        "KMS implementation",
        "KMS contract",
        "multicall",
        "OS image",
        "KMS measurement",
        "KMS device",
        "KMS info",
    ]
    sent = chain.node.asked.count("eth_sendRawTransaction")
    second = await chain.deployed()
    assert second == replace(first, done=())
    assert chain.node.asked.count("eth_sendRawTransaction") == sent
    assert first.kms_owner == OWNER
    assert json.loads(json.dumps(second.as_dict())) == {
        "chain_id": CHAIN_ID,
        "kms_contract": f"0x{first.kms_contract.hex()}",
        "kms_owner": f"0x{OWNER.hex()}",
        "kms_implementation": f"0x{first.kms_implementation.hex()}",
        "app_implementation": f"0x{first.app_implementation.hex()}",
        "proxy_blueprint": f"0x{first.proxy_blueprint.hex()}",
        "multicall": f"0x{first.multicall.hex()}",
        "block_number": chain.node.head,
        "done": [],
    }


async def test_deployment_goes_on_where_it_was_broken_off() -> None:
    chain = OnChain()
    sent, send = [0], chain.node.eth_sendRawTransaction

    def failing(raw: str) -> str:
        sent[0] += 1
        if sent[0] == 4:
            raise Refusal(-32000, "the node is going down")
        return send(raw)

    chain.node.methods["eth_sendRawTransaction"] = failing
    with pytest.raises(CollateralError, match="the node is going down"):
        await chain.deployed()
    assert (await chain.deployed()).done[0].startswith("KMS contract at ")


async def test_another_owner_and_another_salt_have_another_kms() -> None:
    chain = OnChain()
    first = await chain.deployed()
    second = await deploy(chain.reader, chain.stranger, DeployPlan())
    third = await deploy(chain.reader, chain.owner, DeployPlan(salt=word(1), gateway_app_id="gateway"))
    assert len({first.kms_contract, second.kms_contract, third.kms_contract}) == 3
    assert (second.kms_owner, third.kms_owner) == (STRANGER, OWNER)
    assert first.app_implementation == second.app_implementation
    assert [step.split(" at ")[0] for step in third.done] == ["KMS contract", "gateway app id"]


async def test_a_foreign_kms_refuses_what_only_its_owner_may_say() -> None:
    chain = OnChain()
    record = await chain.deployed()
    plan = DeployPlan(kms_contract=record.kms_contract, os_images=[IMAGE])
    assert (await deploy(chain.reader, chain.stranger, plan)).done == ()
    with pytest.raises(EvidenceError) as refused:
        await deploy(chain.reader, chain.stranger, replace(plan, os_images=[b"\1" * 32]))
    assert refused.value.finding.found == f"OwnableUnauthorizedAccount(0x{STRANGER.hex()})"


async def test_a_chain_without_the_deployer_is_refused() -> None:
    with pytest.raises(CollateralError) as refused:
        await deploy(FakeNode().reader(), OnChain().owner, DeployPlan())
    assert refused.value.finding.code == "chain.no-deployer"


async def test_addresses_are_those_of_the_rules() -> None:
    # EIP-1014, examples 1 and 3.
    assert create2_address(b"\0", bytes(32), bytes(20)).hex() == "4d1a2e2bb4f88f0250f26ffff098b0b30b26bf38"
    deployer = bytes.fromhex("deadbeef00000000000000000000000000000000")
    salt = bytes.fromhex("000000000000000000000000feed000000000000000000000000000000000000")
    assert create2_address(b"\0", salt, deployer).hex() == "d04116cdd17bebe565eb2422f2497e06cc1c9833"
    for nonce in (1, 2, 127):
        assert f"0x{created_address(ADDRESS, nonce).hex()}" == create_address(f"0x{ADDRESS.hex()}", nonce)
    chain = OnChain()
    contract = await chain.with_app()
    assert contract == created_address(chain.record.kms_contract, 1)  # onchain.md 4.4


# --- history


async def test_history_is_what_the_events_leave() -> None:
    chain = OnChain()
    contract = await chain.with_app()
    made = chain.node.head
    for data in (
        abi.ADD_COMPOSE_HASH(b"\1" * 32),
        abi.REMOVE_COMPOSE_HASH(COMPOSE),
        abi.ADD_DEVICE(b"\2" * 32),
        abi.REMOVE_DEVICE(DEVICE),
        abi.SET_ALLOW_ANY_DEVICE(True),
        abi.SET_REQUIRE_TCB_UP_TO_DATE(True),
        abi.TRANSFER_OWNERSHIP(STRANGER),
        abi.DISABLE_UPGRADES(),
    ):
        await chain.owner.send(contract, data)
    head = await chain.reader.pinned()
    found = await complete(chain.reader, History(contract), head)
    assert replace(found, changes=()) == History(
        contract,
        head,
        frozenset({b"\1" * 32}),
        frozenset({b"\2" * 32}),
        allow_any_device=True,
        require_tcb_up_to_date=True,
        upgrades_disabled=True,
        owner=OWNER,
        pending_owner=STRANGER,
        implementation=chain.record.app_implementation,
    )
    by_owner = [change for change in found.changes if change.block_number > made]
    assert [(one.actor, one.policy, one.value, one.enabled) for one in by_owner] == [
        (OWNER, "compose-hash", b"\1" * 32, True),
        (OWNER, "compose-hash", COMPOSE, False),
        (OWNER, "device", b"\2" * 32, True),
        (OWNER, "device", DEVICE, False),
        (OWNER, "allow-any-device", by_owner[4].value, True),
        (OWNER, "require-tcb-up-to-date", by_owner[5].value, True),
        (OWNER, "upgrades-disabled", by_owner[6].value, True),
    ]
    await chain.stranger.send(contract, abi.ACCEPT_OWNERSHIP())
    later = await complete(chain.reader, found, await chain.reader.pinned())
    assert (later.owner, later.pending_owner, later.changes) == (STRANGER, None, found.changes)


async def test_history_goes_on_where_it_ended_unless_the_chain_was_reorganised() -> None:  # rule 5
    node = FakeNode()
    node.add_event(ADDRESS, [abi.topic("ComposeHashAdded(bytes32)")], COMPOSE, at=10)
    reader = node.reader()
    first = await complete(reader, History(ADDRESS), await reader.pinned())
    node.events.clear()
    node.head = 105
    node.add_event(ADDRESS, [abi.topic("DeviceAdded(bytes32)")], DEVICE, at=101)
    second = await complete(reader, first, await reader.pinned())
    assert (second.compose_hashes, second.device_ids) == (frozenset({COMPOSE}), frozenset({DEVICE}))
    node.forks[104] = "other"
    with pytest.raises(CollateralError) as refused:
        await complete(reader, second, await reader.pinned())
    assert refused.value.finding.code == "chain.reorganised"


async def test_ranges_are_bounded_and_halved_where_they_are_too_large() -> None:  # rule 4
    node, ranges = FakeNode(head=25_000), []

    def logs(wanted: dict[str, Any]) -> Any:
        first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
        ranges.append((first, last))
        if last - first >= 3000:
            raise Refusal(-32005, "query returned more than 10000 results")
        return node.eth_getLogs(wanted)

    node.methods["eth_getLogs"] = logs
    node.add_event(ADDRESS, [abi.topic("DeviceAdded(bytes32)")], DEVICE, at=24_999)
    reader = node.reader()
    assert (await complete(reader, History(ADDRESS), await reader.pinned())).device_ids == frozenset({DEVICE})
    assert ranges[:4] == [(0, 9999), (0, 4999), (0, 2499), (2500, 4999)]
    assert ranges[-1] == (25_000, 25_000)

    def none(_: Any) -> Any:
        raise Refusal(-32601, "the method does not exist")

    node.methods["eth_getLogs"] = none
    with pytest.raises(CollateralError):
        await complete(reader, History(ADDRESS), await reader.pinned())
    node.down = True
    with pytest.raises(CollateralError):
        await complete(reader, History(ADDRESS), Block(30, bytes(32), 0))


async def test_following_tells_of_each_range() -> None:
    node = FakeNode(head=9)
    node.add_event(ADDRESS, [abi.topic("DeviceAdded(bytes32)")], DEVICE, at=4)
    reader = node.reader()
    seen = [
        one async for one in follow(reader, History(ADDRESS), await reader.pinned(), from_block=2, span=3)
    ]
    assert [len(one.device_ids) for one in seen] == [1, 1, 1, 1]
    assert [one.block and one.block.number for one in seen] == [None, None, None, 9]


async def test_the_factorys_apps_are_found_with_who_asked_for_them() -> None:
    chain = OnChain()
    await chain.deployed()
    made = abi.DEPLOY_AND_REGISTER_APP(OWNER, False, False, False, DEVICE, COMPOSE)
    receipt = await chain.stranger.send(chain.record.kms_contract, made)
    kms_contract = chain.record.kms_contract
    assert await deployments(chain.reader, kms_contract, await chain.reader.pinned()) == (
        Deployment(
            created_address(kms_contract, 1), STRANGER, receipt.block_number, receipt.transaction_hash
        ),
    )


def event(signature: str, *topics: bytes, data: bytes = b"") -> Log:
    return Log(ADDRESS, (abi.topic(signature), *topics), data, 1, bytes(32), bytes(32), 0)


POLICY = "PolicyChanged(address,bytes32,bytes32,bool)"


@pytest.mark.parametrize(
    "broken",
    [
        event("ComposeHashAdded(bytes32)", data=b"\1"),
        event("DeviceRemoved(bytes32)", data=bytes(64)),
        event("AllowAnyDeviceSet(bool)", data=word(2)),
        event(POLICY, word(b"\1" * 20), bytes(32), data=word(1)),
        event(POLICY, b"\1" * 32, bytes(32), bytes(32), data=word(1)),
        event("OwnershipTransferred(address,address)", bytes(32)),
    ],
)
def test_an_event_that_is_none_is_refused(broken: Log) -> None:  # rule 3
    with pytest.raises(EvidenceError):
        extended(History(ADDRESS), [broken])


def test_events_of_other_kinds_are_nothing_to_us() -> None:
    others = [event("Transfer(address,address,uint256)"), Log(ADDRESS, (), b"", 1, bytes(32), bytes(32), 0)]
    assert extended(History(ADDRESS), others) == History(ADDRESS)
    unknown = event(POLICY, word(b"\1" * 20), b"\7" * 32, bytes(32), data=word(0))
    assert extended(History(ADDRESS), [unknown]).changes == (
        Change(b"\1" * 20, "0x" + "07" * 32, bytes(32), False, 1, bytes(32)),
    )
    proposed = event("OwnershipTransferStarted(address,address)", bytes(32), bytes(32))
    assert extended(History(ADDRESS, pending_owner=ADDRESS), [proposed]).pending_owner is None


# --- transactions


@given(
    st.integers(0, 2**64),
    st.integers(0, 2**40),
    st.integers(1, 30_000_000),
    st.binary(max_size=300),
    st.integers(1, 2**200),
)
def test_transactions_are_signed_as_eth_account_signs_them(
    nonce: int, fee: int, gas: int, data: bytes, secret: int
) -> None:
    key = secret.to_bytes(32)
    mine = Transaction(CHAIN_ID, nonce, 1, fee + 1, gas, ADDRESS, data).signed(key)
    theirs = Account.sign_transaction(
        {
            "type": 2,
            "chainId": CHAIN_ID,
            "nonce": nonce,
            "maxPriorityFeePerGas": 1,
            "maxFeePerGas": fee + 1,
            "gas": gas,
            "to": ADDRESS,
            "value": 0,
            "data": data,
        },
        key,
    )
    assert mine == (bytes(theirs.raw_transaction), bytes(theirs.hash))
    assert address_of(key).hex() == Account.from_key(key).address[2:].lower()


def test_lengths_are_prefixed_as_ethereum_has_it() -> None:  # the examples of the Yellow Paper's appendix B
    assert [rlp(item).hex() for item in (b"dog", (b"cat", b"dog"), b"", (), 0, 15, 1024, ((), ((),)))] == [
        "83646f67",
        "c88363617483646f67",
        "80",
        "c0",
        "80",
        "0f",
        "820400",
        "c3c0c1c0",
    ]
    assert rlp(b"x" * 56)[:2].hex() == "b838"
    assert rlp((b"x" * 56,))[:4].hex() == "f83ab838"


def test_keys_are_read_and_never_shown() -> None:
    text = KEY.hex()
    assert parse_key(f"0x{text}\n") == parse_key(text) == KEY
    assert OWNER.hex() == "f39fd6e51aad88f6f4ce6ab8827279cfffb92266"  # anvil's first account
    for wrong in ("", text[:-1], text + "00", "zz" * 32, f"{text} {text}"):
        with pytest.raises(MisuseError) as refused:
            parse_key(wrong)
        assert text[:16] not in str(refused.value)
    for key in (bytes(32), b"\xff" * 32, b"\1" * 31):
        with pytest.raises(MisuseError):
            address_of(key)
    assert text not in repr(OnChain().owner)


async def test_what_a_contract_would_refuse_is_never_sent() -> None:  # rule 1
    chain = OnChain()
    contract = await chain.with_app()
    sent = chain.node.asked.count("eth_sendRawTransaction")
    with pytest.raises(EvidenceError) as refused:
        await chain.stranger.send(contract, abi.ADD_DEVICE(DEVICE))
    assert refused.value.finding.found == f"OwnableUnauthorizedAccount(0x{STRANGER.hex()})"
    assert chain.node.asked.count("eth_sendRawTransaction") == sent


async def test_a_nonce_that_was_taken_is_tried_again() -> None:  # rule 2
    chain = OnChain()
    tries, send = [0], chain.node.eth_sendRawTransaction

    def racing(raw: str) -> str:
        tries[0] += 1
        if tries[0] < 3:
            raise Refusal(-32003, "nonce too low")
        return send(raw)

    chain.node.methods["eth_sendRawTransaction"] = racing
    assert (await chain.owner.send(ADDRESS, b"")).ok
    tries[0] = -10
    with pytest.raises(CollateralError, match="nonce too low"):
        await chain.owner.send(ADDRESS, b"")


async def test_another_chain_is_not_written_to() -> None:  # rule 3
    chain = OnChain()
    chain.node.chain_id = 1
    with pytest.raises(CollateralError) as refused:
        await chain.owner.send(ADDRESS, b"")
    assert refused.value.finding.code == "chain.wrong-chain"
    assert "eth_sendRawTransaction" not in chain.node.asked


async def test_a_receipt_that_does_not_come_is_told_with_its_hash() -> None:  # rule 4
    chain = OnChain()
    chain.node.methods["eth_getTransactionReceipt"] = lambda _: None
    with pytest.raises(CollateralError) as refused:
        await chain.writer(KEY, timeout=0.2).send(ADDRESS, b"")
    assert refused.value.finding.code == "chain.pending"
    (identity,) = chain.node.receipts
    assert identity in refused.value.finding.found
    chain.node.delay = 30
    with pytest.raises(CollateralError) as refused:
        await chain.writer(KEY, timeout=0.2).send(ADDRESS, b"")
    assert refused.value.finding.found == "none"


async def test_a_transaction_that_failed_in_its_block_is_refused() -> None:
    chain = OnChain()
    receipt = chain.node.eth_getTransactionReceipt
    chain.node.methods["eth_getTransactionReceipt"] = lambda identity: {**receipt(identity), "status": "0x0"}
    with pytest.raises(EvidenceError) as refused:
        await chain.owner.send(ADDRESS, b"")
    assert refused.value.finding.code == "chain.reverted"


@pytest.mark.parametrize(
    ("method", "answer", "family"),
    [
        ("eth_estimateGas", Refusal(-32000, "insufficient funds for gas * price + value"), MisuseError),
        ("eth_estimateGas", Refusal(-32000, "the node is busy"), CollateralError),
        ("eth_getTransactionCount", 7, CollateralError),
        (
            "eth_getBlockByNumber",
            {"number": "0x1", "hash": "0x" + "00" * 32, "timestamp": "0x0"},
            CollateralError,
        ),
    ],
)
async def test_other_troubles_are_of_their_family(method: str, answer: Any, family: type[Exception]) -> None:
    chain = OnChain()

    def ask(*_: Any) -> Any:
        if isinstance(answer, Refusal):
            raise answer
        return answer

    chain.node.methods[method] = ask
    with pytest.raises(family):
        await chain.owner.send(ADDRESS, b"")
    assert (chain.owner.address, chain.owner.chain_id) == (OWNER, CHAIN_ID)


async def test_a_quorum_reads_what_was_written() -> None:
    chain = OnChain()
    contract = await chain.with_app()
    async with reader_of(chain.node, chain.node, quorum=2) as reader:
        _, (found,) = await app.verdicts(reader, [AppQuestion(contract, COMPOSE, DEVICE)])
    assert found.is_allowed
