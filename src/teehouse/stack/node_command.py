"""`teehouse node`: serve a host's CVMs over RPC; make the certificates that controllers and nodes know each other by."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

node_app = typer.Typer(
    name="node",
    help="Run CVMs on this host for controllers elsewhere, over mutual TLS.",
    add_completion=False,
)

NODE_DIRECTORY = Path("~/.teehouse")


class CaStep(Enum):
    """The steps in which a CA is replaced, with new bundles for everybody after each."""

    TRUST_NEXT = "trust-next"
    USE_NEXT = "use-next"
    DROP_FORMER = "drop-former"


Directory = Annotated[
    Path, typer.Option("--dir", help="Folder of the installation: its CA, its CVMs; made when missing.")
]


@node_app.callback(invoke_without_command=True)
def node(
    context: typer.Context,
    emulated: Annotated[
        bool, typer.Option("--emulated", help="Emulate TDX. Nothing is protected by hardware then.")
    ] = False,
    directory: Directory = NODE_DIRECTORY,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="This node's certificate and key, from `teehouse node bundle`."),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="HOST:PORT", help="Where to serve; the bundle says it else."),
    ] = None,
    kms: Annotated[
        list[str] | None,
        typer.Option("--kms", metavar="URL", help="KMS for CVMs that name none; may be repeated."),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            "--pin",
            metavar="HEX",
            help="Let in only the controller with this key (SHA-256); may be repeated.",
        ),
    ] = None,
    unsafe_expose: Annotated[
        bool,
        typer.Option(
            "--unsafe-expose",
            help="UNSAFE: serve other addresses than loopback, though emulation protects and isolates nothing.",
        ),
    ] = False,
    seed: Annotated[
        str | None,
        typer.Option("--seed", help="32 bytes, hex: the emulated root follows from it. For tests."),
    ] = None,
) -> None:
    """Serve this host's CVMs until Ctrl-C. SIGHUP reads the bundle anew."""
    if context.invoked_subcommand is not None:
        return
    if not emulated:
        raise typer.BadParameter("only emulated nodes are offered: add --emulated")
    if bundle is None:
        raise typer.BadParameter("a node needs --bundle FILE; make one with `teehouse node bundle`")
    from teehouse.stack.node_serving import NodeOptions, run_node

    run_node(
        NodeOptions(
            directory=directory.expanduser(),
            bundle=bundle.expanduser(),
            listen=listen,
            kms_urls=tuple(kms or ()),
            pins=_pins(pin or []),
            unsafe_expose=unsafe_expose,
            seed=_octets("--seed", seed) if seed is not None else None,
        )
    )


@node_app.command("bundle")
def make_bundle(
    name: Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.")],
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the node listens.")],
    out: Annotated[Path, typer.Option("--out", help="File to write; it holds a private key.")],
    directory: Directory = NODE_DIRECTORY,
    controller: Annotated[
        str | None,
        typer.Option("--controller", metavar="NAME", help="Make the bundle of a controller of that node."),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="Days that it is valid.")] = 365,
) -> None:
    """Make a file with all that a node, or a controller of it, needs for mutual TLS."""
    from teehouse.stack.node_serving import write_bundle

    written = write_bundle(
        directory.expanduser(), out.expanduser(), name, address, controller=controller, days=days
    )
    print(  # noqa: T201 - what the command is for
        f"{out}: {written.identity.role.value} {written.identity.name}, valid until"
        f" {written.identity.expires:%Y-%m-%d}\npin {written.identity.pin.hex()}"
    )


@node_app.command("ca")
def replace_ca(
    step: Annotated[CaStep, typer.Argument(help="One after the other, with new bundles after each.")],
    directory: Directory = NODE_DIRECTORY,
) -> None:
    """Replace the CA of the installation without locking anybody out."""
    from teehouse.stack.node_serving import step_authority

    count = step_authority(directory.expanduser(), step.value)
    print(f"{count} trusted; now make every bundle anew")  # noqa: T201 - what the command is for


def _pins(texts: list[str]) -> frozenset[bytes]:
    return frozenset(_octets("--pin", text) for text in texts)


def _octets(option: str, text: str) -> bytes:
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        octets = b""
    if len(octets) != 32:  # the text itself stays out of the message: a seed is a secret
        raise typer.BadParameter(f"{option} takes 64 hex digits")
    return octets
