"""The documentation's examples of the ten app endpoints, run as they are printed: by the JavaScript client, by curl."""

import hashlib
import json
import subprocess
from typing import Any

import pytest

from support.functional_support import need, run_js

DEVICE = "0x" + "cd" * 32


def test_the_javascript_examples(teehouse: Any) -> None:
    ready = teehouse.ready
    app_id, compose_hash = ready["app_id"], ready["compose_hash"]
    ran = run_js(
        "examples.mjs", teehouse.api_url, teehouse.api_key, f"0x{app_id}", f"0x{compose_hash}", DEVICE
    )
    answers = ran["answers"]
    assert [app["app_id"] for app in answers["list"]["dstack_apps"]] == [app_id]
    assert {key: answers["list"][key] for key in ("page", "page_size", "total", "total_pages")} == {
        "page": 1, "page_size": 20, "total": 1, "total_pages": 1,
    }  # fmt: skip
    assert answers["info"] == answers["list"]["dstack_apps"][0]
    assert answers["cvms"] == answers["info"]["cvms"]
    assert [one["operation_type"] for one in answers["revisions"]["revisions"]][-1] == "create"
    raw = answers["raw"]["compose_file"]
    assert hashlib.sha256(raw.encode()).hexdigest() == answers["raw"]["compose_hash"] == compose_hash
    assert json.loads(raw) == answers["revision"]["compose_file"]
    assert answers["allowlist"]["is_onchain_kms"] is False
    assert answers["batch"]["is_onchain"] is False
    # Not allowed by any contract: told as an error, as there is none to ask (cloud-api.md 11.9).
    assert (answers["refused"]["status"], answers["refused"]["code"]) == (400, "ERR-02-008")
    assert ran["said"] == [
        ["Available statuses:", ["running"]],
        ["Available regions:", ["local"]],
        ["sample-app", "running", raw],
        ["0/0 CVMs allowed"],
    ]


@pytest.fixture
def curl(teehouse: Any) -> Any:
    program = need("curl", "curl")

    def one(path: str, *options: str, key: bool = True) -> Any:
        signed = ("-H", f"X-API-Key: {teehouse.api_key}") if key else ()
        done = subprocess.run(
            [program, "-sf", *signed, *options, f"{teehouse.api_url}{path}"],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        return json.loads(done.stdout)

    return one


def test_every_filter_of_the_app_list_by_curl(teehouse: Any, curl: Any) -> None:
    options = curl("/apps/filter-options")
    filters = {
        "base_image": "image_versions", "instance_type": "instance_types", "kms_slug": "kms_slugs",
        "kms_type": "kms_types", "region": "regions", "node": "nodes", "status": "statuses",
    }  # fmt: skip
    assert sorted(options) == sorted(filters.values())
    given = [f"{name}={options[values][0]}" for name, values in filters.items()]
    query = "&".join([*given, "status=stopped", "search=SAMPLE", "listed=false", "page=1", "page_size=100"])
    assert [app["app_id"] for app in curl(f"/apps?{query}")["dstack_apps"]] == [teehouse.ready["app_id"]]
    for name in filters:
        assert curl(f"/apps?{name}=nothing-of-that-name")["total"] == 0
    assert curl("/apps?listed=true")["total"] == 0
    assert curl("/apps?search=nothing-of-that-name")["total"] == 0


def test_the_app_endpoints_by_curl(teehouse: Any, curl: Any) -> None:
    """JSON bodies and their type as the documentation of the endpoints gives them."""
    app = f"/apps/0x{teehouse.ready['app_id']}"
    assert curl(app)["name"] == "sample-app"
    assert [cvm["vm_uuid"] for cvm in curl(f"{app}/cvms")] == [teehouse.ready["vm_uuid"]]
    (revision,) = curl(f"{app}/revisions?page=1&page_size=1")["revisions"]
    detail = curl(f"{app}/revisions/{revision['revision_id']}?raw_compose_file=false")
    assert detail["compose_file"]["name"] == "sample-app"
    attested = curl(f"{app}/attestations", key=False)
    assert [(one["vm_uuid"], one["error"]) for one in attested["instances"]] == [
        (teehouse.ready["vm_uuid"], None)
    ]
    assert curl(f"{app}/device-allowlist")["devices"] == []
    post = ("-X", "POST", "-H", "Content-Type: application/json")
    asked = {"compose_hash": teehouse.ready["compose_hash"], "device_id": DEVICE, "chain_id": 8453}
    result = curl(f"{app}/is-allowed", *post, "-d", json.dumps(asked))
    assert (result["is_allowed"], bool(result["error"])) == (False, True)
    assert curl(f"{app}/cvms/is-allowed", *post)["results"] == []
