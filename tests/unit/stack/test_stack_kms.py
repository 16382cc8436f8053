"""The KMS of an emulated installation: what may boot, and whose roots it serves."""

import json
from pathlib import Path

import httpx
import pytest

from support.emulated import SEED, clock
from teehouse.base.clock import SystemClock
from teehouse.base.findings import MisuseError
from teehouse.keys.pem import certificate_pem
from teehouse.stack.installation import open_installation
from teehouse.stack.kms_emulated import allow, serve_kms


def test_the_file_is_made_and_only_added_to(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    allow(file, os_image=b"\x01" * 32)
    allow(file, kms=b"\x02" * 32)
    owner = json.loads(file.read_text())
    owner["apps"]["0xab"] = {"composeHashes": ["0x99"]}
    owner["note"] = "mine"
    file.write_text(json.dumps(owner))
    allow(file, app=(b"\x03" * 20, b"\x04" * 32))
    allow(file, app=(b"\x03" * 20, b"\x04" * 32), os_image=b"\x01" * 32)
    assert json.loads(file.read_text()) == {
        "osImages": ["0x" + "01" * 32],
        "kms": {"mrAggregated": ["0x" + "02" * 32], "devices": []},
        "apps": {
            "0xab": {"composeHashes": ["0x99"]},
            "0x" + "03" * 20: {"devices": [], "composeHashes": ["0x" + "04" * 32]},
        },
        "note": "mine",
    }
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_a_file_that_is_no_object_is_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "auth.json"
    file.write_text(content)
    with pytest.raises(MisuseError) as refused:
        allow(file, kms=b"\x02" * 32)
    assert refused.value.finding.code == "auth-file.unreadable"
    assert file.read_text() == content


async def test_it_serves_the_installations_root_and_refuses_without_evidence(tmp_path: Path) -> None:
    installation = open_installation(tmp_path / "a", SystemClock(), seed=SEED)
    for _ in range(2):  # the second start finds the store
        async with serve_kms(installation) as kms, httpx.AsyncClient(verify=False) as client:
            meta = (await client.get(f"{kms.url}/prpc/GetMeta")).json()
            assert meta["ca_cert"] == certificate_pem(installation.kms.ca.certificate_der)
            assert meta["k256_pubkey"] == installation.kms.k256_public_key.hex()
            refused = await client.get(f"{kms.url}/prpc/KMS.GetAppKey?api_version=1")
            assert (refused.status_code, refused.json()) == (
                400,
                {"error": "App not allowed: No attestation provided"},
            )
    assert oct((installation.state / "kms").stat().st_mode & 0o777) == "0o700"


async def test_a_kms_that_is_not_on_the_list_gives_nothing(tmp_path: Path) -> None:
    installation = open_installation(tmp_path / "a", SystemClock(), seed=SEED)
    async with serve_kms(installation) as kms, httpx.AsyncClient(verify=False) as client:
        rules = json.loads(kms.auth_file.read_text())
        rules["kms"]["mrAggregated"] = []
        kms.auth_file.write_text(json.dumps(rules))
        refused = await client.get(f"{kms.url}/prpc/GetTempCaCert")
    assert refused.status_code == 400
    assert "KMS is not allowed: aggregated MR not allowed" in refused.json()["error"]


def test_the_clock_of_an_installation_is_its_own(tmp_path: Path) -> None:
    assert open_installation(tmp_path / "a", clock()).created == clock().now()
