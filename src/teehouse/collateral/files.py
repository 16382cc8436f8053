"""Collateral in a file: the JSON of trust.md 3.1, for verdicts without a network."""

from pathlib import Path

from teehouse.attestation.bundle import COLLATERAL_LIMIT, Collateral
from teehouse.base.files import write_atomic
from teehouse.base.findings import EvidenceError, unavailable

_REMEDY = "give a collateral file in JSON (--collateral FILE), or a service that has it (--pccs URL)"
_PUBLIC = 0o644  # collateral is no secret


def load_collateral(path: Path) -> Collateral:
    """Read a collateral file. Raises `CollateralError` when it is not there or not collateral."""
    try:
        with path.open("rb") as file:
            content = file.read(COLLATERAL_LIMIT + 1)
    except OSError as error:
        raise unavailable(
            "collateral.file", f"collateral file {path}", found=error.strerror or "unreadable", remedy=_REMEDY
        ) from None
    try:
        return Collateral.from_json(content)
    except EvidenceError as error:
        found = error.finding
        raise unavailable(
            found.code,
            f"collateral file {path}: {found.subject}",
            expected=found.expected,
            found=found.found,
            remedy=_REMEDY,
        ) from None


def save_collateral(path: Path, collateral: Collateral) -> None:
    """Write a collateral file, whole or not at all. Raises OSError."""
    write_atomic(path, collateral.to_json().encode(), mode=_PUBLIC)
