"""An emulated installation on a chain: its second KMS, which a contract decides for, and the chain itself.

Rules:

1. A folder is off chain or on one chain from its first start, and stays so: apps keep the KMS, and with it the
   contract, that gave them keys. A start that says otherwise is refused, with what the folder is. Where the chain is
   the folder's own anvil, nothing need be said again; the URL of another chain is not kept, for it may hold a key.
2. The contracts are those of `chain.deploy`, made once. The KMS's contract is told, by the deployer's key, what this
   installation runs: the measurement and the device of its KMS, its OS images, and what the KMS proved of its keys.
   Nothing is taken from a contract that others wrote to it.
3. The KMS asks its contract about itself as about every app.
4. The deployer of a chain of one's own is anvil's first account, whose key everybody knows. On another chain the
   key comes from a file or the environment, and is in no file of the installation.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from teehouse.attestation.envelope import decode_attestation
from teehouse.attestation.eventlog import encode_event_log
from teehouse.base.files import write_atomic
from teehouse.base.findings import misuse
from teehouse.chain.calls import KmsInfo
from teehouse.chain.deploy import DeployPlan, DeployRecord, deploy
from teehouse.chain.endpoint import Endpoint
from teehouse.chain.rpc_reader import RpcReader, open_reader
from teehouse.chain.transaction import address_of
from teehouse.chain.writer import RpcWriter
from teehouse.cli.chain_options import private_key
from teehouse.kms.auth_chain import ChainAuth
from teehouse.stack.anvil import DEPLOYER_KEY
from teehouse.stack.chain_serving import serve_chain
from teehouse.stack.installation import Installation
from teehouse.stack.kms_emulated import BootedKms, ServedKms, boot_kms, on_chain, serve_booted
from teehouse.stack.sample_record import RECORD as SAMPLE_RECORD
from teehouse.tee_emulated.image import EmulatedImage

ANVIL: Final = "anvil"
ELSEWHERE: Final = "url"
RECORD: Final = "chain.json"


@dataclass(frozen=True, slots=True)
class ChainChoice:
    """Which chain: `place` is `anvil`, or the URL of one that runs, which may hold a key.

    `kms_contract` (20 bytes) is a KMS's contract that exists, `key_file` has the deployer's key; both are for
    another chain than one's own.
    """

    place: str = field(repr=False)
    chain_id: int | None = None
    key_file: Path | None = None
    kms_contract: bytes | None = None

    @property
    def is_own(self) -> bool:
        """Whether it is the folder's own anvil."""
        return self.place == ANVIL


@dataclass(frozen=True, slots=True)
class Onchain:
    """The chain and the KMS on it, both serving. `rpc_url` and `key` are not to be shown where the chain is another's.

    `client_url` is the endpoint where it may be told to clients; `key_file` holds the deployer's key, of one's own
    chain only.
    """

    rpc_url: str = field(repr=False)
    shown: str
    client_url: str | None
    record: DeployRecord
    deployer: bytes
    kms: ServedKms
    key: bytes = field(repr=False)
    key_file: Path | None = None

    @property
    def chain_id(self) -> int:
        """The chain's id."""
        return self.record.chain_id

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[RpcWriter]:
        """Changes the chain in the deployer's name."""
        endpoint = Endpoint(self.rpc_url)
        try:
            yield RpcWriter(endpoint, self.chain_id, self.key)
        finally:
            await endpoint.aclose()

    async def reader(self) -> RpcReader:
        """A reader of the chain, for its caller to close. Raises `CollateralError`."""
        return await open_reader([self.rpc_url], chain_id=self.chain_id)

    def facts(self) -> dict[str, Any]:
        """What ready.json says of it; README.md lists the members."""
        own = {} if self.key_file is None else {
            "deployer_private_key": f"0x{self.key.hex()}",
            "deployer_key_file": str(self.key_file),
        }  # fmt: skip
        return {
            "rpc_url": self.rpc_url,
            "chain_id": self.chain_id,
            "kms_contract": _hex(self.record.kms_contract),
            "multicall": _hex(self.record.multicall),
            "deployer": _hex(self.deployer),
            **own,
        }


def chosen_chain(installation: Installation, choice: ChainChoice | None) -> ChainChoice | None:
    """The chain of this start; None off chain. Raises `MisuseError` (rule 1)."""
    kept = _kept(installation.state / RECORD)
    if kept is None:
        if choice is not None and (installation.state / SAMPLE_RECORD).exists():
            raise _other_folder(installation, "off chain")
        return choice
    its = "its own anvil" if kept["place"] == ANVIL else f"chain {kept['chain_id']}, {kept['kms_contract']}"
    if choice is None:
        if kept["place"] == ANVIL:
            return ChainChoice(ANVIL)
        raise misuse(
            "up.chain-missing",
            f"the installation in {installation.directory} is on {its}",
            remedy="say where that chain is: --chain URL",
        )
    if choice.is_own != (kept["place"] == ANVIL):
        raise _other_folder(installation, f"on {its}")
    return choice


