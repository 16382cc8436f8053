"""A guest's figures, read from its agent's metrics (guest-agent.md 13.3).

Rule: whatever is missing or cannot be read makes the whole of it None; half a machine is no machine.
"""

import re
from typing import Any, Final

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([-+0-9.eE]+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_TEXTS: Final = ("os_name", "os_version", "kernel_version", "cpu_model")
_NUMBERS: Final = {
    "num_cpus": "system_num_cpus",
    "total_memory": "system_memory_total",
    "available_memory": "system_memory_available",
    "used_memory": "system_memory_used",
    "free_memory": "system_memory_free",
    "total_swap": "system_swap_total",
    "used_swap": "system_swap_used",
    "free_swap": "system_swap_free",
    "uptime": "system_uptime",
    "loadavg_one": "system_load_average_1m",
    "loadavg_five": "system_load_average_5m",
    "loadavg_fifteen": "system_load_average_15m",
}

Samples = dict[str, list[tuple[dict[str, str], float]]]


def read_sysinfo(metrics: str) -> dict[str, Any] | None:
    """`SystemInfo` from the text of `/metrics`."""
    try:
        return _sysinfo(_samples(metrics))
    except (KeyError, IndexError, ValueError, OverflowError):
        return None


def _sysinfo(samples: Samples) -> dict[str, Any]:
    free = {labels["mount_point"]: value for labels, value in samples["disk_free_size"]}
    return {
        **{name: samples[f"system_{name}"][0][0][name] for name in _TEXTS},
        **{name: int(samples[metric][0][1]) for name, metric in _NUMBERS.items()},
        "disks": [
            {
                "name": labels["name"],
                "mount_point": labels["mount_point"],
                "total_size": int(total),
                "free_size": int(free[labels["mount_point"]]),
            }
            for labels, total in samples["disk_total_size"]
        ],
    }


def _samples(metrics: str) -> Samples:
    found: Samples = {"disk_free_size": [], "disk_total_size": []}
    for line in metrics.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is not None:
            labels = {name: _unescaped(value) for name, value in _LABEL.findall(sample[2] or "")}
            found.setdefault(sample[1], []).append((labels, float(sample[3])))
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text)
