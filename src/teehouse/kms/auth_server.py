"""The authorisation API as a service: `GET /`, `POST /bootAuth/app`, `POST /bootAuth/kms` (onchain.md 5).

Rules:

1. A question that is not well formed is 400, with a refusal as its body; the log has what was wrong with it.
2. A back-end that cannot answer is 200 with a refusal, so that a KMS takes it for nothing else.
3. A back-end that cannot tell about itself is 500 at `GET /`.
4. No answer may be kept by anyone on the way.
"""

import json
import logging
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from teehouse.base.findings import EvidenceError, TeehouseError
from teehouse.kms.auth import AuthApi, Decision
from teehouse.kms.auth_wire import (
    INVALID,
    REQUEST_LIMIT,
    UNAVAILABLE,
    decode_request,
    encode_decision,
    encode_info,
)
from teehouse.kms.boot_info import BootInfo

_logger = logging.getLogger(__name__)

_INVALID = encode_decision(Decision(is_allowed=False, reason=INVALID))
_UNAVAILABLE = encode_decision(Decision(is_allowed=False, reason=UNAVAILABLE))
_FAILED = json.dumps({"status": "error", "message": UNAVAILABLE}).encode()

Decide = Callable[[BootInfo], Awaitable[Decision]]


def auth_app(api: AuthApi) -> Starlette:
    """The ASGI application that serves `api`."""

    async def info(_: Request) -> Response:
        try:
            return _json(encode_info(await api.info()))
        except Exception as error:  # noqa: BLE001 (rule 3, whatever the back-end's trouble is)
            _log("info", error)
            return _json(_FAILED, 500)

    return Starlette(
        routes=[
            Route("/", info, methods=["GET"]),
            Route("/bootAuth/app", _question("boot_app", api.boot_app), methods=["POST"]),
            Route("/bootAuth/kms", _question("boot_kms", api.boot_kms), methods=["POST"]),
        ]
    )


def _question(name: str, decide: Decide) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            boot_info = decode_request(await _body(request))
        except EvidenceError as error:  # rule 1
            _logger.warning("%s: %s", name, error)
            return _json(_INVALID, 400)
        try:
            decision = await decide(boot_info)
        except Exception as error:  # noqa: BLE001 (rule 2, whatever the back-end's trouble is)
            _log(name, error)
            return _json(_UNAVAILABLE)
        if not decision.is_allowed:
            _logger.info("%s refused for app %s: %s", name, boot_info.app_id.hex(), decision.reason)
        return _json(encode_decision(decision))

    return answer


async def _body(request: Request) -> bytes:
    """The body, of which no more is kept than shows that it is too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk[: REQUEST_LIMIT + 1 - len(body)]
    return bytes(body)


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, {"cache-control": "no-store"}, "application/json")


def _log(name: str, error: Exception) -> None:
    shown = str(error) if isinstance(error, TeehouseError) else type(error).__name__
    _logger.error("%s: the authorization back-end failed: %s", name, shown)
