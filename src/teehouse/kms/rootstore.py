"""The directory in which the root keys of a KMS lie (trust.md 13.3).

Rules:

1. The store is whole or it is not there: it is written into a directory beside its own and renamed. One that
   lacks a file, or whose files do not belong together, is refused with the names; it is never completed.
2. It is written once. Nothing overwrites root keys.
3. Every `.key` file is readable by its owner only, and is refused when it is not.
4. With a sealing key, `.key` files are sealed (`keys.sealing`); those that are not yet are sealed when the
   store is opened. A sealed store does not open without it.
5. A CA certificate that is due (`kms.rootkeys`, rule 3) is renewed when the store is opened.
6. The certificate of the RPC listener is replaced at each start.
"""

import contextlib
import os
import secrets
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from teehouse.base.files import locked, write_atomic
from teehouse.base.findings import EvidenceError, misuse
from teehouse.keys.appkeys import KmsRoot
from teehouse.keys.certificate import Issuer
from teehouse.keys.derive import KEY_SIZE
from teehouse.keys.pem import (
    certificate_der,
    certificate_pem,
    certificate_public_key,
    load_p256_private_key,
    private_key_pem,
)
from teehouse.keys.sealing import NONCE_SIZE, check_sealing_key, is_sealed, seal, unseal
from teehouse.keys.signing import public_key
from teehouse.kms.refusal import context
from teehouse.kms.rootkeys import (
    ROOT_CA,
    TEMPORARY_CA,
    BootstrapInfo,
    RandomBytes,
    RootKeys,
    check_domain,
    parse_bootstrap_info,
    renewed_ca,
)

RPC = "rpc"
K256_KEY, RPC_DOMAIN, BOOTSTRAP_INFO = "root-k256.key", "rpc-domain", "bootstrap-info.json"
REQUIRED = (
    f"{TEMPORARY_CA}.crt",
    f"{TEMPORARY_CA}.key",
    f"{ROOT_CA}.crt",
    f"{ROOT_CA}.key",
    f"{RPC}.crt",
    f"{RPC}.key",
    RPC_DOMAIN,
    K256_KEY,
)
FILE_LIMIT = 1024 * 1024  # bytes of any file of the store

_PUBLIC = 0o644
_OTHERS = 0o077


