"""What contracts say, read from their chains (onchain.md 3, 4, 6.1; cloud-api.md 11.8 to 11.10).

Rules:

1. All questions of one call are of one block, and asked in one call to the chain's reader; an answer is kept for
   that block only.
2. A chain that cannot be asked, is not known here, or takes longer than the deadline, is `CollateralError`. A
   contract that refuses, answers nonsense or is none is no fault of the chain: it allows nothing, and its verdict
   says why.
3. The id of a chain is what decides which one is asked; its reader checks that the endpoint is of that chain.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from teehouse.base.findings import EvidenceError, unavailable
from teehouse.chain import calls as abi
from teehouse.chain.app import AppQuestion, decoded, devices_allowed, verdicts
from teehouse.chain.reader import Answer, Call, Reader
from teehouse.cloud.allowlists.block_cache import BlockCache
from teehouse.cloud.allowlists.services import ContractState, KmsContractState, Question, Verdict

DEADLINE: Final = 10.0  # seconds for one call, whatever the reader does

T = TypeVar("T")


class OnchainContracts:
    """`ContractReader` and `KmsContractReader` over `readers`, by chain id. It closes them."""

    def __init__(self, readers: Mapping[int, Reader], *, deadline: float = DEADLINE) -> None:
        self._readers = {chain_id: BlockCache(reader) for chain_id, reader in readers.items()}
        self._deadline = deadline

    @property
    def chain_ids(self) -> frozenset[int]:
        """The chains that can be asked."""
        return frozenset(self._readers)

    async def ask(self, chain_id: int, address: str, questions: Sequence[Question]) -> list[Verdict]:
        """One verdict for each question (rules 1, 2). Raises `CollateralError`."""
        contract = _bytes(address)
        asked = [
            AppQuestion(contract, _bytes(question.compose_hash), _bytes(question.device_id) or None)
            for question in questions
        ]
        _, found = await self.read(chain_id, lambda reader: verdicts(reader, asked))
        return [
            Verdict(
                compose_hash_allowed=one.compose_hash_allowed,
                allow_any_device=one.allow_any_device,
                device_allowed=one.device_allowed,
                error=one.error or None,
            )
            for one in found
        ]

    async def devices(self, chain_id: int, address: str, device_ids: Sequence[str]) -> ContractState:
        """Which of the devices are listed. Raises `CollateralError`, `EvidenceError` for a contract that is none."""
        asked = [_bytes(device) for device in device_ids]
        _, any_device, listed = await self.read(
            chain_id, lambda reader: devices_allowed(reader, _bytes(address), asked)
        )
        return ContractState(any_device, dict(zip(device_ids, listed, strict=True)))

    async def kms(
        self, chain_id: int, address: str, device_ids: Sequence[str], images: Sequence[str]
    ) -> KmsContractState:
        """Which devices may run the KMS, and which OS images its apps may boot. Raises `CollateralError`."""
        contract = _bytes(address)
        calls = [Call(contract, abi.KMS_ALLOWED_DEVICE_IDS(_bytes(device))) for device in device_ids]
        calls += [Call(contract, abi.ALLOWED_OS_IMAGES(_bytes(image))) for image in images]
        if not calls:
            return KmsContractState()
        _, answers = await self.read(chain_id, lambda reader: reader.call_many(calls))
        split = len(device_ids)
        return KmsContractState(_said(device_ids, answers[:split]), _said(images, answers[split:]))

    async def read(self, chain_id: int, ask: Callable[[Reader], Awaitable[T]]) -> T:
        """What `ask` finds on the chain, within the deadline. Raises `CollateralError` (rules 2, 3)."""
        reader = self._readers.get(chain_id)
        if reader is None:
            raise unavailable(
                "cloud.no-chain",
                f"No way to chain {chain_id}",
                expected="one of those that are configured",
                remedy="start the control plane with an endpoint of this chain",
            )
        try:
            async with asyncio.timeout(self._deadline):
                return await ask(reader)
        except TimeoutError:
            raise unavailable(
                "cloud.chain-slow",
                f"Chain {chain_id} did not answer within {self._deadline:g} seconds",
                remedy="try again, or check its endpoint",
            ) from None

    async def aclose(self) -> None:
        """Close the readers."""
        for reader in self._readers.values():
            await reader.aclose()


def _said(keys: Sequence[str], answers: Sequence[Answer]) -> dict[str, bool]:
    """The answers that are any."""
    said = {}
    for key, answer in zip(keys, answers, strict=True):
        try:
            said[key] = decoded(answer, abi.decode_bool)
        except EvidenceError:
            continue
    return said


def _bytes(text: str) -> bytes:
    """Hex with or without `0x`, as this package's callers have checked it."""
    return bytes.fromhex(text.removeprefix("0x"))
