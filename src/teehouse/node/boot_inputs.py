"""What a boot reads from a CVM's spec: who boots, whether its keys can be had, its launch token."""

import json

from teehouse.attestation.identity import derive_instance_id
from teehouse.base.findings import misuse
from teehouse.guest.boot import BootIdentity
from teehouse.wire.app_compose import AppCompose

KEY_PROVIDERS = ("kms", "none")


def boot_identity(app_id: bytes, instance_seed: bytes, compose: AppCompose) -> BootIdentity:
    """Who boots (trust.md 8.5): an app that wants none has no instance id."""
    instance_id = b"" if compose.no_instance_id else derive_instance_id(instance_seed, app_id)
    return BootIdentity(app_id, compose.compose_hash, instance_id, compose.init_script_hashes)


def check_key_provider(compose: AppCompose, *, has_environment: bool) -> None:
    """Raises `MisuseError` for keys that no boot here could get."""
    if compose.key_provider not in KEY_PROVIDERS:
        raise misuse(
            "compose.key-provider",
            "key provider of the app-compose",
            expected=" or ".join(KEY_PROVIDERS),
            found=compose.key_provider,
            remedy="change the compose file",
        )
    if has_environment and compose.key_provider != "kms":
        raise misuse(
            "node.environment",
            "an encrypted environment of an app without KMS",
            expected="key provider kms, which has the key it is encrypted for",
            found=compose.key_provider,
        )


def launch_token(user_config: str) -> bytes | None:
    """The token at `dstack.launch_token` of user_config, None where there is none (trust.md 14)."""
    try:
        token = json.loads(user_config)["dstack"]["launch_token"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return token.encode(errors="replace") if isinstance(token, str) else None
