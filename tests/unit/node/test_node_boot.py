"""A boot, step by step (`node.boot` B1 to B4): what is measured, what a fault at each step leaves behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from support.node_support import (
    KMS_URLS,
    TestNode,
    app_keys,
    compose_file,
    cvm_spec,
    encrypted,
    kms_refusal,
    no_engine,
    replaced,
    root,
    step_names,
)
from teehouse.attestation.abi import parse_quote
from teehouse.attestation.eventlog import RuntimeEvent, replay_runtime
from teehouse.attestation.identity import derive_app_id, derive_instance_id, mr_config_id_v1
from teehouse.base.findings import MisuseError, Outcome, rejected
from teehouse.base.hashes import sha256
from teehouse.guest.runtime_log import decode_line
from teehouse.guest.service import GuestService
from teehouse.keys.envbox import launch_token_hash
from teehouse.keys.pem import spki_der
from teehouse.node.api import CvmPhase, CvmSpec, CvmState, EventKind, NodeEvent, settled
from teehouse.node.boot import BOOT_STEPS, Boot, BootPlan
from teehouse.node.boot_inputs import launch_token
from teehouse.node.local import LocalNode
from teehouse.node.workload import WorkloadError
from teehouse.tee_emulated.image import EmulatedImage

TOKEN = "unit-test-launch-token-0000000001"  # trust.md 14
SECONDS = 5.0


@pytest.fixture
def made(tmp_path: Path) -> TestNode:
    return TestNode(tmp_path / "node")


@pytest.fixture
async def node(made: TestNode) -> AsyncIterator[LocalNode]:
    async with made.node() as opened:
        yield opened


async def booted(node: LocalNode, spec: CvmSpec) -> CvmState:
    await node.create(spec)
    await node.start(spec.cvm_id)
    return await settled(node, spec.cvm_id, timeout_seconds=SECONDS)


async def seen(node: LocalNode) -> list[NodeEvent]:
    """The events so far."""
    events: list[NodeEvent] = []
    last = node._history._last
    async for event in node.events():
        events.append(event)
        if event.sequence == last:
            break
    return events


def measured(made: TestNode, cvm_id: str) -> list[RuntimeEvent]:
    log = made.directory / "cvms" / cvm_id / "machine" / "runtime_events.log"
    return [decode_line(line) for line in log.read_bytes().splitlines()]


async def call(socket: Path, method: str, body: dict[str, object]) -> dict[str, object]:
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        answer = await client.post(f"/{method}", json=body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert isinstance(found, dict)
        return found


async def test_a_boot_measures_its_events_in_order(made: TestNode, node: LocalNode) -> None:
    """trust.md 8.3, guest-agent.md 10.5."""
    compose = compose_file(init_script=["one", "two"], storage_fs="zfs", no_instance_id=False)
    spec = cvm_spec(compose=compose)
    state = await booted(node, spec)
    assert (state.phase, state.error, state.step) == (CvmPhase.RUNNING, None, "workload")
    app_id = derive_app_id(compose)
    kms_id = spki_der(root().ca.key.public_key()).hex()
    assert [(event.event, event.payload) for event in measured(made, spec.cvm_id)] == [
        ("system-preparing", b""),
        ("app-id", app_id),
        ("compose-hash", sha256(compose)),
        ("init-script-hash", sha256(b"one")),
        ("init-script-hash", sha256(b"two")),
        ("instance-id", state.instance_id),
        ("boot-mr-done", b""),
        ("os-image-hash", EmulatedImage.default().os_image_hash),
        ("key-provider", b'{"name":"kms","id":"' + kms_id.encode() + b'"}'),
        ("storage-fs", b"zfs"),
        ("system-ready", b""),
    ]
    assert made.kms.asked == [(KMS_URLS, app_id)]


async def test_the_agent_answers_with_what_was_measured(made: TestNode, node: LocalNode) -> None:
    spec = cvm_spec()
    state = await booted(node, spec)
    assert state.endpoints is not None
    answer = await call(state.endpoints.dstack, "GetQuote", {"report_data": "ab" * 64})
    quote = parse_quote(bytes.fromhex(str(answer["quote"])))
    assert quote.body.rt_mr3 == replay_runtime(measured(made, spec.cvm_id))  # type: ignore[union-attr]  # a TD
    assert quote.body.mr_config_id == mr_config_id_v1(state.compose_hash)  # type: ignore[union-attr]  # the same
    key = await call(state.endpoints.dstack, "GetKey", {"path": "", "purpose": ""})
    again = await call(state.endpoints.tappd, "prpc/Tappd.DeriveK256Key", {"path": "", "purpose": ""})
    assert again["k256_key"] == key["key"]
    async with httpx.AsyncClient(trust_env=False) as client:
        pages = await client.get(f"{state.endpoints.pages_url}/prpc/Worker.Version")
    assert (pages.status_code, pages.headers["x-teehouse-emulated"]) == (200, "true")


async def test_pages_are_for_the_outside_alone(made: TestNode) -> None:
    """`BootParts.pages`: made for the CVM of a plan, on external.sock and on the port, not on the app's sockets."""

    def pages(plan: BootPlan, service: GuestService) -> list[Route]:
        text = f"{plan.spec.cvm_id} {service.facts.compose.name}"
        return [Route("/", lambda _request: PlainTextResponse(text))]

    made.pages = pages
    async with made.node() as node:
        state = await booted(node, cvm_spec())
        assert state.endpoints is not None
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(state.endpoints.pages_url)).text == f"{state.cvm_id} app"
        found = []
        for path in (state.endpoints.external, state.endpoints.dstack, state.endpoints.tappd):
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
                found.append((await client.get("/")).status_code)
        assert found == [200, 404, 404]


