"""The app-compose file of an app: made once from what a request says, and then only bytes (cloud-api.md 12.8, 14.2).

Rules:

N1. Members that a request leaves out, or gives as null, get their defaults; `tproxy_enabled` is written
    `gateway_enabled`; names in `allowed_envs` stand once; an empty pre-launch script is left out, and so is an
    empty Docker Compose file of runner bash; unknown members stay.
N2. The text is compact JSON with sorted keys, in UTF-8 without escapes. The compose hash is SHA-256 over it, and
    it is never serialised again.
N3. Docker Compose file, pre-launch script and bash script have at most `TEXT_LIMIT` bytes together.
N4. The Docker Compose file is a YAML mapping with at least one service. Whether an engine runs it is found when
    it boots. Aliases and merges may not make it larger than `MERGE_LIMIT` members.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from teehouse.base.findings import MisuseError
from teehouse.base.hashes import sha256
from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.wire.app_compose import parse_app_compose

TEXT_LIMIT: Final = 256 * 1024  # bytes
MERGE_LIMIT: Final = 100_000
PORTS_LIMIT: Final = 64

_TEXTS: Final = ("docker_compose_file", "pre_launch_script", "bash_script")
_DEFAULTS: Final[Mapping[str, Any]] = {
    "manifest_version": 2,
    "name": "",
    "runner": "docker-compose",
    "kms_enabled": True,
    "gateway_enabled": True,
    "local_key_provider_enabled": False,
    "no_instance_id": False,
    "public_logs": True,
    "public_sysinfo": True,
    "public_tcbinfo": True,
    "secure_time": False,
}


@dataclass(frozen=True, slots=True)
class Compose:
    """An app-compose file as it is stored; hashes are hex. `services` are `{name, image, ports}`."""

    body: bytes = field(repr=False)
    members: Mapping[str, Any] = field(repr=False)
    compose_hash: str
    services: tuple[dict[str, Any], ...]
    docker_compose_hash: str | None
    pre_launch_script_hash: str | None

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean member."""
        return bool(self.members.get(name, default))

    @property
    def allowed_envs(self) -> tuple[str, ...]:
        """The names of the variables that the app gets."""
        return tuple(self.members.get("allowed_envs", ()))


def new_compose(given: Mapping[str, Any], *, env_keys: Sequence[str] | None = None) -> Compose:
    """The file for what a request says (rule N1); `env_keys` are the variables of one that names none itself.

    Raises `CloudError` ERR-01-002, ERR-01-003.
    """
    members = {name: value for name, value in given.items() if value is not None}
    if "tproxy_enabled" in members:
        gateway = members.pop("tproxy_enabled")
        members.setdefault("gateway_enabled", gateway)
    members = {**_DEFAULTS, **members}
    if "features" not in members:
        members["features"] = [
            name
            for name, wanted in (
                ("kms", members["kms_enabled"]),
                ("tproxy-net", members["gateway_enabled"]),
            )
            if wanted
        ]
    members.setdefault("allowed_envs", list(env_keys or ()))
    return _finish(members)


def changed_compose(body: bytes, changes: Mapping[str, Any]) -> Compose:
    """The file with some members changed; with None, a member is dropped. Raises `CloudError`."""
    members: dict[str, Any] = json.loads(body)
    for name, value in changes.items():
        if value is None:
            members.pop(name, None)
        else:
            members[name] = value
    return _finish(members)


def stored_compose(body: bytes) -> Compose:
    """A file that is stored, with what is said of it."""
    members: dict[str, Any] = json.loads(body)
    return _described(body, members, ())


