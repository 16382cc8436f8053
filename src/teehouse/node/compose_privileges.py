"""Privileges that a service of a docker-compose file asks for, beyond those of a plain container.

In a virtual machine they end at its wall; in emulation they would be the host's, so they are refused:

1. privileged mode, also of the commands that run when a container starts or stops;
2. namespaces of the host or of another app, its network among them;
3. capabilities beyond those every container has;
4. security options but `no-new-privileges`;
5. devices, other runtimes, control groups by name, containers outside the app, the engine's own socket.
"""

from typing import Any

from teehouse.node.compose_faults import Faults

_NAMESPACES = ("pid", "ipc", "uts", "userns_mode", "cgroup")
_REFUSED = (
    "devices",
    "device_cgroup_rules",
    "cgroup_parent",
    "external_links",
    "runtime",
    "gpus",
    "use_api_socket",
    "credential_spec",
    "isolation",
    "provider",
)
_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)


def refuse(faults: Faults, at: str, expected: str, found: Any) -> None:
    """Note a privilege that is not given."""
    remedy = "in emulation it would be the host's; leave it out"
    faults.add("privilege", at, expected=expected, found=found, remedy=remedy)


def check_privileges(at: str, service: dict[str, Any], faults: Faults) -> None:
    """Note every privilege that the service at the dotted path `at` asks for in vain."""
    _mode(at, service, faults)
    _namespaces(at, service, faults)
    _lists(at, service, faults)
    for member in _REFUSED:  # rule 5
        if service.get(member):
            refuse(faults, f"{at}.{member}", "a plain container", member)
    deploy = faults.mapping(f"{at}.deploy", service.get("deploy"))
    resources = faults.mapping(f"{at}.deploy.resources", deploy.get("resources"))
    reserved = faults.mapping(f"{at}.deploy.resources.reservations", resources.get("reservations"))
    if reserved.get("devices"):
        refuse(faults, f"{at}.deploy.resources.reservations.devices", "a plain container", "devices")


def _mode(at: str, service: dict[str, Any], faults: Faults) -> None:
    """Rule 1."""
    asked = {at: service}
    for moment in ("post_start", "pre_stop"):
        for index, hook in enumerate(faults.items(f"{at}.{moment}", service.get(moment))):
            asked[f"{at}.{moment}[{index}]"] = faults.mapping(f"{at}.{moment}[{index}]", hook)
    for place, members in asked.items():
        if faults.flag(f"{place}.privileged", members.get("privileged", False)):
            refuse(faults, f"{place}.privileged", "a plain container", "privileged mode")


def _namespaces(at: str, service: dict[str, Any], faults: Faults) -> None:
    """Rule 2."""
    for member in _NAMESPACES:
        mode = faults.text(f"{at}.{member}", service.get(member, "")) or ""
        if mode == "host" or mode.startswith("container:"):
            refuse(faults, f"{at}.{member}", "a namespace of the app", "one beyond it")
    mode = faults.text(f"{at}.network_mode", service.get("network_mode", "")) or "none"
    if mode not in {"none", "bridge"} and not mode.startswith("service:"):
        refuse(faults, f"{at}.network_mode", "a network of the app", "one beyond it")


def _lists(at: str, service: dict[str, Any], faults: Faults) -> None:
    """Rules 3 to 5."""
    for capability in faults.items(f"{at}.cap_add", service.get("cap_add")):
        text = faults.text(f"{at}.cap_add", capability)
        if text is not None and text.upper().removeprefix("CAP_") not in _CAPABILITIES:
            refuse(faults, f"{at}.cap_add", "capabilities that every container has", capability)
    for option in faults.items(f"{at}.security_opt", service.get("security_opt")):
        text = faults.text(f"{at}.security_opt", option)
        if text is not None and not text.startswith("no-new-privileges"):
            refuse(faults, f"{at}.security_opt", "no-new-privileges", option)
    for source in faults.items(f"{at}.volumes_from", service.get("volumes_from")):
        if (faults.text(f"{at}.volumes_from", source) or "").startswith("container:"):
            refuse(faults, f"{at}.volumes_from", "volumes of the app", "those of another container")
