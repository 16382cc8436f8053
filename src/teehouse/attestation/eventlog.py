"""The event log of a TD: what was measured into its registers, and what that makes of them.

Formats: guest-agent.md 10 (events, JSON, names), trust.md 8.1 to 8.3 (extension, rules, order).

Rules of `check_event_log` (trust.md 8.2):

1. An event of the runtime type (0x08000001) belongs to register 3.
2. Register 3 has no events of another type.
3. A digest has 48 bytes; only a runtime event may leave it out, since it can be recomputed.
4. A runtime event that carries a digest carries the one computed from its name and payload.
5. A preimage, where one is carried, is the canonical one of its event; boot events carry none.

A version 2 event without a preimage is judged by rules 1 to 4 alone: the preimage follows from
name and payload, so a log that left it out has said nothing less.

`replay` computes the digest of runtime events itself, whatever digest they carry: a register is
then evidence for names and payloads, not merely for digests.
"""

import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from teehouse.attestation import strictjson
from teehouse.base.findings import Finding, Outcome, malformed, misuse, unsupported
from teehouse.base.hashes import INITIAL_REGISTER, REGISTER_SIZE, extend, sha384

RUNTIME_EVENT_TYPE = 0x08000001
RUNTIME_REGISTER = 3
ACPI_EVENT_TYPE = 10
ACPI_EVENT_PAYLOAD = b"ACPI DATA"
ACPI_EVENT_NAMES = ("acpi-loader", "acpi-rsdp", "acpi-tables")

LOG_LIMIT = 10 * 1024 * 1024  # characters of JSON
EVENT_LIMIT = 65536
_U32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """An event of register 3: what the guest says about itself (guest-agent.md 10.1).

    `version` chooses the form that is hashed, 1 or 2.
    """

    event: str
    payload: bytes
    version: int = 1

    def preimage(self) -> bytes:
        """What is hashed (guest-agent.md 10.2). Raises `MisuseError` for an unknown version or unencodable name."""
        try:
            name = self.event.encode()
        except UnicodeEncodeError:
            raise misuse("eventlog.event-name", "name of an event has half a surrogate pair") from None
        if self.version == 1:
            return RUNTIME_EVENT_TYPE.to_bytes(4, "little") + b":" + name + b":" + self.payload
        if self.version == 2:
            # Members are in JCS order already, and json escapes exactly what RFC 8785 escapes.
            members = {"name": self.event, "payload": self.payload.hex(), "type": RUNTIME_EVENT_TYPE}
            return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
        raise misuse(
            "eventlog.event-version", "version of an event", expected="1 or 2", found=str(self.version)
        )

    def digest(self) -> bytes:
        """SHA-384 of the preimage, 48 bytes: what register 3 is extended by."""
        return sha384(self.preimage())


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log (guest-agent.md 10.3).

    `imr` is the register, 0 to 3; `digest` has 48 bytes, or none where a runtime event left it out;
    `event` is empty for unnamed boot events. `version` and `preimage` speak of runtime events only.
    """

    imr: int
    event_type: int
    digest: bytes
    event: str = ""
    event_payload: bytes = b""
    version: int = 1
    preimage: bytes | None = None

    @classmethod
    def runtime(cls, event: RuntimeEvent) -> Self:
        """The log entry of a runtime event, with its digest, and with its preimage when it is version 2."""
        preimage = event.preimage()
        return cls(
            imr=RUNTIME_REGISTER,
            event_type=RUNTIME_EVENT_TYPE,
            digest=sha384(preimage),
            event=event.event,
            event_payload=event.payload,
            version=event.version,
            preimage=preimage if event.version == 2 else None,
        )

    @property
    def is_runtime(self) -> bool:
        return self.event_type == RUNTIME_EVENT_TYPE

    @property
    def is_acpi(self) -> bool:
        """Whether this is one of the ACPI measurements of register 0 (guest-agent.md 10.5)."""
        return (
            self.imr == 0 and self.event_type == ACPI_EVENT_TYPE and self.event_payload == ACPI_EVENT_PAYLOAD
        )

    def as_runtime(self) -> RuntimeEvent:
        """Name, payload and version, as a runtime event."""
        return RuntimeEvent(self.event, self.event_payload, self.version)


def encode_event_log(events: Iterable[Event]) -> str:
    """The log as compact ASCII JSON, members in the order of guest-agent.md 10.3."""
    return json.dumps([_members(event) for event in events], separators=(",", ":"))


def parse_event_log(text: str | bytes) -> tuple[Event, ...]:
    """Read the JSON of a log; an event may leave out digest, name and payload, unknown members are passed over.

    Raises `EvidenceError`: malformed, or unsupported for an event version other than 1 and 2.
    """
    items = strictjson.load(text, "eventlog", limit=LOG_LIMIT)
    if not isinstance(items, list):
        raise malformed("eventlog.not-list", "the event log is no JSON array")
    if len(items) > EVENT_LIMIT:
        raise malformed(
            "eventlog.too-long",
            "the event log has too many events",
            expected=f"at most {EVENT_LIMIT}",
            found=str(len(items)),
        )
    return tuple(_event(item) for item in items)


def replay(events: Iterable[Event], imr: int) -> bytes:
    """The 48 bytes that these events make of register `imr`, from zero.

    Raises `EvidenceError` (malformed) for a boot event whose digest has not 48 bytes.
    """
    register = INITIAL_REGISTER
    for event in events:
        if event.imr != imr:
            continue
        digest = event.as_runtime().digest() if event.is_runtime else event.digest
        if len(digest) != REGISTER_SIZE:
            raise malformed(
                "eventlog.digest-size",
                f"digest of an event of register {imr}",
                expected=f"{REGISTER_SIZE} bytes",
                found=str(len(digest)),
            )
        register = extend(register, digest)
    return register


def replay_runtime(events: Iterable[RuntimeEvent]) -> bytes:
    """The 48 bytes that these events make of register 3, from zero."""
    register = INITIAL_REGISTER
    for event in events:
        register = extend(register, event.digest())
    return register


def name_boot_events(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same events; the first three ACPI ones bear their names (guest-agent.md 10.5)."""
    names = iter(ACPI_EVENT_NAMES)
    named: list[Event] = []
    for event in events:
        name = next(names, None) if event.is_acpi else None
        named.append(event if name is None else replace(event, event=name))
    return tuple(named)


