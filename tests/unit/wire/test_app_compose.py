"""app-compose.json and .sys-config.json (guest-agent.md 12.1, 12.3; trust.md 14)."""

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teehouse.wire.app_compose import COMPOSE_LIMIT, AppCompose, parse_app_compose
from teehouse.wire.members import FileError
from teehouse.wire.sys_config import SysConfig, parse_sys_config

LEAST = {"manifest_version": 2, "name": "app", "runner": "docker-compose"}


def compose(**members: Any) -> AppCompose:
    return parse_app_compose(json.dumps(LEAST | members))


def faults(raw: str | bytes) -> list[tuple[str, str, str]]:
    with pytest.raises(FileError) as caught:
        parse_app_compose(raw)
    assert caught.value.finding.code == "app-compose.faults"
    assert all(fault.code == fault.subject for fault in caught.value.faults)
    return [(fault.subject, fault.expected, fault.found) for fault in caught.value.faults]


def test_absent_members_take_their_defaults() -> None:
    raw = b'{"runner":"bash",\n "name":"\xc3\xa9","manifest_version":1, "other":{}}'
    found = parse_app_compose(raw)
    assert found == AppCompose(
        raw=raw, manifest_version=1, name="é", runner="bash", key_provider="none", verity_volumes=None
    )
    assert (found.public_logs, found.public_sysinfo, found.public_tcbinfo) == (False, False, True)
    assert (found.secure_time, found.event_log_version, found.launch_token_hash) == (True, 1, None)
    assert found.text.encode() == raw
    assert found.compose_hash == sha256(raw).digest()
    assert found == parse_app_compose(raw.decode())


def test_every_member_is_read() -> None:
    # The launch token hash is trust.md 14's vector.
    token_hash = "28faa1319055d733ad9651f5ab7689c15b04609846bcd27b3c5bc8df6246f5a3"
    members: dict[str, Any] = {
        "manifest_version": "3",
        "name": "n",
        "runner": "nerdctl-compose",
        "key_provider": "tpm",
        "features": ["x"],
        "snapshotter": "stargz",
        "docker_compose_file": "services: {}",
        "pre_launch_script": "echo",
        "bash_script": "true",
        "init_script": ["a", "b"],
        "public_logs": True,
        "public_sysinfo": True,
        "public_tcbinfo": False,
        "kms_enabled": True,
        "tproxy_enabled": True,
        "local_key_provider_enabled": True,
        "key_provider_id": "0xABcd",
        "allowed_envs": ["A", "B"],
        "no_instance_id": True,
        "secure_time": False,
        "storage_fs": "ext4",
        "swap_size": "1G",
        "event_log_version": 2,
        "port_policy": {"restrict": [1, 1.5, {"a": None}]},
        "requirements": {"launch_token_hash": token_hash, "gpu_policy": {}},
        "verity_volumes": [{"name": "v"}],
    }
    raw = json.dumps(members)
    found = parse_app_compose(raw)
    assert found == AppCompose(
        raw=raw.encode(),
        manifest_version=3,
        name="n",
        runner="nerdctl-compose",
        key_provider="tpm",
        features=("x",),
        snapshotter="stargz",
        docker_compose_file="services: {}",
        pre_launch_script="echo",
        bash_script="true",
        init_scripts=("a", "b"),
        public_logs=True,
        public_sysinfo=True,
        public_tcbinfo=False,
        kms_enabled=True,
        gateway_enabled=True,
        local_key_provider_enabled=True,
        key_provider_id=b"\xab\xcd",
        allowed_envs=("A", "B"),
        no_instance_id=True,
        secure_time=False,
        storage_fs="ext4",
        swap_size=1 << 30,
        event_log_version=2,
        port_policy={"restrict": [1, 1.5, {"a": None}]},
        requirements={"launch_token_hash": token_hash, "gpu_policy": {}},
        verity_volumes=[{"name": "v"}],
    )
    assert found.launch_token_hash == bytes.fromhex(token_hash)
    assert found.init_script_hashes == (sha256(b"a").digest(), sha256(b"b").digest())


@pytest.mark.parametrize(
    ("members", "provider"),
    [
        ({}, "none"),
        ({"kms_enabled": True, "local_key_provider_enabled": True}, "kms"),
        ({"features": ["kms"]}, "kms"),
        ({"local_key_provider_enabled": True}, "local"),
        ({"kms_enabled": True, "key_provider": "none"}, "none"),
        ({"kms_enabled": True, "key_provider": None}, "kms"),
    ],
)
def test_the_key_provider_wins_over_the_flags(members: dict[str, Any], provider: str) -> None:
    assert compose(**members).key_provider == provider


