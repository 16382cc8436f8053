"""Where the bind mounts of a docker-compose file lead on a host that stands in for a virtual machine.

Rules:

1. The sockets of the agent (guest-agent.md 1.1), their directory `/var/run/dstack`, and `/var/run` itself are the
   CVM's own. `/run` is `/var/run`.
2. Every other path of the machine is one below the CVM's own disk, and `.`, `~` and `/dstack` are its home: one CVM's
   files are never another's, nor the host's. No path leads out of them, by `..` or by a link.
3. The host's time zone and its certificate authorities may be read; they are mounted read-only.
4. The host's kernel (`/dev`, `/proc`, `/sys`) and the sockets of container engines, through which one CVM would
   reach all others, are refused.
"""

import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teehouse.node.compose_faults import Faults
from teehouse.node.compose_interpolation import escaped

_HOST_READABLE = (
    "/etc/localtime",
    "/etc/timezone",
    "/etc/ssl/certs",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
)
_KERNEL = ("/dev", "/proc", "/sys")
_ENGINES = ("docker.sock", "containerd", "podman", "crio", "docker")
_MODES = frozenset(
    {"ro", "rw", "z", "Z", "cached", "delegated", "consistent", "private", "rprivate", "slave", "rslave"}
)
_SHARED = frozenset({"shared", "rshared"})
_OTHER_TYPES = frozenset({"volume", "tmpfs", "image"})


@dataclass(frozen=True, slots=True)
class Roots:
    """Directories of one CVM: `sockets` stands for `/var/run`, `home` for `/dstack`, `disk` for `/`."""

    sockets: Path
    home: Path
    disk: Path


@dataclass(frozen=True, slots=True)
class Bind:
    """A place on the host: the CVM's own, made as a directory when `make`, or the host's, which is `read_only`."""

    source: Path
    read_only: bool = False
    make: bool = False


def resolve(path: str, roots: Roots, faults: Faults, at: str) -> Bind | None:
    """The place that a bind source means (rules 1 to 4); None with a fault noted."""
    if path.startswith("~"):
        path = f"/dstack/{path[1:].lstrip('/')}" if path[1:2] in {"", "/"} else path
    if not path.startswith("/"):
        path = f"/dstack/{path}"
        if not _below(posixpath.normpath(path), "/dstack"):
            faults.add(
                "mount", at, expected="a path that stays within its directory", found="one that leaves it"
            )
            return None
    path = posixpath.normpath("/" + path.lstrip("/"))
    if _below(path, "/run"):
        path = f"/var{path}"
    kernel = next((kernel for kernel in _KERNEL if _below(path, kernel)), None)
    if kernel is not None:
        faults.add(
            "mount",
            at,
            expected="no part of the host's kernel",
            found=kernel,
            remedy="emulation runs on the host",
        )
        return None
    if _below(path, "/var/run"):
        return _socket(path, roots, faults, at)
    if any(_below(path, readable) for readable in _HOST_READABLE):
        return Bind(Path(path), read_only=True)
    root, below = (roots.home, path[len("/dstack") :]) if _below(path, "/dstack") else (roots.disk, path)
    return Bind(root / below.lstrip("/"), make=True)


def _socket(path: str, roots: Roots, faults: Faults, at: str) -> Bind | None:
    below = path[len("/var/run") :].lstrip("/")
    if below.partition("/")[0] in _ENGINES:
        faults.add(
            "mount",
            at,
            expected="no socket of a container engine",
            found=below.partition("/")[0],
            remedy="it reaches the containers of every CVM of this host",
        )
        return None
    return Bind(roots.sockets / below)


def _below(path: str, parent: str) -> bool:
    return path == parent or path.startswith(f"{parent}/")


def rewrite_volume(value: Any, roots: Roots, faults: Faults, at: str) -> tuple[Any, Bind | None]:
    """An element of a service's `volumes`, and the bind it contains; an element that is none stays as it is."""
    if isinstance(value, dict):
        return _long(value, roots, faults, at)
    text = faults.text(at, value)
    if text is None:
        return value, None
    source, colon, rest = text.partition(":")
    if not colon or not source.startswith((".", "/", "~")):
        return escaped(text), None  # an anonymous or a named volume
    target, _, modes = rest.partition(":")
    read_only = _modes(modes, faults, at)
    bind = resolve(source, roots, faults, at)
    if bind is None:
        return value, None
    return _mount(bind, escaped(target), read_only or bind.read_only), bind


def _modes(modes: str, faults: Faults, at: str) -> bool:
    """Whether the modes of the short form say read-only."""
    wanted = set(modes.split(",")) - {""}
    if wanted & _SHARED:
        faults.add("mount", at, expected="no mount that leads back to the host", found="shared propagation")
    elif wanted - _MODES:
        faults.add("malformed", at, expected="modes of a mount", found="another word")
    return "ro" in wanted


def _long(value: dict[str, Any], roots: Roots, faults: Faults, at: str) -> tuple[Any, Bind | None]:
    kind = faults.text(f"{at}.type", value.get("type", "volume"))
    if kind in _OTHER_TYPES:
        return value, None
    if kind != "bind":
        faults.add("mount", f"{at}.type", expected="bind, volume, tmpfs or image", found=value.get("type"))
        return value, None
    propagation = faults.text(
        f"{at}.bind", faults.mapping(f"{at}.bind", value.get("bind")).get("propagation", "")
    )
    if propagation in _SHARED:
        faults.add(
            "mount", f"{at}.bind", expected="no mount that leads back to the host", found="shared propagation"
        )
    source = faults.text(f"{at}.source", value.get("source"))
    bind = None if source is None else resolve(source, roots, faults, f"{at}.source")
    if bind is None:
        return value, None
    read_only = faults.flag(f"{at}.read_only", value.get("read_only", False)) or bind.read_only
    return _mount(bind, value.get("target"), read_only), bind


def _mount(bind: Bind, target: Any, read_only: bool) -> dict[str, Any]:
    """The long form, which has no separators that a path could hold."""
    mount = {"type": "bind", "source": escaped(str(bind.source)), "target": target}
    return {**mount, "read_only": True} if read_only else mount
