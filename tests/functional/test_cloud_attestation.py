"""Evidence from the control plane's API, judged by `teehouse verify` and by the trust center's rules (trust.md 16).

The rules of trust.md 16, numbered here:

T1. An instance is kept when it has a quote, an event log, and an image.
T2. Hardware: dcap-qvl says exactly `UpToDate` of the quote.
T3. Hardware: all four RTMRs of the quote are replayed from the event log.
T4. OS: MRTD and RTMR0 to 2 of the TCB info are those that are computed from the image.
T5. Source code: SHA-256 of the app-compose text is the `compose-hash` event's payload.

What does not apply to this installation, and why:

* Hardware, as a word: under an emulated root nothing is called hardware verified. The answer says `emulated`, and
  Intel's root refuses the quote (T2).
* T1's name of the image, `dstack-...`, and T4 by dstack-mr over a published image: the emulated image is none of
  those, and does not claim to be. Its registers are computed from `vm_config` by V27 instead.
* Hardware, GPU evidence: the CVM has no GPU, and no GPU is emulated.
* Source code, `allowedComposeHashes` on chain: the installation's KMS is off chain; the answer names no contract.
* KMS and gateway, all steps (teeControlledKey, certificateKey, dnsCAA, ctLog): there is no gateway, and an off-chain
  KMS has no `kmsInfo()` on chain. Both guest infos are null, for which the trust center has stand-ins.
"""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dcap_qvl
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from support.functional_support import registers_of

V2, V4 = "2026-01-21", "2026-06-23"


