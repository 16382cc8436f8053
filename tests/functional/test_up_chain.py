"""`teehouse up --chain` from outside: the sample app on a chain, its owner's decisions, and the same folder again."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.anvil import end_anvil, need_anvil
from support.chain_owner import owner
from support.functional_support import need_javascript, run_js
from support.javascript_cloud import JavascriptCloud
from support.javascript_lives import YAML, Form
from support.javascript_onchain import AppOnChain
from support.phala_cloud_installed import need_phala_cloud
from support.processes import Process
from support.up_processes import MEMBERS, up
from teehouse.attestation.verify import Verdict
from teehouse.base.clock import SystemClock
from teehouse.base.findings import Finding
from teehouse.chain.checks import OnChain, check_app
from teehouse.chain.rpc_reader import open_reader
from teehouse.cli.verify import boot_info
from teehouse.client.cloud import CloudClient
from teehouse.client.cloud.calls import CloudCall
from teehouse.keys.pem import spki_der
from teehouse.stack.chain_of_trust import Deployed, walk
from teehouse.stack.installation import open_installation
from teehouse.stack.kms_emulated import on_chain
from teehouse.stack.sample import sample_compose

pytestmark = pytest.mark.timeout(240)

pytest.register_assert_rewrite("support.phala_cloud_onchain")

SECONDS = 60
GAINED = {
    "rpc_url", "chain_id", "kms_contract", "multicall", "deployer", "deployer_private_key", "deployer_key_file",
    "offchain_kms_url",
}  # fmt: skip
OWNER = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"  # anvil's first account
STRANGER_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"  # its second


@dataclass(frozen=True)
class Up:
    """A running Teehouse on a chain."""

    process: Process
    folder: Path
    ready: dict[str, Any]

    def cloud(self) -> CloudClient:
        return CloudClient(self.ready["api_url"], self.ready["api_key"])

    def get(self, path: str) -> Any:
        with self.cloud() as cloud:
            return cloud.call(CloudCall("GET", path, Any))

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        with self.cloud() as cloud:
            return cloud.call(CloudCall("POST", path, Any, body=body or {}))

    def sample(self, path: str = "") -> str:
        return f"/cvms/{self.ready['vm_uuid']}{path}"

    def settled(self, status: str) -> dict[str, Any]:
        """The sample's state once it is this one."""
        until(lambda: self.get(self.sample("/state"))["status"] == status)
        found: dict[str, Any] = self.get(self.sample("/state"))
        return found

    def govern(self, change: str, *, code: int = 0, words: tuple[str, ...] = ()) -> str:
        ready = self.ready
        arguments = (
            "governance", *change.split(), ready["app_id"], *words, ready["compose_hash"],
            "--rpc-url", ready["rpc_url"],
        )  # fmt: skip
        environ = {
            "PHALA_CLOUD_API_PREFIX": ready["api_url"],
            "PHALA_CLOUD_API_KEY": ready["api_key"],
            "ETH_PRIVATE_KEY": ready["deployer_private_key"],
        }
        return teehouse(*arguments, code=code, environ=environ)


def teehouse(*arguments: str, code: int = 0, environ: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "teehouse", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environ or {})},
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)
    return found


