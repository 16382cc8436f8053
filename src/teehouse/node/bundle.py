"""The files of mutual TLS: the installation's CA, and what a node or a controller elsewhere needs of it.

Rules:

1. Both are JSON of at most `FILE_LIMIT` bytes, mode 0600, written whole or not at all; a file that others can
   read is refused. Every member is needed, and there is no other; what is wrong is said without its content.
2. A bundle holds the CAs' certificates, its holder's certificate and key, and name and address of the
   node: itself, or the one that the controller is for. Its certificate is for its key, its role and its name.
3. The CA's file is made when it is first asked for, by one process alone.
"""

import ipaddress
import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from teehouse.base.files import locked, write_atomic
from teehouse.base.findings import MisuseError, misuse
from teehouse.guest.sockets import TcpAddress
from teehouse.keys.certificate import Issuer
from teehouse.keys.pem import (
    certificate_der,
    certificate_pem,
    certificate_public_key,
    load_p256_private_key,
    private_key_pem,
    spki_der,
)
from teehouse.node.identity import (
    AUTHORITY_LIMIT,
    Identity,
    NodeAuthority,
    Role,
    host_name,
    make_authority,
    name_in,
)

FILE_LIMIT = 256 * 1024  # bytes
BUNDLE_REMEDY = "make it again with `teehouse node bundle`"
AUTHORITY_REMEDY = "put back a copy of it, or delete it to start anew; then every bundle is made again"
_VERSION = 1
_ROLES = tuple(role.value for role in Role)
_ADDRESS = re.compile(r"(?:([A-Za-z0-9][A-Za-z0-9._-]{0,252})|\[([0-9A-Fa-f:.]{2,45})\]):([0-9]{1,5})")

T = TypeVar("T")


class _FileFault(Exception):  # noqa: N818 - a note on its way to `_parsed`, never seen outside
    """What is wrong with a file, in words of our own."""


@dataclass(frozen=True, slots=True)
class NodeBundle:
    """What one holder needs (rule 2). `node` names the node, and `address` is where it listens."""

    identity: Identity = field(repr=False)
    node: str
    address: TcpAddress

    def to_json(self) -> bytes:
        """The file's content; it holds the private key."""
        identity = self.identity
        return _dump(
            {
                "version": _VERSION,
                "role": identity.role.value,
                "name": identity.name,
                "node": self.node,
                "address": str(self.address),
                "authorities": [certificate_pem(der) for der in identity.authorities],
                "certificate": certificate_pem(identity.certificate_der),
                "key": private_key_pem(identity.key),
            }
        )

    def save(self, path: Path) -> None:
        """Write the file (rule 1). Raises `MisuseError`."""
        _save(path, self.to_json(), "node bundle")


def parse_bundle(raw: bytes) -> NodeBundle:
    """Read a bundle. Raises `MisuseError` (rules 1, 2)."""
    return _parsed(raw, "node bundle", BUNDLE_REMEDY, _bundle)


def load_bundle(path: Path) -> NodeBundle:
    """Read the file of a bundle. Raises `MisuseError`."""
    return parse_bundle(_load(path, "node bundle"))


def parse_authority(raw: bytes) -> NodeAuthority:
    """Read the CA's file. Raises `MisuseError`."""
    return _parsed(raw, "node CA", AUTHORITY_REMEDY, _authority)


def authority_json(authority: NodeAuthority) -> bytes:
    """The CA's file; it holds the private keys."""
    issuers = [
        {"certificate": certificate_pem(issuer.certificate_der), "key": private_key_pem(issuer.key)}
        for issuer in authority.issuers
    ]
    return _dump({"version": _VERSION, "issuers": issuers})


def open_authority(path: Path, now: datetime) -> NodeAuthority:
    """The CA whose file is `path`, made when there is none (rule 3). Raises `MisuseError`."""
    return change_authority(path, now, lambda authority: authority)


def change_authority(
    path: Path, now: datetime, change: Callable[[NodeAuthority], NodeAuthority]
) -> NodeAuthority:
    """Replace the CA's file by what `change` makes of it, for rotation. Raises `MisuseError`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(path.with_name(f"{path.name}.lock")):
            stored = parse_authority(_load(path, "node CA")) if path.exists() else None
            changed = change(stored or make_authority(now))
            if changed is not stored:
                _save(path, authority_json(changed), "node CA")
            return changed
    except OSError as error:
        raise _unusable(path, "node CA", error) from error


def parse_address(text: str) -> TcpAddress:
    """`HOST:PORT` or `[HOST]:PORT`, port 0 for a free one. Raises `MisuseError`."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise misuse("node.address", "no such address", expected="HOST:PORT", found=ascii(text[:200]))
    return TcpAddress(match[1] or match[2], int(match[3]))


