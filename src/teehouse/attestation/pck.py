"""PCK certificates: the PEM chain that carries them, and the SGX extension inside (trust.md 2.10).

Rules:

1. PEM is at most `PEM_LIMIT` bytes, 1 to `PEM_CERTIFICATES` certificates, with white space between and
   NUL bytes after them (quotes close their chain with one), and nothing else.
2. The extension is DER: definite lengths in their shortest form, one-byte tags, nothing left over.
3. It is a sequence of (identifier, value); PPID, TCB, PCE-ID, FMSPC and SGX type must be there, platform
   instance id and configuration may be absent. No identifier comes twice; unknown ones are passed over.
4. Octet strings have their stated sizes; component SVNs are 0 to 255, the PCE SVN 0 to 65535.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509

from teehouse.attestation.chain import load_certificate
from teehouse.base.codec import Reader
from teehouse.base.findings import EvidenceError, malformed

PEM_LIMIT = 256 * 1024
PEM_CERTIFICATES = 16
EXTENSION_LIMIT = 4096  # bytes; Intel's have about 560
SGX_EXTENSION_OID = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
COMPONENTS = 16

_OID_PREFIX = bytes.fromhex("2a864886f84d010d01")  # the identifier above, as DER content
_PEM_BLOCK = re.compile(
    rb"-----BEGIN CERTIFICATE-----[ \t]*\r?\n([A-Za-z0-9+/=\s]*?)-----END CERTIFICATE-----"
)
_NAME = "pck-extension"

_BOOLEAN = 0x01
_INTEGER = 0x02
_OCTET_STRING = 0x04
_OBJECT_IDENTIFIER = 0x06
_ENUMERATED = 0x0A
_SEQUENCE = 0x30


@dataclass(frozen=True, slots=True)
class PckExtension:
    """What Intel says of a platform in its PCK certificate.

    `ppid`, `cpu_svn` and `platform_instance_id` have 16 bytes, `pce_id` 2, `fmspc` 6; `tcb_components`
    are the 16 component SVNs; `sgx_type` is 0 standard, 1 scalable, 2 scalable with integrity. The
    last four are None where the certificate says nothing of them.
    """

    ppid: bytes
    cpu_svn: bytes
    tcb_components: tuple[int, ...]
    pce_svn: int
    pce_id: bytes
    fmspc: bytes
    sgx_type: int
    platform_instance_id: bytes | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None


def split_pem_chain(data: bytes) -> list[bytes]:
    """The DER of each certificate, in order (rule 1). Raises `EvidenceError` (malformed)."""
    if len(data) > PEM_LIMIT:
        raise malformed(
            "pem.too-long",
            "a certificate chain is too long",
            expected=f"at most {PEM_LIMIT} bytes",
            found=str(len(data)),
        )
    text = data.rstrip(b"\0")
    chain: list[bytes] = []
    position = 0
    for block in _PEM_BLOCK.finditer(text):
        if text[position : block.start()].strip():
            break
        try:
            chain.append(base64.b64decode(b"".join(block[1].split()), validate=True))
        except ValueError:
            raise malformed("pem.malformed", "a certificate of the chain is no base64") from None
        position = block.end()
    if text[position:].strip():
        raise malformed("pem.malformed", "the chain has something that is no PEM certificate")
    if not 1 <= len(chain) <= PEM_CERTIFICATES:
        raise malformed(
            "pem.certificates",
            "the certificate chain",
            expected=f"1 to {PEM_CERTIFICATES} certificates",
            found=str(len(chain)),
        )
    return chain


@lru_cache(maxsize=256)
def parse_pck_extension(certificate_der: bytes) -> PckExtension:
    """The SGX extension of a certificate. Raises `EvidenceError` (malformed).

    Reading takes longer than a signature's verification, and a platform shows the same certificate with each quote:
    what was read last is kept.
    """
    certificate = load_certificate(certificate_der)
    try:
        extension = certificate.extensions.get_extension_for_oid(SGX_EXTENSION_OID)
    except x509.ExtensionNotFound:
        raise malformed("pck-extension.missing", "the PCK certificate has no SGX extension") from None
    return decode_pck_extension(extension.value.public_bytes())


def decode_pck_extension(value: bytes) -> PckExtension:
    """The extension's value, by rules 2 to 4. Raises `EvidenceError` (malformed)."""
    reader = Reader(value, _NAME, limit=EXTENSION_LIMIT)
    members = _members(_expect(reader, _SEQUENCE, "the extension"), _OID_PREFIX)
    reader.finish()
    tcb_prefix = _OID_PREFIX + b"\x02"
    tcb = _members(_typed(members, 2, _SEQUENCE, "TCB"), tcb_prefix)
    configuration: Mapping[int, tuple[int, bytes]] = {}
    if 7 in members:
        configuration = _members(_typed(members, 7, _SEQUENCE, "configuration"), _OID_PREFIX + b"\x07")
    return PckExtension(
        ppid=_octets(members, 1, 16, "PPID"),
        cpu_svn=_octets(tcb, 18, 16, "CPU SVN"),
        tcb_components=tuple(
            _integer(tcb, number, _INTEGER, 0xFF, f"component SVN {number}")
            for number in range(1, COMPONENTS + 1)
        ),
        pce_svn=_integer(tcb, 17, _INTEGER, 0xFFFF, "PCE SVN"),
        pce_id=_octets(members, 3, 2, "PCE-ID"),
        fmspc=_octets(members, 4, 6, "FMSPC"),
        sgx_type=_integer(members, 5, _ENUMERATED, 0xFF, "SGX type"),
        platform_instance_id=_octets(members, 6, 16, "platform instance id") if 6 in members else None,
        dynamic_platform=_boolean(configuration, 1, "dynamic platform"),
        cached_keys=_boolean(configuration, 2, "cached keys"),
        smt_enabled=_boolean(configuration, 3, "SMT"),
    )


