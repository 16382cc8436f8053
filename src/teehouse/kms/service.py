"""The RPCs of the KMS (trust.md 13.5).

Rules:

K1. Before anything that rests on the root keys is handed out, the KMS asks whether it may run itself (unless
    it was told not to enforce that). Its own boot info is taken once; the question is asked every time.
K2. Evidence is judged by `kms.evidence`, then the authorisation API is asked. Nothing else allows, no answer
    is kept, and whatever goes wrong on the way is a refusal.
K3. A refusal's text begins with what was refused, then why: `App not allowed: Boot denied: <reason>`.
K4. Every hand-out and every refusal is on the audit log before it is answered; what cannot be recorded is
    not handed out.
K5. Key material is in answers alone: in no error, log line or repr.
K6. Keys of an app go by the measured app id and instance id, never by what a request says.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from teehouse.attestation.envelope import Attestation, decode_attestation
from teehouse.attestation.identity import APP_ID_SIZE
from teehouse.base.clock import Clock
from teehouse.base.findings import MisuseError, TeehouseError, misuse, rejected
from teehouse.base.hashes import sha256
from teehouse.kms import answers
from teehouse.kms.audit import AuditLog, Decided, Who
from teehouse.kms.auth import AuthApi, Decision
from teehouse.kms.boot_info import BootInfo
from teehouse.kms.evidence import (
    Judge,
    Purpose,
    Subject,
    bound_attestation,
    evidence_digest,
    legacy_attestation,
    peer_evidence,
    request_attestation,
)
from teehouse.kms.own import OwnEvidence
from teehouse.kms.refusal import context
from teehouse.kms.rootkeys import RootKeys
from teehouse.ratls.csr import SigningRequest, verify_request
from teehouse.wire import kms_pb2

_logger = logging.getLogger(__name__)

APP_KEY_VERSION = 1  # the newest api_version of GetAppKey
SIGN_CERT_VERSIONS = (1, 2)
REASON_LIMIT = 1024  # characters of the authorisation API's reason that are passed on

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end: its address as text, and its TLS certificate (DER) where it showed one."""

    address: str = ""
    certificate_der: bytes | None = None


@dataclass(slots=True)
class Metrics:
    """How often evidence was to be judged, and how often it was refused."""

    requests: int = 0
    failures: int = 0


@dataclass(slots=True)
class Trail:
    """What becomes known about one request, for its audit record."""

    peer: Peer
    attestation: Attestation | None = None
    subject: Subject | None = None
    app_id: bytes = b""

    def who(self) -> Who:
        info = self.subject.boot_info if self.subject else None
        certificate = self.peer.certificate_der
        return Who(
            app_id=info.app_id if info else self.app_id,
            instance_id=info.instance_id if info else b"",
            device_id=info.device_id if info else b"",
            compose_hash=info.compose_hash if info else b"",
            root=self.subject.root if self.subject else "",
            evidence=evidence_digest(self.attestation) if self.attestation else b"",
            peer=self.peer.address,
            peer_certificate=sha256(certificate) if certificate else b"",
        )


class Recorder(Protocol):
    """Writes audit records without blocking the event loop."""

    async def record(self, rpc: str, decision: Decided, reason: str, who: Who) -> None:
        """Raises `CollateralError` when the record cannot be written."""
        ...


