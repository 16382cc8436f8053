"""What an operation does, as steps.

Rules:

P1. A step has one effect, on a node or on what is awaited of it, and may be repeated: a node's calls leave what is
    so already as it is, and waiting changes nothing.
P2. A restart is an end and a beginning, each a step of its own: a node's `restart`, repeated after the boot is
    over, would be a second one.
P3. The plan is fixed when the operation is written, so that it is the same after a crash and after an upgrade.
"""

from enum import StrEnum
from typing import Final

from teehouse.cloud.cvms.models import CvmStatus, Desired
from teehouse.cloud.revisions.models import OperationType


class Step(StrEnum):
    """The effects. TAKE_IN creates the CVM on the node, CHANGE replaces its specification there.

    AUTHORISE lets the CVM's compose hash have keys; START gives the node the specification as it is wanted, and boots.
    """

    TAKE_IN = "take_in"
    CHANGE = "change"
    AUTHORISE = "authorise"
    START = "start"
    STOP = "stop"
    SHUTDOWN = "shutdown"
    REMOVE = "remove"
    RUNNING = "running"
    STOPPED = "stopped"
    REMOVED = "removed"


UPDATES: Final = frozenset(
    {
        OperationType.UPDATE,
        OperationType.UPDATE_COMPOSE,
        OperationType.UPDATE_ENV,
        OperationType.UPDATE_PRE_LAUNCH_SCRIPT,
        OperationType.UPDATE_VISIBILITY,
        OperationType.UPDATE_RESOURCES,
        OperationType.UPDATE_OS_IMAGE,
    }
)

# What a CVM's status is while the step is under way.
STATUS: Final = {
    Step.TAKE_IN: CvmStatus.CREATING,
    Step.CHANGE: CvmStatus.STOPPING,
    Step.AUTHORISE: CvmStatus.STARTING,
    Step.START: CvmStatus.STARTING,
    Step.STOP: CvmStatus.STOPPING,
    Step.SHUTDOWN: CvmStatus.STOPPING,
    Step.REMOVE: CvmStatus.DELETING,
    Step.RUNNING: CvmStatus.STARTING,
    Step.STOPPED: CvmStatus.STOPPING,
    Step.REMOVED: CvmStatus.DELETING,
}

_BOOT: Final = (Step.AUTHORISE, Step.START, Step.RUNNING)


def plan(operation: OperationType, desired: Desired, *, force: bool = False) -> tuple[Step, ...]:
    """The steps of an operation on a CVM that is wanted as `desired`. `force` gives the app no time to end."""
    end = (Step.STOP if force else Step.SHUTDOWN, Step.STOPPED)
    if operation in UPDATES:
        return (*end, Step.CHANGE, *_BOOT) if desired is Desired.RUNNING else (Step.CHANGE,)
    match operation:
        case OperationType.CREATE | OperationType.REPLICATE:
            return (Step.TAKE_IN, *_BOOT)
        case OperationType.START:
            return _BOOT
        case OperationType.RESTART:
            return (*end, *_BOOT)
        case OperationType.STOP:
            return (Step.STOP, Step.STOPPED)
        case OperationType.SHUTDOWN:
            return (Step.SHUTDOWN, Step.STOPPED)
        case _:
            return (Step.REMOVE, Step.REMOVED)


def target(operation: OperationType, desired: Desired) -> CvmStatus:
    """The status that the operation works towards."""
    if operation is OperationType.DELETE:
        return CvmStatus.DELETED
    if operation in {OperationType.STOP, OperationType.SHUTDOWN}:
        return CvmStatus.STOPPED
    if operation in UPDATES and desired is Desired.STOPPED:
        return CvmStatus.STOPPED
    return CvmStatus.RUNNING
