"""What `Info` answers: made once, kept until an event is emitted (guest-agent.md 4.4, 13.5).

Rules:

I1. One attestation over zero report data stands behind all answers. It is taken anew, in the background or
    by the next caller, when the log has grown; callers who wait for it share it.
I2. The demonstration certificate is issued in the background; while there is none it is empty, and callers
    have it tried again (guest-agent.md 15, 5), though not within `CERTIFICATE_PAUSE` of the last try: each
    costs a quote, and callers from outside shall not be able to ask for many.
I3. Where app-compose says `public_tcbinfo: false` the public answer has no TCB info and no vm_config.
I4. An answer is encoded once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from teehouse.attestation.abi import REPORT_DATA_SIZE
from teehouse.base.findings import TeehouseError
from teehouse.guest.attest import EvidenceSource
from teehouse.rpc.app import Prepared
from teehouse.wire import guest_pb2 as wire
from teehouse.wire.app_compose import AppCompose

API_VERSION = "0.5.11"  # clients compare it: the 0.5 path of the SDKs (guest-agent.md 4.9)
CERTIFICATE_PAUSE = 5.0  # seconds
GPU_EVIDENCE = Path("/run/nvidia-gpu-attestation/attestation.out")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """What the agent knows beside its evidence: `build` goes into `rev`, the cloud names into `Info`."""

    compose: AppCompose
    build: str = ""
    cloud_vendor: str = ""
    cloud_product: str = ""
    attestation_in_quote: bool = False
    gpu_evidence: Path = GPU_EVIDENCE

    @property
    def app_version(self) -> str:
        """The value of the `X-App-Version` header (guest-agent.md 2.7)."""
        return f"v{API_VERSION} ({self.build})"


@dataclass(frozen=True, slots=True)
class InfoAnswers:
    """`Info` for those inside, and for the outside (I3)."""

    full: Prepared
    public: Prepared


class InfoSource:
    """Keeps the answers of `Info`. `issue_certificate` makes the demonstration chain, PEM joined by LF."""

    def __init__(
        self, source: EvidenceSource, facts: GuestFacts, issue_certificate: Callable[[], Awaitable[str]]
    ) -> None:
        self._source = source
        self._facts = facts
        self._issue_certificate = issue_certificate
        self._certificate = ""
        self._next_try = 0.0
        self._message: wire.AppInfo | None = None
        self._answers: InfoAnswers | None = None
        self._events = -1
        self._lock = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def certificate(self) -> str:
        """The demonstration chain, empty while there is none (I2)."""
        return self._certificate

    def start(self) -> None:
        """Begin to make the first answers. Needs a running event loop."""
        self._in_background("Info", self._refresh)
        self._in_background("the demonstration certificate", self._certify)

    def outdated(self) -> None:
        """An event was emitted: have the next answers ready before they are asked for."""
        self._in_background("Info", self._refresh)

    async def stop(self) -> None:
        """End what runs in the background."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def current(self) -> InfoAnswers:
        """The answers for the log as it stands. Raises `PlatformError`."""
        if not self._certificate and asyncio.get_running_loop().time() >= self._next_try:
            self._in_background("the demonstration certificate", self._certify)
        if self._events != len(self._source.log.events):
            await self._refresh()
        if self._answers is None:
            self._answers = self._encoded()
        return self._answers

    def _encoded(self) -> InfoAnswers:
        full = wire.AppInfo()
        if self._message is not None:
            full.CopyFrom(self._message)
        full.app_cert = self._certificate
        if self._facts.compose.public_tcbinfo:
            prepared = Prepared(full)
            return InfoAnswers(prepared, prepared)
        public = wire.AppInfo()
        public.CopyFrom(full)
        public.tcb_info = public.vm_config = ""
        return InfoAnswers(Prepared(full), Prepared(public))

    async def _refresh(self) -> None:
        async with self._lock:
            if self._events == len(self._source.log.events):
                return
            evidence = await self._source.take(bytes(REPORT_DATA_SIZE))
            compose = self._facts.compose
            td, identity = self._source.identify(evidence)
            self._message = wire.AppInfo(
                app_id=identity.app_id,
                instance_id=identity.instance_id,
                tcb_info=self._source.tcb_info(evidence, td, identity, compose.text),
                app_name=compose.name,
                device_id=identity.device_id,
                mr_aggregated=identity.mr_aggregated,
                os_image_hash=identity.os_image_hash,
                key_provider_info=_text_or_nothing(identity.key_provider_info),
                compose_hash=identity.compose_hash,
                vm_config=self._source.vm_config,
                cloud_vendor=self._facts.cloud_vendor,
                cloud_product=self._facts.cloud_product,
            )
            self._events = len(evidence.log.runtime_events)
            self._answers = None

    async def _certify(self) -> None:
        self._next_try = asyncio.get_running_loop().time() + CERTIFICATE_PAUSE
        self._certificate = await self._issue_certificate()
        self._answers = None

    def _in_background(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        if what not in self._tasks:
            self._tasks[what] = asyncio.create_task(self._run(what, work))

    async def _run(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except TeehouseError as error:
            _logger.warning("%s could not be made: %s", what, error.finding.code)
        except Exception as error:  # noqa: BLE001 (nobody waits for the task; the next caller tries again)
            _logger.error("%s could not be made: %s", what, type(error).__name__)  # noqa: TRY400 (texts may quote values)
        finally:
            del self._tasks[what]


def _text_or_nothing(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""
