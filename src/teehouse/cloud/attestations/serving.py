"""The way to agents, opened and closed with the control plane."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from teehouse.cloud.attestations.agents import NodeAgentReader
from teehouse.cloud.attestations.services import DEADLINE
from teehouse.cloud.attestations.transport import AgentTransport
from teehouse.cloud.parts import CloudParts


@asynccontextmanager
async def reading_agents(parts: CloudParts) -> AsyncIterator[None]:
    """A lifespan of the application: while it lasts, agents are asked over HTTP (agents, rule 2)."""
    async with httpx.AsyncClient(
        transport=AgentTransport(), timeout=DEADLINE, trust_env=False, follow_redirects=False
    ) as client:
        parts.agents = NodeAgentReader(parts.nodes, client)
        try:
            yield
        finally:
            parts.agents = None
