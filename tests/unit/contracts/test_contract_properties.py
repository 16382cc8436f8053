"""The contracts beside a model of onchain.md 3.3 and 4.3, through any history (contracts/SPEC.md 10)."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from support.evm import (
    BOOT_INFO,
    DEPLOY_5,
    DEPLOY_6,
    NEW_OWNER,
    OWNER,
    STRANGER,
    ZERO,
    Chain,
    Event,
    Halted,
    Receipt,
    Reverted,
    boot_info,
    calldata,
    create_address,
    decoded,
    events,
    keccak,
    selector,
    signature_of,
)
from teehouse.chain.artifacts import load

ASK = "isAppAllowed" + BOOT_INFO
WORDS = st.sampled_from([bytes(32), b"\x01" * 32, b"\x02" * 32])
PEOPLE = st.sampled_from([OWNER, STRANGER, NEW_OWNER])
STATUSES = st.sampled_from(["UpToDate", "OutOfDate", ""])
LISTS = {
    "addComposeHash": "compose",
    "addDevice": "device",
    "removeComposeHash": "compose",
    "removeDevice": "device",
}


@dataclass
class App:
    """What onchain.md 3 says an app's contract knows."""

    owner: str
    pending: str = ZERO
    compose: set[bytes] = field(default_factory=set)
    device: set[bytes] = field(default_factory=set)
    any_device: bool = False
    up_to_date: bool = False
    no_upgrades: bool = False

    def judge(self, status: str, compose: bytes, device: bytes) -> tuple[bool, str]:
        if self.up_to_date and status != "UpToDate":
            return False, "TCB status is not up to date"
        if compose not in self.compose:
            return False, "Compose hash not allowed"
        if not self.any_device and device not in self.device:
            return False, "Device not allowed"
        return True, ""


def replayed(logs: list[Event]) -> App:
    """The app's state as its events tell it."""
    app = App(ZERO)
    entries = {"ComposeHash": app.compose, "Device": app.device}
    flags = {"AllowAnyDeviceSet": "any_device", "RequireTcbUpToDateSet": "up_to_date"}
    for event in logs:
        name = event.name
        if name == "OwnershipTransferred":
            app.owner, app.pending = event.arguments[1], ZERO
        elif name == "OwnershipTransferStarted":
            app.pending = event.arguments[1]
        elif name.endswith("Added"):
            entries[name.removesuffix("Added")].add(event.arguments[0])
        elif name.endswith("Removed"):
            entries[name.removesuffix("Removed")].discard(event.arguments[0])
        elif name in flags:
            setattr(app, flags[name], event.arguments[0])
        elif name == "UpgradesDisabled":
            app.no_upgrades = True
    return app


POLICIES = {
    keccak(name.encode()): name
    for name in ("device", "compose-hash", "allow-any-device", "require-tcb-up-to-date", "upgrades-disabled")
}


def replayed_policy(logs: list[Event], owner: str, pending: str) -> App:
    """The same of `PolicyChanged` alone; that does not tell owners."""
    app = App(owner, pending)
    for event in logs:
        if event.name != "PolicyChanged":
            continue
        _, policy, value, enabled = event.arguments
        match POLICIES[policy]:
            case "device":
                (app.device.add if enabled else app.device.discard)(value)
            case "compose-hash":
                (app.compose.add if enabled else app.compose.discard)(value)
            case "allow-any-device":
                app.any_device = enabled
            case "require-tcb-up-to-date":
                app.up_to_date = enabled
            case _:
                app.no_upgrades = enabled
    return app


