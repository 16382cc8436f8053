"""The ladder of `verify`: every fault of trust.md 6.5 is refused, and refused under its own name."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from dcap_qvl import QuoteCollateralV3, verify_with_root_ca
from hypothesis import given, settings
from hypothesis import strategies as st

from support import emulated
from support.adversary import NOW, Adversary, every_status, flip, raise_components
from support.adversary_certificates import certificate, named
from teehouse.attestation import abi
from teehouse.attestation.abi import Quote
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.chain import load_certificate, name_of
from teehouse.attestation.pck import split_pem_chain
from teehouse.attestation.roots import TrustedRoot
from teehouse.attestation.verify import CHECKS, Evidence, Verdict, refused_evidence, verify
from teehouse.base.findings import EvidenceError, MisuseError, Outcome, malformed, unavailable
from teehouse.tee_emulated import constants
from teehouse.tee_emulated.pki import PLATFORM_CA_LABEL, ROOT_LABEL, TCB_SIGNER_LABEL, pck_label

REJECTED, UNSUPPORTED, MALFORMED, MISSING = (
    Outcome.REJECTED,
    Outcome.UNSUPPORTED,
    Outcome.MALFORMED,
    Outcome.COLLATERAL_MISSING,
)


def judge(quote: bytes, collateral: Collateral | None, owner: Adversary, now: datetime = NOW) -> Verdict:
    return verify(Evidence.from_quote(quote), collateral, owner.root, now)


def refusals(verdict: Verdict) -> set[tuple[str, str]]:
    return {(finding.check, finding.code) for finding in verdict.findings if not finding.ok}


@dataclass(frozen=True)
class Case:
    """One fault: what is judged, and which finding has to name it."""

    name: str
    check: str
    code: str
    outcome: Outcome
    quote: Callable[[Adversary], bytes] = Adversary.quote
    collateral: Callable[[Adversary], Collateral | None] = Adversary.collateral
    owner: Callable[[], Adversary] = Adversary
    now: datetime = NOW


def flipped(offset: int, bit: int = 0) -> Callable[[Adversary], bytes]:
    return lambda owner: flip(owner.quote(), offset, bit)


def td(**fields: bytes) -> Callable[[Adversary], bytes]:
    return lambda owner: owner.quote(emulated.td_report(**fields))


def attributes(*bits: int, clear: int | None = None) -> Callable[[Adversary], bytes]:
    value = int.from_bytes(constants.TD_ATTRIBUTES, "little")
    for bit in bits:
        value |= 1 << bit
    if clear is not None:
        value &= ~(1 << clear)
    return td(td_attributes=value.to_bytes(8, "little"))


def forged(edit: Callable[[Quote], Quote]) -> Callable[[Adversary], bytes]:
    return lambda owner: owner.forge(edit)


def qe_report(**fields: Any) -> Callable[[Adversary], bytes]:
    return forged(lambda quote: replace(quote, qe_report=replace(quote.qe_report, **fields)))


def served(**arguments: Any) -> Callable[[Adversary], Collateral]:
    return lambda owner: owner.collateral(**arguments)


def bare(name: str, value: Callable[[Adversary], Any]) -> Callable[[Adversary], Collateral]:
    return lambda owner: owner.collateral(**{name: value(owner)})


def revoking(label: str) -> Callable[[], Adversary]:
    return lambda: Adversary(frozenset({label}))


def td_15(service_td: bytes = bytes(48), svn2: bytes = constants.TEE_TCB_SVN) -> Callable[[Adversary], bytes]:
    def edit(quote: Quote) -> Quote:
        body = replace(emulated.td_report(), tee_tcb_svn2=svn2, mr_service_td=service_td)
        return replace(quote, header=replace(quote.header, version=5), body_type=abi.BODY_TD_15, body=body)

    return forged(edit)


def module(**members: Any) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        document["tdxModuleIdentities"][0] |= members

    return edit


def members(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(values)


def module_levels(svn: int, status: str) -> Callable[[dict[str, Any]], None]:
    level = {"tcb": {"isvsvn": svn}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}
    return module(tcbLevels=[level])


def qe_levels(svn: int, status: str) -> Callable[[dict[str, Any]], None]:
    level = {"tcb": {"isvsvn": svn}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}
    return members(tcbLevels=[level])


def _pem_blocks(quote: Quote, *which: int) -> bytes:
    end = b"-----END CERTIFICATE-----\n"
    blocks = [block + end for block in quote.certification_data.split(end) if block.strip()]
    return b"".join(blocks[number] for number in which)


def _plain_pck(owner: Adversary) -> bytes:
    """A PCK certificate like any other, but that says nothing of a platform."""
    platform_ca = load_certificate(owner.pki.platform_ca_der)
    made = certificate(
        named("Emulated PCK"), owner.host.pck_key, platform_ca.subject, owner.pki._key(PLATFORM_CA_LABEL)
    )
    pem = made.public_bytes(Encoding.PEM)
    return owner.forge(lambda quote: replace(quote, certification_data=pem + _pem_blocks(quote, 1, 2)))


BROKEN_SIGNATURE = "V13", "quote.signature", REJECTED
CASES = [
    # One bit, anywhere that trust.md 6.5 names.
    Case("flip-vendor-id", "V2", "quote.vendor", UNSUPPORTED, flipped(12)),
    Case("flip-header-user-data", *BROKEN_SIGNATURE, flipped(28)),
    Case("flip-tee-tcb-svn", *BROKEN_SIGNATURE, flipped(abi.TEE_TCB_SVN_OFFSET + 5)),
    Case("flip-mrtd", *BROKEN_SIGNATURE, flipped(abi.MR_TD_OFFSET)),
    Case("flip-rtmr0", *BROKEN_SIGNATURE, flipped(abi.RT_MR0_OFFSET)),
    Case("flip-rtmr1", *BROKEN_SIGNATURE, flipped(abi.RT_MR1_OFFSET)),
    Case("flip-rtmr2", *BROKEN_SIGNATURE, flipped(abi.RT_MR2_OFFSET)),
    Case("flip-rtmr3", *BROKEN_SIGNATURE, flipped(abi.RT_MR3_OFFSET)),
    Case("flip-report-data", *BROKEN_SIGNATURE, flipped(abi.REPORT_DATA_OFFSET)),
    Case("flip-quote-signature", *BROKEN_SIGNATURE, flipped(abi.SIGNATURE_OFFSET)),
    Case(
        "flip-attestation-key", "V11", "qe-report.key-binding", REJECTED, flipped(abi.ATTESTATION_KEY_OFFSET)
    ),
    Case("flip-qe-report", "V10", "qe-report.signature", REJECTED, flipped(abi.QE_REPORT_OFFSET + 64)),
    Case(
        "flip-qe-report-data", "V11", "qe-report.key-binding", REJECTED, flipped(abi.QE_REPORT_OFFSET + 320)
    ),
    Case(
        "flip-qe-signature", "V10", "qe-report.signature", REJECTED, flipped(abi.QE_REPORT_SIGNATURE_OFFSET)
    ),
    Case("flip-qe-auth-data", "V11", "qe-report.key-binding", REJECTED, flipped(1220)),
    # The quote's form.
    Case("truncated-by-one-byte", "V1", "quote.truncated", MALFORMED, lambda owner: owner.quote()[:-1]),
    Case("empty", "V1", "quote.truncated", MALFORMED, lambda _: b""),
    Case(
        "version-3-with-tdx",
        "V1",
        "quote.header-contradiction",
        REJECTED,
        lambda owner: b"\x03" + owner.quote()[1:],
    ),
    Case("version-6", "V1", "quote.version", UNSUPPORTED, lambda owner: b"\x06" + owner.quote()[1:]),
    Case(
        "qe-auth-data-of-16-bytes",
        "V2",
        "quote.qe-auth-data",
        UNSUPPORTED,
        forged(lambda quote: replace(quote, qe_auth_data=bytes(16))),
    ),
    # Collateral.
    Case("no-collateral", "V3", "collateral.missing", MISSING, collateral=lambda _: None),
    Case("tcb-info-no-json", "V4", "collateral.tcb-info.not-json", MISSING, collateral=served(tcb_info="{")),
    Case("empty-pck-crl", "V4", "crl.malformed", MISSING, collateral=served(pck_crl=b"")),
    Case(
        "two-days-before-issue",
        "V5",
        "collateral.tcb-info.not-yet-valid",
        MISSING,
        now=NOW - timedelta(days=2),
    ),
    Case("after-next-update", "V5", "collateral.tcb-info.expired", MISSING, now=NOW + timedelta(days=30)),
    Case(
        "tcb-info-expired",
        "V5",
        "collateral.tcb-info.expired",
        MISSING,
        collateral=served(tcb=members(nextUpdate="2026-11-20T00:00:00Z")),
    ),
    Case(
        "qe-identity-expired",
        "V5",
        "collateral.qe-identity.expired",
        MISSING,
        collateral=served(qe=members(nextUpdate="2026-11-20T00:00:00Z")),
    ),
    Case(
        "root-crl-expired",
        "V5",
        "collateral.root-crl.expired",
        MISSING,
        collateral=bare("root_ca_crl", lambda o: o.pki.root_crl(NOW - timedelta(9), NOW - timedelta(1))),
    ),
    Case(
        "pck-crl-expired",
        "V5",
        "collateral.pck-crl.expired",
        MISSING,
        collateral=bare("pck_crl", lambda o: o.pki.pck_crl(NOW - timedelta(9), NOW - timedelta(1))),
    ),
    Case(
        "root-crl-of-another-root",
        "V6",
        "collateral.root-crl.signature",
        REJECTED,
        collateral=bare("root_ca_crl", lambda _: Adversary(seed=bytes(32)).collateral().root_ca_crl),
    ),
    Case(
        "crls-swapped",
        "V6",
        "collateral.root-crl.signature",
        REJECTED,
        collateral=lambda o: replace(
            o.collateral(), root_ca_crl=o.collateral().pck_crl, pck_crl=o.collateral().root_ca_crl
        ),
    ),
    Case(
        "pck-crl-of-another-ca",
        "V6",
        "collateral.pck-crl.signature",
        REJECTED,
        collateral=bare("pck_crl", lambda _: Adversary(seed=bytes(32)).collateral().pck_crl),
    ),
    Case(
        "tcb-info-altered",
        "V6",
        "collateral.tcb-info.signature",
        REJECTED,
        collateral=bare("tcb_info", lambda o: o.collateral().tcb_info.replace('"pcesvn":13', '"pcesvn":12')),
    ),
    Case(
        "tcb-info-reserialised",
        "V6",
        "collateral.tcb-info.signature",
        REJECTED,
        collateral=bare("tcb_info", lambda o: o.collateral().tcb_info.replace(",", ", ")),
    ),
    Case(
        "qe-identity-altered",
        "V6",
        "collateral.qe-identity.signature",
        REJECTED,
        collateral=bare(
            "qe_identity", lambda o: o.collateral().qe_identity.replace('"isvsvn":4', '"isvsvn":3')
        ),
    ),
    Case(
        "tcb-info-signed-by-the-attestation-key",
        "V6",
        "collateral.tcb-info.signature",
        REJECTED,
        collateral=lambda o: o.collateral(signer=o.host.attestation_key),
    ),
    Case(
        "tcb-signer-of-another-root",
        "V6",
        "collateral.tcb-info.chain",
        REJECTED,
        collateral=bare("tcb_info_issuer_chain", lambda _: Adversary(seed=bytes(32)).pki.tcb_issuer_chain),
    ),
    Case(
        "tcb-signer-unreadable",
        "V6",
        "certificate.malformed",
        MISSING,
        collateral=served(
            tcb_info_issuer_chain="-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
        ),
    ),
    # The PCK chain.
    Case(
        "other-root",
        "V7",
        "pck.chain.root",
        REJECTED,
        lambda _: Adversary(seed=bytes(32)).quote(),
    ),
    Case(
        "leaf-alone",
        "V7",
        "pck.chain.root",
        REJECTED,
        forged(lambda quote: replace(quote, certification_data=_pem_blocks(quote, 0))),
    ),
    Case(
        "platform-ca-as-leaf",
        "V7",
        "pck.chain.short",
        REJECTED,
        forged(lambda quote: replace(quote, certification_data=_pem_blocks(quote, 1, 2))),
    ),
    Case(
        "chain-out-of-order",
        "V7",
        "pck.chain.broken",
        REJECTED,
        forged(lambda quote: replace(quote, certification_data=_pem_blocks(quote, 0, 0, 1, 2))),
    ),
    Case(
        "chain-no-pem",
        "V7",
        "pem.malformed",
        MALFORMED,
        forged(lambda quote: replace(quote, certification_data=b"nothing")),
    ),
    Case(
        "pck-not-yet-valid",
        "V8",
        "pck.chain.expired",
        REJECTED,
        collateral=served(now=datetime(2019, 6, 1, tzinfo=UTC)),
        now=datetime(2019, 6, 1, tzinfo=UTC),
    ),
    Case(
        "tcb-signer-not-yet-valid",
        "V6",
        "collateral.tcb-info.signer-expired",
        REJECTED,
        collateral=served(now=datetime(2019, 6, 1, tzinfo=UTC)),
        now=datetime(2019, 6, 1, tzinfo=UTC),
    ),
    Case(
        "pck-without-sgx-extension",
        "V10",
        "pck-extension.missing",
        MALFORMED,
        _plain_pck,
    ),
    Case("pck-revoked", "V9", "pck.revoked", REJECTED, owner=revoking(pck_label("alpha"))),
    Case("platform-ca-revoked", "V9", "pck-ca.revoked", REJECTED, owner=revoking(PLATFORM_CA_LABEL)),
    Case("tcb-signer-revoked", "V9", "tcb-signer.revoked", REJECTED, owner=revoking(TCB_SIGNER_LABEL)),
    Case("root-revoked", "V9", "root.revoked", REJECTED, owner=revoking(ROOT_LABEL)),
    # The quoting enclave.
    Case("qe-signer", "V12", "qe.mr-signer", REJECTED, qe_report(mr_signer=bytes(32))),
    Case("qe-product", "V12", "qe.product", REJECTED, qe_report(isv_prod_id=3)),
    Case("qe-misc-select", "V12", "qe.misc-select", REJECTED, qe_report(misc_select=1)),
    Case("qe-attributes", "V12", "qe.attributes", REJECTED, qe_report(attributes=b"\x01" + bytes(15))),
    Case("qe-debug", "V12", "qe.debug", REJECTED, qe_report(attributes=b"\x13" + bytes(15))),
    Case("qe-svn-below-every-level", "V12", "qe.tcb.no-level", REJECTED, qe_report(isv_svn=2)),
    Case(
        "qe-svn-with-nothing-current",
        "V12",
        "qe.tcb.no-level",
        REJECTED,
        collateral=served(qe=qe_levels(9, "OutOfDate")),
    ),
    Case(
        "qe-level-revoked", "V12", "qe.tcb.revoked", REJECTED, collateral=served(qe=qe_levels(4, "Revoked"))
    ),
    Case("qe-identity-of-sgx", "V12", "qe.identity", REJECTED, collateral=served(qe=members(id="QE"))),
    Case(
        "qe-identity-version",
        "V12",
        "qe.identity-version",
        UNSUPPORTED,
        collateral=served(qe=members(version=9)),
    ),
    # The platform.
    Case(
        "fmspc-mismatch",
        "V14",
        "tcb-info.fmspc",
        REJECTED,
        collateral=served(tcb=members(fmspc="00806F050001")),
    ),
    Case("pce-id-mismatch", "V14", "tcb-info.pce-id", REJECTED, collateral=served(tcb=members(pceId="0001"))),
    Case(
        "tcb-info-version", "V14", "tcb-info.version", UNSUPPORTED, collateral=served(tcb=members(version=2))
    ),
    Case("tcb-info-of-sgx", "V14", "tcb-info.kind", REJECTED, collateral=served(tcb=members(id="SGX"))),
    Case(
        "cpu-svn-below-every-level",
        "V15",
        "tcb.platform.no-level",
        REJECTED,
        collateral=served(tcb=raise_components("sgx", 3, 9)),
    ),
    Case(
        "tee-tcb-svn-below-every-level",
        "V15",
        "tcb.platform.no-level",
        REJECTED,
        td(tee_tcb_svn=bytes.fromhex("05010200") + bytes(12)),
    ),
    Case(
        "platform-revoked",
        "V15",
        "tcb.platform.revoked",
        REJECTED,
        collateral=served(tcb=every_status("Revoked")),
    ),
    Case(
        "module-id-missing",
        "V16",
        "tdx-module.unknown",
        REJECTED,
        td(tee_tcb_svn=bytes.fromhex("05020400") + bytes(12)),
    ),
    Case(
        "module-identities-missing",
        "V16",
        "tdx-module.unknown",
        REJECTED,
        collateral=served(tcb=lambda document: document.pop("tdxModuleIdentities")),
    ),
    Case(
        "module-mr-signer",
        "V16",
        "tdx-module.mr-signer",
        REJECTED,
        collateral=served(tcb=module(mrsigner="11" * 48)),
    ),
    Case("module-svn", "V16", "tdx-module.no-level", REJECTED, td(tee_tcb_svn=b"\x01\x01\x04" + bytes(13))),
    Case(
        "module-revoked",
        "V16",
        "tdx-module.revoked",
        REJECTED,
        collateral=served(tcb=module_levels(5, "Revoked")),
    ),
    Case(
        "module-attributes", "V16", "tdx-module.attributes", REJECTED, td(seam_attributes=b"\x01" + bytes(7))
    ),
    Case(
        "module-attributes-outside-the-mask",
        "V16",
        "tdx-module.attributes",
        REJECTED,
        td(seam_attributes=b"\x01" + bytes(7)),
        served(tcb=module(attributesMask="00" * 8)),
    ),
    # An SGX enclave.
    Case(
        "enclave-debug",
        "V17",
        "enclave.debug",
        REJECTED,
        lambda owner: owner.sgx_quote(b"\x07" + bytes(15)),
        Adversary.sgx_collateral,
    ),
    Case(
        "sgx-in-version-4",
        "V2",
        "quote.version",
        UNSUPPORTED,
        lambda owner: owner.sgx_quote(version=4),
        Adversary.sgx_collateral,
    ),
    Case(
        "enclave-platform-below-every-level",
        "V15",
        "tcb.platform.no-level",
        REJECTED,
        Adversary.sgx_quote,
        lambda owner: owner.sgx_collateral(raise_components("pcesvn", 0, 99)),
    ),
    Case(
        "tdx-collateral-for-sgx",
        "V14",
        "tcb-info.kind",
        REJECTED,
        Adversary.sgx_quote,
    ),
    # The TD (trust.md 2.9).
    Case("td-debug", "V17", "td.debug", REJECTED, attributes(0)),
    *(Case(f"td-profiling-{bit}", "V17", "td.profiling", REJECTED, attributes(bit)) for bit in (4, 5, 6)),
    *(
        Case(f"td-reserved-{bit}", "V17", "td.reserved", REJECTED, attributes(bit))
        for bit in (1, 3, 7, 8, 15, 23, 26, 32, 61)
    ),
    Case("td-migratable", "V17", "td.migratable", REJECTED, attributes(29)),
    Case("td-servtd-ext", "V17", "td.servtd-ext", REJECTED, attributes(17)),
    Case("td-sept-ve-disable-clear", "V17", "td.sept-ve-disable", REJECTED, attributes(clear=28)),
    Case("td-service-td", "V18", "td.mr-service-td", REJECTED, td_15(b"\x01" + bytes(47))),
    Case(
        "td-mr-signer-seam",
        "V19",
        "td.mr-signer-seam",
        REJECTED,
        td(mr_signer_seam=b"\x11" * 48),
        served(tcb=module(mrsigner="11" * 48)),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_fault_is_refused_under_its_name(case: Case) -> None:
    owner = case.owner()
    verdict = judge(case.quote(owner), case.collateral(owner), owner, case.now)
    assert (case.check, case.code) in refusals(verdict)
    assert verdict.outcome is case.outcome
    assert not verdict.accepted
    assert (verdict.tcb, verdict.ppid, verdict.app_info, verdict.tcb_status) == (None, None, None, None)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_is_told_apart_from_all_others(case: Case) -> None:
    """Each other refusal of the same evidence is a consequence: none has a lower number, but collateral's."""
    owner = case.owner()
    verdict = judge(case.quote(owner), case.collateral(owner), owner, case.now)
    numbers = [int(check.removeprefix("V")) for check, _ in refusals(verdict)]
    named = int(case.check.removeprefix("V"))
    assert min(numbers) >= min(named, 5)
    assert len(verdict.findings) + len(verdict.not_judged) >= 16 or case.check == "V1"


