"""The app an emulated agent stands for: a given app-compose file, a wrapped docker-compose file, or a default."""

import json
from pathlib import Path

from teehouse.base.findings import misuse

COMPOSE_LIMIT = 1024 * 1024  # bytes
_YAML_ENDINGS = (".yml", ".yaml")


def load_compose(path: Path | None) -> bytes:
    """The bytes of the app-compose file to measure.

    A file that ends in .json is taken as it is; one that ends in .yml or .yaml becomes the
    `docker_compose_file` of an app that is named after its folder. None gives the default app. Raises
    `MisuseError`.
    """
    if path is None:
        return wrapped("emulated-app", "services: {}\n")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise misuse(
            "compose.unreadable", f"{path} cannot be read", found=error.strerror or str(error)
        ) from error
    if len(data) > COMPOSE_LIMIT:
        raise misuse(
            "compose.too-long",
            f"{path} is too long",
            expected=f"at most {COMPOSE_LIMIT} bytes",
            found=str(len(data)),
        )
    if path.suffix.lower() not in _YAML_ENDINGS:
        return data
    try:
        return wrapped(path.resolve().parent.name or "app", data.decode())
    except UnicodeDecodeError:
        raise misuse("compose.not-utf8", f"{path} is not UTF-8") from None


def wrapped(name: str, docker_compose: str) -> bytes:
    """An app-compose file around a docker-compose text, in the canonical form of trust.md 14."""
    compose = {
        "docker_compose_file": docker_compose,
        "kms_enabled": True,
        "manifest_version": 2,
        "name": name,
        "public_logs": True,
        "public_sysinfo": True,
        "public_tcbinfo": True,
        "runner": "docker-compose",
    }
    return json.dumps(compose, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
