"""A JSON-RPC endpoint in the process, with contracts on an EVM or of the test's own, that can be told to misbehave.

node = FakeNode()
node.contracts[ADDRESS] = lambda data: word(1)
reader = RpcReader([node.endpoint()], CHAIN_ID)
"""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pyrevm

from support.evm import Chain, Halted, Reverted
from support.evm import Log as EvmLog
from teehouse.base.hashes import keccak256
from teehouse.chain import calls as abi
from teehouse.chain.calls import KmsInfo
from teehouse.chain.deploy import CREATE2_DEPLOYER, DeployPlan, DeployRecord, deploy
from teehouse.chain.endpoint import Endpoint
from teehouse.chain.history import deployments
from teehouse.chain.rpc_reader import ReaderSettings, RpcReader
from teehouse.chain.transaction import address_of
from teehouse.chain.writer import RpcWriter

CHAIN_ID = 31337
_RECURSION = sys.getrecursionlimit()
from eth_account import Account  # noqa: E402
from eth_account.typed_transactions import TypedTransaction  # noqa: E402
from hexbytes import HexBytes  # noqa: E402

# py_ecc, which eth_account imports, raises the limit so far that deeply nested JSON ends the process.
sys.setrecursionlimit(_RECURSION)

KEY = bytes.fromhex(
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
)  # anvil's first account
STRANGER_KEY = b"\x07" * 32
ADDRESS = b"\xaa" * 20
# The runtime code of the deterministic deployment proxy (onchain.md 7).
CREATE2_CODE = bytes.fromhex(
    "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd"
    "5b8082525050506014600cf3"
)
_NAMES = itertools.count(1)

Contract = Callable[[bytes], bytes]


class Refusal(Exception):  # noqa: N818 - an error object of JSON-RPC
    def __init__(self, code: int, message: str, data: bytes | None = None) -> None:
        super().__init__(message)
        self.body: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            self.body["data"] = "0x" + data.hex()


def reverting(data: bytes = b"") -> Contract:
    def contract(_: bytes) -> bytes:
        raise Refusal(3, "execution reverted", data)

    return contract


