"""Intel's signed documents: TCB info and QE identity (trust.md 3.2, 3.3).

Rules:

1. A document is at most `DOCUMENT_LIMIT` characters of strict JSON; every member that appraisal uses is there and of
   its type. Members that are not used are passed over: the signature covers the text, not our reading.
2. Statuses are those of trust.md 4 for the kind of document; others are refused.
3. A list of TCB levels has 1 to `LEVEL_LIMIT` entries; a component list has exactly 16.
4. Instants carry a time zone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

from teehouse.attestation import strictjson
from teehouse.base.findings import EvidenceError, malformed

DOCUMENT_LIMIT = 512 * 1024  # characters
LEVEL_LIMIT = 256
COMPONENTS = 16

UP_TO_DATE = "UpToDate"
OUT_OF_DATE = "OutOfDate"
REVOKED = "Revoked"
CONFIGURATION_NEEDED = "ConfigurationNeeded"
OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
SW_HARDENING_NEEDED = "SWHardeningNeeded"
CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
RELAUNCH_ADVISED = "TDRelaunchAdvised"
RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"

MODULE_STATUSES = frozenset({UP_TO_DATE, OUT_OF_DATE, REVOKED})
QE_STATUSES = MODULE_STATUSES | {CONFIGURATION_NEEDED, OUT_OF_DATE_CONFIGURATION_NEEDED}
PLATFORM_STATUSES = QE_STATUSES | {SW_HARDENING_NEEDED, CONFIGURATION_AND_SW_HARDENING_NEEDED}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Component:
    """One of the 16 components of a TCB level; `category` and `type` are "" where Intel says nothing."""

    svn: int
    category: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class PlatformLevel:
    """A TCB level of the platform; `tdx` is empty in TCB info for SGX."""

    sgx: tuple[Component, ...]
    pce_svn: int
    tdx: tuple[Component, ...]
    status: str
    date: datetime
    advisory_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EnclaveLevel:
    """A TCB level of the quoting enclave, or of the TDX module."""

    isv_svn: int
    status: str
    date: datetime
    advisory_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModuleIdentity:
    """What a TDX module must look like; `id` is "" for the `tdxModule` member, which has no levels."""

    id: str
    mr_signer: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[EnclaveLevel, ...]


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """TCB info of one FMSPC, levels in Intel's order of comparison (trust.md 4.3)."""

    id: str
    version: int
    issue_date: datetime
    next_update: datetime
    fmspc: bytes
    pce_id: bytes
    evaluation_number: int
    levels: tuple[PlatformLevel, ...]
    module: ModuleIdentity | None
    module_identities: tuple[ModuleIdentity, ...]


@dataclass(frozen=True, slots=True)
class QeIdentity:
    """What the quoting enclave must look like; levels in document order."""

    id: str
    version: int
    issue_date: datetime
    next_update: datetime
    evaluation_number: int
    misc_select: int
    misc_select_mask: int
    attributes: bytes
    attributes_mask: bytes
    mr_signer: bytes
    isv_prod_id: int
    levels: tuple[EnclaveLevel, ...]


