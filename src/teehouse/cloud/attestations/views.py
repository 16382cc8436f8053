"""Routes of attestations (cloud-api.md 11.7, 12.10).

The app's attestations need no key: who relies on an app is seldom who runs it. They show what the agents tell
everybody who asks them.
"""

from fastapi import APIRouter
from sqlalchemy import and_
from starlette.responses import Response

from teehouse.cloud.apps.services import find_public_app
from teehouse.cloud.attestations.presenters import present_app_attestation, present_cvm_attestation
from teehouse.cloud.cvms.loading import load_compose_text, load_cvms, load_kms
from teehouse.cloud.cvms.lookup import find_cvm, live_cvms
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.http.answers import JsonAnswer
from teehouse.cloud.http.dependencies import Parts, Signed, Version
from teehouse.wire.cloud.attestations import AppAttestation, CvmAttestation

router = APIRouter(tags=["attestations"])
public_router = APIRouter(tags=["attestations"])


@public_router.get("/apps/{app_id}/attestations", responses={200: {"model": AppAttestation}})
async def get_app_attestation(app_id: str, parts: Parts, version: Version) -> Response:
    """Evidence of all instances of an app; one that fails is an entry with its error."""
    async with parts.database.read() as session:
        app = await find_public_app(session, app_id)
        kms = (await load_kms(session, [app.kms_id]))[app.kms_id]
        wanted = and_(live_cvms(app.workspace_id), Cvm.app_record_id == app.id)
        cvms = await load_cvms(session, wanted, apps={app.id: app})
    # Agents may take their time; the database's connection is not held meanwhile.
    asked = await parts.attestations.of(parts.agents, [cvm.row for cvm in cvms])
    return JsonAnswer(present_app_attestation(app, kms, list(zip(cvms, asked, strict=True)), version))


@router.get("/cvms/{cvm_id}/attestation", responses={200: {"model": CvmAttestation}})
async def get_cvm_attestation(cvm_id: str, parts: Parts, caller: Signed) -> Response:
    """Evidence of one CVM."""
    async with parts.database.read() as session:
        number = await find_cvm(session, caller.workspace_id, cvm_id)
        (cvm,) = await load_cvms(session, and_(live_cvms(caller.workspace_id), Cvm.id == number))
        compose = await load_compose_text(session, cvm.row.compose_hash)
    (asked,) = await parts.attestations.of(parts.agents, [cvm.row])
    return JsonAnswer(present_cvm_attestation(cvm, asked, compose))
