"""Another KMS, as the source of root keys (trust.md 13.3).

Rules:

1. The address is https; `/prpc` at its end is understood.
2. No chain is checked: every answer comes with the TLS certificate it was given under, and its evidence is
   the caller's to judge. TLS proves that whoever answered has that certificate's key.
3. An answer is bounded in size and time. Redirects are not followed, no proxy of the environment is used.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from teehouse.attestation import strictjson
from teehouse.base.findings import MisuseError, TeehouseError, misuse, unavailable
from teehouse.kms.client.body import bounded_body
from teehouse.kms.tls import client_context
from teehouse.wire import jsonmap, kms_pb2

ANSWER_LIMIT: Final = 24 * 1024 * 1024  # bytes: GetMeta carries an attestation in hex
TIMEOUT: Final = 30.0  # seconds for a whole exchange
_ERROR_SHOWN = 512  # characters

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Answered(Generic[M]):
    """An answer, and the TLS certificate (DER) of whoever gave it."""

    message: M
    certificate_der: bytes


class Source(Protocol):
    """A KMS that has the root keys. Each method raises `CollateralError` when it does not give them."""

    async def temp_ca(self) -> Answered[kms_pb2.GetTempCaCertResponse]:
        """GetTempCaCert."""
        ...

    async def meta(self) -> Answered[kms_pb2.GetMetaResponse]:
        """GetMeta."""
        ...

    async def kms_key(
        self, key: ec.EllipticCurvePrivateKey, certificate_der: bytes, vm_config: str
    ) -> Answered[kms_pb2.KmsKeyResponse]:
        """GetKmsKey, with a client certificate."""
        ...


class HttpSource:
    """The KMS at `url`. Raises `MisuseError` for an address that is not https (rule 1)."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise misuse(
                "kms.source-url",
                "the address of the source KMS",
                expected="https:// and a host",
                found=ascii(url[:200]),
            )
        self._base = f"https://{parts.netloc}{parts.path}".rstrip("/").removesuffix("/prpc")
        self._timeout = timeout

    async def temp_ca(self) -> Answered[kms_pb2.GetTempCaCertResponse]:
        return await self._call("GetTempCaCert", Empty(), kms_pb2.GetTempCaCertResponse, client_context())

    async def meta(self) -> Answered[kms_pb2.GetMetaResponse]:
        return await self._call("GetMeta", Empty(), kms_pb2.GetMetaResponse, client_context())

    async def kms_key(
        self, key: ec.EllipticCurvePrivateKey, certificate_der: bytes, vm_config: str
    ) -> Answered[kms_pb2.KmsKeyResponse]:
        context = client_context(key, certificate_der)
        request = kms_pb2.GetKmsKeyRequest(vm_config=vm_config)
        return await self._call("GetKmsKey", request, kms_pb2.KmsKeyResponse, context)

    async def _call(
        self, method: str, request: Message, answer: type[M], context: ssl.SSLContext
    ) -> Answered[M]:
        subject = f"{method} of {self._base}"
        try:
            async with (
                asyncio.timeout(self._timeout),
                httpx.AsyncClient(verify=context, timeout=self._timeout, trust_env=False) as client,
                client.stream(
                    "POST",
                    f"{self._base}/prpc/KMS.{method}",
                    content=jsonmap.encode_json(request),
                    headers={"content-type": "application/json", "accept-encoding": "identity"},
                ) as response,
            ):
                tls = response.extensions["network_stream"].get_extra_info("ssl_object")
                certificate = tls.getpeercert(binary_form=True)
                body = await bounded_body(response, ANSWER_LIMIT)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, TimeoutError) as error:
            raise unavailable(
                "kms.source",
                subject,
                found=str(error)[:_ERROR_SHOWN] or type(error).__name__,
                remedy="check the address, and that the source KMS runs",
            ) from None
        if body is None:
            raise unavailable("kms.source", subject, expected=f"at most {ANSWER_LIMIT} bytes")
        if response.status_code != httpx.codes.OK:
            raise unavailable("kms.source-refused", subject, found=_error_text(response.status_code, body))
        try:
            return Answered(jsonmap.decode_json(answer, body), certificate)
        except MisuseError:  # the text may repeat what it was about
            raise unavailable("kms.source", subject, expected=f"a {answer.DESCRIPTOR.name}") from None


def _error_text(status: int, body: bytes) -> str:
    try:
        members = strictjson.load_object(body, "error", limit=ANSWER_LIMIT)
        return strictjson.text_member(members, "error", "error")[:_ERROR_SHOWN]
    except TeehouseError:
        return f"status {status}"
