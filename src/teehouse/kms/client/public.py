"""What a KMS tells everyone: about itself, and the key that an app's environment is encrypted for (trust.md 13.5, 14).

Rules:

1. Nothing here proves by itself who answered: compare `kms_id` or `k256_public_key` with what you trust.
2. The environment's key is used only when the trusted KMS has signed it for this app, lately; without the
   newer signature, the older one is enough only where the caller says so.
"""

from dataclasses import dataclass
from datetime import datetime

from google.protobuf.empty_pb2 import Empty

from teehouse.base.findings import MisuseError, misuse
from teehouse.keys.appkeys import APP_ID_SIZE
from teehouse.keys.envbox import KEY_SIZE, check_environment_key
from teehouse.keys.pem import certificate_der, certificate_public_key, spki_der
from teehouse.kms.client.connection import KmsConnection, KmsRefusedError, malformed_answer
from teehouse.wire import kms_pb2

K256_PUBLIC_KEY_SIZE = 33


@dataclass(frozen=True, slots=True)
class KmsMeta:
    """What GetMeta answers.

    `ca_certificate` is PEM, `kms_id` its SPKI DER (91 bytes), `k256_public_key` compressed (33 bytes).
    `bootstrap_attestation` is the versioned attestation from when the keys were made, empty where none is told.
    Members that a KMS left out are None.
    """

    ca_certificate: str
    kms_id: bytes
    k256_public_key: bytes
    allow_any_upgrade: bool
    is_dev: bool
    bootstrap_attestation: bytes
    gateway_app_id: str | None
    kms_contract_address: str | None
    chain_id: int | None
    app_auth_implementation: str | None


@dataclass(frozen=True, slots=True)
class EnvironmentKey:
    """The X25519 key (32 bytes) of an app's environment, and the KMS's signatures (65 bytes) over it.

    `timestamp` is in UNIX seconds and covered by `signature_v1`, which is empty from an older KMS.
    """

    public_key: bytes
    signature: bytes
    timestamp: int
    signature_v1: bytes


async def get_meta(connection: KmsConnection) -> KmsMeta:
    """What the KMS says of itself. Raises `KmsUnreachableError`, `KmsRefusedError`."""
    message = (await connection.call("GetMeta", Empty(), kms_pb2.GetMetaResponse)).message
    try:
        kms_id = spki_der(certificate_public_key(certificate_der(message.ca_cert), "ca_cert"))
        if len(message.k256_pubkey) != K256_PUBLIC_KEY_SIZE:
            raise misuse("kms.key-size", "k256_pubkey", expected=f"{K256_PUBLIC_KEY_SIZE} bytes")
    except MisuseError as error:
        raise malformed_answer("GetMeta", error) from None
    return KmsMeta(
        ca_certificate=message.ca_cert,
        kms_id=kms_id,
        k256_public_key=message.k256_pubkey,
        allow_any_upgrade=message.allow_any_upgrade,
        is_dev=message.is_dev,
        bootstrap_attestation=message.bootstrap_info.attestation,
        gateway_app_id=message.gateway_app_id if message.HasField("gateway_app_id") else None,
        kms_contract_address=message.kms_contract_address
        if message.HasField("kms_contract_address")
        else None,
        chain_id=message.chain_id if message.HasField("chain_id") else None,
        app_auth_implementation=message.app_auth_implementation
        if message.HasField("app_auth_implementation")
        else None,
    )


async def get_environment_key(
    connection: KmsConnection,
    app_id: bytes,
    *,
    trusted: bytes,
    now: datetime,
    accept_undated: bool = False,
) -> EnvironmentKey:
    """The key to encrypt the environment of `app_id` (20 bytes) for, vouched for by `trusted` (33 bytes; rule 2).

    Raises `MisuseError` for another app id, `KmsUnreachableError`, `KmsRefusedError`.
    """
    if len(app_id) != APP_ID_SIZE:
        raise misuse("kms.app-id-size", "the app id has the wrong size", expected=f"{APP_ID_SIZE} bytes")
    question = kms_pb2.AppId(app_id=app_id)
    answer = await connection.call("GetAppEnvEncryptPubKey", question, kms_pb2.PublicKeyResponse)
    message = answer.message
    if len(message.public_key) != KEY_SIZE:
        wrong = misuse("kms.key-size", "public_key", expected=f"{KEY_SIZE} bytes")
        raise malformed_answer("GetAppEnvEncryptPubKey", wrong)
    if accept_undated and not message.signature_v1:
        finding = check_environment_key(app_id, message.public_key, message.signature, trusted)
    else:
        finding = check_environment_key(
            app_id,
            message.public_key,
            message.signature_v1,
            trusted,
            timestamp=message.timestamp,
            now=int(now.timestamp()),
        )
    if not finding.ok:
        raise KmsRefusedError(finding)
    return EnvironmentKey(message.public_key, message.signature, message.timestamp, message.signature_v1)
