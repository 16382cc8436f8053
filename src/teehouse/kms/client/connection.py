"""One KMS over HTTPS: who it has to be, what is sent, and how its refusals come back (trust.md 13.1).

Rules:

1. With a root certificate the server's certificate chains to it, is for the host that was asked, and has usage
   `kms:rpc`: an app's certificate under the same root is no KMS. Without one nothing is known about who
   answers, which is how the temporary CA and public values are asked for.
2. TLS is 1.3, so that a client's certificate is seen by nobody on the way.
3. Whoever cannot be reached, breaks off, or answers 5xx (408 and 429 too) is unreachable: it may be asked
   again. Whoever answers anything else than 2xx refuses, and so does one that is not the KMS of rule 1.
4. Requests and answers are protobuf; answers are bounded. Redirects are not followed, and no proxy of the
   environment is used.
5. A private key goes into TLS through memory alone, never through a file.
"""

import asyncio
import json
import os
import ssl
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Generic, Self, TypeVar
from urllib.parse import urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import Message

from teehouse.base.findings import CollateralError, EvidenceError, Finding, MisuseError, Outcome, misuse
from teehouse.keys.pem import certificate_der, load_certificate, private_key_pem
from teehouse.kms.client.body import bounded_body
from teehouse.ratls.oids import USAGE_KMS
from teehouse.ratls.read import CertificateEvidence, read_certificate
from teehouse.wire import guest_pb2, jsonmap

M = TypeVar("M", bound=Message)

ANSWER_LIMIT: Final = jsonmap.BODY_LIMIT  # bytes
TIMEOUT: Final = 30.0  # seconds for a whole exchange
_TEXT_LIMIT = 2000  # characters of a KMS's refusal that are passed on
_TRY_AGAIN = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS})


class KmsRefusedError(EvidenceError):
    """The KMS will not, or it is not the KMS that was wanted: asking again changes nothing."""


