"""What an operator sets up once: `teehouse cloud init`, `add-kms`, `add-node`.

Rules:

1. All of it may be done again: what is there is brought up to date, nothing is doubled (`inventory.seeding`, rule 1).
2. A KMS is asked about itself over TLS under the root CA that the operator names: the root key that is written down
   then is what every later answer of it is checked against, by all replicas, whoever answers.
3. A node is asked about itself over mutual TLS before anything is written. Its bundle is put into the folder first:
   a replica that reads the row finds it there.
4. The API key is in its file before the database knows it: a crash between the two loses nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse import __version__
from teehouse.base.clock import Clock
from teehouse.base.files import write_atomic
from teehouse.base.findings import misuse
from teehouse.cloud import installation
from teehouse.cloud.accounts.bootstrap import First, bootstrap
from teehouse.cloud.db import migrate
from teehouse.cloud.inventory.models import KmsNode, KmsType
from teehouse.cloud.inventory.seeding import SLOTS, register_kms, register_node, seed_instance_types
from teehouse.kms.client.connection import KmsConnection
from teehouse.kms.client.public import get_meta
from teehouse.node.api import NodeInfo
from teehouse.node.bundle import NodeBundle, load_bundle
from teehouse.node.remote import RemoteNode
from teehouse.stack.auth_list import allow
from teehouse.stack.cloud_place import Place, reached

ROOT_LIMIT: Final = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class KmsOptions:
    """A KMS: `root_ca` is a PEM file, `rpc_url` an endpoint of its chain that clients are told, without a key in it."""

    url: str
    slug: str
    root_ca: Path
    kms_type: KmsType | None = None
    rpc_url: str | None = None


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """A node by its controller's bundle; `kms` are slugs, the first is the default. `slots` are CVMs it takes."""

    bundle: Path
    region: str
    kms: tuple[str, ...]
    slots: int = SLOTS
    gateway_domain: str | None = None
    auth_file: Path | None = None


async def init(place: Place, clock: Clock, *, username: str, email: str, workspace: str) -> First:
    """Make, or bring up to date, folder and database; the first user, workspace and key. Raises `TeehouseError`."""
    folder = place.folder
    folder.make()
    folder.made_secret_key()
    settings = place.settings()
    async with reached(settings) as database:
        await migrate.upgrade(database)
        key = folder.made_api_key()
        async with database.write() as session:
            await installation.agree(session, settings)
            await seed_instance_types(session)
            first = await bootstrap(
                session, clock.now(), username=username, email=email, slug=workspace, api_key=key
            )
    if first.api_key != key:  # the former was revoked
        folder.keep_api_key(first.api_key)
    return first


async def add_kms(place: Place, clock: Clock, options: KmsOptions) -> KmsNode:
    """Register a KMS (rule 2). Raises `TeehouseError`."""
    root = _root(options.root_ca)
    settings = place.settings()
    async with reached(settings) as database:
        await migrate.check(database)
        async with KmsConnection(options.url, root=root) as connection:
            meta = await get_meta(connection)
        async with database.write() as session:
            await installation.check(session, settings)
            return await register_kms(
                session,
                meta,
                url=options.url,
                slug=options.slug,
                version=f"v{__version__}",
                now=clock.now(),
                kms_type=options.kms_type,
                rpc_url=options.rpc_url,
            )


async def add_node(place: Place, clock: Clock, options: NodeOptions) -> NodeInfo:
    """Register a node (rule 3); its OS images may get keys of an off-chain KMS. Raises `TeehouseError`."""
    bundle = load_bundle(options.bundle)
    settings = place.settings()
    async with reached(settings) as database:
        await migrate.check(database)
        async with database.read() as session:
            await installation.check(session, settings)
            known = {slug: await _kms(session, slug) for slug in options.kms}
        info = await _asked(bundle, clock)
        name = f"{bundle.node}.json"
        _keep(place.folder.bundle(name), bundle)
        for image in info.images:
            if options.auth_file is not None:
                allow(options.auth_file, os_image=image.os_image_hash)
        async with database.write() as session:
            for kms in known.values():
                await register_node(
                    session,
                    info,
                    region=options.region,
                    kms=kms,
                    now=clock.now(),
                    slots=options.slots,
                    gateway_domain=options.gateway_domain,
                    url=f"https://{bundle.address}",
                    bundle=name,
                )
    return info


async def _asked(bundle: NodeBundle, clock: Clock) -> NodeInfo:
    async with RemoteNode.of_bundle(bundle, clock) as node:
        info = await node.info()
    if info.name != bundle.node:
        raise misuse(
            "cloud.node-name", "the name that the node calls itself", expected=bundle.node, found=info.name
        )
    return info


async def _kms(session: AsyncSession, slug: str) -> KmsNode:
    row = await session.scalar(select(KmsNode).where(KmsNode.slug == slug))
    if row is None:
        known = sorted(await session.scalars(select(KmsNode.slug)))
        raise misuse(
            "cloud.kms-unknown",
            f"the KMS {slug[:80]}",
            expected=f"one of {', '.join(known)}" if known else "one that is registered",
            found="none of that name",
            remedy="register it with `teehouse cloud add-kms`",
        )
    return row


def _keep(path: Path, bundle: NodeBundle) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, bundle.to_json())
    except OSError as error:
        raise misuse("cloud.node-bundle", f"{path} cannot be written", found=error.strerror or "") from error


def _root(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(ROOT_LIMIT).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "no PEM"
        raise misuse("cloud.root-ca", f"the root CA {path}", found=found or "unreadable") from None
