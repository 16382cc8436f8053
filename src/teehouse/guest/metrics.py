"""The metrics of `/metrics`: the host's, which every agent of the field has, and our own (guest-agent.md 13.3).

Rules:

1. Names, help texts, order and labels of the host's metrics are fixed; all are gauges. The load averages are
   multiplied by 100 and truncated.
2. Our own begin with `teehouse_`, come after them, and are in the base units of Prometheus: seconds, bytes.
3. A time that is not known has no sample. One that has passed is negative.

Nothing here reads a clock or the host: figures come in, metrics go out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from teehouse.base.exposition import Metric, Sample, histogram
from teehouse.guest.hostinfo import Disk, HostFigures
from teehouse.guest.observed import QUOTE_BUCKETS, QuoteTimes


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """One look at the agent.

    `requests` are counts by what was asked for and outcome; `event_log_bytes` the size of the log's file;
    `certificate_expiry` seconds by the certificate's name, `collateral_expiry` seconds where known; `root` the
    name of the root that quotes verify under.
    """

    requests: Mapping[tuple[str, str], int]
    quotes: QuoteTimes
    event_log_bytes: int
    event_log_events: int
    certificate_expiry: tuple[tuple[str, float], ...]
    collateral_expiry: float | None
    root: str
    emulated: bool


def host_metrics(host: HostFigures) -> list[Metric]:
    """The host's metrics (rule 1)."""
    one, five, fifteen = (int(load * 100) for load in host.load_average)
    return [
        _text("system_os_name", "Operating system name", "os_name", host.os_name),
        _text("system_os_version", "Operating system version", "os_version", host.os_version),
        _text("system_kernel_version", "Kernel version", "kernel_version", host.kernel_version),
        _text("system_cpu_model", "CPU model information", "cpu_model", host.cpu_model),
        _gauge("system_num_cpus", "Number of logical CPUs", host.num_cpus),
        _gauge("system_memory_total", "Total memory in bytes", host.memory_total),
        _gauge("system_memory_available", "Available memory in bytes", host.memory_available),
        _gauge("system_memory_used", "Used memory in bytes", host.memory_used),
        _gauge("system_memory_free", "Free memory in bytes", host.memory_free),
        _gauge("system_swap_total", "Total swap memory in bytes", host.swap_total),
        _gauge("system_swap_used", "Used swap memory in bytes", host.swap_used),
        _gauge("system_swap_free", "Free swap memory in bytes", host.swap_free),
        _gauge("system_uptime", "System uptime in seconds", host.uptime),
        _gauge("system_load_average_1m", "System load average (1 minute)", one),
        _gauge("system_load_average_5m", "System load average (5 minutes)", five),
        _gauge("system_load_average_15m", "System load average (15 minutes)", fifteen),
        _per_disk("disk_total_size", "Disk total size in bytes", host.disks, lambda disk: disk.total),
        _per_disk("disk_free_size", "Disk free size in bytes", host.disks, lambda disk: disk.free),
        _per_disk("disk_used_size", "Disk used size in bytes", host.disks, lambda disk: disk.used),
        _per_disk("disk_usage_percentage", "Disk usage percentage", host.disks, lambda d: d.usage_percent),
    ]


def agent_metrics(agent: AgentFigures) -> list[Metric]:
    """The agent's metrics (rules 2, 3)."""
    requests = tuple(
        Sample(count, (("method", what), ("outcome", outcome)))
        for (what, outcome), count in sorted(agent.requests.items())
    )
    return [
        Metric("teehouse_requests_total", "Requests by method and outcome", requests, "counter"),
        Metric(
            "teehouse_quote_seconds",
            "Time the platform took for a quote, in seconds",
            histogram(QUOTE_BUCKETS, agent.quotes.counts, agent.quotes.total),
            "histogram",
        ),
        _gauge("teehouse_event_log_bytes", "Size of the runtime event log in bytes", agent.event_log_bytes),
        _gauge("teehouse_event_log_events", "Events measured into RTMR3", agent.event_log_events),
        Metric(
            "teehouse_certificate_expiry_seconds",
            "Seconds until the certificates of the app expire",
            tuple(Sample(left, (("certificate", name),)) for name, left in agent.certificate_expiry),
        ),
        Metric(
            "teehouse_collateral_expiry_seconds",
            "Seconds until the collateral of the platform expires",
            () if agent.collateral_expiry is None else (Sample(agent.collateral_expiry),),
        ),
        Metric(
            "teehouse_emulated",
            "1 where TDX is emulated and nothing is protected by hardware, 0 on hardware",
            (Sample(int(agent.emulated), (("root", agent.root),)),),
        ),
    ]


def _gauge(name: str, text: str, value: float) -> Metric:
    return Metric(name, text, (Sample(value),))


def _text(name: str, text: str, label: str, value: str) -> Metric:
    return Metric(name, text, (Sample(1, ((label, value),)),))


def _per_disk(name: str, text: str, disks: tuple[Disk, ...], value: Callable[[Disk], float]) -> Metric:
    return Metric(
        name,
        text,
        tuple(
            Sample(value(disk), (("name", disk.name), ("mount_point", disk.mount_point))) for disk in disks
        ),
    )
