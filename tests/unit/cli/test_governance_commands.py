"""`teehouse governance` and `teehouse chain deploy`, as they are typed, over a chain in the process."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from support.chain_support import COMPOSE, DEVICE, KEY, OWNER, STRANGER_KEY, OnChain
from teehouse.base.findings import EvidenceError, MisuseError
from teehouse.cli.chain_options import private_key
from teehouse.cli.governance import governance_app
from teehouse.stack.chain_commands import chain_app
from teehouse.wire.cloud.allowlists import CvmsAllowed, IsAllowed

NEW = b"\x77" * 32


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> OnChain:
    """A chain with a KMS, whose node answers whatever URL is named."""
    made = OnChain()
    for module in ("chain.rpc_reader", "cli.governing", "stack.chain_deploying"):
        monkeypatch.setattr(f"teehouse.{module}.Endpoint", lambda url, **_: made.node.endpoint())
    monkeypatch.setenv("ETH_PRIVATE_KEY", KEY.hex())
    monkeypatch.setenv("COLUMNS", "80")
    return made


@pytest.fixture
def app_id(chain: OnChain) -> str:
    return asyncio.run(chain.with_app()).hex()


def typed(*arguments: object, application: Any = governance_app) -> Result:
    return CliRunner().invoke(application, [str(argument) for argument in arguments])


def printed(result: Result) -> Any:
    assert result.exception is None, result.exception
    return json.loads(result.stdout)


def test_what_a_contract_allows_is_shown(chain: OnChain, app_id: str) -> None:
    shown = typed("show", app_id)
    assert shown.exception is None
    for text in (app_id, OWNER.hex(), "one key alone (EOA)", COMPOSE.hex(), DEVICE.hex(), "by the owner"):
        assert text in shown.stdout
    assert "+ compose-hash c0c0c0c0c0c0c0c0" in shown.stdout
    assert max(map(len, shown.stdout.splitlines()[:8])) <= 80


def test_what_a_contract_allows_is_printed_as_json(chain: OnChain, app_id: str) -> None:
    found = printed(typed("show", f"0x{app_id.upper()}", "--json"))
    changes = found.pop("changes")
    assert found == {
        "app": f"0x{app_id}",
        "block_number": chain.node.head,
        "owner": f"0x{OWNER.hex()}",
        "owner_is_contract": False,
        "pending_owner": None,
        "implementation": f"0x{chain.record.app_implementation.hex()}",
        "upgrades_disabled": False,
        "require_tcb_up_to_date": False,
        "allow_any_device": False,
        "compose_hashes": [f"0x{COMPOSE.hex()}"],
        "device_ids": [f"0x{DEVICE.hex()}"],
    }
    assert [(change["policy"], change["enabled"]) for change in changes] == [
        ("device", True),
        ("compose-hash", True),
    ]


@pytest.mark.parametrize("kind", ["compose", "device"])
def test_entries_are_allowed_and_taken_back(chain: OnChain, app_id: str, kind: str) -> None:
    member = {"compose": "compose_hashes", "device": "device_ids"}[kind]
    done = printed(typed(f"allow-{kind}", app_id, NEW.hex(), "--json"))
    assert done["transaction_hash"] in chain.node.receipts
    assert f"0x{NEW.hex()}" in printed(typed("show", app_id, "--json"))[member]
    again = typed(f"allow-{kind}", app_id, NEW.hex())
    assert "It is so already" in again.stdout
    assert printed(typed(f"allow-{kind}", app_id, NEW.hex(), "--json"))["transaction_hash"] is None
    assert "✓ done in block" in typed(f"remove-{kind}", app_id, f"0x{NEW.hex()}").stdout
    assert f"0x{NEW.hex()}" not in printed(typed("show", app_id, "--json"))[member]


def test_a_stranger_changes_nothing(
    chain: OnChain, app_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(f"0x{STRANGER_KEY.hex()}\n")
    refused = typed("remove-device", app_id, DEVICE.hex(), "--key-file", key_file)
    assert isinstance(refused.exception, EvidenceError)
    assert "OwnableUnauthorizedAccount" in str(refused.exception)


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ETH_PRIVATE_KEY", raising=False)
    with pytest.raises(MisuseError):
        private_key(None)
    with pytest.raises(MisuseError):
        private_key(tmp_path / "missing")
    (tmp_path / "key").write_bytes(b"\xff" + KEY.hex().encode())
    with pytest.raises(MisuseError) as refused:
        private_key(tmp_path / "key")
    assert KEY.hex()[:8] not in str(refused.value)
    monkeypatch.setenv("ETH_PRIVATE_KEY", KEY.hex())
    assert private_key(None) == KEY


@pytest.fixture
def running(tmp_path: Path) -> Path:
    path = tmp_path / "cvms.json"
    path.write_text(
        json.dumps(
            [
                {"name": "web", "compose_hash": COMPOSE.hex(), "device_id": f"0x{DEVICE.hex()}"},
                {
                    "name": "db",
                    "compose_hash": NEW.hex(),
                    "device_id": DEVICE.hex(),
                    "tcb_status": "OutOfDate",
                },
            ]
        )
    )
    return path


def test_a_dry_run_says_who_would_be_refused(chain: OnChain, app_id: str, running: Path) -> None:
    sent = chain.node.asked.count("eth_sendRawTransaction")
    result = typed("dry-run", app_id, "remove-compose", COMPOSE.hex(), "--cvms", running)
    assert result.exit_code == 10
    for text in ("of 2 running CVMs", "1 would be refused keys", "web  Compose hash not allowed", "db"):
        assert text in result.stdout
    result = typed("dry-run", app_id, "remove-compose", COMPOSE.hex(), "--cvms", running, "--json")
    assert result.exit_code == 10
    found = json.loads(result.stdout)
    assert (found["refused_count"], found["block_number"]) == (1, chain.node.head)
    assert found["cvms"] == [
        {
            "name": "web",
            "compose_hash": f"0x{COMPOSE.hex()}",
            "device_id": f"0x{DEVICE.hex()}",
            "reason_now": "",
            "reason_after": "Compose hash not allowed",
            "newly_refused": True,
        },
        {
            "name": "db",
            "compose_hash": f"0x{NEW.hex()}",
            "device_id": f"0x{DEVICE.hex()}",
            "reason_now": "Compose hash not allowed",
            "reason_after": "Compose hash not allowed",
            "newly_refused": False,
        },
    ]
    assert chain.node.asked.count("eth_sendRawTransaction") == sent  # nothing is changed


def test_a_dry_run_that_refuses_nobody_ends_well(chain: OnChain, app_id: str, running: Path) -> None:
    result = typed("dry-run", app_id, "allow-compose", NEW.hex(), "--cvms", running)
    assert (result.exit_code, "1 would be allowed" in result.stdout) == (0, True)
    assert typed("dry-run", app_id, "any-device", "--cvms", running).exit_code == 0


def test_a_dry_run_asks_the_control_plane_who_runs(
    chain: OnChain, app_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = CvmsAllowed(
        is_onchain=True,
        results=[
            IsAllowed(
                cvm_id="cvm_1",
                app_contract_address=app_id,
                compose_hash=COMPOSE.hex(),
                device_id=DEVICE.hex(),
                compose_hash_allowed=False,  # what it says of the contract is not relied on
                allow_any_device=False,
                is_allowed=False,
            )
        ],
        skipped_cvm_ids=["cvm_2"],
    )
    asked: list[str] = []

    def answer(_: Any, app: str) -> CvmsAllowed:
        asked.append(app)
        return told

    monkeypatch.setattr("teehouse.client.cloud.clients.CloudClient.check_app_cvms_is_allowed", answer)
    arguments = ("dry-run", app_id, "listed-devices", "--api-url", "http://cloud.test/api/v1")
    assert typed(*arguments).exit_code == 0
    result = typed("dry-run", app_id, "remove-device", DEVICE.hex(), *arguments[3:])
    assert (result.exit_code, "cvm_1  Device not allowed" in result.stdout) == (10, True)
    assert "1 more have no compose hash or no device yet" in result.stdout
    strict = typed("dry-run", app_id, "require-tcb", *arguments[3:])
    assert "tells no TCB statuses" in strict.stdout
    assert asked == [app_id] * 3
    told = CvmsAllowed(is_onchain=False)
    assert isinstance(typed(*arguments).exception, MisuseError)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"name":"a"}]',
        b'[{"name":"a","compose_hash":"12","device_id":"12"}]',
        b"[" * 9999,
    ],
)
def test_a_list_that_is_none_is_misuse(chain: OnChain, app_id: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list").write_bytes(content)
    assert isinstance(
        typed("dry-run", app_id, "any-device", "--cvms", tmp_path / "list").exception, MisuseError
    )
    assert isinstance(
        typed("dry-run", app_id, "any-device", "--cvms", tmp_path / "none").exception, MisuseError
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("dry-run", "00" * 20, "any-device", "00" * 32),
        ("dry-run", "00" * 20, "remove-device"),
        ("dry-run", "00" * 20, "any-device", "--cvms", "x", "--api-url", "y"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: tuple[str, ...]) -> None:
    assert typed(*arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [("show", "00" * 19), ("allow-device", "00" * 20, "00" * 31)])
def test_hex_of_another_length_is_misuse(arguments: tuple[str, ...]) -> None:
    assert isinstance(typed(*arguments).exception, MisuseError)


def test_deployment_prints_its_record_and_is_done_once(chain: OnChain) -> None:
    arguments = ("deploy", "--os-image", NEW.hex(), "--kms-mr", NEW.hex(), "--kms-device", NEW.hex())
    first = typed(*arguments, application=chain_app)
    assert first.exception is None
    assert "✓ KMS contract at 0x" in first.stdout
    record = printed(typed(*arguments, "--json", application=chain_app))
    assert (record["done"], record["kms_owner"]) == ([], f"0x{OWNER.hex()}")
    assert "all of it stood there before" in typed(*arguments, application=chain_app).stdout
    known = printed(
        typed("deploy", "--kms-contract", record["kms_contract"], "--json", application=chain_app)
    )
    assert known == record | {"block_number": known["block_number"]}
    other = printed(
        typed("deploy", "--salt", NEW.hex(), "--gateway-app-id", "g", "--json", application=chain_app)
    )
    assert other["kms_contract"] != record["kms_contract"]


def test_an_owner_that_is_a_contract_is_said_to_be_one(chain: OnChain, app_id: str) -> None:
    from teehouse.chain import calls as abi

    contract = bytes.fromhex(app_id)
    for data in (
        abi.TRANSFER_OWNERSHIP(chain.record.kms_contract),
        abi.SET_ALLOW_ANY_DEVICE(True),
        abi.SET_REQUIRE_TCB_UP_TO_DATE(True),
        abi.DISABLE_UPGRADES(),
    ):
        asyncio.run(chain.owner.send(contract, data))
    shown = typed("show", app_id).stdout
    for text in ("to be owned by", "any device", "must be up to date", "disabled for good"):
        assert text in shown
    chain.node.codes[OWNER] = b"\xfe"
    assert "a contract" in typed("show", app_id).stdout
