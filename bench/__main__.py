"""Measure, write docs/performance.md, print it."""

import tempfile
from pathlib import Path

from bench import chain, cloud, kms, logs, node, pages
from bench.latency import Bench
from bench.page import PAGE
from bench.processes import agent_memory, keep_bytecode, running, start_time, up_time
from bench.report import Processes, render
from bench.server import READY


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="teehouse-bench-") as temporary:
        directory = Path(temporary)
        keep_bytecode(directory / "bytecode")
        with running("-m", "bench.server", str(directory / "server"), ready=READY):
            bench = Bench(directory / "server")
            measured = bench.run()
            bench.close()
        idle, after_requests = agent_memory(directory / "agent")
        processes = Processes(
            idle,
            after_requests,
            import_client=start_time(["-c", "import teehouse.client"]),
            help=start_time(["-m", "teehouse", "--help"]),
            up=up_time(directory),
        )
        for name in "knplcw":  # short: sockets live below them
            (directory / name).mkdir()
        sections = [
            kms.section(kms.measure(directory / "k")),
            node.section(node.measure(directory / "n")),
            pages.section(pages.measure(directory / "p")),
            logs.section(logs.measure(directory / "l")),
            *cloud.sections(directory / "w"),
            chain.section(chain.measure(directory / "c")),
        ]
    page = render(measured, processes) + "".join("\n" + "\n".join(lines) + "\n" for lines in sections)
    PAGE.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
