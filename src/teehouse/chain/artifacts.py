"""The compiled contracts that ship with Teehouse.

`NAMES` are compiled from `contracts/*.vy`, whose text is in the artefacts (onchain.md 9). A deployment goes in this order (onchain.md 4.4):

1. DstackApp; no constructor arguments. It is an implementation and stays uninitialised.
2. ProxyBlueprint; no constructor arguments. It has code but no functions: the factory copies it.
3. DstackKms; constructor (address of 2).
4. KmsProxy; constructor (address of 3, calldata of `initialize(owner, address of 1)`). This is the KMS contract.

Multicall takes no constructor arguments and needs none of the others. Proxy is what the factory makes of the
blueprint, one for each app; its constructor is KmsProxy's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from teehouse.base.findings import misuse

NAMES = ("DstackApp", "DstackKms", "KmsProxy", "Multicall", "Proxy", "ProxyBlueprint")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One compiled contract.

    `bytecode` is the code to deploy; ABI-encoded constructor arguments go behind it. `runtime` is what is on
    chain then, without the immutable variables that the deployment puts behind it (32 bytes each: one of
    DstackApp, two of DstackKms). `modules` holds the sources that `source` imports, by file name.
    """

    name: str
    abi: tuple[Mapping[str, Any], ...] = field(repr=False)
    bytecode: bytes = field(repr=False)
    runtime: bytes = field(repr=False)
    source: str = field(repr=False)
    modules: Mapping[str, str] = field(repr=False)
    compiler: str
    evm_version: str
    integrity: str


@cache
def load(name: str) -> Artifact:
    """The artefact of one of `NAMES`; raises MisuseError for any other name."""
    if name not in NAMES:
        raise misuse("chain.artifact", "contract", expected=", ".join(NAMES), found=name)
    text = resources.files("teehouse.chain").joinpath("artifacts", f"{name}.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return Artifact(
        name=content["name"],
        abi=tuple(MappingProxyType(entry) for entry in content["abi"]),
        bytecode=bytes.fromhex(content["bytecode"].removeprefix("0x")),
        runtime=bytes.fromhex(content["runtime"].removeprefix("0x")),
        source=content["source"],
        modules=MappingProxyType(content["modules"]),
        compiler=content["compiler"],
        evm_version=content["evm_version"],
        integrity=content["integrity"],
    )
