"""What is seen of a CVM, as the versions show it (cloud-api.md 10.3, 12.10).

Rules:

1. A container's log is the agent's page, open to everybody where the app says so, and shown nowhere else.
2. Images of one version stand together; only versions of three or four numbers can be shown.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from urllib.parse import quote

from teehouse.cloud.cvms.addresses import public_urls, published_text
from teehouse.cloud.cvms.loading import parse_compose
from teehouse.cloud.cvms.models import CvmStatus
from teehouse.cloud.cvms.presenters import Json, Presentation, uptime
from teehouse.cloud.cvms.reading import CvmStanding
from teehouse.cloud.cvms.records import CvmRecord, ImageRecord, OperationRecord
from teehouse.node.api import CvmState
from teehouse.node.workload import ContainerState
from teehouse.wire.cloud.base import time_text
from teehouse.wire.cloud.versions import ApiVersion


def present_stats(cvm: CvmRecord, sysinfo: Json | None, error: str | None) -> Json:
    """`CvmStats`."""
    row = cvm.row
    return {
        "is_online": row.status == CvmStatus.RUNNING,
        "is_public": row.public_sysinfo,
        "error": error,
        "sysinfo": sysinfo,
        "status": row.status,
        "in_progress": cvm.operation is not None,
        "boot_progress": row.boot_progress,
        "boot_error": row.boot_error,
    }


def present_network(cvm: CvmRecord, state: CvmState | None, error: str | None) -> Json:
    """`CvmNetwork`. Without a gateway there is neither an internal address nor a handshake."""
    return {
        "is_online": error is None,
        "is_public": cvm.row.public_sysinfo,
        "error": error,
        "internal_ip": None,
        "latest_handshake": None,
        "public_urls": public_urls(cvm, None if state is None else published_text(state.containers)),
    }


def present_composition(cvm: CvmRecord, compose: str, state: CvmState | None, error: str | None) -> Json:
    """`CvmComposition`."""
    members = parse_compose(compose)
    version = cvm.compose.manifest_version or ""
    return {
        "is_online": state is not None,
        "is_public": cvm.row.public_sysinfo,
        "error": error,
        "docker_compose_file": members.get("docker_compose_file"),
        "manifest_version": int(version) if version.isdecimal() else None,
        "version": None,
        "runner": cvm.compose.runner,
        "features": list(cvm.compose.features),
        "containers": None
        if state is None
        else [_container(one, state, public=cvm.row.public_logs) for one in state.containers],
    }


def present_user_config(members: Json, cvm: CvmRecord) -> Json:
    """`UserConfig`: the members of that name, as far as they have their type."""
    hostname, keys, domain = (
        members.get(name) for name in ("hostname", "ssh_authorized_keys", "default_gateway_domain")
    )
    gateway = None if cvm.node is None else cvm.node.gateway_domain
    return {
        "hostname": hostname if isinstance(hostname, str) else None,
        "ssh_authorized_keys": [key for key in keys if isinstance(key, str)]
        if isinstance(keys, list)
        else [],
        "default_gateway_domain": domain if isinstance(domain, str) else gateway,
    }


def present_os_images(images: Iterable[ImageRecord], cvm: CvmRecord) -> list[Json]:
    """`AvailableOsImage`s, newest version first (rule 2)."""
    versions: dict[tuple[int, ...], Json] = {}
    for image in images:
        numbers = _numbers(image.version)
        if numbers is None:
            continue
        entry = versions.setdefault(numbers, {"version": list(numbers), "prod": None, "dev": None})
        kind = "dev" if image.is_dev else "prod"
        current = image.id == cvm.row.os_image_id
        if entry[kind] is None or current:
            entry[kind] = {
                "name": image.name,
                "os_image_hash": image.os_image_hash,
                "is_current": current,
            }
    return [versions[numbers] for numbers in sorted(versions, reverse=True)]


def present_standing(standing: CvmStanding, vm_uuid: str, how: Presentation) -> Json:
    """`BatchStatus` under the UUID as it was sent."""
    row, operation = standing.row, standing.operation
    shown: Json = {
        "vm_uuid": vm_uuid,
        "status": row.status,
        "uptime": uptime(row, how.now) or None,
        "in_progress": operation is not None,
        "boot_progress": row.boot_progress,
        "boot_error": row.boot_error,
        "operation_type": None if operation is None else operation.operation_type,
        "operation_started_at": None if operation is None else time_text(operation.started_at),
        "correlation_id": None if operation is None else operation.correlation_id,
    }
    if how.version >= ApiVersion.V3:
        shown["events"] = [
            {"event": event.event, "body": event.body, "timestamp": _milliseconds(event.created_at)}
            for event in standing.events
        ]
        if row.shutdown_progress is not None:
            shown["shutdown_progress"] = row.shutdown_progress
        if operation is not None:
            shown["operation"] = _operation(operation)
    return shown


def _operation(operation: OperationRecord) -> Json:
    return {
        "type": operation.operation_type,
        "phase": operation.phase,
        "started_at": time_text(operation.started_at),
        "correlation_id": operation.correlation_id,
    }


def _container(container: ContainerState, state: CvmState, *, public: bool) -> Json:
    """Rule 1."""
    pages = state.endpoints.pages_url.rstrip("/") if state.endpoints is not None else ""
    endpoint = f"{pages}/logs/{quote(container.name, safe='')}" if public and pages else None
    return {
        "id": container.container_id or container.name,
        "names": [f"/{container.name}"],
        "image": container.image,
        "image_id": "",
        "command": container.command,
        "created": container.created,
        "state": container.state,
        "status": container.status,
        "log_endpoint": endpoint,
    }


def _numbers(version: str) -> tuple[int, ...] | None:
    parts = version.split(".")
    if len(parts) not in {3, 4} or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    return tuple(int(part) for part in parts)


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def text_member(compose: str, name: str) -> str:
    """A text within a compose file; empty where it has none."""
    value: Any = parse_compose(compose).get(name)
    return value if isinstance(value, str) else ""
