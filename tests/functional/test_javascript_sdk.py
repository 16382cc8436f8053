"""The published @phala/dstack-sdk 0.5.8, unmodified, in a real Node, over the sockets and over TCP."""

import hashlib
from typing import Any

import pytest

from support.functional_support import run_js

PADDED_TEST = "0" * 120 + b"test".hex()  # the client pads "raw" on the left (guest-agent.md 5.3)


@pytest.fixture(params=["socket", "tcp"])
def answers(request: pytest.FixtureRequest, teehouse: Any) -> dict[str, Any]:
    endpoints = (
        (teehouse.dstack_socket, teehouse.tappd_socket)
        if request.param == "socket"
        else (teehouse.url, teehouse.url)
    )
    result: dict[str, Any] = run_js("sdk.mjs", *endpoints)
    return result


def test_every_method_of_both_clients(answers: dict[str, Any]) -> None:
    assert answers["reachable"] is True
    assert answers["tappd"]["reachable"] is True
    assert answers["version"]["version"].startswith("0.5.")

    info = answers["info"]
    assert hashlib.sha256(info["tcb_info"]["app_compose"].encode()).hexdigest() == info["compose_hash"]
    assert answers["tappd"]["info"]["app_id"] == info["app_id"]

    # replayed registers equal the quote's: before, after one event, after 50 concurrent ones
    for moment in ("before", "after", "afterMany"):
        assert answers[moment]["registers"] == answers[moment]["replayed"]
    assert len({answers[m]["registers"][3] for m in ("before", "after", "afterMany")}) == 3
    assert answers["before"]["reportData"] == "0102" + "00" * 62

    assert answers["key"]["key"] == answers["tappd"]["inheritedKey"]
    assert [len(link) for link in answers["key"]["chain"]] == [130, 130]
    assert len(answers["ed25519"]["key"]) == 64

    assert len(answers["tls"]["chain"]) == 3
    assert answers["tls"]["key"].startswith("-----BEGIN PRIVATE KEY-----\n")
    assert answers["attestation"].startswith("0000")

    for algorithm, key_digits in (("ed25519", 64), ("secp256k1", 66)):
        signed = answers["signatures"][algorithm]
        assert (signed["verified"], signed["refused"], len(signed["publicKey"])) == (True, False, key_digits)
        assert signed["chain"][0] == signed["signature"]
    assert answers["signatures"]["prehashed"] is True


@pytest.mark.parametrize(
    ("algorithm", "report_data"),
    [
        ("sha256", hashlib.sha256(b"app-data:test").hexdigest() + "00" * 32),
        ("sha3-512", hashlib.sha3_512(b"app-data:test").hexdigest()),
        # guest-agent.md 19.4
        ("keccak256", "b877945563d5025eec520b6bb150efcf4c368c491ff1947529be3125d4e5ecb6" + "00" * 32),
        ("raw", PADDED_TEST),
        ("default", hashlib.sha512(b"app-data:test").hexdigest()),
    ],
)
def test_tappd_quotes_hash_their_report_data(
    answers: dict[str, Any], algorithm: str, report_data: str
) -> None:
    quote = answers["tappd"][algorithm]
    assert quote["reportData"] == report_data
    assert quote["registers"] == quote["replayed"]
