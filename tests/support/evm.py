"""The contracts on an EVM in the process: no node, no network.

    chain = Chain()
    kms = chain.kms(owner=OWNER)                  # everything of onchain.md 4.4
    receipt = chain.send(kms, "registerApp(address)", [app], sender=OWNER)
    allowed, reason = chain.read(kms, "isAppAllowed" + BOOT_INFO, [boot_info()], "(bool,string)")

Addresses are lower-case 0x hex. A call that reverts raises `Reverted` with the revert data; one that ends
otherwise (out of gas, invalid instruction) raises `Halted`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyrevm
from Crypto.Hash import keccak as _keccak
from eth_abi import decode, encode
from eth_abi.grammar import parse

from teehouse.chain.artifacts import Artifact, load

OWNER = "0x" + "0a" * 20
STRANGER = "0x" + "0b" * 20
NEW_OWNER = "0x" + "0c" * 20
ZERO = "0x" + "00" * 20
IMPLEMENTATION_SLOT = 0x360894A13BA1A3210667C828492DB98DCA3E2076CC3735A920A3CA505D382BBC
BOOT_INFO = "((address,bytes32,address,bytes32,bytes32,bytes32,bytes32,string,string[]))"
INITIALIZE_6 = "initialize(address,bool,bool,bool,bytes32,bytes32)"
INITIALIZE_5 = "initialize(address,bool,bool,bytes32,bytes32)"
DEPLOY_6 = "deployAndRegisterApp(address,bool,bool,bool,bytes32,bytes32)"
DEPLOY_5 = "deployAndRegisterApp(address,bool,bool,bytes32,bytes32)"
DEFAULT_GAS = 30_000_000
BLOCK_GAS = 120_000_000
_FAILED = re.compile(
    r"^(?P<kind>Revert|Halt) \{(?: gas_used: (?P<gas>\d+), output: (?P<output>0x[0-9a-f]*))?"
)


def keccak(data: bytes) -> bytes:
    return _keccak.new(digest_bits=256, data=data).digest()


def selector(signature: str) -> bytes:
    return keccak(signature.encode())[:4]


def calldata(signature: str, arguments: Sequence[Any] = ()) -> bytes:
    """Selector and arguments of `name(types)`."""
    types = signature[signature.index("(") :]
    return selector(signature) + _encode(types, arguments)


def _members(types: str) -> list[str]:
    return [] if types == "()" else [member.to_type_str() for member in parse(types).components]


def _encode(types: str, arguments: Sequence[Any]) -> bytes:
    return encode(_members(types), list(arguments))


def decoded(types: str, data: bytes) -> tuple[Any, ...]:
    """The members of the tuple type `types`, like `(bool,string)`."""
    return tuple(decode(_members(types), data))


def word(value: str | int | bytes) -> bytes:
    """32 bytes: an address or a number with zeros before it, a text hashed."""
    if isinstance(value, int):
        return value.to_bytes(32, "big")
    if isinstance(value, bytes):
        return value.rjust(32, b"\0")
    return bytes.fromhex(value[2:]).rjust(32, b"\0") if value.startswith("0x") else keccak(value.encode())


def create_address(creator: str, nonce: int) -> str:
    """Where plain CREATE puts a contract (onchain.md 4.4); `nonce` is 1..127."""
    assert 1 <= nonce <= 127
    payload = b"\x94" + bytes.fromhex(creator[2:]) + bytes([nonce])
    return "0x" + keccak(bytes([0xC0 + len(payload)]) + payload)[12:].hex()


def error(signature: str, *arguments: Any) -> bytes:
    """The revert data of a custom error; `Error(string)` for a reason."""
    return calldata(signature, arguments)


def reason(text: str) -> bytes:
    return error("Error(string)", text)


def boot_info(**changed: Any) -> tuple[Any, ...]:
    """A boot-info tuple (onchain.md 2); named members are changed."""
    members: dict[str, Any] = {
        "app_id": ZERO,
        "compose_hash": b"\xc0" * 32,
        "instance_id": "0x" + "1d" * 20,
        "device_id": b"\xde" * 32,
        "mr_aggregated": b"\xa6" * 32,
        "mr_system": b"\x55" * 32,
        "os_image_hash": b"\x05" * 32,
        "tcb_status": "UpToDate",
        "advisory_ids": [],
    }
    assert changed.keys() <= members.keys()
    return tuple((members | changed).values())


class Reverted(Exception):  # noqa: N818 -- what the EVM calls it
    def __init__(self, data: bytes, gas_used: int) -> None:
        super().__init__(data.hex())
        self.data = data
        self.gas_used = gas_used


class Halted(Exception):  # noqa: N818 -- what the EVM calls it
    pass


@dataclass(frozen=True, slots=True)
class Log:
    address: str
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    output: bytes
    gas_used: int
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """A decoded log: the event's name and its arguments in their order."""

    address: str
    name: str
    arguments: tuple[Any, ...]


def signature_of(entry: Mapping[str, Any]) -> str:
    """`name(types)` of an ABI entry."""
    return f"{entry['name']}({','.join(_type(part) for part in entry.get('inputs', ()))})"


def _type(part: Mapping[str, Any]) -> str:
    if not part["type"].startswith("tuple"):
        return str(part["type"])
    inner = ",".join(_type(member) for member in part["components"])
    return f"({inner}){part['type'].removeprefix('tuple')}"


