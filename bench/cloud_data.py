"""A control plane's database of any size, the same rows in every run: apps, ten CVMs and thirty revisions for each.

One workspace owns all of it, which is the hardest case for its lists. Values are spread by multiplication, not by
chance. Rows go in by the driver's shortest way (one transaction on SQLite, COPY on PostgreSQL); indexes, triggers
and what the triggers keep are made afterwards.
"""
# ruff: noqa: S608 - SQL of names and numbers of ours

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from teehouse.cloud.accounts.bootstrap import First, bootstrap
from teehouse.cloud.db import facets
from teehouse.cloud.db.engine import Database
from teehouse.cloud.db.migrate import upgrade
from teehouse.cloud.db.search import create_index, drop_index
from teehouse.cloud.inventory.models import InstanceType, KmsContract, KmsNode, OsImage
from teehouse.cloud.nodes.models import Node, NodeDevice

NOW = datetime(2026, 6, 23, 12, 0, tzinfo=UTC)
CVMS = 10  # of an app, in the mean: between 1 and 19
REVISIONS = 3  # of a CVM
REGIONS = ("us-west", "us-east", "eu-north", "eu-west", "asia-south")
NODES = 20
IMAGES = ("dstack-0.5.4", "dstack-0.5.5", "dstack-dev-0.5.4", "dstack-nvidia-0.5.4")
TYPES = ("tdx.small", "tdx.medium", "tdx.large", "tdx.xlarge", "tdx.2xlarge", "tdx.4xlarge")
KMS = (("kms-phala-1", "phala"), ("kms-phala-2", "phala"), ("kms-base", "base"), ("kms-eth", "ethereum"))
STATUSES = ("running",) * 16 + ("stopped",) * 2 + ("error", "exited")
WORDS = ("shop", "oracle", "agent", "wallet", "inference", "indexer", "bridge", "signer", "relay", "vault")
STAGES = ("prod", "staging", "dev", "test", "canary", "demo", "beta")
_BLOCK = 20_000  # rows
_TABLES = ("compose_files", "apps", "cvms", "revisions")

APPS_COLUMNS = (
    "id", "workspace_id", "creator_id", "app_id", "name", "provision_type", "kms_id", "kms_type", "listed",
    "env_pubkey", "created_at", "updated_at",
)  # fmt: skip
CVMS_COLUMNS = (
    "id", "vm_uuid", "workspace_id", "app_record_id", "creator_id", "name", "status", "desired", "generation",
    "node_id", "kms_id", "os_image_id", "base_image", "instance_type", "vcpu", "memory_mb", "disk_gb", "gpus",
    "compose_hash", "instance_id", "public_logs", "public_sysinfo", "public_tcbinfo", "gateway_enabled",
    "secure_time", "storage_fs", "allow_force_stop", "boot_progress", "started_at", "created_at", "updated_at",
)  # fmt: skip
REVISIONS_COLUMNS = (
    "id", "workspace_id", "app_record_id", "cvm_id", "user_id", "operation_type", "compose_hash",
    "encrypted_env", "user_config", "changed", "trace_id", "correlation_id", "created_at",
)  # fmt: skip
COMPOSES_COLUMNS = ("compose_hash", "body", "services", "docker_compose_hash", "created_at")


@dataclass(frozen=True, slots=True)
class Filled:
    """What a database was filled with, and the seconds that it took."""

    first: First
    apps: int
    seconds: float


