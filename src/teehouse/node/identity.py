"""Who may speak to a node, and which node answers: one CA for each installation (design.md 6).

Rules:

1. An installation has a CA of its own: P-256, path length 0. Its key issues certificates and nothing else, and
   lies in one file of mode 0600, written whole or not at all.
2. A node's certificate is for TLS servers alone, a controller's for TLS clients alone: no node can command another.
3. A certificate names its holder, as `NAME.node.teehouse.internal` or `NAME.controller.teehouse.internal`. A
   controller asks for a node by that name, wherever it listens: a node that moves keeps its certificate,
   and one node cannot answer for another.
4. Dates are judged against the time that the caller gives. TLS judges them by the machine's clock as well.
5. Where keys are pinned, by SHA-256 of their SPKI, only those count; the CA is asked for beside.
6. A CA is replaced in three steps, with new bundles for everybody after each: the next one is trusted, then it
   issues, then the former ones are dropped. A leaf never outlives its CA.
7. Private keys are in no repr, no message and no log, and reach the TLS library through memory alone. TLS is 1.3
   without resumption: every connection proves its key anew.
"""

import os
import re
import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from teehouse.base.findings import Finding, Outcome, misuse
from teehouse.base.hashes import sha256
from teehouse.keys.certificate import CertificateFields, Issuer, issue, self_signed
from teehouse.keys.pem import (
    certificate_pem,
    certificate_public_key,
    load_certificate,
    private_key_pem,
    spki_der,
)

AUTHORITY_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=365)
AUTHORITY_LIMIT = 8  # CAs that are trusted at one time
SKEW = timedelta(hours=1)  # by how much a clock elsewhere may be slow

_ORGANISATION = "Teehouse"
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")  # 40: the subject's CN has at most 64 characters
_NAME_FORM = "1 to 40 lower-case letters, digits and inner hyphens"


class Role(Enum):
    """What a certificate of the installation is for (rule 2)."""

    NODE = "node"
    CONTROLLER = "controller"


_USAGE = {Role.NODE: ExtendedKeyUsageOID.SERVER_AUTH, Role.CONTROLLER: ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True, slots=True)
class Identity:
    """A holder's certificate (DER) and key, and the certificates of the CAs that it trusts (DER)."""

    role: Role
    name: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate_der: bytes = field(repr=False)
    authorities: tuple[bytes, ...] = field(repr=False)

    @property
    def expires(self) -> datetime:
        """The last instant of the certificate."""
        return load_certificate(self.certificate_der).not_valid_after_utc

    @property
    def pin(self) -> bytes:
        """SHA-256 of the key's SPKI, 32 bytes (rule 5)."""
        return sha256(spki_der(self.key.public_key()))


