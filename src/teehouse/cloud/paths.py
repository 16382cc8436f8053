"""Which part of a request's path logs and traces may have."""

from typing import Final

TOKENS: Final = "/commit/"  # below it, each path is a token (`cvms.views_commit`)


def loggable(path: str) -> str:
    """The path without what is a token in it."""
    return f"{TOKENS}..." if path.startswith(TOKENS) else path
