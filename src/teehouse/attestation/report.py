"""A verdict as JSON: what the command line prints with --json, and what an API answers.

Rules:

1. Every member is always there; what is not known is null, an empty list or an empty text.
2. Whose root it was is said twice: `root` names it, `emulated` is a boolean; and `notice` begins with
   EMULATED whenever the root is.
3. Bytes are lower-case hex. Instants are ISO 8601 in UTC.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC
from typing import Any

from teehouse.attestation.identity import AppInfo
from teehouse.attestation.tcb import Tcb
from teehouse.attestation.verify import Verdict
from teehouse.base.findings import OUTCOME_TABLE, Finding, Outcome, worst

EMULATED_NOTICE = "EMULATED: this verdict holds under an emulated root; no hardware stands behind it"


def overall(verdict: Verdict, findings: Iterable[Finding] = ()) -> Outcome:
    """The outcome of a verdict together with what policy and expectations found."""
    own = verdict.outcome
    others = worst(findings)
    return worst((Finding("", "", own), Finding("", "", others)))


def report(
    verdict: Verdict, *, policy: Sequence[Finding] = (), expectations: Sequence[Finding] = ()
) -> dict[str, Any]:
    """The report of a verdict, and of the findings of `policy.judge` and `validate` over it."""
    outcome = overall(verdict, (*policy, *expectations))
    td = verdict.td
    return {
        "outcome": outcome.value,
        "accepted": outcome is Outcome.ACCEPTED,
        "exit_code": OUTCOME_TABLE[outcome].exit_code,
        "genuine": verdict.accepted,
        "root": verdict.root,
        "emulated": verdict.emulated,
        "notice": EMULATED_NOTICE if verdict.emulated else "",
        "at": verdict.at.astimezone(UTC).isoformat(),
        "tcb_status": verdict.tcb_status,
        "advisory_ids": list(verdict.advisory_ids),
        "tcb": _tcb(verdict.tcb),
        "device_id": verdict.device_id.hex() if verdict.device_id else None,
        "report_data": verdict.quote.body.report_data.hex() if verdict.quote else None,
        "measurements": None
        if td is None
        else {
            "mrtd": td.mr_td.hex(),
            "rtmr0": td.rt_mr0.hex(),
            "rtmr1": td.rt_mr1.hex(),
            "rtmr2": td.rt_mr2.hex(),
            "rtmr3": td.rt_mr3.hex(),
        },
        "app_info": _app_info(verdict.app_info),
        "os_image_verified": verdict.image_verified,
        "findings": [finding.as_dict() for finding in verdict.findings],
        "not_judged": list(verdict.not_judged),
        "policy": [finding.as_dict() for finding in policy],
        "expectations": [finding.as_dict() for finding in expectations],
    }


def _tcb(tcb: Tcb | None) -> dict[str, Any] | None:
    if tcb is None:
        return None
    return {
        "status": tcb.status,
        "advisory_ids": list(tcb.advisory_ids),
        "date": tcb.date.astimezone(UTC).isoformat(),
        "evaluation_number": tcb.evaluation_number,
        "platform_status": tcb.platform_status,
        "module_status": tcb.module_status,
        "qe_status": tcb.qe_status,
        "shortfalls": [asdict(short) for short in tcb.shortfalls],
    }


def _app_info(info: AppInfo | None) -> dict[str, Any] | None:
    if info is None:
        return None
    members = asdict(info)
    scripts = members.pop("init_script_hashes")
    return {
        **{name: value.hex() for name, value in members.items()},
        "init_script_hashes": None if scripts is None else [script.hex() for script in scripts],
    }
