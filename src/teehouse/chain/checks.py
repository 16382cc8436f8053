"""What a chain says of one measured app, as findings for whoever judges its evidence (onchain.md 3.3, 4.3).

Checks:

G1. The chain is the one that is meant, and could be read; the block that everything else is of is named.
G2. A contract stands at the app id: on chain the one is the other's address (onchain.md 1).
G3. The contract has an owner, the expected one where one is expected. Who may own it next is said too.
G4. The measured compose hash is on the contract's list.
G5. The measured device is on it, or any device is allowed.
G6. The KMS contract, where one is given, would have the app's keys handed out: registration, OS image, TCB status and
    the app's own answer, at the block of the other checks.

A contract that reverts or answers nonsense fails its check. A chain that cannot be read leaves G1 alone, as missing
collateral; the rest is not judged.
"""

from dataclasses import dataclass, replace
from typing import Final

from teehouse.base.findings import CollateralError, EvidenceError, Finding, Outcome
from teehouse.chain import app, kms
from teehouse.chain.app import AppQuestion
from teehouse.chain.calls import BootInfo
from teehouse.chain.reader import Block, Reader

G1, G2, G3, G4, G5, G6 = (f"G{number}" for number in range(1, 7))
NEXT_BOOT: Final = "its keys will be refused at the next boot"


@dataclass(frozen=True, slots=True)
class OnChain:
    """What is expected beside the app's own measurements: 20 bytes each, None where it is not asked about."""

    kms_contract: bytes | None = None
    owner: bytes | None = None


async def check_app(reader: Reader, boot: BootInfo, expected: OnChain) -> tuple[Finding, ...]:
    """Checks G1 to G6 of the app that `boot` describes. Raises `MisuseError` for ids or hashes of another size."""
    boot.values()
    found: list[Finding] = []
    try:
        block = await reader.pinned()
        at = f"block {block.number} (0x{block.hash.hex()})"
        found.append(Finding("chain.block", f"chain {reader.chain_id} is read", found=at, check=G1))
        found.append(await _contract(reader, boot.app_id, block))
        if not found[-1].ok:
            return tuple(found)
        found.append(await _owner(reader, boot.app_id, expected.owner, block))
        found.extend(await _lists(reader, boot, block))
        if expected.kms_contract is not None:
            found.append(await _decision(reader, expected.kms_contract, boot, block))
    except CollateralError as error:
        return (replace(error.finding, check=G1),)
    return tuple(found)


async def _contract(reader: Reader, address: bytes, block: Block) -> Finding:
    finding = Finding("chain.contract", "the app id is a contract's address", check=G2)
    code = await reader.code(address, block)
    shown = f"0x{address.hex()}"
    if code:
        return replace(finding, found=f"{shown}, {len(code)} bytes of code")
    remedy = "the app is not governed by this chain, or its contract is not deployed yet"
    return _refused(finding, "chain.no-contract", "code", f"none at {shown}", remedy)


async def _owner(reader: Reader, contract: bytes, expected: bytes | None, block: Block) -> Finding:
    finding = Finding("chain.owner", "the owner of the app's contract", check=G3)
    try:
        _, said = await app.settings(reader, contract, block)
    except EvidenceError as error:
        return _refused(finding, "chain.denied", "an owner", error.finding.sentence())
    shown = f"0x{said.owner.hex()}"
    if said.pending_owner is not None:
        shown += f", proposed next 0x{said.pending_owner.hex()}"
    if expected is not None and said.owner != expected:
        remedy = "whoever owns the contract decides what may run"
        return _refused(finding, "chain.owner-mismatch", f"0x{expected.hex()}", shown, remedy)
    return replace(finding, found=shown)


async def _lists(reader: Reader, boot: BootInfo, block: Block) -> tuple[Finding, Finding]:
    question = AppQuestion(boot.app_id, boot.compose_hash, boot.device_id)
    _, (verdict,) = await app.verdicts(reader, [question], block)
    shown = boot.compose_hash.hex()
    compose = Finding("chain.compose-hash", "the contract lists the compose hash", found=shown, check=G4)
    shown = "any device" if verdict.allow_any_device else boot.device_id.hex()
    device = Finding("chain.device", "the contract lists the device, or any", found=shown, check=G5)
    if verdict.error:
        denied = "chain.denied", "an answer", verdict.error
        return _refused(compose, *denied), _refused(device, *denied)
    if not verdict.compose_hash_allowed:
        code = "chain.compose-hash-not-allowed"
        compose = _refused(compose, code, "listed", f"{compose.found}, not listed", NEXT_BOOT)
    if not (verdict.allow_any_device or verdict.device_allowed):
        code = "chain.device-not-allowed"
        device = _refused(device, code, "listed", f"{device.found}, not listed", NEXT_BOOT)
    return compose, device


async def _decision(reader: Reader, contract: bytes, boot: BootInfo, block: Block) -> Finding:
    subject = f"the KMS contract 0x{contract.hex()} lets the app have its keys"
    finding = Finding("chain.kms-decision", subject, found="allowed", check=G6)
    try:
        decided = await kms.decide_app(reader, contract, boot, block)
    except EvidenceError as error:
        return _refused(finding, "chain.denied", "an answer", error.finding.sentence())
    if decided.is_allowed:
        return finding
    return _refused(finding, "chain.kms-denied", "allowed", decided.reason or "denied without a reason")


def _refused(finding: Finding, code: str, expected: str, found: str, remedy: str = "") -> Finding:
    return replace(
        finding, code=code, outcome=Outcome.REJECTED, expected=expected, found=found, remedy=remedy
    )
