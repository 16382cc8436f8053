"""What holds for all tests."""


def pytest_make_parametrize_id(config: object, val: object, argname: str) -> str | None:
    """Name bytes by their argument: keys made anew at each start must not make new test names."""
    return argname if isinstance(val, bytes) and len(val) > 8 else None
