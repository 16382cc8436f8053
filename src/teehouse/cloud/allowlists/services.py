"""Whether a contract lets a compose file run on a device (cloud-api.md 11.8 to 11.10).

Rules:

1. An app whose KMS is off chain has no contract: the list says so and is empty, questions about it are refused.
2. `is_allowed` is: the compose hash is allowed, and any device is, or this one.
3. A contract that cannot be asked allows nothing; the answer says why, with HTTP 200. The rest of the answers
   for the same app are not spoiled by it.
4. The CVMs of an app are asked about in one call to the `ContractReader`. One without node, device id or
   compose hash is skipped.
5. What is asked about is the app's contract, and no app needs to exist where the question says the chain.
6. The devices listed are those that the app's CVMs run on, allowed or not, and besides those of other nodes for the
   app's KMS that the contract allows: clients offer the rest for adding, and those here for removing.
7. While a chain is asked, no connection to the database is held: a chain that is slow is no reason to keep others
   from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.base.findings import TeehouseError
from teehouse.cloud.apps.services import find_app
from teehouse.cloud.cvms.loading import load_cvms, load_kms
from teehouse.cloud.cvms.lookup import find_cvm, live_cvms
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.cvms.records import AppRecord, CvmRecord, KmsRecord
from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.cloud.ids import parse_app_id, parse_hex
from teehouse.cloud.nodes.models import Node, NodeDevice, NodeKms

NO_CHAIN: Final = "This control plane has no way to the chain"
DIGEST_SIZE: Final = 32  # bytes


@dataclass(frozen=True, slots=True)
class Question:
    """A compose hash and a device id, 64 hex digits each; no device id is the empty text."""

    compose_hash: str
    device_id: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a contract said. `device_allowed` is None where no device was asked about."""

    compose_hash_allowed: bool
    allow_any_device: bool
    device_allowed: bool | None
    error: str | None = None

    @property
    def allowed(self) -> bool:
        """Rule 2."""
        return self.compose_hash_allowed and (self.allow_any_device or self.device_allowed is True)


@dataclass(frozen=True, slots=True)
class ContractState:
    """What a contract says of devices; `devices` are those asked about, by device id."""

    allow_any_device: bool
    devices: Mapping[str, bool]


class ContractReader(Protocol):
    """Reads app contracts. Every call is of one moment of the chain; addresses are `0x` and 40 hex digits."""

    async def ask(self, chain_id: int, address: str, questions: Sequence[Question]) -> list[Verdict]:
        """One verdict for each question. Raises `TeehouseError` when the chain cannot be asked."""
        ...

    async def devices(self, chain_id: int, address: str, device_ids: Sequence[str]) -> ContractState:
        """Which of the devices are allowed. Raises `TeehouseError` when the chain cannot be asked."""
        ...


@dataclass(frozen=True, slots=True)
class KmsContractState:
    """What a KMS's contract says of device ids and OS image hashes (64 hex digits), where it said anything."""

    devices: Mapping[str, bool] = field(default_factory=dict)
    images: Mapping[str, bool] = field(default_factory=dict)


class KmsContractReader(Protocol):
    """Reads the contracts of KMSs, as `ContractReader` those of apps."""

    async def kms(
        self, chain_id: int, address: str, device_ids: Sequence[str], images: Sequence[str]
    ) -> KmsContractState:
        """Which devices may run the KMS, and which OS images its apps may boot.

        Raises `TeehouseError` when the chain cannot be asked.
        """
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict with what it is about. `cvm` is the CVM's number."""

    cvm: int | None
    address: str
    question: Question
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class AllowedDevice:
    """A device that an app's CVMs run on; `allowed` is None when the contract could not be asked."""

    device_id: str
    node_name: str | None
    cvms: tuple[int, ...]
    allowed: bool | None


@dataclass(frozen=True, slots=True)
class Allowlist:
    """The devices of an app on chain, and what the contract says of them."""

    chain_id: int
    address: str
    allow_any_device: bool | None
    devices: tuple[AllowedDevice, ...]


