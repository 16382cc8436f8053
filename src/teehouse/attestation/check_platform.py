"""Checks V14 to V19 of `verify`: the platform's security version, its TDX module, the TD's attributes."""

from dataclasses import dataclass

from teehouse.attestation.abi import EnclaveReport, Quote, TdReport
from teehouse.attestation.check_chain import is_debug
from teehouse.attestation.ladder import Ladder
from teehouse.attestation.pck import PckExtension
from teehouse.attestation.tcb import (
    TDX_MODULE,
    Shortfall,
    Tcb,
    converge,
    describe,
    enclave_level,
    enclave_shortfall,
    platform_level,
    relaunch,
    shortfalls,
)
from teehouse.attestation.tcbinfo import (
    REVOKED,
    EnclaveLevel,
    ModuleIdentity,
    PlatformLevel,
    QeIdentity,
    TcbInfo,
)
from teehouse.base.findings import Outcome

# Bits of td_attributes and the rule each breaks when it is set (trust.md 2.9).
DEBUG_BIT = 0
PROFILING_BITS = (4, 5, 6)
SERVTD_EXT_BIT = 17
SEPT_VE_DISABLE_BIT = 28
MIGRATABLE_BIT = 29
RESERVED_BITS = (1, 2, 3, *range(7, 16), *range(23, 27), *range(32, 62))

_ZERO_MEASUREMENT = bytes(48)


@dataclass(frozen=True, slots=True)
class _Levels:
    """Levels found for one tee_tcb_svn."""

    platform: PlatformLevel
    module: EnclaveLevel | None

    @property
    def status(self) -> str:
        return (
            self.platform.status
            if self.module is None
            else converge(self.platform.status, self.module.status)
        )


def check_platform_kind(ladder: Ladder, quote: Quote, info: TcbInfo, pck: PckExtension) -> bool:
    """V14: the TCB info is that of this platform."""
    before = ladder.failures
    name, version = ("TDX", 3) if isinstance(quote.body, TdReport) else ("SGX", 2)
    for code, subject, expected, found in (
        ("fmspc", "the FMSPC of the TCB info", pck.fmspc.hex().upper(), info.fmspc.hex().upper()),
        ("pce-id", "the PCE id of the TCB info", pck.pce_id.hex(), info.pce_id.hex()),
        ("kind", "the kind of the TCB info", name, info.id),
    ):
        if expected != found:
            ladder.refused(
                "V14",
                f"tcb-info.{code}",
                subject,
                expected=expected,
                found=found,
                remedy="fetch the collateral of this quote's platform",
            )
    if info.version < version:
        ladder.refused(
            "V14",
            "tcb-info.version",
            "the version of the TCB info",
            outcome=Outcome.UNSUPPORTED,
            expected=f"at least {version}",
            found=str(info.version),
        )
    if ladder.failures != before:
        return False
    ladder.passed(
        "V14",
        "tcb-info.platform",
        "the TCB info is this platform's",
        found=f"FMSPC {pck.fmspc.hex().upper()}",
    )
    return True


