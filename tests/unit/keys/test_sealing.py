"""Files sealed under a key (`keys.sealing`)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teehouse.base.findings import MisuseError
from teehouse.keys import sealing

SEALING = bytes(range(32))


@given(st.binary(max_size=300), st.text(max_size=20))
def test_sealed_files_open_under_their_name(content: bytes, name: str) -> None:
    sealed = sealing.seal(SEALING, name, content, bytes(12))
    assert sealing.is_sealed(sealed)
    assert sealing.unseal(SEALING, name, sealed) == content


@given(st.binary(max_size=200))
def test_3_other_bytes_only_do_not_open(data: bytes) -> None:
    for tried in (data, sealing.MARK + data, sealing.MARK + b"\x01" + data):
        with pytest.raises(MisuseError):
            sealing.unseal(SEALING, "a.key", tried)


def test_1_another_name_key_version_or_bit_does_not_open() -> None:
    sealed = sealing.seal(SEALING, "a.key", b"content", bytes(12))
    at = len(sealing.MARK)
    for wrong_key, name, data in (
        (bytes(32), "a.key", sealed),
        (SEALING, "b.key", sealed),
        (SEALING, "a.key", sealed[:at] + b"\x02" + sealed[at + 1 :]),
        (SEALING, "a.key", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (SEALING, "a.key", sealed[:-1]),
    ):
        with pytest.raises(MisuseError) as caught:
            sealing.unseal(wrong_key, name, data)
        text = str(caught.value)
        assert "cannot be unsealed" in text
        assert b"content".hex() not in text
        assert SEALING.hex() not in text


def test_a_sealing_key_has_32_bytes() -> None:
    for wrong in (b"", bytes(16), bytes(33)):
        with pytest.raises(MisuseError, match="expected 32 bytes"):
            sealing.seal(wrong, "a", b"", bytes(12))