class RootKeyStore:
    """The directory of the root keys. `sealing_key` is 32 bytes, or None where the machine has none.

    Methods block for the time of a read or write. Raises `MisuseError` for a sealing key of another size.
    """

    def __init__(
        self,
        directory: Path,
        sealing_key: bytes | None = None,
        *,
        random: RandomBytes = secrets.token_bytes,
    ) -> None:
        if sealing_key is not None:
            check_sealing_key(sealing_key)
        self.directory = directory
        self._sealing_key = sealing_key
        self._random = random

    def exists(self) -> bool:
        """Whether there are keys. Raises `MisuseError` for half of them (rule 1), OSError."""
        missing = [name for name in REQUIRED if not (self.directory / name).is_file()]
        if missing and len(missing) < len(REQUIRED):
            raise misuse(
                "kms.store-incomplete",
                f"the root keys in {self.directory} are not complete",
                expected=f"{len(REQUIRED)} files",
                found=f"no {', '.join(missing)}",
                remedy="restore the whole directory, or move it away and onboard from another KMS",
            )
        return not missing

    def create(self, keys: RootKeys, rpc_certificate_der: bytes) -> None:
        """Write a new store (rules 1, 2, 3, 4).

        Raises `MisuseError` when there is one, or when the directory holds something else; OSError, and
        then nothing was written.
        """
        files = {**_files(keys), f"{RPC}.crt": certificate_pem(rpc_certificate_der).encode()}
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{self.directory.name}.new-"
        with locked(self.directory.with_name(f".{self.directory.name}.lock")):
            for left in self.directory.parent.glob(f"{prefix}*"):  # of a process that died meanwhile
                shutil.rmtree(left)
            if self.exists():
                raise misuse("kms.store-exists", "this KMS has its root keys already")
            if self.directory.exists() and any(self.directory.iterdir()):
                raise misuse(
                    "kms.store-occupied",
                    f"{self.directory} is not empty",
                    expected="a directory for the root keys alone",
                )
            fresh = self.directory.with_name(prefix + secrets.token_hex(6))
            fresh.mkdir(mode=0o700)
            try:
                for name, content in files.items():
                    self._write(fresh / name, content)
                fresh.rename(self.directory)
            except BaseException:
                with contextlib.suppress(OSError):
                    shutil.rmtree(fresh)
                raise
            _sync(self.directory.parent)

    def load(self, now: datetime) -> RootKeys:
        """The keys; renews and seals what needs it (rules 4, 5). Raises `MisuseError`, OSError."""
        if not self.exists():
            raise misuse(
                "kms.store-missing",
                f"there are no root keys in {self.directory}",
                remedy="bootstrap this KMS, or onboard it from another",
            )
        with context(f"the root keys in {self.directory}"):
            keys = self._read_all()
        renewed = replace(
            keys.root,
            ca=renewed_ca(ROOT_CA, keys.root.ca, now),
            temporary_ca=renewed_ca(TEMPORARY_CA, keys.root.temporary_ca, now),
        )
        for name, former, issuer in (
            (ROOT_CA, keys.root.ca, renewed.ca),
            (TEMPORARY_CA, keys.root.temporary_ca, renewed.temporary_ca),
        ):
            if issuer is not former:
                self._write(self.directory / f"{name}.crt", certificate_pem(issuer.certificate_der).encode())
        return replace(keys, root=renewed)

    def put_rpc_certificate(self, der: bytes) -> None:
        """Replace the certificate of the RPC listener (rule 6). Raises OSError."""
        self._write(self.directory / f"{RPC}.crt", certificate_pem(der).encode())

    def _read_all(self) -> RootKeys:
        k256_key = self._read_key(K256_KEY)
        if len(k256_key) != KEY_SIZE:
            raise misuse("kms.k256-size", f"{K256_KEY} has the wrong size", expected=f"{KEY_SIZE} bytes")
        public_key("secp256k1", k256_key)  # an impossible key is found now
        root = KmsRoot(self._issuer(ROOT_CA), k256_key, self._issuer(TEMPORARY_CA))
        keys = RootKeys(
            root=root,
            rpc_key=self._private_key(RPC),
            domain=check_domain(self._text(RPC_DOMAIN)),
            bootstrap_info=self._bootstrap_info(),
        )
        told = keys.bootstrap_info
        if told is not None and (told.ca_pubkey, told.k256_pubkey) != (
            keys.ca_pubkey,
            root.k256_public_key,
        ):
            raise misuse("kms.store-mixed", f"{BOOTSTRAP_INFO} is about other keys")
        return keys

    def _issuer(self, name: str) -> Issuer:
        key = self._private_key(name)
        der = certificate_der(self._text(f"{name}.crt"))
        if certificate_public_key(der, f"{name}.crt") != key.public_key():
            raise misuse("kms.store-mixed", f"{name}.key does not belong to {name}.crt")
        return Issuer(key, der)

    def _private_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        try:
            pem = self._read_key(f"{name}.key").decode()
        except UnicodeDecodeError:
            pem = ""
        with context(f"{name}.key"):
            return load_p256_private_key(pem)

    def _bootstrap_info(self) -> BootstrapInfo | None:
        if not (self.directory / BOOTSTRAP_INFO).exists():
            return None
        try:
            return parse_bootstrap_info(self._read(BOOTSTRAP_INFO))
        except EvidenceError as error:
            raise misuse("kms.store-malformed", str(error)) from None

    def _text(self, name: str) -> str:
        try:
            return self._read(name).decode("ascii").strip()
        except UnicodeDecodeError:
            raise misuse("kms.store-malformed", f"{name} is not text") from None

    def _read(self, name: str) -> bytes:
        with (self.directory / name).open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
        if len(content) > FILE_LIMIT:
            raise misuse("kms.store-too-long", f"{name} is too long", expected=f"at most {FILE_LIMIT} bytes")
        return content

    def _read_key(self, name: str) -> bytes:
        path = self.directory / name
        mode = path.stat().st_mode & 0o777
        if mode & _OTHERS:  # rule 3
            raise misuse(
                "kms.store-open",
                f"{name} is readable by others",
                expected="mode 0600",
                found=f"{mode:04o}",
                remedy=f"chmod 600 {path}, and ask who has read it",
            )
        content = self._read(name)
        if not is_sealed(content):
            if self._sealing_key is not None:  # rule 4
                self._write(path, content)
            return content
        if self._sealing_key is None:
            raise misuse(
                "kms.store-sealed", f"{name} is sealed", remedy="give the sealing key that it was sealed with"
            )
        return unseal(self._sealing_key, name, content)

    def _write(self, path: Path, content: bytes) -> None:
        secret = path.suffix == ".key"
        if secret and self._sealing_key is not None:
            content = seal(self._sealing_key, path.name, content, self._random(NONCE_SIZE))
        if secret:
            write_atomic(path, content)
        else:
            write_atomic(path, content, mode=_PUBLIC)


def _files(keys: RootKeys) -> dict[str, bytes]:
    """The content of every file but the RPC certificate."""
    root = keys.root
    files = {
        f"{ROOT_CA}.crt": certificate_pem(root.ca.certificate_der).encode(),
        f"{ROOT_CA}.key": private_key_pem(root.ca.key).encode(),
        f"{TEMPORARY_CA}.crt": certificate_pem(root.temporary_ca.certificate_der).encode(),
        f"{TEMPORARY_CA}.key": private_key_pem(root.temporary_ca.key).encode(),
        f"{RPC}.key": private_key_pem(keys.rpc_key).encode(),
        RPC_DOMAIN: keys.domain.encode(),
        K256_KEY: root.k256_key,
    }
    if keys.bootstrap_info is not None:
        files[BOOTSTRAP_INFO] = keys.bootstrap_info.to_json().encode()
    return files


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
