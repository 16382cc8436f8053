"""Deploying an app: from a compose file and variables to a running CVM; no I/O (cloud-api.md 12.7, 13.2, 14.1).

Rules:

1. The compose file is provisioned first. Its hash, and the app id, are the server's answer, and are returned: who
   wants to check them hashes the compose file that an attestation shows.
2. Variables are sealed here, for a key that the app's KMS has signed for this app id. The KMS is known by its root
   key: the one the caller trusts, else the one that the control plane names for it. Only the former protects from
   a control plane that is not honest.
3. The key of the provision and the signed key must be the same. If not, nothing is sealed and nothing committed.
4. Provision and commit carry idempotency keys: what is sent again is not done again.
5. Waiting ends with the CVM running, with an error of its boot, or with the time.
6. An on-chain KMS needs a contract that only the owner can deploy; that is refused here before anything is sealed.
"""

import os
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse.base.findings import Finding, Outcome, misuse
from teehouse.client.cloud.calls import CloudCall, cvm_state, environment_key, kms_contract, present
from teehouse.client.cloud.errors import CloudRefusedError, CloudUnavailableError
from teehouse.keys.envbox import IV_SIZE, KEY_SIZE, Variable, check_environment_key, seal_environment
from teehouse.wire.cloud.base import Body
from teehouse.wire.cloud.kms import EnvironmentPublicKey, KmsContract
from teehouse.wire.cloud.lifecycle import ProvisionAnswer
from teehouse.wire.cloud.observations import CvmState

ROOT_KEY_SIZE: Final = 33  # bytes of a compressed secp256k1 key
OFF_CHAIN: Final = "phala"
RUNNING: Final = "running"
FAILED: Final = frozenset({"error", "exited", "deleted"})


