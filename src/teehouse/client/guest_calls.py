"""What is asked of a guest agent and how its answers read; no I/O (guest-agent.md 1.4, 2, 4).

Rules:

1. The endpoint is what the caller gives, else `DSTACK_SIMULATOR_ENDPOINT`, else the first of the known socket
   paths that exists, else the first of them. A URL
   is one with a host; anything else is a path.
2. A request is JSON by POST; absent options are not sent.
3. An answer must have every member that it is read for; others are ignored.
4. A refusal of 4xx is the caller's misuse, everything else, an unreadable answer included, means that the agent
   did not answer. Both say what to do.
"""

import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from teehouse.base.findings import CollateralError, TeehouseError, misuse, unavailable

T = TypeVar("T")

ENDPOINT_VARIABLE = "DSTACK_SIMULATOR_ENDPOINT"
SOCKET_PATHS = (
    "/var/run/dstack.sock",
    "/run/dstack.sock",
    "/var/run/dstack/dstack.sock",
    "/run/dstack/dstack.sock",
)
ANSWER_LIMIT = 32 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an agent listens: below `base_url`, reached through the Unix socket `socket_path` if there is one."""

    base_url: str
    socket_path: str | None

    def __str__(self) -> str:
        return self.socket_path or self.base_url


def find_endpoint(given: str | None, environ: Mapping[str, str], exists: Callable[[str], bool]) -> Endpoint:
    """Rule 1. `given` is a URL (`http://`, `https://`) or the path of a Unix socket."""
    place = given or environ.get(ENDPOINT_VARIABLE)
    if not place:
        place = next((path for path in SOCKET_PATHS if exists(path)), SOCKET_PATHS[0])
    if place.startswith(("http://", "https://")):
        return Endpoint(_checked_url(place), None)
    return Endpoint("http://localhost", place)


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname) and url.isascii() and url.isprintable() and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        remedy = "give the path of a Unix socket or a URL such as http://localhost:8090"
        raise misuse("guest.endpoint", "the guest agent's endpoint is no URL", found=url, remedy=remedy)
    return url.rstrip("/")


@dataclass(frozen=True, slots=True)
class TlsKey:
    """A fresh P-256 key (PKCS#8 PEM) and its certificates (PEM, leaf first)."""

    key: str = field(repr=False)
    certificate_chain: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AppKey:
    """A derived key of 32 bytes, and the two links (65 bytes each; the KMS's may be empty) that vouch for it."""

    key: bytes = field(repr=False)
    signature_chain: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class GuestQuote:
    """A quote over `report_data` (64 bytes), with the event log and vm_config as JSON texts."""

    quote: bytes
    event_log: str
    report_data: bytes
    vm_config: str
    attestation: bytes = b""


@dataclass(frozen=True, slots=True)
class GuestInfo:
    """Who the CVM is. `tcb_info` and `vm_config` are JSON texts, empty where they are hidden."""

    app_id: bytes
    instance_id: bytes
    app_cert: str
    tcb_info: str
    app_name: str
    device_id: bytes
    mr_aggregated: bytes
    os_image_hash: bytes
    key_provider_info: str
    compose_hash: bytes
    vm_config: str
    cloud_vendor: str = ""
    cloud_product: str = ""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature of 64 bytes by `public_key`, and the chain: the signature and the key's two links."""

    signature: bytes
    signature_chain: tuple[bytes, ...]
    public_key: bytes


@dataclass(frozen=True, slots=True)
class AgentVersion:
    """What the agent runs. `rev` may be empty."""

    version: str
    rev: str


class _Unreadable(Exception):  # noqa: N818 - a note to `Call.read`, which makes the refusal
    """Rule 3."""


class Answer:
    """The members of an answer."""

    def __init__(self, value: object) -> None:
        self._members = value if isinstance(value, dict) else {}

    def text(self, key: str, *, default: str | None = None) -> str:
        value = self._members.get(key, default)
        if not isinstance(value, str):
            raise _Unreadable(f"a text {key}")
        return value

    def octets(self, key: str, *, default: str | None = None) -> bytes:
        return _unhex(self.text(key, default=default), key)

    def flag(self, key: str) -> bool:
        value = self._members.get(key)
        if not isinstance(value, bool):
            raise _Unreadable(f"a boolean {key}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._members.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _Unreadable(f"a list of texts {key}")
        return tuple(value)

    def octet_strings(self, key: str) -> tuple[bytes, ...]:
        return tuple(_unhex(item, key) for item in self.texts(key))


def _unhex(text: str, key: str) -> bytes:
    try:
        return binascii.unhexlify(text)
    except ValueError:
        raise _Unreadable(f"hex in {key}") from None


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request: the method's name, its JSON body, and how to read the answer."""

    method: str
    body: bytes
    convert: Callable[[Answer], T]

    def read(self, status: int, body: bytes) -> T:
        """The answer. Raises `MisuseError` or `CollateralError` (rule 4)."""
        if len(body) > ANSWER_LIMIT:
            raise self._unreadable(f"at most {ANSWER_LIMIT} bytes", str(len(body)))
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            value = body
        if not 200 <= status < 300:
            raise self._refused(status, value)
        if value is body:
            raise self._unreadable("JSON", f"{len(body)} bytes that are none")
        try:
            return self.convert(Answer(value))
        except _Unreadable as missing:
            # The answer itself is not shown: it may hold a key.
            raise self._unreadable(str(missing), "an answer without it") from None

    def _refused(self, status: int, value: object) -> TeehouseError:
        text = value.get("error") if isinstance(value, dict) else None
        found = text if isinstance(text, str) else f"HTTP status {status}"
        subject = f"the guest agent refused {self.method}"
        if status == 404 and found.startswith("Service not found"):
            remedy = "the agent does not offer this method here: update its image, or ask its own socket"
            return misuse("guest.no-method", subject, found=found, remedy=remedy)
        if 400 <= status < 500:
            return misuse("guest.refused", subject, found=found, remedy="correct the arguments")
        return unavailable(
            "guest.failed", subject, found=found, remedy="look at the agent's log, then ask again"
        )

    def _unreadable(self, expected: str, found: str) -> CollateralError:
        return unavailable(
            "guest.answer",
            f"the guest agent's answer to {self.method} cannot be read",
            expected=expected,
            found=found,
            remedy="check that the endpoint is a guest agent's",
        )


def _body(**members: object) -> bytes:
    """Rule 2."""
    return json.dumps({key: value for key, value in members.items() if value is not None}).encode()


def get_tls_key(
    *,
    subject: str,
    alt_names: tuple[str, ...],
    usage_ra_tls: bool,
    usage_server_auth: bool,
    usage_client_auth: bool,
    not_before: int | None,
    not_after: int | None,
    with_app_info: bool,
) -> Call[TlsKey]:
    body = _body(
        subject=subject,
        alt_names=list(alt_names),
        usage_ra_tls=usage_ra_tls,
        usage_server_auth=usage_server_auth,
        usage_client_auth=usage_client_auth,
        not_before=not_before,
        not_after=not_after,
        with_app_info=with_app_info,
    )
    return Call("GetTlsKey", body, lambda a: TlsKey(a.text("key"), a.texts("certificate_chain")))


def get_key(path: str, purpose: str, algorithm: str) -> Call[AppKey]:
    body = _body(path=path, purpose=purpose, algorithm=algorithm)
    return Call("GetKey", body, lambda a: AppKey(a.octets("key"), a.octet_strings("signature_chain")))


def get_quote(report_data: bytes) -> Call[GuestQuote]:
    def read(a: Answer) -> GuestQuote:
        return GuestQuote(
            quote=a.octets("quote"),
            event_log=a.text("event_log"),
            report_data=a.octets("report_data"),
            vm_config=a.text("vm_config"),
            attestation=a.octets("attestation", default=""),
        )

    return Call("GetQuote", _body(report_data=report_data.hex()), read)


def info() -> Call[GuestInfo]:
    def read(a: Answer) -> GuestInfo:
        return GuestInfo(
            app_id=a.octets("app_id"),
            instance_id=a.octets("instance_id"),
            app_cert=a.text("app_cert"),
            tcb_info=a.text("tcb_info"),
            app_name=a.text("app_name"),
            device_id=a.octets("device_id"),
            mr_aggregated=a.octets("mr_aggregated", default=""),
            os_image_hash=a.octets("os_image_hash", default=""),
            key_provider_info=a.text("key_provider_info"),
            compose_hash=a.octets("compose_hash"),
            vm_config=a.text("vm_config", default=""),
            cloud_vendor=a.text("cloud_vendor", default=""),
            cloud_product=a.text("cloud_product", default=""),
        )

    return Call("Info", _body(), read)


def emit_event(event: str, payload: bytes) -> Call[None]:
    return Call("EmitEvent", _body(event=event, payload=payload.hex()), lambda _: None)


def sign(algorithm: str, data: bytes) -> Call[Signed]:
    def read(a: Answer) -> Signed:
        return Signed(a.octets("signature"), a.octet_strings("signature_chain"), a.octets("public_key"))

    return Call("Sign", _body(algorithm=algorithm, data=data.hex()), read)


def verify(algorithm: str, data: bytes, signature: bytes, public_key: bytes) -> Call[bool]:
    body = _body(algorithm=algorithm, data=data.hex(), signature=signature.hex(), public_key=public_key.hex())
    return Call("Verify", body, lambda a: a.flag("valid"))


def attest(report_data: bytes) -> Call[bytes]:
    return Call("Attest", _body(report_data=report_data.hex()), lambda a: a.octets("attestation"))


def version() -> Call[AgentVersion]:
    return Call("Version", _body(), lambda a: AgentVersion(a.text("version"), a.text("rev", default="")))
