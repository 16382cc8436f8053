"""The sample app: its program, and the app-compose file that is made of it."""

import json
from importlib import resources

NAME = "sample-app"
WORKLOAD = "sample-app"
ALLOWED_ENVS = ("GREETING", "PORT")


def program() -> str:
    """The text of the program, as it goes into the compose file."""
    return resources.files(__name__).joinpath("app.py").read_text(encoding="utf-8")


def sample_compose(key_provider_id: str = "") -> bytes:
    """The app-compose file: the whole program is in it, so the compose hash names every byte that runs.

    `key_provider_id` pins the KMS: hex of the SPKI DER of its root CA, or empty. Canonical JSON (trust.md 14), with
    every member that a control plane would otherwise add: what is deployed is this file, byte for byte.
    """
    marker = "END_OF_SAMPLE_APP"
    compose = {
        "allowed_envs": list(ALLOWED_ENVS),
        "bash_script": f"exec python3 -u - <<'{marker}'\n{program()}{marker}\n",
        "features": ["kms"],
        "gateway_enabled": False,
        "kms_enabled": True,
        "local_key_provider_enabled": False,
        "manifest_version": 2,
        "name": NAME,
        "no_instance_id": False,
        "public_logs": True,
        "public_sysinfo": True,
        "public_tcbinfo": True,
        "runner": "bash",
        "secure_time": False,
        **({"key_provider_id": key_provider_id} if key_provider_id else {}),
    }
    return json.dumps(compose, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
