"""`teehouse up` from outside: the sample app in its CVM, booted through node and KMS."""

import hashlib
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from dstack_sdk import DstackClient

from support.functional_support import need
from support.processes import free_port
from support.up_processes import MEMBERS, sample_processes, up


def client() -> httpx.Client:
    """Any HTTPS client; who the app is, is checked by its evidence."""
    return httpx.Client(verify=False, timeout=20)


def certificate_of(url: str) -> bytes:
    host, port = url.removeprefix("https://").split(":")
    return ssl.get_server_certificate((host, int(port))).encode()


def verify(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "teehouse", "verify", *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def test_ready_json_says_all_that_is_documented(teehouse: Any) -> None:
    assert set(teehouse.ready) == MEMBERS
    documented = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    assert [name for name in MEMBERS if f"`{name}`" not in documented] == []
    assert (teehouse.directory / "ready.json").stat().st_mode & 0o777 == 0o600


def test_the_sample_app_shows_signs_and_quotes(teehouse: Any, tmp_path: Path) -> None:
    ready = teehouse.ready
    with client() as http:
        who = http.get(ready["app_url"]).json()
        signed = http.get(f"{ready['app_url']}/sign", params={"data": "x"}).json()
        nonce = secrets.token_bytes(16)
        quote = http.get(f"{ready['app_url']}/quote", params={"nonce": nonce.hex()})
        refused = http.get(f"{ready['app_url']}/quote", params={"nonce": "xyz"})
    assert who == {
        "app_name": "sample-app",
        "app_id": ready["app_id"],
        "instance_id": ready["instance_id"],
        "compose_hash": ready["compose_hash"],
        "greeting": "Tea is served.",  # came encrypted for the app's key
    }
    assert [len(link) for link in signed["signature_chain"]] == [128, 130, 130]
    assert (refused.status_code, "nonce" in refused.json()["error"]) == (400, True)

    file = tmp_path / "quote.json"
    file.write_bytes(quote.content)
    bound = hashlib.sha512(b"sample-app:" + nonce).hexdigest()
    common = ("--root", f"emulated:{ready['root_ca']}", "--pccs", ready["pccs_url"])
    code, report = verify("quote", str(file), *common, "--expect-report-data", bound)
    assert (code, report["outcome"]) == (0, "accepted")
    code, _ = verify("quote", str(file), *common, "--expect-report-data", "00" * 64)
    assert code == 10


def test_its_certificate_is_evidence_of_the_deployed_app(teehouse: Any, tmp_path: Path) -> None:
    ready = teehouse.ready
    file = tmp_path / "certificate.pem"
    file.write_bytes(certificate_of(ready["app_url"]))
    common = ("--root", f"emulated:{ready['root_ca']}", "--pccs", ready["pccs_url"])
    expected = ("--expect-app-id", ready["app_id"], "--expect-compose-hash", ready["compose_hash"])
    code, report = verify("certificate", str(file), *common, *expected)
    assert (code, report["outcome"], report["root"]) == (0, "accepted", ready["root"])
    code, _ = verify("certificate", str(file), *common, "--expect-app-id", "00" * 20)
    assert code == 10


def test_each_altered_input_turns_its_own_checks_red(teehouse: Any, tmp_path: Path) -> None:
    """Boot evidence passes with every check green; one altered input turns the checks red that depend on it."""
    ready = teehouse.ready
    with client() as http:
        answer = http.get(f"{ready['app_url']}/quote", params={"nonce": "00"}).json()
    common = ("--root", f"emulated:{ready['root_ca']}", "--pccs", ready["pccs_url"])

    def red(**changed: Any) -> set[str]:
        file = tmp_path / "evidence.json"
        file.write_text(json.dumps({**answer, **changed}))
        _, report = verify("quote", str(file), *common)
        return {finding["check"] for finding in report["findings"] if finding["outcome"] != "accepted"}

    assert red() == set()
    log = json.loads(answer["event_log"])

    def altered(event: str, **members: Any) -> str:
        return json.dumps([{**entry, **members} if entry["event"] == event else entry for entry in log])

    # V21: digest and payload agree, V23: RTMR3 is their replay, V26: MRCONFIGID holds the compose hash.
    assert red(event_log=altered("compose-hash", event_payload="00" * 32)) == {"V21", "V23", "V26"}
    assert red(event_log=altered("compose-hash", event_payload="00" * 32, digest="")) == {"V23", "V26"}
    assert red(event_log=altered("instance-id", event_payload="00" * 20, digest="")) == {"V23"}
    assert red(event_log=json.dumps([e for e in log if e["event"] != "storage-fs"])) == {"V23"}
    boot = next(entry for entry in log if entry["imr"] == 1)
    flipped = [{**e, "digest": "ff" * 48} if e is boot else e for e in log]
    assert red(event_log=json.dumps(flipped)) == {"V22"}
    config = json.loads(answer["vm_config"])
    assert "V27" in red(vm_config=json.dumps({**config, "os_image_hash": "00" * 32}))
    assert "V27" in red(vm_config=json.dumps({**config, "memory_size": 4 * 1024**3}))
    quote = bytearray.fromhex(answer["quote"])
    quote[520] ^= 1  # RTMR3
    assert {"V13", "V23"} <= red(quote=quote.hex())


def test_the_agents_external_pages_give_no_keys(teehouse: Any) -> None:
    with client() as http:
        url = teehouse.ready["agent_url"]
        assert http.get(f"{url}/prpc/Worker.Info").json()["app_id"] == teehouse.ready["app_id"]
        for method in ("GetKey", "GetTlsKey", "GetQuote", "Attest", "Sign", "EmitEvent"):
            for path in (method, f"prpc/{method}", f"prpc/Worker.{method}", f"prpc/DstackGuest.{method}"):
                assert http.post(f"{url}/{path}", json={}).status_code == 404, path


def test_developers_and_apps_have_keys_under_one_kms(teehouse: Any) -> None:
    """The agent for programs on this machine and the CVM's agent derive from the same KMS root."""
    developer = DstackClient(teehouse.dstack_socket)
    with developer:
        chain = developer.get_tls_key("x").certificate_chain
    with client() as http:
        meta = http.get(f"{teehouse.ready['kms_url']}/prpc/GetMeta").json()
    assert chain[-1] == meta["ca_cert"]


def test_the_audit_log_tells_of_the_hand_out(teehouse: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "teehouse", "kms", "audit", str(teehouse.directory), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert teehouse.ready["app_id"] in done.stdout
    assert "GetAppKey" in done.stdout


def test_it_ends_cleanly_and_comes_back_as_the_same(folder: Path) -> None:
    first = up(folder, "one")
    before = json.loads((folder / "t" / "ready.json").read_text())
    assert sample_processes(folder)
    assert first.stop(signal.SIGINT) == 0
    assert not sample_processes(folder)
    assert not (folder / "t" / "ready.json").exists()

    second = up(folder, "two")
    after = json.loads((folder / "t" / "ready.json").read_text())
    same = ("root", "app_id", "instance_id", "compose_hash", "cvm_id")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    second.kill()  # the app goes on without its node
    assert sample_processes(folder)

    third = up(folder, "three")
    again = json.loads((folder / "t" / "ready.json").read_text())
    assert again["instance_id"] == before["instance_id"]
    assert len(sample_processes(folder)) <= 2  # the app, once
    assert third.stop(signal.SIGTERM) == 0
    assert not sample_processes(folder)


def test_pip_install_alone_is_enough(folder: Path) -> None:
    """`pip install .` in an empty environment, then `teehouse up`: nothing of the checkout is needed."""
    need("make", "make")
    if not os.environ.get("CI"):
        pytest.skip("installs everything anew: runs in CI only")
    checkout = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv/bin/python"), *["-m", "pip", "--disable-pip-version-check", "-q", "install"]]
    subprocess.run([*pip, str(checkout)], check=True, cwd=folder)
    command = [
        str(folder / "venv/bin/teehouse"),
        "up",
        "--dir",
        str(folder / "t"),
        "--port",
        str(free_port()),
    ]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "t" / "ready.json").exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
