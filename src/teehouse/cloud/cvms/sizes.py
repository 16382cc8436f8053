"""How large a CVM is to be, and which KMS and image it uses: from a request to rows.

Rules:

Z1. An instance type gives processors, memory and disk; what a request says besides wins. Without a type, and
    without processors and memory, it is the default type.
Z2. A size that is not a type's own has no instance type.
Z3. A KMS is called by id, slug or type, in any case; of a type, the first that is in use is taken.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.cloud.ids import Kind, decode
from teehouse.cloud.inventory.models import InstanceType, KmsNode, OsImage
from teehouse.cloud.nodes.placement import Size

DEFAULT_TYPE: Final = "tdx.small"
DEFAULT_DISK_GB: Final = 20


@dataclass(frozen=True, slots=True)
class Chosen:
    """A size, and the instance type that has it."""

    size: Size
    instance_type: str | None


async def choose_size(
    session: AsyncSession,
    *,
    instance_type: str | None = None,
    vcpu: int | None = None,
    memory_mb: int | None = None,
    disk_gb: int | None = None,
    gpus: int | None = None,
    before: Chosen | None = None,
) -> Chosen:
    """The size that a request asks for (rules Z1, Z2); `before` is what a CVM has. Raises ERR-02-001."""
    if instance_type is None and before is not None:
        size = Size(
            vcpu or before.size.vcpu,
            memory_mb or before.size.memory_mb,
            disk_gb or before.size.disk_gb,
            before.size.gpus if gpus is None else gpus,
        )
        same = (size.vcpu, size.memory_mb, size.gpus) == (
            before.size.vcpu,
            before.size.memory_mb,
            before.size.gpus,
        )
        return Chosen(size, before.instance_type if same else None)
    if instance_type is None and vcpu is not None and memory_mb is not None:
        return Chosen(Size(vcpu, memory_mb, disk_gb or DEFAULT_DISK_GB, gpus or 0), None)
    name = instance_type or DEFAULT_TYPE
    row = await session.get(InstanceType, name)
    if row is None or not row.enabled:
        raise CloudError(
            ErrorCode.INSTANCE_TYPE_NOT_FOUND,
            "The requested instance type does not exist",
            details=[Detail(field="instance_type", value=name, message="unknown instance type")],
            suggestions=["List the types with GET /instance-types"],
        )
    own = (vcpu in {None, row.vcpu}) and (memory_mb in {None, row.memory_mb})
    kept = row.default_disk_gb if before is None else max(before.size.disk_gb, row.default_disk_gb)
    size = Size(
        vcpu or row.vcpu,
        memory_mb or row.memory_mb,
        disk_gb or kept,
        row.gpu_count if gpus is None else gpus,
    )
    return Chosen(size, row.id if own else None)


async def choose_kms(session: AsyncSession, text: str) -> KmsNode:
    """The KMS that a request calls `text` (rule Z3), with its contract. Raises ERR-02-011."""
    question = (
        select(KmsNode)
        .where(_called(text), KmsNode.enabled)
        .options(joinedload(KmsNode.contract))
        .order_by(KmsNode.id)
        .limit(1)
    )
    kms = (await session.execute(question)).scalar_one_or_none()
    if kms is None:
        raise CloudError(
            ErrorCode.KMS_NOT_FOUND,
            "The requested KMS does not exist",
            details=[Detail(field="kms", value=text)],
            suggestions=["List them with GET /kms"],
        )
    return kms


async def kms_numbers(session: AsyncSession, text: str) -> set[int]:
    """The numbers of all KMSs that a request calls `text`: by id or slug one, by type several."""
    return set(await session.scalars(select(KmsNode.id).where(_called(text))))


def _called(text: str) -> ColumnElement[bool]:
    number = decode(Kind.KMS, text)
    return or_(KmsNode.slug == text, KmsNode.kms_type == text.lower(), KmsNode.id == (number or -1))


async def choose_image(session: AsyncSession, name: str) -> OsImage:
    """The OS image of this name. Raises ERR-02-010."""
    image = (await session.execute(select(OsImage).where(OsImage.name == name))).scalar_one_or_none()
    if image is None:
        raise CloudError(
            ErrorCode.IMAGE_NOT_FOUND,
            "The requested OS image does not exist",
            details=[Detail(field="image", value=name)],
            suggestions=["List them with GET /os-images"],
        )
    return image
