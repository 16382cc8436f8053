"""The emulated installation's provisioning certificate cache: Intel's routes, our documents (trust.md 3.4).

1. Every answer, also a refusal, bears `X-Teehouse-Emulated` with the name of the root.
2. There is TDX collateral for the one emulated FMSPC, and revocation lists of the two emulated CAs. All
   else is 404 with a reason: SGX documents, PCK certificates by id (they are inside the quotes).
   An installation has one PCK CA, so its list answers for `ca=platform` and `ca=processor` alike: a
   published client (npm `@phala/dcap-qvl` 0.3.9) asks for the latter whatever the certificate says.
3. A parameter that is not of its form is 400.
4. The signed documents go out as the very bytes that were signed.
5. `/emulated/root-ca.pem` and `.der` are the root, for whoever decides to trust it.
"""

from collections.abc import Callable, Sequence
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from teehouse.base.findings import CollateralError, TeehouseError, misuse, unavailable
from teehouse.tee_emulated.collateral import EmulatedCollateral, SignedDocument

EMULATED_HEADER = "X-Teehouse-Emulated"
_SGX, _TDX = "/sgx/certification/v4", "/tdx/certification/v4"
_METHODS = ("GET", "HEAD")
_CRL, _PEM = "application/pkix-crl", "application/x-pem-file"

_Answer = Callable[[Request], Response]


def pccs_routes(collateral: EmulatedCollateral) -> list[BaseRoute]:
    """The routes of the service; none of them needs a name or a secret from its caller."""
    served = _Documents(collateral)
    name = f"emulated:{collateral.pki.root_fingerprint[:32]}"
    answers: Sequence[tuple[str, _Answer]] = (
        (f"{_SGX}/pckcrl", served.pck_crl),
        (f"{_SGX}/rootcacrl", served.root_ca_crl),
        (f"{_TDX}/tcb", served.tcb_info),
        (f"{_TDX}/qe/identity", served.qe_identity),
        (f"{_SGX}/tcb", served.no_sgx),
        (f"{_SGX}/qe/identity", served.no_sgx),
        (f"{_SGX}/pckcert", served.no_pck),
        ("/emulated/root-ca.pem", served.root_pem),
        ("/emulated/root-ca.der", served.root_der),
    )
    return [Route(path, _Endpoint(answer, name)) for path, answer in answers]


class _Endpoint:
    """One route: refusals become JSON, and the emulated root's name goes with every answer."""

    def __init__(self, answer: _Answer, name: str) -> None:
        self._answer = answer
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self._respond(Request(scope, receive))
        response.headers[EMULATED_HEADER] = self._name
        await response(scope, receive, send)

    def _respond(self, request: Request) -> Response:
        if request.method not in _METHODS:
            refusal = misuse("pccs.method", "method", expected=" or ".join(_METHODS), found=request.method)
            return _refusal(refusal, 405, {"Allow": ", ".join(_METHODS)})
        try:
            return self._answer(request)
        except CollateralError as error:
            return _refusal(error, 404)
        except TeehouseError as error:
            return _refusal(error, 400)


def _refusal(error: TeehouseError, status: int, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": str(error), "finding": error.finding.as_dict()}, status, headers)


class _Documents:
    """What each route answers."""

    def __init__(self, collateral: EmulatedCollateral) -> None:
        self._collateral = collateral
        self._pki = collateral.pki

    def pck_crl(self, request: Request) -> Response:
        ca = request.query_params.get("ca", "")
        if ca not in ("platform", "processor"):
            expected = "ca=platform or ca=processor"
            raise unavailable("pccs.ca", "PCK revocation list", expected=expected, found=repr(ca[:40]))
        encoding = _choice(request, "encoding", ("pem", "der"))
        headers = {"SGX-PCK-CRL-Issuer-Chain": quote(self._pki.pck_crl_issuer_chain)}
        der = self._collateral.current().pck_crl
        if encoding == "der":
            return Response(der, 200, headers, _CRL)
        return Response(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM), 200, headers, _PEM)

    def root_ca_crl(self, _request: Request) -> Response:
        return Response(self._collateral.current().root_ca_crl.hex(), 200, media_type="text/plain")

    def tcb_info(self, request: Request) -> Response:
        _choice(request, "update", ("standard", "early"))
        fmspc = request.query_params.get("fmspc", "")
        try:
            well_formed = len(bytes.fromhex(fmspc)) == 6 and len(fmspc) == 12
        except ValueError:
            well_formed = False
        if not well_formed:
            raise misuse("pccs.fmspc", "fmspc", expected="12 hex digits", found=repr(fmspc[:40]))
        return self._signed(
            "tcbInfo",
            self._collateral.tcb_info(fmspc),
            ("TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"),
        )

    def qe_identity(self, request: Request) -> Response:
        _choice(request, "update", ("standard", "early"))
        document = self._collateral.current().qe_identity
        return self._signed("enclaveIdentity", document, ("SGX-Enclave-Identity-Issuer-Chain",))

    def no_sgx(self, _request: Request) -> Response:
        raise unavailable("pccs.sgx", "SGX collateral", expected="TDX: only that is emulated")

    def no_pck(self, _request: Request) -> Response:
        raise unavailable("pccs.pckcert", "PCK certificate", expected="the one inside the quote")

    def root_pem(self, _request: Request) -> Response:
        return Response(self._pki.root_pem, 200, media_type=_PEM)

    def root_der(self, _request: Request) -> Response:
        return Response(self._pki.root_der, 200, media_type="application/pkix-cert")

    def _signed(self, member: str, document: SignedDocument, chain_headers: Sequence[str]) -> Response:
        body = f'{{"{member}":{document.text},"signature":"{document.signature}"}}'
        chain = quote(self._pki.tcb_issuer_chain)
        return Response(body, 200, dict.fromkeys(chain_headers, chain), "application/json")


def _choice(request: Request, name: str, allowed: tuple[str, str]) -> str:
    """A parameter of two values; the first one is meant when it is absent."""
    value = request.query_params.get(name, allowed[0])
    if value not in allowed:
        raise misuse(f"pccs.{name}", name, expected=" or ".join(allowed), found=repr(value[:40]))
    return value
