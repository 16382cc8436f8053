"""The published SDKs against the KMS of `teehouse up`: encrypted environments, and certificates under its root CA."""

import json
import secrets
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from dstack_sdk import (
    DstackClient,
    EnvVar,
    encrypt_env_vars,
    encrypt_env_vars_sync,
    verify_env_encrypt_public_key,
    verify_env_encrypt_public_key_legacy,
)

from support.functional_support import run_js
from support.openssl_support import openssl
from teehouse.base.clock import SystemClock
from teehouse.base.findings import EvidenceError
from teehouse.keys.appkeys import issue_app_keys
from teehouse.keys.envbox import Variable, open_environment
from teehouse.stack.installation import open_installation

VARIABLES = {"GREETING": "Grüße, 茶", "EMPTY": "", "LINES": "one\ntwo = 2\n", "JSON": '{"a": "\\"b\\""}'}
OPENED = tuple(Variable(name, value) for name, value in VARIABLES.items())


@pytest.fixture
def kms(teehouse: Any) -> Iterator[httpx.Client]:
    """A client of the KMS, as `curl -k` would be one."""
    with httpx.Client(
        base_url=teehouse.ready["kms_url"], verify=False, trust_env=False, timeout=20
    ) as client:
        yield client


def environment_key(kms: httpx.Client, app_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = kms.post("/prpc/GetAppEnvEncryptPubKey", json={"app_id": app_id}).json()
    return answer


def meta(kms: httpx.Client) -> dict[str, Any]:
    answer: dict[str, Any] = kms.get("/prpc/KMS.GetMeta").json()
    return answer


def env_crypt_key(teehouse: Any, app_id: str) -> bytes:
    """What the KMS gives this app and no other."""
    installation = open_installation(teehouse.directory, SystemClock())
    issued = issue_app_keys(installation.kms, bytes.fromhex(app_id), b"", installation.clock.now())
    return issued.keys.env_crypt_key


async def test_the_python_sdk_seals_what_the_app_opens(teehouse: Any, kms: httpx.Client) -> None:
    app_id = teehouse.ready["app_id"]
    answer = environment_key(kms, app_id)
    public_key = bytes.fromhex(answer["public_key"])
    signature = bytes.fromhex(answer["signature_v1"])
    timestamp = answer["timestamp"]
    trusted = "0x" + meta(kms)["k256_pubkey"]
    assert verify_env_encrypt_public_key(public_key, signature, app_id, timestamp) == trusted
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        legacy = verify_env_encrypt_public_key_legacy(public_key, bytes.fromhex(answer["signature"]), app_id)
    assert legacy == trusted
    assert verify_env_encrypt_public_key(public_key, signature, "00" * 20, timestamp) != trusted
    assert verify_env_encrypt_public_key(public_key, signature, app_id, timestamp - 400) is None

    listed = [EnvVar(name, value) for name, value in VARIABLES.items()]
    secret = env_crypt_key(teehouse, app_id)
    for box in (
        await encrypt_env_vars(listed, answer["public_key"]),
        encrypt_env_vars_sync(listed, answer["public_key"]),
    ):
        assert open_environment(secret, bytes.fromhex(box)) == OPENED
    with pytest.raises(EvidenceError, match="does not open with this app's key"):
        open_environment(env_crypt_key(teehouse, "11" * 20), bytes.fromhex(box))


def test_the_javascript_sdk_seals_what_the_app_opens(teehouse: Any, kms: httpx.Client) -> None:
    app_id = teehouse.ready["app_id"]
    answer = environment_key(kms, app_id)
    listed = [{"key": name, "value": value} for name, value in VARIABLES.items()]
    told = run_js("env.mjs", app_id, json.dumps(answer), json.dumps(listed))
    trusted = "0x" + meta(kms)["k256_pubkey"]
    assert told["signer"] == told["legacySigner"] == trusted
    assert told["ofAnotherKey"] != trusted
    assert told["tooOld"] is None
    assert open_environment(env_crypt_key(teehouse, app_id), bytes.fromhex(told["sealed"])) == OPENED


def test_any_app_has_a_key_of_its_own(teehouse: Any, kms: httpx.Client) -> None:
    """The key may be asked for before the app is known to anybody: it is public, and nothing is given out by it."""
    app_id = secrets.token_hex(20)
    answer = environment_key(kms, app_id)
    box = encrypt_env_vars_sync([EnvVar("A", "b")], answer["public_key"])
    assert open_environment(env_crypt_key(teehouse, app_id), bytes.fromhex(box)) == (Variable("A", "b"),)


def test_openssl_accepts_the_chain_of_a_cvms_certificate(
    teehouse: Any, kms: httpx.Client, tmp_path: Path
) -> None:
    """GetTlsKey of the sample app's own agent: leaf, the app's CA, the KMS's root CA."""
    socket = teehouse.directory / "s" / teehouse.ready["cvm_id"] / "dstack.sock"
    client = DstackClient(str(socket))
    with client:  # what the SDK's `with` gives is another client
        answer = client.get_tls_key(
            "sample.example", alt_names=["sample.example"], usage_ra_tls=True, usage_client_auth=True
        )
    root = meta(kms)["ca_cert"]
    leaf, app_ca, last = answer.certificate_chain
    assert last == root
    files = {"leaf": leaf, "app": app_ca, "root": root, "key": answer.key}
    paths = {name: tmp_path / f"{name}.pem" for name in files}
    for name, path in paths.items():
        path.write_text(files[name])

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [openssl(), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
        return done.returncode, done.stdout + done.stderr

    chain = ("-CAfile", str(paths["root"]), "-untrusted", str(paths["app"]))
    for purpose in ("sslserver", "sslclient"):
        code, printed = run(
            "verify", *chain, "-purpose", purpose, "-verify_hostname", "sample.example", str(paths["leaf"])
        )
        assert (code, printed) == (0, f"{paths['leaf']}: OK\n")
    assert (
        run("verify", "-CAfile", str(paths["root"]), str(paths["leaf"]))[0] != 0
    )  # not without the app's CA
    stranger = ("-CAfile", str(teehouse.ready["root_ca"]), "-untrusted", str(paths["app"]))
    assert run("verify", *stranger, str(paths["leaf"]))[0] != 0  # nor under the root of the quotes
    public = run("pkey", "-in", str(paths["key"]), "-pubout")
    assert public == run("x509", "-in", str(paths["leaf"]), "-noout", "-pubkey")