@pytest.mark.parametrize(
    ("members", "enabled"),
    [
        ({}, False),
        ({"gateway_enabled": True, "tproxy_enabled": False}, True),
        ({"gateway_enabled": None, "tproxy_enabled": True}, True),
        ({"gateway_enabled": False, "tproxy_enabled": True}, False),
        ({"features": ["tproxy-net"]}, True),
    ],
)
def test_the_gateway_has_an_old_name(members: dict[str, Any], enabled: bool) -> None:
    assert compose(**members).gateway_enabled is enabled


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, 0),
        (5, 5),
        ("7", 7),
        ("2K", 2048),
        ("3 MB", 3 << 20),
        ("1GiB", 1 << 30),
        ("1t", 1 << 40),
        (None, 0),
    ],
)
def test_sizes(size: Any, expected: int) -> None:
    assert compose(swap_size=size).swap_size == expected


@pytest.mark.parametrize(
    ("script", "scripts"), [(None, ()), ("a", ("a",)), ([], ()), (["a"] * 5, ("a",) * 5)]
)
def test_init_scripts(script: Any, scripts: tuple[str, ...]) -> None:
    assert compose(init_script=script).init_scripts == scripts


@pytest.mark.parametrize("version", [1, 2, "1", "2", "3", "10"])
def test_manifest_versions(version: Any) -> None:
    assert compose(manifest_version=version).manifest_version == int(version)


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"manifest_version": 3}, ("app-compose.manifest_version", '1, 2, or a string such as "3"', "integer `3`")),
        ({"manifest_version": "03"}, ("app-compose.manifest_version", '1, 2, or a string such as "3"', 'string "03"')),
        ({"manifest_version": "0"}, ("app-compose.manifest_version", '1, 2, or a string such as "3"', 'string "0"')),
        ({"manifest_version": "²"}, ("app-compose.manifest_version", '1, 2, or a string such as "3"', 'string "²"')),
        ({"manifest_version": True}, ("app-compose.manifest_version", '1, 2, or a string such as "3"', "boolean `true`")),
        ({"name": None}, ("app-compose.name", "a value", "none")),
        ({"name": 5}, ("app-compose.name", "a string", "integer `5`")),
        ({"runner": "podman"}, ("app-compose.runner", "docker-compose or nerdctl-compose or bash", '"podman"')),
        ({"public_logs": "yes"}, ("app-compose.public_logs", "true or false", 'string "yes"')),
        ({"allowed_envs": "A"}, ("app-compose.allowed_envs", "a list of strings", 'string "A"')),
        ({"allowed_envs": ["A", 1.0]}, ("app-compose.allowed_envs", "a string", "floating point `1`")),
        ({"key_provider_id": "0"}, ("app-compose.key_provider_id", "hex digits, two for each byte", '"0"')),
        ({"storage_fs": "btrfs"}, ("app-compose.storage_fs", "zfs or ext4", '"btrfs"')),
        ({"swap_size": -1}, ("app-compose.swap_size", "a size in bytes, such as 1073741824 or 1G", "integer `-1`")),
        ({"swap_size": "1X"}, ("app-compose.swap_size", "a size in bytes, such as 1073741824 or 1G", 'string "1X"')),
        ({"swap_size": True}, ("app-compose.swap_size", "a size in bytes, such as 1073741824 or 1G", "boolean `true`")),
        ({"event_log_version": 3}, ("app-compose.event_log_version", "1 or 2", "integer `3`")),
        ({"event_log_version": True}, ("app-compose.event_log_version", "1 or 2", "boolean `true`")),
        ({"init_script": ["a"] * 6}, ("app-compose.init_script", "at most 5 scripts", "6")),
        ({"init_script": 5}, ("app-compose.init_script", "a list of strings", "integer `5`")),
        ({"port_policy": []}, ("app-compose.port_policy", "an object", "sequence")),
        ({"requirements": {"gpus": 1}}, ("app-compose.requirements.gpus", "a requirement that is known", "one that is not")),
        (
            {"requirements": {"launch_token_hash": "00"}},
            ("app-compose.requirements.launch_token_hash", "a SHA-256 digest in hex", "something else"),
        ),
        (
            {"requirements": {"launch_token_hash": 5}},
            ("app-compose.requirements.launch_token_hash", "a SHA-256 digest in hex", "something else"),
        ),
    ],
)  # fmt: skip
def test_each_fault_is_named(members: dict[str, Any], fault: tuple[str, str, str]) -> None:
    assert faults(json.dumps(LEAST | members)) == [fault]


