"""docker-compose files made to fit a shared host. Rule numbers are those of `compose_rewrite` and its parts."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.node_workloads import CVM_ID
from teehouse.node.compose_interpolation import InterpolationError, escaped, interpolate
from teehouse.node.compose_mounts import Bind, Roots
from teehouse.node.compose_rewrite import ComposePlan, rewrite_compose
from teehouse.node.compose_yaml import DEPTH_LIMIT, SIZE_LIMIT, load_compose
from teehouse.node.workload import Limits, PortsPolicy, WorkloadError

PROJECT = f"teehouse-{CVM_ID}"
ROOTS = Roots(Path("/cvm/sockets"), Path("/cvm/home"), Path("/cvm/disk"))
LOGGING = {"driver": "json-file", "options": {"max-size": "1000", "max-file": "2"}}


def plan(
    text: str | Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    taken: set[int] | None = None,
    ports: PortsPolicy | None = None,
) -> ComposePlan:
    return rewrite_compose(
        text if isinstance(text, str) else json.dumps(text),
        CVM_ID,
        ROOTS,
        environment or {},
        is_free=lambda _address, port, _protocol: port not in (taken or set()),
        ports=ports or PortsPolicy(),
        limits=Limits(log_bytes=1000, log_files=2),
    )


def rewritten(text: str | Mapping[str, Any], **options: Any) -> Any:
    return json.loads(plan(text, **options).document)


def service(members: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """The service `a` after rewriting, without what is added to every service."""
    made: dict[str, Any] = rewritten({"services": {"a": members}}, **options)["services"]["a"]
    if "logging" not in members:
        assert made.pop("logging") == LOGGING  # rule 7
    assert made["labels"].pop("teehouse.cvm") == CVM_ID
    return made if made["labels"] else {name: value for name, value in made.items() if name != "labels"}


def faults(text: str | Mapping[str, Any], environment: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(WorkloadError) as refused:
        plan(text, environment)
    return [finding.sentence().removeprefix("docker-compose file: ") for finding in refused.value.findings]


def test_a_whole_file() -> None:
    text = """
version: "3"
name: mine
x-base: &base {image: "nginx:1.27", restart: always, environment: [A, "B=$A"]}
services:
  web:
    <<: *base
    container_name: front
    ports: ["8080:80", 9000]
    volumes: ["/var/run/dstack.sock:/var/run/dstack.sock", "./conf:/etc/nginx:ro", "store:/store"]
  db: {<<: *base, restart: "no", labels: [kept=1], logging: {driver: none}}
