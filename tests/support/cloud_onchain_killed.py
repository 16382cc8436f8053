"""Deploy an on-chain app and update it in two phases while the control plane is killed at one point after another.

A program: `python -m support.cloud_onchain_killed FOLDER FIRST STRIDE`. As `support.cloud_life_killed`: for each point
a child does the work and kills itself there; a second one starts anew, does what its client would do who got no
answer, and checks that nothing was doubled, lost or left. Prints at how many points it was killed.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update

from support.cloud_life_killed import KeptNode, Points, with_points
from support.cloud_life_support import YAML, FixedKeys, fill, provision_request
from support.cloud_onchain_support import CHAIN, NEWER, registered
from support.cloud_workflow_support import finished
from teehouse.base.clock import SystemClock
from teehouse.cloud.allowlists.gate import GatedApp, OnchainStatus
from teehouse.cloud.cvms.changing import change_cvm, commit_update
from teehouse.cloud.cvms.committing import commit
from teehouse.cloud.cvms.comparing import Change
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import CommitToken, Cvm, Operation
from teehouse.cloud.cvms.operations import Author
from teehouse.cloud.cvms.provisioning import provision
from teehouse.cloud.db.engine import Database, open_database, sqlite_url
from teehouse.cloud.errors import CloudError, ErrorCode
from teehouse.cloud.nodes.directory import KnownNodes
from teehouse.cloud.nodes.models import NodeKms
from teehouse.cloud.revisions.models import Revision
from teehouse.cloud.workflows.inline import InlineWorkflows
from teehouse.cloud.workflows.steps import Steps
from teehouse.wire.cloud.lifecycle import CommitRequest

APP = "ab" * 20
NAME = "killed-app"


class KeptContract:
    """The app's contract, as its own process keeps it: a file. A point before each answer."""

    def __init__(self, path: Path, points: Points) -> None:
        self.path, self.points = path, points

    def hashes(self) -> list[str]:
        return list(json.loads(self.path.read_text())) if self.path.exists() else []

    def add(self, compose_hash: str) -> None:
        self.path.write_text(json.dumps([*self.hashes(), compose_hash]))

    async def status(self, app: GatedApp, compose_hash: str, device_id: str | None) -> OnchainStatus:
        assert (app.chain_id, app.app_id, bool(device_id)) == (CHAIN, APP, True)
        self.points.reach()
        return OnchainStatus(compose_hash in self.hashes(), True)

    async def check_transaction(self, app: GatedApp, compose_hash: str, transaction_hash: str) -> None:
        self.points.reach()