@asynccontextmanager
async def serve_onchain(
    installation: Installation, choice: ChainChoice, images: tuple[str, ...]
) -> AsyncIterator[Onchain]:
    """The chain, the contracts on it, and the KMS that asks them, for as long as the context lasts (rules 2 to 4).

    `images` are the OS images that apps may boot. Raises `TeehouseError`, OSError.
    """
    async with boot_kms(installation, on_chain(installation)) as booted:
        hashes = [EmulatedImage.named(name).os_image_hash for name in images]
        plan = DeployPlan(
            os_images=[booted.measured.os_image_hash, *hashes],
            kms_aggregated_mrs=[booted.measured.mr_aggregated],
            kms_devices=[booted.measured.device_id],
            kms_info=_kms_info(booted),
            kms_contract=_contract(installation, choice),
        )
        async with (
            _deployed(installation, choice, plan) as (url, record, key, key_file),
            await open_reader([url], chain_id=record.chain_id) as reader,
        ):
            _keep(installation, choice, record)
            auth = ChainAuth(reader, record.kms_contract, rpc_shown=reader.shown)
            async with serve_booted(booted, auth) as served:
                client_url = url if _tellable(url) else None
                yield Onchain(url, reader.shown, client_url, record, address_of(key), served, key, key_file)


@asynccontextmanager
async def _deployed(
    installation: Installation, choice: ChainChoice, plan: DeployPlan
) -> AsyncIterator[tuple[str, DeployRecord, bytes, Path | None]]:
    """URL, record, the deployer's key, and its file on one's own chain (rule 4)."""
    if choice.is_own:
        if choice.kms_contract is not None or choice.key_file is not None:
            raise misuse(
                "up.chain-own",
                "--kms-contract and --key-file",
                expected="none with --chain anvil: its contracts are made, its key is known",
                found="given",
            )
        directory = installation.directory.resolve()
        async with serve_chain(directory, chain_id=choice.chain_id, plan=plan) as served:
            yield served.anvil.url, served.record, DEPLOYER_KEY, served.key_file
        return
    key = private_key(choice.key_file)
    endpoint = Endpoint(choice.place)
    try:
        async with await open_reader([choice.place], chain_id=choice.chain_id) as reader:
            _check_chain(installation, reader.chain_id)
            record = await deploy(reader, RpcWriter(endpoint, reader.chain_id, key), plan)
    finally:
        await endpoint.aclose()
    yield choice.place, record, key, None


def _kms_info(booted: BootedKms) -> KmsInfo:
    """What the KMS's contract shows: keys, and the proof of the moment they were made (trust.md 13.3)."""
    proved = booted.store.load(booted.installation.clock.now()).bootstrap_info
    if proved is None:
        raise misuse(
            "up.kms-proof",
            f"the KMS in {booted.store.directory} has not kept what it proved of its keys",
            remedy="begin with another --dir",
        )
    attestation = decode_attestation(proved.attestation)
    log = encode_event_log(attestation.event_log).encode()
    return KmsInfo(proved.k256_pubkey, proved.ca_pubkey, attestation.quote, log)


def _contract(installation: Installation, choice: ChainChoice) -> bytes | None:
    """The contract that exists: the folder's, or the one that is named. Raises `MisuseError` where they differ."""
    kept = _kept(installation.state / RECORD)
    if kept is None or choice.is_own:
        return choice.kms_contract
    its = bytes.fromhex(kept["kms_contract"].removeprefix("0x"))
    if choice.kms_contract not in {None, its}:
        raise _other_folder(installation, f"on chain {kept['chain_id']}, {kept['kms_contract']}")
    return its


def _check_chain(installation: Installation, chain_id: int) -> None:
    """Another chain than the folder's is refused before anything is written to it (rule 1)."""
    kept = _kept(installation.state / RECORD)
    if kept is not None and kept["chain_id"] != chain_id:
        raise _other_folder(installation, f"on chain {kept['chain_id']}, {kept['kms_contract']}")


def _keep(installation: Installation, choice: ChainChoice, record: DeployRecord) -> None:
    """Rule 1. Raises `MisuseError` where the chain or its contract is not the folder's."""
    path = installation.state / RECORD
    now = {
        "place": ANVIL if choice.is_own else ELSEWHERE,
        "chain_id": record.chain_id,
        "kms_contract": _hex(record.kms_contract),
    }
    kept = _kept(path)
    if kept is None:
        write_atomic(path, (json.dumps(now, indent=2) + "\n").encode())
    elif kept != now:
        raise _other_folder(installation, f"on chain {kept['chain_id']}, {kept['kms_contract']}")


def _kept(path: Path) -> dict[str, Any] | None:
    try:
        members = json.loads(path.read_text(encoding="utf-8"))
        return {
            "place": str(members["place"]),
            "chain_id": int(members["chain_id"]),
            "kms_contract": str(members["kms_contract"]),
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise misuse(
            "up.chain-record",
            f"{path} does not say which chain the installation is on",
            remedy="restore it, or begin with another --dir",
        ) from None


def _other_folder(installation: Installation, its: str) -> Exception:
    return misuse(
        "up.other-chain",
        f"the installation in {installation.directory} is {its}",
        expected="the same at each start: its apps have their keys from there",
        remedy="start it as before, or begin another installation with --dir",
    )


def _tellable(url: str) -> bool:
    """Whether there is nothing in an endpoint's URL that could be a key."""
    parts = urlsplit(url)
    return not (parts.username or parts.password or parts.query or parts.path.strip("/"))


def _hex(data: bytes) -> str:
    return f"0x{data.hex()}"
