"""The methods of the guest agent: DstackGuest, Tappd and Worker, one coroutine each (guest-agent.md 4 to 6).

Rules:

S1. `GetQuote`, `Attest`, the Tappd quotes and every certificate take a fresh quote. `Info` is built from
    one attestation over zero report data, kept until an event is emitted; `GetAttestationForAppKey`, the
    one quote that the outside can ask for, is kept for `APP_KEY_LIFETIME` per algorithm (13.5, 6.2).
S2. The outside sees neither TCB info nor vm_config where app-compose says `public_tcbinfo: false`.
S3. What is kept of derived keys is bounded, belongs to this object alone, and never reaches a log or a repr.
S4. Nothing here needs the network, but for the signer of certificates, when a KMS is behind it.

Messages are protobuf messages of `wire.guest_pb2`. Every method raises `MisuseError` for what the caller got
wrong, with the text of the wire, and `PlatformError` or `KeyDerivationError` for what failed here.
"""

import asyncio
import base64
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from teehouse.attestation.identity import APP_DATA_TAG, report_data
from teehouse.base.clock import Clock
from teehouse.guest.attest import AttestedLog, EvidenceSource, padded
from teehouse.guest.info import API_VERSION, GuestFacts, InfoSource
from teehouse.guest.observed import Observed
from teehouse.guest.tls import LeafSigner, certified, public_key_of
from teehouse.keys import signing
from teehouse.keys.appkeys import AppKeys
from teehouse.keys.derive import KEY_SIZE, application_key, hkdf, p256_from_scalar
from teehouse.keys.pem import private_key_pem
from teehouse.ratls.csr import SigningRequest
from teehouse.rpc.app import Handlers, Prepared
from teehouse.wire import guest_pb2 as wire
from teehouse.wire import jsonmap

APP_KEY_LIFETIME = 5.0  # seconds
KEY_CACHE_LIMIT = 256  # answers of GetKey
KEY_CACHE_TEXT = 1024  # characters of path and purpose; longer ones are derived each time
GPU_EVIDENCE_LIMIT = 8 * 1024 * 1024  # bytes

_SIGN_PATH = "vms"
_SIGN_PURPOSE = "signing"
_DEMO_SUBJECT = "demo-cert"


