"""The HTTP core: versions, errors, pages, health, documentation (cloud-api.md 1 to 4)."""

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from sqlalchemy import select, text
from sqlalchemy.exc import InterfaceError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from support import postgres
from support.cloud_core_support import KINDS, Cloud, cloud
from support.cloud_inventory_support import add_inventory, add_node
from teehouse.base.findings import MisuseError, malformed, misuse, rejected, unavailable, unsupported
from teehouse.cloud.accounts.models import User, Workspace
from teehouse.cloud.db import migrate
from teehouse.cloud.db.engine import open_database
from teehouse.cloud.errors import CloudError, Detail, ErrorCode, busy, denied, not_found, refusal
from teehouse.cloud.http.dependencies import PageRequest, Reading, Version, Writing, needed_scope, paging
from teehouse.cloud.http.docs_page import links_to
from teehouse.cloud.http.docs_page import page as docs_page
from teehouse.cloud.http.metrics import RequestMetrics
from teehouse.wire.cloud.versions import ApiVersion, negotiate

router = APIRouter(tags=["test"])
Page = Annotated[PageRequest, paging(default=20, most=100)]

RAISED: dict[str, Exception] = {
    "coded": CloudError(
        ErrorCode.HASH_REGISTRATION_REQUIRED,
        "Compose hash registration required on-chain",
        details=[Detail("commit_token", "ct_1"), Detail(message="words")],
        suggestions=["Register it"],
        links=[{"label": "Read on", "url": "https://example.org"}],
        headers={"X-Extra": "1"},
    ),
    "plain": refusal(418, "A sentence"),
    "missing": not_found("revision"),
    "busy": busy("Something is under way"),
    "denied": denied("No", "Ask"),
    "malformed": malformed("x.y", "the quote", expected="bytes", found="none"),
    "rejected": rejected("x.y", "the quote"),
    "unsupported": unsupported("x.y", "the quote"),
    "unavailable": unavailable("x.y", "the collateral"),
    "misuse": misuse("x.y", "the question"),
    "bug": RuntimeError("a secret"),
    "pool": PoolTimeoutError("no connection"),
    "gone": InterfaceError("SELECT 1", {}, Exception("closed"), connection_invalidated=True),
    "wrong-sql": ProgrammingError("SELECT 1", {}, Exception("syntax")),
}


class Given(BaseModel):
    name: str
    count: int = 0


@router.get("/test/raise/{what}")
async def raise_it(what: str) -> None:
    raise RAISED[what]


@router.get("/test/version")
async def show_version(version: Version) -> str:
    return version.name


@router.get("/test/page")
async def show_page(page: Page) -> list[int]:
    return [page.page, page.page_size, page.offset]


@router.post("/test/given")
async def take(body: Given) -> Given:
    return body


@router.post("/test/store")
async def store(body: Given, session: Writing) -> str:
    await session.execute(select(User.id).where(User.username == body.name))
    await session.execute(select(User.id).where(User.id == body.count))
    return "stored"


@router.post("/test/collide")
async def collide(session: Writing) -> None:
    for _ in range(2):
        session.add(Workspace(slug="same", name="same", created_at=(await _now(session))))
        await session.flush()


@router.get("/test/read")
async def read(session: Reading) -> int:
    return int((await session.execute(text("SELECT 7"))).scalar_one())


@router.get("/test/broken-off")
async def broken_off() -> Any:
    from starlette.responses import StreamingResponse

    async def lines() -> AsyncIterator[bytes]:
        yield b"one\n"
        raise RuntimeError("in the middle")

    return StreamingResponse(lines(), media_type="text/plain")


async def _now(session: Any) -> Any:
    return (await session.scalars(select(User.created_at))).first()


@pytest.fixture(params=KINDS)
async def here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cloud]:
    async with cloud(request.param, tmp_path, public=[router], body_limit=4096) as made:
        yield made


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with cloud("sqlite", tmp_path, public=[router], body_limit=4096) as made:
        yield made


