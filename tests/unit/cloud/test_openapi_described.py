"""Each route of the API is described with what it answers, refusals included (cloud-api.md 3).

Whether answers keep to the description is what tests/unit/cloud/test_openapi_conformance.py tries.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cloud_core_support import cloud

ALWAYS = {"400", "401", "403", "404", "409", "413", "429", "503"}
# Server-sent events beside JSON are described where the stream is asked for; these have no body worth a schema.
EMPTY = {"204"}


@pytest.fixture(name="operations")
async def _operations(tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    async with cloud("sqlite", tmp_path) as made:
        return list(_every(made.app.openapi()))


def _every(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        if path.startswith("/api/v1/"):
            for method, operation in methods.items():
                yield f"{method.upper()} {path.removeprefix('/api/v1')}", operation


async def test_every_operation_describes_its_refusals(operations: list[tuple[str, dict[str, Any]]]) -> None:
    assert len(operations) > 80
    lacking = {name: ALWAYS - set(operation["responses"]) for name, operation in operations}
    assert {name: missing for name, missing in lacking.items() if missing} == {}
    for name, operation in operations:
        for status in ALWAYS:
            assert operation["responses"][status]["content"]["application/json"]["schema"], (name, status)


async def test_every_answer_has_a_schema(operations: list[tuple[str, dict[str, Any]]]) -> None:
    open_ = []
    for name, operation in operations:
        good = {status: said for status, said in operation["responses"].items() if status.startswith("2")}
        assert good, name
        for status, said in good.items():
            if status in EMPTY:
                continue
            for kind, content in said["content"].items():
                if kind == "application/json" and not content.get("schema"):
                    open_.append(name)
    assert open_ == []


async def test_every_operation_says_what_it_does_under_a_name_of_its_own(
    operations: list[tuple[str, dict[str, Any]]],
) -> None:
    assert [name for name, operation in operations if not operation.get("description")] == []
    names = [operation["operationId"] for _, operation in operations]
    assert len(names) == len(set(names))
