"""Attestations as the versions show them (cloud-api.md 11.7, 12.10).

Rules:

1. Texts that have no value are empty where one client refuses null: contract addresses, PPID, device id.
2. `chain_id` is text up to V2 and a number from V3 on; each client refuses the other.
3. A quote is hex without `0x`: verifiers put it before the digits themselves.
4. An answer says under which root its quotes verify, and that it is emulated where it is.
5. An instance, and the answer about one CVM, hold all that a verifier needs beside the root: quote, log, and the
   configuration that the registers are computed from. Saved as it came, `teehouse verify quote` reads it.
"""

from collections.abc import Sequence

from teehouse.cloud.attestations.services import Asked
from teehouse.cloud.cvms.presenters import Json
from teehouse.cloud.cvms.records import AppRecord, CvmRecord, KmsRecord
from teehouse.wire.cloud.versions import ApiVersion


def present_app_attestation(
    app: AppRecord, kms: KmsRecord, instances: Sequence[tuple[CvmRecord, Asked]], version: ApiVersion
) -> Json:
    """`AppAttestation`."""
    evidence = [asked.evidence for _, asked in instances if asked.evidence is not None]
    return {
        "app_id": app.app_id,
        "contract_address": app.contract_address or "",
        "kms_info": _kms(kms, version),
        "instances": [_instance(cvm, asked, version) for cvm, asked in instances],
        "kms_guest_agent_info": None,
        "gateway_guest_agent_info": None,
        "qemu_version": next((one.qemu_version for one in evidence if one.qemu_version), None),
        **_root([cvm for cvm, _ in instances]),
    }


def present_cvm_attestation(cvm: CvmRecord, asked: Asked, compose_file: str) -> Json:
    """`CvmAttestation`."""
    evidence = asked.evidence
    return {
        "name": cvm.row.name,
        "is_online": evidence is not None,
        "is_public": cvm.row.public_tcbinfo,
        "error": asked.error,
        "app_certificates": None if evidence is None else evidence.certificates,
        "tcb_info": None if evidence is None else evidence.tcb_info,
        "compose_file": compose_file,
        "quote": None if evidence is None else evidence.quote,
        "vm_config": None if evidence is None else evidence.vm_config,
        **_root([cvm]),
    }


def _kms(kms: KmsRecord, version: ApiVersion) -> Json:
    chain_id: int | str | None = None
    if kms.on_chain:  # rule 2
        chain_id = str(kms.chain_id) if version <= ApiVersion.V2 else kms.chain_id
    return {
        "contract_address": kms.contract_address if kms.on_chain else "",
        "chain_id": chain_id,
        "version": kms.version,
        "url": kms.url,
        "gateway_app_id": kms.gateway_app_id,
        "gateway_app_url": kms.gateway_app_url or "",
        "kms_type": kms.kms_type,
    }


def _instance(cvm: CvmRecord, asked: Asked, version: ApiVersion) -> Json:
    row, evidence = cvm.row, asked.evidence
    shown: Json = {
        "vm_uuid": row.vm_uuid_text,
        "name": row.name,
        "instance_id": row.instance_id,
        "status": row.status,
        "image_version": row.base_image,
        "quote": None,
        "ppid": "",
        "device_id": "",
        "tcb_info": None,
        "app_certificates": None,
        "compose_file": None,
        "error": asked.error,
    }
    if evidence is None:
        return shown
    shown |= {
        "quote": evidence.quote,
        "ppid": evidence.ppid,
        "device_id": f"0x{evidence.device_id}",
        "tcb_info": evidence.tcb_info,
        "app_certificates": evidence.certificates,
        # What the app hides of its TCB info, it hides here as well.
        "compose_file": None if evidence.tcb_info is None else evidence.tcb_info["app_compose"],
        "vm_config": evidence.vm_config,
    }
    if version >= ApiVersion.V3:
        shown |= {
            "ppid_sha256": evidence.ppid_sha256,
            "fmspc": evidence.fmspc,
            "tee_tcb_svn": evidence.tee_tcb_svn,
            "mr_config_id": evidence.mr_config_id,
            "cpusvn": evidence.cpu_svn,
            "pcesvn": evidence.pce_svn,
            "eventlog": evidence.event_log,
        }
    return shown


def _root(cvms: Sequence[CvmRecord]) -> Json:
    """Rule 4. Roots of several nodes are named one after the other."""
    nodes = [cvm.node for cvm in cvms if cvm.node is not None]
    roots = sorted({node.root for node in nodes})
    return {"emulated": any(node.emulated for node in nodes), "root": ", ".join(roots) or None}