async def test_keys_of_its_own_differ_from_boot_to_boot(made: TestNode, node: LocalNode) -> None:
    """B4: with key provider none neither seed nor keys outlive a boot."""
    spec = cvm_spec(compose=compose_file(key_provider="none"))
    found = []
    for _ in range(2):
        state = await booted(node, spec)
        assert state.phase is CvmPhase.RUNNING
        assert state.endpoints is not None
        key = await call(state.endpoints.dstack, "GetKey", {"path": "", "purpose": ""})
        found.append((state.instance_id, key["key"]))
        names = [event.event for event in measured(made, spec.cvm_id)]
        assert names[-4:] == ["boot-mr-done", "key-provider", "storage-fs", "system-ready"]
        await node.stop(spec.cvm_id)
        await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]
    assert made.kms.asked == []


async def test_an_instance_keeps_its_id_and_an_app_may_have_none(made: TestNode, node: LocalNode) -> None:
    """trust.md 8.5."""
    spec = cvm_spec(app_id=b"\x0a" * 20)
    first = await booted(node, spec)
    record = json.loads((made.directory / "cvms" / spec.cvm_id / "state.json").read_bytes())
    assert first.app_id == b"\x0a" * 20
    assert first.instance_id == derive_instance_id(bytes.fromhex(record["instance_seed"]), first.app_id)
    await node.restart(spec.cvm_id)
    second = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert (second.instance_id, second.boot_count) == (first.instance_id, 2)
    nobody = await booted(node, cvm_spec(compose=compose_file(no_instance_id=True)))
    assert (nobody.phase, nobody.instance_id) == (CvmPhase.RUNNING, b"")


async def test_the_environment_is_opened_and_filtered(made: TestNode, node: LocalNode) -> None:
    """trust.md 14."""
    compose = compose_file(allowed_envs=["A", "B"])
    box = encrypted(derive_app_id(compose), ("A", "1"), ("C", "secret"), ("B", "2"))
    state = await booted(node, cvm_spec(compose=compose, encrypted_env=box))
    assert state.phase is CvmPhase.RUNNING
    assert made.apps.environments == [{"A": "1", "B": "2"}]
    told = [event.detail for event in await seen(node) if event.kind is EventKind.STEP]
    assert len([text for text in told if '"C" is dropped' in text]) == 1
    assert not [text for text in told if "secret" in text]


async def test_an_environment_for_another_app_is_refused(made: TestNode, node: LocalNode) -> None:
    spec = cvm_spec(encrypted_env=encrypted(b"\x01" * 20, ("A", "1")))
    state = await booted(node, spec)
    assert state.error is not None
    assert (state.phase, state.error.code, state.error.check) == (
        CvmPhase.ERROR,
        "node.boot.environment",
        "environment-box.tag",
    )
    assert made.leftovers(spec.cvm_id) == []
    assert made.apps.environments == []


