"""On which chain an installation is (stack/onchain_emulated.py): what the folder keeps, and what is refused."""

import json
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.chain_support import FakeNode
from support.emulated import SEED
from teehouse.attestation.envelope import decode_attestation
from teehouse.base.clock import SystemClock
from teehouse.base.findings import CollateralError, MisuseError
from teehouse.kms.rootkeys import bootstrap_report_data
from teehouse.stack import onchain_emulated
from teehouse.stack.installation import Installation, open_installation
from teehouse.stack.kms_emulated import boot_kms, off_chain, on_chain
from teehouse.stack.onchain_emulated import ANVIL, RECORD, ChainChoice, chosen_chain, serve_onchain
from teehouse.stack.sample_record import RECORD as SAMPLE
from teehouse.stack.sample_record import SampleRecord, keep_record, read_record

OWN, URL = ChainChoice(ANVIL), ChainChoice("http://127.0.0.1:1/a-key")
CONTRACT = "0x" + "c1" * 20


@pytest.fixture
def made(tmp_path: Path) -> Installation:
    return open_installation(tmp_path, SystemClock(), seed=SEED)


def keep(made: Installation, **members: Any) -> None:
    kept = {"place": "anvil", "chain_id": 31337, "kms_contract": CONTRACT, **members}
    (made.state / RECORD).write_text(json.dumps(kept))


def code(made: Installation, choice: ChainChoice | None) -> str:
    with pytest.raises(MisuseError) as refused:
        chosen_chain(made, choice)
    return refused.value.finding.code


def test_a_new_folder_is_where_it_is_said(made: Installation) -> None:
    assert [chosen_chain(made, choice) for choice in (None, OWN, URL)] == [None, OWN, URL]
    assert "a-key" not in repr(URL)


def test_a_folder_off_chain_stays_off_chain(made: Installation) -> None:
    keep_record(made.state / SAMPLE, SampleRecord("ab" * 20, 0, 1))
    assert chosen_chain(made, None) is None
    assert code(made, OWN) == code(made, URL) == "up.other-chain"


def test_a_folder_on_its_own_chain_needs_no_word_of_it(made: Installation) -> None:
    keep(made)
    assert chosen_chain(made, None) == chosen_chain(made, OWN) == OWN
    assert code(made, URL) == "up.other-chain"


def test_a_folder_on_another_chain_is_told_where_that_is(made: Installation) -> None:
    keep(made, place="url")
    assert chosen_chain(made, URL) == URL
    assert code(made, None) == "up.chain-missing"
    assert code(made, OWN) == "up.other-chain"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"place": "anvil", "chain_id": "x", "kms_contract": ""}']
)
def test_a_damaged_record_is_refused_and_left_alone(made: Installation, content: str) -> None:
    (made.state / RECORD).write_text(content)
    for choice in (None, OWN, URL):
        assert code(made, choice) == "up.chain-record"
    assert (made.state / RECORD).read_text() == content


@pytest.mark.parametrize("given", [{"kms_contract": bytes(20)}, {"key_file": Path("x")}])
async def test_the_own_chain_takes_neither_key_nor_contract(
    made: Installation, given: dict[str, Any]
) -> None:
    with pytest.raises(MisuseError) as refused:
        async with serve_onchain(made, replace(OWN, **given), ()):
            pytest.fail("it serves")
    assert refused.value.finding.code == "up.chain-own"
    assert not (made.state / RECORD).exists()


async def test_another_contract_than_the_folders_is_refused_before_anything_is_asked(
    made: Installation,
) -> None:
    keep(made, place="url")
    with pytest.raises(MisuseError) as refused:
        async with serve_onchain(made, replace(URL, kms_contract=bytes(20)), ()):
            pytest.fail("it serves")
    assert refused.value.finding.code == "up.other-chain"


async def test_another_chain_than_the_folders_is_refused_before_anything_is_written(
    made: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(made, place="url", chain_id=5)
    node = FakeNode()
    monkeypatch.setattr(onchain_emulated, "Endpoint", lambda _: node.endpoint())
    monkeypatch.setenv("ETH_PRIVATE_KEY", "11" * 32)

    async def reader(*_: Any, **__: Any) -> Any:
        return node.reader()

    monkeypatch.setattr(onchain_emulated, "open_reader", reader)
    with pytest.raises(MisuseError) as refused:
        async with serve_onchain(made, URL, ()):
            pytest.fail("it serves")
    assert refused.value.finding.code == "up.other-chain"
    assert "chain 5" in refused.value.finding.subject


async def test_a_key_is_asked_for_before_the_chain(
    made: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ETH_PRIVATE_KEY", raising=False)
    with pytest.raises(MisuseError) as refused:
        async with serve_onchain(made, URL, ()):
            pytest.fail("it serves")
    assert refused.value.finding.code == "chain.key"
    monkeypatch.setenv("ETH_PRIVATE_KEY", "11" * 32)
    with pytest.raises(CollateralError) as unreached:
        async with serve_onchain(made, URL, ()):
            pytest.fail("it serves")
    assert "a-key" not in str(unreached.value)


async def test_the_kms_on_chain_has_keys_of_its_own_and_proves_them(made: Installation) -> None:
    async with AsyncExitStack() as stack:
        off = await stack.enter_async_context(boot_kms(made, off_chain(made)))
        on = await stack.enter_async_context(boot_kms(made, on_chain(made)))
        keys = [booted.store.load(made.clock.now()) for booted in (off, on)]
        assert keys[0].root.k256_public_key == made.kms.k256_public_key != keys[1].root.k256_public_key
        assert keys[0].ca_pubkey != keys[1].ca_pubkey
        assert off.measured.mr_aggregated != on.measured.mr_aggregated
        info = onchain_emulated._kms_info(on)
        assert (info.k256_pubkey, info.ca_pubkey) == (keys[1].root.k256_public_key, keys[1].ca_pubkey)
        proof = decode_attestation(keys[1].bootstrap_info.attestation if keys[1].bootstrap_info else b"")
        assert proof.report_data == bootstrap_report_data(info.ca_pubkey, info.k256_pubkey)
        assert info.quote == proof.quote
    async with boot_kms(made, on_chain(made)) as again:  # the contract need not be told anew
        assert onchain_emulated._kms_info(again) == info


@pytest.mark.parametrize(
    ("url", "tellable"),
    [
        ("http://127.0.0.1:8545", True),
        ("https://rpc.example.org/", True),
        ("https://rpc.example.org/v3/key", False),
        ("https://rpc.example.org/?key=x", False),
        ("https://user:word@rpc.example.org", False),
    ],
)
def test_an_endpoint_that_may_hold_a_key_is_not_told_to_clients(url: str, tellable: bool) -> None:
    assert onchain_emulated._tellable(url) is tellable


def test_the_record_of_the_sample(tmp_path: Path) -> None:
    file = tmp_path / SAMPLE
    assert read_record(file) is None
    record = SampleRecord("ab" * 20, 7, 8080)
    keep_record(file, record)
    assert read_record(file) == record
    for content in ("", "[]", '{"app_id": "xy", "nonce": 0, "port": 1}', '{"app_id": "ab"}'):
        file.write_text(content)
        assert read_record(file) is None
