"""A KMS in an emulated CVM of its own: it attests itself, judges by the installation's root, asks who may boot.

Rules:

1. The root keys follow from the installation's seed. Those of the KMS off chain are the installation's own, so that
   whatever its agents derive chains to it. A KMS on chain has others: what its contract refuses, no list off chain
   can give.
2. Off chain, what may boot is said in `auth-config.json` (onchain.md 5.3, `auth_list`).
3. The KMS is measured like any CVM, and its own measurement must be allowed as well.
4. A KMS has proved its keys when it made them (trust.md 13.3); that proof is what a contract shows.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from teehouse.attestation.abi import Quote
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.envelope import Attestation, decode_attestation, encode_attestation
from teehouse.attestation.identity import AppInfo
from teehouse.collateral.cache import CollateralCache
from teehouse.guest.attest import EvidenceSource
from teehouse.keys.appkeys import KmsRoot, kms_root
from teehouse.keys.derive import hkdf, p256_from_scalar
from teehouse.keys.pem import certificate_pem
from teehouse.kms.audit import AuditLog
from teehouse.kms.auth import AuthApi
from teehouse.kms.auth_file import FileAuth
from teehouse.kms.evidence import Judge
from teehouse.kms.own import attested_rpc_certificate
from teehouse.kms.rootkeys import BootstrapInfo, RootKeys, bootstrap_report_data
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
_ONCHAIN_DOMAIN = b"teehouse-onchain-kms-v1"
_ONCHAIN_RPC_DOMAIN = b"teehouse-onchain-kms-rpc-v1"
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
class KmsPlace:
    """One KMS of an installation: its root, the names of its files in `state`, and what its CVM runs."""

    root: KmsRoot
    compose: bytes
    store: str = "kms"
    cvm: str = "kms-cvm"
    port_file: str = PORT_FILE
    audit_file: str = AUDIT_FILE
    rpc_domain: bytes = _RPC_DOMAIN


@dataclass(frozen=True, slots=True)
class BootedKms:
    """A KMS whose CVM runs and whose keys are there; nobody is served yet. `measured` is its CVM's identity."""

    place: KmsPlace
    installation: Installation
    own: ServiceEvidence
    store: RootKeyStore
    measured: AppInfo


@dataclass(frozen=True, slots=True)
class ServedKms:
    """A KMS that serves; `url` is its https address, `server` the KMS itself, `root` its root keys."""

    url: str
    server: KmsServer
    auth_file: Path
    audit_file: Path
    root: KmsRoot = field(repr=False)

    @property
    def root_pem(self) -> str:
        """The certificate of its root CA, PEM."""
        return certificate_pem(self.root.ca.certificate_der)


def off_chain(installation: Installation) -> KmsPlace:
    """The KMS that asks a file."""
    return KmsPlace(installation.kms, _canonical(_COMPOSE))


def on_chain(installation: Installation) -> KmsPlace:
    """The KMS that asks a contract (rule 1)."""
    root = kms_root(hkdf(installation.pki.seed, _ONCHAIN_DOMAIN), installation.created)
    script = 'exec teehouse kms serve --kms-contract "$KMS_CONTRACT_ADDR"\n'
    return KmsPlace(
        root,
        _canonical({**_COMPOSE, "name": "teehouse-kms-onchain", "bash_script": script}),
        store="kms-onchain",
        cvm="kms-onchain-cvm",
        port_file="kms-onchain-port",
        audit_file="kms-onchain-audit.log",
        rpc_domain=_ONCHAIN_RPC_DOMAIN,
    )


@asynccontextmanager
async def serve_kms(installation: Installation) -> AsyncIterator[ServedKms]:
    """Boot the off-chain KMS's CVM and serve on a free port of the loopback for as long as the context lasts.

    Raises `MisuseError` for a store or a file that cannot be used, `PlatformError`, OSError.
    """
    async with boot_kms(installation, off_chain(installation)) as booted:
        auth_file = installation.state / AUTH_FILE
        measured = booted.measured
        allow(auth_file, os_image=measured.os_image_hash, kms=measured.mr_aggregated)
        async with serve_booted(booted, FileAuth(auth_file)) as served:
            yield served


@asynccontextmanager
async def boot_kms(installation: Installation, place: KmsPlace) -> AsyncIterator[BootedKms]:
    """Boot a KMS's CVM, and make its keys when they are missing. Raises as `serve_kms`."""
    cvm = await boot_emulated_cvm(installation, place.compose, place.cvm)
    try:
        own = ServiceEvidence(cvm.source)
        measured = cvm.source.app_info(await cvm.source.take(bytes(64)))
        store = await _store(installation, place, own)
        yield BootedKms(place, installation, own, store, measured)
    finally:
        await cvm.log.close()


@asynccontextmanager
async def serve_booted(booted: BootedKms, auth: AuthApi) -> AsyncIterator[ServedKms]:
    """Serve on a free port of the loopback; `auth` decides who may boot. Raises as `serve_kms`."""
    installation, place = booted.installation, booted.place

    async def collateral(_quote: Quote) -> Collateral:
        return installation.current_collateral()

    cache = CollateralCache(collateral, installation.clock)
    audit = AuditLog(installation.state / place.audit_file, installation.clock)
    listening = kept_port(installation.state / place.port_file)
    server = KmsServer(
        KmsParts(
            store=booted.store,
            auth=auth,
            judge=Judge([installation.root], cache, installation.clock),
            audit=audit,
            clock=installation.clock,
            own=booted.own,
        ),
        KmsSettings(site_name="emulated", onboard_enabled=False),
        rpc_sockets=[listening],
    )
    try:
        await server.start()
        url = f"https://{DOMAIN}:{listening.getsockname()[1]}"
        yield ServedKms(url, server, installation.state / AUTH_FILE, audit.path, place.root)
    finally:
        await server.stop()
        audit.close()


async def _store(installation: Installation, place: KmsPlace, own: ServiceEvidence) -> RootKeyStore:
    """The store of the root keys, made when it is missing (rules 1, 4)."""
    store = RootKeyStore(installation.state / place.store)
    if not await asyncio.to_thread(store.exists):
        rpc_key = p256_from_scalar(hkdf(installation.pki.seed, place.rpc_domain))
        keys = RootKeys(place.root, rpc_key, DOMAIN)
        k256_pubkey = place.root.k256_public_key
        proof = await own.attest(bootstrap_report_data(keys.ca_pubkey, k256_pubkey))
        keys = replace(
            keys, bootstrap_info=BootstrapInfo(keys.ca_pubkey, k256_pubkey, encode_attestation(proof))
        )
        certificate = await attested_rpc_certificate(keys, own, installation.clock.now())
        await asyncio.to_thread(store.create, keys, certificate)
    return store


def _canonical(compose: dict[str, Any]) -> bytes:
    return json.dumps(compose, sort_keys=True, separators=(",", ":")).encode()