def dcap_accepts(quote: bytes, collateral: Collateral, owner: Adversary, now: datetime = NOW) -> bool:
    try:
        built = QuoteCollateralV3.from_json(collateral.to_json())
        verify_with_root_ca(quote, built, owner.root.certificate_der, int(now.timestamp()))
    except ValueError:
        return False
    return True


# dcap-qvl says nothing to these; trust.md 8.4 and the documents themselves do.
STRICTER = {"pce-id-mismatch", "td-mr-signer-seam", "chain-out-of-order"}


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name not in STRICTER | {"no-collateral"}], ids=lambda case: case.name
)
def test_the_independent_verifier_refuses_the_same(case: Case) -> None:
    owner = case.owner()
    collateral = case.collateral(owner)
    assert collateral is not None
    assert not dcap_accepts(case.quote(owner), collateral, owner, case.now)


ALL_OF_A_QUOTE = [f"V{number}" for number in range(1, 21) if number != 18]


def test_honest_evidence_passes_every_check_in_order() -> None:
    owner = Adversary()
    verdict = judge(owner.quote(), owner.collateral(), owner)
    assert [finding.check for finding in verdict.findings] == ALL_OF_A_QUOTE
    assert all(finding.ok for finding in verdict.findings)
    assert (verdict.outcome, verdict.accepted, verdict.not_judged) == (Outcome.ACCEPTED, True, ())
    assert (verdict.root, verdict.emulated) == (owner.root.name, True)
    assert (verdict.tcb_status, verdict.advisory_ids) == ("UpToDate", ())
    assert verdict.ppid == owner.host.ppid
    assert verdict.app_info is None
    assert verdict.at == NOW


