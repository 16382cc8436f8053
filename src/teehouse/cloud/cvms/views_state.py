"""GET /cvms/{cvm_id}/state, at once or as a stream (cloud-api.md 6)."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from teehouse.cloud.cvms.life_request import CvmPath
from teehouse.cloud.cvms.lookup import find_cvm
from teehouse.cloud.cvms.state_stream import State, Streams, read_state, watch
from teehouse.cloud.http.answers import JsonAnswer
from teehouse.cloud.http.dependencies import Parts, Signed, Version
from teehouse.wire.cloud.observations import CvmState

router = APIRouter(tags=["CVMs"])
_STREAMS: Final = Streams()
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": CvmState,
        "description": "The state; with `target`, a stream of events",
        "content": {"text/event-stream": {}},
    }
}


class _StateStream(StreamingResponse):
    """The frames, or 429: a user's place is taken when the answer begins, and given back when it ends."""

    def __init__(self, events: AsyncIterator[bytes], user_id: int) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._user_id = user_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with _STREAMS.opened(self._user_id):
            await super().__call__(scope, receive, send)


@router.get("/cvms/{cvm_id}/state", responses=_ANSWERS)
async def get_cvm_state(
    cvm_id: CvmPath,
    parts: Parts,
    caller: Signed,
    version: Version,
    *,
    target: Annotated[str | None, Query(max_length=32)] = None,
    interval: Annotated[float, Query(ge=5, le=30)] = 5,
    timeout_seconds: Annotated[float, Query(alias="timeout", ge=10, le=600)] = 300,
) -> Response:
    """How the CVM stands; with `target`, events until its status is that."""
    async with parts.database.read() as session:
        number = await find_cvm(session, caller.workspace_id, cvm_id)

    async def read() -> State:
        return await read_state(parts.database, parts.clock, number, version)

    if target is None:
        return JsonAnswer(await read())
    events = watch(read, target, interval=interval, timeout_seconds=timeout_seconds)
    return _StateStream(events, caller.user_id)
