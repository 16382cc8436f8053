"""Checks V1, V2, V7, V8 and V10 to V13 of `verify`: the quote itself, up to its signature."""

from datetime import datetime

from cryptography import x509

from teehouse.attestation.abi import (
    ECDSA_QE_VENDOR_ID,
    TEE_TYPE_SGX,
    TEE_TYPE_TDX,
    EnclaveReport,
    Quote,
    parse_quote,
)
from teehouse.attestation.chain import (
    PathFault,
    can_sign_certificates,
    load_certificate,
    name_of,
    out_of_date,
    path_to_root,
    signed_by,
    verify_raw_signature,
)
from teehouse.attestation.ladder import Ladder
from teehouse.attestation.pck import split_pem_chain
from teehouse.attestation.roots import EMULATED_PREFIX, INTEL, TrustedRoot, describe_root, intel_root_der
from teehouse.attestation.tcb import describe, enclave_level, enclave_shortfall
from teehouse.attestation.tcbinfo import REVOKED, EnclaveLevel, QeIdentity
from teehouse.base.findings import Outcome, TeehouseError
from teehouse.base.hashes import sha256

Path = tuple[x509.Certificate, ...]

QE_AUTH_DATA_SIZE = 32  # bytes; dcap-qvl refuses any other (trust.md 2.8)
SGX_DEBUG = 0x02  # first byte of an enclave's attributes
_QE_IDENTITIES = {TEE_TYPE_TDX: ("TD_QE", (2, 3)), TEE_TYPE_SGX: ("QE", (2,))}


def open_quote(ladder: Ladder, raw: bytes) -> Quote | None:
    """V1."""
    try:
        quote = parse_quote(raw)
    except TeehouseError as error:
        ladder.error("V1", error)
        return None
    kind = "TDX" if quote.header.tee_type == TEE_TYPE_TDX else "SGX"
    ladder.passed(
        "V1", "quote.readable", "the quote is readable", found=f"{kind}, version {quote.header.version}"
    )
    return quote


def check_header(ladder: Ladder, quote: Quote) -> bool:
    """V2: what the layout leaves open and verification does not."""
    header = quote.header
    before = ladder.failures
    if header.qe_vendor_id != ECDSA_QE_VENDOR_ID:
        ladder.refused(
            "V2",
            "quote.vendor",
            "the quoting enclave's vendor",
            outcome=Outcome.UNSUPPORTED,
            expected=ECDSA_QE_VENDOR_ID.hex(),
            found=header.qe_vendor_id.hex(),
        )
    if header.tee_type == TEE_TYPE_SGX and header.version != 3:
        ladder.refused(
            "V2",
            "quote.version",
            "the version of an SGX quote",
            outcome=Outcome.UNSUPPORTED,
            expected="3",
            found=str(header.version),
        )
    if len(quote.qe_auth_data) != QE_AUTH_DATA_SIZE:
        ladder.refused(
            "V2",
            "quote.qe-auth-data",
            "the QE authentication data",
            outcome=Outcome.UNSUPPORTED,
            expected=f"{QE_AUTH_DATA_SIZE} bytes",
            found=str(len(quote.qe_auth_data)),
        )
    if ladder.failures != before:
        return False
    ladder.passed("V2", "quote.supported", "the quote is of a kind that is judged here")
    return True


def find_path(ladder: Ladder, quote: Quote, chain_pem: str | None, root: TrustedRoot) -> Path | None:
    """V7: the PCK certificate's chain ends in the named root.

    `chain_pem` is the collateral's chain, which takes the place of the quote's where it is given.
    """
    try:
        data = quote.certification_data if chain_pem is None else chain_pem.encode()
        chain = tuple(split_pem_chain(data))
        path = path_to_root(chain, root.certificate_der)
    except TeehouseError as error:
        ladder.error("V7", error)
        return None
    if isinstance(path, PathFault):
        _refuse_path(ladder, path, chain_end(chain), root)
        return None
    if len(path) < 3:
        ladder.refused(
            "V7",
            "pck.chain.short",
            "the PCK certificate's chain",
            expected="PCK certificate, PCK CA, root",
            found=f"{len(path)} certificates",
        )
        return None
    ladder.passed("V7", "pck.chain", "the PCK certificate's chain ends in the named root", found=root.name)
    return path


def _refuse_path(ladder: Ladder, fault: PathFault, end: str, root: TrustedRoot) -> None:
    """V7, refused: the chain ends in another root, or is broken on its way to the named one."""
    subject = "the PCK certificate's chain"
    if end.startswith(root.name):
        ladder.refused("V7", "pck.chain.broken", subject, expected=fault.expected, found=fault.found)
        return
    asked = INTEL if end.startswith(INTEL) else f"{EMULATED_PREFIX}FILE with that root's certificate"
    ladder.refused(
        "V7",
        "pck.chain.root",
        subject,
        expected=f"ends in {root.name}",
        found=f"ends in {end}",
        remedy=f"only if that is the platform you mean, ask for its root by name: --root {asked}",
    )


