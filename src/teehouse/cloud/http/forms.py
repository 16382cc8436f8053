"""Forms of our own pages."""

from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request

from teehouse.cloud.errors import refusal

FORM_LIMIT: Final = 4096  # bytes


async def own_form(request: Request) -> dict[str, str]:
    """The fields of a form that a page of ours sent. Raises `CloudError` 403 for another site's, 413 for a large one."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        raise refusal(403, "This form was sent by another site")
    if int(request.headers.get("content-length") or 0) > FORM_LIMIT:
        raise refusal(413, f"A form has at most {FORM_LIMIT} bytes")
    body = (await request.body())[: FORM_LIMIT + 1]
    fields = parse_qs(body.decode("ascii", "replace"), max_num_fields=8, errors="replace")
    return {name: values[0] for name, values in fields.items()}