@pytest.mark.parametrize(
    ("user_config", "right"),
    [
        (json.dumps({"dstack": {"launch_token": TOKEN}}), True),
        (json.dumps({"dstack": {"launch_token": TOKEN + "x"}}), False),
        (json.dumps({"dstack": {"launch_token": 7}}), False),
        (json.dumps({"dstack": "x"}), False),
        ("[" * 100_000, False),
        ("not JSON", False),
        ("", False),
    ],
)
async def test_the_launch_token_comes_before_the_keys(
    made: TestNode, node: LocalNode, user_config: str, right: bool
) -> None:
    """trust.md 14."""
    wanted = launch_token_hash(TOKEN.encode()).hex()
    compose = compose_file(manifest_version="3", requirements={"launch_token_hash": wanted})
    spec = cvm_spec(compose=compose, user_config=user_config)
    state = await booted(node, spec)
    if right:
        assert (state.phase, len(made.kms.asked)) == (CvmPhase.RUNNING, 1)
        return
    assert state.error is not None
    assert (state.error.code, state.error.check) == ("node.boot.launch-token", "launch-token")
    assert TOKEN not in repr(state)
    assert (made.kms.asked, made.leftovers(spec.cvm_id)) == ([], [])


def test_a_launch_token_is_read_as_it_is() -> None:
    assert launch_token('{"dstack":{"launch_token":"é"}}') == "é".encode()
    assert launch_token('{"dstack":{}}') is None


@pytest.mark.parametrize("step", step_names())
async def test_a_fault_at_any_step_leaves_nothing_and_the_next_boot_succeeds(
    made: TestNode, step: str
) -> None:
    """B2, for each step: before it does anything, and after it has done everything."""
    work = dict(BOOT_STEPS)[step]
    before = [True]

    async def faulty(boot: Boot) -> None:
        if not before[0]:
            await work(boot)
        raise rejected("test.fault", "the fault", expected="none", found="one", remedy="none")

    async with made.node(steps=replaced(step, faulty)) as node:
        for when in (True, False):
            before[0] = when
            spec = cvm_spec()
            state = await booted(node, spec)
            assert state.error is not None
            assert state.error.as_dict() == {
                "check": "test.fault",
                "code": f"node.boot.{step}",
                "outcome": Outcome.REJECTED.value,
                "subject": f"boot step {step}: the fault",
                "expected": "none",
                "found": "one",
                "remedy": "none",
            }
            assert (state.phase, state.step, state.endpoints, state.containers) == (
                CvmPhase.ERROR,
                step,
                None,
                (),
            )
            assert made.leftovers(spec.cvm_id) == []
            assert made.secrets_on_disk(app_keys(state.app_id, state.instance_id)) == []
        assert state.error is not None
        errors = [event.detail for event in await seen(node) if event.kind is EventKind.ERROR]
        assert errors == [state.error.sentence()] * 2
    async with made.node() as node:
        assert (await node.state(spec.cvm_id)).error == state.error
        state = await booted(node, spec)
        assert (state.phase, state.error, state.boot_count) == (CvmPhase.RUNNING, None, 2)


async def test_what_nobody_expected_is_told_without_its_text(made: TestNode) -> None:
    async def faulty(_boot: Boot) -> None:
        raise KeyError("a secret value")

    async with made.node(steps=replaced("keys", faulty)) as node:
        state = await booted(node, cvm_spec())
    assert state.error is not None
    assert (state.error.code, state.error.check, state.error.found) == (
        "node.boot.keys",
        "node.unexpected",
        "an unexpected KeyError",
    )
    assert "secret" not in repr(state)

    async def full(_boot: Boot) -> None:
        raise OSError(28, "No space left on device", "/a/path")

    async with made.node(steps=replaced("machine", full)) as node:
        state = await booted(node, cvm_spec())
    assert state.error is not None
    assert (state.error.code, state.error.found) == ("node.boot.machine", "No space left on device")


@pytest.mark.parametrize("step", step_names())
async def test_a_stop_at_any_step_undoes_the_boot(made: TestNode, step: str) -> None:
    """L1: the wish interrupts, be the step before or behind what it makes."""
    work = dict(BOOT_STEPS)[step]
    reached = asyncio.Event()
    behind = [False]

    async def slow(boot: Boot) -> None:
        if behind[0]:
            await work(boot)
        reached.set()
        await asyncio.sleep(60)

    async with made.node(steps=replaced(step, slow)) as node:
        for when in (False, True):
            behind[0] = when
            reached.clear()
            spec = cvm_spec()
            await node.create(spec)
            await node.start(spec.cvm_id)
            await reached.wait()
            state = await node.stop(spec.cvm_id, deadline=50.0)
            assert (state.phase, state.settled, state.wanted) == (CvmPhase.BOOTING, False, CvmPhase.STOPPED)
            state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
            assert (state.phase, state.error) == (CvmPhase.STOPPED, None)
            assert made.leftovers(spec.cvm_id) == []
        await node.start(spec.cvm_id)
        await node.remove(spec.cvm_id)
        state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
        assert state.phase is CvmPhase.REMOVED
        assert not (made.directory / "cvms" / spec.cvm_id).exists()


