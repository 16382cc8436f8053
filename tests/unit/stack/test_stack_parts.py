"""The parts of the composition root that decide something: addresses, compose files, installations."""

import json
from pathlib import Path

import pytest

from support.emulated import SEED, clock
from teehouse.base.findings import MisuseError
from teehouse.guest.sockets import TcpAddress
from teehouse.stack.addresses import loopback_address
from teehouse.stack.compose import COMPOSE_LIMIT, load_compose, wrapped
from teehouse.stack.cvm_emulated import boot_emulated_cvm
from teehouse.stack.installation import open_installation


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8090", TcpAddress("127.0.0.1", 8090)),
        ("localhost:0", TcpAddress("127.0.0.1", 0)),
        ("[::1]:65535", TcpAddress("::1", 65535)),
        ("127.1.2.3:1", TcpAddress("127.1.2.3", 1)),
    ],
)
def test_loopback_addresses(text: str, address: TcpAddress) -> None:
    assert loopback_address(text) == address


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("0.0.0.0:1", "address.exposed"),
        ("[::]:1", "address.exposed"),
        ("example.com:1", "address.exposed"),
        ("127.0.0.1", "address.form"),
        (":1", "address.form"),
        ("127.0.0.1:65536", "address.form"),
        ("127.0.0.1:-1", "address.form"),
    ],
)
def test_other_addresses_are_refused(text: str, code: str) -> None:
    with pytest.raises(MisuseError) as refused:
        loopback_address(text)
    assert (refused.value.finding.code, refused.value.finding.found) == (code, text)


def test_a_json_file_is_measured_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "app-compose.json"
    file.write_bytes(b'{ "spaces" :  "stay" }\n')
    assert load_compose(file) == b'{ "spaces" :  "stay" }\n'


def test_a_docker_compose_file_is_wrapped(tmp_path: Path) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text("services: {}\n")
    assert load_compose(file) == wrapped(tmp_path.name, "services: {}\n")
    assert json.loads(wrapped("x", "y")) == {
        "docker_compose_file": "y",
        "kms_enabled": True,
        "manifest_version": 2,
        "name": "x",
        "public_logs": True,
        "public_sysinfo": True,
        "public_tcbinfo": True,
        "runner": "docker-compose",
    }


def test_compose_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"\xe4")
    (tmp_path / "long.json").write_bytes(bytes(COMPOSE_LIMIT + 1))
    for name, code in (
        ("none", "compose.unreadable"),
        ("latin.yaml", "compose.not-utf8"),
        ("long.json", "compose.too-long"),
    ):
        with pytest.raises(MisuseError) as refused:
            load_compose(tmp_path / name)
        assert refused.value.finding.code == code


def test_an_installation_is_the_same_every_time(tmp_path: Path) -> None:
    first = open_installation(tmp_path / "a", clock(), seed=SEED)
    second = open_installation(tmp_path / "a", clock())
    assert first.root == second.root
    assert first.kms.ca.certificate_der == second.kms.ca.certificate_der
    assert first.root_pem.read_text() == first.pki.root_pem
    modes = {
        p.name: oct(p.stat().st_mode & 0o777) for p in (first.directory, first.state, first.state / "seed")
    }
    assert modes == {"a": "0o700", "state": "0o700", "seed": "0o600"}
    assert open_installation(tmp_path / "b", clock()).root != first.root


def test_installations_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MisuseError) as refused:
        open_installation(tmp_path / "file", clock())
    assert refused.value.finding.code == "installation.directory"
    damaged = open_installation(tmp_path / "a", clock())
    (damaged.state / "installation.json").write_text("{")
    with pytest.raises(MisuseError) as refused:
        open_installation(tmp_path / "a", clock())
    assert refused.value.finding.code == "installation.damaged"


async def test_a_crash_between_register_and_log_is_repaired_in_emulation(tmp_path: Path) -> None:
    installation = open_installation(tmp_path / "a", clock(), seed=SEED)
    cvm = await boot_emulated_cvm(installation, wrapped("app", "services: {}\n"))
    register = cvm.log.register
    await cvm.log.close()
    (installation.state / "cvm" / "rtmr3").write_bytes(bytes(48))  # behind its log by the whole boot
    again = await boot_emulated_cvm(installation, wrapped("app", "services: {}\n"))
    assert again.log.register == register
    assert await again.log.platform.runtime_register() == register
    await again.log.close()


@pytest.mark.parametrize(
    ("provider", "links"),
    [({"key_provider": "none"}, 0), ({"kms_enabled": True}, 65)],
)
async def test_keys_follow_the_compose_file(tmp_path: Path, provider: dict[str, object], links: int) -> None:
    compose = {"manifest_version": 2, "name": "a", "runner": "docker-compose", **provider}
    installation = open_installation(tmp_path / "a", clock(), seed=SEED)
    cvm = await boot_emulated_cvm(installation, json.dumps(compose).encode())
    assert len(cvm.keys.k256_signature) == links
    await cvm.log.close()


async def test_key_providers_that_are_not_emulated(tmp_path: Path) -> None:
    compose = {"manifest_version": 2, "name": "a", "runner": "docker-compose", "key_provider": "tpm"}
    installation = open_installation(tmp_path / "a", clock(), seed=SEED)
    with pytest.raises(MisuseError) as refused:
        await boot_emulated_cvm(installation, json.dumps(compose).encode())
    assert refused.value.finding.code == "compose.key-provider"


async def test_a_key_file_wins(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from teehouse.keys.appkeys import generate_with_self_made_kms, generate_without_kms

    installation = open_installation(tmp_path / "a", clock(), seed=SEED)
    file = installation.directory / "appkeys.json"
    now = datetime(2026, 1, 1, tzinfo=UTC)
    keys = generate_without_kms(bytes(range(32)), now)
    file.write_text(keys.to_json())
    cvm = await boot_emulated_cvm(installation, wrapped("app", "services: {}\n"))
    assert cvm.keys == keys
    await cvm.log.close()
    file.write_text(generate_with_self_made_kms(SEED, bytes(20), b"", now).keys.to_json())
    with pytest.raises(MisuseError) as refused:
        await boot_emulated_cvm(installation, wrapped("app", "services: {}\n"))
    assert refused.value.finding.code == "appkeys.needs-kms"
