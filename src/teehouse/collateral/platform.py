"""Which collateral a quote needs: the family of its platform, and the CA of its PCK certificate."""

from dataclasses import dataclass

from teehouse.attestation.abi import TEE_TYPE_TDX, Quote
from teehouse.attestation.chain import load_certificate
from teehouse.attestation.pck import parse_pck_extension, split_pem_chain
from teehouse.base.findings import unsupported

PLATFORM, PROCESSOR = "platform", "processor"


@dataclass(frozen=True, slots=True)
class CollateralKey:
    """What one set of collateral serves: FMSPC (6 bytes), `ca` platform or processor, TDX or SGX documents."""

    fmspc: bytes
    ca: str
    tdx: bool

    @property
    def fmspc_text(self) -> str:
        """As PCCS routes take it: 12 upper-case hex digits."""
        return self.fmspc.hex().upper()


def collateral_key(quote: Quote) -> CollateralKey:
    """Read from the quote's PCK certificate; nothing is proven by it yet.

    The CA is told from the issuer's name (trust.md 2.10). Raises `EvidenceError`.
    """
    leaf = split_pem_chain(quote.certification_data)[0]
    issuer = load_certificate(leaf).issuer.rfc4514_string()
    if "Platform" in issuer:
        ca = PLATFORM
    elif "Processor" in issuer:
        ca = PROCESSOR
    else:
        raise unsupported(
            "pck.issuer",
            "the issuer of the PCK certificate",
            expected="a name with Platform or Processor",
            found=issuer[:200],
        )
    return CollateralKey(parse_pck_extension(leaf).fmspc, ca, tdx=quote.header.tee_type == TEE_TYPE_TDX)
