"""Revisions as all versions show them (cloud-api.md 11.4, 11.5)."""

from collections.abc import Iterable

from teehouse.cloud.cvms.loading import parse_compose
from teehouse.cloud.cvms.presenters import Json, user_ref, workspace_ref
from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.revisions.services import CvmName, RevisionContent, RevisionRecord
from teehouse.wire.cloud.base import time_text, uuid_text
from teehouse.wire.cloud.paging import pages


def present_revision(revision: RevisionRecord) -> Json:
    """`Revision`, and what it changed."""
    row = revision.row
    return {
        "revision_id": encode(Kind.REVISION, row.id),
        "app_id": revision.app.app_id,
        "vm_uuid": uuid_text(revision.cvm.vm_uuid),
        "compose_hash": row.compose_hash,
        "created_at": time_text(row.created_at),
        "trace_id": row.trace_id,
        "correlation_id": row.correlation_id,
        "operation_type": row.operation_type,
        "changed": row.changed,
        "triggered_by": None if revision.user is None else user_ref(revision.user),
        "cvm": _cvm_ref(revision.cvm, revision.app.app_id),
        "workspace": workspace_ref(revision.workspace),
    }


def present_revision_page(revisions: Iterable[RevisionRecord], total: int, page: int, page_size: int) -> Json:
    """GET /apps/{app_id}/revisions (form B)."""
    return {
        "revisions": [present_revision(revision) for revision in revisions],
        "total": total,
        "page": page,
        "page_size": page_size,
        "total_pages": pages(total, page_size),
    }


def present_revision_detail(revision: RevisionContent, *, raw: bool) -> Json:
    """`RevisionDetail`: the compose file as its exact text, or parsed."""
    body = revision.compose_file
    return present_revision(revision.record) | {
        "compose_file": body.decode() if raw else parse_compose(body),
        "encrypted_env": revision.encrypted_env.hex(),
        "user_config": revision.user_config,
    }


def _cvm_ref(cvm: CvmName, app_id: str) -> Json:
    return {
        "object_type": "cvm",
        "id": encode(Kind.CVM, cvm.id),
        "name": cvm.name,
        "app_id": app_id,
        "vm_uuid": uuid_text(cvm.vm_uuid),
    }
