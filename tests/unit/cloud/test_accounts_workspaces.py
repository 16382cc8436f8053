"""Workspaces, members, API keys, SSH keys (cloud-api.md 10.2, 12.9) through the HTTP door."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.cloud_core_support import KINDS, NOW, Cloud, cloud
from teehouse.cloud.accounts.bootstrap import bootstrap
from teehouse.cloud.accounts.caller import EVERYTHING, covers, parse_scopes
from teehouse.cloud.accounts.github import GithubProfiles
from teehouse.cloud.accounts.ssh_keys import KEYS_LIMIT, NO_GITHUB, parse_public_key
from teehouse.cloud.errors import CloudError

HERE = "/api/v1/workspaces/alice"
# Made with ssh-keygen for this test; `ssh-keygen -l` printed the fingerprints.
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJX9UhiniEC8ozv/I0xeki9gD3rn0OS8QXFSQJ6fRFc/ test@example.org"
ED25519_PRINT = "SHA256:0iFRSDGsHts8895hnhjo9wywFbJnYIZ51FGoFJXxOmw"
RSA = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQCgyDi2sfd4PB6+JwxTD8r+kWR8C6nqZOVO7/oX23kUlBU8wTaWWkGQ3MVZnGexHJhhT3ryWYndgzGScxwu8DMvKil0R6sEWBrHKC0B88dtTERsLL5AujGPdjsNTmiPclcCCVtQvhnOfXrQN6Av0kt3IonAyFPMkZpil0bvdpeP7h0++fi23JDLAQBYcfJKmMfDcYr8e63rWdHnSQDaJg2wJGSXBzs6kIeWLvquJcqfnsfKK2NqXi2QZ7exHtId+9Ijc02wx9eBI0NfjUySGKfhhIE1O6KnBAKdhH2o8nzkaV23CgOMe3Vk1RYMbd43PDA1aDrjIOtw33VTffYNzuSMghQtXdpDGeuc7VB0yBl/cvfUoC4jRq6XfCZaaNfWtFO5Q3dkXzw0uYTyT5q2klZPKZ2HPfXMjYLctlsGDnhQT/KD+ke3H4Ej8yg8KnJnP4zwwjjc5eSnuX5MrCw0JKKRMe1bXEOk1X70ylj5E8EP6p+g0EPdcnGIF64yKlISICc= test@example.org"
RSA_PRINT = "SHA256:wUqAwpTNfaAApszUtT+8cXWXSVC57yM6XF+3EbS9QBI"
P256 = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBPQSKH3M1GyeLBvEXeuk/2eOwqh5CarSZ2w28eyaUpZpHbTsab0PAGaHCODG0gI9la9gvsNRX9hIBIV3LniE9TY= test@example.org"


@pytest.fixture(params=KINDS)
async def here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cloud]:
    async with cloud(request.param, tmp_path) as made:
        yield made


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with cloud("sqlite", tmp_path) as made:
        yield made


async def _member(here: Cloud, name: str, role: str) -> dict[str, Any]:
    answer = await here.client().post(
        f"{HERE}/members", json={"email": f"{name}@example.org", "username": name, "role": role}
    )
    assert answer.status_code == 201
    body: dict[str, Any] = answer.json()
    return body


def _code(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("error_code")


async def test_a_workspace_and_the_list_of_them(here: Cloud) -> None:
    client = here.client()
    one = (await client.get(HERE)).json()
    assert one == {
        "id": one["id"],
        "name": "Alice's",
        "slug": "alice",
        "tier": "free",
        "role": "owner",
        "is_default": True,
        "created_at": "2026-06-23T12:00:00Z",
    }
    made = await client.post("/api/v1/workspaces", json={"name": "Second", "slug": "second"})
    assert (made.status_code, made.json()["slug"]) == (201, "second")
    first = (await client.get("/api/v1/workspaces", params={"limit": 1})).json()
    assert (first["data"], first["pagination"]["has_more"], first["pagination"]["total"]) == ([one], True, 2)
    rest = (
        await client.get("/api/v1/workspaces", params={"cursor": first["pagination"]["next_cursor"]})
    ).json()
    assert [place["slug"] for place in rest["data"]] == ["second"]
    assert rest["pagination"] == {"has_more": False, "next_cursor": None, "total": 2}
    assert (await client.get("/api/v1/workspaces", params={"cursor": "nonsense"})).status_code == 400

    theirs = here.client(made.json()["api_key"])
    assert (await theirs.get("/api/v1/auth/me")).json()["workspace"]["slug"] == "second"
    assert (await theirs.get(f"{HERE}/members")).status_code == 404
    assert (await client.post("/api/v1/workspaces", json={"name": "x", "slug": "second"})).status_code == 409


async def test_an_update_says_what_it_changed(here: Cloud) -> None:
    client = here.client()
    changed = (await client.patch(HERE, json={"name": "Renamed"})).json()
    assert (changed["name"], changed["changed"]) == ("Renamed", ["name"])
    assert (await client.patch(HERE, json={"name": "Renamed"})).json()["changed"] == []
    assert (await client.patch(HERE, json={})).json()["changed"] == []
    assert (await client.get(HERE)).json()["name"] == "Renamed"


async def test_members_come_change_and_go(here: Cloud) -> None:
    added = await _member(here, "bob", "member")
    assert {**added, "user_id": "", "api_key": ""} == {
        "user_id": "",
        "username": "bob",
        "email": "bob@example.org",
        "role": "member",
        "created_at": "2026-06-23T12:00:00Z",
        "api_key": "",
    }
    bob = here.client(added["api_key"])
    assert (await bob.get("/api/v1/auth/me")).json()["user"]["role"] == "user"
    listed = (await here.client().get(f"{HERE}/members")).json()
    assert [(m["username"], m["role"]) for m in listed["items"]] == [("alice", "owner"), ("bob", "member")]
    assert {name: listed[name] for name in ("total", "page", "page_size", "pages")} == {
        "total": 2,
        "page": 1,
        "page_size": 20,
        "pages": 1,
    }
    path = f"{HERE}/members/{added['user_id']}"
    assert (await here.client().patch(path, json={"role": "admin"})).json()["role"] == "admin"
    assert (await here.client().delete(path)).status_code == 204
    assert (await bob.get("/api/v1/auth/me")).status_code == 401
    assert (await here.client().delete(path)).status_code == 404
    again = await here.client().post(f"{HERE}/members", json={"email": "bob@example.org"})
    assert (again.status_code, again.json()["api_key"]) == (201, None)
    assert (await bob.get("/api/v1/auth/me")).status_code == 200
    twice = await here.client().post(f"{HERE}/members", json={"email": "bob@example.org"})
    assert twice.status_code == 409
    taken = {"email": "bob2@example.org", "username": "bob"}
    assert (await here.client().post(f"{HERE}/members", json=taken)).status_code == 409


async def test_what_each_role_may(one: Cloud) -> None:
    keys = {role: (await _member(one, role, role))["api_key"] for role in ("viewer", "member", "admin")}
    ids = {m["username"]: m["user_id"] for m in (await one.client().get(f"{HERE}/members")).json()["items"]}
    denied = (403, "ERR-06-006")
    for role in ("viewer", "member"):
        client = one.client(keys[role])
        assert (await client.get(f"{HERE}/members")).status_code == 200
        assert _code(await client.patch(HERE, json={"name": "x"})) == denied
        assert _code(await client.post(f"{HERE}/members", json={"email": "a@b"})) == denied
        assert _code(await client.delete(f"{HERE}/members/{ids['viewer']}")) == denied
    viewer = one.client(keys["viewer"])
    assert _code(await viewer.post(f"{HERE}/api-keys", json={"name": "x"})) == denied
    own = await viewer.post("/api/v1/user/ssh-keys", json={"name": "mine", "public_key": ED25519})
    assert own.status_code == 200  # what is the user's own is not the workspace's
    admin = one.client(keys["admin"])
    assert (await admin.patch(HERE, json={"name": "x"})).status_code == 200
    owner = f"{HERE}/members/{ids['alice']}"
    assert _code(await admin.patch(owner, json={"role": "member"})) == denied
    assert _code(await admin.delete(owner)) == denied
    assert _code(await admin.patch(f"{HERE}/members/{ids['member']}", json={"role": "owner"})) == denied
    assert _code(await admin.post(f"{HERE}/members", json={"email": "a@b", "role": "owner"})) == denied
    unknown = await admin.post(f"{HERE}/members", json={"email": "new@example.org", "username": "new"})
    assert unknown.status_code == 404  # W4: not an administrator of the installation


async def test_w3_the_last_owner_stays(here: Cloud) -> None:
    bob = await _member(here, "bob", "owner")
    alice = (await here.client().get(f"{HERE}/members")).json()["items"][0]["user_id"]
    assert (await here.client().patch(f"{HERE}/members/{alice}", json={"role": "admin"})).status_code == 200
    path = f"{HERE}/members/{bob['user_id']}"
    client = here.client(bob["api_key"])
    for answer in (await client.patch(path, json={"role": "viewer"}), await client.delete(path)):
        assert answer.status_code == 409


async def test_keys_are_made_listed_and_revoked(here: Cloud) -> None:
    client = here.client()
    made = (
        await client.post(
            f"{HERE}/api-keys",
            json={"name": "ci", "scopes": ["cvms:read", "cvms:read"], "expires_at": "2026-06-24T12:00:00Z"},
        )
    ).json()
    assert made == {
        "id": made["id"],
        "name": "ci",
        "prefix": made["key"][:12],
        "scopes": ["cvms:read"],
        "user_id": made["user_id"],
        "source": "api",
        "created_at": "2026-06-23T12:00:00Z",
        "last_used_at": None,
        "expires_at": "2026-06-24T12:00:00Z",
        "revoked_at": None,
        "key": made["key"],
    }
    narrow = here.client(made["key"])
    assert (await narrow.get("/api/v1/auth/me")).status_code == 403
    assert (await narrow.get("/api/v1/apps")).status_code != 403
    listed = (await client.get(f"{HERE}/api-keys")).json()
    assert [key["name"] for key in listed["items"]] == ["ci", "first key"]
    assert made["key"] not in str(listed)
    here.clock.advance(timedelta(days=1))
    assert (await narrow.get("/api/v1/apps")).status_code == 401

    second = (await client.post(f"{HERE}/api-keys", json={"name": "second"})).json()
    for _ in range(2):
        assert (await client.delete(f"{HERE}/api-keys/{second['id']}")).status_code == 204
    assert (await here.client(second["key"]).get("/api/v1/auth/me")).status_code == 401
    assert (await client.delete(f"{HERE}/api-keys/key_00000000")).status_code == 404
    assert (await client.delete(f"{HERE}/api-keys/nonsense")).status_code == 404


async def test_keys_of_others_are_seen_and_revoked_by_admins_only(one: Cloud) -> None:
    bob = one.client((await _member(one, "bob", "member"))["api_key"])
    assert [key["name"] for key in (await bob.get(f"{HERE}/api-keys")).json()["items"]] == ["first key"]
    everything = (await one.client().get(f"{HERE}/api-keys")).json()
    assert everything["total"] == 2
    bobs, alices = everything["items"]
    assert (await bob.delete(f"{HERE}/api-keys/{alices['id']}")).status_code == 404
    assert (await one.client().delete(f"{HERE}/api-keys/{bobs['id']}")).status_code == 204
    assert (await bob.get("/api/v1/auth/me")).status_code == 401


async def test_k3_a_key_gives_away_no_more_than_it_has(one: Cloud) -> None:
    body = {"name": "narrow", "scopes": ["workspace:*", "cvms:read"]}
    narrow = one.client((await one.client().post(f"{HERE}/api-keys", json=body)).json()["key"])
    denied = (403, "ERR-06-006")
    for scopes in (["*"], ["cvms:*"], ["cvms:write"], ["user:read"]):
        assert _code(await narrow.post(f"{HERE}/api-keys", json={"name": "x", "scopes": scopes})) == denied
    fine = await narrow.post(
        f"{HERE}/api-keys", json={"name": "x", "scopes": ["workspace:read", "cvms:read"]}
    )
    assert fine.status_code == 201
    assert _code(await narrow.post("/api/v1/workspaces", json={"name": "x", "slug": "x"})) == denied


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "x", "scopes": ["cvms"]}, 400),
        ({"name": "x", "scopes": ["all:read"]}, 400),
        ({"name": "x", "expires_at": "2026-06-23T11:59:59Z"}, 400),
        ({"name": "x", "expires_at": "2026-06-24T12:00:00"}, 400),
        ({"name": "x", "scopes": []}, 422),
        ({"name": ""}, 422),
        ({"name": "x" * 129}, 422),
        ({"name": "x", "scopes": ["*"] * 17}, 422),
    ],
)
async def test_keys_that_cannot_be_made(one: Cloud, body: dict[str, Any], status: int) -> None:
    assert (await one.client().post(f"{HERE}/api-keys", json=body)).status_code == status


async def test_keys_are_limited_in_number_and_in_a_minute(one: Cloud) -> None:
    client = one.client()
    for made in range(63):
        if made % 19 == 0:
            one.clock.advance(timedelta(minutes=1))
        assert (await client.post(f"{HERE}/api-keys", json={"name": str(made)})).status_code == 201
    answer = await client.post(f"{HERE}/api-keys", json={"name": "one more"})
    assert _code(answer) == (400, "ERR-05-001")
    one.clock.advance(timedelta(minutes=1))
    last = (await client.get(f"{HERE}/api-keys")).json()["items"][0]["id"]
    codes = []
    for _ in range(21):
        await client.delete(f"{HERE}/api-keys/{last}")
        answer = await client.post(f"{HERE}/api-keys", json={"name": "again"})
        codes.append(_code(answer))
        last = answer.json().get("id", last)
    assert codes == [(201, None)] * 20 + [(429, "ERR-05-002")]
    assert answer.headers["Retry-After"] == "60"


def test_scopes_are_read_and_compared() -> None:
    assert parse_scopes(["user:profile", "cvms:*", "user:*", "*"]) == ["user:*", "cvms:*", "*"]
    with pytest.raises(CloudError, match="at least one scope"):
        parse_scopes([])
    assert covers([EVERYTHING], ["cvms:read", "*"])
    assert covers(["cvms:*"], ["cvms:*", "cvms:write"])
    assert not covers(["cvms:write"], ["cvms:read"])


async def test_bootstrap_again_changes_nothing(here: Cloud) -> None:
    for _ in range(2):
        async with here.database.write() as session:
            same = await bootstrap(session, NOW, username="alice", slug="alice", api_key=here.first.api_key)
        assert same == here.first
    async with here.database.write() as session:
        lost = await bootstrap(session, NOW, username="alice", slug="alice")
    assert lost.api_key != here.first.api_key
    for key in (lost.api_key, here.first.api_key):
        assert (await here.client(key).get("/api/v1/auth/me")).status_code == 200
    await here.client(lost.api_key).delete(
        f"{HERE}/api-keys/{(await here.client().get(f'{HERE}/api-keys')).json()['items'][-1]['id']}"
    )
    async with here.database.write() as session:
        new = await bootstrap(session, NOW, username="alice", slug="alice", api_key=here.first.api_key)
        other = await bootstrap(session, NOW, username="carol", email="c@example.org", slug="alice")
        chosen = await bootstrap(session, NOW, username="alice", slug="alice", api_key="phak_chosen")
    assert new.api_key not in {here.first.api_key, lost.api_key}
    assert other.workspace_id == here.first.workspace_id
    assert chosen.api_key == "phak_chosen"
    assert (await here.client("phak_chosen").get("/api/v1/auth/me")).status_code == 200
    assert here.first.api_key not in repr(here.first)


async def test_ssh_keys_are_added_listed_and_removed(here: Cloud) -> None:
    client = here.client()
    made = (await client.post("/api/v1/user/ssh-keys", json={"name": "laptop", "public_key": ED25519})).json()
    assert made == {
        "id": made["id"],
        "user_id": made["user_id"],
        "name": "laptop",
        "public_key": ED25519,
        "fingerprint": ED25519_PRINT,
        "key_type": "ssh-ed25519",
        "source": "api",
        "created_at": "2026-06-23T12:00:00Z",
        "updated_at": "2026-06-23T12:00:00Z",
        "key_metadata": None,
        "last_synced_at": None,
    }
    assert (await client.get("/api/v1/user/ssh-keys")).json() == [made]
    twice = await client.post("/api/v1/user/ssh-keys", json={"name": "again", "public_key": ED25519})
    assert twice.status_code == 409
    other = here.client((await here.other()).api_key)
    assert (await other.get("/api/v1/user/ssh-keys")).json() == []
    assert (await other.delete(f"/api/v1/user/ssh-keys/{made['id']}")).status_code == 404
    assert (await client.delete(f"/api/v1/user/ssh-keys/{made['id']}")).status_code == 204
    assert (await client.delete(f"/api/v1/user/ssh-keys/{made['id']}")).status_code == 404
    new = (await client.post("/api/v1/user/ssh-keys", json={"name": "laptop", "public_key": RSA})).json()
    assert new["id"] != made["id"]


def test_ssh_keys_are_read() -> None:
    assert (parse_public_key(RSA).key_type, parse_public_key(RSA).fingerprint) == ("ssh-rsa", RSA_PRINT)
    assert parse_public_key(f"  {P256} with\ta comment\n").comment.endswith("with\ta comment")


@pytest.mark.parametrize(
    "line",
    [
        "ssh-ed25519",
        "ssh-dss AAAAB3NzaC1kc3MAAACBAA==",
        "ssh-ed25519 not*base64",
        "ssh-ed25519 " + RSA.split()[1],
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
        f"{ED25519}\n{RSA}",
        f"{ED25519} \x1b[2J",
    ],
)
async def test_what_is_no_ssh_key(one: Cloud, line: str) -> None:
    answer = await one.client().post("/api/v1/user/ssh-keys", json={"name": "x", "public_key": line})
    assert _code(answer) == (400, "ERR-02-008")


async def test_s3_without_a_way_to_github_the_answer_says_so(one: Cloud) -> None:
    client = one.client()
    imported = await client.post("/api/v1/user/ssh-keys/github-profile", json={"github_username": "octocat"})
    assert (imported.status_code, imported.json()) == (
        200,
        {"github_username": "octocat", "keys_added": 0, "keys_skipped": 0, "errors": [NO_GITHUB]},
    )
    synced = await client.post("/api/v1/user/ssh-keys/github-sync", json={})
    assert (synced.status_code, synced.json()) == (
        200,
        {"synced_count": 0, "keys_added": 0, "keys_updated": 0, "keys_removed": 0, "errors": [NO_GITHUB]},
    )
    for bad in ("", "-a", "a--b", "../../x", "a" * 41):
        answer = await client.post("/api/v1/user/ssh-keys/github-profile", json={"github_username": bad})
        assert answer.status_code == 422


def _github(profiles: dict[str, Sequence[str] | int]) -> GithubProfiles:
    def answer(request: httpx.Request) -> httpx.Response:
        found = profiles.get(request.url.path.removeprefix("/").removesuffix(".keys"), 404)
        return httpx.Response(found) if isinstance(found, int) else httpx.Response(200, text="\n".join(found))

    return GithubProfiles("https://github.test/", httpx.MockTransport(answer))


async def test_s4_profiles_are_imported_and_synchronised(one: Cloud) -> None:
    profiles: dict[str, Sequence[str] | int] = {"octocat": [ED25519, RSA, "ssh-dss AAAA"]}
    one.parts.github_keys = _github(profiles)
    client = one.client()
    await client.post("/api/v1/user/ssh-keys", json={"name": "own", "public_key": P256})
    first = (
        await client.post("/api/v1/user/ssh-keys/github-profile", json={"github_username": "octocat"})
    ).json()
    assert (first["keys_added"], first["keys_skipped"]) == (2, 0)
    assert first["errors"] == ["octocat: This is no SSH public key"]
    keys = (await client.get("/api/v1/user/ssh-keys")).json()
    assert [(key["name"], key["source"]) for key in keys] == [
        ("own", "api"),
        ("octocat@github 1", "github"),
        ("octocat@github 2", "github"),
    ]
    one.clock.advance(timedelta(hours=1))
    profiles["octocat"] = [RSA, P256]
    synced = (await client.post("/api/v1/user/ssh-keys/github-sync", json={})).json()
    assert synced == {
        "synced_count": 1,
        "keys_added": 0,
        "keys_updated": 2,
        "keys_removed": 1,
        "errors": [],
    }
    keys = (await client.get("/api/v1/user/ssh-keys")).json()
    assert [(key["key_type"], key["last_synced_at"]) for key in keys] == [
        ("ecdsa-sha2-nistp256", None),
        ("ssh-rsa", "2026-06-23T13:00:00Z"),
    ]
    profiles["octocat"] = 500
    failed = (await client.post("/api/v1/user/ssh-keys/github-sync", json={})).json()
    assert (failed["synced_count"], len(failed["errors"]), "status 500" in failed["errors"][0]) == (
        0,
        1,
        True,
    )
    assert len((await client.get("/api/v1/user/ssh-keys")).json()) == 2


async def test_answers_of_github_are_bounded(one: Cloud) -> None:
    one.parts.github_keys = _github({"octocat": ["x" * 300_000]})
    answer = await one.client().post(
        "/api/v1/user/ssh-keys/github-profile", json={"github_username": "octocat"}
    )
    assert "more than 262144 bytes" in answer.json()["errors"][0]

    def broken(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    one.parts.github_keys = GithubProfiles("https://github.test", httpx.MockTransport(broken))
    answer = await one.client().post(
        "/api/v1/user/ssh-keys/github-profile", json={"github_username": "octocat"}
    )
    assert "ConnectError" in answer.json()["errors"][0]


async def test_a_user_has_a_limited_number_of_ssh_keys(one: Cloud) -> None:
    def key(number: int) -> str:
        import base64

        blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + number.to_bytes(32, "big")
        return f"ssh-ed25519 {base64.b64encode(blob).decode()}"

    one.parts.github_keys = _github(
        {"octocat": [key(n) for n in range(KEYS_LIMIT)], "hubot": [key(KEYS_LIMIT)]}
    )
    client = one.client()
    imported = await client.post("/api/v1/user/ssh-keys/github-profile", json={"github_username": "octocat"})
    assert imported.json()["keys_added"] == KEYS_LIMIT
    more = await client.post("/api/v1/user/ssh-keys/github-profile", json={"github_username": "hubot"})
    assert more.json()["errors"] == [f"hubot: a user has at most {KEYS_LIMIT} SSH keys"]
    answer = await client.post("/api/v1/user/ssh-keys", json={"name": "x", "public_key": ED25519})
    assert _code(answer) == (400, "ERR-04-003")
