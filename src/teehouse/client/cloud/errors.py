"""Refusals of the control plane, with the body that it explained them with (cloud-api.md 3).

Rules:

1. 400 to 499 is the caller's fault: `CloudRefusedError`. So are the codes 465 to 468.
2. 408, 429, 500 and above, an answer that cannot be read, and none at all: `CloudUnavailableError`. Nothing is
   known then about whether it was done; with the same idempotency key it may be asked again.
3. The message is the server's own. Of an answer in no known form only the status is told.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse.base.findings import CollateralError, Finding, MisuseError, Outcome

_TEXT_LIMIT: Final = 2000  # characters of a message that are kept
_PASSING: Final = frozenset({408, 429})


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the server said. `error_code` is `ERR-MM-NNN`, empty where it gave none; `body` all of it."""

    status: int
    message: str
    error_code: str = ""
    details: tuple[Mapping[str, Any], ...] = ()
    suggestions: tuple[str, ...] = ()
    links: tuple[Mapping[str, str], ...] = ()
    request_id: str = ""
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def busy(self) -> bool:
        """A conflict that passes: another operation is under way (cloud-api.md 15)."""
        return self.status == 409 and not self.error_code


class CloudRefusedError(MisuseError):
    """The control plane will not (rule 1). `refusal` is None for what was refused before it was asked."""

    def __init__(self, finding: Finding, refusal: Refusal | None = None) -> None:
        super().__init__(finding)
        self.refusal = refusal


class CloudUnavailableError(CollateralError):
    """The control plane did not answer, or could not (rule 2)."""

    def __init__(self, finding: Finding, refusal: Refusal | None = None) -> None:
        super().__init__(finding)
        self.refusal = refusal


def refusal_error(
    method: str, path: str, status: int, body: bytes, request_id: str
) -> CloudRefusedError | CloudUnavailableError:
    """The error for an answer of 400 or above (rules 1 to 3)."""
    refusal = read_refusal(status, body, request_id)
    subject = f"the control plane refused {method} {path}"
    code = f"cloud.{refusal.error_code}" if refusal.error_code else f"cloud.http-{status}"
    remedy = refusal.suggestions[0] if refusal.suggestions else ""
    if 400 <= status < 500 and status not in _PASSING:
        return CloudRefusedError(
            Finding(code, subject, Outcome.MISUSE, found=refusal.message, remedy=remedy), refusal
        )
    return CloudUnavailableError(
        Finding(
            code, subject, Outcome.COLLATERAL_MISSING, found=refusal.message, remedy=remedy or "try again"
        ),
        refusal,
    )


def read_refusal(status: int, body: bytes, request_id: str) -> Refusal:
    """The structured, the simple and the validation form; anything else by its status alone."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return Refusal(status, f"HTTP status {status}", request_id=request_id)
    detail = value.get("detail")
    return Refusal(
        status,
        _message(value, detail, status)[:_TEXT_LIMIT],
        error_code=_text(value.get("error_code")),
        details=tuple(entry for entry in _list(value.get("details") or detail) if isinstance(entry, dict)),
        suggestions=tuple(entry for entry in _list(value.get("suggestions")) if isinstance(entry, str)),
        links=tuple(entry for entry in _list(value.get("links")) if isinstance(entry, dict)),
        request_id=_text(value.get("request_id")) or request_id,
        body=value,
    )


def _message(value: Mapping[str, Any], detail: Any, status: int) -> str:
    if isinstance(value.get("message"), str):
        return _text(value["message"])
    if isinstance(detail, str):
        return detail
    if isinstance(detail, list):
        return (
            "; ".join(_fault(entry) for entry in detail if isinstance(entry, dict)) or f"HTTP status {status}"
        )
    return f"HTTP status {status}"


def _fault(entry: Mapping[str, Any]) -> str:
    """An entry of the validation form: `page_size: Input should be less than or equal to 100`."""
    place = [str(part) for part in _list(entry.get("loc")) if part not in {"body", "query", "path", "header"}]
    return f"{'.'.join(place)}: {_text(entry.get('msg'))}" if place else _text(entry.get("msg"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
