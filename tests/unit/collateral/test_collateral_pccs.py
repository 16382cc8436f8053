"""The PCCS client against the emulated service, and against services that fail (trust.md 3.4)."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote as urlquote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.applications import Starlette

from support import emulated
from support.adversary import NOW, Adversary
from support.adversary_certificates import ca, certificate, named, new_key
from support.attestation_support import sample
from teehouse.attestation.abi import encode_quote, parse_quote
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.verify import Evidence, verify
from teehouse.base.findings import CollateralError, EvidenceError, MisuseError
from teehouse.collateral.pccs import ANSWER_LIMIT, PccsClient
from teehouse.collateral.platform import collateral_key
from teehouse.tee_emulated.pccs import pccs_routes

OWNER = Adversary()
QUOTE = parse_quote(OWNER.quote())
BASE = "http://pccs.example"
Respond = Callable[[httpx.Request], httpx.Response]


def emulated_service() -> httpx.AsyncClient:
    app = Starlette(routes=pccs_routes(emulated.collateral()))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app))


async def test_the_emulated_service_serves_what_verifies() -> None:
    async with emulated_service() as http, PccsClient(BASE, client=http) as client:
        collateral = await client.collateral(QUOTE)
    expected = Collateral.from_json(json.dumps(emulated.collateral().bundle()))
    assert collateral == expected
    assert verify(Evidence.from_quote(OWNER.quote()), collateral, OWNER.root, NOW).accepted


@pytest.mark.parametrize("suffix", ["", "/", "/sgx/certification/v4", "/tdx/certification/v4/"])
async def test_a_base_address_may_end_in_a_route(suffix: str) -> None:
    async with emulated_service() as http:
        assert await PccsClient(BASE + suffix, client=http).collateral(QUOTE)


@pytest.mark.parametrize("url", ["ftp://x", "pccs.example", "http://", ""])
def test_an_address_that_is_none_is_misuse(url: str) -> None:
    with pytest.raises(MisuseError) as refused:
        PccsClient(url)
    assert refused.value.finding.code == "pccs.url"


def honest(request: httpx.Request) -> httpx.Response:
    """A service that answers as Intel's does: the CRL of the root is hex."""
    bundle = OWNER.collateral()
    path = request.url.path
    chain = {"SGX-TCB-Info-Issuer-Chain": urlquote(bundle.tcb_info_issuer_chain)}
    if path.endswith("/pckcrl"):
        return httpx.Response(
            200,
            content=bundle.pck_crl,
            headers={"SGX-PCK-CRL-Issuer-Chain": urlquote(bundle.pck_crl_issuer_chain)},
        )
    if path.endswith("/tcb"):
        text = f'{{"tcbInfo":{bundle.tcb_info},"signature":"{bundle.tcb_info_signature.hex()}"}}'
        return httpx.Response(200, text=text, headers=chain)
    if path.endswith("/qe/identity"):
        text = (
            f'{{"signature":"{bundle.qe_identity_signature.hex()}","enclaveIdentity":{bundle.qe_identity}}}'
        )
        headers = {"SGX-Enclave-Identity-Issuer-Chain": urlquote(bundle.qe_identity_issuer_chain)}
        return httpx.Response(200, text=text, headers=headers)
    return httpx.Response(200, text=bundle.root_ca_crl.hex())


def instead(path: str, response: Respond) -> Respond:
    return lambda request: response(request) if request.url.path.endswith(path) else honest(request)


async def fetch(respond: Respond, base: str = BASE, **options: Any) -> Collateral:
    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        return await PccsClient(base, client=http, **options).collateral(QUOTE)


async def test_a_document_that_comes_last_is_taken_too() -> None:
    assert await fetch(honest) == OWNER.collateral()


async def test_the_questions_are_those_of_the_routes() -> None:
    asked: list[str] = []

    def record(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url).removeprefix(BASE))
        return honest(request)

    await fetch(record)
    assert sorted(asked) == [
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "/sgx/certification/v4/rootcacrl",
        "/tdx/certification/v4/qe/identity?update=standard",
        "/tdx/certification/v4/tcb?fmspc=00806F050000&update=standard",
    ]