async def _get(here: Cloud, path: str, **headers: str) -> httpx.Response:
    return await here.client(None).get(f"/api/v1/test/{path}", headers={"X-Request-ID": "r-1", **headers})


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (None, ApiVersion.V4),
        ("", ApiVersion.V4),
        ("2025-10-28", ApiVersion.V1),
        ("2026-01-21", ApiVersion.V2),
        ("2026-05-22", ApiVersion.V3),
        ("2026-06-23", ApiVersion.V4),
        (" 2026-01-21 ", ApiVersion.V2),
        ("2026-01-20", ApiVersion.V1),
        ("2026-05-21", ApiVersion.V2),
        ("2026-06-22", ApiVersion.V3),
        ("2099-12-31", ApiVersion.V4),
        ("2025-10-27", None),
        ("2026-13-01", None),
        ("2026-02-30", None),
        ("20260121", None),
        ("latest", None),
        ("\N{ARABIC-INDIC DIGIT TWO}026-01-21", None),
    ],
)
def test_v1_to_v3_which_version_a_request_gets(text: str | None, version: ApiVersion | None) -> None:
    if version is not None:
        assert negotiate(text) is version
        return
    with pytest.raises(Exception, match="X-Phala-Version"):
        negotiate(text)


@given(st.text(max_size=30) | st.from_regex(r"20\d\d-\d\d-\d\d", fullmatch=True))
def test_any_header_is_a_version_or_refused(text: str) -> None:
    with contextlib.suppress(MisuseError):
        assert negotiate(text) in ApiVersion


def test_versions_are_ordered() -> None:
    assert sorted(ApiVersion) == [ApiVersion.V1, ApiVersion.V2, ApiVersion.V3, ApiVersion.V4]
    assert ApiVersion.V3 >= ApiVersion.V2
    with pytest.raises(TypeError):
        _ = ApiVersion.V1 < "2026-01-21"  # type: ignore[operator]  # what is tested


async def test_a_version_that_is_none_is_400_everywhere(one: Cloud) -> None:
    answer = await _get(one, "version", **{"X-Phala-Version": "tomorrow"})
    assert (answer.status_code, "found 'tomorrow'" in answer.json()["detail"]) == (400, True)
    assert (await _get(one, "version")).json() == "V4"
    assert (await _get(one, "version", **{"X-Phala-Version": "2026-02-01"})).json() == "V2"


