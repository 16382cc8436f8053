"""Who a TD says it is, once its evidence has been verified: names, hashes and bindings.

Sources: trust.md 8.3 (lookup), 8.5 (derived values), 8.7 (report data); guest-agent.md 9.4 (app info
extension), 10.6. MR_CONFIG_ID is `mrconfig`'s, and can be had from here too.

Rules:

1. An identity value is the payload of the first event of its name before `system-ready`: what an
   application emits later cannot stand in its place.
2. App id (20 bytes) and compose hash (32) must be there; an instance id has 20 bytes, or none.
3. Boot-time values replay register 3 up to and including `boot-mr-done`, which must be there, and know no
   key provider.

The values are as good as the events: the caller has compared their replay with the quoted register.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from teehouse.attestation import strictmsgpack
from teehouse.attestation.abi import REPORT_DATA_SIZE, TdReport
from teehouse.attestation.eventlog import RuntimeEvent, replay_runtime
from teehouse.attestation.mrconfig import (
    ConfiguredIdentity,
    KeyProvider,
    check_mr_config_id,
    mr_config_id_v1,
    mr_config_id_v2,
    mr_config_id_v3,
    parse_key_provider,
)
from teehouse.base.findings import malformed, misuse, rejected
from teehouse.base.hashes import keccak, sha256, sha384, sha512

__all__ = [
    "AppInfo",
    "ConfiguredIdentity",
    "KeyProvider",
    "app_info",
    "check_mr_config_id",
    "decode_app_info",
    "derive_app_id",
    "derive_instance_id",
    "device_id",
    "encode_app_info",
    "identity_payload",
    "mr_config_id_v1",
    "mr_config_id_v2",
    "mr_config_id_v3",
    "parse_key_provider",
    "report_data",
]

APP_ID = "app-id"
COMPOSE_HASH = "compose-hash"
INSTANCE_ID = "instance-id"
KEY_PROVIDER = "key-provider"
INIT_SCRIPT_HASH = "init-script-hash"
BOOT_MR_DONE = "boot-mr-done"
SYSTEM_READY = "system-ready"

APP_DATA_TAG = "app-data"
APP_INFO_LIMIT = 64 * 1024  # bytes of the certificate extension
APP_ID_SIZE = 20
INSTANCE_ID_SIZE = 20
COMPOSE_HASH_SIZE = 32
_NAME = "app-info"

_HASHES: dict[str, Callable[[bytes], bytes]] = {
    "sha256": sha256,
    "sha384": sha384,
    "sha512": sha512,
    "sha3-256": lambda data: hashlib.sha3_256(data).digest(),
    "sha3-384": lambda data: hashlib.sha3_384(data).digest(),
    "sha3-512": lambda data: hashlib.sha3_512(data).digest(),
    "keccak256": lambda data: keccak(data, 256),
    "keccak384": lambda data: keccak(data, 384),
    "keccak512": lambda data: keccak(data, 512),
}


@dataclass(frozen=True, slots=True)
class AppInfo:
    """The identity of an app's instance (guest-agent.md 9.4).

    App and instance id have 20 bytes (the latter maybe none), all hashes 32; `key_provider_info` is the
    JSON text of the key-provider event; `init_script_hashes` is None in records older than they are.
    """

    app_id: bytes
    compose_hash: bytes
    instance_id: bytes
    device_id: bytes
    mr_system: bytes
    mr_aggregated: bytes
    os_image_hash: bytes
    key_provider_info: bytes
    init_script_hashes: tuple[bytes, ...] | None


_FIELDS = (
    "app_id",
    "compose_hash",
    "instance_id",
    "device_id",
    "mr_system",
    "mr_aggregated",
    "os_image_hash",
    "key_provider_info",
)


def app_info(
    td: TdReport,
    events: Sequence[RuntimeEvent],
    os_image_hash: bytes,
    device_id: bytes,
    *,
    boottime: bool = False,
) -> AppInfo:
    """The identity that a TD report and its runtime events state, by the rules above.

    `device_id` is that of the verified PCK certificate. Raises `EvidenceError` (rejected).
    """
    app_id = _required(events, APP_ID, APP_ID_SIZE)
    compose_hash = _required(events, COMPOSE_HASH, COMPOSE_HASH_SIZE)
    instance_id = identity_payload(events, INSTANCE_ID) or b""
    if len(instance_id) not in (0, INSTANCE_ID_SIZE):
        raise _wrong_size(INSTANCE_ID, f"{INSTANCE_ID_SIZE} bytes or none", instance_id)
    provider = None if boottime else identity_payload(events, KEY_PROVIDER)
    mr_key_provider = bytes(32) if provider is None else sha256(provider)
    boot = td.mr_td + td.rt_mr0 + td.rt_mr1 + td.rt_mr2
    owner = td.mr_config_id + td.mr_owner + td.mr_owner_config
    measured = _until_boot_mr_done(events) if boottime else events
    return AppInfo(
        app_id=app_id,
        compose_hash=compose_hash,
        instance_id=instance_id,
        device_id=device_id,
        mr_system=sha256(boot + mr_key_provider),
        mr_aggregated=sha256(boot + replay_runtime(measured) + (owner if any(owner) else b"")),
        os_image_hash=os_image_hash,
        key_provider_info=provider or b"",
        init_script_hashes=tuple(e.payload for e in _before_ready(events) if e.event == INIT_SCRIPT_HASH),
    )


def identity_payload(events: Iterable[RuntimeEvent], name: str) -> bytes | None:
    """The payload of the first event `name` before `system-ready` (rule 1); None when there is none."""
    return next((event.payload for event in _before_ready(events) if event.event == name), None)


def device_id(ppid: bytes) -> bytes:
    """SHA-256 of the PPID (16 bytes) of a verified PCK certificate."""
    return sha256(ppid)


def derive_app_id(compose: bytes) -> bytes:
    """The app id, 20 bytes, of an app whose id is not fixed otherwise; `compose` is app-compose.json as stored."""
    return sha256(compose)[:APP_ID_SIZE]


def derive_instance_id(seed: bytes, app_id: bytes, platform_binding: bytes = b"") -> bytes:
    """The instance id, 20 bytes, from the instance's seed (20 random bytes)."""
    return sha256(seed + app_id + platform_binding)[:INSTANCE_ID_SIZE]


