"""The control plane's clients against the application itself (seed document, cloud-api.md 3, 10, 11, 12.7)."""

import asyncio
import hashlib
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import teehouse.client
from support.cloud_client_support import URL, FromAnotherThread, Served, environment_secret, served
from support.cloud_read_support import (
    COMPOSE_HASH,
    COMPOSE_TEXT,
    KEY,
    World,
    app_id_of,
    make_revision,
    world,
)
from support.kms_client_support import KEYS, OTHER_KEYS
from teehouse.base.findings import CollateralError, MisuseError, TeehouseError
from teehouse.client import AsyncCloudClient, CloudClient
from teehouse.client.cloud import CloudRefusedError, CloudUnavailableError, Deployment, calls
from teehouse.client.cloud.calls import Access, CloudCall, find_access
from teehouse.client.cloud.deploying import Committed, Order, Pause, provision_body, steps
from teehouse.client.cloud.errors import read_refusal
from teehouse.cloud.ids import Kind, encode
from teehouse.keys.envbox import Variable, open_environment
from teehouse.wire.cloud.kms import EnvironmentPublicKey, KmsContract
from teehouse.wire.cloud.lifecycle import ProvisionAnswer
from teehouse.wire.cloud.observations import CvmState

HOST = "http://cloud.example.org/api/v1"
APP = app_id_of(1)
YAML = "services:\n  web:\n    image: nginx:1.27-alpine\n"
TRUSTED = KEYS.root.k256_public_key


