"""The control plane: `python -m bench.cloud` measures it alone, and renews its part of docs/performance.md.

With `--print` the page is left as it is. The data take 4 GB in the temporary folder while it runs.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from bench import cloud_lists, cloud_work, cluster
from bench.page import renew
from teehouse.cloud.db.engine import sqlite_url


def sections(directory: Path) -> list[list[str]]:
    """The lines of each section. PostgreSQL is left out where it is not installed."""
    paths = {size: directory / f"{size}.db" for size in cloud_lists.SIZES}
    files = {size: sqlite_url(path) for size, path in paths.items()}
    measured: cloud_lists.Measured = {"sqlite": asyncio.run(cloud_lists.measure(files))}
    for path in paths.values():
        path.unlink()
    urls = {"sqlite": sqlite_url(directory / "deploys.db")}
    if not cluster.available():
        work = cloud_work.measure(directory, urls)
        return [cloud_lists.section(measured, ["PostgreSQL"]), cloud_work.section(work)]
    with tempfile.TemporaryDirectory(prefix="teehouse-bench-pg-") as place:
        Path(place).chmod(0o755)  # the server may be run by another user
        with cluster.running(Path(place) / "cluster") as postgres:
            names = {size: postgres.new_database(f"apps_{size}") for size in cloud_lists.SIZES}
            measured["postgresql"] = asyncio.run(cloud_lists.measure(names))
            work = cloud_work.measure(directory, {**urls, "postgresql": postgres.new_database("deploys")})
    return [cloud_lists.section(measured, []), cloud_work.section(work)]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="teehouse-bench-") as directory:
        found = sections(Path(directory))
    print("\n\n".join("\n".join(lines) for lines in found))
    if "--print" not in sys.argv:
        renew(found)


if __name__ == "__main__":
    main()
