"""Collateral of the emulated installation over time, and its service over a real loopback connection."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import dcap_qvl
import httpx
import pytest
import uvicorn
from cryptography import x509
from starlette.applications import Starlette

from support import emulated
from teehouse.attestation.bundle import Collateral
from teehouse.base.clock import FixedClock
from teehouse.base.findings import CollateralError
from teehouse.tee_emulated.collateral import EmulatedCollateral
from teehouse.tee_emulated.pccs import pccs_routes

MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
ROOT_NAME = f"emulated:{emulated.pki().root_fingerprint[:32]}"


def status_at(bundle: dict[str, str], at: datetime) -> str:
    collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(bundle))
    root = emulated.pki().root_der
    status: str = dcap_qvl.verify_with_root_ca(emulated.quote(), collateral, root, int(at.timestamp())).status
    return status


def test_a_service_that_runs_for_forty_days_never_serves_what_has_expired() -> None:
    clock = emulated.clock()
    collateral = EmulatedCollateral(emulated.pki(), clock)
    first = collateral.bundle()
    issued = []
    for _ in range(40 * 4):
        clock.advance(timedelta(hours=6))
        assert status_at(collateral.bundle(), clock.now()) == "UpToDate"
        assert collateral.current().next_update - clock.now() > timedelta(days=28)
        issued.append(collateral.current().issued)
    with pytest.raises(ValueError, match=r"(?i)expired"):
        status_at(first, clock.now())
    assert sorted(set(issued)) == [MIDNIGHT + timedelta(days=days) for days in range(41)]


def test_a_day_gets_one_signing_and_the_same_bytes_from_every_replica() -> None:
    clock = FixedClock(MIDNIGHT + timedelta(hours=1))
    one, other = EmulatedCollateral(emulated.pki(), clock), EmulatedCollateral(emulated.pki(), clock)
    first = one.current()
    clock.advance(timedelta(hours=23, minutes=59, seconds=59))
    assert one.current() is first
    assert other.current() == first
    clock.advance(timedelta(seconds=1))
    assert one.current().issued == first.issued + timedelta(days=1)


def test_the_first_hour_of_a_day_has_the_day_befores_documents() -> None:
    for minutes, issued in ((0, -1), (59, -1), (60, 0)):
        clock = FixedClock(MIDNIGHT + timedelta(minutes=minutes))
        current = EmulatedCollateral(emulated.pki(), clock).current()
        assert current.issued == MIDNIGHT + timedelta(days=issued)
        assert current.next_update == current.issued + timedelta(days=30)
        bundle = EmulatedCollateral(emulated.pki(), clock).bundle()
        assert status_at(bundle, clock.now() - timedelta(hours=1)) == "UpToDate"


def test_a_later_revocation_list_has_a_higher_number() -> None:
    numbers = []
    for days in (0, 1):
        current = EmulatedCollateral(
            emulated.pki(), FixedClock(emulated.NOW + timedelta(days=days))
        ).current()
        for der in (current.root_ca_crl, current.pck_crl):
            crl = x509.load_der_x509_crl(der)
            assert crl.next_update_utc == current.next_update
            numbers.append(crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
    assert numbers[0] == numbers[1] < numbers[2] == numbers[3]


def test_our_own_bundle_reads_it() -> None:
    collateral = Collateral.from_json(json.dumps(emulated.collateral().bundle()))
    assert collateral.expires() == MIDNIGHT + timedelta(days=30)


def test_the_levels_that_are_published() -> None:
    bundle = emulated.collateral().bundle()
    tcb_info, qe_identity = json.loads(bundle["tcb_info"]), json.loads(bundle["qe_identity"])
    for document in (tcb_info, qe_identity):
        assert (document["issueDate"], document["nextUpdate"], document["tcbEvaluationDataNumber"]) == (
            "2026-11-20T00:00:00Z",
            "2026-12-20T00:00:00Z",
            20,
        )
        assert [level["tcbStatus"] for level in document["tcbLevels"]] == ["UpToDate", "OutOfDate"]
    assert (tcb_info["id"], tcb_info["version"], tcb_info["fmspc"]) == ("TDX", 3, "00806F050000")
    assert [identity["id"] for identity in tcb_info["tdxModuleIdentities"]] == ["TDX_01"]
    assert bundle["tcb_info"] == json.dumps(tcb_info, separators=(",", ":"))


@pytest.mark.parametrize("fmspc", ["B0C06F000000", "", "00806F05000"])
def test_another_fmspc_is_refused(fmspc: str) -> None:
    for ask in (emulated.collateral().bundle, emulated.collateral().tcb_info):
        with pytest.raises(CollateralError) as refused:
            ask(fmspc)
        assert (refused.value.finding.code, refused.value.finding.expected) == (
            "emulated.collateral.fmspc",
            "FMSPC 00806F050000",
        )


def test_fmspc_is_read_in_either_case() -> None:
    assert emulated.collateral().bundle("00806f050000") == emulated.collateral().bundle()


@contextmanager
def serving(collateral: EmulatedCollateral) -> Iterator[str]:
    app = Starlette(routes=pccs_routes(collateral))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def pccs() -> Iterator[str]:
    with serving(emulated.collateral()) as url:
        yield url


@pytest.fixture
def client(pccs: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=pccs, trust_env=False) as made:
        yield made


@pytest.mark.parametrize("suffix", ["", "/sgx/certification/v4", "/tdx/certification/v4"])
async def test_the_fields_client_fetches_collateral_that_verifies(
    pccs: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    quote = emulated.quote()
    collateral = await dcap_qvl.get_collateral(pccs + suffix, quote)
    root = emulated.pki().root_der
    assert dcap_qvl.verify_with_root_ca(quote, collateral, root, emulated.NOW_SECONDS).status == "UpToDate"
    fetched = json.loads(collateral.to_json())
    bundle = emulated.collateral().bundle()
    assert fetched.pop("pck_certificate_chain").strip() == emulated.host().pck_chain.decode().strip()
    assert fetched == bundle


def test_every_document_has_its_form(client: httpx.Client) -> None:
    pki, current = emulated.pki(), emulated.collateral().current()
    crl = client.get("/sgx/certification/v4/pckcrl?ca=platform&encoding=der")
    pem = client.get("/sgx/certification/v4/pckcrl?ca=platform")
    root_crl = client.get("/sgx/certification/v4/rootcacrl")
    tcb = client.get("/tdx/certification/v4/tcb?fmspc=00806F050000&update=early")
    identity = client.get("/tdx/certification/v4/qe/identity?update=standard")
    assert [answer.status_code for answer in (crl, pem, root_crl, tcb, identity)] == [200] * 5
    assert crl.content == current.pck_crl
    assert x509.load_pem_x509_crl(pem.content) == x509.load_der_x509_crl(current.pck_crl)
    assert unquote(crl.headers["SGX-PCK-CRL-Issuer-Chain"]) == pki.pck_crl_issuer_chain
    assert bytes.fromhex(root_crl.text) == current.root_ca_crl
    assert tcb.text == (f'{{"tcbInfo":{current.tcb_info.text},"signature":"{current.tcb_info.signature}"}}')
    assert identity.text == (
        f'{{"enclaveIdentity":{current.qe_identity.text},"signature":"{current.qe_identity.signature}"}}'
    )
    assert [
        unquote(answer.headers[name])
        for answer, name in (
            (tcb, "TCB-Info-Issuer-Chain"),
            (tcb, "SGX-TCB-Info-Issuer-Chain"),
            (identity, "SGX-Enclave-Identity-Issuer-Chain"),
        )
    ] == [pki.tcb_issuer_chain] * 3


def test_the_root_can_be_fetched(client: httpx.Client) -> None:
    pem, der = client.get("/emulated/root-ca.pem"), client.get("/emulated/root-ca.der")
    assert der.content == emulated.pki().root_der
    assert x509.load_pem_x509_certificate(pem.content) == x509.load_der_x509_certificate(der.content)
    assert pem.headers["Content-Type"].startswith("application/x-pem-file")
    assert der.headers["Content-Type"] == "application/pkix-cert"
    assert client.head("/emulated/root-ca.der").content == b""


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/sgx/certification/v4/pckcrl?ca=other&encoding=der", 404, "pccs.ca"),
        ("/sgx/certification/v4/pckcrl?encoding=der", 404, "pccs.ca"),
        ("/sgx/certification/v4/pckcrl?ca=platform&encoding=ber", 400, "pccs.encoding"),
        ("/tdx/certification/v4/tcb?fmspc=B0C06F000000", 404, "emulated.collateral.fmspc"),
        ("/tdx/certification/v4/tcb", 400, "pccs.fmspc"),
        ("/tdx/certification/v4/tcb?fmspc=00806F0500", 400, "pccs.fmspc"),
        ("/tdx/certification/v4/tcb?fmspc=00 80 6F 05 00 00", 400, "pccs.fmspc"),
        ("/tdx/certification/v4/tcb?fmspc=00806F05000Z", 400, "pccs.fmspc"),
        ("/tdx/certification/v4/tcb?fmspc=00806F050000&update=late", 400, "pccs.update"),
        ("/tdx/certification/v4/qe/identity?update=", 400, "pccs.update"),
        ("/sgx/certification/v4/tcb?fmspc=00806F050000", 404, "pccs.sgx"),
        ("/sgx/certification/v4/qe/identity", 404, "pccs.sgx"),
        ("/sgx/certification/v4/pckcert?qeid=00", 404, "pccs.pckcert"),
    ],
)
def test_what_is_not_served_is_refused_with_a_reason(
    client: httpx.Client, path: str, status: int, code: str
) -> None:
    answer = client.get(path)
    body = answer.json()
    assert (answer.status_code, body["finding"]["code"]) == (status, code)
    assert body["error"].startswith(body["finding"]["subject"])
    assert answer.headers["X-Teehouse-Emulated"] == ROOT_NAME


@pytest.mark.parametrize("path", ["/emulated/root-ca.pem", "/tdx/certification/v4/qe/identity"])
def test_every_answer_names_the_root(client: httpx.Client, path: str) -> None:
    read, written = client.get(path), client.post(path)
    assert [answer.headers["X-Teehouse-Emulated"] for answer in (read, written)] == [ROOT_NAME] * 2
    assert (written.status_code, written.headers["Allow"]) == (405, "GET, HEAD")
    assert written.json()["finding"]["code"] == "pccs.method"
