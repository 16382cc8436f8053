"""The filters of GET /apps, each and combined, against a model in memory (apps.services, rules 2 and 3)."""

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.cloud_read_support import MALLORY, NOW, World, app_id_of, dashed, instance_of, uuid_of, world
from teehouse.cloud.apps.services import AppFilters, list_apps

STATUSES = ("running", "stopped", "error", "creating")
IMAGES = ("dstack-0.5.4", "dstack-dev-0.5.4")
TYPES = ("tdx.small", "tdx.medium", None)
NODES = {1: ("prod5", "us-west"), 2: ("prod6", "eu-north"), 3: ("prod7", "us-west"), None: (None, None)}
KMS = {1: ("kms-phala", "phala"), 2: ("kms-base", "base")}
NAMES = ("alpha", "Beta-app", "gamma_100%", "be", 'quo"te', "ALPHABET")
APPS = 60


@dataclass(frozen=True)
class ModelCvm:
    uuid: str
    instance_id: str
    status: str
    base_image: str
    instance_type: str | None
    node_id: int | None
    live: bool


@dataclass(frozen=True)
class ModelApp:
    number: int
    name: str
    app_id: str
    listed: bool
    kms_id: int
    live: bool
    cvms: tuple[ModelCvm, ...]

    def meets(self, f: AppFilters) -> bool:
        slug, kind = KMS[self.kms_id]
        own = (
            (f.listed is None or self.listed == f.listed)
            and f.kms_slug in {None, slug}
            and f.kms_type in {None, kind}
        )
        live = [cvm for cvm in self.cvms if cvm.live]
        asked = f.status or f.base_image or f.instance_type or f.node or f.region
        return (
            self.live
            and own
            and (not asked or any(_cvm_meets(cvm, f) for cvm in live))
            and self.found(f, live)
        )

    def found(self, f: AppFilters, live: list[ModelCvm]) -> bool:
        if not f.search:
            return True
        if f.search.lower() in self.name.lower():
            return True
        digits = f.search.lower().removeprefix("app_").removeprefix("0x").replace("-", "")
        if len(digits) < 4 or set(digits) - set("0123456789abcdef"):
            return False
        ids = [self.app_id, *(i for cvm in live for i in (cvm.uuid, cvm.instance_id))]
        return any(one.startswith(digits) for one in ids)


def _cvm_meets(cvm: ModelCvm, f: AppFilters) -> bool:
    name, region = NODES[cvm.node_id]
    return (
        (not f.status or cvm.status in f.status)
        and f.base_image in {None, cvm.base_image}
        and (f.instance_type is None or f.instance_type == cvm.instance_type)
        and (f.node is None or f.node == name)
        and (f.region is None or f.region == region)
    )


@dataclass
class Filled:
    runner: asyncio.Runner
    world: World
    apps: list[ModelApp]

    def page(self, filters: AppFilters, offset: int, limit: int) -> tuple[list[int], int]:
        async def ask() -> tuple[list[int], int]:
            async with self.world.database.read() as session:
                apps, total = await list_apps(session, 1, filters, offset=offset, limit=limit)
            return [app.record.id for app in apps], total

        return self.runner.run(ask())


async def _fill(made: World) -> list[ModelApp]:
    """Values that do not follow from each other, the same in every run."""
    apps, cvm_number = [], 0
    for number in range(1, APPS + 1):
        cvms = []
        for index in range(number % 4):
            cvm_number += 1
            pick = hashlib.sha256(b"%d/%d" % (number, index)).digest()
            cvms.append(
                ModelCvm(
                    uuid_of(cvm_number), instance_of(cvm_number), STATUSES[pick[0] % 4], IMAGES[pick[1] % 2],
                    TYPES[pick[2] % 3], (1, 2, 3, None)[pick[3] % 4], pick[4] % 9 != 0,
                )
            )  # fmt: skip
        app = ModelApp(
            number, f"{NAMES[number % 6]}-{number}", app_id_of(number), number % 3 == 0, 1 + number % 2,
            number % 10 != 0, tuple(cvms),
        )  # fmt: skip
        rows: list[dict[str, Any]] = [
            {
                "status": cvm.status, "base_image": cvm.base_image, "instance_type": cvm.instance_type,
                "node_id": cvm.node_id, "deleted_at": None if cvm.live else NOW,
            }
            for cvm in cvms
        ]  # fmt: skip
        await made.deploy(
            number, rows, name=app.name, listed=app.listed, kms_id=app.kms_id, kms_type=KMS[app.kms_id][1],
            deleted_at=None if app.live else NOW,
        )  # fmt: skip
        apps.append(app)
    await made.deploy(1000, [{"status": "running"}], workspace=MALLORY, name="alpha")
    return apps


