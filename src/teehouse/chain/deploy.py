"""The contracts of a KMS put on a chain, once (onchain.md 4.4).

Rules:

1. All contracts are made by the CREATE2 deployer that every public chain and anvil have, so that their addresses
   follow from their code and the owner: what is there already is found and not made again, wherever the last
   attempt ended. On a chain without that deployer nothing is done.
2. App implementation, blueprint of its proxy, KMS implementation; then the KMS's proxy, which is initialised in
   the same transaction: nobody can come between. Multicall only where the canonical one is missing.
3. What the owner says (OS images, measurements, devices, KMS info, gateway) is read first, in one request, and
   only what differs is written. Nothing is ever removed. Another's KMS contract is only read: where something
   would have to be written to it, the contract's refusal comes through.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from eth_abi.abi import encode as _encode

from teehouse.base.findings import unavailable
from teehouse.base.hashes import keccak256
from teehouse.chain import artifacts
from teehouse.chain import calls as abi
from teehouse.chain.app import decoded
from teehouse.chain.calls import KmsInfo
from teehouse.chain.endpoint_reader import MULTICALL3
from teehouse.chain.reader import ADDRESS_SIZE, Call, Reader
from teehouse.chain.transaction import rlp
from teehouse.chain.writer import Writer

CREATE2_DEPLOYER: Final = bytes.fromhex("4e59b44847b379578588920ca78fbf26c0b4956c")
SALT: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class DeployPlan:
    """What is wanted. Hashes, measurements and devices have 32 bytes; None leaves a value as it is.

    `kms_contract` (20 bytes) is a KMS that exists; without it, the one of `salt` (32 bytes) and the writer's account.
    """

    os_images: Sequence[bytes] = ()
    kms_aggregated_mrs: Sequence[bytes] = ()
    kms_devices: Sequence[bytes] = ()
    kms_info: KmsInfo | None = None
    gateway_app_id: str | None = None
    kms_contract: bytes | None = None
    salt: bytes = SALT


@dataclass(frozen=True, slots=True)
class DeployRecord:
    """What stands on the chain. Addresses have 20 bytes; `done` are the steps that this run had to take."""

    chain_id: int
    kms_contract: bytes
    kms_owner: bytes
    kms_implementation: bytes
    app_implementation: bytes
    proxy_blueprint: bytes
    multicall: bytes
    block_number: int  # the head when all was done
    done: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON members."""
        return {
            "chain_id": self.chain_id,
            "kms_contract": _hex(self.kms_contract),
            "kms_owner": _hex(self.kms_owner),
            "kms_implementation": _hex(self.kms_implementation),
            "app_implementation": _hex(self.app_implementation),
            "proxy_blueprint": _hex(self.proxy_blueprint),
            "multicall": _hex(self.multicall),
            "block_number": self.block_number,
            "done": list(self.done),
        }


def created_address(sender: bytes, nonce: int) -> bytes:
    """The address that a plain CREATE gives: of a contract's apps, `nonce` counts from 1 (onchain.md 4.4)."""
    return keccak256(rlp((sender, nonce)))[-ADDRESS_SIZE:]


def create2_address(code: bytes, salt: bytes = SALT, deployer: bytes = CREATE2_DEPLOYER) -> bytes:
    """The address that CREATE2 gives to a contract of this deployment code (EIP-1014)."""
    return keccak256(b"\xff" + deployer + salt + keccak256(code))[-ADDRESS_SIZE:]


async def deploy(reader: Reader, writer: Writer, plan: DeployPlan) -> DeployRecord:
    """Make what is missing and say what differs (rules 1 to 3); `reader` reads at the head.

    Raises `CollateralError`, `EvidenceError` for a contract's refusal, `MisuseError`.
    """
    return await _Deployment(reader, writer, plan).run()


