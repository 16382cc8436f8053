"""A docker-compose file written for a machine of its own, made to fit a host that it shares with other CVMs.

The author wrote for a virtual machine (design.md 6): its names, ports and paths are free there, and privileges end at
its wall. The emulated driver has the operator's machine and no wall. Rules:

1. Names: the project is `teehouse-<cvm id>`; names of volumes and networks are dropped, so that the project's stands
   before them; a container name gets the project's name before it and stays a name within the app's networks.
   What is external belongs to somebody else and is refused.
2. Ports: see `compose_ports`. Mounts: see `compose_mounts`.
3. Privileges: see `compose_privileges`. `network_mode: bridge`, the network all apps would share, becomes the app's
   own.
4. The file stands alone: what it includes, extends or builds from lies in the CVM's home or is refused.
5. Labels under `teehouse.` and `com.docker.compose.` are ours: by them a CVM's things are found again.
6. A container that shall always be restarted is so until it is stopped: the CVM decides when it runs.
7. A log that the file does not bound is bounded.
8. Every fault is reported at once, none repeats a variable's value.
"""

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from teehouse.node.compose_faults import Faults
from teehouse.node.compose_interpolation import escaped
from teehouse.node.compose_mounts import Bind, Roots, resolve, rewrite_volume
from teehouse.node.compose_ports import IsFree, Ports
from teehouse.node.compose_privileges import check_privileges, refuse
from teehouse.node.compose_yaml import load_compose
from teehouse.node.workload import Limits, PortsPolicy, check_cvm_id

LABEL_CVM = "teehouse.cvm"
LABEL_NAME = "teehouse.container-name"
LABEL_PORTS = "teehouse.wanted-ports"
_OUR_LABELS = ("teehouse.", "com.docker.compose.")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_NETWORK_DRIVERS = frozenset({"", "bridge", "overlay", "none", "null"})
_NETWORK_OPTIONS = frozenset(
    {
        "com.docker.network.driver.mtu",
        "com.docker.network.bridge.enable_icc",
        "com.docker.network.bridge.enable_ip_masquerade",
    }
)


@dataclass(frozen=True, slots=True)
class ComposePlan:
    """The rewritten file as JSON, which is YAML too; the places it mounts; whether it builds an image."""

    document: str = field(repr=False)
    binds: tuple[Bind, ...]
    builds: bool


def project_name(cvm_id: str) -> str:
    """The name before all names of the CVM's containers, networks and volumes."""
    return f"teehouse-{check_cvm_id(cvm_id)}"


def rewrite_compose(
    text: str,
    cvm_id: str,
    roots: Roots,
    environment: Mapping[str, str],
    *,
    is_free: IsFree,
    ports: PortsPolicy,
    limits: Limits,
) -> ComposePlan:
    """Make the app's file fit. Raises `WorkloadError` with every fault (rule 8)."""
    document = load_compose(text)
    faults = Faults(environment)
    rewriting = _Rewriting(project_name(cvm_id), roots, faults, Ports(ports, is_free), limits)
    rewriting.file(document)
    faults.finish()
    return ComposePlan(json.dumps(document), tuple(rewriting.binds), rewriting.builds)


