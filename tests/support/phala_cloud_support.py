"""The published phala-cloud 0.2.0, unmodified, driven through every method it has (cloud-api.md 2.2, 10).

The same journey runs for the synchronous and the asynchronous client, at each of the four versions, against a
`Place`: a control plane at some address, or one in the test's process. What each method came to is kept by its
name; the values it answered are compared with what the API says when asked without the client.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from phala_cloud import AsyncPhalaCloud, PhalaCloud, SafeResult

V1, V2, V3, V4 = VERSIONS = ("2025-10-28", "2026-01-21", "2026-05-22", "2026-06-23")
KINDS = ("sync", "async")
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.1
YAML = "services:\n  web:\n    image: nginx:1.27-alpine\n    ports:\n      - 80:80\n"
SCRIPT = "#!/bin/sh\necho before\n"
# What is no call of the API: the lives of the client itself, and helpers for a chain that its own package lacks.
NO_CALLS = {"close", "aclose", "with_version", "safe", "add_compose_hash", "deploy_app_auth"}

# cloud-api.md 2.2: one answer cannot please this client and the JavaScript one, which is followed. By version and
# method: the member that this client refuses.
_NUMBERS_AT_V1 = {
    "get_cvm_info": "id",
    "commit_cvm_provision": "id",
    "start_cvm": "id",
    "stop_cvm": "id",
    "shutdown_cvm": "id",
    "restart_cvm": "id",
    "replicate_cvm": "id",
    "create_app_instance": "id",
    "refresh_cvm_instance_id": "cvm_id",
    "refresh_cvm_instance_ids": "items.0.cvm_id",
}
_NUMBERS_AT_V1_ON_CHAIN = {
    "get_app_device_allowlist": "devices.0.cvm_ids.0",
    "check_cvm_is_allowed": "cvm_id",
    "check_app_cvms_is_allowed": "results.0.cvm_id",
}
IMPOSSIBLE: dict[str, dict[str, str]] = {
    V1: _NUMBERS_AT_V1,
    V2: {"create_app_instance": "id"},
    V3: {},
    V4: {},
}
# An app whose KMS is off chain has no contract to ask, and no change of it waits for one (11.9, 13.4). On a real chain
# tests/functional/test_up_chain.py calls both; in the test's process, tests/unit/cloud/test_cloud_phala_cloud.py.
NEED_A_CHAIN = {"check_cvm_is_allowed": "400", "confirm_cvm_patch": "466"}
IMPOSSIBLE_ON_CHAIN = {V1: _NUMBERS_AT_V1_ON_CHAIN, V2: {}, V3: {}, V4: {}}


def methods(client: type) -> set[str]:
    """The client's calls, by introspection; each has a `safe_` twin or goes through `safe`."""
    names = {name for name in dir(client) if not name.startswith("_") and callable(getattr(client, name))}
    return {name for name in names if not name.startswith("safe_")} - NO_CALLS


class Chain(Protocol):
    """A chain of a test, and the owner of its apps; `kms` is the slug of the KMS whose contract it has."""

    kms: str

    @property
    def chain_id(self) -> int:
        """The chain's id."""
        ...

    @property
    def address(self) -> str:
        """The owner, with `0x`."""
        ...

    async def deploy(self, compose_hash: str, device_id: str) -> str:
        """An app's contract, which allows the hash on the device; its address, with `0x`."""
        ...

    async def allow(self, app_id: str, compose_hash: str) -> str:
        """Let the app run the hash; the hash of the transaction, with `0x`."""
        ...


