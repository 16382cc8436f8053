"""The configuration a TD was started with, carried as JSON text (guest-agent.md 12.4, trust.md 11.3).

Rules:

1. The text is at most `CONFIG_LIMIT` characters of strict JSON, an object.
2. An object with a string member `vm_config` is a sys-config: that string is read in its place, once.
3. Members that are known here have the type that is stated for them; a member that is null is absent.
   Others are kept in `extra` as they are.
4. `tdx_attestation_variant` is `legacy` (also when absent) or `lite`; others are unsupported.

Nothing here is believed: `measure` compares it with what was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from teehouse.attestation import strictjson
from teehouse.base.findings import malformed, unsupported

CONFIG_LIMIT = 1024 * 1024
_U64 = (1 << 64) - 1
_U32 = (1 << 32) - 1
_NAME = "vm-config"
_KNOWN = frozenset(
    {
        "os_image_hash",
        "cpu_count",
        "memory_size",
        "qemu_version",
        "qemu_single_pass_add_pages",
        "ovmf_variant",
        "tdx_attestation_variant",
        "tdx_measurement",
    }
)


@dataclass(frozen=True, slots=True)
class VmConfig:
    """What a verifier needs of a VM's configuration.

    `raw` is the text it was read from, after unwrapping; `memory_size` is in bytes; `checksum_file`
    and `measurement` are the two decoded files of `tdx_measurement` (sha256sum.txt and
    measurement.tdx.cbor); `extra` has all other members as parsed JSON.
    """

    raw: str
    os_image_hash: bytes | None
    cpu_count: int | None
    memory_size: int | None
    qemu_version: str | None
    qemu_single_pass_add_pages: bool | None
    ovmf_variant: str | None
    variant: Literal["lite", "legacy"]
    checksum_file: bytes | None
    measurement: bytes | None
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)


def parse_vm_config(text: str | bytes) -> VmConfig:
    """Read a vm_config by the rules above.

    Raises `EvidenceError`: malformed (rules 1 to 3) or unsupported (rule 4).
    """
    members = strictjson.load_object(text, _NAME, limit=CONFIG_LIMIT)
    raw = text if isinstance(text, str) else text.decode()
    nested = members.get("vm_config")
    if isinstance(nested, str):
        raw = nested
        members = strictjson.load_object(nested, _NAME, limit=CONFIG_LIMIT)
    given = {key: value for key, value in members.items() if value is not None}
    measurement = given.get("tdx_measurement", {})
    if not isinstance(measurement, dict):
        raise malformed(f"{_NAME}.member", "tdx_measurement of vm-config is no object")
    files = {key: value for key, value in measurement.items() if value is not None}
    return VmConfig(
        raw=raw,
        os_image_hash=strictjson.hex_member(given, "os_image_hash", _NAME)
        if "os_image_hash" in given
        else None,
        cpu_count=_integer(given, "cpu_count", _U32),
        memory_size=_integer(given, "memory_size", _U64),
        qemu_version=_text(given, "qemu_version"),
        qemu_single_pass_add_pages=_boolean(given, "qemu_single_pass_add_pages"),
        ovmf_variant=_text(given, "ovmf_variant"),
        variant=_variant(_text(given, "tdx_attestation_variant") or "legacy"),
        checksum_file=_file(files, "checksum_file"),
        measurement=_file(files, "measurement"),
        extra=MappingProxyType({key: value for key, value in members.items() if key not in _KNOWN}),
    )


def _variant(text: str) -> Literal["lite", "legacy"]:
    if text == "lite":
        return "lite"
    if text == "legacy":
        return "legacy"
    raise unsupported(
        f"{_NAME}.variant",
        "tdx_attestation_variant of vm-config",
        expected="lite or legacy",
        found=strictjson.quoted(text),
    )


def _text(given: Mapping[str, Any], key: str) -> str | None:
    return strictjson.text_member(given, key, _NAME) if key in given else None


def _integer(given: Mapping[str, Any], key: str, limit: int) -> int | None:
    return strictjson.int_member(given, key, _NAME, limit=limit) if key in given else None


def _boolean(given: Mapping[str, Any], key: str) -> bool | None:
    value = given.get(key)
    if value is not None and not isinstance(value, bool):
        raise malformed(f"{_NAME}.member", f"{key} of {_NAME} is no boolean", found=strictjson.kind(value))
    return value


def _file(files: Mapping[str, Any], key: str) -> bytes | None:
    return strictjson.base64_member(files, key, _NAME) if key in files else None
