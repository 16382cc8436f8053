"""The feeds that a trust center reads, GET /stats/... (cloud-api.md 10.3); the same at all versions."""

from typing import Generic, Literal, TypeVar

from teehouse.wire.cloud.base import Body

T = TypeVar("T")


class AppStats(Body):
    """An app with the CVM that stands for it. `dstack_app_id` is 40 hex digits, the other ids are numbers."""

    dstack_app_id: str
    app_id: int
    app_name: str
    workspace_id: int
    creator_id: int
    chain_id: int | None
    kms_contract_address: str | None
    contract_address: str | None
    base_image: str
    tproxy_base_domain: str | None
    gateway_domain_suffix: str | None
    listed: bool
    username: str | None
    email: str | None
    app_created_at: str
    vm_created_at: str
    docker_compose_file: str | None


class EntityProfile(Body):
    """How an app, a user or a workspace wants to be shown."""

    entity_type: Literal["app", "user", "workspace"]
    entity_id: int
    display_name: str | None
    avatar_url: str | None
    description: str | None
    custom_domain: str | None
    created_at: str
    updated_at: str | None


class StatsPage(Body, Generic[T]):
    """A page of a feed; readers need `data` alone."""

    data: list[T]
    total: int
    page: int
    page_size: int
    pages: int
