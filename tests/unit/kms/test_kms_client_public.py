"""What a KMS tells everyone (trust.md 13.5, 14, `teehouse.kms.client.public`)."""

from datetime import timedelta

import pytest

from support.kms_client_support import APP_ID, KEYS, NOW, FakeKms, refuse, replies, say
from teehouse.base.findings import MisuseError
from teehouse.keys.derive import dh_secret, p256_scalar
from teehouse.keys.envbox import environment_public_key
from teehouse.keys.pem import certificate_pem
from teehouse.kms import answers
from teehouse.kms.client.connection import KmsConnection, KmsRefusedError
from teehouse.kms.client.public import EnvironmentKey, KmsMeta, get_environment_key, get_meta
from teehouse.wire import kms_pb2

TRUSTED = KEYS.root.k256_public_key
ROOT = certificate_pem(KEYS.root.ca.certificate_der)
TOLD = answers.env_public_key_response(KEYS, APP_ID, NOW)
SECRET = dh_secret(p256_scalar(KEYS.root.ca.key), APP_ID, b"env-encrypt-key")


async def test_about_the_kms() -> None:
    async with FakeKms(replies()) as kms, KmsConnection(kms.url, root=ROOT) as connection:
        meta = await get_meta(connection)
    assert meta == KmsMeta(
        ca_certificate=ROOT,
        kms_id=KEYS.ca_pubkey,
        k256_public_key=TRUSTED,
        allow_any_upgrade=True,
        is_dev=True,
        bootstrap_attestation=b"",
        gateway_app_id="gateway",
        kms_contract_address="0x01",
        chain_id=7,
        app_auth_implementation="0x02",
    )


async def test_what_a_kms_leaves_out_is_none() -> None:
    message = kms_pb2.GetMetaResponse(
        ca_cert=ROOT,
        k256_pubkey=TRUSTED,
        bootstrap_info=kms_pb2.BootstrapResponse(attestation=b"evidence"),
    )
    async with FakeKms({"GetMeta": say(message)}) as kms, KmsConnection(kms.url) as connection:
        meta = await get_meta(connection)
    assert meta == KmsMeta(ROOT, KEYS.ca_pubkey, TRUSTED, False, False, b"evidence", *[None] * 4)


@pytest.mark.parametrize(
    "message",
    [
        kms_pb2.GetMetaResponse(ca_cert="x", k256_pubkey=TRUSTED),
        kms_pb2.GetMetaResponse(ca_cert=ROOT, k256_pubkey=TRUSTED[1:]),
    ],
)
async def test_another_form_is_refused(message: kms_pb2.GetMetaResponse) -> None:
    async with FakeKms({"GetMeta": say(message)}) as kms, KmsConnection(kms.url) as connection:
        with pytest.raises(KmsRefusedError) as caught:
            await get_meta(connection)
    assert caught.value.finding.code == "kms.answer"


async def ask(
    message: kms_pb2.PublicKeyResponse,
    *,
    late: int = 0,
    accept_undated: bool = False,
    trusted: bytes = TRUSTED,
) -> EnvironmentKey:
    now = NOW + timedelta(seconds=late)
    async with (
        FakeKms({"GetAppEnvEncryptPubKey": say(message)}) as kms,
        KmsConnection(kms.url) as connection,
    ):
        found = await get_environment_key(
            connection, APP_ID, trusted=trusted, now=now, accept_undated=accept_undated
        )
    assert kms.seen == [("GetAppEnvEncryptPubKey", kms_pb2.AppId(app_id=APP_ID).SerializeToString(), None)]
    return found


def altered(**changes: object) -> kms_pb2.PublicKeyResponse:
    message = kms_pb2.PublicKeyResponse()
    message.CopyFrom(TOLD)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


async def test_rule_2_a_key_that_the_trusted_kms_signed() -> None:
    expected = EnvironmentKey(
        environment_public_key(SECRET), TOLD.signature, int(NOW.timestamp()), TOLD.signature_v1
    )
    assert await ask(TOLD) == expected
    assert await ask(TOLD, late=300, accept_undated=True) == expected


async def test_rule_2_the_older_signature_where_the_caller_says_so() -> None:
    old = altered(signature_v1=b"", timestamp=0)
    assert (await ask(old, accept_undated=True)).public_key == environment_public_key(SECRET)
    with pytest.raises(KmsRefusedError):
        await ask(old)


@pytest.mark.parametrize(
    ("message", "late", "code"),
    [
        (TOLD, 301, "environment-key"),
        (TOLD, -61, "environment-key"),
        (altered(public_key=bytes(32)), 0, "environment-key"),
        (altered(signature_v1=TOLD.signature), 0, "environment-key"),
        (altered(timestamp=TOLD.timestamp + 1), 0, "environment-key"),
        (altered(public_key=b"x"), 0, "kms.answer"),
    ],
)
async def test_rule_2_any_other_is_refused(message: kms_pb2.PublicKeyResponse, late: int, code: str) -> None:
    for accept_undated in (False, True):
        with pytest.raises(KmsRefusedError) as caught:
            await ask(message, late=late, accept_undated=accept_undated)
        assert caught.value.finding.code == code


async def test_rule_2_another_kms_is_refused() -> None:
    with pytest.raises(KmsRefusedError):
        await ask(TOLD, trusted=bytes([TRUSTED[0] ^ 1]) + TRUSTED[1:])


async def test_an_app_id_of_another_size_is_misuse() -> None:
    async with KmsConnection("https://127.0.0.1:9") as connection:
        with pytest.raises(MisuseError):
            await get_environment_key(connection, b"x", trusted=TRUSTED, now=NOW)


async def test_a_refusal_comes_through() -> None:
    async with (
        FakeKms({"GetMeta": refuse(400, "auth API unavailable")}) as kms,
        KmsConnection(kms.url) as connection,
    ):
        with pytest.raises(KmsRefusedError) as caught:
            await get_meta(connection)
    assert caught.value.finding.found == "status 400: auth API unavailable"
