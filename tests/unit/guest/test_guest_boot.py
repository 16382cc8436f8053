"""The measured boot: order and payloads of guest-agent.md 10.5."""

from pathlib import Path
from typing import Any

import pytest

from support.guest_support import RegisterPlatform
from teehouse.attestation.eventlog import RuntimeEvent
from teehouse.base.findings import MisuseError
from teehouse.guest.boot import (
    BootIdentity,
    BootKeys,
    is_ready,
    key_provider_payload,
    measure_after_keys,
    measure_before_keys,
)
from teehouse.guest.measurements import MeasurementLog
from teehouse.tee.platform import PlatformError

IDENTITY = BootIdentity(b"\x01" * 20, b"\x02" * 32, b"\x03" * 20)
KEYS = BootKeys(key_provider_payload("kms", "3059"), b"\x04" * 32, "zfs")
FIRST = [
    RuntimeEvent("system-preparing", b""),
    RuntimeEvent("app-id", b"\x01" * 20),
    RuntimeEvent("compose-hash", b"\x02" * 32),
    RuntimeEvent("instance-id", b"\x03" * 20),
    RuntimeEvent("boot-mr-done", b""),
]
SECOND = [
    RuntimeEvent("os-image-hash", b"\x04" * 32),
    RuntimeEvent("key-provider", b'{"name":"kms","id":"3059"}'),
    RuntimeEvent("storage-fs", b"zfs"),
    RuntimeEvent("system-ready", b""),
]


async def opened(directory: Path, platform: RegisterPlatform) -> MeasurementLog:
    log = MeasurementLog(platform, directory)
    await log.open()
    return log


async def test_the_two_halves_in_order(tmp_path: Path) -> None:
    log = await opened(tmp_path, RegisterPlatform())
    await measure_before_keys(log, IDENTITY)
    assert list(log.events) == FIRST
    assert not is_ready(log.events)
    await measure_after_keys(log, IDENTITY, KEYS)
    assert list(log.events) == FIRST + SECOND
    assert is_ready(log.events)
    await log.close()


async def test_without_kms_and_with_init_scripts(tmp_path: Path) -> None:
    log = await opened(tmp_path, RegisterPlatform())
    identity = BootIdentity(b"\x01" * 20, b"\x02" * 32, b"", (b"\x05" * 32, b"\x06" * 32))
    await measure_after_keys(log, identity, BootKeys(key_provider_payload("none")))
    assert list(log.events) == [
        *FIRST[:3],
        RuntimeEvent("init-script-hash", b"\x05" * 32),
        RuntimeEvent("init-script-hash", b"\x06" * 32),
        RuntimeEvent("instance-id", b""),
        RuntimeEvent("boot-mr-done", b""),
        RuntimeEvent("key-provider", b'{"name":"none","id":""}'),
        RuntimeEvent("storage-fs", b"ext4"),
        RuntimeEvent("system-ready", b""),
    ]
    await log.close()


@pytest.mark.parametrize("measured", range(9))
async def test_rule_1_an_interrupted_boot_goes_on(tmp_path: Path, measured: int) -> None:
    platform = RegisterPlatform()
    log = await opened(tmp_path, platform)
    for event in (FIRST + SECOND)[:measured]:
        await log.emit(event.event, event.payload)
    await log.close()
    log = await opened(tmp_path, platform)
    await measure_before_keys(log, IDENTITY)
    await measure_after_keys(log, IDENTITY, KEYS)
    assert list(log.events) == FIRST + SECOND
    await log.close()


async def test_rule_1_a_finished_boot_is_left_alone(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(tmp_path, platform)
    await log.emit("gpu-policy-hash", b"")  # a boot that others measured, in a newer order
    await log.emit("system-ready", b"")
    await log.emit("of the app", b"")
    await measure_before_keys(log, IDENTITY)
    await measure_after_keys(log, IDENTITY, KEYS)
    assert platform.extensions == 3
    await log.close()


async def test_rule_2_another_boot_is_refused(tmp_path: Path) -> None:
    log = await opened(tmp_path, RegisterPlatform())
    await measure_before_keys(log, IDENTITY)
    other = BootIdentity(b"\x01" * 20, b"\x09" * 32, b"\x03" * 20)
    with pytest.raises(PlatformError) as caught:
        await measure_after_keys(log, other, KEYS)
    assert caught.value.finding.code == "boot.sequence"
    assert caught.value.finding.expected == "compose-hash " + "09" * 32
    assert caught.value.finding.found == "compose-hash " + "02" * 32
    assert list(log.events) == FIRST
    await log.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"app_id": b""},
        {"compose_hash": bytes(31)},
        {"instance_id": bytes(19)},
        {"init_script_hashes": (bytes(31),)},
        {"init_script_hashes": (bytes(32),) * 6},
    ],
)
def test_identities_have_their_sizes(fields: dict[str, Any]) -> None:
    members: dict[str, Any] = {"app_id": bytes(20), "compose_hash": bytes(32), "instance_id": bytes(20)}
    with pytest.raises(MisuseError):
        BootIdentity(**(members | fields))


def test_keys_have_their_sizes() -> None:
    with pytest.raises(MisuseError):
        BootKeys(b"", bytes(31))
    with pytest.raises(MisuseError):
        BootKeys(b"", None, "btrfs")  # type: ignore[arg-type]  # what a caller without types may pass
