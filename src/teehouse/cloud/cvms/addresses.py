"""Where an app and the agent of its CVM are reached (cloud-api.md 11.3, 12.5).

Rules:

1. Behind a gateway, a port of the compose file is reached at an address that is made of the app, or the instance,
   and the port; the agent's pages at port 8090. It stands while the CVM is stopped: it will lead there again.
2. Without one, the ports are shown that the node serves, while the CVM runs: those of TCP, in the order of the
   containers' ports. App and instance have the same address, as nothing stands before the instances. A port may be
   another one after each boot; what the node says then is shown.
3. An address of the node's host leads somewhere for a node in this process, or at a loopback address: another
   host's loopback leads nowhere, so nothing is shown. A port served at all of a host's addresses is shown at the one
   by which its node is spoken to.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from teehouse.cloud.cvms.models import CvmStatus
from teehouse.cloud.cvms.records import CvmRecord, NodeRecord
from teehouse.node.workload import LOOPBACK, ContainerState

AGENT_PORT: Final = 8090


def published_text(containers: Iterable[ContainerState]) -> str:
    """The TCP ports that a node serves, `ADDRESS:PORT` each, in the order of rule 2; empty for none."""
    ports = {
        (port.container_port, port.port, port.address)
        for container in containers
        for port in container.ports
        if port.protocol == "tcp"
    }
    return " ".join(
        f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for _, port, address in sorted(ports)
    )


def public_urls(cvm: CvmRecord, published: str | None = None) -> list[dict[str, Any]]:
    """Rules 1 and 2. `published` is what the node says just now, where it was asked."""
    domain = gateway_domain(cvm)
    if domain is not None:
        instance = cvm.row.instance_id or cvm.app.app_id  # the app where there is no instance (yet)
        return [
            {"app": _url(cvm.app.app_id, port, domain), "instance": _url(instance, port, domain)}
            for port in cvm.compose.ports
        ]
    served = cvm.row.published if published is None else published
    if not served or cvm.node is None or cvm.row.status != CvmStatus.RUNNING:
        return []
    urls = dict.fromkeys(_reached(place, cvm.node) for place in served.split(" "))
    return [{"app": url, "instance": url} for url in urls if url is not None]


def agent_url(cvm: CvmRecord) -> str | None:
    """Where the agent's pages are (rules 1 and 3); None where nothing leads there."""
    if cvm.node is None:
        return None
    if cvm.node.gateway_domain is None:
        url = cvm.row.agent_url
        return url if url is not None and _leads(urlsplit(url).hostname or "", cvm.node) else None
    domain = gateway_domain(cvm)
    return None if domain is None else _url(cvm.app.app_id, AGENT_PORT, domain)


def dashboard_url(cvm: CvmRecord) -> str | None:
    """The first of the agent's pages."""
    url = agent_url(cvm)
    return None if url is None else f"{url.rstrip('/')}/"


def gateway_domain(cvm: CvmRecord) -> str | None:
    """The domain of the gateway that the CVM is reached through."""
    return cvm.node.gateway_domain if cvm.node is not None and cvm.row.gateway_enabled else None


def _reached(place: str, node: NodeRecord) -> str | None:
    """The URL of an `ADDRESS:PORT` of the node's host (rule 3)."""
    address, _, port = place.rpartition(":")
    address = address.strip("[]")
    if address in {"", "0.0.0.0", "::"}:  # noqa: S104 - read, not listened at
        address = _host(node)
    elif not _leads(address, node):
        return None
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _leads(address: str, node: NodeRecord) -> bool:
    return not _loopback(address) or _loopback(_host(node))


def _host(node: NodeRecord) -> str:
    """The host by which the node is spoken to; loopback for one in this process."""
    return LOOPBACK if node.url is None else urlsplit(node.url).hostname or ""


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url(name: str, port: int, domain: str) -> str:
    return f"https://{name}-{port}.{domain}"
