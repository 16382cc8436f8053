"""Waiting for operations that some engine carries on."""

import asyncio

from sqlalchemy import select

from teehouse.cloud.cvms.models import Operation
from teehouse.cloud.db.engine import Database


async def finished(database: Database, operation_id: int | None, *, seconds: float = 30) -> Operation:
    """The operation, once it has ended."""
    async with asyncio.timeout(seconds):
        while True:
            async with database.read() as session:
                row = (
                    await session.execute(select(Operation).where(Operation.id == operation_id))
                ).scalar_one()
            if row.finished_at is not None:
                return row
            await asyncio.sleep(0.05)
