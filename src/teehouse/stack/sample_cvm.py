"""The sample app in a CVM: deployed through the control plane's API, as a user deploys an app.

Rules:

1. Its app id is fixed in the folder before it is deployed, so that each `up` finds it again, whatever came between.
2. Its port stays what it was. It is another one when something else has the port by now; as part of its environment
   it is sealed for the key that the KMS gives for the app.
3. On chain it is an app of the deployer's (`sample_onchain`); else one of the control plane's (`sample_deploying`).
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from teehouse.base.findings import unavailable
from teehouse.client.cloud import AsyncCloudClient
from teehouse.keys.appkeys import KmsRoot
from teehouse.keys.pem import spki_der
from teehouse.node.api import CvmPhase, CvmState, Node
from teehouse.stack.addresses import LOOPBACK
from teehouse.stack.chain_of_trust import Deployed
from teehouse.stack.cloud_emulated import ServedCloud
from teehouse.stack.installation import Installation
from teehouse.stack.onchain_emulated import Onchain
from teehouse.stack.sample import sample_compose
from teehouse.stack.sample_deploying import POLL, Sample
from teehouse.stack.sample_onchain import OnchainSample
from teehouse.stack.sample_record import RECORD, free_port, keep_record, read_record

START_SECONDS = 30.0  # for a loaded machine; the boot itself takes a fraction of a second
STOP_SECONDS = 5.0  # that the app gets to end by itself


@dataclass(frozen=True, slots=True)
class SampleCvm:
    """The running sample: how its CVM stands on the node, what was deployed, and its name in the API."""

    state: CvmState
    deployed: Deployed
    vm_uuid: str


async def port_is_lost(installation: Installation, node: Node) -> bool:
    """Whether somebody else has the sample's port by now (rule 2). To be asked before anything starts the sample."""
    record = read_record(installation.state / RECORD)
    if record is None:
        return False
    app_id = bytes.fromhex(record.app_id)
    if any(one.app_id == app_id and one.phase is CvmPhase.RUNNING for one in await node.list()):
        return False  # it has outlived the former process, and has the port itself
    try:
        socket.create_server((LOOPBACK, record.port)).close()
    except OSError:
        return True
    return False


async def start_sample(
    installation: Installation,
    node: Node,
    cloud: ServedCloud,
    onchain: Onchain | None = None,
    *,
    other_port: bool = False,
) -> SampleCvm:
    """Deploy the sample app, or find it again, and wait until it answers; on another port where that is wanted.

    Raises `MisuseError` or `CollateralError` with what failed, `EvidenceError` with what its contract refused.
    """
    kms = installation.kms if onchain is None else onchain.kms.root
    compose = sample_compose(spki_der(kms.ca.key.public_key()).hex())
    path = installation.state / RECORD
    async with (
        AsyncCloudClient(cloud.api_url, cloud.api_key) as client,
        _sample(client, node, compose, kms, onchain) as sample,
    ):
        try:
            async with asyncio.timeout(START_SECONDS):
                record = await sample.record(read_record(path))
                if other_port:
                    record = replace(record, port=free_port())
                keep_record(path, record)
                vm_uuid = await sample.deployed(record, changed=other_port)
                state = await sample.running(vm_uuid)
                await _answers(record.port)
        except TimeoutError:
            raise unavailable(
                "sample.silent",
                "the sample app",
                expected=f"an answer within {START_SECONDS:g} seconds",
                found="none",
                remedy="its log is in the node's folder, under its CVM's id",
            ) from None
    url = f"https://localhost:{record.port}"
    return SampleCvm(state, Deployed(url, compose, bytes.fromhex(record.app_id), kms), vm_uuid)


@asynccontextmanager
async def _sample(
    client: AsyncCloudClient, node: Node, compose: bytes, kms: KmsRoot, onchain: Onchain | None
) -> AsyncIterator[Sample]:
    """Rule 3."""
    if onchain is None:
        yield Sample(client, node, compose, kms)
        return
    async with onchain.writer() as writer, await onchain.reader() as reader:
        yield OnchainSample(
            client,
            node,
            compose,
            kms,
            reader=reader,
            writer=writer,
            kms_contract=onchain.record.kms_contract,
        )


async def _answers(port: int) -> None:
    """Wait until something listens on the port."""
    while True:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, port)
        except OSError:
            await asyncio.sleep(POLL)
            continue
        writer.close()
        await writer.wait_closed()
        return
