"""TLS of the KMS (trust.md 13.1).

Rules:

1. The RPC listener shows its certificate, issued by the root CA. A client may show one; if it does, it chains
   to the temporary CA. That chain proves nothing: the evidence in the certificate does, and TLS proves that
   the client has its key, anew in each handshake. Sessions are not resumed.
2. TLS 1.2 or later.
3. Towards another KMS no chain is checked: what counts is the evidence in its certificate.
4. Private keys reach the TLS library through memory alone.
"""

import os
import ssl

from cryptography.hazmat.primitives.asymmetric import ec

from teehouse.keys.pem import certificate_pem, private_key_pem
from teehouse.kms.rootkeys import RootKeys


def server_context(keys: RootKeys, rpc_certificate_der: bytes) -> ssl.SSLContext:
    """The context of the RPC listener (rules 1, 2)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=certificate_pem(keys.root.temporary_ca.certificate_der))
    load_identity(context, keys.rpc_key, rpc_certificate_der, keys.root.ca.certificate_der)
    return context


def client_context(
    key: ec.EllipticCurvePrivateKey | None = None, certificate_der: bytes | None = None
) -> ssl.SSLContext:
    """The context for asking another KMS (rules 2, 3), with a client certificate where one is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if key is not None and certificate_der is not None:
        load_identity(context, key, certificate_der)
    return context


def load_identity(context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, *chain_der: bytes) -> None:
    """Give a context its key and its chain, leaf first (rule 4). Raises OSError, `ssl.SSLError`."""
    descriptor = os.memfd_create("tls-identity", os.MFD_CLOEXEC)
    try:
        content = private_key_pem(key) + "".join(map(certificate_pem, chain_der))
        os.write(descriptor, content.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
