"""`teehouse kms serve` and `teehouse auth serve`: the parts of a KMS put together, until they are stopped.

Rules:

1. Emulated roots are trusted with `--emulated` alone, and then no other root is: keys of an emulated cloud
   and keys of real hardware never come from one KMS. An emulated KMS listens on loopback alone.
2. The mock policy decides in emulation alone.
3. What cannot be had (an address, a key file, the audit log) ends the start, before anything is served.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from teehouse.attestation.roots import TrustedRoot
from teehouse.base.clock import SystemClock
from teehouse.base.findings import EvidenceError, misuse
from teehouse.base.listener import Listener
from teehouse.cli.chain_options import ChainOptions
from teehouse.client.verification import read_root
from teehouse.collateral.cache import CollateralCache
from teehouse.collateral.pccs import INTEL_PCS_HOST, PccsClient
from teehouse.guest.sockets import TcpAddress, bind_tcp
from teehouse.keys.sealing import SEALING_KEY_SIZE
from teehouse.kms.audit import AuditLog
from teehouse.kms.auth import AuthApi
from teehouse.kms.auth_chain import ChainAuth
from teehouse.kms.auth_file import FileAuth
from teehouse.kms.auth_http import HttpAuth
from teehouse.kms.auth_mock import MockAuth
from teehouse.kms.auth_server import auth_app
from teehouse.kms.auth_wire import HASH_SIZE, padded_hex
from teehouse.kms.evidence import Judge
from teehouse.kms.own import GuestAgentEvidence
from teehouse.kms.rootstore import RootKeyStore
from teehouse.kms.server import KmsParts, KmsServer, KmsSettings, bound_socket
from teehouse.stack.addresses import http_url, loopback_address
from teehouse.stack.kms_audit import AUDIT_LOG
from teehouse.stack.serving import run_until_stopped

KEYS = "keys"


@dataclass(frozen=True, slots=True)
class KmsOptions:
    """What an operator says of a KMS. Exactly one of the four ways to authorise is there."""

    directory: Path
    tcp: str
    onboard_tcp: str
    auth_url: str | None = None
    auth_file: Path | None = None
    policy: str | None = None
    chain: ChainOptions | None = None
    kms_contract: bytes = b""
    roots: tuple[str, ...] = ("intel",)
    pccs: str | None = None
    agent: Path | None = None
    domain: str | None = None
    site_name: str = ""
    sealing_key: Path | None = None
    self_check: bool = True
    verify_image: bool = True
    emulated: bool = False


def trusted_roots(names: Sequence[str], *, emulated: bool) -> tuple[TrustedRoot, ...]:
    """The roots by name, `intel` or `emulated:FILE` (rule 1). Raises `MisuseError`."""
    roots = tuple(read_root(name) for name in names)
    for root in roots:
        if root.emulated != emulated:
            raise misuse(
                "kms.roots",
                "the roots that this KMS trusts",
                expected="emulated:FILE alone, with --emulated" if emulated else "intel, without --emulated",
                found=root.name,
                remedy="run one KMS for real hardware, and another for emulation",
            )
    return roots


def any_address(text: str, *, emulated: bool) -> TcpAddress:
    """`HOST:PORT`, on loopback where it is emulated (rule 1). Raises `MisuseError`."""
    if emulated:
        return loopback_address(text)
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not port.isdecimal() or int(port) > 65535 or not bare:
        raise misuse("address.form", "no such address", expected="HOST:PORT", found=text)
    return TcpAddress(bare, int(port))


@asynccontextmanager
async def chain_auth(options: ChainOptions, contract: bytes) -> AsyncIterator[ChainAuth]:
    """The authorisation by a chain, for as long as the context lasts. Raises `MisuseError`, `CollateralError`."""
    async with await options.open() as reader:
        yield ChainAuth(reader, contract, rpc_shown=reader.shown)


async def authorisation(options: KmsOptions, stack: AsyncExitStack) -> AuthApi:
    """Who decides (rule 2), closed with `stack`. Raises `MisuseError`, `CollateralError`."""
    if options.chain is not None:
        return await stack.enter_async_context(chain_auth(options.chain, options.kms_contract))
    if options.auth_url is not None:
        return await stack.enter_async_context(HttpAuth(options.auth_url))
    if options.auth_file is not None:
        return FileAuth(options.auth_file)
    return MockAuth(options.policy or "", emulated=options.emulated)


@asynccontextmanager
async def open_kms(
    options: KmsOptions, *, warn: Callable[[str], None] = print
) -> AsyncIterator[tuple[KmsServer, TcpAddress, TcpAddress]]:
    """A KMS that serves as long as the context lasts; with the addresses of its RPC and of onboarding.

    Raises `TeehouseError`, OSError.
    """
    clock = SystemClock()
    roots = trusted_roots(options.roots, emulated=options.emulated)
    async with AsyncExitStack() as stack:
        auth = await authorisation(options, stack)
        pccs = await stack.enter_async_context(PccsClient(options.pccs or _usual_pccs(options)))
        sockets = []
        for text in (options.tcp, options.onboard_tcp):
            sockets.append(_bind(any_address(text, emulated=options.emulated)))
            stack.callback(sockets[-1].close)
        rpc, onboard = sockets
        audit = AuditLog(options.directory / AUDIT_LOG, clock)
        stack.callback(audit.close)
        if not options.self_check:
            warn("UNSAFE: this KMS does not prove what it runs on")
        server = KmsServer(
            KmsParts(
                store=RootKeyStore(options.directory / KEYS, _sealing_key(options.sealing_key)),
                auth=auth,
                judge=Judge(
                    roots, CollateralCache(pccs.collateral, clock), clock, verify_image=options.verify_image
                ),
                audit=audit,
                clock=clock,
                own=None if options.agent is None else GuestAgentEvidence(options.agent),
            ),
            KmsSettings(
                site_name=options.site_name,
                enforce_self_authorization=options.self_check,
                attest_rpc_cert=options.self_check,
                auto_bootstrap_domain=options.domain,
            ),
            rpc_sockets=[rpc],
            onboard_sockets=[onboard],
        )
        stack.push_async_callback(server.stop)
        addresses = _bound(rpc), _bound(onboard)
        await server.start()
        yield server, *addresses


def run_kms(options: KmsOptions) -> None:
    """Serve until SIGINT or SIGTERM. Raises `TeehouseError`."""

    async def serve(stop: asyncio.Event) -> None:
        async with open_kms(options, warn=_say) as (server, rpc, onboard):
            mark = "EMULATED KMS" if options.emulated else "KMS"
            if server.state == "onboarding":
                _say(
                    f"{mark} without root keys: call Onboard.Bootstrap or Onboard.Onboard at http://{onboard}"
                )
                await _serving_or_stopped(server, stop)
            if not stop.is_set():
                _say(f"{mark} at https://{rpc}   audit log {options.directory / AUDIT_LOG}")
            await stop.wait()

    try:
        run_until_stopped(serve)
    except OSError as error:
        raise misuse(
            "kms.start",
            f"the KMS in {options.directory} does not start",
            found=f"{error.strerror or error}: {error.filename}" if error.filename else str(error),
        ) from error


async def _serving_or_stopped(server: KmsServer, stop: asyncio.Event) -> None:
    """Until the KMS serves, or is stopped. Raises what its start raises."""
    serving, stopped = asyncio.ensure_future(server.serving()), asyncio.ensure_future(stop.wait())
    await asyncio.wait((serving, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if serving.done():
        serving.result()
    serving.cancel()
    await asyncio.gather(serving, stopped, return_exceptions=True)


def run_file_auth(config: Path, *, tcp: str) -> None:
    """Serve the authorisation API of a file until SIGINT or SIGTERM. Raises `MisuseError`."""
    api = FileAuth(config)
    _run_auth(lambda _: _at_once(api), any_address(tcp, emulated=False), f"authorization by {config}")


def run_chain_auth(options: ChainOptions, contract: bytes, *, tcp: str) -> None:
    """Serve the authorisation API of a chain until SIGINT or SIGTERM. Raises `MisuseError`, `CollateralError`."""

    async def api(stack: AsyncExitStack) -> AuthApi:
        return await stack.enter_async_context(chain_auth(options, contract))

    _run_auth(api, any_address(tcp, emulated=False), f"authorization by contract 0x{contract.hex()}")


def run_mock_auth(
    policy: str, devices: Sequence[str], aggregated: Sequence[str], *, tcp: str, emulated: bool
) -> None:
    """Serve the mock authorisation API until SIGINT or SIGTERM. Raises `MisuseError` (rule 2)."""
    api = MockAuth(policy, emulated=emulated, devices=_hashes(devices), aggregated=_hashes(aggregated))
    _run_auth(lambda _: _at_once(api), loopback_address(tcp), f"EMULATED authorization, policy {policy},")


def _hashes(texts: Sequence[str]) -> frozenset[bytes]:
    try:
        return frozenset(padded_hex(text, HASH_SIZE, "a hash", "option") for text in texts)
    except EvidenceError as error:
        finding = error.finding
        raise misuse(finding.code, finding.subject, expected=finding.expected) from None


async def _at_once(api: AuthApi) -> AuthApi:
    return api


def _run_auth(opened: Callable[[AsyncExitStack], Awaitable[AuthApi]], address: TcpAddress, what: str) -> None:
    async def serve(stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            api = await opened(stack)
            port = bind_tcp(address)
            listener = Listener(auth_app(api), [port], ident="Teehouse authorization")
            await listener.start()
            _say(f"{what} at {http_url(port)}")
            await stop.wait()
            await listener.stop()

    run_until_stopped(serve)


def _usual_pccs(options: KmsOptions) -> str:
    if options.emulated:
        raise misuse(
            "kms.pccs",
            "emulated collateral has no usual place",
            remedy="give --pccs URL (see `teehouse pccs`)",
        )
    return f"https://{INTEL_PCS_HOST}"


def _sealing_key(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return file.read(SEALING_KEY_SIZE + 1)  # another size is refused by who uses it
    except OSError as error:
        raise misuse(
            "kms.sealing-key", f"the sealing key {path}", found=error.strerror or "unreadable"
        ) from None


def _bind(address: TcpAddress) -> socket.socket:
    """Bound, not listening yet: whoever comes too early is refused at once, and comes again."""
    try:
        return bound_socket(address.host, address.port)
    except OSError as error:
        raise misuse(
            "address.taken", f"cannot listen at {address}", found=error.strerror or str(error)
        ) from None


def _bound(listening: socket.socket) -> TcpAddress:
    host, port = listening.getsockname()[:2]
    return TcpAddress(host, port)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - what a user waits for
