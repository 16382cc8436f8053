"""How an instance gets its keys: evidence to the KMS, keys back, and whose keys they are (trust.md 13.5).

Rules:

1. The temporary CA and the root CA come from whoever answers. From then on the KMS is that root CA.
2. A pinned `key_provider_id` is the root CA's public key, byte for byte. Without a pin, and without an
   MR_CONFIG_ID that covers the key provider, any KMS may answer; a relying party sees which one did in the
   key-provider event.
3. MR_CONFIG_ID, where the host set it, fits the app and this KMS.
4. Rules 2 and 3 are checked before evidence is sent: nothing is asked of a KMS that is not wanted.
5. The keys come over TLS from a server under that root with usage `kms:rpc`, and name the same root CA. They
   have the sizes of the keys they are. The server's own evidence is handed on; it is not judged here.
6. Who cannot be reached is asked again, with growing pauses, until the deadline. Who refuses is not.
"""

import asyncio
import hmac
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from teehouse.attestation.mrconfig import (
    MR_CONFIG_ID_SIZE,
    ConfiguredIdentity,
    KeyProvider,
    check_mr_config_id,
)
from teehouse.base.clock import Clock
from teehouse.base.findings import CollateralError, Finding, MisuseError, Outcome, misuse
from teehouse.keys.appkeys import AppKeys, KmsProvider, parse_app_keys
from teehouse.keys.derive import KEY_SIZE
from teehouse.keys.pem import certificate_der, certificate_pem, certificate_public_key, spki_der
from teehouse.keys.signing import RECOVERABLE_SIZE
from teehouse.kms.client.connection import (
    TIMEOUT,
    KmsConnection,
    KmsRefusedError,
    KmsUnreachableError,
    malformed_answer,
    refused,
    server_evidence,
    shown_url,
)
from teehouse.kms.client.temporary import Attest, TemporaryCa, fresh_evidence_certificate, get_temporary_ca
from teehouse.ratls.read import CertificateEvidence
from teehouse.wire import kms_pb2

API_VERSION: Final = 1
KEY_PROVIDER: Final = "kms"
OS_IMAGE_HASH_SIZE: Final = 32

_logger = logging.getLogger(__name__)


class KmsDeadlineError(CollateralError):
    """No KMS could be reached until the deadline."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What an instance is, as it was measured, and which KMS it wants.

    `identity` without its key provider, which is found here; `mr_config_id` the 48 bytes of the TD report, with
    the `mr_config_document` it may be the hash of; `key_provider_id` the pin of the app-compose, empty for none.
    """

    vm_config: str
    identity: ConfiguredIdentity
    mr_config_id: bytes = bytes(MR_CONFIG_ID_SIZE)
    mr_config_document: bytes | None = None
    key_provider_id: bytes = b""


@dataclass(frozen=True, slots=True)
class ReceivedKeys:
    """The keys of an instance and who gave them.

    `keys` is what `.appkeys.json` holds; `os_image_hash` has 32 bytes, or none when the KMS does not tell;
    `kms_id` is the root CA's SPKI DER, for the key-provider event; `server_evidence` is what the KMS's
    certificate carries, not judged.
    """

    keys: AppKeys
    os_image_hash: bytes
    kms_id: bytes
    server_certificate: bytes = field(repr=False)
    server_evidence: CertificateEvidence = field(repr=False)


async def get_app_keys(
    url: str, request: KeyRequest, attest: Attest, now: datetime, *, exchange_limit: float = TIMEOUT
) -> ReceivedKeys:
    """Ask the KMS at `url` (https) once; `exchange_limit` is the seconds for each of two exchanges.

    Raises `KmsUnreachableError`, `KmsRefusedError`, `MisuseError` for the URL, and what `attest` raises.
    """
    async with KmsConnection(url, timeout=exchange_limit) as connection:
        if not connection.shown.startswith("https:"):
            raise misuse("kms.url", "keys are given out over https alone", found=connection.shown)
        ca = await get_temporary_ca(connection)
    check_kms(ca.kms_id, request, url=connection.shown)
    client = await fresh_evidence_certificate(ca, attest, now)
    async with KmsConnection(url, root=ca.root, client=client, timeout=exchange_limit) as connection:
        question = kms_pb2.GetAppKeyRequest(api_version=API_VERSION, vm_config=request.vm_config)
        answer = await connection.call("GetAppKey", question, kms_pb2.AppKeyResponse)
    certificate = answer.server_certificate or b""  # over https there always is one
    try:
        keys = _app_keys(url, ca, answer.message)
    except MisuseError as error:
        raise malformed_answer("GetAppKey", error) from None
    return ReceivedKeys(
        keys, answer.message.os_image_hash, ca.kms_id, certificate, server_evidence(certificate)
    )


