"""Who a KMS has to be, and how its refusals come back (`teehouse.kms.client.connection`)."""

import asyncio
import json

import pytest
from google.protobuf.empty_pb2 import Empty
from hypothesis import given
from hypothesis import strategies as st

from support.kms_client_support import (
    KEYS,
    OTHER_KEYS,
    FakeKms,
    Reply,
    refuse,
    replies,
    say,
    server_certificate,
)
from teehouse.base.findings import Family, MisuseError
from teehouse.keys.pem import certificate_pem
from teehouse.kms.client import connection as module
from teehouse.kms.client.connection import (
    Answer,
    KmsConnection,
    KmsRefusedError,
    KmsUnreachableError,
    error_text,
)
from teehouse.wire import guest_pb2, kms_pb2

ROOT = certificate_pem(KEYS.root.ca.certificate_der)
META = kms_pb2.GetMetaResponse(ca_cert="x")


async def call(kms: FakeKms, root: str | None = ROOT) -> Answer[kms_pb2.GetMetaResponse]:
    async with KmsConnection(kms.url, root=root) as connection:
        return await connection.call("GetMeta", Empty(), kms_pb2.GetMetaResponse)


async def test_rule_1_the_kms_of_the_root_answers() -> None:
    async with FakeKms({"GetMeta": say(META)}) as kms:
        assert await call(kms) == Answer(META, server_certificate())
        assert await call(kms, None) == Answer(META, server_certificate())
    assert kms.seen == [("GetMeta", b"", None)] * 2


@pytest.mark.parametrize(
    ("certificate", "code"),
    [
        (server_certificate(OTHER_KEYS), "kms.server-certificate"),
        (server_certificate(host="kms.test"), "kms.server-certificate"),
        (server_certificate(usage="app:custom"), "kms.server-usage"),
        (server_certificate(usage=None), "kms.server-usage"),
    ],
)
async def test_rule_1_another_server_is_refused(certificate: bytes, code: str) -> None:
    keys = OTHER_KEYS if certificate == server_certificate(OTHER_KEYS) else KEYS
    async with FakeKms({"GetMeta": say(META)}, keys=keys, certificate=certificate) as kms:
        with pytest.raises(KmsRefusedError) as caught:
            await call(kms)
        assert caught.value.finding.code == code
        assert caught.value.family is Family.EVIDENCE
        assert await call(kms, None) == Answer(META, certificate)  # nothing was to be checked


async def test_rule_1_only_the_first_certificate_of_the_root_text_counts() -> None:
    async with FakeKms({"GetMeta": say(META)}, keys=OTHER_KEYS) as kms:
        with pytest.raises(KmsRefusedError) as caught:
            await call(kms, ROOT + certificate_pem(OTHER_KEYS.root.ca.certificate_der))
        assert caught.value.finding.code == "kms.server-certificate"


@pytest.mark.parametrize(
    ("status", "error", "found"),
    [
        (400, KmsRefusedError, "status 400: App not allowed"),
        (404, KmsRefusedError, "status 404: App not allowed"),
        (302, KmsRefusedError, "status 302: App not allowed"),
        (408, KmsUnreachableError, "status 408: App not allowed"),
        (429, KmsUnreachableError, "status 429: App not allowed"),
        (500, KmsUnreachableError, "status 500: App not allowed"),
        (503, KmsUnreachableError, "status 503: App not allowed"),
    ],
)
async def test_rule_3_refusals_by_status(
    status: int, error: type[KmsRefusedError | KmsUnreachableError], found: str
) -> None:
    async with FakeKms({"GetMeta": refuse(status, "App not allowed")}) as kms:
        with pytest.raises(error) as caught:
            await call(kms)
        assert caught.value.finding.found == found


async def test_rule_3_nobody_there() -> None:
    async with FakeKms({}) as kms:
        pass
    with pytest.raises(KmsUnreachableError) as caught:
        await call(kms)
    assert caught.value.finding.code == "kms.unreachable"
    assert caught.value.family is Family.COLLATERAL


