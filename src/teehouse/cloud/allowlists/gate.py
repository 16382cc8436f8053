"""Whether an app's contract lets a compose hash run: asked before a change, for on-chain KMSs only (cloud-api.md 13.4)."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class GatedApp:
    """The app and its KMS; `chain_id` 0 or None and `contract_address` None off chain."""

    app_id: str
    kms_type: str
    chain_id: int | None
    contract_address: str | None


@dataclass(frozen=True, slots=True)
class OnchainStatus:
    """What the contract says (cloud-api.md 13.4, `onchain_status`)."""

    compose_hash_allowed: bool
    device_id_allowed: bool

    @property
    def is_allowed(self) -> bool:
        """Whether a CVM with this hash, on this device, gets keys."""
        return self.compose_hash_allowed and self.device_id_allowed


class ComposeGate(Protocol):
    """Asks the contract of an app."""

    async def status(self, app: GatedApp, compose_hash: str, device_id: str | None) -> OnchainStatus | None:
        """What the contract says now; None for an app that no contract decides over."""
        ...

    async def check_transaction(self, app: GatedApp, compose_hash: str, transaction_hash: str) -> None:
        """Raises `CloudError` ERR-01-007 unless the transaction proves that the hash was added."""
        ...


class OffChainGate:
    """Where no chain is configured: apps of an off-chain KMS may always change."""

    async def status(
        self,
        app: GatedApp,  # noqa: ARG002 - the Protocol's arguments
        compose_hash: str,  # noqa: ARG002
        device_id: str | None,  # noqa: ARG002
    ) -> OnchainStatus | None:
        return None

    async def check_transaction(self, app: GatedApp, compose_hash: str, transaction_hash: str) -> None:
        """Nothing to prove."""
