"""Calldata built and answers read: the ABI of the contracts (onchain.md 2 to 4).

Rules:

1. A value of another size than its type's is the caller's fault: `MisuseError`. Nothing is padded here.
2. An answer is read whole and within bounds, by one encoding only of a bool (0 or 1), of an address (12 zero
   bytes first) and of padding-free lengths; anything else is `EvidenceError` (malformed). No answer at all is
   what an address without a contract gives, and is said so.
3. Text of a contract is shown as it is, but for characters that are not printable: those become U+FFFD.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from eth_abi.abi import encode as _encode
from eth_abi.exceptions import EncodingError

from teehouse.base.findings import EvidenceError, malformed, misuse
from teehouse.base.hashes import keccak256
from teehouse.chain.reader import ADDRESS_SIZE, WORD_SIZE

TEXT_LIMIT: Final = 4096  # bytes of a reason, a gateway's app id
BYTES_LIMIT: Final = 1024 * 1024  # bytes of one value of kmsInfo
REASON_LIMIT: Final = 512  # characters of a reason that is shown
BOOT_INFO: Final = "(address,bytes32,address,bytes32,bytes32,bytes32,bytes32,string,string[])"
KMS_INFO: Final = "(bytes,bytes,bytes,bytes)"

_NAME = "chain-answer"
_ERROR_STRING = bytes.fromhex("08c379a0")  # Error(string)
_PANIC = bytes.fromhex("4e487b71")  # Panic(uint256)
_SIZES = {"bytes32": WORD_SIZE, "bytes4": 4, "address": ADDRESS_SIZE}


def selector(signature: str) -> bytes:
    """The first 4 bytes of a function's or an error's calldata."""
    return keccak256(signature.encode())[:4]


def topic(signature: str) -> bytes:
    """The first topic (32 bytes) of an event."""
    return keccak256(signature.encode())


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a contract; called with its arguments it gives the calldata.

    `address` and `bytes…` arguments are bytes of their size, `(…)` arguments tuples. Raises `MisuseError` (rule 1).
    """

    name: str
    types: tuple[str, ...] = ()
    selector: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "selector", selector(f"{self.name}({','.join(self.types)})"))

    def __call__(self, *values: Any) -> bytes:
        for kind, value in zip(self.types, values, strict=True):
            size = _SIZES.get(kind)
            if size is not None and len(value) != size:
                raise misuse(
                    "chain.argument",
                    f"an argument of {self.name}",
                    expected=f"{size} bytes",
                    found=str(len(value)),
                )
        if all(kind == "bytes32" for kind in self.types):  # the many small reads
            return self.selector + b"".join(values)
        try:
            return self.selector + _encode(self.types, values)
        except (EncodingError, UnicodeEncodeError) as error:
            raise misuse(
                "chain.argument", f"an argument of {self.name}", found=type(error).__name__
            ) from error


# Of DstackApp (onchain.md 3.1).
ALLOWED_COMPOSE_HASHES: Final = Function("allowedComposeHashes", ("bytes32",))
ALLOWED_DEVICE_IDS: Final = Function("allowedDeviceIds", ("bytes32",))
ALLOW_ANY_DEVICE: Final = Function("allowAnyDevice")
REQUIRE_TCB_UP_TO_DATE: Final = Function("requireTcbUpToDate")
ADD_COMPOSE_HASH: Final = Function("addComposeHash", ("bytes32",))
REMOVE_COMPOSE_HASH: Final = Function("removeComposeHash", ("bytes32",))
ADD_DEVICE: Final = Function("addDevice", ("bytes32",))
REMOVE_DEVICE: Final = Function("removeDevice", ("bytes32",))
SET_ALLOW_ANY_DEVICE: Final = Function("setAllowAnyDevice", ("bool",))
SET_REQUIRE_TCB_UP_TO_DATE: Final = Function("setRequireTcbUpToDate", ("bool",))
DISABLE_UPGRADES: Final = Function("disableUpgrades")

# Of both (onchain.md 3.1, 4.1).
IS_APP_ALLOWED: Final = Function("isAppAllowed", (BOOT_INFO,))
OWNER: Final = Function("owner")
PENDING_OWNER: Final = Function("pendingOwner")
TRANSFER_OWNERSHIP: Final = Function("transferOwnership", ("address",))
ACCEPT_OWNERSHIP: Final = Function("acceptOwnership")
VERSION: Final = Function("version")
SUPPORTS_INTERFACE: Final = Function("supportsInterface", ("bytes4",))

