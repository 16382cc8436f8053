"""A KMS over emulated evidence: its keys, its authorisation, CVMs that ask it, and its sockets on loopback."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from support import emulated
from support.adversary import APP_ID, COMPOSE_HASH, INSTANCE_ID, Adversary, Claims
from teehouse.attestation.abi import Quote
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.certificate import certificate_report_data
from teehouse.attestation.envelope import Attestation, encode_attestation
from teehouse.attestation.eventlog import RuntimeEvent, encode_event_log, replay_runtime
from teehouse.base.clock import FixedClock
from teehouse.base.findings import EvidenceError, TeehouseError, unavailable
from teehouse.base.hashes import sha256
from teehouse.keys.certificate import Issuer
from teehouse.keys.derive import p256_from_scalar
from teehouse.keys.pem import spki_der
from teehouse.kms.audit import AuditLog, Record, read_records
from teehouse.kms.auth import AuthInfo, Decision
from teehouse.kms.boot_info import BootInfo
from teehouse.kms.evidence import Judge
from teehouse.kms.own import certificate_attestation
from teehouse.kms.rootkeys import BootstrapInfo, RootKeys, new_root_keys
from teehouse.kms.rootstore import RootKeyStore
from teehouse.kms.server import KmsParts, KmsServer, KmsSettings, bound_socket
from teehouse.kms.service import KmsService, Peer, ThreadRecorder
from teehouse.kms.tls import client_context
from teehouse.ratls.certificates import CertificateSpec, issue
from teehouse.ratls.csr import SigningRequest, encode_request, sign_request
from teehouse.wire import kms_pb2

NOW = emulated.NOW
DOMAIN = "kms.example.test"
# What a CVM has measured when it asks for its keys: it ends at boot-mr-done.
BOOT: tuple[RuntimeEvent, ...] = Claims().events[:5]
READY: tuple[RuntimeEvent, ...] = Claims().events
HONEST = Adversary()
DEVICE = sha256(HONEST.host.ppid)
IMAGE = emulated.image().os_image_hash
ALLOWED = Decision(is_allowed=True, gateway_app_id="gateway")
DOWN = unavailable("auth.down", "the authorization API does not answer")
INFO = AuthInfo(
    kms_contract_address="0x" + "11" * 20,
    gateway_app_id="gateway",
    chain_id=31337,
    app_implementation="0x" + "22" * 20,
    eth_rpc_url="http://chain.test",
)


def counted(start: int = 1) -> Callable[[int], bytes]:
    """Randomness for tests: bytes of a counter, each draw another."""
    state = start

    def draw(size: int) -> bytes:
        nonlocal state
        state += 1
        return sha256(state.to_bytes(8, "big"))[:size]

    return draw


def root_keys(start: int = 1) -> RootKeys:
    made = new_root_keys(DOMAIN, NOW, counted(start))
    return replace(made, bootstrap_info=BootstrapInfo(made.ca_pubkey, made.root.k256_public_key, b"proof"))


@dataclass
class FakeAuth:
    """Answers what it is told to, and remembers each question."""

    app: Decision | BaseException = ALLOWED
    kms: Decision | BaseException = ALLOWED
    about: AuthInfo | BaseException = INFO
    asked: list[tuple[str, BootInfo]] = field(default_factory=list)

    async def info(self) -> AuthInfo:
        return _given(self.about)

    async def boot_app(self, boot_info: BootInfo) -> Decision:
        self.asked.append(("app", boot_info))
        return _given(self.app)

    async def boot_kms(self, boot_info: BootInfo) -> Decision:
        self.asked.append(("kms", boot_info))
        return _given(self.kms)


def _given(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer


@dataclass
class FakeCollateral:
    """Collateral of an installation, or the refusal to give it."""

    answer: Collateral | TeehouseError

    async def collateral(self, quote: Quote) -> Collateral:
        answer: Collateral = _given(self.answer)
        return answer


@dataclass
class OwnTd:
    """The KMS's own machine: attests what it is asked to."""

    claims: Claims = field(default_factory=Claims)
    attestations: int = 0

    async def attest(self, report_data: bytes) -> Attestation:
        self.attestations += 1
        return HONEST.attest(replace(self.claims, report_data=report_data))


def key(number: int = 7) -> ec.EllipticCurvePrivateKey:
    return p256_from_scalar(number.to_bytes(32, "big"))


def evidence_for(
    public: ec.EllipticCurvePublicKey, claims: Claims | None = None, who: Adversary = HONEST
) -> Attestation:
    """Evidence bound to a key; at boot-mr-done unless the claims say otherwise."""
    claims = claims or Claims(events=BOOT)
    return who.attest(replace(claims, report_data=certificate_report_data(spki_der(public))))


def client_cert(
    keys: RootKeys,
    attestation: Attestation | None,
    *,
    public: ec.EllipticCurvePublicKey | None = None,
    issuer: Issuer | None = None,
) -> bytes:
    """A client certificate under the temporary CA, for `key()` unless `public` is given."""
    spec = CertificateSpec(
        subject="RA-TLS TEMP Cert",
        client_auth=True,
        attestation=None if attestation is None else certificate_attestation(attestation),
    )
    return issue(spec, public or key().public_key(), issuer or keys.root.temporary_ca, NOW)


@dataclass
class House:
    """A KMS without sockets."""

    keys: RootKeys
    auth: FakeAuth
    own: OwnTd
    clock: FixedClock
    collateral: FakeCollateral
    judge: Judge
    audit: AuditLog
    service: KmsService

    def peer(self, claims: Claims | None = None, who: Adversary = HONEST) -> Peer:
        """A CVM's connection, with evidence bound to the key that TLS has proven."""
        return Peer("192.0.2.1:5", client_cert(self.keys, evidence_for(key().public_key(), claims, who)))

    def records(self) -> list[Record]:
        return list(read_records(self.audit.path))


