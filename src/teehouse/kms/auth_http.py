"""An authorisation API elsewhere, asked over HTTP (onchain.md 5, trust.md 13.6).

Rules:

1. Any answer but 2xx, and one that is not a decision, is a `CollateralError`: a KMS takes it for a refusal.
   So is no answer within the time, and one longer than its bound.
2. Redirects are not followed, and no proxy of the environment is used: who decides is who was named.
3. Nothing is kept: every question is asked.
"""

import asyncio
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import httpx

from teehouse import __version__
from teehouse.base.findings import CollateralError, EvidenceError, misuse, unavailable
from teehouse.kms.auth import AuthInfo, Decision
from teehouse.kms.auth_wire import ANSWER_LIMIT, decode_decision, decode_info
from teehouse.kms.boot_info import BootInfo
from teehouse.kms.client.body import bounded_body

TIMEOUT: Final = 10.0  # seconds for a whole exchange
_REMEDY = "check that the authorization API runs at the configured address"


class HttpAuth:
    """The authorisation API at `url` (http or https, without a query), an `AuthApi` and a context manager.

    Raises `MisuseError` for another URL. `client` is closed with this object only where it was made here.
    """

    def __init__(
        self,
        url: str,
        *,
        version: str = __version__,
        client: httpx.AsyncClient | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise misuse(
                "auth-http.url",
                "the address of the authorization API",
                expected="http:// or https://, a host, perhaps a path",
                found=ascii(url[:200]),
            )
        self._base = url.rstrip("/")
        # What is shown has no user and password.
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._headers = {
            "user-agent": f"dstack-kms/{version}",
            "accept": "application/json",
            "accept-encoding": "identity",
        }
        self._client = client or httpx.AsyncClient(timeout=timeout, trust_env=False)
        self._owned = client is None
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._owned:
            await self._client.aclose()

    async def info(self) -> AuthInfo:
        """What the API tells about itself. Raises `CollateralError` (rule 1)."""
        body = await self._exchange("GET", "/")
        try:
            return decode_info(body)
        except EvidenceError as error:
            raise self._malformed("/", error) from error

    async def boot_app(self, boot_info: BootInfo) -> Decision:
        """Whether an app may have its keys. Raises `CollateralError` (rule 1)."""
        return await self._ask("/bootAuth/app", boot_info)

    async def boot_kms(self, boot_info: BootInfo) -> Decision:
        """Whether a KMS may run, or have the root keys. Raises `CollateralError` (rule 1)."""
        return await self._ask("/bootAuth/kms", boot_info)

    async def _ask(self, path: str, boot_info: BootInfo) -> Decision:
        body = await self._exchange("POST", path, boot_info)
        try:
            return decode_decision(body)
        except EvidenceError as error:
            raise self._malformed(path, error) from error

    async def _exchange(self, verb: str, path: str, boot_info: BootInfo | None = None) -> bytes:
        """The body of a 2xx answer, of at most `ANSWER_LIMIT` bytes."""
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream(
                    verb,
                    self._base + path,
                    json=None if boot_info is None else boot_info.as_dict(),
                    headers=self._headers,
                    follow_redirects=False,  # rule 2
                ) as response,
            ):
                if not response.is_success:
                    raise self._refused(path, "an answer of 2xx", f"status {response.status_code}")
                body = await bounded_body(response, ANSWER_LIMIT)
        except TimeoutError:
            raise self._refused(path, f"an answer within {self._timeout:g} seconds", "none") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._refused(path, "an answer", type(error).__name__) from error
        if body is None:
            raise self._refused(path, f"at most {ANSWER_LIMIT} bytes, not compressed", "another answer")
        return body

    def _malformed(self, path: str, error: EvidenceError) -> CollateralError:
        return self._refused(path, "what an authorization API answers", error.finding.sentence())

    def _refused(self, path: str, expected: str, found: str) -> CollateralError:
        return unavailable(
            "auth-http.no-answer",
            f"the authorization API at {self._shown}{path}",
            expected=expected,
            found=found,
            remedy=_REMEDY,
        )
