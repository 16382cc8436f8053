"""`teehouse chain`: run a chain of one's own, put the contracts on any chain."""

from pathlib import Path
from typing import Annotated

import typer

from teehouse.cli.chain_options import (
    ChainId,
    KeyFile,
    KmsContract,
    RpcUrls,
    address,
    chain_options,
    word,
)

chain_app = typer.Typer(
    name="chain",
    help="Run a chain of your own, and put the contracts of a KMS on any chain.",
    no_args_is_help=True,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@chain_app.command("up")
def up(
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder; the chain's state is in its folder `chain`.")
    ] = Path("~/.teehouse"),
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")
    ] = 8545,
    chain_id: Annotated[
        int | None,
        typer.Option(
            "--chain-id", min=1, help="Its id: 31337 when nobody says. The folder's chain keeps it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run anvil on this machine, with the contracts on it, until Ctrl-C. Its state is kept."""
    from teehouse.stack.chain_serving import run_chain

    run_chain(directory.expanduser(), port=port, chain_id=chain_id, as_json=as_json)


@chain_app.command("deploy")
def deploy(
    rpc_url: RpcUrls = None,
    chain_id: ChainId = None,
    key_file: KeyFile = None,
    kms_contract: KmsContract = None,
    salt: Annotated[
        str | None, typer.Option("--salt", metavar="HEX", help="32 bytes: another KMS of the same owner.")
    ] = None,
    os_image: Annotated[
        list[str] | None, typer.Option("--os-image", metavar="HEX", help="OS image that may run apps.")
    ] = None,
    kms_mr: Annotated[
        list[str] | None, typer.Option("--kms-mr", metavar="HEX", help="mrAggregated of a KMS that may run.")
    ] = None,
    kms_device: Annotated[
        list[str] | None, typer.Option("--kms-device", metavar="HEX", help="Device that a KMS may run on.")
    ] = None,
    gateway_app_id: Annotated[
        str | None, typer.Option("--gateway-app-id", help="The gateway's app id.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put the contracts on a chain and say what may run; done again, it does what is missing alone.

    With --kms-contract the KMS's contract is one that exists.
    """
    from teehouse.chain.deploy import SALT, DeployPlan
    from teehouse.stack.chain_deploying import run_deploy

    plan = DeployPlan(
        os_images=[word(text, "--os-image") for text in os_image or ()],
        kms_aggregated_mrs=[word(text, "--kms-mr") for text in kms_mr or ()],
        kms_devices=[word(text, "--kms-device") for text in kms_device or ()],
        gateway_app_id=gateway_app_id,
        kms_contract=None if kms_contract is None else address(kms_contract, "--kms-contract"),
        salt=SALT if salt is None else word(salt, "--salt"),
    )
    run_deploy(chain_options(rpc_url, chain_id), key_file, plan, as_json=as_json)
