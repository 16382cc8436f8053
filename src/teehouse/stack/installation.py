"""One emulated installation: a folder, its seed, and the PKI and keys that follow from it.

The folder (0700) holds what clients look for (sockets, `root-ca.pem`) and `state/` (0700) with everything
else. Deleting the folder deletes the installation: a new one has another root.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from teehouse.attestation.bundle import Collateral
from teehouse.attestation.roots import TrustedRoot
from teehouse.base.clock import Clock
from teehouse.base.files import write_atomic
from teehouse.base.findings import misuse
from teehouse.keys.appkeys import KmsRoot, kms_root
from teehouse.keys.derive import hkdf
from teehouse.keys.pem import certificate_pem
from teehouse.tee_emulated.collateral import EmulatedCollateral
from teehouse.tee_emulated.installation import load_or_create_seed
from teehouse.tee_emulated.pki import EmulatedPki

PUBLIC = 0o644
_KMS_DOMAIN = b"teehouse-self-made-kms-v1"


@dataclass(frozen=True, slots=True)
class Installation:
    """What every emulated part of one folder shares."""

    directory: Path
    state: Path
    clock: Clock
    pki: EmulatedPki
    collateral: EmulatedCollateral
    root: TrustedRoot
    kms: KmsRoot
    created: datetime

    @property
    def root_pem(self) -> Path:
        """The emulated root's certificate, for verifiers."""
        return self.directory / "root-ca.pem"

    @property
    def kms_root_pem(self) -> str:
        """The certificate of the KMS's root CA, PEM."""
        return certificate_pem(self.kms.ca.certificate_der)

    def current_collateral(self) -> Collateral:
        """Today's collateral, as a verifier takes it."""
        return Collateral.from_json(json.dumps(self.collateral.bundle()))


def open_installation(directory: Path, clock: Clock, *, seed: bytes | None = None) -> Installation:
    """Open the installation in `directory`, making it when there is none.

    `seed` is 32 bytes, or None for the stored or a random one. Raises `MisuseError` when the folder has
    another seed or cannot be used.
    """
    state = directory / "state"
    try:
        for folder in (directory, state):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stored = load_or_create_seed(state / "seed", seed)
        created = _created(state / "installation.json", clock)
        pki = EmulatedPki(stored)
        installation = Installation(
            directory=directory,
            state=state,
            clock=clock,
            pki=pki,
            collateral=EmulatedCollateral(pki, clock),
            root=TrustedRoot.emulated_root(pki.root_der),
            kms=kms_root(hkdf(stored, _KMS_DOMAIN), created),
            created=created,
        )
        write_atomic(installation.root_pem, pki.root_pem.encode(), mode=PUBLIC)
    except OSError as error:
        raise misuse(
            "installation.directory",
            f"the folder {directory} cannot be used",
            found=error.strerror or str(error),
            remedy="name another with --dir",
        ) from error
    return installation


def _created(path: Path, clock: Clock) -> datetime:
    """When the installation was made, to the second: its certificates begin to count from there, always alike."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return datetime.fromisoformat(stored["created"]).astimezone(UTC)
    except FileNotFoundError:
        created = clock.now().replace(microsecond=0)
        write_atomic(path, json.dumps({"created": created.isoformat()}).encode())
        return created
    except (ValueError, TypeError, KeyError):
        raise misuse(
            "installation.damaged",
            f"{path} does not say when the installation was made",
            remedy="delete the folder to start anew; its keys and root are then new ones",
        ) from None
