"""Attestations as bytes: what `Attest` answers and what certificates carry (guest-agent.md 11, trust.md 9).

Two forms, told apart by their first byte: V0 is SCALE, V1 MessagePack. Both carry a quote, the event
log, the runtime events, the report data and the VM's configuration.

Rules:

1. An attestation is not empty and has at most `ATTESTATION_LIMIT` bytes; nothing follows its end.
2. 00 begins V0; 80 to 8f, de and df begin V1; other first bytes are refused.
3. Of the platforms only TDX is read; others are unsupported, by name. So are stacks other than
   dstack and dstack-pod, and another version than 1 in V1.
4. V0 is read in its one canonical form, so `encode_v0(decode_attestation(data)) == data`.
5. In V1, byte members are read in any form that writers use (see `strictmsgpack`); members that are not
   known are passed over.
6. V0 carries no event version: it is written only when every event is version 1 and has no preimage.

Whether digests, quote and report data are right is not judged here, with one exception that a
caller asks for: `check_payload_binding`.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from teehouse.attestation import strictjson, strictmsgpack
from teehouse.attestation.abi import REPORT_DATA_SIZE
from teehouse.attestation.eventlog import EVENT_LIMIT, Event, RuntimeEvent
from teehouse.attestation.identity import APP_DATA_TAG, report_data
from teehouse.base import scale
from teehouse.base.findings import Finding, Outcome, malformed, misuse, unsupported

ATTESTATION_LIMIT = 10 * 1024 * 1024
DSTACK = "dstack"
DSTACK_POD = "dstack-pod"

_NAME = "attestation"
_PLATFORM = "tdx"
_V0_KINDS = ("tdx", "gcp-tdx", "nitro-enclave", "sev-snp", "aws-nitro-tpm")
_V1_KINDS = frozenset(_V0_KINDS)
_U32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Attestation:
    """An attestation of a TD.

    `quote` is a quote's bytes, `report_data` 64 bytes, `config` the text of vm_config (or of a sys-config
    around it). `stack` is `dstack` or `dstack-pod`; only the latter has a `report_data_payload`.
    """

    quote: bytes
    event_log: tuple[Event, ...]
    runtime_events: tuple[RuntimeEvent, ...]
    report_data: bytes
    config: str
    stack: str = DSTACK
    report_data_payload: str | None = None


def decode_attestation(data: bytes) -> Attestation:
    """Read either form, by the rules above. Raises `EvidenceError`, malformed or unsupported."""
    if not data:
        raise malformed("attestation.empty", "Empty attestation bytes")
    if len(data) > ATTESTATION_LIMIT:
        raise malformed(
            "attestation.too-long",
            "the attestation is too long",
            expected=f"at most {ATTESTATION_LIMIT} bytes",
            found=str(len(data)),
        )
    if data[0] == 0:
        return _decode_v0(data)
    if 0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF):
        return _decode_v1(data)
    raise malformed("attestation.format", "Unknown attestation wire format")


def encode_attestation(attestation: Attestation) -> bytes:
    """V0 where it can carry everything (rule 6), else V1. Raises `MisuseError` as the two encoders."""
    return encode_v0(attestation) if _fits_v0(attestation) else encode_v1(attestation)


def encode_v0(attestation: Attestation) -> bytes:
    """V0 (guest-agent.md 11.2). Raises `MisuseError` for what it cannot carry, or report data not of 64 bytes."""
    if not _fits_v0(attestation):
        raise misuse(
            "attestation.not-v0",
            "an attestation in form V0",
            expected="stack dstack, and version 1 events without preimages",
        )
    logs = _v0_logs(attestation)
    return _v0(attestation.quote, logs, _sized(attestation.report_data), scale.text(attestation.config))


class AttestationFrame:
    """What all attestations over one log and configuration share, encoded once.

    For whoever attests again and again: `whole` gives what `encode_attestation` gives. The members are those
    of `Attestation`.
    """

    def __init__(
        self, event_log: tuple[Event, ...], runtime_events: tuple[RuntimeEvent, ...], config: str
    ) -> None:
        self._sample = Attestation(b"", event_log, runtime_events, bytes(REPORT_DATA_SIZE), config)
        self._logs = _v0_logs(self._sample) if _fits_v0(self._sample) else None
        self._config = scale.text(config)

    def whole(self, quote: bytes, report_data: bytes) -> bytes:
        """The attestation with this quote, over 64 bytes. Raises `MisuseError` for another size."""
        if self._logs is None:
            return encode_v1(replace(self._sample, quote=quote, report_data=report_data))
        return _v0(quote, self._logs, _sized(report_data), self._config)


def encode_v1(attestation: Attestation) -> bytes:
    """V1 (guest-agent.md 11.3), with the writer's habits of upstream: quote and report data as integer lists.

    Raises `MisuseError` for report data not of 64 bytes, or a pod without its payload.
    """
    stack: dict[str, object] = {
        "report_data": list(_sized(attestation.report_data)),
        "runtime_events": [_runtime_members(event) for event in attestation.runtime_events],
        "config": attestation.config,
    }
    if attestation.stack == DSTACK_POD:
        if attestation.report_data_payload is None:
            raise misuse("attestation.no-payload", "a dstack-pod attestation without report_data_payload")
        stack["report_data_payload"] = attestation.report_data_payload
    platform = {
        "quote": list(attestation.quote),
        "event_log": [_event_members(event) for event in attestation.event_log],
    }
    return strictmsgpack.dumps(
        {
            "version": 1,
            "platform": {"kind": _PLATFORM, "data": platform},
            "stack": {"kind": attestation.stack, "data": stack},
        }
    )


def check_payload_binding(attestation: Attestation) -> tuple[Finding, ...]:
    """For a pod: its report data is the app-data hash of its payload. No finding for other stacks."""
    if attestation.stack != DSTACK_POD:
        return ()
    payload = (attestation.report_data_payload or "").encode()
    expected = report_data(APP_DATA_TAG, payload)
    equal = hmac.compare_digest(expected, attestation.report_data)
    return (
        Finding(
            "attestation.payload-binding",
            "report data of a pod",
            Outcome.ACCEPTED if equal else Outcome.REJECTED,
            expected=expected.hex(),
            found=attestation.report_data.hex(),
        ),
    )


def _v0(quote: bytes, logs: bytes, bound: bytes, config: bytes) -> bytes:
    """V0 of its parts: `logs` and `config` are encoded, `bound` is the report data."""
    return b"".join((b"\x00\x00", scale.byte_string(quote), logs, bound, config))


def _v0_logs(attestation: Attestation) -> bytes:
    event_log = scale.vector(
        event.imr.to_bytes(4, "little")
        + event.event_type.to_bytes(4, "little")
        + scale.byte_string(event.digest)
        + scale.text(event.event)
        + scale.byte_string(event.event_payload)
        for event in attestation.event_log
    )
    runtime_events = scale.vector(
        scale.text(event.event) + scale.byte_string(event.payload) for event in attestation.runtime_events
    )
    return event_log + runtime_events


def _fits_v0(attestation: Attestation) -> bool:
    return (
        attestation.stack == DSTACK
        and attestation.report_data_payload is None
        and all(event.version == 1 for event in attestation.runtime_events)
        and all(event.version == 1 and event.preimage is None for event in attestation.event_log)
    )


def _sized(bound: bytes) -> bytes:
    if len(bound) != REPORT_DATA_SIZE:
        raise misuse(
            "attestation.report-data",
            "report data of an attestation",
            expected=f"{REPORT_DATA_SIZE} bytes",
            found=str(len(bound)),
        )
    return bound


def _decode_v0(data: bytes) -> Attestation:
    reader = scale.ScaleReader(data, _NAME)
    reader.u8("the version")
    kind = reader.u8("the platform kind")
    if kind != 0:
        raise _other_platform(_V0_KINDS[kind] if kind < len(_V0_KINDS) else f"kind {kind}")
    quote = reader.byte_string("the quote")

    def event() -> Event:
        return Event(
            imr=reader.u32("a register"),
            event_type=reader.u32("an event type"),
            digest=reader.byte_string("a digest"),
            event=reader.text("an event name"),
            event_payload=reader.byte_string("an event payload"),
        )

    def runtime_event() -> RuntimeEvent:
        return RuntimeEvent(reader.text("an event name"), reader.byte_string("an event payload"))

    event_log = tuple(reader.vector(event, "the event log", limit=EVENT_LIMIT))
    runtime_events = tuple(reader.vector(runtime_event, "the runtime events", limit=EVENT_LIMIT))
    bound = reader.take(REPORT_DATA_SIZE, "the report data")
    config = reader.text("the configuration")
    reader.finish()
    return Attestation(quote, event_log, runtime_events, bound, config)


def _decode_v1(data: bytes) -> Attestation:
    document = strictmsgpack.load(data, _NAME, limit=ATTESTATION_LIMIT)
    version = strictmsgpack.member(document, "version", int, _NAME)
    if version != 1:
        raise unsupported("attestation.version", "attestation version", expected="1", found=str(version))
    platform = strictmsgpack.member(document, "platform", dict, _NAME)
    kind = strictmsgpack.member(platform, "kind", str, _NAME)
    if kind != _PLATFORM:
        raise _other_platform(kind if kind in _V1_KINDS else "an unknown kind")
    evidence = strictmsgpack.member(platform, "data", dict, _NAME)
    stack = strictmsgpack.member(document, "stack", dict, _NAME)
    stack_kind = strictmsgpack.member(stack, "kind", str, _NAME)
    if stack_kind not in (DSTACK, DSTACK_POD):
        raise unsupported(
            "attestation.stack-kind",
            "stack of the attestation",
            expected="dstack or dstack-pod",
            found=strictjson.quoted(stack_kind),
        )
    content = strictmsgpack.member(stack, "data", dict, _NAME)
    bound = strictmsgpack.octets(content.get("report_data"), "report_data", _NAME)
    if len(bound) != REPORT_DATA_SIZE:
        raise malformed(
            "attestation.report-data",
            "report data of the attestation",
            expected=f"{REPORT_DATA_SIZE} bytes",
            found=str(len(bound)),
        )
    payload = None
    if stack_kind == DSTACK_POD:
        payload = strictmsgpack.member(content, "report_data_payload", str, _NAME)
    return Attestation(
        quote=strictmsgpack.octets(evidence.get("quote"), "quote", _NAME),
        event_log=tuple(map(_event, strictmsgpack.member(evidence, "event_log", list, _NAME))),
        runtime_events=tuple(
            map(_runtime_event, strictmsgpack.member(content, "runtime_events", list, _NAME))
        ),
        report_data=bound,
        config=strictmsgpack.member(content, "config", str, _NAME),
        stack=stack_kind,
        report_data_payload=payload,
    )


def _other_platform(kind: str) -> Exception:
    return unsupported(
        "attestation.platform-kind", "platform of the attestation", expected=_PLATFORM, found=kind
    )


def _event(item: Any) -> Event:
    members = _map(item)
    preimage = members.get("preimage")
    return Event(
        imr=strictjson.int_member(members, "imr", _NAME, limit=_U32),
        event_type=strictjson.int_member(members, "event_type", _NAME, limit=_U32),
        digest=strictmsgpack.octets(members.get("digest"), "digest", _NAME),
        event=strictjson.text_member(members, "event", _NAME),
        event_payload=strictmsgpack.octets(members.get("event_payload"), "event_payload", _NAME),
        version=_event_version(members),
        preimage=None if preimage is None else strictmsgpack.octets(preimage, "preimage", _NAME),
    )


def _runtime_event(item: Any) -> RuntimeEvent:
    members = _map(item)
    return RuntimeEvent(
        event=strictjson.text_member(members, "event", _NAME),
        payload=strictmsgpack.octets(members.get("payload"), "payload", _NAME),
        version=_event_version(members),
    )


def _map(item: Any) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise malformed("attestation.member", "an event of the attestation is no map")
    return item


def _event_version(members: Mapping[str, Any]) -> int:
    if members.get("version") is None:
        return 1
    version = strictjson.int_member(members, "version", _NAME, limit=_U32)
    if version not in (1, 2):
        raise unsupported(
            "attestation.event-version", "version of an event", expected="1 or 2", found=str(version)
        )
    return version


def _event_members(event: Event) -> dict[str, object]:
    members: dict[str, object] = {
        "imr": event.imr,
        "event_type": event.event_type,
        "digest": event.digest,
        "event": event.event,
        "event_payload": event.event_payload,
    }
    if event.version != 1:
        members["version"] = event.version
    if event.preimage is not None:
        members["preimage"] = event.preimage.hex()
    return members


def _runtime_members(event: RuntimeEvent) -> dict[str, object]:
    members: dict[str, object] = {"event": event.event, "payload": event.payload}
    if event.version != 1:
        members["version"] = event.version
    return members
