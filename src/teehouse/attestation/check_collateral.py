"""Checks V3 to V6 and V9 of `verify`: is the collateral there, readable, current, and signed under the root?

What is wrong with collateral alone says nothing against the evidence: missing, unreadable and outdated
collateral ends as collateral-missing, so that a caller fetches it anew. Collateral that somebody else than
the root's owner signed is rejected.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from teehouse.attestation.bundle import Collateral
from teehouse.attestation.chain import (
    PathFault,
    crl_signed_by,
    load_crl,
    name_of,
    out_of_date,
    path_to_root,
    revoked,
    verify_raw_signature,
)
from teehouse.attestation.ladder import Ladder
from teehouse.attestation.pck import split_pem_chain
from teehouse.attestation.tcbinfo import QeIdentity, TcbInfo, parse_qe_identity, parse_tcb_info
from teehouse.base.findings import Outcome, TeehouseError

REFRESH = (
    "fetch the collateral anew, from a PCCS or Intel's PCS (--pccs), or give a current file (--collateral)"
)

Path = tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class ReadCollateral:
    """Collateral, decoded. The chains are DER, signer first."""

    tcb_info: TcbInfo
    qe_identity: QeIdentity
    root_crl: x509.CertificateRevocationList
    pck_crl: x509.CertificateRevocationList
    tcb_chain: tuple[bytes, ...]
    qe_chain: tuple[bytes, ...]


@lru_cache(maxsize=32)
def read_collateral(collateral: Collateral) -> ReadCollateral:
    """Decode collateral. Raises `EvidenceError` (malformed)."""
    return ReadCollateral(
        tcb_info=parse_tcb_info(collateral.tcb_info),
        qe_identity=parse_qe_identity(collateral.qe_identity),
        root_crl=load_crl(collateral.root_ca_crl),
        pck_crl=load_crl(collateral.pck_crl),
        tcb_chain=tuple(split_pem_chain(collateral.tcb_info_issuer_chain.encode())),
        qe_chain=tuple(split_pem_chain(collateral.qe_identity_issuer_chain.encode())),
    )


def open_collateral(
    ladder: Ladder, collateral: Collateral | None, missing: TeehouseError | None = None
) -> ReadCollateral | None:
    """V3 and V4; `missing` says why there is none, where somebody tried to get it."""
    if collateral is None and missing is not None:
        ladder.error("V3", missing)
        ladder.cannot("V4", "V5", "V6")
        return None
    if collateral is None:
        ladder.refused(
            "V3",
            "collateral.missing",
            "the collateral of the quote's platform",
            outcome=Outcome.COLLATERAL_MISSING,
            expected="TCB info, QE identity and revocation lists",
            found="none",
            remedy="give it as a file (--collateral FILE) or name a service that has it (--pccs URL)",
        )
        ladder.cannot("V4", "V5", "V6")
        return None
    ladder.passed("V3", "collateral.present", "the collateral is there")
    try:
        read = read_collateral(collateral)
    except TeehouseError as error:
        ladder.error("V4", error, outcome=Outcome.COLLATERAL_MISSING)
        ladder.cannot("V5", "V6")
        return None
    ladder.passed("V4", "collateral.readable", "the collateral is readable")
    return read


def check_dates(ladder: Ladder, read: ReadCollateral, now: datetime) -> bool:
    """V5: each of the four documents is in date at `now`."""
    documents: tuple[tuple[str, str, datetime, datetime | None], ...] = (
        ("tcb-info", "TCB info", read.tcb_info.issue_date, read.tcb_info.next_update),
        ("qe-identity", "QE identity", read.qe_identity.issue_date, read.qe_identity.next_update),
        ("root-crl", "the root's CRL", read.root_crl.last_update_utc, read.root_crl.next_update_utc),
        ("pck-crl", "the PCK CA's CRL", read.pck_crl.last_update_utc, read.pck_crl.next_update_utc),
    )
    current = True
    ends: list[datetime] = []
    for code, subject, begin, end in documents:
        if end is None:  # load_crl has refused such a list; the type cannot know
            continue
        ends.append(end)
        if begin <= now <= end:
            continue
        current = False
        ladder.refused(
            "V5",
            f"collateral.{code}.expired" if now > end else f"collateral.{code}.not-yet-valid",
            subject,
            outcome=Outcome.COLLATERAL_MISSING,
            expected=f"valid at {now.isoformat()}",
            found=f"{begin.isoformat()} to {end.isoformat()}",
            remedy=REFRESH if now > end else "check the clock",
        )
    if current:
        ladder.passed(
            "V5", "collateral.in-date", "the collateral is in date", found=f"until {min(ends).isoformat()}"
        )
    return current


def der_of(certificate: x509.Certificate) -> bytes:
    """The certificate's DER."""
    return certificate.public_bytes(Encoding.DER)


