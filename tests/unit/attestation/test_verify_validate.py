"""Genuine is not wanted: expectations over a genuine verdict, and the report of both."""

from dataclasses import replace
from typing import Any

import pytest

from support.adversary import APP_ID, COMPOSE_HASH, INSTANCE_ID, NOW, Adversary, Claims
from teehouse.attestation.eventlog import RuntimeEvent
from teehouse.attestation.policy import Policy, judge
from teehouse.attestation.report import EMULATED_NOTICE, overall, report
from teehouse.attestation.validate import Expectations, validate
from teehouse.attestation.verify import Evidence, Verdict, verify
from teehouse.base.findings import MisuseError, Outcome
from teehouse.tee_emulated.image import EmulatedImage

OWNER = Adversary()


def judged(claims: Claims | None = None) -> Verdict:
    evidence = Evidence.from_attestation(OWNER.attest(claims))
    return verify(evidence, OWNER.collateral(), OWNER.root, NOW)


VERDICT = judged()


def proven(verdict: Verdict) -> dict[str, Any]:
    info, td = verdict.app_info, verdict.td
    assert info is not None
    assert td is not None
    return {
        "app_id": APP_ID,
        "compose_hash": COMPOSE_HASH,
        "os_image_hash": EmulatedImage.default().os_image_hash,
        "device_id": verdict.device_id,
        "instance_id": INSTANCE_ID,
        "report_data": bytes(range(64)),
        "mrtd": td.mr_td,
        "rtmr0": td.rt_mr0,
        "rtmr1": td.rt_mr1,
        "rtmr2": td.rt_mr2,
        "rtmr3": td.rt_mr3,
        "mr_config_id": td.mr_config_id,
        "mr_system": info.mr_system,
        "mr_aggregated": info.mr_aggregated,
        "key_provider": "kms",
        "key_provider_id": b"\xab\xcd",
    }


def test_all_that_is_proven_can_be_asked_for() -> None:
    findings = validate(VERDICT, Expectations(**proven(VERDICT)))
    assert all(finding.ok for finding in findings)
    assert len(findings) == 17


@pytest.mark.parametrize("name", sorted(proven(VERDICT)))
def test_each_expectation_is_told_apart(name: str) -> None:
    value = proven(VERDICT)[name]
    other = "tpm" if isinstance(value, str) else bytes(len(value) - 1) + b"\xff"
    findings = validate(VERDICT, Expectations(**{**proven(VERDICT), name: other}))
    (finding,) = [f for f in findings if not f.ok]
    assert finding.code == f"validate.{name.replace('_', '-')}"
    assert finding.outcome is Outcome.REJECTED
    assert finding.expected == (other if isinstance(other, str) else other.hex())
    assert finding.found == (value if isinstance(value, str) else value.hex())


def test_nothing_asked_is_answered_by_genuineness_alone() -> None:
    assert [(f.check, f.code, f.ok) for f in validate(VERDICT, Expectations())] == [
        ("E1", "validate.genuine", True)
    ]


def test_what_is_not_genuine_is_nobodys_app() -> None:
    verdict = verify(Evidence.from_attestation(OWNER.attest()), None, OWNER.root, NOW)
    (finding,) = validate(verdict, Expectations(**proven(VERDICT)))
    assert (finding.check, finding.code, finding.outcome) == (
        "E1",
        "validate.not-genuine",
        Outcome.COLLATERAL_MISSING,
    )


def test_a_bare_quote_shows_no_app() -> None:
    quote = Evidence.from_quote(OWNER.attest().quote)
    verdict = verify(quote, OWNER.collateral(), OWNER.root, NOW)
    findings = validate(verdict, Expectations(app_id=APP_ID, mrtd=proven(VERDICT)["mrtd"]))
    assert [(f.code, f.ok) for f in findings] == [
        ("validate.genuine", True),
        ("validate.app-id", False),
        ("validate.mrtd", True),
    ]
    assert findings[1].found == "nothing that shows it"


def test_an_image_is_shown_only_where_the_registers_were_computed_from_it() -> None:
    named = replace(VERDICT, image_verified=False)
    wanted = Expectations(os_image_hash=EmulatedImage.default().os_image_hash)
    (finding,) = [f for f in validate(named, wanted) if not f.ok]
    assert (finding.check, finding.code, finding.found) == (
        "E3",
        "validate.os-image-hash",
        "nothing that shows it",
    )