async def test_rule_3_one_that_breaks_off() -> None:
    async with FakeKms({"GetMeta": lambda _body, _certificate: None}) as kms:
        with pytest.raises(KmsUnreachableError):
            await call(kms)


async def test_rule_3_one_that_takes_too_long() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def stand_still(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(stand_still, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, KmsConnection(f"http://127.0.0.1:{port}", timeout=0.05) as connection:
        with pytest.raises(KmsUnreachableError) as caught:
            await connection.call("GetMeta", Empty(), kms_pb2.GetMetaResponse)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)
    assert caught.value.finding.found.startswith(("nothing within 0.05 seconds", "ReadTimeout"))


async def test_rule_4_answers_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_LIMIT", 10)
    fits = kms_pb2.GetMetaResponse(ca_cert="x" * 8)
    async with FakeKms({"GetMeta": say(fits)}) as kms:
        assert (await call(kms)).message == fits
        kms.replies["GetMeta"] = say(kms_pb2.GetMetaResponse(ca_cert="x" * 9))
        with pytest.raises(KmsUnreachableError) as caught:
            await call(kms)
        assert caught.value.finding.found == "more than 10 bytes, or compressed ones"


async def test_rule_4_compressed_answers_are_not_taken() -> None:
    async with FakeKms({"GetMeta": say(META)}, headers="content-encoding: gzip\r\n") as kms:
        with pytest.raises(KmsUnreachableError):
            await call(kms)


@pytest.mark.parametrize("reply", [lambda _b, _c: (200, b"\xff"), lambda _b, _c: (200, b'{"ca_cert":"x"}')])
async def test_an_answer_that_is_no_protobuf_is_refused(reply: Reply) -> None:
    async with FakeKms({"GetMeta": reply}) as kms:
        with pytest.raises(KmsRefusedError) as caught:
            await call(kms)
        assert str(caught.value) == (
            "the answer of the KMS to GetMeta: found failed to decode Protobuf message: GetMetaResponse"
        )


async def test_a_certificate_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(KmsRefusedError):
        module.server_evidence(b"no certificate")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "no reason given"),
        (b"\xff", "no reason given"),
        (b"{", "no reason given"),
        (b'{"error":1}', "no reason given"),
        (b'{"error":"App not allowed"}', "App not allowed"),
        (b' {"error":"a\\u001b[2J\\nb"}', "a [2J b"),
        (guest_pb2.Error(message="why not").SerializeToString(), "why not"),
        (json.dumps({"error": "x" * 9999}).encode(), "x" * 2000),
    ],
)
def test_the_text_of_a_refusal(body: bytes, text: str) -> None:
    assert error_text(body) == text


@given(st.binary(max_size=100) | st.binary(max_size=50).map(lambda data: b"{" + data))
def test_any_body_has_a_printable_text(body: bytes) -> None:
    assert error_text(body).isprintable()


@pytest.mark.parametrize(
    ("url", "root"), [("ftp://kms", None), ("kms", None), ("https://", None), ("http://kms", ROOT)]
)
def test_a_url_of_another_form_is_misuse(url: str, root: str | None) -> None:
    with pytest.raises(MisuseError) as caught:
        KmsConnection(url, root=root)
    assert caught.value.finding.code == "kms.url"


@pytest.mark.parametrize("root", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_root_that_is_none_is_misuse(root: str) -> None:
    with pytest.raises(MisuseError):
        KmsConnection("https://kms", root=root)


async def test_addresses_are_shown_without_user_and_password() -> None:
    async with KmsConnection("https://user:secret@kms.test:8000/prpc/") as connection:
        assert connection.shown == "https://kms.test:8000"
        assert connection._base == "https://user:secret@kms.test:8000"


async def test_a_path_before_the_rpc_is_kept() -> None:
    async with FakeKms(replies()) as kms, KmsConnection(kms.url + "/prpc") as connection:
        await connection.call("GetMeta", Empty(), kms_pb2.GetMetaResponse)
    assert [method for method, *_ in kms.seen] == ["GetMeta"]
