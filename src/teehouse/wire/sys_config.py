"""`.sys-config.json`: what the host tells a CVM about its surroundings (guest-agent.md 12.3).

Nothing in it is measured but `vm_config`'s image hash; whoever uses a URL from here has to check what
answers there.
"""

from dataclasses import dataclass

from teehouse.wire.members import Members

SYS_CONFIG_LIMIT = 4 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class SysConfig:
    """The parsed file. Texts that the host did not give are empty.

    `vm_config` is JSON text, passed on verbatim (12.4). `pccs_url` is the URL under whichever of its two names
    it came.
    """

    vm_config: str
    kms_urls: tuple[str, ...] = ()
    gateway_urls: tuple[str, ...] = ()
    pccs_url: str = ""
    amd_kds_url: str = ""
    nvidia_attestation_proxy_url: str = ""
    docker_registry: str = ""
    host_api_url: str = ""
    mr_config: str = ""


def parse_sys_config(raw: str | bytes) -> SysConfig:
    """Read `.sys-config.json`. Raises `FileError` (a `MisuseError`) with every fault."""
    data = raw.encode(errors="surrogatepass") if isinstance(raw, str) else raw
    members = Members("sys-config", data, limit=SYS_CONFIG_LIMIT)
    collateral = members.table("collateral_urls")
    for name, url in collateral.items():
        if url is not None and not isinstance(url, str):
            members.fault(f"collateral_urls.{name}", "a string", type(url).__name__)
    config = SysConfig(
        vm_config=members.text("vm_config") or "",
        kms_urls=members.texts("kms_urls"),
        gateway_urls=members.texts(members.first("gateway_urls", "tproxy_urls")),
        pccs_url=str(collateral.get("pccs") or members.text("pccs_url") or ""),
        amd_kds_url=str(collateral.get("amd_kds") or ""),
        nvidia_attestation_proxy_url=members.text("nvidia_attestation_proxy_url") or "",
        docker_registry=members.text("docker_registry") or "",
        host_api_url=members.text("host_api_url") or "",
        mr_config=members.text("mr_config") or "",
    )
    members.finish()
    return config
