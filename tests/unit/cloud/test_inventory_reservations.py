"""Rules 1 to 5 of `teehouse.cloud.nodes.reservations`, on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from support.cloud_core_support import KINDS, migrated_url
from support.cloud_inventory_support import (
    NOW,
    add_cvm,
    add_inventory,
    add_node,
    add_provisions,
    add_workspace,
)
from teehouse.cloud.apps.app_ids import take_app_id
from teehouse.cloud.cvms.models import Reservation
from teehouse.cloud.db.engine import Database, open_database
from teehouse.cloud.errors import CloudError, ErrorCode
from teehouse.cloud.nodes import reservations
from teehouse.cloud.nodes.models import Node
from teehouse.cloud.nodes.placement import Size, Wanted
from teehouse.cloud.nodes.reservations import Held

SMALL = Size(1, 2048, 20)


@pytest.fixture(params=KINDS)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    opened = open_database(await migrated_url(request.param, tmp_path))
    yield opened
    await opened.dispose()


class Place:
    """A workspace, `nodes` nodes and provisions that want a place."""

    def __init__(
        self, database: Database, workspace_id: int, nodes: list[int], provisions: list[int]
    ) -> None:
        self.database = database
        self.wanted = Wanted(workspace_id, SMALL)
        self.nodes = nodes
        self.provisions = provisions

    async def reserve(self, provision_id: int, wanted: Wanted | None = None, *, minutes: int = 10) -> Held:
        async with self.database.write() as session:
            return await reservations.reserve(
                session,
                wanted or self.wanted,
                now=NOW,
                provision_id=provision_id,
                expires_at=NOW + timedelta(minutes=minutes),
            )

    async def used(self) -> dict[int, tuple[int, int, int, int, int]]:
        """What the nodes say, which always is what the reservations add up to (rule 1)."""
        async with self.database.read() as session:
            rows = await session.execute(
                select(
                    Node.id,
                    Node.used_vcpu,
                    Node.used_memory_mb,
                    Node.used_disk_gb,
                    Node.used_gpus,
                    Node.used_slots,
                )
            )
            told = {row[0]: tuple(row[1:]) for row in rows}
            sums = await session.execute(
                select(
                    Reservation.node_id,
                    func.sum(Reservation.vcpu),
                    func.sum(Reservation.memory_mb),
                    func.sum(Reservation.disk_gb),
                    func.sum(Reservation.gpus),
                    func.count(),
                ).group_by(Reservation.node_id)
            )
            counted = {row[0]: tuple(int(value) for value in row[1:]) for row in sums}
        assert told == {node: counted.get(node, (0, 0, 0, 0, 0)) for node in told}
        return told  # type: ignore[return-value]  # five numbers each


async def prepared(
    database: Database, *, nodes: int = 1, provisions: int = 4, slots: int = 10, **quota: int
) -> Place:
    async with database.write() as session:
        workspace = await add_workspace(session, **quota)
        image, kms = await add_inventory(session)
        made = [await add_node(session, image, kms, f"node-{index}", slots=slots) for index in range(nodes)]
        wanting = await add_provisions(session, workspace.id, provisions)
        return Place(database, workspace.id, [node.id for node in made], wanting)


async def test_a_place_is_held_once_for_a_provision(database: Database) -> None:
    place = await prepared(database)
    first = await place.reserve(place.provisions[0])
    again = await place.reserve(place.provisions[0])
    assert (first.node_id, first.image_id is not None) == (place.nodes[0], True)
    assert again == replace(first, image_id=None)
    assert await place.used() == {place.nodes[0]: (1, 2048, 20, 0, 1)}


async def test_many_at_once_get_what_there_is_and_no_more(database: Database) -> None:
    place = await prepared(database, nodes=3, provisions=50, slots=8)
    ended = await asyncio.gather(
        *(place.reserve(provision) for provision in place.provisions), return_exceptions=True
    )
    held = [entry for entry in ended if isinstance(entry, Held)]
    refused = [entry for entry in ended if isinstance(entry, CloudError)]
    assert (len(held), len(refused)) == (24, 26)
    assert {error.code for error in refused} == {ErrorCode.INSUFFICIENT_SLOTS}
    assert {slots for *_, slots in (await place.used()).values()} == {8}


async def test_many_at_once_of_one_workspace_do_not_pass_its_quota(database: Database) -> None:
    place = await prepared(database, nodes=2, provisions=30, slots=100, vcpu=7)
    ended = await asyncio.gather(
        *(place.reserve(provision) for provision in place.provisions), return_exceptions=True
    )
    assert sum(isinstance(entry, Held) for entry in ended) == 7
    refused = [entry for entry in ended if isinstance(entry, CloudError)]
    assert len(refused) == 23
    assert refused[0].body() == {
        "error_code": "ERR-02-015",
        "message": "The workspace's quota of vcpu is used up: 1 wanted, 0 of 7 left",
        "details": [{"field": "vcpu", "value": 1, "message": "0 of 7 left"}],
        "suggestions": ["Delete CVMs that are not needed, or ask the operator for a larger quota"],
        "links": [],
    }
    assert sum(vcpu for vcpu, *_ in (await place.used()).values()) == 7


async def test_reserving_and_giving_back_at_once_leaves_nothing_behind(database: Database) -> None:
    place = await prepared(database, nodes=2, provisions=20, slots=3)

    async def come_and_go(provision: int) -> None:
        for _ in range(3):
            with suppress(CloudError):
                await place.reserve(provision)
            async with database.write() as session:
                await reservations.release(session, provision_id=provision)

    await asyncio.gather(*(come_and_go(provision) for provision in place.provisions))
    assert await place.used() == dict.fromkeys(place.nodes, (0, 0, 0, 0, 0))


async def test_a_unit_of_work_that_fails_holds_nothing(database: Database) -> None:
    place = await prepared(database)

    async def failing() -> None:
        async with database.write() as session:
            await reservations.reserve(session, place.wanted, now=NOW, provision_id=place.provisions[0])
            raise RuntimeError("afterwards")

    with pytest.raises(RuntimeError, match="afterwards"):
        await failing()
    assert await place.used() == {place.nodes[0]: (0, 0, 0, 0, 0)}


async def test_what_is_held_too_long_is_given_back_once(database: Database) -> None:
    place = await prepared(database)
    await place.reserve(place.provisions[0], minutes=5)
    await place.reserve(place.provisions[1], minutes=15)

    async def expire() -> int:
        async with database.write() as session:
            return await reservations.expire(session, NOW + timedelta(minutes=5))

    assert sorted(await asyncio.gather(expire(), expire(), expire())) == [0, 0, 1]
    assert await place.used() == {place.nodes[0]: (1, 2048, 20, 0, 1)}


async def test_released_twice_is_given_back_once(database: Database) -> None:
    place = await prepared(database)
    await place.reserve(place.provisions[0])
    async with database.write() as session:
        assert await reservations.release(session, provision_id=place.provisions[0])
    async with database.write() as session:
        assert not await reservations.release(session, provision_id=place.provisions[0])
    assert await place.used() == {place.nodes[0]: (0, 0, 0, 0, 0)}


async def test_a_node_that_drains_takes_none_and_keeps_what_it_has(database: Database) -> None:
    place = await prepared(database)
    await place.reserve(place.provisions[0])
    async with database.write() as session:
        node = await session.get_one(Node, place.nodes[0])
        node.status = "draining"
    with pytest.raises(CloudError) as refused:
        await place.reserve(place.provisions[1])
    assert refused.value.code is ErrorCode.TEEPOD_NOT_ACCESSIBLE
    assert await place.used() == {place.nodes[0]: (1, 2048, 20, 0, 1)}


async def test_a_workspace_without_quotas_may_take_nothing(database: Database) -> None:
    place = await prepared(database)
    with pytest.raises(CloudError) as refused:
        await place.reserve(place.provisions[0], replace(place.wanted, workspace_id=99))
    assert refused.value.code is ErrorCode.QUOTA_EXCEEDED


async def test_quotas_are_told_with_what_is_left(database: Database) -> None:
    place = await prepared(database, vm_slots=5, vcpu=8, memory_mb=8192, disk_gb=100)
    await place.reserve(place.provisions[0])
    async with database.read() as session:
        told = await reservations.quotas(session, place.wanted.workspace_id)
    assert [
        (usage.limit, usage.remaining) for usage in (told.vm_slots, told.vcpu, told.memory_mb, told.disk_gb)
    ] == [
        (5, 4),
        (8, 7),
        (8192, 6144),
        (100, 80),
    ]
    assert (told.reserved_nodes.remaining, told.reserved_gpus.remaining) == (0, 0)


@pytest.mark.parametrize("size", [Size(17, 1, 1), Size(1, 65537, 1), Size(1, 1, 1001)])
async def test_what_never_fits_is_refused_and_holds_nothing(database: Database, size: Size) -> None:
    place = await prepared(database)
    with pytest.raises(CloudError):
        await place.reserve(place.provisions[0], replace(place.wanted, size=size))
    assert await place.used() == {place.nodes[0]: (0, 0, 0, 0, 0)}


async def test_a_place_belongs_to_somebody(database: Database) -> None:
    place = await prepared(database)
    async with database.write() as session:
        with pytest.raises(ValueError, match="a place is held"):
            await reservations.reserve(session, place.wanted, now=NOW)
        with pytest.raises(ValueError, match="a place is given back"):
            await reservations.release(session)


async def deployed(place: Place, provision: int) -> int:
    """The number of a CVM that took over a provision's place."""
    async with place.database.write() as session:
        cvm = await add_cvm(session, place.wanted.workspace_id, place.nodes[0])
        held = await reservations.take_over(session, provision, cvm)
        assert held is not None
        return cvm


