"""The read model of CVMs, read in a constant number of statements.

Rules:

1. A list of CVMs costs one statement for its rows, one for all that they refer to (node, device ids, KMS, image,
   user, workspace, instance type), one for apps and one for compose files that are not known yet, however many
   there are.
2. Only columns that some presenter shows are read; bytes of compose files only for those not seen before. A
   compose file never changes under its hash, so what was read of it is kept.
3. Rows are bound to a workspace by the condition that the caller gives; nothing here adds or drops one.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Select, and_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from teehouse.cloud.accounts.models import User, Workspace
from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.models import Cvm, Operation
from teehouse.cloud.cvms.records import (
    AppRecord,
    ComposeRecord,
    CvmRecord,
    CvmRow,
    DeviceRecord,
    ImageRecord,
    KmsRecord,
    NodeRecord,
    OperationRecord,
    UserRecord,
    WorkspaceRecord,
)
from teehouse.cloud.db.base import Base
from teehouse.cloud.db.together import Source, Together
from teehouse.cloud.inventory.models import InstanceType, KmsContract, KmsNode, OsImage
from teehouse.cloud.nodes.models import Node, NodeDevice
from teehouse.cloud.revisions.models import ComposeFile

COMPOSES_KEPT: Final = 4096
R = TypeVar("R")


def columns_of(record: type[Any], model: type[Base]) -> list[InstrumentedAttribute[Any]]:
    """The columns of `model` that `record` has as fields, in its order."""
    names = [field.name for field in fields(record)] if is_dataclass(record) else record._fields
    return [getattr(model, name) for name in names]


_CVM = columns_of(CvmRow, Cvm)
_OPERATION = columns_of(OperationRecord, Operation)
_KMS = (
    *(getattr(KmsNode, f.name) for f in fields(KmsRecord)[:7]),
    KmsContract.chain_id,
    KmsContract.contract_address,
    KmsContract.k256_pubkey,
    KmsContract.rpc_url,
    KmsContract.multicall_address,
)


_REFERRED: Final = Together(
    [
        Source("nodes", tuple(columns_of(NodeRecord, Node)), Node.id),
        Source("devices", (NodeDevice.id, *columns_of(DeviceRecord, NodeDevice)), NodeDevice.node_id),
        Source("kms", _KMS, KmsNode.id, " JOIN kms_contracts ON kms_contracts.id = kms_nodes.contract_id"),
        Source("images", tuple(columns_of(ImageRecord, OsImage)), OsImage.id),
        Source("users", tuple(columns_of(UserRecord, User)), User.id),
        Source("workspaces", tuple(columns_of(WorkspaceRecord, Workspace)), Workspace.id),
        Source("rates", (InstanceType.id, InstanceType.hourly_rate), InstanceType.id),
    ]
)


async def load_cvms(
    session: AsyncSession,
    wanted: ColumnElement[bool],
    *,
    apps: dict[int, AppRecord] | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> list[CvmRecord]:
    """The CVMs that `wanted` says, newest first (rules 1, 3).

    `apps` are those already read, by number.
    """
    operation = and_(Operation.cvm_id == Cvm.id, Operation.finished_at.is_(None))
    statement = (
        select(*_CVM, *_OPERATION).outerjoin(Operation, operation).where(wanted).order_by(Cvm.id.desc())
    )
    if limit is not None:
        statement = statement.limit(limit).offset(offset)
    found: list[tuple[CvmRow, OperationRecord | None]] = []
    # By the connection, which knows nothing of objects: these are rows of columns.
    connection = await session.connection()
    for values in (await connection.execute(statement)).all():
        row, rest = CvmRow._make(values[: len(_CVM)]), values[len(_CVM) :]
        found.append((row, None if rest[0] is None else OperationRecord(*rest)))
    rows = [row for row, _ in found]
    if not rows:
        return []
    if apps is None:
        apps = await _by_id(session, AppRecord, App, {row.app_record_id for row in rows})
    composes = await load_composes(session, {row.compose_hash for row in rows})
    nodes = {row.node_id for row in rows if row.node_id is not None}
    referred = await _REFERRED.fetch(
        session,
        {
            "nodes": nodes,
            "devices": nodes,
            "kms": {row.kms_id for row in rows},
            "images": {row.os_image_id for row in rows},
            "users": {row.creator_id for row in rows},
            "workspaces": {row.workspace_id for row in rows},
            "rates": {row.instance_type for row in rows if row.instance_type is not None},
        },
    )
    return _assemble(found, apps, composes, referred)


def _assemble(
    found: Sequence[tuple[CvmRow, OperationRecord | None]],
    apps: Mapping[int, AppRecord],
    composes: Mapping[str, ComposeRecord],
    referred: Mapping[str, Sequence[tuple[Any, ...]]],
) -> list[CvmRecord]:
    nodes = {values[0]: NodeRecord(*values) for values in referred["nodes"]}
    kms = {values[0]: KmsRecord(*values) for values in referred["kms"]}
    images = {values[0]: ImageRecord(*values) for values in referred["images"]}
    users = {values[0]: UserRecord(*values) for values in referred["users"]}
    workspaces = {values[0]: WorkspaceRecord(*values) for values in referred["workspaces"]}
    rates: dict[str, Decimal] = dict(referred["rates"])
    devices: dict[int, tuple[DeviceRecord, ...]] = {}
    for _, *values in sorted(referred["devices"], key=lambda one: one[0]):
        device = DeviceRecord(*values)
        devices[device.node_id] = (*devices.get(device.node_id, ()), device)
    return [
        CvmRecord(
            row=row,
            app=apps[row.app_record_id],
            node=None if row.node_id is None else nodes[row.node_id],
            devices=() if row.node_id is None else devices.get(row.node_id, ()),
            kms=kms[row.kms_id],
            image=images[row.os_image_id],
            compose=composes[row.compose_hash],
            workspace=workspaces[row.workspace_id],
            creator=users[row.creator_id],
            operation=running,
            rate=None if row.instance_type is None else rates.get(row.instance_type),
        )
        for row, running in found
    ]


async def load_kms(session: AsyncSession, wanted: Iterable[int]) -> dict[int, KmsRecord]:
    """The KMSs with these numbers."""
    statement = (
        select(*_KMS).join(KmsContract, KmsContract.id == KmsNode.contract_id).where(KmsNode.id.in_(wanted))
    )
    return {values[0]: KmsRecord(*values) for values in (await session.execute(statement)).all()}


async def load_users(session: AsyncSession, wanted: Iterable[int]) -> dict[int, UserRecord]:
    """The users with these numbers."""
    return await _by_id(session, UserRecord, User, wanted)


async def load_workspace(session: AsyncSession, workspace_id: int) -> WorkspaceRecord:
    """The workspace with this number, which exists."""
    return (await _by_id(session, WorkspaceRecord, Workspace, [workspace_id]))[workspace_id]


async def records(session: AsyncSession, record: type[R], statement: Select[Any]) -> list[R]:
    """The rows of a statement over `columns_of(record, ...)`."""
    return [record(*values) for values in (await session.execute(statement)).all()]


async def _by_id(session: AsyncSession, record: type[R], model: Any, wanted: Iterable[int]) -> dict[int, R]:
    ids = list(wanted)
    if not ids:
        return {}
    statement = select(*columns_of(record, model)).where(model.id.in_(ids))
    return {values[0]: record(*values) for values in (await session.execute(statement)).all()}


_composes: OrderedDict[str, ComposeRecord] = OrderedDict()


async def load_composes(session: AsyncSession, wanted: set[str]) -> dict[str, ComposeRecord]:
    """What is shown of these compose files (rule 2)."""
    known = {compose_hash: _composes[compose_hash] for compose_hash in wanted if compose_hash in _composes}
    missing = wanted - known.keys()
    if missing:
        statement = select(
            ComposeFile.compose_hash,
            ComposeFile.body,
            ComposeFile.services,
            ComposeFile.docker_compose_hash,
            ComposeFile.pre_launch_script_hash,
        ).where(ComposeFile.compose_hash.in_(missing))
        for values in (await session.execute(statement)).all():
            record = known[values[0]] = _compose(*values)
            _composes[record.compose_hash] = record
            while len(_composes) > COMPOSES_KEPT:
                _composes.popitem(last=False)
    return known


async def load_compose_text(session: AsyncSession, compose_hash: str) -> str:
    """The compose file with this hash, which exists, as it was stored."""
    statement = select(ComposeFile.body).where(ComposeFile.compose_hash == compose_hash)
    return (await session.scalars(statement)).one().decode()


async def load_compose_texts(session: AsyncSession, wanted: Iterable[str]) -> dict[str, str]:
    """Those with these hashes, as they were stored, by hash."""
    statement = select(ComposeFile.compose_hash, ComposeFile.body).where(ComposeFile.compose_hash.in_(wanted))
    return {compose_hash: body.decode() for compose_hash, body in await session.execute(statement)}


def parse_compose(body: bytes | str) -> dict[str, Any]:
    """The members of an app-compose file; none of one that is no JSON object, which nothing here stores."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _compose(
    compose_hash: str,
    body: bytes,
    services: Sequence[dict[str, Any]],
    docker_compose_hash: str | None,
    pre_launch_script_hash: str | None,
) -> ComposeRecord:
    members = parse_compose(body)
    version, runner, features = (members.get(name) for name in ("manifest_version", "runner", "features"))
    ports = {port for service in services for port in service.get("ports", ()) if isinstance(port, int)}
    return ComposeRecord(
        compose_hash=compose_hash,
        services=tuple({"name": s.get("name"), "image": s.get("image")} for s in services),
        ports=tuple(sorted(ports)),
        docker_compose_hash=docker_compose_hash,
        pre_launch_script_hash=pre_launch_script_hash,
        manifest_version=None if version is None else str(version),
        runner=runner if isinstance(runner, str) else None,
        features=tuple(str(name) for name in features) if isinstance(features, list) else (),
    )
