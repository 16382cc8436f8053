"""What a node has given to its CVMs, and what it has left.

Rules:

1. Processors and memory are taken by a CVM that boots, runs or stops, or is wanted to run; disk by every CVM that is
   not removed.
2. What does not fit is refused before anything is done for it.
"""

from collections.abc import Iterable

from teehouse.base.findings import misuse
from teehouse.node.api import CvmPhase, CvmSpec, Resources
from teehouse.node.cvm import Cvm

_KINDS = ("cpu_count", "memory_size", "disk_size")


def taken_by(cvms: Iterable[Cvm]) -> Resources:
    """Rule 1."""
    cpu_count = memory_size = disk_size = 0
    for cvm in cvms:
        if cvm.record.phase is CvmPhase.REMOVED:
            continue
        disk_size += cvm.spec.disk_size
        if cvm.takes_part:
            cpu_count += cvm.spec.cpu_count
            memory_size += cvm.spec.memory_size
    return Resources(cpu_count, memory_size, disk_size)


def free_of(capacity: Resources, taken: Resources) -> Resources:
    """What is left, never less than nothing: a node may come back with less than it had given."""
    return Resources(*(max(0, getattr(capacity, kind) - getattr(taken, kind)) for kind in _KINDS))


def require_room(capacity: Resources, spec: CvmSpec, taken: Resources) -> None:
    """Raises `MisuseError` `node.capacity` (rule 2)."""
    free = free_of(capacity, taken)
    for kind in _KINDS:
        if getattr(spec, kind) > getattr(free, kind):
            raise misuse(
                "node.capacity",
                f"{kind} of the CVM",
                expected=f"at most {getattr(free, kind)}, which the node has left",
                found=str(getattr(spec, kind)),
                remedy="stop or remove another CVM, or choose another node",
            )