class _Deployment:
    def __init__(self, reader: Reader, writer: Writer, plan: DeployPlan) -> None:
        self._reader = reader
        self._writer = writer
        self._plan = plan
        self._done: list[str] = []

    async def run(self) -> DeployRecord:
        head = await self._reader.pinned()
        if not await self._reader.code(CREATE2_DEPLOYER, head):
            raise unavailable(
                "chain.no-deployer",
                f"chain {self._reader.chain_id} has no CREATE2 deployer at {_hex(CREATE2_DEPLOYER)}",
                remedy="send its well-known deployment transaction first, or use a chain that has it",
            )
        app = await self._made("app implementation", artifacts.load("DstackApp").bytecode)
        blueprint = await self._made("app proxy blueprint", artifacts.load("ProxyBlueprint").bytecode)
        kms_code = artifacts.load("DstackKms").bytecode + _encode(("address",), (blueprint,))
        implementation = await self._made("KMS implementation", kms_code)
        kms = self._plan.kms_contract
        if kms is None:
            initialise = abi.KMS_INITIALIZE(self._writer.address, app)
            proxy = artifacts.load("KmsProxy").bytecode + _encode(
                ("address", "bytes"), (implementation, initialise)
            )
            kms = await self._made("KMS contract", proxy, self._plan.salt)
        multicall = MULTICALL3
        if not await self._reader.code(MULTICALL3, head):
            multicall = await self._made("multicall", artifacts.load("Multicall").bytecode)
        await self._said(kms, app)
        end = await self._reader.pinned()
        _, (owner,) = await self._reader.call_many([Call(kms, abi.OWNER())], end)
        return DeployRecord(
            self._reader.chain_id,
            kms,
            decoded(owner, abi.decode_address),
            implementation,
            app,
            blueprint,
            multicall,
            end.number,
            tuple(self._done),
        )

    async def _made(self, what: str, code: bytes, salt: bytes = SALT) -> bytes:
        """The address of this contract, made when it is not there yet."""
        address = create2_address(code, salt)
        if not await self._reader.code(address, await self._reader.pinned()):
            await self._writer.send(CREATE2_DEPLOYER, salt + code)
            self._done.append(f"{what} at {_hex(address)}")
            if not await self._reader.code(address, await self._reader.pinned()):
                raise unavailable(
                    "chain.not-deployed",
                    f"the {what} is not at {_hex(address)} though its transaction is in a block",
                    remedy="read at the head, without confirmations, and try again",
                )
        return address

    async def _said(self, kms: bytes, app: bytes) -> None:
        """Rule 3."""
        wanted = _statements(self._plan, app)
        _, answers = await self._reader.call_many([Call(kms, one.reads) for one in wanted])
        for one, answer in zip(wanted, answers, strict=True):
            if decoded(answer, one.decode) != one.expected:
                await self._writer.send(kms, one.writes)
                self._done.append(one.what)


@dataclass(frozen=True, slots=True)
class _Statement:
    """What the contract has to say: how it is read, what it must be, how it is written."""

    what: str
    reads: bytes
    decode: Callable[[bytes], Any]
    expected: Any
    writes: bytes


def _statements(plan: DeployPlan, app: bytes) -> list[_Statement]:
    lists = (
        ("OS image", plan.os_images, abi.ALLOWED_OS_IMAGES, abi.ADD_OS_IMAGE_HASH),
        (
            "KMS measurement",
            plan.kms_aggregated_mrs,
            abi.KMS_ALLOWED_AGGREGATED_MRS,
            abi.ADD_KMS_AGGREGATED_MR,
        ),
        ("KMS device", plan.kms_devices, abi.KMS_ALLOWED_DEVICE_IDS, abi.ADD_KMS_DEVICE),
    )
    wanted = [
        _Statement(f"{what} {_hex(value)}", reads(value), abi.decode_bool, True, writes(value))
        for what, values, reads, writes in lists
        for value in dict.fromkeys(values)
    ]
    wanted.append(
        _Statement(
            f"app implementation {_hex(app)}",
            abi.APP_IMPLEMENTATION(),
            abi.decode_address,
            app,
            abi.SET_APP_IMPLEMENTATION(app),
        )
    )
    if (info := plan.kms_info) is not None:
        values = (info.k256_pubkey, info.ca_pubkey, info.quote, info.event_log)
        writes = abi.SET_KMS_INFO(values)
        wanted.append(_Statement("KMS info", abi.READ_KMS_INFO(), abi.decode_kms_info, info, writes))
    if (gateway := plan.gateway_app_id) is not None:
        writes = abi.SET_GATEWAY_APP_ID(gateway)
        wanted.append(_Statement("gateway app id", abi.GATEWAY_APP_ID(), abi.decode_text, gateway, writes))
    return wanted


def _hex(data: bytes) -> str:
    return f"0x{data.hex()}"
