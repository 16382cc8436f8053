"""What a change would change of a CVM, before anything is written (cloud-api.md 10.3, 13.3, 16).

The rules are those of `teehouse.cloud.cvms.changing`: H1, H2, H6 and H7 are judged here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.cvms.compose import Compose, changed_compose
from teehouse.cloud.cvms.models import Cvm, Desired
from teehouse.cloud.cvms.operations import compose_body
from teehouse.cloud.cvms.sizes import Chosen, choose_image, choose_size
from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.cloud.inventory.models import OsImage
from teehouse.cloud.nodes.models import NodeImage
from teehouse.cloud.nodes.placement import Size
from teehouse.cloud.workflows.spec import latest_revision

_QUIET: Final = frozenset({"shutdown_timeout", "allow_force_stop"})  # rule H5


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be changed. `compose` are members of the app-compose file; None there drops one.

    `settings` are columns of the CVM's row; None leaves its size or image as it is.
    """

    compose: Mapping[str, Any] = field(default_factory=dict, repr=False)
    encrypted_env: bytes | None = field(default=None, repr=False)
    user_config: str | None = field(default=None, repr=False)
    vcpu: int | None = None
    memory: int | None = None
    disk_size: int | None = None
    gpus: int | None = None
    instance_type: str | None = None
    image: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    allow_restart: bool = True

    def as_json(self) -> dict[str, Any]:
        """All but the environment, as a commit token keeps it."""
        return {
            "compose": dict(self.compose),
            "user_config": self.user_config,
            "vcpu": self.vcpu,
            "memory": self.memory,
            "disk_size": self.disk_size,
            "gpus": self.gpus,
            "instance_type": self.instance_type,
            "image": self.image,
            "settings": dict(self.settings),
            "allow_restart": self.allow_restart,
        }

    @classmethod
    def from_json(cls, members: Mapping[str, Any], encrypted_env: bytes | None) -> "Change":
        """What `as_json` gave, with the environment kept beside it."""
        return cls(**members, encrypted_env=encrypted_env)


@dataclass(slots=True)
class Found:
    """A CVM as it stands, and what would change."""

    cvm: Cvm
    compose: Compose
    compose_changed: list[str]
    other_changed: list[str]
    encrypted_env: bytes
    user_config: str
    chosen: Chosen
    image: OsImage | None

    @property
    def changed(self) -> list[str]:
        """The names of all that is not as before."""
        return [*self.compose_changed, *self.other_changed]

    @property
    def needs_node(self) -> bool:
        """Whether the node is told something new (rule H5)."""
        return bool(set(self.changed) - _QUIET)


async def compare(session: AsyncSession, cvm: Cvm, change: Change) -> Found:
    """What would change (rules H1, H2). Raises `CloudError` for what cannot be, or may not (rules H6, H7)."""
    body = await compose_body(session, cvm.compose_hash)
    compose = changed_compose(body, change.compose)
    compose_changed: list[str] = []
    if compose.compose_hash != cvm.compose_hash:
        before = changed_compose(body, {}).members
        names = {*before, *compose.members}
        compose_changed = sorted(name for name in names if before.get(name) != compose.members.get(name))
    else:
        compose = replace(compose, body=body)
    revision = await latest_revision(session, cvm.id)
    box = revision.encrypted_env if revision else b""
    config = revision.user_config if revision else ""
    other: list[str] = []
    if change.encrypted_env is not None and change.encrypted_env != box:
        box = change.encrypted_env
        other.append("encrypted_env")
    if change.user_config is not None and change.user_config != config:
        config = change.user_config
        other.append("user_config")
    before_size = Chosen(Size(cvm.vcpu, cvm.memory_mb, cvm.disk_gb, cvm.gpus), cvm.instance_type)
    chosen = await choose_size(
        session,
        instance_type=change.instance_type if change.instance_type != cvm.instance_type else None,
        vcpu=change.vcpu,
        memory_mb=change.memory,
        disk_gb=change.disk_size,
        gpus=change.gpus,
        before=before_size,
    )
    other += _resized(before_size, chosen)
    image: OsImage | None = None
    if change.image is not None and change.image != cvm.base_image:
        image = await _image(session, cvm, change.image)
        other.append("image")
    other += [name for name, value in change.settings.items() if getattr(cvm, name) != value]
    found = Found(cvm, compose, compose_changed, other, box, config, chosen, image)
    if not change.allow_restart and found.needs_node and cvm.desired == Desired.RUNNING:
        raise CloudError(
            ErrorCode.INCOMPATIBLE_CONFIG,
            "The change restarts the CVM, and allow_restart is false",
            details=[Detail(field="changed", value=found.changed)],
            suggestions=["Set allow_restart, or stop the CVM first"],
        )
    return found


def _resized(before: Chosen, after: Chosen) -> list[str]:
    if after.size.disk_gb < before.size.disk_gb:
        raise CloudError(
            ErrorCode.INVALID_REQUEST,
            f"A disk only grows: it has {before.size.disk_gb} GB",
            details=[Detail(field="disk_size", value=after.size.disk_gb)],
        )
    pairs = {
        "vcpu": (before.size.vcpu, after.size.vcpu),
        "memory": (before.size.memory_mb, after.size.memory_mb),
        "disk_size": (before.size.disk_gb, after.size.disk_gb),
        "gpus": (before.size.gpus, after.size.gpus),
        "instance_type": (before.instance_type, after.instance_type),
    }
    return [name for name, (old, new) in pairs.items() if old != new]


async def _image(session: AsyncSession, cvm: Cvm, name: str) -> OsImage:
    """The image of this name, which the CVM's node has. Raises ERR-02-010, ERR-02-013."""
    image = await choose_image(session, name)
    there = select(NodeImage.os_image_id).where(
        NodeImage.node_id == cvm.node_id, NodeImage.os_image_id == image.id
    )
    if (await session.execute(there)).first() is None or image.requires_gpu != (cvm.gpus > 0):
        raise CloudError(
            ErrorCode.OS_IMAGE_NOT_COMPATIBLE,
            "The CVM's node cannot boot this OS image",
            details=[Detail(field="image", value=name)],
            suggestions=["See GET /cvms/{cvm_id}/available-os-images"],
        )
    return image
