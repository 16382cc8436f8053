"""What an off-chain KMS may give keys for, kept in step with what the control plane runs.

Rules:

A1. A compose hash is allowed before a CVM boots with it, each time: whatever became of the list meanwhile, the boot
    finds it.
A2. It stays allowed while a CVM of the app has it, or may still run it because a change is under way or has failed.
A3. Only hashes that the app had by this control plane are ever taken away: entries that the KMS's owner wrote stay.
A4. An app of an on-chain KMS is its contract's affair: nothing is asked here for it.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.models import Cvm, CvmStatus, Operation
from teehouse.cloud.revisions.models import Revision

Unused = Callable[[], Awaitable[Collection[str]]]


class Authorisations(Protocol):
    """The list that an off-chain KMS goes by. App ids have 40 hex digits, compose hashes 64."""

    async def allow(self, app_id: str, compose_hash: str) -> None:
        """Let CVMs of the app with this compose file have keys, on any device. Repeated, it changes nothing.

        Raises `MisuseError` when the list cannot be written.
        """
        ...

    async def forget(self, app_id: str, unused: Unused) -> None:
        """Take away the hashes that `unused` says, asked while nobody else changes the list. Raises as `allow`."""
        ...


class NoAuthorisations:
    """Where the KMS is told by somebody else who may have keys."""

    async def allow(self, app_id: str, compose_hash: str) -> None:
        """Nothing to do."""

    async def forget(self, app_id: str, unused: Unused) -> None:
        """Nothing to do."""


async def unused_hashes(session: AsyncSession, app_id: str, *, settled: int, deleted: bool) -> frozenset[str]:
    """Hashes that the app had and no CVM of it needs any more (rules A2, A3).

    `settled` is a CVM whose change is just done: only what it is now counts for it, and nothing once it is
    `deleted`.
    """
    app = (await session.execute(select(App.id).where(App.app_id == app_id))).scalar_one()
    had = (Revision.app_record_id == app,)
    all_hashes = set(await session.scalars(select(Revision.compose_hash).where(*had).distinct()))
    alive = select(Cvm.compose_hash).where(Cvm.app_record_id == app, Cvm.deleted_at.is_(None))
    if deleted:
        alive = alive.where(Cvm.id != settled)
    under_way = (
        select(Operation.id).where(Operation.cvm_id == Cvm.id, Operation.finished_at.is_(None)).exists()
    )
    unsettled = (
        select(Revision.compose_hash)
        .join(Cvm, Cvm.id == Revision.cvm_id)
        .where(
            *had,
            Cvm.deleted_at.is_(None),
            Cvm.id != settled,
            under_way | (Cvm.status == CvmStatus.ERROR),
        )
    )
    used = {*await session.scalars(alive), *await session.scalars(unsettled)}
    return frozenset(all_hashes - used)
