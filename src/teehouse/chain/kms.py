"""What a KMS's contract says: who may have keys, and about the KMS itself (onchain.md 4, 5).

Rules:

1. A decision and the gateway's app id are read in one request, of one block, with the chain's id checked.
2. The contract's answer is the decision, word for word. A contract that reverts, burns its gas or answers
   nonsense has decided nothing: `EvidenceError`.
"""

from dataclasses import dataclass

from teehouse.chain import calls as abi
from teehouse.chain.app import decoded
from teehouse.chain.calls import BootInfo, KmsInfo
from teehouse.chain.reader import Block, Call, Reader


@dataclass(frozen=True, slots=True)
class ChainDecision:
    """What the contract decided at `block`; `reason` says why not."""

    is_allowed: bool
    reason: str
    gateway_app_id: str
    block: Block


@dataclass(frozen=True, slots=True)
class KmsSettings:
    """What the contract says of itself. Addresses have 20 bytes; `pending_owner` is None where none is proposed."""

    owner: bytes
    pending_owner: bytes | None
    app_implementation: bytes
    gateway_app_id: str


async def decide_app(
    reader: Reader, contract: bytes, boot_info: BootInfo, block: Block | None = None
) -> ChainDecision:
    """Whether an app may have its keys (`isAppAllowed`), now or at a block that was pinned before.

    Raises `CollateralError`, `EvidenceError`, `MisuseError`.
    """
    return await _decide(reader, contract, abi.IS_APP_ALLOWED(boot_info.values()), block)


async def decide_kms(reader: Reader, contract: bytes, boot_info: BootInfo) -> ChainDecision:
    """Whether a KMS may run (`isKmsAllowed`). Raises `CollateralError`, `EvidenceError`, `MisuseError`."""
    return await _decide(reader, contract, abi.IS_KMS_ALLOWED(boot_info.values()))


async def settings(reader: Reader, contract: bytes, block: Block | None = None) -> tuple[Block, KmsSettings]:
    """The contract's owner and settings at one block. Raises `CollateralError`, `EvidenceError`."""
    wanted = (abi.OWNER, abi.PENDING_OWNER, abi.APP_IMPLEMENTATION, abi.GATEWAY_APP_ID)
    at, (owner, pending, implementation, gateway) = await reader.call_many(
        [Call(contract, one()) for one in wanted], block
    )
    proposed = decoded(pending, abi.decode_address)
    return at, KmsSettings(
        decoded(owner, abi.decode_address),
        proposed if any(proposed) else None,
        decoded(implementation, abi.decode_address),
        decoded(gateway, abi.decode_text),
    )


async def kms_info(reader: Reader, contract: bytes, block: Block | None = None) -> tuple[Block, KmsInfo]:
    """Keys, quote and event log of the KMS. Raises `CollateralError`, `EvidenceError`."""
    at, (answer,) = await reader.call_many([Call(contract, abi.READ_KMS_INFO())], block)
    return at, decoded(answer, abi.decode_kms_info)


async def is_registered(
    reader: Reader, contract: bytes, app: bytes, block: Block | None = None
) -> tuple[Block, bool]:
    """Whether an app (20 bytes) is registered, which says nothing of its safety (onchain.md 4.3)."""
    at, (answer,) = await reader.call_many([Call(contract, abi.REGISTERED_APPS(app))], block)
    return at, decoded(answer, abi.decode_bool)


async def os_image_allowed(
    reader: Reader, contract: bytes, os_image_hash: bytes, block: Block | None = None
) -> tuple[Block, bool]:
    """Whether an OS image (32 bytes) may run apps."""
    at, (answer,) = await reader.call_many([Call(contract, abi.ALLOWED_OS_IMAGES(os_image_hash))], block)
    return at, decoded(answer, abi.decode_bool)


async def _decide(
    reader: Reader, contract: bytes, question: bytes, block: Block | None = None
) -> ChainDecision:
    # Where no block is named, one is pinned, and with it the chain's id checked, in this very call (rule 1).
    at, (verdict, gateway) = await reader.call_many(
        [Call(contract, question), Call(contract, abi.GATEWAY_APP_ID())], block
    )
    is_allowed, reason = decoded(verdict, abi.decode_verdict)
    return ChainDecision(is_allowed, reason, decoded(gateway, abi.decode_text), at)
