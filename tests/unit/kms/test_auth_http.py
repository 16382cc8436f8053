"""An authorisation API over HTTP fails closed (trust.md 13.6, `teehouse.kms.auth_http`)."""

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from support.auth_support import BOOT_INFO
from teehouse import __version__
from teehouse.base.findings import CollateralError, MisuseError
from teehouse.kms.auth import AuthInfo, Decision
from teehouse.kms.auth_http import HttpAuth
from teehouse.kms.auth_mock import MockAuth
from teehouse.kms.auth_server import auth_app
from teehouse.kms.auth_wire import ANSWER_LIMIT

URL = "http://user:secret@auth.test/api/"
GOOD = {"isAllowed": True, "reason": "", "gatewayAppId": "g"}
GOOD_INFO = {
    "status": "ok",
    "kmsContractAddr": "0x1",
    "gatewayAppId": "g",
    "chainId": 1,
    "appImplementation": "0x2",
}

Respond = Callable[[httpx.Request], httpx.Response]


def api(respond: Respond, **options: Any) -> HttpAuth:
    return HttpAuth(URL, client=httpx.AsyncClient(transport=httpx.MockTransport(respond)), **options)


async def test_what_is_sent_and_what_comes_back() -> None:
    seen: list[tuple[str, str, str, Any]] = []

    def respond(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        seen.append((request.method, request.url.path, request.headers["user-agent"], body))
        return httpx.Response(200, json=GOOD if body else GOOD_INFO)

    auth = api(respond)
    assert await auth.boot_app(BOOT_INFO) == Decision(is_allowed=True, gateway_app_id="g")
    assert await auth.boot_kms(BOOT_INFO) == Decision(is_allowed=True, gateway_app_id="g")
    assert await auth.info() == AuthInfo("0x1", "g", 1, "0x2")
    agent = f"dstack-kms/{__version__}"
    assert seen == [
        ("POST", "/api/bootAuth/app", agent, BOOT_INFO.as_dict()),
        ("POST", "/api/bootAuth/kms", agent, BOOT_INFO.as_dict()),
        ("GET", "/api/", agent, None),
    ]


async def test_rule_3_no_decision_is_kept() -> None:
    answers = [GOOD, {**GOOD, "isAllowed": False, "reason": "revoked"}]
    auth = api(lambda _: httpx.Response(200, json=answers.pop(0)))
    assert (await auth.boot_app(BOOT_INFO)).is_allowed
    assert await auth.boot_app(BOOT_INFO) == Decision(is_allowed=False, reason="revoked", gateway_app_id="g")


@pytest.mark.parametrize(
    ("response", "found"),
    [
        (lambda: httpx.Response(500, json=GOOD), "status 500"),
        (lambda: httpx.Response(404, json=GOOD), "status 404"),
        (lambda: httpx.Response(400, json=GOOD), "status 400"),
        (lambda: httpx.Response(302, json=GOOD, headers={"location": "/"}), "status 302"),
        (lambda: httpx.Response(200, content=b""), "auth-answer is no JSON in UTF-8"),
        (lambda: httpx.Response(200, json=[]), "auth-answer is no JSON object"),
        (lambda: httpx.Response(200, json={**GOOD, "isAllowed": 1}), "isAllowed of auth-answer"),
        (lambda: httpx.Response(200, json={**GOOD, "isAllowed": "true"}), "isAllowed of auth-answer"),
        (lambda: httpx.Response(200, json={"isAllowed": True}), "reason of auth-answer is no string"),
        (
            lambda: httpx.Response(200, content=b'{"isAllowed":false,"isAllowed":true,"reason":""}'),
            "auth-answer names a member of an object twice",
        ),
        (lambda: httpx.Response(200, content=b" " * (ANSWER_LIMIT + 1)), "another answer"),
        (
            lambda: httpx.Response(
                200, content=gzip.compress(json.dumps(GOOD).encode()), headers={"content-encoding": "gzip"}
            ),
            "another answer",
        ),
    ],
)
async def test_rule_1_everything_else_is_a_refusal(
    response: Callable[[], httpx.Response], found: str
) -> None:
    auth = api(lambda _: response())
    for question in (auth.boot_app, auth.boot_kms):
        with pytest.raises(CollateralError) as caught:
            await question(BOOT_INFO)
        finding = caught.value.finding
        assert finding.code == "auth-http.no-answer"
        assert finding.found.startswith(found)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "error"},
        {"status": 1},
        {"chainId": "1"},
        {"chainId": -1},
        {"gatewayAppId": None},
        {"ethRpcUrl": 1},
    ],
)
async def test_an_info_of_another_form_is_none(changes: dict[str, Any]) -> None:
    auth = api(lambda _: httpx.Response(200, json={**GOOD_INFO, **changes}))
    with pytest.raises(CollateralError):
        await auth.info()


async def test_nobody_there_is_a_refusal() -> None:
    def respond(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no")

    with pytest.raises(CollateralError) as caught:
        await api(respond).boot_app(BOOT_INFO)
    assert str(caught.value) == (
        "the authorization API at http://auth.test/api/bootAuth/app: expected an answer, found ConnectError "
        "(check that the authorization API runs at the configured address)"
    )


async def test_one_that_takes_too_long_is_a_refusal() -> None:
    async def respond(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        raise AssertionError

    auth = HttpAuth(URL, client=httpx.AsyncClient(transport=httpx.MockTransport(respond)), timeout=0.01)
    with pytest.raises(CollateralError) as caught:
        await auth.boot_app(BOOT_INFO)
    assert caught.value.finding.expected == "an answer within 0.01 seconds"


@pytest.mark.parametrize("url", ["", "auth.test", "ftp://auth.test", "http://", "http://a?b=1", "http://a#b"])
def test_a_url_of_another_form_is_misuse(url: str) -> None:
    with pytest.raises(MisuseError) as caught:
        HttpAuth(url)
    assert caught.value.finding.code == "auth-http.url"


async def test_a_client_of_our_own_is_closed_with_us() -> None:
    async with HttpAuth("http://127.0.0.1:9") as auth:
        pass
    assert auth._client.is_closed
    given = httpx.AsyncClient()
    async with HttpAuth("http://127.0.0.1:9", client=given):
        pass
    assert not given.is_closed
    await given.aclose()


async def test_our_service_and_our_client_agree() -> None:
    service = auth_app(MockAuth("deny-kms", emulated=True))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(service))
    auth = HttpAuth("http://auth.test", client=client)
    assert await auth.boot_app(BOOT_INFO) == Decision(is_allowed=True, gateway_app_id="any")
    assert await auth.boot_kms(BOOT_INFO) == Decision(
        is_allowed=False, reason="mock policy deny-kms refuses this kms"
    )
    assert (await auth.info()).gateway_app_id == "any"
