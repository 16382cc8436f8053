"""What the dashboard makes of `Info` (rules of `guest.nodeview`)."""

import json
from typing import Any

import pytest

from teehouse.guest.nodeview import (
    EVENTS_SHOWN,
    PAYLOAD_SHOWN,
    BootEventView,
    Measurement,
    Row,
    RuntimeEventView,
    key_provider,
    node_view,
)
from teehouse.wire import guest_pb2 as wire

KMS = '{"name":"kms","id":"3059"}'


def event(
    imr: int, name: str = "", payload: bytes = b"", event_type: int = 0x08000001, digest: str = "ab"
) -> dict[str, Any]:
    return {
        "imr": imr,
        "event_type": event_type,
        "digest": digest,
        "event": name,
        "event_payload": payload.hex(),
    }


def info(*log: dict[str, Any], **members: Any) -> wire.AppInfo:
    tcb = {"mrtd": "00", "rtmr0": "10", "rtmr1": "11", "rtmr2": "12", "rtmr3": "13", "event_log": list(log)}
    fields = {
        "app_id": b"\x01",
        "instance_id": b"\x02",
        "device_id": b"\x03",
        "compose_hash": b"\x04",
        "mr_aggregated": b"\x05",
        "os_image_hash": b"\x06",
        "app_name": "app",
        "key_provider_info": KMS,
        "cloud_vendor": "QEMU",
        "cloud_product": "Standard PC",
        "tcb_info": json.dumps(tcb),
    }
    return wire.AppInfo(**{**fields, **members})


def variable(name: str, value: bytes) -> bytes:
    """UEFI_VARIABLE_DATA of the UEFI and TCG PC Client specifications."""
    text = name.encode("utf-16-le")
    return bytes(16) + len(name).to_bytes(8, "little") + len(value).to_bytes(8, "little") + text + value


def test_the_rows() -> None:
    view = node_view(info())
    assert view.app_name == "app"
    assert view.provider == "KMS"
    assert view.rows == (
        Row("App Name", text="app"),
        Row("App ID", code="01"),
        Row("Instance ID", code="02"),
        Row("Device ID", code="03"),
        Row("Compose Hash", code="04"),
        Row(
            "Key Provider Info",
            text="A KMS gave the keys, after it had judged this machine's quote. Its root key:",
            code="3059",
        ),
        Row("Machine Provider", text="QEMU (Standard PC)"),
    )


@pytest.mark.parametrize(
    ("vendor", "product", "text"),
    [("QEMU", "", "QEMU"), ("", "Standard PC", "(Standard PC)"), ("", "", None)],
)
def test_the_machine_is_told_where_it_is_known(vendor: str, product: str, text: str | None) -> None:
    rows = {row.label: row for row in node_view(info(cloud_vendor=vendor, cloud_product=product)).rows}
    assert rows.get("Machine Provider") == (None if text is None else Row("Machine Provider", text=text))


@pytest.mark.parametrize(
    ("text", "short", "row"),
    [
        (
            '{"name":"none","id":""}',
            "none",
            ("No provider: the keys were made here and nobody else vouches for them.", ""),
        ),
        ('{"name":"tpm","id":""}', "TPM", ("The keys are sealed by this machine's TPM.", "")),
        (
            '{"name":"local-sgx","id":"aa"}',
            "local-sgx",
            ("A key provider in an SGX enclave of the same host gave the keys. Its measurement:", "aa"),
        ),
        ('{"name":"<b>","id":"aa"}', "<b>", ("<b>:", "aa")),
        ("", "", ("Nothing is known of it", "")),
        ("no JSON", "no JSON", ("", "no JSON")),
        ('{"name":"kms"}', '{"name":"kms"}', ("", '{"name":"kms"}')),
        ('{"name":1,"id":2}', '{"name":1,"id":2}', ("", '{"name":1,"id":2}')),
        ("[]", "[]", ("", "[]")),
        ("[" * 100_000, "[" * 40, ("", "[" * 100_000)),
    ],
)
def test_the_key_provider_in_words(text: str, short: str, row: tuple[str, str]) -> None:
    assert key_provider(text) == (short, Row("Key Provider Info", text=row[0], code=row[1]))


