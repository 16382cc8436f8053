"""Calldata and answers (onchain.md 2 to 4, 7)."""

import pytest
from eth_abi import decode, encode
from hypothesis import given
from hypothesis import strategies as st

from teehouse.base.findings import EvidenceError, MisuseError
from teehouse.chain import calls

GOLDEN = {  # onchain.md 3.1, 4.1, 7
    calls.IS_APP_ALLOWED: "1e079198",
    calls.IS_KMS_ALLOWED: "e067ec9d",
    calls.ALLOWED_COMPOSE_HASHES: "2f6622e5",
    calls.ALLOWED_DEVICE_IDS: "bf8b211b",
    calls.ALLOW_ANY_DEVICE: "3440a16a",
    calls.REQUIRE_TCB_UP_TO_DATE: "0aa58c83",
    calls.ADD_COMPOSE_HASH: "dfc77223",
    calls.REMOVE_COMPOSE_HASH: "67b3f22c",
    calls.ADD_DEVICE: "2a819728",
    calls.REMOVE_DEVICE: "1d266200",
    calls.SET_ALLOW_ANY_DEVICE: "7c4beeb8",
    calls.SET_REQUIRE_TCB_UP_TO_DATE: "6e4c7422",
    calls.DISABLE_UPGRADES: "ec669036",
    calls.OWNER: "8da5cb5b",
    calls.PENDING_OWNER: "e30c3978",
    calls.TRANSFER_OWNERSHIP: "f2fde38b",
    calls.ACCEPT_OWNERSHIP: "79ba5097",
    calls.VERSION: "54fd4d50",
    calls.SUPPORTS_INTERFACE: "01ffc9a7",
    calls.KMS_INITIALIZE: "485cc955",
    calls.DEPLOY_AND_REGISTER_APP: "9cb9c31f",
    calls.GATEWAY_APP_ID: "95f51931",
    calls.SET_GATEWAY_APP_ID: "3971db27",
    calls.APP_IMPLEMENTATION: "25a992da",
    calls.SET_APP_IMPLEMENTATION: "3ceaaa11",
    calls.REGISTERED_APPS: "a6c4cce9",
    calls.ALLOWED_OS_IMAGES: "9a4e1d18",
    calls.ADD_OS_IMAGE_HASH: "06a3ae96",
    calls.REMOVE_OS_IMAGE_HASH: "9425bac6",
    calls.KMS_ALLOWED_AGGREGATED_MRS: "f6fe4f40",
    calls.ADD_KMS_AGGREGATED_MR: "3e32d346",
    calls.KMS_ALLOWED_DEVICE_IDS: "13eb9770",
    calls.ADD_KMS_DEVICE: "4d5922a1",
    calls.SET_KMS_INFO: "7d025352",
    calls.READ_KMS_INFO: "09177063",
    calls.AGGREGATE3: "82ad56cb",
}
BOOT = calls.BootInfo(
    b"\1" * 20, b"\2" * 32, b"\3" * 20, b"\4" * 32, b"\5" * 32, b"\6" * 32, b"\7" * 32, "UpToDate", ()
)
printable = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=200)


def test_each_selector_is_the_one_written_down() -> None:
    assert {function.name: function.selector.hex() for function in GOLDEN} == {
        function.name: expected for function, expected in GOLDEN.items()
    }


def test_the_question_about_an_app_has_420_bytes() -> None:
    data = calls.IS_APP_ALLOWED(BOOT.values())
    assert len(data) == 420  # onchain.md 2
    ((back,),) = (decode((calls.BOOT_INFO,), data[4:]),)
    assert back == (
        "0x" + "01" * 20,
        b"\2" * 32,
        "0x" + "03" * 20,
        b"\4" * 32,
        b"\5" * 32,
        b"\6" * 32,
        b"\7" * 32,
        "UpToDate",
        (),
    )


def test_values_of_another_size_are_misuse() -> None:  # rule 1
    for build in (
        lambda: calls.ADD_DEVICE(b"\1" * 31),
        lambda: calls.REGISTERED_APPS(b"\1" * 32),
        lambda: calls.SUPPORTS_INTERFACE(b"\1" * 3),
        lambda: calls.BootInfo(b"", *[b"\2" * 32] * 6).values(),
        lambda: calls.SET_GATEWAY_APP_ID("\ud800"),
        lambda: calls.SET_ALLOW_ANY_DEVICE("yes"),
    ):
        with pytest.raises(MisuseError):
            build()


