"""Faults of a docker-compose file, gathered, and values read as Compose would read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from teehouse.base.findings import Finding, Outcome
from teehouse.node.compose_interpolation import InterpolationError, interpolate
from teehouse.node.workload import WorkloadError

FAULT_LIMIT = 64
_FALSE = frozenset({"", "0", "false", "no", "off", "n", "f"})


@dataclass(slots=True)
class Faults:
    """What is wrong with the file so far. `environment` resolves variables; no fault repeats a value of it."""

    environment: Mapping[str, str] = field(repr=False)
    findings: list[Finding] = field(default_factory=list)

    def add(self, code: str, path: str, *, expected: str = "", found: object = "", remedy: str = "") -> None:
        """Note a fault at `path`, the dotted way to the member. `found` is as the file writes it."""
        shown = found if isinstance(found, str) else type(found).__name__
        subject = f"docker-compose file: {path}"
        self.findings.append(
            Finding(f"compose.{code}", subject, Outcome.MISUSE, expected, shown[:128], remedy)
        )

    def finish(self) -> None:
        """Raise `WorkloadError` with every fault, `FAULT_LIMIT` at most, if there is one."""
        if self.findings:
            raise WorkloadError(tuple(self.findings[:FAULT_LIMIT]))

    def text(self, path: str, value: Any) -> str | None:
        """A scalar as text with its variables resolved; None, with a fault noted, when it is none."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if value is None or isinstance(value, (int, float)):
            return "" if value is None else str(value)
        if not isinstance(value, str):
            self.add("malformed", path, expected="a string", found=value)
            return None
        try:
            return interpolate(value, self.environment)
        except InterpolationError as error:
            self.add("variable", path, found=str(error))
            return None

    def flag(self, path: str, value: Any) -> bool:
        """A boolean, written as one or as a word for it; what is neither counts as true."""
        text = self.text(path, value)
        return text is not None and text.strip().lower() not in _FALSE

    def mapping(self, path: str, value: Any) -> dict[str, Any]:
        """A mapping; absent and null are empty ones."""
        if value is None:
            return {}
        if isinstance(value, dict):
            return value
        self.add("malformed", path, expected="a mapping", found=value)
        return {}

    def items(self, path: str, value: Any) -> list[Any]:
        """A list; absent and null are empty ones."""
        if value is None:
            return []
        if isinstance(value, list):
            return value
        self.add("malformed", path, expected="a list", found=value)
        return []

    def pairs(self, path: str, value: Any) -> dict[str, Any]:
        """A mapping, or a list of `name=value`, as a mapping."""
        if not isinstance(value, list):
            return dict(self.mapping(path, value))
        made = {}
        for item in value:
            if isinstance(item, str):
                name, _, text = item.partition("=")
                made[name] = text
            else:
                self.add("malformed", path, expected="strings of the form name=value", found=item)
        return made
