"""Is there a TDX here, and by which ways does it answer?

Rules:

1. Quote sources, in this order: the Quote Generation Service, if its port is configured and
   `/dev/tdx_guest` is there to make the report; configfs-tsm, if its provider is `tdx_guest`.
2. RTMR3 can be extended, by sysfs or by the device.
3. Where 1 or 2 does not hold, the refusal names everything that was looked for and what came of it.
   Nothing takes the place of hardware: emulation is asked for by name or not had.
"""

from collections.abc import Mapping
from pathlib import Path

from teehouse.tee.configfs import ConfigfsQuotes
from teehouse.tee.device import TdxDevice
from teehouse.tee.devicefiles import DeviceFiles, OsFiles
from teehouse.tee.paths import TdxPaths
from teehouse.tee.platform import PlatformError, platform_error
from teehouse.tee.qgs import QgsQuotes, configured_port, vsock_connection
from teehouse.tee.registers import RuntimeRegister
from teehouse.tee.sources import QuoteSource
from teehouse.tee.tdx import QuoteLimits, TdxPlatform

REMEDY = "run the agent as root inside a TDX guest; without hardware: teehouse agent --emulated"


def detect(
    environ: Mapping[str, str],
    root: Path = Path("/"),
    *,
    files: DeviceFiles | None = None,
    limits: QuoteLimits | None = None,
) -> TdxPlatform:
    """The TDX of this machine, below `root`. Raises `PlatformError` (rule 3); makes the configfs entry."""
    files = OsFiles() if files is None else files
    paths = TdxPaths.of(environ, root)
    device = TdxDevice(paths.device)
    register = RuntimeRegister(paths.registers, device, files)
    seen: list[str] = []
    sources = [
        source
        for source in (_qgs(paths, device, files, seen), _configfs(paths, files, seen))
        if source is not None
    ]
    if not register.available():
        seen.append(f"neither {register.attribute} nor {paths.device}")
    if not sources:
        raise platform_error(
            "tdx.absent",
            "there is no Intel TDX here",
            expected=f"a port in {paths.attest_config} with {paths.device}, or {paths.entry}",
            found="; ".join(seen),
            remedy=REMEDY,
        )
    if not register.available():
        raise platform_error(
            "tdx.no-register",
            "RTMR3 cannot be extended here",
            expected=f"{register.attribute} or {paths.device}",
            found="; ".join(seen),
            remedy=REMEDY,
        )
    return TdxPlatform(sources, register, paths.ccel, files=files, limits=limits)


def _qgs(paths: TdxPaths, device: TdxDevice, files: DeviceFiles, seen: list[str]) -> QuoteSource | None:
    port = configured_port(paths.attest_config, files)
    if port is None:
        seen.append(f"no port in {paths.attest_config}")
        return None
    if not files.exists(paths.device):
        seen.append(f"no {paths.device} for the reports that the quote generation service signs")
        return None
    return QgsQuotes(vsock_connection(port), device.report)


def _configfs(paths: TdxPaths, files: DeviceFiles, seen: list[str]) -> QuoteSource | None:
    source = ConfigfsQuotes(paths.entry, files)
    try:
        source.prepare()
    except PlatformError as error:
        seen.append(str(error))
        return None
    return source
