"""What holds for all tests."""

from collections.abc import Iterator

import pytest
import structlog


def pytest_make_parametrize_id(config: object, val: object, argname: str) -> str | None:
    """Name bytes by their argument: keys made anew at each start must not make new test names."""
    return argname if isinstance(val, bytes) and len(val) > 8 else None


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """How a test lets logs be written ends with it: the next one may read its own."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