def test_a_td_15_quote_is_judged_with_its_service_td() -> None:
    owner = Adversary()
    verdict = judge(td_15()(owner), owner.collateral(), owner)
    assert [finding.check for finding in verdict.findings] == list(CHECKS[:20])
    assert verdict.accepted


def test_the_chain_in_the_collateral_takes_the_place_of_the_quotes() -> None:
    owner = Adversary()
    chain = owner.host.pck_chain.decode()
    quote = owner.forge(lambda quote: replace(quote, certification_data=_pem_blocks(quote, 0)))
    assert judge(quote, owner.collateral(pck_certificate_chain=chain), owner).accepted


def test_a_chain_without_its_root_is_enough() -> None:
    owner = Adversary()
    quote = owner.forge(lambda quote: replace(quote, certification_data=_pem_blocks(quote, 0, 1)))
    assert judge(quote, owner.collateral(), owner).accepted


def test_a_quote_without_collateral_says_what_can_be_said() -> None:
    owner = Adversary()
    verdict = judge(owner.quote(), None, owner)
    assert verdict.not_judged == ("V4", "V5", "V6", "V9", "V12", "V14", "V15", "V16", "V20")
    assert refusals(verdict) == {("V3", "collateral.missing")}
    assert [f.check for f in verdict.findings] == [
        "V1",
        "V2",
        "V3",
        "V7",
        "V8",
        "V10",
        "V11",
        "V13",
        "V17",
        "V19",
    ]