class _Members:
    """Typed access to the members of a JSON object. Raises `EvidenceError` (malformed)."""

    __slots__ = ("_name", "_value")

    def __init__(self, value: object, name: str) -> None:
        if not isinstance(value, Mapping):
            raise malformed(f"{_code(name)}.malformed", f"{name} is no JSON object")
        self._value: Mapping[str, Any] = value
        self._name = name

    def _fault(self, key: str, expected: str) -> EvidenceError:
        return malformed(
            f"{_code(self._name)}.malformed",
            f"{key} of {self._name}",
            expected=expected,
            found=repr(self._value.get(key))[:80] if key in self._value else "nothing",
        )

    def has(self, key: str) -> bool:
        return self._value.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value.get(key, default)
        if not isinstance(value, str):
            raise self._fault(key, "a text")
        return value

    def number(self, key: str, limit: int = 0xFFFF_FFFF) -> int:
        value = self._value.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            raise self._fault(key, f"an integer from 0 to {limit}")
        return value

    def hexadecimal(self, key: str, size: int) -> bytes:
        try:
            value = bytes.fromhex(self.text(key))
        except ValueError:
            value = b""
        if len(value) != size:
            raise self._fault(key, f"{size} bytes in hex")
        return value

    def instant(self, key: str) -> datetime:
        try:
            value = datetime.fromisoformat(self.text(key))
        except ValueError:
            raise self._fault(key, "an instant") from None
        if value.tzinfo is None:  # rule 4
            raise self._fault(key, "an instant with a time zone")
        return value

    def status(self, allowed: frozenset[str]) -> str:
        value = self.text("tcbStatus")
        if value not in allowed:  # rule 2
            raise self._fault("tcbStatus", f"one of {', '.join(sorted(allowed))}")
        return value

    def advisories(self) -> tuple[str, ...]:
        value = self._value.get("advisoryIDs", [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._fault("advisoryIDs", "a list of texts")
        return tuple(value)

    def each(self, key: str, read: Callable[["_Members"], T], low: int, high: int) -> tuple[T, ...]:
        value = self._value.get(key)
        if not isinstance(value, list) or not low <= len(value) <= high:  # rule 3
            raise self._fault(key, f"a list of {low} to {high} elements")
        return tuple(read(_Members(item, self._name)) for item in value)

    def inner(self, key: str) -> "_Members":
        return _Members(self._value.get(key), self._name)


def _code(name: str) -> str:
    return "collateral." + name.lower().replace(" ", "-")


def _document(text: str, name: str) -> _Members:
    return _Members(strictjson.load_object(text, _code(name), limit=DOCUMENT_LIMIT), name)  # rule 1


def _component(members: _Members) -> Component:
    return Component(members.number("svn", 0xFF), members.text("category", ""), members.text("type", ""))


def _platform_level(tdx: bool) -> Callable[[_Members], PlatformLevel]:
    def read(members: _Members) -> PlatformLevel:
        tcb = members.inner("tcb")
        return PlatformLevel(
            sgx=tcb.each("sgxtcbcomponents", _component, COMPONENTS, COMPONENTS),
            pce_svn=tcb.number("pcesvn", 0xFFFF),
            tdx=tcb.each("tdxtcbcomponents", _component, COMPONENTS, COMPONENTS) if tdx else (),
            status=members.status(PLATFORM_STATUSES),
            date=members.instant("tcbDate"),
            advisory_ids=members.advisories(),
        )

    return read


def _enclave_level(statuses: frozenset[str]) -> Callable[[_Members], EnclaveLevel]:
    def read(members: _Members) -> EnclaveLevel:
        return EnclaveLevel(
            isv_svn=members.inner("tcb").number("isvsvn", 0xFFFF),
            status=members.status(statuses),
            date=members.instant("tcbDate"),
            advisory_ids=members.advisories(),
        )

    return read


def _module(members: _Members, *, named: bool) -> ModuleIdentity:
    return ModuleIdentity(
        id=members.text("id") if named else "",
        mr_signer=members.hexadecimal("mrsigner", 48),
        attributes=members.hexadecimal("attributes", 8),
        attributes_mask=members.hexadecimal("attributesMask", 8),
        levels=members.each("tcbLevels", _enclave_level(MODULE_STATUSES), 1, LEVEL_LIMIT) if named else (),
    )


def order_key(level: PlatformLevel) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """The key by which levels are compared, highest first (trust.md 4.3)."""
    return tuple(c.svn for c in level.sgx), level.pce_svn, tuple(c.svn for c in level.tdx)


@lru_cache(maxsize=32)
def parse_tcb_info(text: str) -> TcbInfo:
    """Read TCB info. Raises `EvidenceError` (malformed)."""
    members = _document(text, "TCB info")
    identifier = members.text("id")
    tdx = identifier == "TDX"
    levels = members.each("tcbLevels", _platform_level(tdx), 1, LEVEL_LIMIT)
    return TcbInfo(
        id=identifier,
        version=members.number("version"),
        issue_date=members.instant("issueDate"),
        next_update=members.instant("nextUpdate"),
        fmspc=members.hexadecimal("fmspc", 6),
        pce_id=members.hexadecimal("pceId", 2),
        evaluation_number=members.number("tcbEvaluationDataNumber"),
        levels=tuple(sorted(levels, key=order_key, reverse=True)),
        module=_module(members.inner("tdxModule"), named=False) if tdx else None,
        module_identities=(
            members.each("tdxModuleIdentities", lambda item: _module(item, named=True), 0, LEVEL_LIMIT)
            if tdx and members.has("tdxModuleIdentities")
            else ()
        ),
    )


@lru_cache(maxsize=32)
def parse_qe_identity(text: str) -> QeIdentity:
    """Read the quoting enclave's identity. Raises `EvidenceError` (malformed)."""
    members = _document(text, "QE identity")
    return QeIdentity(
        id=members.text("id"),
        version=members.number("version"),
        issue_date=members.instant("issueDate"),
        next_update=members.instant("nextUpdate"),
        evaluation_number=members.number("tcbEvaluationDataNumber"),
        misc_select=int.from_bytes(members.hexadecimal("miscselect", 4), "big"),
        misc_select_mask=int.from_bytes(members.hexadecimal("miscselectMask", 4), "big"),
        attributes=members.hexadecimal("attributes", 16),
        attributes_mask=members.hexadecimal("attributesMask", 16),
        mr_signer=members.hexadecimal("mrsigner", 32),
        isv_prod_id=members.number("isvprodid", 0xFFFF),
        levels=members.each("tcbLevels", _enclave_level(QE_STATUSES), 1, LEVEL_LIMIT),
    )