class Governance(RuleBasedStateMachine):
    """A KMS and its apps; anyone tries anything."""

    @initialize()
    def deploy(self) -> None:
        self.chain = Chain()
        self.kms = self.chain.kms()
        self.images: set[bytes] = set()
        self.apps: dict[str, App] = {}
        self.logs: dict[str, list[Event]] = {}

    def attempt(
        self, allowed: bool, to: str, signature: str, arguments: list[Any], sender: str
    ) -> Receipt | None:
        try:
            receipt = self.chain.send(to, signature, arguments, sender=sender)
        except Reverted:
            assert not allowed
            return None
        assert allowed
        for event in events(receipt.logs):
            self.logs.setdefault(event.address, []).append(event)
        return receipt

    def pick(self, index: int) -> str | None:
        return list(self.apps)[index % len(self.apps)] if self.apps else None

    @rule(
        flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
        first=st.tuples(WORDS, WORDS),
        owner=PEOPLE,
        by=PEOPLE,
        short=st.booleans(),
    )
    def deploy_app(
        self, *, flags: tuple[bool, bool, bool], first: tuple[bytes, bytes], owner: str, by: str, short: bool
    ) -> None:
        no_upgrades, up_to_date, any_device = flags
        if short:
            up_to_date = False
            receipt = self.attempt(True, self.kms, DEPLOY_5, [owner, no_upgrades, any_device, *first], by)
        else:
            receipt = self.attempt(True, self.kms, DEPLOY_6, [owner, *flags, *first], by)
        assert receipt
        app = "0x" + receipt.output[12:].hex()
        assert app == create_address(self.kms, len(self.apps) + 1)
        device, compose = ({word} - {bytes(32)} for word in first)
        self.apps[app] = App(owner, ZERO, compose, device, any_device, up_to_date, no_upgrades)

    @rule(change=st.sampled_from(sorted(LISTS)), word=WORDS, by=PEOPLE, which=st.integers(0, 3))
    def change_list(self, change: str, word: bytes, by: str, which: int) -> None:
        if app := self.pick(which):
            model = self.apps[app]
            if self.attempt(by == model.owner, app, f"{change}(bytes32)", [word], by):
                entries = getattr(model, LISTS[change])
                (entries.add if change.startswith("add") else entries.discard)(word)

    @rule(
        change=st.sampled_from(["setAllowAnyDevice", "setRequireTcbUpToDate"]),
        value=st.booleans(),
        by=PEOPLE,
        which=st.integers(0, 3),
    )
    def change_flag(self, change: str, value: bool, by: str, which: int) -> None:
        if app := self.pick(which):
            model = self.apps[app]
            if self.attempt(by == model.owner, app, f"{change}(bool)", [value], by):
                setattr(model, "any_device" if change == "setAllowAnyDevice" else "up_to_date", value)

    @rule(by=PEOPLE, which=st.integers(0, 3))
    def disable_upgrades(self, by: str, which: int) -> None:
        if app := self.pick(which):
            model = self.apps[app]
            if self.attempt(by == model.owner, app, "disableUpgrades()", [], by):
                model.no_upgrades = True

    @rule(by=PEOPLE, to=st.sampled_from([OWNER, STRANGER, NEW_OWNER, ZERO]), which=st.integers(0, 3))
    def offer(self, by: str, to: str, which: int) -> None:
        if app := self.pick(which):
            model = self.apps[app]
            if self.attempt(by == model.owner, app, "transferOwnership(address)", [to], by):
                model.pending = to

    @rule(by=PEOPLE, which=st.integers(0, 3))
    def accept(self, by: str, which: int) -> None:
        if app := self.pick(which):
            model = self.apps[app]
            if self.attempt(by == model.pending, app, "acceptOwnership()", [], by):
                model.owner, model.pending = by, ZERO

    @rule(word=WORDS, add=st.booleans(), by=PEOPLE)
    def change_image(self, word: bytes, add: bool, by: str) -> None:
        name = "addOsImageHash" if add else "removeOsImageHash"
        if self.attempt(by == OWNER, self.kms, f"{name}(bytes32)", [word], by):
            (self.images.add if add else self.images.discard)(word)

    @rule(status=STATUSES, compose=WORDS, device=WORDS, image=WORDS, which=st.integers(0, 4))
    def ask(self, status: str, compose: bytes, device: bytes, image: bytes, which: int) -> None:
        app = self.pick(which) if which < 4 else "0x" + "77" * 20
        if app is None:
            return
        info = boot_info(
            app_id=app, tcb_status=status, compose_hash=compose, device_id=device, os_image_hash=image
        )
        model = self.apps.get(app)
        if model is None:
            expected: tuple[bool, str] = (False, "App not registered")
        else:
            own = model.judge(status, compose, device)
            assert self.chain.read(app, ASK, [info], "(bool,string)") == own
            expected = own if image in self.images else (False, "OS image is not allowed")
        assert self.chain.read(self.kms, ASK, [info], "(bool,string)") == expected

    @invariant()
    def the_events_alone_tell_the_state(self) -> None:
        for app, model in getattr(self, "apps", {}).items():
            logs = self.logs[app]
            assert replayed(logs) == model
            assert replayed_policy(logs, model.owner, model.pending) == model