class FakeNode:
    """One endpoint. What it does wrong is in its attributes."""

    def __init__(self, *, chain_id: int = CHAIN_ID, head: int = 100) -> None:
        self.name = f"http://node{next(_NAMES)}.test"
        self.chain_id = chain_id
        self.head = head
        self.contracts: dict[bytes, Contract] = {}
        self.codes: dict[bytes, bytes] = {}
        self.evm: Chain | None = None
        self.events: list[dict[str, Any]] = []
        self.receipts: dict[str, dict[str, Any]] = {}
        self.forks: dict[int, str] = {}  # from this block on, another branch
        self.asked: list[str] = []  # methods, in their order
        self.posts: list[int] = []  # how many requests each post had; 0 for one alone
        # misbehaviour
        self.down = False
        self.delay = 0.0
        self.status = 200
        self.body: bytes | None = None
        self.headers: dict[str, str] = {}
        self.batch_limit: int | None = None  # more are refused; 0: no batch at all
        self.batch_refusal: Callable[[list[Any]], Any] | None = None
        self.methods: dict[str, Callable[..., Any]] = {}  # instead of ours

    def endpoint(self, *, timeout: float = 8.0) -> Endpoint:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self._handle), timeout=timeout)
        return Endpoint(f"{self.name}/v1/secret?key=hidden", client=client)

    def reader(self, **settings: Any) -> RpcReader:
        return reader_of(self, **settings)

    def with_evm(self) -> Chain:
        """An EVM behind this endpoint, with a CREATE2 deployer and two rich accounts."""
        self.evm = Chain()
        account = pyrevm.AccountInfo(code=CREATE2_CODE)
        self.evm.evm.insert_account_info(f"0x{CREATE2_DEPLOYER.hex()}", account)
        for key in (KEY, STRANGER_KEY):
            self.evm.evm.set_balance(f"0x{address_of(key).hex()}", 10**20)
        return self.evm

    def hash(self, number: int) -> bytes:
        fork = max((start for start in self.forks if start <= number), default=None)
        return keccak256(f"{'' if fork is None else self.forks[fork]}{number}".encode())

    def add_event(
        self, address: bytes, topics: Sequence[bytes], data: bytes = b"", *, at: int | None = None
    ) -> None:
        number = self.head if at is None else at
        self.events.append(
            {
                "address": _hex(address),
                "topics": [_hex(one) for one in topics],
                "data": _hex(data),
                "blockNumber": hex(number),
                "blockHash": _hex(self.hash(number)),
                "transactionHash": _hex(keccak256(b"t%d" % len(self.events))),
                "logIndex": hex(len(self.events)),
                "removed": False,
            }
        )

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("http://user:secret@node/ is down", request=request)
        content = json.loads(request.content)
        several = isinstance(content, list)
        self.posts.append(len(content) if several else 0)
        await asyncio.sleep(self.delay)
        if self.body is not None:
            return httpx.Response(self.status, content=_chunks(self.body), headers=self.headers)
        if not several:
            return httpx.Response(self.status, json=self._one(content), headers=self.headers)
        if self.batch_refusal is not None:
            return httpx.Response(self.status, json=self.batch_refusal([self._one(one) for one in content]))
        if self.batch_limit is not None and len(content) > self.batch_limit:
            return httpx.Response(413, text="too large")
        return httpx.Response(self.status, json=[self._one(one) for one in content])

    def _one(self, request: dict[str, Any]) -> dict[str, Any]:
        method, params = request["method"], request["params"]
        self.asked.append(method)
        found = self.methods.get(method) or getattr(self, method, None)
        answer = {"jsonrpc": "2.0", "id": request["id"]}
        try:
            return {**answer, "result": (found or _unknown)(*params)}
        except Refusal as refusal:
            return {**answer, "error": refusal.body}

    # --- methods

    def eth_chainId(self) -> str:  # noqa: N802 - the name on the wire
        return hex(self.chain_id)

    def eth_getBlockByNumber(self, tag: str, _full: bool) -> Any:  # noqa: N802
        number = self.head if tag == "latest" else int(tag, 16)
        if number > self.head:
            return None
        return {
            "number": hex(number),
            "hash": _hex(self.hash(number)),
            "timestamp": hex(number * 12),
            "baseFeePerGas": "0x1",
        }

    def eth_call(self, call: dict[str, str], tag: str) -> str:
        if int(tag, 16) > self.head:
            raise Refusal(-32000, "header not found")
        to, data = bytes.fromhex(call["to"][2:]), bytes.fromhex(call["data"][2:])
        if (contract := self.contracts.get(to)) is not None:
            return _hex(contract(data))
        return _hex(self._evm_call(call["to"], data, int(call["gas"], 16)) if self.evm else b"")

    def eth_getCode(self, address: str, _tag: str) -> str:  # noqa: N802
        known = self.codes.get(bytes.fromhex(address[2:]), b"")
        return _hex(self.evm.code(address) if self.evm and not known else known)

    def eth_getLogs(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: N802
        first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)

        def fits(event: dict[str, Any]) -> bool:
            topics = itertools.zip_longest(
                wanted["topics"], event["topics"]
            )  # hex of a topic holds that of no other
            return (
                event["address"] == wanted["address"]
                and first <= int(event["blockNumber"], 16) <= last
                and all(one is None or (found is not None and found in one) for one, found in topics)
            )

        return [event for event in self.events if fits(event)]

    def eth_getTransactionCount(self, address: str, _tag: str) -> str:  # noqa: N802
        assert self.evm is not None
        return hex(self.evm.evm.basic(address).nonce)

    def eth_estimateGas(self, call: dict[str, str]) -> str:  # noqa: N802
        assert self.evm is not None
        self._evm_call(call["to"], bytes.fromhex(call["data"][2:]), 30_000_000, sender=call["from"])
        return hex(20_000_000)

    def eth_sendRawTransaction(self, raw: str) -> str:  # noqa: N802
        assert self.evm is not None
        signed = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        assert signed["chainId"] == self.chain_id
        self.head += 1
        receipt = self.evm.transact(
            _hex(signed["to"]),
            bytes(signed["data"]),
            sender=Account.recover_transaction(raw).lower(),
            gas=signed["gas"],
        )
        identity = _hex(keccak256(bytes.fromhex(raw[2:])))
        logs = [self._mined(log, identity) for log in receipt.logs]
        self.receipts[identity] = {
            "transactionHash": identity,
            "status": "0x1",
            "blockNumber": hex(self.head),
            "blockHash": _hex(self.hash(self.head)),
            "logs": logs,
        }
        return identity

    def eth_getTransactionReceipt(self, identity: str) -> Any:  # noqa: N802
        return self.receipts.get(identity)

    def _mined(self, log: EvmLog, identity: str) -> dict[str, Any]:
        self.add_event(bytes.fromhex(log.address[2:]), log.topics, log.data)
        self.events[-1]["transactionHash"] = identity
        return self.events[-1]

    def _evm_call(self, to: str, data: bytes, gas: int, **options: Any) -> bytes:
        assert self.evm is not None
        try:
            return self.evm.eth_call(to, data, gas=gas, **options)
        except Reverted as reverted:
            raise Refusal(3, "execution reverted", reverted.data) from None
        except Halted:
            raise Refusal(-32603, "EVM error OutOfGas") from None