def test_why_collateral_could_not_be_had_is_the_finding() -> None:
    owner = Adversary()
    reason = unavailable("pccs.timeout", "the collateral", remedy="wait")
    verdict = verify(Evidence.from_quote(owner.quote()), None, owner.root, NOW, missing=reason)
    assert [f for f in verdict.findings if not f.ok] == [replace(reason.finding, check="V3")]


def test_a_missing_component_is_named_with_who_has_to_move() -> None:
    def edit(document: dict[str, Any]) -> None:
        raise_components("sgx", 1, 7)(document)
        raise_components("tdx", 2, 6)(document)
        for level in document["tcbLevels"]:
            level["tcb"]["sgxtcbcomponents"][1] |= {"category": "OS/VMM", "type": "SGX Late Microcode Update"}

    owner = Adversary()
    verdict = judge(owner.quote(), owner.collateral(tcb=edit), owner)
    (finding,) = [f for f in verdict.findings if f.check == "V15"]
    assert finding.expected == (
        "SGX component 1 (SGX Late Microcode Update, OS/VMM) at least 7, TDX component 2 at least 6"
    )
    assert finding.found == "3, 4"
    assert finding.remedy == (
        "update the CPU microcode (loaded by the operating system), and the CPU microcode"
    )


def test_a_verdict_needs_an_instant_with_a_time_zone() -> None:
    owner = Adversary()
    with pytest.raises(MisuseError) as refused:
        judge(owner.quote(), None, owner, datetime(2026, 1, 1))  # noqa: DTZ001 - the fault under test
    assert refused.value.finding.code == "verify.clock"


