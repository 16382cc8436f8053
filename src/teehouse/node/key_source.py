"""Where a boot gets its app's keys from: a KMS, behind a Protocol that a test can stand in for."""

from collections.abc import Sequence
from typing import Protocol

from teehouse.base.clock import Clock
from teehouse.guest.tls import LeafSigner
from teehouse.keys.appkeys import AppKeys
from teehouse.kms.client.appkeys import (
    DEFAULT_PATIENCE,
    KeyRequest,
    Patience,
    ReceivedKeys,
    obtain_app_keys,
)
from teehouse.kms.client.signer import kms_signer
from teehouse.kms.client.temporary import Attest


class KeySource(Protocol):
    """A KMS, seen from a boot."""

    async def obtain(self, urls: Sequence[str], request: KeyRequest, attest: Attest) -> ReceivedKeys:
        """The keys, from the first of `urls` that gives them. Raises what `obtain_app_keys` raises."""
        ...

    def signer(self, keys: AppKeys, vm_config: str) -> LeafSigner:
        """Who signs the certificates of an app with these keys. Raises `MisuseError`."""
        ...


class KmsKeySource:
    """A real KMS over RA-TLS (trust.md 13.5). `patience` says how long a boot waits for one."""

    def __init__(self, clock: Clock, *, patience: Patience = DEFAULT_PATIENCE) -> None:
        self._clock = clock
        self._patience = patience

    async def obtain(self, urls: Sequence[str], request: KeyRequest, attest: Attest) -> ReceivedKeys:
        return await obtain_app_keys(urls, request, attest, self._clock, patience=self._patience)

    def signer(self, keys: AppKeys, vm_config: str) -> LeafSigner:
        return kms_signer(keys, self._clock, vm_config=vm_config)
