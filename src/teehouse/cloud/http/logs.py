"""The log: one JSON object a line, with the ids of the request it was written in."""

import logging
import sys
from typing import Any, Protocol, TextIO, cast

import structlog


class Lines(Protocol):
    """Where the lines go: a file, or something like one."""

    def write(self, text: str, /) -> Any: ...

    def flush(self) -> Any: ...


def configure_logs(level: int = logging.INFO, lines: Lines | None = None) -> None:
    """Let structlog write so, to standard error where no `lines` are given. Call it where the process is started.

    Tracebacks are text without the values of variables: these may be secrets.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", lines or sys.stderr)),
    )
