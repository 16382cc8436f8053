"""A whole control plane to be asked by its clients: KMS on loopback, node in memory, the application in process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from sqlalchemy import select

from support.cloud_core_support import Cloud, cloud
from support.kms_client_support import KEYS, FakeKms, replies, say
from support.kms_client_support import NOW as KMS_NOW
from support.node_memory import MemoryNode
from teehouse.base.clock import FixedClock
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.inventory.env_keys import AskedKmsKeys, EnvironmentKeysByKms
from teehouse.cloud.inventory.models import KmsContract
from teehouse.cloud.inventory.seeding import register_kms, register_node, seed_instance_types
from teehouse.cloud.nodes.directory import KnownNodes
from teehouse.cloud.workflows.inline import InlineWorkflows
from teehouse.cloud.workflows.steps import Steps
from teehouse.keys.derive import dh_secret, p256_scalar
from teehouse.keys.pem import certificate_pem
from teehouse.kms import answers
from teehouse.kms.client.connection import KmsConnection
from teehouse.kms.client.public import get_meta
from teehouse.wire import kms_pb2

URL = "http://cloud.test/api/v1"


def environment_secret(app_id: str) -> bytes:
    """What the KMS of these tests opens an app's environment with."""
    return dh_secret(p256_scalar(KEYS.root.ca.key), bytes.fromhex(app_id), b"env-encrypt-key")


def _environment_key(body: bytes, certificate: bytes | None) -> tuple[int, bytes] | None:
    app_id = kms_pb2.AppId.FromString(body).app_id
    return say(answers.env_public_key_response(KEYS, app_id, KMS_NOW))(body, certificate)


class FromAnotherThread(httpx.BaseTransport):
    """A synchronous way to an application that lives in a loop of another thread."""

    def __init__(self, app: httpx.ASGITransport, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def ask() -> httpx.Response:
            answer = await self._app.handle_async_request(request)
            return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(20)


@dataclass
class Served:
    """The control plane, and two ways to it."""

    cloud: Cloud
    node: MemoryNode
    workflows: InlineWorkflows

    @property
    def transport(self) -> httpx.ASGITransport:
        return httpx.ASGITransport(self.cloud.app)

    @property
    def sync_transport(self) -> FromAnotherThread:
        return FromAnotherThread(self.transport, asyncio.get_running_loop())

    async def forget_root_key(self) -> None:
        async with self.cloud.database.write() as session:
            (await session.scalars(select(KmsContract))).one().k256_pubkey = None


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Served]:
    """An installation as it begins: its KMS and its node registered by what they tell of themselves."""
    root = certificate_pem(KEYS.root.ca.certificate_der)
    meta = kms_pb2.GetMetaResponse(ca_cert=root, k256_pubkey=KEYS.root.k256_public_key)
    asked = {**replies(), "GetMeta": say(meta), "GetAppEnvEncryptPubKey": _environment_key}
    async with cloud("sqlite", directory) as made, FakeKms(asked) as kms:
        node = MemoryNode(made.clock)
        async with KmsConnection(kms.url) as connection:
            told = await get_meta(connection)
        async with made.database.write() as session:
            await seed_instance_types(session)
            row = await register_kms(
                session, told, url=kms.url, slug="kms-local", version="v0.5.4", now=made.clock.now()
            )
            host = await register_node(
                session, await node.info(), region="local", kms=row, now=made.clock.now(), slots=10
            )
        nodes = KnownNodes({host.id: node})
        workflows = InlineWorkflows(
            made.database, Steps(made.database, nodes, made.clock, patience=0.2, limit=5)
        )
        keys = AskedKmsKeys(FixedClock(KMS_NOW))
        made.parts.kms_keys = keys
        made.parts.nodes = nodes
        made.parts.lifecycle = Lifecycle(
            made.database, nodes, workflows, EnvironmentKeysByKms(made.database, keys), clock=made.clock
        )
        try:
            yield Served(made, node, workflows)
        finally:
            await workflows.close()