networks: {back: {name: everybodys}}
volumes: {store: {name: everybodys, external: false}}
secrets: {word: {file: ./word.txt}}
configs: {set: {environment: SET}}
"""
    made = plan(text, {"A": "s3cret"})
    base = {"image": "nginx:1.27", "environment": ["A", "B=$A"]}
    assert json.loads(made.document) == {
        "x-base": {**base, "restart": "always"},
        "services": {
            "web": {
                **base,
                "restart": "unless-stopped",
                "container_name": f"{PROJECT}-front",
                "networks": {"default": {"aliases": ["front"]}},
                "ports": ["127.0.0.1:8080:80/tcp", "127.0.0.1::9000/tcp"],
                "volumes": [
                    {"type": "bind", "source": "/cvm/sockets/dstack.sock", "target": "/var/run/dstack.sock"},
                    {"type": "bind", "source": "/cvm/home/conf", "target": "/etc/nginx", "read_only": True},
                    "store:/store",
                ],
                "labels": {
                    "teehouse.cvm": CVM_ID,
                    "teehouse.container-name": "front",
                    "teehouse.wanted-ports": '{"80/tcp":8080}',
                },
                "logging": LOGGING,
            },
            "db": {
                **base,
                "restart": "no",
                "labels": {"kept": "1", "teehouse.cvm": CVM_ID},
                "logging": {"driver": "none"},
            },
        },
        "networks": {"back": {}},
        "volumes": {"store": {}},
        "secrets": {"word": {"file": "./word.txt"}},
        "configs": {"set": {"environment": "SET"}},
    }
    assert made.binds == (
        Bind(Path("/cvm/sockets/dstack.sock")),
        Bind(Path("/cvm/home/conf"), make=True),
    )
    assert not made.builds
    assert "s3cret" not in repr(made)


@pytest.mark.parametrize(
    ("source", "bind"),
    [
        ("/var/run/tappd.sock", Bind(Path("/cvm/sockets/tappd.sock"))),
        ("/run/dstack.sock", Bind(Path("/cvm/sockets/dstack.sock"))),
        ("/var/run/dstack", Bind(Path("/cvm/sockets/dstack"))),
        ("/var/run/dstack/", Bind(Path("/cvm/sockets/dstack"))),
        ("/var/run/dstack/dstack.sock", Bind(Path("/cvm/sockets/dstack/dstack.sock"))),
        ("//var/lib/../run//dstack.sock", Bind(Path("/cvm/sockets/dstack.sock"))),
        ("/var/run", Bind(Path("/cvm/sockets"))),
        ("$DIR/dstack.sock", Bind(Path("/cvm/sockets/dstack.sock"))),
        ("/", Bind(Path("/cvm/disk"), make=True)),
        ("/runner", Bind(Path("/cvm/disk/runner"), make=True)),
        ("/data/../../x", Bind(Path("/cvm/disk/x"), make=True)),
        ("/etc/passwd", Bind(Path("/cvm/disk/etc/passwd"), make=True)),
        (".", Bind(Path("/cvm/home"), make=True)),
        ("./a/../b", Bind(Path("/cvm/home/b"), make=True)),
        ("~", Bind(Path("/cvm/home"), make=True)),
        ("~/a", Bind(Path("/cvm/home/a"), make=True)),
        ("/dstack/a", Bind(Path("/cvm/home/a"), make=True)),
        ("./$$a", Bind(Path("/cvm/home/$a"), make=True)),
        ("/etc/localtime", Bind(Path("/etc/localtime"), read_only=True)),
        ("/etc/ssl/certs/ca.pem", Bind(Path("/etc/ssl/certs/ca.pem"), read_only=True)),
    ],
)
@pytest.mark.parametrize("form", ["short", "long"])
def test_mounts_lead_to_the_cvms_own_places(source: str, bind: Bind, form: str) -> None:
    short = f"{source}:/t"
    volume = (
        short
        if form == "short"
        else {"type": "bind", "source": source, "target": "/t", "bind": {"selinux": "z"}}
    )
    made = plan({"services": {"a": {"volumes": [volume]}}}, {"DIR": "/var/run"})
    mount = {"type": "bind", "source": str(bind.source).replace("$", "$$"), "target": "/t"}
    if bind.read_only:
        mount["read_only"] = True  # type: ignore[assignment]  # as JSON has it
    assert json.loads(made.document)["services"]["a"]["volumes"] == [mount]
    assert made.binds == (bind,)


def test_mounts_that_are_no_binds_stay() -> None:
    volumes = [
        "/anonymous",
        "named:/t:nocopy",
        {"type": "tmpfs", "target": "/t"},
        {"source": "n", "target": "/t"},
    ]
    assert service({"volumes": volumes}) == {"volumes": volumes}
    read_only = {"type": "bind", "source": "./a", "target": "/t", "read_only": "true"}
    assert service({"volumes": [read_only, "./b:/t:z,ro"]}) == {
        "volumes": [
            {"type": "bind", "source": "/cvm/home/a", "target": "/t", "read_only": True},
            {"type": "bind", "source": "/cvm/home/b", "target": "/t", "read_only": True},
        ]
    }


ENGINE = "no socket of a container engine"
KERNEL = "no part of the host's kernel"


@pytest.mark.parametrize(
    ("volume", "fault"),
    [
        (
            "/var/run/docker.sock:/x",
            f"expected {ENGINE}, found docker.sock (it reaches the containers of every CVM",
        ),
        ("/run/containerd/containerd.sock:/x", f"expected {ENGINE}, found containerd ("),
        ("/proc:/host:ro", f"expected {KERNEL}, found /proc (emulation runs on the host)"),
        ("/dev/tdx_guest:/x", f"expected {KERNEL}, found /dev ("),
        ("../out:/x", "expected a path that stays within its directory, found one that leaves it"),
        ("./a/../..:/x", "expected a path that stays within its directory, found one that leaves it"),
        ("./a:/x:rshared", "expected no mount that leads back to the host, found shared propagation"),
        ("./a:/x:odd", "expected modes of a mount, found another word"),
        ("${KEY}:/x", "expected no part of the host's kernel, found /proc ("),
        ("${KEY:/x", "found a `${` without its `}`"),
        (7, None),
        (["x"], "expected a string, found list"),
        ({"type": "npipe"}, "expected bind, volume, tmpfs or image, found npipe"),
        ({"type": ["bind"]}, "expected a string, found list"),
        ({"type": "bind", "source": ["x"]}, "expected a string, found list"),
        ({"type": "bind", "source": "./a", "bind": {"propagation": "shared"}}, "found shared propagation"),
        ({"type": "bind", "source": "./a", "bind": ["x"]}, "expected a mapping, found list"),
    ],
)
def test_mounts_that_are_refused(volume: Any, fault: str | None) -> None:
    members = {"services": {"a": {"volumes": [volume]}}}
    if fault is None:
        plan(members)
        return
    [first, *_] = faults(members, {"KEY": "/proc/s3cret"})
    assert first.startswith("services.a.volumes[0]")
    assert fault in first
    assert "s3cret" not in first


@pytest.mark.parametrize(
    ("port", "published", "wanted"),
    [
        (80, ["127.0.0.1::80/tcp"], {}),
        ("80", ["127.0.0.1::80/tcp"], {}),
        ("8080:80", ["127.0.0.1:8080:80/tcp"], {"80/tcp": 8080}),
        ("8080:80/udp", ["127.0.0.1:8080:80/udp"], {"80/udp": 8080}),
        ("0.0.0.0:8080:80", ["127.0.0.1:8080:80/tcp"], {"80/tcp": 8080}),
        ("[::1]:8080:80", ["127.0.0.1:8080:80/tcp"], {"80/tcp": 8080}),
        ("127.0.0.1::80", ["127.0.0.1::80/tcp"], {}),
        ("${PORT:-70}:80", ["127.0.0.1:70:80/tcp"], {"80/tcp": 70}),
        ("99:80", ["127.0.0.1::80/tcp"], {"80/tcp": 99}),
        ("98-100:80", ["127.0.0.1:98:80/tcp"], {"80/tcp": 98}),
        ("99-100:80", ["127.0.0.1:100:80/tcp"], {"80/tcp": 99}),
        ("98-99:80-81", ["127.0.0.1:98:80/tcp", "127.0.0.1::81/tcp"], {"80/tcp": 98, "81/tcp": 99}),
        ("80-81", ["127.0.0.1::80/tcp", "127.0.0.1::81/tcp"], {}),
        ({"target": 80}, ["127.0.0.1::80/tcp"], {}),
        (
            {
                "target": "80",
                "published": "8080",
                "protocol": "udp",
                "host_ip": "10.0.0.1",
                "mode": "ingress",
            },
            ["127.0.0.1:8080:80/udp"],
            {"80/udp": 8080},
        ),
    ],
)
def test_ports_are_published_at_loopback_where_they_are_free(
    port: Any, published: list[str], wanted: dict[str, int]
) -> None:
    made = service({"ports": [port]}, taken={99})
    assert made["ports"] == published
    assert json.loads(made.get("labels", {}).get("teehouse.wanted-ports", "{}")) == wanted


def test_a_host_port_is_given_once() -> None:
    assert service({"ports": ["80:1", "80:2", "80:3/udp"]})["ports"] == [
        "127.0.0.1:80:1/tcp",
        "127.0.0.1::2/tcp",
        "127.0.0.1:80:3/udp",
    ]


def test_an_exposed_node_publishes_where_it_was_told() -> None:
    exposed = PortsPolicy(address="::", unsafe_expose=True)
    made = service({"ports": ["80:80", "127.0.0.1:81:81"]}, ports=exposed)
    assert made["ports"] == ["[::]:80:80/tcp", "127.0.0.1:81:81/tcp"]


@pytest.mark.parametrize(
    ("port", "fault"),
    [
        ("x", "expected [[ADDRESS:]HOST:]CONTAINER[/tcp|udp], found x"),
        ("0:80", "expected [[ADDRESS:]HOST:]CONTAINER[/tcp|udp], found 0:80"),
        ("70000", "expected [[ADDRESS:]HOST:]CONTAINER[/tcp|udp], found 70000"),
        ("9-1:80", "expected [[ADDRESS:]HOST:]CONTAINER[/tcp|udp], found 9-1:80"),
        ("80/sctp", "expected [[ADDRESS:]HOST:]CONTAINER[/tcp|udp], found 80/sctp"),
        ("1-2:1-3", "expected ranges of equal length, found 2 and 3"),
        ("1-1000", "expected at most 256 ports, found more"),
        ([1], "expected a string, found list"),
        ({"target": "1-2"}, "expected one `target`, and `published` and `protocol` to fit it, found others"),
        ({"published": 1}, "expected one `target`, and `published` and `protocol` to fit it, found others"),
        (
            {"target": 1, "published": "x"},
            "expected one `target`, and `published` and `protocol` to fit it, found others",
        ),
        (
            {"target": 1, "protocol": "sctp"},
            "expected one `target`, and `published` and `protocol` to fit it, found others",
        ),
    ],
)
def test_ports_that_are_refused(port: Any, fault: str) -> None:
    assert faults({"services": {"a": {"ports": [port]}}}) == [f"services.a.ports[0]: {fault}"]


LEAVE_OUT = "(in emulation it would be the host's; leave it out)"


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"privileged": True}, "privileged: expected a plain container, found privileged mode"),
        ({"privileged": "$YES"}, "privileged: expected a plain container, found privileged mode"),
        (
            {"post_start": [{"privileged": 1}]},
            "post_start[0].privileged: expected a plain container, found privileged mode",
        ),
        ({"pid": "host"}, "pid: expected a namespace of the app, found one beyond it"),
        ({"ipc": "container:x"}, "ipc: expected a namespace of the app, found one beyond it"),
        ({"network_mode": "host"}, "network_mode: expected a network of the app, found one beyond it"),
        ({"network_mode": "container:x"}, "network_mode: expected a network of the app, found one beyond it"),
        ({"devices": ["/dev/kvm"]}, "devices: expected a plain container, found devices"),
        ({"runtime": "x"}, "runtime: expected a plain container, found runtime"),
        (
            {"cap_add": ["KILL", "SYS_ADMIN"]},
            "cap_add: expected capabilities that every container has, found SYS_ADMIN",
        ),
        (
            {"cap_add": ["CAP_CHOWN", "$ALL"]},
            "cap_add: expected capabilities that every container has, found $ALL",
        ),
        (
            {"security_opt": ["seccomp:unconfined"]},
            "security_opt: expected no-new-privileges, found seccomp:unconfined",
        ),
        (
            {"volumes_from": ["b", "container:x"]},
            "volumes_from: expected volumes of the app, found those of another container",
        ),
        (
            {"deploy": {"resources": {"reservations": {"devices": [{}]}}}},
            "deploy.resources.reservations.devices: expected a plain container, found devices",
        ),
        ({"build": {"context": ".", "ssh": ["default"]}}, "build.ssh: expected a plain build, found ssh"),
    ],
)
def test_privileges_that_are_refused(members: dict[str, Any], fault: str) -> None:
    environment = {"YES": "yes", "ALL": "ALL"}
    assert faults({"services": {"a": members}}, environment) == [f"services.a.{fault} {LEAVE_OUT}"]


def test_what_is_no_privilege_stays() -> None:
    members = {
        "privileged": "${NO:-false}",
        "pid": "service:b",
        "network_mode": "service:b",
        "cap_add": ["net_bind_service"],
        "security_opt": ["no-new-privileges:true"],
        "volumes_from": ["b"],
        "deploy": {"replicas": 2},
        "devices": [],
    }
    assert service(members) == members
    assert service({"network_mode": "bridge", "image": "x"}) == {"image": "x"}
    assert service({"network_mode": "none"}) == {"network_mode": "none"}


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        (
            {"env_file": "/etc/environment"},
            "env_file: expected a path within the app's directory, found one outside",
        ),
        (
            {"env_file": [".env", {"path": "../x"}]},
            "env_file: expected a path within the app's directory, found one outside",
        ),
        (
            {"label_file": ["~/x"]},
            "label_file: expected a path within the app's directory, found one outside",
        ),
        ({"label_file": [["x"]]}, "label_file: expected a string, found list"),
        (
            {"extends": {"file": "x", "service": "b"}},
            "extends: expected a service of this file, found another file",
        ),
        ({"build": "/"}, "build.context: expected a path within the app's directory, found one outside"),
        (
            {"build": {"dockerfile": "../x"}},
            "build.dockerfile: expected a path within the app's directory, found one outside",
        ),
        (
            {"build": {"additional_contexts": ["base=/etc"]}},
            "build.additional_contexts.base: expected a path within the app's directory, found one outside",
        ),
        ({"labels": {"teehouse.cvm": "x"}}, "labels: expected labels of the app's own, found teehouse.cvm"),
        (
            {"labels": ["com.docker.compose.project=x"]},
            "labels: expected labels of the app's own, found com.docker.compose.project",
        ),
        ({"labels": [1]}, "labels: expected strings of the form name=value, found int"),
        ({"labels": "x"}, "labels: expected a mapping, found x"),
        (
            {"container_name": "-x"},
            "container_name: expected 1 to 63 letters, digits, `_`, `.`, `-`, found another name",
        ),
        ({"container_name": []}, "container_name: expected a string, found list"),
        ({"volumes": {}}, "volumes: expected a list, found dict"),
    ],
)
def test_members_that_are_refused(members: dict[str, Any], fault: str) -> None:
    assert faults({"services": {"a": members}})[0] == f"services.a.{fault}"


def test_builds_from_the_apps_own_directory_or_from_afar() -> None:
    build = {
        "context": "https://example.com/x.git",
        "dockerfile": "D",
        "additional_contexts": {"b": "docker-image://x"},
    }
    made = plan({"services": {"a": {"build": build}, "b": {"build": "./b", "extends": "a"}}})
    assert made.builds
    assert json.loads(made.document)["services"]["a"]["build"] == build


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (None, {"default": {"aliases": ["x"]}}),
        (["n", "m"], {"n": {"aliases": ["x"]}, "m": {"aliases": ["x"]}}),
        ({"n": None, "m": {"aliases": ["y"]}}, {"n": {"aliases": ["x"]}, "m": {"aliases": ["y", "x"]}}),
        ({"n": {"aliases": ["x"], "priority": 1}}, {"n": {"aliases": ["x"], "priority": 1}}),
    ],
)
def test_a_container_keeps_its_name_within_the_app(networks: Any, expected: dict[str, Any]) -> None:
    members = {"container_name": "$NAME", **({} if networks is None else {"networks": networks})}
    assert service(members, environment={"NAME": "x"}) == {
        "container_name": f"{PROJECT}-x",
        "networks": expected,
        "labels": {"teehouse.container-name": "x"},
    }
    assert "networks" not in service({"container_name": "x", "network_mode": "none"})


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        (
            {"networks": {"n": {"external": True}}},
            "networks.n.external: expected one of the app's own, found one of the host's",
        ),
        (
            {"volumes": {"n": {"external": {"name": "x"}}}},
            "volumes.n.external: expected one of the app's own, found one of the host's",
        ),
        (
            {"secrets": {"n": {"external": "$YES"}}},
            "secrets.n.external: expected one of the app's own, found one of the host's",
        ),
        ({"networks": {"n": {"driver": "macvlan"}}}, "networks.n.driver: expected bridge, found macvlan"),
        (
            {"networks": {"n": {"driver_opts": {"com.docker.network.bridge.name": "x"}}}},
            "networks.n.driver_opts: expected no reach beyond the network, found com.docker.network.bridge.name",
        ),
        ({"volumes": {"n": {"driver": "x"}}}, "volumes.n.driver: expected local, found x"),
        (
            {"volumes": {"n": {"driver_opts": {"type": "nfs"}}}},
            "volumes.n.driver_opts: expected a bind or a tmpfs, found another file system",
        ),
        (
            {"volumes": {"n": {"driver_opts": {"o": "bind", "device": "/sys"}}}},
            f"volumes.n.driver_opts.device: expected {KERNEL}, found /sys (emulation runs on the host)",
        ),
        (
            {"volumes": {"n": {"driver_opts": {"o": "bind", "device": []}}}},
            "volumes.n.driver_opts.device: expected a string, found list",
        ),
        (
            {"secrets": {"n": {"file": "/etc/shadow"}}},
            "secrets.n.file: expected a path within the app's directory, found one outside",
        ),
        ({"networks": []}, "networks: expected a mapping, found list"),
        ({"include": ["x"]}, "include: expected a file that stands alone, found another file"),
        ({"services": None}, "services: expected at least one service, found none"),
        ({"services": {"a": "x"}}, "services.a: expected a mapping, found x"),
    ],
)
def test_parts_beside_the_services_that_are_refused(members: dict[str, Any], fault: str) -> None:
    assert faults({"services": {"a": {}}, **members}, {"YES": "true"}) == [fault]


def test_parts_beside_the_services_that_stay() -> None:
    made = plan(
        {
            "services": {"a": {}},
            "networks": {
                "n": {"driver": "bridge", "driver_opts": {"com.docker.network.driver.mtu": "1400"}},
                "m": None,
            },
            "volumes": {
                "t": {"driver_opts": {"type": "tmpfs", "device": "tmpfs"}},
                "b": {"driver": "local", "driver_opts": {"type": "none", "o": "ro,bind", "device": "/data"}},
            },
        }
    )
    document = json.loads(made.document)
    assert document["networks"] == {
        "n": {"driver": "bridge", "driver_opts": {"com.docker.network.driver.mtu": "1400"}},
        "m": {},
    }
    assert document["volumes"] == {
        "t": {"driver_opts": {"type": "tmpfs", "device": "tmpfs"}},
        "b": {"driver": "local", "driver_opts": {"type": "none", "o": "ro,bind", "device": "/cvm/disk/data"}},
    }
    assert made.binds == (Bind(Path("/cvm/disk/data"), make=True),)


def test_rule_8_every_fault_at_once() -> None:
    found = faults({"services": {"a": {"privileged": True, "pid": "host"}, "b": {"ports": ["x"]}}})
    assert [fault.partition(":")[0] for fault in found] == [
        "services.a.privileged",
        "services.a.pid",
        "services.b.ports[0]",
    ]
    many = faults({"services": {f"s{number}": {"privileged": True} for number in range(100)}})
    assert len(many) == 64


def test_yaml_is_read_by_the_core_schema() -> None:
    text = """