class GuestService:
    """The methods over one CVM's keys and evidence. `random_bytes` makes the seeds of TLS keys.

    `observed` counts what the agent does, `log` is what it measures into; pages show both.
    """

    def __init__(
        self,
        source: EvidenceSource,
        keys: AppKeys,
        signer: LeafSigner,
        facts: GuestFacts,
        clock: Clock,
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.facts = facts
        self.clock = clock
        self.log = source.log
        self.observed = Observed()
        self.log.on_quote = self.observed.quote
        self._source = source
        self._keys = keys
        self._signer = signer
        self._random_bytes = random_bytes
        self._version = Prepared(wire.WorkerVersion(version=API_VERSION, rev=facts.build))
        self._key_answers: OrderedDict[tuple[str, str, str], Prepared] = OrderedDict()
        self._sign_keys: dict[str, _SignKey] = {}
        self._app_key_quotes: dict[str, tuple[float, Prepared]] = {}
        self._app_key_lock = asyncio.Lock()
        self._rendered: tuple[AttestedLog, Mapping[str, str]] | None = None  # of the last log alone
        self._info = InfoSource(source, facts, self._demo_certificate)

    def handlers(self) -> Handlers:
        """The methods by service and name, for `rpc.RpcApp`."""
        return {
            "DstackGuest": {
                "GetTlsKey": self.get_tls_key,
                "GetKey": self.get_key,
                "GetQuote": self.get_quote,
                "Info": self.info,
                "EmitEvent": self.emit_event,
                "Sign": self.sign,
                "Verify": self.verify,
                "Attest": self.attest,
                "Version": self.version,
                "GpuInfo": self.gpu_info,
            },
            "Tappd": {
                "DeriveKey": self.derive_key,
                "DeriveK256Key": self.derive_k256_key,
                "TdxQuote": self.tdx_quote,
                "RawQuote": self.raw_quote,
                "Info": self.info,
                "Version": self.version,
            },
            "Worker": {
                "Info": self.public_info,
                "Version": self.version,
                "GetAttestationForAppKey": self.get_attestation_for_app_key,
            },
        }

    @property
    def app_certificate(self) -> str:
        """The chain that `Info` shows as `app_cert`, PEM; empty while there is none."""
        return self._info.certificate

    def start(self) -> None:
        """Begin, in the background, what `Info` will need. Needs a running event loop."""
        self._info.start()

    async def stop(self) -> None:
        """End what runs in the background."""
        await self._info.stop()

    # Certificates and keys

    async def get_tls_key(self, request: wire.GetTlsKeyArgs) -> Message:
        """A new random P-256 key and a certificate for it (4.1)."""
        key = self._random_key()
        asked = SigningRequest(
            public_key=public_key_of(key),
            subject=request.subject,
            alt_names=tuple(request.alt_names),
            server_auth=request.usage_server_auth,
            client_auth=request.usage_client_auth,
            ext_quote=request.usage_ra_tls,
            ext_app_info=request.with_app_info,
            not_before=request.not_before if request.HasField("not_before") else None,
            not_after=request.not_after or None,  # 0 stands for "not given"
        )
        return await self._certified(key, asked)

    async def derive_key(self, request: wire.DeriveKeyArgs) -> Message:
        """The P-256 key of a path, or of a random seed, and a certificate for it (5.1)."""
        parent = self._random_bytes(KEY_SIZE) if request.random_seed else self._keys.k256_key
        key = p256_from_scalar(application_key(parent, request.path))
        asked = SigningRequest(
            public_key=public_key_of(key),
            subject=request.subject,
            alt_names=tuple(request.alt_names),
            server_auth=request.usage_server_auth,
            client_auth=request.usage_client_auth,
            ext_quote=request.usage_ra_tls,
        )
        return await self._certified(key, asked)

    async def get_key(self, request: wire.GetKeyArgs) -> Prepared:
        """The key of a path, with the chain that vouches for it (4.2)."""
        asked = (request.path, request.purpose, request.algorithm)
        if (kept := self._key_answers.get(asked)) is not None:
            self._key_answers.move_to_end(asked)
            return kept
        key, chain = self._derived(*asked)
        answer = Prepared(wire.GetKeyResponse(key=key, signature_chain=chain))
        if len(request.path) + len(request.purpose) <= KEY_CACHE_TEXT:
            self._key_answers[asked] = answer
            if len(self._key_answers) > KEY_CACHE_LIMIT:
                self._key_answers.popitem(last=False)
        return answer

    async def derive_k256_key(self, request: wire.GetKeyArgs) -> Message:
        """The same values as `get_key`, by their old names (5.2)."""
        key, chain = self._derived(request.path, request.purpose, request.algorithm)
        return wire.DeriveK256KeyResponse(k256_key=key, k256_signature_chain=chain)

    async def sign(self, request: wire.SignRequest) -> Message:
        """A signature by the key of path `vms` (4.6)."""
        key = self._sign_key(signing.signing_key_algorithm(request.algorithm))
        signature = signing.sign(request.algorithm, key.secret, request.data)
        return wire.SignResponse(
            signature=signature, signature_chain=[signature, *key.chain], public_key=key.public_key
        )

    async def verify(self, request: wire.VerifyRequest) -> Message:
        """Whether a signature is right (4.7)."""
        valid = signing.verify(request.algorithm, request.data, request.signature, request.public_key)
        return wire.VerifyResponse(valid=valid)

    # Evidence

    async def get_quote(self, request: wire.RawQuoteArgs) -> Prepared:
        """A quote over up to 64 bytes as they are (4.3)."""
        return await self._quote_response(padded(request.report_data))

    async def attest(self, request: wire.RawQuoteArgs) -> Message:
        """A versioned attestation over up to 64 bytes as they are (4.8)."""
        evidence = await self._source.take(padded(request.report_data))
        return wire.AttestResponse(attestation=evidence.attestation())

    async def tdx_quote(self, request: wire.TdxQuoteArgs) -> Message:
        """A quote over the hash of a tagged content (5.3)."""
        algorithm = request.hash_algorithm or "sha512"
        tag = request.prefix or APP_DATA_TAG
        bound = report_data(tag, request.report_data, algorithm)
        return await self._tdx_quote_response(bound, algorithm, "" if algorithm == "raw" else tag)

    async def raw_quote(self, request: wire.RawQuoteArgs) -> Message:
        """A quote over exactly 64 bytes (5.4)."""
        bound = report_data("", request.report_data, "raw")
        return await self._tdx_quote_response(bound, "raw", "")

    async def emit_event(self, request: wire.EmitEventArgs) -> Message:
        """Measure an event into RTMR3 (4.5)."""
        await self._source.log.emit(request.event, request.payload)
        self._info.outdated()
        return Empty()

    async def get_attestation_for_app_key(self, request: wire.GetAttestationForAppKeyRequest) -> Prepared:
        """A quote over the public key that `sign` signs with (6.2; S1)."""
        algorithm = signing.signing_key_algorithm(request.algorithm)
        async with self._app_key_lock:  # callers who come together share one quote
            now = asyncio.get_running_loop().time()
            taken, answer = self._app_key_quotes.get(algorithm, (0.0, None))
            if answer is None or now - taken > APP_KEY_LIFETIME:
                answer = await self._quote_response(padded(self._app_key_text(algorithm)))
                self._app_key_quotes[algorithm] = (asyncio.get_running_loop().time(), answer)
        return answer

    # What we are

    async def info(self, _request: Message) -> Prepared:
        """The app, its identity and its measurements (4.4)."""
        return (await self._info.current()).full

    async def public_info(self, _request: Message) -> Prepared:
        """The same for the outside (S2)."""
        return (await self._info.current()).public

    async def version(self, _request: Message) -> Prepared:
        """The level of this interface, and the build (4.9)."""
        return self._version

    async def gpu_info(self, _request: Message) -> Message:
        """The GPU evidence of the boot, or nothing (4.10). Never an error."""
        return wire.GpuInfoResponse(attestation=await asyncio.to_thread(_read_text, self.facts.gpu_evidence))

    def _random_key(self) -> ec.EllipticCurvePrivateKey:
        return p256_from_scalar(hkdf(self._random_bytes(KEY_SIZE)))

    async def _certified(
        self, key: ec.EllipticCurvePrivateKey, asked: SigningRequest
    ) -> wire.GetTlsKeyResponse:
        chain = await certified(self._source, self._signer, self.clock, key, asked)
        return wire.GetTlsKeyResponse(key=private_key_pem(key), certificate_chain=chain)

    async def _demo_certificate(self) -> str:
        """The chain that `Info` shows as `app_cert` (4.4)."""
        key = self._random_key()
        asked = SigningRequest(public_key_of(key), _DEMO_SUBJECT, client_auth=True, ext_quote=True)
        return "\n".join(await certified(self._source, self._signer, self.clock, key, asked))

    def _derived(self, path: str, purpose: str, algorithm: str) -> tuple[bytes, list[bytes]]:
        kind = signing.key_algorithm(algorithm)
        key = application_key(self._keys.k256_key, path)
        return key, self._chain(purpose, signing.public_key(kind, key))

    def _chain(self, purpose: str, public_key: bytes) -> list[bytes]:
        return [
            signing.key_chain_link(self._keys.k256_key, purpose, public_key),
            self._keys.k256_signature,
        ]

    def _sign_key(self, algorithm: str) -> "_SignKey":
        if algorithm not in self._sign_keys:
            secret = application_key(self._keys.k256_key, _SIGN_PATH)
            public_key = signing.public_key(algorithm, secret)
            self._sign_keys[algorithm] = _SignKey(secret, public_key, self._chain(_SIGN_PURPOSE, public_key))
        return self._sign_keys[algorithm]

    def _app_key_text(self, algorithm: str) -> bytes:
        kind = "ed25519-pk" if algorithm == signing.ED25519 else "secp256k1c-pk"
        public_key = base64.urlsafe_b64encode(self._sign_key(algorithm).public_key).rstrip(b"=")
        return b"dip1::" + kind.encode() + b":" + public_key

    async def _quote_response(self, bound: bytes) -> Prepared:
        evidence = await self._source.take(bound)
        answer = wire.GetQuoteResponse(
            quote=evidence.quote,
            event_log=evidence.log.beside_quote,
            report_data=bound,
            vm_config=evidence.log.config,
            attestation=evidence.attestation() if self.facts.attestation_in_quote else b"",
        )
        if self._rendered is None or self._rendered[0] is not evidence.log:
            self._rendered = evidence.log, jsonmap.render_members(answer, "event_log", "vm_config")
        return _QuoteAnswer(answer, self._rendered[1])

    async def _tdx_quote_response(self, bound: bytes, algorithm: str, prefix: str) -> Message:
        evidence = await self._source.take(bound)
        return wire.TdxQuoteResponse(
            quote=evidence.quote,
            event_log=evidence.log.beside_quote,
            hash_algorithm=algorithm,
            prefix=prefix,
        )


class _QuoteAnswer(Prepared):
    """A quote beside its log; what only the log decides comes rendered, as it is for every quote over it."""

    def __init__(self, message: Message, rendered: Mapping[str, str]) -> None:
        super().__init__(message)
        self._rendered = rendered

    @cached_property
    def json(self) -> bytes:
        return jsonmap.encode_json(self.message, self._rendered)


@dataclass(frozen=True, slots=True)
class _SignKey:
    """The key of `sign` in one algorithm, and the two links that vouch for it."""

    secret: bytes = field(repr=False)
    public_key: bytes
    chain: list[bytes]


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(GPU_EVIDENCE_LIMIT).decode()
    except (OSError, UnicodeDecodeError):
        return ""
