"""`/healthz`: the process answers. `/readyz`: so does all that it needs. `/metrics`.

Ready means: the database answers and has this version's tables, and each of the parts' `checks` finds nothing wrong.
"""

import asyncio
from typing import Final

from fastapi import APIRouter
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from teehouse.cloud.db import migrate
from teehouse.cloud.http.dependencies import Parts
from teehouse.cloud.http.metrics import CONTENT_TYPE, RequestMetrics

DEADLINE: Final = 3.0  # seconds that the database gets

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Alive: says nothing of what it needs."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(parts: Parts) -> Response:
    """Ready for requests, or 503 with what is missing."""
    try:
        async with asyncio.timeout(DEADLINE), parts.database.read() as session:
            await session.execute(text("SELECT 1"))
            found = await migrate.current(parts.database)
    except (SQLAlchemyError, OSError, TimeoutError):
        return JSONResponse({"status": "unavailable", "database": "does not answer"}, 503)
    if found != migrate.head():
        return JSONResponse({"status": "unavailable", "database": f"at migration {found}"}, 503)
    wrong = {name: said for name, check in parts.checks.items() if (said := check()) is not None}
    if wrong:
        return JSONResponse({"status": "unavailable", "database": found, **wrong}, 503)
    return JSONResponse({"status": "ok", "database": found, **dict.fromkeys(parts.checks, "ok")})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    figures: RequestMetrics = request.app.state.metrics
    return Response(figures.exposition(), media_type=CONTENT_TYPE)
