"""Is this the app, image, device that I asked for? Compares a genuine verdict with expectations.

`verify` says that evidence is genuine; anybody can have genuine evidence of something else. The two are
never one answer (design.md 2.2).

Rules:

E1. The verdict is accepted: what is not genuine is nobody's app. The finding has the verdict's outcome.
E2. Each value that is asked for is shown by the evidence and equal to it, compared in constant time. One
    finding per value, under the name of its field.
E3. The OS image hash counts as shown only where V27 computed the registers from it: a name beside a quote
    proves nothing.

None means "not asked"; sizes of what is asked for are checked first, so that a wrong expectation is never
silently a weaker one. Nothing asked is answered by E1 alone.
"""

import hmac
from dataclasses import dataclass, fields

from teehouse.attestation.ladder import Ladder
from teehouse.attestation.mrconfig import parse_key_provider
from teehouse.attestation.verify import Verdict
from teehouse.base.findings import Finding, TeehouseError, misuse

_SIZES: dict[str, tuple[int, ...]] = {
    "app_id": (20,),
    "compose_hash": (32,),
    "os_image_hash": (32,),
    "device_id": (32,),
    "instance_id": (0, 20),
    "report_data": (64,),
    "mrtd": (48,),
    "rtmr0": (48,),
    "rtmr1": (48,),
    "rtmr2": (48,),
    "rtmr3": (48,),
    "mr_config_id": (48,),
    "mr_system": (32,),
    "mr_aggregated": (32,),
}


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a relying party wants to see; None is "not asked". Sizes in bytes as in guest-agent.md 10.

    `key_provider` is the provider's name (kms, local-sgx, tpm, none), `key_provider_id` its id: for a KMS
    the DER of its root key. `instance_id` has 20 bytes, or none for "without one". Raises `MisuseError` for
    a value of another size.
    """

    app_id: bytes | None = None
    compose_hash: bytes | None = None
    os_image_hash: bytes | None = None
    device_id: bytes | None = None
    instance_id: bytes | None = None
    report_data: bytes | None = None
    mrtd: bytes | None = None
    rtmr0: bytes | None = None
    rtmr1: bytes | None = None
    rtmr2: bytes | None = None
    rtmr3: bytes | None = None
    mr_config_id: bytes | None = None
    mr_system: bytes | None = None
    mr_aggregated: bytes | None = None
    key_provider: str | None = None
    key_provider_id: bytes | None = None

    def __post_init__(self) -> None:
        for name, sizes in _SIZES.items():
            value: bytes | None = getattr(self, name)
            if value is not None and len(value) not in sizes:
                raise misuse(
                    "expectation.size",
                    f"the expected {name}",
                    expected=f"{' or '.join(map(str, sizes))} bytes",
                    found=str(len(value)),
                )


def validate(verdict: Verdict, expectations: Expectations) -> tuple[Finding, ...]:
    """The findings of E1 to E3; all are passed when the evidence is of what was asked for."""
    ladder = Ladder()
    if not verdict.accepted:  # E1
        ladder.refused(
            "E1",
            "validate.not-genuine",
            "genuineness of the evidence",
            outcome=verdict.outcome,
            expected="an accepted verdict",
            found=verdict.outcome.value,
        )
        return ladder.findings
    ladder.passed("E1", "validate.genuine", "genuineness of the evidence")
    shown = _shown(verdict)
    for field in fields(expectations):  # E2
        expected = getattr(expectations, field.name)
        if expected is not None:
            _compare(ladder, field.name, expected, shown.get(field.name))
    return ladder.findings


def _compare(ladder: Ladder, name: str, expected: bytes | str, found: bytes | str | None) -> None:
    check = "E3" if name == "os_image_hash" else "E2"
    code = f"validate.{name.replace('_', '-')}"
    subject = name.replace("_", " ")
    wanted = _text(expected)
    if found is None:
        remedy = "give the attestation with its event log and vm_config, not the quote alone"
        ladder.refused(check, code, subject, expected=wanted, found="nothing that shows it", remedy=remedy)
        return
    same = hmac.compare_digest(_raw(expected), _raw(found))
    ladder.judge(check, same, code, subject, expected=wanted, found=_text(found))


def _raw(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.hex() or "none"


def _shown(verdict: Verdict) -> dict[str, bytes | str]:
    """What an accepted verdict proves, by the names of the expectations."""
    shown: dict[str, bytes | str] = {}
    if verdict.quote is not None:
        shown["report_data"] = verdict.quote.body.report_data
    td = verdict.td
    if td is not None:
        shown |= {
            "mrtd": td.mr_td,
            "rtmr0": td.rt_mr0,
            "rtmr1": td.rt_mr1,
            "rtmr2": td.rt_mr2,
            "rtmr3": td.rt_mr3,
            "mr_config_id": td.mr_config_id,
        }
    if verdict.device_id is not None:
        shown["device_id"] = verdict.device_id
    info = verdict.app_info
    if info is None:
        return shown
    shown |= {
        "app_id": info.app_id,
        "compose_hash": info.compose_hash,
        "instance_id": info.instance_id,
        "mr_system": info.mr_system,
        "mr_aggregated": info.mr_aggregated,
    }
    if verdict.image_verified:  # E3
        shown["os_image_hash"] = info.os_image_hash
    try:
        provider = parse_key_provider(info.key_provider_info)
    except TeehouseError:
        return shown  # then it shows no key provider
    return shown | {"key_provider": provider.name, "key_provider_id": provider.id}
