"""What all replicas of an installation have to agree on.

Rules:

1. The secret key: with another one, a replica could neither open what the others sealed nor read the links they
   signed. The database keeps a value derived from the key, which says nothing of the key.
2. The first `agree` decides; whoever comes with another key afterwards is refused.
"""

import hmac
from typing import Final

from sqlalchemy import String
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from teehouse.base.findings import MisuseError, misuse
from teehouse.cloud.db.base import Base
from teehouse.cloud.secrets import derived_key
from teehouse.cloud.settings import CloudSettings

KEY_ROW: Final = "secret-key"
_PURPOSE: Final = "what replicas compare"


class Agreed(Base):
    """A value by its name."""

    __tablename__ = "installation"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str]


async def agree(session: AsyncSession, settings: CloudSettings) -> None:
    """Write the value of the secret key, or compare it with the one there. Raises `MisuseError` (rule 2)."""
    if await _known(session) is None:
        session.add(Agreed(name=KEY_ROW, value=_value(settings)))
        await session.flush()
    await check(session, settings)


async def check(session: AsyncSession, settings: CloudSettings) -> None:
    """Compare alone. Raises `MisuseError` (rule 2), also where nothing was agreed on yet."""
    known = await _known(session)
    if known is None:
        raise _refused("none was agreed on", "run `teehouse cloud init` once, with this key")
    if not hmac.compare_digest(known, _value(settings)):
        raise _refused("another one", "copy the key file of the replica that runs")


async def _known(session: AsyncSession) -> str | None:
    row = await session.get(Agreed, KEY_ROW)
    return None if row is None else row.value


def _value(settings: CloudSettings) -> str:
    return derived_key(settings, _PURPOSE).hex()


def _refused(found: str, remedy: str) -> MisuseError:
    return misuse(
        "cloud.secret-key",
        "secret key of this replica",
        expected="the one of all replicas on this database",
        found=found,
        remedy=remedy,
    )
