"""Quotes as bytes: SGX (v3, v4, v5 type 1) and TDX (v4, v5 types 2 and 3). Layouts: trust.md 2.

This module reads layouts and judges nothing beyond them: whether a quote is genuine is `verify`'s.

Rules:

1. A quote is at most `QUOTE_LIMIT` bytes, its QE authentication data at most `QE_AUTH_DATA_LIMIT`.
   No declared length passes the end of what contains it, and none leaves bytes over inside it.
2. Version 3, 4 or 5, attestation key type 2 (ECDSA P-256), TEE type SGX or TDX, and of version 5 the
   body types 1, 2 and 3; all else is unsupported, with its number named.
3. A header that contradicts itself is rejected: version 3 is SGX, body type 1 is SGX, types 2 and 3
   are TDX. So is a body size that is not the one of its type.
4. Versions 4 and 5 carry outer certification data of type 6; inside it, and directly in version 3,
   certification data of type 5 (a PEM chain). Other types are unsupported, with the type named.
5. Bytes after the quote are kept as `Quote.trailing` (Intel's buffers are zero padded); they are no part of it.
6. Every other byte is kept too: `encode_quote(parse_quote(raw)) == raw`.

All integers are little-endian. The vendor id is kept, not compared: no layout depends on it.
"""

from dataclasses import dataclass

from teehouse.base.codec import Reader
from teehouse.base.findings import misuse, rejected, unsupported

QUOTE_LIMIT = 64 * 1024
QE_AUTH_DATA_LIMIT = 1024  # every known QE writes 32

ECDSA_P256 = 2  # attestation key type
ECDSA_QE_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
TEE_TYPE_SGX = 0x00
TEE_TYPE_TDX = 0x81

CERTIFICATION_PCK_CHAIN = 5
CERTIFICATION_QE_REPORT = 6

BODY_SGX = 1
BODY_TD_10 = 2
BODY_TD_15 = 3

# Sizes in bytes.
HEADER_SIZE = 48
DESCRIPTOR_SIZE = 6  # version 5 only: body type u16, body size u32
ENCLAVE_REPORT_SIZE = 384
TD_REPORT_10_SIZE = 584
TD_REPORT_15_SIZE = 648
SIGNATURE_SIZE = 64  # r || s, big-endian halves
PUBLIC_KEY_SIZE = 64  # x || y
REPORT_DATA_SIZE = 64
MEASUREMENT_SIZE = 48

# Absolute offsets in a version 4 quote of a TD (trust.md 2.2, 2.3).
TEE_TCB_SVN_OFFSET = 48
MR_SEAM_OFFSET = 64
MR_SIGNER_SEAM_OFFSET = 112
SEAM_ATTRIBUTES_OFFSET = 160
TD_ATTRIBUTES_OFFSET = 168
XFAM_OFFSET = 176
MR_TD_OFFSET = 184
MR_CONFIG_ID_OFFSET = 232
MR_OWNER_OFFSET = 280
MR_OWNER_CONFIG_OFFSET = 328
RT_MR0_OFFSET = 376
RT_MR1_OFFSET = 424
RT_MR2_OFFSET = 472
RT_MR3_OFFSET = 520
REPORT_DATA_OFFSET = 568
AUTH_DATA_SIZE_OFFSET = 632
SIGNATURE_OFFSET = 636
ATTESTATION_KEY_OFFSET = 700
QE_REPORT_OFFSET = 770
QE_REPORT_SIGNATURE_OFFSET = 1154
QE_AUTH_DATA_SIZE_OFFSET = 1218

_TD_10_FIELDS = (
    ("tee_tcb_svn", 16),
    ("mr_seam", 48),
    ("mr_signer_seam", 48),
    ("seam_attributes", 8),
    ("td_attributes", 8),
    ("xfam", 8),
    ("mr_td", 48),
    ("mr_config_id", 48),
    ("mr_owner", 48),
    ("mr_owner_config", 48),
    ("rt_mr0", 48),
    ("rt_mr1", 48),
    ("rt_mr2", 48),
    ("rt_mr3", 48),
    ("report_data", 64),
)
_TD_15_FIELDS = (("tee_tcb_svn2", 16), ("mr_service_td", 48))
_ENCLAVE_GAPS = (28, 32, 96, 60)  # reserved, between the fields of an enclave report
_BODIES = {
    BODY_SGX: (TEE_TYPE_SGX, ENCLAVE_REPORT_SIZE),
    BODY_TD_10: (TEE_TYPE_TDX, TD_REPORT_10_SIZE),
    BODY_TD_15: (TEE_TYPE_TDX, TD_REPORT_15_SIZE),
}