@pytest.mark.parametrize(
    ("what", "status", "body"),
    [
        (
            "coded",
            465,
            {
                "error_code": "ERR-01-005",
                "message": "Compose hash registration required on-chain",
                "details": [{"field": "commit_token", "value": "ct_1"}, {"message": "words"}],
                "suggestions": ["Register it"],
                "links": [{"label": "Read on", "url": "https://example.org"}],
            },
        ),
        ("plain", 418, {"detail": "A sentence"}),
        ("missing", 404, {"detail": "Revision not found"}),
        ("busy", 409, {"detail": "Something is under way"}),
        (
            "denied",
            403,
            {
                "error_code": "ERR-06-006",
                "message": "No",
                "details": [],
                "suggestions": ["Ask"],
                "links": [],
            },
        ),
        ("malformed", 400, {"detail": "the quote: expected bytes, found none"}),
        ("rejected", 403, {"detail": "the quote"}),
        ("unsupported", 422, {"detail": "the quote"}),
        ("unavailable", 503, {"detail": "the collateral"}),
        ("misuse", 400, {"detail": "the question"}),
        ("bug", 500, {"detail": "Internal error"}),
        ("wrong-sql", 500, {"detail": "Internal error"}),
        ("pool", 503, {"detail": "The database does not answer; try again"}),
        ("gone", 503, {"detail": "The database does not answer; try again"}),
    ],
)
async def test_refusals_and_faults_as_answers(
    one: Cloud, what: str, status: int, body: dict[str, Any]
) -> None:
    answer = await _get(one, f"raise/{what}")
    assert (answer.status_code, answer.json()) == (status, {**body, "request_id": "r-1"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "r-1"
    if what == "coded":
        assert answer.headers["x-extra"] == "1"


def test_the_table_of_codes_is_the_one_of_the_specification() -> None:
    # cloud-api.md 3.2, with the statuses it recommends.
    unusual = {
        "ERR-01-004": 409,
        "ERR-01-005": 465,
        "ERR-01-006": 466,
        "ERR-01-007": 467,
        "ERR-01-008": 468,
        "ERR-03-001": 404,
        "ERR-03-002": 409,
        "ERR-03-003": 403,
        "ERR-03-005": 403,
        "ERR-03-007": 409,
        "ERR-03-010": 409,
        "ERR-04-001": 402,
        "ERR-05-002": 429,
        "ERR-06-006": 403,
    }
    codes = {code.code: code.status for code in ErrorCode}
    assert len(codes) == len(ErrorCode) == 36
    assert {code: status for code, status in codes.items() if status != 400} == unusual


async def test_what_fits_no_schema_is_told_without_its_content(one: Cloud) -> None:
    client = one.client()
    answer = await client.post("/api/v1/test/given", json={"count": "many", "secret": "hunter2"})
    assert (answer.status_code, answer.json()) == (
        422,
        {
            "detail": [
                {"type": "missing", "loc": ["body", "name"], "msg": "Field required"},
                {
                    "type": "int_parsing",
                    "loc": ["body", "count"],
                    "msg": "Input should be a valid integer, unable to parse string as an integer",
                },
            ]
        },
    )
    for content in (b"{", b"\xff", b'"\\ud800"', b"[" * 2000):
        broken = await client.post(
            "/api/v1/test/given", content=content, headers={"Content-Type": "application/json"}
        )
        assert broken.status_code in {400, 422}


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a\ud800"},
        {"name": "a\x00b"},
        {"name": "a", "count": 2**63},
        {"name": "a", "count": -(2**70)},
    ],
)
async def test_what_cannot_be_stored_is_400_or_harmless(here: Cloud, body: dict[str, Any]) -> None:
    answer = await here.client().post(
        "/api/v1/test/store", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    # SQLite takes a NUL in a text; everything else is refused by both.
    harmless = (here.database.dialect, body["name"]) == ("sqlite", "a\x00b")
    assert answer.status_code == (200 if harmless else 400)


async def test_a_collision_that_nobody_foresaw_is_409(here: Cloud) -> None:
    assert (await here.client().post("/api/v1/test/collide")).status_code == 409


async def test_bodies_have_a_limit(one: Cloud) -> None:
    client = one.client()
    said = await client.post("/api/v1/test/given", content=b" " * 4097)
    assert (said.status_code, said.json()) == (413, {"detail": "The body is larger than 4096 bytes"})

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1024

    kind = {"Content-Type": "application/json"}
    found = await client.post("/api/v1/test/given", content=chunks(), headers=kind)
    assert (found.status_code, found.json()["detail"]) == (413, "The body is larger than 4096 bytes")
    keyed = await client.post(
        "/api/v1/test/given", content=chunks(), headers={**kind, "Idempotency-Key": "k"}
    )
    assert (keyed.status_code, keyed.json()["detail"]) == (413, "The body is larger than 4096 bytes")
    fits = await client.post("/api/v1/test/given", content=b'{"name":"' + b"a" * 4000 + b'"}', headers=kind)
    assert fits.status_code == 200


async def test_a_content_type_without_body_is_no_error(one: Cloud) -> None:
    headers = {"Content-Type": "application/json"}
    assert (await one.client().get("/api/v1/auth/me", headers=headers)).status_code == 200
    answer = await one.client().post("/api/v1/user/ssh-keys/github-sync", headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("", [1, 20, 0]),
        ("?page=3", [3, 20, 40]),
        ("?page=2&page_size=100", [2, 100, 100]),
        ("?page=1000000000&page_size=100", [10**9, 100, (10**9 - 1) * 100]),
        ("?page=0", 422),
        ("?page=1000000001", 422),
        ("?page_size=0", 422),
        ("?page_size=101", 422),
        ("?page=one", 422),
    ],
)
async def test_pages_have_limits(one: Cloud, query: str, answer: list[int] | int) -> None:
    given = await one.client(None).get(f"/api/v1/test/page{query}")
    assert (given.json() if given.status_code == 200 else given.status_code) == answer


async def test_requests_have_an_id_and_a_trace(one: Cloud) -> None:
    own = await one.client(None).get("/healthz")
    assert re.fullmatch(r"[0-9a-f]{32}", own.headers["x-request-id"])
    assert float(own.headers["x-response-time"]) >= 0
    assert own.headers["x-content-type-options"] == "nosniff"
    trace = "0af7651916cd43dd8448eb211c80319c"
    traced = await one.client(None).get(
        "/healthz", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    )
    assert traced.headers["x-request-id"] == trace
    for harmful in ("a" * 129, "a b", "a\tb"):
        answer = await one.client(None).get("/healthz", headers={"X-Request-ID": harmful})
        assert answer.headers["x-request-id"] != harmful
    zero = await one.client(None).get(
        "/healthz", headers={"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"}
    )
    assert zero.headers["x-request-id"] != "0" * 32


