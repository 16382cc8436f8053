"""The certificate extensions that carry evidence, by the names of guest-agent.md 9.2.

Their values are kept in `teehouse.base.oids`, since attestation and keys need them too.
"""

from teehouse.base.oids import APP_ID, APP_INFO, ARC, ATTESTATION, EVENT_LOG, QUOTE, USAGE

USAGE_APP = "app:custom"  # a leaf made for an app
USAGE_APP_CA = "app:ca"
USAGE_KMS = "kms:rpc"

__all__ = [
    "APP_ID",
    "APP_INFO",
    "ARC",
    "ATTESTATION",
    "EVENT_LOG",
    "QUOTE",
    "USAGE",
    "USAGE_APP",
    "USAGE_APP_CA",
    "USAGE_KMS",
]