def strip_for_quote(events: Iterable[Event]) -> tuple[Event, ...]:
    """What goes beside a quote (guest-agent.md 10.3): boot events lose their payload, except the ACPI ones.

    Every runtime event bears its digest, since readers in the field replay digests as they stand.
    """
    return tuple(
        _with_digest(e) if e.is_acpi or e.is_runtime else replace(e, event_payload=b"") for e in events
    )


def strip_for_certificate(events: Iterable[Event]) -> tuple[Event, ...]:
    """What goes into a certificate (guest-agent.md 9.3): register 3 and the ACPI events, digests kept."""
    return tuple(_with_digest(e) for e in events if e.imr == RUNTIME_REGISTER or e.is_acpi)


def runtime_events(events: Iterable[Event]) -> tuple[RuntimeEvent, ...]:
    """The runtime events of a log, in order."""
    return tuple(e.as_runtime() for e in events if e.is_runtime)


def check_event_log(events: Sequence[Event]) -> tuple[Finding, ...]:
    """Judge a log by the rules above: one finding for each rule that is broken, at its first place, or one that passed."""
    broken: dict[str, Finding] = {}
    for place, event in enumerate(events):
        for finding in _faults(place, event):
            broken.setdefault(finding.check, finding)
    if broken:
        return tuple(broken[check] for check in sorted(broken))
    return (Finding("eventlog.consistent", "event log", found=f"{len(events)} consistent events"),)


def _faults(place: int, event: Event) -> Iterable[Finding]:
    subject = f"event {place}"
    where = f"register {event.imr}, type {event.event_type:#010x}"
    if event.is_runtime and event.imr != RUNTIME_REGISTER:
        yield Finding(
            "eventlog.runtime-register",
            subject,
            Outcome.REJECTED,
            expected="runtime events in register 3 only",
            found=where,
            check="1",
        )
    if not event.is_runtime and event.imr == RUNTIME_REGISTER:
        yield Finding(
            "eventlog.runtime-type",
            subject,
            Outcome.REJECTED,
            expected=f"type {RUNTIME_EVENT_TYPE:#010x} in register 3",
            found=where,
            check="2",
        )
    if len(event.digest) != REGISTER_SIZE and not (event.is_runtime and not event.digest):
        yield Finding(
            "eventlog.digest-size",
            f"digest of {subject}",
            Outcome.MALFORMED,
            expected=f"{REGISTER_SIZE} bytes",
            found=str(len(event.digest)),
            check="3",
        )
    preimage = event.as_runtime().preimage() if event.is_runtime else None
    if preimage is not None and event.digest:
        digest = sha384(preimage)
        if not hmac.compare_digest(digest, event.digest):
            yield Finding(
                "eventlog.digest",
                f"digest of {subject}, {strictjson.quoted(event.event)}",
                Outcome.REJECTED,
                expected=digest.hex(),
                found=event.digest.hex(),
                check="4",
            )
    if event.preimage is not None and event.preimage != preimage:
        yield Finding(
            "eventlog.preimage",
            f"preimage of {subject}",
            Outcome.REJECTED,
            expected="none" if preimage is None else preimage.hex(),
            found=event.preimage.hex(),
            check="5",
        )


def _with_digest(event: Event) -> Event:
    if event.is_runtime and not event.digest:
        return replace(event, digest=event.as_runtime().digest())
    return event


def _members(event: Event) -> dict[str, object]:
    members: dict[str, object] = {
        "imr": event.imr,
        "event_type": event.event_type,
        "digest": event.digest.hex(),
        "event": event.event,
        "event_payload": event.event_payload.hex(),
    }
    if event.version != 1:
        members["version"] = event.version
    if event.preimage is not None:
        members["preimage"] = event.preimage.hex()
    return members


def _event(item: Any) -> Event:
    if not isinstance(item, dict):
        raise malformed("eventlog.not-object", "an event of the log is no JSON object")
    digest = strictjson.hex_member(item, "digest", "eventlog", "")
    if digest and len(digest) != REGISTER_SIZE:
        raise malformed(
            "eventlog.digest-size",
            "digest of an event",
            expected=f"{REGISTER_SIZE} bytes or none",
            found=str(len(digest)),
        )
    return Event(
        imr=strictjson.int_member(item, "imr", "eventlog", limit=RUNTIME_REGISTER),
        event_type=strictjson.int_member(item, "event_type", "eventlog", limit=_U32),
        digest=digest,
        event=strictjson.text_member(item, "event", "eventlog", ""),
        event_payload=strictjson.hex_member(item, "event_payload", "eventlog", ""),
        version=_version(item),
        preimage=_preimage(item),
    )


def _version(item: Mapping[str, Any]) -> int:
    if item.get("version") is None:
        return 1
    version = strictjson.int_member(item, "version", "eventlog", limit=_U32)
    if version not in (1, 2):
        raise unsupported(
            "eventlog.event-version", "version of an event", expected="1 or 2", found=str(version)
        )
    return version


def _preimage(item: Mapping[str, Any]) -> bytes | None:
    if item.get("preimage") is None:
        return None
    return strictjson.hex_member(item, "preimage", "eventlog")