def test_an_app_without_instance_id_can_be_asked_for() -> None:
    events = tuple(
        RuntimeEvent("instance-id", b"") if event.event == "instance-id" else event
        for event in Claims().events
    )
    verdict = judged(Claims(events=events))
    assert all(f.ok for f in validate(verdict, Expectations(instance_id=b"")))
    (finding,) = [f for f in validate(VERDICT, Expectations(instance_id=b"")) if not f.ok]
    assert finding.expected == "none"


def test_an_unreadable_key_provider_shows_none() -> None:
    events = tuple(
        RuntimeEvent("key-provider", b"?") if event.event == "key-provider" else event
        for event in Claims().events
    )
    (finding,) = [
        f for f in validate(judged(Claims(events=events)), Expectations(key_provider="kms")) if not f.ok
    ]
    assert finding.found == "nothing that shows it"


@pytest.mark.parametrize("name", sorted(set(proven(VERDICT)) - {"key_provider", "key_provider_id"}))
def test_a_wrong_size_is_misuse_and_not_a_weaker_wish(name: str) -> None:
    with pytest.raises(MisuseError) as refused:
        Expectations(**{name: bytes(7)})
    assert refused.value.finding.code == "expectation.size"


def test_the_report_says_everything_and_whose_root() -> None:
    policy, wanted = judge(VERDICT, Policy(), NOW), validate(VERDICT, Expectations(app_id=bytes(20)))
    made = report(VERDICT, policy=policy, expectations=wanted)
    td, tcb, info = VERDICT.td, VERDICT.tcb, VERDICT.app_info
    assert td is not None
    assert tcb is not None
    assert info is not None
    assert made == {
        "outcome": "rejected",
        "accepted": False,
        "exit_code": 10,
        "genuine": True,
        "root": OWNER.root.name,
        "emulated": True,
        "notice": EMULATED_NOTICE,
        "at": "2026-11-20T12:00:00+00:00",
        "tcb_status": "UpToDate",
        "advisory_ids": [],
        "tcb": {
            "status": "UpToDate",
            "advisory_ids": [],
            "date": "2026-01-01T00:00:00+00:00",
            "evaluation_number": 20,
            "platform_status": "UpToDate",
            "module_status": "UpToDate",
            "qe_status": "UpToDate",
            "shortfalls": [],
        },
        "device_id": info.device_id.hex(),
        "report_data": bytes(range(64)).hex(),
        "measurements": {
            "mrtd": td.mr_td.hex(),
            "rtmr0": td.rt_mr0.hex(),
            "rtmr1": td.rt_mr1.hex(),
            "rtmr2": td.rt_mr2.hex(),
            "rtmr3": td.rt_mr3.hex(),
        },
        "app_info": {
            "app_id": APP_ID.hex(),
            "compose_hash": COMPOSE_HASH.hex(),
            "instance_id": INSTANCE_ID.hex(),
            "device_id": info.device_id.hex(),
            "mr_system": info.mr_system.hex(),
            "mr_aggregated": info.mr_aggregated.hex(),
            "os_image_hash": info.os_image_hash.hex(),
            "key_provider_info": info.key_provider_info.hex(),
            "init_script_hashes": [],
        },
        "os_image_verified": True,
        "findings": [finding.as_dict() for finding in VERDICT.findings],
        "not_judged": [],
        "policy": [finding.as_dict() for finding in policy],
        "expectations": [finding.as_dict() for finding in wanted],
    }
    assert made["notice"].startswith("EMULATED")


def test_the_report_of_nothing_has_all_members() -> None:
    verdict = verify(Evidence(b""), None, OWNER.root, NOW)
    made = report(verdict)
    assert set(made) == set(report(VERDICT))
    assert [made[name] for name in ("tcb_status", "tcb", "device_id", "report_data", "measurements")] == [
        None
    ] * 5
    assert (made["app_info"], made["outcome"], made["exit_code"]) == (None, "malformed", 30)


def test_an_app_info_of_older_records_has_no_scripts() -> None:
    assert VERDICT.app_info is not None
    old = replace(VERDICT, app_info=replace(VERDICT.app_info, init_script_hashes=None))
    assert report(old)["app_info"]["init_script_hashes"] is None


def test_the_worst_of_all_findings_is_the_outcome() -> None:
    assert overall(VERDICT) is Outcome.ACCEPTED
    assert overall(VERDICT, validate(VERDICT, Expectations(app_id=bytes(20)))) is Outcome.REJECTED