# Of DstackKms (onchain.md 4.1).
IS_KMS_ALLOWED: Final = Function("isKmsAllowed", (BOOT_INFO,))
KMS_INITIALIZE: Final = Function("initialize", ("address", "address"))
DEPLOY_AND_REGISTER_APP: Final = Function(
    "deployAndRegisterApp", ("address", "bool", "bool", "bool", "bytes32", "bytes32")
)
GATEWAY_APP_ID: Final = Function("gatewayAppId")
SET_GATEWAY_APP_ID: Final = Function("setGatewayAppId", ("string",))
APP_IMPLEMENTATION: Final = Function("appImplementation")
SET_APP_IMPLEMENTATION: Final = Function("setAppImplementation", ("address",))
REGISTERED_APPS: Final = Function("registeredApps", ("address",))
ALLOWED_OS_IMAGES: Final = Function("allowedOsImages", ("bytes32",))
ADD_OS_IMAGE_HASH: Final = Function("addOsImageHash", ("bytes32",))
REMOVE_OS_IMAGE_HASH: Final = Function("removeOsImageHash", ("bytes32",))
KMS_ALLOWED_AGGREGATED_MRS: Final = Function("kmsAllowedAggregatedMrs", ("bytes32",))
ADD_KMS_AGGREGATED_MR: Final = Function("addKmsAggregatedMr", ("bytes32",))
KMS_ALLOWED_DEVICE_IDS: Final = Function("kmsAllowedDeviceIds", ("bytes32",))
ADD_KMS_DEVICE: Final = Function("addKmsDevice", ("bytes32",))
SET_KMS_INFO: Final = Function("setKmsInfo", (KMS_INFO,))
READ_KMS_INFO: Final = Function("kmsInfo")

# Errors of the ownership, proxy and initialisation parts (onchain.md 3.2), by selector; each has one word or none.
_ERRORS: dict[bytes, str] = {
    selector(signature): signature
    for signature in (
        "OwnableUnauthorizedAccount(address)",
        "OwnableInvalidOwner(address)",
        "InvalidInitialization()",
        "NotInitializing()",
        "ERC1967InvalidImplementation(address)",
        "ERC1967NonPayable()",
        "UUPSUnauthorizedCallContext()",
        "UUPSUnsupportedProxiableUUID(bytes32)",
        "AddressEmptyCode(address)",
        "FailedCall()",
    )
}


@dataclass(frozen=True, slots=True)
class BootInfo:
    """What a KMS asks a contract about (onchain.md 2): two ids of 20 bytes, five hashes of 32."""

    app_id: bytes
    compose_hash: bytes
    instance_id: bytes
    device_id: bytes
    mr_aggregated: bytes
    mr_system: bytes
    os_image_hash: bytes
    tcb_status: str = ""
    advisory_ids: tuple[str, ...] = ()

    def values(self) -> tuple[Any, ...]:
        """The members in their order. Raises `MisuseError` for another size (rule 1)."""
        sizes = (ADDRESS_SIZE, WORD_SIZE, ADDRESS_SIZE, WORD_SIZE, WORD_SIZE, WORD_SIZE, WORD_SIZE)
        fixed = (
            self.app_id,
            self.compose_hash,
            self.instance_id,
            self.device_id,
            self.mr_aggregated,
            self.mr_system,
            self.os_image_hash,
        )
        if tuple(map(len, fixed)) != sizes:
            raise misuse(
                "chain.boot-info",
                "the sizes of a boot info",
                expected=str(sizes),
                found=str(tuple(map(len, fixed))),
            )
        return (*fixed, self.tcb_status, list(self.advisory_ids))


@dataclass(frozen=True, slots=True)
class KmsInfo:
    """What a KMS contract tells of its KMS (onchain.md 4.1); a member that was never set is empty."""

    k256_pubkey: bytes
    ca_pubkey: bytes
    quote: bytes
    event_log: bytes


def decode_bool(data: bytes) -> bool:
    """One bool. Raises `EvidenceError` (rule 2)."""
    return _bool(_whole(data, WORD_SIZE, "a bool"), 0)


def decode_address(data: bytes) -> bytes:
    """One address, 20 bytes. Raises `EvidenceError` (rule 2)."""
    _whole(data, WORD_SIZE, "an address")
    if any(data[: WORD_SIZE - ADDRESS_SIZE]):
        raise _wrong("an address", "12 zero bytes before it")
    return data[WORD_SIZE - ADDRESS_SIZE :]


def decode_uint(data: bytes) -> int:
    """One unsigned integer of 256 bits. Raises `EvidenceError` (rule 2)."""
    return int.from_bytes(_whole(data, WORD_SIZE, "an integer"))


def decode_text(data: bytes) -> str:
    """One string. Raises `EvidenceError` (rules 2, 3)."""
    _present(data)
    return _text(data, 0)


