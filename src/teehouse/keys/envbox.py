"""The encrypted environment of an app: seal, open, filter, and whom its key belongs to (trust.md 14).

Rules:

1. A box is an ephemeral X25519 public key (32 bytes), an IV (12), and the AES-256-GCM ciphertext with its tag
   (16). The AES key is the raw shared secret; there is no associated data. An all-zero shared secret is refused.
2. The content is `{"env":[{"key":…,"value":…},…]}` in UTF-8, of which no member stands twice in its object.
   A key has no `=`, NUL or line break and is not empty, a value has no NUL: no process could be given them.
3. Only variables that the app's compose names in `allowed_envs` are kept; the last of a name counts. Whatever
   is dropped is told by name, never by value.
4. A launch token has at least 32 bytes and hashes to what the compose says.
5. The KMS signs the public key of the environment, 65 bytes, over the app id, the key, and in the newer form
   the time, which is at most 300 seconds past and 60 seconds ahead. Who signed is compared with a key that is
   trusted already.

No error, finding or repr shows a value, a token or a key.
"""

import hmac
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from teehouse.base.findings import EvidenceError, Finding, Outcome, malformed, misuse, rejected
from teehouse.base.hashes import keccak256, sha256
from teehouse.keys.derive import utf8
from teehouse.keys.signing import RECOVERABLE_SIZE, recover_public_key, sign_recoverable

KEY_SIZE: Final = 32  # bytes of X25519 keys and of the AES key
IV_SIZE: Final = 12
TAG_SIZE: Final = 16
BOX_LIMIT: Final = 1024 * 1024  # bytes of a whole box
VARIABLES_LIMIT: Final = 4096
NAME_LIMIT: Final = 1024  # bytes of a variable's name
TOKEN_MINIMUM: Final = 32  # bytes
MAXIMUM_AGE: Final = 300  # seconds
MAXIMUM_SKEW: Final = 60  # seconds

_HEAD_SIZE = KEY_SIZE + IV_SIZE
_TOKEN_TAG = b"dstack-launch-token/v1:"
_KEY_TAG = b"dstack-env-encrypt-pubkey:"
_BOX = "environment-box"
_ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable."""

    key: str
    value: str = field(repr=False)


def environment_public_key(secret: bytes) -> bytes:
    """The X25519 public key (32 bytes) of an app's environment key, as a KMS derives that (trust.md 13.4)."""
    return _private(secret).public_key().public_bytes_raw()


def seal_environment(
    public_key: bytes, variables: Iterable[Variable], *, ephemeral: bytes, iv: bytes
) -> bytes:
    """A box for the owner of `public_key` (32 bytes; rules 1, 2).

    `ephemeral` (32 bytes) and `iv` (12) are random and used once. Raises `MisuseError`; `EvidenceError` for a
    public key that nothing can be sealed to.
    """
    if len(iv) != IV_SIZE:
        raise misuse(f"{_BOX}.iv", "the IV has the wrong size", expected=f"{IV_SIZE} bytes")
    private = _private(ephemeral)
    listed = [{"key": variable.key, "value": variable.value} for variable in variables]
    text = json.dumps({"env": listed}, ensure_ascii=False, separators=(",", ":"))
    content = utf8(text, "the environment")
    try:
        _variables(content)
    except EvidenceError as error:
        raise misuse(error.finding.code, error.finding.subject, expected=error.finding.expected) from None
    if len(content) > BOX_LIMIT - _HEAD_SIZE - TAG_SIZE:
        raise misuse(f"{_BOX}.too-long", "the environment is too long", expected=f"at most {BOX_LIMIT} bytes")
    sealed = AESGCM(_shared(private, public_key)).encrypt(iv, content, None)
    return private.public_key().public_bytes_raw() + iv + sealed


