"""One emulated installation for tests: fixed seed, fixed clock, hosts by label, a TD to ask, a TD report to quote."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from teehouse.attestation.abi import TdReport
from teehouse.base.clock import FixedClock
from teehouse.tee_emulated import constants
from teehouse.tee_emulated.collateral import EmulatedCollateral
from teehouse.tee_emulated.image import EmulatedImage
from teehouse.tee_emulated.pki import EmulatedPki
from teehouse.tee_emulated.quote import EmulatedHost
from teehouse.tee_emulated.td import EmulatedTd

SEED = bytes(range(32))
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOW_SECONDS = int(NOW.timestamp())
MEMORY = 2 << 30


def clock() -> FixedClock:
    return FixedClock(NOW)


@cache
def pki() -> EmulatedPki:
    return EmulatedPki(SEED)


@cache
def host(label: str = "alpha") -> EmulatedHost:
    return pki().host(label)


def collateral() -> EmulatedCollateral:
    return EmulatedCollateral(pki(), clock())


def td_report(**fields: bytes) -> TdReport:
    """A TD report that verifies at the newest level; `fields` replace members by name."""
    members: dict[str, bytes] = {
        "tee_tcb_svn": constants.TEE_TCB_SVN,
        "mr_seam": constants.MR_SEAM,
        "mr_signer_seam": constants.MR_SIGNER_SEAM,
        "seam_attributes": constants.SEAM_ATTRIBUTES,
        "td_attributes": constants.TD_ATTRIBUTES,
        "xfam": constants.XFAM,
        "mr_td": bytes(48),
        "mr_config_id": bytes(48),
        "mr_owner": bytes(48),
        "mr_owner_config": bytes(48),
        "rt_mr0": bytes(48),
        "rt_mr1": bytes(48),
        "rt_mr2": bytes(48),
        "rt_mr3": bytes(48),
        "report_data": bytes(64),
    }
    return TdReport(**{**members, **fields})


def quote(**fields: bytes) -> bytes:
    """A quote of `host()` over `td_report(**fields)`."""
    return host().quote(td_report(**fields).encode())


@cache
def image() -> EmulatedImage:
    return EmulatedImage.default()


def td(
    directory: Path, *, label: str = "alpha", mr_config_id: bytes = bytes(48), memory_size: int = MEMORY
) -> EmulatedTd:
    """A TD that has just booted: RTMR3, in a file of `directory`, is zero."""
    made = EmulatedTd(
        host(label),
        image(),
        vm_config=image().vm_config(2, memory_size),
        mr_config_id=mr_config_id,
        register_path=directory / "rtmr3",
    )
    made.reset()
    return made
