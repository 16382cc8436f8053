"""The control plane as one ASGI application.

Rules:

1. The API stands under `/api/v1`; everything in it speaks the version that was negotiated, and refuses a version
   that is none.
2. Every answer of the API is JSON but the few that are declared as text.
3. Nothing is loaded from other hosts, the documentation page included.
4. OpenTelemetry records requests only where the settings say so (`teehouse.cloud.tracing`).
"""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute

import teehouse
from teehouse.cloud.http import health, routers
from teehouse.cloud.http.bodies import BodyLimitMiddleware
from teehouse.cloud.http.context import API, ContextMiddleware
from teehouse.cloud.http.dependencies import api_version, authenticated
from teehouse.cloud.http.docs_page import add_docs
from teehouse.cloud.http.faults import PROBLEMS, register
from teehouse.cloud.http.idempotency import IdempotencyMiddleware
from teehouse.cloud.http.key_use import KeyUseMiddleware
from teehouse.cloud.http.metrics import RequestMetrics
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.tracing import RequestTracing, check_installed, configuration

TITLE: Final = "Teehouse control plane"
DESCRIPTION: Final = "Apps, CVMs, revisions and attestations of a confidential cloud."

Lifespan = Callable[[CloudParts], AbstractAsyncContextManager[None]]


def create_app(
    parts: CloudParts,
    *,
    lifespans: Sequence[Lifespan] = (),
    signed: Sequence[APIRouter] = routers.SIGNED,
    public: Sequence[APIRouter] = routers.PUBLIC,
    pages: Sequence[APIRouter] = routers.PAGES,
) -> FastAPI:
    """The application. `lifespans` begin in order when it starts, and end backwards; the database is closed last.

    Raises `MisuseError` when telemetry is asked for and its package is not there (rule 4).
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with _all(parts, lifespans):
            yield
        await parts.database.dispose()

    telemetry = parts.settings.telemetry
    if telemetry:
        check_installed(os.environ)
    app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version=teehouse.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=operation_id,
        telemetry=configuration(wanted=telemetry),
    )
    app.state.parts = parts
    app.state.metrics = RequestMetrics()
    # Included at once and not by way of a router of their own: FastAPI would build each route anew for each level.
    for router in signed:
        app.include_router(
            router,
            prefix=API,
            dependencies=[Depends(api_version), Depends(authenticated)],
            responses=PROBLEMS,
        )
    for router in public:
        app.include_router(router, prefix=API, dependencies=[Depends(api_version)], responses=PROBLEMS)
    for router in (health.router, *pages):
        app.include_router(router)
    add_docs(app)
    register(app)
    app.add_middleware(IdempotencyMiddleware)
    app.add_middleware(KeyUseMiddleware, database=lambda: app.state.parts.database)
    app.add_middleware(BodyLimitMiddleware, limit=parts.settings.body_limit)
    app.add_middleware(ContextMiddleware, metrics=app.state.metrics, tracing=RequestTracing(wanted=telemetry))
    return app


def operation_id(route: APIRoute) -> str:
    """The name of the function that answers: short, and unique in this house."""
    return route.name


@asynccontextmanager
async def _all(parts: CloudParts, lifespans: Sequence[Lifespan]) -> AsyncIterator[None]:
    if not lifespans:
        yield
        return
    async with lifespans[0](parts), _all(parts, lifespans[1:]):
        yield
