"""What tests of the authorisation back-ends ask about."""

import json
from dataclasses import replace
from typing import Any

from teehouse.kms.boot_info import TEE_VARIANT, BootInfo

IMAGE, MR, COMPOSE, DEVICE, SYSTEM = (bytes([n]) * 32 for n in range(1, 6))
APP_ID = b"\x0a" * 20
INSTANCE = b"\x0b" * 20
OTHER = b"\xff" * 32

BOOT_INFO = BootInfo(
    tee_variant=TEE_VARIANT,
    mr_aggregated=MR,
    os_image_hash=IMAGE,
    mr_system=SYSTEM,
    app_id=APP_ID,
    compose_hash=COMPOSE,
    instance_id=INSTANCE,
    device_id=DEVICE,
    key_provider_info=b"",
    tcb_status="UpToDate",
)


def boot_info(**changes: Any) -> BootInfo:
    return replace(BOOT_INFO, **changes)


def rules_file(**changes: Any) -> str:
    """An authorization file that allows `BOOT_INFO`, as an app and as a KMS; `changes` replace members."""
    members: dict[str, Any] = {
        "gatewayAppId": "gateway",
        "kmsContractAddr": "0x" + "11" * 20,
        "chainId": 0,
        "appImplementation": "0x" + "22" * 20,
        "osImages": ["0x" + IMAGE.hex()],
        "allowedTcbStatuses": ["UpToDate"],
        "allowedAdvisoryIds": [],
        "kms": {"mrAggregated": [MR.hex()], "devices": [DEVICE.hex()], "allowAnyDevice": False},
        "apps": {
            "0x" + APP_ID.hex(): {
                "composeHashes": [COMPOSE.hex()],
                "devices": ["0x" + DEVICE.hex().upper()],
                "allowAnyDevice": False,
            }
        },
    }
    return json.dumps({**members, **changes})
