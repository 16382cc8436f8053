"""Idempotency keys (rules 1 to 5 of `teehouse.cloud.http.idempotency`)."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter
from sqlalchemy import func, select

from support.cloud_core_support import KINDS, Cloud, cloud
from teehouse.cloud.accounts.models import User
from teehouse.cloud.errors import refusal
from teehouse.cloud.housekeeping import forget_expired
from teehouse.cloud.http.dependencies import Parts, Signed, Writing
from teehouse.cloud.http.models import IdempotencyKey

router = APIRouter()
PATH = "/api/v1/test/users"
gates: dict[str, asyncio.Event] = {}


@router.post("/test/users", status_code=201)
async def add_user(caller: Signed, session: Writing, parts: Parts, body: dict[str, str]) -> dict[str, int]:
    """Something that must not be done twice."""
    if body["name"] == "wait":
        gates["begun"].set()
        await gates["go"].wait()
    if body["name"] == "refuse":
        raise refusal(409, "Not now")
    if body["name"] == "fail":
        raise RuntimeError("a bug")
    session.add(User(username=body["name"], email=body["name"], created_at=parts.clock.now()))
    await session.flush()
    count = await session.scalar(select(func.count()).select_from(User))
    return {"users": count or 0}


@pytest.fixture(params=KINDS)
async def here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cloud]:
    gates.update(begun=asyncio.Event(), go=asyncio.Event())
    async with cloud(request.param, tmp_path, signed=[router]) as made:
        yield made


async def _post(here: Cloud, name: str, key: str = "k1", **given: str) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    return await here.client(given.get("api_key", "")).post(PATH, json={"name": name}, headers=headers)


async def _rows(here: Cloud) -> int:
    async with here.database.read() as session:
        return await session.scalar(select(func.count()).select_from(IdempotencyKey)) or 0


async def test_r4_r5_a_success_is_told_again_and_not_done_again(here: Cloud) -> None:
    first, second = await _post(here, "bob"), await _post(here, "bob")
    assert (first.status_code, first.json()) == (201, {"users": 2})
    assert (second.status_code, second.content, second.headers["content-type"]) == (
        201,
        first.content,
        first.headers["content-type"],
    )
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert (await _post(here, "carol", "k2")).json() == {"users": 3}


async def test_r2_the_same_key_for_something_else_is_a_mistake(here: Cloud) -> None:
    await _post(here, "bob")
    answer = await _post(here, "carol")
    assert (answer.status_code, "another request" in answer.json()["detail"]) == (422, True)
    elsewhere = await here.client().post(
        f"{PATH}?x=1", json={"name": "bob"}, headers={"Idempotency-Key": "k1"}
    )
    assert elsewhere.status_code == 422


async def test_r1_keys_of_other_workspaces_are_others(here: Cloud) -> None:
    await _post(here, "bob")
    other = await here.other()
    answer = await _post(here, "carol", api_key=other.api_key)
    assert (answer.status_code, answer.headers.get("idempotency-replayed")) == (201, None)


async def test_r1_without_a_caller_a_key_means_nothing(here: Cloud) -> None:
    answer = await _post(here, "bob", api_key="phak_wrong")
    assert (answer.status_code, await _rows(here)) == (401, 0)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\x7f"])
async def test_r1_keys_that_are_none(here: Cloud, key: str) -> None:
    answer = await _post(here, "bob", key)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "ERR-02-008")


async def test_r3_the_second_waits_for_the_first(here: Cloud) -> None:
    first = asyncio.create_task(_post(here, "wait"))
    if here.database.dialect == "sqlite":
        # There, a writer at work keeps the key's row from being written: the second is answered after the first.
        await asyncio.wait_for(gates["begun"].wait(), 10)
        second = asyncio.create_task(_post(here, "wait"))
        await asyncio.sleep(0.05)
        gates["go"].set()
        assert (await first).status_code == 201
        assert (await second).status_code in {201, 409}
    else:
        await asyncio.wait_for(gates["begun"].wait(), 10)
        second_answer = await _post(here, "wait")
        assert (second_answer.status_code, second_answer.headers["retry-after"]) == (409, "1")
        gates["go"].set()
        assert (await first).status_code == 201
    assert (await _post(here, "wait")).headers["idempotency-replayed"] == "true"


async def test_r3_a_dead_process_does_not_keep_a_key(here: Cloud) -> None:
    async with here.database.write() as session:
        now = here.clock.now()
        session.add(
            IdempotencyKey(
                workspace_id=here.first.workspace_id,
                key="k1",
                fingerprint="0" * 64,
                created_at=now,
                locked_until=now + timedelta(seconds=60),
                expires_at=now + timedelta(days=1),
            )
        )
    assert (await _post(here, "bob")).status_code == 422
    here.clock.advance(timedelta(seconds=60))
    assert (await _post(here, "bob")).status_code == 201


async def test_r4_a_refusal_and_a_fault_give_the_key_back(here: Cloud) -> None:
    assert (await _post(here, "refuse")).status_code == 409
    assert await _rows(here) == 0
    assert (await _post(here, "fail")).status_code == 500
    assert await _rows(here) == 0
    assert (await _post(here, "bob")).status_code == 201


async def test_r4_what_is_remembered_is_forgotten_after_a_day(here: Cloud) -> None:
    await _post(here, "bob")
    here.clock.advance(timedelta(days=1))
    again = await _post(here, "carol")
    assert (again.status_code, again.json()) == (201, {"users": 3})
    here.clock.advance(timedelta(days=1))
    await forget_expired(here.database, here.clock.now())
    assert await _rows(here) == 0


async def test_many_at_once_do_it_once(here: Cloud) -> None:
    answers = await asyncio.gather(*(_post(here, "bob") for _ in range(10)))
    done = [a for a in answers if a.status_code == 201 and "idempotency-replayed" not in a.headers]
    assert len(done) == 1
    assert {a.status_code for a in answers} <= {201, 409}
    async with here.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(User)) == 2
