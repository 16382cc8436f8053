"""A guest agent over an emulated TD, and its HTTP doors without a network."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from support import emulated
from teehouse.attestation.identity import derive_app_id, mr_config_id_v1
from teehouse.guest.attest import EvidenceSource
from teehouse.guest.boot import BootIdentity, BootKeys, key_provider_payload, measure_after_keys
from teehouse.guest.info import GuestFacts
from teehouse.guest.measurements import MeasurementLog
from teehouse.guest.service import GuestService
from teehouse.guest.tls import LeafSigner, local_signer
from teehouse.keys.appkeys import AppKeys, generate_without_kms, parse_app_keys
from teehouse.rpc.app import RpcApp
from teehouse.tee_emulated.td import EmulatedTd
from teehouse.wire.app_compose import AppCompose, parse_app_compose
from teehouse.wire.methods import ListenerKind, resolve

# guest-agent.md 19.1: the key of the published simulator.
SIM_KEY = bytes.fromhex("d6e88992cdeeee35fe70b5db61ab66cdb191fb9b6ec9313757ef162dd7214d5d")
COMPOSE: dict[str, Any] = {"manifest_version": 2, "name": "büro", "runner": "docker-compose"}


@dataclass
class Agent:
    """A booted CVM and its service."""

    td: EmulatedTd
    log: MeasurementLog
    compose: AppCompose
    keys: AppKeys
    source: EvidenceSource
    service: GuestService

    def door(self, kind: ListenerKind = "internal", **options: Any) -> httpx.AsyncClient:
        """A client of one listener."""
        return door_of(RpcApp(partial(resolve, kind), self.service.handlers(), **options))


def door_of(app: RpcApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://dstack")


def with_root_key(keys: AppKeys, root_key: bytes) -> AppKeys:
    """The same app with another k256 key: golden vectors name one."""
    text = json.loads(keys.to_json())
    text["k256_key"] = root_key.hex()
    return parse_app_keys(json.dumps(text))


@asynccontextmanager
async def agent(
    directory: Path,
    *,
    compose: Mapping[str, Any] | None = None,
    signer: LeafSigner | None = None,
    td: EmulatedTd | None = None,
    legacy_extensions: bool = True,
    **facts: Any,
) -> AsyncIterator[Agent]:
    """An agent with SIM's root key and its own CA, booted without a KMS; nothing runs in the background."""
    parsed = parse_app_compose(json.dumps({**COMPOSE, **(compose or {})}, ensure_ascii=False))
    directory.mkdir(exist_ok=True)  # noqa: ASYNC240 (one call, in a test)
    platform = td or emulated.td(directory, mr_config_id=mr_config_id_v1(parsed.compose_hash))
    log = MeasurementLog(platform, directory / "log", parsed.event_log_version)
    await log.open()
    identity = BootIdentity(derive_app_id(parsed.raw), parsed.compose_hash, b"\x03" * 20)
    await measure_after_keys(log, identity, BootKeys(key_provider_payload("none")))
    keys = with_root_key(generate_without_kms(bytes(range(32)), emulated.NOW), SIM_KEY)
    source = EvidenceSource(log, platform.boot_events(), platform.vm_config)
    clock = emulated.clock()
    signer = signer or local_signer(keys, source, clock, legacy_extensions=legacy_extensions)
    service = GuestService(source, keys, signer, GuestFacts(compose=parsed, build="test", **facts), clock)
    try:
        yield Agent(platform, log, parsed, keys, source, service)
    finally:
        await service.stop()
        await log.close()
