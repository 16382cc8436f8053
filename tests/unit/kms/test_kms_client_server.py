"""The client against the KMS itself, over real TLS on loopback (trust.md 13.5)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from support.adversary import APP_ID, COMPOSE_HASH, INSTANCE_ID, Claims
from support.kms_support import BOOT, HONEST, IMAGE, NOW, READY, FakeAuth, Running, root_keys, running
from teehouse.attestation.certificate import certificate_report_data
from teehouse.attestation.mrconfig import ConfiguredIdentity
from teehouse.base.clock import FixedClock
from teehouse.keys.appkeys import issue_app_keys
from teehouse.keys.envbox import Variable, environment_public_key, open_environment, seal_environment
from teehouse.keys.pem import certificate_der, certificate_pem, spki_der
from teehouse.kms.audit import read_records
from teehouse.kms.auth import Decision
from teehouse.kms.client.appkeys import KeyRequest, get_app_keys
from teehouse.kms.client.connection import KmsConnection, KmsRefusedError
from teehouse.kms.client.public import get_environment_key, get_meta
from teehouse.kms.client.signer import kms_signer
from teehouse.kms.own import certificate_attestation
from teehouse.ratls.csr import SigningRequest
from teehouse.ratls.read import check_binding, read_certificate

KEYS = replace(root_keys(), domain="127.0.0.1")
REQUEST = KeyRequest(
    vm_config="",
    identity=ConfiguredIdentity(COMPOSE_HASH, APP_ID, instance_id=INSTANCE_ID),
    key_provider_id=KEYS.ca_pubkey,
)


@dataclass
class Evidence:
    """What a running instance takes for a key."""

    public_key: bytes

    def certificate_attestation(self) -> bytes:
        taken = HONEST.attest(Claims(events=READY, report_data=certificate_report_data(self.public_key)))
        return certificate_attestation(taken)


@pytest.fixture
async def kms(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, keys=KEYS) as server:
        yield server


async def stripped(report_data: bytes) -> bytes:
    return certificate_attestation(HONEST.attest(Claims(events=BOOT, report_data=report_data)))


async def test_keys_for_evidence(kms: Running) -> None:
    received = await get_app_keys(kms.url, REQUEST, stripped, NOW)
    issued = issue_app_keys(KEYS.root, APP_ID, INSTANCE_ID, NOW, url=kms.url, gateway_app_id="gateway")
    assert (received.keys, received.os_image_hash, received.kms_id) == (issued.keys, IMAGE, KEYS.ca_pubkey)
    assert received.server_evidence.usage == "kms:rpc"
    assert check_binding(received.server_evidence).ok
    assert [(record.rpc, record.decision) for record in read_records(kms.audit.path)] == [
        ("GetTempCaCert", "allowed"),
        ("GetAppKey", "allowed"),
    ]


async def test_a_refusal_says_why(tmp_path: Path) -> None:
    auth = FakeAuth(app=Decision(is_allowed=False, reason="compose hash not allowed"))
    async with running(tmp_path, keys=KEYS, auth=auth) as server:
        with pytest.raises(KmsRefusedError) as caught:
            await get_app_keys(server.url, REQUEST, stripped, NOW)
    assert caught.value.finding.found == (
        "status 400: App not allowed: Boot denied: compose hash not allowed"
    )


async def test_a_certificate_for_an_app(kms: Running) -> None:
    received = await get_app_keys(kms.url, REQUEST, stripped, NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    request = SigningRequest(
        spki_der(key.public_key()),
        "app.test",
        ("app.test",),
        server_auth=True,
        ext_quote=True,
        ext_app_info=True,
    )
    chain = await kms_signer(received.keys, FixedClock(NOW)).certify(
        request, key, Evidence(request.public_key)
    )
    leaf = read_certificate(certificate_der(chain[0]))
    assert (len(chain), leaf.app_id, leaf.usage) == (3, APP_ID, "app:custom")
    assert leaf.app_info is not None
    assert leaf.app_info.compose_hash == COMPOSE_HASH
    assert check_binding(leaf).ok
    assert chain[2] == certificate_pem(KEYS.root.ca.certificate_der)


async def test_an_environment_is_sealed_for_the_app(kms: Running) -> None:
    root = certificate_pem(KEYS.root.ca.certificate_der)
    async with KmsConnection(kms.url, root=root) as connection:
        meta = await get_meta(connection)
        found = await get_environment_key(connection, APP_ID, trusted=meta.k256_public_key, now=NOW)
    box = seal_environment(found.public_key, [Variable("A", "1")], ephemeral=b"\x05" * 32, iv=b"\x06" * 12)
    received = await get_app_keys(kms.url, REQUEST, stripped, NOW)
    assert environment_public_key(received.keys.env_crypt_key) == found.public_key
    assert open_environment(received.keys.env_crypt_key, box) == (Variable("A", "1"),)
    assert (meta.kms_id, meta.kms_contract_address, meta.chain_id) == (
        KEYS.ca_pubkey,
        "0x" + "11" * 20,
        31337,
    )
