"""GET /cvms/{vm_uuid}/serial-log: what `syslog_endpoint` of a CVM leads to (cloud-api.md 12.5, 13.1)."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from teehouse.cloud.cvms.serial_log import (
    LINES_LIMIT,
    Channel,
    Wanted,
    check_link,
    followed,
    load_lines,
    log_of,
    node_of,
    parse_moment,
)
from teehouse.cloud.http.dependencies import Parts

public_router = APIRouter(tags=["CVMs"])
Moment = Annotated[str | None, Query(max_length=40)]
Flag = Annotated[str | None, Query(max_length=8, description="Present, or not")]
Count = Annotated[int | None, Query(ge=0, le=LINES_LIMIT)]


@public_router.get(
    "/cvms/{vm_uuid}/serial-log", response_class=Response, responses={200: {"content": {"text/plain": {}}}}
)
async def get_cvm_serial_log(
    vm_uuid: Annotated[str, Path(pattern="^[0-9a-f]{32}$")],
    until_time: Annotated[int, Query(ge=0, lt=2**53)],
    token: Annotated[str, Query(max_length=64)],
    parts: Parts,
    *,
    ch: Channel = "serial",
    since: Moment = None,
    until: Moment = None,
    tail: Count = None,
    follow: Flag = None,
    timestamps: Flag = None,
) -> Response:
    """The boot log. Public: the link that the CVM's detail shows proves who may read it."""
    now = parts.clock.now()
    check_link(parts.settings, vm_uuid, until_time, token, now)
    wanted = Wanted(
        ch,
        None if since is None else parse_moment(since, now),
        None if until is None else parse_moment(until, now),
        tail,
    )
    async with parts.database.read() as session:
        node_id, known = await load_lines(session, vm_uuid)
    node = node_of(parts.nodes, node_id)
    lines, last = await log_of(node, vm_uuid, known, wanted, now)
    begun = "".join(line.shown(timestamps=timestamps is not None) for line in lines)
    if follow is None:
        return PlainTextResponse(begun)

    async def going_on() -> AsyncIterator[str]:
        yield begun
        async for line in followed(node, vm_uuid, last, wanted):
            yield line.shown(timestamps=timestamps is not None)

    return StreamingResponse(going_on(), media_type="text/plain; charset=utf-8")
