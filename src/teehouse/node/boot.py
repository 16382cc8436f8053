"""The boot of one CVM: a fixed sequence of named steps (design.md 4, trust.md 8.3, 13.5 and 14).

| Step | What it does |
|---|---|
| `compose` | the app-compose file is read; every fault is told |
| `launch-token` | the token in user_config is the one that the compose file asks for |
| `machine` | what an earlier boot may have left is ended; a fresh machine is launched |
| `measure-app` | `system-preparing` to `boot-mr-done` go into RTMR3 |
| `keys` | temporary certificate, KMS over RA-TLS, keys; or keys of its own, without KMS |
| `environment` | the encrypted environment is opened, and filtered by `allowed_envs` |
| `measure-system` | `os-image-hash` to `system-ready` go into RTMR3 |
| `agent` | the agent listens |
| `workload` | pre-launch script, then the app |

Rules:

B1. The order is the security: nothing secret is asked for before app and instance are measured, and nothing of the
    app runs before `system-ready`.
B2. A step that fails ends the boot. `BootError` says which step, and why, without anything secret; `undo` then
    leaves nothing behind: no process, no socket, no machine, no key.
B3. Keys stay in memory. Whether and how they are kept is for the caller to decide, when the boot has ended well.
B4. With key provider `none` each boot makes keys of its own, as the data they protect is of that boot alone
    (guest-agent.md 10.5); with `kms` they come from the KMS. Other key providers are refused.
"""

import asyncio
import logging
import secrets
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

from starlette.routing import BaseRoute

from teehouse.attestation.identity import mr_config_id_v1
from teehouse.attestation.mrconfig import ConfiguredIdentity
from teehouse.base.clock import Clock
from teehouse.base.findings import CollateralError, EvidenceError, TeehouseError, misuse
from teehouse.base.hashes import sha256
from teehouse.guest.agent import GuestAgent
from teehouse.guest.attest import EvidenceSource
from teehouse.guest.boot import (
    BootIdentity,
    BootKeys,
    StorageFs,
    is_ready,
    key_provider_payload,
    measure_after_keys,
    measure_before_keys,
)
from teehouse.guest.measurements import MeasurementLog
from teehouse.guest.service import GuestService
from teehouse.guest.tls import LeafSigner, local_signer
from teehouse.keys.appkeys import AppKeys, KmsProvider, generate_without_kms
from teehouse.keys.derive import KEY_SIZE
from teehouse.keys.envbox import check_launch_token, filter_environment, open_environment
from teehouse.kms.client.appkeys import KeyRequest
from teehouse.node.agents import AgentPlace, forget_sockets, start_agent
from teehouse.node.api import CvmSpec
from teehouse.node.boot_faults import BootError
from teehouse.node.boot_inputs import boot_identity, check_key_provider, launch_token
from teehouse.node.driver import CvmDriver, Machine, MachineRequest
from teehouse.node.key_source import KeySource
from teehouse.node.workload import Limits, PortsPolicy, Workload, WorkloadSpec
from teehouse.tee.platform import platform_error
from teehouse.wire.app_compose import AppCompose, parse_app_compose

_logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BootParts:
    """What all boots of a node share.

    `build` goes into `Info`; `random_bytes` makes keys where there is no KMS; `pages` makes, for the CVM of a plan,
    what its agent shows to the outside beside its methods.
    """

    driver: CvmDriver
    key_source: KeySource
    clock: Clock
    kms_urls: tuple[str, ...] = ()
    build: str = ""
    ports: PortsPolicy = field(default_factory=PortsPolicy)
    limits: Limits = field(default_factory=Limits)
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    pages: "Callable[[BootPlan, GuestService], Sequence[BaseRoute]]" = lambda _plan, _service: ()


@dataclass(frozen=True, slots=True)
class BootPlan:
    """What one boot is given: the spec, the identity (`app_id` and `instance_seed` 20 bytes each), the places."""

    spec: CvmSpec
    app_id: bytes
    instance_seed: bytes
    directory: Path
    place: AgentPlace
    workload: Workload

    @property
    def machine_directory(self) -> Path:
        """Where the driver's state and the runtime event log are."""
        return self.directory / "machine"


@dataclass(slots=True)
class Boot:
    """A boot under way, and what its steps have made so far; afterwards, what a running CVM holds in memory.

    `tell` is given what a person may want to read, one sentence each. `touched` says that the runner may have left
    something; `touch` is awaited before it first may.
    """

    parts: BootParts
    plan: BootPlan
    tell: Callable[[str], None]
    touch: Callable[[], Awaitable[None]]
    touched: bool = False
    compose: AppCompose | None = None
    identity: BootIdentity | None = None
    machine: Machine | None = None
    log: MeasurementLog | None = None
    source: EvidenceSource | None = None
    keys: AppKeys | None = field(default=None, repr=False)
    signer: LeafSigner | None = field(default=None, repr=False)
    measured_keys: BootKeys | None = None
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    agent: GuestAgent | None = None
    pages_url: str = ""
    pages_port: int = 0


