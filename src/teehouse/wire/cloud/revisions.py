"""Revisions (cloud-api.md 11.4, 11.5), the same at every version."""

from typing import Any

from pydantic import Field

from teehouse.wire.cloud.base import Body
from teehouse.wire.cloud.references import CvmRef, UserRef, WorkspaceRef


class Revision(Body):
    """One change of one CVM: `rev_...`, what was done, by whom, in which trace; `changed` names the fields."""

    revision_id: str
    app_id: str
    vm_uuid: str
    compose_hash: str
    created_at: str
    trace_id: str | None = None
    correlation_id: str | None = None
    operation_type: str
    changed: list[str] = Field(default_factory=list)
    triggered_by: UserRef | None = None
    cvm: CvmRef | None = None
    workspace: WorkspaceRef | None = None


class RevisionPage(Body):
    """GET /apps/{app_id}/revisions, newest first."""

    revisions: list[Revision]
    total: int
    page: int
    page_size: int
    total_pages: int


class RevisionDetail(Revision):
    """GET /apps/{app_id}/revisions/{revision_id}.

    `compose_file` is the parsed object, or, asked for raw, the exact text that `compose_hash` is the SHA-256 of.
    `encrypted_env` is hex, empty for none.
    """

    compose_file: dict[str, Any] | str | None = None
    encrypted_env: str
    user_config: str
