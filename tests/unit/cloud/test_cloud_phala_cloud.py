"""The published phala-cloud 0.2.0 against a control plane in this process, with a KMS on chain (cloud-api.md 2.2).

Against a started Teehouse: tests/functional/test_cloud_python_client.py what needs no chain, and the same journey
on a real one, tests/functional/test_up_chain.py.
"""

import asyncio
from pathlib import Path

import pytest

from support.phala_cloud_installed import need_phala_cloud

need_phala_cloud()
pytest.register_assert_rewrite("support.phala_cloud_journey", "support.phala_cloud_onchain")

from support.phala_cloud_journey import inventory  # noqa: E402 - it imports the client, which may not be there
from support.phala_cloud_onchain import on_chain  # noqa: E402
from support.phala_cloud_place import place  # noqa: E402
from support.phala_cloud_support import (  # noqa: E402
    IMPOSSIBLE,
    IMPOSSIBLE_ON_CHAIN,
    KINDS,
    NEED_A_CHAIN,
    VERSIONS,
    Journey,
)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_about_an_app_on_chain_is_accepted_but_the_impossible(
    tmp_path: Path, kind: str
) -> None:
    async with place(tmp_path) as (there, _):
        journeys = [Journey(there, kind, version) for version in VERSIONS]
        try:
            await asyncio.gather(*(_travel(on) for on in journeys))
        finally:
            await asyncio.gather(*(on.close() for on in journeys))
    for on in journeys:
        impossible = {**IMPOSSIBLE[on.version], **IMPOSSIBLE_ON_CHAIN[on.version]}
        assert on.refused() == {method: why for method, why in impossible.items() if method in on.outcomes}
        assert set(NEED_A_CHAIN) <= set(on.outcomes)


async def _travel(on: Journey) -> None:
    await inventory(on)
    await on_chain(on)
