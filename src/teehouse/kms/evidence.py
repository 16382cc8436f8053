"""Whose evidence is this, and is it good enough to ask for an authorisation with (trust.md 8, 9, 11, 13.5, 13.6)?

Rules:

E1. There is an attestation: `No attestation provided`.
E2. It is about the key that was proven: the TLS handshake's client key, or the one that signed a request.
    Its quote's report data says so (`report data mismatch`), so evidence seen elsewhere is of no use.
E3. The measured app id has 20 bytes: `app_id must be 20 bytes`.
E4. It verifies under one of the roots that this KMS was told to trust, with collateral in date. Whether the
    TCB status is good enough is not asked here: the authorisation API is told, and judges.
E5. With image verification the registers are computed from the OS image that the vm_config names; without
    it, the image's hash is told as it is claimed.
E6. App id and compose hash are those of the measured log, and MRCONFIGID, where it is set, fits them.
E7. When app keys are released, the log ends at `boot-mr-done`: whatever ran after that could be anything.
    At signing it may go on, and the boot's values are taken; a KMS is measured by its whole log.

The judgement is `identify`: a function of evidence, verdict and purpose. `Judge` adds clock and collateral.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from teehouse.attestation.abi import Quote, parse_quote
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.envelope import Attestation
from teehouse.attestation.eventlog import RuntimeEvent, parse_event_log, runtime_events
from teehouse.attestation.identity import (
    APP_ID,
    APP_ID_SIZE,
    BOOT_MR_DONE,
    AppInfo,
    app_info,
    identity_payload,
)
from teehouse.attestation.roots import TrustedRoot
from teehouse.attestation.verify import Evidence, Verdict, verify
from teehouse.attestation.vmconfig import parse_vm_config
from teehouse.base.clock import Clock
from teehouse.base.findings import (
    CollateralError,
    EvidenceError,
    Finding,
    Outcome,
    TeehouseError,
    rejected,
)
from teehouse.base.hashes import sha256
from teehouse.kms.boot_info import TEE_VARIANT, BootInfo
from teehouse.kms.refusal import context
from teehouse.ratls.csr import SigningRequest
from teehouse.ratls.read import CertificateEvidence, check_binding, read_certificate

_EVENT_NAME_SHOWN = 64  # characters

QUOTE_FAILED = "Quote verification failed"
LOG_FAILED = "Event log verification failed"
IMAGE_FAILED = "OS image hash verification failed"
# What the number of the ladder's first failed check is called; earlier ones are the quote's.
_STAGES = {"V21": LOG_FAILED, "V22": LOG_FAILED, "V23": LOG_FAILED, "V26": LOG_FAILED, "V28": LOG_FAILED}
_IMAGE_CHECK = "V27"


class Purpose(Enum):
    """What the evidence is for, which decides how much of RTMR3 counts (rule E7)."""

    RELEASE = "release"
    SIGN = "sign"
    KMS = "kms"


class CollateralSource(Protocol):
    """Where collateral comes from; `teehouse.collateral.cache.CollateralCache` is one."""

    async def collateral(self, quote: Quote) -> Collateral:
        """The collateral of the quote's platform. Raises `CollateralError`, `EvidenceError`."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom verified evidence is about.

    `boot_info` is what the authorisation API is told, `app_info` the identity over the whole log, `ppid` 16
    bytes. `root` names the root that the evidence verified under (`intel`, or `emulated:<fingerprint>`).
    """

    attestation: Attestation
    boot_info: BootInfo
    app_info: AppInfo
    ppid: bytes
    root: str


def evidence_digest(attestation: Attestation) -> bytes:
    """SHA-256 over the quote: it binds registers, and so the log, and report data."""
    return sha256(attestation.quote)


def peer_attestation(certificate_der: bytes | None) -> Attestation:
    """The attestation in a client's certificate, bound to its key. Raises `EvidenceError` (E1, E2)."""
    return bound_attestation(peer_evidence(certificate_der))


def peer_evidence(certificate_der: bytes | None) -> CertificateEvidence:
    """What a client's certificate carries, not judged. Raises `EvidenceError` (E1)."""
    if certificate_der is None:
        raise no_attestation()
    return read_certificate(certificate_der)


def bound_attestation(evidence: CertificateEvidence) -> Attestation:
    """Raises `EvidenceError` (E1, E2)."""
    if evidence.attestation is None:
        raise no_attestation()
    binding = check_binding(evidence)
    if not binding.ok:
        raise EvidenceError(binding)
    return evidence.attestation


def no_attestation() -> EvidenceError:
    """E1."""
    return rejected("kms.no-attestation", "No attestation provided")


def request_attestation(request: SigningRequest, attestation: Attestation) -> Attestation:
    """The attestation of a signing request, bound to the key it is for. Raises `EvidenceError` (E2)."""
    return bound_attestation(CertificateEvidence(attestation, None, None, None, request.public_key))


def legacy_attestation(quote: bytes, event_log: bytes) -> Attestation:
    """The attestation of a version 1 signing request. Raises `EvidenceError`."""
    if not quote:
        raise no_attestation()
    events = parse_event_log(event_log)
    return Attestation(quote, events, runtime_events(events), parse_quote(quote).body.report_data, "")