def _sized(what: str, value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise misuse("quote.field-size", what, expected=f"{size} bytes", found=str(len(value)))
    return value


def _unsigned(what: str, value: int, size: int) -> bytes:
    if not 0 <= value < 1 << 8 * size:
        raise misuse("quote.field-size", what, expected=f"{size} bytes", found=f"{value.bit_length()} bits")
    return value.to_bytes(size, "little")


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """The first 48 bytes (trust.md 2.1). `qe_vendor_id` has 16 bytes, `user_data` 20."""

    version: int
    attestation_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes

    def encode(self) -> bytes:
        """48 bytes. Raises `MisuseError` for a field that does not fit."""
        return b"".join(
            (
                _unsigned("version", self.version, 2),
                _unsigned("attestation_key_type", self.attestation_key_type, 2),
                _unsigned("tee_type", self.tee_type, 4),
                _unsigned("qe_svn", self.qe_svn, 2),
                _unsigned("pce_svn", self.pce_svn, 2),
                _sized("qe_vendor_id", self.qe_vendor_id, 16),
                _sized("user_data", self.user_data, 20),
            )
        )


@dataclass(frozen=True, slots=True)
class TdReport:
    """A TD report body (trust.md 2.2, 2.4): TD 1.0, or TD 1.5 when the last two fields are there.

    Measurements and owner fields have 48 bytes, `tee_tcb_svn` and `tee_tcb_svn2` 16, the three
    attribute fields 8, `report_data` 64.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rt_mr0: bytes
    rt_mr1: bytes
    rt_mr2: bytes
    rt_mr3: bytes
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes | None = None

    @property
    def rtmrs(self) -> tuple[bytes, bytes, bytes, bytes]:
        return (self.rt_mr0, self.rt_mr1, self.rt_mr2, self.rt_mr3)

    def encode(self) -> bytes:
        """584 bytes (TD 1.0) or 648 (TD 1.5). Raises `MisuseError` for a field of another size."""
        values = [_sized(name, getattr(self, name), size) for name, size in _TD_10_FIELDS]
        if (self.tee_tcb_svn2 is None) != (self.mr_service_td is None):
            raise misuse("quote.field-size", "one of the two TD 1.5 fields is missing")
        if self.tee_tcb_svn2 is not None:
            values += [_sized(name, getattr(self, name), size) for name, size in _TD_15_FIELDS]
        return b"".join(values)


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """An SGX enclave report body (trust.md 2.6), also the shape of the QE report.

    `cpu_svn` and `attributes` have 16 bytes, `mr_enclave` and `mr_signer` 32, `report_data` 64.
    `reserved` holds the four gaps between the fields (28, 32, 96 and 60 bytes): they are signed.
    """

    cpu_svn: bytes
    misc_select: int
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes
    reserved: tuple[bytes, bytes, bytes, bytes] = (bytes(28), bytes(32), bytes(96), bytes(60))

    def encode(self) -> bytes:
        """384 bytes. Raises `MisuseError` for a field that does not fit."""
        gap = [
            _sized("reserved", part, size) for part, size in zip(self.reserved, _ENCLAVE_GAPS, strict=True)
        ]
        return b"".join(
            (
                _sized("cpu_svn", self.cpu_svn, 16),
                _unsigned("misc_select", self.misc_select, 4),
                gap[0],
                _sized("attributes", self.attributes, 16),
                _sized("mr_enclave", self.mr_enclave, 32),
                gap[1],
                _sized("mr_signer", self.mr_signer, 32),
                gap[2],
                _unsigned("isv_prod_id", self.isv_prod_id, 2),
                _unsigned("isv_svn", self.isv_svn, 2),
                gap[3],
                _sized("report_data", self.report_data, 64),
            )
        )


@dataclass(frozen=True, slots=True)
class Quote:
    """A whole quote. Signatures are r || s, the attestation key x || y, 64 bytes each.

    `body_type` is that of a version 5 descriptor, else None. `certification_type` is the inner one
    (5), `certification_data` the PEM chain as it stands there, with its closing NUL if it has one.
    """

    header: QuoteHeader
    body: TdReport | EnclaveReport
    body_type: int | None
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification_type: int
    certification_data: bytes
    trailing: bytes = b""

    @property
    def signed(self) -> bytes:
        """What the quote signature covers: header, descriptor (version 5), body."""
        body = self.body.encode()
        descriptor = b""
        if self.body_type is not None:
            descriptor = _unsigned("body_type", self.body_type, 2) + _unsigned("body size", len(body), 4)
        return self.header.encode() + descriptor + body

    @property
    def qe_report_raw(self) -> bytes:
        """The 384 bytes that the PCK key signed."""
        return self.qe_report.encode()


def parse_header(raw: bytes) -> QuoteHeader:
    """The first 48 bytes of `raw`, whatever they say. Raises `EvidenceError` (malformed) when there are fewer."""
    return _read_header(Reader(raw, "quote"))


def parse_td_report(raw: bytes) -> TdReport:
    """A TD report body of exactly 584 or 648 bytes. Raises `EvidenceError` (malformed)."""
    fields: tuple[tuple[str, int], ...] = _TD_10_FIELDS
    if len(raw) == TD_REPORT_15_SIZE:
        fields += _TD_15_FIELDS
    reader = Reader(raw, "td-report")
    values = [reader.take(size, name) for name, size in fields]
    reader.finish()
    return TdReport(*values)


def parse_enclave_report(raw: bytes) -> EnclaveReport:
    """An enclave report of exactly 384 bytes. Raises `EvidenceError` (malformed)."""
    reader = Reader(raw, "enclave-report")
    cpu_svn = reader.take(16, "cpu_svn")
    misc_select = reader.u32("misc_select")
    gap0 = reader.take(28)
    attributes = reader.take(16, "attributes")
    mr_enclave = reader.take(32, "mr_enclave")
    gap1 = reader.take(32)
    mr_signer = reader.take(32, "mr_signer")
    gap2 = reader.take(96)
    isv_prod_id = reader.u16("isv_prod_id")
    isv_svn = reader.u16("isv_svn")
    gap3 = reader.take(60)
    report_data = reader.take(64, "report_data")
    reader.finish()
    return EnclaveReport(
        cpu_svn=cpu_svn,
        misc_select=misc_select,
        attributes=attributes,
        mr_enclave=mr_enclave,
        mr_signer=mr_signer,
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        report_data=report_data,
        reserved=(gap0, gap1, gap2, gap3),
    )


def parse_quote(raw: bytes) -> Quote:
    """Read a quote by the rules above.

    Raises `EvidenceError`: malformed (rule 1), unsupported (rules 2 and 4) or rejected (rule 3).
    """
    reader = Reader(raw, "quote", limit=QUOTE_LIMIT)
    header = _read_header(reader)
    _check_header(header)
    body_type: int | None = None
    if header.version == 5:
        body_type = reader.u16("the body type")
        size = _descriptor_size(header, body_type, reader.u32("the body size"))
    else:
        size = TD_REPORT_10_SIZE if header.tee_type == TEE_TYPE_TDX else ENCLAVE_REPORT_SIZE
    raw_body = reader.take(size, "the body")
    tdx = header.tee_type == TEE_TYPE_TDX
    body = parse_td_report(raw_body) if tdx else parse_enclave_report(raw_body)

    auth = Reader(reader.take(reader.u32("the auth data length"), "the auth data"), "quote")
    signature = auth.take(SIGNATURE_SIZE, "the quote signature")
    attestation_key = auth.take(PUBLIC_KEY_SIZE, "the attestation key")
    if header.version == 3:
        inner = auth
    else:
        inner = Reader(_certification(auth, CERTIFICATION_QE_REPORT), "quote")
        auth.finish()
    qe_report = parse_enclave_report(inner.take(ENCLAVE_REPORT_SIZE, "the QE report"))
    qe_report_signature = inner.take(SIGNATURE_SIZE, "the QE report signature")
    qe_auth_data = inner.take(
        inner.u16("the QE auth data length"), "the QE auth data", limit=QE_AUTH_DATA_LIMIT
    )
    certification_data = _certification(inner, CERTIFICATION_PCK_CHAIN)
    inner.finish()
    return Quote(
        header=header,
        body=body,
        body_type=body_type,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=qe_report,
        qe_report_signature=qe_report_signature,
        qe_auth_data=qe_auth_data,
        certification_type=CERTIFICATION_PCK_CHAIN,
        certification_data=certification_data,
        trailing=reader.rest(),
    )


def encode_quote(quote: Quote) -> bytes:
    """The bytes of a quote, trailing ones included. Raises `MisuseError` for a field that does not fit."""
    inner = b"".join(
        (
            quote.qe_report_raw,
            _sized("qe_report_signature", quote.qe_report_signature, SIGNATURE_SIZE),
            _unsigned("qe_auth_data size", len(quote.qe_auth_data), 2),
            quote.qe_auth_data,
            _unsigned("certification_type", quote.certification_type, 2),
            _unsigned("certification_data size", len(quote.certification_data), 4),
            quote.certification_data,
        )
    )
    if quote.header.version != 3:
        inner = CERTIFICATION_QE_REPORT.to_bytes(2, "little") + len(inner).to_bytes(4, "little") + inner
    auth = (
        _sized("signature", quote.signature, SIGNATURE_SIZE)
        + _sized("attestation_key", quote.attestation_key, PUBLIC_KEY_SIZE)
        + inner
    )
    return quote.signed + len(auth).to_bytes(4, "little") + auth + quote.trailing


def _read_header(reader: Reader) -> QuoteHeader:
    return QuoteHeader(
        version=reader.u16("the version"),
        attestation_key_type=reader.u16("the attestation key type"),
        tee_type=reader.u32("the TEE type"),
        qe_svn=reader.u16("the QE SVN"),
        pce_svn=reader.u16("the PCE SVN"),
        qe_vendor_id=reader.take(16, "the QE vendor id"),
        user_data=reader.take(20, "the user data"),
    )


def _check_header(header: QuoteHeader) -> None:
    # Rule 2.
    if header.version not in (3, 4, 5):
        raise unsupported("quote.version", "quote version", expected="3, 4 or 5", found=str(header.version))
    if header.attestation_key_type != ECDSA_P256:
        raise unsupported(
            "quote.attestation-key-type",
            "attestation key type",
            expected="2 (ECDSA P-256)",
            found=str(header.attestation_key_type),
        )
    if header.tee_type not in (TEE_TYPE_SGX, TEE_TYPE_TDX):
        raise unsupported(
            "quote.tee-type", "TEE type", expected="0x0 (SGX) or 0x81 (TDX)", found=hex(header.tee_type)
        )
    # Rule 3.
    if header.version == 3 and header.tee_type != TEE_TYPE_SGX:
        raise rejected(
            "quote.header-contradiction",
            "TEE type of a version 3 quote",
            expected="0x0 (SGX)",
            found=hex(header.tee_type),
        )


def _descriptor_size(header: QuoteHeader, body_type: int, size: int) -> int:
    if body_type not in _BODIES:
        raise unsupported(
            "quote.body-type", "body type of a version 5 quote", expected="1, 2 or 3", found=str(body_type)
        )
    tee_type, expected = _BODIES[body_type]
    if header.tee_type != tee_type:
        raise rejected(
            "quote.header-contradiction",
            f"TEE type of a quote with body type {body_type}",
            expected=hex(tee_type),
            found=hex(header.tee_type),
        )
    if size != expected:
        raise rejected(
            "quote.body-size",
            f"size of a body of type {body_type}",
            expected=f"{expected} bytes",
            found=str(size),
        )
    return expected


def _certification(reader: Reader, expected: int) -> bytes:
    """Type, size and content of certification data (rule 4)."""
    found = reader.u16("the certification data type")
    if found != expected:
        raise unsupported(
            "quote.certification-type", "certification data type", expected=str(expected), found=str(found)
        )
    return reader.take(reader.u32("the certification data size"), "the certification data")
