"""What the contracts cost: `python -m bench.gas` measures on anvil and writes docs/contracts-gas.md.

Each number is a receipt's `gasUsed`; that of a question is `eth_estimateGas`. Beside them stand the numbers of
onchain.md 8: of the reference contracts, and of the same contracts in their smallest form with EIP-1167 clones.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from eth_abi.abi import encode

from teehouse.base.hashes import keccak256
from teehouse.chain.artifacts import load
from teehouse.stack.anvil import run_anvil

PAGE = Path(__file__).resolve().parents[1] / "docs" / "contracts-gas.md"
ZERO = "0x" + "00" * 20
COMPOSE, DEVICE, IMAGE, OTHER = b"\xc0" * 32, b"\xde" * 32, b"\x05" * 32, b"\x07" * 32
BOOT_INFO = "(address,bytes32,address,bytes32,bytes32,bytes32,bytes32,string,string[])"
ASK = "isAppAllowed"
PATIENCE = 20.0  # seconds until a transaction is mined
# What is measured, with the gas of onchain.md 8: of the smallest form, and of the reference.
ROWS: dict[str, tuple[int | None, int | None]] = {
    "deploy the app implementation": (801_936, 1_443_674),
    "deploy the blueprint of the apps' proxy": (None, None),
    "deploy the KMS implementation": (934_883, 2_584_434),
    "deploy the KMS's proxy": (None, 207_862),
    "deploy Multicall": (None, 1_251_368),
    "deployAndRegisterApp, 5 arguments": (199_421, 259_677),
    "deployAndRegisterApp, 6 arguments, all set": (None, None),
    "addComposeHash": (51_936, 54_611),
    "removeComposeHash": (None, None),
    "addDevice": (None, None),
    "setAllowAnyDevice": (None, None),
    "disableUpgrades": (None, None),
    "upgradeToAndCall of an app": (None, None),
    "transferOwnership": (None, None),
    "acceptOwnership": (None, None),
    "addOsImageHash": (None, None),
    "setKmsInfo, quote of 5,000 and event log of 20,000 bytes": (None, None),
    "isAppAllowed through the KMS (estimate)": (56_295, 53_687),
    "isAppAllowed of the app alone (estimate)": (None, None),
    "aggregate3 of 1 isAppAllowed (estimate)": (None, None),
    "aggregate3 of 100 isAppAllowed (estimate)": (None, None),
}


def _data(signature: str, *arguments: Any) -> bytes:
    """Calldata of `name(types)`; the types hold no comma but between arguments, or are one tuple."""
    types = signature[signature.index("(") + 1 : -1]
    members = [types] if types.startswith("(") else types.split(",") if types else []
    return keccak256(signature.encode())[:4] + encode(members, arguments)


class _Node:
    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.owner: str = self.ask("eth_accounts")[0]
        self.heir: str = self.ask("eth_accounts")[1]

    def ask(self, method: str, *parameters: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        answer = self.client.post("/", json=body).json()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def send(self, data: bytes, to: str | None = None, sender: str | None = None) -> dict[str, Any]:
        request = {"from": sender or self.owner, "data": f"0x{data.hex()}", "gas": hex(29_000_000)}
        identifier = self.ask("eth_sendTransaction", request | ({} if to is None else {"to": to}))
        deadline = time.monotonic() + PATIENCE
        while (receipt := self.ask("eth_getTransactionReceipt", identifier)) is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{identifier} is not mined after {PATIENCE} seconds")
            time.sleep(0.05)
        if receipt["status"] != "0x1":
            raise RuntimeError(f"transaction failed: {receipt}")
        return dict(receipt)

    def estimate(self, data: bytes, to: str) -> int:
        return int(self.ask("eth_estimateGas", {"from": self.owner, "to": to, "data": f"0x{data.hex()}"}), 16)


class _Table:
    """The numbers, filled in the order of a deployment and an app's life."""

    def __init__(self, node: _Node) -> None:
        self.node = node
        self.gas: dict[str, int] = {}

    def deploy(
        self, row: str | None, code: bytes, types: Sequence[str] = (), arguments: Sequence[Any] = ()
    ) -> str:
        receipt = self.node.send(code + encode(list(types), list(arguments)))
        if row:
            self.gas[row] = int(receipt["gasUsed"], 16)
        return str(receipt["contractAddress"])

    def send(self, row: str | None, to: str, data: bytes, sender: str | None = None) -> dict[str, Any]:
        receipt = self.node.send(data, to, sender)
        if row:
            self.gas[row] = int(receipt["gasUsed"], 16)
        return receipt

    def fill(self) -> dict[str, int]:
        node = self.node
        app_code = self.deploy("deploy the app implementation", load("DstackApp").bytecode)
        blueprint = self.deploy("deploy the blueprint of the apps' proxy", load("ProxyBlueprint").bytecode)
        kms_code = self.deploy(
            "deploy the KMS implementation", load("DstackKms").bytecode, ["address"], [blueprint]
        )
        first = _data("initialize(address,address)", node.owner, app_code)
        kms = self.deploy(
            "deploy the KMS's proxy", load("KmsProxy").bytecode, ["address", "bytes"], [kms_code, first]
        )
        multicall = self.deploy("deploy Multicall", load("Multicall").bytecode)
        five = _data(
            "deployAndRegisterApp(address,bool,bool,bytes32,bytes32)",
            node.owner,
            False,
            False,
            DEVICE,
            COMPOSE,
        )
        app = self._app_of(self.send("deployAndRegisterApp, 5 arguments", kms, five))
        six = _data(
            "deployAndRegisterApp(address,bool,bool,bool,bytes32,bytes32)",
            *(node.owner, True, True, True, DEVICE, COMPOSE),
        )
        self.send("deployAndRegisterApp, 6 arguments, all set", kms, six)
        self.send("addComposeHash", app, _data("addComposeHash(bytes32)", OTHER))
        self.send("removeComposeHash", app, _data("removeComposeHash(bytes32)", OTHER))
        self.send("addDevice", app, _data("addDevice(bytes32)", OTHER))
        self.send("addOsImageHash", kms, _data("addOsImageHash(bytes32)", IMAGE))
        self._questions(kms, app, multicall)
        info = (b"k" * 33, b"c" * 91, b"q" * 5_000, b"e" * 20_000)
        row = "setKmsInfo, quote of 5,000 and event log of 20,000 bytes"
        self.send(row, kms, _data("setKmsInfo((bytes,bytes,bytes,bytes))", info))
        self.send("setAllowAnyDevice", app, _data("setAllowAnyDevice(bool)", True))
        newer = self.deploy(None, load("DstackApp").bytecode)
        self.send("upgradeToAndCall of an app", app, _data("upgradeToAndCall(address,bytes)", newer, b""))
        self.send("disableUpgrades", app, _data("disableUpgrades()"))
        self.send("transferOwnership", app, _data("transferOwnership(address)", node.heir))
        self.send("acceptOwnership", app, _data("acceptOwnership()"), node.heir)
        return {row: self.gas[row] for row in ROWS}

    def _questions(self, kms: str, app: str, multicall: str) -> None:
        info: tuple[Any, ...] = (app, COMPOSE, ZERO, DEVICE, bytes(32), bytes(32), IMAGE, "UpToDate", [])
        question = _data(f"{ASK}({BOOT_INFO})", info)
        self.gas["isAppAllowed through the KMS (estimate)"] = self.node.estimate(question, kms)
        self.gas["isAppAllowed of the app alone (estimate)"] = self.node.estimate(question, app)
        for count in (1, 100):
            calls = keccak256(b"aggregate3((address,bool,bytes)[])")[:4] + encode(
                ["(address,bool,bytes)[]"], [[(kms, False, question)] * count]
            )
            self.gas[f"aggregate3 of {count} isAppAllowed (estimate)"] = self.node.estimate(calls, multicall)

    @staticmethod
    def _app_of(receipt: dict[str, Any]) -> str:
        return "0x" + str(receipt["logs"][-1]["topics"][1])[-40:]


