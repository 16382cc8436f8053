"""Is this evidence genuine? A ladder of numbered checks, each of which leaves a finding (trust.md 4, 8, 9).

What is proven, in this order:

V1.  The quote is readable: version 3 (SGX), 4 or 5, nothing truncated.
V2.  It is of a kind that is judged here: DCAP's quoting enclave, SGX in version 3, TDX in version 4 or 5.
V3.  Its collateral is there.
V4.  The collateral is readable.
V5.  TCB info, QE identity and both revocation lists are in date.
V6.  Each of them is signed by whom the named root lets.
V7.  The PCK certificate's chain ends in the named root; the finding says in which root it really ends.
V8.  That chain is in date.
V9.  No certificate of PCK chain and document signers is revoked.
V10. The PCK key signed the QE report.
V11. The QE report vouches for the attestation key.
V12. The quoting enclave is the one the QE identity describes, and has a TCB level that is not revoked.
V13. The attestation key signed the quote.
V14. The TCB info is that of this platform: kind, FMSPC, PCE id.
V15. The platform has a TCB level that is not revoked; what lacks is named, component by component.
V16. The TDX module is one the TCB info describes, with a level that is not revoked.
V17. The TD's attributes keep their rules (an SGX enclave is not in debug mode).
V18. No service TD is bound (TD 1.5).
V19. The TDX module's signer is zero, which stands for its maker.
V20. dcap-qvl, asked under the same root and clock, accepts the same quote with the same result.

With an event log, or an attestation's claims, also:

V21. The event log keeps its rules, preimages of version 2 events among them.
V22. RTMR0 to 2 are replayed from the boot events, where the log has them.
V23. RTMR3 is replayed from the runtime events.
V24. The quote's report data is the attestation's.
V25. A pod's payload is bound by the report data.
V26. MRCONFIGID, where it is set, fits the measured app.
V27. MRTD and RTMR0 to 2 are computed from the OS image that the configuration names.
V28. The app's identity is derived.

How the ladder is climbed:

a. A check that cannot be judged because an earlier one failed leaves its number in `Verdict.not_judged`;
   what does not concern the kind of evidence leaves nothing. Checks that need nothing of a failed one are
   made all the same: one verdict names every fault that can be seen.
b. V20 is asked when V1 to V19 hold; V28 when everything before holds. No value of `Verdict` that speaks of
   the platform or the app (`tcb`, `ppid`, `app_info`) is set by evidence that did not pass.
c. A verdict is accepted when every finding is, and nothing was left unjudged.
d. A TCB level that is out of date is genuine: whether it is good enough is a `policy`'s business. Whether
   it is the app that somebody wants is `validate`'s.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from teehouse.attestation import check_chain, check_collateral, check_log, check_platform
from teehouse.attestation.abi import Quote, TdReport
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.check_chain import Path
from teehouse.attestation.check_collateral import ReadCollateral
from teehouse.attestation.evidence import Evidence
from teehouse.attestation.identity import AppInfo, device_id
from teehouse.attestation.ladder import Ladder
from teehouse.attestation.library import check_library
from teehouse.attestation.pck import PckExtension, parse_pck_extension
from teehouse.attestation.roots import TrustedRoot
from teehouse.attestation.tcb import Tcb
from teehouse.base.findings import Finding, Outcome, TeehouseError, misuse, worst

__all__ = ["CHECKS", "Evidence", "Verdict", "verify"]

CHECKS = tuple(f"V{number}" for number in range(1, 29))
_OF_THE_QUOTE = CHECKS[1:20]  # V2 to V20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about evidence, under one root at one instant.

    `root` is `intel` or `emulated:<fingerprint>`; `emulated` is true for the latter: whatever rests on this
    verdict has to say so. `quote` and `pck` are what was read, not yet what was proven; `tcb`, `ppid` (16
    bytes) and `app_info` are set by proven evidence alone. `image_verified` is true when V27 held.
    """

    root: str
    emulated: bool
    at: datetime
    findings: tuple[Finding, ...]
    not_judged: tuple[str, ...] = ()
    tcb: Tcb | None = None
    quote: Quote | None = None
    pck: PckExtension | None = None
    ppid: bytes | None = None
    app_info: AppInfo | None = None
    image_verified: bool = False

    @property
    def outcome(self) -> Outcome:
        """As bad as the worst finding; a verdict that is not complete is never accepted."""
        outcome = worst(self.findings)
        incomplete = not self.findings or self.not_judged
        return Outcome.REJECTED if outcome is Outcome.ACCEPTED and incomplete else outcome

    @property
    def accepted(self) -> bool:
        return self.outcome is Outcome.ACCEPTED

    @property
    def tcb_status(self) -> str | None:
        """Intel's word for the platform, e.g. "UpToDate"; None unless the quote is genuine."""
        return self.tcb.status if self.tcb else None

    @property
    def advisory_ids(self) -> tuple[str, ...]:
        return self.tcb.advisory_ids if self.tcb else ()

    @property
    def device_id(self) -> bytes | None:
        """SHA-256 of the PPID, 32 bytes; None unless the quote is genuine."""
        return device_id(self.ppid) if self.ppid else None

    @property
    def td(self) -> TdReport | None:
        """The TD report of the quote, where it is one of a TD."""
        return self.quote.body if self.quote and isinstance(self.quote.body, TdReport) else None


