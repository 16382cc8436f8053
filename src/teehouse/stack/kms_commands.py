"""`teehouse kms` and `teehouse auth`: serve a KMS and its authorisation, read its log, ask about it."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from teehouse.cli.chain_options import (
    ChainId,
    Confirmations,
    KmsContract,
    Quorum,
    RpcUrls,
    address,
    chain_options,
)

kms_app = typer.Typer(
    name="kms",
    help="Run a KMS: keys for CVMs that prove who they are. Read its audit log. Ask one about itself.",
    no_args_is_help=True,
    add_completion=False,
)
auth_app = typer.Typer(
    name="auth",
    help="Run the authorization API that a KMS asks who may have keys.",
    no_args_is_help=True,
    add_completion=False,
)

KMS_DIRECTORY = Path("~/.teehouse/kms")
KMS_TCP = "127.0.0.1:8000"
ONBOARD_TCP = "127.0.0.1:8001"
AUTH_TCP = "127.0.0.1:8002"


class Backend(Enum):
    """What decides in `teehouse auth serve`."""

    FILE = "file"
    MOCK = "mock"
    CHAIN = "chain"


Emulated = Annotated[
    bool, typer.Option("--emulated", help="For emulated TDX. Nothing is protected by hardware then.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_POLICIES = "allow-all, deny-kms, deny-app, deny-all, allowlist-device or allowlist-mr"


@kms_app.command()
def serve(
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder of root keys and audit log; made when missing.")
    ] = KMS_DIRECTORY,
    tcp: Annotated[str, typer.Option("--tcp", help="HOST:PORT of the RPC service (TLS).")] = KMS_TCP,
    onboard_tcp: Annotated[
        str, typer.Option("--onboard-tcp", help="HOST:PORT of onboarding (plain HTTP), until there are keys.")
    ] = ONBOARD_TCP,
    auth_url: Annotated[
        str | None, typer.Option("--auth-url", metavar="URL", help="Authorization API to ask.")
    ] = None,
    auth_file: Annotated[
        Path | None, typer.Option("--auth-file", help="Authorize by this file instead, read at each request.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", help=f"With --emulated: authorize by one word instead: {_POLICIES}."),
    ] = None,
    kms_contract: KmsContract = None,
    rpc_url: RpcUrls = None,
    chain_id: ChainId = None,
    confirmations: Confirmations = 0,
    quorum: Quorum = 1,
    root: Annotated[
        list[str] | None,
        typer.Option(
            "--root",
            metavar="intel|emulated:FILE",
            help="Root that evidence has to verify under; may be repeated. Intel's when left out.",
        ),
    ] = None,
    pccs: Annotated[
        str | None, typer.Option("--pccs", metavar="URL", help="Service to fetch collateral from.")
    ] = None,
    agent: Annotated[
        Path | None, typer.Option("--agent", help="Socket of the guest agent on the KMS's own machine.")
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option("--domain", help="Make root keys at the first start, for a KMS under this name."),
    ] = None,
    site_name: Annotated[str, typer.Option("--site-name", help="Name of the site, told at onboarding.")] = "",
    sealing_key: Annotated[
        Path | None,
        typer.Option("--sealing-key", help="File of 32 bytes that the root keys are sealed with."),
    ] = None,
    unsafe_no_self_check: Annotated[
        bool,
        typer.Option(
            "--unsafe-no-self-check",
            help="UNSAFE: run without evidence of the KMS's own machine; nobody can check what holds the keys.",
        ),
    ] = False,
    unsafe_any_image: Annotated[
        bool, typer.Option("--unsafe-any-image", help="UNSAFE: take the OS image's hash as it is claimed.")
    ] = False,
    emulated: Emulated = False,
) -> None:
    """Serve keys to CVMs whose evidence verifies and whom the authorization allows."""
    from teehouse.stack.kms_serving import KmsOptions, run_kms

    named = {
        "--auth-url": auth_url,
        "--auth-file": auth_file,
        "--policy": policy,
        "--kms-contract": kms_contract,
    }
    chosen = [name for name, value in named.items() if value is not None]
    if len(chosen) != 1:
        raise typer.BadParameter(f"give one of {', '.join(named)}: somebody has to say who may have keys")
    run_kms(
        KmsOptions(
            directory=directory.expanduser(),
            tcp=tcp,
            onboard_tcp=onboard_tcp,
            auth_url=auth_url,
            auth_file=auth_file,
            policy=policy,
            chain=None if kms_contract is None else chain_options(rpc_url, chain_id, confirmations, quorum),
            kms_contract=b"" if kms_contract is None else address(kms_contract, "--kms-contract"),
            roots=tuple(root or ["intel"]),
            pccs=pccs,
            agent=agent,
            domain=domain,
            site_name=site_name,
            sealing_key=sealing_key,
            self_check=not unsafe_no_self_check,
            verify_image=not unsafe_any_image,
            emulated=emulated,
        )
    )


@kms_app.command()
def audit(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a KMS, or its audit log.")],
    last: Annotated[int, typer.Option("--last", min=0, help="Show only this many records, the last.")] = 0,
    noted: Annotated[
        str | None,
        typer.Option(
            "--noted", metavar="COUNT:HASH", help="End of the log as somebody noted it; the log must have it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show who was given keys, who was refused and why; and check that nobody changed the record of it."""
    from teehouse.stack.kms_audit import show_audit

    raise typer.Exit(show_audit(directory.expanduser(), last=last, noted=noted, as_json=as_json))


