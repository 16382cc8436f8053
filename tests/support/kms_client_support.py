"""A KMS to be asked: real TLS on loopback, answers made to measure."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import Message

from support import emulated
from teehouse.attestation.certificate import certificate_report_data
from teehouse.attestation.envelope import Attestation, encode_attestation
from teehouse.attestation.mrconfig import ConfiguredIdentity
from teehouse.keys.appkeys import AppKeys, issue_app_keys
from teehouse.keys.certificate import Issuer
from teehouse.keys.pem import certificate_pem, spki_der
from teehouse.kms import answers
from teehouse.kms.auth import AuthInfo
from teehouse.kms.client.appkeys import KeyRequest
from teehouse.kms.rootkeys import RootKeys, new_root_keys, rpc_certificate
from teehouse.kms.tls import load_identity
from teehouse.ratls.certificates import CertificateSpec, issue
from teehouse.wire import guest_pb2, kms_pb2

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOST = "127.0.0.1"
APP_ID = b"\x0a" * 20
COMPOSE_HASH = b"\x0c" * 32
INSTANCE_ID = b"\x0b" * 20
IMAGE_HASH = b"\x0d" * 32
KEYS = new_root_keys(HOST, NOW)
OTHER_KEYS = new_root_keys(HOST, NOW)
INFO = AuthInfo("0x01", "gateway", 7, "0x02", is_dev=True)

# What is asked, and the client's certificate (DER) -> status and body, or None to break off.
Reply = Callable[[bytes, bytes | None], tuple[int, bytes] | None]


def request(**changes: object) -> KeyRequest:
    identity = ConfiguredIdentity(COMPOSE_HASH, APP_ID, instance_id=INSTANCE_ID)
    return KeyRequest(**{"vm_config": "{}", "identity": identity, **changes})  # type: ignore[arg-type]  # by name


async def attest(report_data: bytes) -> bytes:
    """Evidence over any report data, for a certificate."""
    quote = emulated.quote(report_data=report_data)
    return encode_attestation(Attestation(quote, (), (), report_data, "{}"))


def say(message: Message) -> Reply:
    return lambda _body, _certificate: (200, message.SerializeToString())


def refuse(status: int, text: str) -> Reply:
    return lambda _body, _certificate: (status, guest_pb2.Error(message=text).SerializeToString())


def app_key_answer(keys: RootKeys = KEYS) -> kms_pb2.AppKeyResponse:
    issued = app_keys("", keys)
    return kms_pb2.AppKeyResponse(
        ca_cert=issued.ca_cert,
        disk_crypt_key=issued.disk_crypt_key,
        env_crypt_key=issued.env_crypt_key,
        k256_key=issued.k256_key,
        k256_signature=issued.k256_signature,
        gateway_app_id="gateway",
        os_image_hash=IMAGE_HASH,
    )


def app_keys(url: str, keys: RootKeys = KEYS) -> AppKeys:
    """What an instance has to receive."""
    return issue_app_keys(keys.root, APP_ID, INSTANCE_ID, NOW, url=url, gateway_app_id="gateway").keys


def replies(keys: RootKeys = KEYS) -> dict[str, Reply]:
    """What a KMS in order answers."""
    return {
        "GetTempCaCert": say(answers.temp_ca_response(keys)),
        "GetAppKey": say(app_key_answer(keys)),
        "GetMeta": say(answers.meta_response(keys, INFO)),
        "GetAppEnvEncryptPubKey": say(answers.env_public_key_response(keys, APP_ID, NOW)),
    }


def server_certificate(keys: RootKeys = KEYS, *, usage: str | None = "kms:rpc", host: str = HOST) -> bytes:
    spec = CertificateSpec(subject=host, alt_names=(host,), server_auth=True, usage=usage)
    return issue(spec, keys.rpc_key.public_key(), keys.root.ca, NOW)


async def attested_certificate(keys: RootKeys = KEYS) -> bytes:
    spki = spki_der(keys.rpc_key.public_key())
    return rpc_certificate(keys, await attest(certificate_report_data(spki)), NOW)


def leaf_chain(key: ec.EllipticCurvePublicKey, authority: Issuer, *above: bytes) -> list[str]:
    leaf = issue(CertificateSpec(subject="leaf"), key, authority, NOW)
    return [certificate_pem(der) for der in (leaf, authority.certificate_der, *above)]


class FakeKms:
    """Serves `replies` by method name under `certificate`; `seen` are method, body and client certificate."""

    def __init__(
        self,
        replies: Mapping[str, Reply],
        *,
        keys: RootKeys = KEYS,
        certificate: bytes | None = None,
        headers: str = "",
    ) -> None:
        self.replies = dict(replies)
        self.seen: list[tuple[str, bytes, bytes | None]] = []
        self._open: list[tuple[asyncio.StreamWriter, asyncio.Task[None]]] = []
        self._headers = headers
        self._keys = keys
        self._certificate = server_certificate(keys) if certificate is None else certificate

    async def __aenter__(self) -> Self:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=certificate_pem(self._keys.root.temporary_ca.certificate_der))
        load_identity(context, self._keys.rpc_key, self._certificate)
        self._server = await asyncio.start_server(self._serve, HOST, 0, ssl=context)
        self.url = f"https://{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer, handler in self._open:
            await handler
            writer.transport.abort()  # whoever is not through by now does not read
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._open.append((writer, handler))
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
            body = await reader.readexactly(length)
            path = head.split(" ")[1]
            assert path.startswith("/prpc/KMS."), path
            method = path.removeprefix("/prpc/KMS.")
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            self.seen.append((method, body, certificate))
            reply = self.replies[method](body, certificate)
            if reply is not None:
                status, content = reply
                lines = f"HTTP/1.1 {status} X\r\ncontent-length: {len(content)}\r\n{self._headers}\r\n"
                writer.write(lines.encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client did not like us
        finally:
            writer.close()
