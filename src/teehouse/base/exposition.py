r"""Metrics as text, in Prometheus' format as the field's agents write it (guest-agent.md 13.3), for all that has any.

Rules:

1. A metric is its help, its type and its samples; metrics are separated by a blank line.
2. Labels are separated by a comma and a blank. In their values `\`, line feed and `"` are escaped.
3. Whole numbers are written without a point, all others with as many digits as they have.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Labels = tuple[tuple[str, str], ...]

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


@dataclass(frozen=True, slots=True)
class Sample:
    """One value. `suffix` follows the metric's name, as the parts of a histogram have it."""

    value: float
    labels: Labels = ()
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and its samples, of which it may have none."""

    name: str
    help: str
    samples: tuple[Sample, ...]
    kind: Literal["gauge", "counter", "histogram"] = "gauge"

    def text(self) -> str:
        lines = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} {self.kind}"]
        lines += [
            f"{self.name}{sample.suffix}{_labels(sample.labels)} {number(sample.value)}"
            for sample in self.samples
        ]
        return "".join(f"{line}\n" for line in lines)


def exposition(metrics: Iterable[Metric]) -> str:
    """The metrics in their order."""
    return "\n".join(metric.text() for metric in metrics)


def histogram(
    bounds: Sequence[float], counts: Sequence[int], total: float, labels: Labels = ()
) -> tuple[Sample, ...]:
    """The samples of a histogram. `counts` are cumulative over `bounds`, then of all; `total` is the values' sum."""
    texts = [*(number(bound) for bound in bounds), "+Inf"]
    buckets = (
        Sample(count, (*labels, ("le", text)), "_bucket") for text, count in zip(texts, counts, strict=True)
    )
    return (*buckets, Sample(total, labels, "_sum"), Sample(counts[-1], labels, "_count"))


def number(value: float) -> str:
    """A finite number (rule 3)."""
    return str(int(value)) if value == int(value) else repr(value)


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ", ".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels) + "}"
