"""The limit of request bodies: said in advance or found on the way, more is 413 and is not read."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimitMiddleware:
    """No body of more than `limit` bytes reaches the application."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._sentence = f"The body is larger than {limit} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "")
        if said.isdigit() and int(said[:20]) > self._limit:
            await JSONResponse({"detail": self._sentence}, 413)(scope, receive, send)
            return
        size = 0

        async def counting() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                raise HTTPException(413, self._sentence)
            return message

        try:
            await self._app(scope, counting, send)
        except HTTPException as error:  # from where no handler of the application stands around
            await JSONResponse({"detail": error.detail}, error.status_code)(scope, receive, send)