class ThreadRecorder:
    """Writes to an `AuditLog` in a thread: a record waits for the disk."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def record(self, rpc: str, decision: Decided, reason: str, who: Who) -> None:
        # Shielded: a caller that goes away must not leave a record half known to the log.
        await asyncio.shield(asyncio.to_thread(self._log.append, rpc, decision, reason, who))


class SelfAuthorisation:
    """Whether this KMS may run (K1). Without `own` evidence it is not enforced."""

    def __init__(self, own: OwnEvidence | None, judge: Judge, auth: AuthApi) -> None:
        self._own = own
        self._judge = judge
        self._auth = auth
        self._lock = asyncio.Lock()
        self._boot_info: BootInfo | None = None

    async def ensure_allowed(self) -> None:
        """Raises `TeehouseError` when it is not allowed, or that cannot be found out."""
        if self._own is None:
            return
        with context("KMS self authorization failed"):
            decision = await self._auth.boot_kms(await self._own_boot_info(self._own))
            if decision.is_allowed is not True:
                raise rejected("kms.self-denied", f"KMS is not allowed: {decision.reason[:REASON_LIMIT]}")

    async def _own_boot_info(self, own: OwnEvidence) -> BootInfo:
        async with self._lock:
            if self._boot_info is None:
                self._boot_info = (await own_subject(own, self._judge)).boot_info
            return self._boot_info


async def own_subject(own: OwnEvidence, judge: Judge) -> Subject:
    """Who this KMS is, by its own evidence over 64 zero bytes. Raises `TeehouseError`."""
    return await judge.judge(await own.attest(bytes(64)), Purpose.KMS)


class KmsService:
    """Answers the RPCs of service KMS from `keys`. `own` is None where self authorisation is not enforced."""

    def __init__(
        self,
        keys: RootKeys,
        auth: AuthApi,
        judge: Judge,
        recorder: Recorder,
        clock: Clock,
        *,
        own: OwnEvidence | None,
    ) -> None:
        self._keys = keys
        self._auth = auth
        self._judge = judge
        self._recorder = recorder
        self._clock = clock
        self._self = SelfAuthorisation(own, judge, auth)
        self.metrics = Metrics()

    def handlers(self) -> dict[str, dict[str, Callable[[Any, Peer], Awaitable[Message]]]]:
        """The handlers by service and method, each taking request and `Peer`."""
        return {
            "KMS": {
                "GetAppKey": self.get_app_key,
                "GetAppEnvEncryptPubKey": self.get_app_env_encrypt_pub_key,
                "GetMeta": self.get_meta,
                "GetKmsKey": self.get_kms_key,
                "GetTempCaCert": self.get_temp_ca_cert,
                "SignCert": self.sign_cert,
            }
        }

    async def get_app_key(self, request: kms_pb2.GetAppKeyRequest, peer: Peer) -> kms_pb2.AppKeyResponse:
        """The keys of the app that the peer's evidence is about."""

        async def work(trail: Trail) -> kms_pb2.AppKeyResponse:
            if request.api_version > APP_KEY_VERSION:
                raise unsupported_version(request.api_version)
            await self._self.ensure_allowed()
            with context("App not allowed"):
                subject = await self._peer_subject(trail, Purpose.RELEASE, request.vm_config)
                decision = await self._allowed(self._auth.boot_app, subject)
            return answers.app_key_response(
                self._keys, subject.boot_info, decision.gateway_app_id, self._clock.now()
            )

        return await self._recorded("GetAppKey", peer, work)

    async def get_app_env_encrypt_pub_key(
        self, request: kms_pb2.AppId, peer: Peer
    ) -> kms_pb2.PublicKeyResponse:
        """The public key for an app's environment, which anybody may ask for."""

        async def work(trail: Trail) -> kms_pb2.PublicKeyResponse:
            await self._self.ensure_allowed()
            if len(request.app_id) != APP_ID_SIZE:
                raise misuse("kms.app-id-size", "app_id must be 20 bytes")
            trail.app_id = request.app_id
            return answers.env_public_key_response(self._keys, request.app_id, self._clock.now())

        return await self._recorded("GetAppEnvEncryptPubKey", peer, work)

    async def get_meta(self, _request: Message, _peer: Peer) -> kms_pb2.GetMetaResponse:
        """About this KMS and its authorisation; nothing of it is secret, so it is not recorded."""
        return answers.meta_response(self._keys, await self._auth.info())

    async def get_kms_key(self, request: kms_pb2.GetKmsKeyRequest, peer: Peer) -> kms_pb2.KmsKeyResponse:
        """All root keys, for another KMS."""

        async def work(trail: Trail) -> kms_pb2.KmsKeyResponse:
            await self._self.ensure_allowed()
            with context("KMS not allowed"):
                subject = await self._peer_subject(trail, Purpose.KMS, request.vm_config)
                await self._allowed(self._auth.boot_kms, subject)
            return answers.kms_key_response(self._keys)

        return await self._recorded("GetKmsKey", peer, work)

    async def get_temp_ca_cert(self, _request: Message, peer: Peer) -> kms_pb2.GetTempCaCertResponse:
        """The temporary CA with its key: whoever wants to show evidence over TLS needs it first."""

        async def work(_trail: Trail) -> kms_pb2.GetTempCaCertResponse:
            await self._self.ensure_allowed()
            return answers.temp_ca_response(self._keys)

        return await self._recorded("GetTempCaCert", peer, work)

    async def sign_cert(self, request: kms_pb2.SignCertRequest, peer: Peer) -> kms_pb2.SignCertResponse:
        """A certificate under the app's CA for the key of a signing request."""

        async def work(trail: Trail) -> kms_pb2.SignCertResponse:
            await self._self.ensure_allowed()
            if request.api_version not in SIGN_CERT_VERSIONS:
                raise unsupported_version(request.api_version)
            signing = verify_request(request.csr, request.signature, request.api_version)
            with context("App not allowed"):
                subject = await self._judged(
                    trail, lambda: _signing_attestation(trail, signing), Purpose.SIGN, request.vm_config
                )
                await self._allowed(self._auth.boot_app, subject)
            return answers.sign_cert_response(self._keys, signing, subject, self._clock.now())

        return await self._recorded("SignCert", peer, work)

    async def _peer_subject(self, trail: Trail, purpose: Purpose, vm_config: str) -> Subject:
        return await self._judged(trail, lambda: _peer_attestation(trail), purpose, vm_config)

    async def _judged(
        self, trail: Trail, read: Callable[[], Attestation], purpose: Purpose, vm_config: str
    ) -> Subject:
        """K2: evidence first."""
        self.metrics.requests += 1
        try:
            trail.subject = await self._judge.judge(read(), purpose, vm_config)
        except TeehouseError:
            self.metrics.failures += 1
            raise
        return trail.subject

    @staticmethod
    async def _allowed(ask: Callable[[BootInfo], Awaitable[Decision]], subject: Subject) -> Decision:
        """K2: then the authorisation API. Anything but a clear yes is a refusal."""
        decision = await ask(subject.boot_info)
        if decision.is_allowed is not True:
            raise rejected("kms.boot-denied", f"Boot denied: {decision.reason[:REASON_LIMIT]}")
        return decision

    async def _recorded(self, rpc: str, peer: Peer, work: Callable[[Trail], Awaitable[M]]) -> M:
        """Do the work and record how it ended (K4)."""
        trail = Trail(peer)
        try:
            answer = await work(trail)
        except TeehouseError as error:
            _logger.warning("%s refused: %s", rpc, error.finding.code)
            await self._recorder.record(rpc, "refused", str(error), trail.who())
            raise
        except Exception as error:
            # Its text may repeat what it was about (K5); the type has to do.
            await self._recorder.record(rpc, "failed", type(error).__name__, trail.who())
            raise
        await self._recorder.record(rpc, "allowed", "", trail.who())
        return answer


def unsupported_version(version: int) -> MisuseError:
    """The refusal of an api_version that is not known."""
    return misuse("kms.api-version", f"Unsupported API version: {version}")


def _peer_attestation(trail: Trail) -> Attestation:
    """The attestation in the client's certificate, bound to its key; on record in any case. Raises `EvidenceError`."""
    shown = peer_evidence(trail.peer.certificate_der)
    trail.attestation = shown.attestation
    return bound_attestation(shown)


def _signing_attestation(trail: Trail, request: SigningRequest) -> Attestation:
    """The attestation of a signing request, bound to its key; on record in any case. Raises `EvidenceError`."""
    if request.version == 1:
        trail.attestation = legacy_attestation(request.quote, request.event_log)
    else:
        trail.attestation = decode_attestation(request.attestation)
    return request_attestation(request, trail.attestation)