@pytest.fixture(name="world")
async def _world(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        app = await made.deploy(1, listed=True)
        await made.deploy(2, [{"status": "stopped"}])
        await made.add(make_revision(1, app, 1))
        yield made


def app_transport(made: World) -> httpx.ASGITransport:
    transport = made.client._transport
    assert isinstance(transport, httpx.ASGITransport)
    return transport


@pytest.fixture(name="cloud")
async def _cloud(world: World) -> AsyncIterator[AsyncCloudClient]:
    async with AsyncCloudClient(HOST, KEY, transport=app_transport(world)) as client:
        yield client


async def test_the_examples_of_the_seed(cloud: AsyncCloudClient) -> None:
    apps = await cloud.get_app_list(page=1, page_size=20, status=["running"])
    assert [(app.app_id, app.name, app.cvm_count) for app in apps.dstack_apps] == [(APP, "app-1", 1)]
    filters = await cloud.get_app_filter_options()
    assert (filters.statuses, filters.regions) == (["running", "stopped"], ["us-west"])
    attestation = await cloud.get_app_attestation(f"0x{APP}")
    assert [(instance.name, instance.tcb_info) for instance in attestation.instances] == [("cvm-1", None)]
    assert attestation.instances[0].error
    allowlist = await cloud.get_app_device_allowlist(APP)
    assert (allowlist.is_onchain_kms, allowlist.devices) == (False, [])
    batch = await cloud.check_app_cvms_is_allowed(APP)
    assert (batch.is_onchain, batch.results, batch.allowed_count) == (False, [], 0)
    with pytest.raises(CloudRefusedError) as refused:
        await cloud.check_app_is_allowed(APP, compose_hash=f"0x{COMPOSE_HASH}", device_id="0x" + "cd" * 32)
    assert refused.value.refusal is not None
    assert refused.value.refusal.status == 400


async def test_an_app_its_cvms_and_its_revisions(cloud: AsyncCloudClient) -> None:
    info = await cloud.get_app_info(f"app_{APP.upper()}")
    assert (info.id, info.app_id, info.kms_type) == (encode(Kind.APP, 1), APP, "phala")
    (cvm,) = await cloud.get_app_cvms(APP)
    assert (cvm.id, cvm.status, cvm.resource.vcpu) == (encode(Kind.CVM, 1), "running", 1)
    revisions = await cloud.get_app_revisions(APP, page=1, page_size=5)
    assert (revisions.total, revisions.page_size) == (1, 5)
    number = revisions.revisions[0].revision_id
    parsed = await cloud.get_app_revision_detail(APP, number)
    assert parsed.compose_file == json.loads(COMPOSE_TEXT)
    raw = await cloud.get_app_revision_detail(APP, number, raw_compose_file=True)
    assert isinstance(raw.compose_file, str)
    assert hashlib.sha256(raw.compose_file.encode()).hexdigest() == raw.compose_hash


async def test_filters_are_sent_as_they_are_said(cloud: AsyncCloudClient) -> None:
    both = await cloud.get_app_list(status=["running", "stopped"])
    assert both.total == 2
    for filters, total in (
        ({"listed": True}, 1),
        ({"listed": False}, 1),
        ({"search": "app-2"}, 1),
        ({"node": "prod5", "region": "us-west", "kms_type": "phala", "kms_slug": "kms-phala"}, 2),
        ({"base_image": "dstack-0.5.4", "instance_type": "tdx.small"}, 2),
        ({"node": "elsewhere"}, 0),
    ):
        assert (await cloud.get_app_list(**filters)).total == total, filters  # type: ignore[arg-type]  # by name


async def test_the_synchronous_client_answers_the_same(world: World, cloud: AsyncCloudClient) -> None:
    way = FromAnotherThread(app_transport(world), asyncio.get_running_loop())

    def ask() -> list[Any]:
        with CloudClient(HOST, KEY, transport=way) as client:
            return [
                client.get_app_list(page_size=1),
                client.get_app_info(APP),
                client.get_app_cvms(APP),
                client.get_app_revisions(APP),
                client.get_app_revision_detail(APP, encode(Kind.REVISION, 1)),
                client.get_app_filter_options(),
                client.get_app_attestation(APP),
                client.get_app_device_allowlist(APP),
                client.check_app_cvms_is_allowed(APP),
            ]

    assert await asyncio.to_thread(ask) == [
        await cloud.get_app_list(page_size=1),
        await cloud.get_app_info(APP),
        await cloud.get_app_cvms(APP),
        await cloud.get_app_revisions(APP),
        await cloud.get_app_revision_detail(APP, encode(Kind.REVISION, 1)),
        await cloud.get_app_filter_options(),
        await cloud.get_app_attestation(APP),
        await cloud.get_app_device_allowlist(APP),
        await cloud.check_app_cvms_is_allowed(APP),
    ]


def test_both_clients_have_the_same_methods() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        found = inspect.getmembers(client, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in found if not name.startswith("_")}

    assert methods(CloudClient) == methods(AsyncCloudClient)


# What is refused


async def refused(work: Any) -> CloudRefusedError:
    with pytest.raises(CloudRefusedError) as caught:
        await work
    return caught.value


async def test_refusals_come_with_the_body(cloud: AsyncCloudClient, world: World) -> None:
    unknown = await refused(cloud.get_app_info("00" * 20))
    assert isinstance(unknown, MisuseError)
    assert unknown.refusal is not None
    assert (unknown.refusal.status, unknown.refusal.message, unknown.refusal.error_code) == (
        404,
        "App not found",
        "",
    )
    assert unknown.refusal.request_id
    assert unknown.finding.code == "cloud.http-404"
    page = await refused(cloud.get_app_list(page_size=101))
    assert page.refusal is not None
    assert page.refusal.message == "page_size: Input should be less than or equal to 100"
    async with AsyncCloudClient(HOST, "phak_nobody", transport=app_transport(world)) as nobody:
        denied = await refused(nobody.get_app_list())
    assert denied.refusal is not None
    assert denied.refusal.status == 401
    assert "phak_nobody" not in f"{denied} {denied!r} {nobody.access!r}"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"detail": "no"}', CloudRefusedError),
        (465, b'{"error_code": "ERR-01-005", "message": "register first"}', CloudRefusedError),
        (408, b"", CloudUnavailableError),
        (429, b'{"detail": "slowly"}', CloudUnavailableError),
        (500, b"<html>", CloudUnavailableError),
        (503, b'{"detail": "down"}', CloudUnavailableError),
        (302, b"", CloudUnavailableError),
        (200, b"<html>", CloudUnavailableError),
        (200, b'{"statuses": 1}', CloudUnavailableError),
        (204, b"", CloudUnavailableError),
    ],
)
def test_each_status_is_of_one_family(status: int, body: bytes, kind: type[TeehouseError]) -> None:
    with pytest.raises(kind):
        calls.app_filter_options().read(status, body)


def test_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "ANSWER_LIMIT", 10)
    with pytest.raises(CloudUnavailableError, match="at most 10 bytes"):
        calls.app_filter_options().read(200, b" " * 11)


