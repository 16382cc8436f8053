"""Evidence as people have it in files: binary, hex, PEM or one of the JSON forms that services answer.

Rules:

1. A file has at most `FILE_LIMIT` bytes.
2. JSON is told by its first brace: `{"attestation": hex}`, or `{"quote": hex, "event_log": text or list,
   "vm_config": text or object, "report_data": hex}` as GetQuote answers it, all but the quote optional. The
   control plane's attestations have the log in `eventlog`, or within `tcb_info` (cloud-api.md 11.7). Where there
   is an attestation, nothing beside it is looked at (trust.md 12).
3. Hex may begin with 0x and have white space around it. Everything else is binary.
4. A certificate is PEM (the first of several counts: the leaf), DER, or hex of DER.
"""

import json
from dataclasses import replace
from typing import Any

from teehouse.attestation import strictjson
from teehouse.attestation.certificate import (
    AttestationExtensions,
    attestation_extensions,
)
from teehouse.attestation.envelope import decode_attestation
from teehouse.attestation.evidence import Evidence
from teehouse.attestation.pck import split_pem_chain
from teehouse.base.findings import malformed

FILE_LIMIT = 32 * 1024 * 1024  # bytes: the largest attestation, in hex, inside JSON
_NAME = "evidence"
_REPORT_DATA_SIZE = 64


def read_quote(data: bytes, event_log: bytes | None = None) -> Evidence:
    """Evidence from a quote, or from JSON (rule 2); `event_log` is JSON text beside a quote without one.

    Raises `EvidenceError`.
    """
    found = _from_json(_bounded(data))
    evidence = Evidence(_binary(data)) if found is None else found
    if event_log is not None:
        with_log = Evidence.from_quote(evidence.quote, event_log)
        evidence = replace(evidence, event_log=with_log.event_log, runtime_events=with_log.runtime_events)
    return evidence


def read_attestation(data: bytes) -> Evidence:
    """Evidence from an attestation, or from JSON (rule 2). Raises `EvidenceError`."""
    found = _from_json(_bounded(data))
    return Evidence.from_attestation(decode_attestation(_binary(data))) if found is None else found


def read_certificate(data: bytes) -> tuple[Evidence, AttestationExtensions]:
    """Evidence inside an RA-TLS certificate (trust.md 10), and its extensions. Raises `EvidenceError`."""
    text = _bounded(data).lstrip()
    der = split_pem_chain(text)[0] if text.startswith(b"-----BEGIN") else _binary(data)
    extensions = attestation_extensions(der)
    if extensions.attestation is not None:
        return Evidence.from_attestation(decode_attestation(extensions.attestation)), extensions
    if extensions.quote is not None:
        return Evidence.from_quote(extensions.quote, extensions.event_log), extensions
    raise malformed(
        "certificate.no-attestation",
        "the attestation in the certificate",
        expected="extension 1.3.6.1.4.1.62397.1.8, or .1 and .2",
        found="none",
        remedy="ask for a certificate with usage_ra_tls",
    )


def _bounded(data: bytes) -> bytes:
    if len(data) > FILE_LIMIT:  # rule 1
        raise malformed(
            f"{_NAME}.too-long",
            "the evidence is too long",
            expected=f"at most {FILE_LIMIT} bytes",
            found=str(len(data)),
        )
    return data


def _binary(data: bytes) -> bytes:
    """Hex decoded, anything else as it is (rule 3)."""
    text = data.strip()
    digits = text[2:] if text[:2] in (b"0x", b"0X") else text
    try:
        return bytes.fromhex(digits.decode("ascii")) if digits else data
    except ValueError:
        return data


def _from_json(data: bytes) -> Evidence | None:
    """Rule 2; None for what is no JSON object."""
    if not data.lstrip().startswith(b"{"):
        return None
    members = strictjson.load_object(data, _NAME, limit=FILE_LIMIT)
    if members.get("attestation") is not None:
        return Evidence.from_attestation(decode_attestation(_hex(members, "attestation")))
    log, config = _log(members), members.get("vm_config")
    evidence = Evidence.from_quote(
        _hex(members, "quote"),
        None if log is None else _as_text(log),
        None if config in (None, "") else _as_text(config),
    )
    if members.get("report_data") in (None, ""):
        return evidence
    claimed = _hex(members, "report_data")
    return replace(evidence, report_data=claimed.ljust(_REPORT_DATA_SIZE, b"\0"))


def _log(members: dict[str, Any]) -> Any:
    """The event log, by the first of its names that is there; None for none."""
    info = members.get("tcb_info")
    within = info.get("event_log") if isinstance(info, dict) else None
    named = (members.get("event_log"), members.get("eventlog"), within)
    return next((log for log in named if log not in (None, "")), None)


def _hex(members: dict[str, Any], key: str) -> bytes:
    text = strictjson.text_member(members, key, _NAME).removeprefix("0x")
    return strictjson.from_hex(text, f"{key} of {_NAME}", _NAME)


def _as_text(value: Any) -> str:
    """JSON inside JSON comes as text from a service, as a value from people."""
    return value if isinstance(value, str) else json.dumps(value)
