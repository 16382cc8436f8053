"""Places on nodes: what there is, and how a place is held, taken, changed and given back.

Rules:

1. A place is taken by one guarded UPDATE of the node's counters and a row in `reservations`, in one transaction:
   two requests never both get the last place (`models` rule 1).
2. A provision, or a CVM, has one place. Asking again answers with the one it has.
3. A workspace's quotas are judged over all its reservations while its row in `quotas` is locked, so two requests
   of one workspace cannot both use up the last of it. A workspace without such a row may take nothing.
4. Locks are taken in the order workspace, quota, reservation, node (by number): no two units of work wait for each
   other. Who takes an app id locks the workspace in a way that leaves it to be referred to, as a new reservation
   does.
5. What a provision holds ends with its time, unless a CVM has taken it over. Whoever gives a place back deletes
   the reservation first; only the one who deleted it gives the counters back.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import ColumnElement, CursorResult, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.accounts.models import Quota
from teehouse.cloud.cvms.models import Reservation
from teehouse.cloud.errors import busy, not_found
from teehouse.cloud.nodes.errors import not_placed, quota_used_up
from teehouse.cloud.nodes.models import Node, NodeStatus
from teehouse.cloud.nodes.placement import Lack, Place, Refused, Size, Wanted, place
from teehouse.cloud.nodes.services import candidates

EXPIRE_BATCH: Final = 200
_ATTEMPTS: Final = 3  # times that the nodes are looked at anew when all places were gone when they were taken
_SIZE: Final = (Reservation.vcpu, Reservation.memory_mb, Reservation.disk_gb, Reservation.gpus)


@dataclass(frozen=True, slots=True)
class Held:
    """A place. `image_id` is the image that was chosen with it, None for a place that was held before."""

    reservation_id: int
    node_id: int
    image_id: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a workspace has of a quota."""

    limit: int
    used: int

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class Quotas:
    """A workspace's quotas (cloud-api.md 10.2)."""

    vm_slots: Usage
    vcpu: Usage
    memory_mb: Usage
    disk_gb: Usage
    reserved_nodes: Usage
    reserved_gpus: Usage


async def find_place(session: AsyncSession, wanted: Wanted) -> Place:
    """Where the CVM would go now; nothing is held. Raises `CloudError`."""
    return (await _places(session, wanted))[0]


async def reserve(
    session: AsyncSession,
    wanted: Wanted,
    *,
    now: datetime,
    provision_id: int | None = None,
    cvm_id: int | None = None,
    expires_at: datetime | None = None,
) -> Held:
    """Hold a place for a provision, until `expires_at`, or take one for a CVM (rules 1 to 3).

    Raises `CloudError`: quota used up, nothing fits, or 409 when others were faster again and again.
    """
    quota = await _locked_quota(session, wanted.workspace_id)
    if (existing := await _existing(session, provision_id, cvm_id)) is not None:
        return existing
    await _check_quota(session, quota, wanted.workspace_id, wanted.size, slots=1)
    for _ in range(_ATTEMPTS):
        for found in await _places(session, wanted):
            if await _take(session, found.node_id, wanted.size, slots=1):
                row = Reservation(
                    workspace_id=wanted.workspace_id,
                    node_id=found.node_id,
                    provision_id=provision_id,
                    cvm_id=cvm_id,
                    vcpu=wanted.size.vcpu,
                    memory_mb=wanted.size.memory_mb,
                    disk_gb=wanted.size.disk_gb,
                    gpus=wanted.size.gpus,
                    created_at=now,
                    expires_at=expires_at,
                )
                session.add(row)
                await session.flush()
                return Held(row.id, found.node_id, found.image_id)
    raise busy("Other requests took each place that would do; try again")


async def take_over(session: AsyncSession, provision_id: int, cvm_id: int) -> Held | None:
    """Make the provision's place the CVM's, for as long as that lives. None: it holds none any more."""
    await session.execute(
        update(Reservation)
        .where(Reservation.provision_id == provision_id, Reservation.cvm_id.is_(None))
        .values(cvm_id=cvm_id, expires_at=None)
        .execution_options(synchronize_session=False)
    )
    return await _existing(session, None, cvm_id)


