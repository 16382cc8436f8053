"""The log: one JSON object a line on standard error, with the ids of the request it was written in."""

import logging
import sys

import structlog


def configure_logs(level: int = logging.INFO) -> None:
    """Let structlog write so. Call it once, where the process is started.

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
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
