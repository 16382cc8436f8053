"""The collateral of an emulated installation: TCB info, QE identity, revocation lists (trust.md 3).

1. Documents are issued for a whole day: at midnight UTC, good for 30 days. Whoever asks on another
   day gets documents signed anew, so nothing that is served is close to its end, and no task runs.
2. Two replicas with one seed serve the same bytes on the same day.
3. The first hour of a day still gets the day before's documents: a verifier whose clock is up to an
   hour late does not see a document from the future.
4. The signature covers the JSON text as it is handed out: compact, members in order (trust.md 3.4).
5. There is collateral for one FMSPC. Any other is refused.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from teehouse.base.clock import Clock
from teehouse.base.findings import unavailable
from teehouse.tee_emulated import constants
from teehouse.tee_emulated.pki import EmulatedPki
from teehouse.tee_emulated.quote import raw_signature

VALIDITY = timedelta(days=30)
CLOCK_SKEW = timedelta(hours=1)
TCB_EVALUATION_DATA_NUMBER = 20
FMSPC_TEXT = constants.FMSPC.hex().upper()

UP_TO_DATE, OUT_OF_DATE = "UpToDate", "OutOfDate"
_CURRENT_DATE = "2026-01-01T00:00:00Z"
_FORMER_DATE = "2025-01-01T00:00:00Z"
# Nobody shall mistake these for Intel's security advisories.
FORMER_TCB_ADVISORY = "EMULATED-SA-00001"

# The level below the current one: every number is at most the current one's.
_FORMER_CPU_SVN = bytes.fromhex("02020202030100030000000000000000")
_FORMER_PCE_SVN = 11
_FORMER_TEE_TCB_SVN = bytes.fromhex("04010300000000000000000000000000")


@dataclass(frozen=True, slots=True)
class SignedDocument:
    """A JSON text and the signature over exactly its bytes, 64 bytes r || s as hex."""

    text: str
    signature: str


@dataclass(frozen=True, slots=True)
class CollateralSet:
    """All that is signed for one day."""

    issued: datetime
    next_update: datetime
    tcb_info: SignedDocument
    qe_identity: SignedDocument
    root_ca_crl: bytes
    pck_crl: bytes


class EmulatedCollateral:
    """Collateral under `pki`'s root, as of `clock`. Keeps one day's documents."""

    def __init__(self, pki: EmulatedPki, clock: Clock) -> None:
        self.pki = pki
        self._clock = clock
        self._current: CollateralSet | None = None

    def current(self) -> CollateralSet:
        """The documents of this day, signed when the first caller asks for them."""
        issued = datetime.combine((self._clock.now().astimezone(UTC) - CLOCK_SKEW).date(), time(), UTC)
        current = self._current
        if current is None or current.issued != issued:
            current = self._current = self._sign(issued)
        return current

    def tcb_info(self, fmspc: str) -> SignedDocument:
        """TCB info for an FMSPC of 12 hex digits, in any case. Raises `CollateralError` for an unknown one."""
        _check_fmspc(fmspc)
        return self.current().tcb_info

    def bundle(self, fmspc: str = FMSPC_TEXT) -> dict[str, str]:
        """The members of trust.md 3.1 that a verifier is given, ready for JSON; the certificate chain stays in the quote.

        Raises `CollateralError` for an unknown FMSPC.
        """
        _check_fmspc(fmspc)
        current = self.current()
        return {
            "pck_crl_issuer_chain": self.pki.pck_crl_issuer_chain,
            "root_ca_crl": current.root_ca_crl.hex(),
            "pck_crl": current.pck_crl.hex(),
            "tcb_info_issuer_chain": self.pki.tcb_issuer_chain,
            "tcb_info": current.tcb_info.text,
            "tcb_info_signature": current.tcb_info.signature,
            "qe_identity_issuer_chain": self.pki.tcb_issuer_chain,
            "qe_identity": current.qe_identity.text,
            "qe_identity_signature": current.qe_identity.signature,
        }

    def _sign(self, issued: datetime) -> CollateralSet:
        next_update = issued + VALIDITY
        return CollateralSet(
            issued=issued,
            next_update=next_update,
            tcb_info=self._signed(_tcb_info(issued, next_update)),
            qe_identity=self._signed(_qe_identity(issued, next_update)),
            root_ca_crl=self.pki.root_crl(issued, next_update),
            pck_crl=self.pki.pck_crl(issued, next_update),
        )

    def _signed(self, document: dict[str, Any]) -> SignedDocument:
        text = json.dumps(document, separators=(",", ":"))
        return SignedDocument(text, raw_signature(self.pki.tcb_signer_key, text.encode()).hex())


def _check_fmspc(fmspc: str) -> None:
    if fmspc.upper() != FMSPC_TEXT:
        raise unavailable(
            "emulated.collateral.fmspc",
            "TCB info of an emulated platform",
            expected=f"FMSPC {FMSPC_TEXT}",
            found=repr(fmspc[:40]),
            remedy="real platforms have their collateral at Intel's service or a cache of it",
        )


def _date(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _level(tcb: dict[str, Any], *, current: bool) -> dict[str, Any]:
    return {
        "tcb": tcb,
        "tcbDate": _CURRENT_DATE if current else _FORMER_DATE,
        "tcbStatus": UP_TO_DATE if current else OUT_OF_DATE,
    }


def _platform_tcb(cpu_svn: bytes, pce_svn: int, tee_tcb_svn: bytes) -> dict[str, Any]:
    return {
        "sgxtcbcomponents": [{"svn": svn} for svn in cpu_svn],
        "pcesvn": pce_svn,
        "tdxtcbcomponents": [{"svn": svn} for svn in tee_tcb_svn],
    }


def _isv_levels(svn: int) -> list[dict[str, Any]]:
    return [_level({"isvsvn": svn}, current=True), _level({"isvsvn": svn - 1}, current=False)]


def _tcb_info(issued: datetime, next_update: datetime) -> dict[str, Any]:
    module = {
        "mrsigner": constants.MR_SIGNER_SEAM.hex(),
        "attributes": constants.SEAM_ATTRIBUTES.hex(),
        "attributesMask": "FF" * 8,
    }
    current = _platform_tcb(constants.CPU_SVN, constants.PCE_SVN, constants.TEE_TCB_SVN)
    former = _platform_tcb(_FORMER_CPU_SVN, _FORMER_PCE_SVN, _FORMER_TEE_TCB_SVN)
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": _date(issued),
        "nextUpdate": _date(next_update),
        "fmspc": FMSPC_TEXT,
        "pceId": constants.PCE_ID.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
        "tdxModule": module,
        "tdxModuleIdentities": [
            {"id": constants.TDX_MODULE_ID, **module, "tcbLevels": _isv_levels(constants.TDX_MODULE_SVN)}
        ],
        "tcbLevels": [
            _level(current, current=True),
            {**_level(former, current=False), "advisoryIDs": [FORMER_TCB_ADVISORY]},
        ],
    }


def _qe_identity(issued: datetime, next_update: datetime) -> dict[str, Any]:
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": _date(issued),
        "nextUpdate": _date(next_update),
        "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": constants.QE_MR_SIGNER.hex(),
        "isvprodid": constants.QE_PRODUCT_ID,
        "tcbLevels": _isv_levels(constants.QE_SVN),
    }
