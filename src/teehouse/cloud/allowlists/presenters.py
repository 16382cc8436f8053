"""Allow-lists as the versions show them (cloud-api.md 11.8 to 11.10).

Rules:

1. CVMs are numbers up to V2 and `cvm_...` from V3 on; an answer that is about none has no member for it.
2. Hashes and device ids have `0x`; no device id is the empty text.
"""

from teehouse.cloud.allowlists.services import AllowedDevice, Allowlist, Answer
from teehouse.cloud.cvms.presenters import Json, cvm_number_or_id
from teehouse.wire.cloud.versions import ApiVersion


def present_allowlist(found: Allowlist | None, version: ApiVersion) -> Json:
    """`DeviceAllowlist`."""
    if found is None:
        return {
            "is_onchain_kms": False,
            "allow_any_device": None,
            "chain_id": None,
            "app_contract_address": None,
            "devices": [],
        }
    return {
        "is_onchain_kms": True,
        "allow_any_device": found.allow_any_device,
        "chain_id": found.chain_id,
        "app_contract_address": found.address,
        "devices": [_device(device, version) for device in found.devices],
    }


def present_answer(answer: Answer, version: ApiVersion) -> Json:
    """`IsAllowed`."""
    verdict = answer.verdict
    shown: Json = {} if answer.cvm is None else {"cvm_id": cvm_number_or_id(answer.cvm, version)}
    return shown | {
        "app_contract_address": answer.address,
        "compose_hash": f"0x{answer.question.compose_hash}",
        "device_id": f"0x{answer.question.device_id}" if answer.question.device_id else "",
        "compose_hash_allowed": verdict.compose_hash_allowed,
        "allow_any_device": verdict.allow_any_device,
        "device_id_allowed": verdict.device_allowed,
        "is_allowed": verdict.allowed,
        "error": verdict.error,
    }


def present_cvms_allowed(found: tuple[list[Answer], list[int]] | None, version: ApiVersion) -> Json:
    """`CvmsAllowed`."""
    answers, skipped = ([], []) if found is None else found
    faults = sum(answer.verdict.error is not None for answer in answers)
    allowed = sum(answer.verdict.allowed for answer in answers)
    return {
        "is_onchain": found is not None,
        "results": [present_answer(answer, version) for answer in answers],
        "total": len(answers),
        "allowed_count": allowed,
        "denied_count": len(answers) - allowed - faults,
        "error_count": faults,
        "skipped_cvm_ids": [cvm_number_or_id(cvm, version) for cvm in skipped],
    }


def _device(device: AllowedDevice, version: ApiVersion) -> Json:
    words = {True: "allowed", False: "not_allowed", None: "unknown"}
    return {
        "device_id": f"0x{device.device_id}",
        "node_name": device.node_name,
        "cvm_ids": [cvm_number_or_id(cvm, version) for cvm in device.cvms],
        "allowed_onchain": device.allowed is True,
        "status": words[device.allowed],
    }
