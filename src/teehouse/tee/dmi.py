"""Whose machine the guest runs on, as its firmware tables say (guest-agent.md 4.4).

The host writes these tables: the names are for people, nothing may be decided by them.
"""

from dataclasses import dataclass
from pathlib import Path

from teehouse.tee.devicefiles import DeviceFiles, OsFiles

TEXT_LIMIT = 4096  # bytes


@dataclass(frozen=True, slots=True)
class CloudIdentity:
    """Names of vendor and product, each empty where it cannot be read."""

    vendor: str
    product: str


def read_cloud_identity(dmi: Path, files: DeviceFiles | None = None) -> CloudIdentity:
    """The identity in the DMI directory `dmi` (`/sys/class/dmi/id`); raises nothing."""
    files = OsFiles() if files is None else files

    def text(name: str) -> str:
        try:
            return files.read(dmi / name, TEXT_LIMIT).decode("utf-8", "replace").strip()
        except OSError:
            return ""

    return CloudIdentity(vendor=text("sys_vendor"), product=text("product_name"))
