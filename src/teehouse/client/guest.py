"""The guest agent's API for programs inside a CVM, sync and async (guest-agent.md 4).

```python
with GuestClient() as guest:
    key = guest.get_key("storage").key
```

Both clients find the agent by the rules of `guest_calls`, ask the same `Call`s, and raise `MisuseError` for what
the agent calls the caller's fault, `CollateralError` when it did not answer. The HTTP library is loaded with
the first client, not with this module: programs that only name a client start fast.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from teehouse.base.findings import CollateralError, unavailable
from teehouse.client import guest_calls
from teehouse.client.guest_calls import (
    AgentVersion,
    AppKey,
    Call,
    Endpoint,
    GuestInfo,
    GuestQuote,
    Signed,
    TlsKey,
    find_endpoint,
)

T = TypeVar("T")

TIMEOUT = 30.0  # seconds for one call: a certificate may cost a quote and a KMS
_HEADERS = {"Content-Type": "application/json", "User-Agent": "teehouse"}


def _endpoint(given: str | None) -> Endpoint:
    return find_endpoint(given, os.environ, lambda path: Path(path).exists())


def _options(endpoint: Endpoint, timeout: float) -> dict[str, Any]:
    # A proxy from the environment has no business between a program and the socket beside it.
    return {
        "base_url": endpoint.base_url,
        "headers": _HEADERS,
        "timeout": timeout,
        "trust_env": endpoint.socket_path is None,
    }


def _unreached(endpoint: Endpoint, method: str, error: Exception) -> CollateralError:
    remedy = "mount the agent's socket into the container, or set " + guest_calls.ENDPOINT_VARIABLE
    return unavailable(
        "guest.unreachable",
        f"the guest agent at {endpoint} did not answer {method}",
        found=str(error) or type(error).__name__,
        remedy=remedy,
    )


class GuestClient:
    """The agent, called synchronously. One client may be used by many threads."""

    def __init__(self, endpoint: str | None = None, *, timeout: float = TIMEOUT) -> None:
        """`endpoint` is a Unix socket's path or an HTTP URL; `timeout` in seconds for each call."""
        import httpx  # noqa: PLC0415 - loaded with the first client, see the module

        self.endpoint = _endpoint(endpoint)
        self._request_error = httpx.RequestError
        uds = self.endpoint.socket_path
        transport = None if uds is None else httpx.HTTPTransport(uds=uds)
        self._http: httpx.Client = httpx.Client(transport=transport, **_options(self.endpoint, timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def call(self, call: Call[T]) -> T:
        """Ask one `Call`. Raises `MisuseError` or `CollateralError`."""
        try:
            response = self._http.post(f"/{call.method}", content=call.body)
        except self._request_error as error:
            raise _unreached(self.endpoint, call.method, error) from None
        return call.read(response.status_code, response.content)

    def get_tls_key(
        self,
        *,
        subject: str = "",
        alt_names: tuple[str, ...] = (),
        usage_ra_tls: bool = False,
        usage_server_auth: bool = True,
        usage_client_auth: bool = False,
        not_before: int | None = None,
        not_after: int | None = None,
        with_app_info: bool = False,
    ) -> TlsKey:
        """A fresh key with a certificate; `not_before` and `not_after` in UNIX seconds."""
        return self.call(
            guest_calls.get_tls_key(
                subject=subject,
                alt_names=alt_names,
                usage_ra_tls=usage_ra_tls,
                usage_server_auth=usage_server_auth,
                usage_client_auth=usage_client_auth,
                not_before=not_before,
                not_after=not_after,
                with_app_info=with_app_info,
            )
        )

    def get_key(self, path: str = "", purpose: str = "", algorithm: str = "secp256k1") -> AppKey:
        """The app's key of this path: the same for every instance of the app, on every host."""
        return self.call(guest_calls.get_key(path, purpose, algorithm))

    def get_quote(self, report_data: bytes) -> GuestQuote:
        """A quote over up to 64 bytes, padded by zeros on the right."""
        return self.call(guest_calls.get_quote(report_data))

    def info(self) -> GuestInfo:
        return self.call(guest_calls.info())

    def emit_event(self, event: str, payload: bytes = b"") -> None:
        """Measure an event into RTMR3. It cannot be taken back."""
        self.call(guest_calls.emit_event(event, payload))

    def sign(self, algorithm: str, data: bytes) -> Signed:
        """Sign with the app's signing key; `ed25519`, `secp256k1` or `secp256k1_prehashed`."""
        return self.call(guest_calls.sign(algorithm, data))

    def verify(self, algorithm: str, data: bytes, signature: bytes, public_key: bytes) -> bool:
        """Whether the signature is good; True, False, or `MisuseError` for what is no signature."""
        return self.call(guest_calls.verify(algorithm, data, signature, public_key))

    def attest(self, report_data: bytes) -> bytes:
        """A whole attestation over up to 64 bytes, as one byte string."""
        return self.call(guest_calls.attest(report_data))

    def version(self) -> AgentVersion:
        return self.call(guest_calls.version())


class AsyncGuestClient:
    """The agent, called from a running loop. The methods are those of `GuestClient`."""

    def __init__(self, endpoint: str | None = None, *, timeout: float = TIMEOUT) -> None:
        """As `GuestClient`."""
        import httpx  # noqa: PLC0415 - loaded with the first client, see the module

        self.endpoint = _endpoint(endpoint)
        self._request_error = httpx.RequestError
        uds = self.endpoint.socket_path
        transport = None if uds is None else httpx.AsyncHTTPTransport(uds=uds)
        self._http: httpx.AsyncClient = httpx.AsyncClient(
            transport=transport, **_options(self.endpoint, timeout)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, call: Call[T]) -> T:
        """Ask one `Call`. Raises `MisuseError` or `CollateralError`."""
        try:
            response = await self._http.post(f"/{call.method}", content=call.body)
        except self._request_error as error:
            raise _unreached(self.endpoint, call.method, error) from None
        return call.read(response.status_code, response.content)

    async def get_tls_key(
        self,
        *,
        subject: str = "",
        alt_names: tuple[str, ...] = (),
        usage_ra_tls: bool = False,
        usage_server_auth: bool = True,
        usage_client_auth: bool = False,
        not_before: int | None = None,
        not_after: int | None = None,
        with_app_info: bool = False,
    ) -> TlsKey:
        """As `GuestClient.get_tls_key`."""
        return await self.call(
            guest_calls.get_tls_key(
                subject=subject,
                alt_names=alt_names,
                usage_ra_tls=usage_ra_tls,
                usage_server_auth=usage_server_auth,
                usage_client_auth=usage_client_auth,
                not_before=not_before,
                not_after=not_after,
                with_app_info=with_app_info,
            )
        )

    async def get_key(self, path: str = "", purpose: str = "", algorithm: str = "secp256k1") -> AppKey:
        return await self.call(guest_calls.get_key(path, purpose, algorithm))

    async def get_quote(self, report_data: bytes) -> GuestQuote:
        return await self.call(guest_calls.get_quote(report_data))

    async def info(self) -> GuestInfo:
        return await self.call(guest_calls.info())

    async def emit_event(self, event: str, payload: bytes = b"") -> None:
        await self.call(guest_calls.emit_event(event, payload))

    async def sign(self, algorithm: str, data: bytes) -> Signed:
        return await self.call(guest_calls.sign(algorithm, data))

    async def verify(self, algorithm: str, data: bytes, signature: bytes, public_key: bytes) -> bool:
        return await self.call(guest_calls.verify(algorithm, data, signature, public_key))

    async def attest(self, report_data: bytes) -> bytes:
        return await self.call(guest_calls.attest(report_data))

    async def version(self) -> AgentVersion:
        return await self.call(guest_calls.version())
