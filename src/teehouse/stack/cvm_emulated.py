"""One emulated CVM: its identity, its TD, its measured boot and its keys, kept in a folder across restarts.

Rules:

1. The app-compose file decides who the CVM is. Started with the same file it is resumed: same instance,
   same RTMR3, same log, with whatever the app has measured since. Started with another file it boots anew.
2. The TD's register follows the log when a crash left them apart; only an emulated register can.
3. Keys are those of `appkeys.json` in the folder of the installation when somebody has put it there.
   Else they follow from the installation's seed: under a KMS root of its own, or without one where the
   compose file says so. Nothing about them need be stored.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from teehouse import __version__
from teehouse.attestation.identity import derive_app_id, derive_instance_id, mr_config_id_v1
from teehouse.base.files import write_atomic
from teehouse.base.findings import misuse
from teehouse.base.hashes import sha256
from teehouse.guest.attest import EvidenceSource
from teehouse.guest.boot import (
    BootIdentity,
    BootKeys,
    ProviderName,
    key_provider_payload,
    measure_after_keys,
    measure_before_keys,
)
from teehouse.guest.info import GuestFacts
from teehouse.guest.measurements import MeasurementLog
from teehouse.guest.service import GuestService
from teehouse.guest.tls import LocalSigner, issued_signer, local_signer
from teehouse.keys.appkeys import AppKeys, KmsProvider, generate_without_kms, issue_app_keys, parse_app_keys
from teehouse.keys.derive import hkdf
from teehouse.keys.pem import spki_der
from teehouse.stack.installation import Installation
from teehouse.tee.platform import PlatformError
from teehouse.tee_emulated.image import EmulatedImage
from teehouse.tee_emulated.td import EmulatedTd
from teehouse.wire.app_compose import AppCompose, parse_app_compose

CPU_COUNT = 2
MEMORY_SIZE = 2 * 1024**3  # bytes
HOST_LABEL = "host-0"
APP_KEYS_FILE = "appkeys.json"
BUILD = f"teehouse-{__version__}-emulated"

_INSTANCE_DOMAIN = b"teehouse-emulated-instance-v1"
_APP_SEED_DOMAIN = b"teehouse-emulated-app-seed-v1"
_PROVIDER_NAMES: dict[str, ProviderName] = {"None": "none", "Local": "local-sgx", "Tpm": "tpm"}


@dataclass(frozen=True, slots=True)
class EmulatedCvm:
    """A booted CVM, ready to be served."""

    identity: BootIdentity
    compose: AppCompose
    keys: AppKeys
    log: MeasurementLog
    source: EvidenceSource
    service: GuestService


async def boot_emulated_cvm(
    installation: Installation, compose_file: bytes, name: str = "cvm"
) -> EmulatedCvm:
    """Boot, or resume, the CVM that `compose_file` describes; `name` is that of its folder under `state/`.

    Raises `MisuseError` for a compose or key file that cannot be used, `PlatformError` for damaged state.
    """
    compose = parse_app_compose(compose_file)
    folder = installation.state / name
    _forget_another(folder, compose)
    identity = _identity(installation, compose)

    image = EmulatedImage.default()
    vm_config = image.vm_config(CPU_COUNT, MEMORY_SIZE)
    td = EmulatedTd(
        installation.pki.host(HOST_LABEL),
        image,
        vm_config=vm_config,
        mr_config_id=mr_config_id_v1(compose.compose_hash),
        register_path=folder / "rtmr3",
    )
    if not (folder / "rtmr3").exists():
        td.reset()
    log = MeasurementLog(td, folder, compose.event_log_version)
    try:
        await log.open()
    except PlatformError as error:
        if error.finding.code != "measurements.register":
            raise
        td.resume(log.register)  # rule 2
        await log.open()

    source = EvidenceSource(log, td.boot_events(), vm_config)
    await measure_before_keys(log, identity)
    keys, signer, provider = _keys(installation, compose, identity, source)
    answered = image.os_image_hash if isinstance(keys.key_provider, KmsProvider) else None
    await measure_after_keys(log, identity, BootKeys(provider, answered))
    facts = GuestFacts(compose=compose, build=BUILD, cloud_vendor="Teehouse", cloud_product="Emulated TDX")
    service = GuestService(source, keys, signer, facts, installation.clock)
    return EmulatedCvm(identity, compose, keys, log, source, service)


def _forget_another(folder: Path, compose: AppCompose) -> None:
    """Clear the state of a CVM that another compose file described (rule 1)."""
    stored = folder / "app-compose.json"
    if stored.exists() and sha256(stored.read_bytes()) != compose.compose_hash:
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, exist_ok=True)
    if not stored.exists():
        write_atomic(stored, compose.raw)


def _identity(installation: Installation, compose: AppCompose) -> BootIdentity:
    app_id = derive_app_id(compose.raw)
    instance_id = b""
    if not compose.no_instance_id:
        instance_seed = hkdf(installation.pki.seed, _INSTANCE_DOMAIN, app_id, length=20)
        instance_id = derive_instance_id(instance_seed, app_id)
    return BootIdentity(app_id, compose.compose_hash, instance_id, compose.init_script_hashes)


def _keys(
    installation: Installation, compose: AppCompose, identity: BootIdentity, source: EvidenceSource
) -> tuple[AppKeys, LocalSigner, bytes]:
    """The app's keys, who signs its certificates, and the payload of `key-provider` (rule 3)."""
    path = installation.directory / APP_KEYS_FILE
    if not path.exists() and compose.key_provider == "kms":
        issued = issue_app_keys(installation.kms, identity.app_id, identity.instance_id, installation.created)
        identifier = spki_der(installation.kms.ca.key.public_key()).hex()
        signer = issued_signer(issued, source, installation.clock)
        return issued.keys, signer, key_provider_payload("kms", identifier)
    if path.exists():
        keys = parse_app_keys(path.read_bytes())
    elif compose.key_provider == "none":
        seed = hkdf(installation.pki.seed, _APP_SEED_DOMAIN, identity.instance_id)
        keys = generate_without_kms(seed, installation.created)
    else:
        raise misuse(
            "compose.key-provider",
            f"the key provider {compose.key_provider} is not emulated",
            expected="kms or none",
            remedy=f"change the compose file, or put a key file at {path}",
        )
    provider = keys.key_provider
    if isinstance(provider, KmsProvider):
        raise misuse(
            "appkeys.needs-kms",
            f"{path} names a KMS, which alone can sign the app's certificates",
            remedy="use a key file whose key_provider is None, Local or Tpm",
        )
    name = _PROVIDER_NAMES[provider.kind]
    binding = provider.binding.hex() if name == "local-sgx" else ""
    return keys, local_signer(keys, source, installation.clock), key_provider_payload(name, binding)
