"""The compiled contracts: what they declare, and that they are the sources' (contracts/SPEC.md 11)."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tools import contracts

from support.evm import OWNER, ZERO, Chain, Reverted, calldata, keccak, selector, signature_of
from teehouse.base.findings import MisuseError
from teehouse.chain.artifacts import NAMES, load

ROOT = Path(__file__).resolve().parents[3]
COMMON = {
    "8da5cb5b": "owner()",
    "e30c3978": "pendingOwner()",
    "f2fde38b": "transferOwnership(address)",
    "79ba5097": "acceptOwnership()",
    "715018a6": "renounceOwnership()",
    "4f1ef286": "upgradeToAndCall(address,bytes)",
    "52d1902d": "proxiableUUID()",
    "ad3cb1cc": "UPGRADE_INTERFACE_VERSION()",
    "01ffc9a7": "supportsInterface(bytes4)",
}
BOOT = "(address,bytes32,address,bytes32,bytes32,bytes32,bytes32,string,string[])"
# onchain.md 3.1, 4.1 and 7: selector and signature.
SELECTORS = {
    "DstackApp": COMMON
    | {
        "9ed28193": "initialize(address,bool,bool,bool,bytes32,bytes32)",
        "187515ca": "initialize(address,bool,bool,bytes32,bytes32)",
        "dfc77223": "addComposeHash(bytes32)",
        "67b3f22c": "removeComposeHash(bytes32)",
        "2a819728": "addDevice(bytes32)",
        "1d266200": "removeDevice(bytes32)",
        "7c4beeb8": "setAllowAnyDevice(bool)",
        "6e4c7422": "setRequireTcbUpToDate(bool)",
        "ec669036": "disableUpgrades()",
        "1e079198": f"isAppAllowed({BOOT})",
        "2f6622e5": "allowedComposeHashes(bytes32)",
        "bf8b211b": "allowedDeviceIds(bytes32)",
        "3440a16a": "allowAnyDevice()",
        "0aa58c83": "requireTcbUpToDate()",
        "54fd4d50": "version()",
    },
    "DstackKms": COMMON
    | {
        "485cc955": "initialize(address,address)",
        "9cb9c31f": "deployAndRegisterApp(address,bool,bool,bool,bytes32,bytes32)",
        "8618169d": "deployAndRegisterApp(address,bool,bool,bytes32,bytes32)",
        "17a1d80f": "registerApp(address)",
        "3ceaaa11": "setAppImplementation(address)",
        "25a992da": "appImplementation()",
        "06a3ae96": "addOsImageHash(bytes32)",
        "9425bac6": "removeOsImageHash(bytes32)",
        "9a4e1d18": "allowedOsImages(bytes32)",
        "3e32d346": "addKmsAggregatedMr(bytes32)",
        "2adee48d": "removeKmsAggregatedMr(bytes32)",
        "f6fe4f40": "kmsAllowedAggregatedMrs(bytes32)",
        "4d5922a1": "addKmsDevice(bytes32)",
        "9e6f3114": "removeKmsDevice(bytes32)",
        "13eb9770": "kmsAllowedDeviceIds(bytes32)",
        "7d025352": "setKmsInfo((bytes,bytes,bytes,bytes))",
        "18c1ecb2": "setKmsQuote(bytes)",
        "736ede7a": "setKmsEventlog(bytes)",
        "09177063": "kmsInfo()",
        "3971db27": "setGatewayAppId(string)",
        "95f51931": "gatewayAppId()",
        "a6c4cce9": "registeredApps(address)",
        "1e079198": f"isAppAllowed({BOOT})",
        "e067ec9d": f"isKmsAllowed({BOOT})",
    },
    "Multicall": {
        "82ad56cb": "aggregate3((address,bool,bytes)[])",
        "42cbb15c": "getBlockNumber()",
    },
}
EXTRA = {
    "DstackApp": {"upgradesDisabled()"},
    "DstackKms": set(),
    "Multicall": {
        "getBlockHash(uint256)",
        "getLastBlockHash()",
        "getCurrentBlockTimestamp()",
        "getCurrentBlockGasLimit()",
        "getBasefee()",
        "getChainId()",
        "getEthBalance(address)",
    },
}


def declared(name: str, kind: str = "function") -> set[str]:
    return {signature_of(entry) for entry in load(name).abi if entry["type"] == kind}


@pytest.mark.parametrize("name", SELECTORS)
def test_each_function_has_its_selector_and_no_other_is_there(name: str) -> None:
    assert {selector(signature).hex(): signature for signature in SELECTORS[name].values()} == SELECTORS[name]
    assert declared(name) == set(SELECTORS[name].values()) | EXTRA[name]


@pytest.mark.parametrize("name", ["DstackApp", "DstackKms", "Multicall"])
def test_each_declared_selector_is_in_the_code(name: str) -> None:
    code = load(name).runtime
    assert [of for of in declared(name) if code.count(selector(of).lstrip(b"\0")) == 0] == []


def test_each_event_is_declared_as_the_reference_has_it() -> None:
    common = {
        "Initialized(uint64)": [False],
        "OwnershipTransferStarted(address,address)": [True, True],
        "OwnershipTransferred(address,address)": [True, True],
        "PolicyChanged(address,bytes32,bytes32,bool)": [True, True, True, False],
        "Upgraded(address)": [True],
    }
    app = [
        *(f"{what}{done}(bytes32)" for what in ("ComposeHash", "Device") for done in ("Added", "Removed")),
        "AllowAnyDeviceSet(bool)",
        "RequireTcbUpToDateSet(bool)",
    ]
    kms = [
        *(
            f"{what}{done}(bytes32)"
            for what in ("KmsAggregatedMr", "KmsDevice", "OsImageHash")
            for done in ("Added", "Removed")
        ),
        "AppRegistered(address)",
        "KmsInfoSet(bytes)",
        "GatewayAppIdSet(string)",
        "AppImplementationSet(address)",
    ]
    expected = {
        "DstackApp": common | {event: [False] for event in app} | {"UpgradesDisabled()": []},
        "DstackKms": common
        | {event: [False] for event in kms}
        | {"AppDeployedViaFactory(address,address)": [True, True]},
    }
    for name, events in expected.items():
        found = {
            signature_of(entry): [part["indexed"] for part in entry["inputs"]]
            for entry in load(name).abi
            if entry["type"] == "event"
        }
        assert found == events


def test_each_error_is_declared_where_it_may_come_from() -> None:
    proxy = {"ERC1967InvalidImplementation(address)", "ERC1967NonPayable()", "FailedCall()"}
    app = proxy | {
        "OwnableUnauthorizedAccount(address)",
        "InvalidInitialization()",
        "UUPSUnauthorizedCallContext()",
        "UUPSUnsupportedProxiableUUID(bytes32)",
    }
    expected = {
        "Proxy": proxy,
        "KmsProxy": proxy,
        "DstackApp": app,
        "DstackKms": app | {"OwnableInvalidOwner(address)"},
    }
    assert {name: declared(name, "error") for name in expected} == expected
    # OpenZeppelin 5.1 has these under the same selectors.
    known = {"118cdaa7", "1e4fbdf7", "f92ee8a9", "e07c8dba", "aa1d49a4", "4c9c8ce3", "b398979f", "d6bda275"}
    assert {selector(each).hex() for each in expected["DstackKms"]} == known


def test_interface_ids_are_the_xor_of_their_selectors() -> None:
    chain = Chain()
    kms = chain.kms()
    app = chain.app()
    managing = 0
    for signature in (
        "addComposeHash(bytes32)",
        "removeComposeHash(bytes32)",
        "addDevice(bytes32)",
        "removeDevice(bytes32)",
    ):
        managing ^= int.from_bytes(selector(signature))
    assert managing == 0x8FD37527
    auth, erc165 = selector(f"isAppAllowed({BOOT})"), selector("supportsInterface(bytes4)")
    for contract, supported in ((app, {auth, erc165, managing.to_bytes(4)}), (kms, {auth, erc165})):
        for interface in (auth, erc165, managing.to_bytes(4), b"\xff" * 4, bytes(4), b"\x1e\x07\x91\x99"):
            (found,) = chain.read(contract, "supportsInterface(bytes4)", [interface], "(bool)")
            assert found == (interface in supported)


def test_an_artefact_is_loaded_once_and_by_its_name_alone() -> None:
    assert load("Proxy") is load("Proxy")
    for name in NAMES:
        artefact = load(name)
        assert artefact.name == name
        assert (artefact.compiler, artefact.evm_version) == ("0.4.3", "cancun")
        assert len(artefact.bytecode) > len(artefact.runtime) > 0
        assert len(artefact.bytecode) <= 49_152  # EIP-3860
        assert artefact.runtime in artefact.bytecode
    for name in ("proxy", "../artifacts/Proxy", ""):
        with pytest.raises(MisuseError) as refused:
            load(name)
        assert refused.value.finding.found == name


def test_deployed_code_is_the_artefacts_and_its_immutables() -> None:
    chain = Chain()
    kms = chain.kms()
    own, blueprint = bytes.fromhex(chain.kms_implementation[2:]), bytes.fromhex(chain.blueprint[2:])
    assert (
        chain.code(chain.kms_implementation)
        == load("DstackKms").runtime + bytes(12) + own + bytes(12) + blueprint
    )
    app = bytes.fromhex(chain.app_implementation[2:])
    assert chain.code(chain.app_implementation) == load("DstackApp").runtime + bytes(12) + app
    assert chain.code(kms) == load("KmsProxy").runtime


def test_artefacts_hold_the_sources_of_the_tree() -> None:
    folder = ROOT / "contracts"
    seen = set()
    for name in NAMES:
        artefact = load(name)
        source = (folder / f"{name.removesuffix('Blueprint')}.vy").read_text()
        assert artefact.source == source
        for module, text in artefact.modules.items():
            assert (folder / module).read_text() == text
            seen.add(module)
        stored = json.loads((contracts.TARGET / f"{name}.json").read_text())
        assert stored["source_sha256"] == hashlib.sha256(source.encode()).hexdigest()
    assert seen == {path.name for path in folder.glob("*.vy")} - {f"{name}.vy" for name in NAMES}


@pytest.fixture
def compiler() -> None:
    if not contracts.COMPILER.exists():
        if os.environ.get("CI"):
            pytest.fail("the contracts' compiler is missing; `make setup` installs it")
        pytest.skip("the contracts' compiler is not installed (`make setup`)")


@pytest.mark.usefixtures("compiler")
def test_the_sources_compile_to_the_artefacts_wherever_they_are(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "contracts", copy)
    files = contracts.artefacts(copy)
    assert contracts.differing(files) == []
    assert set(files) == {f"{name}.json" for name in NAMES}


@pytest.mark.usefixtures("compiler")
def test_a_changed_source_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "contracts", tmp_path / "contracts")
    source = tmp_path / "contracts" / "Proxy.vy"
    source.write_text(source.read_text().replace("4096", "4097"))
    changed = contracts.compile_contract("Proxy", tmp_path / "contracts")
    assert bytes.fromhex(changed.runtime[2:]) != load("Proxy").runtime
    files = {path.name: path.read_text() for path in contracts.TARGET.glob("*.json")}
    assert contracts.differing(files) == []
    files["Proxy.json"] = files["Proxy.json"].replace(load("Proxy").bytecode.hex(), changed.bytecode[2:])
    assert [line.partition(":")[0] for line in contracts.differing(files)] == ["Proxy.json"]
    (tmp_path / "Old.json").write_text("{}")
    assert contracts.differing({"New.json": ""}, tmp_path) == [
        f"New.json: missing in the tree, {hashlib.sha256(b'').hexdigest()} from the sources",
        f"Old.json: {hashlib.sha256(b'{}').hexdigest()} in the tree, none from the sources",
    ]


@pytest.mark.usefixtures("compiler")
def test_a_source_that_does_not_compile_says_why(tmp_path: Path) -> None:
    (tmp_path / "Broken.vy").write_text("# pragma version 0.4.3\nx: nothing\n")
    with pytest.raises(SystemExit, match=r"(?s)vyper .*Broken.vy ended with 1:.*nothing"):
        contracts.compile_contract("Broken", tmp_path)


def test_the_command_takes_check_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert contracts.main(["--other"]) == 2
    assert capsys.readouterr().err == "usage: python -m tools.contracts [--check]\n"


def test_the_wheel_holds_the_artefacts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in NAMES:
            stored = archive.read(f"teehouse/chain/artifacts/{name}.json")
            assert stored == (contracts.TARGET / f"{name}.json").read_bytes()


def test_the_two_proxies_differ_in_the_length_of_answers_alone() -> None:
    assert load("Proxy").abi == load("KmsProxy").abi
    assert load("ProxyBlueprint").runtime == bytes.fromhex("fe7100") + load("Proxy").bytecode
    assert keccak(b"kmsInfo()")[:4] not in load("Proxy").runtime


def test_constructor_arguments_are_checked() -> None:
    chain = Chain()
    with pytest.raises(Reverted):
        chain.deploy(load("DstackApp"), value=1)
    with pytest.raises(Reverted):
        chain.deploy(load("DstackKms").bytecode + b"\xff" * 32)
    implementation = chain.deploy(load("DstackApp"))
    first = calldata(
        "initialize(address,bool,bool,bool,bytes32,bytes32)", [OWNER, *[False] * 3, bytes(32), bytes(32)]
    )
    with pytest.raises(Reverted):
        chain.deploy(load("Proxy"), implementation, first.ljust(4097, b"\0"))
    longest = chain.deploy(load("Proxy"), implementation, first.ljust(4096, b"\0"))
    assert chain.read(longest, "pendingOwner()", [], "(address)") == (ZERO,)