def fetched(teehouse: Any, path: str, version: str = V4, *, key: bool = False) -> dict[str, Any]:
    headers = {"X-Phala-Version": version} | ({"X-API-Key": teehouse.api_key} if key else {})
    answer = httpx.get(f"{teehouse.api_url}{path}", headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def of_app(teehouse: Any, version: str = V4) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer about the sample app, asked without a key, and its one instance."""
    answer = fetched(teehouse, f"/apps/{teehouse.ready['app_id']}/attestations", version)
    (instance,) = answer["instances"]
    return answer, instance


def verify(saved: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """`teehouse verify quote`, and its report."""
    command = [sys.executable, "-m", "teehouse", "verify", "quote", str(saved), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("version", [V2, V4])
def test_an_instance_saved_as_it_came_is_accepted_under_the_emulated_root_alone(
    teehouse: Any, tmp_path: Path, version: str
) -> None:
    _, instance = of_app(teehouse, version)
    saved = tmp_path / "instance.json"
    saved.write_text(json.dumps(instance))
    pccs = ("--pccs", teehouse.ready["pccs_url"])
    expected = {
        "--expect-app-id": teehouse.ready["app_id"],
        "--expect-compose-hash": teehouse.ready["compose_hash"],
        "--expect-instance": teehouse.ready["instance_id"],
        "--expect-device": instance["device_id"],
        "--expect-image": instance["tcb_info"]["os_image_hash"],
    }
    emulated = ("--root", f"emulated:{teehouse.ready['root_ca']}")
    code, report = verify(saved, *emulated, *pccs, *(part for pair in expected.items() for part in pair))
    assert (code, report["outcome"], report["root"]) == (0, "accepted", teehouse.ready["root"])
    held = {finding["check"] for finding in report["findings"] if finding["outcome"] == "accepted"}
    assert {"V7", "V13", "V15", "V20", "V22", "V23", "V26", "V27", "V28"} <= held  # V27 is T4

    code, report = verify(saved, "--root", "intel", *pccs)
    assert (code, report["outcome"]) == (10, "rejected")
    failed = {finding["check"] for finding in report["findings"] if finding["outcome"] != "accepted"}
    assert {"V6", "V7"} <= failed


def test_what_is_said_of_one_cvm_is_accepted_with_its_key_and_is_the_same(
    teehouse: Any, tmp_path: Path
) -> None:
    answer = fetched(teehouse, f"/cvms/{teehouse.ready['vm_uuid']}/attestation", key=True)
    saved = tmp_path / "cvm.json"
    saved.write_text(json.dumps(answer))
    common = ("--root", f"emulated:{teehouse.ready['root_ca']}", "--pccs", teehouse.ready["pccs_url"])
    code, report = verify(saved, *common, "--expect-app-id", teehouse.ready["app_id"])
    assert (code, report["outcome"]) == (0, "accepted")

    _, instance = of_app(teehouse)
    assert answer["tcb_info"] == instance["tcb_info"]
    assert answer["app_certificates"] == instance["app_certificates"]
    assert (answer["is_online"], answer["error"], answer["emulated"]) == (True, None, True)
    leaf, *cas = instance["app_certificates"]
    assert [leaf["is_ca"], *(ca["is_ca"] for ca in cas)] == [False, True, True]
    assert leaf["issuer"]["common_name"] == cas[0]["subject"]["common_name"]
    metadata = httpx.get(f"{teehouse.ready['kms_url']}/prpc/GetMeta", verify=False, timeout=20).json()
    root = x509.load_pem_x509_certificate(metadata["ca_cert"].encode())
    assert cas[-1]["fingerprint"] == hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()

    saved.write_text(json.dumps({"quote": leaf["quote"], "tcb_info": instance["tcb_info"]}))
    code, report = verify(saved, *common)  # the quote within the app's certificate
    assert (code, report["outcome"]) == (0, "accepted")


def test_the_instance_is_kept(teehouse: Any) -> None:
    """T1, and what says that the rest does not apply."""
    answer, instance = of_app(teehouse)
    assert instance["quote"]
    assert instance["eventlog"] == instance["tcb_info"]["event_log"] != []
    image = fetched(teehouse, f"/cvms/{teehouse.ready['vm_uuid']}", key=True)["os"]
    assert (instance["image_version"], instance["tcb_info"]["os_image_hash"]) == (
        image["name"],
        image["os_image_hash"],
    )
    assert (answer["emulated"], answer["root"]) == (True, teehouse.ready["root"])
    assert (answer["contract_address"], answer["kms_info"]["chain_id"]) == ("", None)
    assert (answer["kms_info"]["gateway_app_id"], answer["kms_info"]["gateway_app_url"]) == (None, "")
    assert (answer["kms_guest_agent_info"], answer["gateway_guest_agent_info"]) == (None, None)
    assert answer["qemu_version"] == json.loads(instance["vm_config"])["qemu_version"]


async def test_another_verifier_calls_it_up_to_date(teehouse: Any) -> None:
    """T2, by dcap-qvl itself, which refuses it under Intel's root."""
    _, instance = of_app(teehouse)
    quote, now = bytes.fromhex(instance["quote"]), int(time.time())
    collateral = await dcap_qvl.get_collateral(teehouse.ready["pccs_url"], quote)
    pem = Path(teehouse.ready["root_ca"]).read_bytes()  # noqa: ASYNC240 - nothing else runs in this loop
    root = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    report = json.loads(dcap_qvl.verify_with_root_ca(quote, collateral, root, now).to_json())
    assert (report["status"], report["advisory_ids"]) == ("UpToDate", [])
    with pytest.raises(ValueError, match="Verification failed"):
        dcap_qvl.verify(quote, collateral, now)


def test_every_register_is_replayed_from_the_log(teehouse: Any) -> None:
    """T3, with nothing but SHA-384: a register begins as zeros and takes each digest of its events in."""
    _, instance = of_app(teehouse)
    replayed = []
    for register in range(4):
        value = bytes(48)
        for event in instance["eventlog"]:
            if event["imr"] == register:
                value = hashlib.sha384(value + bytes.fromhex(event["digest"])).digest()
        replayed.append(value.hex())
    assert tuple(replayed) == registers_of(instance["quote"])
    assert [instance["tcb_info"][f"rtmr{number}"] for number in range(4)] == replayed


def test_the_source_is_what_was_measured_and_what_was_deployed(teehouse: Any) -> None:
    """T5, and the same bytes wherever the API shows them."""
    _, instance = of_app(teehouse)
    measured = {event["event"]: event["event_payload"] for event in instance["eventlog"] if event["imr"] == 3}
    text = instance["tcb_info"]["app_compose"]
    assert measured["compose-hash"] == hashlib.sha256(text.encode()).hexdigest()
    assert measured["compose-hash"] == teehouse.ready["compose_hash"]
    assert (measured["app-id"], measured["instance-id"]) == (
        teehouse.ready["app_id"],
        teehouse.ready["instance_id"],
    )
    assert instance["compose_file"] == text
    of = f"/apps/{teehouse.ready['app_id']}/revisions"
    newest = fetched(teehouse, of, key=True)["revisions"][0]["revision_id"]
    assert fetched(teehouse, f"{of}/{newest}?raw_compose_file=true", key=True)["compose_file"] == text