def check_levels(
    ladder: Ladder,
    quote: Quote,
    *,
    info: TcbInfo,
    identity: QeIdentity,
    pck: PckExtension,
    qe: EnclaveLevel,
) -> Tcb | None:
    """V15 and V16: the TCB levels of platform and TDX module; gives the merged status (trust.md 4.10 to 4.13)."""
    body = quote.body
    svns: list[bytes | None] = [None]
    if isinstance(body, TdReport):
        svns = [body.tee_tcb_svn] if body.tee_tcb_svn2 is None else [body.tee_tcb_svn, body.tee_tcb_svn2]
    lacking = _lacking(info, pck, svns[0], quote.qe_report, identity)
    platforms = [_platform(ladder, info, pck, svn) for svn in svns]
    modules = [
        _module(ladder, info, body, svn) for svn in svns if isinstance(body, TdReport) and svn is not None
    ]
    if not all(platforms) or not all(ok for ok, _ in modules):
        return None
    found = [
        _Levels(platform, modules[place][1] if modules else None)
        for place, platform in enumerate(platforms)
        if platform is not None
    ]
    ladder.passed("V15", "tcb.platform", "the platform has a TCB level", found=_dated(found[0].platform))
    if isinstance(body, TdReport):
        module = found[0].module
        ladder.passed(
            "V16",
            "tdx-module.identity",
            "the TDX module is one that the TCB info describes",
            found="version 0, judged with the platform" if module is None else f"TCB {_dated(module)}",
        )
    status = found[0].status if len(found) == 1 else relaunch(found[0].status, found[1].status)
    status = converge(status, qe.status)
    levels: list[PlatformLevel | EnclaveLevel] = [level.platform for level in found]
    levels += [level.module for level in found if level.module is not None]
    advisories = [advisory for level in (*levels, qe) for advisory in level.advisory_ids]
    launch = found[0]
    return Tcb(
        status=status,
        advisory_ids=tuple(dict.fromkeys(advisories)),
        date=min(launch.platform.date, launch.module.date if launch.module else launch.platform.date),
        evaluation_number=min(info.evaluation_number, identity.evaluation_number),
        platform_status=launch.platform.status,
        module_status=launch.module.status if launch.module else None,
        qe_status=qe.status,
        qe_date=qe.date,
        shortfalls=lacking,
    )


def _dated(level: PlatformLevel | EnclaveLevel) -> str:
    return f"{level.status} of {level.date.date().isoformat()}"


def _module_identity(info: TcbInfo, version: int) -> ModuleIdentity | None:
    wanted = f"TDX_{version:02X}"
    return next((identity for identity in info.module_identities if identity.id.upper() == wanted), None)


def _lacking(
    info: TcbInfo,
    pck: PckExtension,
    tee_tcb_svn: bytes | None,
    qe_report: EnclaveReport,
    identity: QeIdentity,
) -> tuple[Shortfall, ...]:
    lacking = shortfalls(info, pck.cpu_svn, pck.pce_svn, tee_tcb_svn)
    if tee_tcb_svn is not None and tee_tcb_svn[1] > 0:
        module = _module_identity(info, tee_tcb_svn[1])
        if module is not None:
            lacking += enclave_shortfall("TDX module", module.levels, tee_tcb_svn[0], TDX_MODULE)
    return lacking + enclave_shortfall(
        "QE", identity.levels, qe_report.isv_svn, "the quoting enclave (Intel's DCAP packages)"
    )


def _platform(
    ladder: Ladder, info: TcbInfo, pck: PckExtension, tee_tcb_svn: bytes | None
) -> PlatformLevel | None:
    """V15 for one tee_tcb_svn; None when refused."""
    level = platform_level(info, pck.cpu_svn, pck.pce_svn, tee_tcb_svn)
    if level is not None and level.status != REVOKED:
        return level
    expected, found, remedy = describe(shortfalls(info, pck.cpu_svn, pck.pce_svn, tee_tcb_svn))
    if level is None:
        ladder.refused(
            "V15",
            "tcb.platform.no-level",
            "the platform's TCB is below every level",
            expected=expected or "some level of the TCB info",
            found=found or "none that applies",
            remedy=remedy,
        )
    else:
        ladder.refused(
            "V15",
            "tcb.platform.revoked",
            "the platform's TCB level is revoked",
            expected=expected,
            found=found or REVOKED,
            remedy=remedy,
        )
    return None


