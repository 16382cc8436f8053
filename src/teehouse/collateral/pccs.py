"""A client of provisioning certificate caches (PCCS) and Intel's PCS (trust.md 3.4).

Rules:

1. Four documents make one set of collateral; without one of them there is none. Whatever stands in the way
   is a `CollateralError` that names the URL and what to do.
2. An answer has at most `ANSWER_LIMIT` bytes; all four together take at most `timeout` seconds. Redirects
   are not followed.
3. The signed documents are taken as the very bytes of the answer: re-written JSON would not verify.
4. Where a service has no `rootcacrl` (Intel's own), the root's CRL is asked for at the distribution point
   in the QE identity's issuer chain, and only if that is Intel's: the chain is not verified yet.
"""

import asyncio
import json
import re
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

import httpx
from cryptography import x509

from teehouse.attestation import strictjson
from teehouse.attestation.abi import Quote
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.chain import load_certificate
from teehouse.attestation.pck import split_pem_chain
from teehouse.base.findings import CollateralError, TeehouseError, misuse, unavailable
from teehouse.collateral.platform import CollateralKey, collateral_key

ANSWER_LIMIT = 4 * 1024 * 1024  # bytes
TIMEOUT = 30.0  # seconds
INTEL_PCS_HOST = "api.trustedservices.intel.com"
INTEL_CRL_HOST = "certificates.trustedservices.intel.com"
_SGX, _TDX = "/sgx/certification/v4", "/tdx/certification/v4"
_CRL_ISSUER = ("SGX-PCK-CRL-Issuer-Chain",)
_TCB_ISSUER = ("TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain")
_QE_ISSUER = ("SGX-Enclave-Identity-Issuer-Chain",)
_REMEDY = "check the address (--pccs), or give the collateral as a file (--collateral FILE)"


@dataclass(frozen=True, slots=True)
class _Answer:
    url: str
    body: bytes
    headers: httpx.Headers

    def chain(self, names: tuple[str, ...]) -> str:
        """The issuer chain of the first header there is, URL-decoded."""
        for name in names:
            if name in self.headers:
                return unquote(self.headers[name])
        raise unavailable(
            "pccs.header",
            f"the answer of {self.url}",
            expected=f"a header {names[0]}",
            found="none",
            remedy=_REMEDY,
        )

    def document(self, member: str) -> tuple[str, bytes]:
        """A signed document and its signature (rule 3)."""
        try:
            members = strictjson.load_object(self.body, "pccs", limit=ANSWER_LIMIT)
            signature = strictjson.hex_member(members, "signature", "pccs")
        except TeehouseError as error:
            raise self.malformed(error.finding.subject) from None
        if not isinstance(members.get(member), dict):
            raise self.malformed(f"no {member}")
        text = self.body.decode()
        start = re.match(rf'\s*\{{\s*"{member}"\s*:\s*', text)
        if start is None:
            # The document does not come first; compact JSON in the given order is what was signed.
            return json.dumps(members[member], separators=(",", ":"), ensure_ascii=False), signature
        _, end = json.JSONDecoder().raw_decode(text, start.end())
        return text[start.end() : end], signature

    def malformed(self, found: str) -> CollateralError:
        return unavailable(
            "pccs.malformed", f"the answer of {self.url}", expected="collateral", found=found, remedy=_REMEDY
        )

    def crl(self) -> bytes:
        """A CRL, which some services answer as hex text and some as DER."""
        text = self.body.strip()
        try:
            return bytes.fromhex(text.decode("ascii"))
        except ValueError:
            return self.body


