"""The bodies of errors (cloud-api.md 3)."""

from typing import Any

from pydantic import BaseModel


class ProblemDetail(BaseModel):
    """One thing that is wrong, or that a client needs to go on (13.4)."""

    field: str | None = None
    value: Any = None
    message: str | None = None


class ProblemLink(BaseModel):
    """Where to read on."""

    label: str
    url: str


class Problem(BaseModel):
    """The structured form. It stands at the top level of the body, where both SDKs find it."""

    error_code: str
    message: str
    details: list[ProblemDetail] = []
    suggestions: list[str] = []
    links: list[ProblemLink] = []
    request_id: str | None = None


class SimpleProblem(BaseModel):
    """The simple form: one sentence."""

    detail: str
    request_id: str | None = None


class OAuthError(BaseModel):
    """What the device flow says while it is not done (section 9)."""

    error: str
    error_description: str


class OAuthProblem(BaseModel):
    """The form of the device flow: the error under `detail`, and nothing else there."""

    detail: OAuthError
