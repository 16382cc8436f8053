"""The gate before a change of an on-chain app: its contract is asked, and transactions are looked up.

The rules are those of `teehouse.cloud.allowlists.gate` (G1 to G4), and besides:

C1. Three reads of the app's contract, and one of the KMS's: it gives keys only to apps that it knows. All are of
    one block.
C2. A transaction that is not there yet is waited for, as long as `patience` says: the endpoint asked here may be
    behind the one it was sent to. The block that contracts are read at has to have reached it, so that the
    contract's state is looked at afterwards and not before.
C3. A transaction that failed, or tells of another contract or hash, is refused at once.
"""

import asyncio
from typing import Final

from teehouse.base.findings import EvidenceError
from teehouse.chain import calls as abi
from teehouse.chain.app import decoded
from teehouse.chain.reader import Answer, Call, Receipt
from teehouse.cloud.allowlists.gate import GatedApp, OnchainStatus
from teehouse.cloud.allowlists.onchain import OnchainContracts
from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.cloud.ids import parse_hex

PATIENCE: Final = 15.0  # seconds
PAUSE: Final = 0.5  # seconds
COMPOSE_HASH_ADDED: Final = abi.topic("ComposeHashAdded(bytes32)")


class ChainGate:
    """A `ComposeGate` over the chains' readers. `patience` and `pause` are seconds (rule C2)."""

    def __init__(
        self, contracts: OnchainContracts, *, patience: float = PATIENCE, pause: float = PAUSE
    ) -> None:
        self._contracts = contracts
        self._patience = patience
        self._pause = pause

    async def status(self, app: GatedApp, compose_hash: str, device_id: str | None) -> OnchainStatus | None:
        """As the Protocol (rule C1). Raises `CollateralError`, `CloudError` ERR-01-008."""
        if app.chain_id is None:
            return None
        contract = bytes.fromhex(app.app_id)
        calls = [
            Call(contract, abi.ALLOWED_COMPOSE_HASHES(bytes.fromhex(compose_hash))),
            Call(contract, abi.ALLOW_ANY_DEVICE()),
        ]
        if device_id:
            calls.append(Call(contract, abi.ALLOWED_DEVICE_IDS(bytes.fromhex(device_id))))
        if app.kms_contract_address is not None:
            kms = bytes.fromhex(app.kms_contract_address.removeprefix("0x"))
            calls.append(Call(kms, abi.REGISTERED_APPS(contract)))
        _, answers = await self._contracts.read(app.chain_id, lambda reader: reader.call_many(calls))
        compose, any_device, *rest = (
            _flag(app, call.to == contract, answer) for call, answer in zip(calls, answers, strict=True)
        )
        if app.kms_contract_address is not None and not rest.pop():
            raise _refused(app, "The KMS's contract does not know this app", "not registered")
        return OnchainStatus(compose, any_device or any(rest))

    async def check_transaction(self, app: GatedApp, compose_hash: str, transaction_hash: str) -> None:
        """As the Protocol (rules C2, C3). Raises `CollateralError`, `CloudError` ERR-01-007."""
        if app.chain_id is None:
            return
        digits = parse_hex(transaction_hash, 32)
        if digits is None:
            raise _unproved(transaction_hash[:80], "The transaction hash has 64 hex digits")
        chain_id, wanted = app.chain_id, bytes.fromhex(digits)
        until = asyncio.get_running_loop().time() + self._patience
        while True:
            receipt = await self._contracts.read(chain_id, lambda reader: reader.receipt(wanted))
            if receipt is not None:
                _judge(app, compose_hash, transaction_hash, receipt)
                at = await self._contracts.read(chain_id, lambda reader: reader.pinned())
                if at.number >= receipt.block_number:
                    return
            if asyncio.get_running_loop().time() >= until:
                known = "known" if receipt is None else "confirmed"
                raise _unproved(transaction_hash, f"The transaction is not {known} yet; try again")
            await asyncio.sleep(self._pause)


def _flag(app: GatedApp, of_app: bool, answer: Answer) -> bool:
    """Rule G3."""
    try:
        return decoded(answer, abi.decode_bool)
    except EvidenceError as error:
        whose = "app's" if of_app else "KMS's"
        raise _refused(
            app, f"The {whose} contract cannot be asked: {error.finding.sentence()}", "no app's contract"
        ) from error


def _judge(app: GatedApp, compose_hash: str, transaction_hash: str, receipt: Receipt) -> None:
    """Rules G4, C3."""
    if not receipt.ok:
        raise _unproved(transaction_hash, "The transaction failed")
    contract, added = bytes.fromhex(app.app_id), bytes.fromhex(compose_hash)
    if not any(
        log.address == contract and log.topics == (COMPOSE_HASH_ADDED,) and log.data == added
        for log in receipt.logs
    ):
        raise _unproved(
            transaction_hash, "The transaction does not add this compose hash to the app's contract"
        )


def _refused(app: GatedApp, message: str, what: str) -> CloudError:
    return CloudError(
        ErrorCode.HASH_NOT_ALLOWED,
        message,
        details=[Detail("app_contract_address", app.contract_address, what)],
        suggestions=["Deploy the app's contract with deployAndRegisterApp of the KMS's contract"],
    )


def _unproved(transaction_hash: str, message: str) -> CloudError:
    return CloudError(
        ErrorCode.TX_VERIFICATION_FAILED,
        message,
        details=[Detail("transaction_hash", transaction_hash)],
        suggestions=["Send the hash of the transaction that called addComposeHash, or already-registered"],
    )