@dataclass(frozen=True, slots=True)
class Contract:
    """Where an app's contract is."""

    chain_id: int
    address: str


async def device_allowlist(
    session: AsyncSession, workspace_id: int, text: str, reader: ContractReader | None
) -> Allowlist | None:
    """The devices of an app; None for one off chain (rule 1). Raises `CloudError` 404."""
    app = await find_app(session, workspace_id, text)
    contract = contract_of(app, await _kms(session, app))
    if contract is None:
        return None
    found: dict[str, tuple[str | None, tuple[int, ...]]] = {}
    for cvm in reversed(await _cvms(session, app)):
        if cvm.node is not None and cvm.node.device_id:
            _, cvms = found.get(cvm.node.device_id, (None, ()))
            found[cvm.node.device_id] = (cvm.node.name, (*cvms, cvm.row.id))
    others = {d: name for d, name in await _node_devices(session, app) if d not in found}
    await session.close()  # rule 7
    state = await _devices(reader, contract, [*found, *others])
    said = {} if state is None else state.devices
    found |= {d: (name, ()) for d, name in others.items() if said.get(d)}  # rule 6
    devices = tuple(AllowedDevice(d, node, cvms, said.get(d)) for d, (node, cvms) in found.items())
    any_device = None if state is None else state.allow_any_device
    return Allowlist(contract.chain_id, contract.address, any_device, devices)


async def app_is_allowed(
    session: AsyncSession,
    workspace_id: int,
    text: str,
    reader: ContractReader | None,
    *,
    compose_hash: str,
    node_id: int | None,
    device_id: str | None,
    chain_id: int | None,
) -> Answer:
    """Whether the app's contract lets this run. Raises `CloudError` 400, 404 (rules 1, 5)."""
    wanted = Question(
        _digest("compose_hash", compose_hash), await _device(session, workspace_id, node_id, device_id)
    )
    if chain_id is not None:
        app_id = parse_app_id(text)
        if app_id is None:
            raise CloudError(ErrorCode.INVALID_REQUEST, "The app id is no address")
        contract = Contract(chain_id, f"0x{app_id}")
    else:
        app = await find_app(session, workspace_id, text)
        contract = _on_chain(contract_of(app, await _kms(session, app)))
    await session.close()  # rule 7
    (verdict,) = await _ask(reader, contract, [wanted])
    return Answer(None, contract.address, wanted, verdict)


async def cvm_is_allowed(
    session: AsyncSession,
    workspace_id: int,
    text: str,
    reader: ContractReader | None,
    *,
    compose_hash: str | None,
    node_id: int | None,
    device_id: str | None,
) -> Answer:
    """The same for a CVM, as it is or as it would be. Raises `CloudError` 400, 404."""
    number = await find_cvm(session, workspace_id, text)
    (cvm,) = await load_cvms(session, and_(live_cvms(workspace_id), Cvm.id == number))
    contract = _on_chain(contract_of(cvm.app, cvm.kms))
    if node_id is None and device_id is None:
        device = "" if cvm.node is None else cvm.node.device_id or ""
    else:
        device = await _device(session, workspace_id, node_id, device_id)
    digest = cvm.row.compose_hash if compose_hash is None else _digest("compose_hash", compose_hash)
    await session.close()  # rule 7
    (verdict,) = await _ask(reader, contract, [Question(digest, device)])
    return Answer(number, contract.address, Question(digest, device), verdict)


async def cvms_are_allowed(
    session: AsyncSession, workspace_id: int, text: str, reader: ContractReader | None
) -> tuple[list[Answer], list[int]] | None:
    """Answers for an app's CVMs, and those skipped (rule 4); None off chain. Raises `CloudError` 404."""
    app = await find_app(session, workspace_id, text)
    contract = contract_of(app, await _kms(session, app))
    if contract is None:
        return None
    asked: list[tuple[int, Question]] = []
    skipped: list[int] = []
    for cvm in reversed(await _cvms(session, app)):
        device = None if cvm.node is None else cvm.node.device_id
        if device and cvm.row.compose_hash:
            asked.append((cvm.row.id, Question(cvm.row.compose_hash, device)))
        else:
            skipped.append(cvm.row.id)
    await session.close()  # rule 7
    verdicts = await _ask(reader, contract, [question for _, question in asked])
    pairs = zip(asked, verdicts, strict=True)
    return [Answer(cvm, contract.address, question, verdict) for (cvm, question), verdict in pairs], skipped


