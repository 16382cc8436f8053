"""What the dashboard says of the CVM, out of the public answer of `Info` (guest-agent.md 13.4, 10.5).

Rules:

1. Only what `Info` tells the outside is shown: where TCB info is not public there are neither registers nor
   events here.
2. An event after `system-ready` is the app's own, whatever it calls itself.
3. At most `EVENTS_SHOWN` of the app's events, the last ones, and `PAYLOAD_SHOWN` bytes of each payload are
   shown; what is left out is said.
4. A payload is hex. Where it is printable ASCII its text stands beside it, and instead of it beyond
   `HEX_BESIDE_TEXT` bytes.

Values are plain text; who writes HTML escapes them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from teehouse.wire import guest_pb2 as wire

EVENTS_SHOWN = 100
PAYLOAD_SHOWN = 1024  # bytes
HEX_BESIDE_TEXT = 32  # bytes
APP_REGISTER = 3

_READY = "system-ready"
_APPS_OWN = "Emitted by the app"
# Member of TCB info, number of the runtime register, what it measures (guest-agent.md 10.5, 10.6).
_REGISTERS: Sequence[tuple[str, int | None, str]] = (
    ("mrtd", None, "The virtual firmware the machine started with, page by page"),
    ("rtmr0", 0, "The virtual machine's set-up: memory layout, ACPI tables, boot variables"),
    ("rtmr1", 1, "The kernel that the firmware started"),
    ("rtmr2", 2, "The kernel's command line and the initial file system"),
    ("rtmr3", APP_REGISTER, "The app: the events from boot to now that are listed below"),
)
_MEANINGS: Mapping[str, str] = {
    "system-preparing": "The system began to prepare the app",
    "app-id": "Which app this is",
    "compose-hash": "SHA-256 of the app-compose file",
    "init-script-hash": "SHA-256 of an init script",
    "gpu-policy-hash": "SHA-256 of the app's demands on GPUs",
    "gpu-attestation": "What the GPU proved",
    "instance-id": "Which instance of the app this is",
    "boot-mr-done": "The boot is measured; keys are asked for next",
    "os-image-hash": "The system image that the KMS gave keys to",
    "key-provider": "Who gave the app its keys",
    "storage-fs": "The file system of the data disk",
    _READY: "The boot is complete; what follows is the app's own",
}
_PROVIDERS: Mapping[str, str] = {
    "kms": "A KMS gave the keys, after it had judged this machine's quote. Its root key:",
    "local-sgx": "A key provider in an SGX enclave of the same host gave the keys. Its measurement:",
    "tpm": "The keys are sealed by this machine's TPM.",
    "none": "No provider: the keys were made here and nobody else vouches for them.",
}
# TCG PC Client Platform Firmware Profile, table of event types.
_EVENT_TYPES: Mapping[int, str] = {
    0x00000004: "Separator",
    0x00000006: "Tagged event",
    0x0000000A: "Platform configuration",
    0x80000001: "EFI variable",
    0x80000002: "EFI boot variable",
    0x80000003: "EFI application",
    0x80000007: "EFI action",
    0x8000000A: "Firmware volume",
    0x8000000B: "Hand-off tables",
}
_VARIABLES = (0x80000001, 0x80000002)
_ACTION, _TAGGED = 0x80000007, 0x00000006


@dataclass(frozen=True, slots=True)
class Row:
    """A labelled value: `text` is for reading, `code` an identifier for copying; either may be empty."""

    label: str
    text: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class BootEventView:
    """An event of RTMR0 to RTMR2: its kind, a name where it has one, its digest as hex."""

    kind: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measurement as hex, what it measures, and the events it is made of, where there are any."""

    name: str
    value: str
    meaning: str
    events: tuple[BootEventView, ...] = ()


@dataclass(frozen=True, slots=True)
class RuntimeEventView:
    """An event of RTMR3. `number` counts from 1; of `payload` (hex) and `text` one or both are set (rule 4)."""

    number: int
    name: str
    meaning: str
    payload: str
    text: str
    left_out: int
    own: bool


@dataclass(frozen=True, slots=True)
class NodeView:
    """Everything of the page that follows from `Info`."""

    app_name: str
    provider: str
    rows: tuple[Row, ...]
    measurements: tuple[Measurement, ...]
    events: tuple[RuntimeEventView, ...]
    event_count: int
    events_left_out: int
    tcb_info: str