@dataclass(frozen=True, slots=True)
class NodeAuthority:
    """The CAs of an installation: all are trusted, the first one issues (rule 6). Never empty."""

    issuers: tuple[Issuer, ...]

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """The CA certificates, DER."""
        return tuple(issuer.certificate_der for issuer in self.issuers)

    def issue(
        self,
        role: Role,
        name: str,
        now: datetime,
        *,
        lifetime: timedelta = LEAF_LIFETIME,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Identity:
        """An identity that is valid from an hour before `now`; `key` is a new one when left out.

        Raises `MisuseError` for a name that cannot be one, and when the CA itself has expired.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        issuer = self.issuers[0]
        authority_end = load_certificate(issuer.certificate_der).not_valid_after_utc
        if now >= authority_end:
            raise misuse(
                "node.authority-expired",
                "the node CA of this installation",
                expected=f"valid after {now.isoformat()}",
                found=f"expired {authority_end.isoformat()}",
                remedy="replace it with `teehouse node ca`, then make new bundles",
            )
        fields = CertificateFields(
            host_name(role, name),
            organisation=_ORGANISATION,
            alt_names=(host_name(role, name),),
            server_auth=role is Role.NODE,
            client_auth=role is Role.CONTROLLER,
            not_before=int((now - SKEW).timestamp()),
            not_after=int(min(now + lifetime, authority_end).timestamp()),
        )
        return Identity(role, name, key, issue(fields, key.public_key(), issuer, now), self.authorities)

    def with_next(self, now: datetime) -> "NodeAuthority":
        """With a new CA that is trusted and does not issue yet. Raises `MisuseError` when there are too many."""
        if len(self.issuers) >= AUTHORITY_LIMIT:
            raise misuse(
                "node.authority-limit",
                "CAs of this installation",
                expected=f"at most {AUTHORITY_LIMIT}",
                remedy="drop the former ones first",
            )
        return NodeAuthority((*self.issuers, *make_authority(now).issuers))

    def promoted(self) -> "NodeAuthority":
        """With the newest CA as the one that issues."""
        return NodeAuthority((*self.issuers[-1:], *self.issuers[:-1]))

    def without_former(self) -> "NodeAuthority":
        """With the CA that issues alone."""
        return NodeAuthority(self.issuers[:1])


def make_authority(now: datetime, *, key: ec.EllipticCurvePrivateKey | None = None) -> NodeAuthority:
    """A CA that is valid from an hour before `now` (rule 1)."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    # The name tells the CAs of an installation apart: chains are built by name.
    label = sha256(spki_der(key.public_key())).hex()[:16]
    fields = CertificateFields(
        f"Teehouse node CA {label}",
        organisation=_ORGANISATION,
        not_before=int((now - SKEW).timestamp()),
        not_after=int((now + AUTHORITY_LIFETIME).timestamp()),
        ca_level=0,
    )
    return NodeAuthority((Issuer(key, self_signed(fields, key, now)),))


def host_name(role: Role, name: str) -> str:
    """The name in a certificate (rule 3). Raises `MisuseError`."""
    if not _LABEL.fullmatch(name):
        raise misuse("node.name", f"the name of a {role.value}", expected=_NAME_FORM, found=ascii(name[:80]))
    return f"{name}.{role.value}.teehouse.internal"


def name_in(certificate_der: bytes, role: Role) -> str | None:
    """The name that a certificate gives a holder of this role, None when it gives none."""
    try:
        certificate = load_certificate(certificate_der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except Exception:  # noqa: BLE001 - a foreign certificate may be broken in many ways; then it names nobody
        return None
    suffix = f".{role.value}.teehouse.internal"
    for host in names.get_values_for_type(x509.DNSName):
        label = host.removesuffix(suffix)
        if list(usages) == [_USAGE[role]] and label != host and _LABEL.fullmatch(label):
            return label
    return None


def judge_certificate(
    certificate_der: bytes, role: Role, now: datetime, pins: Collection[bytes] = ()
) -> Finding:
    """Rules 2 to 5 for the certificate of a peer, or of our own, whose chain TLS has checked or we issued."""
    name = name_in(certificate_der, role)
    if name is None:
        return _refusal(
            "node.certificate-role", "the peer's certificate", f"one of a {role.value}", "another"
        )
    subject = f"the certificate of {role.value} {name}"
    certificate = load_certificate(certificate_der)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        code, remedy = "node.certificate-expired", "issue a new one with `teehouse node bundle`"
        if now < begin:
            code, remedy = "node.certificate-early", "set the clocks of both machines right"
        span = f"{begin.isoformat()} to {end.isoformat()}"
        return _refusal(code, subject, f"valid {span}", now.isoformat(), remedy)
    if pins and sha256(spki_der(certificate_public_key(certificate_der))) not in pins:
        return _refusal("node.certificate-pin", subject, "a key that is pinned", "another")
    return Finding("node.certificate", subject)


def _refusal(code: str, subject: str, expected: str, found: str, remedy: str = "") -> Finding:
    return Finding(code, subject, Outcome.REJECTED, expected, found, remedy)


def server_context(identity: Identity) -> ssl.SSLContext:
    """TLS of a node: who shows no controller's certificate of the CA is not let in (rules 2, 7)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _common(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    load_identity(context, identity)
    return context


def client_context(identity: Identity) -> ssl.SSLContext:
    """TLS of a controller: the node's chain and name are checked (rules 3, 7)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _common(context)
    load_identity(context, identity)
    return context


def load_identity(context: ssl.SSLContext, identity: Identity) -> None:
    """Give a context this certificate, and trust in these CAs beside those it has.

    A listener that runs shows the new certificate to whoever connects from now on: rotation needs no restart.
    """
    for authority in identity.authorities:
        context.load_verify_locations(cadata=certificate_pem(authority))
    descriptor = os.memfd_create("node-identity", os.MFD_CLOEXEC)  # rule 7
    try:
        content = private_key_pem(identity.key) + certificate_pem(identity.certificate_der)
        os.write(descriptor, content.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _common(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    # The certificate profile has no authorityKeyIdentifier, which the strict mode would ask for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
