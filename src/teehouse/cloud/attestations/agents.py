"""How evidence comes from the agent of a CVM: what its external port tells everybody (guest-agent.md 6).

Rules:

1. An answer is read up to `ANSWER_LIMIT` bytes; a longer one, one that is not 200, and one that is no JSON object
   of text members is refused.
2. Redirects are not followed and proxies are not used: an agent is asked where its node says that it listens.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Protocol

import httpx

from teehouse.attestation import strictjson
from teehouse.base.findings import CollateralError, malformed, unavailable
from teehouse.cloud.nodes.directory import NodeDirectory

ANSWER_LIMIT: Final = 16 * 1024 * 1024  # bytes
_INFO: Final = "/prpc/Info"
_QUOTE: Final = "/prpc/GetAttestationForAppKey?algorithm=ed25519"


@dataclass(frozen=True, slots=True)
class AgentEvidence:
    """What an agent says of itself. `tcb_info` and `vm_config` are empty where the app hides them.

    `app_certificate` is a PEM chain, empty while there is none; `event_log` the text beside the quote.
    """

    app_certificate: str
    tcb_info: str
    vm_config: str
    quote: bytes
    event_log: str


class AgentReader(Protocol):
    """Asks agents."""

    async def evidence(self, node_id: int, vm_uuid: str) -> AgentEvidence:
        """Evidence of the CVM (32 hex digits) on the node.

        Raises `CollateralError` when it cannot be reached, `EvidenceError` for an answer that cannot be read.
        """
        ...

    async def metrics(self, node_id: int, vm_uuid: str) -> str:
        """The agent's metrics, as text. Raises `CollateralError`, also where the app hides them."""
        ...


class NodeAgentReader:
    """Asks the node where the agent listens, then the agent."""

    def __init__(self, nodes: NodeDirectory, client: httpx.AsyncClient) -> None:
        self._nodes = nodes
        self._client = client

    async def evidence(self, node_id: int, vm_uuid: str) -> AgentEvidence:
        state = await self._nodes.node(node_id).state(vm_uuid)
        if state.endpoints is None or not state.endpoints.pages_url:
            raise unavailable(
                "attestation.no-agent", "the agent of the CVM", found=f"phase {state.phase.value}"
            )
        base = state.endpoints.pages_url.rstrip("/")
        info, quote = await asyncio.gather(self._get(base + _INFO), self._get(base + _QUOTE))
        try:
            raw = bytes.fromhex(_text(quote, "quote"))
        except ValueError:
            raise malformed("attestation.quote", "the agent's quote is no hex") from None
        return AgentEvidence(
            app_certificate=_text(info, "app_cert"),
            tcb_info=_text(info, "tcb_info"),
            vm_config=_text(info, "vm_config"),
            quote=raw,
            event_log=_text(quote, "event_log"),
        )

    async def metrics(self, node_id: int, vm_uuid: str) -> str:
        base = await self._base(node_id, vm_uuid)
        return (await self._body(f"{base}/metrics")).decode(errors="replace")

    async def _base(self, node_id: int, vm_uuid: str) -> str:
        state = await self._nodes.node(node_id).state(vm_uuid)
        if state.endpoints is None or not state.endpoints.pages_url:
            raise unavailable(
                "attestation.no-agent", "the agent of the CVM", found=f"phase {state.phase.value}"
            )
        return state.endpoints.pages_url.rstrip("/")

    async def _get(self, url: str) -> dict[str, Any]:
        return strictjson.load_object(await self._body(url), "agent-answer", limit=ANSWER_LIMIT)

    async def _body(self, url: str) -> bytes:
        """Rule 1."""
        body = bytearray()
        try:
            async with self._client.stream("GET", url) as answer:
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > ANSWER_LIMIT:
                        raise malformed("attestation.too-long", "the agent's answer is too long")
        except httpx.HTTPError as error:
            raise _silent(url, type(error).__name__) from error
        if answer.status_code != httpx.codes.OK:
            raise _silent(url, f"HTTP {answer.status_code}")
        return bytes(body)


def _text(members: dict[str, Any], name: str) -> str:
    value = members.get(name, "")
    if not isinstance(value, str):
        raise malformed("attestation.answer", f"{name} of the agent's answer is no text")
    return value


def _silent(url: str, found: str) -> CollateralError:
    return unavailable("attestation.agent", f"the agent at {url}", expected="an answer", found=found)
