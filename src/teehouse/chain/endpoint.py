"""One JSON-RPC endpoint over HTTP: requests, batches, and what came of them.

Rules:

1. An answer is read up to its bound and no further; one that is longer is `CollateralError` "chain.too-long".
2. What is not JSON-RPC 2.0, has no or another id, or a status other than 200, is `CollateralError`.
   An error object of the endpoint is no exception: it is a `Fault`, for the reader to judge.
3. A batch may come back in any order; an answer missing, twice or unasked makes it `BatchRefused`, as does an
   endpoint that knows no batches or will not have so large a one.
4. The URL is nowhere shown but its scheme, host and port: paths and queries of providers hold keys.
5. Redirects are not followed, and no proxy of the environment is used.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from teehouse.base.findings import CollateralError, misuse, unavailable
from teehouse.chain.calls import shown

ANSWER_LIMIT: Final = 2 * 1024 * 1024  # bytes of one answer
BATCH_LIMIT: Final = 8 * 1024 * 1024  # bytes of the answer to one batch
TIMEOUT: Final = 8.0  # seconds; below the ten that a KMS gives its authorisation API
_REMEDY = "check that the endpoint runs, or name another with --rpc-url"


@dataclass(frozen=True, slots=True)
class Fault:
    """An error object of JSON-RPC; `data` are the bytes a contract reverted with, where there are any."""

    code: int
    message: str
    data: bytes | None = None


class BatchRefused(Exception):  # noqa: N818 - it says what happened; it never leaves this package
    """The endpoint did not answer a batch as one (rule 3)."""


class Endpoint:
    """The endpoint at `url` (http or https). Raises `MisuseError` for another URL.

    `client` is closed with this object only where it was made here.
    """

    def __init__(
        self, url: str, *, client: httpx.AsyncClient | None = None, timeout: float = TIMEOUT
    ) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
            raise misuse(
                "chain.url",
                "the address of a chain's RPC endpoint",  # not shown: it may hold a key (rule 4)
                expected="http:// or https:// and a host",
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.shown: Final = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
        self._url = url
        self._client = client or httpx.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False)
        self._owned = client is None
        self._ids = itertools.count(1)

    def __repr__(self) -> str:
        return f"Endpoint({self.shown!r})"

    async def aclose(self) -> None:
        """Close the connections."""
        if self._owned:
            await self._client.aclose()

    async def ask(self, method: str, *params: Any, limit: int = ANSWER_LIMIT) -> Any | Fault:
        """The result of one request, or the endpoint's `Fault`. Raises `CollateralError` (rules 1, 2)."""
        number = next(self._ids)
        status, body = await self._post(_request(number, method, params), limit)
        if status != httpx.codes.OK and not body.startswith(b"{"):
            raise self.failed("status 200", f"status {status}")
        found = self._load(body)
        if not isinstance(found, dict):
            raise self.failed("an answer of JSON-RPC", "something else")
        outcome = self._outcome(found)
        if found.get("id") != number and not isinstance(outcome, Fault):
            raise self.failed("the answer to what was asked", "another")
        return outcome

    async def ask_batch(
        self, requests: Sequence[tuple[str, Sequence[Any]]], *, limit: int = BATCH_LIMIT
    ) -> list[Any | Fault]:
        """The results of one batch in the order asked. Raises `BatchRefused`, `CollateralError` (rules 1 to 3)."""
        first = next(self._ids)
        numbers = [first, *itertools.islice(self._ids, len(requests) - 1)]
        status, body = await self._post(
            [
                _request(number, method, params)
                for number, (method, params) in zip(numbers, requests, strict=True)
            ],
            limit,
        )
        if httpx.codes.BAD_REQUEST <= status < httpx.codes.INTERNAL_SERVER_ERROR:
            raise BatchRefused(f"status {status}")
        if status != httpx.codes.OK:
            raise self.failed("status 200", f"status {status}")
        found = self._load(body)
        if not isinstance(found, list):
            raise BatchRefused("no list")
        by_number: dict[int, Any | Fault] = {}
        for one in found:
            number = one.get("id") if isinstance(one, dict) else None
            if type(number) is not int or number in by_number:
                raise BatchRefused("an answer that nobody asked for")
            by_number[number] = self._outcome(one)
        if by_number.keys() != set(numbers):
            raise BatchRefused("answers are missing")
        return [by_number[number] for number in numbers]

    def failed(self, expected: str, found: str, code: str = "chain.endpoint") -> CollateralError:
        """The refusal of this endpoint."""
        return unavailable(
            code, f"the RPC endpoint {self.shown}", expected=expected, found=found, remedy=_REMEDY
        )

    async def _post(self, content: Any, limit: int) -> tuple[int, bytes]:
        body = bytearray()
        try:
            async with self._client.stream(
                "POST",
                self._url,
                content=json.dumps(content, separators=(",", ":")),
                headers={"content-type": "application/json", "accept-encoding": "identity"},
                follow_redirects=False,
            ) as response:
                # What is compressed has no bound before it is unpacked.
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise self.failed("an answer that is not compressed", "another")
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > limit:
                        raise self.failed(f"at most {limit} bytes", "more", "chain.too-long")
                return response.status_code, bytes(body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Only the kind: the text may hold the URL (rule 4).
            raise self.failed("an answer", type(error).__name__) from None

    def _load(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise self.failed("JSON", "something else") from None

    def _outcome(self, answer: dict[str, Any]) -> Any | Fault:
        error = answer.get("error")
        if error is None:
            if "result" not in answer:
                raise self.failed("a result or an error", "neither")
            return answer["result"]
        if not isinstance(error, dict):
            raise self.failed("an error of JSON-RPC", "something else")
        code, message = error.get("code"), error.get("message")
        return Fault(
            code if type(code) is int else 0,
            shown(message) if isinstance(message, str) else "",
            _revert_data(error.get("data")),
        )


def _request(number: int, method: str, params: Sequence[Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}


def _revert_data(data: Any) -> bytes | None:
    """The bytes of a revert; some nodes wrap them in an object."""
    if isinstance(data, dict):
        data = data.get("data", data.get("result"))
    if not isinstance(data, str) or not data.startswith("0x"):
        return None
    try:
        return bytes.fromhex(data[2:])
    except ValueError:
        return None