def _module(
    ladder: Ladder, info: TcbInfo, body: TdReport, tee_tcb_svn: bytes
) -> tuple[bool, EnclaveLevel | None]:
    """V16 for one tee_tcb_svn: whether it holds, and the module's level (None for module version 0)."""
    version, svn = tee_tcb_svn[1], tee_tcb_svn[0]
    identity = info.module if version == 0 else _module_identity(info, version)
    if identity is None:
        ladder.refused(
            "V16",
            "tdx-module.unknown",
            "the TDX module's identity in the TCB info",
            expected=f"TDX_{version:02X}",
            found=", ".join(known.id for known in info.module_identities) or "none",
        )
        return False, None
    before = ladder.failures
    level = None
    if version > 0:
        level = enclave_level(identity.levels, svn)
        expected, found, remedy = describe(enclave_shortfall("TDX module", identity.levels, svn, TDX_MODULE))
        if level is None or level.status == REVOKED:
            ladder.refused(
                "V16",
                "tdx-module.no-level" if level is None else "tdx-module.revoked",
                "the TDX module's TCB level",
                expected=expected or "a level that applies",
                found=found or str(svn),
                remedy=remedy,
            )
    if body.mr_signer_seam != identity.mr_signer:
        ladder.refused(
            "V16",
            "tdx-module.mr-signer",
            "the TDX module's signer",
            expected=identity.mr_signer.hex(),
            found=body.mr_signer_seam.hex(),
        )
    mask = identity.attributes_mask
    masked = bytes(found & m for found, m in zip(body.seam_attributes, mask, strict=True))
    wanted = bytes(want & m for want, m in zip(identity.attributes, mask, strict=True))
    if masked != wanted or masked != body.seam_attributes:
        ladder.refused(
            "V16",
            "tdx-module.attributes",
            "the TDX module's attributes",
            expected=f"{wanted.hex()} and no bit outside mask {mask.hex()}",
            found=body.seam_attributes.hex(),
        )
    return ladder.failures == before, level


def check_attributes(ladder: Ladder, body: TdReport | EnclaveReport) -> None:
    """V17: attributes of the TD (trust.md 2.9, one finding per broken rule), or of the SGX enclave (8.4)."""
    before = ladder.failures
    if isinstance(body, EnclaveReport):
        if is_debug(body):
            ladder.refused("V17", "enclave.debug", "the enclave's debug attribute", expected="0", found="1")
        else:
            ladder.passed("V17", "enclave.attributes", "the enclave is not in debug mode")
        return
    bits = int.from_bytes(body.td_attributes, "little")

    def is_set(bit: int) -> bool:
        return bool(bits >> bit & 1)

    for code, subject, broken in (
        ("td.debug", "the TD's DEBUG attribute (bit 0)", is_set(DEBUG_BIT)),
        ("td.profiling", "the TD's profiling attributes (bits 4 to 6)", any(map(is_set, PROFILING_BITS))),
        ("td.reserved", "the TD's reserved attributes", any(map(is_set, RESERVED_BITS))),
        ("td.migratable", "the TD's MIGRATABLE attribute (bit 29)", is_set(MIGRATABLE_BIT)),
        ("td.servtd-ext", "the TD's SERVTD_EXT attribute (bit 17)", is_set(SERVTD_EXT_BIT)),
    ):
        if broken:
            ladder.refused("V17", code, subject, expected="0", found=f"attributes {body.td_attributes.hex()}")
    if not is_set(SEPT_VE_DISABLE_BIT):
        ladder.refused(
            "V17",
            "td.sept-ve-disable",
            "the TD's SEPT_VE_DISABLE attribute (bit 28)",
            expected="1",
            found=f"attributes {body.td_attributes.hex()}",
        )
    if ladder.failures == before:
        ladder.passed("V17", "td.attributes", "the TD's attributes keep their rules")


def check_service_td(ladder: Ladder, body: TdReport) -> None:
    """V18; only a TD 1.5 report has the field."""
    if body.mr_service_td is not None:
        _zero(ladder, "V18", "td.mr-service-td", "the measurement of a service TD", body.mr_service_td)


def check_seam_signer(ladder: Ladder, body: TdReport) -> None:
    """V19: Intel's own module (trust.md 8.4)."""
    _zero(
        ladder,
        "V19",
        "td.mr-signer-seam",
        "the signer of the TDX module",
        body.mr_signer_seam,
    )


def _zero(ladder: Ladder, check: str, code: str, subject: str, found: bytes) -> None:
    ladder.judge(
        check, found == _ZERO_MEASUREMENT, code, subject, expected="48 zero bytes", found=found.hex()
    )