async def test_a_cvm_keeps_the_place_of_its_provision_until_it_gives_it_back(database: Database) -> None:
    place = await prepared(database)
    await place.reserve(place.provisions[0])
    cvm = await deployed(place, place.provisions[0])
    async with database.write() as session:
        assert await reservations.expire(session, NOW + timedelta(days=1)) == 0
        assert not await reservations.release(session, provision_id=place.provisions[0])
    assert (await place.used())[place.nodes[0]][0] == 1
    async with database.write() as session:
        assert await reservations.release(session, cvm_id=cvm)
    assert (await place.used())[place.nodes[0]][0] == 0


async def test_a_place_that_ran_out_cannot_be_taken_over(database: Database) -> None:
    place = await prepared(database)
    async with database.write() as session:
        cvm = await add_cvm(session, place.wanted.workspace_id, place.nodes[0])
        assert await reservations.take_over(session, place.provisions[0], cvm) is None


async def test_a_place_grows_and_shrinks_within_node_and_quota(database: Database) -> None:
    place = await prepared(database, vcpu=20, slots=1)
    await place.reserve(place.provisions[0])
    cvm = await deployed(place, place.provisions[0])

    async def resize(size: Size) -> bool:
        async with database.write() as session:
            return await reservations.resize(session, cvm, size)

    assert await resize(Size(16, 4096, 40))
    assert await place.used() == {place.nodes[0]: (16, 4096, 40, 0, 1)}
    assert not await resize(Size(16, 4096, 40))
    for size, code in (
        (Size(17, 4096, 40), ErrorCode.INSUFFICIENT_VCPU),
        (Size(21, 4096, 40), ErrorCode.QUOTA_EXCEEDED),
        (Size(16, 65537, 40), ErrorCode.INSUFFICIENT_MEMORY),
        (Size(16, 4096, 1001), ErrorCode.RESOURCE_NOT_AVAILABLE),
        (Size(16, 4096, 40, gpus=1), ErrorCode.INSUFFICIENT_GPU),
    ):
        with pytest.raises(CloudError) as refused:
            await resize(size)
        assert refused.value.code is code
    assert await place.used() == {place.nodes[0]: (16, 4096, 40, 0, 1)}
    async with database.write() as session:
        (await session.get_one(Node, place.nodes[0])).vcpu = 4  # the node became smaller
    assert await resize(Size(8, 4096, 40))
    assert await place.used() == {place.nodes[0]: (8, 4096, 40, 0, 1)}