services: {a: {ports: [22:22], restart: no, a: on, b: 012, c: 0x1f, d: 1.5, e: 1e3, f: 2024-01-02, g: ~, h: True, i: ,
  j: -3, k: .5, 1: x, true: y, =: z}}
"""
    assert load_compose(text)["services"]["a"] == {
        "ports": ["22:22"],
        "restart": "no",
        "a": "on",
        "b": 12,
        "c": "0x1f",
        "d": 1.5,
        "e": "1e3",
        "f": "2024-01-02",
        "g": None,
        "h": True,
        "i": None,
        "j": -3,
        "k": 0.5,
        "1": "x",
        "true": "y",
        "=": "z",
    }


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "x" * (SIZE_LIMIT + 1),
            f"a file of reasonable size: expected at most {SIZE_LIMIT} bytes, found {SIZE_LIMIT + 1}",
        ),
        ("", "a file that says something: found nothing"),
        ("- a", "a mapping: found list"),
        ("a: [}", "YAML: found a fault in line 1, column 5"),
        ("a: \x00", "YAML: found a character that has no place in it"),
        ("a: *b", "YAML: found a fault in line 1, column 4"),
        ("a: !!python/object:os.system x", "YAML: found a fault in line 1, column 4"),
        ("a: 1\na: 2", "keys: expected each once, found 'a' again in line 2"),
        ("? [a]\n: 1", "keys: expected scalars, found another one in line 1"),
        ("a: " + "1" * 5000, "YAML: found a number that is too long"),
        ("a: " + "[" * (DEPTH_LIMIT + 1), f"nesting: expected at most {DEPTH_LIMIT} levels, found more"),
        ("a: " + "[" * 100_000, f"nesting: expected at most {DEPTH_LIMIT} levels, found more"),
        ("a: &a [*a]", "aliases: expected no alias within its own anchor, found one in line 1"),
        (BOMB, "aliases: expected at most 50000 values in all, found more"),
        (MERGE_BOMB, "aliases: expected at most 50000 values in all, found more"),
        (
            "".join(f"x{n}: &a{n} {'[' * 30}{f'*a{n - 1}' if n else ''}{']' * 30}\n" for n in range(3)),
            f"nesting: expected at most {DEPTH_LIMIT} levels, found more",
        ),
    ],
)
def test_yaml_that_is_refused(text: str, fault: str) -> None:
    with pytest.raises(WorkloadError) as refused:
        load_compose(text)
    assert str(refused.value) == f"docker-compose file: {fault}"


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(WorkloadError):
        assert isinstance(load_compose(text), dict)


ENVIRONMENT = {"A": "1", "EMPTY": "", "LONG_2": "x"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("$A", "1"),
        ("$A$LONG_2-", "1x-"),
        ("${A}b", "1b"),
        ("$$A", "$A"),
        ("$UNSET.", "."),
        ("${UNSET:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${UNSET-d}", "d"),
        ("${A:-d}", "1"),
        ("${UNSET:-${A}}x}", "1x}"),
        ("${UNSET:-$$}", "$"),
        ("${A:+r}", "r"),
        ("${EMPTY:+r}", ""),
        ("${EMPTY+r}", "r"),
        ("${A:?}", "1"),
        ("${EMPTY?why}", ""),
    ],
)
def test_variables(text: str, value: str) -> None:
    assert interpolate(text, ENVIRONMENT) == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("$", "a `$` that begins no variable"),
        ("$1", "a `$` that begins no variable"),
        ("${A", "a `${` without its `}`"),
        ("${}", "a variable of another form"),
        ("${A B}", "a variable of another form"),
        ("${A:}", "a variable of another form"),
        ("${EMPTY:?why}", "variable EMPTY that is demanded and not given"),
        ("${UNSET?}", "variable UNSET that is demanded and not given"),
        ("${U:-" * 10 + "}" * 10, "defaults within defaults too deep"),
    ],
)
def test_variables_that_are_refused(text: str, fault: str) -> None:
    with pytest.raises(
        InterpolationError, match=fault.replace("$", r"\$").replace("{", r"\{").replace("}", r"\}")
    ):
        interpolate(text, ENVIRONMENT)


@given(st.text())
def test_what_is_escaped_comes_back(text: str) -> None:
    assert interpolate(escaped(text), {}) == text
