"""The documentation page: the OpenAPI description as one page, that loads nothing and runs nothing."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

STYLE: Final = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;"
    "padding:0 1rem}nav{display:flex;flex-wrap:wrap;gap:.5rem 1rem}details{border-top:1px solid #8884;"
    "padding:.4rem 0}summary{cursor:pointer}summary span{opacity:.75}table{border-collapse:collapse;width:100%;"
    "margin:.5rem 0}caption{text-align:left;font-weight:600}th,td{text-align:left;vertical-align:top;"
    "padding:.2rem .5rem;border-bottom:1px solid #8884}code{font-size:.95em}"
)
STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
_METHODS: Final = ("get", "post", "put", "patch", "delete")


def add_docs(app: FastAPI) -> None:
    """Serve the page at `/docs`."""
    environment = Environment(loader=PackageLoader("teehouse.cloud.http"), autoescape=select_autoescape())
    template = environment.get_template("docs.html")
    rendered: list[str] = []  # made once, when first asked for: the routes do not change any more

    async def docs(_request: Request) -> Response:
        if not rendered:
            rendered.append(template.render(**page(app.openapi()), style=STYLE))
        return HTMLResponse(rendered[0], headers=dict(HEADERS))

    app.add_route("/docs", docs, include_in_schema=False)


def page(description: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of an OpenAPI description."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in description["paths"].items():
        for method in _METHODS:
            if (operation := methods.get(method)) is not None:
                group = (operation.get("tags") or ["other"])[0]
                groups.setdefault(group, []).append(_call(path, method, operation))
    schemas = description.get("components", {}).get("schemas", {})
    return {
        "title": description["info"]["title"],
        "description": description["info"].get("description", ""),
        "groups": [{"name": name, "calls": calls} for name, calls in groups.items()],
        "schemas": [_schema(name, schema) for name, schema in sorted(schemas.items())],
    }


def _call(path: str, method: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody", {}).get("content", {})
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation.get("summary", ""),
        "description": operation.get("description", ""),
        "parameters": [
            {
                "name": parameter["name"],
                "place": parameter["in"],
                "type": _type(parameter.get("schema", {})),
                "required": parameter.get("required", False),
                "description": parameter.get("description", ""),
            }
            for parameter in operation.get("parameters", ())
        ],
        "body": ", ".join(f"{kind}: {_type(content.get('schema', {}))}" for kind, content in body.items()),
        "answers": [
            {
                "status": status,
                "type": ", ".join(_type(c.get("schema", {})) for c in answer.get("content", {}).values()),
                "description": answer.get("description", ""),
            }
            for status, answer in sorted(operation["responses"].items())
        ],
    }


def _schema(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    required = schema.get("required", ())
    members = [
        {"name": member, "type": _type(kind), "required": member in required}
        for member, kind in schema.get("properties", {}).items()
    ]
    return {"name": name, "description": schema.get("description", ""), "members": members}


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
    return str(schema.get("type", "anything"))