def test_a_verdict_without_findings_is_not_accepted() -> None:
    assert Verdict("intel", emulated=False, at=NOW, findings=()).outcome is Outcome.REJECTED


def test_roots_do_not_mix_emulated_evidence_under_intel() -> None:
    owner = Adversary()
    verdict = verify(Evidence.from_quote(owner.quote()), owner.collateral(), TrustedRoot.intel(), NOW)
    (finding,) = [f for f in verdict.findings if f.check == "V7"]
    assert (finding.code, finding.expected) == ("pck.chain.root", "ends in intel")
    assert owner.root.name in finding.found
    assert (verdict.root, verdict.emulated, verdict.outcome) == ("intel", False, REJECTED)


def test_a_chain_of_an_unnamed_root_is_called_by_its_issuer() -> None:
    owner, other = Adversary(), Adversary(seed=bytes(32))
    quote = other.forge(lambda quote: replace(quote, certification_data=_pem_blocks(quote, 0, 1)))
    verdict = judge(quote, owner.collateral(), owner)
    (finding,) = [f for f in verdict.findings if f.check == "V7"]
    issuer = name_of(load_certificate(other.pki.root_der).subject)
    assert finding.found == f"ends in an unknown root ({issuer})"


@pytest.mark.parametrize("case", [c for c in CASES if c.name in STRICTER], ids=lambda case: case.name)
def test_the_ladder_is_stricter_where_the_independent_verifier_is_silent(case: Case) -> None:
    owner = case.owner()
    collateral = case.collateral(owner)
    assert collateral is not None
    assert dcap_accepts(case.quote(owner), collateral, owner, case.now)


