"""Who changed what: an app's allow-lists and changes, rebuilt from its events (onchain.md 3.2, 4.2).

Rules:

1. The lists are mappings on chain and cannot be read out; they are what the added and removed events, in their
   order, leave.
2. `PolicyChanged` tells of each change its actor; a contract that does not emit it has lists, but no changes.
3. An event that is not of its form is `EvidenceError`; an event of another kind is nothing to us.
4. Events are read in ranges of at most `SPAN` blocks, halved while an endpoint finds them too large.
5. A history goes on where it ended, if the chain still has its last block; else `CollateralError`
   "chain.reorganised", and one begins anew. At most `CHANGES_LIMIT` changes are kept, the newest.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from teehouse.base.findings import CollateralError, malformed
from teehouse.base.hashes import keccak256
from teehouse.chain.calls import decode_address, decode_bool, topic
from teehouse.chain.reader import ADDRESS_SIZE, WORD_SIZE, Block, Log, Reader

SPAN: Final = 10_000  # blocks of one request
CHANGES_LIMIT: Final = 10_000

POLICIES: Final = (
    "device",
    "compose-hash",
    "allow-any-device",
    "require-tcb-up-to-date",
    "upgrades-disabled",
    "implementation-upgrade",
    "kms-info",
    "gateway-app-id",
    "registered-app",
    "app-implementation",
    "kms-aggregated-mr",
    "kms-device",
    "os-image",
)
_POLICIES = {keccak256(name.encode()): name for name in POLICIES}

_COMPOSE_ADDED = topic("ComposeHashAdded(bytes32)")
_COMPOSE_REMOVED = topic("ComposeHashRemoved(bytes32)")
_DEVICE_ADDED = topic("DeviceAdded(bytes32)")
_DEVICE_REMOVED = topic("DeviceRemoved(bytes32)")
_UPGRADES_DISABLED = topic("UpgradesDisabled()")
_ANY_DEVICE = topic("AllowAnyDeviceSet(bool)")
_REQUIRE_TCB = topic("RequireTcbUpToDateSet(bool)")
_POLICY_CHANGED = topic("PolicyChanged(address,bytes32,bytes32,bool)")
_OWNER = topic("OwnershipTransferred(address,address)")
_OWNER_STARTED = topic("OwnershipTransferStarted(address,address)")
_UPGRADED = topic("Upgraded(address)")
_DEPLOYED = topic("AppDeployedViaFactory(address,address)")


@dataclass(frozen=True, slots=True)
class Change:
    """One change: who (20 bytes) set which policy for which value (32 bytes), in or out, and where."""

    actor: bytes
    policy: str  # one of POLICIES, or 0x and 64 hex digits
    value: bytes
    enabled: bool
    block_number: int
    transaction_hash: bytes


@dataclass(frozen=True, slots=True)
class History:
    """What the events up to `block` leave. Owners and implementation have 20 bytes, None until they are told."""

    contract: bytes
    block: Block | None = None  # the last that was read, None before the first
    compose_hashes: frozenset[bytes] = frozenset()
    device_ids: frozenset[bytes] = frozenset()
    allow_any_device: bool = False
    require_tcb_up_to_date: bool = False
    upgrades_disabled: bool = False
    owner: bytes | None = None
    pending_owner: bytes | None = None
    implementation: bytes | None = None
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Deployment:
    """An app (20 bytes) that a KMS's factory made, for whom (20 bytes), and where."""

    app: bytes
    deployer: bytes
    block_number: int
    transaction_hash: bytes


def extended(history: History, logs: Iterable[Log]) -> History:
    """The history after these events, which are in their order (rules 1 to 3). Raises `EvidenceError`."""
    for log in logs:
        apply = _APPLY.get(log.topics[0]) if log.topics else None
        if apply is not None:
            history = apply(history, log)
    return history


async def follow(
    reader: Reader, history: History, to: Block, *, from_block: int = 0, span: int = SPAN
) -> AsyncIterator[History]:
    """The history after each range of blocks up to `to`, beginning after its last, or at `from_block` (rules 4, 5).

    Raises `CollateralError`, `EvidenceError`.
    """
    start = from_block
    if history.block is not None:
        await reader.call_many((), history.block)  # looks at the block again (rule 5)
        start = history.block.number + 1
    async for logs in _ranges(reader, history.contract, None, start, to.number, span=span):
        history = extended(history, logs)
        yield history
    # Only whole ranges up to a known block can be gone on from.
    yield replace(history, block=to)


