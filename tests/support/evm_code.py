"""Contracts written in EVM instructions: what a hostile or foreign contract does, in a few bytes each.

Each function gives creation code, for `support.evm.Chain.deploy`.
"""

STOP, RETURN, REVERT, INVALID = "00", "f3", "fd", "fe"


def _push(number: int) -> str:
    return f"62{number:06x}"


def creates(runtime: bytes) -> bytes:
    """Creation code of a contract with this code."""
    # PUSH3 length, DUP1, PUSH1 11, PUSH0, CODECOPY, PUSH0, RETURN
    return bytes.fromhex(f"{_push(len(runtime))}80600b5f395ff3") + runtime


def _ends(data: bytes, how: str) -> bytes:
    # PUSH3 length, DUP1, PUSH1 12, PUSH0, CODECOPY, PUSH0, how
    return creates(bytes.fromhex(f"{_push(len(data))}80600b5f395f{how}") + data)


def returns(data: bytes) -> bytes:
    """It answers every call with these bytes."""
    return _ends(data, RETURN)


def reverts(data: bytes) -> bytes:
    """It fails every call with these bytes."""
    return _ends(data, REVERT)


def returns_zeros(size: int) -> bytes:
    """It answers with so many zero bytes, and pays for them."""
    return creates(bytes.fromhex(f"{_push(size)}5f{RETURN}"))


def reverts_zeros(size: int) -> bytes:
    """It fails with so many zero bytes, and pays for them."""
    return creates(bytes.fromhex(f"{_push(size)}5f{REVERT}"))


def burns() -> bytes:
    """It runs until its gas is gone."""
    return creates(bytes.fromhex("5b5f56"))  # JUMPDEST, PUSH0, JUMP


def burns_at_once() -> bytes:
    """It ends by an invalid instruction, which takes all gas it was given."""
    return creates(bytes.fromhex(INVALID))


def writes() -> bytes:
    """It writes to its storage at every call."""
    return creates(bytes.fromhex("60015f55" + STOP))


def echoes() -> bytes:
    """It answers with its caller, as a word, and the data it was called with."""
    return creates(bytes.fromhex("335f52365f602037366020015ff3"))


def calls_back(data: bytes) -> bytes:
    """It calls its caller with `data`, and fails with what that gives when it fails."""
    call = (
        f"{_push(len(data))}601f5f39"  # code after this to memory 0
        f"5f5f{_push(len(data))}5f5f335af1"  # CALL(gas, caller, 0, 0, length, 0, 0)
        "601d57"  # success: to the JUMPDEST
        "3d5f5f3e3d5ffd"  # else revert with what came back
    )
    code = bytes.fromhex(call)
    assert len(code) == 0x1D
    return creates(code + bytes.fromhex("5b" + STOP) + data)


def delegate_reads(target: str) -> bytes:
    """It runs the code at `target` on its own storage, and answers or fails as that does."""
    code = f"365f5f375f5f365f73{target[2:]}5af43d5f5f3e6029573d5ffd5b3d5ff3"
    return creates(bytes.fromhex(code))