def reader_of(*nodes: FakeNode, **settings: Any) -> RpcReader:
    monotonic = settings.pop("monotonic", None)
    clock = {} if monotonic is None else {"monotonic": monotonic}
    return RpcReader([node.endpoint() for node in nodes], CHAIN_ID, ReaderSettings(**settings), **clock)


def _unknown(*_: Any) -> None:
    raise Refusal(-32601, "Method not found")


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 65536):
        yield body[at : at + 65536]


def _hex(data: bytes) -> str:
    return f"0x{data.hex()}"


OWNER = address_of(KEY)
STRANGER = address_of(STRANGER_KEY)
COMPOSE, DEVICE, IMAGE = b"\xc0" * 32, b"\xde" * 32, b"\x05" * 32
INFO = KmsInfo(b"\4" * 64, b"\x30" * 91, b"q" * 5000, b"e" * 20000)
PLAN = DeployPlan(
    os_images=[IMAGE, IMAGE], kms_aggregated_mrs=[b"\xa6" * 32], kms_devices=[DEVICE], kms_info=INFO
)


class OnChain:
    """A node with a KMS's contracts and one app that allows COMPOSE on DEVICE."""

    def __init__(self) -> None:
        self.node = FakeNode()
        self.node.with_evm()
        self.reader = self.node.reader()
        self.owner = self.writer(KEY)
        self.stranger = self.writer(STRANGER_KEY)

    def writer(self, key: bytes, **options: Any) -> RpcWriter:
        return RpcWriter(self.node.endpoint(), CHAIN_ID, key, **options)

    async def deployed(self, plan: DeployPlan = PLAN) -> DeployRecord:
        self.record = await deploy(self.reader, self.owner, plan)
        return self.record

    async def with_app(self, *, any_device: bool = False) -> bytes:
        await self.deployed()
        made = abi.DEPLOY_AND_REGISTER_APP(OWNER, False, False, any_device, DEVICE, COMPOSE)
        await self.owner.send(self.record.kms_contract, made)
        (deployment, *_) = await deployments(
            self.reader, self.record.kms_contract, await self.reader.pinned()
        )
        return deployment.app
