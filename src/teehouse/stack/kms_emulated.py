"""A KMS in an emulated CVM of its own: it attests itself, judges by the installation's root, asks a file.

Rules:

1. The root keys are the installation's, so that whatever its agents derive chains to this KMS.
2. What may boot is said in `auth-config.json` (onchain.md 5.3, `auth_list`).
3. The KMS is measured like any CVM, and its own measurement must be on the list as well.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teehouse.attestation.abi import Quote
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.envelope import Attestation, decode_attestation
from teehouse.collateral.cache import CollateralCache
from teehouse.guest.attest import EvidenceSource
from teehouse.keys.derive import hkdf, p256_from_scalar
from teehouse.kms.audit import AuditLog
from teehouse.kms.auth_file import FileAuth
from teehouse.kms.evidence import Judge
from teehouse.kms.own import attested_rpc_certificate
from teehouse.kms.rootkeys import RootKeys
from teehouse.kms.rootstore import RootKeyStore
from teehouse.kms.server import KmsParts, KmsServer, KmsSettings
from teehouse.stack.addresses import kept_port
from teehouse.stack.auth_list import allow
from teehouse.stack.cvm_emulated import boot_emulated_cvm
from teehouse.stack.installation import Installation

DOMAIN = "localhost"
PORT_FILE = "kms-port"
AUTH_FILE = "auth-config.json"
AUDIT_FILE = "kms-audit.log"
_RPC_DOMAIN = b"teehouse-self-made-kms-rpc-v1"
_COMPOSE: dict[str, Any] = {
    "key_provider": "none",
    "manifest_version": 2,
    "name": "teehouse-kms",
    "runner": "bash",
    "bash_script": "exec teehouse kms serve\n",
}


class ServiceEvidence:
    """Evidence of the KMS's own CVM (`kms.own.OwnEvidence`), taken in this process."""

    def __init__(self, source: EvidenceSource) -> None:
        self._source = source

    async def attest(self, report_data: bytes) -> Attestation:
        """A fresh attestation over 64 bytes. Raises `PlatformError`."""
        return decode_attestation((await self._source.take(report_data)).attestation())


@dataclass(frozen=True, slots=True)
class ServedKms:
    """A KMS that serves; `url` is its https address, `server` the KMS itself."""

    url: str
    server: KmsServer
    auth_file: Path
    audit_file: Path


@asynccontextmanager
async def serve_kms(installation: Installation) -> AsyncIterator[ServedKms]:
    """Boot the KMS's CVM and serve on a free port of the loopback for as long as the context lasts.

    Raises `MisuseError` for a store or a file that cannot be used, `PlatformError`, OSError.
    """
    cvm = await boot_emulated_cvm(installation, _canonical(_COMPOSE), "kms-cvm")
    own = ServiceEvidence(cvm.source)
    measured = cvm.source.app_info(await cvm.source.take(bytes(64)))
    auth_file = installation.state / AUTH_FILE
    allow(auth_file, os_image=measured.os_image_hash, kms=measured.mr_aggregated)

    async def collateral(_quote: Quote) -> Collateral:
        return installation.current_collateral()

    cache = CollateralCache(collateral, installation.clock)
    store = await _store(installation, own)
    audit = AuditLog(installation.state / AUDIT_FILE, installation.clock)
    listening = kept_port(installation.state / PORT_FILE)
    server = KmsServer(
        KmsParts(
            store=store,
            auth=FileAuth(auth_file),
            judge=Judge([installation.root], cache, installation.clock),
            audit=audit,
            clock=installation.clock,
            own=own,
        ),
        KmsSettings(site_name="emulated", onboard_enabled=False),
        rpc_sockets=[listening],
    )
    try:
        await server.start()
        yield ServedKms(f"https://{DOMAIN}:{listening.getsockname()[1]}", server, auth_file, audit.path)
    finally:
        await server.stop()
        audit.close()
        await cvm.log.close()


async def _store(installation: Installation, own: ServiceEvidence) -> RootKeyStore:
    """The store of the root keys, made of the installation's when it is missing (rule 1)."""
    store = RootKeyStore(installation.state / "kms")
    if not await asyncio.to_thread(store.exists):
        rpc_key = p256_from_scalar(hkdf(installation.pki.seed, _RPC_DOMAIN))
        keys = RootKeys(installation.kms, rpc_key, DOMAIN)
        certificate = await attested_rpc_certificate(keys, own, installation.clock.now())
        await asyncio.to_thread(store.create, keys, certificate)
    return store


def _canonical(compose: dict[str, Any]) -> bytes:
    return json.dumps(compose, sort_keys=True, separators=(",", ":")).encode()
