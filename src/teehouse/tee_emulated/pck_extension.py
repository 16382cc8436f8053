"""The SGX extension of a PCK certificate, as DER (trust.md 2.10).

Only what an emulated platform needs is written here; reading it is `teehouse.attestation.pck`'s
part.
"""

from teehouse.tee_emulated.constants import CPU_SVN, FMSPC, PCE_ID, PCE_SVN, SGX_TYPE

# DER content of 1.2.840.113741.1.13.1; the members' identifiers only add one or two arcs to it.
_BASE_OID = bytes.fromhex("2a864886f84d010d01")

_BOOLEAN, _INTEGER, _OCTET_STRING, _OID, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _member(value: bytes, *arcs: int) -> bytes:
    """SEQUENCE { identifier, value }; every arc is below 128, hence one byte."""
    return _tlv(_SEQUENCE, _tlv(_OID, _BASE_OID + bytes(arcs)) + value)


def _integer(value: int, tag: int = _INTEGER) -> bytes:
    """A small number that is not negative, with the leading zero that keeps it so."""
    return _tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def pck_extension(ppid: bytes, platform_instance_id: bytes) -> bytes:
    """The extension's value for one host: `ppid` and `platform_instance_id` are 16 bytes each.

    All else is the same for every emulated host (trust.md 6.2). The configuration says that the
    platform is not dynamic, caches no keys and runs without SMT, because the strict policy refuses
    the three (trust.md 5).
    """
    components = [_member(_integer(svn), 2, number) for number, svn in enumerate(CPU_SVN, start=1)]
    tcb = [*components, _member(_integer(PCE_SVN), 2, 17), _member(_tlv(_OCTET_STRING, CPU_SVN), 2, 18)]
    configuration = [_member(_tlv(_BOOLEAN, b"\x00"), 7, number) for number in (1, 2, 3)]
    members = (
        _member(_tlv(_OCTET_STRING, ppid), 1),
        _member(_tlv(_SEQUENCE, b"".join(tcb)), 2),
        _member(_tlv(_OCTET_STRING, PCE_ID), 3),
        _member(_tlv(_OCTET_STRING, FMSPC), 4),
        _member(_integer(SGX_TYPE, _ENUMERATED), 5),
        _member(_tlv(_OCTET_STRING, platform_instance_id), 6),
        _member(_tlv(_SEQUENCE, b"".join(configuration)), 7),
    )
    return _tlv(_SEQUENCE, b"".join(members))
