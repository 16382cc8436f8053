"""Evidence of this TD: a fresh quote, the events it is made of, and what both say about who we are.

Rules:

A1. A quote and the events beside it are taken together under the measurement lock (`measurements`, M1).
A2. Events bear their digests everywhere. Beside a quote, boot events lose their payloads except the ACPI
    ones; in attestations and in TCB info they keep them; certificates carry register 3 and the ACPI
    events (guest-agent.md 9.3, 10.3).
A3. The device id is SHA-256 of the PPID in the PCK certificate within the quote; where a quote carries no
    such certificate, SHA-256 of nothing (guest-agent.md 4.4).
A4. Of the log and its forms the last is kept: the log only grows, so its length tells which one it is.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from teehouse.attestation.abi import (
    DESCRIPTOR_SIZE,
    HEADER_SIZE,
    REPORT_DATA_SIZE,
    TD_REPORT_10_SIZE,
    TEE_TYPE_TDX,
    TdReport,
    parse_header,
    parse_quote,
    parse_td_report,
)
from teehouse.attestation.envelope import AttestationFrame
from teehouse.attestation.eventlog import (
    Event,
    RuntimeEvent,
    encode_event_log,
    name_boot_events,
    strip_for_certificate,
    strip_for_quote,
)
from teehouse.attestation.identity import AppInfo, app_info, device_id
from teehouse.attestation.pck import parse_pck_extension, split_pem_chain
from teehouse.attestation.vmconfig import parse_vm_config
from teehouse.base.findings import EvidenceError, misuse, unsupported
from teehouse.guest.measurements import MeasurementLog
from teehouse.tee.platform import BootEvent, platform_error


@dataclass(frozen=True)  # without slots: its forms are made when they are first asked for, and kept
class AttestedLog:
    """The log as it stood at one time, and the forms it is handed out in (A2, A4).

    `events` are all of them in order, boot events with payloads and names; `runtime_events` those of
    register 3 once more; `config` is the vm_config text.
    """

    events: tuple[Event, ...]
    runtime_events: tuple[RuntimeEvent, ...]
    config: str

    @cached_property
    def beside_quote(self) -> str:
        """JSON, as it goes beside a quote and into the certificate extension of old readers."""
        return encode_event_log(strip_for_quote(self.events))

    @cached_property
    def in_attestation(self) -> AttestationFrame:
        return AttestationFrame(self.events, self.runtime_events, self.config)

    @cached_property
    def in_certificate(self) -> AttestationFrame:
        return AttestationFrame(strip_for_certificate(self.events), self.runtime_events, self.config)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One quote over 64 bytes of `report_data`, and the log its registers are made of."""

    quote: bytes
    report_data: bytes
    log: AttestedLog

    def attestation(self) -> bytes:
        """The versioned attestation with the whole log (guest-agent.md 4.8)."""
        return self.log.in_attestation.whole(self.quote, self.report_data)

    def certificate_attestation(self) -> bytes:
        """The versioned attestation as a certificate carries it (A2)."""
        return self.log.in_certificate.whole(self.quote, self.report_data)