def test_the_structured_form_is_kept_whole() -> None:
    body = {
        "error_code": "ERR-02-001",
        "message": "The requested instance type does not exist",
        "details": [{"field": "instance_type", "value": "tdx.huge"}],
        "suggestions": ["List the types"],
        "links": [{"label": "Types", "url": "https://docs.example.org"}],
    }
    told = read_refusal(400, json.dumps(body).encode(), "r-1")
    assert (told.error_code, told.message, told.request_id, told.busy) == (
        "ERR-02-001",
        body["message"],
        "r-1",
        False,
    )
    assert (list(told.details), list(told.suggestions), list(told.links)) == (
        body["details"], body["suggestions"], body["links"],
    )  # fmt: skip
    assert read_refusal(409, b'{"detail": "busy"}', "").busy


@given(st.integers(400, 599), st.binary() | st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["detail", "message", "error_code", "details", "loc", "msg"]), inner), max_leaves=20).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_stands_in_an_error_it_is_a_refusal(status: int, body: bytes) -> None:
    with pytest.raises((CloudRefusedError, CloudUnavailableError)) as caught:
        calls.app_filter_options().read(status, body, "r")
    assert caught.value.refusal is not None
    assert caught.value.refusal.status == status


async def test_nobody_there_is_collateral() -> None:
    async with AsyncCloudClient("http://127.0.0.1:9/api/v1", "phak_x") as client:
        with pytest.raises(CloudUnavailableError, match="did not answer GET /apps/filter-options") as caught:
            await client.get_app_filter_options()
    assert isinstance(caught.value, CollateralError)
    with CloudClient("http://127.0.0.1:9/api/v1") as silent, pytest.raises(CloudUnavailableError):
        silent.get_app_filter_options()


@pytest.mark.parametrize("app_id", ["", "0x12", "zz" * 20, f"{APP}0", "../secrets", f"{APP}/cvms"])
def test_an_app_id_that_is_none_is_not_asked(app_id: str) -> None:
    with pytest.raises(MisuseError, match="40 hex digits"):
        calls.app_info(app_id)


def test_ids_in_paths_are_escaped() -> None:
    assert calls.cvm_state("a/b?c").path == "/cvms/a%2Fb%3Fc/state"
    for text in ("", ".", ".."):
        with pytest.raises(MisuseError):
            calls.cvm_state(text)


# Where and with which key


def test_the_variables_of_the_published_clients_say_where() -> None:
    environ = {"PHALA_CLOUD_API_PREFIX": "https://cloud.example.org/api/v1/", "PHALA_CLOUD_API_KEY": "phak_1"}
    assert find_access(None, None, environ) == Access("https://cloud.example.org/api/v1", "phak_1")
    assert find_access(HOST, "phak_2", environ) == Access(HOST, "phak_2")
    assert find_access(HOST, None, {}) == Access(HOST, None)


@pytest.mark.parametrize("url", [None, "", "cloud.example.org", "ftp://cloud.example.org", "http://", "http://h:x", "http://h\n", "http://h:0"])  # fmt: skip
def test_what_is_no_place_is_misuse(url: str | None) -> None:
    with pytest.raises(MisuseError):
        find_access(url, None, {})


@pytest.mark.parametrize("key", ["a b", "a\nb", "schlüssel"])
def test_a_key_that_no_header_carries_is_misuse_and_not_shown(key: str) -> None:
    with pytest.raises(MisuseError) as caught:
        find_access(HOST, key, {})
    assert key not in str(caught.value)


def test_importing_the_clients_loads_neither_schemas_nor_http() -> None:
    code = "import sys, teehouse.client; print([m for m in ('pydantic', 'httpx', 'cryptography') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
    with pytest.raises(AttributeError):
        getattr(teehouse.client, "Nobody")  # noqa: B009 - the module answers names itself


# Deploying