def decode_verdict(data: bytes) -> tuple[bool, str]:
    """`(bool isAllowed, string reason)`. Raises `EvidenceError` (rules 2, 3)."""
    _present(data)
    return _bool(data, 0), _text(data, WORD_SIZE)


def decode_kms_info(data: bytes) -> KmsInfo:
    """The four byte strings of `kmsInfo()`. Raises `EvidenceError` (rule 2)."""
    _present(data)
    parts = (_bytes(data, 0, WORD_SIZE * index, BYTES_LIMIT) for index in range(4))
    return KmsInfo(*parts)


def decode_revert(data: bytes) -> str:
    """Why a contract reverted, in words; it never raises, whatever a contract sends."""
    head, rest = data[:4], data[4:]
    try:
        if head == _ERROR_STRING:
            return shown(_text(rest, 0))
        if head == _PANIC:
            return f"panic 0x{decode_uint(rest):02x}"
        if head in _ERRORS:
            name, _, kind = _ERRORS[head].removesuffix(")").partition("(")
            if not kind:
                return name
            word = decode_address(rest) if kind == "address" else _whole(rest, WORD_SIZE, "a word")
            return f"{name}(0x{word.hex()})"
    except EvidenceError:
        pass
    return f"reverted with 0x{data[:WORD_SIZE].hex()}" if data else "reverted without a reason"


def shown(text: str) -> str:
    """A text of a contract or an endpoint, fit for a log or a screen (rule 3), of at most `REASON_LIMIT` characters."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text[:REASON_LIMIT])


# --- aggregate3 (onchain.md 7); both directions by hand, since this is where batches spend their time

AGGREGATE3: Final = Function("aggregate3", ("(address,bool,bytes)[]",))


def encode_aggregate3(calls: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Calldata for calls `(address, calldata)`, each of which may fail."""
    heads, tails, offset = [], [], WORD_SIZE * len(calls)
    for to, data in calls:
        padded = data + bytes(-len(data) % WORD_SIZE)
        heads.append(_word(offset))
        tail = bytes(12) + to + _word(1) + _word(3 * WORD_SIZE) + _word(len(data)) + padded
        tails.append(tail)
        offset += len(tail)
    return b"".join((AGGREGATE3.selector, _word(WORD_SIZE), _word(len(calls)), *heads, *tails))


def decode_aggregate3(data: bytes, count: int) -> tuple[tuple[bool, bytes], ...]:
    """`(success, returned)` of each of `count` calls. Raises `EvidenceError` (rule 2)."""
    _present(data)
    base = _uint(data, 0)
    if _uint(data, base) != count:
        raise _wrong("a list of answers", f"{count} of them")
    start = base + WORD_SIZE
    found = []
    for index in range(count):
        at = start + _uint(data, start + WORD_SIZE * index)
        found.append((_bool(data, at), _bytes(data, at, at + WORD_SIZE, BYTES_LIMIT)))
    return tuple(found)


# --- words


def _word(value: int) -> bytes:
    return value.to_bytes(WORD_SIZE)


def _uint(data: bytes, at: int) -> int:
    if at < 0 or at + WORD_SIZE > len(data):
        raise _wrong("a word", f"32 bytes at {min(at, 2**32)}")
    return int.from_bytes(data[at : at + WORD_SIZE])


def _bool(data: bytes, at: int) -> bool:
    value = _uint(data, at)
    if value > 1:
        raise _wrong("a bool", "0 or 1")
    return bool(value)


def _bytes(data: bytes, base: int, at: int, limit: int) -> bytes:
    """The byte string whose offset, counted from `base`, stands at `at`."""
    start = base + _uint(data, at)
    size = _uint(data, start)
    if size > limit or start + WORD_SIZE + size > len(data):
        raise _wrong("a length", f"at most {limit}, and within the answer")
    return data[start + WORD_SIZE : start + WORD_SIZE + size]


def _text(data: bytes, at: int) -> str:
    try:
        text = _bytes(data, 0, at, TEXT_LIMIT).decode()
    except UnicodeDecodeError:
        raise _wrong("a text", "UTF-8") from None
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _present(data: bytes) -> None:
    if not data:
        raise malformed(
            f"{_NAME}.empty",
            "nothing answers at this address",
            expected="a contract",
            remedy="check the address and the chain",
        )


def _whole(data: bytes, size: int, what: str) -> bytes:
    _present(data)
    if len(data) != size:
        raise malformed(
            f"{_NAME}.size", f"{what} of a contract", expected=f"{size} bytes", found=f"{len(data)}"
        )
    return data


def _wrong(what: str, expected: str) -> EvidenceError:
    return malformed(f"{_NAME}.malformed", f"{what} of a contract's answer", expected=expected)
