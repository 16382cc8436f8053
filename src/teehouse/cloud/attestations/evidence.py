"""What an agent's evidence says, taken apart for people and for verifiers. Pure; nothing is judged here.

Rules:

1. Whatever cannot be read is an `EvidenceError`; the caller shows an error instead of half an answer.
2. The registers of the TCB info are those of the quote: an agent that measured something between the two answers
   is asked again (`OUT_OF_STEP`).
3. Texts that are hashed elsewhere (app-compose) are passed on as they are.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID, ObjectIdentifier, SignatureAlgorithmOID

from teehouse.attestation import strictjson
from teehouse.attestation.abi import TdReport, parse_quote
from teehouse.attestation.certificate import AttestationExtensions, attestation_extensions
from teehouse.attestation.envelope import decode_attestation
from teehouse.attestation.eventlog import encode_event_log, parse_event_log
from teehouse.attestation.identity import device_id
from teehouse.attestation.pck import PckExtension, parse_pck_extension, split_pem_chain
from teehouse.attestation.vmconfig import parse_vm_config
from teehouse.base.findings import malformed, unsupported
from teehouse.base.hashes import sha256
from teehouse.cloud.attestations.agents import AgentEvidence
from teehouse.wire.cloud.base import time_text

OUT_OF_STEP: Final = "attestation.out-of-step"
CERTIFICATES: Final = 256  # that are not taken apart again: a CVM has the same ones until it boots again
KEPT: Final = 64  # hosts whose PCK certificates are not parsed again
TCB_INFO_LIMIT: Final = 16 * 1024 * 1024  # characters
Json = dict[str, Any]

_REGISTERS: Final = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
_HASHES: Final = ("mr_aggregated", "os_image_hash", "compose_hash", "device_id")
_SIGNATURES: Final = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: "ecdsa-with-SHA256",
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: "ecdsa-with-SHA384",
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: "ecdsa-with-SHA512",
    SignatureAlgorithmOID.ED25519: "ED25519",
    SignatureAlgorithmOID.RSA_WITH_SHA256: "sha256WithRSAEncryption",
}


@dataclass(frozen=True, slots=True)
class InstanceEvidence:
    """Evidence of one CVM as answers carry it: hex without `0x`, objects of JSON members.

    `tcb_info` and `vm_config` are None where the app hides them; the log is then the one beside the quote.
    """

    quote: str
    ppid: str
    ppid_sha256: str
    device_id: str
    fmspc: str
    cpu_svn: str
    pce_svn: int
    tee_tcb_svn: str
    mr_config_id: str
    tcb_info: Json | None
    event_log: list[Json]
    certificates: list[Json]
    qemu_version: str | None
    vm_config: str | None


def read_evidence(answer: AgentEvidence) -> InstanceEvidence:
    """Take the agent's answers apart. Raises `EvidenceError` (rules 1, 2)."""
    quote = parse_quote(answer.quote)
    if not isinstance(quote.body, TdReport):
        raise unsupported("attestation.no-td", "the quote is of no TD")
    platform = _platform(quote.certification_data)
    tcb_info = _tcb_info(answer.tcb_info, quote.body) if answer.tcb_info else None
    return InstanceEvidence(
        quote=answer.quote.hex(),
        ppid=platform.ppid.hex(),
        ppid_sha256=sha256(platform.ppid).hex(),
        device_id=device_id(platform.ppid).hex(),
        fmspc=platform.fmspc.hex(),
        cpu_svn=platform.cpu_svn.hex(),
        pce_svn=platform.pce_svn,
        tee_tcb_svn=quote.body.tee_tcb_svn.hex(),
        mr_config_id=quote.body.mr_config_id.hex(),
        tcb_info=tcb_info,
        event_log=_event_log(answer.event_log) if tcb_info is None else tcb_info["event_log"],
        certificates=read_certificates(answer.app_certificate),
        qemu_version=parse_vm_config(answer.vm_config).qemu_version if answer.vm_config else None,
        vm_config=answer.vm_config or None,
    )


