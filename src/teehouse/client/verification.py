"""From a file to an answer: read evidence, get its collateral, verify it, apply policy and expectations.

Certificates have two checks of their own, on top of those of `verify` (trust.md 10):

C1. The quote's report data is SHA-512("ratls-cert:" || SubjectPublicKeyInfo of this certificate): the
    evidence speaks of the holder of this key.
C2. The app id extension, where the certificate has one, is the measured app id.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from teehouse.attestation.abi import parse_quote
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.certificate import AttestationExtensions, certificate_report_data
from teehouse.attestation.ladder import Ladder
from teehouse.attestation.policy import Policy, judge
from teehouse.attestation.report import overall, report
from teehouse.attestation.roots import EMULATED_PREFIX, INTEL, TrustedRoot
from teehouse.attestation.validate import Expectations, validate
from teehouse.attestation.verify import Verdict, refused_evidence, verify
from teehouse.base.findings import (
    CollateralError,
    EvidenceError,
    Finding,
    Outcome,
    misuse,
)
from teehouse.client.evidence import read_attestation, read_certificate, read_quote

Kind = Literal["quote", "attestation", "certificate"]
CollateralSource = Callable[[bytes], Awaitable[Collateral]]
ChainChecks = Callable[[Verdict], Awaitable[tuple[Finding, ...]]]


@dataclass(frozen=True, slots=True)
class Verification:
    """The whole answer. `certificate`, `policy`, `expectations` and `chain` hold findings beside the verdict's own.

    `chain` is empty where no chain was to be asked, or the evidence names no app to ask about.
    """

    verdict: Verdict
    certificate: tuple[Finding, ...]
    policy: tuple[Finding, ...]
    expectations: tuple[Finding, ...]
    chain: tuple[Finding, ...] = ()

    @property
    def outcome(self) -> Outcome:
        return overall(self.verdict, (*self.certificate, *self.policy, *self.expectations, *self.chain))

    @property
    def accepted(self) -> bool:
        """Genuine, good enough, and what was asked for."""
        return self.outcome is Outcome.ACCEPTED

    def report(self) -> dict[str, Any]:
        """The answer as JSON members (`attestation.report`), with those of the certificate."""
        others = (*self.certificate, *self.expectations, *self.chain)
        members = report(self.verdict, policy=self.policy, expectations=others)
        members["expectations"] = [finding.as_dict() for finding in self.expectations]
        members["certificate"] = [finding.as_dict() for finding in self.certificate]
        members["chain"] = [finding.as_dict() for finding in self.chain]
        return members


@dataclass(frozen=True, slots=True)
class Request:
    """What to judge, and under which rules.

    `collateral` gives the collateral of a raw quote, None when there is no source of it; `event_log` is
    JSON text beside a bare quote; `chain` asks a chain about the app of a verdict, None when none is to be asked.
    """

    kind: Kind
    data: bytes
    root: TrustedRoot
    now: datetime
    collateral: CollateralSource | None = None
    event_log: bytes | None = None
    policy: Policy = field(default_factory=Policy)
    expectations: Expectations = field(default_factory=Expectations)
    chain: ChainChecks | None = None


async def check(request: Request) -> Verification:
    """Judge one piece of evidence. Never raises for bad evidence, nor for collateral that cannot be had."""
    extensions: AttestationExtensions | None = None
    try:
        if request.kind == "quote":
            evidence = read_quote(request.data, request.event_log)
        elif request.kind == "attestation":
            evidence = read_attestation(request.data)
        else:
            evidence, extensions = read_certificate(request.data)
    except EvidenceError as error:
        return _conclude(request, refused_evidence(error, request.root, request.now), ())
    collateral: Collateral | None = None
    missing: CollateralError | None = None
    if request.collateral is not None:
        try:
            collateral = await request.collateral(evidence.quote)
        except CollateralError as error:
            missing = error
        except EvidenceError:
            collateral = None  # the quote does not say whose it is; the verdict says why
    verdict = verify(evidence, collateral, request.root, request.now, missing=missing)
    answer = _conclude(request, verdict, _check_certificate(extensions, verdict))
    if request.chain is None or verdict.app_info is None:
        return answer
    return replace(answer, chain=await request.chain(verdict))


def check_now(request: Request) -> Verification:
    """`check`, for callers without an event loop."""
    return asyncio.run(check(request))


def _conclude(request: Request, verdict: Verdict, certificate: tuple[Finding, ...]) -> Verification:
    return Verification(
        verdict=verdict,
        certificate=certificate,
        policy=judge(verdict, request.policy, request.now),
        expectations=validate(verdict, request.expectations),
    )


def _check_certificate(extensions: AttestationExtensions | None, verdict: Verdict) -> tuple[Finding, ...]:
    ladder = Ladder()
    if extensions is None or verdict.quote is None:
        return ()
    bound = certificate_report_data(extensions.spki)
    found = verdict.quote.body.report_data
    ladder.judge(  # C1
        "C1",
        found == bound,
        "certificate.binding" if found == bound else "certificate.report-data-mismatch",
        "the evidence is bound to the certificate's key",
        expected=bound.hex(),
        found=found.hex(),
    )
    measured = verdict.app_info.app_id if verdict.app_info else None
    if extensions.app_id is not None and measured is not None:  # C2
        ladder.judge(
            "C2",
            extensions.app_id == measured,
            "certificate.app-id" if extensions.app_id == measured else "certificate.app-id-mismatch",
            "the certificate's app id",
            expected=measured.hex(),
            found=extensions.app_id.hex(),
        )
    return ladder.findings


def collateral_from_file(path: Path) -> CollateralSource:
    """Collateral from a file (`collateral.files`)."""

    async def source(_quote: bytes) -> Collateral:
        from teehouse.collateral.files import load_collateral  # noqa: PLC0415 - commands start fast

        return load_collateral(path)

    return source


def collateral_from_pccs(url: str) -> CollateralSource:
    """Collateral from a service (`collateral.pccs`). Raises `MisuseError` for a URL that is none, when asked."""

    async def source(quote: bytes) -> Collateral:
        from teehouse.collateral.pccs import PccsClient  # noqa: PLC0415 - commands start fast

        async with PccsClient(url) as client:
            return await client.collateral(parse_quote(quote))

    return source


def read_root(text: str) -> TrustedRoot:
    """A root by name: `intel`, or `emulated:FILE` with a certificate, PEM or DER. Raises `MisuseError`."""
    if text == INTEL:
        return TrustedRoot.intel()
    if not text.startswith(EMULATED_PREFIX):
        raise misuse(
            "root.name", "the root's name", expected=f"{INTEL} or {EMULATED_PREFIX}FILE", found=text[:200]
        )
    path = Path(text.removeprefix(EMULATED_PREFIX))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise misuse("root.file", f"the root's file {path}", found=error.strerror or "unreadable") from None
    return TrustedRoot.emulated_file(content)
