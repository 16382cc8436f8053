"""What the KMS tells the authorisation API about who asks for keys (trust.md 13.6, onchain.md 5.2).

Rules:

1. The members, their order and their camelCase names are those of the wire; bytes are lower-case hex
   without 0x.
2. Every value comes from evidence that was verified. At key release the measurements are those of boot
   time: no key provider yet, RTMR3 up to `boot-mr-done`. A KMS as subject is measured by its whole log.
3. The TCB status and the advisories are told, not judged: judging them is the authorisation API's part.
"""

from dataclasses import dataclass

TEE_VARIANT = "dstack-tdx"


@dataclass(frozen=True, slots=True)
class BootInfo:
    """Who asks, as verified evidence says it (rule 2).

    `app_id` and `instance_id` are 20 bytes (the latter may be empty), every other byte string 32, except
    `key_provider_info`, which is the event's payload and empty at boot time.
    """

    tee_variant: str
    mr_aggregated: bytes
    os_image_hash: bytes
    mr_system: bytes
    app_id: bytes
    compose_hash: bytes
    instance_id: bytes
    device_id: bytes
    key_provider_info: bytes
    tcb_status: str
    advisory_ids: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, str | list[str]]:
        """The JSON members of the request to the authorisation API (rule 1)."""
        return {
            "teeVariant": self.tee_variant,
            "mrAggregated": self.mr_aggregated.hex(),
            "osImageHash": self.os_image_hash.hex(),
            "mrSystem": self.mr_system.hex(),
            "appId": self.app_id.hex(),
            "composeHash": self.compose_hash.hex(),
            "instanceId": self.instance_id.hex(),
            "deviceId": self.device_id.hex(),
            "keyProviderInfo": self.key_provider_info.hex(),
            "tcbStatus": self.tcb_status,
            "advisoryIds": list(self.advisory_ids),
        }
