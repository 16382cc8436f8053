"""Every function of the published @phala/cloud 0.2.9, unmodified, at both its versions against a running Teehouse.

What the package has is asked of the package: a function that is neither called here nor named below, with its
reason, fails the test.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest

from support.functional_support import JS
from support.javascript_cloud import JavascriptCloud, Names
from support.javascript_lives import Form, Life, live
from support.javascript_reads import account, changed_mind, inventory, running
from support.webhook_receiver import listening

pytestmark = pytest.mark.timeout(300)

VERSIONS = ("2025-10-28", "2026-01-21")

# They speak to a chain and ask nothing of the control plane; js/chain.mjs calls them, which
# tests/functional/test_chain_anvil.py and tests/functional/test_up_chain.py run. What they ask of it about an app on
# chain, checkCvmIsAllowed, checkAppIsAllowed, confirmCvmPatch and commitCvmUpdate among it, is refused here, where
# the KMS is off chain, and accepted in tests/functional/test_up_chain.py.
ON_CHAIN = {
    "addComposeHash",
    "addDevice",
    "checkComposeHashAllowed",
    "checkDeviceAllowed",
    "checkOnChainPrerequisites",
    "deployAppAuth",
    "getAllowedDevices",
    "removeDevice",
    "setAllowAnyDevice",
}
# The wallet's side of the same.
WALLET = {
    "addNetwork",
    "autoCreateClients",
    "checkBalance",
    "checkNetworkStatus",
    "createClientsFromBrowser",
    "createClientsFromPrivateKey",
    "createNetworkClients",
    "createTransactionTracker",
    "estimateTransactionGas",
    "executeBatchTransactions",
    "executeTransaction",
    "executeTransactionWithRetry",
    "extractNetworkClients",
    "switchToNetwork",
    "validateNetworkPrerequisites",
    "waitForTransactionReceipt",
}
# They compute, make or check something within the program that calls them, and ask nobody.
ASKS_NOBODY = {
    "asHex",
    "convertToHostname",
    "createBaseClient",
    "createClient",
    "defineAction",
    "defineSimpleAction",
    "dumpAppCompose",
    "encryptEnvVars",
    "formatErrorMessage",
    "formatStructuredError",
    "formatValidationErrors",
    "generateDefaultCvmName",
    "generateFallbackHostname",
    "getComposeHash",
    "getErrorMessage",
    "getValidationFields",
    "isAppIdConflictError",
    "isConflictError",
    "isValidHostname",
    "parseApiError",
    "parseEnv",
    "parseEnvVars",
    "preprocessAppCompose",
    "refineCvmId",
    "safeValidateActionParameters",
    "sortObject",
    "validateActionParameters",
    "validateComposePayloadSize",
    "verifyEnvEncryptPublicKey",
    "withComposeMethods",
}
# Parts of the client object: what it makes its requests of.
INNER_METHODS = {"buildRequestOptions", "convertToRequestError", "emitError", "fetchInstance"}


def safe(name: str) -> str:
    return f"safe{name[0].upper()}{name[1:]}"


def plain(name: str) -> str:
    """The name of the throwing form."""
    return name[4].lower() + name[5:] if name.startswith("safe") else name


@pytest.fixture(scope="module")
def js(teehouse: Any) -> Iterator[JavascriptCloud]:
    with JavascriptCloud(teehouse.ready["api_url"], teehouse.ready["api_key"]) as process:
        yield process


@pytest.fixture(scope="module")
def names(js: JavascriptCloud) -> Names:
    return js.names()


def test_every_function_at_both_versions(teehouse: Any, js: JavascriptCloud, names: Names) -> None:
    """All that asks is called in every form at both versions; what changes CVMs, in two forms at each of them."""
    ways = [(methods, is_safe) for methods in (False, True) for is_safe in (False, True)]
    forms = {(version, *way): Form(js, names, version, *way) for version in VERSIONS for way in ways}
    slug = str(teehouse.ready["workspace"])
    for form in forms.values():
        inventory(form)
        account(form, slug)
    lives = [
        (forms[version, methods, is_safe], forms[version, methods, not is_safe])
        for version in VERSIONS
        for methods, is_safe in ways
        if (methods == is_safe) == (version == VERSIONS[0])
    ]
    kms = httpx.get(
        f"{teehouse.ready['api_url']}/kms/phala", headers={"X-API-Key": teehouse.ready["api_key"]}
    )
    kms_key = str(kms.json()["k256_pubkey"]).removeprefix("0x")
    with listening() as (url, heard), ThreadPoolExecutor(len(lives)) as threads:
        hook = js.call(VERSIONS[1], "method", "post", f"/workspaces/{slug}/webhooks", {"url": url})
        list(threads.map(changed_mind, [call for call, _ in lives]))
        chosen = lives[0][0]("nextAppIds", {"counts": len(lives)})["app_ids"]
        list(threads.map(partial(one_life, kms_key), *zip(*lives, strict=True), chosen))
        told(js, hook["secret"], heard, [app["app_id"] for app in chosen])
    for version in VERSIONS:
        the_client_itself(forms[version, True, False])
    nothing_left_out(names, list(forms.values()))


def one_life(kms_key: str, call: Form, guest: Form, app: dict[str, Any]) -> None:
    """A CVM that is led through its life by one form, and looked at by another as well."""

    def during(life: Life) -> None:
        running(life)
        running(replace(life, call=guest))

    live(Life(call, "phala", kms_key, **app), f"life-{call}", during)


def nothing_left_out(names: Names, forms: list[Form]) -> None:
    """Every function and every method of the package was called, and at both versions in one form at least."""
    left_out = ON_CHAIN | {safe(name) for name in ON_CHAIN} | WALLET | ASKS_NOBODY
    assert {name for name in left_out if name in names.functions} == left_out
    script = (JS / "chain.mjs").read_text(encoding="utf-8")
    assert [
        name for name in ON_CHAIN | {safe(name) for name in ON_CHAIN} if f"cloud.{name}(" not in script
    ] == []
    expected = {("function", name) for name in names.functions - left_out}
    expected |= {("method", name) for name in names.methods - INNER_METHODS}
    assert expected - {one for form in forms for one in form.called} == set()
    actions = {name for name in names.functions - left_out if not name.startswith("safe")}
    for version in VERSIONS:
        called = {plain(name) for form in forms if form.version == version for _, name in form.called}
        assert actions - called == set()
    assert len(actions) == 66


def told(
    js: JavascriptCloud, secret: str, heard: list[tuple[dict[str, str], str]], app_ids: list[str]
) -> None:
    """The webhook has heard of all that was done, and the package believes what it heard."""
    wanted = {
        (app_id, event)
        for app_id in app_ids
        for event in (
            "cvm.created",
            "cvm.started",
            "cvm.restarted",
            "cvm.updated",
            "cvm.stopped",
            "cvm.deleted",
        )
    }
    deadline = time.monotonic() + 30
    while wanted - {(event["data"]["app_id"], event["event"]) for event in map(read, heard)}:
        assert time.monotonic() < deadline, [read(one)["event"] for one in heard]
        time.sleep(0.2)
    headers, body = heard[-1]
    parsed = js.call("", "webhook", "parseWebhookEvent", {"headers": headers, "body": body, "secret": secret})
    assert parsed == json.loads(body)
    proof = {
        "secret": secret,
        "timestamp": headers["x-webhook-timestamp"],
        "body": body,
        "signature": headers["x-webhook-signature"],
    }
    assert js.call("", "webhook", "verifyWebhookSignature", proof) is True
    assert js.call("", "webhook", "verifyWebhookSignature", {**proof, "body": body + " "}) is False
    assert js.names().webhook == {"parseWebhookEvent", "verifyWebhookSignature"}


def read(one: tuple[dict[str, str], str]) -> dict[str, Any]:
    """The event of a request: its app id without `0x`."""
    event: dict[str, Any] = json.loads(one[1])
    event["data"]["app_id"] = event["data"]["app_id"].removeprefix("0x")
    return event


def the_client_itself(call: Form) -> None:
    """The client's own methods, and how errors come out of it."""
    js, version = call.js, call.version
    assert js.own("events", version) == {"on": 2, "once": 1}
    others = js.own("others", version)
    assert others["raw"] == others["extended"]
    for name in ("requestFull", "safeRequestFull"):
        full = js.own("full", version, name)
        assert (full["status"], full["ok"], full["data"]["error_code"]) == (404, False, "ERR-03-001")
    me = js.call(version, "method", "get", "/auth/me")
    assert js.own("safely", version, "/auth/me") == {"success": True, "data": me}
    names = (
        "on",
        "off",
        "once",
        "raw",
        "extend",
        "withVersion",
        "requestFull",
        "safeRequestFull",
        "safeRequest",
    )
    call.called |= {("method", name) for name in names}
    refusal = js.own("refused", version)
    assert (refusal["success"], refusal["name"], refusal["status"]) == (False, "ResourceError", 404)
    assert (refusal["code"], refusal["conflict"]) == ("ERR-03-001", False)
    assert "ERR-03-001" in refusal["structured"]
    invalid = js.own("invalid", version)
    assert invalid["name"] == "ValidationError"
    assert "name" in invalid["fields"]
