"""Every limit of the OpenAPI description, kept: a value at it is taken, one beyond it is 422 and named.

The limits are read from the description of the application, so one that is added is tested with it.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.cloud_api_support import Api, api

WORDS = (
    "maxLength",
    "minLength",
    "maximum",
    "minimum",
    "exclusiveMaximum",
    "maxItems",
    "minItems",
    "pattern",
)
# A value that fits, and one that does not, for each pattern that the description has.
PATTERNS = {
    "^[0-9a-f]{32}$": ("0f" * 16, "0F" * 16),
    "^[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,38}$": ("a" * 39, "a" * 40),
    "^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$": ("a" * 63, "a" * 64),
    "^[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,62}[a-zA-Z0-9])?$": ("a" * 64, "a" * 65),
    r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+$": ("a@b", "ab"),
    r"^https?://[^\s\x00-\x1f]+$": ("http://a", "gopher://a"),
}
# Members that have to make sense before the rest of the body is looked at.
EXAMPLES = {
    "role": "member",
    "email": "a@b",
    "url": "http://a",
    "vm_uuid": "0f" * 16,
    "gpus": {"count": 0},
}


@dataclass(frozen=True)
class Limit:
    """A limit: where (`body`, `query`, `header`, `path`), of which member, and what is said of it."""

    where: str
    path: tuple[str, ...]
    word: str
    value: Any
    schema: Mapping[str, Any]

    @property
    def within(self) -> Any:
        return self._value(0)

    @property
    def beyond(self) -> Any:
        return self._value(-1 if self.word.startswith("min") else 1)

    def _value(self, more: int) -> Any:
        match self.word:
            case "maxLength" | "minLength":
                begun = EXAMPLES.get(self.path[-1], "")
                return begun + "a" * (self.value + more - len(begun))
            case "maximum" | "minimum":
                return int(self.value) + more
            case "exclusiveMaximum":
                return int(self.value) - 1 + more
            case "maxItems" | "minItems":
                return [_example(self.schema.get("items", {}), {}, "")] * (self.value + more)
            case _:
                return PATTERNS[self.value][abs(more)]


def _variants(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "$ref" in schema:
        yield from _variants(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    elif "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from _variants(one, schemas)
    else:
        yield schema


def _example(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str) -> Any:
    """Something small that fits."""
    one = next(_variants(schema, schemas), {})
    if name in EXAMPLES:
        return EXAMPLES[name]
    if "enum" in one or "const" in one:
        return one.get("const", *one.get("enum", [None])[:1])
    match one.get("type"):
        case "object":
            members = one.get("properties", {})
            return {member: _example(members[member], schemas, member) for member in one.get("required", ())}
        case "array":
            return [_example(one["items"], schemas, name)] * one.get("minItems", 0)
        case "integer" | "number":
            return one.get("minimum", 1)
        case "boolean":
            return True
        case _:
            return "a" * max(1, one.get("minLength", 0))


def _limits(
    where: str, schema: Mapping[str, Any], schemas: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[Limit]:
    for one in _variants(schema, schemas):
        for word in WORDS:
            if word in one:
                yield Limit(where, path, word, one[word], one)
        for name, member in one.get("properties", {}).items():
            yield from _limits(where, member, schemas, (*path, name))
        if "items" in one and path:
            yield from _limits(where, one["items"], schemas, (*path, "[]"))


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    described: Mapping[str, Any]
    schemas: Mapping[str, Any]

    def limits(self) -> Iterator[Limit]:
        for parameter in self.described.get("parameters", ()):
            yield from _limits(parameter["in"], parameter["schema"], self.schemas, (parameter["name"],))
        if self._body is not None:
            yield from _limits("body", self._body, self.schemas, ())

    @property
    def _body(self) -> Mapping[str, Any] | None:
        content = self.described.get("requestBody", {}).get("content", {})
        found: Mapping[str, Any] | None = content.get("application/json", {}).get("schema")
        return found

    def request(self, limit: Limit, value: Any) -> dict[str, Any]:
        """A request that fits but for this value."""
        query: dict[str, Any] = {}
        headers: dict[str, str] = {}
        path = self.path
        for parameter in self.described.get("parameters", ()):
            name = parameter["name"]
            chosen = limit.where == parameter["in"] and limit.path[0] == name
            if not chosen and not parameter["required"]:
                continue
            shown = value if chosen else _example(parameter["schema"], self.schemas, name)
            match parameter["in"]:
                case "path":
                    path = path.replace(f"{{{name}}}", str(shown))
                case "header":
                    headers[name] = str(shown)
                case _:
                    query[name] = shown
        body = None if self._body is None else _example(self._body, self.schemas, "")
        if limit.where == "body":
            body = _put(body, limit.path, value)
        return {"method": self.method, "url": path, "params": query, "headers": headers, "json": body}


def _put(body: Any, path: tuple[str, ...], value: Any) -> Any:
    """The body with the value there; what is on the way is made."""
    if not path:
        return value
    if path[0] == "[]":
        return [_put({}, path[1:], value)]
    members = dict(body) if isinstance(body, dict) else {}
    members[path[0]] = _put(members.get(path[0], EXAMPLES.get(path[0])), path[1:], value)
    return members


def operations(described: Mapping[str, Any]) -> list[Operation]:
    schemas = described["components"]["schemas"]
    return [
        Operation(method.upper(), path, operation, schemas)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]


def refused_for(answer: httpx.Response, limit: Limit) -> bool:
    """Whether this member is what the answer refuses."""
    if answer.status_code != 422:
        return False
    name = [word for word in limit.path if word != "[]"][-1]
    return all(name in entry["loc"] for entry in answer.json()["detail"])


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Api]:
    async with api("sqlite", tmp_path) as made:
        yield made


async def test_every_limit_is_kept(here: Api) -> None:
    found, faults = 0, []
    for operation in operations(here.cloud.app.openapi()):
        for limit in operation.limits():
            found += 1
            for value, refused in ((limit.within, False), (limit.beyond, True)):
                answer = await here.client.request(**operation.request(limit, value))
                if refused_for(answer, limit) != refused or (
                    not refused and answer.status_code in {422, 500}
                ):
                    told = f"{operation.method} {operation.path} {limit.where} {limit.path} {limit.word}"
                    faults.append(f"{told} {limit.value}: {answer.status_code} {answer.text[:200]}")
    await here.workflows.idle()
    assert not faults, "\n".join(faults)
    assert found > 150


def _strings(schema: Mapping[str, Any], schemas: Mapping[str, Any], path: str) -> Iterator[tuple[str, bool]]:
    for one in _variants(schema, schemas):
        if one.get("type") == "string":
            bounded = bool({"maxLength", "enum", "const", "pattern", "format"} & set(one))
            yield path, bounded
        if one.get("type") == "array":
            yield path, "maxItems" in one
        for name, member in one.get("properties", {}).items():
            yield from _strings(member, schemas, f"{path}.{name}")
        if "items" in one:
            yield from _strings(one["items"], schemas, f"{path}[]")


async def test_nothing_that_is_asked_is_without_limit(here: Api) -> None:
    unbounded = set()
    for operation in operations(here.cloud.app.openapi()):
        described = operation.described
        # Paths are bounded by the server: it takes no longer request line.
        shown = [
            (f"{one['in']} {one['name']}", one["schema"])
            for one in described.get("parameters", ())
            if one["in"] != "path"
        ]
        for kind, content in described.get("requestBody", {}).get("content", {}).items():
            if kind == "application/json":
                shown.append(("body", content["schema"]))
        for name, schema in shown:
            for path, bounded in _strings(schema, operation.schemas, f"{operation.path} {name}"):
                if not bounded:
                    unbounded.add(path)
    assert not unbounded, "\n".join(sorted(unbounded))