async def test_a_kms_that_refuses_ends_the_boot(made: TestNode, node: LocalNode) -> None:
    made.kms.fault = kms_refusal()
    spec = cvm_spec()
    state = await booted(node, spec)
    assert state.error is not None
    assert (state.error.code, state.error.check) == ("node.boot.keys", "kms.denied")
    made.kms.fault = None
    assert (await booted(node, spec)).phase is CvmPhase.RUNNING


async def test_without_an_image_hash_from_the_kms_none_is_measured(made: TestNode, node: LocalNode) -> None:
    made.kms.image_hash = b""
    spec = cvm_spec()
    assert (await booted(node, spec)).phase is CvmPhase.RUNNING
    assert "os-image-hash" not in [event.event for event in measured(made, spec.cvm_id)]


async def test_the_pre_launch_script_is_a_step_of_its_own(made: TestNode, node: LocalNode) -> None:
    spec = cvm_spec(compose=compose_file(pre_launch_script="false"))
    state = await booted(node, spec)
    assert state.error is not None
    assert (state.error.code, state.error.found) == ("node.boot.pre-launch", "exit code 1")
    assert made.leftovers(spec.cvm_id) == []


async def test_without_an_engine_the_error_says_how_to_get_one(made: TestNode, node: LocalNode) -> None:
    """And such a CVM can be stopped, started and removed, as nothing of it was ever made."""
    made.apps.faults = {method: no_engine() for method in ("start", "stop", "remove", "state")}
    spec = cvm_spec()
    for _ in range(2):
        state = await booted(node, spec)
        assert state.error is not None
        assert (state.phase, state.error.code, state.error.remedy) == (
            CvmPhase.ERROR,
            "node.boot.workload",
            "install one",
        )
    await node.stop(spec.cvm_id)
    assert (await settled(node, spec.cvm_id, timeout_seconds=SECONDS)).phase is CvmPhase.STOPPED
    await node.remove(spec.cvm_id)
    assert (await settled(node, spec.cvm_id, timeout_seconds=SECONDS)).phase is CvmPhase.REMOVED


async def test_what_a_failed_app_left_is_looked_after(made: TestNode, node: LocalNode) -> None:
    """A runner that has begun is asked to stop and to remove, whatever it said."""
    made.apps.faults = {"start": WorkloadError((no_engine().finding,))}
    spec = cvm_spec()
    assert (await booted(node, spec)).phase is CvmPhase.ERROR
    await node.remove(spec.cvm_id)
    await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert made.apps.calls == [(spec.cvm_id, method) for method in ("start", "stop", "remove")]


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"key_provider": "tpm"}, "compose.key-provider"),
        ({"key_provider": "local"}, "compose.key-provider"),
        ({"runner": "nerdctl-compose"}, "workload.runner"),
        ({"storage_fs": "ntfs"}, "app-compose.faults"),
    ],
)
async def test_a_compose_file_that_cannot_boot_here(
    made: TestNode, node: LocalNode, members: dict[str, object], code: str
) -> None:
    spec = cvm_spec(compose=compose_file(**members))
    with pytest.raises(MisuseError) as raised:
        await node.create(spec)
    assert raised.value.finding.code == code
    assert list((made.directory / "cvms").iterdir()) == []


async def test_an_environment_needs_a_kms(node: LocalNode) -> None:
    spec = cvm_spec(compose=compose_file(key_provider="none"), encrypted_env=b"\x01" * 64)
    with pytest.raises(MisuseError) as raised:
        await node.create(spec)
    assert raised.value.finding.code == "node.environment"


async def test_an_address_that_is_taken_ends_the_boot(made: TestNode, node: LocalNode) -> None:
    """Nothing listens then, and what else was bound is let go of."""
    spec = cvm_spec()
    work = dict(BOOT_STEPS)["agent"]

    async def in_the_way(boot: Boot) -> None:
        directory = boot.plan.place.directory
        directory.mkdir(exist_ok=True)
        (directory / "external.sock").write_text("no socket")
        await work(boot)

    await node.close()
    async with made.node(steps=replaced("agent", in_the_way)) as other:
        state = await booted(other, spec)
        assert state.error is not None
        assert (state.error.code, state.error.check) == ("node.boot.agent", "socket.not-a-socket")
        assert made.leftovers(spec.cvm_id) == []


async def test_steps_out_of_order_are_refused(made: TestNode) -> None:
    async with made.node(steps=tuple(reversed(BOOT_STEPS))) as node:
        state = await booted(node, replace(cvm_spec(), name="reversed"))
    assert state.error is not None
    assert (state.error.code, state.error.check) == ("node.boot.workload", "node.boot-order")
