"""The published phala-cloud 0.2.0, unmodified, calls every method it has against a running Teehouse (cloud-api.md 2.2).

Both its clients, at all four dated versions. What is refused is named: what 2.2 shows to be impossible, and the
questions about an app's contract, which an app whose KMS is off chain has none of. Apps on chain are driven by
tests/functional/test_up_chain.py.
"""

from typing import Any

import pytest

from support.phala_cloud_installed import need_phala_cloud

need_phala_cloud()
pytest.register_assert_rewrite("support.phala_cloud_journey")

from phala_cloud import AsyncPhalaCloud, PhalaCloud  # noqa: E402 - where it is not installed, the file is skipped

from support.phala_cloud_journey import travel  # noqa: E402
from support.phala_cloud_support import (  # noqa: E402
    IMPOSSIBLE,
    KINDS,
    NEED_A_CHAIN,
    V1,
    V2,
    VERSIONS,
    YAML,
    Journey,
    Place,
    methods,
)

EVERY = 73  # calls; the client's life cycle and two helpers that its own package lacks are none
BASH = {
    "runner": "bash",
    "bash_script": "echo greeted $GREETING\nexec sleep 3600\n",
    "docker_compose_file": YAML,
}


def place_of(teehouse: Any) -> Place:
    return Place(
        api_url=teehouse.api_url,
        key=teehouse.api_key,
        workspace=teehouse.ready["workspace"],
        kms="phala",
        boots=BASH,
        greets=True,
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_is_accepted_but_the_impossible(teehouse: Any, kind: str, version: str) -> None:
    on = Journey(place_of(teehouse), kind, version)
    try:
        await travel(on)
    finally:
        await on.close()
    assert set(on.outcomes) == methods(PhalaCloud if kind == "sync" else AsyncPhalaCloud)
    assert len(on.outcomes) == EVERY
    assert on.refused() == {**IMPOSSIBLE[version], **NEED_A_CHAIN}
    assert EVERY - len(on.refused()) == {V1: 61, V2: 70}.get(version, 71)