HONEST = Adversary()
HONEST_QUOTE, HONEST_COLLATERAL = HONEST.quote(), HONEST.collateral()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(HONEST_QUOTE) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_refused_wherever_it_is_signed(offset: int, bit: int) -> None:
    """Also in the PEM chain; the few bits that nothing covers (a line's end) change no certificate."""
    flipped_quote = flip(HONEST_QUOTE, offset, bit)
    verdict = judge(flipped_quote, HONEST_COLLATERAL, HONEST)
    if verdict.accepted:
        assert verdict.quote is not None
        honest = abi.parse_quote(HONEST_QUOTE)
        data = verdict.quote.certification_data
        assert split_pem_chain(data)[:2] == split_pem_chain(honest.certification_data)[:2]
        assert replace(verdict.quote, certification_data=b"") == replace(honest, certification_data=b"")


@given(st.binary(max_size=200))
def test_any_bytes_are_judged_and_never_raise(data: bytes) -> None:
    verdict = judge(data, HONEST_COLLATERAL, HONEST)
    assert (verdict.accepted, verdict.findings[0].check, verdict.findings[0].ok) == (False, "V1", False)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(json.loads(HONEST_COLLATERAL.to_json()))),
    st.integers(0, 10_000),
    st.characters(codec="ascii"),
)
def test_changed_collateral_is_judged_and_never_raises(member: str, place: int, letter: str) -> None:
    members = json.loads(HONEST_COLLATERAL.to_json())
    text = members[member]
    at = place % len(text)
    members[member] = text[:at] + letter + text[at + 1 :]
    try:
        changed = Collateral.from_json(json.dumps(members))
    except EvidenceError:
        return
    verdict = judge(HONEST_QUOTE, changed, HONEST)
    if not dcap_accepts(HONEST_QUOTE, changed, HONEST):
        assert not verdict.accepted


def test_an_enclave_is_judged_without_module_and_attributes_of_a_td() -> None:
    owner = Adversary()
    verdict = judge(owner.sgx_quote(), owner.sgx_collateral(), owner)
    checks = [finding.check for finding in verdict.findings]
    assert checks == [f"V{number}" for number in range(1, 21) if number not in (16, 18, 19)]
    assert (verdict.accepted, verdict.tcb_status, verdict.td) == (True, "UpToDate", None)


def test_evidence_that_cannot_be_read_has_a_verdict_too() -> None:
    error = malformed("eventlog.not-json", "the event log")
    verdict = refused_evidence(error, HONEST.root, NOW)
    assert verdict.findings == (replace(error.finding, check="V1"),)
    assert (verdict.outcome, verdict.not_judged) == (Outcome.MALFORMED, CHECKS[1:20])