def report_data(tag: str, content: bytes, algorithm: str = "sha512") -> bytes:
    """The 64 bytes that bind `content` to a quote: H(tag || ":" || content), zero-padded on the right.

    `algorithm` is a name of guest-agent.md 5.3; `raw` takes 64 bytes of content as they are. Raises
    `MisuseError`, whose subject is the text that clients are answered with.
    """
    if algorithm == "raw":
        if len(content) != REPORT_DATA_SIZE:
            raise misuse("report-data.content-length", "invalid content length")
        return content
    if algorithm not in _HASHES:
        raise misuse("report-data.algorithm", "invalid hash algorithm")
    return _HASHES[algorithm](tag.encode() + b":" + content).ljust(REPORT_DATA_SIZE, b"\0")


def encode_app_info(info: AppInfo) -> bytes:
    """The app info extension: a MessagePack array of 9 (guest-agent.md 9.4)."""
    scripts = None if info.init_script_hashes is None else list(info.init_script_hashes)
    return strictmsgpack.dumps([*(getattr(info, field) for field in _FIELDS), scripts])


def decode_app_info(data: bytes) -> AppInfo:
    """Read an app info extension: an array of 8 or 9, or a map. Raises `EvidenceError` (malformed)."""
    value = strictmsgpack.load(data, _NAME, limit=APP_INFO_LIMIT)
    members: dict[str, Any]
    if isinstance(value, dict):
        members = value
    elif isinstance(value, list) and len(value) in (len(_FIELDS), len(_FIELDS) + 1):
        members = dict(zip((*_FIELDS, "init_script_hashes"), value, strict=False))
    else:
        raise malformed(f"{_NAME}.shape", "the app info", expected="an array of 8 or 9 elements, or a map")
    scripts = members.get("init_script_hashes")
    if scripts is not None and not isinstance(scripts, list):
        raise malformed(f"{_NAME}.member", f"init_script_hashes of {_NAME} is no array")
    fields = {field: strictmsgpack.octets(members.get(field), field, _NAME) for field in _FIELDS}
    hashes = (
        None
        if scripts is None
        else tuple(strictmsgpack.octets(script, "an init script hash", _NAME) for script in scripts)
    )
    return AppInfo(**fields, init_script_hashes=hashes)


def _before_ready(events: Iterable[RuntimeEvent]) -> Iterator[RuntimeEvent]:
    """The events up to and including `system-ready` (rule 1)."""
    for event in events:
        yield event
        if event.event == SYSTEM_READY:
            return


def _until_boot_mr_done(events: Sequence[RuntimeEvent]) -> Sequence[RuntimeEvent]:
    for place, event in enumerate(_before_ready(events)):
        if event.event == BOOT_MR_DONE:
            return events[: place + 1]
    raise rejected(
        "identity.event-missing", f"event {BOOT_MR_DONE}", expected="before system-ready", found="none"
    )


def _required(events: Sequence[RuntimeEvent], name: str, size: int) -> bytes:
    payload = identity_payload(events, name)
    if payload is None:
        raise rejected(
            "identity.event-missing", f"event {name}", expected="before system-ready", found="none"
        )
    if len(payload) != size:
        raise _wrong_size(name, f"{size} bytes", payload)
    return payload


def _wrong_size(name: str, expected: str, payload: bytes) -> Exception:
    return rejected(
        "identity.event-size", f"payload of event {name}", expected=expected, found=str(len(payload))
    )