def house(
    directory: Path,
    *,
    auth: FakeAuth | None = None,
    enforce: bool = True,
    verify_image: bool = True,
    collateral: Collateral | TeehouseError | None = None,
    roots: tuple[Any, ...] = (HONEST.root,),
) -> House:
    clock, keys, own, auth = emulated.clock(), root_keys(), OwnTd(), auth or FakeAuth()
    source = FakeCollateral(collateral or HONEST.collateral())
    judge = Judge(roots, source, clock, verify_image=verify_image)
    audit = AuditLog(directory / "audit.jsonl", clock)
    service = KmsService(keys, auth, judge, ThreadRecorder(audit), clock, own=own if enforce else None)
    return House(keys, auth, own, clock, source, judge, audit, service)


@dataclass
class Running:
    """A KMS on loopback."""

    server: KmsServer
    auth: FakeAuth
    own: OwnTd
    store: RootKeyStore
    audit: AuditLog
    port: int
    onboard_port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def client(
        self, identity: ec.EllipticCurvePrivateKey | None = None, certificate: bytes | None = None
    ) -> httpx.AsyncClient:
        """A client of the RPC listener."""
        return httpx.AsyncClient(
            base_url=self.url, verify=client_context(identity, certificate), trust_env=False
        )

    def onboarder(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.onboard_port}", trust_env=False)


@asynccontextmanager
async def running(
    directory: Path, *, settings: KmsSettings | None = None, keys: RootKeys | None = None, **parts: Any
) -> AsyncIterator[Running]:
    """A KMS with `keys` in its store, or onboarding without them."""
    clock, own, auth = emulated.clock(), OwnTd(), parts.pop("auth", None) or FakeAuth()
    store = RootKeyStore(directory / "keys", parts.pop("sealing_key", None))
    if keys is not None:
        store.create(keys, b"\x30\x00")
    judge = Judge((HONEST.root,), FakeCollateral(HONEST.collateral()), clock)
    audit = AuditLog(directory / "audit.jsonl", clock)
    rpc, onboard = bound_socket("127.0.0.1", 0), bound_socket("127.0.0.1", 0)
    ports = rpc.getsockname()[1], onboard.getsockname()[1]
    sockets = [rpc, onboard]
    try:
        server = KmsServer(
            KmsParts(store, auth, judge, audit, clock, parts.pop("own", own)),
            settings or KmsSettings(site_name="site", revision="rev"),
            rpc_sockets=[rpc],
            onboard_sockets=[onboard],
        )
        try:
            await server.start()
            yield Running(server, auth, own, store, audit, *ports)
        finally:
            await server.stop()
    finally:
        for sock in sockets:
            sock.close()
        audit.close()


def app_key_request(**fields: Any) -> kms_pb2.GetAppKeyRequest:
    return kms_pb2.GetAppKeyRequest(**{"api_version": 1, **fields})


def boot_info(claims: Claims, *, whole: bool = False) -> BootInfo:
    """What the authorisation API has to be told, computed here from the formulas of trust.md 8.5."""
    body = HONEST.attest(claims)
    quoted = body.quote[48 : 48 + 584]
    mrtd, registers = quoted[136:184], quoted[328:520]
    config_owner = quoted[184:328]
    events = claims.events if whole else BOOT
    rtmr3 = replay_runtime(events)
    provider = b'{"name":"kms","id":"abcd"}' if whole else b""
    mr_key_provider = hashlib.sha256(provider).digest() if whole else bytes(32)
    owner = config_owner if any(config_owner) else b""
    return BootInfo(
        tee_variant="dstack-tdx",
        mr_aggregated=hashlib.sha256(mrtd + registers[:144] + rtmr3 + owner).digest(),
        os_image_hash=IMAGE,
        mr_system=hashlib.sha256(mrtd + registers[:144] + mr_key_provider).digest(),
        app_id=APP_ID,
        compose_hash=COMPOSE_HASH,
        instance_id=INSTANCE_ID,
        device_id=DEVICE,
        key_provider_info=provider,
        tcb_status="UpToDate",
        advisory_ids=(),
    )


KMS_ITSELF = ("kms", boot_info(Claims(), whole=True))


async def refused(work: Awaitable[Any], kind: type[TeehouseError] = EvidenceError) -> str:
    with pytest.raises(kind) as caught:
        await work
    assert type(caught.value) is kind
    return str(caught.value)


def signing_request(
    *, version: int = 2, api_version: int | None = None, claims: Claims | None = None, **fields: Any
) -> kms_pb2.SignCertRequest:
    owner = key()
    attestation = evidence_for(owner.public_key(), claims or Claims(events=READY))
    evidence: dict[str, Any] = {"attestation": encode_attestation(attestation)}
    if version == 1:
        evidence = {
            "quote": attestation.quote,
            "event_log": encode_event_log(attestation.event_log).encode(),
        }
    request = SigningRequest(
        **{
            "public_key": spki_der(owner.public_key()),
            "subject": "app.example.test",
            "alt_names": ("app.example.test",),
            "server_auth": True,
            "version": version,
            **evidence,
            **fields,
        }
    )
    csr = encode_request(request)
    return kms_pb2.SignCertRequest(
        api_version=version if api_version is None else api_version,
        csr=csr,
        signature=sign_request(csr, owner),
        vm_config=attestation.config if version == 1 else "",
    )