async def test_an_answer_that_breaks_off_is_not_called_whole(one: Cloud) -> None:
    with pytest.raises(RuntimeError, match="in the middle"):
        await _get(one, "broken-off")


async def test_health_readiness_and_figures(here: Cloud) -> None:
    client = here.client(None)
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "database": migrate.head()})
    await client.get("/api/v1/auth/me")
    await client.request("BREW", "/api/v1/nowhere/secret-name")
    here.app.state.metrics.gauge("teehouse_test", "A figure", lambda: 3)
    figures = (await client.get("/metrics")).text
    assert 'teehouse_http_requests_total{method="GET", route="/api/v1/auth/me", status="401"} ' in figures
    assert 'teehouse_http_requests_total{method="OTHER", route="unmatched", status="404"} ' in figures
    assert "teehouse_test 3" in figures
    assert "secret-name" not in figures
    async with here.database.write() as session:
        await session.execute(text("DELETE FROM alembic_version"))
    try:
        behind = await client.get("/readyz")
    finally:
        async with here.database.write() as session:
            await session.execute(
                text("INSERT INTO alembic_version VALUES (:head)"), {"head": migrate.head()}
            )
    assert (behind.status_code, behind.json()["database"]) == (503, "at migration None")


async def test_a_database_that_does_not_answer_is_503(tmp_path: Path) -> None:
    postgres.require()
    async with cloud("sqlite", tmp_path, public=[router]) as here:
        client = here.client()
        await here.database.dispose()
        here.parts.database = open_database(f"postgresql://nobody@/none?host={tmp_path}")
        for path in ("/api/v1/test/read", "/api/v1/auth/me"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        keyed = await client.post("/api/v1/test/given", json={"name": "x"}, headers={"Idempotency-Key": "k"})
        assert keyed.status_code == 503
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["database"]) == (503, "does not answer")
        assert (await client.get("/healthz")).status_code == 200
        await here.parts.database.dispose()


def test_a_histogram_counts_into_all_buckets_above() -> None:
    metrics = RequestMetrics()
    for seconds in (0.001, 0.3, 100.0):
        metrics.count("GET", '/a"b', 200, seconds)
    lines = metrics.exposition().splitlines()
    assert 'teehouse_http_request_seconds_bucket{route="/a\\"b", le="0.005"} 1' in lines
    assert 'teehouse_http_request_seconds_bucket{route="/a\\"b", le="0.5"} 2' in lines
    assert 'teehouse_http_request_seconds_bucket{route="/a\\"b", le="+Inf"} 3' in lines
    assert 'teehouse_http_request_seconds_sum{route="/a\\"b"} 100.301' in lines


async def test_the_documentation_page_needs_nothing_from_elsewhere(one: Cloud) -> None:
    page = await one.client(None).get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', page.text) == ["/openapi.json"]
    assert "<script" not in page.text
    description = (await one.client(None).get("/openapi.json")).json()
    for path in description["paths"]:
        assert path in page.text
    assert (await one.client(None).get("/docs")).text == page.text
    # What is named is there, what is styled is what the header allows, and nothing is claimed to be emulated.
    links = set(re.findall(r'href="#([^"]*)"', page.text))
    assert links <= set(re.findall(r' id="([^"]*)"', page.text))
    assert {"main", "schemas", "group-apps", "schema-AppPageV3"} <= links
    (style,) = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page.headers["content-security-policy"]
    assert "EMULATED" not in page.text


async def test_pages_name_the_roots_of_emulated_nodes_first(one: Cloud) -> None:
    async with one.database.write() as session:
        image, kms = await add_inventory(session)
        for name, root in (("one", "emulated:bb"), ("two", "emulated:aa"), ("three", "emulated:aa")):
            (await add_node(session, image, kms, name=name)).root = root
        real = await add_node(session, image, kms, name="real")
        real.emulated, real.root = False, "intel"
    for path in ("/docs", "/device"):
        text = (await one.client(None).get(path)).text
        band = text[text.index("<body>") : text.index("</aside>")]
        assert re.findall("<code>(.*?)</code>", band) == ["emulated:aa", "emulated:bb"]
        assert "these roots only" in band


