"""What can be seen of a running CVM through its node and its agent.

Rule: a node or an agent that does not answer within `DEADLINE` seconds is an error in the answer, in words for
people; the rest of the answer stands.
"""

import asyncio
from typing import Any, Final

import structlog

from teehouse.base.findings import TeehouseError
from teehouse.cloud.attestations.agents import AgentReader
from teehouse.cloud.attestations.services import NOT_REACHED, NOT_RUNNING
from teehouse.cloud.cvms.models import CvmStatus
from teehouse.cloud.cvms.records import CvmRow
from teehouse.cloud.cvms.sysinfo import read_sysinfo
from teehouse.cloud.nodes.directory import NodeDirectory
from teehouse.node.api import CvmState

DEADLINE: Final = 5.0  # seconds
NODE_SILENT: Final = "The CVM's node cannot be reached"
HIDDEN: Final = "System info of this CVM is not public"

log = structlog.stdlib.get_logger("teehouse.cloud.cvms")


async def observed_state(nodes: NodeDirectory, cvm: CvmRow) -> tuple[CvmState | None, str | None]:
    """How the CVM stands on its node, or why nobody can say."""
    if cvm.status != CvmStatus.RUNNING:
        return None, NOT_RUNNING
    if cvm.node_id is None:
        return None, NODE_SILENT
    try:
        async with asyncio.timeout(DEADLINE):
            return await nodes.node(cvm.node_id).state(cvm.vm_uuid), None
    except (TeehouseError, TimeoutError) as error:
        log.warning("node does not tell", vm_uuid=cvm.vm_uuid, error=str(error))
        return None, NODE_SILENT


async def observed_sysinfo(
    agents: AgentReader | None, cvm: CvmRow
) -> tuple[dict[str, Any] | None, str | None]:
    """The guest's figures, or why there are none."""
    if cvm.status != CvmStatus.RUNNING:
        return None, NOT_RUNNING
    if not cvm.public_sysinfo:
        return None, HIDDEN
    if agents is None or cvm.node_id is None:
        return None, NOT_REACHED
    try:
        async with asyncio.timeout(DEADLINE):
            found = read_sysinfo(await agents.metrics(cvm.node_id, cvm.vm_uuid))
    except (TeehouseError, TimeoutError) as error:
        log.warning("agent does not tell", vm_uuid=cvm.vm_uuid, error=str(error))
        return None, NOT_REACHED
    return found, None if found is not None else NOT_REACHED