@given(st.booleans(), printable)
def test_a_verdict_comes_back_as_it_was_said(allowed: bool, reason: str) -> None:
    assert calls.decode_verdict(encode(("bool", "string"), (allowed, reason))) == (allowed, reason)
    assert calls.decode_text(encode(("string",), (reason,))) == reason


@given(st.lists(st.binary(max_size=300), min_size=4, max_size=4))
def test_kms_info_comes_back_as_it_was_said(parts: list[bytes]) -> None:
    assert calls.decode_kms_info(encode(("bytes",) * 4, parts)) == calls.KmsInfo(*parts)


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=100)), max_size=20))
def test_answers_of_aggregate3_come_back(answers: list[tuple[bool, bytes]]) -> None:
    data = encode(("(bool,bytes)[]",), (answers,))
    assert calls.decode_aggregate3(data, len(answers)) == tuple(answers)


@given(st.lists(st.tuples(st.binary(min_size=20, max_size=20), st.binary(max_size=100)), max_size=20))
def test_calls_of_aggregate3_are_written_as_the_abi_has_it(asked: list[tuple[bytes, bytes]]) -> None:
    expected = encode(("(address,bool,bytes)[]",), ([(to, True, data) for to, data in asked],))
    assert calls.encode_aggregate3(asked) == calls.AGGREGATE3.selector + expected


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:  # rule 2
    for decode_one in (
        calls.decode_bool,
        calls.decode_address,
        calls.decode_uint,
        calls.decode_text,
        calls.decode_verdict,
        calls.decode_kms_info,
        lambda some: calls.decode_aggregate3(some, 3),
    ):
        try:
            decode_one(data)
        except EvidenceError:
            continue
    calls.decode_revert(data)  # never raises


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (calls.decode_bool, (2).to_bytes(32)),
        (calls.decode_bool, bytes(31)),
        (calls.decode_bool, bytes(64)),
        (calls.decode_bool, b""),
        (calls.decode_address, b"\1" * 32),
        (calls.decode_text, (2**256 - 1).to_bytes(32) * 2),
        (calls.decode_text, encode(("string",), ("x" * (calls.TEXT_LIMIT + 1),))),
        (calls.decode_text, encode(("bytes",), (b"\xff",))),
        (calls.decode_kms_info, encode(("bytes",), (b"",))),
    ],
)
def test_nonsense_is_refused(read: object, data: bytes) -> None:
    with pytest.raises(EvidenceError):
        read(data)  # type: ignore[operator] - one of the decoders


def test_text_at_its_limit_is_read() -> None:
    assert calls.decode_text(encode(("string",), ("x" * calls.TEXT_LIMIT,))) == "x" * calls.TEXT_LIMIT


def test_text_that_cannot_be_printed_is_replaced() -> None:  # rule 3
    assert calls.decode_verdict(encode(("bool", "string"), (False, "no\n\x1b[31m"))) == (False, "no��[31m")
    assert calls.shown("x" * 1000) == "x" * calls.REASON_LIMIT


def test_why_a_contract_reverted() -> None:
    def error(signature: str, types: tuple[str, ...] = (), values: tuple[object, ...] = ()) -> str:
        return calls.decode_revert(calls.selector(signature) + encode(types, values))

    assert error("Error(string)", ("string",), ("Invalid app ID",)) == "Invalid app ID"
    assert error("Panic(uint256)", ("uint256",), (17,)) == "panic 0x11"
    owner = f"0x{'0b' * 20}"
    assert error("OwnableUnauthorizedAccount(address)", ("address",), (owner,)) == (
        f"OwnableUnauthorizedAccount({owner})"
    )
    assert error("UUPSUnsupportedProxiableUUID(bytes32)", ("bytes32",), (b"\7" * 32,)) == (
        f"UUPSUnsupportedProxiableUUID(0x{'07' * 32})"
    )
    assert error("InvalidInitialization()") == "InvalidInitialization"
    assert calls.decode_revert(b"") == "reverted without a reason"
    assert calls.decode_revert(b"\1\2\3\4\5") == "reverted with 0x0102030405"
    assert calls.decode_revert(calls.selector("Error(string)")) == "reverted with 0x08c379a0"
