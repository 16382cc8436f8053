"""`teehouse cloud`: set up a control plane that runs apart, and serve replicas of it."""

import asyncio
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from teehouse.cli.chain_options import ChainId, Confirmations, Quorum, RpcUrls, chain_options

if TYPE_CHECKING:  # commands import what they need when they run
    from teehouse.stack.cloud_place import Place

cloud_app = typer.Typer(
    name="cloud",
    help="Run the control plane apart: its API and its workers, on one database, in any number.",
    no_args_is_help=True,
    add_completion=False,
)

CLOUD_DIRECTORY = Path("~/.teehouse/cloud")
CLOUD_TCP = "127.0.0.1:8080"


class ServedRole(Enum):
    """What a process does."""

    ALL = "all"
    API = "api"
    WORKER = "worker"


class ChainName(Enum):
    """What a KMS's chain is called towards clients, who know these."""

    ETHEREUM = "ethereum"
    BASE = "base"


Directory = Annotated[
    Path, typer.Option("--dir", envvar="TEEHOUSE_CLOUD_DIR", help="Folder of secret key and node bundles.")
]
DatabaseUrlFile = Annotated[
    Path | None,
    typer.Option(
        "--database-url-file",
        envvar="TEEHOUSE_DATABASE_URL_FILE",
        help="File with the database's URL; else TEEHOUSE_DATABASE_URL has it, or it is SQLite in the folder.",
    ),
]
AuthFile = Annotated[
    Path | None,
    typer.Option(
        "--auth-file", help="List that an off-chain KMS goes by (`teehouse kms serve --auth-file`)."
    ),
]


@cloud_app.command()
def init(
    directory: Directory = CLOUD_DIRECTORY,
    database_url_file: DatabaseUrlFile = None,
    username: Annotated[str, typer.Option("--username", help="The first user.")] = "admin",
    email: Annotated[str, typer.Option("--email", help="Its address.")] = "admin@localhost",
    workspace: Annotated[str, typer.Option("--workspace", help="Slug of the first workspace.")] = "default",
) -> None:
    """Make folder, tables, first user, workspace and API key; or bring them to this version. Run it at each upgrade."""
    from teehouse.base.clock import SystemClock
    from teehouse.stack import cloud_setup

    place = _place(directory, database_url_file)
    first = asyncio.run(
        cloud_setup.init(place, SystemClock(), username=username, email=email, workspace=workspace)
    )
    _say(f"workspace {first.workspace_slug}, API key in {place.folder.key_file}")


@cloud_app.command("add-kms")
def add_kms(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the KMS, https.")],
    root_ca: Annotated[
        Path, typer.Option("--root-ca", help="Root CA certificate (PEM) that the KMS has to be under.")
    ],
    slug: Annotated[str, typer.Option("--slug", help="What it is called here.")] = "phala",
    chain_name: Annotated[
        ChainName | None,
        typer.Option("--chain-name", help="Of a KMS on another chain: what its chain is called."),
    ] = None,
    public_rpc_url: Annotated[
        str | None,
        typer.Option("--public-rpc-url", help="Of a KMS on chain: an endpoint that clients are told."),
    ] = None,
    directory: Directory = CLOUD_DIRECTORY,
    database_url_file: DatabaseUrlFile = None,
) -> None:
    """Register a KMS that runs, by what it tells of itself; again, when its address changed."""
    from teehouse.base.clock import SystemClock
    from teehouse.cloud.inventory.models import KmsType
    from teehouse.stack import cloud_setup

    options = cloud_setup.KmsOptions(
        url=url,
        slug=slug,
        root_ca=root_ca.expanduser(),
        kms_type=None if chain_name is None else KmsType(chain_name.value),
        rpc_url=public_rpc_url,
    )
    row = asyncio.run(cloud_setup.add_kms(_place(directory, database_url_file), SystemClock(), options))
    _say(f"KMS {row.slug} ({row.kms_type}) at {row.url}")


@cloud_app.command("add-node")
def add_node(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="From `teehouse node bundle --controller NAME`.")
    ],
    region: Annotated[str, typer.Option("--region", help="Where it is, as clients see it.")],
    kms: Annotated[
        list[str] | None,
        typer.Option(
            "--kms", metavar="SLUG", help="KMS of its CVMs; may be repeated, the first is the usual."
        ),
    ] = None,
    slots: Annotated[int, typer.Option("--slots", min=1, max=100_000, help="CVMs that it takes.")] = 256,
    gateway_domain: Annotated[
        str | None, typer.Option("--gateway-domain", help="Domain of the gateway before it.")
    ] = None,
    auth_file: AuthFile = None,
    directory: Directory = CLOUD_DIRECTORY,
    database_url_file: DatabaseUrlFile = None,
) -> None:
    """Register a node that runs, by what it tells of itself; again, when its images or its bundle changed."""
    from teehouse.base.clock import SystemClock
    from teehouse.stack import cloud_setup

    options = cloud_setup.NodeOptions(
        bundle=bundle.expanduser(),
        region=region,
        kms=tuple(kms or ["phala"]),
        slots=slots,
        gateway_domain=gateway_domain,
        auth_file=auth_file and auth_file.expanduser(),
    )
    info = asyncio.run(cloud_setup.add_node(_place(directory, database_url_file), SystemClock(), options))
    mark = "EMULATED node" if info.emulated else "node"
    _say(f"{mark} {info.name}, images {', '.join(image.name for image in info.images)}")


@cloud_app.command()
def serve(
    role: Annotated[
        ServedRole, typer.Option("--role", envvar="TEEHOUSE_ROLE", help="The API, a worker, or all of it.")
    ] = ServedRole.ALL,
    tcp: Annotated[str, typer.Option("--tcp", help="HOST:PORT to serve on (plain HTTP).")] = CLOUD_TCP,
    public_url: Annotated[
        str | None,
        typer.Option("--public-url", envvar="TEEHOUSE_PUBLIC_URL", help="Where clients reach it."),
    ] = None,
    directory: Directory = CLOUD_DIRECTORY,
    database_url_file: DatabaseUrlFile = None,
    auth_file: AuthFile = None,
    rpc_url: RpcUrls = None,
    chain_id: ChainId = None,
    confirmations: Confirmations = 0,
    quorum: Quorum = 1,
    drain: Annotated[
        float,
        typer.Option("--drain", min=0, max=600, help="Seconds to serve on, not ready, when it is to stop."),
    ] = 0,
) -> None:
    """Serve a replica until Ctrl-C."""
    from teehouse.stack.serving import begin_start

    begin_start()
    from teehouse.stack.cloud_replica import ReplicaOptions, run_replica
    from teehouse.stack.cloud_serving import Role

    run_replica(
        ReplicaOptions(
            place=_place(directory, database_url_file),
            tcp=tcp,
            role=Role(role.value),
            public_url=public_url,
            auth_file=auth_file and auth_file.expanduser(),
            chain=chain_options(rpc_url, chain_id, confirmations, quorum) if rpc_url else None,
            drain=drain,
        )
    )


def _place(directory: Path, database_url_file: Path | None) -> "Place":
    from teehouse.stack.cloud_place import Place

    return Place(directory.expanduser(), database_url_file and database_url_file.expanduser())


def _say(text: str) -> None:
    print(text)  # noqa: T201 - what the command is for
