"""The way to GitHub, where an installation has one: the public keys of a profile, at `URL/USERNAME.keys`."""

from collections.abc import Sequence
from typing import Final

import httpx

from teehouse.base.findings import unavailable

TIMEOUT: Final = 10.0  # seconds
ANSWER_LIMIT: Final = 256 * 1024  # bytes


class GithubProfiles:
    """Fetches keys from `url`, `https://github.com` or a server of the same form."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._url = url.rstrip("/")
        self._transport = transport

    async def __call__(self, username: str) -> Sequence[str]:
        """The lines of a profile's keys. Raises `CollateralError`."""
        try:
            async with (
                httpx.AsyncClient(timeout=TIMEOUT, transport=self._transport) as client,
                client.stream("GET", f"{self._url}/{username}.keys") as answer,
            ):
                if answer.status_code != httpx.codes.OK:
                    raise _missing(username, f"status {answer.status_code}")
                body = b""
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > ANSWER_LIMIT:
                        raise _missing(username, f"more than {ANSWER_LIMIT} bytes")
        except httpx.HTTPError as error:
            raise _missing(username, type(error).__name__) from error
        return [line for line in body.decode("utf-8", "replace").splitlines() if line.strip()]


def _missing(username: str, found: str) -> Exception:
    return unavailable(
        "cloud.github", f"keys of the GitHub profile {username}", expected="its list of keys", found=found
    )