class Committed(Body):
    """What of a commit's answer is read (12.6)."""

    name: str
    status: str
    app_id: str
    vm_uuid: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds to wait before the next question."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Deployment:
    """What was deployed. `status` is the last one that was seen."""

    name: str
    app_id: str
    vm_uuid: str
    compose_hash: str
    status: str


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be deployed. `compose` is a Docker Compose file, or the members of an app-compose file.

    `kms_root_key` is the KMS's root key, 33 bytes (rule 2). `timeout` and `poll` are seconds; with `wait` False the
    deployment is left to itself after the commit.
    """

    name: str
    compose: str | Mapping[str, Any] = field(repr=False)
    env: Mapping[str, str] | None = field(default=None, repr=False)
    kms: str = OFF_CHAIN
    kms_root_key: bytes | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    wait: bool = True
    timeout: float = 300.0
    poll: float = 1.0

    def __post_init__(self) -> None:
        if self.kms_root_key is not None and len(self.kms_root_key) != ROOT_KEY_SIZE:
            raise misuse(
                "cloud.kms-root-key",
                "root key of the KMS",
                expected=f"{ROOT_KEY_SIZE} bytes, compressed secp256k1",
                found=f"{len(self.kms_root_key)} bytes",
            )
        if self.poll <= 0 or self.timeout <= 0:
            raise misuse(
                "cloud.timeout", "timeout and poll", expected="seconds above 0", found="none above 0"
            )


Steps = Generator[CloudCall[Any] | Pause, Any, Deployment]


def steps(order: Order, clock: Callable[[], float], random: Callable[[int], bytes] = os.urandom) -> Steps:
    """What to ask, one after another: each yielded call is answered by sending its result, each `Pause` by None.

    `clock` gives seconds that only grow. Raises `MisuseError`, `CollateralError`.
    """
    nonce = secrets.token_hex(16)
    env = dict(order.env or {})
    provisioned: ProvisionAnswer = yield CloudCall(
        "POST",
        "/cvms/provision",
        ProvisionAnswer,
        body=provision_body(order, sorted(env)),
        idempotency_key=f"{nonce}-provision",
    )
    if provisioned.app_id is None:
        raise misuse(
            "cloud.on-chain",
            f"deploying with the KMS {order.kms}",
            expected="an off-chain KMS",
            found="one whose apps are contracts",
            remedy="deploy the app's contract with its owner's key, then commit",
        )
    app_id = provisioned.app_id
    box = None
    if env:
        key = yield from _environment_key(order, app_id, provisioned.app_env_encrypt_pubkey)
        variables = [Variable(name, value) for name, value in env.items()]
        box = seal_environment(key, variables, ephemeral=random(KEY_SIZE), iv=random(IV_SIZE)).hex()
    committed: Committed = yield CloudCall(
        "POST",
        "/cvms",
        Committed,
        body=present(
            {
                "app_id": app_id,
                "compose_hash": provisioned.compose_hash,
                "encrypted_env": box,
                "env_keys": sorted(env) or None,
            }
        ),
        idempotency_key=f"{nonce}-commit",
    )
    status = committed.status
    if order.wait and status != RUNNING:
        status = yield from _running(order, committed.vm_uuid, clock)
    return Deployment(committed.name, app_id, committed.vm_uuid, provisioned.compose_hash, status)


def provision_body(order: Order, env_keys: Sequence[str]) -> dict[str, Any]:
    """What is provisioned: the compose file names the variables that the app may get."""
    compose = order.compose
    given: dict[str, Any] = {"docker_compose_file": compose} if isinstance(compose, str) else dict(compose)
    if env_keys:
        given.setdefault("allowed_envs", list(env_keys))
    body = {"name": order.name, "compose_file": given, "kms": order.kms, "env_keys": list(env_keys) or None}
    return present({**body, **order.options})


def _environment_key(
    order: Order, app_id: str, promised: str | None
) -> Generator[CloudCall[Any], Any, bytes]:
    """The key that the app's KMS has signed (rules 2, 3)."""
    trusted = order.kms_root_key
    if trusted is None:
        contract: KmsContract = yield kms_contract(order.kms)
        if contract.k256_pubkey is None:
            raise misuse(
                "cloud.kms-root-key",
                f"root key of the KMS {order.kms}",
                expected="the caller's, or one that the control plane names",
                found="none",
                remedy="give kms_root_key, as the KMS's own GetMeta tells it",
            )
        trusted = _octets(contract.k256_pubkey, "the root key of the KMS")
    answer: EnvironmentPublicKey = yield environment_key(order.kms, app_id)
    public_key = _octets(answer.public_key, "the key for the encrypted environment")
    signature = _octets(answer.signature, "the signature over the key for the encrypted environment")
    app = _octets(app_id, "the app id")
    finding = check_environment_key(app, public_key, signature, trusted)
    if finding.ok and promised is not None and _octets(promised, "the key of the provision") != public_key:
        finding = Finding(
            "environment-key",
            "the key for the encrypted environment",
            Outcome.REJECTED,
            expected=answer.public_key,
            found=promised,
            remedy="the control plane names another key than the KMS has signed: encrypt nothing for it",
        )
    if not finding.ok:
        raise CloudRefusedError(finding)
    return public_key


def _octets(text: str, what: str) -> bytes:
    """The bytes that the control plane says as hex. Raises `CloudUnavailableError`."""
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise CloudUnavailableError(
            Finding("cloud.answer", what, Outcome.COLLATERAL_MISSING, expected="hex", found=ascii(text[:80]))
        ) from None


def _running(
    order: Order, vm_uuid: str, clock: Callable[[], float]
) -> Generator[CloudCall[Any] | Pause, Any, str]:
    """Rule 5."""
    end = clock() + order.timeout
    while True:
        state: CvmState = yield cvm_state(vm_uuid)
        if state.status == RUNNING:
            return state.status
        if state.status in FAILED:
            raise CloudRefusedError(
                Finding(
                    "cloud.boot",
                    f"the CVM {order.name} did not come up",
                    Outcome.MISUSE,
                    expected=RUNNING,
                    found=f"{state.status}: {state.boot_error}" if state.boot_error else state.status,
                    remedy="look at its logs, correct the compose file, and deploy again",
                )
            )
        if clock() >= end:
            raise CloudUnavailableError(
                Finding(
                    "cloud.deploy-timeout",
                    f"the CVM {order.name} is not up after {order.timeout:g} seconds",
                    Outcome.COLLATERAL_MISSING,
                    expected=RUNNING,
                    found=f"{state.status}: {state.boot_progress}" if state.boot_progress else state.status,
                    remedy="it may still come up: ask for its state",
                )
            )
        yield Pause(order.poll)