class PccsClient:
    """Asks one service, `base_url` with scheme http or https; an async context manager.

    Raises `MisuseError` for another URL. `client` is closed with this object only where it was made here.
    """

    def __init__(
        self, base_url: str, *, client: httpx.AsyncClient | None = None, timeout: float = TIMEOUT
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise misuse(
                "pccs.url",
                "the address of the PCCS",
                expected="http:// or https:// and a host",
                found=base_url[:200],
            )
        self._base = base_url.rstrip("/").removesuffix(_SGX).removesuffix(_TDX)
        self._intel = parts.hostname == INTEL_PCS_HOST
        self._client = client or httpx.AsyncClient(timeout=timeout)
        self._owned = client is None
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned:
            await self._client.aclose()

    async def collateral(self, quote: Quote) -> Collateral:
        """The collateral of the quote's platform.

        Raises `CollateralError` (rule 1), and `EvidenceError` for a quote whose platform cannot be read.
        """
        key = collateral_key(quote)
        try:
            async with asyncio.timeout(self._timeout):  # rule 2
                return await self._fetch(key)
        except TimeoutError:
            raise unavailable(
                "pccs.timeout",
                f"the collateral from {self._base}",
                expected=f"within {self._timeout:g} seconds",
                remedy=_REMEDY,
            ) from None

    async def _fetch(self, key: CollateralKey) -> Collateral:
        documents = _TDX if key.tdx else _SGX
        answers = await asyncio.gather(
            self._get(f"{self._base}{_SGX}/pckcrl", ca=key.ca, encoding="der"),
            self._get(f"{self._base}{documents}/tcb", fmspc=key.fmspc_text, update="standard"),
            self._get(f"{self._base}{documents}/qe/identity", update="standard"),
            return_exceptions=True,  # none is left running when another fails
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        pck_crl, tcb_info, qe_identity = (answer for answer in answers if isinstance(answer, _Answer))
        tcb_text, tcb_signature = tcb_info.document("tcbInfo")
        qe_text, qe_signature = qe_identity.document("enclaveIdentity")
        qe_chain = qe_identity.chain(_QE_ISSUER)
        return Collateral(
            pck_crl_issuer_chain=pck_crl.chain(_CRL_ISSUER),
            root_ca_crl=await self._root_crl(qe_chain),
            pck_crl=pck_crl.crl(),
            tcb_info_issuer_chain=tcb_info.chain(_TCB_ISSUER),
            tcb_info=tcb_text,
            tcb_info_signature=tcb_signature,
            qe_identity_issuer_chain=qe_chain,
            qe_identity=qe_text,
            qe_identity_signature=qe_signature,
        )

    async def _root_crl(self, issuer_chain: str) -> bytes:
        refusal: CollateralError | None = None
        if not self._intel:
            try:
                return (await self._get(f"{self._base}{_SGX}/rootcacrl")).crl()
            except CollateralError as error:
                refusal = error
        url = _distribution_point(issuer_chain)  # rule 4
        if url is None:
            raise refusal or unavailable(
                "pccs.root-crl", "the root's CRL", expected="a distribution point of Intel's", remedy=_REMEDY
            )
        return (await self._get(url)).crl()

    async def _get(self, url: str, **parameters: str) -> _Answer:
        try:
            async with self._client.stream(
                "GET", url, params=parameters or None, follow_redirects=False
            ) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise unavailable(
                        "pccs.status",
                        f"the answer of {url}",
                        expected="200",
                        found=str(answer.status_code),
                        remedy=_REMEDY,
                    )
                body = bytearray()
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > ANSWER_LIMIT:
                        raise unavailable(
                            "pccs.too-long",
                            f"the answer of {url}",
                            expected=f"at most {ANSWER_LIMIT} bytes",
                            remedy=_REMEDY,
                        )
                return _Answer(url, bytes(body), answer.headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unavailable(
                "pccs.transport",
                f"the answer of {url}",
                found=str(error)[:200] or type(error).__name__,
                remedy=_REMEDY,
            ) from None


def _distribution_point(issuer_chain: str) -> str | None:
    """The CRL address in the chain's last certificate, if it is one of Intel's."""
    try:
        root = load_certificate(split_pem_chain(issuer_chain.encode())[-1])
        points = root.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except (TeehouseError, x509.ExtensionNotFound):
        return None
    for point in points:
        for name in point.full_name or ():
            if isinstance(name, x509.UniformResourceIdentifier):
                parts = urlsplit(name.value)
                if parts.scheme == "https" and parts.netloc == INTEL_CRL_HOST:
                    return name.value
    return None