def test_r1_measurements_and_their_events() -> None:
    view = node_view(
        info(
            event(0, payload=variable("SecureBoot", b"\0"), event_type=0x80000001),
            event(0, payload=variable("no\u202ename", b""), event_type=0x80000002),
            event(0, payload=b"\0" * 3, event_type=0x80000001),
            event(0, "acpi-loader", b"ACPI DATA", event_type=10),
            event(1, payload=b"Exit Boot Services Invocation", event_type=0x80000007),
            event(1, payload=bytes(4), event_type=4, digest="cd"),
            event(2, payload=b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0", event_type=6),
            event(2, event_type=0x1234),
            event(3, "app-id", b"\x01"),
        )
    )
    meanings = (
        "The virtual firmware the machine started with, page by page",
        "The virtual machine's set-up: memory layout, ACPI tables, boot variables",
        "The kernel that the firmware started",
        "The kernel's command line and the initial file system",
        "The app: the events from boot to now that are listed below",
        "SHA-256 over all registers: one value for the machine",
        "The system image: firmware, kernel, initial file system",
    )
    rtmr0 = (
        BootEventView("EFI variable", "SecureBoot", "ab"),
        BootEventView("EFI boot variable", "", "ab"),
        BootEventView("EFI variable", "", "ab"),
        BootEventView("Platform configuration", "acpi-loader", "ab"),
    )
    rtmr1 = (
        BootEventView("EFI action", "Exit Boot Services Invocation", "ab"),
        BootEventView("Separator", "", "cd"),
    )
    rtmr2 = (
        BootEventView("Tagged event", "Linux initrd", "ab"),
        BootEventView("Event type 0x1234", "", "ab"),
    )
    assert view.measurements == (
        Measurement("MRTD", "00", meanings[0]),
        Measurement("RTMR0", "10", meanings[1], rtmr0),
        Measurement("RTMR1", "11", meanings[2], rtmr1),
        Measurement("RTMR2", "12", meanings[3], rtmr2),
        Measurement("RTMR3", "13", meanings[4]),
        Measurement("mr_aggregated", "05", meanings[5]),
        Measurement("os_image_hash", "06", meanings[6]),
    )


def test_r1_where_tcb_info_is_not_public() -> None:
    view = node_view(info(tcb_info=""))
    assert [one.name for one in view.measurements] == ["mr_aggregated", "os_image_hash"]
    assert (view.events, view.event_count, view.events_left_out, view.tcb_info) == ((), 0, 0, "")


def test_r2_r4_events() -> None:
    long_text, long_bytes = b"x" * 33, b"\xff" * 33
    view = node_view(
        info(
            event(3, "app-id", b"\x01"),
            event(3, "of-another-version", long_text),
            event(3, "storage-fs", b"ext4"),
            event(3, "system-ready"),
            event(3, "app-id", long_bytes),
            event(3, "system-ready", b"two\nlines"),
        )
    )
    assert view.events == (
        RuntimeEventView(1, "app-id", "Which app this is", "01", "", 0, own=False),
        RuntimeEventView(
            2, "of-another-version", "Measured during boot", "", long_text.decode(), 0, own=False
        ),
        RuntimeEventView(
            3, "storage-fs", "The file system of the data disk", b"ext4".hex(), "ext4", 0, own=False
        ),
        RuntimeEventView(
            4, "system-ready", "The boot is complete; what follows is the app's own", "", "", 0, own=False
        ),
        RuntimeEventView(5, "app-id", "Emitted by the app", long_bytes.hex(), "", 0, own=True),
        RuntimeEventView(6, "system-ready", "Emitted by the app", b"two\nlines".hex(), "", 0, own=True),
    )


def test_r3_bounds() -> None:
    own = [event(3, f"own-{number}") for number in range(EVENTS_SHOWN + 7)]
    view = node_view(info(event(3, "app-id", b"\1" * (PAYLOAD_SHOWN + 5)), event(3, "system-ready"), *own))
    assert view.event_count == EVENTS_SHOWN + 9
    assert view.events_left_out == 7
    assert [one.name for one in view.events[:3]] == ["app-id", "system-ready", "own-7"]
    assert [one.number for one in view.events[:3]] == [1, 2, 10]
    assert (view.events[0].payload, view.events[0].left_out) == ("01" * PAYLOAD_SHOWN, 5)
    assert view.events[-1].number == EVENTS_SHOWN + 9


def test_a_boot_that_is_not_complete_has_no_events_of_the_app() -> None:
    view = node_view(info(*(event(3, f"e{number}") for number in range(EVENTS_SHOWN + 7))))
    assert not any(one.own for one in view.events)
    assert len(view.events) == EVENTS_SHOWN + 7
