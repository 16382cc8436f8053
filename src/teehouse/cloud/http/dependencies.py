"""What routes ask for: the parts, a session, the version, the caller, a page.

Rules:

1. A route that writes takes `Writing`: its transaction is committed before the answer is sent, so that nothing is
   acknowledged that is not kept.
2. Every router but the public ones is included with `authenticated`; a route that needs the caller takes `Signed`.
3. What scope a request needs follows from its path and method, here, and not from each route:
   GET and HEAD read; so do the POSTs in `_READING_POSTS`, which only ask; all else writes.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Query, Security
from fastapi.params import Depends as DependsParameter
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request

from teehouse.base.findings import MisuseError
from teehouse.cloud.accounts.caller import Caller
from teehouse.cloud.accounts.keys import find_caller
from teehouse.cloud.errors import refusal
from teehouse.cloud.http.context import API, context_of
from teehouse.cloud.http.key_use import used_key
from teehouse.cloud.parts import CloudParts
from teehouse.wire.cloud.versions import HEADER, ApiVersion, negotiate

PAGE_LIMIT: Final = (
    1_000_000_000  # a page beyond is empty anyway, and its offset would not fit a database's integer
)
_AREAS: Final = {
    "apps": "cvms",
    "cvms": "cvms",
    "status": "cvms",
    "stats": "cvms",
    "teepods": "nodes",
    "instance-types": "nodes",
    "os-images": "nodes",
    "kms": "nodes",
    "auth": "user",
    "user": "user",
    "users": "user",
}
_READING_POSTS: Final = ("/is-allowed", "/status/batch")
_CALLER: Final = "teehouse.caller"

_api_key = APIKeyHeader(name="X-API-Key", auto_error=False, description="A key `phak_...` of a workspace")
_bearer = HTTPBearer(auto_error=False, description="The same key as a bearer token")


def parts_of(request: Request) -> CloudParts:
    """The control plane's parts."""
    parts: CloudParts = request.app.state.parts
    return parts


async def _reading(request: Request) -> AsyncIterator[AsyncSession]:
    async with parts_of(request).database.read() as session:
        yield session


async def _writing(request: Request) -> AsyncIterator[AsyncSession]:
    async with parts_of(request).database.write() as session:
        yield session


async def _parts(request: Request) -> CloudParts:
    """`parts_of` on the loop: a plain function would be called in a thread."""
    return parts_of(request)


Parts = Annotated[CloudParts, Depends(_parts)]
Reading = Annotated[AsyncSession, Depends(_reading, scope="function")]
Writing = Annotated[AsyncSession, Depends(_writing, scope="function")]


async def api_version(request: Request) -> ApiVersion:
    """The version of the request. Raises `CloudError` 400 for a header that is none."""
    try:
        return negotiate(request.headers.get(HEADER))
    except MisuseError as error:
        raise refusal(400, str(error)) from error


Version = Annotated[ApiVersion, Depends(api_version)]


async def caller_of(request: Request) -> Caller | None:
    """Who asks, by `X-API-Key` or bearer token; None for nobody. Looked up once per request."""
    if _CALLER in request.scope:
        known: Caller | None = request.scope[_CALLER]
        return known
    token = request.headers.get("X-API-Key")
    if token is None:
        scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
        token = rest.strip() if scheme.lower() == "bearer" else None
    caller = None
    if token is not None:
        parts = parts_of(request)
        now = parts.clock.now()
        context = context_of(request)
        async with parts.database.read() as session:
            found = await find_caller(
                session, token, now, request_id=context.request_id, trace_id=context.trace_id
            )
        if found is not None:
            caller = found.caller
            if found.stale:
                used_key(request.scope, caller.api_key_id, now)
    request.scope[_CALLER] = caller
    return caller


async def authenticated(
    request: Request,
    _key: Annotated[str | None, Security(_api_key)],
    _token: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """The caller. Raises `CloudError` 401 for none, 403 when scopes or role do not reach (rule 3)."""
    caller = await caller_of(request)
    if caller is None:
        raise refusal(401, "Not authenticated", headers={"WWW-Authenticate": "Bearer"})
    caller.require_scope(*needed_scope(request.method, request.url.path))
    return caller


def needed_scope(method: str, path: str) -> tuple[str, str]:
    """The area and action that a request is of (rule 3). `path` may begin with the API's prefix."""
    words = path.removeprefix(API).strip("/").split("/")
    reading = method in {"GET", "HEAD"} or (method == "POST" and path.endswith(_READING_POSTS))
    area = _AREAS.get(words[0], "workspace")
    if area == "workspace" and reading:
        # A workspace's name, quotas and nodes are what every login asks for; the rest is for who manages it.
        last = words[2] if len(words) > 2 else ""
        area = {"": "user", "quotas": "user", "nodes": "nodes"}.get(last, "workspace")
    return area, "read" if reading else "write"


Signed = Annotated[Caller, Depends(authenticated)]
MaybeSigned = Annotated[Caller | None, Depends(caller_of)]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A page of a list; pages count from 1."""

    page: int
    page_size: int

    @property
    def offset(self) -> int:
        """How many come before it."""
        return (self.page - 1) * self.page_size


def paging(*, default: int, most: int) -> DependsParameter:
    """For `Annotated[PageRequest, paging(default=20, most=100)]`."""

    async def page_request(
        page: Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="Page, from 1")] = 1,
        page_size: Annotated[int, Query(ge=1, le=most, description="Items on a page")] = default,
    ) -> PageRequest:
        return PageRequest(page, page_size)

    dependency: DependsParameter = Depends(page_request)
    return dependency