async def release(
    session: AsyncSession, *, provision_id: int | None = None, cvm_id: int | None = None
) -> bool:
    """Give the place back; False when there is none (rule 5). A CVM's place is given back by its `cvm_id` only."""
    if provision_id is None and cvm_id is None:
        raise ValueError("a place is given back by a provision or a CVM")
    owner = (
        Reservation.cvm_id == cvm_id
        if cvm_id is not None
        else (Reservation.provision_id == provision_id) & Reservation.cvm_id.is_(None)
    )
    return await _give_back(session, owner) > 0


async def expire(session: AsyncSession, now: datetime) -> int:
    """Give back what is held beyond its time, at most `EXPIRE_BATCH` at once; how many that was."""
    due = (
        select(Reservation.id)
        .where(Reservation.expires_at <= now, Reservation.cvm_id.is_(None))
        .order_by(Reservation.id)
        .limit(EXPIRE_BATCH)
        .with_for_update(skip_locked=True)
    )
    numbers = list(await session.scalars(due))
    return await _give_back(session, Reservation.id.in_(numbers)) if numbers else 0


async def resize(session: AsyncSession, cvm_id: int, size: Size) -> bool:
    """Give the CVM's place another size on the same node; False when it has that size.

    Raises `CloudError`: quota used up, no room, or no such place. What it had stays then.
    """
    workspace_id = await session.scalar(select(Reservation.workspace_id).where(Reservation.cvm_id == cvm_id))
    if workspace_id is None:
        raise not_found("reservation of the CVM")
    quota = await _locked_quota(session, workspace_id)
    row = (
        await session.execute(
            select(Reservation.id, Reservation.node_id, *_SIZE)
            .where(Reservation.cvm_id == cvm_id)
            .with_for_update()
        )
    ).one()
    before = Size(row.vcpu, row.memory_mb, row.disk_gb, row.gpus)
    more = size - before
    if more == Size(0, 0, 0, 0):
        return False
    await _check_quota(session, quota, workspace_id, more, slots=0)
    if not await _take(session, row.node_id, more, slots=0):
        raise not_placed(await _shortage(session, row.node_id, more), Wanted(workspace_id, size, row.node_id))
    await session.execute(
        update(Reservation)
        .where(Reservation.id == row.id)
        .values(vcpu=size.vcpu, memory_mb=size.memory_mb, disk_gb=size.disk_gb, gpus=size.gpus)
        .execution_options(synchronize_session=False)
    )
    return True


async def quotas(session: AsyncSession, workspace_id: int) -> Quotas:
    """What the workspace may have, and has."""
    quota = await session.get(Quota, workspace_id) or _no_quota(workspace_id)
    used = await _used(session, workspace_id)
    reserved = (
        await session.execute(
            select(func.count(), func.coalesce(func.sum(Node.gpus), 0)).where(
                Node.workspace_id == workspace_id
            )
        )
    ).one()
    return Quotas(
        Usage(quota.vm_slots, used[0]),
        Usage(quota.vcpu, used[1].vcpu),
        Usage(quota.memory_mb, used[1].memory_mb),
        Usage(quota.disk_gb, used[1].disk_gb),
        Usage(quota.reserved_nodes, reserved[0]),
        Usage(quota.reserved_gpus, used[1].gpus),
    )


async def _places(session: AsyncSession, wanted: Wanted) -> tuple[Place, ...]:
    found = place(wanted, await candidates(session, wanted.node_id))
    if isinstance(found, Refused):
        raise not_placed(found.lack, wanted)
    return found


async def _existing(session: AsyncSession, provision_id: int | None, cvm_id: int | None) -> Held | None:
    """The place that is held already (rule 2)."""
    if provision_id is None and cvm_id is None:
        raise ValueError("a place is held for a provision or taken by a CVM")
    owner = Reservation.cvm_id == cvm_id if cvm_id is not None else Reservation.provision_id == provision_id
    row = (await session.execute(select(Reservation.id, Reservation.node_id).where(owner))).one_or_none()
    return None if row is None else Held(row.id, row.node_id, None)