def test_all_faults_are_reported_at_once() -> None:
    raw = '{"name":5,"name":"n","public_logs":1,"runner":"bash"}'
    with pytest.raises(FileError) as caught:
        parse_app_compose(raw)
    assert [fault.subject for fault in caught.value.faults] == [
        "app-compose.name",
        "app-compose.manifest_version",
        "app-compose.public_logs",
    ]
    assert str(caught.value) == (
        "app-compose cannot be used: app-compose.name: expected one member of this name, found two; "
        "app-compose.manifest_version: expected a value, found none; "
        "app-compose.public_logs: expected true or false, found integer `1` (correct app-compose)"
    )


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"", ("app-compose", "JSON", "EOF while parsing a value at line 1 column 0")),
        (b"{", ("app-compose", "JSON", "EOF while parsing an object at line 1 column 1")),
        (b"[]", ("app-compose", "an object", "sequence")),
        (b'{"x":"\xff"}', ("app-compose", "JSON", "invalid unicode code point at line 1 column 6")),
        ('{"x":"\ud800"}', ("app-compose", "JSON", "invalid unicode code point at line 1 column 6")),
        (rb'{"x":["\uD800"]}', ("app-compose", "Unicode text", "half a surrogate pair")),
        (
            b" " * (COMPOSE_LIMIT + 1),
            ("app-compose", f"at most {COMPOSE_LIMIT} bytes", f"{COMPOSE_LIMIT + 1}"),
        ),
    ],
)
def test_a_file_that_is_no_object_is_one_fault(raw: str | bytes, fault: tuple[str, str, str]) -> None:
    assert faults(raw) == [fault]


def test_sound_surrogate_pairs_are_text() -> None:
    assert parse_app_compose(json.dumps(LEAST | {"name": "😀"})).name == "😀"


def test_the_manifest_is_not_in_the_repr() -> None:
    assert "s3cret" not in repr(
        compose(docker_compose_file="s3cret", init_script="s3cret", bash_script="s3cret")
    )


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_one_kind_of_refusal(raw: bytes) -> None:
    for parse in (parse_app_compose, parse_sys_config):
        try:
            parse(raw)
        except FileError as error:
            assert error.faults  # noqa: PT017 - most bytes are refused, some are an empty object


def test_sys_config() -> None:
    assert parse_sys_config("{}") == SysConfig(vm_config="")
    raw = {
        "kms_urls": ["https://kms"],
        "tproxy_urls": ["https://gw"],
        "pccs_url": "https://old",
        "docker_registry": "r",
        "host_api_url": "vsock://2:10000/api",
        "mr_config": "{}",
        "nvidia_attestation_proxy_url": "https://n",
        "vm_config": ' {"os_image_hash":"00"}',
    }
    expected = SysConfig(
        vm_config=' {"os_image_hash":"00"}',
        kms_urls=("https://kms",),
        gateway_urls=("https://gw",),
        pccs_url="https://old",
        nvidia_attestation_proxy_url="https://n",
        docker_registry="r",
        host_api_url="vsock://2:10000/api",
        mr_config="{}",
    )
    assert parse_sys_config(json.dumps(raw)) == expected
    newer = {
        "collateral_urls": {"pccs": "https://new", "amd_kds": "https://amd", "x": None},
        "gateway_urls": ["g"],
    }
    found = parse_sys_config(json.dumps(raw | newer).encode())
    assert (found.pccs_url, found.amd_kds_url, found.gateway_urls) == ("https://new", "https://amd", ("g",))


def test_sys_config_faults() -> None:
    with pytest.raises(FileError) as caught:
        parse_sys_config('{"vm_config":{},"kms_urls":"u","collateral_urls":{"pccs":5}}')
    assert [(fault.subject, fault.expected) for fault in caught.value.faults] == [
        ("sys-config.collateral_urls.pccs", "a string"),
        ("sys-config.vm_config", "a string"),
        ("sys-config.kms_urls", "a list of strings"),
    ]