@lru_cache(maxsize=128)
def _document_signed(signer: bytes, signature: bytes, text: str) -> bool:
    """Kept per document: most quotes come with collateral that was just checked."""
    return verify_raw_signature(x509.load_der_x509_certificate(signer), signature, text.encode())


@lru_cache(maxsize=128)
def _crl_signed(crl: bytes, root: bytes) -> bool:
    return crl_signed_by(load_crl(crl), x509.load_der_x509_certificate(root))


def check_signatures(
    ladder: Ladder,
    collateral: Collateral,
    read: ReadCollateral,
    *,
    root_der: bytes,
    pck_ca_der: bytes | None,
    now: datetime,
) -> tuple[Path, ...]:
    """V6: every document is signed by whom the root lets. Gives the paths of the two signers that hold.

    `pck_ca_der` is the CA of the PCK certificate, None when V7 failed: its CRL is then not judged.
    """
    before = ladder.failures
    if not _crl_signed(collateral.root_ca_crl, root_der):
        ladder.refused(
            "V6",
            "collateral.root-crl.signature",
            "the root's CRL",
            expected="signed by the named root",
            found=f"a list of {name_of(read.root_crl.issuer)} by another key",
        )
    if pck_ca_der is not None and not _crl_signed(collateral.pck_crl, pck_ca_der):
        ladder.refused(
            "V6",
            "collateral.pck-crl.signature",
            "the PCK CA's CRL",
            expected="signed by the CA of the PCK certificate",
            found=f"a list of {name_of(read.pck_crl.issuer)} by another key",
        )
    documents = (
        _Document("tcb-info", "TCB info", read.tcb_chain, collateral.tcb_info_signature, collateral.tcb_info),
        _Document(
            "qe-identity",
            "QE identity",
            read.qe_chain,
            collateral.qe_identity_signature,
            collateral.qe_identity,
        ),
    )
    paths = [_check_document(ladder, document, root_der, now) for document in documents]
    if ladder.failures == before:
        if pck_ca_der is None:
            ladder.cannot("V6")
        else:
            ladder.passed("V6", "collateral.signed", "the collateral is signed under the named root")
    return tuple(path for path in paths if path is not None)


class _Document(NamedTuple):
    """A signed document: its name in codes and in words, who signed it, the signature and what it covers."""

    code: str
    subject: str
    chain: tuple[bytes, ...]
    signature: bytes
    text: str


def _check_document(ladder: Ladder, document: _Document, root_der: bytes, now: datetime) -> Path | None:
    code, subject = document.code, document.subject
    try:
        path = path_to_root(document.chain, root_der)
    except TeehouseError as error:
        ladder.error("V6", error, outcome=Outcome.COLLATERAL_MISSING)
        return None
    if isinstance(path, PathFault):
        ladder.refused(
            "V6",
            f"collateral.{code}.chain",
            f"the signer's chain of {subject} to the named root",
            expected=path.expected,
            found=path.found,
        )
        return None
    stale = out_of_date(path, now)
    if stale is not None:
        ladder.refused(
            "V6",
            f"collateral.{code}.signer-expired",
            f"the signer's chain of {subject}",
            outcome=Outcome.COLLATERAL_MISSING,
            expected=f"valid at {now.isoformat()}",
            found=f"{name_of(stale.subject)}, {stale.not_valid_before_utc} to {stale.not_valid_after_utc}",
            remedy=REFRESH,
        )
    if not _document_signed(document.chain[0], document.signature, document.text):
        ladder.refused(
            "V6",
            f"collateral.{code}.signature",
            f"the signature of {subject}",
            expected=f"by {name_of(path[0].subject)} over exactly this text",
            found="a signature of something else",
        )
    return path


def check_revocation(
    ladder: Ladder, read: ReadCollateral, pck_path: Path, signer_paths: Iterable[Path]
) -> None:
    """V9: no certificate that the verdict rests on is revoked.

    The PCK leaf is looked up in the PCK CA's list, everything else in the root's.
    """
    suspects = [("pck", "the PCK certificate", pck_path[0], read.pck_crl)]
    suspects += [("pck-ca", "the PCK CA", ca, read.root_crl) for ca in pck_path[1:-1]]
    for path in signer_paths:
        suspects += [("tcb-signer", "the TCB signing certificate", path[0], read.root_crl)]
        suspects += [("tcb-signer-ca", "a CA of the TCB signer", ca, read.root_crl) for ca in path[1:-1]]
    suspects.append(("root", "the root", pck_path[-1], read.root_crl))
    listed = {
        (code, subject, certificate.serial_number): certificate
        for code, subject, certificate, crl in suspects
        if revoked(certificate, crl)
    }
    for (code, subject, serial), certificate in listed.items():
        ladder.refused(
            "V9",
            f"{code}.revoked",
            subject,
            expected="not in its issuer's CRL",
            found=f"{name_of(certificate.subject)}, serial {serial:x}, is revoked",
        )
    if not listed:
        ladder.passed("V9", "chain.not-revoked", "no certificate of the chains is revoked")
