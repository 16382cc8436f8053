"""The text of `/metrics`, letter by letter (guest-agent.md 13.3)."""

import pytest

from support.pages_support import HOST
from teehouse.base.exposition import exposition
from teehouse.guest.metrics import AgentFigures, agent_metrics, host_metrics
from teehouse.guest.observed import QUOTE_BUCKETS, Observed

HOST_TEXT = r"""# HELP system_os_name Operating system name
# TYPE system_os_name gauge
system_os_name{os_name="dstack"} 1

# HELP system_os_version Operating system version
# TYPE system_os_version gauge
system_os_version{os_version="0.5.4"} 1

# HELP system_kernel_version Kernel version
# TYPE system_kernel_version gauge
system_kernel_version{kernel_version="6.9.0-dstack"} 1

# HELP system_cpu_model CPU model information
# TYPE system_cpu_model gauge
system_cpu_model{cpu_model="cpu0 @800 MHz"} 1

# HELP system_num_cpus Number of logical CPUs
# TYPE system_num_cpus gauge
system_num_cpus 4

# HELP system_memory_total Total memory in bytes
# TYPE system_memory_total gauge
system_memory_total 8589934592

# HELP system_memory_available Available memory in bytes
# TYPE system_memory_available gauge
system_memory_available 6442450944

# HELP system_memory_used Used memory in bytes
# TYPE system_memory_used gauge
system_memory_used 2147483648

# HELP system_memory_free Free memory in bytes
# TYPE system_memory_free gauge
system_memory_free 5368709120

# HELP system_swap_total Total swap memory in bytes
# TYPE system_swap_total gauge
system_swap_total 1073741824

# HELP system_swap_used Used swap memory in bytes
# TYPE system_swap_used gauge
system_swap_used 4096

# HELP system_swap_free Free swap memory in bytes
# TYPE system_swap_free gauge
system_swap_free 1073737728

# HELP system_uptime System uptime in seconds
# TYPE system_uptime gauge
system_uptime 93784

# HELP system_load_average_1m System load average (1 minute)
# TYPE system_load_average_1m gauge
system_load_average_1m 12

# HELP system_load_average_5m System load average (5 minutes)
# TYPE system_load_average_5m gauge
system_load_average_5m 100

# HELP system_load_average_15m System load average (15 minutes)
# TYPE system_load_average_15m gauge
system_load_average_15m 1234

# HELP disk_total_size Disk total size in bytes
# TYPE disk_total_size gauge
disk_total_size{name="/dev/vda", mount_point="/"} 21474836480
disk_total_size{name="/dev/\"b\\", mount_point="/data\n"} 0

# HELP disk_free_size Disk free size in bytes
# TYPE disk_free_size gauge
disk_free_size{name="/dev/vda", mount_point="/"} 5368709120
disk_free_size{name="/dev/\"b\\", mount_point="/data\n"} 0

# HELP disk_used_size Disk used size in bytes
# TYPE disk_used_size gauge
disk_used_size{name="/dev/vda", mount_point="/"} 16106127360
disk_used_size{name="/dev/\"b\\", mount_point="/data\n"} 0

# HELP disk_usage_percentage Disk usage percentage
# TYPE disk_usage_percentage gauge
disk_usage_percentage{name="/dev/vda", mount_point="/"} 75
disk_usage_percentage{name="/dev/\"b\\", mount_point="/data\n"} 0
"""

