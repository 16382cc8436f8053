"""What an installation begins with, and begins with again (`teehouse.cloud.inventory.seeding`, rules 1 to 4)."""

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import func, select

from support.cloud_core_support import KINDS, migrated_url
from support.cloud_inventory_support import NOW
from teehouse.base.findings import MisuseError
from teehouse.cloud.db.base import Base
from teehouse.cloud.db.engine import Database, open_database
from teehouse.cloud.inventory.models import InstanceType, KmsContract, KmsNode, KmsType, OsImage
from teehouse.cloud.inventory.seeding import (
    DEFAULT_TYPES,
    register_kms,
    register_node,
    seed_instance_types,
)
from teehouse.cloud.nodes.models import Node, NodeDevice, NodeImage, NodeKms
from teehouse.kms.client.public import KmsMeta
from teehouse.node.api import NodeImage as ImageInfo
from teehouse.node.api import NodeInfo, Resources

META = KmsMeta(
    ca_certificate="",
    kms_id=b"\x30\x59",
    k256_public_key=b"\x02" + bytes(32),
    allow_any_upgrade=True,
    is_dev=True,
    bootstrap_attestation=b"",
    gateway_app_id=None,
    kms_contract_address=None,
    chain_id=None,
    app_auth_implementation=None,
)
INFO = NodeInfo(
    name="prod5",
    version="teehouse 1",
    emulated=True,
    root="emulated:00",
    device_id=b"\x5c" * 32,
    capacity=Resources(64, 256 * 1024**3, 4 * 1024**4),
    free=Resources(64, 256 * 1024**3, 4 * 1024**4),
    images=(
        ImageInfo("dstack-0.5.4", "0.5.4", b"\x01" * 32),
        ImageInfo("dstack-nvidia-dev-0.5.4", "0.5.4", b"\x02" * 32),
    ),
    cvm_count=0,
    running_count=0,
    kms_urls=(),
    incarnation=1,
)


@pytest.fixture(params=KINDS)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    opened = open_database(await migrated_url(request.param, tmp_path))
    yield opened
    await opened.dispose()


async def seed(database: Database, meta: KmsMeta = META, info: NodeInfo = INFO, *, slug: str = "kms-local", url: str = "https://localhost:1", kms_type: KmsType | None = None) -> None:  # fmt: skip
    async with database.write() as session:
        await seed_instance_types(session)
        kms = await register_kms(
            session, meta, url=url, slug=slug, version="v0.5.4", now=NOW, kms_type=kms_type
        )
        await register_node(session, info, region="local", kms=kms, now=NOW)


async def counts(database: Database) -> dict[str, int]:
    tables: tuple[type[Base], ...] = (
        InstanceType, KmsContract, KmsNode, OsImage, Node, NodeDevice, NodeImage, NodeKms,
    )  # fmt: skip
    async with database.read() as session:
        return {
            table.__name__: await session.scalar(select(func.count()).select_from(table)) or 0
            for table in tables
        }


async def test_twice_is_once(database: Database) -> None:
    await seed(database)
    first = await counts(database)
    assert first == {
        "InstanceType": len(DEFAULT_TYPES), "KmsContract": 1, "KmsNode": 1, "OsImage": 2, "Node": 1,
        "NodeDevice": 1, "NodeImage": 2, "NodeKms": 1,
    }  # fmt: skip
    await seed(database)
    assert await counts(database) == first


async def test_what_is_registered_is_what_was_told(database: Database) -> None:
    await seed(database)
    async with database.read() as session:
        node = (await session.scalars(select(Node))).one()
        contract = (await session.scalars(select(KmsContract))).one()
        images = (await session.scalars(select(OsImage).order_by(OsImage.id))).all()
        device = (await session.scalars(select(NodeDevice))).one()
    assert (node.vcpu, node.memory_mb, node.disk_gb, node.device_id) == (64, 262144, 4096, "5c" * 32)
    assert (node.status, node.used_slots, node.emulated, node.listed) == ("online", 0, True, True)
    assert (contract.slug, contract.contract_address, contract.chain_id) == ("phala", "phala", 0)
    assert (contract.k256_pubkey, contract.ca_pubkey) == ("02" + "00" * 32, "3059")
    assert [(image.name, image.is_dev, image.requires_gpu) for image in images] == [
        ("dstack-0.5.4", False, False),
        ("dstack-nvidia-dev-0.5.4", True, True),
    ]
    assert device.os_image_ids == [image.id for image in images]


