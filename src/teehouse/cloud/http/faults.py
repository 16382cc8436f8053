"""From refusals and faults to answers (cloud-api.md 3).

Rules:

1. `CloudError` has its own status and body; any other refusal has the status of its outcome (base.findings) and
   its sentence.
2. What does not fit a schema is 422 in FastAPI's form, without the input: it may be large, or not for logs.
3. A database that does not answer is 503; what it cannot store (a NUL in a text, a number out of range, half a
   surrogate pair) is 400; two changes that met in a unique index, and that no service foresaw, are 409.
4. Errors are JSON, and name the request where the form has room for it.
"""

import json
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from teehouse.base.findings import OUTCOME_TABLE, TeehouseError
from teehouse.cloud.errors import CloudError
from teehouse.cloud.http.context import context_of
from teehouse.wire.cloud.problems import Problem, SimpleProblem

UNAVAILABLE: Final = "The database does not answer; try again"
UNSTORABLE: Final = "A value cannot be stored: it holds NUL or half a character, or is out of range"
COLLISION: Final = "Somebody else changed the same thing at the same moment; try again"

log = structlog.stdlib.get_logger("teehouse.cloud.http")

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    400: {
        "model": Problem | SimpleProblem,
        "description": "The request makes no sense, or asks for what is not",
    },
    401: {"model": SimpleProblem, "description": "No key, or none that is valid"},
    403: {"model": Problem | SimpleProblem, "description": "The key may not do this"},
    404: {"model": Problem | SimpleProblem, "description": "There is no such thing in the workspace"},
    409: {"model": Problem | SimpleProblem, "description": "It is taken, or busy; without a code: try again"},
    413: {"model": SimpleProblem, "description": "The body is too large"},
    429: {"model": Problem | SimpleProblem, "description": "Too many at once"},
    503: {"model": SimpleProblem, "description": "Something this needs does not answer; try again"},
}


REGISTRATION: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem, "description": text}
    for status, text in (
        (465, "The compose hash has to be registered on chain first; what the client needs is in `details`"),
        (466, "The commit token or compose hash is unknown, used, superseded or too old"),
        (467, "The transaction does not prove the registration"),
        (468, "The app's contract does not allow the compose hash"),
    )
}  # what routes that change app-compose files answer besides (cloud-api.md 3.1)


def register(app: FastAPI) -> None:
    """Let `app` answer with these."""
    app.add_exception_handler(CloudError, _refused)
    app.add_exception_handler(TeehouseError, _found)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(PoolTimeoutError, _unavailable)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(UnicodeEncodeError, _unstorable)
    app.add_exception_handler(OverflowError, _unstorable)
    app.add_exception_handler(
        ConnectionRefusedError, _unavailable
    )  # PostgreSQL's socket, before any driver error


def error_response(request: Request, error: CloudError) -> JSONResponse:
    """The answer to a refusal (rule 1)."""
    body = error.body() | {"request_id": context_of(request).request_id}
    return JSONResponse(body, error.status, error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, CloudError)  # noqa: S101 - handlers are found by class
    return error_response(request, error)


async def _found(request: Request, error: Exception) -> Response:
    assert isinstance(error, TeehouseError)  # noqa: S101 - handlers are found by class
    return _simple(request, OUTCOME_TABLE[error.finding.outcome].http_status, error.finding.sentence())


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - handlers are found by class
    entries = [
        {"type": entry["type"], "loc": list(entry["loc"]), "msg": entry["msg"]} for entry in error.errors()
    ]
    # Names of unknown members come from the request and may be no valid text: ASCII with escapes carries all of it.
    return Response(json.dumps({"detail": entries}), 422, media_type="application/json")


async def _database(request: Request, error: Exception) -> Response:
    assert isinstance(error, DBAPIError)  # noqa: S101 - handlers are found by class
    if isinstance(error, DataError):
        return await _unstorable(request, error)
    if isinstance(error, IntegrityError):
        log.warning("two changes met", error=str(error.orig))
        return _simple(request, 409, COLLISION)
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        return await _unavailable(request, error)
    raise error


async def _unavailable(request: Request, error: Exception) -> Response:
    cause = error.orig if isinstance(error, DBAPIError) else error
    log.warning("database does not answer", error=f"{type(cause).__name__}: {cause}"[:300])
    return _simple(request, 503, UNAVAILABLE, {"Retry-After": "1"})


async def _unstorable(request: Request, _error: Exception) -> Response:
    return _simple(request, 400, UNSTORABLE)


def _simple(request: Request, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    body = {"detail": text, "request_id": context_of(request).request_id}
    return JSONResponse(body, status, headers)
