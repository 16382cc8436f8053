"""A hand-out of app keys by the KMS, beside its floor: `python -m bench.kms`.

One server process (`python -m bench.kms DIRECTORY`, on uvloop) serves, each on a port of its own over TLS:

* `hot`: a KMS in an emulated CVM, with rules from a file, an audit log on the disk, and collateral cached from a PCCS;
* `cold`: the same KMS, which forgets all collateral before each request and fetches it over HTTP from a PCCS in the
  same process;
* `hot-floor`, `cold-floor`: the same TLS and the same listener, which read a request, run the bare cryptography of
  the hand-out once, and answer as many bytes.

A request is what a CVM does at its boot: a new TCP connection, a TLS handshake with a client certificate that
carries evidence, `GetAppKey`, the answer. The client is another process with blocking sockets; its part of the
handshake is in the time. All four take turns, request by request, so what slows the machine meets all.
"""

import asyncio
import gc
import hmac
import json
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import coincurve
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.processes import running
from teehouse.attestation import check_collateral, library, tcbinfo
from teehouse.attestation.abi import Quote
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.certificate import certificate_report_data
from teehouse.attestation.identity import derive_app_id, mr_config_id_v1
from teehouse.base.clock import SystemClock
from teehouse.base.hashes import sha256
from teehouse.base.listener import Listener
from teehouse.collateral.cache import CollateralCache
from teehouse.collateral.pccs import PccsClient
from teehouse.guest.attest import EvidenceSource
from teehouse.guest.boot import BootIdentity, measure_before_keys
from teehouse.guest.measurements import MeasurementLog
from teehouse.keys.pem import certificate_der, spki_der
from teehouse.kms.audit import AuditLog
from teehouse.kms.auth import AuthApi
from teehouse.kms.auth_file import FileAuth
from teehouse.kms.client.temporary import evidence_certificate
from teehouse.kms.evidence import CollateralSource, Judge
from teehouse.kms.own import attested_rpc_certificate
from teehouse.kms.rootkeys import RootKeys
from teehouse.kms.rootstore import RootKeyStore
from teehouse.kms.server import KmsParts, KmsServer, KmsSettings, bound_socket
from teehouse.kms.tls import client_context, server_context
from teehouse.node.driver import MachineRequest
from teehouse.stack.addresses import LOOPBACK
from teehouse.stack.auth_list import allow
from teehouse.stack.cvm_emulated import boot_emulated_cvm
from teehouse.stack.driver_emulated import EmulatedDriver
from teehouse.stack.installation import Installation, open_installation
from teehouse.stack.kms_emulated import DOMAIN, ServiceEvidence
from teehouse.stack.serving import run_until_stopped
from teehouse.tee_emulated.pccs import pccs_routes
from teehouse.wire import kms_pb2

