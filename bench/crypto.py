"""The cryptography that a call cannot do without, called straight from the libraries with loaded keys."""

import hmac
import itertools
import secrets
from collections.abc import Callable, Mapping

import coincurve
from Crypto.Hash import keccak
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

Work = Callable[[], object]

_SECRET = bytes(range(1, 33))
_HEADER_AND_REPORT = bytes(632)  # what the signature of a quote covers
_ECDSA = ec.ECDSA(SHA256(), deterministic_signing=True)


def bare_crypto(plain: x509.Certificate, ratls: x509.Certificate) -> Mapping[str, Work]:
    """By name, one run of each. The two certificates show what has to be built: as an agent issued them."""
    quoting = ec.generate_private_key(ec.SECP256R1())
    ed25519 = Ed25519PrivateKey.from_private_bytes(_SECRET)
    secp256k1 = coincurve.PrivateKey(_SECRET)
    paths = itertools.count()

    def derived_key() -> object:
        path = b"%09d" % next(paths)
        key = hmac.digest(hmac.digest(b"RATLS", _SECRET, "sha256"), path + b"\x01", "sha256")
        public = coincurve.PublicKey.from_valid_secret(key).format()
        digest = keccak.new(digest_bits=256, data=b":" + public.hex().encode()).digest()
        return secp256k1.sign_recoverable(digest, hasher=None)

    def quote() -> object:
        return quoting.sign(_HEADER_AND_REPORT, _ECDSA)

    def issue(template: x509.Certificate) -> Work:
        issuer = ec.generate_private_key(ec.SECP256R1())
        extensions = [(one.value, one.critical) for one in template.extensions]

        def work() -> object:
            seed = hmac.digest(b"RATLS", secrets.token_bytes(32), "sha256")
            scalar = hmac.digest(seed, b"\x01", "sha256")
            key = ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())
            quote()
            builder = x509.CertificateBuilder(
                template.issuer,
                template.subject,
                key.public_key(),
                template.serial_number,
                template.not_valid_before_utc,
                template.not_valid_after_utc,
            )
            for value, critical in extensions:
                builder = builder.add_extension(value, critical)
            return builder.sign(issuer, SHA256()).public_bytes(Encoding.DER)

        return work

    return {
        "none": lambda: None,
        "derived-key": derived_key,
        "ed25519": lambda: ed25519.sign(_SECRET),
        "secp256k1": lambda: secp256k1.sign_recoverable(_SECRET),
        "quote": quote,
        "certificate": issue(plain),
        "ratls-certificate": issue(ratls),
    }
