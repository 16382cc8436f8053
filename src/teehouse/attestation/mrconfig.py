"""MR_CONFIG_ID: what the host fixed about the application when it made the TD (trust.md 8.6, guest-agent.md 10.6).

48 bytes: zero when nothing was fixed, else a version, 32 bytes of hash, 15 zeros.

Rules of `check_mr_config_id`:

1. All zero: nothing is claimed, nothing is checked.
2. Version 1 holds the compose hash.
3. Version 2 holds keccak256(compose hash || app id || kind of key provider || its id).
4. Version 3 holds the hash of a document that must be given: strict JSON, no member but the known ones,
   and each of its members agrees with the identity.
5. Other versions are unsupported.
"""

import hmac
from dataclasses import dataclass
from typing import Any

from teehouse.attestation import strictjson
from teehouse.base.findings import EvidenceError, Finding, Outcome, rejected, unsupported
from teehouse.base.hashes import keccak256, sha256

MR_CONFIG_ID_SIZE = 48
DOCUMENT_LIMIT = 64 * 1024
KEY_PROVIDER_LIMIT = 64 * 1024
KEY_PROVIDER_KINDS = {"none": 0, "local": 1, "local-sgx": 1, "kms": 2, "tpm": 3}

_CODE = "mr-config-id"
_SUBJECT = "MR_CONFIG_ID"
_DOCUMENT_TAG = b"dstack-mr-config-v3:\0"
_DOCUMENT_MEMBERS = frozenset(
    {
        "version",
        "compose_hash",
        "key_provider",
        "app_id",
        "gpu_policy_hash",
        "key_provider_id",
        "instance_id",
        "init_script_hashes",
    }
)


@dataclass(frozen=True, slots=True)
class KeyProvider:
    """Who gave the application its keys: `name` none, local-sgx, tpm or kms; `id` as trust.md 8.5 has it."""

    name: str
    id: bytes

    @property
    def kind(self) -> int | None:
        """The byte of rule 3, None for a name that has none."""
        return KEY_PROVIDER_KINDS.get(self.name)


@dataclass(frozen=True, slots=True)
class ConfiguredIdentity:
    """What MR_CONFIG_ID may speak of. A value that is None is not known, and then agrees with nothing."""

    compose_hash: bytes
    app_id: bytes
    key_provider: KeyProvider | None = None
    instance_id: bytes | None = None
    init_script_hashes: tuple[bytes, ...] | None = None
    gpu_policy_hash: bytes | None = None


def parse_key_provider(info: bytes) -> KeyProvider:
    """Read the payload of a key-provider event, `{"name":…,"id":hex}`. Raises `EvidenceError` (malformed)."""
    members = strictjson.load_object(info, "key-provider", limit=KEY_PROVIDER_LIMIT)
    return KeyProvider(
        name=strictjson.text_member(members, "name", "key-provider"),
        id=strictjson.hex_member(members, "id", "key-provider"),
    )


def mr_config_id_v1(compose_hash: bytes) -> bytes:
    """48 bytes over the compose hash (32 bytes)."""
    return _padded(1, compose_hash)


def mr_config_id_v2(compose_hash: bytes, app_id: bytes, kind: int, key_provider_id: bytes) -> bytes:
    """48 bytes; `kind` is 0 none, 1 local, 2 kms, 3 tpm."""
    return _padded(2, keccak256(compose_hash + app_id + bytes([kind]) + key_provider_id))


def mr_config_id_v3(document: bytes) -> bytes:
    """48 bytes over a document, hashed exactly as carried."""
    return _padded(3, sha256(_DOCUMENT_TAG + document))


def check_mr_config_id(
    mr_config_id: bytes, identity: ConfiguredIdentity, *, document: bytes | None = None
) -> Finding:
    """Judge MR_CONFIG_ID (48 bytes) by the rules above. Nothing is raised for bad evidence."""
    if not any(mr_config_id):
        return Finding(_CODE, _SUBJECT, found="zero: the host fixed nothing", check="1")
    version = mr_config_id[0]
    try:
        if version == 1:
            expected = mr_config_id_v1(identity.compose_hash)
        elif version == 2:
            expected = _expected_v2(identity)
        elif version == 3:
            expected = _expected_v3(document)
        else:
            raise unsupported(_CODE, f"version of {_SUBJECT}", expected="0 to 3", found=str(version))
        if not hmac.compare_digest(expected, mr_config_id):
            raise rejected(_CODE, _SUBJECT, expected=expected.hex(), found=mr_config_id.hex())
        if version == 3 and document is not None:
            _check_document(document, identity)
    except EvidenceError as error:
        refused = error.finding
        return Finding(
            refused.code,
            refused.subject,
            refused.outcome,
            refused.expected,
            refused.found,
            refused.remedy,
            check=str(version + 1) if version in (1, 2, 3) else "5",
        )
    return Finding(_CODE, _SUBJECT, Outcome.ACCEPTED, found=mr_config_id.hex(), check=str(version + 1))


def _padded(version: int, value: bytes) -> bytes:
    return (bytes([version]) + value).ljust(MR_CONFIG_ID_SIZE, b"\0")


def _expected_v2(identity: ConfiguredIdentity) -> bytes:
    provider = identity.key_provider
    if provider is None or provider.kind is None:
        raise rejected(
            _CODE,
            f"{_SUBJECT} of version 2",
            expected="a key provider of kind none, local, kms or tpm",
            found="none" if provider is None else strictjson.quoted(provider.name),
        )
    return mr_config_id_v2(identity.compose_hash, identity.app_id, provider.kind, provider.id)


def _expected_v3(document: bytes | None) -> bytes:
    if document is None:
        raise unsupported(
            _CODE,
            f"{_SUBJECT} of version 3",
            expected="the configuration document that it is the hash of",
            found="none",
            remedy="give the document that the host started the TD with",
        )
    return mr_config_id_v3(document)


def _check_document(document: bytes, identity: ConfiguredIdentity) -> None:
    name = "mr-config-document"
    members = strictjson.load_object(document, name, limit=DOCUMENT_LIMIT)
    unknown = sorted(members.keys() - _DOCUMENT_MEMBERS)
    if unknown:
        raise unsupported(
            f"{name}.member", f"members of {name}", expected="known ones", found=strictjson.quoted(unknown[0])
        )
    _agree("version", 3, strictjson.int_member(members, "version", name, limit=0xFF))
    _agree("compose_hash", identity.compose_hash, _octets(members, "compose_hash", name))
    given = KEY_PROVIDER_KINDS.get(strictjson.text_member(members, "key_provider", name))
    provider = identity.key_provider
    _agree("key_provider", None if provider is None else provider.kind, given)
    known: dict[str, bytes | None] = {
        "app_id": identity.app_id,
        "key_provider_id": None if provider is None else provider.id,
        "instance_id": identity.instance_id,
        "gpu_policy_hash": identity.gpu_policy_hash,
    }
    for key, value in known.items():
        if key in members:
            _agree(key, value, _octets(members, key, name))
    if "init_script_hashes" in members:
        listed = members["init_script_hashes"]
        scripts = identity.init_script_hashes
        wanted = None if scripts is None else [script.hex() for script in scripts]
        _agree("init_script_hashes", wanted, listed)


def _octets(members: dict[str, Any], key: str, name: str) -> bytes:
    return strictjson.hex_member(members, key, name)


def _agree(key: str, expected: object, found: object) -> None:
    if expected is None or expected != found:
        raise rejected(
            "mr-config-document.disagrees",
            f"{key} of the configuration document",
            expected=_shown(expected),
            found=_shown(found),
        )


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return "unknown" if value is None else ascii(value)[:256]
