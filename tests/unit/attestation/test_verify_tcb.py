"""TCB levels: found, merged and explained as dcap-qvl does it, and the documents they come from."""

import json
from dataclasses import replace
from typing import Any

import pytest
from dcap_qvl import QuoteCollateralV3, verify_with_root_ca
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import emulated
from support.adversary import NOW, Adversary
from teehouse.attestation import abi, library, tcb
from teehouse.attestation.abi import Quote
from teehouse.attestation.ladder import Ladder
from teehouse.attestation.tcb import Shortfall, converge, describe, enclave_shortfall, relaunch
from teehouse.attestation.tcbinfo import (
    DOCUMENT_LIMIT,
    LEVEL_LIMIT,
    MODULE_STATUSES,
    PLATFORM_STATUSES,
    QE_STATUSES,
    TcbInfo,
    parse_qe_identity,
    parse_tcb_info,
)
from teehouse.attestation.verify import Evidence, verify
from teehouse.base.findings import EvidenceError, Outcome
from teehouse.tee_emulated import constants

OWNER = Adversary()
TCB_INFO = json.loads(OWNER.collateral().tcb_info)
QE_IDENTITY = json.loads(OWNER.collateral().qe_identity)

_small = st.sampled_from([0, 1, 2, 3, 4, 5, 6])


def _level(svns: list[int], pce_svn: int, tdx: list[int], status: str, advisory: str) -> dict[str, Any]:
    return {
        "tcb": {
            "sgxtcbcomponents": [{"svn": svn} for svn in svns] + [{"svn": 0}] * 12,
            "pcesvn": pce_svn,
            "tdxtcbcomponents": [{"svn": svn} for svn in tdx] + [{"svn": 0}] * 13,
        },
        "tcbDate": "2026-01-01T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": [advisory],
    }


_levels = st.lists(
    st.builds(
        _level,
        st.lists(_small, min_size=4, max_size=4),
        st.sampled_from([5, 13, 14]),
        st.lists(_small, min_size=3, max_size=3),
        st.sampled_from(sorted(PLATFORM_STATUSES)),
        st.sampled_from(["A-1", "A-2", "A-3"]),
    ),
    min_size=1,
    max_size=4,
)