def check_kms(kms_id: bytes, request: KeyRequest, *, url: str) -> None:
    """Rules 2 and 3 for a KMS whose root CA's public key is `kms_id`. Raises `KmsRefusedError`."""
    pin = request.key_provider_id
    if pin and not hmac.compare_digest(pin, kms_id):
        raise refused(
            "kms.pin",
            f"the KMS at {url}",
            expected=f"the key_provider_id of the app-compose, {pin.hex()[:256]}",
            found=kms_id.hex(),
            remedy="this is not the KMS that the app trusts: check its address",
        )
    identity = replace(request.identity, key_provider=KeyProvider(KEY_PROVIDER, kms_id))
    finding = check_mr_config_id(request.mr_config_id, identity, document=request.mr_config_document)
    if not finding.ok:
        raise KmsRefusedError(finding)


def _app_keys(url: str, ca: TemporaryCa, answer: kms_pb2.AppKeyResponse) -> AppKeys:
    """The keys in an answer (rule 5). Raises `MisuseError`, which shows none of them."""
    sizes = (
        ("disk_crypt_key", answer.disk_crypt_key, (KEY_SIZE,)),
        ("env_crypt_key", answer.env_crypt_key, (0, KEY_SIZE)),
        ("k256_signature", answer.k256_signature, (RECOVERABLE_SIZE,)),
        ("os_image_hash", answer.os_image_hash, (0, OS_IMAGE_HASH_SIZE)),
    )
    for name, value, wanted in sizes:
        if len(value) not in wanted:
            expected = " or ".join(str(size) for size in wanted)
            raise misuse("kms.key-size", name, expected=f"{expected} bytes", found=str(len(value)))
    root = certificate_der(answer.ca_cert)
    if not hmac.compare_digest(spki_der(certificate_public_key(root, "ca_cert")), ca.kms_id):
        raise misuse("kms.root-changed", "ca_cert", expected="the root CA of before", found="another")
    keys = AppKeys(
        disk_crypt_key=answer.disk_crypt_key,
        env_crypt_key=answer.env_crypt_key,
        k256_key=answer.k256_key,
        k256_signature=answer.k256_signature,
        gateway_app_id=answer.gateway_app_id or answer.tproxy_app_id,
        ca_cert=certificate_pem(root),  # without what may come after it: whoever reads it trusts all of it
        key_provider=KmsProvider(url, ca.kms_id, ca.key, ca.certificate),
    )
    return parse_app_keys(keys.to_json())  # what could not be read at the next start is refused now


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try (rule 6), in seconds: in all, for the first pause and for the longest, for one exchange."""

    deadline: float = 300.0
    first_pause: float = 0.2
    longest_pause: float = 10.0
    exchange_limit: float = TIMEOUT


DEFAULT_PATIENCE: Final = Patience()


async def obtain_app_keys(
    urls: Sequence[str],
    request: KeyRequest,
    attest: Attest,
    clock: Clock,
    *,
    patience: Patience = DEFAULT_PATIENCE,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    jitter: Callable[[], float] = random.random,
) -> ReceivedKeys:
    """The keys from the first of `urls` that gives them (rule 6).

    `jitter` gives numbers from 0 to 1: many instances that lost one KMS shall not come back in step. Raises
    `KmsDeadlineError` when none could be reached in time, `KmsRefusedError` when all have refused (the first
    refusal), `MisuseError` without URLs, and what `attest` raises.
    """
    if not urls:
        raise misuse(
            "kms.no-url", "no KMS is configured", remedy="name at least one in kms_urls of sys-config"
        )
    start = monotonic()
    left = list(urls)
    refusals: list[KmsRefusedError] = []
    pause = patience.first_pause
    tries = 0
    while True:
        tries += 1
        last: KmsUnreachableError | None = None
        for url in tuple(left):
            remaining = start + patience.deadline - monotonic()
            if remaining <= 0:
                break
            try:
                return await get_app_keys(
                    url, request, attest, clock.now(), exchange_limit=min(patience.exchange_limit, remaining)
                )
            except KmsRefusedError as error:
                left.remove(url)
                refusals.append(error)
                _logger.warning("%s", error)
            except KmsUnreachableError as error:
                last = error
        if not left:
            raise refusals[0]
        wait = pause * (0.5 + jitter() / 2)
        if monotonic() + wait >= start + patience.deadline:
            raise _too_late(left, patience, tries, last)
        _logger.warning("no keys yet, asking again in %.1f s: %s", wait, last)
        await sleep(wait)
        pause = min(2 * pause, patience.longest_pause)


def _too_late(
    urls: Sequence[str], patience: Patience, tries: int, last: KmsUnreachableError | None
) -> KmsDeadlineError:
    return KmsDeadlineError(
        Finding(
            "kms.deadline",
            "no KMS gave keys in time",
            Outcome.COLLATERAL_MISSING,
            expected=f"an answer within {patience.deadline:g} seconds from {', '.join(map(shown_url, urls))}",
            found=f"none in {tries} tries" + ("" if last is None else f"; last: {last.finding.sentence()}"),
            remedy="start the KMS, or check kms_urls; then start the CVM again",
        )
    )
