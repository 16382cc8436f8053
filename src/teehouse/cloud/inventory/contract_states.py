"""What the contracts of KMSs say of devices and OS images, asked for GET /kms/on-chain/{chain}."""

import asyncio
from collections.abc import Mapping, Sequence

from teehouse.base.findings import TeehouseError
from teehouse.cloud.allowlists.services import KmsContractReader, KmsContractState
from teehouse.cloud.inventory.models import KmsContract, OsImage


async def contract_states(
    reader: KmsContractReader | None,
    contracts: Sequence[KmsContract],
    devices: Mapping[int, Sequence[tuple[str, str]]],
    images: Mapping[int, Sequence[OsImage]],
) -> dict[int, KmsContractState]:
    """By contract, what it says of its nodes' devices and images; nothing where it cannot be asked."""

    async def ask(row: KmsContract) -> KmsContractState:
        if reader is None:
            return KmsContractState()
        hashes = [image.os_image_hash for image in images[row.id] if image.os_image_hash]
        try:
            return await reader.kms(
                row.chain_id, row.contract_address, [device for device, _ in devices[row.id]], hashes
            )
        except TeehouseError:
            return KmsContractState()

    found = await asyncio.gather(*(ask(row) for row in contracts))
    return {row.id: state for row, state in zip(contracts, found, strict=True)}
