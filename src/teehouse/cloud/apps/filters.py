"""The filters of GET /apps: which apps match, how many, and the values that there are.

Rules:

1. An app matches a filter on CVMs when one of its live CVMs meets all of these filters together: `status`,
   `base_image`, `instance_type`, `node`, `region`. `listed`, `kms_slug` and `kms_type` are the app's own.
2. `search` is a part of the app's name, or the beginning of an app id, VM UUID or instance id, of at least
   `PREFIX` hex digits; prefixes and dashes that these are written with do not count.
3. The number of matching apps is exact. One filter on CVMs is counted in `app_facets`, with an entry for each app;
   several of them in an index of `cvms` that has all their columns.
4. A page in the second half of a list is read from its end.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    CompoundSelect,
    ScalarSelect,
    Select,
    String,
    and_,
    cast,
    desc,
    exists,
    func,
    literal,
    or_,
    select,
    union,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, aliased

from teehouse.cloud.apps.models import App, AppFacet
from teehouse.cloud.cvms.lookup import live_cvms
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.db.facets import Facet
from teehouse.cloud.db.search import name_compared, name_contains
from teehouse.cloud.inventory.models import KmsNode
from teehouse.cloud.nodes.models import Node

PREFIX: Final = 4  # hex digits; fewer say too little to be looked up
_HEX: Final = frozenset("0123456789abcdef")
_OPTIONS: Final = {
    "statuses": Facet.STATUS,
    "image_versions": Facet.BASE_IMAGE,
    "instance_types": Facet.INSTANCE_TYPE,
    "regions": Facet.REGION,
}


@dataclass(frozen=True, slots=True)
class AppFilters:
    """What GET /apps is narrowed by; None or empty means any."""

    search: str | None = None
    status: tuple[str, ...] = ()
    listed: bool | None = None
    base_image: str | None = None
    instance_type: str | None = None
    kms_slug: str | None = None
    kms_type: str | None = None
    node: str | None = None
    region: str | None = None


@dataclass(frozen=True, slots=True)
class Matching:
    """The numbers of the apps that match, each once: a column `number`, in no order."""

    numbers: Select[int] | CompoundSelect[int]

    def count(self) -> Select[int]:
        """How many they are."""
        found = self.numbers
        if isinstance(found, CompoundSelect):  # in order, its parts are merged and not collected
            found = found.order_by("number")
        return select(func.count()).select_from(found.subquery())

    def first(self, limit: int) -> Select[int] | CompoundSelect[int]:
        """Those of the first page; in no order."""
        return self.numbers.order_by(desc("number")).limit(limit)

    def page(self, total: int, offset: int, limit: int) -> Select[int] | CompoundSelect[int]:
        """Those of a page, newest first; in no order (rule 4). `total` is how many match."""
        size = min(limit, total - offset)
        behind = total - offset - size
        if behind < offset:
            return self.numbers.order_by("number").limit(size).offset(behind)
        return self.numbers.order_by(desc("number")).limit(size).offset(offset)


def matching_apps(dialect: str, workspace_id: int, filters: AppFilters) -> Matching:
    """The apps of the workspace that match. `dialect` is `Database.dialect`."""
    kinds = _kinds(filters)
    own = _own_conditions(filters)
    if filters.search:
        own.append(_search(dialect, workspace_id, filters.search, few=len(kinds) > 1))
    if not kinds:
        found = _live_apps(workspace_id).where(*own)
        return Matching(_once(found) if filters.search else found)
    if len(kinds) > 1:
        cvms = select(Cvm.app_record_id).where(live_cvms(workspace_id), *_cvm_conditions(filters))
        return Matching(_once(_live_apps(workspace_id).where(App.id.in_(cvms), *own)))
    ((kind, values),) = kinds.items()
    parts = []
    for value in values:
        part = select(AppFacet.app_record_id.label("number")).where(
            AppFacet.workspace_id == workspace_id, AppFacet.kind == kind, AppFacet.value == value
        )
        parts.append(part.join(App, App.id == AppFacet.app_record_id).where(*own) if own else part)
    return Matching(parts[0] if len(parts) == 1 else union(*parts))


async def filter_options(session: AsyncSession, workspace_id: int) -> dict[str, list[str]]:
    """The values that the workspace's live apps and CVMs have, each list in order; one statement.

    From value to value by the index, so that it does not depend on the number of apps.
    """
    sources = [select(literal(name), _values(workspace_id, kind).c.value) for name, kind in _OPTIONS.items()]
    nodes = select(_values(workspace_id, Facet.NODE).c.value)
    # A KMS's kind never changes, and its apps repeat it.
    used = exists().where(
        App.workspace_id == workspace_id, App.deleted_at.is_(None), App.kms_id == KmsNode.id
    )
    sources += [
        select(literal("nodes"), Node.name).where(cast(Node.id, String(128)).in_(nodes)),
        select(literal("kms_slugs"), KmsNode.slug).where(used),
        select(literal("kms_types"), KmsNode.kms_type).where(used).distinct(),
    ]
    names = ("statuses", "image_versions", "instance_types", "kms_slugs", "kms_types", "regions", "nodes")
    options: dict[str, list[str]] = {name: [] for name in names}
    for name, value in (await session.execute(union_all(*sources))).all():
        if value is not None:
            options[name].append(value)
    return {name: sorted(values) for name, values in options.items()}


def _values(workspace_id: int, kind: Facet) -> CTE:
    """The values of a kind, and one null at their end: each is the next one after the one before."""
    first = aliased(AppFacet)
    found = (
        select(func.min(first.value).label("value"))
        .where(first.workspace_id == workspace_id, first.kind == kind)
        .cte(f"values_{kind:d}", recursive=True)
    )
    later = aliased(AppFacet)
    following = (
        select(func.min(later.value))
        .where(later.workspace_id == workspace_id, later.kind == kind, later.value > found.c.value)
        .scalar_subquery()
    )
    return found.union_all(select(following).where(found.c.value.is_not(None)))


def _live_apps(workspace_id: int) -> Select[int]:
    return select(App.id.label("number")).where(App.workspace_id == workspace_id, App.deleted_at.is_(None))


def _once(numbers: Select[int]) -> Select[int]:
    """The same, found out once for page and count: what cannot be read in order costs both as much."""
    found = numbers.cte("matching").prefix_with("MATERIALIZED")
    return select(found.c.number)


def _own_conditions(filters: AppFilters) -> list[ColumnElement[bool]]:
    """Those on the app itself but the search."""
    conditions: list[ColumnElement[bool]] = []
    if filters.listed is not None:
        conditions.append(App.listed == filters.listed)
    if filters.kms_type is not None:
        conditions.append(App.kms_type == filters.kms_type.lower())
    if filters.kms_slug is not None:
        kms = select(KmsNode.id).where(KmsNode.slug == filters.kms_slug).scalar_subquery()
        conditions.append(App.kms_id == kms)
    return conditions


def _kinds(filters: AppFilters) -> dict[Facet, tuple[str | ScalarSelect[str], ...]]:
    """The filters on CVMs by kind, with the values that meet each."""
    kinds: dict[Facet, tuple[str | ScalarSelect[str], ...]] = {}
    if filters.status:
        kinds[Facet.STATUS] = tuple(dict.fromkeys(filters.status))
    if filters.base_image is not None:
        kinds[Facet.BASE_IMAGE] = (filters.base_image,)
    if filters.instance_type is not None:
        kinds[Facet.INSTANCE_TYPE] = (filters.instance_type,)
    if filters.node is not None:
        node = select(cast(Node.id, String(128))).where(Node.name == filters.node)
        kinds[Facet.NODE] = (node.scalar_subquery(),)
    if filters.region is not None:
        kinds[Facet.REGION] = (filters.region,)
    return kinds


def _cvm_conditions(filters: AppFilters) -> list[ColumnElement[bool]]:
    """Rule 1."""
    conditions: list[ColumnElement[bool]] = []
    if filters.status:
        conditions.append(Cvm.status.in_(filters.status))
    if filters.base_image is not None:
        conditions.append(Cvm.base_image == filters.base_image)
    if filters.instance_type is not None:
        conditions.append(Cvm.instance_type == filters.instance_type)
    if filters.node is not None:
        node = select(Node.id).where(Node.name == filters.node)
        conditions.append(Cvm.node_id == node.scalar_subquery())
    if filters.region is not None:
        conditions.append(Cvm.node_id.in_(select(Node.id).where(Node.region == filters.region)))
    return conditions


def _search(dialect: str, workspace_id: int, wanted: str, *, few: bool) -> ColumnElement[bool]:
    """Rule 2. Each source is looked up in an index of its own; names are compared where `few` apps are left."""
    named = name_compared(dialect, wanted) if few else name_contains(dialect, wanted)
    prefix = _hex_prefix(wanted)
    if prefix is None:
        return named
    apps = select(App.id).where(App.workspace_id == workspace_id, _begins(App.app_id, prefix))
    cvms = or_(_begins(Cvm.vm_uuid, prefix), _begins(Cvm.instance_id, prefix))
    return App.id.in_(
        union(
            select(App.id).where(App.workspace_id == workspace_id, named).correlate(None),
            apps.correlate(None),
            select(Cvm.app_record_id).where(live_cvms(workspace_id), cvms),
        )
    )


def _hex_prefix(wanted: str) -> str | None:
    text = wanted.strip().lower()
    for prefix in ("app_", "instance_", "0x"):
        text = text.removeprefix(prefix)
    digits = text.replace("-", "")
    return digits if PREFIX <= len(digits) <= 40 and _HEX.issuperset(digits) else None


def _begins(
    column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None], prefix: str
) -> ColumnElement[bool]:
    """As a range, which an index of the column serves on both databases; `g` follows all hex digits."""
    return and_(column >= prefix, column < prefix + "g")
