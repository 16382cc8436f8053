"""Apps as the dated versions show them (cloud-api.md 11.1): they differ in their CVMs only."""

from collections.abc import Iterable

from teehouse.cloud.apps.services import AppWithCvms
from teehouse.cloud.cvms.presenters import Json, Presentation, present_cvm_in_app
from teehouse.cloud.ids import Kind, encode
from teehouse.wire.cloud.base import time_text
from teehouse.wire.cloud.paging import pages


def present_app(app: AppWithCvms, how: Presentation) -> Json:
    """`AppV1`, `AppV2` or `AppV3`."""
    record, current = app.record, app.current
    # The current CVM is one of the list: it is presented once.
    cvms = {cvm.row.id: present_cvm_in_app(cvm, how) for cvm in app.cvms}
    return {
        "id": encode(Kind.APP, record.id),
        "name": record.name,
        "app_id": record.app_id,
        "app_provision_type": record.provision_type,
        "app_icon_url": record.icon_url,
        "created_at": time_text(record.created_at),
        "kms_type": record.kms_type,
        "profile": {
            "display_name": record.display_name,
            "avatar_url": record.avatar_url,
            "description": record.description,
            "custom_domain": record.custom_domain,
        },
        "team_slug": app.workspace.slug,
        "team_name": app.workspace.name,
        "current_cvm": None if current is None else cvms[current.row.id],
        "cvms": list(cvms.values()),
        "cvm_count": len(cvms),
    }


def present_app_page(
    apps: Iterable[AppWithCvms], total: int, page: int, page_size: int, how: Presentation
) -> Json:
    """GET /apps (form B)."""
    return {
        "dstack_apps": [present_app(app, how) for app in apps],
        "page": page,
        "page_size": page_size,
        "total": total,
        "total_pages": pages(total, page_size),
    }