async def complete(reader: Reader, history: History, to: Block, *, from_block: int = 0) -> History:
    """The history up to `to`. Raises `CollateralError`, `EvidenceError`."""
    async for later in follow(reader, history, to, from_block=from_block):
        history = later
    return history


async def deployments(
    reader: Reader, kms: bytes, to: Block, *, from_block: int = 0, span: int = SPAN
) -> tuple[Deployment, ...]:
    """The apps that a KMS's factory made up to `to`, in their order. Raises `CollateralError`, `EvidenceError`."""
    found = []
    async for logs in _ranges(reader, kms, _DEPLOYED, from_block, to.number, span=span):
        found += [
            Deployment(_account(log, 1), _account(log, 2), log.block_number, log.transaction_hash)
            for log in logs
            if log.topics[:1] == (_DEPLOYED,)
        ]
    return tuple(found)


async def _ranges(
    reader: Reader, contract: bytes, kind: bytes | None, start: int, end: int, *, span: int
) -> AsyncIterator[tuple[Log, ...]]:
    """Rule 4."""
    while start <= end:
        stop = min(end, start + span - 1)
        try:
            logs = await reader.logs(contract, () if kind is None else (kind,), start, stop)
        except CollateralError as error:
            if error.finding.code not in {"chain.too-long", "chain.fault"} or stop == start:
                raise
            span = (stop - start + 1) // 2
            continue
        yield logs
        start = stop + 1


def _compose(history: History, log: Log) -> History:
    listed, value = history.compose_hashes, _word(log)
    added = log.topics[0] == _COMPOSE_ADDED
    return replace(history, compose_hashes=listed | {value} if added else listed - {value})


def _device(history: History, log: Log) -> History:
    listed, value = history.device_ids, _word(log)
    added = log.topics[0] == _DEVICE_ADDED
    return replace(history, device_ids=listed | {value} if added else listed - {value})


def _changed(history: History, log: Log) -> History:
    policy = _topic(log, 2)
    change = Change(
        _account(log, 1),
        _POLICIES.get(policy, f"0x{policy.hex()}"),
        _topic(log, 3),
        decode_bool(log.data),
        log.block_number,
        log.transaction_hash,
    )
    return replace(history, changes=(*history.changes[1 - CHANGES_LIMIT :], change))


def _owned(history: History, log: Log) -> History:
    owner = _account(log, 2)
    return replace(history, owner=owner, pending_owner=None)


def _proposed(history: History, log: Log) -> History:
    proposed = _account(log, 2)
    return replace(history, pending_owner=proposed if any(proposed) else None)


_APPLY: dict[bytes, Callable[[History, Log], History]] = {
    _COMPOSE_ADDED: _compose,
    _COMPOSE_REMOVED: _compose,
    _DEVICE_ADDED: _device,
    _DEVICE_REMOVED: _device,
    _UPGRADES_DISABLED: lambda history, _: replace(history, upgrades_disabled=True),
    _ANY_DEVICE: lambda history, log: replace(history, allow_any_device=decode_bool(log.data)),
    _REQUIRE_TCB: lambda history, log: replace(history, require_tcb_up_to_date=decode_bool(log.data)),
    _POLICY_CHANGED: _changed,
    _OWNER: _owned,
    _OWNER_STARTED: _proposed,
    _UPGRADED: lambda history, log: replace(history, implementation=_account(log, 1)),
}


def _word(log: Log) -> bytes:
    if len(log.data) != WORD_SIZE:
        raise malformed("chain.event", "the data of an event", expected="32 bytes", found=str(len(log.data)))
    return log.data


def _topic(log: Log, index: int) -> bytes:
    if index >= len(log.topics):
        raise malformed("chain.event", "the topics of an event", expected=f"more than {index}")
    return log.topics[index]


def _account(log: Log, index: int) -> bytes:
    """The address in a topic."""
    return decode_address(_topic(log, index))[-ADDRESS_SIZE:]