class _Quoted(NamedTuple):
    """What V1 to V20 leave for the checks after them."""

    quote: Quote | None = None
    pck: PckExtension | None = None
    tcb: Tcb | None = None


def refused_evidence(error: TeehouseError, root: TrustedRoot, now: datetime) -> Verdict:
    """The verdict over evidence that could not even be read: V1 alone."""
    ladder = Ladder()
    ladder.error("V1", error)
    ladder.cannot(*_OF_THE_QUOTE)
    return Verdict(root.name, root.emulated, now, ladder.findings, ladder.not_judged)


def verify(
    evidence: Evidence,
    collateral: Collateral | None,
    root: TrustedRoot,
    now: datetime,
    *,
    missing: TeehouseError | None = None,
) -> Verdict:
    """Judge evidence by the ladder above. Never raises for bad evidence or collateral.

    `missing` is why there is no collateral, where fetching it failed. `now` is an instant with a time zone; raises `MisuseError` without one.
    """
    if now.tzinfo is None:
        raise misuse("verify.clock", "the instant of a verdict has no time zone")
    ladder = Ladder()
    quoted = _judge_quote(ladder, evidence.quote, collateral, root, now=now, missing=missing)
    app_info, image = None, None
    if quoted.quote is not None:
        app_info, image = _judge_claims(ladder, evidence, quoted)
    return Verdict(
        root=root.name,
        emulated=root.emulated,
        at=now,
        findings=ladder.findings,
        not_judged=ladder.not_judged,
        tcb=quoted.tcb,
        quote=quoted.quote,
        pck=quoted.pck,
        ppid=quoted.pck.ppid if quoted.pck and quoted.tcb else None,
        app_info=app_info,
        image_verified=image is not None,
    )


def _judge_quote(
    ladder: Ladder,
    raw: bytes,
    collateral: Collateral | None,
    root: TrustedRoot,
    *,
    now: datetime,
    missing: TeehouseError | None,
) -> _Quoted:
    """V1 to V20."""
    quote = check_chain.open_quote(ladder, raw)  # V1
    if quote is None:
        ladder.cannot(*_OF_THE_QUOTE)
        return _Quoted()
    check_chain.check_header(ladder, quote)  # V2
    read = check_collateral.open_collateral(ladder, collateral, missing)  # V3, V4
    if read is not None:
        check_collateral.check_dates(ladder, read, now)  # V5
    # V7 comes before V6 in the doing, not in the telling: the PCK CA signs one of the documents.
    steps = Ladder()
    chain_pem = collateral.pck_certificate_chain if collateral else None
    path = check_chain.find_path(steps, quote, chain_pem, root)
    signers: tuple[Path, ...] = ()
    if read is not None and collateral is not None:  # V6
        pck_ca = None if path is None else check_collateral.der_of(path[1])
        signers = check_collateral.check_signatures(
            ladder, collateral, read, root_der=root.certificate_der, pck_ca_der=pck_ca, now=now
        )
    ladder.extend(steps)  # V7
    pck = _judge_chain(ladder, quote, read, path=path, signers=signers, now=now)  # V8 to V11
    tcb = _judge_platform(ladder, quote, read, pck)  # V12 to V19
    if collateral is None or tcb is None or pck is None or not ladder.unbroken:  # V20, b
        ladder.cannot("V20")
        return _Quoted(quote, pck)
    if not check_library(ladder, raw, collateral, root_der=root.certificate_der, now=now, tcb=tcb, pck=pck):
        return _Quoted(quote, pck)
    return _Quoted(quote, pck, tcb)