_EVENTS: dict[bytes, Mapping[str, Any]] = {
    keccak(signature_of(entry).encode()): entry
    for name in ("DstackApp", "DstackKms", "Proxy")
    for entry in load(name).abi
    if entry["type"] == "event"
}


def events(logs: Sequence[Log]) -> list[Event]:
    """Decode the logs of our contracts; KeyError for a foreign one."""
    found = []
    for log in logs:
        entry = _EVENTS[log.topics[0]]
        topics = iter(log.topics[1:])
        plain = [part["type"] for part in entry["inputs"] if not part["indexed"]]
        data = iter(decode(plain, log.data))
        values = [
            decode([part["type"]], next(topics))[0] if part["indexed"] else next(data)
            for part in entry["inputs"]
        ]
        assert next(topics, None) is None
        found.append(Event(log.address, entry["name"], tuple(values)))
    return found


class Chain:
    """An EVM with the rules of Cancun and a few rich accounts."""

    def __init__(self) -> None:
        self.evm = pyrevm.EVM(spec_id="CANCUN", gas_limit=BLOCK_GAS)
        for account in (OWNER, STRANGER, NEW_OWNER):
            self.evm.set_balance(account, 10**20)

    def deploy(
        self, code: Artifact | bytes, *arguments: Any, types: str = "()", sender: str = OWNER, value: int = 0
    ) -> str:
        """Deploy and return the address; `last` is the receipt."""
        bytecode = code.bytecode if isinstance(code, Artifact) else code
        if isinstance(code, Artifact) and arguments:
            types = _constructor(code)
        created: list[str] = []
        self.last = self._run(
            lambda: created.append(
                self.evm.deploy(sender, bytecode + _encode(types, arguments), value=value, gas=DEFAULT_GAS)
            )
        )
        return created[0].lower()

    def transact(
        self, to: str, data: bytes, *, sender: str = OWNER, value: int = 0, gas: int = DEFAULT_GAS
    ) -> Receipt:
        """Send a transaction; its changes stay."""
        self.evm.reset_transient_storage()
        output: list[bytes] = []
        receipt = self._run(
            lambda: output.append(self.evm.message_call(sender, to, calldata=data, value=value, gas=gas))
        )
        return Receipt(bytes(output[0]), receipt.gas_used, receipt.logs)

    def send(self, to: str, signature: str, arguments: Sequence[Any] = (), **options: Any) -> Receipt:
        """Send a transaction that calls `name(types)`."""
        return self.transact(to, calldata(signature, arguments), **options)

    def eth_call(self, to: str, data: bytes, *, sender: str = STRANGER, gas: int = DEFAULT_GAS) -> bytes:
        """What `eth_call` gives: nothing stays."""
        self.evm.reset_transient_storage()
        checkpoint = self.evm.snapshot()
        try:
            return self.transact(to, data, sender=sender, gas=gas).output
        finally:
            self.evm.revert(checkpoint)

    def read(
        self, to: str, signature: str, arguments: Sequence[Any] = (), returns: str = "()", **options: Any
    ) -> tuple[Any, ...]:
        """`eth_call` of `name(types)`, decoded as the tuple type `returns`."""
        return decoded(returns, self.eth_call(to, calldata(signature, arguments), **options))

    def code(self, address: str) -> bytes:
        """What is deployed there; pyrevm shows it with the 33 zeros it works with."""
        return bytes(self.evm.get_code(address) or bytes(33))[:-33]

    def storage(self, address: str, slot: int) -> int:
        return int(self.evm.storage(address, slot))

    def app(
        self,
        owner: str = OWNER,
        *,
        sender: str = OWNER,
        disable_upgrades: bool = False,
        require_up_to_date: bool = False,
        any_device: bool = False,
        device: bytes = bytes(32),
        compose_hash: bytes = bytes(32),
    ) -> str:
        """An app behind its proxy, made without a KMS."""
        implementation = self.deploy(load("DstackApp"))
        first = calldata(
            INITIALIZE_6, [owner, disable_upgrades, require_up_to_date, any_device, device, compose_hash]
        )
        return self.deploy(load("Proxy"), implementation, first, sender=sender)

    def kms(self, owner: str = OWNER) -> str:
        """A KMS contract behind its proxy, with its app implementation set (onchain.md 4.4)."""
        self.app_implementation = self.deploy(load("DstackApp"))
        self.blueprint = self.deploy(load("ProxyBlueprint"))
        self.kms_implementation = self.deploy(load("DstackKms"), self.blueprint)
        first = calldata("initialize(address,address)", [owner, self.app_implementation])
        return self.deploy(load("KmsProxy"), self.kms_implementation, first)

    def _run(self, action: Any) -> Receipt:
        try:
            action()
        except RuntimeError as failure:
            text = str(failure)
            found = _FAILED.match(text)
            if found and found["kind"] == "Revert":
                raise Reverted(bytes.fromhex(found["output"][2:]), int(found["gas"])) from None
            raise Halted(text) from None
        result = self.evm.result
        logs = tuple(
            Log(
                log.address.lower(),
                tuple(bytes.fromhex(topic[2:]) for topic in log.topics),
                bytes(log.data[1]),
            )
            for log in result.logs
        )
        return Receipt(b"", result.gas_used, logs)


def _constructor(artifact: Artifact) -> str:
    entry = next(entry for entry in artifact.abi if entry["type"] == "constructor")
    return f"({','.join(part['type'] for part in entry['inputs'])})"
