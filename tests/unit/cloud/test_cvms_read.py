"""Reading CVMs: pages, one of them, its files, what is seen of it, the status of many (cloud-api.md 10.3, 12)."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import TypeAdapter
from sqlalchemy import update

from support.cloud_read_support import (
    COMPOSE,
    COMPOSE_YAML,
    FOREIGN_KEY,
    IMAGE_HASH,
    MALLORY,
    NOW,
    World,
    app_id_of,
    conforms,
    counted,
    dashed,
    instance_of,
    make_event,
    make_operation,
    make_revision,
    uuid_of,
    world,
)
from teehouse.base.exposition import exposition
from teehouse.base.findings import unavailable
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.cvms.sysinfo import read_sysinfo
from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.inventory.models import InstanceType
from teehouse.cloud.nodes.models import Node as NodeRow
from teehouse.guest.hostinfo import Disk, HostFigures
from teehouse.guest.metrics import host_metrics
from teehouse.node.api import CvmEndpoints, CvmPhase, CvmState, Node
from teehouse.node.workload import ContainerState, PublishedPort
from teehouse.wire.cloud.cvms import CvmDetailV1, CvmInfoV2, CvmInfoV3, CvmPageV1, CvmPageV2, CvmPageV3
from teehouse.wire.cloud.observations import (
    AvailableOsImage,
    BatchStatus,
    CvmComposition,
    CvmNetwork,
    CvmStats,
    UserConfig,
)

V1, V2, V3, V4 = VERSIONS = ("2025-10-28", "2026-01-21", "2026-05-22", "2026-06-23")
HERE = Path("/nowhere")
FIGURES = HostFigures(
    os_name='Debian "GNU"\\Linux', os_version="12", kernel_version="6.1", cpu_name="Xeon", cpu_mhz=800, num_cpus=4,
    memory_total=1000, memory_available=600, memory_free=500, swap_total=10,
    swap_free=7, uptime=3600, load_average=(0.5, 1.25, 2.0), disks=(Disk("vda", "/", 100, 40),),
)  # fmt: skip
SYSINFO = {
    "os_name": 'Debian "GNU"\\Linux', "os_version": "12", "kernel_version": "6.1", "cpu_model": "Xeon @800 MHz",
    "num_cpus": 4, "total_memory": 1000, "available_memory": 600, "used_memory": 400, "free_memory": 500,
    "total_swap": 10, "used_swap": 3, "free_swap": 7, "uptime": 3600, "loadavg_one": 50, "loadavg_five": 125,
    "loadavg_fifteen": 200,
    "disks": [{"name": "vda", "mount_point": "/", "total_size": 100, "free_size": 40}],
}  # fmt: skip


@dataclass
class Seen:
    """A node and its agents."""

    containers: tuple[ContainerState, ...] = ()
    text: str = field(default_factory=lambda: exposition(host_metrics(FIGURES)))
    broken: bool = False

    def node(self, node_id: int) -> Node:
        return cast("Node", self)

    async def state(self, cvm_id: str) -> CvmState:
        self._check()
        endpoints = CvmEndpoints(HERE, HERE, HERE, HERE, "http://127.0.0.9:8090")
        return CvmState(cvm_id, "cvm", CvmPhase.RUNNING, endpoints=endpoints, containers=self.containers)

    async def metrics(self, node_id: int, vm_uuid: str) -> str:
        self._check()
        return self.text

    def _check(self) -> None:
        if self.broken:
            raise unavailable("test", "nobody there")


@pytest.fixture(name="seen")
def _seen() -> Seen:
    return Seen()


@pytest.fixture(name="cloud")
async def _cloud(tmp_path: Path, seen: Seen) -> AsyncIterator[World]:
    async with world(tmp_path, nodes=seen, agents=seen) as made:
        yield made


@pytest.mark.parametrize(
    ("version", "schema", "number"),
    [(V1, CvmDetailV1, 1), (V2, CvmInfoV2, "1"), (V3, CvmInfoV3, encode(Kind.CVM, 1)), (V4, CvmInfoV3, encode(Kind.CVM, 1))],
)  # fmt: skip
async def test_one_cvm(cloud: World, version: str, schema: Any, number: Any) -> None:
    await cloud.deploy(1)
    answer = (await cloud.get("/cvms/cvm-1", version)).json()
    conforms(schema, answer)
    assert answer["id"] == number
    if version != V1:
        (listed,) = (await cloud.get(f"/apps/{app_id_of(1)}/cvms", version)).json()
        assert answer == listed | {"id": number, "compose_file": COMPOSE} | (
            {}
            if version == V2
            else {"logs": listed["logs"] | {"serial": log_link(answer["logs"]["serial"], 1)}}
        )


def log_link(link: str, number: int) -> str:
    """The link itself, which is one to the log of the CVM."""
    begin = f"http://127.0.0.1:8080/api/v1/cvms/{uuid_of(number)}/serial-log?until_time=1773997200&token="
    assert re.fullmatch(re.escape(begin) + "[0-9a-f]{64}", link)
    return link


async def test_whole_detail_at_v1(cloud: World) -> None:
    await cloud.deploy(1)
    await cloud.add(make_operation(1, 1))
    host = f"https://{app_id_of(1)}"
    answer = (await cloud.get("/cvms/1", V1)).json()
    assert answer == {
        "id": 1, "name": "cvm-1", "status": "running", "in_progress": True, "teepod_id": 1,
        "teepod": {"id": 1, "name": "prod5", "region_identifier": "us-west"}, "app_id": app_id_of(1),
        "vm_uuid": dashed(uuid_of(1)), "instance_id": instance_of(1), "vcpu": 1, "memory": 2048,
        "disk_size": 40, "base_image": "dstack-0.5.4", "encrypted_env_pubkey": "e3" * 32, "listed": False,
        "project_id": None, "project_type": "docker-compose", "instance_type": "tdx.small",
        "public_sysinfo": True, "public_logs": True,
        "dapp_dashboard_url": f"{host}-8090.dstack.example.org/", "syslog_endpoint": log_link(answer["syslog_endpoint"], 1),
        "kms_info": {
            "id": encode(Kind.KMS, 1), "slug": "kms-phala", "url": "https://kms.example.org",
            "version": "v0.5.4", "chain_id": None, "kms_contract_address": None, "gateway_app_id": None,
        },
        "contract_address": None, "deployer_address": None, "scheduled_delete_at": None,
        "public_urls": [{
            "app": f"{host}-80.dstack.example.org",
            "instance": f"https://{instance_of(1)}-80.dstack.example.org",
        }],
        "gateway_domain": "dstack.example.org",
        "machine_info": {"vcpu": 1, "memory": 2048, "disk_size": 40, "gpu_count": 0},
        "updated_at": "2026-03-20T08:00:00Z",
    }  # fmt: skip


def names_of(number: int) -> list[str]:
    uuid, app, instance = uuid_of(number), app_id_of(number), instance_of(number)
    return [
        uuid, dashed(uuid), dashed(uuid).upper(), f"app_{app}", app, app.upper(), f"instance_{instance}",
        f"app_{instance}", instance, encode(Kind.CVM, number), str(number), f"cvm-{number}",
    ]  # fmt: skip


async def test_every_name_of_a_cvm(cloud: World) -> None:
    await cloud.deploy(1)
    await cloud.deploy(2)
    for number in (1, 2):
        for name in names_of(number):
            assert (await cloud.get(f"/cvms/{name}", V1)).json()["id"] == number, name


ROUTES = (
    "",
    "/compose_file",
    "/docker-compose.yml",
    "/pre-launch-script",
    "/stats",
    "/network",
    "/composition",
    "/user_config",
    "/available-os-images",
)


@pytest.mark.parametrize("route", ROUTES)
async def test_no_such_cvm(cloud: World, route: str) -> None:
    await cloud.deploy(1, [{}, {}], name="two")
    await cloud.deploy(2, [{"deleted_at": NOW}])
    await cloud.deploy(3, workspace=MALLORY)
    for name in ("nobody", "99", *names_of(3), "cvm-3", "4", "no such name"):
        answer = await cloud.get(f"/cvms/{name}{route}")
        assert (answer.status_code, answer.json()["error_code"]) == (404, "ERR-03-001"), name
    several = await cloud.get(f"/cvms/app_{app_id_of(1)}{route}")
    assert (several.status_code, several.json()["error_code"]) == (409, "ERR-03-010")
    assert (await cloud.get(f"/cvms/cvm-1{route}", key=FOREIGN_KEY)).status_code == 404
    assert (await cloud.get(f"/cvms/cvm-1{route}", key=None)).status_code == 401


async def test_files_of_a_cvm(cloud: World) -> None:
    await cloud.deploy(1)
    assert (await cloud.get("/cvms/cvm-1/compose_file")).json() == COMPOSE
    yaml = await cloud.get("/cvms/cvm-1/docker-compose.yml")
    script = await cloud.get("/cvms/cvm-1/pre-launch-script")
    assert (yaml.text, yaml.headers["content-type"]) == (COMPOSE_YAML, "text/yaml; charset=utf-8")
    assert (script.text, script.headers["content-type"]) == (
        COMPOSE["pre_launch_script"],
        "text/plain; charset=utf-8",
    )


PAGES = dict(zip(VERSIONS, (CvmPageV1, CvmPageV2, CvmPageV3, CvmPageV3), strict=True))


def shown_names(page: Any) -> list[str]:
    return [cvm["name"] for cvm in page["items"]]


@pytest.mark.parametrize("version", VERSIONS)
async def test_pages(cloud: World, version: str) -> None:
    await cloud.deploy(1, [{}, {"node_id": 2}])
    await cloud.deploy(2, [{"creator_id": 3, "instance_type": "tdx.big"}, {"deleted_at": NOW}])
    await cloud.deploy(3, workspace=MALLORY)
    await cloud.add(InstanceType(
        id="tdx.big", name="tdx.big", family="gpu", description="", vcpu=1, memory_mb=1, hourly_rate=1,
    ))  # fmt: skip
    page = (await cloud.get("/cvms/paginated", version)).json()
    conforms(PAGES[version], page)
    assert (shown_names(page), page["total"], page["pages"]) == (["cvm-3", "cvm-2", "cvm-1"], 3, 1)
    second = (await cloud.get("/cvms/paginated", version, page=2, page_size=2)).json()
    assert (shown_names(second), second["total"], second["pages"]) == (["cvm-1"], 3, 2)
    assert (await cloud.get("/cvms/paginated", version, page=5)).json()["items"] == []
    old = version in {V1, V2}
    queries: list[tuple[dict[str, Any], list[str], bool]] = [
        ({"node_id": 2}, ["cvm-2"], old), ({"teepod_id": 2}, ["cvm-2"], old), ({"user_id": 3}, ["cvm-3"], old),
        ({"family": "gpu"}, ["cvm-3"], not old), ({"instance_types": "tdx.small"}, ["cvm-2", "cvm-1"], not old),
        ({"instance_types": ["tdx.small", "tdx.big"]}, ["cvm-3", "cvm-2", "cvm-1"], not old),
        ({"instance_types": "tdx.big,tdx.huge"}, ["cvm-3"], not old),
    ]  # fmt: skip
    for query, expected, known in queries:
        page = (await cloud.get("/cvms/paginated", version, **query)).json()
        assert shown_names(page) == (expected if known else ["cvm-3", "cvm-2", "cvm-1"]), query


async def test_statements_do_not_grow(cloud: World) -> None:
    async def statements(ask: Any) -> int:
        await ask()
        with counted(cloud.database) as sent:
            assert (await ask()).status_code == 200
        return len(sent)

    def page() -> Any:
        return cloud.get("/cvms/paginated", page_size=1000)

    def batch() -> Any:
        return cloud.post("/status/batch", {"vm_uuids": [uuid_of(n) for n in range(1, 60)]})

    await cloud.deploy(1, [{}, {"node_id": 2}])
    await cloud.add(make_event(1, "e", "b", NOW))
    before = [await statements(page), await statements(batch)]
    await cloud.deploy(2, [{"node_id": 3} for _ in range(40)], kms_id=2)
    assert [await statements(page), await statements(batch)] == before
    assert before[1] == 3  # the key, the CVMs, their events


async def test_stats(cloud: World, seen: Seen) -> None:
    await cloud.deploy(1, [{}, {"status": "stopped"}, {"public_sysinfo": False}, {"node_id": None}])
    whole = (await cloud.get("/cvms/cvm-1/stats")).json()
    assert whole == {
        "is_online": True, "is_public": True, "error": None, "sysinfo": SYSINFO, "status": "running",
        "in_progress": False, "boot_progress": "done", "boot_error": None,
    }  # fmt: skip
    conforms(CvmStats, whole)
    for name, error in (
        ("cvm-2", "CVM is not running"), ("cvm-3", "System info of this CVM is not public"),
        ("cvm-4", "The CVM's agent cannot be reached"),
    ):  # fmt: skip
        answer = (await cloud.get(f"/cvms/{name}/stats")).json()
        assert (answer["sysinfo"], answer["error"]) == (None, error)
    seen.text = "nothing of use"
    assert (await cloud.get("/cvms/cvm-1/stats")).json()["error"] == "The CVM's agent cannot be reached"
    seen.broken = True
    assert (await cloud.get("/cvms/cvm-1/stats")).json()["error"] == "The CVM's agent cannot be reached"


@pytest.mark.parametrize("spoiled", ["system_os_name", "system_uptime", "disk_free_size"])
def test_half_a_machine_is_none(spoiled: str) -> None:
    text = exposition(host_metrics(FIGURES))
    assert read_sysinfo(text) == SYSINFO
    assert read_sysinfo("\n".join(line for line in text.splitlines() if not line.startswith(spoiled))) is None


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ({"gateway_domain": None, "url": None}, "http://127.0.0.1:8090"),
        ({"gateway_domain": None, "url": "https://node.example.org"}, None),
        ({"gateway_domain": None, "url": "https://127.0.0.1:12000"}, "http://127.0.0.1:8090"),
        ({"gateway_domain": "g.example.org", "url": None}, f"https://{app_id_of(1)}-8090.g.example.org"),
    ],
)
async def test_the_agents_pages_are_shown_where_they_are(
    cloud: World, place: dict[str, Any], shown: str | None
) -> None:
    await cloud.deploy(1)
    async with cloud.database.write() as session:
        await session.execute(update(NodeRow).where(NodeRow.id == 1).values(place))
        await session.execute(update(Cvm).where(Cvm.id == 1).values(agent_url="http://127.0.0.1:8090"))
    assert (await cloud.get("/cvms/cvm-1", V4)).json()["app_url"] == shown
    detail = (await cloud.get("/cvms/cvm-1", V1)).json()
    assert detail["dapp_dashboard_url"] == (None if shown is None else f"{shown}/")


PUBLISHED = "127.0.0.1:8080 0.0.0.0:40000 [::1]:8081 192.0.2.7:443"


@pytest.mark.parametrize(
    ("place", "status", "published", "shown"),
    [
        (None, "running", PUBLISHED, ["127.0.0.1:8080", "127.0.0.1:40000", "[::1]:8081", "192.0.2.7:443"]),
        ("https://localhost:1", "running", "127.0.0.1:8080 [::]:2", ["127.0.0.1:8080", "localhost:2"]),
        ("https://node.example.org:1", "running", PUBLISHED, ["node.example.org:40000", "192.0.2.7:443"]),
        ("https://[2001:db8::1]:1", "running", "0.0.0.0:1 [::]:1", ["[2001:db8::1]:1"]),
        (None, "running", "", []),
        (None, "running", None, []),
        (None, "starting", PUBLISHED, []),
        (None, "stopped", PUBLISHED, []),
    ],
)
async def test_without_a_gateway_ports_are_shown_where_the_node_serves_them(
    cloud: World, place: str | None, status: str, published: str | None, shown: list[str]
) -> None:
    await cloud.deploy(1, [{"status": status}])
    async with cloud.database.write() as session:
        await session.execute(update(NodeRow).where(NodeRow.id == 1).values(gateway_domain=None, url=place))
        await session.execute(update(Cvm).where(Cvm.id == 1).values(published=published))
    urls = [{"app": f"http://{place}", "instance": f"http://{place}"} for place in shown]
    (listed,) = (await cloud.get("/cvms/paginated", V1)).json()["items"]
    detail = (await cloud.get("/cvms/cvm-1", V1)).json()
    assert [listed["public_urls"], detail["public_urls"]] == [urls, urls]
    for version in (V2, V4):
        (within,) = (await cloud.get("/apps", version)).json()["dstack_apps"]
        alone = (await cloud.get("/cvms/cvm-1", version)).json()
        assert [within["current_cvm"]["endpoints"], alone["endpoints"]] == [urls, urls]


async def test_the_network_of_a_cvm_is_what_its_node_says_now(cloud: World, seen: Seen) -> None:
    ports = (
        PublishedPort("127.0.0.1", 9000, 443),
        PublishedPort("127.0.0.1", 9001, 80, wanted=80),
        PublishedPort("127.0.0.1", 9002, 53, "udp"),
    )
    seen.containers = (ContainerState("web", "nginx", "running", "Up", ports=ports),)
    await cloud.deploy(1)
    async with cloud.database.write() as session:
        await session.execute(update(NodeRow).where(NodeRow.id == 1).values(gateway_domain=None))
        await session.execute(update(Cvm).where(Cvm.id == 1).values(published="127.0.0.1:8000"))

    async def urls() -> list[str]:
        answer = (await cloud.get("/cvms/cvm-1/network")).json()
        return [url["instance"] for url in answer["public_urls"]]

    assert await urls() == ["http://127.0.0.1:9001", "http://127.0.0.1:9000"]
    seen.broken = True
    assert await urls() == ["http://127.0.0.1:8000"]


async def test_network(cloud: World, seen: Seen) -> None:
    await cloud.deploy(1)
    url = {
        "app": f"https://{app_id_of(1)}-80.dstack.example.org",
        "instance": f"https://{instance_of(1)}-80.dstack.example.org",
    }
    whole = (await cloud.get("/cvms/cvm-1/network")).json()
    assert whole == {
        "is_online": True, "is_public": True, "error": None, "internal_ip": None, "latest_handshake": None,
        "public_urls": [url],
    }  # fmt: skip
    conforms(CvmNetwork, whole)
    seen.broken = True
    answer = (await cloud.get("/cvms/cvm-1/network")).json()
    assert answer == whole | {"is_online": False, "error": "The CVM's node cannot be reached"}


async def test_composition(cloud: World, seen: Seen) -> None:
    seen.containers = (
        ContainerState("web 1", "nginx", "running", "Up 5 minutes", None, "ab" * 32, "web", "nginx -g", 1700),
    )
    await cloud.deploy(1, [{}, {"public_logs": False}, {"status": "stopped"}, {"node_id": None}])
    container = {
        "id": "ab" * 32, "names": ["/web 1"], "image": "nginx", "image_id": "", "command": "nginx -g",
        "created": 1700, "state": "running", "status": "Up 5 minutes",
        "log_endpoint": "http://127.0.0.9:8090/logs/web%201",
    }  # fmt: skip
    whole = (await cloud.get("/cvms/cvm-1/composition")).json()
    assert whole == {
        "is_online": True, "is_public": True, "error": None, "docker_compose_file": COMPOSE_YAML,
        "manifest_version": 2, "version": None, "runner": "docker-compose", "features": ["kms", "tproxy-net"],
        "containers": [container],
    }  # fmt: skip
    conforms(CvmComposition, whole)
    hidden = (await cloud.get("/cvms/cvm-2/composition")).json()
    assert hidden == whole | {"containers": [container | {"log_endpoint": None}]}
    offline = {"is_online": False, "containers": None}
    stopped = (await cloud.get("/cvms/cvm-3/composition")).json()
    assert stopped == whole | offline | {"error": "CVM is not running"}
    for name in ("cvm-4", "cvm-1"):
        seen.broken = name == "cvm-1"
        answer = (await cloud.get(f"/cvms/{name}/composition")).json()
        assert answer == whole | offline | {"error": "The CVM's node cannot be reached"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}), ("", {}), ("no json", {}), ("[1]", {}), ("[" * 100_000, {}),
        (json.dumps({"hostname": "tea", "ssh_authorized_keys": ["ssh-ed25519 A", 7], "other": 1}),
         {"hostname": "tea", "ssh_authorized_keys": ["ssh-ed25519 A"]}),
        (json.dumps({"hostname": 7, "ssh_authorized_keys": "x", "default_gateway_domain": "g.example.org"}),
         {"default_gateway_domain": "g.example.org"}),
    ],
    ids=range(7),
)  # fmt: skip
async def test_user_config(cloud: World, text: str | None, expected: dict[str, Any]) -> None:
    app = await cloud.deploy(1)
    if text is not None:
        await cloud.add(make_revision(1, app, 1, user_config='{"hostname": "old"}'))
        await cloud.add(make_revision(2, app, 1, user_config=text))
    answer = (await cloud.get("/cvms/cvm-1/user_config")).json()
    nothing = {"hostname": None, "ssh_authorized_keys": [], "default_gateway_domain": "dstack.example.org"}
    assert answer == nothing | expected
    conforms(UserConfig, answer)


async def test_available_os_images(cloud: World) -> None:
    await cloud.deploy(1, [{}, {"node_id": 2}, {"gpus": 1}])
    answer = (await cloud.get("/cvms/cvm-1/available-os-images")).json()
    assert answer == [
        {
            "version": [0, 5, 5],
            "prod": {"name": "dstack-0.5.5", "os_image_hash": None, "is_current": False}, "dev": None,
        },
        {
            "version": [0, 5, 4],
            "prod": {"name": "dstack-0.5.4", "os_image_hash": IMAGE_HASH, "is_current": True},
            "dev": {"name": "dstack-dev-0.5.4", "os_image_hash": None, "is_current": False},
        },
    ]  # fmt: skip
    conforms(list[AvailableOsImage], answer)
    for name in ("cvm-2", "cvm-3"):
        assert (await cloud.get(f"/cvms/{name}/available-os-images")).json() == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_status_of_many(cloud: World, version: str) -> None:
    await cloud.deploy(
        1, [{}, {"status": "stopping", "shutdown_progress": "powering off", "boot_progress": None}]
    )
    await cloud.deploy(2, [{"deleted_at": NOW}])
    await cloud.deploy(3, workspace=MALLORY)
    await cloud.add(make_operation(1, 2))
    await cloud.add(*(make_event(1, f"e{n}", "b", NOW + timedelta(seconds=n)) for n in range(12)))
    sent = [uuid_of(1), dashed(uuid_of(2)).upper(), uuid_of(3), uuid_of(4), "no uuid", uuid_of(99)]
    answer = (await cloud.post("/status/batch", {"vm_uuids": sent}, version)).json()
    TypeAdapter(dict[str, BatchStatus]).validate_python(answer)
    still = {
        "vm_uuid": sent[0], "status": "running", "uptime": "21h 30m", "in_progress": False,
        "boot_progress": "done", "boot_error": None, "operation_type": None, "operation_started_at": None,
        "correlation_id": None,
    }  # fmt: skip
    moving = still | {
        "vm_uuid": sent[1], "status": "stopping", "uptime": None, "in_progress": True, "boot_progress": None,
        "operation_type": "restart", "operation_started_at": "2026-03-20T08:00:00Z", "correlation_id": "op-1",
    }  # fmt: skip
    if version in {V3, V4}:
        start = int(NOW.timestamp() * 1000)
        still["events"] = [
            {"event": f"e{n}", "body": "b", "timestamp": start + 1000 * n} for n in range(2, 12)
        ]
        moving |= {
            "events": [], "shutdown_progress": "powering off",
            "operation": {
                "type": "restart", "phase": "stopping", "started_at": "2026-03-20T08:00:00Z",
                "correlation_id": "op-1",
            },
        }  # fmt: skip
    assert answer == {sent[0]: still, sent[1]: moving}


async def test_bounds_of_the_status_of_many(cloud: World) -> None:
    assert (await cloud.post("/status/batch", {"vm_uuids": []})).json() == {}
    assert (await cloud.post("/status/batch", {"vm_uuids": ["x"] * 1000})).status_code == 200
    assert (await cloud.post("/status/batch", {"vm_uuids": ["x"] * 1001})).status_code == 422
    assert (await cloud.post("/status/batch", {"vm_uuids": [uuid_of(1)]}, key=None)).status_code == 401
