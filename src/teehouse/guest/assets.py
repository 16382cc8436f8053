"""Style, script and icon of the pages, out of the package, and what every page's headers say.

Rules:

1. An asset's address contains the beginning of its SHA-256. Asked for by that address it may be kept for a
   year, by any other it must be asked for each time.
2. Whoever shows the tag of what it has, and has the same, gets 304 without a body.
3. A page loads nothing from elsewhere, runs nothing inline, is framed by nobody, and tells nobody where its
   reader came from; what is sent is what it says it is.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from teehouse.base.hashes import sha256

PREFIX = "/static"
HTML = "text/html; charset=utf-8"
SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_REVALIDATE = "no-cache"
_KEEP = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    media_type: str
    version: str


class Assets:
    """The files of the package's folder `static`, read once."""

    def __init__(self) -> None:
        self._assets: dict[str, _Asset] = {}
        for file in (resources.files("teehouse.guest") / "static").iterdir():
            content = file.read_bytes()
            ending = "." + file.name.rpartition(".")[2]
            self._assets[file.name] = _Asset(content, _TYPES[ending], sha256(content).hex()[:16])

    def address(self, name: str) -> str:
        """Where a page finds an asset (rule 1)."""
        return f"{PREFIX}/{name}?v={self._assets[name].version}"

    def routes(self) -> list[BaseRoute]:
        """A route for each asset; there is no other path below the prefix."""
        return [Route(f"{PREFIX}/{name}", self._endpoint(asset)) for name, asset in self._assets.items()]

    @staticmethod
    def _endpoint(asset: _Asset) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            keep = request.query_params.get("v") == asset.version
            return tagged(request, asset.content, asset.media_type, _KEEP if keep else _REVALIDATE)

        return answer


def tagged(request: Request, content: bytes, media_type: str = HTML, cache: str = _REVALIDATE) -> Response:
    """An answer with its tag, or 304 (rule 2), with the headers of rule 3."""
    tag = f'"{sha256(content).hex()[:32]}"'
    headers = {**SECURITY_HEADERS, "ETag": tag, "Cache-Control": cache, "Content-Type": media_type}
    shown = request.headers.get("if-none-match", "")
    if tag in (candidate.strip().removeprefix("W/") for candidate in shown.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)
