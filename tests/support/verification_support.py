"""Evidence in files, as people have it: RA-TLS certificates of a lying or an honest app."""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.adversary import Adversary, Claims
from support.adversary_certificates import certificate, named, new_key
from teehouse.attestation.certificate import certificate_report_data
from teehouse.attestation.envelope import encode_attestation
from teehouse.attestation.eventlog import encode_event_log

_BASE = "1.3.6.1.4.1.62397.1"


def octet_string(content: bytes) -> bytes:
    """DER of an OCTET STRING, any length below 2^16."""
    size = len(content)
    if size < 0x80:
        return b"\x04" + bytes([size]) + content
    if size < 0x100:
        return b"\x04\x81" + bytes([size]) + content
    return b"\x04\x82" + size.to_bytes(2, "big") + content


def extension(number: int, content: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{_BASE}.{number}"), octet_string(content))


def ra_tls_certificate(
    owner: Adversary,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    bound_to: ec.EllipticCurvePrivateKey | None = None,
    app_id: bytes | None = None,
    legacy: bool = False,
) -> x509.Certificate:
    """A certificate for `key` whose evidence is bound to `bound_to` (the same key, when it is honest)."""
    key = key or new_key()
    spki = (bound_to or key).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    made = owner.attest(Claims(report_data=certificate_report_data(spki)))
    if legacy:
        log = encode_event_log(event for event in made.event_log if event.imr == 3)
        extensions = [extension(1, made.quote), extension(2, log.encode())]
    else:
        extensions = [extension(8, encode_attestation(made))]
    if app_id is not None:
        extensions.append(extension(3, app_id))
    return certificate(named("app"), key, named("app"), key, *extensions)
