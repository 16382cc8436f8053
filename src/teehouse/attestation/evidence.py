"""What is given to `verify`: a quote, and what its owner says beside it.

A quote alone proves a genuine TD. The log says which events made the registers, report data what the quote
is bound to, the configuration which image was started. Nothing here is believed; `verify` compares.
"""

from dataclasses import dataclass

from teehouse.attestation.envelope import DSTACK_POD, Attestation
from teehouse.attestation.eventlog import Event, RuntimeEvent, parse_event_log, runtime_events


@dataclass(frozen=True, slots=True)
class Evidence:
    """A quote (raw bytes) and its company; None where there is none.

    `event_log` has boot and runtime events, `runtime_events` those of register 3, `report_data` the 64
    bytes that an attestation claims, `config` the vm_config as JSON text. `payload` is a pod's report data
    payload, `pod` true where the attestation says that it has one.
    """

    quote: bytes
    event_log: tuple[Event, ...] | None = None
    runtime_events: tuple[RuntimeEvent, ...] | None = None
    report_data: bytes | None = None
    config: str | None = None
    payload: str | None = None
    pod: bool = False

    @classmethod
    def from_quote(
        cls, quote: bytes, event_log: str | bytes | None = None, vm_config: str | None = None
    ) -> "Evidence":
        """A quote as GetQuote hands it out; `event_log` is JSON text. Raises `EvidenceError` for a broken log.

        Runtime events are those of the runtime type in the log (trust.md 9).
        """
        if event_log is None:
            return cls(quote, config=vm_config or None)
        events = parse_event_log(event_log)
        return cls(quote, events, runtime_events(events), config=vm_config or None)

    @classmethod
    def from_attestation(cls, attestation: Attestation) -> "Evidence":
        """All that a decoded attestation carries."""
        return cls(
            quote=attestation.quote,
            event_log=attestation.event_log,
            runtime_events=attestation.runtime_events,
            report_data=attestation.report_data,
            config=attestation.config or None,
            payload=attestation.report_data_payload,
            pod=attestation.stack == DSTACK_POD,
        )
