"""Which running CVMs would be refused keys after a change of the allow-lists (onchain.md 3.3).

Rules:

1. A running CVM would be refused when its compose hash is not listed, or its device is neither listed nor any
   device allowed, or an up-to-date TCB is asked for and its own is not; in this order, as the contract decides.
2. A CVM is concerned by the change when it would be refused after and is not now. One that is refused already
   is told as such: the change is not why.
3. What is asked of the chain is what it says now; the change is applied to these answers, not to the chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from teehouse.base.findings import misuse
from teehouse.chain.reader import WORD_SIZE

UP_TO_DATE: Final = "UpToDate"
TCB_REASON: Final = "TCB status is not up to date"
COMPOSE_REASON: Final = "Compose hash not allowed"
DEVICE_REASON: Final = "Device not allowed"


class Kind(Enum):
    """What can be changed of an app's contract."""

    ALLOW_COMPOSE = "allow-compose"
    REMOVE_COMPOSE = "remove-compose"
    ALLOW_DEVICE = "allow-device"
    REMOVE_DEVICE = "remove-device"
    ANY_DEVICE = "any-device"
    LISTED_DEVICES = "listed-devices"
    REQUIRE_TCB = "require-tcb"
    ANY_TCB = "any-tcb"


# The changes that name a compose hash or a device.
NAMING: Final = frozenset({Kind.ALLOW_COMPOSE, Kind.REMOVE_COMPOSE, Kind.ALLOW_DEVICE, Kind.REMOVE_DEVICE})


@dataclass(frozen=True, slots=True)
class ProposedChange:
    """One change; `value` has 32 bytes for the four that name a hash or a device, none for the others."""

    kind: Kind
    value: bytes = b""

    def __post_init__(self) -> None:
        size = WORD_SIZE if self.kind in NAMING else 0
        if len(self.value) != size:
            raise misuse(
                "chain.change",
                f"the value of {self.kind.value}",
                expected=f"{size} bytes",
                found=str(len(self.value)),
            )


@dataclass(frozen=True, slots=True)
class RunningCvm:
    """A CVM that runs: its name for the reader, compose hash and device (32 bytes each), TCB status if known."""

    name: str
    compose_hash: bytes
    device_id: bytes
    tcb_status: str = UP_TO_DATE


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the contract allows now, of the CVM in question."""

    compose_hash: bool
    any_device: bool
    device: bool
    require_tcb: bool = False


@dataclass(frozen=True, slots=True)
class Consequence:
    """What a change means for one CVM: the reason of a refusal now and after, empty where there is none."""

    cvm: RunningCvm
    now: str
    after: str

    @property
    def newly_refused(self) -> bool:
        """Rule 2."""
        return bool(self.after) and not self.now

    @property
    def newly_allowed(self) -> bool:
        """Whether the change is what lets it have its keys."""
        return bool(self.now) and not self.after


def consequences(
    cvms: Sequence[tuple[RunningCvm, Allowed]], change: ProposedChange
) -> tuple[Consequence, ...]:
    """What the change means for each CVM, in their order (rules 1 to 3)."""
    return tuple(
        Consequence(cvm, reason(cvm, allowed), reason(cvm, _after(cvm, allowed, change)))
        for cvm, allowed in cvms
    )


def reason(cvm: RunningCvm, allowed: Allowed) -> str:
    """Why the contract refuses this CVM; empty when it does not (rule 1)."""
    if allowed.require_tcb and cvm.tcb_status != UP_TO_DATE:
        return TCB_REASON
    if not allowed.compose_hash:
        return COMPOSE_REASON
    return "" if allowed.any_device or allowed.device else DEVICE_REASON


def _after(cvm: RunningCvm, allowed: Allowed, change: ProposedChange) -> Allowed:
    match change.kind:
        case Kind.ALLOW_COMPOSE | Kind.REMOVE_COMPOSE if change.value == cvm.compose_hash:
            return replace(allowed, compose_hash=change.kind is Kind.ALLOW_COMPOSE)
        case Kind.ALLOW_DEVICE | Kind.REMOVE_DEVICE if change.value == cvm.device_id:
            return replace(allowed, device=change.kind is Kind.ALLOW_DEVICE)
        case Kind.ANY_DEVICE | Kind.LISTED_DEVICES:
            return replace(allowed, any_device=change.kind is Kind.ANY_DEVICE)
        case Kind.REQUIRE_TCB | Kind.ANY_TCB:
            return replace(allowed, require_tcb=change.kind is Kind.REQUIRE_TCB)
        case _:
            return allowed
