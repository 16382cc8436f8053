"""Authorisation by a file: who may have keys is written down in JSON, without any chain (onchain.md 5.3).

Rules, in this order; the first that is broken gives the reason:

1. The TCB status is among `allowedTcbStatuses` (UpToDate alone when the file does not say):
   "TCB status is not allowed".
2. Every advisory is among `allowedAdvisoryIds`: "advisory ID is not allowed".
3. The OS image is among `osImages`: "OS image is not allowed".
4. A KMS: its aggregated measurement is among `kms.mrAggregated` ("aggregated MR not allowed"), and its
   device is allowed ("KMS is not allowed to boot on this device").
5. An app: it is named in `apps` ("app not registered"), its compose hash is among `composeHashes` ("compose
   hash not allowed"), and its device is allowed ("app is not allowed to boot on this device").
6. A device is allowed when it is listed, when `allowAnyDevice` is true, and also when no device is listed at
   all: this last is how existing files of this form are read. The other lists allow nothing when empty.
7. The file is read anew for each question. One that is missing, or breaks these forms, allows nothing; the
   reason says what is wrong with it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from teehouse.attestation import strictjson
from teehouse.base.findings import TeehouseError, malformed, unavailable
from teehouse.kms.auth import AuthInfo, Decision
from teehouse.kms.auth_wire import HASH_SIZE, ID_SIZE, ZERO_ADDRESS, padded_hex
from teehouse.kms.boot_info import BootInfo

FILE_LIMIT: Final = 4 * 1024 * 1024  # bytes
DEFAULT_TCB_STATUSES: Final = frozenset({"UpToDate"})

_NAME = "auth-file"
_CHAIN_ID_LIMIT = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Devices:
    """Which devices (32 bytes each) may be used (rule 6)."""

    listed: frozenset[bytes] = frozenset()
    allow_any: bool = False

    def allow(self, device_id: bytes) -> bool:
        """Whether this device may be used."""
        return self.allow_any or not self.listed or device_id in self.listed


@dataclass(frozen=True, slots=True)
class AppEntry:
    """What the file says of one app; compose hashes have 32 bytes."""

    compose_hashes: frozenset[bytes] = frozenset()
    devices: Devices = Devices()


@dataclass(frozen=True, slots=True)
class AuthRules:
    """The content of the file. Hashes have 32 bytes, the keys of `apps` 20."""

    info: AuthInfo
    os_images: frozenset[bytes] = frozenset()
    tcb_statuses: frozenset[str] = DEFAULT_TCB_STATUSES
    advisory_ids: frozenset[str] = frozenset()
    kms_mr_aggregated: frozenset[bytes] = frozenset()
    kms_devices: Devices = Devices()
    apps: Mapping[bytes, AppEntry] = field(default_factory=dict)


def decide_app(rules: AuthRules, boot_info: BootInfo) -> Decision:
    """Whether an app may have its keys, by rules 1 to 3, 5 and 6."""
    reason = _platform_reason(rules, boot_info) or _app_reason(rules, boot_info)
    return _decision(rules, reason)


def decide_kms(rules: AuthRules, boot_info: BootInfo) -> Decision:
    """Whether a KMS may run, by rules 1 to 4 and 6."""
    reason = _platform_reason(rules, boot_info) or _kms_reason(rules, boot_info)
    return _decision(rules, reason)


def _decision(rules: AuthRules, reason: str) -> Decision:
    if reason:
        return Decision(is_allowed=False, reason=reason)
    return Decision(is_allowed=True, gateway_app_id=rules.info.gateway_app_id)


def _platform_reason(rules: AuthRules, boot_info: BootInfo) -> str:
    if boot_info.tcb_status not in rules.tcb_statuses:  # rule 1
        return "TCB status is not allowed"
    if not rules.advisory_ids.issuperset(boot_info.advisory_ids):  # rule 2
        return "advisory ID is not allowed"
    if _full(boot_info.os_image_hash) not in rules.os_images:  # rule 3
        return "OS image is not allowed"
    return ""


def _kms_reason(rules: AuthRules, boot_info: BootInfo) -> str:
    """Rule 4."""
    if _full(boot_info.mr_aggregated) not in rules.kms_mr_aggregated:
        return "aggregated MR not allowed"
    if not rules.kms_devices.allow(_full(boot_info.device_id)):
        return "KMS is not allowed to boot on this device"
    return ""


def _app_reason(rules: AuthRules, boot_info: BootInfo) -> str:
    """Rule 5."""
    entry = rules.apps.get(boot_info.app_id.rjust(ID_SIZE, b"\0"))
    if entry is None:
        return "app not registered"
    if _full(boot_info.compose_hash) not in entry.compose_hashes:
        return "compose hash not allowed"
    if not entry.devices.allow(_full(boot_info.device_id)):
        return "app is not allowed to boot on this device"
    return ""


def _full(value: bytes) -> bytes:
    return value.rjust(HASH_SIZE, b"\0")


def parse_auth_rules(text: str | bytes) -> AuthRules:
    """Read the file. Raises `EvidenceError` (malformed) when it is none of this form (rule 7)."""
    members = strictjson.load_object(text, _NAME, limit=FILE_LIMIT)
    kms = _table(members, "kms")
    implementation = strictjson.text_member(members, "appImplementation", _NAME, ZERO_ADDRESS)
    statuses = _texts(members, "allowedTcbStatuses")
    return AuthRules(
        info=AuthInfo(
            kms_contract_address=strictjson.text_member(members, "kmsContractAddr", _NAME, ZERO_ADDRESS),
            gateway_app_id=strictjson.text_member(members, "gatewayAppId", _NAME, ""),
            chain_id=strictjson.int_member(
                {"chainId": 0, **members}, "chainId", _NAME, limit=_CHAIN_ID_LIMIT
            ),
            app_implementation=implementation,
            app_auth_implementation=implementation,
        ),
        os_images=_hashes(members, "osImages"),
        tcb_statuses=DEFAULT_TCB_STATUSES if statuses is None else statuses,
        advisory_ids=_texts(members, "allowedAdvisoryIds") or frozenset(),
        kms_mr_aggregated=_hashes(kms, "mrAggregated"),
        kms_devices=_devices(kms),
        apps=_apps(_table(members, "apps")),
    )


def _apps(table: Mapping[str, Any]) -> Mapping[bytes, AppEntry]:
    apps: dict[bytes, AppEntry] = {}
    for name in table:
        app_id = padded_hex(name, ID_SIZE, "an app id", _NAME)
        if app_id in apps:
            raise malformed(f"{_NAME}.app-twice", f"an app stands twice in {_NAME}", found=app_id.hex())
        entry = _table(table, name)
        apps[app_id] = AppEntry(_hashes(entry, "composeHashes"), _devices(entry))
    return apps


def _devices(source: Mapping[str, Any]) -> Devices:
    allow_any = source.get("allowAnyDevice", False)
    if not isinstance(allow_any, bool):
        raise _wrong("allowAnyDevice", "true or false", allow_any)
    return Devices(_hashes(source, "devices"), allow_any)


def _hashes(source: Mapping[str, Any], key: str) -> frozenset[bytes]:
    return frozenset(padded_hex(text, HASH_SIZE, key, _NAME) for text in _texts(source, key) or ())


def _texts(source: Mapping[str, Any], key: str) -> frozenset[str] | None:
    """The strings of a list, None where there is no such member."""
    if key not in source:
        return None
    listed = source[key]
    if not isinstance(listed, list):
        raise _wrong(key, "a list", listed)
    return frozenset(strictjson.text_member({key: item}, key, _NAME) for item in listed)


def _table(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = source.get(key, {})
    if not isinstance(value, dict):
        raise _wrong(key, "an object", value)
    return value


def _wrong(key: str, expected: str, found: object) -> TeehouseError:
    return malformed(f"{_NAME}.member", f"{key} of {_NAME}", expected=expected, found=strictjson.kind(found))


class FileAuth:
    """The authorisation API of a file, an `AuthApi`; `path` is read for each question (rule 7)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[bytes, AuthRules] | None = None  # the content of the file when it was last read

    async def info(self) -> AuthInfo:
        """What the file says of itself. Raises `CollateralError` when it cannot be used."""
        try:
            return (await self._rules()).info
        except TeehouseError as error:
            raise unavailable(
                "auth-file.unusable",
                "the authorization file cannot be used",
                found=error.finding.sentence(),
                remedy="mend the file; it is read again for each question",
            ) from error

    async def boot_app(self, boot_info: BootInfo) -> Decision:
        """Whether an app may have its keys (`decide_app`)."""
        try:
            return decide_app(await self._rules(), boot_info)
        except TeehouseError as error:
            return _unusable(error)

    async def boot_kms(self, boot_info: BootInfo) -> Decision:
        """Whether a KMS may run (`decide_kms`)."""
        try:
            return decide_kms(await self._rules(), boot_info)
        except TeehouseError as error:
            return _unusable(error)

    async def _rules(self) -> AuthRules:
        content = await asyncio.to_thread(self._read)
        if self._known is None or self._known[0] != content:
            self._known = content, parse_auth_rules(content)
        return self._known[1]

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                return file.read(FILE_LIMIT + 1)
        except OSError as error:
            raise malformed(
                "auth-file.unreadable", "the file cannot be read", found=error.strerror or "an error"
            ) from None


def _unusable(error: TeehouseError) -> Decision:
    return Decision(is_allowed=False, reason=f"authorization file cannot be used: {error.finding.sentence()}")