@kms_app.command()
def meta(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of a KMS.")],
    root_ca: Annotated[
        Path | None, typer.Option("--root-ca", help="Root CA certificate (PEM) that the KMS has to be under.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a KMS about itself: its keys' public halves, and who authorizes."""
    from teehouse.stack.kms_audit import show_meta

    show_meta(url, root_ca=root_ca, as_json=as_json)


@auth_app.callback()
def _auth() -> None:
    """A group, though there is one command in it as yet."""


@auth_app.command("serve")
def serve_auth(
    backend: Annotated[Backend, typer.Option("--backend", help="What decides.")] = Backend.FILE,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", envvar="AUTH_CONFIG_PATH", help="Of --backend file: the file, read each time."
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", envvar="MOCK_POLICY", help=f"Of --backend mock: {_POLICIES}.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", metavar="HEX", help="Of --backend mock: device to allow.")
    ] = None,
    mr_aggregated: Annotated[
        list[str] | None,
        typer.Option("--mr-aggregated", metavar="HEX", help="Of --backend mock: measurement to allow."),
    ] = None,
    kms_contract: KmsContract = None,
    rpc_url: RpcUrls = None,
    chain_id: ChainId = None,
    confirmations: Confirmations = 0,
    quorum: Quorum = 1,
    tcp: Annotated[str, typer.Option("--tcp", help="HOST:PORT to serve on (plain HTTP).")] = AUTH_TCP,
    emulated: Emulated = False,
) -> None:
    """Serve the authorization API: by a file, by a KMS's contract, or in emulation by a policy of one word."""
    from teehouse.stack.kms_serving import run_chain_auth, run_file_auth, run_mock_auth

    for owner, name, given in (
        (Backend.FILE, "--config", config),
        (Backend.MOCK, "--policy", policy),
        (Backend.MOCK, "--device", device),
        (Backend.MOCK, "--mr-aggregated", mr_aggregated),
        (Backend.CHAIN, "--kms-contract", kms_contract),
    ):
        if given and backend is not owner:
            raise typer.BadParameter(f"{name} goes with --backend {owner.value}")
    if backend is Backend.CHAIN:
        if kms_contract is None:
            raise typer.BadParameter("--backend chain takes --kms-contract 0x…")
        options = chain_options(rpc_url, chain_id, confirmations, quorum)
        run_chain_auth(options, address(kms_contract, "--kms-contract"), tcp=tcp)
    elif backend is Backend.FILE:
        if config is None:
            raise typer.BadParameter("--backend file takes --config FILE")
        run_file_auth(config.expanduser(), tcp=tcp)
    else:
        run_mock_auth(policy or "allow-all", device or [], mr_aggregated or [], tcp=tcp, emulated=emulated)
