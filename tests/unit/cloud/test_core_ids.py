"""Identifiers (cloud-api.md 8): rules I1 to I5 of `teehouse.cloud.ids`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teehouse.cloud import ids
from teehouse.cloud.ids import CvmKey, CvmLookup, Kind

HEX = "3f1c9a5e7b2d4c6f8091a2b3c4d5e6f708192a3b"
numbers = st.integers(min_value=0, max_value=ids.CAPACITY - 1)
kinds = st.sampled_from(list(Kind))


@given(kinds, numbers)
def test_i1_an_opaque_id_stands_for_one_number(kind: Kind, number: int) -> None:
    text = ids.encode(kind, number)
    prefix, _, digits = text.partition("_")
    assert (prefix, len(digits), set(digits) <= set(ids.ALPHABET)) == (kind.value, 8, True)
    assert ids.decode(kind, text) == number


@given(kinds, st.text(alphabet=ids.ALPHABET, min_size=8, max_size=8))
def test_i1_every_id_of_this_form_is_some_number(kind: Kind, digits: str) -> None:
    number = ids.decode(kind, f"{kind}_{digits}")
    assert number is not None
    assert ids.encode(kind, number) == f"{kind}_{digits}"


@given(kinds, st.text(max_size=20))
def test_i1_other_text_is_no_id(kind: Kind, text: str) -> None:
    number = ids.decode(kind, text)
    assert number is None or ids.encode(kind, number) == text


def test_i1_ids_never_change() -> None:
    # Kept in links, files and other people's databases: these are our own, written down once.
    assert [ids.encode(kind, number) for kind, number in ((Kind.CVM, 1), (Kind.CVM, 2), (Kind.APP, 1))] == [
        "cvm_piwu0QxW",
        "cvm_oxZws4df",
        "app_kQQ5qoBu",
    ]


@pytest.mark.parametrize("number", [-1, ids.CAPACITY])
def test_i1_no_record_has_this_number(number: int) -> None:
    with pytest.raises(ValueError, match="no record"):
        ids.encode(Kind.CVM, number)


def test_i2_one_number_has_another_id_for_each_kind() -> None:
    assert len({ids.encode(kind, 7).partition("_")[2] for kind in Kind}) == len(Kind)
    assert ids.decode(Kind.APP, ids.encode(Kind.CVM, 7)) is None


@pytest.mark.parametrize(
    ("text", "lookups"),
    [
        ("1a09d706-2686-4e0a-8b1d-323ff0e3504b", [(CvmKey.UUID, "1a09d70626864e0a8b1d323ff0e3504b")]),
        ("1A09D70626864E0A8B1D323FF0E3504B", [(CvmKey.UUID, "1a09d70626864e0a8b1d323ff0e3504b")]),
        (f"app_{HEX}", [(CvmKey.APP, HEX), (CvmKey.INSTANCE, HEX)]),
        (f"app_{HEX.upper()}", [(CvmKey.APP, HEX), (CvmKey.INSTANCE, HEX)]),
        (f"instance_{HEX}", [(CvmKey.INSTANCE, HEX)]),
        (HEX, [(CvmKey.APP, HEX), (CvmKey.INSTANCE, HEX)]),
        (ids.encode(Kind.CVM, 4711), [(CvmKey.NUMBER, 4711)]),
        ("4711", [(CvmKey.NUMBER, 4711)]),
        ("9223372036854775807", [(CvmKey.NUMBER, 2**63 - 1)]),
        ("9223372036854775808", []),
        ("9" * 64, []),
        ("my-app", [(CvmKey.NAME, "my-app")]),
        ("cvm_short", [(CvmKey.NAME, "cvm_short")]),
        ("old_name_1", [(CvmKey.NAME, "old_name_1")]),
        ("x" * 63, [(CvmKey.NAME, "x" * 63)]),
        ("x" * 64, []),
        ("", []),
        ("a b", []),
        ("my-app\n", []),
        ("\N{ARABIC-INDIC DIGIT ONE}", []),
        ("a\x00b", []),
    ],
)
def test_i3_what_a_path_may_call_a_cvm(text: str, lookups: list[tuple[CvmKey, str | int]]) -> None:
    assert ids.cvm_lookups(text) == tuple(CvmLookup(by, value) for by, value in lookups)


@given(st.text(max_size=100))
def test_i3_any_text_is_looked_up_by_harmless_values(text: str) -> None:
    for lookup in ids.cvm_lookups(text):
        if isinstance(lookup.value, int):
            assert 0 <= lookup.value < 2**63
        else:
            assert lookup.value.isascii()
            assert lookup.value.isprintable()


@pytest.mark.parametrize("text", [HEX, f"0x{HEX}", f"app_{HEX}", f"0x{HEX.upper()}", f"app_0x{HEX}"])
def test_i4_an_app_in_any_spelling(text: str) -> None:
    assert ids.parse_app_id(text) == HEX


@pytest.mark.parametrize("text", ["", HEX[:-1], HEX + "0", "g" * 40, f"0x0x{HEX}", f"cvm_{HEX}", HEX + "\n"])
def test_i4_what_is_no_app_id(text: str) -> None:
    assert ids.parse_app_id(text) is None


@pytest.mark.parametrize(
    ("text", "size", "found"),
    [("0xAB", 1, "ab"), ("ab", 1, "ab"), ("ab", 2, None), ("zz", 1, None), ("", 0, ""), ("0x", 0, "")],
)
def test_hex_with_or_without_prefix(text: str, size: int, found: str | None) -> None:
    assert ids.parse_hex(text, size) == found


@pytest.mark.parametrize("name", ["abcde", "my-app", "A1-b2-C3", "a" * 63, "a1234"])
def test_i5_names_a_cvm_may_have(name: str) -> None:
    assert ids.is_cvm_name(name)


@pytest.mark.parametrize(
    "name", ["", "abcd", "a" * 64, "1abcd", "-abcd", "abcd-", "ab--cd", "ab_cd", "ab cd", "äbcde", "abcde\n"]
)
def test_i5_names_a_cvm_may_not_have(name: str) -> None:
    assert not ids.is_cvm_name(name)
