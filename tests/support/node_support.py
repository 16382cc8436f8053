"""A node of this process for tests: emulated machines, a KMS made to measure, apps that are files."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec
from starlette.routing import BaseRoute

from teehouse.attestation.envelope import decode_attestation
from teehouse.attestation.identity import identity_payload
from teehouse.base.clock import Clock, FixedClock
from teehouse.base.findings import TeehouseError, unavailable
from teehouse.guest.attest import Evidence
from teehouse.guest.service import GuestService
from teehouse.guest.tls import LeafSigner
from teehouse.keys.appkeys import AppKeys, KmsRoot, issue_app_keys, kms_root
from teehouse.keys.envbox import Variable, environment_public_key, seal_environment
from teehouse.keys.pem import certificate_pem, spki_der
from teehouse.kms.client.appkeys import KeyRequest, ReceivedKeys
from teehouse.kms.client.connection import KmsRefusedError
from teehouse.kms.client.temporary import Attest
from teehouse.node.api import CvmSpec, Resources
from teehouse.node.boot import BOOT_STEPS, Boot, BootParts, BootPlan, BootStep
from teehouse.node.local import LocalNode, NodeSettings
from teehouse.node.workload import ContainerState, WorkloadSpec, refusal
from teehouse.ratls.certificates import CertificateSpec, issue
from teehouse.ratls.csr import SigningRequest
from teehouse.ratls.read import CertificateEvidence
from teehouse.stack.driver_emulated import EmulatedDriver
from teehouse.tee_emulated.pki import EmulatedPki
from teehouse.wire.app_compose import AppCompose

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
CAPACITY = Resources(1024, 2048 * 1024**3, 4096 * 1024**3)
KMS_URLS = ("https://kms.test:9201",)
MEMORY = 2 * 1024**3
SEALING_KEY = b"\x5e" * 32
TEMPORARY = Path("/tmp")  # noqa: S108 - the shortest path there is; directories in it are made by mkdtemp


@cache
def emulated_pki() -> EmulatedPki:
    return EmulatedPki(b"\x07" * 32)


@cache
def root() -> KmsRoot:
    return kms_root(b"\x08" * 32, NOW)


def compose_file(**members: Any) -> bytes:
    compose = {"manifest_version": 2, "name": "app", "runner": "bash", "bash_script": "true"}
    return json.dumps({**compose, "key_provider": "kms", **members}).encode()


def cvm_spec(**members: Any) -> CvmSpec:
    """A CVM that boots, under a new id unless one is given."""
    spec = CvmSpec(uuid4().hex, "test", compose_file(), memory_size=MEMORY, disk_size=1024**2)
    return replace(spec, **members)


def app_keys(app_id: bytes, instance_id: bytes) -> AppKeys:
    return issue_app_keys(root(), app_id, instance_id, NOW, url=KMS_URLS[0]).keys


def encrypted(app_id: bytes, *variables: tuple[str, str]) -> bytes:
    """An environment for the app, as its owner would encrypt it."""
    secret = app_keys(app_id, b"").env_crypt_key
    listed = [Variable(key, value) for key, value in variables]
    return seal_environment(environment_public_key(secret), listed, ephemeral=b"\x31" * 32, iv=b"\x01" * 12)


class AppSigner:
    """Issues what it is asked for under the app's CA."""

    async def certify(
        self, request: SigningRequest, key: ec.EllipticCurvePrivateKey, evidence: Evidence
    ) -> tuple[str, ...]:
        app_id = identity_payload(evidence.log.runtime_events, "app-id") or b""
        authority = issue_app_keys(root(), app_id, b"", NOW).app_ca
        leaf = issue(CertificateSpec(subject=request.subject), key.public_key(), authority, NOW)
        return certificate_pem(leaf), certificate_pem(authority.certificate_der)


class FakeKms:
    """A `KeySource` that judges the log as a KMS does: no event after `boot-mr-done`. `fault` is raised instead."""

    def __init__(self, fault: TeehouseError | None = None) -> None:
        self.fault = fault
        self.asked: list[tuple[tuple[str, ...], bytes]] = []
        self.image_hash: bytes | None = None
        self.before: Callable[[], Awaitable[None]] | None = None

    async def obtain(self, urls: Sequence[str], request: KeyRequest, attest: Attest) -> ReceivedKeys:
        if self.before is not None:
            await self.before()
        if self.fault is not None:
            raise self.fault
        attestation = decode_attestation(await attest(bytes(64)))
        events = attestation.runtime_events
        assert events[-1].event == "boot-mr-done"
        app_id = identity_payload(events, "app-id") or b""
        instance_id = identity_payload(events, "instance-id") or b""
        assert (app_id, instance_id) == (request.identity.app_id, request.identity.instance_id)
        self.asked.append((tuple(urls), app_id))
        vm_image = bytes.fromhex(json.loads(request.vm_config)["os_image_hash"])
        image_hash = vm_image if self.image_hash is None else self.image_hash
        kms_id = spki_der(root().ca.key.public_key())
        evidence = CertificateEvidence(None, None, None, None, kms_id)
        return ReceivedKeys(app_keys(app_id, instance_id), image_hash, kms_id, b"", evidence)

    def signer(self, _keys: AppKeys, _vm_config: str) -> LeafSigner:
        return AppSigner()


