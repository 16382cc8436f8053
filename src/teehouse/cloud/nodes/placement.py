"""Which node a CVM goes to, and with which OS image: a judgement without I/O.

Rules:

1. A node takes new CVMs while it is online. One that drains, or does not answer, takes none.
2. A node that is reserved for a workspace serves this workspace alone. A node that is not listed serves whoever
   asks for it by number, and is chosen for nobody.
3. A node that was asked for is the only candidate.
4. A region that was asked for is the node's own.
5. The KMS that was asked for is one that the node's CVMs may use.
6. The image is one that the node has: the one named, else the newest that is no development image, or, when such
   a one is preferred, the newest that is one. An image for GPUs serves sizes with GPUs, and these need one.
7. Where only certain devices may run the app, one of the node's enabled devices is among them.
8. The node has room for the whole size: processors, memory, disk, GPUs and a slot.
9. Of the nodes left, those reserved for the workspace come first, then those with the newest image, then those of
   which the largest part stays free, counted by what they are shortest of; the lowest number decides ties. All of
   them are told, in this order: the first place may be gone by the time it is taken.
10. A refusal names the last rule that a candidate still failed at, so that it says what is nearest to possible.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from teehouse.cloud.nodes.models import NodeStatus

_SCALE: Final = 1_000_000  # the score's denominator: integers compare the same everywhere


@dataclass(frozen=True, slots=True)
class Size:
    """What a CVM takes: processors, MB of memory, GB of disk, GPUs."""

    vcpu: int
    memory_mb: int
    disk_gb: int
    gpus: int = 0

    def __sub__(self, other: "Size") -> "Size":
        return Size(
            self.vcpu - other.vcpu,
            self.memory_mb - other.memory_mb,
            self.disk_gb - other.disk_gb,
            self.gpus - other.gpus,
        )

    def parts(self) -> tuple[int, int, int, int]:
        return self.vcpu, self.memory_mb, self.disk_gb, self.gpus


@dataclass(frozen=True, slots=True)
class Image:
    """An OS image a node has; `version` is compared number by number."""

    image_id: int
    name: str
    version: tuple[int, ...]
    is_dev: bool = False
    requires_gpu: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as it stands. `kms_ids` are record numbers, `devices` device ids in hex (64 digits)."""

    node_id: int
    region: str
    status: str
    listed: bool
    workspace_id: int | None
    capacity: Size
    used: Size
    slots: int
    used_slots: int
    images: tuple[Image, ...] = ()
    kms_ids: frozenset[int] = frozenset()
    devices: frozenset[str] = frozenset()

    @property
    def free(self) -> Size:
        return self.capacity - self.used

    @property
    def free_slots(self) -> int:
        return self.slots - self.used_slots


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be placed. None means "any"; `devices` None means that every device may run it."""

    workspace_id: int
    size: Size
    node_id: int | None = None
    region: str | None = None
    kms_id: int | None = None
    image: str | None = None
    prefer_dev: bool = False
    devices: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A node that would do, and the image it would boot."""

    node_id: int
    image_id: int
    score: int  # millionths of the node that stay free


class Lack(IntEnum):
    """What a candidate failed at; ordered, the later the nearer (rule 10)."""

    NODES = 0
    NODE_UNKNOWN = 1
    NODE_CLOSED = 2
    REGION = 3
    KMS = 4
    IMAGE = 5
    DEVICE = 6
    CAPACITY_UNKNOWN = 7
    GPU = 8
    VCPU = 9
    MEMORY = 10
    DISK = 11
    SLOTS = 12


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing fits (rule 10)."""

    lack: Lack


def place(wanted: Wanted, candidates: Iterable[Candidate]) -> tuple[Place, ...] | Refused:
    """All places that would do, the best first (rule 9), or why there is none."""
    lack = Lack.NODES if wanted.node_id is None else Lack.NODE_UNKNOWN
    found: list[tuple[tuple[bool, tuple[int, ...], int, int], Place]] = []
    for node in candidates:
        if wanted.node_id not in (None, node.node_id):  # rule 3
            continue
        judged = _judge(wanted, node)
        if isinstance(judged, Lack):
            lack = max(lack, judged)
            continue
        score = resource_score(node.capacity, node.used, node.slots, node.used_slots, wanted.size)
        shared = node.workspace_id is None
        order = (shared, tuple(-part for part in _padded(judged.version)), -score, node.node_id)
        found.append((order, Place(node.node_id, judged.image_id, score)))
    if not found:
        return Refused(lack)
    return tuple(place for _, place in sorted(found, key=lambda entry: entry[0]))


def resource_score(capacity: Size, used: Size, slots: int, used_slots: int, size: Size | None = None) -> int:
    """Millionths of the node that stay free once `size` is placed, by what the node is shortest of."""
    taken = (0, 0, 0, 0, 0) if size is None else (*size.parts(), 1)
    have = (*capacity.parts(), slots)
    gone = (*used.parts(), used_slots)
    shares = [
        max(0, (total - before - more) * _SCALE // total)
        for total, before, more in zip(have, gone, taken, strict=True)
        if total > 0
    ]
    return min(shares, default=0)


def choose_image(
    images: Iterable[Image], *, name: str | None, prefer_dev: bool, with_gpu: bool
) -> Image | None:
    """The image of rule 6, or None."""
    fitting = [
        image
        for image in images
        if image.requires_gpu == with_gpu
        and (image.name == name if name is not None else image.is_dev == prefer_dev)
    ]
    return max(fitting, key=lambda image: (_padded(image.version), image.name), default=None)


def may_use(node: Candidate, workspace_id: int, *, asked_for: bool) -> bool:
    """Rules 1 and 2."""
    if node.status != NodeStatus.ONLINE or node.workspace_id not in (None, workspace_id):
        return False
    return node.listed or asked_for or node.workspace_id == workspace_id


def _judge(wanted: Wanted, node: Candidate) -> Image | Lack:
    if not may_use(node, wanted.workspace_id, asked_for=wanted.node_id is not None):
        return Lack.NODE_CLOSED
    if wanted.region not in (None, node.region):
        return Lack.REGION
    if wanted.kms_id is not None and wanted.kms_id not in node.kms_ids:
        return Lack.KMS
    image = choose_image(
        node.images, name=wanted.image, prefer_dev=wanted.prefer_dev, with_gpu=wanted.size.gpus > 0
    )
    if image is None:
        return Lack.IMAGE
    if wanted.devices is not None and not wanted.devices & node.devices:
        return Lack.DEVICE
    return _room(wanted.size, node) or image


def _room(size: Size, node: Candidate) -> Lack | None:
    """Rule 8."""
    if node.capacity.vcpu == 0 or node.slots == 0:
        return Lack.CAPACITY_UNKNOWN
    free = node.free
    for lack, have, need in (
        (Lack.GPU, free.gpus, size.gpus),
        (Lack.VCPU, free.vcpu, size.vcpu),
        (Lack.MEMORY, free.memory_mb, size.memory_mb),
        (Lack.DISK, free.disk_gb, size.disk_gb),
        (Lack.SLOTS, node.free_slots, 1),
    ):
        if have < need:
            return lack
    return None


def _padded(version: tuple[int, ...]) -> tuple[int, ...]:
    """Versions of three and of four numbers compare as if the fourth were 0."""
    return (*version, *(0,) * (4 - len(version)))
