"""The `teehouse` command: the commands that start servers, and those of `teehouse.cli`.

Commands import what they need when they run, so that `--help` answers at once and a production start
never touches the emulator's packages.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from teehouse import __version__
from teehouse.base.findings import OUTCOME_TABLE, TeehouseError
from teehouse.cli.governance import governance_app
from teehouse.cli.verify import verify_app
from teehouse.stack.chain_commands import chain_app
from teehouse.stack.cloud_command import cloud_app
from teehouse.stack.kms_commands import auth_app, kms_app
from teehouse.stack.node_command import node_app

app = typer.Typer(
    name="teehouse",
    help="A confidential cloud that one can run, and check, oneself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(verify_app, name="verify")
app.add_typer(kms_app, name="kms")
app.add_typer(auth_app, name="auth")
app.add_typer(node_app, name="node")
app.add_typer(cloud_app, name="cloud")
app.add_typer(chain_app, name="chain")
app.add_typer(governance_app, name="governance")

DEFAULT_DIRECTORY = Path("~/.teehouse")
DEFAULT_TCP = "127.0.0.1:8090"

Directory = Annotated[
    Path, typer.Option("--dir", help="Folder of sockets, keys and state; made when missing.")
]
Seed = Annotated[
    str | None,
    typer.Option(
        "--seed",
        help="32 bytes, hex: the emulated root and all keys follow from it. Random per folder when left out. "
        "A seed given here can be read by other users of this machine; it is meant for tests.",
    ),
]
Emulated = Annotated[
    bool, typer.Option("--emulated", help="Emulate TDX. Nothing is protected by hardware then.")
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Options that come before the command."""
    if version:
        print(f"teehouse {__version__}")  # noqa: T201 - what the option is for
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())  # noqa: T201 - what a bare command is for
        raise typer.Exit(2)


@app.command()
def up(
    directory: Directory = DEFAULT_DIRECTORY,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port on 127.0.0.1.")] = 8090,
    seed: Seed = None,
    chain: Annotated[
        str | None,
        typer.Option(
            "--chain",
            metavar="anvil|URL",
            envvar="TEEHOUSE_CHAIN",
            help="Let contracts decide what may run: on a chain of your own, or on one that runs at a JSON-RPC URL. "
            "DIR stays on its chain.",
        ),
    ] = None,
    chain_id: Annotated[
        int | None,
        typer.Option(
            "--chain-id",
            min=1,
            help="With --chain: the chain's id; of a new one of your own, 31337 at first.",
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file", help="With --chain URL: file with the deployer's key; else ETH_PRIVATE_KEY has it."
        ),
    ] = None,
    kms_contract: Annotated[
        str | None,
        typer.Option("--kms-contract", metavar="0x…", help="With --chain URL: a KMS's contract that exists."),
    ] = None,
) -> None:
    """Run the emulated cloud here until Ctrl-C: one command from nothing to a quote that verifies."""
    from teehouse.stack.serving import begin_start

    begin_start()
    from teehouse.stack.up import run_up

    for name, given in (("--chain-id", chain_id), ("--key-file", key_file), ("--kms-contract", kms_contract)):
        if given is not None and not chain:
            raise typer.BadParameter(f"{name} goes with --chain")
    choice = None
    if chain:
        from teehouse.cli.chain_options import address
        from teehouse.stack.onchain_emulated import ChainChoice

        contract = None if kms_contract is None else address(kms_contract, "--kms-contract")
        choice = ChainChoice(chain, chain_id, key_file, contract)
    run_up(directory.expanduser(), port=port, seed=_seed(seed), choice=choice)


@app.command()
def agent(
    emulated: Emulated = False,
    directory: Directory = DEFAULT_DIRECTORY,
    tcp: Annotated[
        str | None,
        typer.Option(
            "--tcp", help="With --emulated: serve all services, pages and the PCCS on this HOST:PORT too."
        ),
    ] = None,
    compose: Annotated[
        Path | None,
        typer.Option(
            "--compose", help="With --emulated: app-compose.json, or a docker-compose.yaml to be wrapped."
        ),
    ] = None,
    engine: Annotated[
        Path | None,
        typer.Option(
            "--engine",
            help="With --emulated: socket of a Docker Engine; pages show its containers and their logs.",
        ),
    ] = None,
    seed: Seed = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration file, over the others.")
    ] = None,
    watchdog: Annotated[
        bool, typer.Option("--watchdog", "-w", help="Answer the service manager's watchdog.")
    ] = False,
) -> None:
    """Run the guest agent of one CVM: on real TDX, or emulated."""
    if emulated:
        from teehouse.stack.agent_emulated import run_emulated_agent

        run_emulated_agent(directory.expanduser(), tcp=tcp, compose=compose, seed=_seed(seed), engine=engine)
    else:
        from teehouse.stack.agent_tdx import run_agent

        for name, given in (
            ("--tcp", tcp),
            ("--compose", compose),
            ("--seed", seed),
            ("--engine", engine),
        ):
            if given is not None:
                raise typer.BadParameter(f"{name} goes with --emulated")
        run_agent(config, watchdog=watchdog)


@app.command()
def pccs(
    emulated: Emulated = False,
    directory: Directory = DEFAULT_DIRECTORY,
    tcp: Annotated[str, typer.Option("--tcp", help="HOST:PORT to serve on.")] = "127.0.0.1:8081",
    seed: Seed = None,
) -> None:
    """Serve the collateral of the emulated platform (the agent serves it too)."""
    if not emulated:
        raise typer.BadParameter(
            "only an emulated PCCS is offered: add --emulated (real collateral is Intel's to give)"
        )
    from teehouse.stack.pccs import run_pccs

    run_pccs(directory.expanduser(), tcp=tcp, seed=_seed(seed))


def _seed(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != 32:  # the text itself stays out of the message: it is a secret
        raise typer.BadParameter("--seed takes 64 hex digits")
    return seed


def run() -> int:
    """Run the command line; the exit code follows the family of what was refused."""
    try:
        app()
    except TeehouseError as error:
        finding = error.finding
        print(f"teehouse: {finding.sentence()} [{finding.code}]", file=sys.stderr)  # noqa: T201 - to the person
        return OUTCOME_TABLE[finding.outcome].exit_code
    return 0


if __name__ == "__main__":
    sys.exit(run())