class Client:
    """What the owner's client remembers: the token that it was told last."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def token(self) -> str | None:
        return self.path.read_text() if self.path.exists() else None

    @token.setter
    def token(self, token: str) -> None:
        self.path.write_text(token)


async def work(folder: Path, fatal: int, author: Author, node_id: int) -> None:
    """Go on with what is there, until all is deployed and updated."""
    points = Points(fatal)
    database = open_database(sqlite_url(folder / "cloud.sqlite"))
    with_points(database, points)
    clock = SystemClock()
    node = KeptNode(folder / "node.pickle", points)
    nodes = KnownNodes({node_id: node})
    workflows = InlineWorkflows(database, Steps(database, nodes, clock, patience=1, limit=10))
    contract = KeptContract(folder / "contract.json", points)
    life = Lifecycle(database, nodes, workflows, FixedKeys(), contract, clock=clock)
    try:
        for number in await _numbers(database, Operation.finished_at.is_(None)):
            await workflows.start(number)
            await finished(database, number)
        await _deploy(life, author, contract)
        await _update(life, author, contract, Client(folder / "token"))
    finally:
        await workflows.close()
    if not fatal:
        await _check(database, node)
    await database.dispose()


async def _deploy(life: Lifecycle, author: Author, contract: KeptContract) -> None:
    async with life.database.read() as session:
        if (await session.execute(select(Cvm.id))).first() is not None:
            return
    found = await provision(life, author, provision_request(NAME, kms="BASE"))
    digest = found.provision.compose_hash
    if digest not in contract.hashes():
        contract.add(digest)
    done = await commit(life, author, CommitRequest(app_id=f"0x{APP}", compose_hash=digest))
    assert done.operation_id is not None
    await finished(life.database, done.operation_id)


async def _update(life: Lifecycle, author: Author, contract: KeptContract, client: Client) -> None:
    """As the command does: prepare, register, commit; and when no answer came, look and go on."""
    while not await _updated(life.database):
        if client.token is None:
            try:
                await change_cvm(
                    life, author, NAME, Change(compose={"docker_compose_file": NEWER}), prepare_only=True
                )
            except CloudError as error:
                if error.code is not ErrorCode.HASH_REGISTRATION_REQUIRED:
                    raise
                told = {detail.field: detail.value for detail in error.details}
                client.token = told["commit_token"]
                if told["compose_hash"] not in contract.hashes():
                    contract.add(told["compose_hash"])
        assert client.token is not None
        applied = await commit_update(life, client.token, "", "already-registered", cvm=NAME)
        assert applied.operation_id is not None
        await finished(life.database, applied.operation_id)


async def _updated(database: Database) -> bool:
    async with database.read() as session:
        cvm = (await session.execute(select(Cvm))).scalar_one()
        first = select(Revision.compose_hash).order_by(Revision.id).limit(1)
        return bool(cvm.compose_hash != (await session.execute(first)).scalar_one())


async def _numbers(database: Database, condition: Any) -> list[int]:
    async with database.read() as session:
        return list((await session.execute(select(Operation.id).where(condition))).scalars())


async def _check(database: Database, node: KeptNode) -> None:
    async with database.read() as session:
        operations = list((await session.execute(select(Operation).order_by(Operation.id))).scalars())
        revisions = list((await session.execute(select(Revision).order_by(Revision.id))).scalars())
        (cvm,) = (await session.execute(select(Cvm))).scalars()
        used = await session.scalar(select(func.count(CommitToken.used_at)))
    assert [(one.operation_type, one.outcome) for one in operations] == [
        ("create", "succeeded"),
        ("update_compose", "succeeded"),
    ]
    assert [one.operation_type for one in revisions] == ["create", "update_compose"]
    assert (cvm.status, used) == ("running", 1)
    spec = node.specs[cvm.vm_uuid]
    assert spec.app_id == bytes.fromhex(APP)
    assert b"nginx:1.28" in spec.compose
    assert YAML != NEWER
    assert node.states[cvm.vm_uuid].boot_count == 2


async def filled(folder: Path) -> tuple[Author, int]:
    """The database with a KMS on chain, which the node's CVMs may use."""
    database = open_database(sqlite_url(folder / "cloud.sqlite"))
    node_id, author, _ = await fill(database)
    async with database.write() as session:
        kms = await registered(session)
        await session.execute(update(NodeKms).where(NodeKms.node_id == node_id).values(kms_id=kms.id))
    await database.dispose()
    return author, node_id


def _child(folder: Path, fatal: int, author: Author, node_id: int) -> int:
    """Do the work in a process of its own; its exit status, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(work(folder, fatal, author, node_id))
            status = 0
        except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path, first: int, stride: int) -> int:
    """How many points the work was killed at. Each has an empty database and a new node."""
    point, killed = first, 0
    author, node_id = asyncio.run(filled(folder))
    while True:
        place = folder / str(point)
        place.mkdir()
        shutil.copyfile(folder / "cloud.sqlite", place / "cloud.sqlite")
        ended = _child(place, point, author, node_id)
        if ended == 0:
            return killed
        if ended != -signal.SIGKILL:
            sys.exit(f"point {point}: the child ended with {ended}")
        killed += 1
        if _child(place, 0, author, node_id) != 0:
            sys.exit(f"point {point}: what was left could not be finished")
        point += stride


if __name__ == "__main__":
    where, start, step = sys.argv[1:]
    print(main(Path(where), int(start), int(step)))  # noqa: T201 - what the program is asked for