class FileWorkload:
    """A `Workload` whose app runs while a file is there: it outlives the process, as the real ones do.

    `faults` by method are raised instead; `calls` are those of all workloads, `environments` what starts were given.
    """

    def __init__(self, apps: "FileApps", cvm_id: str, directory: Path) -> None:
        self._apps = apps
        self._cvm_id = cvm_id
        self._file = directory / "app.running"

    def _call(self, method: str) -> None:
        self._apps.calls.append((self._cvm_id, method))
        if (fault := self._apps.faults.get(method)) is not None:
            raise fault

    async def start(self, spec: WorkloadSpec) -> None:
        self._call("start")
        if spec.app_compose.pre_launch_script == "false":
            raise refusal("workload.pre-launch", "the pre-launch script", found="exit code 1")
        self._apps.environments.append(dict(spec.environment))
        with self._file.open("x") as file:
            file.write("1")

    async def stop(self, deadline: float) -> None:
        self._call("stop")
        self._apps.deadlines.append(deadline)
        if (slow := self._apps.slow_stop) is not None and deadline > 0 and self._file.exists():
            await slow()
        self._file.unlink(missing_ok=True)

    async def remove(self) -> None:
        self._call("remove")
        self._file.unlink(missing_ok=True)

    async def state(self) -> list[ContainerState]:
        self._call("state")
        return [ContainerState("app", "bash", "running", "Up")] if self._file.exists() else []

    async def adopt(self) -> bool:
        self._call("adopt")
        return self._file.exists()


class FileApps:
    """The factory of `FileWorkload`s, and what happened to all of them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.environments: list[dict[str, str]] = []
        self.deadlines: list[float] = []
        self.faults: dict[str, Exception] = {}
        self.slow_stop: Callable[[], Awaitable[None]] | None = None

    def __call__(self, cvm_id: str, directory: Path, compose: AppCompose) -> FileWorkload:
        if compose.runner == "nerdctl-compose":
            raise refusal("workload.runner", "runner of the app", found=compose.runner)
        return FileWorkload(self, cvm_id, directory)


def memory_directory() -> Path:
    """A directory that no disk is behind, where the machine has such: for tests of thousands of writes."""
    shared = Path("/dev/shm")  # noqa: S108 - memory
    return short_directory(shared if os.access(shared, os.W_OK) else TEMPORARY)


def short_directory(parent: Path = TEMPORARY) -> Path:
    """A directory whose path leaves room for those of sockets; it goes with the process."""
    directory = Path(tempfile.mkdtemp(prefix="th", dir=parent))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


class TestNode:
    """The parts of a node, and nodes made of them: each one is another life on the same directory."""

    __test__ = False

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock | None = None,
        capacity: Resources = CAPACITY,
        sockets: Path | None = None,
    ) -> None:
        self.directory = directory
        self.capacity = capacity
        self.clock = clock or FixedClock(NOW)
        self.kms = FakeKms()
        self.apps = FileApps()
        self.driver = EmulatedDriver(emulated_pki())
        self.host_boot = "boot-1"
        self.sealing_key = SEALING_KEY
        self.pages_host = "127.0.0.1"
        self.pages: Callable[[BootPlan, GuestService], Sequence[BaseRoute]] = lambda _plan, _service: ()
        self.sockets = sockets or short_directory()

    def node(self, *, steps: Sequence[BootStep] = BOOT_STEPS, watch_interval: float = 60.0) -> LocalNode:
        parts = BootParts(self.driver, self.kms, self.clock, KMS_URLS, "test", pages=self.pages)
        settings = NodeSettings("node-1", self.capacity, self.sockets, self.pages_host)
        return LocalNode(
            self.directory,
            settings,
            parts,
            self.apps,
            sealing_key=self.sealing_key,
            steps=steps,
            host_boot=lambda: self.host_boot,
            watch_interval=watch_interval,
        )

    def secrets_on_disk(self, keys: AppKeys) -> list[str]:
        """The files below the node's directory that hold anything of the keys, in bytes or in text."""
        wanted = (keys.k256_key, keys.env_crypt_key, keys.disk_crypt_key)
        needles = [needle for key in wanted for needle in (key, key.hex().encode())]
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        return [path.name for path in files if any(needle in path.read_bytes() for needle in needles)]

    def sealed(self, cvm_id: str) -> str:
        """The sealed keys of the CVM's record, as they are on disk."""
        record = json.loads((self.directory / "cvms" / cvm_id / "state.json").read_bytes())
        return str(record["sealed_keys"])

    def leftovers(self, cvm_id: str) -> list[str]:
        """What a CVM that does not run has left: machine, sockets, app, keys."""
        directory = self.directory / "cvms" / cvm_id
        found = (directory / "machine", self.sockets / cvm_id, directory / "app.running")
        left = [path.name for path in found if path.exists()]
        return [*left, "keys"] if directory.exists() and self.sealed(cvm_id) else left


def replaced(name: str, step: Callable[[Boot], Awaitable[None]]) -> tuple[BootStep, ...]:
    """The boot's steps with one replaced."""
    return tuple((known, step if known == name else work) for known, work in BOOT_STEPS)


def step_names(steps: Iterable[BootStep] = BOOT_STEPS) -> list[str]:
    return [name for name, _ in steps]


def no_engine() -> TeehouseError:
    return unavailable("workload.engine", "no Docker Engine", remedy="install one")


def kms_refusal() -> KmsRefusedError:
    return KmsRefusedError(unavailable("kms.denied", "the KMS refuses").finding)
