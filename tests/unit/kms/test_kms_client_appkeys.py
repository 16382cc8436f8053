"""How an instance gets its keys (trust.md 13.5, rules of `teehouse.kms.client.appkeys`)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty

from support.kms_client_support import (
    APP_ID,
    COMPOSE_HASH,
    IMAGE_HASH,
    KEYS,
    NOW,
    OTHER_KEYS,
    FakeKms,
    app_key_answer,
    app_keys,
    attest,
    attested_certificate,
    refuse,
    replies,
    request,
    say,
    server_certificate,
)
from teehouse.attestation.mrconfig import mr_config_id_v1, mr_config_id_v2, mr_config_id_v3
from teehouse.base.clock import FixedClock
from teehouse.base.findings import Family, MisuseError
from teehouse.keys.appkeys import parse_app_keys
from teehouse.keys.pem import certificate_pem
from teehouse.kms import answers
from teehouse.kms.client.appkeys import (
    KeyRequest,
    KmsDeadlineError,
    Patience,
    ReceivedKeys,
    get_app_keys,
    obtain_app_keys,
)
from teehouse.kms.client.connection import KmsConnection, KmsRefusedError, KmsUnreachableError
from teehouse.kms.client.temporary import get_temporary_ca
from teehouse.ratls.read import check_binding, read_certificate
from teehouse.wire import kms_pb2

PIN = KEYS.ca_pubkey


async def unwanted(_: bytes) -> bytes:
    raise AssertionError("evidence was asked for")


async def refusal(kms: FakeKms, wanted: KeyRequest, evidence: Any = attest) -> KmsRefusedError:
    with pytest.raises(KmsRefusedError) as caught:
        await get_app_keys(kms.url, wanted, evidence, NOW)
    for secret in (app_key_answer().k256_key, app_key_answer().disk_crypt_key):
        assert secret.hex() not in str(caught.value)
    return caught.value


async def test_evidence_in_keys_out() -> None:
    certificate = await attested_certificate()
    async with FakeKms(replies(), certificate=certificate) as kms:
        received = await get_app_keys(kms.url, request(key_provider_id=PIN), attest, NOW)
    assert received == ReceivedKeys(
        app_keys(kms.url), IMAGE_HASH, PIN, certificate, read_certificate(certificate)
    )
    assert check_binding(received.server_evidence).ok
    assert parse_app_keys(received.keys.to_json()) == received.keys
    (first, nothing, nobody), (second, question, client) = kms.seen
    assert (first, nothing, nobody) == ("GetTempCaCert", b"", None)
    assert second == "GetAppKey"
    assert kms_pb2.GetAppKeyRequest.FromString(question) == kms_pb2.GetAppKeyRequest(
        api_version=1, vm_config="{}"
    )
    assert client is not None
    assert check_binding(read_certificate(client)).ok


async def test_each_try_has_a_key_of_its_own() -> None:
    async with FakeKms(replies()) as kms:
        for _ in range(2):
            await get_app_keys(kms.url, request(), attest, NOW)
    clients = [client for method, _, client in kms.seen if method == "GetAppKey"]
    assert clients[0] != clients[1]


async def test_secrets_are_not_shown() -> None:
    async with FakeKms(replies()) as kms:
        received = await get_app_keys(kms.url, request(), attest, NOW)
        async with KmsConnection(kms.url) as connection:
            ca = await get_temporary_ca(connection)
    keys = received.keys
    for secret in (keys.k256_key, keys.disk_crypt_key, keys.env_crypt_key):
        assert repr(secret)[2:-1] not in repr(received)
    assert "PRIVATE KEY" not in repr(received) + repr(ca)


@pytest.mark.parametrize("pin", [OTHER_KEYS.ca_pubkey, PIN[:-1], PIN + b"\0", b"\0"])
async def test_rules_2_and_4_another_kms_than_the_pinned_one_gets_no_evidence(pin: bytes) -> None:
    async with FakeKms(replies()) as kms:
        error = await refusal(kms, request(key_provider_id=pin), unwanted)
    assert error.finding.code == "kms.pin"
    assert error.finding.found == PIN.hex()
    assert [method for method, *_ in kms.seen] == ["GetTempCaCert"]


async def test_rule_2_a_second_certificate_beside_the_pinned_one_is_not_trusted() -> None:
    """A KMS that is not the pinned one gives the pinned root first, and its own after it."""
    both = certificate_pem(KEYS.root.ca.certificate_der) + certificate_pem(OTHER_KEYS.root.ca.certificate_der)
    temporary = answers.temp_ca_response(OTHER_KEYS)
    temporary.ca_cert = both
    stolen = app_key_answer(OTHER_KEYS)
    stolen.ca_cert = both
    spoken = {"GetTempCaCert": say(temporary), "GetAppKey": say(stolen)}
    async with FakeKms(spoken, keys=OTHER_KEYS) as kms:
        error = await refusal(kms, request(key_provider_id=PIN))
    assert error.finding.code == "kms.server-certificate"


async def test_what_follows_the_root_certificate_is_not_kept() -> None:
    both = certificate_pem(KEYS.root.ca.certificate_der) + certificate_pem(OTHER_KEYS.root.ca.certificate_der)
    answer = app_key_answer()
    answer.ca_cert = both
    async with FakeKms({**replies(), "GetAppKey": say(answer)}) as kms:
        received = await get_app_keys(kms.url, request(), attest, NOW)
    assert received.keys.ca_cert == certificate_pem(KEYS.root.ca.certificate_der)


@pytest.mark.parametrize(
    "mr_config_id",
    [
        bytes(48),
        mr_config_id_v1(COMPOSE_HASH),
        mr_config_id_v2(COMPOSE_HASH, APP_ID, 2, PIN),
    ],
)
async def test_rule_3_mr_config_id_that_fits(mr_config_id: bytes) -> None:
    async with FakeKms(replies()) as kms:
        assert (await get_app_keys(kms.url, request(mr_config_id=mr_config_id), attest, NOW)).kms_id == PIN


async def test_rule_3_mr_config_id_with_its_document() -> None:
    document = (
        f'{{"app_id":"{APP_ID.hex()}","compose_hash":"{COMPOSE_HASH.hex()}","key_provider":"kms",'
        f'"key_provider_id":"{PIN.hex()}","version":3}}'
    ).encode()
    wanted = request(mr_config_id=mr_config_id_v3(document), mr_config_document=document)
    async with FakeKms(replies()) as kms:
        assert (await get_app_keys(kms.url, wanted, attest, NOW)).kms_id == PIN


@pytest.mark.parametrize(
    "mr_config_id",
    [
        mr_config_id_v1(bytes(32)),
        mr_config_id_v2(COMPOSE_HASH, APP_ID, 2, OTHER_KEYS.ca_pubkey),
        mr_config_id_v2(COMPOSE_HASH, APP_ID, 0, b""),
        mr_config_id_v3(b"{}"),
    ],
)
async def test_rules_3_and_4_mr_config_id_of_another_kms_or_app(mr_config_id: bytes) -> None:
    async with FakeKms(replies()) as kms:
        error = await refusal(kms, request(mr_config_id=mr_config_id), unwanted)
    assert error.finding.code == "mr-config-id"
    assert [method for method, *_ in kms.seen] == ["GetTempCaCert"]


async def test_rule_5_an_app_under_the_same_root_is_no_kms() -> None:
    async with FakeKms(replies(), certificate=server_certificate(usage="app:custom")) as kms:
        assert (await refusal(kms, request())).finding.code == "kms.server-usage"


async def test_rule_5_the_root_is_the_one_of_before() -> None:
    async with FakeKms({**replies(), "GetAppKey": say(app_key_answer(OTHER_KEYS))}) as kms:
        error = await refusal(kms, request())
    assert str(error) == (
        "the answer of the KMS to GetAppKey: found ca_cert: expected the root CA of before, found another"
    )


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"disk_crypt_key": b"x"}, "disk_crypt_key: expected 32 bytes, found 1"),
        ({"disk_crypt_key": b""}, "disk_crypt_key: expected 32 bytes, found 0"),
        ({"env_crypt_key": b"x"}, "env_crypt_key: expected 0 or 32 bytes, found 1"),
        ({"k256_signature": b""}, "k256_signature: expected 65 bytes, found 0"),
        ({"os_image_hash": b"x"}, "os_image_hash: expected 0 or 32 bytes, found 1"),
        ({"k256_key": b"x"}, "k256_key of the app keys is not valid: expected 32 bytes"),
        ({"ca_cert": "x"}, "no certificate in the PEM text: expected -----BEGIN CERTIFICATE-----"),
    ],
)
async def test_rule_5_keys_have_their_sizes(changes: dict[str, Any], found: str) -> None:
    answer = app_key_answer()
    for name, value in changes.items():
        setattr(answer, name, value)
    async with FakeKms({**replies(), "GetAppKey": say(answer)}) as kms:
        assert (await refusal(kms, request())).finding.found == found


async def test_the_former_name_of_the_gateway_is_read() -> None:
    answer = app_key_answer()
    answer.gateway_app_id, answer.tproxy_app_id = "", "former"
    async with FakeKms({**replies(), "GetAppKey": say(answer)}) as kms:
        assert (await get_app_keys(kms.url, request(), attest, NOW)).keys.gateway_app_id == "former"


@pytest.mark.parametrize("member", ["ca_cert", "temp_ca_cert", "temp_ca_key"])
async def test_a_temporary_ca_that_cannot_be_read_is_refused(member: str) -> None:
    answer = answers.temp_ca_response(KEYS)
    setattr(answer, member, "x")
    async with FakeKms({"GetTempCaCert": say(answer)}) as kms:
        assert (await refusal(kms, request(), unwanted)).finding.code == "kms.answer"


async def test_a_temporary_ca_with_another_key_is_refused() -> None:
    answer = answers.temp_ca_response(KEYS)
    answer.temp_ca_key = answers.temp_ca_response(OTHER_KEYS).temp_ca_key
    async with FakeKms({"GetTempCaCert": say(answer)}) as kms:
        error = await refusal(kms, request(), unwanted)
    assert error.finding.found == "temp_ca_key does not belong to temp_ca_cert"


async def test_keys_come_over_https_alone() -> None:
    with pytest.raises(MisuseError) as caught:
        await get_app_keys("http://127.0.0.1:9", request(), unwanted, NOW)
    assert caught.value.finding.code == "kms.url"


class Time:
    """A clock that goes on when one sleeps."""

    def __init__(self, after: Callable[[int], Awaitable[None]] | None = None) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        self._after = after

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        if self._after:
            await self._after(len(self.pauses))


async def obtain(time: Time, urls: list[str], deadline: float = 60.0, jitter: float = 1.0) -> ReceivedKeys:
    return await obtain_app_keys(
        urls,
        request(),
        attest,
        FixedClock(NOW),
        patience=Patience(deadline=deadline, first_pause=1.0, longest_pause=8.0),
        monotonic=time.monotonic,
        sleep=time.sleep,
        jitter=lambda: jitter,
    )


async def test_rule_6_a_kms_that_comes_up_is_asked_again() -> None:
    async with FakeKms(replies()) as kms:
        good = kms.replies["GetAppKey"]
        kms.replies["GetAppKey"] = refuse(503, "starting")

        async def come_up(pauses: int) -> None:
            if pauses == 5:
                kms.replies["GetAppKey"] = good

        time = Time(come_up)
        received = await obtain(time, [kms.url])
    assert received.keys == app_keys(kms.url)
    assert time.pauses == [1.0, 2.0, 4.0, 8.0, 8.0]


async def test_rule_6_pauses_are_spread() -> None:
    async with FakeKms({}) as kms:
        pass
    time = Time()
    with pytest.raises(KmsDeadlineError):
        await obtain(time, [kms.url], deadline=5.0, jitter=0.0)
    assert time.pauses == [0.5, 1.0, 2.0]


async def test_rule_6_the_deadline_ends_it_clearly() -> None:
    async with FakeKms({}) as kms:
        pass
    time = Time()
    with pytest.raises(KmsDeadlineError) as caught:
        await obtain(time, [kms.url], deadline=10.0)
    assert time.pauses == [1.0, 2.0, 4.0]
    finding = caught.value.finding
    assert (finding.code, caught.value.family) == ("kms.deadline", Family.COLLATERAL)
    assert finding.expected == f"an answer within 10 seconds from {kms.url}"
    assert finding.found.startswith(
        f"none in 4 tries; last: the KMS at {kms.url} does not answer GetTempCaCert"
    )


async def test_rule_6_the_first_that_gives_keys_is_enough() -> None:
    async with FakeKms({}) as down:
        pass
    async with FakeKms(replies()) as first, FakeKms(replies()) as second:
        received = await obtain(Time(), [down.url, first.url, second.url])
    assert received.keys == app_keys(first.url)
    assert second.seen == []


async def test_rule_6_a_refusal_is_final() -> None:
    async with FakeKms({**replies(), "GetAppKey": refuse(400, "App not allowed: Boot denied: no")}) as kms:
        time = Time()
        with pytest.raises(KmsRefusedError) as caught:
            await obtain(time, [kms.url])
    assert time.pauses == []
    assert caught.value.finding.found == "status 400: App not allowed: Boot denied: no"


async def test_rule_6_who_refused_is_not_asked_again_and_the_first_refusal_is_told() -> None:
    async with (
        FakeKms({"GetTempCaCert": refuse(400, "first")}) as first,
        FakeKms({"GetTempCaCert": refuse(503, "starting")}) as second,
    ):

        async def refuse_too(_: int) -> None:
            second.replies["GetTempCaCert"] = refuse(400, "second")

        with pytest.raises(KmsRefusedError) as caught:
            await obtain(Time(refuse_too), [first.url, second.url])
    assert caught.value.finding.found == "status 400: first"
    assert (len(first.seen), len(second.seen)) == (1, 2)


async def test_the_deadline_passes_in_the_midst_of_a_round() -> None:
    time = Time()

    async def slow(_: bytes) -> bytes:
        time.now += 100
        raise KmsUnreachableError(request_finding)

    async with FakeKms({}) as down:
        pass
    with pytest.raises(KmsUnreachableError) as unreachable:
        await get_app_keys(down.url, request(), attest, NOW)
    request_finding = unreachable.value.finding
    async with FakeKms(replies()) as kms:
        with pytest.raises(KmsDeadlineError) as caught:
            await obtain_app_keys(
                [kms.url, kms.url],
                request(),
                slow,
                FixedClock(NOW),
                patience=Patience(deadline=50.0),
                monotonic=time.monotonic,
                sleep=time.sleep,
            )
    assert caught.value.finding.found.startswith("none in 1 tries; last: ")
    assert len(kms.seen) == 1


async def test_without_a_deadline_left_nobody_is_asked() -> None:
    with pytest.raises(KmsDeadlineError) as caught:
        await obtain(Time(), ["https://127.0.0.1:9"], deadline=0.0)
    assert caught.value.finding.found == "none in 1 tries"


async def test_no_url_is_misuse() -> None:
    with pytest.raises(MisuseError) as caught:
        await obtain(Time(), [])
    assert caught.value.finding.code == "kms.no-url"


async def test_what_evidence_raises_comes_through() -> None:
    async def broken(_: bytes) -> bytes:
        raise OSError("no quote")

    async with FakeKms(replies()) as kms:
        with pytest.raises(OSError, match="no quote"):
            await obtain_app_keys([kms.url], request(), broken, FixedClock(NOW))


async def test_it_can_be_given_up() -> None:
    async with FakeKms({}) as kms:
        pass
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await obtain_app_keys([kms.url], request(), attest, FixedClock(NOW))


async def test_a_certificate_is_shown_to_who_asks_for_it_only() -> None:
    async with FakeKms(replies()) as kms, KmsConnection(kms.url) as connection:
        await connection.call("GetMeta", Empty(), kms_pb2.GetMetaResponse)
    assert kms.seen == [("GetMeta", b"", None)]