def chain_end(chain: tuple[bytes, ...]) -> str:
    """Which root a chain really ends in, as far as it shows it: leaf first, at least one, all of them readable."""
    top = load_certificate(chain[-1])
    if signed_by(top, top) and can_sign_certificates(top):
        return describe_root(chain[-1])
    if signed_by(top, load_certificate(intel_root_der())):
        return describe_root(intel_root_der())
    return f"an unknown root ({name_of(top.issuer)})"


def check_path_dates(ladder: Ladder, path: Path, now: datetime) -> None:
    """V8."""
    stale = out_of_date(path, now)
    ladder.judge(
        "V8",
        stale is None,
        "pck.chain.in-date" if stale is None else "pck.chain.expired",
        "the validity of the PCK certificate's chain",
        expected=f"valid at {now.isoformat()}",
        found=""
        if stale is None
        else f"{name_of(stale.subject)}: {stale.not_valid_before_utc.isoformat()} to {stale.not_valid_after_utc.isoformat()}",
        remedy="check the clock, or get a new quote from the platform",
    )


def check_qe_signature(ladder: Ladder, quote: Quote, pck: x509.Certificate) -> None:
    """V10."""
    ladder.judge(
        "V10",
        verify_raw_signature(pck, quote.qe_report_signature, quote.qe_report_raw),
        "qe-report.signature",
        "the QE report's signature by the PCK key",
        expected="a signature over exactly this report",
        found="a signature of something else, or of another key",
    )


def check_key_binding(ladder: Ladder, quote: Quote) -> None:
    """V11: QE.report_data[0:32] == SHA-256(attestation key || QE auth data) (trust.md 2.8)."""
    bound = sha256(quote.attestation_key + quote.qe_auth_data)
    ladder.judge(
        "V11",
        quote.qe_report.report_data[:32] == bound,
        "qe-report.key-binding",
        "the QE report vouches for the attestation key",
        expected=bound.hex(),
        found=quote.qe_report.report_data[:32].hex(),
    )


def check_quote_signature(ladder: Ladder, quote: Quote) -> None:
    """V13."""
    ladder.judge(
        "V13",
        verify_raw_signature(quote.attestation_key, quote.signature, quote.signed),
        "quote.signature",
        "the quote's signature by the attestation key",
        expected="a signature over exactly this header and report",
        found="a signature of something else, or of another key",
    )


def check_qe_policy(ladder: Ladder, quote: Quote, identity: QeIdentity) -> EnclaveLevel | None:
    """V12: the quoting enclave is the one Intel describes (trust.md 4.8); gives its TCB level."""
    report = quote.qe_report
    before = ladder.failures
    name, versions = _QE_IDENTITIES[quote.header.tee_type]
    mask = identity.misc_select_mask
    for code, subject, expected, found in (
        ("identity", "the QE identity's kind", name, identity.id),
        ("mr-signer", "the QE's signer", identity.mr_signer.hex(), report.mr_signer.hex()),
        ("product", "the QE's product id", str(identity.isv_prod_id), str(report.isv_prod_id)),
        (
            "misc-select",
            f"the QE's MISCSELECT under mask {mask:08x}",
            f"{identity.misc_select & mask:08x}",
            f"{report.misc_select & mask:08x}",
        ),
        (
            "attributes",
            "the QE's attributes under their mask",
            _masked(identity.attributes, identity.attributes_mask),
            _masked(report.attributes, identity.attributes_mask),
        ),
        ("debug", "the QE's debug attribute", "0", str(int(is_debug(report)))),
    ):
        if expected != found:
            ladder.refused("V12", f"qe.{code}", subject, expected=expected, found=found)
    if identity.version not in versions:
        ladder.refused(
            "V12",
            "qe.identity-version",
            "the QE identity's version",
            outcome=Outcome.UNSUPPORTED,
            expected=" or ".join(map(str, versions)),
            found=str(identity.version),
        )
    level = enclave_level(identity.levels, report.isv_svn)
    expected, found, remedy = describe(
        enclave_shortfall(
            "QE", identity.levels, report.isv_svn, "the quoting enclave (Intel's DCAP packages)"
        )
    )
    if level is None:
        ladder.refused(
            "V12",
            "qe.tcb.no-level",
            "the QE's TCB level",
            expected=expected or "a level at or below its SVN",
            found=found or str(report.isv_svn),
            remedy=remedy,
        )
    elif level.status == REVOKED:
        ladder.refused(
            "V12", "qe.tcb.revoked", "the QE's TCB level", expected=expected, found=REVOKED, remedy=remedy
        )
    if ladder.failures != before:
        return None
    if level is not None:
        ladder.passed(
            "V12",
            "qe.identity",
            "the quoting enclave is the one that the QE identity describes",
            found=f"TCB {level.status}",
        )
    return level


def is_debug(report: EnclaveReport) -> bool:
    """True for an enclave whose memory a debugger may read."""
    return bool(report.attributes[0] & SGX_DEBUG)


def _masked(value: bytes, mask: bytes) -> str:
    return bytes(v & m for v, m in zip(value, mask, strict=True)).hex()
