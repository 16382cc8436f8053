"""The JSON between a KMS and its authorisation API, read and written (onchain.md 5.1, 5.2).

Rules:

1. Hex has its 0x or has not, and at most as many bytes as the value: 20 for the two ids, 32 for every other.
   A shorter value is filled up with zeros on the left, so that no text at all is zero.
2. A request names the measurements, the ids and the compose hash; TCB status (128 characters), advisories
   (128 of 256 characters) and system measurement may be left out. Other members are not looked at.
3. A decision has all of its three members, each of its own kind: what else a reader might take it for, it is
   no decision.
4. About itself, an API tells at least status, both contract addresses, the gateway's app id and the chain id.
5. Bodies are bounded before they are parsed, and no member stands twice.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from teehouse.attestation import strictjson
from teehouse.base.findings import EvidenceError, malformed
from teehouse.kms.auth import AuthInfo, Decision
from teehouse.kms.boot_info import BootInfo

REQUEST_LIMIT: Final = 1024 * 1024  # bytes
ANSWER_LIMIT: Final = 64 * 1024  # bytes
ID_SIZE: Final = 20  # bytes of an app id, an instance id, a contract's address
HASH_SIZE: Final = 32  # bytes of every measurement and hash
STATUS_LIMIT: Final = 128  # characters
ADVISORIES_LIMIT: Final = 128
ADVISORY_LIMIT: Final = 256  # characters

OK: Final = "ok"
UNAVAILABLE: Final = "authorization backend unavailable"
INVALID: Final = "invalid authorization request"
ZERO_ADDRESS: Final = "0x" + "0" * 2 * ID_SIZE

_REQUEST = "auth-request"
_ANSWER = "auth-answer"
_HEX = re.compile(r"(?:0x)?([0-9a-fA-F]*)\Z")
_CHAIN_ID_LIMIT = 2**64 - 1


def padded_hex(text: str, size: int, what: str, name: str = _REQUEST) -> bytes:
    """The `size` bytes of a hex text (rule 1). Raises `EvidenceError` (malformed)."""
    match = _HEX.match(text)
    if match is None or len(match[1]) > 2 * size:
        raise malformed(
            f"{name}.hex",
            f"{what} of {name}",
            expected=f"hex digits of at most {size} bytes, with or without 0x",
        )
    return bytes.fromhex(match[1].rjust(2 * size, "0"))


def decode_request(body: bytes) -> BootInfo:
    """What a KMS asks about (rules 1, 2, 5); bytes have their full size. Raises `EvidenceError` (malformed)."""
    members = strictjson.load_object(body, _REQUEST, limit=REQUEST_LIMIT)

    def octets(key: str, size: int, default: str | None = None) -> bytes:
        return padded_hex(strictjson.text_member(members, key, _REQUEST, default), size, key)

    return BootInfo(
        tee_variant="",  # not looked at, as rule 2 has it
        mr_aggregated=octets("mrAggregated", HASH_SIZE),
        os_image_hash=octets("osImageHash", HASH_SIZE),
        mr_system=octets("mrSystem", HASH_SIZE, ""),
        app_id=octets("appId", ID_SIZE),
        compose_hash=octets("composeHash", HASH_SIZE),
        instance_id=octets("instanceId", ID_SIZE),
        device_id=octets("deviceId", HASH_SIZE),
        key_provider_info=b"",
        tcb_status=_bounded(
            strictjson.text_member(members, "tcbStatus", _REQUEST, ""), STATUS_LIMIT, "tcbStatus"
        ),
        advisory_ids=_advisories(members),
    )


def _advisories(members: Mapping[str, Any]) -> tuple[str, ...]:
    listed = members.get("advisoryIds", [])
    if not isinstance(listed, list) or len(listed) > ADVISORIES_LIMIT:
        raise malformed(
            f"{_REQUEST}.advisories",
            f"advisoryIds of {_REQUEST}",
            expected=f"a list of at most {ADVISORIES_LIMIT}",
        )
    named = ({"advisoryIds": advisory} for advisory in listed)
    return tuple(
        _bounded(strictjson.text_member(one, "advisoryIds", _REQUEST), ADVISORY_LIMIT, "advisoryIds")
        for one in named
    )


def _bounded(text: str, limit: int, what: str) -> str:
    if len(text) > limit:
        raise malformed(
            f"{_REQUEST}.too-long", f"{what} of {_REQUEST}", expected=f"at most {limit} characters"
        )
    return text


def encode_decision(decision: Decision) -> bytes:
    """The body of an answer to a question (onchain.md 5.2)."""
    return json.dumps(
        {
            "isAllowed": decision.is_allowed,
            "reason": decision.reason,
            "gatewayAppId": decision.gateway_app_id,
        }
    ).encode()


def decode_decision(body: bytes) -> Decision:
    """A decision (rules 3, 5). Raises `EvidenceError` (malformed)."""
    members = strictjson.load_object(body, _ANSWER, limit=ANSWER_LIMIT)
    allowed = members.get("isAllowed")
    if not isinstance(allowed, bool):
        raise _no_member("isAllowed", "true or false", allowed)
    return Decision(
        is_allowed=allowed,
        reason=strictjson.text_member(members, "reason", _ANSWER),
        gateway_app_id=strictjson.text_member(members, "gatewayAppId", _ANSWER),
    )


def encode_info(info: AuthInfo) -> bytes:
    """The body of `GET /` (onchain.md 5.1); members that are not known are left out."""
    members: dict[str, str | int | None] = {
        "status": info.status,
        "kmsContractAddr": info.kms_contract_address,
        "ethRpcUrl": info.eth_rpc_url,
        "gatewayAppId": info.gateway_app_id,
        "chainId": info.chain_id,
        "appAuthImplementation": info.app_auth_implementation,
        "appImplementation": info.app_implementation,
    }
    return json.dumps({key: value for key, value in members.items() if value is not None}).encode()


def decode_info(body: bytes) -> AuthInfo:
    """What an API tells about itself (rules 4, 5). Raises `EvidenceError` (malformed)."""
    members = strictjson.load_object(body, _ANSWER, limit=ANSWER_LIMIT)

    def text(key: str) -> str:
        return strictjson.text_member(members, key, _ANSWER)

    def perhaps(key: str) -> str | None:
        return None if members.get(key) is None else text(key)

    if text("status") != OK:
        raise _no_member("status", f'"{OK}"', members["status"])
    return AuthInfo(
        kms_contract_address=text("kmsContractAddr"),
        gateway_app_id=text("gatewayAppId"),
        chain_id=strictjson.int_member(members, "chainId", _ANSWER, limit=_CHAIN_ID_LIMIT),
        app_implementation=text("appImplementation"),
        app_auth_implementation=perhaps("appAuthImplementation"),
        eth_rpc_url=perhaps("ethRpcUrl"),
    )


def _no_member(key: str, expected: str, found: object) -> EvidenceError:
    shown = strictjson.quoted(found) if isinstance(found, str) else strictjson.kind(found)
    return malformed(f"{_ANSWER}.member", f"{key} of {_ANSWER}", expected=expected, found=shown)
