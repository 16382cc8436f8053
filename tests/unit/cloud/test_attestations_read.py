"""GET /apps/{app_id}/attestations and /cvms/{cvm_id}/attestation (cloud-api.md 11.7, 12.10; trust.md 16)."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from support import emulated
from support.cloud_read_support import (
    COMPOSE_TEXT,
    FOREIGN_KEY,
    NOW,
    World,
    app_id_of,
    conforms,
    counted,
    dashed,
    instance_of,
    uuid_of,
    world,
)
from support.guest_agent import Agent, agent
from teehouse.attestation.eventlog import parse_event_log, replay
from teehouse.base.findings import EvidenceError, unavailable
from teehouse.cloud.attestations.agents import AgentEvidence, NodeAgentReader
from teehouse.cloud.attestations.evidence import read_certificates, read_evidence
from teehouse.cloud.attestations.services import Attestations
from teehouse.cloud.attestations.serving import reading_agents
from teehouse.cloud.cvms.models import Cvm
from teehouse.node.api import CvmEndpoints, CvmPhase, CvmState, Node
from teehouse.rpc.app import RpcApp
from teehouse.wire.cloud.attestations import AppAttestation, CvmAttestation
from teehouse.wire.methods import resolve

PATH = f"/apps/{app_id_of(1)}/attestations"
V1, V2, V3, V4 = "2025-10-28", "2026-01-21", "2026-05-22", "2026-06-23"


@dataclass
class Nodes:
    """A directory with one node, whose CVMs all have an agent."""

    phase: CvmPhase = CvmPhase.RUNNING
    has_endpoints: bool = True

    def node(self, node_id: int) -> Node:
        return cast("Node", self)

    async def state(self, cvm_id: str) -> CvmState:
        here = Path("/nowhere")
        endpoints = CvmEndpoints(here, here, here, here, "http://agent.example/")
        return CvmState(cvm_id, "cvm", self.phase, endpoints=endpoints if self.has_endpoints else None)


@dataclass
class Agents:
    """Agents that answer as told, by UUID; all others give `evidence`."""

    evidence_: AgentEvidence
    others: dict[str, Callable[[], Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    at_once: int = 0
    most: int = 0

    async def evidence(self, node_id: int, vm_uuid: str) -> AgentEvidence:
        self.asked.append(vm_uuid)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        answer = self.others[vm_uuid]() if vm_uuid in self.others else self.evidence_
        return cast("AgentEvidence", await answer if asyncio.iscoroutine(answer) else answer)


@asynccontextmanager
async def door(booted: Agent) -> AsyncIterator[httpx.AsyncClient]:
    app = RpcApp(partial(resolve, "external"), booted.service.handlers())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        yield client


async def said_by(directory: Path, **compose: Any) -> AgentEvidence:
    async with agent(directory, compose=compose) as booted, door(booted) as client:
        booted.service.start()
        reader = NodeAgentReader(Nodes(), client)
        while not (answer := await reader.evidence(1, uuid_of(1))).app_certificate:  # noqa: ASYNC110 - made in the background
            await asyncio.sleep(0.01)
        return answer


@pytest.fixture(name="said", scope="module")
def _said(tmp_path_factory: pytest.TempPathFactory) -> AgentEvidence:
    return asyncio.run(said_by(tmp_path_factory.mktemp("agent") / "a"))


@pytest.fixture(name="hidden", scope="module")
def _hidden(tmp_path_factory: pytest.TempPathFactory) -> AgentEvidence:
    return asyncio.run(said_by(tmp_path_factory.mktemp("agent") / "h", public_tcbinfo=False))


@pytest.fixture(name="cloud")
async def _cloud(tmp_path: Path, said: AgentEvidence) -> AsyncIterator[World]:
    async with world(tmp_path, agents=Agents(said)) as made:
        yield made


def agents_of(cloud: World) -> Agents:
    return cast("Agents", cloud.parts.agents)


def shown(said: AgentEvidence, version: str, *, hidden: bool = False) -> dict[str, Any]:
    read = read_evidence(said)
    tcb = None if hidden else read.tcb_info
    instance: dict[str, Any] = {
        "vm_uuid": dashed(uuid_of(1)), "name": "cvm-1", "instance_id": instance_of(1), "status": "running",
        "image_version": "dstack-0.5.4", "quote": said.quote.hex(), "ppid": emulated.host().ppid.hex(),
        "device_id": "0x" + hashlib.sha256(emulated.host().ppid).hexdigest(), "tcb_info": tcb,
        "app_certificates": read.certificates, "compose_file": tcb and tcb["app_compose"], "error": None,
        "vm_config": said.vm_config or None,
    }  # fmt: skip
    if version >= V3:
        instance |= {
            "ppid_sha256": hashlib.sha256(emulated.host().ppid).hexdigest(), "fmspc": read.fmspc,
            "tee_tcb_svn": read.tee_tcb_svn, "mr_config_id": read.mr_config_id, "cpusvn": read.cpu_svn,
            "pcesvn": read.pce_svn, "eventlog": read.event_log,
        }  # fmt: skip
    return instance


@pytest.mark.parametrize("version", [V1, V2, V3, V4])
async def test_whole_answer_of_an_app_without_a_key(cloud: World, said: AgentEvidence, version: str) -> None:
    await cloud.deploy(1, [{}, {"status": "stopped", "instance_id": None}])
    answer = (await cloud.get(PATH, version, key=None)).json()
    stopped = {
        "vm_uuid": dashed(uuid_of(2)), "name": "cvm-2", "instance_id": None, "status": "stopped",
        "image_version": "dstack-0.5.4", "quote": None, "ppid": "", "device_id": "", "tcb_info": None,
        "app_certificates": None, "compose_file": None, "error": "CVM is not running",
    }  # fmt: skip
    assert answer == {
        "app_id": app_id_of(1), "contract_address": "",
        "kms_info": {
            "contract_address": "", "chain_id": None, "version": "v0.5.4", "url": "https://kms.example.org",
            "gateway_app_id": None, "gateway_app_url": "", "kms_type": "phala",
        },
        "instances": [stopped, shown(said, version)], "kms_guest_agent_info": None,
        "gateway_guest_agent_info": None, "qemu_version": json.loads(said.vm_config)["qemu_version"],
        "emulated": True, "root": "emulated:00",
    }  # fmt: skip
    conforms(AppAttestation, answer)


@pytest.mark.parametrize(("version", "chain_id"), [(V1, "8453"), (V2, "8453"), (V3, 8453), (V4, 8453)])
async def test_the_chain_is_text_or_a_number(cloud: World, version: str, chain_id: Any) -> None:
    await cloud.deploy(1, [], kms_id=2, kms_type="base", contract_address="0x" + "3f" * 20)
    answer = (await cloud.get(PATH, version, key=None)).json()
    assert answer["contract_address"] == "0x" + "3f" * 20
    assert answer["kms_info"] == {
        "contract_address": "0x2f83172A49584C017F2B256F0FB2Dca14126Ba9C", "chain_id": chain_id,
        "version": "v0.5.4", "url": "https://kms-base.example.org", "gateway_app_id": "0x" + "ab" * 20,
        "gateway_app_url": "https://gateway.example.org", "kms_type": "base",
    }  # fmt: skip
    assert (answer["instances"], answer["root"], answer["emulated"]) == ([], None, False)
    conforms(AppAttestation, answer)


async def test_the_evidence_holds_for_somebody_elses_rules(cloud: World, said: AgentEvidence) -> None:
    await cloud.deploy(1)
    (instance,) = (await cloud.get(PATH, key=None)).json()["instances"]
    tcb = instance["tcb_info"]
    events = parse_event_log(json.dumps(instance["eventlog"]))
    assert [replay(events, n).hex() for n in range(4)] == [tcb[f"rtmr{n}"] for n in range(4)]
    measured = {event.event: event.event_payload.hex() for event in events if event.imr == 3}
    assert measured["compose-hash"] == hashlib.sha256(tcb["app_compose"].encode()).hexdigest()
    assert instance["image_version"].startswith("dstack-")
    assert bytes.fromhex(instance["quote"]) == said.quote
    leaf = instance["app_certificates"][0]
    assert (leaf["is_ca"], leaf["position_in_chain"], leaf["version"]) == (False, 0, "v3")
    assert leaf["subject"]["common_name"] == "demo-cert"
    assert leaf["signature_algorithm"] == "ecdsa-with-SHA256"
    assert leaf["quote"] is not None
    assert instance["app_certificates"][1]["is_ca"] is True


@pytest.mark.parametrize("version", [V2, V4])
async def test_what_the_app_hides_stays_hidden(cloud: World, hidden: AgentEvidence, version: str) -> None:
    cloud.parts.agents = Agents(hidden)
    await cloud.deploy(1, [{"public_tcbinfo": False}])
    answer = (await cloud.get(PATH, version, key=None)).json()
    assert answer["instances"] == [shown(hidden, version, hidden=True)]
    assert (answer["qemu_version"], answer["instances"][0]["compose_file"]) == (None, None)
    conforms(AppAttestation, answer)
    own = (await cloud.get("/cvms/cvm-1/attestation", version)).json()
    assert (own["is_public"], own["tcb_info"], own["compose_file"]) == (False, None, COMPOSE_TEXT)


def fault(error: Exception) -> Callable[[], Any]:
    def raising() -> Any:
        raise error

    return raising


async def test_one_failing_instance_is_an_entry(cloud: World, said: AgentEvidence) -> None:
    cloud.parts.attestations = Attestations(deadline=0.05)
    agents_of(cloud).others = {
        uuid_of(2): fault(unavailable("attestation.agent", "the agent at http://10.0.0.7:8090")),
        uuid_of(3): lambda: asyncio.sleep(60),
        uuid_of(4): lambda: replace(said, quote=b"no quote"),
        uuid_of(5): lambda: replace(said, tcb_info="[]"),
        uuid_of(6): lambda: replace(said, app_certificate="-----BEGIN CERTIFICATE-----"),
    }
    await cloud.deploy(1, [{}] * 6 + [{"node_id": None}])
    instances = (await cloud.get(PATH, key=None)).json()["instances"]
    assert [instance["error"] for instance in reversed(instances)] == [
        None, "The CVM's agent cannot be reached", "The CVM's agent did not answer in time",
        "The CVM's evidence cannot be read", "The CVM's evidence cannot be read",
        "The CVM's evidence cannot be read", "The CVM's agent cannot be reached",
    ]  # fmt: skip
    assert [bool(instance["quote"]) for instance in reversed(instances)] == [True] + [False] * 6


async def test_all_together_have_a_deadline(cloud: World) -> None:
    cloud.parts.attestations = Attestations(deadline=30, whole=0.5)
    agents_of(cloud).others = {uuid_of(1): lambda: asyncio.sleep(30)}
    await cloud.deploy(1, [{}, {}])
    instances = (await cloud.get(PATH, key=None)).json()["instances"]
    assert [instance["error"] for instance in instances] == [None, "The CVM's agent did not answer in time"]


async def test_without_a_way_to_agents(cloud: World) -> None:
    cloud.parts.agents = None
    await cloud.deploy(1)
    (instance,) = (await cloud.get(PATH, key=None)).json()["instances"]
    assert instance["error"] == "The CVM's agent cannot be reached"


async def test_instances_are_asked_together_and_answers_kept_for_a_while(cloud: World) -> None:
    cloud.parts.attestations = Attestations(kept=1.0)
    await cloud.deploy(1, [{}] * 40)
    answers = await asyncio.gather(*(cloud.get(PATH, key=None) for _ in range(3)))
    agents = agents_of(cloud)
    assert len({answer.text for answer in answers}) == 1
    assert (len(agents.asked), len(set(agents.asked)), agents.most) == (40, 40, 32)
    await asyncio.sleep(1.05)
    await cloud.get(PATH, key=None)
    assert len(agents.asked) == 80


async def test_a_cvm_that_was_restarted_is_asked_anew(cloud: World) -> None:
    await cloud.deploy(1)
    await cloud.get(PATH, key=None)
    async with cloud.database.write() as session:
        (await session.get_one(Cvm, 1)).started_at = NOW + timedelta(seconds=1)
    await cloud.get(PATH, key=None)
    assert len(agents_of(cloud).asked) == 2


async def test_an_agent_that_measured_meanwhile_is_asked_again(cloud: World, said: AgentEvidence) -> None:
    tcb = json.loads(said.tcb_info)
    older = replace(said, tcb_info=json.dumps({**tcb, "rtmr3": "00" * 48}))
    answers = iter((older, said, older, older))
    agents_of(cloud).others = {uuid: lambda: next(answers) for uuid in (uuid_of(1), uuid_of(2))}
    await cloud.deploy(1)
    await cloud.deploy(2)
    (first,) = (await cloud.get(PATH, key=None)).json()["instances"]
    (second,) = (await cloud.get(f"/apps/{app_id_of(2)}/attestations", key=None)).json()["instances"]
    assert (first["error"], second["error"]) == (None, "The CVM's evidence cannot be read")


async def test_statements_do_not_grow(cloud: World) -> None:
    async def statements() -> int:
        with counted(cloud.database) as sent:
            assert (await cloud.get(PATH, key=None)).status_code == 200
        return len(sent)

    cloud.parts.agents = None
    await cloud.deploy(1, [{}])
    await statements()
    before = await statements()
    await cloud.deploy(2, [{"app_record_id": 1} for _ in range(30)])
    assert await statements() == before


async def test_unknown_apps(cloud: World) -> None:
    for app_id in (app_id_of(7), "no-id"):
        assert (await cloud.get(f"/apps/{app_id}/attestations", key=None)).status_code == 404


async def test_whole_answer_of_a_cvm(cloud: World, said: AgentEvidence) -> None:
    await cloud.deploy(1)
    answer = (await cloud.get(f"/cvms/app_{app_id_of(1)}/attestation", V2)).json()
    read = read_evidence(said)
    assert answer == {
        "name": "cvm-1", "is_online": True, "is_public": True, "error": None,
        "app_certificates": read.certificates, "tcb_info": read.tcb_info, "compose_file": COMPOSE_TEXT,
        "quote": said.quote.hex(), "vm_config": said.vm_config, "emulated": True, "root": "emulated:00",
    }  # fmt: skip
    conforms(CvmAttestation, answer)


async def test_a_cvm_that_does_not_run(cloud: World) -> None:
    await cloud.deploy(1, [{"status": "stopped"}])
    answer = (await cloud.get("/cvms/cvm-1/attestation")).json()
    assert answer == {
        "name": "cvm-1", "is_online": False, "is_public": True, "error": "CVM is not running",
        "app_certificates": None, "tcb_info": None, "compose_file": COMPOSE_TEXT, "quote": None,
        "vm_config": None, "emulated": True, "root": "emulated:00",
    }  # fmt: skip
    conforms(CvmAttestation, answer)
    assert (await cloud.get("/cvms/cvm-1/attestation", key=FOREIGN_KEY)).status_code == 404
    assert (await cloud.get("/cvms/cvm-1/attestation", key=None)).status_code == 401


async def _reader_says(handler: Callable[[httpx.Request], httpx.Response], **nodes: Any) -> str:
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which of two families is what is looked at
            await NodeAgentReader(Nodes(**nodes), client).evidence(1, uuid_of(1))
    return str(cast("Any", caught.value).finding.code)


async def test_answers_of_agents_that_are_none() -> None:
    def refused(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    answers: dict[str, Callable[[httpx.Request], httpx.Response]] = {
        "attestation.agent": refused,
        "agent-answer.not-json": lambda _: httpx.Response(200, text="no json"),
        "attestation.answer": lambda _: httpx.Response(200, json={"quote": 7, "app_cert": 7}),
        "attestation.quote": lambda _: httpx.Response(200, json={"quote": "xy"}),
        "attestation.too-long": lambda _: httpx.Response(200, content=b" " * (16 * 1024 * 1024 + 1)),
    }
    assert {code: await _reader_says(handler) for code, handler in answers.items()} == {c: c for c in answers}
    for status in (302, 404, 500):
        assert await _reader_says(lambda _, s=status: httpx.Response(s, json={})) == "attestation.agent"  # type: ignore[misc]  # mypy does not see the default
    assert await _reader_says(refused, has_endpoints=False, phase=CvmPhase.BOOTING) == "attestation.no-agent"


def test_certificates_of_nothing_and_of_noise() -> None:
    assert read_certificates(" \n") == []
    with pytest.raises(EvidenceError):
        read_certificates("noise")


@pytest.mark.parametrize(
    "tcb_info", ["", "x", "[]", "{}", '{"app_compose": 1}', "[" * 100_000], ids=lambda text: text[:10]
)
def test_tcb_info_that_cannot_be_read(said: AgentEvidence, tcb_info: str) -> None:
    if not tcb_info:
        assert read_evidence(replace(said, tcb_info="")).tcb_info is None
        return
    with pytest.raises(EvidenceError):
        read_evidence(replace(said, tcb_info=tcb_info))


def test_a_quote_of_no_td(said: AgentEvidence) -> None:
    with pytest.raises(EvidenceError):
        read_evidence(replace(said, quote=said.quote[:600]))


async def test_agents_are_asked_while_the_application_runs(cloud: World) -> None:
    cloud.parts.agents = None
    async with reading_agents(cloud.parts):
        assert isinstance(cloud.parts.agents, NodeAgentReader)
        await cloud.deploy(1)
        (instance,) = (await cloud.get(PATH, key=None)).json()["instances"]
        assert instance["error"] == "The CVM's agent cannot be reached"  # no node is known
    assert cloud.parts.agents is None