@dataclass(frozen=True)
class Place:
    """A control plane to drive a client against.

    `boots` are members of a compose file that makes a workload which the node can run; it `greets` where it prints
    the variable GREETING, and logs are served; `chain` is there where
    it has a KMS on chain, too; `transport` makes the way to a control plane in this process.
    """

    api_url: str
    key: str = field(repr=False)
    workspace: str
    kms: str
    boots: dict[str, Any]
    greets: bool = False
    chain: Chain | None = None
    transport: Callable[[str], Any] | None = None

    def client(self, kind: str, version: str) -> PhalaCloud | AsyncPhalaCloud:
        """The published client, as users make it."""
        made = AsyncPhalaCloud if kind == "async" else PhalaCloud
        given: dict[str, Any] = {}
        if self.transport is not None:
            http = httpx.AsyncClient if kind == "async" else httpx.Client
            headers = {"X-API-Key": self.key, "X-Phala-Version": version, "Content-Type": "application/json"}
            given["http_client"] = http(
                transport=self.transport(kind), base_url=self.api_url, headers=headers, follow_redirects=True
            )
        return made(api_key=self.key, base_url=self.api_url, version=version, **given)

    def plain(self) -> httpx.AsyncClient:
        """The API without the client, at the newest version."""
        way = None if self.transport is None else self.transport("async")
        return httpx.AsyncClient(
            transport=way,
            base_url=self.api_url,
            headers={"X-API-Key": self.key, "X-Phala-Version": V4},
            timeout=30,
        )


class Journey:
    """One client of a kind at a version; `outcomes` keeps, by method, what each of its calls came to."""

    def __init__(self, place: Place, kind: str, version: str) -> None:
        self.place = place
        self.kind = kind
        self.version = version
        self.name = f"{kind}-{version}"
        self.client = place.client(kind, version)
        self.plain = place.plain()
        self.outcomes: dict[str, list[SafeResult[Any]]] = {}

    async def call(self, method: str, *given: Any, **named: Any) -> Any:
        """What the method answers, None for a refusal; through its `safe_` twin where it has one."""
        twin = getattr(self.client, f"safe_{method}", None) or getattr(
            self.client, f"safe_{method}_method", None
        )
        function, before = (twin, ()) if twin else (self.client.safe, (getattr(self.client, method),))
        if self.kind == "async":
            result = await function(*before, *given, **named)
        else:
            result = await asyncio.to_thread(function, *before, *given, **named)
        self.outcomes.setdefault(method, []).append(result)
        return result.data if result.ok else None

    def refusal(self, method: str) -> Any:
        """What the method's last call was refused with."""
        return self.outcomes[method][-1].error

    def refused(self) -> dict[str, str]:
        """Methods of which a call was refused, with the member of the answer or the status."""
        found = {}
        for method, results in self.outcomes.items():
            for result in results:
                if not result.ok:
                    found[method] = _reason(result.error)
        return found

    async def ask(self, path: str, **query: Any) -> Any:
        """The API's own answer."""
        answer = await self.plain.get(path, params=query)
        assert answer.status_code == 200, (path, answer.text)
        return answer.json()

    async def settled(self, cvm: str, status: str) -> dict[str, Any]:
        """The CVM, when nothing is under way with it."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                found = dict(await self.ask(f"/cvms/{cvm}"))
                if not found["in_progress"]:
                    assert found["status"] == status, (self.name, found["status"], found.get("progress"))
                    return found
                await asyncio.sleep(POLL_SECONDS)

    async def gone(self, cvm: str) -> None:
        """The CVM is deleted."""
        async with asyncio.timeout(WAIT_SECONDS):
            while (await self.plain.get(f"/cvms/{cvm}")).status_code != 404:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> None:
        await self.plain.aclose()
        given = self.client._client  # a client that was given is not closed by the SDK
        if isinstance(given, httpx.AsyncClient):
            await given.aclose()
        else:
            given.close()


def _reason(error: Any) -> str:
    """The member of the answer that a model refused, or the status of the answer."""
    status = getattr(error, "status_code", None)
    if status is not None:
        return str(status)
    cause = getattr(error, "__cause__", None) or error
    try:
        return ".".join(str(part) for part in cause.errors()[0]["loc"])
    except (AttributeError, IndexError):
        return f"{type(error).__name__}: {error}"


def ssh_key(name: str) -> str:
    """A public key of this name's own."""
    kind = b"ssh-ed25519"
    blob = b"".join(
        len(part).to_bytes(4, "big") + part for part in (kind, hashlib.sha256(name.encode()).digest())
    )
    return f"{kind.decode()} {base64.b64encode(blob).decode()} {name}@example.org"


def compose_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def members(answer: Any) -> Any:
    """An answer of the client as JSON, with the members that it got."""
    if isinstance(answer, list):
        return [members(entry) for entry in answer]
    if hasattr(answer, "model_dump"):
        return json.loads(answer.model_dump_json(exclude_unset=True))
    return answer