def measure(directory: Path) -> dict[str, int]:
    """The gas of each of `ROWS`, on an anvil that is started for it and ended."""
    return asyncio.run(_measure(directory))


async def _measure(directory: Path) -> dict[str, int]:
    def fill(url: str) -> dict[str, int]:
        with httpx.Client(base_url=url, timeout=30) as client:
            return _Table(_Node(client)).fill()

    async with run_anvil(directory / "state.json") as anvil:
        return await asyncio.to_thread(fill, anvil.url)


def render(gas: dict[str, int]) -> str:
    """The page."""
    lines = [
        "# Gas of the contracts",
        "",
        "Measured by `python -m bench.gas` on anvil: what a transaction's receipt says it used, and estimates for",
        "questions, which cost nothing when they are asked by `eth_call`. Beside it the numbers of onchain.md 8: the",
        "reference contracts, and the same functions in Vyper's smallest form, whose apps cannot be upgraded.",
        "An event log makes `setKmsInfo` dear: where a transaction may use 16,777,216 gas at most, quote and event log",
        "are set by `setKmsQuote` and `setKmsEventlog`, or left out.",
        "",
        "| | here | reference | smallest form |",
        "|---|---:|---:|---:|",
    ]
    for row, (smallest, reference) in ROWS.items():
        numbers = (f"{number:,}" if number else "" for number in (gas[row], reference, smallest))
        lines.append(f"| {row} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="teehouse-gas-") as directory:
        page = render(measure(Path(directory)))
    PAGE.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
