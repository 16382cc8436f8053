"""The key that an app's environment is encrypted for, asked from its KMS (cloud-api.md 14.1, trust.md 13.4).

Rules:

1. A key is passed on only when the KMS whose root key the contract names has signed it for this app, lately.
   Who answered on the way is of no matter then.
2. The signature that is passed on is the one without a time: the published clients have no place for another.
   It was made by the same root key, over the same app id and key, which is checked as well.
"""

from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import select

from teehouse.base.clock import Clock, SystemClock
from teehouse.base.findings import rejected, unavailable
from teehouse.cloud.db.engine import Database
from teehouse.cloud.inventory.models import KmsContract, KmsNode
from teehouse.keys.envbox import check_environment_key
from teehouse.kms.client.connection import KmsConnection
from teehouse.kms.client.public import get_environment_key


@dataclass(frozen=True, slots=True)
class SignedKey:
    """The X25519 key (32 bytes) and the KMS's signature (65 bytes) of the form without a time."""

    public_key: bytes
    signature: bytes


class KmsKeys(Protocol):
    """Gives the keys of apps' environments."""

    async def signed_key(self, url: str, k256_pubkey: str | None, app_id: str) -> SignedKey:
        """The key of `app_id` (40 hex digits) at the KMS at `url` with root key `k256_pubkey` (66 hex digits).

        Raises `CollateralError` when it does not answer, `EvidenceError` for an answer it did not sign.
        """
        ...


@dataclass(frozen=True, slots=True)
class AskedKmsKeys:
    """Asks the KMS itself, at each question. `timeout` is in seconds."""

    clock: Clock = field(default_factory=SystemClock)
    timeout: float = 10.0

    async def signed_key(self, url: str, k256_pubkey: str | None, app_id: str) -> SignedKey:
        """As the Protocol."""
        if k256_pubkey is None:
            raise unavailable(
                "cloud.kms-key-unknown",
                "root key of the KMS",
                expected="its secp256k1 public key, registered with its contract",
                found="none",
                remedy="register the KMS with the key that its GetMeta tells",
            )
        trusted, app = bytes.fromhex(k256_pubkey), bytes.fromhex(app_id)
        async with KmsConnection(url, timeout=self.timeout) as connection:
            answer = await get_environment_key(connection, app, trusted=trusted, now=self.clock.now())
        finding = check_environment_key(app, answer.public_key, answer.signature, trusted)
        if not finding.ok:
            raise rejected(
                finding.code,
                finding.subject,
                expected=finding.expected,
                found=finding.found,
                remedy=finding.remedy,
            )
        return SignedKey(answer.public_key, answer.signature)


@dataclass(frozen=True, slots=True)
class EnvironmentKeysByKms:
    """The keys by the KMS's record (`teehouse.cloud.cvms.environment.EnvironmentKeys`)."""

    database: Database
    keys: KmsKeys

    async def environment_key(self, kms_id: int, app_id: str) -> str:
        """The X25519 public key, 64 hex digits. Raises as `KmsKeys`."""
        async with self.database.read() as session:
            row = (
                await session.execute(
                    select(KmsNode.url, KmsContract.k256_pubkey)
                    .join(KmsContract, KmsContract.id == KmsNode.contract_id)
                    .where(KmsNode.id == kms_id)
                )
            ).one()
        return (await self.keys.signed_key(row.url, row.k256_pubkey, app_id)).public_key.hex()