class KmsUnreachableError(CollateralError):
    """Nobody answered, or nobody who could: the KMS may be asked again."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Who we are towards a KMS: a key, and its certificate as PEM."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate_pem: str


@dataclass(frozen=True, slots=True)
class Answer(Generic[M]):
    """What a KMS answered, and the certificate (DER) it did so under; None without TLS."""

    message: M
    server_certificate: bytes | None


def refused(
    code: str, subject: str, *, expected: str = "", found: str = "", remedy: str = ""
) -> KmsRefusedError:
    """A `KmsRefusedError` of evidence that is well formed and wrong."""
    return KmsRefusedError(Finding(code, subject, Outcome.REJECTED, expected, found, remedy))


def malformed_answer(method: str, error: MisuseError | EvidenceError) -> KmsRefusedError:
    """A `KmsRefusedError` for an answer that is not what it should be."""
    return KmsRefusedError(
        Finding(
            "kms.answer",
            f"the answer of the KMS to {method}",
            Outcome.MALFORMED,
            found=error.finding.sentence(),
        )
    )


def tls_context(root: str | None, client: ClientCertificate | None) -> ssl.SSLContext:
    """How to talk to a KMS (rules 1, 2, 5). `root` is PEM, whose first certificate counts. Raises `MisuseError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The certificates have no authorityKeyIdentifier (guest-agent.md 9.1), which the strict mode would ask for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if root is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        # One certificate and no more: whatever else the text holds was compared with nothing.
        certificate = load_certificate(certificate_der(root), "the root certificate of the KMS")
        context.load_verify_locations(cadata=certificate.public_bytes(Encoding.DER))
    if client is not None:
        _load_client(context, client)
    return context


def _load_client(context: ssl.SSLContext, client: ClientCertificate) -> None:
    """Rule 5: the library reads key and certificate from a path only, and this path is memory."""
    descriptor = os.memfd_create("kms-client", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write((private_key_pem(client.key) + client.certificate_pem).encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")


class KmsConnection:
    """The KMS at `url`; an async context manager.

    `root` is the PEM of the KMS's root CA (rule 1). http is for a KMS that someone else's TLS stands before;
    `root` and `client` need https. `timeout` is in seconds, for each call. Raises `MisuseError`.
    """

    def __init__(
        self,
        url: str,
        *,
        root: str | None = None,
        client: ClientCertificate | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        parts = urlsplit(url)
        identified = root is not None or client is not None
        if parts.scheme not in ({"https"} if identified else {"http", "https"}) or not parts.hostname:
            raise misuse(
                "kms.url",
                "the address of the KMS",
                expected="https:// and a host" if identified else "http:// or https:// and a host",
                found=ascii(url[:200]),
            )
        self._base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/prpc')}"
        self.shown = shown_url(url)
        self._identified = root is not None
        self._timeout = timeout
        self._client = httpx.AsyncClient(
            verify=tls_context(root, client),
            timeout=timeout,
            trust_env=False,  # rule 4
            headers={"content-type": "application/octet-stream", "accept-encoding": "identity"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def call(self, method: str, request: Message, response_type: type[M]) -> Answer[M]:
        """Call `method` of the service KMS.

        Raises `KmsUnreachableError` and `KmsRefusedError` (rule 3).
        """
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream(
                    "POST",
                    f"{self._base}/prpc/KMS.{method}",
                    content=jsonmap.encode_protobuf(request),
                    follow_redirects=False,  # rule 4
                ) as response,
            ):
                certificate = _server_certificate(response)
                if self._identified:
                    self._check_usage(certificate)
                body = await bounded_body(response, ANSWER_LIMIT)
        except TimeoutError:
            raise self._unreachable(method, f"nothing within {self._timeout:g} seconds") from None
        except (httpx.HTTPError, OSError) as error:  # a TLS alert after the handshake passes httpx unwrapped
            raise self._broken(method, error) from error
        if body is None:
            raise self._unreachable(method, f"more than {ANSWER_LIMIT} bytes, or compressed ones")
        if not response.is_success:
            raise self._refusal(method, response.status_code, body)
        try:
            message = jsonmap.decode_protobuf(response_type, body)
        except MisuseError as error:
            raise malformed_answer(method, error) from error
        return Answer(message, certificate)

    def _check_usage(self, certificate: bytes | None) -> None:
        """Rule 1, beyond what TLS itself has checked."""
        usage = None if certificate is None else server_evidence(certificate).usage
        if usage != USAGE_KMS:
            raise refused(
                "kms.server-usage",
                f"the certificate of {self.shown}",
                expected=f"usage {USAGE_KMS}",
                found="none" if usage is None else ascii(usage[:64]),
                remedy="this is not a KMS: check its address",
            )

    def _refusal(self, method: str, status: int, body: bytes) -> KmsRefusedError | KmsUnreachableError:
        text = error_text(body)
        if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in _TRY_AGAIN:
            return self._unreachable(method, f"status {status}: {text}")
        return refused(
            "kms.refused",
            f"the KMS at {self.shown} refuses {method}",
            found=f"status {status}: {text}",
        )

    def _broken(self, method: str, error: httpx.HTTPError | OSError) -> KmsRefusedError | KmsUnreachableError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return refused(
                    "kms.server-certificate",
                    f"the certificate of {self.shown}",
                    expected="one for this host under the root CA that the KMS gave",
                    found=cause.verify_message,
                    remedy="this is another KMS than was asked before: check its address",
                )
            cause = cause.__cause__ or cause.__context__
        return self._unreachable(method, str(error)[:200] or type(error).__name__)

    def _unreachable(self, method: str, found: str) -> KmsUnreachableError:
        return KmsUnreachableError(
            Finding(
                "kms.unreachable",
                f"the KMS at {self.shown} does not answer {method}",
                Outcome.COLLATERAL_MISSING,
                found=found,
                remedy="start it, or check its address",
            )
        )


def shown_url(url: str) -> str:
    """A URL as people may see it: without user, password and path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def server_evidence(certificate: bytes) -> CertificateEvidence:
    """What a KMS's certificate (DER) carries. Raises `KmsRefusedError` when it cannot be read."""
    try:
        return read_certificate(certificate)
    except EvidenceError as error:
        raise KmsRefusedError(error.finding) from error


def error_text(body: bytes) -> str:
    """The text of a failed exchange, from whoever answered: printable, and bounded."""
    text: object = ""
    try:
        if body.lstrip().startswith(b"{"):
            text = json.loads(body).get("error", "")
        else:
            text = jsonmap.decode_protobuf(guest_pb2.Error, body).message
    except (ValueError, RecursionError, MisuseError):
        pass  # it is no error of the RPC; the status says the rest
    if not isinstance(text, str) or not text:
        return "no reason given"
    return "".join(char if char.isprintable() else " " for char in text[:_TEXT_LIMIT])


def _server_certificate(response: httpx.Response) -> bytes | None:
    stream = response.extensions.get("network_stream")
    tls = None if stream is None else stream.get_extra_info("ssl_object")
    return None if tls is None else tls.getpeercert(binary_form=True)
