"""How trusted computing base levels are found and merged (trust.md 4.8, 4.10 to 4.13), and what lacks.

Rules:

1. The platform's level is the first one, highest first, whose 16 SGX components, PCESVN and TDX components
   are all at most the platform's. With a TDX module of version above 0 (tee_tcb_svn[1]) the first two TDX
   components are left to the module's own identity.
2. A level of the module or of the QE is the first in document order with isvsvn at most the found one.
3. Merging: a Revoked component revokes the whole; an OutOfDate component makes UpToDate and
   SWHardeningNeeded OutOfDate, and ConfigurationNeeded and ConfigurationAndSWHardeningNeeded
   OutOfDateConfigurationNeeded; any other component changes nothing. Advisories are united.
4. TD 1.5: when the TCB at launch is out of date and the present one is not, a relaunch is advised.
5. What lacks is said against the newest UpToDate level: the one with the latest date, of several the
   highest. Who has to move is taken from Intel's `type` and `category`, else from the defaults in
   `_default_mover`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from teehouse.attestation.tcbinfo import (
    CONFIGURATION_AND_SW_HARDENING_NEEDED,
    CONFIGURATION_NEEDED,
    OUT_OF_DATE,
    OUT_OF_DATE_CONFIGURATION_NEEDED,
    RELAUNCH_ADVISED,
    RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
    REVOKED,
    SW_HARDENING_NEEDED,
    UP_TO_DATE,
    Component,
    EnclaveLevel,
    PlatformLevel,
    TcbInfo,
    order_key,
)

MODULE_COMPONENTS = 2  # TDX components that the module's identity judges
BIOS = "the BIOS"
MICROCODE = "the CPU microcode"
TDX_MODULE = "the TDX module"
MICROCODE_OR_BIOS = "the CPU microcode or the BIOS"


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One component below the level it should have.

    `kind` is "SGX", "TDX", "PCESVN", "TDX module" or "QE"; `number` its zero-based number among the 16
    components, None for the others.
    """

    kind: str
    number: int | None
    name: str
    found: int
    needed: int
    mover: str

    def place(self) -> str:
        """The component in words."""
        number = "" if self.number is None else f" component {self.number}"
        return f"{self.kind}{number}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True, slots=True)
class Tcb:
    """What was found about the computing base of a genuine quote.

    `date` is the older of the platform's and the module's level dates; `evaluation_number` the smaller one
    of TCB info and QE identity; `shortfalls` what lacks to the newest UpToDate level.
    """

    status: str
    advisory_ids: tuple[str, ...]
    date: datetime
    evaluation_number: int
    platform_status: str
    module_status: str | None
    qe_status: str
    qe_date: datetime
    shortfalls: tuple[Shortfall, ...]


def _svns(components: Sequence[Component]) -> tuple[int, ...]:
    return tuple(component.svn for component in components)


def _first_tdx(tee_tcb_svn: bytes) -> int:
    """The first TDX component that counts (rule 1)."""
    return MODULE_COMPONENTS if tee_tcb_svn[1] > 0 else 0


def platform_level(
    info: TcbInfo, cpu_svn: bytes, pce_svn: int, tee_tcb_svn: bytes | None
) -> PlatformLevel | None:
    """The platform's level (rule 1). `tee_tcb_svn` is None for SGX; the SVNs are 16 bytes each."""
    for level in info.levels:
        if level.pce_svn > pce_svn or any(n > f for n, f in zip(_svns(level.sgx), cpu_svn, strict=True)):
            continue
        if tee_tcb_svn is not None:
            first = _first_tdx(tee_tcb_svn)
            pairs = zip(_svns(level.tdx)[first:], tee_tcb_svn[first:], strict=True)
            if any(needed > found for needed, found in pairs):
                continue
        return level
    return None


def enclave_level(levels: Iterable[EnclaveLevel], isv_svn: int) -> EnclaveLevel | None:
    """The level of a module or a QE (rule 2)."""
    return next((level for level in levels if level.isv_svn <= isv_svn), None)


