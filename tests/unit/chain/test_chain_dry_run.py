"""Which running CVMs a change would refuse (dry_run.py)."""

import pytest

from teehouse.base.findings import MisuseError
from teehouse.chain.dry_run import (
    COMPOSE_REASON,
    DEVICE_REASON,
    TCB_REASON,
    Allowed,
    Consequence,
    Kind,
    ProposedChange,
    RunningCvm,
    consequences,
)

COMPOSE, DEVICE = b"\1" * 32, b"\2" * 32
CVM = RunningCvm("web", COMPOSE, DEVICE)
OTHER = RunningCvm("db", b"\3" * 32, b"\4" * 32, "OutOfDate")
ALL = Allowed(compose_hash=True, any_device=False, device=True)


def change(kind: Kind, value: bytes = b"") -> ProposedChange:
    return ProposedChange(kind, value)


@pytest.mark.parametrize(
    ("proposed", "allowed", "now", "after"),
    [
        (change(Kind.REMOVE_COMPOSE, COMPOSE), ALL, "", COMPOSE_REASON),
        (change(Kind.REMOVE_COMPOSE, DEVICE), ALL, "", ""),
        (change(Kind.REMOVE_DEVICE, DEVICE), ALL, "", DEVICE_REASON),
        (change(Kind.REMOVE_DEVICE, DEVICE), Allowed(True, True, True), "", ""),
        (change(Kind.REMOVE_DEVICE, COMPOSE), ALL, "", ""),
        (change(Kind.ALLOW_COMPOSE, COMPOSE), Allowed(False, False, True), COMPOSE_REASON, ""),
        (change(Kind.ALLOW_DEVICE, DEVICE), Allowed(True, False, False), DEVICE_REASON, ""),
        (change(Kind.ALLOW_DEVICE, DEVICE), Allowed(False, False, False), COMPOSE_REASON, COMPOSE_REASON),
        (change(Kind.LISTED_DEVICES), Allowed(True, True, False), "", DEVICE_REASON),
        (change(Kind.ANY_DEVICE), Allowed(True, False, False), DEVICE_REASON, ""),
        (change(Kind.REQUIRE_TCB), ALL, "", ""),
    ],
)
def test_what_a_change_means_for_one_cvm(
    proposed: ProposedChange, allowed: Allowed, now: str, after: str
) -> None:
    (found,) = consequences([(CVM, allowed)], proposed)
    assert found == Consequence(CVM, now, after)
    assert found.newly_refused == (after != "" and now == "")
    assert found.newly_allowed == (now != "" and after == "")


def test_an_old_tcb_is_refused_where_a_new_one_is_asked_for() -> None:
    assert consequences([(OTHER, ALL)], change(Kind.REQUIRE_TCB)) == (Consequence(OTHER, "", TCB_REASON),)
    strict = Allowed(True, False, True, require_tcb=True)
    assert consequences([(OTHER, strict)], change(Kind.ANY_TCB)) == (Consequence(OTHER, TCB_REASON, ""),)


def test_a_change_concerns_those_it_names_only() -> None:
    found = consequences([(CVM, ALL), (OTHER, ALL)], change(Kind.REMOVE_COMPOSE, COMPOSE))
    assert [one.newly_refused for one in found] == [True, False]


@pytest.mark.parametrize("value", [b"\1" * 31, b"", b"\1" * 32])
@pytest.mark.parametrize("kind", list(Kind))
def test_a_value_of_another_size_is_misuse(kind: Kind, value: bytes) -> None:
    naming = kind.value.split("-")[1] in {"compose", "device"} and kind is not Kind.ANY_DEVICE
    if len(value) == (32 if naming else 0):
        assert ProposedChange(kind, value).value == value
    else:
        with pytest.raises(MisuseError):
            ProposedChange(kind, value)