def test_any_history_agrees_with_the_model() -> None:
    limits = settings(max_examples=40, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(Governance, settings=limits)


# Arbitrary calldata

_CHAIN = Chain()
_KMS = _CHAIN.kms()
_IMAGE, _COMPOSE, _DEVICE = b"\x05" * 32, b"\xc0" * 32, b"\xde" * 32
_CHAIN.send(_KMS, "addOsImageHash(bytes32)", [_IMAGE])
_APP = "0x" + _CHAIN.send(_KMS, DEPLOY_5, [OWNER, False, False, _DEVICE, _COMPOSE]).output[12:].hex()
_GOOD = calldata(ASK, [boot_info(app_id=_APP, advisory_ids=["INTEL-SA-00837"])])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The calldata of an allowed guest, changed at a few places."""
    data = bytearray(_GOOD)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["byte", "word", "cut", "insert", "swap"])):
            case "byte":
                data[at] = draw(st.integers(0, 255))
            case "word":
                start = 4 + (at - 4) // 32 * 32 if at >= 4 else 4
                data[start : start + 32] = draw(st.integers(0, 2**256 - 1)).to_bytes(32, "big")
            case "cut":
                del data[max(at, 4) :]
                data += bytes(draw(st.integers(0, 64)))
            case "insert":
                data[at:at] = draw(st.binary(max_size=40))
            case _:
                other = draw(st.integers(0, len(data) - 1))
                data[at], data[other] = data[other], data[at]
    return bytes(data)


def words(data: bytes) -> list[bytes]:
    """The tuple's words, as the calldata's first offset places them; absent bytes are zeros."""
    start = 4 + int.from_bytes(data[4:36].ljust(32, b"\0"), "big")
    return (
        [data[start + 32 * at : start + 32 * at + 32].ljust(32, b"\0") for at in range(7)]
        if start < 2**32
        else []
    )


@given(
    st.one_of(mutated(), st.binary(max_size=600), st.binary(max_size=600).map(lambda tail: _GOOD[:4] + tail))
)
@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_calldata_gets_a_yes_that_it_does_not_deserve(data: bytes) -> None:
    for target in (_KMS, _APP):
        if data[:4] != _GOOD[:4]:
            continue
        try:
            allowed, _ = decoded("(bool,string)", _CHAIN.eth_call(target, data, gas=3_000_000))
        except (Reverted, Halted):
            continue
        if allowed:
            app, compose, _, device, _, _, image = words(data)
            assert (compose, device) == (_COMPOSE, _DEVICE)
            if target == _KMS:
                assert (app, image) == (bytes(12) + bytes.fromhex(_APP[2:]), _IMAGE)


_ANYONES = {"registerApp", "deployAndRegisterApp"}
_CHANGES = [
    selector(signature_of(entry))
    for name in ("DstackApp", "DstackKms")
    for entry in load(name).abi
    if entry["type"] == "function" and entry["name"] not in _ANYONES
]


@given(
    st.sampled_from(_CHANGES),
    st.one_of(st.binary(max_size=300), st.integers(0, 4).map(lambda n: bytes(32 * n))),
)
@settings(max_examples=500, deadline=None)
def test_no_calldata_of_a_stranger_changes_a_thing(function: bytes, tail: bytes) -> None:
    for target in (_KMS, _APP):
        try:
            assert not _CHAIN.transact(target, function + tail, sender=STRANGER, gas=3_000_000).logs
        except (Reverted, Halted):
            continue