@lru_cache(KEPT)
def _platform(certification_data: bytes) -> PckExtension:
    """What the PCK certificate says: the same for all CVMs of a host."""
    return parse_pck_extension(split_pem_chain(certification_data)[0])


def read_certificates(chain: str) -> list[Json]:
    """`Certificate` objects of a PEM chain, leaf first; none for no text. Raises `EvidenceError`."""
    if not chain.strip():
        return []
    return [{**_certificate(der, position)} for position, der in enumerate(split_pem_chain(chain.encode()))]


def _tcb_info(text: str, report: TdReport) -> Json:
    members = strictjson.load_object(text, "tcb-info", limit=TCB_INFO_LIMIT)
    registers = (report.mr_td, *report.rtmrs)
    quoted = dict(zip(_REGISTERS, (register.hex() for register in registers), strict=True))
    if not isinstance(members.get("app_compose"), str):
        raise malformed("attestation.tcb-info", "the agent's TCB info lacks members")
    if {name: members.get(name) for name in _REGISTERS} != quoted:
        raise malformed(OUT_OF_STEP, "the agent's TCB info and its quote are of different moments")
    return {
        **quoted,
        "rootfs_hash": None,
        **{name: members[name] for name in _HASHES if isinstance(members.get(name), str)},
        "event_log": _event_log(json.dumps(members.get("event_log"))),
        "app_compose": members["app_compose"],
    }


def _event_log(text: str) -> list[Json]:
    log: list[Json] = json.loads(encode_event_log(parse_event_log(text)))
    return log


@lru_cache(CERTIFICATES)
def _certificate(der: bytes, position: int) -> Json:
    try:
        return _certificate_members(der, position)
    except ValueError as error:  # the library reads names and times when they are asked for
        raise malformed(
            "attestation.certificate", "a certificate of the agent cannot be read", found=type(error).__name__
        ) from None


def _certificate_members(der: bytes, position: int) -> Json:
    extensions = attestation_extensions(der)
    certificate = x509.load_der_x509_certificate(der)
    constraints = _extension(certificate, x509.BasicConstraints)
    names = _extension(certificate, x509.SubjectAlternativeName)
    subject, issuer = certificate.subject, certificate.issuer
    signature = certificate.signature_algorithm_oid
    return {
        "subject": {
            "common_name": _name(subject, NameOID.COMMON_NAME),
            "organization": _name(subject, NameOID.ORGANIZATION_NAME),
            "country": _name(subject, NameOID.COUNTRY_NAME),
            "state": _name(subject, NameOID.STATE_OR_PROVINCE_NAME),
            "locality": _name(subject, NameOID.LOCALITY_NAME),
        },
        "issuer": {
            "common_name": _name(issuer, NameOID.COMMON_NAME),
            "organization": _name(issuer, NameOID.ORGANIZATION_NAME),
            "country": _name(issuer, NameOID.COUNTRY_NAME),
        },
        "serial_number": str(certificate.serial_number),
        "not_before": time_text(certificate.not_valid_before_utc),
        "not_after": time_text(certificate.not_valid_after_utc),
        "version": certificate.version.name,
        "fingerprint": certificate.fingerprint(hashes.SHA256()).hex(),
        "signature_algorithm": _SIGNATURES.get(signature, signature.dotted_string),
        "sans": None if names is None else [str(name.value) for name in names],
        "is_ca": constraints is not None and constraints.ca,
        "position_in_chain": position,
        "quote": _quote(extensions),
        "app_id": None if extensions.app_id is None else extensions.app_id.hex(),
        "cert_usage": extensions.usage,
    }


def _quote(extensions: AttestationExtensions) -> str | None:
    if extensions.quote is not None:
        return extensions.quote.hex()
    if extensions.attestation is not None:
        return decode_attestation(extensions.attestation).quote.hex()
    return None


def _extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name(name: x509.Name, oid: ObjectIdentifier) -> str | None:
    found = name.get_attributes_for_oid(oid)
    return str(found[0].value) if found else None
