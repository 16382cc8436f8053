"""What `teehouse node` does: an emulated node over RPC, its bundles and its CA.

Rules:

1. An emulated node serves loopback alone, unless `--unsafe-expose` is given: its CVMs are not isolated, and its agents
   give their keys to whoever is on the host.
2. It serves only as the node that its bundle names, and not with a certificate that has expired. Its emulated host
   has that name too, so that nodes of one seed are different machines.
3. SIGHUP reads the bundle anew for the connections from then on; one that cannot be used changes nothing.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from teehouse.base.clock import Clock, SystemClock
from teehouse.base.findings import EvidenceError, TeehouseError, misuse
from teehouse.guest.sockets import TcpAddress, bind_tcp
from teehouse.node.bundle import (
    NodeBundle,
    change_authority,
    is_loopback,
    load_bundle,
    open_authority,
    parse_address,
)
from teehouse.node.identity import NodeAuthority, Role, judge_certificate
from teehouse.node.server import NodeListener, NodeServer
from teehouse.stack.installation import open_installation
from teehouse.stack.node_emulated import emulated_node
from teehouse.stack.serving import run_until_stopped

_IDENT = "Teehouse node (EMULATED)"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """The options of `teehouse node`. `listen` is None for the bundle's address; `pins` are empty for any."""

    directory: Path
    bundle: Path
    listen: str | None = None
    kms_urls: tuple[str, ...] = ()
    pins: frozenset[bytes] = frozenset()
    unsafe_expose: bool = False
    seed: bytes | None = field(default=None, repr=False)


def run_node(options: NodeOptions) -> None:
    """Serve until SIGINT or SIGTERM. Raises `MisuseError`; `EvidenceError` for a certificate that has expired."""
    run_until_stopped(lambda stop: serve_node(options, SystemClock(), stop, _say))


async def serve_node(
    options: NodeOptions, clock: Clock, stop: asyncio.Event, ready: Callable[[NodeBundle, TcpAddress], None]
) -> None:
    """Serve until `stop` is set; `ready` hears of the bundle and the address that is served. Raises as `run_node`."""
    bundle = _own_bundle(options.bundle, clock)
    address = bundle.address if options.listen is None else parse_address(options.listen)
    if not is_loopback(address) and not options.unsafe_expose:  # rule 1
        raise misuse(
            "node.exposed",
            "an emulated node isolates nothing, and its CVMs' keys are anybody's on the host",
            expected="a loopback address",
            found=str(address),
            remedy="listen on 127.0.0.1; or give --unsafe-expose, knowing that nothing here is protected",
        )
    installation = open_installation(options.directory, clock, seed=options.seed)
    node = emulated_node(
        installation,
        options.kms_urls,
        name=bundle.node,
        label=bundle.node,  # rule 2
        unsafe_expose=options.unsafe_expose,
    )
    bound = bind_tcp(address)
    try:
        listener = NodeListener(
            NodeServer(node, clock, pins=options.pins), [bound], bundle.identity, ident=_IDENT
        )
        async with node:
            await listener.start()
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, lambda: _reload(listener, bundle, options.bundle, clock))
            try:
                ready(bundle, TcpAddress(address.host, bound.getsockname()[1]))
                await stop.wait()
            finally:
                loop.remove_signal_handler(signal.SIGHUP)
                await listener.stop()
    finally:
        bound.close()


def write_bundle(
    directory: Path, out: Path, node: str, address: str, *, controller: str | None = None, days: int = 365
) -> NodeBundle:
    """Issue a certificate under the CA of `directory`, and write its bundle. Raises `MisuseError`."""
    now = SystemClock().now()
    listens = parse_address(address)
    role, name = (Role.NODE, node) if controller is None else (Role.CONTROLLER, controller)
    authority = open_authority(_authority_path(directory), now)
    bundle = NodeBundle(authority.issue(role, name, now, lifetime=timedelta(days=days)), node, listens)
    bundle.save(out)
    return bundle


def step_authority(directory: Path, step: str) -> int:
    """Take one step of replacing the CA; the number of CAs that are trusted then. Raises `MisuseError`."""
    now = SystemClock().now()
    changes: dict[str, Callable[[NodeAuthority], NodeAuthority]] = {
        "trust-next": lambda authority: authority.with_next(now),
        "use-next": lambda authority: authority.promoted(),
        "drop-former": lambda authority: authority.without_former(),
    }
    return len(change_authority(_authority_path(directory), now, changes[step]).issuers)


def _authority_path(directory: Path) -> Path:
    return directory / "state" / "node-ca.json"


def _own_bundle(path: Path, clock: Clock) -> NodeBundle:
    bundle = load_bundle(path)
    if bundle.identity.role is not Role.NODE:
        raise misuse(
            "node.role", f"the role of {path}", expected=Role.NODE.value, found=bundle.identity.role.value
        )
    finding = judge_certificate(bundle.identity.certificate_der, Role.NODE, clock.now())
    if not finding.ok:
        raise EvidenceError(finding)
    return bundle


def _reload(listener: NodeListener, former: NodeBundle, path: Path, clock: Clock) -> None:
    """Rule 3."""
    try:
        bundle = _own_bundle(path, clock)
        if bundle.node != former.node:
            raise misuse("node.name", f"the node of {path}", expected=former.node, found=bundle.node)
        listener.rotate(bundle.identity)
    except TeehouseError as error:
        _logger.error("the bundle stays as it was: %s", error)  # noqa: TRY400 - the finding says all; no fault of ours
    else:
        _logger.warning("the certificate is now valid until %s", bundle.identity.expires.isoformat())


def _say(bundle: NodeBundle, address: TcpAddress) -> None:
    print(  # noqa: T201 - what a user waits for
        f"EMULATED node {bundle.node} at {address} (mutual TLS), certificate valid until"
        f" {bundle.identity.expires:%Y-%m-%d}\nNothing here is protected by hardware.",
        flush=True,
    )