def started(folder: Path, name: str, *options: str, environ: dict[str, str] | None = None) -> Up:
    process = up(folder, name, *options, environ={"COLUMNS": "80", **(environ or {})})
    return Up(process, folder, json.loads((folder / "t" / "ready.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def running() -> Iterator[Up]:
    need_anvil()
    with tempfile.TemporaryDirectory(prefix="th-") as temporary:
        made = started(Path(temporary), "log", "--chain", "anvil")
        try:
            yield made
            assert made.process.stop() == 0, made.process.output()
        finally:
            made.process.kill()
            end_anvil(made.folder / "t")


def test_ready_json_and_the_screen_say_where_the_chain_is(running: Up) -> None:
    ready = running.ready
    assert set(ready) == MEMBERS | GAINED
    documented = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    assert [name for name in GAINED if f"`{name}`" not in documented] == []
    assert (running.folder / "t" / "ready.json").stat().st_mode & 0o777 == 0o600
    assert (ready["chain_id"], ready["deployer"]) == (31337, OWNER)
    assert Path(ready["deployer_key_file"]).read_text().strip() == ready["deployer_private_key"]
    screen = running.process.output()
    panel, _, rest = screen.partition("The chain of trust, as just checked:")
    assert all(len(line) <= 80 for line in panel.splitlines())
    for shown in (ready["rpc_url"], "chain id 31337", ready["kms_contract"], OWNER, "deployer-key"):
        assert shown in panel
    assert ready["deployer_private_key"] not in screen
    assert "✓ on chain, its owner's contract and the KMS's let it run (6 checks)" in rest


def test_the_contract_is_the_measured_app_id_and_verify_shows_contract_block_and_owner(
    running: Up, tmp_path: Path
) -> None:
    ready = running.ready
    with running.cloud() as cloud:
        (instance,) = cloud.get_app_attestation(ready["app_id"]).instances
    events = {entry.event: entry for entry in instance.eventlog or ()}
    assert (events["app-id"].imr, events["app-id"].event_payload) == (3, ready["app_id"])
    with httpx.Client(verify=False, timeout=20) as client:
        quote = client.get(f"{ready['app_url']}/quote", params={"nonce": "00ff"})
    (file := tmp_path / "quote.json").write_bytes(quote.content)

    def verified(owner: str, *, code: int) -> dict[str, Any]:
        printed = teehouse(
            "verify", "quote", str(file), "--json",
            "--root", f"emulated:{ready['root_ca']}", "--pccs", ready["pccs_url"],
            "--expect-app-id", ready["app_id"], "--rpc-url", ready["rpc_url"],
            "--kms-contract", ready["kms_contract"], "--expect-owner", owner, code=code,
        )  # fmt: skip
        return {finding["check"]: finding for finding in json.loads(printed)["chain"]}

    found = verified(OWNER, code=0)
    assert list(found) == ["G1", "G2", "G3", "G4", "G5", "G6"]
    assert all(finding["outcome"] == "accepted" for finding in found.values())
    assert found["G1"]["found"].startswith("block ")
    assert f"0x{ready['app_id']}, " in found["G2"]["found"]
    assert found["G3"]["found"] == OWNER
    assert found["G4"]["found"] == ready["compose_hash"]
    other = verified(ready["kms_contract"], code=10)
    assert [check for check, one in other.items() if one["outcome"] != "accepted"] == ["G3"]


async def test_the_walk_through_the_chain_of_trust_ends_at_another_owner(running: Up) -> None:
    ready = running.ready
    installation = open_installation(running.folder / "t", SystemClock())
    kms = on_chain(installation).root
    compose = sample_compose(spki_der(kms.ca.key.public_key()).hex())
    deployed = Deployed(ready["app_url"], compose, bytes.fromhex(ready["app_id"]), kms)
    contract = bytes.fromhex(ready["kms_contract"].removeprefix("0x"))

    async def ask(verdict: Verdict) -> tuple[Finding, ...]:
        async with await open_reader([ready["rpc_url"]]) as reader:
            return await check_app(reader, boot_info(verdict), OnChain(contract, bytes(20)))

    *steps, last = await walk(installation, deployed, ask)
    assert [(step.check, step.ok) for step in steps] == [(f"T{number}", True) for number in range(1, 7)]
    assert (last.check, last.code) == ("T7", "chain.owner-mismatch")
    assert (last.expected, last.found) == ("0x" + "00" * 20, OWNER)


def test_the_official_client_reads_the_sample_with_the_chain_that_the_api_describes(running: Up) -> None:
    ready = running.ready
    (device,) = running.get(f"/apps/{ready['app_id']}/device-allowlist")["devices"]
    found = run_js(
        "onchain.mjs", ready["api_url"], ready["rpc_url"], ready["app_id"],
        device["device_id"].removeprefix("0x"), ready["compose_hash"],
        environ={"PHALA_CLOUD_API_KEY": ready["api_key"]},
    )  # fmt: skip
    listed = found.pop("devices")
    assert (listed["allowAnyDevice"], listed["owner"].lower()) == (False, OWNER)
    assert listed["devices"] == ["0x" + device["device_id"].removeprefix("0x")]
    assert found == {
        "kms": {"chain_id": 31337, "kms_contract_address": ready["kms_contract"]},
        "prerequisites": {"allowAnyDevice": False, "deviceAllowed": True, "composeHashAllowed": True},
        "device": False,
        "compose": True,
    }


def test_the_official_client_does_all_it_does_on_chain(running: Up) -> None:  # onchain.md 6
    ready = running.ready
    answers = run_js(
        "chain.mjs", ready["rpc_url"], ready["kms_contract"], ready["deployer_private_key"], STRANGER_KEY
    )
    assert answers["checked"]["compose"] is answers["checked"]["device"] is True
    assert answers["changed"]["devices"]["devices"] == ["0x" + "d1" * 32]
    assert answers["any"]["otherDevice"] is True


async def test_the_python_client_is_accepted_in_all_it_asks_about_an_app_on_chain(running: Up) -> None:
    """At its four versions, side by side: an app each, from its contract to its end."""
    need_phala_cloud()
    from support.phala_cloud_onchain import on_chain as travel
    from support.phala_cloud_support import (
        IMPOSSIBLE,
        IMPOSSIBLE_ON_CHAIN,
        NEED_A_CHAIN,
        VERSIONS,
        Journey,
        Place,
    )

    ready = running.ready
    script = {"runner": "bash", "bash_script": "exec sleep 3600\n", "docker_compose_file": YAML}
    async with owner(ready) as chain:
        place = Place(ready["api_url"], ready["api_key"], ready["workspace"], "phala", script, chain=chain)
        journeys = [Journey(place, "sync", version) for version in VERSIONS]
        try:
            await asyncio.gather(*map(travel, journeys))
        finally:
            await asyncio.gather(*(on.close() for on in journeys))
    for on in journeys:
        impossible = {**IMPOSSIBLE[on.version], **IMPOSSIBLE_ON_CHAIN[on.version]}
        assert on.refused() == {method: why for method, why in impossible.items() if method in on.outcomes}
        assert set(NEED_A_CHAIN) <= set(on.outcomes)


async def test_the_javascript_client_is_accepted_in_all_it_asks_about_an_app_on_chain(running: Up) -> None:
    """At both its versions, side by side: an app each; the one throws, the other is safe."""
    need_javascript()
    ready = running.ready
    async with owner(ready) as chain:
        with JavascriptCloud(ready["api_url"], ready["api_key"]) as js:
            names = js.names()
            forms = [
                Form(js, names, "2025-10-28"),
                Form(js, names, "2026-01-21", methods=True, safe=True),
            ]
            await asyncio.gather(*(AppOnChain(form, names, chain).live() for form in forms))


def test_what_the_owner_takes_back_is_refused_at_the_next_boot_until_it_is_given_again(running: Up) -> None:
    ready = running.ready
    tried = running.govern("dry-run", words=("remove-compose",), code=10)
    assert "1 would be refused keys" in tried
    assert running.get(running.sample("/state"))["status"] == "running"
    assert "✓ done in block" in running.govern("remove-compose")

    allowed = running.post(running.sample("/is-allowed"))
    assert (allowed["compose_hash_allowed"], allowed["is_allowed"]) == (False, False)
    assert running.get(running.sample("/state"))["status"] == "running"  # it keeps its keys
    running.post(running.sample("/restart"))
    refused = running.settled("error")
    assert "Boot denied: Compose hash not allowed" in refused["boot_error"]
    counts = running.post(f"/apps/{ready['app_id']}/cvms/is-allowed")
    assert (counts["allowed_count"], counts["denied_count"], counts["error_count"]) == (0, 1, 0)
    trail = teehouse("kms", "audit", str(running.folder / "t" / "state" / "kms-onchain-audit.log"), "--json")
    assert "Compose hash not allowed" in trail

    assert "✓ done in block" in running.govern("allow-compose")
    running.post(running.sample("/start"))
    running.settled("running")
    until(lambda: answers(ready["app_url"]))
    assert running.post(running.sample("/is-allowed"))["is_allowed"] is True


def answers(url: str) -> bool:
    try:
        with httpx.Client(verify=False, timeout=20) as client:
            return client.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def test_apps_off_chain_are_deployed_beside(running: Up) -> None:
    script = {"runner": "bash", "bash_script": "exec sleep 1000"}
    with running.cloud() as cloud:
        made = cloud.deploy("off-chain", script, poll=0.1)
        assert cloud.check_app_cvms_is_allowed(made.app_id).is_onchain is False
        kms = {cvm.name: cvm for cvm in cloud.get_app_cvms(made.app_id)}["off-chain"]
        assert kms.status == "running"
        cloud.call(CloudCall("DELETE", f"/cvms/{made.vm_uuid}", Any))


def test_another_chain_by_its_url(running: Up, folder: Path) -> None:
    """Another deployer on the same chain: its KMS's contract is another one, and its key is kept nowhere."""
    url = running.ready["rpc_url"]
    key = folder / "key"
    key.write_text(STRANGER_KEY)
    first = started(folder, "one", "--chain", url, "--key-file", str(key))
    ready = first.ready
    assert set(ready) == MEMBERS | GAINED - {"deployer_private_key", "deployer_key_file"}
    assert (ready["rpc_url"], ready["chain_id"]) == (url, 31337)
    assert ready["kms_contract"] != running.ready["kms_contract"]
    assert ready["deployer"] != OWNER
    assert first.post(first.sample("/is-allowed"))["is_allowed"] is True
    assert first.process.stop() == 0, first.process.output()
    for file in (folder / "t").rglob("*"):
        assert not (file.is_file() and STRANGER_KEY[2:].encode() in file.read_bytes()), file