async def test_what_changed_is_brought_up_to_date_and_what_people_set_stays(database: Database) -> None:
    await seed(database)
    async with database.write() as session:
        small = await session.get_one(InstanceType, "tdx.small")
        small.hourly_rate, small.enabled = Decimal(9), False
        node = (await session.scalars(select(Node))).one()
        node.listed, node.used_slots, node.status = False, 3, "offline"
        (await session.scalars(select(NodeDevice))).one().enabled = False
    newer = replace(
        INFO, version="teehouse 2", images=(INFO.images[0], ImageInfo("dstack-0.5.5", "0.5.5", b"\x03" * 32))
    )
    await seed(database, info=newer, url="https://localhost:2")
    async with database.read() as session:
        small = await session.get_one(InstanceType, "tdx.small")
        node = (await session.scalars(select(Node))).one()
        names = await session.scalars(
            select(OsImage.name).join(NodeImage, NodeImage.os_image_id == OsImage.id).order_by(OsImage.name)
        )
        assert list(names) == ["dstack-0.5.4", "dstack-0.5.5"]
        assert (await session.scalars(select(KmsNode.url))).one() == "https://localhost:2"
        assert not (await session.scalars(select(NodeDevice))).one().enabled
    assert (small.hourly_rate, small.enabled) == (Decimal(9), False)
    assert (node.version, node.status, node.listed, node.used_slots) == ("teehouse 2", "online", False, 3)


async def test_other_bytes_under_a_known_name_are_refused(database: Database) -> None:
    await seed(database)
    with pytest.raises(MisuseError, match="hash of the OS image"):
        await seed(database, info=replace(INFO, images=(ImageInfo("dstack-0.5.4", "0.5.4", b"\x09" * 32),)))


async def test_a_kms_with_another_root_key_is_refused_under_its_slug_and_taken_under_another(
    database: Database,
) -> None:
    await seed(database)
    other = replace(META, k256_public_key=b"\x03" + bytes(32))
    with pytest.raises(MisuseError, match="root key of the KMS kms-local"):
        await seed(database, other)
    await seed(database, other, slug="kms-second")
    async with database.read() as session:
        rows = await session.execute(
            select(KmsContract.slug, KmsContract.k256_pubkey).order_by(KmsContract.id)
        )
        assert [tuple(row) for row in rows.all()] == [
            ("phala", "02" + "00" * 32),
            ("contract-kms-second", "03" + "00" * 32),
        ]


@pytest.mark.parametrize(("chain", "kind", "expected"), [(1, None, "ethereum"), (8453, None, "base"), (31337, KmsType.BASE, "base")])  # fmt: skip
async def test_an_on_chain_kms_has_its_contract(
    database: Database, chain: int, kind: KmsType | None, expected: str
) -> None:
    await seed(database, replace(META, chain_id=chain, kms_contract_address="0x" + "ab" * 20), kms_type=kind)
    async with database.read() as session:
        contract = (await session.scalars(select(KmsContract))).one()
        assert (contract.slug, contract.chain_id, contract.contract_address) == (
            "kms-local",
            chain,
            "0x" + "ab" * 20,
        )
        assert (await session.scalars(select(KmsNode.kms_type))).one() == expected


@pytest.mark.parametrize("told", [None, ""])  # a KMS of protobuf's defaults says it with an empty text
async def test_a_kms_without_a_gateway_has_none(database: Database, told: str | None) -> None:
    await seed(database, replace(META, gateway_app_id=told))
    async with database.read() as session:
        assert (await session.scalars(select(KmsNode.gateway_app_id))).one() is None


async def test_a_chain_that_clients_do_not_know_needs_a_name(database: Database) -> None:
    with pytest.raises(MisuseError, match="name of chain 1337"):
        await seed(database, replace(META, chain_id=1337, kms_contract_address="0x" + "ab" * 20))
