"""OpenSSL's command line: the second opinion on certificates."""

import os
import shutil

import pytest


def openssl() -> str:
    """The program; skips where it is not installed, fails in CI."""
    program = shutil.which("openssl")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("openssl is not installed")
        pytest.skip("openssl is not installed")
    return program
