"""Identifiers as cloud-api.md 8 has them: opaque ids of records, names, and what a path may call a CVM or an app.

Rules:

I1. A record's opaque id is `<prefix>_` and eight base62 digits: its number, permuted. Nothing is stored for it, and
    it is the same on every replica and after every restore. It hides how many records there are from a casual
    look only; what protects a record is the workspace in the query.
I2. Each prefix has a permutation of its own, so `cvm_X` and `app_X` of one X are different numbers.
I3. A CVM in a path is tried as: UUID with or without dashes; `app_` and 40 hex; `instance_` and 40 hex; bare
    40 hex; opaque id; number; name. 40 hex given as an app, or bare, may also be an instance id, because clients
    write `app_` before any of them.
I4. An app in a path is 40 hex in any case, with `0x` or `app_` before it or not.
I5. A CVM's name has 5 to 63 characters: first a letter, then letters, digits and single hyphens, last no hyphen.
"""

import functools
import hashlib
import re
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGITS: Final = 8  # of an opaque id
CAPACITY: Final = 62**DIGITS  # numbers that an opaque id can stand for
ENCODED: Final = 4096  # ids that are kept: lists name the same workspace, user and KMS in every row
NAME_LEAST: Final = 5
NAME_MOST: Final = 63

_HALF: Final = 24  # bits of each half of the permuted number; 2**48 is a little more than CAPACITY
_MASK: Final = (1 << _HALF) - 1
_ROUNDS: Final = 4
_VALUE: Final = {digit: value for value, digit in enumerate(ALPHABET)}
_NUMBER_LIMIT: Final = 2**63  # what a database's integer holds

_HEX40 = re.compile(r"[0-9a-fA-F]{40}")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}")
_NAME = re.compile(r"[a-zA-Z](?!.*--)([a-zA-Z0-9-]*[a-zA-Z0-9])?")
_OLD_NAME = re.compile(r"[a-zA-Z0-9_-]{1,63}")  # also those that the deprecated `cvms create` allows


class Kind(StrEnum):
    """What an opaque id names, by its prefix."""

    CVM = "cvm"
    APP = "app"
    REVISION = "rev"
    USER = "usr"
    WORKSPACE = "ws"
    SSH_KEY = "sshkey"
    KMS = "kms"
    KMS_CONTRACT = "kc"
    API_KEY = "key"
    WEBHOOK = "wh"
    DELIVERY = "whd"


@functools.lru_cache(ENCODED)
def encode(kind: Kind, number: int) -> str:
    """The opaque id of record `number` (I1). Raises ValueError for a number that no record has."""
    if not 0 <= number < CAPACITY:
        raise ValueError("no record has this number")
    constants = _CONSTANTS[kind]
    value = _forward(number, constants)
    while value >= CAPACITY:  # walk on until the permutation of 48 bits comes back among the ids
        value = _forward(value, constants)
    digits = []
    for _ in range(DIGITS):
        value, digit = divmod(value, 62)
        digits.append(ALPHABET[digit])
    return f"{kind}_{''.join(reversed(digits))}"


def decode(kind: Kind, text: str) -> int | None:
    """The number of the record that `text` is the opaque id of; None for any other text."""
    prefix, separator, digits = text.partition("_")
    if not separator or prefix != kind or len(digits) != DIGITS:
        return None
    value = 0
    for digit in digits:
        if (found := _VALUE.get(digit)) is None:
            return None
        value = value * 62 + found
    constants = _CONSTANTS[kind]
    value = _backward(value, constants)
    while value >= CAPACITY:
        value = _backward(value, constants)
    return value


def _mix(half: int, constant: int) -> int:
    half = (half * 0x9E3779B1 + constant) & 0xFFFFFFFF
    half = ((half ^ (half >> 15)) * 0x85EBCA6B) & 0xFFFFFFFF
    return (half ^ (half >> 13)) & _MASK


def _forward(value: int, constants: tuple[int, ...]) -> int:
    left, right = value >> _HALF, value & _MASK
    for constant in constants:
        left, right = right, left ^ _mix(right, constant)
    return left << _HALF | right


def _backward(value: int, constants: tuple[int, ...]) -> int:
    left, right = value >> _HALF, value & _MASK
    for constant in reversed(constants):
        left, right = right ^ _mix(left, constant), left
    return left << _HALF | right


def _constants(kind: Kind) -> tuple[int, ...]:
    digest = hashlib.sha256(b"teehouse record id " + kind.encode()).digest()
    return tuple(int.from_bytes(digest[4 * i : 4 * i + 4], "big") for i in range(_ROUNDS))


_CONSTANTS: Final = {kind: _constants(kind) for kind in Kind}


class CvmKey(Enum):
    """What a CVM is looked up by."""

    UUID = "vm_uuid"
    APP = "app_id"
    INSTANCE = "instance_id"
    NUMBER = "id"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class CvmLookup:
    """One way to find the CVM that a path means; `value` is 32 or 40 lower-case hex digits, a number or a name."""

    by: CvmKey
    value: str | int


def cvm_lookups(text: str) -> tuple[CvmLookup, ...]:
    """What to look for, in this order, until something is found (I3). Empty: no CVM can be called so."""
    if _UUID.fullmatch(text):
        return (CvmLookup(CvmKey.UUID, text.replace("-", "").lower()),)
    prefix, separator, rest = text.partition("_")
    if separator and _HEX40.fullmatch(rest):
        if prefix == "app":
            return _app_or_instance(rest)
        if prefix == "instance":
            return (CvmLookup(CvmKey.INSTANCE, rest.lower()),)
    if _HEX40.fullmatch(text):
        return _app_or_instance(text)
    if (number := decode(Kind.CVM, text)) is not None:
        return (CvmLookup(CvmKey.NUMBER, number),)
    if text.isascii() and text.isdigit() and len(text) <= NAME_MOST:
        number = int(text)
        return (CvmLookup(CvmKey.NUMBER, number),) if number < _NUMBER_LIMIT else ()
    return (CvmLookup(CvmKey.NAME, text),) if _OLD_NAME.fullmatch(text) else ()


def _app_or_instance(digits: str) -> tuple[CvmLookup, ...]:
    value = digits.lower()
    return (CvmLookup(CvmKey.APP, value), CvmLookup(CvmKey.INSTANCE, value))


def parse_app_id(text: str) -> str | None:
    """The app id, 40 lower-case hex digits (I4); None for what is none."""
    digits = text.removeprefix("app_")
    digits = digits[2:] if digits[:2] in {"0x", "0X"} else digits
    return digits.lower() if _HEX40.fullmatch(digits) else None


def parse_hex(text: str, size: int) -> str | None:
    """`size` bytes as lower-case hex digits, from hex in any case with or without `0x`; None for what is none."""
    digits = text[2:] if text[:2] in {"0x", "0X"} else text
    if len(digits) != 2 * size or not re.fullmatch(r"[0-9a-fA-F]*", digits):
        return None
    return digits.lower()


def is_cvm_name(text: str) -> bool:
    """Whether a new CVM may have this name (I5)."""
    return NAME_LEAST <= len(text) <= NAME_MOST and _NAME.fullmatch(text) is not None