@pytest.fixture(name="filled", scope="module")
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    path: Path = tmp_path_factory.mktemp("filters")
    with asyncio.Runner() as runner:
        context = world(path)
        made = runner.run(context.__aenter__())
        yield Filled(runner, made, runner.run(_fill(made)))
        runner.run(context.__aexit__(None, None, None))


def check(filled: Filled, filters: AppFilters, offset: int = 0, limit: int = 100) -> int:
    expected = [app.number for app in reversed(filled.apps) if app.meets(filters)]
    assert filled.page(filters, offset, limit) == (expected[offset : offset + limit], len(expected))
    return len(expected)


EACH = [
    AppFilters(status=("running",)), AppFilters(status=("running", "error")), AppFilters(listed=True),
    AppFilters(listed=False), AppFilters(base_image="dstack-0.5.4"), AppFilters(instance_type="tdx.medium"),
    AppFilters(kms_slug="kms-base"), AppFilters(kms_type="phala"), AppFilters(node="prod6"),
    AppFilters(region="us-west"), AppFilters(search="alpha"), AppFilters(search="BETA"), AppFilters(search="be"),
    AppFilters(search="_100%"), AppFilters(search='quo"te'), AppFilters(search=app_id_of(1)),
    AppFilters(search=f"0x{app_id_of(2)[:6]}"), AppFilters(search=f"app_{app_id_of(3).upper()}"),
    AppFilters(search=dashed(uuid_of(1))), AppFilters(search=uuid_of(2)[:8]),
    AppFilters(search=instance_of(3)[:12]), AppFilters(),
]  # fmt: skip


@pytest.mark.parametrize("filters", EACH, ids=str)
def test_each_filter_finds_some_and_not_others(filled: Filled, filters: AppFilters) -> None:
    assert check(filled, filters) > 0


@pytest.mark.parametrize(
    "filters",
    [
        AppFilters(search="no such app"), AppFilters(search=app_id_of(1)[:3]), AppFilters(search="%"),
        AppFilters(node="prod9"), AppFilters(kms_slug="kms"), AppFilters(status=("no status",)),
        AppFilters(search=app_id_of(1000)), AppFilters(search='" OR name:*'), AppFilters(search="\\"),
    ],
    ids=str,
)  # fmt: skip
def test_what_matches_nothing_but_by_the_model(filled: Filled, filters: AppFilters) -> None:
    check(filled, filters)


def optional(*values: str) -> st.SearchStrategy[str | None]:
    return st.one_of(st.none(), st.none(), st.sampled_from(values))


@given(
    filters=st.builds(
        AppFilters,
        search=st.one_of(
            st.none(), st.none(), st.sampled_from(NAMES), st.sampled_from(["1", "-2", "a", "pp"])
        ),
        status=st.lists(st.sampled_from(STATUSES), max_size=2, unique=True).map(tuple),
        listed=st.one_of(st.none(), st.booleans()),
        base_image=optional(*IMAGES),
        instance_type=optional("tdx.small", "tdx.medium"),
        kms_slug=optional("kms-phala", "kms-base"),
        kms_type=optional("phala", "base"),
        node=optional("prod5", "prod6", "prod7"),
        region=optional("us-west", "eu-north"),
    ),
    offset=st.integers(0, 12),
    limit=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_filters_combine(filled: Filled, filters: AppFilters, offset: int, limit: int) -> None:
    check(filled, filters, offset, limit)


def test_the_route_passes_every_filter(filled: Filled) -> None:
    query = {
        "search": "a", "status": ["running", "stopped"], "listed": "true", "base_image": "dstack-0.5.4",
        "instance_type": "tdx.small", "kms_slug": "kms-phala", "kms_type": "PHALA", "node": "prod5",
        "region": "us-west",
    }  # fmt: skip
    asked: dict[str, Any] = {}
    for name, value in query.items():
        asked[name] = value
        filters = AppFilters(**{
            key: tuple(v) if key == "status" else v == "true" if key == "listed" else v.lower() if key == "kms_type" else v  # type: ignore[attr-defined]  # only status is a list
            for key, v in asked.items()
        })  # fmt: skip
        expected = [app.app_id for app in reversed(filled.apps) if app.meets(filters)]
        answer = filled.runner.run(filled.world.get("/apps", page_size=100, **asked)).json()
        assert ([app["app_id"] for app in answer["dstack_apps"]], answer["total"]) == (
            expected,
            len(expected),
        )