class Judge:
    """Verifies evidence under `roots` (at least one), with collateral from `source`."""

    def __init__(
        self,
        roots: Sequence[TrustedRoot],
        source: CollateralSource,
        clock: Clock,
        *,
        verify_image: bool = True,
    ) -> None:
        self._roots = tuple(roots)
        self._source = source
        self._clock = clock
        self._verify_image = verify_image

    async def judge(self, attestation: Attestation, purpose: Purpose, vm_config: str = "") -> Subject:
        """Whom the evidence is about. `vm_config` stands in where the attestation has none.

        Raises `EvidenceError` (E3 to E7), `CollateralError` where there is none.
        """
        check_app_id_size(attestation.runtime_events)
        claimed = replace(attestation, config=attestation.config or vm_config)
        evidence = Evidence.from_attestation(claimed)
        if not self._verify_image:
            evidence = replace(evidence, config=None)
        elif evidence.config is None:
            raise rejected(
                "kms.no-vm-config",
                IMAGE_FAILED,
                expected="a vm_config that names the OS image",
                found="none",
            )
        collateral, missing = None, None
        try:
            collateral = await self._source.collateral(parse_quote(attestation.quote))
        except TeehouseError as error:
            missing = error  # the verdict says so, beside all else that can be seen
        now = self._clock.now()
        verdicts = [verify(evidence, collateral, root, now, missing=missing) for root in self._roots]
        verdict = next((verdict for verdict in verdicts if verdict.accepted), verdicts[0])
        return identify(claimed, verdict, purpose)


def identify(attestation: Attestation, verdict: Verdict, purpose: Purpose) -> Subject:
    """Whom an attestation is about, given the verdict over it.

    Raises `EvidenceError` or `CollateralError` when the verdict is not accepted, and for E5 and E7.
    """
    td, info, ppid = verdict.td, verdict.app_info, verdict.ppid
    if not verdict.accepted or td is None or info is None or ppid is None:
        raise refusal_of(verdict)
    if purpose is Purpose.RELEASE:
        check_log_ends_at_boot(attestation.runtime_events)
    image = info.os_image_hash if verdict.image_verified else _claimed_image(attestation.config)
    boot_time = purpose is not Purpose.KMS
    with context(LOG_FAILED):
        boot = app_info(td, attestation.runtime_events, image, info.device_id, boottime=boot_time)
    boot_info = BootInfo(
        tee_variant=TEE_VARIANT,
        mr_aggregated=boot.mr_aggregated,
        os_image_hash=image,
        mr_system=boot.mr_system,
        app_id=boot.app_id,
        compose_hash=boot.compose_hash,
        instance_id=boot.instance_id,
        device_id=boot.device_id,
        key_provider_info=boot.key_provider_info,
        tcb_status=verdict.tcb_status or "",
        advisory_ids=verdict.advisory_ids,
    )
    return Subject(attestation, boot_info, replace(info, os_image_hash=image), ppid, verdict.root)


def check_app_id_size(events: Sequence[RuntimeEvent]) -> None:
    """E3. Raises `EvidenceError`. It says nothing of evidence without an app id, which does not verify."""
    app_id = identity_payload(events, APP_ID)
    if app_id is not None and len(app_id) != APP_ID_SIZE:
        raise rejected("kms.app-id-size", "app_id must be 20 bytes")


def check_log_ends_at_boot(events: Sequence[RuntimeEvent]) -> None:
    """E7. Raises `EvidenceError`."""
    names = [event.event for event in events]
    if BOOT_MR_DONE not in names:
        raise rejected("kms.log-end", LOG_FAILED, expected=f"event {BOOT_MR_DONE}", found="none")
    after = names[names.index(BOOT_MR_DONE) + 1 :]
    if after:
        raise rejected(
            "kms.log-end",
            LOG_FAILED,
            expected=f"{BOOT_MR_DONE} as the last event when keys are released",
            found=f"{len(after)} after it, the first {after[0][:_EVENT_NAME_SHOWN]!a}",
            remedy="ask for keys once in each boot, before anything else is measured",
        )


def refusal_of(verdict: Verdict) -> TeehouseError:
    """Why a verdict is not accepted: its first fault in full, the others by name."""
    faults = [finding for finding in verdict.findings if not finding.ok]
    if not faults:
        return rejected("kms.not-verified", QUOTE_FAILED, found="evidence that does not tell an app")
    first = faults[0]
    stage = IMAGE_FAILED if first.check == _IMAGE_CHECK else _STAGES.get(first.check, QUOTE_FAILED)
    others = dict.fromkeys(finding.code for finding in faults[1:] if finding.code != first.code)
    text = f"{stage}: {first.sentence()}" + (f"; also {', '.join(others)}" if others else "")
    kind = CollateralError if verdict.outcome is Outcome.COLLATERAL_MISSING else EvidenceError
    return kind(Finding(first.code, text, verdict.outcome, check=first.check))


def _claimed_image(config: str) -> bytes:
    """E5: the hash that nobody verified. Raises `EvidenceError` for a config that cannot be read."""
    if not config:
        return b""
    with context(IMAGE_FAILED):
        return parse_vm_config(config).os_image_hash or b""