@pytest.fixture(name="house")
async def _house(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as made:
        yield made


def client_of(house: Served) -> AsyncCloudClient:
    return AsyncCloudClient(URL, house.cloud.first.api_key, transport=house.transport)


def check(house: Served, deployed: Deployment, env: dict[str, str]) -> None:
    """The node got these bytes and these variables."""
    (spec,) = house.node.specs.values()
    assert spec.cvm_id == deployed.vm_uuid.replace("-", "")
    assert spec.app_id is not None
    assert spec.app_id.hex() == deployed.app_id
    assert hashlib.sha256(spec.compose).hexdigest() == deployed.compose_hash
    members = json.loads(spec.compose)
    assert (members["docker_compose_file"], members.get("allowed_envs", [])) == (YAML, sorted(env))
    opened = open_environment(environment_secret(deployed.app_id), spec.encrypted_env) if env else ()
    assert opened == tuple(Variable(key, value) for key, value in env.items())


async def test_an_app_is_deployed_with_its_variables(house: Served) -> None:
    env = {"TOKEN": "s3cret", "A": ""}
    async with client_of(house) as client:
        deployed = await client.deploy("my-app", YAML, env=env, kms_root_key=TRUSTED, poll=0.01, timeout=20)
        assert deployed.status == "running"
        check(house, deployed, env)
        (app,) = (await client.get_app_list()).dstack_apps
        assert (app.app_id, app.name) == (deployed.app_id, "my-app")


async def test_the_synchronous_client_deploys_too(house: Served) -> None:
    way = house.sync_transport

    def deploy() -> Deployment:
        with CloudClient(URL, house.cloud.first.api_key, transport=way) as client:
            return client.deploy(
                "my-app", YAML, env={"A": "1"}, poll=0.01, timeout=20, instance_type="tdx.medium"
            )

    check(house, await asyncio.to_thread(deploy), {"A": "1"})
    assert next(iter(house.node.specs.values())).cpu_count == 2


async def test_without_variables_no_key_is_asked_for(house: Served) -> None:
    await house.forget_root_key()
    async with client_of(house) as client:
        # The provision asks the KMS as well, and says so when it cannot be trusted.
        with pytest.raises(CloudUnavailableError):
            await client.deploy("my-app", YAML)
    assert house.node.specs == {}


async def test_nothing_is_sealed_for_a_kms_that_is_not_trusted(house: Served) -> None:
    async with client_of(house) as client:
        error = await refused(
            client.deploy("my-app", YAML, env={"A": "s3cret"}, kms_root_key=OTHER_KEYS.root.k256_public_key)
        )
    assert error.finding.code == "environment-key"
    assert "s3cret" not in str(error)
    assert house.node.specs == {}


async def test_a_name_that_is_taken_is_refused_with_its_code(house: Served) -> None:
    async with client_of(house) as client:
        await client.deploy("my-app", YAML, poll=0.01, timeout=20)
        error = await refused(client.deploy("my-app", YAML))
    assert error.refusal is not None
    assert (error.refusal.status, error.refusal.error_code) == (409, "ERR-01-004")


# The steps of a deployment, without a server

PROVISIONED = {
    "app_id": APP, "app_env_encrypt_pubkey": None, "compose_hash": COMPOSE_HASH, "kms_info": None, "fmspc": None,
    "device_id": None, "os_image_hash": None, "instance_type": None, "teepod_id": 1, "node_id": 1, "kms_id": None,
}  # fmt: skip
COMMITTED = Committed(name="my-app", status="creating", app_id=APP, vm_uuid="u-1")


def state(status: str, **members: str) -> CvmState:
    return CvmState(name="my-app", status=status, **members)


def run(order: Order, *given: Any, clock: Callable[[], float] = lambda: 0.0) -> tuple[Deployment, list[Any]]:
    """What comes of these answers, and what was asked."""
    work, asked, answer = steps(order, clock), [], None
    answers = iter(given)
    try:
        while True:
            step = work.send(answer)
            asked.append(step)
            answer = None if isinstance(step, Pause) else next(answers)
    except StopIteration as end:
        return end.value, asked


def provisioned(**members: Any) -> ProvisionAnswer:
    return ProvisionAnswer(**{**PROVISIONED, **members})


def test_it_waits_between_questions_until_it_runs() -> None:
    deployed, asked = run(
        Order("my-app", YAML, poll=2.0), provisioned(), COMMITTED, state("starting"), state("running")
    )
    assert deployed == Deployment("my-app", APP, "u-1", COMPOSE_HASH, "running")
    assert [step if isinstance(step, Pause) else f"{step.method} {step.path}" for step in asked] == [
        "POST /cvms/provision", "POST /cvms", "GET /cvms/u-1/state", Pause(2.0), "GET /cvms/u-1/state",
    ]  # fmt: skip
    first, second = asked[:2]
    assert first.idempotency_key != second.idempotency_key
    assert first.headers() == {"Idempotency-Key": first.idempotency_key}
    assert second.body == {"app_id": APP, "compose_hash": COMPOSE_HASH}


def test_it_may_be_left_to_itself() -> None:
    deployed, asked = run(Order("my-app", YAML, wait=False), provisioned(), COMMITTED)
    assert (deployed.status, len(asked)) == ("creating", 2)


@pytest.mark.parametrize("status", ["error", "exited", "deleted"])
def test_a_boot_that_failed_says_why(status: str) -> None:
    with pytest.raises(CloudRefusedError, match=f"{status}: no keys"):
        run(Order("my-app", YAML), provisioned(), COMMITTED, state(status, boot_error="no keys"))


def test_it_does_not_wait_for_ever() -> None:
    now = iter([0.0, 5.0, 11.0])
    with pytest.raises(CloudUnavailableError, match="starting: pulling"):
        run(
            Order("my-app", YAML, timeout=10.0),
            provisioned(), COMMITTED, state("starting"), state("starting", boot_progress="pulling"),
            clock=lambda: next(now),
        )  # fmt: skip


def test_an_on_chain_kms_is_refused_before_anything_is_committed() -> None:
    with pytest.raises(MisuseError, match="one whose apps are contracts"):
        run(Order("my-app", YAML, kms="base"), provisioned(app_id=None))


def contract(**members: Any) -> KmsContract:
    told = {"id": "kc_1", "slug": "phala", "label": None, "contract_address": "phala", "chain_id": 0}
    return KmsContract(**{**told, "k256_pubkey": None, "ca_pubkey": None, "node_count": 1, **members})


@pytest.mark.parametrize(
    "answers",
    [
        [contract()],
        [contract(k256_pubkey="zz")],
        [contract(k256_pubkey=TRUSTED.hex()), EnvironmentPublicKey(public_key="zz", signature="")],
        [
            contract(k256_pubkey=TRUSTED.hex()),
            EnvironmentPublicKey(public_key="aa" * 32, signature="bb" * 65),
        ],
        [contract(k256_pubkey=TRUSTED.hex()), EnvironmentPublicKey(public_key="", signature="")],
    ],
)
def test_a_key_that_cannot_be_trusted_ends_it(answers: list[Any]) -> None:
    with pytest.raises(TeehouseError):
        run(Order("my-app", YAML, {"A": "1"}), provisioned(), *answers)


def test_another_key_than_the_signed_one_ends_it() -> None:
    from support.kms_client_support import NOW
    from teehouse.kms.answers import env_public_key_response

    told = env_public_key_response(KEYS, bytes.fromhex(APP), NOW)
    signed = EnvironmentPublicKey(public_key=told.public_key.hex(), signature=told.signature.hex())
    order = Order("my-app", YAML, {"A": "1"}, kms_root_key=TRUSTED, wait=False)
    with pytest.raises(CloudRefusedError, match="another key than the KMS has signed"):
        run(order, provisioned(app_env_encrypt_pubkey="ab" * 32), signed)
    deployed, asked = run(
        order, provisioned(app_env_encrypt_pubkey=f"0x{signed.public_key}"), signed, COMMITTED
    )
    assert deployed.status == "creating"
    assert asked[-1].body["env_keys"] == ["A"]


def test_members_of_an_app_compose_file_are_sent_as_they_are() -> None:
    order = Order(
        "my-app", {"runner": "bash", "bash_script": "true", "allowed_envs": ["B"]}, options={"node_id": 3}
    )
    assert provision_body(order, ["A"]) == {
        "name": "my-app",
        "kms": "phala",
        "env_keys": ["A"],
        "node_id": 3,
        "compose_file": {"runner": "bash", "bash_script": "true", "allowed_envs": ["B"]},
    }


def test_an_order_that_cannot_be_meant() -> None:
    for given_ in ({"kms_root_key": bytes(32)}, {"poll": 0.0}, {"timeout": 0.0}):
        with pytest.raises(MisuseError):
            Order("my-app", YAML, **given_)  # type: ignore[arg-type]  # by name


def test_nothing_secret_is_in_a_repr() -> None:
    order = Order("my-app", YAML, {"TOKEN": "s3cret"})
    call: CloudCall[Any] = CloudCall("POST", "/cvms", dict, body={"encrypted_env": "s3cret"})
    assert "s3cret" not in f"{order!r} {call!r} {Access(HOST, 's3cret')!r}"
