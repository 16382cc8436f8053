"""Rules 1 to 10 of `teehouse.cloud.nodes.placement`."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teehouse.cloud.errors import ErrorCode
from teehouse.cloud.nodes.errors import not_placed
from teehouse.cloud.nodes.models import NodeStatus
from teehouse.cloud.nodes.placement import (
    Candidate,
    Image,
    Lack,
    Place,
    Refused,
    Size,
    Wanted,
    choose_image,
    place,
    resource_score,
)
from teehouse.cloud.nodes.services import parse_version

OLD = Image(1, "dstack-0.5.3", (0, 5, 3))
NEW = Image(2, "dstack-0.5.4", (0, 5, 4))
DEV = Image(3, "dstack-dev-0.5.5", (0, 5, 5), is_dev=True)
GPU = Image(4, "dstack-nvidia-0.5.4.1", (0, 5, 4, 1), requires_gpu=True)
NODE = Candidate(
    node_id=7,
    region="us-west",
    status=NodeStatus.ONLINE,
    listed=True,
    workspace_id=None,
    capacity=Size(16, 65536, 1000),
    used=Size(0, 0, 0),
    slots=10,
    used_slots=0,
    images=(OLD, NEW, DEV),
    kms_ids=frozenset({1}),
    devices=frozenset({"ab" * 32}),
)
SMALL = Wanted(workspace_id=1, size=Size(1, 2048, 20))


def test_a_fitting_node_is_chosen_with_its_newest_stable_image() -> None:
    assert place(SMALL, [NODE]) == (Place(7, 2, 900_000),)  # one of ten slots is what it is shortest of


@pytest.mark.parametrize(
    ("wanted", "node", "lack"),
    [
        (SMALL, replace(NODE, status=NodeStatus.DRAINING), Lack.NODE_CLOSED),
        (SMALL, replace(NODE, status=NodeStatus.OFFLINE), Lack.NODE_CLOSED),
        (SMALL, replace(NODE, workspace_id=2), Lack.NODE_CLOSED),
        (SMALL, replace(NODE, listed=False), Lack.NODE_CLOSED),
        (replace(SMALL, node_id=8), NODE, Lack.NODE_UNKNOWN),
        (replace(SMALL, region="eu"), NODE, Lack.REGION),
        (replace(SMALL, kms_id=2), NODE, Lack.KMS),
        (replace(SMALL, image="dstack-0.3.6"), NODE, Lack.IMAGE),
        (replace(SMALL, devices=frozenset({"cd" * 32})), NODE, Lack.DEVICE),
        (replace(SMALL, devices=frozenset()), NODE, Lack.DEVICE),
        (SMALL, replace(NODE, slots=0), Lack.CAPACITY_UNKNOWN),
        (replace(SMALL, size=Size(17, 1, 1)), NODE, Lack.VCPU),
        (replace(SMALL, size=Size(1, 65537, 1)), NODE, Lack.MEMORY),
        (replace(SMALL, size=Size(1, 1, 1001)), NODE, Lack.DISK),
        (SMALL, replace(NODE, used_slots=10), Lack.SLOTS),
        (replace(SMALL, size=Size(1, 1, 1, gpus=1)), NODE, Lack.IMAGE),
        (replace(SMALL, size=Size(1, 1, 1, gpus=1)), replace(NODE, images=(GPU,)), Lack.GPU),
        (SMALL, replace(NODE, images=(GPU,)), Lack.IMAGE),
        (SMALL, replace(NODE, images=(DEV,)), Lack.IMAGE),
    ],
)
def test_each_rule_refuses_with_its_own_reason(wanted: Wanted, node: Candidate, lack: Lack) -> None:
    assert place(wanted, [node]) == Refused(lack)


def test_without_nodes_nothing_is_registered() -> None:
    assert place(SMALL, []) == Refused(Lack.NODES)
    assert place(replace(SMALL, node_id=3), []) == Refused(Lack.NODE_UNKNOWN)


def test_rule_2_a_reserved_node_comes_first_for_its_workspace_and_for_no_other() -> None:
    own = replace(NODE, node_id=9, workspace_id=1, listed=False, used=Size(10, 0, 0))
    assert [found.node_id for found in _places(SMALL, [NODE, own])] == [9, 7]
    assert [found.node_id for found in _places(replace(SMALL, workspace_id=2), [NODE, own])] == [7]


def test_rule_2_an_unlisted_node_serves_whoever_names_it() -> None:
    hidden = replace(NODE, listed=False)
    assert _places(replace(SMALL, node_id=7), [hidden]) == (Place(7, 2, 900_000),)


@pytest.mark.parametrize(
    ("name", "prefer_dev", "with_gpu", "chosen"),
    [
        (None, False, False, NEW),
        (None, True, False, DEV),
        (None, False, True, GPU),
        ("dstack-0.5.3", False, False, OLD),
        ("dstack-dev-0.5.5", False, False, DEV),  # named, so it need not be preferred
        ("dstack-nvidia-0.5.4.1", False, False, None),
        (None, True, True, None),
    ],
)
def test_rule_6_the_image(name: str | None, prefer_dev: bool, with_gpu: bool, chosen: Image | None) -> None:
    assert choose_image([GPU, OLD, DEV, NEW], name=name, prefer_dev=prefer_dev, with_gpu=with_gpu) == chosen


def test_rule_9_newest_image_then_room_then_number() -> None:
    behind = replace(NODE, node_id=1, images=(OLD,))
    fuller = replace(NODE, node_id=2, used=Size(8, 0, 0))
    twin = replace(NODE, node_id=3)
    assert [found.node_id for found in _places(SMALL, [behind, fuller, NODE, twin])] == [3, 7, 2, 1]


def test_rule_10_the_nearest_lack_is_told() -> None:
    offline = replace(NODE, status=NodeStatus.OFFLINE)
    full = replace(NODE, node_id=8, used=Size(16, 0, 0))
    assert place(SMALL, [full, offline]) == Refused(Lack.VCPU)


def test_each_lack_has_a_code_of_the_catalogue() -> None:
    said = {lack: not_placed(lack, SMALL) for lack in Lack}
    assert {lack: error.code for lack, error in said.items()} == {
        Lack.NODES: ErrorCode.RESOURCE_NOT_AVAILABLE,
        Lack.NODE_UNKNOWN: ErrorCode.NODE_NOT_FOUND,
        Lack.NODE_CLOSED: ErrorCode.TEEPOD_NOT_ACCESSIBLE,
        Lack.REGION: ErrorCode.RESOURCE_NOT_AVAILABLE,
        Lack.KMS: ErrorCode.RESOURCE_NOT_AVAILABLE,
        Lack.IMAGE: ErrorCode.OS_IMAGE_NOT_COMPATIBLE,
        Lack.DEVICE: ErrorCode.RESOURCE_NOT_AVAILABLE,
        Lack.CAPACITY_UNKNOWN: ErrorCode.NODE_CAPACITY_NOT_CONFIGURED,
        Lack.GPU: ErrorCode.INSUFFICIENT_GPU,
        Lack.VCPU: ErrorCode.INSUFFICIENT_VCPU,
        Lack.MEMORY: ErrorCode.INSUFFICIENT_MEMORY,
        Lack.DISK: ErrorCode.RESOURCE_NOT_AVAILABLE,
        Lack.SLOTS: ErrorCode.INSUFFICIENT_SLOTS,
    }
    assert said[Lack.VCPU].body() == {
        "error_code": "ERR-02-003",
        "message": "Not enough free vCPUs",
        "details": [{"field": "vcpu", "value": 1, "message": "Not enough free vCPUs"}],
        "suggestions": ["List the nodes with GET /teepods/available"],
        "links": [],
    }


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.5.4", (0, 5, 4)),
        ("v0.5.4.1", (0, 5, 4, 1)),
        ("0.6.0-rc1", (0, 6, 0)),
        ("abc", (0,)),
        ("1.2.3.4.5", (1, 2, 3, 4)),
    ],
)
def test_versions_read_as_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_version(text) == numbers


_small = st.integers(0, 4)
_sizes = st.builds(Size, _small, _small, _small, st.integers(0, 1))
_nodes = st.builds(
    Candidate,
    node_id=st.integers(1, 5),
    region=st.sampled_from(["a", "b"]),
    status=st.sampled_from(list(NodeStatus)),
    listed=st.booleans(),
    workspace_id=st.sampled_from([None, 1, 2]),
    capacity=_sizes,
    used=_sizes,
    slots=_small,
    used_slots=_small,
    images=st.lists(st.sampled_from([OLD, NEW, DEV, GPU]), unique=True).map(tuple),
    kms_ids=st.frozensets(st.integers(1, 2)),
    devices=st.frozensets(st.sampled_from(["x", "y"])),
)
_wanted = st.builds(
    Wanted,
    workspace_id=st.integers(1, 2),
    size=_sizes,
    node_id=st.none() | st.integers(1, 5),
    region=st.none() | st.sampled_from(["a", "b"]),
    kms_id=st.none() | st.integers(1, 2),
    image=st.none() | st.sampled_from([OLD.name, GPU.name]),
    prefer_dev=st.booleans(),
    devices=st.none() | st.frozensets(st.sampled_from(["x", "y"])),
)
_hosts = st.lists(_nodes, max_size=5, unique_by=lambda node: node.node_id)


@given(_wanted, _hosts)
def test_every_place_keeps_every_rule_and_a_refusal_means_that_none_could(
    wanted: Wanted, nodes: list[Candidate]
) -> None:
    found = place(wanted, nodes)
    places = () if isinstance(found, Refused) else found
    assert isinstance(found, Refused) == (not places)
    fitting = {node.node_id: node for node in nodes if _would_do(wanted, node)}
    assert {entry.node_id for entry in places} == set(fitting)
    for entry in places:
        image = next(image for image in fitting[entry.node_id].images if image.image_id == entry.image_id)
        assert wanted.image in (None, image.name)
        assert image.requires_gpu == (wanted.size.gpus > 0)


@given(_wanted, _hosts, st.randoms(use_true_random=False))
def test_the_order_of_the_nodes_decides_nothing(
    wanted: Wanted, nodes: list[Candidate], random: Random
) -> None:
    shuffled = list(nodes)
    random.shuffle(shuffled)
    assert place(wanted, nodes) == place(wanted, shuffled)


@given(_sizes, _sizes, _small, _small, _sizes)
def test_a_score_is_a_part_of_the_node(
    capacity: Size, used: Size, slots: int, taken: int, size: Size
) -> None:
    assert (
        0
        <= resource_score(capacity, used, slots, taken, size)
        <= resource_score(capacity, used, slots, taken)
        <= 1_000_000
    )


def _would_do(wanted: Wanted, node: Candidate) -> bool:
    """The rules once more, said directly."""
    room = all(
        have - gone >= need
        for have, gone, need in zip(
            node.capacity.parts(), node.used.parts(), wanted.size.parts(), strict=True
        )
    )
    usable = node.listed or wanted.node_id is not None or node.workspace_id == wanted.workspace_id
    images = [
        image
        for image in node.images
        if image.requires_gpu == (wanted.size.gpus > 0)
        and (image.name == wanted.image if wanted.image else image.is_dev == wanted.prefer_dev)
    ]
    return (
        node.status == NodeStatus.ONLINE
        and node.workspace_id in (None, wanted.workspace_id)
        and usable
        and wanted.node_id in (None, node.node_id)
        and wanted.region in (None, node.region)
        and (wanted.kms_id is None or wanted.kms_id in node.kms_ids)
        and bool(images)
        and (wanted.devices is None or bool(wanted.devices & node.devices))
        and room
        and node.capacity.vcpu > 0
        and node.slots > node.used_slots
    )


def _places(wanted: Wanted, nodes: list[Candidate]) -> tuple[Place, ...]:
    found = place(wanted, nodes)
    assert not isinstance(found, Refused)
    return found
