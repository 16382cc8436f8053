"""The control plane of an emulated installation: one process, its own database, KMS and node.

Rules:

1. Its database is a SQLite file in the folder, or the one that `TEEHOUSE_DATABASE_URL` names. It serves loopback
   alone, on the port of the last time where that is free.
2. The first user, workspace and key are made once. The key is in `api_key` of the folder, readable by its owner
   alone, and written there before the database knows it: a crash between the two loses nothing.
3. What the control plane starts under the KMS off chain, that KMS may give keys to (`auth_list`).
4. The log is in `cloud.log` of the folder; secrets are not in it.
5. With a KMS on chain there are two: clients choose, and whoever says nothing gets the one off chain. Towards clients
   a chain has the name of Base unless it is Ethereum: they know no other two.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import SecretBytes
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse import __version__
from teehouse.base.files import write_atomic
from teehouse.base.findings import misuse
from teehouse.cloud.accounts.bootstrap import First, bootstrap
from teehouse.cloud.accounts.keys import PREFIX, new_token
from teehouse.cloud.db.engine import Database
from teehouse.cloud.http.logs import configure_logs
from teehouse.cloud.inventory.models import KmsNode, KmsType
from teehouse.cloud.inventory.seeding import register_kms, register_node, seed_instance_types
from teehouse.cloud.nodes.directory import KnownNodes
from teehouse.cloud.settings import CloudSettings
from teehouse.keys.derive import hkdf
from teehouse.kms.client.connection import KmsConnection
from teehouse.kms.client.public import KmsMeta, get_meta
from teehouse.node.api import Node
from teehouse.stack.addresses import http_url, kept_port
from teehouse.stack.agent_emulated import EMULATED_HEADER
from teehouse.stack.auth_list import FileAuthorisations, allow
from teehouse.stack.cloud_serving import CloudPlan, opened_database, serving_cloud, sqlite_database
from teehouse.stack.installation import Installation
from teehouse.stack.kms_emulated import ServedKms
from teehouse.stack.log_file import LogFile
from teehouse.stack.onchain_emulated import Onchain

KEY_FILE = "api_key"
PORT_FILE = "api-port"
DATABASE = "cloud.sqlite"
DATABASE_VARIABLE = "TEEHOUSE_DATABASE_URL"
LOG = "cloud.log"
KMS_SLUG = "phala"  # what clients call the off-chain KMS (cloud-api.md 10.2)
ONCHAIN_SLUG = "onchain"
ETHEREUM = 1  # its chain id
REGION = "local"
_SECRET_DOMAIN = b"teehouse-control-plane-v1"


@dataclass(frozen=True, slots=True)
class ServedCloud:
    """A control plane that serves: `url` is its host, `api_url` where the API begins, `workspace` the first's slug."""

    url: str
    workspace: str
    key_file: Path
    api_key: str = field(repr=False)

    @property
    def api_url(self) -> str:
        return f"{self.url}/api/v1"


@asynccontextmanager
async def serve_cloud(
    installation: Installation, kms: ServedKms, node: Node, onchain: Onchain | None = None
) -> AsyncIterator[ServedCloud]:
    """Serve for as long as the context lasts; `node` is open, `kms` is the KMS off chain.

    Raises `TeehouseError`; `MisuseError` when the folder or the database cannot be used.
    """
    try:
        given = os.environ.get(DATABASE_VARIABLE)
        database_url = given or sqlite_database(installation.state / "cloud" / DATABASE)
        log = LogFile(installation.directory / LOG)
        listening = kept_port(installation.state / PORT_FILE)
    except OSError as error:
        raise misuse(
            "cloud.folder",
            f"the control plane in {installation.directory}",
            found=error.strerror or str(error),
        ) from error
    settings = CloudSettings(
        database_url=database_url,
        secret_key=SecretBytes(hkdf(installation.pki.seed, _SECRET_DOMAIN)),
        public_url=http_url(listening),
        state_directory=installation.state / "cloud",
    )
    configure_logs(lines=log)
    try:
        async with opened_database(settings) as database:
            first, number = await _inventory(installation, database, kms, node, onchain)
            plan = CloudPlan(
                settings,
                installation.clock,
                KnownNodes({number: node}),
                FileAuthorisations(kms.auth_file),
                headers=(EMULATED_HEADER,),
                chains={} if onchain is None else {onchain.chain_id: await onchain.reader()},
            )
            async with serving_cloud(plan, database, listening):
                key_file = installation.directory.resolve() / KEY_FILE
                yield ServedCloud(settings.public_url, first.workspace_slug, key_file, first.api_key)
    finally:
        listening.close()
        configure_logs(logging.CRITICAL)
        log.close()


async def _inventory(
    installation: Installation, database: Database, kms: ServedKms, node: Node, onchain: Onchain | None
) -> tuple[First, int]:
    """What the installation begins with; the record number of its node."""
    meta = await _meta(kms)
    onchain_meta = None if onchain is None else await _meta(onchain.kms)
    info = await node.info()
    for image in info.images:
        await asyncio.to_thread(allow, kms.auth_file, os_image=image.os_image_hash)
    now = installation.clock.now()
    key_file = installation.directory / KEY_FILE
    key = _key(key_file)
    async with database.write() as session:
        first = await bootstrap(session, now, api_key=key)
        await seed_instance_types(session)
        record = await register_kms(
            session, meta, url=kms.url, slug=KMS_SLUG, version=f"v{__version__}", now=now
        )
        host = await register_node(session, info, region=REGION, kms=record, now=now)
        if onchain is not None and onchain_meta is not None:
            record = await _register_onchain(session, onchain, onchain_meta, now)
            await register_node(session, info, region=REGION, kms=record, now=now)
        number = host.id
    if first.api_key != key:  # the former was revoked
        write_atomic(key_file, f"{first.api_key}\n".encode())
    return first, number


async def _meta(kms: ServedKms) -> KmsMeta:
    async with KmsConnection(kms.url, root=kms.root_pem) as connection:
        return await get_meta(connection)


async def _register_onchain(session: AsyncSession, onchain: Onchain, meta: KmsMeta, now: datetime) -> KmsNode:
    """Rule 5."""
    return await register_kms(
        session,
        meta,
        url=onchain.kms.url,
        slug=ONCHAIN_SLUG,
        version=f"v{__version__}",
        now=now,
        kms_type=KmsType.ETHEREUM if onchain.chain_id == ETHEREUM else KmsType.BASE,
        rpc_url=onchain.client_url,
        multicall_address=f"0x{onchain.record.multicall.hex()}",
    )


def _key(path: Path) -> str:
    """The key of the file, or a new one that is written there (rule 2)."""
    try:
        known = path.read_text("ascii").strip()
    except (OSError, ValueError):
        known = ""
    if known:
        path.chmod(0o600)
        return known
    key = new_token(PREFIX)
    write_atomic(path, f"{key}\n".encode())
    return key