def open_environment(secret: bytes, box: bytes) -> tuple[Variable, ...]:
    """The variables in a box, in its order (rules 1, 2). `secret` is the app's environment key, 32 bytes.

    Raises `EvidenceError`; `MisuseError` for a secret of another size.
    """
    private = _private(secret)
    if not _HEAD_SIZE + TAG_SIZE <= len(box) <= BOX_LIMIT:
        raise malformed(
            f"{_BOX}.size",
            "the encrypted environment has the wrong size",
            expected=f"{_HEAD_SIZE + TAG_SIZE} to {BOX_LIMIT} bytes",
            found=str(len(box)),
        )
    key = _shared(private, box[:KEY_SIZE])
    try:
        content = AESGCM(key).decrypt(box[KEY_SIZE:_HEAD_SIZE], box[_HEAD_SIZE:], None)
    except InvalidTag:
        raise rejected(
            f"{_BOX}.tag",
            "the encrypted environment does not open with this app's key",
            remedy="encrypt it anew for this app id, with the public key that its KMS gives",
        ) from None
    return _variables(content)


def _private(secret: bytes) -> X25519PrivateKey:
    if len(secret) != KEY_SIZE:
        raise misuse(f"{_BOX}.secret", "an X25519 secret has the wrong size", expected=f"{KEY_SIZE} bytes")
    return X25519PrivateKey.from_private_bytes(secret)


def _shared(private: X25519PrivateKey, public_key: bytes) -> bytes:
    """The shared secret, which is not all zero (rule 1)."""
    if len(public_key) != KEY_SIZE:
        raise malformed(
            f"{_BOX}.public-key", "an X25519 public key has the wrong size", expected=f"{KEY_SIZE} bytes"
        )
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError:  # the library's refusal of points of small order, whose shared secret is zero
        raise rejected(
            f"{_BOX}.zero-secret",
            "the public key leads to a shared secret of zeros",
            remedy="whoever made it wanted everyone to be able to read the box: do not use it",
        ) from None


def _variables(content: bytes) -> tuple[Variable, ...]:
    """The variables of a box's content (rule 2)."""
    try:
        source = json.loads(content.decode(), object_pairs_hook=_members)
    except (ValueError, RecursionError):
        raise _malformed("is no JSON in UTF-8") from None
    listed = source.get("env") if isinstance(source, dict) else None
    if not isinstance(listed, list):
        raise _malformed("has no list in its member env")
    if len(listed) > VARIABLES_LIMIT:
        raise _malformed(f"has more than {VARIABLES_LIMIT} variables")
    return tuple(_variable(item) for item in listed)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _malformed("names a member of an object twice")
    return found


def _variable(item: Any) -> Variable:
    key, value = (item.get("key"), item.get("value")) if isinstance(item, dict) else (None, None)
    if not isinstance(key, str) or not isinstance(value, str):
        raise _malformed("has a variable without key and value as strings")
    if not key or any(char in key for char in "=\0\r\n") or len(_scalar(key)) > NAME_LIMIT:
        raise _malformed("has a variable whose name no process can be given")
    if b"\0" in _scalar(value):
        raise _malformed("has a variable whose value no process can be given")
    return Variable(key, value)


