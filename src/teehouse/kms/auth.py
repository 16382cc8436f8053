"""What the KMS asks before it hands out keys, and of whom (onchain.md 5, trust.md 13.6).

Rules for whoever implements `AuthApi`:

1. A refusal is a `Decision` with `is_allowed` False and its reason; it is never an exception.
2. An API that cannot be reached, answers other than 2xx, or answers something else than a decision raises
   `CollateralError`: the KMS takes that for a refusal (it fails closed).
3. No answer is kept: every question is asked anew, so that a revocation holds at the next request.
"""

from dataclasses import dataclass
from typing import Protocol

from teehouse.kms.boot_info import BootInfo


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one question (onchain.md 5.2). `reason` says why not; it may be empty when allowed."""

    is_allowed: bool
    reason: str = ""
    gateway_app_id: str = ""


@dataclass(frozen=True, slots=True)
class AuthInfo:
    """What an authorisation API says about itself (onchain.md 5.1).

    Addresses are hex with 0x; `chain_id` is 0 and `app_implementation` the zero address where there is no
    chain. `eth_rpc_url` and `app_auth_implementation` may be left out. `is_dev` is never on the wire: it
    is set by a back-end inside the KMS that allows everything, for development.
    """

    kms_contract_address: str
    gateway_app_id: str
    chain_id: int
    app_implementation: str
    app_auth_implementation: str | None = None
    eth_rpc_url: str | None = None
    status: str = "ok"
    is_dev: bool = False


class AuthApi(Protocol):
    """Decides who may have keys. Each method raises `CollateralError` by rule 2."""

    async def info(self) -> AuthInfo:
        """About the authorisation API itself (`GET /`)."""
        ...

    async def boot_app(self, boot_info: BootInfo) -> Decision:
        """Whether an app may have its keys (`POST /bootAuth/app`)."""
        ...

    async def boot_kms(self, boot_info: BootInfo) -> Decision:
        """Whether a KMS may run, or have the root keys (`POST /bootAuth/kms`)."""
        ...