def converge(platform: str, component: str) -> str:
    """The status of a platform with one of its components (rule 3)."""
    if REVOKED in (platform, component):
        return REVOKED
    if component == OUT_OF_DATE:
        if platform in (UP_TO_DATE, SW_HARDENING_NEEDED):
            return OUT_OF_DATE
        if platform in (CONFIGURATION_NEEDED, CONFIGURATION_AND_SW_HARDENING_NEEDED):
            return OUT_OF_DATE_CONFIGURATION_NEEDED
    return platform


def relaunch(launch: str, current: str) -> str:
    """The status of a TD whose TCB moved since its launch (rule 4)."""
    stale = (OUT_OF_DATE, OUT_OF_DATE_CONFIGURATION_NEEDED)
    if launch not in stale or current in stale:
        return launch
    configuration = (
        CONFIGURATION_NEEDED,
        CONFIGURATION_AND_SW_HARDENING_NEEDED,
        OUT_OF_DATE_CONFIGURATION_NEEDED,
    )
    if launch in configuration or current in configuration:
        return RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return RELAUNCH_ADVISED


def _default_mover(kind: str, number: int) -> str:
    if kind == "TDX":
        return TDX_MODULE if number < MODULE_COMPONENTS else MICROCODE
    return MICROCODE_OR_BIOS


def _mover(kind: str, number: int, component: Component) -> str:
    """Who has to move (rule 5)."""
    named = component.type.lower()
    if "tdx module" in named:
        return TDX_MODULE
    if "late microcode" in named:
        return f"{MICROCODE} (loaded by the operating system)"
    if "early microcode" in named:
        return f"{MICROCODE} (carried by the BIOS)"
    if "seamldr" in named or "sinit" in named:
        return f"the {component.type} (loaded by the operating system or the BIOS)"
    if component.category == "BIOS":
        return BIOS
    if component.category:
        return (
            f"the {component.category} ({component.type})" if component.type else f"the {component.category}"
        )
    return _default_mover(kind, number)


def _name(component: Component) -> str:
    return ", ".join(part for part in (component.type, component.category) if part)


def shortfalls(
    info: TcbInfo, cpu_svn: bytes, pce_svn: int, tee_tcb_svn: bytes | None
) -> tuple[Shortfall, ...]:
    """What lacks to the newest UpToDate level (rule 5); nothing when there is no such level."""
    current = [level for level in info.levels if level.status == UP_TO_DATE]
    if not current:
        return ()
    target = max(current, key=lambda level: (level.date, order_key(level)))
    lacking = _component_shortfalls("SGX", target.sgx, cpu_svn, 0)
    if target.pce_svn > pce_svn:
        lacking.append(
            Shortfall(
                "PCESVN", None, "", pce_svn, target.pce_svn, "the SGX PCE, by a BIOS or platform update"
            )
        )
    if tee_tcb_svn is not None:
        lacking += _component_shortfalls("TDX", target.tdx, tee_tcb_svn, _first_tdx(tee_tcb_svn))
    return tuple(lacking)


def _component_shortfalls(
    kind: str, needed: Sequence[Component], found: bytes, first: int
) -> list[Shortfall]:
    return [
        Shortfall(
            kind, number, _name(component), found[number], component.svn, _mover(kind, number, component)
        )
        for number, component in enumerate(needed)
        if number >= first and component.svn > found[number]
    ]


def enclave_shortfall(
    kind: str, levels: Sequence[EnclaveLevel], isv_svn: int, mover: str
) -> tuple[Shortfall, ...]:
    """What lacks a module or a QE to its newest UpToDate level."""
    current = [level for level in levels if level.status == UP_TO_DATE]
    if not current:
        return ()
    needed = max(current, key=lambda level: (level.date, level.isv_svn)).isv_svn
    return (Shortfall(kind, None, "", isv_svn, needed, mover),) if needed > isv_svn else ()


def describe(lacking: Sequence[Shortfall]) -> tuple[str, str, str]:
    """Expected, found and remedy of a finding about what lacks; three empty texts when nothing does."""
    if not lacking:
        return "", "", ""
    expected = ", ".join(f"{short.place()} at least {short.needed}" for short in lacking)
    found = ", ".join(f"{short.found}" for short in lacking)
    movers = list(dict.fromkeys(short.mover for short in lacking))
    return f"{expected}", found, f"update {', and '.join(movers)}"
