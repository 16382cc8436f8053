"""The documentation page: the OpenAPI description as one page, that loads nothing and runs nothing."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from fastapi import FastAPI
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from teehouse.cloud.http.dependencies import parts_of
from teehouse.cloud.http.pages import emulated_roots, page_environment, page_headers
from teehouse.wire.cloud.versions import ApiVersion

# What people come for; the other groups follow in the order of their routes.
FIRST: Final = ("apps", "CVMs", "revisions", "attestations", "allow-lists")
_METHODS: Final = ("get", "post", "put", "patch", "delete")
_SAID: Final = {"Successful Response": "", "Validation Error": "It does not fit the description"}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def add_docs(app: FastAPI) -> None:
    """Serve the page at `/docs`."""
    environment = page_environment("teehouse.cloud.http")
    shown: dict[str, Any] = {}  # made once, when first asked for: the routes do not change any more

    async def docs(request: Request) -> Response:
        parts = parts_of(request)
        async with parts.database.read() as session:
            roots = await emulated_roots(session)
        if not shown:
            shown.update(page(app.openapi()))
            environment.filters["linked"] = links_to(schema["name"] for schema in shown["schemas"])
        text = environment.get_template("docs.html").render(
            **shown,
            roots=roots,
            api_url=parts.settings.api_url,
            versions=[version.value for version in ApiVersion],
        )
        return HTMLResponse(text, headers=dict(page_headers()))

    app.add_route("/docs", docs, include_in_schema=False)


def links_to(names: Iterable[str]) -> Callable[[str], Markup]:
    """Makes words that are names of schemas links to these."""
    known = frozenset(names)

    def linked(text: str) -> Markup:
        made, end = Markup(), 0
        for found in _NAME.finditer(text):
            if found[0] in known:
                made += escape(text[end : found.start()])
                made += Markup('<a href="#schema-{0}">{0}</a>').format(found[0])
                end = found.end()
        return made + escape(text[end:])

    return linked


def page(description: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of an OpenAPI description."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in description["paths"].items():
        for method in _METHODS:
            if (operation := methods.get(method)) is not None:
                group = (operation.get("tags") or ["other"])[0]
                groups.setdefault(group, []).append(_call(path, method, operation))
    schemas = description.get("components", {}).get("schemas", {})
    ordered = {name: groups[name] for name in (*FIRST, *groups) if name in groups}
    return {
        "title": description["info"]["title"],
        "description": description["info"].get("description", ""),
        "groups": [
            {"name": name, "title": name[:1].upper() + name[1:], "id": name.lower(), "calls": calls}
            for name, calls in ordered.items()
        ],
        "schemas": [_schema(name, schema) for name, schema in sorted(schemas.items())],
    }


def _call(path: str, method: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody", {}).get("content", {})
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": _summary(operation.get("description", "")),
        "description": operation.get("description", ""),
        "parameters": [
            {
                "name": parameter["name"],
                "place": parameter["in"],
                "type": _type(parameter.get("schema", {})),
                "required": parameter.get("required", False),
                "description": _described(parameter),
            }
            for parameter in operation.get("parameters", ())
        ],
        "body": ", ".join(f"{kind}: {_type(content.get('schema', {}))}" for kind, content in body.items()),
        "answers": [
            {
                "status": status,
                "type": ", ".join(_type(c.get("schema", {})) for c in answer.get("content", {}).values()),
                "description": _SAID.get(text := answer.get("description", ""), text),
            }
            for status, answer in sorted(operation["responses"].items())
        ],
    }


def _described(parameter: Mapping[str, Any]) -> str:
    """What the parameter is, and what it is where it is not given."""
    text, default = parameter.get("description", ""), parameter.get("schema", {}).get("default")
    return text if default is None else f"{text}{'; ' if text else ''}{json.dumps(default)} if not given"


def _schema(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    required = schema.get("required", ())
    members = [
        {"name": member, "type": _type(kind), "required": member in required}
        for member, kind in schema.get("properties", {}).items()
    ]
    told = schema.get("description", "")
    return {"name": name, "summary": _summary(told), "description": told, "members": members}


def _summary(text: str) -> str:
    """The first paragraph, without the lines it was written in."""
    return " ".join(text.partition("\n\n")[0].split())


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " | ".join(_type(one) for one in schema[word])
    if schema.get("type") == "array":
        return f"{_type(schema.get('items', {}))}[]"
    if "enum" in schema:
        return " | ".join(map(repr, schema["enum"]))
    kind = str(schema.get("type", "anything"))
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is None and most is None:
        return kind
    if most is None:
        return f"{kind} from {least}"
    return f"{kind} up to {most}" if least is None else f"{kind} {least} to {most}"
