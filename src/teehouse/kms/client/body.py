"""The body of an HTTP answer, bounded."""

import httpx


async def bounded_body(response: httpx.Response, limit: int) -> bytes | None:
    """The body of a streamed answer, None when it has more than `limit` bytes or came compressed.

    What is compressed has no bound before it is unpacked; nobody who was asked for `identity` sends it.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        return None
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)
