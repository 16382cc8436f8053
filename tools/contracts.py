"""Compile `contracts/*.vy` into the artefacts that ship with the package.

`python -m tools.contracts` writes `src/teehouse/chain/artifacts/*.json`; `--check` compiles afresh, compares
the SHA-256 of each file with the one in the tree, and ends with 1 when one differs. Both need the compiler
that `make setup` installs in `.venv-vyper`.

An artefact is a JSON object: `name`, `compiler`, `evm_version`, `abi`, `bytecode` and `runtime` (0x-prefixed
hex), `layout` (the storage layout asked for, or null), `source` (the contract), `modules` (name -> source of
each module that it may import), `source_sha256` (hex, of `source`) and `integrity` (the compiler's hash over
contract, modules and layout). `ProxyBlueprint` is made of Proxy.vy too: deploying its bytecode puts the
ERC-5202 blueprint on chain that the KMS's factory copies.
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "contracts"
TARGET = ROOT / "src" / "teehouse" / "chain" / "artifacts"
COMPILER = ROOT / ".venv-vyper" / "bin" / "vyper"
VERSION = "0.4.3"
EVM_VERSION = "cancun"
CONTRACTS = ("DstackApp", "DstackKms", "KmsProxy", "Multicall", "Proxy")
FORMATS = ("abi", "bytecode", "bytecode_runtime", "blueprint_bytecode", "integrity")
BLUEPRINT = "ProxyBlueprint"
# A blueprint's bytecode begins with ten bytes that deploy what follows them.
BLUEPRINT_LOADER = 10


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler gives for one contract."""

    abi: list[dict[str, Any]]
    bytecode: str
    runtime: str
    blueprint: str
    integrity: str


def _vyper(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [str(COMPILER), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"vyper {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def compile_contract(name: str, folder: Path = SOURCES) -> Compiled:
    """Compile `folder/<name>.vy`, with `folder/layouts/<name>.json` if that is there.

    Raises SystemExit with the compiler's words when it refuses.
    """
    layout = folder / "layouts" / f"{name}.json"
    # The compiler takes all that follows this option for layouts, so it stands last.
    last = ["--storage-layout-file", str(layout)] if layout.exists() else []
    printed = _vyper(
        "-f", ",".join(FORMATS), "--evm-version", EVM_VERSION, f"{name}.vy", *last, folder=folder
    )
    abi, *rest = printed.split("\n")
    bytecode, runtime, blueprint, integrity = (line for line in rest if line)
    return Compiled(json.loads(abi), bytecode, runtime, blueprint, integrity)


def _full_abi(name: str, abi: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The ABI with what Vyper cannot declare: overloads that `__default__` answers, and errors with data."""
    also: list[dict[str, Any]] = json.loads((folder / "also.json").read_text()).get(name, [])
    answered = any(entry["type"] == "function" for entry in also)
    return [entry for entry in abi if not (answered and entry["type"] == "fallback")] + also


def artefacts(folder: Path = SOURCES) -> dict[str, str]:
    """All artefacts of the sources in `folder`: file name -> text."""
    version = _vyper("--version", folder=folder).partition("+")[0].strip()
    if version != VERSION:
        raise SystemExit(f"{COMPILER} is vyper {version}, and {VERSION} is wanted; run `make setup`")
    modules = {
        path.name: path.read_text() for path in sorted(folder.glob("*.vy")) if path.stem not in CONTRACTS
    }
    files: dict[str, str] = {}
    for name in CONTRACTS:
        source = (folder / f"{name}.vy").read_text()
        layout = folder / "layouts" / f"{name}.json"
        compiled = compile_contract(name, folder)
        content: dict[str, Any] = {
            "name": name,
            "compiler": VERSION,
            "evm_version": EVM_VERSION,
            "abi": _full_abi(name, compiled.abi, folder),
            "bytecode": compiled.bytecode,
            "runtime": compiled.runtime,
            "layout": json.loads(layout.read_text()) if layout.exists() else None,
            "source": source,
            "modules": {file: text for file, text in modules.items() if _uses(file, source, modules)},
            "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
            "integrity": compiled.integrity,
        }
        files[f"{name}.json"] = json.dumps(content, indent=1) + "\n"
        if name == "Proxy":
            deployed = "0x" + compiled.blueprint.removeprefix("0x")[2 * BLUEPRINT_LOADER :]
            blueprint = {
                **content,
                "name": BLUEPRINT,
                "abi": [],
                "bytecode": compiled.blueprint,
                "runtime": deployed,
            }
            files[f"{BLUEPRINT}.json"] = json.dumps(blueprint, indent=1) + "\n"
    return files


def _uses(module: str, source: str, modules: dict[str, str]) -> bool:
    """Whether `source` imports the module, itself or by another one."""
    imported = [file for file in modules if f"\nimport {file.removesuffix('.vy')}\n" in source]
    return module in imported or any(_uses(module, modules[file], modules) for file in imported)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def differing(files: dict[str, str], target: Path = TARGET) -> list[str]:
    """One line for each artefact in `target` that is missing, of another SHA-256, or of no contract."""
    there = {path.name: path.read_text() for path in target.glob("*.json")}
    return [
        f"{name}: {_digest(there[name]) if name in there else 'missing'} in the tree, "
        f"{_digest(files[name]) if name in files else 'none'} from the sources"
        for name in sorted(there.keys() | files.keys())
        if there.get(name) != files.get(name)
    ]


def main(arguments: list[str]) -> int:
    """Run as a command; gives the exit status."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m tools.contracts [--check]", file=sys.stderr)
        return 2
    if not COMPILER.exists():
        print(f"the contracts' compiler is not at {COMPILER}; run `make setup`", file=sys.stderr)
        return 1
    files = artefacts()
    if not arguments:
        TARGET.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (TARGET / name).write_text(text)
        return 0
    stale = differing(files)
    for line in stale:
        print(f"{line}; run `python -m tools.contracts`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
