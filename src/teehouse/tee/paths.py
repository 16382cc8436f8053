"""Where a TDX guest's kernel and configuration are found (guest-agent.md 10.5, 10.8)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ENTRY_VARIABLE = "DCAP_TDX_QUOTE_CONFIGFS_PATH"  # the configfs entry itself
REGISTERS_VARIABLE = "DCAP_TDX_RTMR_SYSFS_PATH"  # the directory of the rtmrN:sha384 attributes
CCEL_VARIABLE = "DSTACK_CCEL_FILE"  # the boot event log


@dataclass(frozen=True, slots=True)
class TdxPaths:
    """Every path that the real platform touches."""

    entry: Path
    registers: Path
    device: Path
    attest_config: Path
    ccel: Path
    dmi: Path

    @classmethod
    def of(cls, environ: Mapping[str, str], root: Path = Path("/")) -> "TdxPaths":
        """The usual places below `root`, each replaced by its variable where that is set and not empty."""

        def place(usual: str, variable: str = "") -> Path:
            chosen = environ.get(variable, "") if variable else ""
            return Path(chosen) if chosen else root / usual

        return cls(
            entry=place("sys/kernel/config/tsm/report/com.intel.dcap", ENTRY_VARIABLE),
            registers=place("sys/devices/virtual/misc/tdx_guest/measurements", REGISTERS_VARIABLE),
            device=place("dev/tdx_guest"),
            attest_config=place("etc/tdx-attest.conf"),
            ccel=place("sys/firmware/acpi/tables/data/CCEL", CCEL_VARIABLE),
            dmi=place("sys/class/dmi/id"),
        )