def _judge_chain(
    ladder: Ladder,
    quote: Quote,
    read: ReadCollateral | None,
    *,
    path: Path | None,
    signers: tuple[Path, ...],
    now: datetime,
) -> PckExtension | None:
    """V8 to V11; gives what the PCK certificate says about the platform."""
    pck = None
    if path is None:
        ladder.cannot("V8", "V9", "V10")
    else:
        check_chain.check_path_dates(ladder, path, now)  # V8
        if read is None:
            ladder.cannot("V9")
        else:
            check_collateral.check_revocation(ladder, read, path, signers)  # V9
        check_chain.check_qe_signature(ladder, quote, path[0])  # V10
        try:
            pck = parse_pck_extension(check_collateral.der_of(path[0]))
        except TeehouseError as error:
            ladder.error("V10", error)
    check_chain.check_key_binding(ladder, quote)  # V11
    return pck


def _judge_platform(
    ladder: Ladder, quote: Quote, read: ReadCollateral | None, pck: PckExtension | None
) -> Tcb | None:
    """V12 to V19; gives the merged TCB."""
    qe = None
    if read is None:
        ladder.cannot("V12")
    else:
        qe = check_chain.check_qe_policy(ladder, quote, read.qe_identity)  # V12
    check_chain.check_quote_signature(ladder, quote)  # V13
    tcb = None
    if read is None or pck is None:
        ladder.cannot("V14", "V15", "V16")
    elif not check_platform.check_platform_kind(ladder, quote, read.tcb_info, pck) or qe is None:  # V14
        ladder.cannot("V15", "V16")
    else:
        tcb = check_platform.check_levels(  # V15, V16
            ladder, quote, info=read.tcb_info, identity=read.qe_identity, pck=pck, qe=qe
        )
    check_platform.check_attributes(ladder, quote.body)  # V17
    if isinstance(quote.body, TdReport):
        check_platform.check_service_td(ladder, quote.body)  # V18
        check_platform.check_seam_signer(ladder, quote.body)  # V19
    return tcb


def _judge_claims(ladder: Ladder, evidence: Evidence, quoted: _Quoted) -> tuple[AppInfo | None, bytes | None]:
    """V21 to V28; gives the app's identity and the hash of the image that was verified."""
    quote = quoted.quote
    if quote is None:
        return None, None
    runtime, events = evidence.runtime_events, evidence.event_log or ()
    td = quote.body if isinstance(quote.body, TdReport) else None
    if td is None and (runtime or events):
        ladder.refused("V21", "eventlog.no-registers", "the event log of an SGX enclave", expected="none")
    if td is not None and evidence.event_log is not None:
        check_log.check_log(ladder, events, runtime or ())  # V21
        check_log.check_boot_registers(ladder, td, events)  # V22
    if td is not None and runtime is not None:
        check_log.check_runtime_register(ladder, td, runtime)  # V23
    if evidence.report_data is not None:
        check_log.check_report_data(ladder, quote.body.report_data, evidence.report_data)  # V24
    check_log.check_payload(ladder, evidence)  # V25
    if td is None or runtime is None:
        return None, None
    check_log.check_config_id(ladder, td, runtime)  # V26
    image = None
    if evidence.config is not None:
        image = check_log.check_os_image(ladder, td, events, evidence.config)  # V27
    if quoted.tcb is None or quoted.pck is None or not ladder.unbroken:  # b
        ladder.cannot("V28")
        return None, image
    return check_log.derive_app(ladder, td, runtime, image, quoted.pck.ppid), image  # V28