def _enclave_levels(statuses: frozenset[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(
        st.builds(
            lambda svn, status: {
                "tcb": {"isvsvn": svn},
                "tcbDate": "2025-01-01T00:00:00Z",
                "tcbStatus": status,
            },
            _small,
            st.sampled_from(sorted(statuses)),
        ),
        min_size=1,
        max_size=3,
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    levels=_levels,
    module=_enclave_levels(MODULE_STATUSES),
    qe=_enclave_levels(QE_STATUSES),
    svn=st.binary(min_size=3, max_size=3).map(lambda raw: bytes(byte % 7 for byte in raw)),
    svn2=st.none() | st.binary(min_size=3, max_size=3).map(lambda raw: bytes(byte % 7 for byte in raw)),
)
def test_the_status_is_the_independent_verifiers(
    levels: list[dict[str, Any]],
    module: list[dict[str, Any]],
    qe: list[dict[str, Any]],
    svn: bytes,
    svn2: bytes | None,
) -> None:
    """Whatever the levels: both refuse, or both give the same status and advisories."""

    def edit(document: dict[str, Any]) -> None:
        document["tcbLevels"] = levels
        document["tdxModuleIdentities"] = [
            {**document["tdxModuleIdentities"][0], "id": f"TDX_{number:02X}", "tcbLevels": module}
            for number in range(1, 5)
        ]

    def body(quote: Quote) -> Quote:
        made = emulated.td_report(tee_tcb_svn=svn + bytes(13))
        if svn2 is None:
            return replace(quote, body=made)
        made = replace(made, tee_tcb_svn2=svn2 + bytes(13), mr_service_td=bytes(48))
        return replace(quote, header=replace(quote.header, version=5), body_type=abi.BODY_TD_15, body=made)

    raw = OWNER.forge(body)
    collateral = OWNER.collateral(tcb=edit, qe=lambda document: document.update(tcbLevels=qe))
    ours = verify(Evidence.from_quote(raw), collateral, OWNER.root, NOW)
    assert "library.disagrees" not in {finding.code for finding in ours.findings}
    assert "library.refused" not in {finding.code for finding in ours.findings}
    built = QuoteCollateralV3.from_json(collateral.to_json())
    try:
        theirs = verify_with_root_ca(raw, built, OWNER.root.certificate_der, int(NOW.timestamp()))
    except ValueError:
        assert not ours.accepted
    else:
        assert (ours.tcb_status, set(ours.advisory_ids)) == (theirs.status, set(theirs.advisory_ids))


@pytest.mark.parametrize(
    ("platform", "component", "merged"),
    [
        ("UpToDate", "UpToDate", "UpToDate"),
        ("UpToDate", "ConfigurationNeeded", "UpToDate"),
        ("UpToDate", "OutOfDate", "OutOfDate"),
        ("SWHardeningNeeded", "OutOfDate", "OutOfDate"),
        ("ConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("OutOfDate", "OutOfDate", "OutOfDate"),
        ("UpToDate", "Revoked", "Revoked"),
        ("Revoked", "UpToDate", "Revoked"),
    ],
)
def test_statuses_converge_by_intels_rule(platform: str, component: str, merged: str) -> None:
    assert converge(platform, component) == merged


@pytest.mark.parametrize(
    ("launch", "current", "status"),
    [
        ("OutOfDate", "UpToDate", "TDRelaunchAdvised"),
        ("OutOfDate", "ConfigurationNeeded", "TDRelaunchAdvisedConfigurationNeeded"),
        ("OutOfDateConfigurationNeeded", "UpToDate", "TDRelaunchAdvisedConfigurationNeeded"),
        ("OutOfDate", "OutOfDate", "OutOfDate"),
        ("UpToDate", "OutOfDate", "UpToDate"),
    ],
)
def test_a_relaunch_is_advised_when_the_platform_moved(launch: str, current: str, status: str) -> None:
    assert relaunch(launch, current) == status


def tcb_info(**members: Any) -> TcbInfo:
    return parse_tcb_info(json.dumps({**TCB_INFO, **members}))


def with_components(kind: str, number: int, component: dict[str, Any]) -> TcbInfo:
    levels = json.loads(json.dumps(TCB_INFO["tcbLevels"]))
    levels[0]["tcb"][f"{kind}tcbcomponents"][number] = component
    return tcb_info(tcbLevels=levels)


@pytest.mark.parametrize(
    ("kind", "number", "component", "name", "mover"),
    [
        (
            "sgx",
            0,
            {"category": "BIOS", "type": "Early Microcode Update"},
            "Early Microcode Update, BIOS",
            "the CPU microcode (carried by the BIOS)",
        ),
        (
            "sgx",
            1,
            {"category": "OS/VMM", "type": "SGX Late Microcode Update"},
            "SGX Late Microcode Update, OS/VMM",
            "the CPU microcode (loaded by the operating system)",
        ),
        (
            "sgx",
            2,
            {"category": "OS/VMM", "type": "TXT SINIT"},
            "TXT SINIT, OS/VMM",
            "the TXT SINIT (loaded by the operating system or the BIOS)",
        ),
        (
            "sgx",
            7,
            {"category": "OS/VMM", "type": "SEAMLDR ACM"},
            "SEAMLDR ACM, OS/VMM",
            "the SEAMLDR ACM (loaded by the operating system or the BIOS)",
        ),
        ("sgx", 3, {"category": "BIOS"}, "BIOS", "the BIOS"),
        ("sgx", 9, {"category": "OS/VMM"}, "OS/VMM", "the OS/VMM"),
        ("sgx", 9, {"category": "Other", "type": "New Thing"}, "New Thing, Other", "the Other (New Thing)"),
        ("sgx", 4, {}, "", "the CPU microcode or the BIOS"),
        (
            "tdx",
            2,
            {"category": "OS/VMM", "type": "TDX Late Microcode Update"},
            "TDX Late Microcode Update, OS/VMM",
            "the CPU microcode (loaded by the operating system)",
        ),
        ("tdx", 3, {}, "", "the CPU microcode"),
    ],
)
def test_who_has_to_move_is_told_by_component(
    kind: str, number: int, component: dict[str, Any], name: str, mover: str
) -> None:
    info = with_components(kind, number, {"svn": 200, **component})
    found = (constants.CPU_SVN if kind == "sgx" else constants.TEE_TCB_SVN)[number]
    assert tcb.shortfalls(info, constants.CPU_SVN, constants.PCE_SVN, constants.TEE_TCB_SVN) == (
        Shortfall(kind.upper(), number, name, found, 200, mover),
    )


@pytest.mark.parametrize("component", [{}, {"type": "TDX Module", "category": "OS/VMM"}])
def test_the_first_two_tdx_components_are_the_modules(component: dict[str, Any]) -> None:
    info = with_components("tdx", 0, {"svn": 9, **component})
    no_module = b"\x05\x00" + constants.TEE_TCB_SVN[2:]
    (lacking,) = tcb.shortfalls(with_components("tdx", 1, {"svn": 0}), constants.CPU_SVN, 12, no_module)
    assert (lacking.kind, lacking.place()) == ("PCESVN", "PCESVN")
    (first, second) = tcb.shortfalls(info, constants.CPU_SVN, constants.PCE_SVN, no_module)
    assert (first.number, first.mover, second.number) == (0, "the TDX module", 1)
    assert tcb.shortfalls(info, constants.CPU_SVN, constants.PCE_SVN, constants.TEE_TCB_SVN) == ()


def test_nothing_lacks_where_no_level_is_up_to_date() -> None:
    levels = [{**level, "tcbStatus": "OutOfDate"} for level in TCB_INFO["tcbLevels"]]
    assert tcb.shortfalls(tcb_info(tcbLevels=levels), bytes(16), 0, bytes(16)) == ()
    assert enclave_shortfall("QE", (), 0, "x") == ()
    assert describe(()) == ("", "", "")


def test_an_sgx_platform_has_no_tdx_components() -> None:
    info = tcb_info()
    assert tcb.platform_level(info, constants.CPU_SVN, constants.PCE_SVN, None) is info.levels[0]
    assert tcb.platform_level(info, constants.CPU_SVN, 1, None) is None
    assert [short.kind for short in tcb.shortfalls(info, bytes(16), 0, None)] == ["SGX"] * 7 + ["PCESVN"]


def test_levels_are_sorted_highest_first() -> None:
    info = tcb_info(tcbLevels=TCB_INFO["tcbLevels"][::-1])
    assert [level.pce_svn for level in info.levels] == [13, 11]


def test_a_module_of_version_0_is_judged_with_the_platform() -> None:
    quote = OWNER.quote(emulated.td_report(tee_tcb_svn=b"\x05\x00" + constants.TEE_TCB_SVN[2:]))

    def edit(document: dict[str, Any]) -> None:
        document["tcbLevels"][0]["tcb"]["tdxtcbcomponents"][1]["svn"] = 0

    verdict = verify(Evidence.from_quote(quote), OWNER.collateral(tcb=edit), OWNER.root, NOW)
    assert verdict.accepted
    assert verdict.tcb is not None
    assert verdict.tcb.module_status is None


def test_the_last_judges_disagreement_refuses() -> None:
    """V20 is asked with a status that the documents do not give."""
    verdict = verify(Evidence.from_quote(OWNER.quote()), OWNER.collateral(), OWNER.root, NOW)
    assert verdict.tcb is not None
    assert verdict.pck is not None
    ladder = Ladder()
    good = library.check_library(
        ladder,
        OWNER.quote(),
        OWNER.collateral(),
        root_der=OWNER.root.certificate_der,
        now=NOW,
        tcb=replace(verdict.tcb, status="OutOfDate"),
        pck=verdict.pck,
    )
    (finding,) = ladder.findings
    assert (good, finding.check, finding.code) == (False, "V20", "library.disagrees")
    assert finding.expected.startswith("OutOfDate []")
    assert finding.found.startswith("UpToDate []")


def test_the_last_judges_refusal_refuses_in_its_own_words() -> None:
    verdict = verify(Evidence.from_quote(OWNER.quote()), OWNER.collateral(), OWNER.root, NOW)
    assert verdict.tcb is not None
    assert verdict.pck is not None
    ladder = Ladder()
    good = library.check_library(
        ladder,
        OWNER.quote()[:-1],
        OWNER.collateral(),
        root_der=OWNER.root.certificate_der,
        now=NOW,
        tcb=verdict.tcb,
        pck=verdict.pck,
    )
    (finding,) = ladder.findings
    assert (good, finding.code, finding.outcome) == (False, "library.refused", Outcome.REJECTED)
    assert finding.found


def test_a_client_authentication_signer_is_left_to_the_last_judge() -> None:
    """Extended key usage is a rule that only dcap-qvl has (trust.md 6.1): the ladder passes on its words."""
    from support.adversary_certificates import client_auth_signer

    chain, key = client_auth_signer(OWNER.pki)
    collateral = OWNER.collateral(signer=key, tcb_info_issuer_chain=chain, qe_identity_issuer_chain=chain)
    verdict = verify(Evidence.from_quote(OWNER.quote()), collateral, OWNER.root, NOW)
    (finding,) = [f for f in verdict.findings if not f.ok]
    assert (finding.check, finding.code) == ("V20", "library.refused")
    assert (verdict.tcb, verdict.not_judged) == (None, ())


def broken(document: dict[str, Any], path: list[Any], value: Any) -> str:
    """The document with one member replaced, or left out for `...`."""
    made = json.loads(json.dumps(document))
    place = made
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(made)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["id"], 1),
        (["version"], "3"),
        (["version"], True),
        (["version"], -1),
        (["issueDate"], "yesterday"),
        (["issueDate"], "2026-01-01T00:00:00"),
        (["nextUpdate"], ...),
        (["fmspc"], "00"),
        (["fmspc"], "zz806F050000"),
        (["pceId"], None),
        (["tcbEvaluationDataNumber"], 1.5),
        (["tdxModule"], ...),
        (["tdxModule", "mrsigner"], "00"),
        (["tdxModuleIdentities"], {}),
        (["tdxModuleIdentities", 0], []),
        (["tdxModuleIdentities", 0, "tcbLevels"], []),
        (["tdxModuleIdentities", 0, "tcbLevels", 0, "tcbStatus"], "SWHardeningNeeded"),
        (["tcbLevels"], []),
        (["tcbLevels"], [{}] * (LEVEL_LIMIT + 1)),
        (["tcbLevels", 0, "tcb"], None),
        (["tcbLevels", 0, "tcbStatus"], "Fine"),
        (["tcbLevels", 0, "advisoryIDs"], "A"),
        (["tcbLevels", 0, "advisoryIDs"], [1]),
        (["tcbLevels", 0, "tcb", "pcesvn"], 65536),
        (["tcbLevels", 0, "tcb", "sgxtcbcomponents"], [{"svn": 1}] * 15),
        (["tcbLevels", 0, "tcb", "tdxtcbcomponents"], [{"svn": 1}] * 17),
        (["tcbLevels", 0, "tcb", "sgxtcbcomponents", 0, "svn"], 256),
        (["tcbLevels", 0, "tcb", "sgxtcbcomponents", 0], {"svn": 1, "type": 5}),
    ],
    ids=str,
)
def test_tcb_info_of_another_shape_is_malformed(path: list[Any], value: Any) -> None:
    with pytest.raises(EvidenceError) as refused:
        parse_tcb_info(broken(TCB_INFO, path, value))
    assert refused.value.finding.code == "collateral.tcb-info.malformed"
    assert refused.value.finding.outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["id"], ...),
        (["miscselect"], "0"),
        (["attributes"], "00"),
        (["mrsigner"], ""),
        (["isvprodid"], 70000),
        (["tcbLevels", 0, "tcb", "isvsvn"], "4"),
        (["tcbLevels", 0, "tcbStatus"], "SWHardeningNeeded"),
    ],
    ids=str,
)
def test_a_qe_identity_of_another_shape_is_malformed(path: list[Any], value: Any) -> None:
    with pytest.raises(EvidenceError) as refused:
        parse_qe_identity(broken(QE_IDENTITY, path, value))
    assert refused.value.finding.code == "collateral.qe-identity.malformed"


def test_documents_are_bounded() -> None:
    with pytest.raises(EvidenceError) as refused:
        parse_tcb_info(" " * (DOCUMENT_LIMIT + 1))
    assert refused.value.finding.code == "collateral.tcb-info.too-long"


@given(st.text(max_size=200) | st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(json.dumps))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parse_tcb_info, parse_qe_identity):
        with pytest.raises(EvidenceError):
            read(text)
