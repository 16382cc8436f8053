"""Check V20 of `verify`: the field's own verifier, dcap-qvl, has the last word (trust.md 4, 5).

The steps before it exist to say why, and are at least as strict; what they let pass is judged once more,
in full, by independent code. Its refusal refuses, and so does any disagreement about the platform.
"""

from datetime import datetime
from functools import lru_cache
from typing import Any

from teehouse.attestation.bundle import Collateral
from teehouse.attestation.ladder import Ladder
from teehouse.attestation.pck import PckExtension
from teehouse.attestation.tcb import Tcb

_TEXT_LIMIT = 500  # characters of the library's refusal that a finding carries


@lru_cache(maxsize=32)
def _built(collateral: Collateral) -> Any:
    """The library's form of collateral; building it costs more than the look-up (trust.md 5)."""
    from dcap_qvl import QuoteCollateralV3  # noqa: PLC0415 - a compiled library; only verifying needs it

    return QuoteCollateralV3.from_json(collateral.to_json())


def check_library(
    ladder: Ladder,
    raw: bytes,
    collateral: Collateral,
    *,
    root_der: bytes,
    now: datetime,
    tcb: Tcb,
    pck: PckExtension,
) -> bool:
    """V20: dcap-qvl accepts the quote under the same root at the same instant, with the same result."""
    from dcap_qvl import verify_with_root_ca  # noqa: PLC0415 - as above

    try:
        report = verify_with_root_ca(raw, _built(collateral), root_der, int(now.timestamp()))
    except Exception as error:  # noqa: BLE001 - whatever stops the last judge is a refusal, never a pass
        words = " ".join(str(error).split())[:_TEXT_LIMIT]
        ladder.refused("V20", "library.refused", "the verdict of dcap-qvl", expected="accepted", found=words)
        return False
    ours = (tcb.status, frozenset(tcb.advisory_ids), pck.ppid)
    theirs = (str(report.status), frozenset(report.advisory_ids), bytes(report.ppid))
    return ladder.judge(
        "V20",
        ours == theirs,
        "library.accepted" if ours == theirs else "library.disagrees",
        "the verdict of dcap-qvl",
        expected=f"{tcb.status} {sorted(tcb.advisory_ids)}, PPID {pck.ppid.hex()}",
        found=f"{report.status} {sorted(report.advisory_ids)}, PPID {bytes(report.ppid).hex()}",
    )
