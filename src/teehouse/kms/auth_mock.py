"""Authorisation by a policy of one word, for development and tests (onchain.md 5.3).

Rules:

1. It exists in emulation alone: it cannot be made anywhere else.
2. `allow-all` allows; `deny-kms` and `deny-app` refuse the one and allow the other; `deny-all` refuses both.
3. `allowlist-device` allows the devices it was given, `allowlist-mr` the aggregated measurements; either
   refuses everything when it was given none.
"""

from collections.abc import Callable
from typing import Final, Literal, get_args

from teehouse.base.findings import misuse
from teehouse.kms.auth import AuthInfo, Decision
from teehouse.kms.auth_wire import ZERO_ADDRESS
from teehouse.kms.boot_info import BootInfo

MockPolicy = Literal["allow-all", "deny-kms", "deny-app", "deny-all", "allowlist-device", "allowlist-mr"]
POLICIES: Final[tuple[str, ...]] = get_args(MockPolicy)
GATEWAY_APP_ID: Final = "any"


def decide(
    policy: MockPolicy,
    subject: Literal["app", "kms"],
    boot_info: BootInfo,
    *,
    devices: frozenset[bytes] = frozenset(),
    aggregated: frozenset[bytes] = frozenset(),
) -> str:
    """Why not, by rules 2 and 3; empty where it is allowed. Devices and measurements have 32 bytes."""
    refusals: dict[MockPolicy, Callable[[], bool]] = {
        "allow-all": lambda: False,
        "deny-kms": lambda: subject == "kms",
        "deny-app": lambda: subject == "app",
        "deny-all": lambda: True,
        "allowlist-device": lambda: boot_info.device_id not in devices,
        "allowlist-mr": lambda: boot_info.mr_aggregated not in aggregated,
    }
    return f"mock policy {policy} refuses this {subject}" if refusals[policy]() else ""


class MockAuth:
    """The authorisation API of one policy, an `AuthApi`.

    `emulated` says whether the platform is. Raises `MisuseError` where it is not (rule 1), and for a policy
    that does not exist.
    """

    def __init__(
        self,
        policy: str = "allow-all",
        *,
        emulated: bool,
        devices: frozenset[bytes] = frozenset(),
        aggregated: frozenset[bytes] = frozenset(),
        gateway_app_id: str = GATEWAY_APP_ID,
    ) -> None:
        if not emulated:
            raise misuse(
                "auth-mock.not-emulated",
                "the mock authorization may decide in emulation only",
                remedy="authorize by a file; or run emulated, where no secret is worth anything",
            )
        if policy not in POLICIES:
            raise misuse(
                "auth-mock.policy",
                "no mock policy has this name",
                expected=", ".join(POLICIES),
                found=ascii(policy[:64]),
            )
        self._policy: MockPolicy = policy  # type: ignore[assignment]  # the names were compared above
        self._devices = devices
        self._aggregated = aggregated
        self._gateway_app_id = gateway_app_id

    async def info(self) -> AuthInfo:
        """No chain, no contract; development where everything is allowed."""
        return AuthInfo(
            kms_contract_address=ZERO_ADDRESS,
            gateway_app_id=self._gateway_app_id,
            chain_id=0,
            app_implementation=ZERO_ADDRESS,
            app_auth_implementation=ZERO_ADDRESS,
            is_dev=self._policy == "allow-all",
        )

    async def boot_app(self, boot_info: BootInfo) -> Decision:
        """Whether the policy lets an app have its keys."""
        return self._decide("app", boot_info)

    async def boot_kms(self, boot_info: BootInfo) -> Decision:
        """Whether the policy lets a KMS run."""
        return self._decide("kms", boot_info)

    def _decide(self, subject: Literal["app", "kms"], boot_info: BootInfo) -> Decision:
        reason = decide(self._policy, subject, boot_info, devices=self._devices, aggregated=self._aggregated)
        if reason:
            return Decision(is_allowed=False, reason=reason)
        return Decision(is_allowed=True, gateway_app_id=self._gateway_app_id)