def _finish(members: dict[str, Any]) -> Compose:
    if not members.get("pre_launch_script"):
        members.pop("pre_launch_script", None)
    names = members.get("allowed_envs")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        members["allowed_envs"] = list(dict.fromkeys(names))
    _check_texts(members)
    services: tuple[dict[str, Any], ...] = ()
    if members.get("runner") == "bash":
        if members.get("docker_compose_file") == "":
            del members["docker_compose_file"]
        if not members.get("bash_script"):
            raise CloudError(ErrorCode.COMPOSE_FILE_REQUIRED, "compose_file.bash_script is missing")
    else:
        text = members.get("docker_compose_file")
        if not isinstance(text, str) or not text.strip():
            raise CloudError(
                ErrorCode.COMPOSE_FILE_REQUIRED,
                "compose_file.docker_compose_file is missing",
                details=[Detail(field="compose_file", message="a Docker Compose file is needed")],
            )
        services = _services(text)
    body = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    try:
        parse_app_compose(body)
    except MisuseError as error:
        raise _invalid(error.finding.sentence(), "compose_file") from error
    return _described(body, members, services)


def _described(body: bytes, members: Mapping[str, Any], services: tuple[dict[str, Any], ...]) -> Compose:
    return Compose(
        body=body,
        members=members,
        compose_hash=sha256(body).hex(),
        services=services,
        docker_compose_hash=_text_hash(members.get("docker_compose_file")),
        pre_launch_script_hash=_text_hash(members.get("pre_launch_script")),
    )


def _text_hash(text: Any) -> str | None:
    return sha256(text.encode()).hex() if isinstance(text, str) and text else None


def _check_texts(members: Mapping[str, Any]) -> None:
    """Rule N3."""
    size = 0
    for name in _TEXTS:
        text = members.get(name)
        if text is not None and not isinstance(text, str):
            raise _invalid(f"{name} is a text", name)
        try:
            size += len((text or "").encode())
        except UnicodeEncodeError as error:
            raise _invalid(f"{name} holds half a character", name) from error
    if size > TEXT_LIMIT:
        raise _invalid(
            f"compose file and scripts have {size} bytes; the limit is {TEXT_LIMIT} bytes ({TEXT_LIMIT // 1024} KiB)",
            "docker_compose_file",
        )


def _services(text: str) -> tuple[dict[str, Any], ...]:
    """Rule N4."""
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a loader of safe types
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError) as error:
        raise _invalid(f"the Docker Compose file is no YAML: {_first_line(error)}") from error
    services = document.get("services") if isinstance(document, dict) else None
    if not isinstance(services, dict) or not services:
        raise _invalid("the Docker Compose file has no services")
    return tuple(_service(name, one) for name, one in services.items())


def _service(name: Any, one: Any) -> dict[str, Any]:
    if not isinstance(name, str) or not isinstance(one, dict):
        raise _invalid(f"service {ascii(name)[:60]} of the Docker Compose file is no mapping")
    image = one.get("image")
    ports = one.get("ports")
    found = {"name": name, "image": image if isinstance(image, str) else None}
    numbers = [port for entry in ports if (port := _published(entry))] if isinstance(ports, list) else []
    return {**found, "ports": numbers[:PORTS_LIMIT]}


def _published(entry: Any) -> int | None:
    """The port that an entry of `ports` publishes on all addresses; None where it is a range, or is not plain."""
    if isinstance(entry, dict):
        entry = entry.get("published") or entry.get("target")
    text = str(entry).partition("/")[0]
    parts = text.split(":")
    if len(parts) > 2:
        return None
    return int(parts[0]) if parts[0].isascii() and parts[0].isdigit() and int(parts[0][:6]) < 65536 else None


def _invalid(message: str, name: str = "docker_compose_file") -> CloudError:
    return CloudError(
        ErrorCode.INVALID_COMPOSE_FILE,
        f"The compose file has errors: {message}",
        details=[Detail(field=name, message=message)],
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


class _Loader(yaml.CSafeLoader):
    """Safe types, and merges within bounds (rule N4)."""

    merged = 0

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > MERGE_LIMIT:
            raise yaml.YAMLError("merges make it too large")
