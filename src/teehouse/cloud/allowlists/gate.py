"""Whether an app's contract lets a compose hash run: asked before a change, for on-chain KMSs only (cloud-api.md 13.4).

Rules:

G1. An app off chain may always change; no contract is asked.
G2. A contract that cannot be asked, because its chain does not answer, stops the change: `CollateralError`, and
    nothing is written.
G3. A contract that is none, or does not behave as one, allows nothing: ERR-01-008.
G4. A transaction proves a compose hash when it succeeded, is confirmed, and the app's own contract told in it that
    the hash was added: else ERR-01-007. What the contract says now is asked besides: the hash may have been
    removed since.
"""

from dataclasses import dataclass
from typing import Protocol

from teehouse.base.findings import unavailable


@dataclass(frozen=True, slots=True)
class GatedApp:
    """The app and its KMS; `chain_id` None, and no contracts, off chain. Addresses are `0x` and 40 hex digits."""

    app_id: str
    kms_type: str
    chain_id: int | None
    contract_address: str | None
    kms_contract_address: str | None = None


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
        """What the contract says now; None for an app that no contract decides over (rules G1 to G3)."""
        ...

    async def check_transaction(self, app: GatedApp, compose_hash: str, transaction_hash: str) -> None:
        """Raises `CloudError` ERR-01-007 unless the transaction proves that the hash was added (rule G4)."""
        ...


class OffChainGate:
    """Where no chain is configured: apps of an off-chain KMS may always change, others never (rules G1, G2)."""

    async def status(
        self,
        app: GatedApp,
        compose_hash: str,  # noqa: ARG002 - the Protocol's arguments
        device_id: str | None,  # noqa: ARG002
    ) -> OnchainStatus | None:
        """As the Protocol."""
        _check_off_chain(app)
        return None

    async def check_transaction(
        self,
        app: GatedApp,
        compose_hash: str,  # noqa: ARG002 - the Protocol's arguments
        transaction_hash: str,  # noqa: ARG002
    ) -> None:
        """Nothing to prove off chain."""
        _check_off_chain(app)


def _check_off_chain(app: GatedApp) -> None:
    if app.chain_id is not None:
        raise unavailable(
            "cloud.no-chain",
            f"No way to chain {app.chain_id}, where the app's contract is",
            remedy="start the control plane with an endpoint of this chain",
        )
