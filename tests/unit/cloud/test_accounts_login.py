"""Keys, `/auth/me`, and the device-code login (cloud-api.md 1, 9, 12.1) through the HTTP door."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from support.cloud_core_support import KINDS, NOW, Cloud, cloud
from teehouse.cloud.accounts.models import ApiKey, DeviceCode, WebSession
from teehouse.cloud.accounts.views_device import powers
from teehouse.cloud.housekeeping import forget_expired

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
ME = "/api/v1/auth/me"


@pytest.fixture(params=KINDS)
async def here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cloud]:
    async with cloud(request.param, tmp_path) as made:
        yield made


def _without_ids(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "request_id"}


async def test_me_at_each_version(here: Cloud) -> None:
    client = here.client()
    flat = (await client.get(ME, headers={"X-Phala-Version": "2025-10-28"})).json()
    assert flat == {
        "username": "alice",
        "email": "alice@example.org",
        "credits": 0.0,
        "granted_credits": 0.0,
        "avatar": "",
        "team_name": "Alice's",
        "team_tier": "free",
    }
    nested = (await client.get(ME, headers={"X-Phala-Version": "2026-01-21"})).json()
    assert re.fullmatch(r"ws_[0-9A-Za-z]{8}", nested["workspace"].pop("id"))
    assert nested == {
        "user": {
            "username": "alice",
            "email": "alice@example.org",
            "role": "admin",
            "avatar": "",
            "email_verified": True,
            "totp_enabled": False,
            "has_backup_codes": False,
            "flag_has_password": False,
        },
        "workspace": {"name": "Alice's", "slug": "alice", "tier": "free", "role": "owner", "avatar": None},
        "credits": {
            "balance": "0.00",
            "granted_balance": "0.00",
            "is_post_paid": False,
            "outstanding_amount": None,
        },
    }
    for version in ("2026-05-22", "2026-06-23"):
        again = (await client.get(ME, headers={"X-Phala-Version": version})).json()
        assert again["user"] == nested["user"]
    former = await client.get("/api/v1/users/me", headers={"X-Phala-Version": "2025-10-28"})
    assert former.json() == flat


async def test_a_key_is_taken_as_header_and_as_bearer_token(here: Cloud) -> None:
    key = here.first.api_key
    for headers in (
        {"X-API-Key": key},
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer {key}"},
    ):
        assert (await here.client(None).get(ME, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "phak_unknown"},
        {"X-API-Key": "x" * 1000},
        {"Authorization": "Bearer phak_unknown"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer"},
    ],
)
async def test_nobody_is_refused(here: Cloud, headers: dict[str, str]) -> None:
    answer = await here.client(None).get(ME, headers=headers)
    assert (answer.status_code, _without_ids(answer.json())) == (401, {"detail": "Not authenticated"})


async def test_a_key_is_stored_as_its_hash_and_its_use_once_a_minute(here: Cloud) -> None:
    client = here.client()

    async def used() -> Any:
        async with here.database.read() as session:
            row = (await session.scalars(select(ApiKey))).one()
            assert here.first.api_key not in {row.key_hash, row.prefix, row.name}
            return row.last_used_at

    assert await used() is None
    await client.get(ME)
    assert await used() == NOW
    here.clock.advance(timedelta(seconds=59))
    await client.get(ME)
    assert await used() == NOW
    here.clock.advance(timedelta(seconds=1))
    await client.get(ME)
    assert await used() == NOW + timedelta(minutes=1)


async def _begin(here: Cloud, scope: str = "user:profile cvms:* nodes:*") -> dict[str, Any]:
    answer = await here.client(None).post(
        "/api/v1/auth/device/code",
        json={"client_id": "phala-cli", "scope": scope},
        headers={"X-Phala-Version": "2026-01-21"},
    )
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


async def _poll(here: Cloud, device_code: str, grant: str = GRANT) -> httpx.Response:
    return await here.client(None).post(
        "/api/v1/auth/device/token", json={"device_code": device_code, "grant_type": grant}
    )


async def _error(here: Cloud, device_code: str, grant: str = GRANT) -> str:
    answer = await _poll(here, device_code, grant)
    body = answer.json()
    assert answer.status_code == 400
    assert set(body) == {"detail"}
    assert set(body["detail"]) == {"error", "error_description"}
    return str(body["detail"]["error"])


async def _browser(here: Cloud, key: str | None = None) -> httpx.AsyncClient:
    """A browser that has shown its key."""
    browser = here.client(None)
    answer = await browser.post(
        "/device/session", data={"api_key": key or here.first.api_key, "user_code": ""}
    )
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    return browser


def _form_token(page: httpx.Response) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]{64})"', page.text)
    assert found is not None
    return found[1]


async def _decide(browser: httpx.AsyncClient, code: str, decision: str) -> httpx.Response:
    page = await browser.get("/device", params={"user_code": code})
    return await browser.post(
        "/device/decision",
        data={"form_token": _form_token(page), "user_code": code, "decision": decision},
    )


async def test_a_device_login_from_code_to_key(here: Cloud) -> None:
    begun = await _begin(here)
    assert re.fullmatch(r"[B-DF-HJ-NP-TV-XZ]{4}-[B-DF-HJ-NP-TV-XZ]{4}", begun["user_code"])
    assert {**begun, "device_code": "", "user_code": ""} == {
        "device_code": "",
        "user_code": "",
        "verification_uri": "http://127.0.0.1:8080/device",
        "verification_uri_complete": f"http://127.0.0.1:8080/device?user_code={begun['user_code']}",
        "expires_in": 600,
        "interval": 5,
    }
    assert await _error(here, begun["device_code"]) == "authorization_pending"

    browser = await _browser(here)
    page = await browser.get("/device", params={"user_code": begun["user_code"].lower().replace("-", " ")})
    assert page.status_code == 200
    assert "phala-cli" in page.text
    assert "user:*, cvms:*, nodes:*" in page.text
    assert "see and change apps and CVMs" in page.text
    assert "script" not in page.headers["content-security-policy"]
    done = await _decide(browser, begun["user_code"], "approve")
    assert (done.status_code, "Approved" in done.text) == (200, True)

    token = await _poll(here, begun["device_code"])
    body = token.json()
    assert (token.status_code, body["token_type"], set(body)) == (
        200,
        "bearer",
        {"access_token", "token_type"},
    )
    me = await here.client(body["access_token"]).get(ME)
    assert (me.status_code, me.json()["workspace"]["slug"]) == (200, "alice")
    refused = await here.client(body["access_token"]).get("/api/v1/workspaces/alice/api-keys")
    assert (refused.status_code, refused.json()["error_code"]) == (403, "ERR-06-006")
    assert await _error(here, begun["device_code"]) == "invalid_grant"


async def test_a_denied_login_ends(here: Cloud) -> None:
    begun = await _begin(here)
    browser = await _browser(here)
    assert "Denied" in (await _decide(browser, begun["user_code"], "deny")).text
    assert await _error(here, begun["device_code"]) == "access_denied"
    assert (await browser.get("/device", params={"user_code": begun["user_code"]})).status_code == 404


async def test_a_program_that_asks_too_often_is_slowed(here: Cloud) -> None:
    code = (await _begin(here))["device_code"]
    assert await _error(here, code) == "authorization_pending"
    here.clock.advance(timedelta(seconds=1))
    assert await _error(here, code) == "slow_down"
    here.clock.advance(timedelta(seconds=5))
    assert await _error(here, code) == "slow_down"  # the interval is 10 s now
    here.clock.advance(timedelta(seconds=15))
    assert await _error(here, code) == "authorization_pending"


async def test_a_code_expires_and_is_forgotten(here: Cloud) -> None:
    begun = await _begin(here)
    browser = await _browser(here)
    here.clock.advance(timedelta(seconds=600))
    assert await _error(here, begun["device_code"]) == "expired_token"
    assert (await browser.get("/device", params={"user_code": begun["user_code"]})).status_code == 404
    here.clock.advance(timedelta(days=1))
    await forget_expired(here.database, here.clock.now())
    async with here.database.read() as session:
        assert (await session.scalars(select(DeviceCode))).all() == []
        assert (await session.scalars(select(WebSession))).all() == []


async def test_codes_and_grants_that_are_none(here: Cloud) -> None:
    assert await _error(here, "unknown") == "invalid_grant"
    assert await _error(here, "unknown", "password") == "unsupported_grant_type"
    answer = await here.client(None).post(
        "/api/v1/auth/device/code", json={"client_id": "x", "scope": "everything"}
    )
    assert (answer.status_code, answer.json()["detail"]["error"]) == (400, "invalid_scope")


async def test_the_page_without_a_session_asks_for_a_key(here: Cloud) -> None:
    browser = here.client(None)
    page = await browser.get("/device", params={"user_code": "BCDF-GHJK"})
    assert (page.status_code, 'name="api_key"' in page.text, "BCDF-GHJK" in page.text) == (200, True, True)
    refused = await browser.post("/device/session", data={"api_key": "phak_wrong"})
    assert (refused.status_code, "no valid API key" in refused.text) == (403, True)
    kept = await browser.post(
        "/device/session", data={"api_key": here.first.api_key, "user_code": "bcdfghjk"}
    )
    assert kept.headers["location"] == "/device?user_code=BCDF-GHJK"
    assert "the workspace alice" in (await browser.get("/device")).text


async def test_the_page_shows_what_it_is_given_as_text(here: Cloud) -> None:
    page = await here.client(None).get("/device", params={"user_code": '"><script>alert(1)</script>'})
    assert "<script" not in page.text


@pytest.mark.parametrize("forged", ["", "0" * 64, "\N{SNOWMAN}"])
async def test_a_form_of_another_site_decides_nothing(here: Cloud, forged: str) -> None:
    begun = await _begin(here)
    browser = await _browser(here)
    form = {"form_token": forged, "user_code": begun["user_code"], "decision": "approve"}
    assert (await browser.post("/device/decision", data=form)).status_code == 403
    good = _form_token(await browser.get("/device", params={"user_code": begun["user_code"]}))
    across = await browser.post(
        "/device/decision", data={**form, "form_token": good}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert across.status_code == 403
    assert (
        await here.client(None).post("/device/decision", data={**form, "form_token": good})
    ).status_code == 403
    too_large = await browser.post("/device/decision", data={**form, "more": "x" * 5000})
    assert too_large.status_code == 413
    assert await _error(here, begun["device_code"]) == "authorization_pending"


async def test_nobody_approves_more_than_the_own_key_may(here: Cloud) -> None:
    narrow = (
        await here.client().post(
            "/api/v1/workspaces/alice/api-keys", json={"name": "narrow", "scopes": ["cvms:read"]}
        )
    ).json()["key"]
    begun = await _begin(here, "cvms:read nodes:read")
    refused = await _decide(await _browser(here, narrow), begun["user_code"], "approve")
    assert (refused.status_code, "lacks scopes" in refused.text) == (403, True)
    assert await _error(here, begun["device_code"]) == "authorization_pending"


async def test_a_session_ends_by_itself_by_hand_and_with_its_key(here: Cloud) -> None:
    browser = await _browser(here)
    token = _form_token(await browser.get("/device"))
    out = await browser.post("/device/decision", data={"form_token": token, "decision": "sign-out"})
    assert out.status_code == 303
    assert 'name="api_key"' in (await browser.get("/device")).text

    made = (await here.client().post("/api/v1/workspaces/alice/api-keys", json={"name": "second"})).json()
    browser = await _browser(here, made["key"])
    await here.client().delete(f"/api/v1/workspaces/alice/api-keys/{made['id']}")
    assert 'name="api_key"' in (await browser.get("/device")).text

    browser = await _browser(here)
    here.clock.advance(timedelta(hours=8))
    assert 'name="api_key"' in (await browser.get("/device")).text


def test_scopes_in_words() -> None:
    assert powers(["cvms:read", "workspace:write", "user:*", "*"]) == [
        "see apps and CVMs",
        "change members, keys and webhooks of the workspace",
        "see and change your profile and SSH keys",
        "do all that your key can",
    ]
