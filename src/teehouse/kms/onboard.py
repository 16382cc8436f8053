"""How a KMS comes by its root keys: it makes them, or another KMS gives them (trust.md 13.3).

Rules:

O1. Only a KMS without root keys is served here; nothing overwrites keys. One request at a time changes that.
O2. Bootstrap draws new keys and attests to them: the report data is over both public keys.
O3. Onboarding trusts another KMS for its evidence, which is bound to the TLS key that answered, verified, and
    then allowed by *our* authorisation API. All answers come from that one TLS key.
O4. What the other KMS gives is exactly one set of keys, and it fits the certificates and the public keys that
    it shows. Its certificates and what it proved at its own bootstrap are taken over: both answer alike.
O5. Each of the two is on the audit log before the keys are kept. Public keys are all that is answered.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from teehouse.attestation.certificate import attestation_extensions
from teehouse.attestation.envelope import encode_attestation
from teehouse.base.clock import Clock
from teehouse.base.findings import CollateralError, TeehouseError, misuse, rejected
from teehouse.keys.appkeys import KmsRoot
from teehouse.keys.certificate import Issuer
from teehouse.keys.derive import KEY_SIZE
from teehouse.keys.pem import certificate_der, load_p256_private_key, spki_der
from teehouse.keys.signing import public_key
from teehouse.kms.auth import AuthApi, AuthInfo
from teehouse.kms.boot_info import TEE_VARIANT
from teehouse.kms.evidence import Judge, Purpose, Subject, peer_attestation
from teehouse.kms.own import OwnEvidence, attested_rpc_certificate, client_certificate
from teehouse.kms.refusal import context
from teehouse.kms.rootkeys import (
    ROOT_CA,
    TEMPORARY_CA,
    BootstrapInfo,
    RandomBytes,
    RootKeys,
    adopted_ca,
    bootstrap_report_data,
    check_domain,
    new_p256_key,
    new_root_keys,
)
from teehouse.kms.rootstore import RootKeyStore
from teehouse.kms.service import REASON_LIMIT, Peer, Recorder, Trail, own_subject
from teehouse.kms.source import Answered, HttpSource, Source
from teehouse.wire import kms_pb2

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OnboardParts:
    """What onboarding works with. `own` is None for a KMS that runs without a guest agent: it cannot onboard.

    `attest_rpc_cert` is whether the RPC certificate carries our evidence; `connect` gives the KMS at a URL.
    """

    store: RootKeyStore
    auth: AuthApi
    judge: Judge
    recorder: Recorder
    clock: Clock
    own: OwnEvidence | None
    attest_rpc_cert: bool = True
    site_name: str = ""
    connect: Callable[[str], Source] = HttpSource
    random: RandomBytes = secrets.token_bytes


class OnboardService:
    """Answers the RPCs of service Onboard; `finished` is set when the keys are there and Finish was called."""

    def __init__(self, parts: OnboardParts) -> None:
        self._parts = parts
        self._lock = asyncio.Lock()
        self.finished = asyncio.Event()

    def handlers(self) -> dict[str, dict[str, Callable[[Any, Peer], Awaitable[Message]]]]:
        """The handlers by service and method, each taking request and `Peer`."""
        return {
            "Onboard": {
                "Bootstrap": self.bootstrap,
                "Onboard": self.onboard,
                "GetAttestationInfo": self.get_attestation_info,
                "Finish": self.finish,
            }
        }

    async def bootstrap(self, request: kms_pb2.BootstrapRequest, peer: Peer) -> kms_pb2.BootstrapResponse:
        """Draw the root keys (O1, O2)."""
        parts, now = self._parts, self._parts.clock.now()

        async def make(_trail: Trail) -> RootKeys:
            made = new_root_keys(request.domain, now, parts.random)
            k256_pubkey = made.root.k256_public_key
            proof = b""
            if parts.own is not None:
                wanted = bootstrap_report_data(made.ca_pubkey, k256_pubkey)
                proof = encode_attestation(await parts.own.attest(wanted))
            return replace(made, bootstrap_info=BootstrapInfo(made.ca_pubkey, k256_pubkey, proof))

        keys = await self._kept("Bootstrap", peer, make, now)
        info = keys.bootstrap_info
        return kms_pb2.BootstrapResponse(
            ca_pubkey=keys.ca_pubkey,
            k256_pubkey=keys.root.k256_public_key,
            attestation=info.attestation if info else b"",
        )

    async def onboard(self, request: kms_pb2.OnboardRequest, peer: Peer) -> kms_pb2.OnboardResponse:
        """Take the root keys from the KMS at `source_url` (O1, O3, O4)."""
        parts, now = self._parts, self._parts.clock.now()

        async def fetch(trail: Trail) -> RootKeys:
            check_domain(request.domain)
            own = self._own()
            source = parts.connect(request.source_url)
            with context("the source KMS"):
                offered = await source.temp_ca()
                await self._judge_source(trail, offered.certificate_der)
                meta = same_peer(await source.meta(), offered.certificate_der)
                temporary_key = load_p256_private_key(offered.message.temp_ca_key)
                temporary_der = certificate_der(offered.message.temp_ca_cert)
                temporary_ca = adopted_ca(TEMPORARY_CA, temporary_key, temporary_der, now)
            ours = new_p256_key(parts.random)
            certificate = await client_certificate(own, ours, Issuer(temporary_key, temporary_der), now)
            with context("the source KMS"):
                given = same_peer(await source.kms_key(ours, certificate, ""), offered.certificate_der)
                root = received_root(given, offered.message, temporary_ca, now)
                info = received_bootstrap_info(meta, root)
            return RootKeys(root, new_p256_key(parts.random), request.domain, info)

        keys = await self._kept("Onboard", peer, fetch, now)
        return kms_pb2.OnboardResponse(k256_pubkey=keys.root.k256_public_key)

    async def get_attestation_info(self, _request: Message, _peer: Peer) -> kms_pb2.AttestationInfoResponse:
        """Who this KMS is: what somebody has to allow before it can run."""
        subject = await own_subject(self._own(), self._parts.judge)
        info: AuthInfo | None = None
        try:
            info = await self._parts.auth.info()
        except CollateralError as error:
            # Nothing is decided here; what is not known stays empty.
            _logger.warning("the authorisation API does not tell about itself: %s", error.finding.code)
        boot_info = subject.boot_info
        return kms_pb2.AttestationInfoResponse(
            device_id=boot_info.device_id,
            mr_aggregated=boot_info.mr_aggregated,
            os_image_hash=boot_info.os_image_hash,
            tee_variant=TEE_VARIANT,
            site_name=self._parts.site_name,
            eth_rpc_url=(info.eth_rpc_url or "") if info else "",
            kms_contract_address=info.kms_contract_address if info else "",
            ppid=subject.ppid,
        )

    async def finish(self, _request: Message, _peer: Peer) -> Empty:
        """End onboarding: the RPC service starts. Raises `MisuseError` while there are no keys."""
        if not await asyncio.to_thread(self._parts.store.exists):
            raise misuse(
                "kms.no-keys", "there are no root keys yet", remedy="call Bootstrap or Onboard first"
            )
        self.finished.set()
        return Empty()

    async def _judge_source(self, trail: Trail, certificate: bytes) -> Subject:
        """O3."""
        attestation = peer_attestation(certificate)
        trail.attestation = attestation
        subject = trail.subject = await self._parts.judge.judge(attestation, Purpose.KMS)
        decision = await self._parts.auth.boot_kms(subject.boot_info)
        if decision.is_allowed is not True:
            raise rejected("kms.source-denied", f"Boot denied: {decision.reason[:REASON_LIMIT]}")
        return subject

    async def _kept(
        self, rpc: str, peer: Peer, work: Callable[[Trail], Awaitable[RootKeys]], now: datetime
    ) -> RootKeys:
        """Come by keys, record it, keep them (O1, O5)."""
        parts, trail = self._parts, Trail(peer)
        async with self._lock:
            try:
                if await asyncio.to_thread(parts.store.exists):
                    raise misuse("kms.store-exists", "this KMS has its root keys already")  # noqa: TRY301 - recorded as any refusal is
                keys = await work(trail)
                own = parts.own if parts.attest_rpc_cert else None
                certificate = await attested_rpc_certificate(keys, own, now)
                await parts.recorder.record(rpc, "allowed", "", trail.who())
                await asyncio.to_thread(parts.store.create, keys, certificate)
            except TeehouseError as error:
                await parts.recorder.record(rpc, "refused", str(error), trail.who())
                raise
            except Exception as error:
                await parts.recorder.record(rpc, "failed", type(error).__name__, trail.who())
                raise
        return keys

    def _own(self) -> OwnEvidence:
        if self._parts.own is None:
            raise misuse(
                "kms.no-guest-agent",
                "this KMS has no evidence of its own",
                remedy="run it beside a guest agent, and name its socket",
            )
        return self._parts.own


def same_peer(answered: Answered[Any], certificate: bytes) -> Any:
    """The message, when the TLS key that gave it is that of `certificate`. Raises `EvidenceError` (O3)."""
    if _key_of(answered.certificate_der) != _key_of(certificate):
        raise rejected(
            "kms.source-changed",
            "two answers come from two TLS keys",
            remedy="name one KMS, not a balancer before several",
        )
    return answered.message


def received_root(
    given: kms_pb2.KmsKeyResponse,
    offered: kms_pb2.GetTempCaCertResponse,
    temporary_ca: Issuer,
    now: datetime,
) -> KmsRoot:
    """The root keys that another KMS gave. Raises `TeehouseError` (O4)."""
    if len(given.keys) != 1:
        raise rejected("kms.key-sets", "exactly one key set", expected="1", found=str(len(given.keys)))
    (keys,) = given.keys
    if len(keys.k256_key) != KEY_SIZE:
        raise rejected("kms.k256-size", "the k256 key has the wrong size", expected=f"{KEY_SIZE} bytes")
    public_key("secp256k1", keys.k256_key)  # an impossible key is found now
    if load_p256_private_key(given.temp_ca_key).public_key() != temporary_ca.key.public_key():
        raise rejected("kms.keys-mixed", "the temporary CA's key is not the one that was offered")
    ca_key = load_p256_private_key(keys.ca_key)
    ca = adopted_ca(ROOT_CA, ca_key, certificate_der(offered.ca_cert), now)
    return KmsRoot(ca, keys.k256_key, temporary_ca)


def received_bootstrap_info(meta: kms_pb2.GetMetaResponse, root: KmsRoot) -> BootstrapInfo | None:
    """What the other KMS proved when the keys were made. Raises `EvidenceError` when it is of other keys (O4)."""
    if meta.k256_pubkey != root.k256_public_key:
        raise rejected("kms.keys-mixed", "GetMeta tells another k256 key")
    told = meta.bootstrap_info
    if not told.ca_pubkey:
        return None
    if told.k256_pubkey != root.k256_public_key or told.ca_pubkey != spki_der(root.ca.key.public_key()):
        raise rejected("kms.keys-mixed", "the bootstrap info is about other keys")
    return BootstrapInfo(told.ca_pubkey, told.k256_pubkey, told.attestation)


def _key_of(certificate: bytes) -> bytes:
    return attestation_extensions(certificate).spki
