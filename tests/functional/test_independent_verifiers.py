"""A quote taken through the socket, judged by two verifiers that are not ours (issue: "Done when" 2)."""

import json
import time
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from dstack_sdk import DstackClient

from support.functional_support import run_js


@pytest.fixture
def quote(teehouse: Any) -> bytes:
    client = DstackClient(teehouse.dstack_socket)
    with client:  # what `as` would give is the asynchronous client inside
        return bytes(client.get_quote(b"nonce").decode_quote())


@pytest.fixture
def root(teehouse: Any, tmp_path: Path) -> Path:
    pem = Path(teehouse.ready["root_ca"]).read_bytes()
    der = tmp_path / "root.der"
    der.write_bytes(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))
    return der


async def test_dcap_qvl_accepts_it_under_the_printed_root_and_no_other(
    teehouse: Any, quote: bytes, root: Path
) -> None:
    collateral = await dcap_qvl.get_collateral(teehouse.ready["pccs_url"], quote)
    now = int(time.time())
    root_der = root.read_bytes()  # noqa: ASYNC240 - nothing else runs in this loop
    report = json.loads(dcap_qvl.verify_with_root_ca(quote, collateral, root_der, now).to_json())
    assert (report["status"], report["advisory_ids"]) == ("UpToDate", [])
    with pytest.raises(ValueError, match="Verification failed"):
        dcap_qvl.verify(quote, collateral, now)
    claims = dcap_qvl.QuoteVerifier(root_der).verify_with_policy(
        quote, collateral, now, dcap_qvl.QuotePolicy.strict(now)
    )
    assert json.loads(claims.to_json())["tcb"]["status"] == "UpToDate"


def test_npm_dcap_qvl_accepts_it_under_the_printed_root_and_no_other(
    teehouse: Any, quote: bytes, root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "quote.hex"
    file.write_text(quote.hex())
    accepted = run_js("dcap.mjs", teehouse.ready["pccs_url"], str(file), str(root))
    assert accepted == {"accepted": True, "status": "UpToDate", "advisory_ids": []}
    refused = run_js("dcap.mjs", teehouse.ready["pccs_url"], str(file), "intel")
    assert refused["accepted"] is False