def pick(number: int, salt: int, choices: int) -> int:
    """A choice that looks like chance."""
    value = (number * 0x9E3779B1 + salt * 0x85EBCA6B) & 0xFFFFFFFF
    value = ((value ^ (value >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    return ((value ^ (value >> 12)) * 0x297A2D39 & 0xFFFFFFFF) % choices


def name_of(app: int) -> str:
    """The name of an app: `shop-prod-004711`."""
    return f"{WORDS[pick(app, 1, len(WORDS))]}-{STAGES[pick(app, 2, len(STAGES))]}-{app:06d}"


def cvms_of(app: int) -> int:
    """How many CVMs an app has: of each two apps one has as many less than ten as the other has more."""
    deviation = app // 2 % CVMS
    return CVMS + deviation if app % 2 else CVMS - deviation


async def fill(database: Database, apps: int) -> Filled:
    """Migrate an empty database and fill it with so many apps (an even number)."""
    begin = time.perf_counter()
    await upgrade(database)
    async with database.write() as session:
        first = await bootstrap(session, NOW, slug="acme", workspace_name="Acme")
        for row in _inventory():
            session.add(row)
            await session.flush()

    async with database.write() as session:
        await (await session.connection()).run_sync(_without)
    await database.dispose()
    url = make_url(str(database.engine.url.render_as_string(hide_password=False)))
    writer = _sqlite if database.dialect == "sqlite" else _postgres
    with writer(url) as write:
        write("compose_files", COMPOSES_COLUMNS, _composes(apps))
        write("apps", APPS_COLUMNS, _apps(apps, first))
        write("cvms", CVMS_COLUMNS, _cvms(apps, first))
        write("revisions", REVISIONS_COLUMNS, _revisions(apps, first))
    async with database.write() as session:
        await (await session.connection()).run_sync(_with)
    await _settle(database)
    return Filled(first, apps, time.perf_counter() - begin)


# Rows


def _inventory() -> Iterator[Any]:
    for number, (slug, kind) in enumerate(KMS, 1):
        chain = 0 if kind == "phala" else 8453
        address = "phala" if kind == "phala" else f"0x{number:040x}"
        yield KmsContract(
            id=number,
            slug=slug,
            contract_address=address,
            chain_id=chain,
            created_at=NOW,
            k256_pubkey="02" * 33,
        )
        yield KmsNode(
            id=number, contract_id=number, slug=slug, url=f"https://{slug}.example.org", version="v0.5.4",
            kms_type=kind, created_at=NOW,
        )  # fmt: skip
    for number, name in enumerate(IMAGES, 1):
        yield OsImage(
            id=number, name=name, slug=name, version="0.5.4", os_image_hash=_hex(name), created_at=NOW
        )
    for number, name in enumerate(TYPES):
        yield InstanceType(
            id=name, name=name, family="cpu", description=name, vcpu=2**number, memory_mb=2048 * 2**number,
            hourly_rate=2**number / 16,
        )  # fmt: skip
    for number in range(1, NODES + 1):
        yield Node(
            id=number, name=f"node-{number}", region=REGIONS[number % len(REGIONS)], version="v0.5.4",
            emulated=True, root="emulated:00", device_id=_hex(f"device {number}"), vcpu=10**6,
            memory_mb=10**9, disk_gb=10**9, slots=10**6, gateway_domain=f"node-{number}.example.org",
            created_at=NOW,
        )  # fmt: skip
        yield NodeDevice(
            node_id=number, device_id=_hex(f"device {number}"), algorithm_version="v1",
            os_image_ids=list(range(1, len(IMAGES) + 1)),
        )  # fmt: skip


def _hex(name: str, digits: int = 64) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:digits]


def _time(app: int, seconds: int = 0) -> str:
    """Instants of UTC as both databases take them."""
    return (NOW - timedelta(days=400) + timedelta(minutes=app, seconds=seconds)).strftime(
        "%Y-%m-%d %H:%M:%S.%f"
    )


def _composes(apps: int) -> Iterator[tuple[Any, ...]]:
    for app in range(1, apps + 1):
        image = f"registry.example.org/{name_of(app)}:1.{app % 100}"
        compose = {
            "docker_compose_file": f"services:\n  web:\n    image: {image}\n    ports:\n      - 80:80\n",
            "features": ["kms", "tproxy-net"], "gateway_enabled": True, "kms_enabled": True,
            "manifest_version": 2, "name": name_of(app), "public_logs": True, "public_sysinfo": True,
            "runner": "docker-compose",
        }  # fmt: skip
        services = [{"name": "web", "image": image, "ports": [80]}]
        yield (
            _hex(f"compose {app}"),
            json.dumps(compose).encode(),
            json.dumps(services),
            _hex(image),
            _time(app),
        )


def _apps(apps: int, first: First) -> Iterator[tuple[Any, ...]]:
    for app in range(1, apps + 1):
        kms = pick(app, 3, len(KMS))
        yield (
            app, first.workspace_id, first.user_id, _hex(f"app {app}", 40), name_of(app), "user", kms + 1,
            KMS[kms][1], pick(app, 4, 10) < 3, "e3" * 32, _time(app), _time(app),
        )  # fmt: skip


def _cvms(apps: int, first: First) -> Iterator[tuple[Any, ...]]:
    number = 0
    for app in range(1, apps + 1):
        kms = pick(app, 3, len(KMS)) + 1
        image, size = pick(app, 5, len(IMAGES)), pick(app, 6, len(TYPES))
        compose = _hex(f"compose {app}")
        for index in range(cvms_of(app)):
            number += 1
            # A replica in ten is larger than the others, or of another image: as after a change halfway.
            own_image = image if pick(number, 7, 10) else (image + 1) % len(IMAGES)
            own_size = size if pick(number, 8, 10) else (size + 1) % len(TYPES)
            at = _time(app, index)
            status = STATUSES[pick(number, 9, len(STATUSES))]
            yield (
                number, _hex(f"cvm {number}", 32), first.workspace_id, app, first.user_id, f"cvm-{number}", status,
                "running", 0, pick(number, 10, NODES) + 1, kms, own_image + 1, IMAGES[own_image], TYPES[own_size],
                2**own_size, 2048 * 2**own_size, 40, 0, compose, _hex(f"instance {number}", 40), True, True, True,
                True, False, "zfs", True, "done", at, at, at,
            )  # fmt: skip


def _revisions(apps: int, first: First) -> Iterator[tuple[Any, ...]]:
    number = cvm = 0
    for app in range(1, apps + 1):
        compose = _hex(f"compose {app}")
        for _ in range(cvms_of(app)):
            cvm += 1
            for turn in range(REVISIONS):
                number += 1
                yield (
                    number, first.workspace_id, app, cvm, first.user_id, "update" if turn else "create", compose,
                    b"", "", '["docker_compose_file"]', "0a" * 16, f"op-{number}", _time(app, turn),
                )  # fmt: skip


# The way in


def _without(connection: Connection) -> None:
    """Take away what would be kept up to date row by row."""
    facets.drop(connection)
    drop_index(connection)
    connection.execute(text("CREATE TABLE bench_indexes (statement text)"))
    if connection.dialect.name == "sqlite":
        asked = (
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = '{}'"
        )
    else:
        asked = (
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = '{}' AND indexname NOT IN"
            " (SELECT conname FROM pg_constraint)"
        )
    for table in _TABLES:
        for name, statement in connection.execute(text(asked.format(table))).all():
            connection.execute(
                text("INSERT INTO bench_indexes VALUES (:statement)"), {"statement": statement}
            )
            connection.exec_driver_sql(f"DROP INDEX {name}")


def _with(connection: Connection) -> None:
    """Put it in place again."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET maintenance_work_mem = '256MB'")
    for (statement,) in connection.execute(text("SELECT statement FROM bench_indexes")).all():
        connection.exec_driver_sql(statement)
    connection.execute(text("DROP TABLE bench_indexes"))
    create_index(connection)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("INSERT INTO apps_fts(apps_fts) VALUES ('rebuild')")
    facets.create(connection)
    facets.fill(connection)


@contextmanager
def _sqlite(url: Any) -> Iterator[Any]:
    connection = sqlite3.connect(url.database, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA cache_size=-400000")
    connection.execute("BEGIN IMMEDIATE")

    def write(table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" * len(columns))
        connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)

    yield write
    connection.execute("COMMIT")
    connection.close()


@contextmanager
def _postgres(url: Any) -> Iterator[Any]:
    with psycopg.connect(
        host=url.query["host"], user=url.username, dbname=url.database, options="-c timezone=utc"
    ) as connection:
        cursor = connection.cursor()
        cursor.execute("SET session_replication_role = replica")  # no triggers, no look-ups of references

        def write(table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
            with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
                remaining = iter(rows)
                while block := list(islice(remaining, _BLOCK)):
                    copy.write("".join("\t".join(map(_copied, row)) + "\n" for row in block))
            if columns[0] == "id":
                sequence = f"pg_get_serial_sequence('{table}', 'id')"
                cursor.execute(f"SELECT setval({sequence}, max(id)) FROM {table}")

        yield write


def _copied(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, bytes):
        return "\\\\x" + value.hex()
    return str(value)


async def _settle(database: Database) -> None:
    """What PostgreSQL does by itself a little later. SQLite is left as it is: nobody gives it statistics."""
    if database.dialect == "postgresql":
        async with database.engine.connect() as connection:
            autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await autocommit.exec_driver_sql("VACUUM ANALYZE")
            await autocommit.exec_driver_sql("CHECKPOINT")
    await database.dispose()