class EvidenceSource:
    """Makes evidence from the measurement log's platform and `vm_config`, the text of sys-config's member.

    `boot_events` are the platform's, read once. Raises `MisuseError` for a vm_config that cannot be read.
    """

    def __init__(self, log: MeasurementLog, boot_events: Sequence[BootEvent], vm_config: str) -> None:
        self.log = log
        self.vm_config = vm_config
        self.os_image_hash = _os_image_hash(vm_config)
        named = name_boot_events(Event(e.imr, e.event_type, e.digest, "", e.payload) for e in boot_events)
        self._entries: list[Event] = list(named)
        self._boot_count = len(self._entries)
        self._last: AttestedLog | None = None
        self._device: tuple[bytes, bytes] | None = None

    async def take(self, report_data: bytes) -> Evidence:
        """Fresh evidence over 64 bytes. Raises `PlatformError`."""
        quote, runtime_events = await self.log.quoted(report_data)
        return Evidence(quote, report_data, self._attested(runtime_events))

    def app_info(self, evidence: Evidence) -> AppInfo:
        """Who the evidence says we are (guest-agent.md 9.4, 10.6). Raises `PlatformError`."""
        return self.identify(evidence)[1]

    def identify(self, evidence: Evidence) -> tuple[TdReport, AppInfo]:
        """The TD report of the evidence, and who it says we are. Raises `PlatformError`."""
        try:
            td = _td_report(evidence.quote)
            device = self._device_id(evidence.quote)
            return td, app_info(td, evidence.log.runtime_events, self.os_image_hash, device)
        except EvidenceError as error:
            raise platform_error(
                "attest.identity", "the evidence does not say who we are", found=str(error)
            ) from error

    @staticmethod
    def tcb_info(evidence: Evidence, td: TdReport, info: AppInfo, app_compose: str) -> str:
        """The text of guest-agent.md 4.4.1; `td` and `info` are what `identify` made of the evidence."""
        registers = {"mrtd": td.mr_td, **{f"rtmr{i}": value for i, value in enumerate(td.rtmrs)}}
        hashes = {
            "mr_aggregated": info.mr_aggregated,
            "os_image_hash": info.os_image_hash,
            "compose_hash": info.compose_hash,
            "device_id": info.device_id,
        }
        members: dict[str, object] = {name: value.hex() for name, value in (registers | hashes).items()}
        members["event_log"] = json.loads(encode_event_log(evidence.log.events))
        members["app_compose"] = app_compose
        return json.dumps(members, indent=2, ensure_ascii=False)

    def _attested(self, runtime_events: tuple[RuntimeEvent, ...]) -> AttestedLog:
        """Rule A4."""
        last = self._last
        if last is None or len(last.runtime_events) != len(runtime_events):
            known = len(self._entries) - self._boot_count
            self._entries.extend(Event.runtime(event) for event in runtime_events[known:])
            events = tuple(self._entries[: self._boot_count + len(runtime_events)])
            last = self._last = AttestedLog(events, runtime_events, self.vm_config)
        return last

    def _device_id(self, quote: bytes) -> bytes:
        """Rule A3. The answer for the last certificate chain is kept: a platform has one."""
        try:
            chain = parse_quote(quote).certification_data
            if self._device is None or self._device[0] != chain:
                self._device = chain, device_id(parse_pck_extension(split_pem_chain(chain)[0]).ppid)
            return self._device[1]
        except EvidenceError:  # a kind of certification that names no PCK certificate
            return device_id(b"")


def padded(report_data: bytes) -> bytes:
    """Up to 64 bytes, filled up with zeros on the right (guest-agent.md 4.3). Raises `MisuseError`."""
    if len(report_data) > REPORT_DATA_SIZE:
        raise misuse("attest.report-data", "Report data is too long")
    return report_data.ljust(REPORT_DATA_SIZE, b"\0")


def _td_report(quote: bytes) -> TdReport:
    """The TD report of a quote, whatever certifies it. Raises `EvidenceError`."""
    header = parse_header(quote)
    if header.tee_type != TEE_TYPE_TDX:
        raise unsupported("attest.tee-type", "the quote is of no TD", found=hex(header.tee_type))
    if header.version == 4:
        return parse_td_report(quote[HEADER_SIZE : HEADER_SIZE + TD_REPORT_10_SIZE])
    start = HEADER_SIZE + DESCRIPTOR_SIZE
    size = int.from_bytes(quote[start - 4 : start], "little")
    return parse_td_report(quote[start : start + size])


def _os_image_hash(vm_config: str) -> bytes:
    if not vm_config:
        return b""
    try:
        return parse_vm_config(vm_config).os_image_hash or b""
    except EvidenceError as error:
        raise misuse("attest.vm-config", "vm_config cannot be read", found=str(error)) from error
