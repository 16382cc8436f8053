"""What a boot measures into RTMR3, in its fixed order (guest-agent.md 10.5, trust.md 8.3).

The boot has two halves, since the KMS gives keys only to a machine whose log ends at `boot-mr-done`:

* before keys: `system-preparing`, `app-id`, `compose-hash`, `init-script-hash` (0 to 5), `instance-id`,
  `boot-mr-done`;
* after keys: `os-image-hash` (with a KMS only), `key-provider`, `storage-fs`, `system-ready`.

Rules:

1. A half that was interrupted goes on behind its last event; a boot that was finished is left alone.
2. A log that begins differently belongs to another boot and is refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from teehouse.attestation.eventlog import RuntimeEvent
from teehouse.base.findings import misuse
from teehouse.guest.measurements import MeasurementLog
from teehouse.tee.platform import platform_error

SYSTEM_READY = "system-ready"
INIT_SCRIPT_LIMIT = 5

ProviderName = Literal["none", "kms", "local-sgx", "tpm"]
StorageFs = Literal["zfs", "ext4"]


@dataclass(frozen=True, slots=True)
class BootIdentity:
    """Who boots: `app_id` 20 bytes, `compose_hash` and each of `init_script_hashes` 32 bytes.

    `instance_id` has 20 bytes, or none for an app that has no instance id. Raises `MisuseError`.
    """

    app_id: bytes
    compose_hash: bytes
    instance_id: bytes
    init_script_hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        _sized("app id", self.app_id, (20,))
        _sized("compose hash", self.compose_hash, (32,))
        _sized("instance id", self.instance_id, (0, 20))
        for digest in self.init_script_hashes:
            _sized("init script hash", digest, (32,))
        if len(self.init_script_hashes) > INIT_SCRIPT_LIMIT:
            raise misuse(
                "boot.init-scripts", "too many init scripts", expected=f"at most {INIT_SCRIPT_LIMIT}"
            )


@dataclass(frozen=True, slots=True)
class BootKeys:
    """What the second half measures: where the keys came from, and where the data lies.

    `key_provider` is the payload of that event (see `key_provider_payload`); `os_image_hash` has 32 bytes,
    as the KMS answered it, and is None without KMS. Raises `MisuseError`.
    """

    key_provider: bytes
    os_image_hash: bytes | None = None
    storage_fs: StorageFs = "ext4"

    def __post_init__(self) -> None:
        if self.os_image_hash is not None:
            _sized("OS image hash", self.os_image_hash, (32,))
        if self.storage_fs not in ("zfs", "ext4"):
            raise misuse("boot.storage-fs", "no such file system", expected="zfs or ext4")


def key_provider_payload(name: ProviderName, identity: str = "") -> bytes:
    """The payload of `key-provider`: compact JSON, name first.

    `identity` is hex: the SPKI DER of the KMS's root CA for `kms`, the provider's measurement for
    `local-sgx`, empty for `tpm` and `none`.
    """
    return json.dumps({"name": name, "id": identity}, separators=(",", ":")).encode()


async def measure_before_keys(log: MeasurementLog, identity: BootIdentity) -> None:
    """Measure the first half. Raises `PlatformError` (rule 2, or what the log says)."""
    await _measure(log, _first_half(identity))


async def measure_after_keys(log: MeasurementLog, identity: BootIdentity, keys: BootKeys) -> None:
    """Measure the second half, and the first where it is missing. Raises `PlatformError`."""
    await _measure(log, [*_first_half(identity), *_second_half(keys)])


def _first_half(identity: BootIdentity) -> list[tuple[str, bytes]]:
    return [
        ("system-preparing", b""),
        ("app-id", identity.app_id),
        ("compose-hash", identity.compose_hash),
        *(("init-script-hash", digest) for digest in identity.init_script_hashes),
        ("instance-id", identity.instance_id),
        ("boot-mr-done", b""),
    ]


def _second_half(keys: BootKeys) -> list[tuple[str, bytes]]:
    return [
        *([] if keys.os_image_hash is None else [("os-image-hash", keys.os_image_hash)]),
        ("key-provider", keys.key_provider),
        ("storage-fs", keys.storage_fs.encode()),
        (SYSTEM_READY, b""),
    ]


def is_ready(events: Sequence[RuntimeEvent]) -> bool:
    """Whether the boot that this log tells of was finished."""
    return any(event.event == SYSTEM_READY for event in events)


async def _measure(log: MeasurementLog, sequence: list[tuple[str, bytes]]) -> None:
    if is_ready(log.events):  # rule 1
        return
    measured = [(event.event, event.payload) for event in log.events]
    for place, (found, expected) in enumerate(zip(measured, sequence, strict=False)):
        if found != expected:
            raise platform_error(
                "boot.sequence",
                f"event {place} of the runtime event log belongs to another boot",
                expected=f"{expected[0]} {expected[1].hex()}".strip(),
                found=f"{found[0][:64]} {found[1][:64].hex()}".strip(),
                remedy="start the machine anew, or with the identity it was started with",
            )
    for name, payload in sequence[len(measured) :]:
        await log.emit(name, payload)


def _sized(what: str, value: bytes, sizes: tuple[int, ...]) -> None:
    if len(value) not in sizes:
        expected = " or ".join(str(size) for size in sizes)
        raise misuse(
            "boot.identity", f"{what} of a boot", expected=f"{expected} bytes", found=str(len(value))
        )