def contract_of(app: AppRecord, kms: KmsRecord) -> Contract | None:
    """Where the app's contract is; None off chain. The app id is its address (cloud-api.md 14.5)."""
    if not kms.on_chain:
        return None
    return Contract(app.chain_id or kms.chain_id, app.contract_address or f"0x{app.app_id}")


def _on_chain(contract: Contract | None) -> Contract:
    if contract is None:
        raise CloudError(
            ErrorCode.INVALID_REQUEST,
            "The app's KMS is off chain: no contract says what it may run",
            suggestions=["Deploy with an on-chain KMS to have an allow-list"],
        )
    return contract


async def _ask(
    reader: ContractReader | None, contract: Contract, questions: Sequence[Question]
) -> list[Verdict]:
    """Rule 3."""
    if not questions:
        return []
    error = NO_CHAIN
    if reader is not None:
        try:
            return await reader.ask(contract.chain_id, contract.address, questions)
        except TeehouseError as fault:
            error = fault.finding.subject
    return [
        Verdict(compose_hash_allowed=False, allow_any_device=False, device_allowed=None, error=error)
    ] * len(questions)


async def _devices(
    reader: ContractReader | None, contract: Contract, device_ids: Sequence[str]
) -> ContractState | None:
    if reader is None:
        return None
    try:
        return await reader.devices(contract.chain_id, contract.address, device_ids)
    except TeehouseError:
        return None


async def _kms(session: AsyncSession, app: AppRecord) -> KmsRecord:
    return (await load_kms(session, [app.kms_id]))[app.kms_id]


async def _cvms(session: AsyncSession, app: AppRecord) -> list[CvmRecord]:
    wanted = and_(live_cvms(app.workspace_id), Cvm.app_record_id == app.id)
    return await load_cvms(session, wanted, apps={app.id: app})


async def _node_devices(session: AsyncSession, app: AppRecord) -> list[tuple[str, str]]:
    """Device ids, and names, of the nodes that the app's workspace may use with the app's KMS."""
    question = (
        select(NodeDevice.device_id, Node.name)
        .join(Node, Node.id == NodeDevice.node_id)
        .join(NodeKms, NodeKms.node_id == Node.id)
        .where(
            NodeKms.kms_id == app.kms_id,
            NodeDevice.enabled,
            or_(Node.workspace_id.is_(None), Node.workspace_id == app.workspace_id),
        )
        .order_by(Node.name, NodeDevice.device_id)
    )
    return [(device, name) for device, name in (await session.execute(question)).all()]


async def _device(
    session: AsyncSession, workspace_id: int, node_id: int | None, device_id: str | None
) -> str:
    """The device id that a question means: the one given, else the node's, else none."""
    if device_id is not None:
        return _digest("device_id", device_id)
    if node_id is None:
        return ""
    visible = or_(Node.workspace_id.is_(None), Node.workspace_id == workspace_id)
    found = (await session.execute(select(Node.device_id).where(Node.id == node_id, visible))).one_or_none()
    if found is None:
        raise CloudError(ErrorCode.NODE_NOT_FOUND, "Node not found", details=[Detail("node_id", node_id)])
    return found[0] or ""


def _digest(field: str, text: str) -> str:
    digits = parse_hex(text, DIGEST_SIZE)
    if digits is None:
        raise CloudError(
            ErrorCode.INVALID_REQUEST,
            f"{field} is not {DIGEST_SIZE} bytes of hex",
            details=[Detail(field, text)],
        )
    return digits