def test_numbers_and_defaults_in_words() -> None:
    parameter = {"name": "n", "in": "query"}
    schemas = [
        {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
        {"type": "integer", "minimum": 0},
        {"type": "number", "maximum": 9},
        {"type": "boolean", "default": False},
    ]
    operation = {
        "operationId": "x",
        "description": "Does it,\nat once.\n\nMore.",
        "parameters": [{**parameter, "schema": schema} for schema in schemas] + [parameter],
        "responses": {"200": {"description": "Successful Response"}},
    }
    shown = docs_page({"info": {"title": "T"}, "paths": {"/x": {"get": {**operation, "tags": ["xs"]}}}})
    (group,) = shown["groups"]
    assert (group["title"], group["id"]) == ("Xs", "xs")
    (call,) = group["calls"]
    assert (call["summary"], call["answers"][0]["description"]) == ("Does it, at once.", "")
    assert [(p["type"], p["description"]) for p in call["parameters"]] == [
        ("integer 1 to 100", "20 if not given"),
        ("integer from 0", ""),
        ("number up to 9", ""),
        ("boolean", "false if not given"),
        ("anything", ""),
    ]


def test_names_of_schemas_become_links_and_all_else_is_text() -> None:
    linked = links_to(["App", "Cvm"])
    assert linked("App[] | <b> | CvmX | Cvm") == (
        '<a href="#schema-App">App</a>[] | &lt;b&gt; | CvmX | <a href="#schema-Cvm">Cvm</a>'
    )


async def test_operations_have_names_of_their_own_and_say_what_they_do(one: Cloud) -> None:
    description = (await one.client(None).get("/openapi.json")).json()
    operations = [
        operation
        for path, methods in description["paths"].items()
        if "/test/" not in path
        for operation in methods.values()
    ]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    assert [name for name, one_ in zip(names, operations, strict=True) if not one_.get("description")] == []


def test_kinds_of_schemas_in_words() -> None:
    description = {
        "info": {"title": "T"},
        "paths": {
            "/x": {
                "post": {
                    "operationId": "x",
                    "requestBody": {"content": {"application/json": {"schema": {"enum": ["a", 1]}}}},
                    "responses": {"200": {"content": {"application/json": {"schema": {}}}}},
                }
            }
        },
        "components": {
            "schemas": {
                "S": {
                    "properties": {
                        "a": {"type": "array", "items": {"$ref": "#/components/schemas/S"}},
                        "b": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    },
                    "required": ["a"],
                }
            }
        },
    }
    shown = docs_page(description)
    assert shown["groups"][0]["name"] == "other"
    assert shown["groups"][0]["calls"][0]["body"] == "application/json: 'a' | 1"
    assert shown["schemas"][0]["members"] == [
        {"name": "a", "type": "S[]", "required": True},
        {"name": "b", "type": "string | null", "required": False},
    ]


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/api/v1/apps", ("cvms", "read")),
        ("POST", "/api/v1/cvms", ("cvms", "write")),
        ("POST", "/api/v1/cvms/x/is-allowed", ("cvms", "read")),
        ("POST", "/api/v1/status/batch", ("cvms", "read")),
        ("GET", "/api/v1/kms/x/pubkey/y", ("nodes", "read")),
        ("GET", "/api/v1/teepods/available", ("nodes", "read")),
        ("GET", "/api/v1/auth/me", ("user", "read")),
        ("POST", "/api/v1/user/ssh-keys", ("user", "write")),
        ("GET", "/api/v1/workspaces", ("user", "read")),
        ("GET", "/api/v1/workspaces/x", ("user", "read")),
        ("GET", "/api/v1/workspaces/x/quotas", ("user", "read")),
        ("GET", "/api/v1/workspaces/x/nodes", ("nodes", "read")),
        ("GET", "/api/v1/workspaces/x/api-keys", ("workspace", "read")),
        ("PATCH", "/api/v1/workspaces/x", ("workspace", "write")),
        ("DELETE", "/api/v1/unheard-of", ("workspace", "write")),
    ],
)
def test_which_scope_a_request_needs(method: str, path: str, scope: tuple[str, str]) -> None:
    assert needed_scope(method, path) == scope
