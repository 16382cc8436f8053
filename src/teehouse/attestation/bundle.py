"""Collateral as one document: what a verifier needs beside the quote (trust.md 3.1).

The JSON is the one of published DCAP verifiers (their `QuoteCollateralV3`), so a file can be handed
from one to the other. Bytes are hex there; the two signed documents are strings, kept to the letter,
because their signatures cover exactly that text.

Rules:

1. The JSON is at most `COLLATERAL_LIMIT` characters, an object in which the nine members are strings
   and `pck_certificate_chain` is a string, null or absent. Unknown members are passed over.
2. What the members say is not looked at here, except by `expires`.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from teehouse.attestation import strictjson
from teehouse.attestation.chain import load_crl
from teehouse.attestation.tcbinfo import parse_qe_identity, parse_tcb_info

COLLATERAL_LIMIT = 16 * 1024 * 1024
_NAME = "collateral"


@dataclass(frozen=True, slots=True)
class Collateral:
    """Intel's (or an emulated PKI's) word on a platform: chains are PEM, CRLs DER, signatures 64 bytes r || s.

    `pck_certificate_chain`, when present, stands in for the chain inside the quote.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes
    pck_certificate_chain: str | None = None

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the JSON form (rule 1). Raises `EvidenceError` (malformed)."""
        members = strictjson.load_object(text, _NAME, limit=COLLATERAL_LIMIT)
        chain = members.get("pck_certificate_chain")
        if chain is not None:
            chain = strictjson.text_member(members, "pck_certificate_chain", _NAME)
        return cls(
            pck_crl_issuer_chain=strictjson.text_member(members, "pck_crl_issuer_chain", _NAME),
            root_ca_crl=strictjson.hex_member(members, "root_ca_crl", _NAME),
            pck_crl=strictjson.hex_member(members, "pck_crl", _NAME),
            tcb_info_issuer_chain=strictjson.text_member(members, "tcb_info_issuer_chain", _NAME),
            tcb_info=strictjson.text_member(members, "tcb_info", _NAME),
            tcb_info_signature=strictjson.hex_member(members, "tcb_info_signature", _NAME),
            qe_identity_issuer_chain=strictjson.text_member(members, "qe_identity_issuer_chain", _NAME),
            qe_identity=strictjson.text_member(members, "qe_identity", _NAME),
            qe_identity_signature=strictjson.hex_member(members, "qe_identity_signature", _NAME),
            pck_certificate_chain=chain,
        )

    def to_json(self) -> str:
        """The JSON form, members in the order of trust.md 3.1; the PCK chain only where there is one."""
        members = {
            "pck_crl_issuer_chain": self.pck_crl_issuer_chain,
            "root_ca_crl": self.root_ca_crl.hex(),
            "pck_crl": self.pck_crl.hex(),
            "tcb_info_issuer_chain": self.tcb_info_issuer_chain,
            "tcb_info": self.tcb_info,
            "tcb_info_signature": self.tcb_info_signature.hex(),
            "qe_identity_issuer_chain": self.qe_identity_issuer_chain,
            "qe_identity": self.qe_identity,
            "qe_identity_signature": self.qe_identity_signature.hex(),
        }
        if self.pck_certificate_chain is not None:
            members["pck_certificate_chain"] = self.pck_certificate_chain
        return json.dumps(members, separators=(",", ":"))

    def expires(self) -> datetime:
        """The earliest next update of TCB info, QE identity and both CRLs, in UTC.

        Raises `EvidenceError` (malformed) when one of the four cannot be read.
        """
        ends = [parse_tcb_info(self.tcb_info).next_update, parse_qe_identity(self.qe_identity).next_update]
        crls = (load_crl(self.root_ca_crl), load_crl(self.pck_crl))
        # load_crl has refused lists without an end; only their type does not say so.
        ends += [crl.next_update_utc for crl in crls if crl.next_update_utc is not None]
        return min(ends)
