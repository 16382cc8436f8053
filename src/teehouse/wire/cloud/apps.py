"""Apps, as the dated versions have them (cloud-api.md 11.1, 11.2, 11.6)."""

from pydantic import Field

from teehouse.wire.cloud.base import Body
from teehouse.wire.cloud.cvms import CvmBasicV1, CvmV2, CvmV3, KmsTypeName


class AppProfile(Body):
    """How an app wants to be shown."""

    display_name: str | None = None
    avatar_url: str | None = None
    description: str | None = None
    custom_domain: str | None = None


class _App(Body):
    """An app, but for its CVMs. `id` is `app_...`, `app_id` 40 hex digits."""

    id: str
    name: str
    app_id: str
    app_provision_type: str | None = None
    app_icon_url: str | None = None
    created_at: str
    kms_type: KmsTypeName
    profile: AppProfile | None = None
    cvm_count: int = 0
    team_slug: str | None = None
    team_name: str | None = None


class AppV1(_App):
    """An app at V1."""

    current_cvm: CvmBasicV1 | None = None
    cvms: list[CvmBasicV1] = Field(default_factory=list)


class AppV2(_App):
    """An app at V2."""

    current_cvm: CvmV2 | None = None
    cvms: list[CvmV2] = Field(default_factory=list)


class AppV3(_App):
    """An app at V3 and V4."""

    current_cvm: CvmV3 | None = None
    cvms: list[CvmV3] = Field(default_factory=list)


class AppPageV1(Body):
    """GET /apps at V1 (form B of cloud-api.md 4)."""

    dstack_apps: list[AppV1]
    page: int
    page_size: int
    total: int
    total_pages: int


class AppPageV2(Body):
    """GET /apps at V2."""

    dstack_apps: list[AppV2]
    page: int
    page_size: int
    total: int
    total_pages: int


class AppPageV3(Body):
    """GET /apps at V3 and V4."""

    dstack_apps: list[AppV3]
    page: int
    page_size: int
    total: int
    total_pages: int


class FilterOptions(Body):
    """GET /apps/filter-options: the values that the caller's apps have."""

    statuses: list[str]
    image_versions: list[str]
    instance_types: list[str]
    kms_slugs: list[str]
    kms_types: list[str]
    regions: list[str]
    nodes: list[str]
