"""Whether the published Python client is there: apart, so that a test can skip before it imports it."""

import os
from importlib.util import find_spec

import pytest


def need_phala_cloud() -> None:
    """Skips a module where the client is not installed; in CI that is a failure."""
    if find_spec("phala_cloud") is not None and find_spec("sha3") is not None:
        return
    reason = "the published Python client is not installed (make setup)"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)