@dataclass(slots=True)
class _Rewriting:
    project: str
    roots: Roots
    faults: Faults
    ports: Ports
    limits: Limits
    binds: list[Bind] = field(default_factory=list)
    builds: bool = False

    def file(self, document: dict[str, Any]) -> None:
        for member in ("version", "name"):  # both would change what Compose makes of the rest
            document.pop(member, None)
        if "include" in document:
            self.faults.add("include", "include", expected="a file that stands alone", found="another file")
        services = self.faults.mapping("services", document.get("services"))
        if not services:
            self.faults.add("services", "services", expected="at least one service", found="none")
        for name, service in services.items():
            if isinstance(service, dict):
                # Anchors make one dict of several services; each is rewritten for itself.
                services[name] = dict(service)
                self.service(f"services.{name}", services[name])
            else:
                self.faults.add("malformed", f"services.{name}", expected="a mapping", found=service)
        for kind, rewrite in (("networks", self.network), ("volumes", self.volume)):
            self.section(kind, document, rewrite)
        for kind in ("secrets", "configs"):
            self.section(kind, document, self.resource)

    def section(self, kind: str, document: dict[str, Any], rewrite: Any) -> None:
        """Rule 1 for one top-level mapping of named things."""
        if kind not in document:
            return
        section = dict(self.faults.mapping(kind, document[kind]))
        document[kind] = section
        for name, value in section.items():
            at = f"{kind}.{name}"
            thing = dict(self.faults.mapping(at, value))
            section[name] = thing
            thing.pop("name", None)
            external = thing.pop("external", False)
            if isinstance(external, dict) or self.faults.flag(f"{at}.external", external):
                self.faults.add(
                    "external", f"{at}.external", expected="one of the app's own", found="one of the host's"
                )
            rewrite(at, thing)

    def network(self, at: str, network: dict[str, Any]) -> None:
        driver = self.faults.text(f"{at}.driver", network.get("driver", ""))
        if driver is not None and driver not in _NETWORK_DRIVERS:
            self.faults.add("network", f"{at}.driver", expected="bridge", found=network["driver"])
        for option in self.faults.mapping(f"{at}.driver_opts", network.get("driver_opts")):
            if option not in _NETWORK_OPTIONS:
                self.faults.add(
                    "network", f"{at}.driver_opts", expected="no reach beyond the network", found=option
                )

    def volume(self, at: str, volume: dict[str, Any]) -> None:
        driver = self.faults.text(f"{at}.driver", volume.get("driver", ""))
        if driver not in {"", "local", None}:
            self.faults.add("volume", f"{at}.driver", expected="local", found=volume["driver"])
        options = dict(self.faults.mapping(f"{at}.driver_opts", volume.get("driver_opts")))
        if not options:
            return
        kind = self.faults.text(f"{at}.driver_opts.type", options.get("type", ""))
        if kind == "tmpfs":
            return
        mode = self.faults.text(f"{at}.driver_opts.o", options.get("o", "")) or ""
        if kind in {"", "none"} and "bind" in mode.split(","):
            device = self.faults.text(f"{at}.driver_opts.device", options.get("device"))
            bind = (
                None
                if device is None
                else resolve(device, self.roots, self.faults, f"{at}.driver_opts.device")
            )
            if bind is not None:
                self.binds.append(bind)
                volume["driver_opts"] = {**options, "device": escaped(str(bind.source))}
            return
        self.faults.add(
            "volume", f"{at}.driver_opts", expected="a bind or a tmpfs", found="another file system"
        )

    def resource(self, at: str, resource: dict[str, Any]) -> None:
        """A secret or a config."""
        if "file" in resource:
            self.inside(f"{at}.file", resource["file"])

    def inside(self, at: str, value: Any) -> None:
        """Rule 4: a relative path that stays in the CVM's home."""
        text = self.faults.text(at, value)
        if text is None:
            return
        path = posixpath.normpath(text)
        if path == ".." or path.startswith(("/", "~", "../")):
            self.faults.add("path", at, expected="a path within the app's directory", found="one outside")

    def service(self, at: str, service: dict[str, Any]) -> None:
        check_privileges(at, service, self.faults)
        if self.faults.text(f"{at}.network_mode", service.get("network_mode", "")) == "bridge":
            del service["network_mode"]
        self.files(at, service)
        labels = self.labels(at, service)
        self.name(at, service, labels)
        self.publish(at, service, labels)
        service["labels"] = labels
        if "volumes" in service:
            volumes = []
            for index, value in enumerate(self.faults.items(f"{at}.volumes", service["volumes"])):
                volume, bind = rewrite_volume(value, self.roots, self.faults, f"{at}.volumes[{index}]")
                volumes.append(volume)
                self.binds += [] if bind is None else [bind]
            service["volumes"] = volumes
        if self.faults.text(f"{at}.restart", service.get("restart", "")) == "always":
            service["restart"] = "unless-stopped"
        bounds = {"max-size": str(self.limits.log_bytes), "max-file": str(self.limits.log_files)}
        service.setdefault("logging", {"driver": "json-file", "options": bounds})

    def files(self, at: str, service: dict[str, Any]) -> None:
        """Rule 4."""
        extends = service.get("extends")
        if isinstance(extends, dict) and "file" in extends:
            self.faults.add(
                "include", f"{at}.extends", expected="a service of this file", found="another file"
            )
        for member in ("env_file", "label_file"):
            listed = service.get(member)
            for item in listed if isinstance(listed, list) else [] if listed is None else [listed]:
                self.inside(f"{at}.{member}", item.get("path", "") if isinstance(item, dict) else item)
        build = service.get("build")
        if build is None:
            return
        self.builds = True
        parts = build if isinstance(build, dict) else {"context": build}
        contexts = self.faults.pairs(f"{at}.build.additional_contexts", parts.get("additional_contexts"))
        for member, value in (
            *((member, parts[member]) for member in ("context", "dockerfile") if member in parts),
            *((f"additional_contexts.{name}", value) for name, value in contexts.items()),
        ):
            if "://" not in (self.faults.text(f"{at}.build.{member}", value) or ""):
                self.inside(f"{at}.build.{member}", value)
        for member in ("privileged", "network", "entitlements", "ssh", "secrets", "security_opt"):
            if parts.get(member):
                refuse(self.faults, f"{at}.build.{member}", "a plain build", member)

    def labels(self, at: str, service: dict[str, Any]) -> dict[str, Any]:
        """Rule 5."""
        labels = self.faults.pairs(f"{at}.labels", service.get("labels"))
        for name in labels:
            if name.startswith(_OUR_LABELS):
                self.faults.add("label", f"{at}.labels", expected="labels of the app's own", found=name)
        return {**labels, LABEL_CVM: self.project.removeprefix("teehouse-")}

    def name(self, at: str, service: dict[str, Any], labels: dict[str, Any]) -> None:
        """Rule 1 for containers."""
        if service.get("container_name") is None:
            return
        name = self.faults.text(f"{at}.container_name", service["container_name"])
        if name is None or not _NAME.fullmatch(name):
            expected = "1 to 63 letters, digits, `_`, `.`, `-`"
            self.faults.add("name", f"{at}.container_name", expected=expected, found="another name")
            return
        service["container_name"] = f"{self.project}-{name}"
        labels[LABEL_NAME] = name
        if "network_mode" in service:
            return
        listed = service.get("networks")
        networks = (
            dict.fromkeys(listed)
            if isinstance(listed, list)
            else self.faults.mapping(f"{at}.networks", listed)
        )
        service["networks"] = {
            network: self._with_alias(f"{at}.networks.{network}", options, name)
            for network, options in (networks or {"default": None}).items()
        }

    def _with_alias(self, at: str, options: Any, name: str) -> dict[str, Any]:
        members = self.faults.mapping(at, options)
        aliases = self.faults.items(f"{at}.aliases", members.get("aliases"))
        return {**members, "aliases": [*aliases, *([] if name in aliases else [name])]}

    def publish(self, at: str, service: dict[str, Any], labels: dict[str, Any]) -> None:
        """Rule 2 for ports."""
        if "ports" not in service:
            return
        published: list[str] = []
        wanted: dict[str, int] = {}
        for index, value in enumerate(self.faults.items(f"{at}.ports", service["ports"])):
            made, hosts = self.ports.rewrite(value, self.faults, f"{at}.ports[{index}]")
            published += made
            wanted |= hosts
        service["ports"] = published
        if wanted:
            labels[LABEL_PORTS] = json.dumps(wanted, sort_keys=True, separators=(",", ":"))
