"""The calls that are measured, as requests of the guest agent's JSON interface."""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass

from bench.client import request

_REPORT_DATA = "11" * 64
_MESSAGE = "22" * 32
TLS = {"subject": "app.example", "alt_names": ["app.example"], "usage_server_auth": True}
RATLS = TLS | {"usage_ra_tls": True}


@dataclass(frozen=True, slots=True)
class Call:
    """`requests` gives one request after the other; `crypto` names the work of `crypto.bare_crypto`."""

    name: str
    requests: Callable[[], bytes]
    crypto: str
    crypto_text: str


def calls() -> list[Call]:
    paths = itertools.count()
    issued = "HKDF, P-256 key, quote signature, certificate"
    return [
        Call("GetKey, path asked before", _same("/GetKey", {"path": "kept"}), "none", "none"),
        Call(
            "GetKey, new path",
            lambda: _request("/GetKey", {"path": f"new-{next(paths):09}"}),
            "derived-key",
            "HKDF, secp256k1 key, Keccak, signature",
        ),
        Call("Sign, ed25519", _sign("ed25519"), "ed25519", "signature"),
        Call("Sign, secp256k1", _sign("secp256k1"), "secp256k1", "SHA-256, signature"),
        Call("GetQuote", _same("/GetQuote", {"report_data": _REPORT_DATA}), "quote", "quote signature"),
        Call("Attest", _same("/Attest", {"report_data": _REPORT_DATA}), "quote", "quote signature"),
        Call("GetTlsKey", _same("/GetTlsKey", TLS), "certificate", issued),
        Call("GetTlsKey, with quote", _same("/GetTlsKey", RATLS), "ratls-certificate", issued),
        Call("Info", _same("/Info", {}), "none", "none"),
    ]


def _request(path: str, body: object) -> bytes:
    return request(path, json.dumps(body).encode())


def _same(path: str, body: object) -> Callable[[], bytes]:
    raw = _request(path, body)
    return lambda: raw


def _sign(algorithm: str) -> Callable[[], bytes]:
    return _same("/Sign", {"algorithm": algorithm, "data": _MESSAGE})
