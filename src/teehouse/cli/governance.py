"""`teehouse governance`: what an app's contract allows, and changing it.

Rules:

1. The chain is asked itself; what a control plane says of a contract is not relied on.
2. A change that is made already is not made again. Its key comes from a file or the environment, never from the
   command line.
3. Of a dry run, the CVMs that run come from the control plane, or from a list; what the contract says of them
   now, and would say after, comes from the chain.
"""

from pathlib import Path
from typing import Annotated

import typer

from teehouse.chain.dry_run import NAMING, Kind
from teehouse.cli.chain_options import (
    ChainId,
    ChainOptions,
    Confirmations,
    KeyFile,
    Quorum,
    RpcUrls,
    address,
    chain_options,
    word,
)

governance_app = typer.Typer(
    name="governance",
    help="What an app's contract allows to run: see it, change it, try a change out.",
    no_args_is_help=True,
    add_completion=False,
)

App = Annotated[str, typer.Argument(metavar="APP", help="The app's id: its contract's address.")]
Hash = Annotated[str, typer.Argument(metavar="HASH", help="Compose hash, 64 hex digits.")]
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Device id, 64 hex digits.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@governance_app.command()
def show(
    app: App,
    rpc_url: RpcUrls = None,
    chain_id: ChainId = None,
    confirmations: Confirmations = 0,
    quorum: Quorum = 1,
    from_block: Annotated[
        int,
        typer.Option(
            "--from-block", min=0, help="Block to read events from; that of the deployment is enough."
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Show who owns an app's contract, what it allows, and who changed it."""
    from teehouse.cli.governing import show_app_contract

    options = chain_options(rpc_url, chain_id, confirmations, quorum)
    show_app_contract(options, _app(app), from_block=from_block, as_json=as_json)


@governance_app.command("allow-compose")
def allow_compose(
    app: App,
    value: Hash,
    rpc_url: RpcUrls = None,
    chain_id: ChainId = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Allow a compose hash. Takes the owner's key."""
    _change(Kind.ALLOW_COMPOSE, app, value, chain_options(rpc_url, chain_id), key_file, as_json=as_json)


@governance_app.command("remove-compose")
def remove_compose(
    app: App,
    value: Hash,
    rpc_url: RpcUrls = None,
    chain_id: ChainId = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Take a compose hash back: its CVMs are refused keys from their next boot on. Takes the owner's key."""
    _change(Kind.REMOVE_COMPOSE, app, value, chain_options(rpc_url, chain_id), key_file, as_json=as_json)


@governance_app.command("allow-device")
def allow_device(
    app: App,
    value: Device,
    rpc_url: RpcUrls = None,
    chain_id: ChainId = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Allow a device. Takes the owner's key."""
    _change(Kind.ALLOW_DEVICE, app, value, chain_options(rpc_url, chain_id), key_file, as_json=as_json)


@governance_app.command("remove-device")
def remove_device(
    app: App,
    value: Device,
    rpc_url: RpcUrls = None,
    chain_id: ChainId = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Take a device back. Takes the owner's key."""
    _change(Kind.REMOVE_DEVICE, app, value, chain_options(rpc_url, chain_id), key_file, as_json=as_json)


@governance_app.command("dry-run")
def dry_run(
    app: App,
    change: Annotated[
        Kind, typer.Argument(metavar="CHANGE", help=", ".join(one.value for one in Kind) + ".")
    ],
    value: Annotated[
        str | None, typer.Argument(metavar="[VALUE]", help="Compose hash or device id of the first four.")
    ] = None,
    cvms: Annotated[
        Path | None,
        typer.Option(
            "--cvms",
            help="JSON list of what runs: objects of name, compose_hash, device_id, perhaps tcb_status. "
            "Left out, the control plane is asked.",
        ),
    ] = None,
    api_url: Annotated[
        str | None,
        typer.Option(
            "--api-url", metavar="URL", help="The control plane's API; its key is in PHALA_CLOUD_API_KEY."
        ),
    ] = None,
    rpc_url: RpcUrls = None,
    chain_id: ChainId = None,
    confirmations: Confirmations = 0,
    quorum: Quorum = 1,
    as_json: AsJson = False,
) -> None:
    """Tell which running CVMs would be refused keys after a change. Nothing is changed.

    Exit code 10 says that there are some.
    """
    from teehouse.cli.governing import try_change

    if (value is not None) != (change in NAMING):
        raise typer.BadParameter(f"{change.value} takes {'a value' if change in NAMING else 'no value'}")
    if cvms is not None and api_url is not None:
        raise typer.BadParameter("give --cvms or --api-url")
    raise typer.Exit(
        try_change(
            chain_options(rpc_url, chain_id, confirmations, quorum),
            _app(app),
            change,
            b"" if value is None else word(value, "VALUE"),
            cvms=cvms,
            api_url=api_url,
            as_json=as_json,
        )
    )


def _change(
    proposal: Kind, app: str, value: str, options: ChainOptions, key_file: Path | None, *, as_json: bool
) -> None:
    from teehouse.cli.governing import make_change

    make_change(options, _app(app), proposal.value, word(value, "the value"), key_file, as_json=as_json)


def _app(text: str) -> bytes:
    return address(text.removeprefix("app_"), "the app id")
