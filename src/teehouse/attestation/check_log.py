"""Checks V21 to V28 of `verify`: what the log, the configuration and the claims make of a genuine TD."""

from collections.abc import Sequence

from teehouse.attestation import identity
from teehouse.attestation.abi import TdReport
from teehouse.attestation.eventlog import (
    RUNTIME_REGISTER,
    Event,
    RuntimeEvent,
    check_event_log,
    replay,
    replay_runtime,
    runtime_events,
)
from teehouse.attestation.evidence import Evidence
from teehouse.attestation.identity import AppInfo
from teehouse.attestation.ladder import Ladder
from teehouse.attestation.measure import check_image
from teehouse.attestation.mrconfig import ConfiguredIdentity, check_mr_config_id, parse_key_provider
from teehouse.attestation.vmconfig import parse_vm_config
from teehouse.base.findings import TeehouseError

BOOT_REGISTERS = (0, 1, 2)
GPU_POLICY_HASH = "gpu-policy-hash"


def check_log(ladder: Ladder, events: Sequence[Event], runtime: Sequence[RuntimeEvent]) -> bool:
    """V21: the log keeps its rules (trust.md 8.2), preimages of version 2 among them, and tells one story."""
    findings = check_event_log(events)
    for finding in findings:
        ladder.add("V21", finding)
    told = runtime_events(events)
    # A log without register 3 leaves it to the runtime events; one that has it must have the same.
    if told and [(e.event, e.payload) for e in told] != [(e.event, e.payload) for e in runtime]:
        ladder.refused(
            "V21",
            "eventlog.two-stories",
            "the log's runtime events and the attestation's",
            expected=f"the same {len(runtime)} events",
            found=f"{len(told)} events that differ",
        )
        return False
    return all(finding.ok for finding in findings)


def boot_log_is_whole(events: Sequence[Event]) -> bool:
    """True when the log has boot events beyond the ACPI ones, which is all that a certificate's log keeps."""
    return any(event.imr in BOOT_REGISTERS and not event.is_acpi for event in events)


def check_boot_registers(ladder: Ladder, td: TdReport, events: Sequence[Event]) -> None:
    """V22: RTMR0 to 2 are what the boot events make of them, where the log has those."""
    if not boot_log_is_whole(events):
        return
    replayed = [replay(events, register) for register in BOOT_REGISTERS]
    before = ladder.failures
    for register, value in zip(BOOT_REGISTERS, replayed, strict=True):
        _register(ladder, "V22", register, td.rtmrs[register], value)
    if ladder.failures == before:
        ladder.passed("V22", "rtmr.boot", "RTMR0 to 2 are replayed from the boot events")


def check_runtime_register(ladder: Ladder, td: TdReport, runtime: Sequence[RuntimeEvent]) -> None:
    """V23: RTMR3 is what the runtime events make of it."""
    try:
        value = replay_runtime(runtime)
    except TeehouseError as error:
        ladder.error("V23", error)
        return
    if _register(ladder, "V23", RUNTIME_REGISTER, td.rt_mr3, value):
        ladder.passed(
            "V23", "rtmr.runtime", "RTMR3 is replayed from the runtime events", found=f"{len(runtime)} events"
        )


def _register(ladder: Ladder, check: str, register: int, quoted: bytes, replayed: bytes) -> bool:
    if quoted == replayed:
        return True
    ladder.refused(
        check,
        f"rtmr{register}.mismatch",
        f"RTMR{register} of the quote and of the log",
        expected=f"{replayed.hex()} (replayed)",
        found=f"{quoted.hex()} (quoted)",
    )
    return False


def check_report_data(ladder: Ladder, td_report_data: bytes, claimed: bytes) -> None:
    """V24."""
    ladder.judge(
        "V24",
        td_report_data == claimed,
        "report-data.match" if td_report_data == claimed else "report-data.mismatch",
        "the quote's report data is the attestation's",
        expected=claimed.hex(),
        found=td_report_data.hex(),
    )


def check_payload(ladder: Ladder, evidence: Evidence) -> None:
    """V25: a pod's report data is the `app-data` hash of its payload (trust.md 9)."""
    if not evidence.pod:
        return
    if evidence.payload is None:
        ladder.refused(
            "V25", "pod.payload-missing", "the pod's report data payload", expected="a payload", found="none"
        )
        return
    bound = identity.report_data("app-data", evidence.payload.encode())
    claimed = evidence.report_data or b""
    ladder.judge(
        "V25",
        claimed == bound,
        "pod.payload" if claimed == bound else "pod.payload-mismatch",
        "the pod's payload is bound by the report data",
        expected=bound.hex(),
        found=claimed.hex(),
    )


def check_config_id(ladder: Ladder, td: TdReport, runtime: Sequence[RuntimeEvent]) -> None:
    """V26: MRCONFIGID, where it is set, fits the measured app (trust.md 8.6)."""

    def measured(name: str) -> bytes | None:
        return identity.identity_payload(runtime, name)

    provider = None
    info = measured(identity.KEY_PROVIDER)
    if info is not None:
        try:
            provider = parse_key_provider(info)
        except TeehouseError:
            provider = None  # then it agrees with nothing
    configured = ConfiguredIdentity(
        compose_hash=measured(identity.COMPOSE_HASH) or b"",
        app_id=measured(identity.APP_ID) or b"",
        key_provider=provider,
        instance_id=measured(identity.INSTANCE_ID),
        init_script_hashes=tuple(e.payload for e in runtime if e.event == identity.INIT_SCRIPT_HASH),
        gpu_policy_hash=measured(GPU_POLICY_HASH),
    )
    ladder.add("V26", check_mr_config_id(td.mr_config_id, configured))


def check_os_image(ladder: Ladder, td: TdReport, events: Sequence[Event], config: str) -> bytes | None:
    """V27: MRTD and RTMR0 to 2 are computed from the image that the configuration names; gives its hash."""
    before = ladder.failures
    try:
        vm_config = parse_vm_config(config)
        for finding in check_image(vm_config, events, td):
            ladder.add("V27", finding)
    except TeehouseError as error:
        ladder.error("V27", error)
        return None
    return vm_config.os_image_hash if ladder.failures == before else None


def derive_app(
    ladder: Ladder, td: TdReport, runtime: Sequence[RuntimeEvent], image: bytes | None, ppid: bytes
) -> AppInfo | None:
    """V28: who the app is, from evidence that held in every check before."""
    try:
        info = identity.app_info(td, runtime, image or b"", identity.device_id(ppid))
    except TeehouseError as error:
        ladder.error("V28", error)
        return None
    ladder.passed(
        "V28", "app.identity", "the app is identified", found=f"app id {info.app_id.hex() or 'none'}"
    )
    return info
