"""Authorisation by a file: the numbered rules of `teehouse.kms.auth_file` (onchain.md 5.3)."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.auth_support import APP_ID, BOOT_INFO, COMPOSE, DEVICE, IMAGE, MR, OTHER, boot_info, rules_file
from teehouse.base.findings import CollateralError, EvidenceError
from teehouse.kms.auth import AuthInfo, Decision
from teehouse.kms.auth_file import (
    DEFAULT_TCB_STATUSES,
    FILE_LIMIT,
    AuthRules,
    FileAuth,
    decide_app,
    decide_kms,
    parse_auth_rules,
)
from teehouse.kms.auth_wire import ZERO_ADDRESS

ALLOWED = Decision(is_allowed=True, gateway_app_id="gateway")
RULES = parse_auth_rules(rules_file())


def refused(reason: str) -> Decision:
    return Decision(is_allowed=False, reason=reason)


def app(**entry: Any) -> dict[str, Any]:
    return {APP_ID.hex(): {"composeHashes": [COMPOSE.hex()], **entry}}


def test_what_the_file_names_is_allowed() -> None:
    assert decide_app(RULES, BOOT_INFO) == ALLOWED
    assert decide_kms(RULES, BOOT_INFO) == ALLOWED


@pytest.mark.parametrize("decide", [decide_app, decide_kms])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        # Each row breaks its rule and every later one: the order is part of what is told.
        (
            {"tcb_status": "OutOfDate", "advisory_ids": ("INTEL-SA-1",), "os_image_hash": OTHER},
            "TCB status is not allowed",
        ),
        ({"advisory_ids": ("INTEL-SA-1",), "os_image_hash": OTHER}, "advisory ID is not allowed"),
        ({"os_image_hash": OTHER, "app_id": bytes(20), "mr_aggregated": OTHER}, "OS image is not allowed"),
        ({"tcb_status": ""}, "TCB status is not allowed"),
    ],
)
def test_rules_1_to_3_hold_for_everyone(decide: Any, changes: dict[str, Any], reason: str) -> None:
    assert decide(RULES, boot_info(**changes)) == refused(reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mr_aggregated": OTHER, "device_id": OTHER}, "aggregated MR not allowed"),
        ({"device_id": OTHER}, "KMS is not allowed to boot on this device"),
    ],
)
def test_rule_4_a_kms(changes: dict[str, Any], reason: str) -> None:
    assert decide_kms(RULES, boot_info(**changes)) == refused(reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"app_id": bytes(20), "compose_hash": OTHER, "device_id": OTHER}, "app not registered"),
        ({"compose_hash": OTHER, "device_id": OTHER}, "compose hash not allowed"),
        ({"device_id": OTHER}, "app is not allowed to boot on this device"),
    ],
)
def test_rule_5_an_app(changes: dict[str, Any], reason: str) -> None:
    assert decide_app(RULES, boot_info(**changes)) == refused(reason)


def test_every_advisory_has_to_be_listed() -> None:
    rules = parse_auth_rules(rules_file(allowedAdvisoryIds=["A", "B"]))
    assert decide_app(rules, boot_info(advisory_ids=("B", "A"))) == ALLOWED
    assert decide_app(rules, boot_info(advisory_ids=("A", "C"))) == refused("advisory ID is not allowed")


@pytest.mark.parametrize(
    ("devices", "answer"),
    [
        ({}, ALLOWED),
        ({"devices": []}, ALLOWED),
        ({"devices": [OTHER.hex()]}, refused("app is not allowed to boot on this device")),
        ({"devices": [OTHER.hex()], "allowAnyDevice": True}, ALLOWED),
        ({"devices": [OTHER.hex(), DEVICE.hex()]}, ALLOWED),
    ],
)
def test_rule_6_devices(devices: dict[str, Any], answer: Decision) -> None:
    assert decide_app(parse_auth_rules(rules_file(apps=app(**devices))), BOOT_INFO) == answer


def test_rule_6_other_empty_lists_allow_nothing() -> None:
    no_kms = parse_auth_rules(rules_file(kms={}))
    no_hashes = parse_auth_rules(rules_file(apps=app(composeHashes=[])))
    no_status = parse_auth_rules(rules_file(allowedTcbStatuses=[]))
    assert decide_kms(no_kms, BOOT_INFO) == refused("aggregated MR not allowed")
    assert decide_app(no_hashes, BOOT_INFO) == refused("compose hash not allowed")
    assert decide_app(no_status, BOOT_INFO) == refused("TCB status is not allowed")


def test_an_empty_file_has_its_defaults_and_allows_nothing() -> None:
    info = AuthInfo(ZERO_ADDRESS, "", 0, ZERO_ADDRESS, ZERO_ADDRESS)
    rules = parse_auth_rules("{}")
    assert rules == AuthRules(info=info, tcb_statuses=DEFAULT_TCB_STATUSES)
    assert decide_app(rules, BOOT_INFO) == refused("OS image is not allowed")


def test_short_hex_is_filled_up_on_the_left() -> None:
    rules = parse_auth_rules(rules_file(osImages=["0x1"], apps={"7": {"composeHashes": ["0xab"]}}))
    short = boot_info(
        os_image_hash=(1).to_bytes(32, "big"),
        app_id=(7).to_bytes(20, "big"),
        compose_hash=(0xAB).to_bytes(32, "big"),
    )
    assert decide_app(rules, short) == ALLOWED


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "auth-file.not-json"),
        ("[]", "auth-file.not-object"),
        ('{"a":1,"a":2}', "auth-file.duplicate-member"),
        (rules_file(osImages="0x00"), "auth-file.member"),
        (rules_file(osImages=[1]), "auth-file.member"),
        (rules_file(osImages=["0xgg"]), "auth-file.hex"),
        (rules_file(osImages=["00" * 33]), "auth-file.hex"),
        (rules_file(kms=[]), "auth-file.member"),
        (rules_file(kms={"allowAnyDevice": "true"}), "auth-file.member"),
        (rules_file(apps={"00" * 21: {}}), "auth-file.hex"),
        (rules_file(apps={"00": 1}), "auth-file.member"),
        (rules_file(apps={"0x01": {}, "01": {}}), "auth-file.app-twice"),
        (rules_file(chainId="1"), "auth-file.member"),
        (rules_file(chainId=2**64), "auth-file.member"),
        (rules_file(gatewayAppId=None), "auth-file.member"),
        (" " * (FILE_LIMIT + 1), "auth-file.too-long"),
    ],
)
def test_a_file_of_another_form_is_refused(text: str, code: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        parse_auth_rules(text)
    assert caught.value.finding.code == code


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(["osImages", "apps", "kms", "devices", "0x01", "chainId"]), x, max_size=4
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_rules_or_refused(data: bytes) -> None:
    try:
        rules = parse_auth_rules(data)
    except EvidenceError:
        return
    assert isinstance(rules, AuthRules)


async def test_rule_7_the_file_is_read_for_each_question(tmp_path: Path) -> None:
    path = tmp_path / "auth-config.json"
    api = FileAuth(path)
    missing = refused(
        "authorization file cannot be used: the file cannot be read: found No such file or directory"
    )
    assert (await api.boot_app(BOOT_INFO), await api.boot_kms(BOOT_INFO)) == (missing, missing)
    path.write_text(rules_file())
    assert (await api.boot_app(BOOT_INFO), await api.boot_kms(BOOT_INFO)) == (ALLOWED, ALLOWED)
    assert await api.info() == AuthInfo("0x" + "11" * 20, "gateway", 0, "0x" + "22" * 20, "0x" + "22" * 20)
    path.write_text(rules_file(apps={}, kms={"mrAggregated": [MR.hex()]}, osImages=[IMAGE.hex()]))
    assert (await api.boot_app(BOOT_INFO), await api.boot_kms(BOOT_INFO)) == (
        refused("app not registered"),
        ALLOWED,
    )
    path.write_text("{")
    broken = refused("authorization file cannot be used: auth-file is no JSON in UTF-8")
    assert (await api.boot_app(BOOT_INFO), await api.boot_kms(BOOT_INFO)) == (broken, broken)


async def test_a_file_that_cannot_be_used_tells_nothing_about_itself(tmp_path: Path) -> None:
    with pytest.raises(CollateralError) as caught:
        await FileAuth(tmp_path).info()
    assert str(caught.value) == (
        "the authorization file cannot be used: found the file cannot be read: found Is a directory "
        "(mend the file; it is read again for each question)"
    )


async def test_a_file_over_its_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "auth-config.json"
    path.write_text(rules_file() + " " * FILE_LIMIT)
    assert not (await FileAuth(path).boot_app(BOOT_INFO)).is_allowed