READY = "ready"
ROUNDS = 200
WARM_UP = 10
AIM = 10.0  # ms, of a hot hand-out
KINDS = ("hot", "hot-floor", "cold", "cold-floor")
# ECDSA signatures that cannot be believed unchecked: of quote, QE report and PCK certificate; and of the collateral:
# the PCK CA's certificate, the root's, the TCB signer's, both documents, both revocation lists.
_EVIDENCE_SIGNATURES = 3
_COLLATERAL_SIGNATURES = 7
COMPOSE = json.dumps({"manifest_version": 2, "name": "app", "runner": "bash", "bash_script": "true"}).encode()
KMS_COMPOSE = json.dumps(
    {"manifest_version": 2, "name": "kms", "runner": "bash", "key_provider": "none"}
).encode()
_ECDSA = ec.ECDSA(SHA256())


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds of each request, by what was asked, and of the bare cryptography alone."""

    taken: dict[str, list[float]]
    crypto: dict[str, float]
    answer_size: int


# The server


class Forgetful:
    """Collateral that is fetched for each quote, and read and checked anew."""

    def __init__(self, fetch: PccsClient) -> None:
        self._fetch = fetch

    async def collateral(self, quote: Quote) -> Collateral:
        forget()
        return await self._fetch.collateral(quote)


def forget() -> None:
    """Drop whatever was kept of collateral once it was read."""
    for module in (check_collateral, tcbinfo, library):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


def bare_crypto() -> dict[str, Callable[[], object]]:
    """The cryptography that a hand-out cannot do without, by kind; called straight, with loaded keys."""
    key = ec.generate_private_key(ec.SECP256R1())
    public, data = key.public_key(), bytes(632)
    signature = key.sign(data, _ECDSA)
    root = coincurve.PrivateKey()

    def derived(name: bytes) -> bytes:
        return hmac.digest(hmac.digest(b"RATLS", data[:32], "sha256"), name + b"\x01", "sha256")

    def hand_out(signatures: int) -> Callable[[], object]:
        def work() -> object:
            for _ in range(signatures):
                public.verify(signature, data, _ECDSA)
            for name in (b"app-disk-crypt-key", b"env-encrypt-key"):
                made = ec.derive_private_key(int.from_bytes(derived(name), "big"), ec.SECP256R1())
                sha256(made.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
            app_key = coincurve.PrivateKey(derived(b"app-key"))
            return root.sign_recoverable(app_key.public_key.format())

        return work

    return {
        "hot-floor": hand_out(_EVIDENCE_SIGNATURES),
        "cold-floor": hand_out(_EVIDENCE_SIGNATURES + _COLLATERAL_SIGNATURES),
    }


def floor_app(crypto: Callable[[], object]) -> ASGIApp:
    """Answers a request for `/N` with N bytes, after the cryptography."""

    async def floor(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        crypto()
        body = bytes(int(scope["path"].strip("/")))
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return floor


async def serve_kms(
    stack: AsyncExitStack,
    installation: Installation,
    name: str,
    source: CollateralSource,
    own: ServiceEvidence,
    *,
    auth: AuthApi | None = None,
) -> int:
    """A KMS with `source`, by the rules of a file unless `auth` is given; its port."""
    keys = RootKeys(installation.kms, ec.generate_private_key(ec.SECP256R1()), DOMAIN)
    store = RootKeyStore(installation.state / name)
    store.create(keys, await attested_rpc_certificate(keys, own, installation.clock.now()))
    audit = AuditLog(installation.state / f"{name}.log", installation.clock)
    stack.callback(audit.close)
    listening = bound_socket(LOOPBACK, 0)
    auth = auth or FileAuth(installation.state / "auth-config.json")
    judge = Judge([installation.root], source, installation.clock)
    parts = KmsParts(store=store, auth=auth, judge=judge, audit=audit, clock=installation.clock, own=own)
    server = KmsServer(parts, KmsSettings(onboard_enabled=False), rpc_sockets=[listening])
    await server.start()
    stack.push_async_callback(server.stop)
    return int(listening.getsockname()[1])


async def _floor(
    stack: AsyncExitStack, installation: Installation, crypto: Callable[[], object], own: ServiceEvidence
) -> int:
    keys = RootKeys(installation.kms, ec.generate_private_key(ec.SECP256R1()), DOMAIN)
    certificate = await attested_rpc_certificate(keys, own, installation.clock.now())
    listening = bound_socket(LOOPBACK, 0)
    listener = Listener(
        floor_app(crypto), [listening], ident="floor", ssl_context=server_context(keys, certificate)
    )
    await listener.start()
    stack.push_async_callback(listener.stop)
    return int(listening.getsockname()[1])


def serve(directory: Path) -> None:
    """Serve all four until SIGTERM; their ports are in `ports.json`."""
    installation = open_installation(directory, SystemClock())

    async def main(stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            cvm = await boot_emulated_cvm(installation, KMS_COMPOSE, "kms-cvm")
            stack.push_async_callback(cvm.log.close)
            measured = cvm.source.app_info(await cvm.source.take(bytes(64)))
            app = (derive_app_id(COMPOSE), sha256(COMPOSE))
            allow(
                installation.state / "auth-config.json",
                os_image=measured.os_image_hash,
                kms=measured.mr_aggregated,
                app=app,
            )
            pccs = bound_socket(LOOPBACK, 0)
            listener = Listener(Starlette(routes=pccs_routes(installation.collateral)), [pccs], ident="pccs")
            await listener.start()
            stack.push_async_callback(listener.stop)
            client = await stack.enter_async_context(PccsClient(f"http://{LOOPBACK}:{pccs.getsockname()[1]}"))
            own, crypto = ServiceEvidence(cvm.source), bare_crypto()
            cache = CollateralCache(client.collateral, installation.clock)
            ports = {
                "hot": await serve_kms(stack, installation, "hot", cache, own),
                "cold": await serve_kms(stack, installation, "cold", Forgetful(client), own),
                **{name: await _floor(stack, installation, work, own) for name, work in crypto.items()},
            }
            (directory / "ports.json").write_text(json.dumps(ports), encoding="utf-8")
            print(READY, flush=True)
            await stop.wait()

    run_until_stopped(main)


# The client


async def client_identity(installation: Installation, app_id: bytes | None = None) -> ssl.SSLContext:
    """What a CVM shows of itself when it asks for its keys: measured up to `boot-mr-done`, a fresh certificate."""
    place = installation.state / "client"
    place.mkdir()
    driver = EmulatedDriver(installation.pki)
    compose_hash = sha256(COMPOSE)
    machine = await driver.launch(
        MachineRequest("c" * 32, place, 1, 2 * 1024**3, "", mr_config_id_v1(compose_hash))
    )
    log = MeasurementLog(machine.platform, place, 1)
    await log.open()
    source = EvidenceSource(log, machine.platform.boot_events(), machine.vm_config)
    await measure_before_keys(log, BootIdentity(app_id or derive_app_id(COMPOSE), compose_hash, bytes(20)))
    key = ec.generate_private_key(ec.SECP256R1())
    evidence = await source.take(certificate_report_data(spki_der(key.public_key())))
    shown = evidence_certificate(
        installation.kms.temporary_ca, key, evidence.certificate_attestation(), installation.clock.now()
    )
    await log.close()
    return client_context(key, certificate_der(shown.certificate_pem))


def ask(port: int, context: ssl.SSLContext, request: bytes) -> bytes:
    """The body of the answer to one request on a connection of its own."""
    plain = socket.create_connection((LOOPBACK, port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as every client of HTTP does
    with (
        plain,
        context.wrap_socket(plain, server_hostname=DOMAIN) as connection,
    ):
        connection.sendall(request)
        data = connection.recv(65536)
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += connection.recv(65536)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"{head.splitlines()[0]!r}: {body[:500]!r}")
    return body


def measure(directory: Path) -> Measured:
    """Ask all four in turn."""
    place = directory / "kms"
    with running("-m", "bench.kms", str(place), ready=READY):
        installation = open_installation(place, SystemClock())
        context = asyncio.run(client_identity(installation))
        ports = json.loads((place / "ports.json").read_text(encoding="utf-8"))
        body = kms_pb2.GetAppKeyRequest(api_version=1).SerializeToString()
        size = len(ask(ports["hot"], context, post_request("/prpc/KMS.GetAppKey", body)))
        path = {"hot": "/prpc/KMS.GetAppKey", "cold": "/prpc/KMS.GetAppKey"}
        requests = {kind: post_request(path.get(kind, f"/{size}"), body) for kind in KINDS}
        taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
        gc.disable()
        for number in range(ROUNDS + WARM_UP):
            for kind in KINDS:
                begin = time.perf_counter()
                ask(ports[kind], context, requests[kind])
                if number >= WARM_UP:
                    taken[kind].append((time.perf_counter() - begin) * 1000)
        gc.enable()
    crypto = {kind: _timed(work) for kind, work in bare_crypto().items()}
    return Measured(taken, crypto, size)


def post_request(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _timed(work: Callable[[], object]) -> float:
    """Milliseconds, the median of many."""
    taken = []
    for _ in range(200):
        begin = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begin) * 1000)
    return statistics.median(taken)


# The report


def section(measured: Measured) -> list[str]:
    """The lines of a page in Markdown."""
    rows = [
        "| Hand-out of app keys | p50, ms | p99, ms | Floor p50 | Floor p99 | p50 to floor's p50 | Bare crypto, ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, title in (("hot", "collateral cached"), ("cold", "collateral fetched from a PCCS")):
        ours, floor = measured.taken[kind], measured.taken[f"{kind}-floor"]
        p50, floor_p50 = statistics.median(ours), statistics.median(floor)
        missed = " (missed)" if kind == "hot" and p50 > AIM else ""
        rows.append(
            f"| {title} | {p50:.1f}{missed} | {p99(ours):.1f} | {floor_p50:.1f} | {p99(floor):.1f} "
            f"| {p50 / floor_p50:.2f} | {measured.crypto[f'{kind}-floor']:.2f} |"
        )
    return [
        "## Hand-out of keys by the KMS",
        "",
        "What a CVM does at its boot: a new connection, a TLS handshake with a client certificate that carries",
        f"evidence, `GetAppKey`, {measured.answer_size} bytes of answer. The KMS verifies the evidence, asks its rules (a file,",
        "read each time) about itself and the app, derives the keys, and has the record in its audit log on the disk",
        f"(fsync) before it answers. {ROUNDS} requests, one after the other; the aim is a p50 of {AIM:g} ms with cached",
        "collateral.",
        "",
        *rows,
        "",
        "The floor is the same handshake, certificates and listener, with the bare cryptography of the hand-out: the",
        f"{_EVIDENCE_SIGNATURES} signatures of evidence ({_COLLATERAL_SIGNATURES} more of collateral where it is fetched), two P-256 keys, one secp256k1",
        "key and its signature. The difference is mostly the second opinion (dcap-qvl judges each quote as well), two",
        "reads of the rules' file, and the audit log's disk.",
    ]


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="teehouse-bench-") as directory:
        print("\n".join(section(measure(Path(directory)))))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(Path(sys.argv[1]))
    else:
        main()
