"""How a chain is named on the command line, and opened."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from teehouse.base.findings import misuse
from teehouse.chain.reader import ADDRESS_SIZE, WORD_SIZE

if TYPE_CHECKING:  # commands import what they need when they run
    from teehouse.chain.rpc_reader import RpcReader

RPC_URL: Final = "http://127.0.0.1:8545"  # where `teehouse chain up` serves

RpcUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--rpc-url",
        metavar="URL",
        envvar="ETH_RPC_URL",
        help="JSON-RPC endpoint of the chain; more of them stand in for each other.",
        show_envvar=True,
    ),
]
ChainId = Annotated[
    int | None,
    typer.Option(
        "--chain-id",
        min=1,
        envvar="ETH_CHAIN_ID",
        help="Id that the chain must have; left out, what it tells first.",
    ),
]
Confirmations = Annotated[
    int,
    typer.Option(
        "--confirmations",
        min=0,
        envvar="ETH_FINALITY_CONFIRMATIONS",
        help="Read this many blocks below the head.",
    ),
]
Quorum = Annotated[
    int, typer.Option("--quorum", min=1, help="Endpoints that must agree; more than half of them.")
]
KmsContract = Annotated[
    str | None,
    typer.Option("--kms-contract", metavar="0x…", envvar="KMS_CONTRACT_ADDR", help="The KMS's contract."),
]

KEY_VARIABLE: Final = "ETH_PRIVATE_KEY"
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        help=f"File with the account's private key in hex; left out, the variable {KEY_VARIABLE} has it.",
    ),
]
KEY_FILE_LIMIT: Final = 4096  # bytes

_HEX = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})*)\Z")


@dataclass(frozen=True, slots=True)
class ChainOptions:
    """What is said of a chain. URLs may hold keys, so they are not shown."""

    rpc_urls: tuple[str, ...] = field(default=(RPC_URL,), repr=False)
    chain_id: int | None = None
    confirmations: int = 0
    quorum: int = 1

    async def open(self) -> "RpcReader":
        """A reader of the chain, for its caller to close. Raises `MisuseError`, `CollateralError`."""
        from teehouse.chain.rpc_reader import ReaderSettings, open_reader

        settings = ReaderSettings(confirmations=self.confirmations, quorum=self.quorum)
        return await open_reader(self.rpc_urls, settings, chain_id=self.chain_id)


def chain_options(
    rpc_urls: list[str] | None, chain_id: int | None, confirmations: int = 0, quorum: int = 1
) -> ChainOptions:
    """The options as they were given; without a URL, the chain of `teehouse chain up`."""
    return ChainOptions(tuple(rpc_urls or (RPC_URL,)), chain_id, confirmations, quorum)


def private_key(path: Path | None) -> bytes:
    """The private key (32 bytes) of a file, or of the environment: command lines are read by others.

    Raises `MisuseError`, which does not show it.
    """
    from teehouse.chain.writer import parse_key

    if path is None:
        text = os.environ.get(KEY_VARIABLE)
        if text is None:
            raise misuse(
                "chain.key", "a private key to sign with", remedy=f"give --key-file, or set {KEY_VARIABLE}"
            )
        return parse_key(text)
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(KEY_FILE_LIMIT)
    except OSError as error:
        raise misuse("chain.key", f"the key file {path}", found=error.strerror or "unreadable") from None
    return parse_key(content.decode("ascii", "replace"))


def address(text: str, what: str) -> bytes:
    """The 20 bytes of an address in hex, with or without 0x. Raises `MisuseError`."""
    return _octets(text, ADDRESS_SIZE, what)


def word(text: str, what: str) -> bytes:
    """The 32 bytes of a hash or a device id in hex, with or without 0x. Raises `MisuseError`.

    Shorter ones are refused: clients pad them on different sides (onchain.md 11).
    """
    return _octets(text, WORD_SIZE, what)


def _octets(text: str, size: int, what: str) -> bytes:
    match = _HEX.match(text.strip())
    if match is None or len(match[1]) != 2 * size:
        raise misuse("chain.hex", what, expected=f"{2 * size} hex digits", found=ascii(text[:80]))
    return bytes.fromhex(match[1])
