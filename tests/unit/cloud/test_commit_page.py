"""The page that `commit_url` leads to (cloud-api.md 13.4), on a chain in memory."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.cloud_inventory_support import DEVICE
from support.cloud_onchain_support import NEWER, V1, OnChain, details, on_chain

CHANGE = {"docker_compose_file": NEWER}


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[OnChain]:
    async with on_chain("sqlite", tmp_path) as made:
        yield made


async def prepared(one: OnChain) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The CVM, what the refusal told, and the page's path."""
    cvm = await one.deploy()
    told = details(await one.call("PATCH", "/cvms/my-app", V1, json=CHANGE))
    return cvm, told, told["commit_url"].removeprefix("https://cloud.example.org")


async def test_what_waits_is_shown_to_who_has_the_token(one: OnChain) -> None:
    cvm, told, path = await prepared(one)
    nobody = one.cloud.client(None)
    page = await nobody.get(path)
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-store")
    assert "form-action 'self'" in page.headers["content-security-policy"]
    for text in (
        "<strong>my-app</strong>",
        f"<code>0x{cvm['app_id']}</code> on chain 8453",
        f"<code>0x{told['compose_hash']}</code><br>not allowed yet",
        f"<code>0x{DEVICE}</code><br>allowed",
        f"addComposeHash(0x{told['compose_hash']})",
        "EMULATED",
    ):
        assert text in page.text
    assert "addDevice" not in page.text
    for path_of_none in ("/commit/ct_unknown", "/commit/x"):
        lost = await nobody.get(path_of_none)
        assert (lost.status_code, "The commit token is unknown." in lost.text) == (466, True)


async def test_it_is_committed_with_the_proof(one: OnChain) -> None:
    cvm, told, path = await prepared(one)
    nobody = one.cloud.client(None)
    early = await nobody.post(path, data={"transaction_hash": ""})
    assert early.status_code == 468
    assert "does not allow this compose hash." in early.text
    assert told["compose_hash"] in early.text  # it still waits
    sent = one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    across = await nobody.post(
        path, data={"transaction_hash": sent}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert across.status_code == 403
    wrong = await nobody.post(path, data={"transaction_hash": "0x12"})
    assert (wrong.status_code, "64 hex digits" in wrong.text) == (467, True)
    done = await nobody.post(path, data={"transaction_hash": f" {sent} "})
    assert (done.status_code, "Changed: docker_compose_file." in done.text) == (200, True)
    await one.workflows.idle()
    assert (await one.state("my-app"))["cvm"]["compose_hash"] == told["compose_hash"]
    again = await nobody.post(path, data={"transaction_hash": sent})
    assert (again.status_code, "The commit token was used." in again.text) == (466, True)
    assert told["compose_hash"] not in again.text


async def test_what_was_allowed_before_needs_no_transaction(one: OnChain) -> None:
    cvm, told, path = await prepared(one)
    one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    assert "not allowed yet" not in (await one.cloud.client(None).get(path)).text
    assert (await one.cloud.client(None).post(path)).status_code == 200


async def test_instances_are_committed_by_their_program(one: OnChain) -> None:
    cvm = await one.deploy()
    refused = await one.call("POST", f"/apps/{cvm['app_id']}/instances", V1, json=CHANGE)
    path = details(refused)["commit_url"].removeprefix("https://cloud.example.org")
    page = await one.cloud.client(None).get(path)
    assert (page.status_code, "<form" in page.text, "my-app" in page.text) == (200, False, False)
    assert "An instance is added" in page.text
    tried = await one.cloud.client(None).post(path)
    assert (tried.status_code, "The commit token is unknown." in tried.text) == (466, True)


async def test_a_chain_that_does_not_answer_is_told(one: OnChain) -> None:
    _, told, path = await prepared(one)
    one.chain.down = True
    page = await one.cloud.client(None).get(path)
    assert (page.status_code, "The contract could not be asked" in page.text) == (200, True)
    assert told["compose_hash"] in page.text
    assert (await one.cloud.client(None).post(path)).status_code == 503


async def test_the_token_is_in_no_log(one: OnChain) -> None:
    with capture_logs() as logs:
        _, told, path = await prepared(one)
        await one.cloud.client(None).get(path)
    text = json.dumps(logs, default=str)
    assert re.search('"path": "/commit/[.]{3}"', text)
    assert told["commit_token"] not in text
