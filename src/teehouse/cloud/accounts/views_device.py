"""Routes of the device-code login: the program's two, and the page where a person approves.

Rules:

1. The program's routes need no key: getting one is what they are for.
2. The page works without scripts. It is framed by nobody, its forms post to itself only, carry the session's token,
   and are refused when the browser says that another site sent them.
3. The session's cookie is read by no script, and sent by no other site.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from teehouse.cloud.accounts import device_login
from teehouse.cloud.accounts.caller import Caller
from teehouse.cloud.accounts.device_login import OAuthRefusal
from teehouse.cloud.errors import CloudError
from teehouse.cloud.http.dependencies import Parts, Reading, Writing
from teehouse.cloud.http.forms import own_form
from teehouse.cloud.http.pages import emulated_roots, page_environment, page_headers
from teehouse.wire.cloud.accounts import DeviceCodeBody, DeviceCodeRequest, DeviceToken, DeviceTokenRequest
from teehouse.wire.cloud.problems import OAuthProblem, Problem, SimpleProblem

COOKIE: Final = "teehouse_session"
PAGE_HEADERS: Final[Mapping[str, str]] = {**page_headers(forms=True), "Cache-Control": "no-store"}
_AREAS: Final = {
    "cvms": "apps and CVMs",
    "nodes": "nodes, images, instance types and KMSs",
    "user": "your profile and SSH keys",
    "workspace": "members, keys and webhooks of the workspace",
}
_ACTIONS: Final = {"read": "see", "write": "change", "*": "see and change"}

public_router = APIRouter(prefix="/auth/device", tags=["account"])
page_router = APIRouter(prefix="/device", include_in_schema=False)
_template = page_environment("teehouse.cloud.accounts").get_template("device.html")
_OAUTH: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": OAuthProblem | Problem | SimpleProblem, "description": "Not yet, not any more, or never"}
}


def _oauth(refusal: OAuthRefusal) -> Response:
    """400 with the error under `detail`, and nothing else there: that is what the CLI reads (cloud-api.md 9)."""
    detail = {"error": refusal.error, "error_description": refusal.description}
    return JSONResponse({"detail": detail}, 400)


@public_router.post("/code", response_model=DeviceCodeBody, responses=_OAUTH)
async def begin_device_login(body: DeviceCodeRequest, session: Writing, parts: Parts) -> object:
    """Begin a login: a code for the program, and one for the person."""
    settings = parts.settings
    try:
        begun = await device_login.begin(
            session, settings, client_id=body.client_id, scope=body.scope, now=parts.clock.now()
        )
    except OAuthRefusal as refusal:
        return _oauth(refusal)
    page = f"{settings.public_url}/device"
    return DeviceCodeBody(
        device_code=begun.device_code,
        user_code=begun.user_code,
        verification_uri=page,
        verification_uri_complete=f"{page}?user_code={begun.user_code}",
        expires_in=settings.device_code_seconds,
        interval=settings.device_code_interval,
    )


@public_router.post("/token", response_model=DeviceToken, responses=_OAUTH)
async def fetch_device_token(body: DeviceTokenRequest, session: Writing, parts: Parts) -> object:
    """Fetch the key of an approved login, or hear why there is none yet."""
    if body.grant_type != device_login.GRANT_TYPE:
        return _oauth(OAuthRefusal("unsupported_grant_type", f"Use {device_login.GRANT_TYPE}"))
    answer = await device_login.fetch(session, body.device_code, parts.clock.now())
    return _oauth(answer) if isinstance(answer, OAuthRefusal) else DeviceToken(access_token=answer.token)


async def _page(session: AsyncSession, status: int = 200, **shown: Any) -> Response:
    roots = await emulated_roots(session)
    return HTMLResponse(_template.render(roots=roots, **shown), status, dict(PAGE_HEADERS))


def powers(scopes: Iterable[str]) -> list[str]:
    """What scopes allow, in words."""
    return [_power(*scope.partition(":")[::2]) for scope in scopes]


def _power(area: str, action: str) -> str:
    return f"{_ACTIONS[action]} {_AREAS[area]}" if area in _AREAS else "do all that your key can"


async def _signed_in(request: Request, session: AsyncSession, parts: Parts) -> tuple[str, Caller] | None:
    token = request.cookies.get(COOKIE, "")
    caller = await device_login.session_caller(session, token, parts.clock.now())
    return None if caller is None else (token, caller)


@page_router.get("")
async def show_device_page(
    request: Request,
    session: Reading,
    parts: Parts,
    user_code: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """The page: sign in, say the code, approve."""
    signed = await _signed_in(request, session, parts)
    if signed is None:
        return await _page(session, step="sign-in", user_code=user_code)
    token, caller = signed
    shown: dict[str, Any] = {
        "caller": caller,
        "user_code": user_code,
        "form_token": device_login.form_token(token),
    }
    if not user_code:
        return await _page(session, step="code", **shown)
    try:
        login = await device_login.find_pending(session, user_code, parts.clock.now())
    except CloudError:
        return await _page(session, 404, step="code", problem="No login waits under this code.", **shown)
    return await _page(session, step="decide", login=login, powers=powers(login.scopes), **shown)


@page_router.post("/session")
async def sign_in(request: Request, session: Writing, parts: Parts) -> Response:
    """Begin a session by showing an API key."""
    form = await own_form(request)
    code = form.get("user_code", "")[:64]
    begun = await device_login.begin_session(
        session, parts.settings, form.get("api_key", "").strip(), parts.clock.now()
    )
    if begun is None:
        return await _page(session, 403, step="sign-in", user_code=code, problem="This is no valid API key.")
    normal = device_login.normal_user_code(code)
    answer = RedirectResponse(f"/device?user_code={normal}" if normal else "/device", 303)
    answer.set_cookie(
        COOKIE,
        begun[0],
        max_age=parts.settings.session_seconds,
        path="/device",
        secure=parts.settings.public_url.startswith("https:"),
        httponly=True,
        samesite="strict",
    )
    return answer


@page_router.post("/decision")
async def decide(request: Request, session: Writing, parts: Parts) -> Response:
    """Approve or deny a login."""
    form = await own_form(request)
    signed = await _signed_in(request, session, parts)
    if signed is None:
        return await _page(
            session, 403, step="sign-in", user_code=form.get("user_code", ""), problem="Sign in first."
        )
    token, caller = signed
    if not device_login.is_form_token(token, form.get("form_token", "")):
        return await _page(
            session, 403, step="end", problem="This form is not from your session. Open the page anew."
        )
    if form.get("decision") == "sign-out":
        await device_login.end_session(session, token)
        answer = RedirectResponse("/device", 303)
        answer.delete_cookie(COOKIE, path="/device")
        return answer
    approve = form.get("decision") == "approve"
    try:
        await device_login.decide(
            session, caller, form.get("user_code", ""), approve=approve, now=parts.clock.now()
        )
    except CloudError as error:
        return await _page(session, error.status, step="end", problem=f"{error.message}.")
    return await _page(session, step="end", approved=approve)