async def test_a_cvm_without_a_place_has_no_size(database: Database) -> None:
    place = await prepared(database)
    async with database.write() as session:
        with pytest.raises(CloudError) as refused:
            await reservations.resize(session, 77, SMALL)
    assert (place.nodes[0], refused.value.status) == (place.nodes[0], 404)


async def test_resizing_at_once_does_not_overbook(database: Database) -> None:
    place = await prepared(database, provisions=6)
    for provision in place.provisions:
        await place.reserve(provision)
    cvms = [await deployed(place, provision) for provision in place.provisions]

    async def resize(cvm: int) -> bool:
        async with database.write() as session:
            return await reservations.resize(session, cvm, Size(6, 2048, 20))

    ended = await asyncio.gather(*(resize(cvm) for cvm in cvms), return_exceptions=True)
    assert sum(entry is True for entry in ended) == 2  # 6 are taken; two times 5 more fit into 16
    assert (await place.used())[place.nodes[0]] == (16, 12288, 120, 0, 6)


async def test_who_is_always_too_late_is_told_to_try_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await prepared(database)
    looked = 0

    async def gone(*_arguments: object, **_named: object) -> bool:
        nonlocal looked
        looked += 1
        return False

    monkeypatch.setattr(reservations, "_take", gone)
    with pytest.raises(CloudError) as refused:
        await place.reserve(place.provisions[0])
    assert (refused.value.status, refused.value.code, looked) == (409, None, 3)
    assert await place.used() == {place.nodes[0]: (0, 0, 0, 0, 0)}


async def test_a_place_does_not_wait_for_an_app_id(tmp_path: Path) -> None:
    database = open_database(await migrated_url("postgresql", tmp_path))
    place = await prepared(database)
    async with database.write() as session:
        _, nonce = await take_app_id(session, place.wanted.workspace_id)
        async with asyncio.timeout(10):
            await place.reserve(place.provisions[0])

        async def another() -> int:
            async with database.write() as other:
                return (await take_app_id(other, place.wanted.workspace_id))[1]

        waiting = asyncio.create_task(another())
        await asyncio.sleep(0.1)
        assert not waiting.done()
    assert await waiting == nonce + 1
    await database.dispose()


async def test_taking_app_ids_and_places_at_once_ends(database: Database) -> None:
    place = await prepared(database, provisions=12, slots=12)

    async def provision(number: int) -> None:
        async with database.write() as session:
            await take_app_id(session, place.wanted.workspace_id)  # locks the workspace
            await asyncio.sleep(0.01)
            await reservations.reserve(session, place.wanted, now=NOW, provision_id=number)

    async def copy(number: int) -> None:
        async with database.write() as session:
            await asyncio.sleep(0.005)
            await reservations.reserve(session, place.wanted, now=NOW, provision_id=number)

    await asyncio.gather(
        *(provision(number) if index % 2 else copy(number) for index, number in enumerate(place.provisions))
    )
    assert (await place.used())[place.nodes[0]][-1] == 12
