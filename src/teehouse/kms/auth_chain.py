"""Authorisation by a chain: a KMS's contract decides who may have keys (onchain.md 5).

Rules:

1. Each question is asked of the chain, with its id checked, at its head less the confirmations: what an owner
   takes back is refused at the next question.
2. The contract's verdict and the gateway's app id are of one block, asked in one request.
3. The contract's reason is passed on word for word.
4. A chain that cannot be read, is another one or contradicts itself, and a contract that reverts or answers
   nonsense, have decided nothing: `CollateralError`, which is refusal to whoever asked.
5. Of an endpoint's URL, scheme and host are told and nothing else.
"""

from collections.abc import Awaitable, Callable

from teehouse.base.findings import EvidenceError, unavailable
from teehouse.chain import calls as abi
from teehouse.chain import kms
from teehouse.chain.reader import ADDRESS_SIZE, WORD_SIZE, Reader
from teehouse.kms.auth import AuthInfo, Decision
from teehouse.kms.boot_info import BootInfo

Decide = Callable[[Reader, bytes, abi.BootInfo], Awaitable[kms.ChainDecision]]


class ChainAuth:
    """The authorisation API of a KMS's contract (20 bytes), an `AuthApi`.

    `rpc_shown` is what may be told of the endpoint. The reader stays its maker's to close.
    """

    def __init__(self, reader: Reader, contract: bytes, *, rpc_shown: str) -> None:
        self._reader = reader
        self._contract = contract
        self._rpc_shown = rpc_shown

    async def info(self) -> AuthInfo:
        """What the contract says of itself. Raises `CollateralError` (rule 4)."""
        try:
            _, settings = await kms.settings(self._reader, self._contract)
        except EvidenceError as error:
            raise self._undecided(error) from error
        implementation = f"0x{settings.app_implementation.hex()}"
        return AuthInfo(
            kms_contract_address=f"0x{self._contract.hex()}",
            gateway_app_id=settings.gateway_app_id,
            chain_id=self._reader.chain_id,
            app_implementation=implementation,
            app_auth_implementation=implementation,
            eth_rpc_url=self._rpc_shown,
        )

    async def boot_app(self, boot_info: BootInfo) -> Decision:
        """Whether an app may have its keys (`isAppAllowed`). Raises `CollateralError` (rule 4)."""
        return await self._decide(kms.decide_app, boot_info)

    async def boot_kms(self, boot_info: BootInfo) -> Decision:
        """Whether a KMS may run, or have the root keys (`isKmsAllowed`). Raises `CollateralError` (rule 4)."""
        return await self._decide(kms.decide_kms, boot_info)

    async def _decide(self, decide: Decide, boot_info: BootInfo) -> Decision:
        try:
            decision = await decide(self._reader, self._contract, _question(boot_info))
        except EvidenceError as error:
            raise self._undecided(error) from error
        return Decision(decision.is_allowed, decision.reason, decision.gateway_app_id)

    def _undecided(self, error: EvidenceError) -> Exception:
        return unavailable(
            "auth-chain.undecided",
            f"the contract 0x{self._contract.hex()} on chain {self._reader.chain_id} gave no answer",
            found=error.finding.sentence(),
            remedy="check its address and what it runs",
        )


def _question(boot_info: BootInfo) -> abi.BootInfo:
    """The question as the contract takes it: shorter values with zeros on the left (onchain.md 5.2)."""
    return abi.BootInfo(
        app_id=boot_info.app_id.rjust(ADDRESS_SIZE, b"\0"),
        compose_hash=boot_info.compose_hash.rjust(WORD_SIZE, b"\0"),
        instance_id=boot_info.instance_id.rjust(ADDRESS_SIZE, b"\0"),
        device_id=boot_info.device_id.rjust(WORD_SIZE, b"\0"),
        mr_aggregated=boot_info.mr_aggregated.rjust(WORD_SIZE, b"\0"),
        mr_system=boot_info.mr_system.rjust(WORD_SIZE, b"\0"),
        os_image_hash=boot_info.os_image_hash.rjust(WORD_SIZE, b"\0"),
        tcb_status=boot_info.tcb_status,
        advisory_ids=tuple(boot_info.advisory_ids),
    )