async def test_an_sgx_quote_asks_for_sgx_documents() -> None:
    asked: list[str] = []

    def record(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return honest(request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(record)) as http:
        await PccsClient(BASE, client=http).collateral(parse_quote(OWNER.sgx_quote()))
    assert {"/sgx/certification/v4/tcb", "/sgx/certification/v4/qe/identity"} < set(asked)


def status(code: int) -> Respond:
    return lambda _: httpx.Response(code, headers={"Location": "http://elsewhere.example/"})


def refuse(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


def answer(text: str, **headers: str) -> Respond:
    return lambda _: httpx.Response(200, text=text, headers=headers)


@pytest.mark.parametrize(
    ("path", "response", "code"),
    [
        pytest.param("/tcb", status(404), "pccs.status", id="not-found"),
        pytest.param("/tcb", status(302), "pccs.status", id="redirects-are-not-followed"),
        pytest.param("/qe/identity", status(500), "pccs.status", id="server-error"),
        pytest.param("/pckcrl", refuse, "pccs.transport", id="no-connection"),
        pytest.param("/pckcrl", answer("00"), "pccs.header", id="no-issuer-chain"),
        pytest.param("/tcb", answer("x" * (ANSWER_LIMIT + 1)), "pccs.too-long", id="too-long"),
        pytest.param("/tcb", answer("{"), "pccs.malformed", id="no-json"),
        pytest.param("/tcb", answer('{"signature":"zz"}'), "pccs.malformed", id="no-signature"),
        pytest.param("/tcb", answer('{"signature":"00"}'), "pccs.malformed", id="no-document"),
        pytest.param(
            "/tcb", answer('{"tcbInfo":1,"signature":"00"}'), "pccs.malformed", id="document-no-object"
        ),
        pytest.param("/rootcacrl", status(404), "pccs.status", id="no-root-crl"),
    ],
)
async def test_whatever_stands_in_the_way_is_collateral_missing(
    path: str, response: Respond, code: str
) -> None:
    with pytest.raises(CollateralError) as refused:
        await fetch(instead(path, response))
    assert refused.value.finding.code == code
    assert refused.value.finding.remedy


async def test_a_service_that_does_not_answer_is_given_up() -> None:
    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        return honest(request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http:
        with pytest.raises(CollateralError) as refused:
            await PccsClient(BASE, client=http, timeout=0.01).collateral(QUOTE)
    assert refused.value.finding.code == "pccs.timeout"


def issuer_chain(*urls: str) -> str:
    """A chain whose last certificate names where its CRL lies."""
    key = new_key()
    names = [[x509.DNSName("no.uri"), x509.UniformResourceIdentifier(url)] for url in urls]
    points = x509.CRLDistributionPoints([x509.DistributionPoint(each, None, None, None) for each in names])
    made = certificate(named("root"), key, named("root"), key, ca(), points)
    return made.public_bytes(Encoding.PEM).decode()


CRL_URL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"


def pointing(chain: str) -> Respond:
    """Intel's way: no `rootcacrl`; the DER list lies at the distribution point."""

    def respond(request: httpx.Request) -> httpx.Response:
        if str(request.url) == CRL_URL:
            return httpx.Response(200, content=OWNER.collateral().root_ca_crl)
        if request.url.path.endswith("/rootcacrl"):
            return httpx.Response(404)
        found = honest(request)
        if request.url.path.endswith("/qe/identity"):
            found.headers["SGX-Enclave-Identity-Issuer-Chain"] = urlquote(chain)
        return found

    return respond


@pytest.mark.parametrize("base", [BASE, "https://api.trustedservices.intel.com/sgx/certification/v4"])
async def test_the_roots_crl_comes_from_intels_distribution_point(base: str) -> None:
    chain = issuer_chain("http://other.example/crl", CRL_URL)
    collateral = await fetch(pointing(chain), base)
    assert collateral.root_ca_crl == OWNER.collateral().root_ca_crl


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(issuer_chain("https://169.254.169.254/crl"), id="somewhere-else"),
        pytest.param(issuer_chain("http://certificates.trustedservices.intel.com/x"), id="plain-http"),
        pytest.param(issuer_chain("https://certificates.trustedservices.intel.com:1/x"), id="another-port"),
        pytest.param(OWNER.pki.tcb_issuer_chain, id="no-distribution-point"),
        pytest.param("nothing", id="no-chain"),
    ],
)
@pytest.mark.parametrize("base", [BASE, "https://api.trustedservices.intel.com"])
async def test_an_unverified_chain_sends_nobody_elsewhere(chain: str, base: str) -> None:
    asked: set[str] = set()
    respond = pointing(chain)

    def record(request: httpx.Request) -> httpx.Response:
        asked.add(request.url.host)
        return respond(request)

    with pytest.raises(CollateralError) as refused:
        await fetch(record, base)
    assert refused.value.finding.code == ("pccs.status" if base == BASE else "pccs.root-crl")
    assert asked == {httpx.URL(base).host}


def test_the_platform_is_read_from_the_quote() -> None:
    key = collateral_key(QUOTE)
    assert (key.fmspc_text, key.ca, key.tdx) == ("00806F050000", "platform", True)


def test_the_processor_ca_is_told_by_its_name() -> None:
    key = collateral_key(parse_quote(sample("sgx_quote")))
    assert (key.fmspc_text, key.ca, key.tdx) == ("00A067110000", "processor", False)


def test_another_issuer_is_unsupported() -> None:
    key = new_key()
    chain = certificate(named("leaf"), key, named("Unheard of CA"), key).public_bytes(Encoding.PEM)
    quote = parse_quote(encode_quote(replace(QUOTE, certification_data=chain)))
    with pytest.raises(EvidenceError) as refused:
        collateral_key(quote)
    assert refused.value.finding.code == "pck.issuer"


async def test_a_client_made_here_is_closed_here() -> None:
    async with PccsClient(BASE) as client:
        assert not client._client.is_closed
    assert client._client.is_closed
