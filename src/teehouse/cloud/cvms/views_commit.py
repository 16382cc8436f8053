"""The page that `commit_url` leads to (cloud-api.md 13.4): what waits for its registration, and its commit.

The token in the address is the credential, as it is for `POST /cvms/{cvm_id}/commit-update`; it is in no log.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from teehouse.base.findings import OUTCOME_TABLE, TeehouseError
from teehouse.cloud.cvms.changing import commit_update
from teehouse.cloud.cvms.life_request import Life
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.waiting import waiting
from teehouse.cloud.errors import CloudError
from teehouse.cloud.http.forms import own_form
from teehouse.cloud.http.pages import emulated_roots, page_environment, page_headers

page_router = APIRouter(prefix="/commit", include_in_schema=False)
_HEADERS: Final[Mapping[str, str]] = {**page_headers(forms=True), "Cache-Control": "no-store"}
_template = page_environment("teehouse.cloud.cvms").get_template("commit.html")
Token = Annotated[str, Path(max_length=64)]


@page_router.get("/{token}")
async def show_commit_page(token: Token, life: Life) -> Response:
    """What waits."""
    try:
        change = await waiting(life, token)
    except CloudError as error:
        status, problem = _refusal(error)
        return await _page(life, status, problem=problem)
    return await _page(life, change=change)


@page_router.post("/{token}")
async def commit_on_page(token: Token, request: Request, life: Life) -> Response:
    """Commit it. One that cannot be committed yet is shown again, with the reason."""
    given = (await own_form(request)).get("transaction_hash", "").strip()
    try:
        applied = await commit_update(life, token, None, given[:80], cvm=None)
    except TeehouseError as error:
        status, problem = _refusal(error)
    else:
        return await _page(life, applied=applied)
    try:
        change = await waiting(life, token)
    except CloudError:
        change = None
    return await _page(life, status, problem=problem, change=change)


def _refusal(error: TeehouseError) -> tuple[int, str]:
    """Its status, and a sentence for people."""
    if isinstance(error, CloudError):
        return error.status, f"{error.message}."
    return OUTCOME_TABLE[error.finding.outcome].http_status, f"{error.finding.sentence()}."


async def _page(life: Lifecycle, status: int = 200, **shown: Any) -> Response:
    async with life.database.read() as session:
        roots = await emulated_roots(session)
    return HTMLResponse(_template.render(roots=roots, **shown), status, dict(_HEADERS))