BootStep = tuple[str, Callable[[Boot], Awaitable[None]]]


async def run_boot(boot: Boot, steps: Sequence[BootStep], at_step: Callable[[str], None]) -> None:
    """Go through the steps, each told to `at_step` first. Raises `BootError` (B2); the caller then calls `undo`."""
    for name, step in steps:
        at_step(name)
        try:
            await step(boot)
        except Exception as error:
            if not isinstance(error, TeehouseError):
                _logger.exception("boot step %s of %s", name, boot.plan.spec.cvm_id)
            raise BootError(_step_of(name, error), error) from error
    boot.environment = {}  # the app has it; nobody here needs it again


def _step_of(name: str, error: Exception) -> str:
    """The pre-launch script is a step of its own to those who read of it."""
    if isinstance(error, TeehouseError) and error.finding.code == "workload.pre-launch":
        return "pre-launch"
    return name


async def undo(boot: Boot, deadline: float) -> None:
    """End all that the boot has made, the app first, within `deadline` seconds (B2). Raises the first refusal."""
    problems: list[Exception] = []

    async def attempt(work: Awaitable[object]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the rest is ended all the same; raised below
            problems.append(error)

    if boot.touched:
        await attempt(boot.plan.workload.stop(deadline))
    if boot.agent is not None:
        await attempt(boot.agent.stop())
    elif boot.log is not None:
        await attempt(boot.log.close())
    await attempt(boot.parts.driver.destroy(machine_request(boot.plan)))
    await asyncio.to_thread(clear_places, boot.plan)
    boot.keys = boot.signer = boot.agent = boot.log = boot.source = boot.machine = None
    boot.environment = {}
    if problems:
        raise problems[0]


def clear_places(plan: BootPlan) -> None:
    """Remove what a machine and an agent leave on the disk."""
    shutil.rmtree(plan.machine_directory, ignore_errors=True)
    forget_sockets(plan.place.directory)
    shutil.rmtree(plan.place.directory, ignore_errors=True)


async def resume(boot: Boot, keys: AppKeys) -> None:
    """Bring the agent of a CVM back that ran when the node process ended: same sockets, registers and keys.

    Raises `TeehouseError`, OSError.
    """
    await _read_compose(boot)
    request = machine_request(boot.plan)
    boot.machine = await boot.parts.driver.resume(request)
    await _open_log(boot)
    log, source = _made(boot.log), _made(boot.source)
    if not is_ready(log.events):
        raise platform_error(
            "node.resume-log",
            "the runtime event log of a CVM that ran",
            expected="a finished boot",
            found=f"{len(log.events)} events",
            remedy="start the CVM; it then boots anew",
        )
    boot.keys = keys
    boot.signer = _signer(boot, keys, source)
    await _listen(boot)


def machine_request(plan: BootPlan) -> MachineRequest:
    """The machine of this CVM; MR_CONFIG_ID holds the compose hash (trust.md 8.6, version 1)."""
    spec = plan.spec
    return MachineRequest(
        spec.cvm_id,
        plan.machine_directory,
        spec.cpu_count,
        spec.memory_size,
        spec.image,
        mr_config_id_v1(sha256(spec.compose)),
    )


async def _read_compose(boot: Boot) -> None:
    plan = boot.plan
    compose = parse_app_compose(plan.spec.compose)
    check_key_provider(compose, has_environment=bool(plan.spec.encrypted_env))
    boot.identity = boot_identity(plan.app_id, plan.instance_seed, compose)
    boot.compose = compose


async def _check_token(boot: Boot) -> None:
    wanted = _made(boot.compose).launch_token_hash
    if wanted is not None:
        finding = check_launch_token(launch_token(boot.plan.spec.user_config), wanted)
        if not finding.ok:
            raise EvidenceError(finding)


async def _launch(boot: Boot) -> None:
    plan, request = boot.plan, machine_request(boot.plan)
    if boot.touched:
        await plan.workload.stop(0)
    await boot.parts.driver.destroy(request)
    await asyncio.to_thread(clear_places, plan)
    plan.machine_directory.mkdir(mode=0o700)
    boot.machine = await boot.parts.driver.launch(request)
    await _open_log(boot)


async def _open_log(boot: Boot) -> None:
    machine = _made(boot.machine)
    version = _made(boot.compose).event_log_version
    boot.log = MeasurementLog(machine.platform, boot.plan.machine_directory, version)
    await boot.log.open()
    boot_events = await asyncio.to_thread(machine.platform.boot_events)
    boot.source = EvidenceSource(boot.log, boot_events, machine.vm_config)


async def _measure_app(boot: Boot) -> None:
    await measure_before_keys(_made(boot.log), _made(boot.identity))


async def _get_keys(boot: Boot) -> None:
    compose, source = _made(boot.compose), _made(boot.source)
    storage = cast("StorageFs", compose.storage_fs or "ext4")  # the parser lets no other name pass
    if compose.key_provider == "none":
        seed = boot.parts.random_bytes(KEY_SIZE)
        boot.keys = generate_without_kms(seed, boot.parts.clock.now())
        boot.measured_keys = BootKeys(key_provider_payload("none"), None, storage)
    else:
        received = await boot.parts.key_source.obtain(
            boot.plan.spec.kms_urls or boot.parts.kms_urls, _key_request(boot), _attest(source)
        )
        boot.keys = received.keys
        payload = key_provider_payload("kms", received.kms_id.hex())
        boot.measured_keys = BootKeys(payload, received.os_image_hash or None, storage)
    boot.signer = _signer(boot, boot.keys, source)


def _key_request(boot: Boot) -> KeyRequest:
    identity, compose = _made(boot.identity), _made(boot.compose)
    configured = ConfiguredIdentity(
        identity.compose_hash,
        identity.app_id,
        instance_id=identity.instance_id,
        init_script_hashes=identity.init_script_hashes,
    )
    return KeyRequest(
        vm_config=_made(boot.machine).vm_config,
        identity=configured,
        mr_config_id=machine_request(boot.plan).mr_config_id,
        key_provider_id=compose.key_provider_id,
    )


def _attest(source: EvidenceSource) -> Callable[[bytes], Awaitable[bytes]]:
    async def attest(report_data: bytes) -> bytes:
        return (await source.take(report_data)).certificate_attestation()

    return attest


def _signer(boot: Boot, keys: AppKeys, source: EvidenceSource) -> LeafSigner:
    if isinstance(keys.key_provider, KmsProvider):
        return boot.parts.key_source.signer(keys, _made(boot.machine).vm_config)
    return local_signer(keys, source, boot.parts.clock)


async def _open_environment(boot: Boot) -> None:
    box = boot.plan.spec.encrypted_env
    if not box:
        return
    variables = open_environment(_made(boot.keys).env_crypt_key, box)
    kept, dropped = filter_environment(variables, _made(boot.compose).allowed_envs)
    for finding in dropped:
        boot.tell(finding.sentence())
    boot.environment = {variable.key: variable.value for variable in kept}


async def _measure_system(boot: Boot) -> None:
    await measure_after_keys(_made(boot.log), _made(boot.identity), _made(boot.measured_keys))


async def _listen(boot: Boot) -> None:
    agent, url, port = await start_agent(
        boot.plan.place,
        boot.parts.driver,
        log=_made(boot.log),
        source=_made(boot.source),
        keys=_made(boot.keys),
        signer=_made(boot.signer),
        compose=_made(boot.compose),
        clock=boot.parts.clock,
        build=boot.parts.build,
        pages=partial(boot.parts.pages, boot.plan),
    )
    boot.agent, boot.pages_url, boot.pages_port = agent, url, port


async def _run_workload(boot: Boot) -> None:
    plan = boot.plan
    spec = WorkloadSpec(
        cvm_id=plan.spec.cvm_id,
        directory=plan.directory,
        app_compose=_made(boot.compose),
        socket_directory=plan.place.directory,
        environment=boot.environment,
        ports=boot.parts.ports,
        limits=boot.parts.limits,
    )
    before = boot.touched
    if not before:
        await boot.touch()
    boot.touched = True
    try:
        await plan.workload.start(spec)
    except (
        CollateralError
    ):  # no engine, no program: nothing was begun that this machine could not even ask after
        boot.touched = before
        raise


def _made(value: T | None) -> T:
    """What an earlier step has made."""
    if value is None:
        raise misuse("node.boot-order", "a boot step came before the one it needs")
    return value


BOOT_STEPS: tuple[BootStep, ...] = (
    ("compose", _read_compose),
    ("launch-token", _check_token),
    ("machine", _launch),
    ("measure-app", _measure_app),
    ("keys", _get_keys),
    ("environment", _open_environment),
    ("measure-system", _measure_system),
    ("agent", _listen),
    ("workload", _run_workload),
)
