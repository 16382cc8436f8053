"""Answers that are encoded once: presenters make plain members, and nothing validates these again on their way."""

from typing import Any, Final

from pydantic_core import to_json
from starlette.responses import Response

JSON_TYPE: Final = "application/json"


class JsonAnswer(Response):
    """A JSON body of plain members: objects, lists, text, numbers, null."""

    media_type = JSON_TYPE

    def render(self, content: Any) -> bytes:
        return to_json(content)


def text_answer(text: str, media_type: str = "text/plain") -> Response:
    """A body of text, UTF-8. Clients take only `text/*` for text (cloud-api.md 1)."""
    return Response(text, media_type=f"{media_type}; charset=utf-8")