def _scalar(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _malformed("has text that is not valid Unicode") from None


def _malformed(what: str) -> EvidenceError:
    return malformed(f"{_ENVIRONMENT}.malformed", f"the environment {what}")


def filter_environment(
    variables: Iterable[Variable], allowed: Collection[str]
) -> tuple[tuple[Variable, ...], tuple[Finding, ...]]:
    """The variables that the compose allows, and a finding for each that was dropped (rule 3)."""
    kept: dict[str, Variable] = {}
    findings: list[Finding] = []
    for variable in variables:
        name = json.dumps(variable.key[:64])
        if variable.key not in allowed:
            findings.append(
                Finding(
                    f"{_ENVIRONMENT}.not-allowed",
                    f"the variable {name} is dropped",
                    Outcome.REJECTED,
                    expected="a name in allowed_envs of the app-compose",
                    found="none",
                    check="3",
                )
            )
            continue
        if kept.pop(variable.key, None) is not None:
            findings.append(
                Finding(
                    f"{_ENVIRONMENT}.twice",
                    f"a former value of the variable {name} is dropped",
                    Outcome.REJECTED,
                    expected="one value",
                    found="several, of which the last counts",
                    check="3",
                )
            )
        kept[variable.key] = variable
    return tuple(kept.values()), tuple(findings)


def launch_token_hash(token: bytes) -> bytes:
    """What an app-compose says of its launch token: 32 bytes (rule 4)."""
    return sha256(_TOKEN_TAG + token)


def check_launch_token(token: bytes | None, expected: bytes) -> Finding:
    """Whether a launch token is the one whose hash (32 bytes) the compose says (rule 4)."""
    code, subject = "launch-token", "the launch token"
    if token is None:
        return Finding(
            code,
            subject,
            Outcome.REJECTED,
            "a token",
            "none",
            "give launch_token in dstack of user-config",
            "4",
        )
    if len(token) < TOKEN_MINIMUM:
        return Finding(
            code, subject, Outcome.REJECTED, f"at least {TOKEN_MINIMUM} bytes", str(len(token)), check="4"
        )
    if not hmac.compare_digest(launch_token_hash(token), expected):
        return Finding(
            code, subject, Outcome.REJECTED, "the token whose hash the app-compose says", "another", check="4"
        )
    return Finding(code, subject, check="4")


def environment_key_digest(app_id: bytes, public_key: bytes, timestamp: int | None = None) -> bytes:
    """What a KMS signs for the key of an app's environment (trust.md 13.4; rule 5).

    `app_id` has 20 bytes, `public_key` 32; `timestamp` is in UNIX seconds, None for the older form. Raises
    `MisuseError` for a time that no u64 holds.
    """
    if timestamp is not None and not 0 <= timestamp < 1 << 64:
        raise misuse("environment-key.timestamp", "the time is out of range", expected="0 to 2^64 - 1")
    time = b"" if timestamp is None else timestamp.to_bytes(8, "big")
    return keccak256(_KEY_TAG + app_id + time + public_key)


def sign_environment_key(
    kms_key: bytes, app_id: bytes, public_key: bytes, timestamp: int | None = None
) -> bytes:
    """The KMS's 65-byte signature over the key of an app's environment (rule 5).

    Raises `MisuseError`, `KeyDerivationError`.
    """
    return sign_recoverable(kms_key, environment_key_digest(app_id, public_key, timestamp))


def check_environment_key(
    app_id: bytes,
    public_key: bytes,
    signature: bytes,
    trusted: bytes,
    *,
    timestamp: int | None = None,
    now: int = 0,
) -> Finding:
    """Whether the KMS with root key `trusted` (compressed, 33 bytes) vouches for an app's environment key (rule 5).

    With `timestamp`, `signature` is the newer form and judged as of `now`; both are UNIX seconds. The older
    form has no time: an old key and its signature can be shown again. Nothing is raised.
    """

    def refused(expected: str, found: str, remedy: str = "") -> Finding:
        return Finding(
            "environment-key",
            "the key for the encrypted environment",
            Outcome.REJECTED,
            expected,
            found,
            remedy,
            check="5",
        )

    if len(signature) != RECOVERABLE_SIZE:
        return refused(f"a signature of {RECOVERABLE_SIZE} bytes", str(len(signature)))
    if timestamp is not None and not 0 <= timestamp < 1 << 64:
        return refused("a time in UNIX seconds", "one out of range")
    if timestamp is not None and not -MAXIMUM_SKEW <= now - timestamp <= MAXIMUM_AGE:
        return refused(
            f"a signature at most {MAXIMUM_AGE} seconds old",
            f"one of {now - timestamp} seconds",
            "ask for the key again; compare the clocks",
        )
    try:
        signer = recover_public_key(environment_key_digest(app_id, public_key, timestamp), signature)
    except EvidenceError as error:
        return refused("a signature that belongs to a key", error.finding.subject)
    if not hmac.compare_digest(signer, trusted):
        return refused(
            trusted.hex(), signer.hex(), "this is not the KMS that you trust: encrypt nothing for this key"
        )
    return Finding("environment-key", "the key for the encrypted environment", found=signer.hex(), check="5")