async def _locked_quota(session: AsyncSession, workspace_id: int) -> Quota:
    """Rules 3, 4. SQLite needs no lock: writers wait in line there."""
    question = select(Quota).where(Quota.workspace_id == workspace_id).with_for_update()
    found = await session.scalar(question.execution_options(populate_existing=True))
    return found or _no_quota(workspace_id)


def _no_quota(workspace_id: int) -> Quota:
    return Quota(
        workspace_id=workspace_id,
        vm_slots=0,
        vcpu=0,
        memory_mb=0,
        disk_gb=0,
        reserved_nodes=0,
        reserved_gpus=0,
    )


async def _used(session: AsyncSession, workspace_id: int) -> tuple[int, Size]:
    sums = [func.coalesce(func.sum(column), 0) for column in _SIZE]
    row = (
        await session.execute(select(func.count(), *sums).where(Reservation.workspace_id == workspace_id))
    ).one()
    return row[0], Size(*(int(value) for value in row[1:]))


async def _check_quota(
    session: AsyncSession, quota: Quota, workspace_id: int, more: Size, *, slots: int
) -> None:
    count, used = await _used(session, workspace_id)
    for field, limit, before, wanted in (
        ("vm_slots", quota.vm_slots, count, slots),
        ("vcpu", quota.vcpu, used.vcpu, more.vcpu),
        ("memory_mb", quota.memory_mb, used.memory_mb, more.memory_mb),
        ("disk_gb", quota.disk_gb, used.disk_gb, more.disk_gb),
    ):
        if wanted > 0 and before + wanted > limit:
            raise quota_used_up(field, wanted, limit, max(0, limit - before))


async def _take(session: AsyncSession, node_id: int, size: Size, *, slots: int) -> bool:
    """Rule 1: whether the place could be taken. With `slots` 0 an existing place grows, or shrinks."""
    room: list[ColumnElement[bool]] = [
        Node.used_vcpu + size.vcpu <= Node.vcpu,
        Node.used_memory_mb + size.memory_mb <= Node.memory_mb,
        Node.used_disk_gb + size.disk_gb <= Node.disk_gb,
        Node.used_gpus + size.gpus <= Node.gpus,
        Node.used_slots + slots <= Node.slots,
    ]
    if slots:
        room.append(Node.status == NodeStatus.ONLINE)
    else:  # what shrinks always fits, also on a node whose capacity became smaller
        room = [fits for fits, more in zip(room, (*size.parts(), 0), strict=True) if more > 0]
    return await _count(session, node_id, size, slots, room) == 1


async def _count(
    session: AsyncSession, node_id: int, size: Size, slots: int, room: Iterable[ColumnElement[bool]]
) -> int:
    statement = (
        update(Node)
        .where(Node.id == node_id, *room)
        .values(
            used_vcpu=Node.used_vcpu + size.vcpu,
            used_memory_mb=Node.used_memory_mb + size.memory_mb,
            used_disk_gb=Node.used_disk_gb + size.disk_gb,
            used_gpus=Node.used_gpus + size.gpus,
            used_slots=Node.used_slots + slots,
        )
        .execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", await session.execute(statement)).rowcount


async def _shortage(session: AsyncSession, node_id: int, more: Size) -> Lack:
    (node,) = await candidates(session, node_id)
    for lack, have, need in (
        (Lack.GPU, node.free.gpus, more.gpus),
        (Lack.VCPU, node.free.vcpu, more.vcpu),
        (Lack.MEMORY, node.free.memory_mb, more.memory_mb),
    ):
        if need > have:
            return lack
    return Lack.DISK


async def _give_back(session: AsyncSession, which: ColumnElement[bool]) -> int:
    """Rule 5."""
    gone = (
        await session.execute(
            delete(Reservation)
            .where(which)
            .returning(Reservation.node_id, *_SIZE)
            .execution_options(synchronize_session=False)
        )
    ).all()
    sums: dict[int, list[int]] = {}
    for node_id, *size in gone:
        total = sums.setdefault(node_id, [0, 0, 0, 0, 0])
        for index, value in enumerate((*size, 1)):
            total[index] += value
    for node_id, total in sorted(sums.items()):
        vcpu, memory, disk, gpus, count = total
        await _count(session, node_id, Size(-vcpu, -memory, -disk, -gpus), -count, ())
    return len(gone)