def _fault(subject: str, *, expected: str = "", found: str = "") -> EvidenceError:
    return malformed(
        "pck-extension.malformed", f"{subject} of the SGX extension", expected=expected, found=found
    )


def _tlv(reader: Reader) -> tuple[int, bytes]:
    """Tag and content of the next element (rule 2)."""
    tag = reader.u8("a tag")
    if tag & 0x1F == 0x1F:
        raise _fault("a tag", expected="one byte", found=f"{tag:#04x}")
    size = reader.u8("a length")
    if size >= 0x80:
        octets = reader.take(size & 0x7F, "a length", limit=4)
        size = int.from_bytes(octets, "big")
        if size < 0x80 or octets[0] == 0:
            raise _fault("a length", expected="its shortest form")
    return tag, reader.take(size, "a value")


def _expect(reader: Reader, tag: int, what: str) -> bytes:
    found, content = _tlv(reader)
    if found != tag:
        raise _fault(what, expected=f"tag {tag:#04x}", found=f"{found:#04x}")
    return content


def _members(content: bytes, prefix: bytes) -> dict[int, tuple[int, bytes]]:
    """A sequence of (identifier, value), by the last arc of the identifiers directly below `prefix` (rule 3)."""
    reader = Reader(content, _NAME)
    members: dict[int, tuple[int, bytes]] = {}
    while reader.left:
        pair = Reader(_expect(reader, _SEQUENCE, "a member"), _NAME)
        identifier = _expect(pair, _OBJECT_IDENTIFIER, "an identifier")
        value = _tlv(pair)
        pair.finish()
        if len(identifier) != len(prefix) + 1 or not identifier.startswith(prefix):
            continue
        if identifier[-1] in members:
            raise _fault(f"member {identifier[-1]}", expected="once", found="twice")
        members[identifier[-1]] = value
    return members


def _typed(members: Mapping[int, tuple[int, bytes]], number: int, tag: int, what: str) -> bytes:
    if number not in members:
        raise _fault(what, expected="a value", found="none")
    found, content = members[number]
    if found != tag:
        raise _fault(what, expected=f"tag {tag:#04x}", found=f"{found:#04x}")
    return content


def _octets(members: Mapping[int, tuple[int, bytes]], number: int, size: int, what: str) -> bytes:
    content = _typed(members, number, _OCTET_STRING, what)
    if len(content) != size:
        raise _fault(what, expected=f"{size} bytes", found=str(len(content)))
    return content


def _integer(members: Mapping[int, tuple[int, bytes]], number: int, tag: int, limit: int, what: str) -> int:
    content = _typed(members, number, tag, what)
    value = int.from_bytes(content, "big", signed=True)
    shortest = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True) if value >= 0 else b""
    if content != shortest or value > limit:
        raise _fault(what, expected=f"an integer from 0 to {limit}", found=content[:8].hex() or "nothing")
    return value


def _boolean(members: Mapping[int, tuple[int, bytes]], number: int, what: str) -> bool | None:
    if number not in members:
        return None
    content = _typed(members, number, _BOOLEAN, what)
    if content not in (b"\x00", b"\xff"):
        raise _fault(what, expected="00 or ff", found=content[:8].hex() or "nothing")
    return content == b"\xff"
