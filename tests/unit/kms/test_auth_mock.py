"""Authorisation by a policy of one word (onchain.md 5.3, `teehouse.kms.auth_mock`)."""

import pytest

from support.auth_support import BOOT_INFO, DEVICE, MR, OTHER
from teehouse.base.findings import MisuseError
from teehouse.kms.auth import AuthInfo, Decision
from teehouse.kms.auth_mock import POLICIES, MockAuth
from teehouse.kms.auth_wire import ZERO_ADDRESS

ALLOWED = Decision(is_allowed=True, gateway_app_id="any")


def refused(policy: str, subject: str) -> Decision:
    return Decision(is_allowed=False, reason=f"mock policy {policy} refuses this {subject}")


@pytest.mark.parametrize(
    ("policy", "listed", "app", "kms"),
    [
        ("allow-all", frozenset(), True, True),
        ("deny-kms", frozenset(), True, False),
        ("deny-app", frozenset(), False, True),
        ("deny-all", frozenset(), False, False),
        ("allowlist-device", frozenset({DEVICE}), True, True),
        ("allowlist-device", frozenset({OTHER, MR}), False, False),
        ("allowlist-device", frozenset(), False, False),
        ("allowlist-mr", frozenset({MR}), True, True),
        ("allowlist-mr", frozenset({OTHER, DEVICE}), False, False),
        ("allowlist-mr", frozenset(), False, False),
    ],
)
async def test_each_policy(policy: str, listed: frozenset[bytes], app: bool, kms: bool) -> None:
    api = MockAuth(policy, emulated=True, devices=listed, aggregated=listed)
    assert await api.boot_app(BOOT_INFO) == (ALLOWED if app else refused(policy, "app"))
    assert await api.boot_kms(BOOT_INFO) == (ALLOWED if kms else refused(policy, "kms"))


@pytest.mark.parametrize("policy", POLICIES)
async def test_only_allow_all_is_development(policy: str) -> None:
    info = await MockAuth(policy, emulated=True, gateway_app_id="g").info()
    assert info == AuthInfo(ZERO_ADDRESS, "g", 0, ZERO_ADDRESS, ZERO_ADDRESS, is_dev=policy == "allow-all")


@pytest.mark.parametrize("policy", [*POLICIES, "nonsense"])
def test_rule_1_there_is_none_outside_emulation(policy: str) -> None:
    with pytest.raises(MisuseError) as caught:
        MockAuth(policy, emulated=False)
    assert caught.value.finding.code == "auth-mock.not-emulated"


def test_an_unknown_policy_is_misuse() -> None:
    with pytest.raises(MisuseError) as caught:
        MockAuth("allow", emulated=True)
    assert caught.value.finding.code == "auth-mock.policy"
    assert caught.value.finding.found == "'allow'"
