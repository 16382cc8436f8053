"""Routes of instance types, OS images and KMSs (cloud-api.md 10.2)."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from teehouse.cloud.apps.app_ids import next_app_ids
from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.cloud.http.answers import JsonAnswer
from teehouse.cloud.http.dependencies import PageRequest, Parts, Reading, Signed, Version, paging
from teehouse.cloud.ids import parse_app_id
from teehouse.cloud.inventory import presenters, services
from teehouse.cloud.inventory.contract_states import contract_states
from teehouse.cloud.inventory.env_keys import AskedKmsKeys
from teehouse.wire.cloud.inventory import FamilyInstanceTypes, InstanceTypes, OsImage
from teehouse.wire.cloud.kms import (
    EnvironmentPublicKey,
    KmsContract,
    KmsContractNodes,
    NextAppIds,
    OnChainKms,
)
from teehouse.wire.cloud.paging import PageA, pages
from teehouse.wire.cloud.references import KmsRef
from teehouse.wire.cloud.versions import ApiVersion

router = APIRouter(tags=["inventory"])

Page = Annotated[PageRequest, paging(default=100, most=1000)]
Name = Annotated[str, Path(max_length=128)]


@router.get("/instance-types", responses={200: {"model": InstanceTypes}})
async def list_instance_types(session: Reading) -> Response:
    """All instance types, by family."""
    return JsonAnswer(presenters.present_families(await services.instance_types(session)))


@router.get("/instance-types/{family}", responses={200: {"model": FamilyInstanceTypes}})
async def list_family_instance_types(session: Reading, family: Name) -> Response:
    """The instance types of a family."""
    rows = await services.instance_types(session, family)
    items = [presenters.present_instance_type(row) for row in rows]
    return JsonAnswer({"items": items, "total": len(items), "family": family})


@router.get("/os-images", responses={200: {"model": PageA[OsImage]}})
async def list_os_images(
    session: Reading, page: Page, is_dev: Annotated[bool | None, Query()] = None
) -> Response:
    """The OS images, newest first."""
    rows, total = await services.os_images(session, is_dev=is_dev, offset=page.offset, limit=page.page_size)
    return page_a([presenters.present_os_image(row) for row in rows], total, page)


@router.get("/kms", responses={200: {"model": PageA[KmsRef] | PageA[KmsContract]}})
async def list_kms(
    session: Reading, version: Version, page: Page, is_onchain: Annotated[bool | None, Query()] = None
) -> Response:
    """The KMSs; at V4 their contracts."""
    if version >= ApiVersion.V4:
        contracts, total = await services.kms_contracts(
            session, is_onchain=is_onchain, offset=page.offset, limit=page.page_size
        )
        return page_a([presenters.present_contract(*entry) for entry in contracts], total, page)
    rows, total = await services.kms_nodes(
        session, is_onchain=is_onchain, offset=page.offset, limit=page.page_size
    )
    return page_a([presenters.present_kms(row) for row in rows], total, page)


@router.get("/kms/phala/next_app_id", responses={200: {"model": NextAppIds}})
async def list_next_app_ids(
    session: Reading, caller: Signed, counts: Annotated[int, Query(ge=1, le=20)] = 1
) -> Response:
    """The app ids that the workspace's next provisions get."""
    predicted = await next_app_ids(session, caller.workspace_id, counts)
    return JsonAnswer({"app_ids": [{"app_id": app_id, "nonce": nonce} for app_id, nonce in predicted]})


@router.get("/kms/on-chain/{chain}", responses={200: {"model": OnChainKms}})
async def get_on_chain_kms(session: Reading, parts: Parts, chain: Name) -> Response:
    """The KMS contracts of a chain, with the devices and OS images of the nodes that use them."""
    contracts = await services.on_chain_contracts(session, chain)
    numbers = [row.id for row in contracts]
    devices = await services.contract_devices(session, numbers)
    images = await services.contract_images(session, numbers)
    await session.close()  # a chain that is slow is no reason to hold a connection
    said = await contract_states(parts.kms_contracts, contracts, devices, images)
    return JsonAnswer(presenters.present_on_chain(chain, contracts, devices, images, said))


@router.get("/kms/{kms}", responses={200: {"model": KmsRef | KmsContract}})
async def get_kms(session: Reading, version: Version, kms: Name) -> Response:
    """A KMS by id, slug or type; at V4 a contract by id, slug or address."""
    if version >= ApiVersion.V4:
        return JsonAnswer(presenters.present_contract(*await services.find_contract(session, kms)))
    return JsonAnswer(presenters.present_kms(await services.find_kms(session, kms)))


@router.get("/kms/{contract}/nodes", responses={200: {"model": KmsContractNodes}})
async def list_kms_contract_nodes(session: Reading, contract: Name) -> Response:
    """The KMSs that run for a contract."""
    row, _ = await services.find_contract(session, contract)
    return JsonAnswer(presenters.present_contract_nodes(await services.contract_nodes(session, row.id)))


@router.get("/kms/{kms}/pubkey/{app_id}", responses={200: {"model": EnvironmentPublicKey}})
async def get_app_env_encrypt_pub_key(session: Reading, parts: Parts, kms: Name, app_id: Name) -> Response:
    """The key that the app's environment is encrypted for, and the KMS's signature over it.

    It is public, and may be asked for before the app exists.
    """
    digits = parse_app_id(app_id)
    if digits is None:
        message = "An app id is 40 hex digits"
        raise CloudError(
            ErrorCode.INVALID_REQUEST, message, details=[Detail(field="app_id", message=message)]
        )
    row = await services.find_kms(session, kms, app_id=digits)
    keys = parts.kms_keys or AskedKmsKeys(parts.clock)
    key = await keys.signed_key(row.url, row.contract.k256_pubkey, digits)
    return JsonAnswer({"public_key": key.public_key.hex(), "signature": key.signature.hex()})


def page_a(items: list[dict[str, Any]], total: int, page: PageRequest) -> Response:
    """Form A of cloud-api.md 4."""
    return JsonAnswer(
        {
            "items": items,
            "total": total,
            "page": page.page,
            "page_size": page.page_size,
            "pages": pages(total, page.page_size),
        }
    )
