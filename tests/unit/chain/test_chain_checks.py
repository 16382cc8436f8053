"""Checks G1 to G6 of `teehouse.chain.checks`, against the contracts themselves."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from support import evm
from teehouse.base.findings import CollateralError, Finding, MisuseError, Outcome, unavailable
from teehouse.chain.calls import BootInfo
from teehouse.chain.checks import OnChain, check_app
from teehouse.chain.reader import Answer, Block, Call, Log, Receipt

BLOCK = Block(7, b"\xb1" * 32, 1_800_000_000)
COMPOSE, DEVICE, IMAGE = b"\xc0" * 32, b"\xde" * 32, b"\x05" * 32


class EvmReader:
    """A `Reader` of the chain in the process; it always stands at one block."""

    chain_id = 31337

    def __init__(self, chain: evm.Chain, *, unreachable: bool = False) -> None:
        self.chain, self.unreachable = chain, unreachable

    async def pinned(self) -> Block:
        if self.unreachable:
            raise unavailable("chain.timeout", "the endpoint http://127.0.0.1", remedy="wait")
        return BLOCK

    async def call_many(
        self, calls: Sequence[Call], block: Block | None = None
    ) -> tuple[Block, tuple[Answer, ...]]:
        assert block == BLOCK
        return BLOCK, tuple(map(self._call, calls))

    def _call(self, call: Call) -> Answer:
        try:
            return Answer(ok=True, data=self.chain.eth_call(f"0x{call.to.hex()}", call.data))
        except evm.Reverted:
            return Answer(ok=False, reason="reverted")

    async def code(self, address: bytes, block: Block) -> bytes:
        assert block == BLOCK
        return self.chain.code(f"0x{address.hex()}")

    async def logs(
        self,
        address: bytes,
        topics: Sequence[bytes | Sequence[bytes] | None],
        from_block: int,
        to_block: int,
    ) -> tuple[Log, ...]:
        raise NotImplementedError

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


class World:
    """A KMS contract with one app, which may run; what it measured."""

    def __init__(self) -> None:
        self.chain = evm.Chain()
        self.kms = self.chain.kms()
        self.chain.send(self.kms, "addOsImageHash(bytes32)", [IMAGE])
        out = self.chain.send(self.kms, evm.DEPLOY_5, [evm.OWNER, False, False, DEVICE, COMPOSE]).output
        self.app = f"0x{out[-20:].hex()}"
        self.boot = BootInfo(
            bytes.fromhex(self.app[2:]), COMPOSE, bytes(20), DEVICE, bytes(32), bytes(32), IMAGE, "UpToDate"
        )

    async def check(self, boot: BootInfo | None = None, **expected: str) -> tuple[Finding, ...]:
        given = {name: bytes.fromhex(value[2:]) for name, value in expected.items()}
        return await check_app(EvmReader(self.chain), boot or self.boot, OnChain(**given))


@pytest.fixture(name="world")
def _world() -> World:
    return World()


async def test_an_allowed_app_passes_each_check(world: World) -> None:
    code = len(world.chain.code(world.app))
    assert await world.check(kms_contract=world.kms, owner=evm.OWNER) == (
        Finding("chain.block", "chain 31337 is read", found=f"block 7 (0x{'b1' * 32})", check="G1"),
        Finding(
            "chain.contract",
            "the app id is a contract's address",
            found=f"{world.app}, {code} bytes of code",
            check="G2",
        ),
        Finding("chain.owner", "the owner of the app's contract", found=evm.OWNER, check="G3"),
        Finding("chain.compose-hash", "the contract lists the compose hash", found="c0" * 32, check="G4"),
        Finding("chain.device", "the contract lists the device, or any", found="de" * 32, check="G5"),
        Finding(
            "chain.kms-decision",
            f"the KMS contract {world.kms} lets the app have its keys",
            found="allowed",
            check="G6",
        ),
    )


def _remove_compose(world: World) -> None:
    world.chain.send(world.app, "removeComposeHash(bytes32)", [COMPOSE])


def _remove_device(world: World) -> None:
    world.chain.send(world.app, "removeDevice(bytes32)", [DEVICE])


def _remove_image(world: World) -> None:
    world.chain.send(world.kms, "removeOsImageHash(bytes32)", [IMAGE])


def _require_tcb(world: World) -> None:
    world.chain.send(world.app, "setRequireTcbUpToDate(bool)", [True])
    world.boot = replace(world.boot, tcb_status="OutOfDate")


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (
            _remove_compose,
            {
                "G4": ("chain.compose-hash-not-allowed", f"{'c0' * 32}, not listed"),
                "G6": ("chain.kms-denied", "Compose hash not allowed"),
            },
        ),
        (
            _remove_device,
            {
                "G5": ("chain.device-not-allowed", f"{'de' * 32}, not listed"),
                "G6": ("chain.kms-denied", "Device not allowed"),
            },
        ),
        (_remove_image, {"G6": ("chain.kms-denied", "OS image is not allowed")}),
        (_require_tcb, {"G6": ("chain.kms-denied", "TCB status is not up to date")}),
    ],
)
async def test_what_is_revoked_is_told(
    world: World, change: Callable[[World], None], refused: dict[str, tuple[str, str]]
) -> None:
    change(world)
    findings = await world.check(kms_contract=world.kms)
    assert [one.check for one in findings] == ["G1", "G2", "G3", "G4", "G5", "G6"]
    assert {one.check: (one.code, one.found) for one in findings if not one.ok} == refused
    assert {one.outcome for one in findings if not one.ok} == {Outcome.REJECTED}


async def test_any_device_is_said_so(world: World) -> None:
    _remove_device(world)
    world.chain.send(world.app, "setAllowAnyDevice(bool)", [True])
    assert (await world.check())[-1].found == "any device"


async def test_the_owner_is_compared_and_the_next_one_told(world: World) -> None:
    world.chain.send(world.app, "transferOwnership(address)", [evm.NEW_OWNER])
    owner = (await world.check(owner=evm.STRANGER))[2]
    assert (owner.code, owner.expected, owner.found) == (
        "chain.owner-mismatch",
        evm.STRANGER,
        f"{evm.OWNER}, proposed next {evm.NEW_OWNER}",
    )


async def test_an_app_id_without_a_contract_ends_there(world: World) -> None:
    findings = await world.check(replace(world.boot, app_id=b"\x99" * 20), kms_contract=world.kms)
    assert [(one.check, one.code) for one in findings] == [("G1", "chain.block"), ("G2", "chain.no-contract")]
    assert findings[-1].found == f"none at 0x{'99' * 20}"


async def test_a_contract_that_reverts_or_is_another_one_fails_its_checks(world: World) -> None:
    hostile = world.chain.deploy(bytes.fromhex("6005600c60003960056000f3600080fd00"))  # reverts at each call
    findings = await world.check(replace(world.boot, app_id=bytes.fromhex(hostile[2:])), kms_contract=hostile)
    assert {one.check: one.code for one in findings if not one.ok} == dict.fromkeys(
        ("G3", "G4", "G5", "G6"), "chain.denied"
    )


async def test_a_chain_that_cannot_be_read_leaves_one_finding(world: World) -> None:
    reader = EvmReader(world.chain, unreachable=True)
    (finding,) = await check_app(reader, world.boot, OnChain())
    assert (finding.check, finding.outcome, finding.code) == (
        "G1",
        Outcome.COLLATERAL_MISSING,
        "chain.timeout",
    )
    with pytest.raises(CollateralError):
        await reader.pinned()


async def test_ids_of_another_size_are_the_callers_fault(world: World) -> None:
    with pytest.raises(MisuseError):
        await world.check(replace(world.boot, app_id=b"\x99" * 19))