AGENT_TEXT = """# HELP teehouse_requests_total Requests by method and outcome
# TYPE teehouse_requests_total counter
teehouse_requests_total{method="/metrics", outcome="ok"} 2
teehouse_requests_total{method="Worker.Info", outcome="failed"} 1
teehouse_requests_total{method="Worker.Info", outcome="lost"} 1
teehouse_requests_total{method="unknown", outcome="refused"} 1

# HELP teehouse_quote_seconds Time the platform took for a quote, in seconds
# TYPE teehouse_quote_seconds histogram
teehouse_quote_seconds_bucket{le="0.005"} 1
teehouse_quote_seconds_bucket{le="0.01"} 1
teehouse_quote_seconds_bucket{le="0.025"} 2
teehouse_quote_seconds_bucket{le="0.05"} 2
teehouse_quote_seconds_bucket{le="0.1"} 2
teehouse_quote_seconds_bucket{le="0.25"} 2
teehouse_quote_seconds_bucket{le="0.5"} 2
teehouse_quote_seconds_bucket{le="1"} 2
teehouse_quote_seconds_bucket{le="2.5"} 2
teehouse_quote_seconds_bucket{le="5"} 2
teehouse_quote_seconds_bucket{le="10"} 2
teehouse_quote_seconds_bucket{le="+Inf"} 3
teehouse_quote_seconds_sum 12.03
teehouse_quote_seconds_count 3

# HELP teehouse_event_log_bytes Size of the runtime event log in bytes
# TYPE teehouse_event_log_bytes gauge
teehouse_event_log_bytes 812

# HELP teehouse_event_log_events Events measured into RTMR3
# TYPE teehouse_event_log_events gauge
teehouse_event_log_events 9

# HELP teehouse_certificate_expiry_seconds Seconds until the certificates of the app expire
# TYPE teehouse_certificate_expiry_seconds gauge
teehouse_certificate_expiry_seconds{certificate="leaf"} 86400
teehouse_certificate_expiry_seconds{certificate="issuer-1"} -1.5

# HELP teehouse_collateral_expiry_seconds Seconds until the collateral of the platform expires
# TYPE teehouse_collateral_expiry_seconds gauge
teehouse_collateral_expiry_seconds 2592000

# HELP teehouse_emulated 1 where TDX is emulated and nothing is protected by hardware, 0 on hardware
# TYPE teehouse_emulated gauge
teehouse_emulated{root="emulated:00ff"} 1
"""


def figures(**changes: object) -> AgentFigures:
    observed = Observed()
    for what, status in (
        ("/metrics", 200),
        ("/metrics", 304),
        ("unknown", 404),
        ("Worker.Info", 500),
        ("Worker.Info", 0),
    ):
        observed.request(what, status)
    for seconds in (0.005, 0.025, 12.0):
        observed.quote(seconds)
    members = {
        "requests": observed.requests,
        "quotes": observed.quotes,
        "event_log_bytes": 812,
        "event_log_events": 9,
        "certificate_expiry": (("leaf", 86400.0), ("issuer-1", -1.5)),
        "collateral_expiry": 2592000.0,
        "root": "emulated:00ff",
        "emulated": True,
    }
    return AgentFigures(**{**members, **changes})  # type: ignore[arg-type]  # a test may change any member


def test_the_host_letter_by_letter() -> None:
    assert exposition(host_metrics(HOST)) == HOST_TEXT


def test_the_agent_letter_by_letter() -> None:
    assert exposition(agent_metrics(figures())) == AGENT_TEXT


def test_what_is_not_known_has_no_sample() -> None:
    real = figures(certificate_expiry=(), collateral_expiry=None, root="intel", emulated=False)
    text = exposition(agent_metrics(real))
    assert "teehouse_certificate_expiry_seconds " not in text.replace(
        "# HELP teehouse_certificate_expiry_seconds ", ""
    ).replace("# TYPE teehouse_certificate_expiry_seconds ", "")
    assert "teehouse_collateral_expiry_seconds gauge\n\n" in text
    assert text.endswith('teehouse_emulated{root="intel"} 0\n')


def test_quotes_are_counted_in_their_bucket() -> None:
    observed = Observed()
    assert observed.quotes.counts == (0,) * (len(QUOTE_BUCKETS) + 1)
    for seconds in (*QUOTE_BUCKETS, 99.0):
        observed.quote(seconds)
    assert observed.quotes.counts == tuple(range(1, len(QUOTE_BUCKETS) + 2))
    assert observed.quotes.total == pytest.approx(sum(QUOTE_BUCKETS) + 99)