def is_loopback(address: TcpAddress) -> bool:
    """Whether only this machine reaches it. No name but localhost is looked up, or counts."""
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host == "localhost"


def _bundle(members: dict[str, Any]) -> NodeBundle:
    _exactly(members, "role", "name", "node", "address", "authorities", "certificate", "key")
    if members["role"] not in _ROLES:
        raise _FileFault("a role that is none")
    role, name = Role(members["role"]), _text(members["name"])
    leaf = certificate_der(_text(members["certificate"]))
    trusted = tuple(certificate_der(_text(pem)) for pem in _several(members["authorities"], "CAs"))
    for authority in trusted:
        certificate_public_key(authority, "a CA's certificate")
    key = load_p256_private_key(_text(members["key"]))
    if name_in(leaf, role) != name or _spki(leaf) != spki_der(key.public_key()):
        raise _FileFault("a certificate for another key, role or name")
    node = _text(members["node"])
    host_name(Role.NODE, node)
    if role is Role.NODE and node != name:
        raise _FileFault("a node's bundle for another node")
    return NodeBundle(
        Identity(role, name, key, leaf, trusted), node, parse_address(_text(members["address"]))
    )


def _authority(members: dict[str, Any]) -> NodeAuthority:
    _exactly(members, "issuers")
    issuers = []
    for item in _several(members["issuers"], "CAs"):
        stored = _members(item)
        if set(stored) != {"certificate", "key"}:
            raise _FileFault("a CA with other members than certificate and key")
        key = load_p256_private_key(_text(stored["key"]))
        certificate = certificate_der(_text(stored["certificate"]))
        if _spki(certificate) != spki_der(key.public_key()):
            raise _FileFault("a CA whose certificate is for another key")
        issuers.append(Issuer(key, certificate))
    return NodeAuthority(tuple(issuers))


def _spki(certificate: bytes) -> bytes:
    return spki_der(certificate_public_key(certificate))


def _parsed(raw: bytes, what: str, remedy: str, read: Callable[[dict[str, Any]], T]) -> T:
    try:
        if len(raw) > FILE_LIMIT:
            raise _FileFault(f"more than {FILE_LIMIT} bytes")  # noqa: TRY301 - told as the faults inside are
        return read(_members(json.loads(raw)))
    except _FileFault as fault:
        found = str(fault)
    except MisuseError as error:
        found = error.finding.sentence()
    except (ValueError, RecursionError):  # whose text may repeat what was read
        found = "no JSON"
    raise misuse(
        "node.file",
        f"the {what} cannot be used",
        found=found,
        remedy=remedy,
    )


def _members(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _FileFault("no JSON object")
    return value


def _exactly(members: dict[str, Any], *names: str) -> None:
    if set(members) != {"version", *names} or members["version"] != _VERSION:
        raise _FileFault(f"other members than those of version {_VERSION}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _FileFault("a member that should be text and is not")
    return value


def _several(value: object, what: str) -> list[Any]:
    if not isinstance(value, list) or not 0 < len(value) <= AUTHORITY_LIMIT:
        raise _FileFault(f"not 1 to {AUTHORITY_LIMIT} {what}")
    return value


def _dump(members: dict[str, Any]) -> bytes:
    return json.dumps(members, indent=1).encode() + b"\n"


def _load(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise misuse(
                    "node.file-mode",
                    f"the {what} {path}",
                    expected="readable by its owner alone",
                    remedy=f"chmod 600 {path}, and make it again if a stranger may have read it",
                )
            return file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise _unusable(path, what, error) from error


def _save(path: Path, content: bytes, what: str) -> None:
    try:
        write_atomic(path, content)
    except OSError as error:
        raise _unusable(path, what, error) from error


def _unusable(path: Path, what: str, error: OSError) -> MisuseError:
    return misuse("node.file", f"the {what} {path} cannot be used", found=error.strerror or str(error))