def node_view(info: wire.AppInfo) -> NodeView:
    """The view of a public answer of `Info`."""
    tcb: dict[str, Any] = json.loads(info.tcb_info) if info.tcb_info else {}
    log: Sequence[dict[str, Any]] = tcb.get("event_log", ())
    runtime = [event for event in log if event["imr"] == APP_REGISTER]
    events = _runtime_events(runtime)
    provider, provider_row = key_provider(info.key_provider_info)
    machine = f"{info.cloud_vendor} ({info.cloud_product})" if info.cloud_product else info.cloud_vendor
    rows = [
        Row("App Name", text=info.app_name),
        Row("App ID", code=info.app_id.hex()),
        Row("Instance ID", code=info.instance_id.hex()),
        Row("Device ID", code=info.device_id.hex()),
        Row("Compose Hash", code=info.compose_hash.hex()),
        provider_row,
    ]
    if machine:
        rows.append(Row("Machine Provider", text=machine.strip()))
    return NodeView(
        app_name=info.app_name,
        provider=provider,
        rows=tuple(rows),
        measurements=_measurements(info, tcb, log),
        events=events,
        event_count=len(runtime),
        events_left_out=len(runtime) - len(events),
        tcb_info=info.tcb_info,
    )


def key_provider(text: str) -> tuple[str, Row]:
    """A short name of the provider, and the row that says it in words. What is not of its form is shown as it is."""
    label = "Key Provider Info"
    try:
        named = json.loads(text)
        name, identifier = named["name"], named["id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return text[:40], Row(label, text="" if text else "Nothing is known of it", code=text)
    if not (isinstance(name, str) and isinstance(identifier, str)):
        return text[:40], Row(label, code=text)
    short = {"kms": "KMS", "none": "none", "tpm": "TPM"}.get(name, name)
    return short, Row(label, text=_PROVIDERS.get(name, f"{name}:"), code=identifier)


def _measurements(
    info: wire.AppInfo, tcb: Mapping[str, Any], log: Sequence[dict[str, Any]]
) -> tuple[Measurement, ...]:
    registers = [
        Measurement(
            member.upper(),
            tcb[member],
            meaning,
            tuple(_boot_event(event) for event in log if event["imr"] == number != APP_REGISTER),
        )
        for member, number, meaning in _REGISTERS
        if member in tcb
    ]
    registers += [
        Measurement(
            "mr_aggregated", info.mr_aggregated.hex(), "SHA-256 over all registers: one value for the machine"
        ),
        Measurement(
            "os_image_hash",
            info.os_image_hash.hex(),
            "The system image: firmware, kernel, initial file system",
        ),
    ]
    return tuple(registers)


def _boot_event(event: Mapping[str, Any]) -> BootEventView:
    kind = _EVENT_TYPES.get(event["event_type"], f"Event type {event['event_type']:#x}")
    name = event["event"] or _payload_name(event["event_type"], bytes.fromhex(event["event_payload"]))
    return BootEventView(kind, name, event["digest"])


def _payload_name(event_type: int, payload: bytes) -> str:
    """The name that firmware put into a payload, as far as it is one; empty otherwise."""
    if (
        event_type in _VARIABLES
    ):  # GUID, u64 characters of the name, u64 bytes of the value, the name in UTF-16
        size = int.from_bytes(payload[16:24], "little") * 2
        return _printable(payload[32 : 32 + min(size, 128)].decode("utf-16-le", errors="replace"))
    if event_type == _TAGGED:  # u32 id, u32 size, data
        return _printable(payload[8:72].rstrip(b"\0").decode("latin-1"))
    if event_type == _ACTION:
        return _printable(payload[:64].rstrip(b"\0").decode("latin-1"))
    return ""


def _printable(text: str) -> str:
    return text if text.isascii() and text.isprintable() else ""


def _runtime_events(log: Sequence[dict[str, Any]]) -> tuple[RuntimeEventView, ...]:
    names = [event["event"] for event in log]
    boot = names.index(_READY) + 1 if _READY in names else len(names)
    first_own = max(boot, len(log) - EVENTS_SHOWN)
    return tuple(
        _runtime_event(index, log[index], own=index >= boot)
        for index in (*range(boot), *range(first_own, len(log)))
    )


def _runtime_event(index: int, event: Mapping[str, Any], *, own: bool) -> RuntimeEventView:
    payload = bytes.fromhex(event["event_payload"])
    shown = payload[:PAYLOAD_SHOWN]
    text = _printable(shown.decode("latin-1"))
    return RuntimeEventView(
        number=index + 1,
        name=event["event"],
        meaning=_APPS_OWN if own else _MEANINGS.get(event["event"], "Measured during boot"),
        payload="" if text and len(shown) > HEX_BESIDE_TEXT else shown.hex(),
        text=text,
        left_out=len(payload) - len(shown),
        own=own,
    )
