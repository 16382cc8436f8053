"""The agent's configuration (guest-agent.md 1.6).

Rules:

1. Layers, each over the one before, key by key: built-in defaults; `/etc/dstack/dstack.toml`, then
   `.json`; `dstack.toml`, then `.json` in the working directory; the file that was named. Only the
   last one must exist.
2. `[default]` holds for every listener; `[internal]`, `[internal-v0]`, `[external]`, `[guest-api]`
   override it, each for its own.
3. Keys that are not known are passed over; `workers` and `max_blocking` are such, for the agent
   serves everything from one event loop.
4. A file that cannot be read or parsed, or a value of the wrong kind, is refused by file and key.
5. A file has at most 1 MiB.
"""

import contextlib
import json
import re
import reprlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from teehouse.base.findings import MisuseError, misuse
from teehouse.guest.sockets import Address, TcpAddress, UnixAddress, VsockAddress

T = TypeVar("T")

FILE_LIMIT = 1 << 20  # bytes
BODY_LIMIT = 10 << 20  # bytes of a request, unless `limits.<Method>` says otherwise
IDENT = "dstack guest agent"
KEEP_ALIVE = 10  # seconds
_HOST_SHARED = Path("/dstack/.host-shared")
_UNITS = {"b": 1, "kb": 10**3, "kib": 1 << 10, "mb": 10**6, "mib": 1 << 20, "gb": 10**9, "gib": 1 << 30}


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """Where the agent finds what it serves, and two choices that upstream does not have.

    `legacy_ratls_extensions`: certificates carry the quote and event log in the old extensions too
    (guest-agent.md 9.2). `attestation_in_quote`: GetQuote answers with the field `attestation`, which
    the older interface does not have (guest-agent.md 4.3).
    """

    keys_file: Path = _HOST_SHARED / ".appkeys.json"
    compose_file: Path = _HOST_SHARED / "app-compose.json"
    sys_config_file: Path = _HOST_SHARED / ".sys-config.json"
    data_disks: tuple[str, ...] = ("/",)
    legacy_ratls_extensions: bool = True
    attestation_in_quote: bool = False


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """One listener. `keep_alive` in seconds, `limits` in bytes by method name."""

    address: Address
    ident: str = IDENT
    keep_alive: int = KEEP_ALIVE
    limits: Mapping[str, int] = field(default_factory=dict)

    def limit(self, method: str) -> int:
        """The largest body in bytes that `method` takes."""
        return self.limits.get(method, BODY_LIMIT)


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The whole configuration."""

    core: CoreConfig = field(default_factory=CoreConfig)
    internal: ListenerConfig = ListenerConfig(UnixAddress(Path("/var/run/dstack/dstack.sock")))
    internal_v0: ListenerConfig = ListenerConfig(UnixAddress(Path("/var/run/dstack/tappd.sock")))
    external: ListenerConfig = ListenerConfig(TcpAddress("0.0.0.0", 8090))  # noqa: S104 - what the interface says
    guest_api: ListenerConfig = ListenerConfig(VsockAddress(0xFFFFFFFF, 8000))


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    values: Mapping[str, Any]


def load_config(
    named: Path | None = None, *, system: Path = Path("/etc/dstack"), working: Path = Path()
) -> AgentConfig:
    """The configuration from all layers (rule 1). Reads files; raises `MisuseError`."""
    layers = []
    for directory in (system, working):
        for kind in ("toml", "json"):
            with contextlib.suppress(FileNotFoundError):
                layers.append(_layer(directory / f"dstack.{kind}"))
    if named is not None:
        try:
            layers.append(_layer(named))
        except FileNotFoundError as error:
            raise misuse(
                "config.unreadable",
                f"the configuration {named} does not exist",
                remedy="correct the path after -c",
            ) from error
    return _Layers(layers).config()


def _layer(path: Path) -> _Layer:
    """The file at `path`. Raises FileNotFoundError, and `MisuseError` for everything else (rules 4, 5)."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise misuse(
            "config.unreadable",
            f"the configuration {path} cannot be read",
            found=error.strerror or str(error),
        ) from error
    if len(data) > FILE_LIMIT:
        raise misuse(
            "config.too-long", f"the configuration {path} is too long", expected=f"at most {FILE_LIMIT} bytes"
        )
    try:
        text = data.decode()
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise misuse(
            "config.unparsable",
            f"the configuration {path} cannot be parsed",
            expected="JSON" if path.suffix == ".json" else "TOML",
            found=str(error),
        ) from error
    if not isinstance(values, dict):
        raise misuse("config.unparsable", f"the configuration {path} is no table", expected="an object")
    return _Layer(str(path), values)


class _Layers:
    """The layers, asked for single keys: the last that has one decides."""

    def __init__(self, layers: Sequence[_Layer]) -> None:
        self._layers = layers

    def config(self) -> AgentConfig:
        usual = AgentConfig()
        return AgentConfig(
            core=self._core(usual.core),
            internal=self._listener("internal", usual.internal),
            internal_v0=self._listener("internal-v0", usual.internal_v0),
            external=self._listener("external", usual.external),
            guest_api=self._listener("guest-api", usual.guest_api),
        )

    def _core(self, usual: CoreConfig) -> CoreConfig:
        def value(key: str, read: Callable[[Any], T], default: T) -> T:
            return self._value(("default", "core", key), read, default)

        return CoreConfig(
            keys_file=value("keys_file", _path, usual.keys_file),
            compose_file=value("compose_file", _path, usual.compose_file),
            sys_config_file=value("sys_config_file", _path, usual.sys_config_file),
            data_disks=value("data_disks", _disks, usual.data_disks),
            legacy_ratls_extensions=value("legacy_ratls_extensions", _flag, usual.legacy_ratls_extensions),
            attestation_in_quote=value("attestation_in_quote", _flag, usual.attestation_in_quote),
        )

    def _listener(self, name: str, usual: ListenerConfig) -> ListenerConfig:
        def value(key: str, read: Callable[[Any], T], default: T) -> T:
            return self._value((name, key), read, self._value(("default", key), read, default))

        port = value("port", _port, getattr(usual.address, "port", 0))
        kept_address: Address = usual.address
        if isinstance(usual.address, TcpAddress):
            kept_address = TcpAddress(usual.address.host, port)
        elif isinstance(usual.address, VsockAddress):
            kept_address = VsockAddress(usual.address.cid, port)

        def address(found: Any) -> Address:
            return _address(found, port)

        return ListenerConfig(
            address=value("address", address, kept_address),
            ident=value("ident", _ident, usual.ident),
            keep_alive=value("keep_alive", _seconds, usual.keep_alive),
            limits=self._limits("default") | self._limits(name),
        )

    def _limits(self, profile: str) -> dict[str, int]:
        limits: dict[str, int] = {}
        for layer in self._layers:
            table = _member(layer, (profile, "limits"))
            if table is None:
                continue
            if not isinstance(table, dict):
                raise _wrong(layer, (profile, "limits"), "a table", table)
            for method, size in table.items():
                limits[method] = _converted(layer, (profile, "limits", method), _size, size)
        return limits

    def _value(self, key: tuple[str, ...], read: Callable[[Any], T], default: T) -> T:
        value = default
        # Every layer's value is read, so that a wrong one is told even where a later layer hides it.
        for layer in self._layers:
            found = _member(layer, key)
            if found is not None:
                value = _converted(layer, key, read, found)
        return value


class _Unfit(Exception):  # noqa: N818 - never leaves this module; it carries what was expected
    """The value is not what the key takes."""


def _member(layer: _Layer, key: tuple[str, ...]) -> Any:
    """The value at `key`, None where there is none (a JSON null is none too)."""
    value: Any = layer.values
    for depth, name in enumerate(key):
        if not isinstance(value, dict):
            raise _wrong(layer, key[:depth], "a table", value)
        value = value.get(name)
        if value is None:
            return None
    return value


def _converted(layer: _Layer, key: tuple[str, ...], read: Callable[[Any], T], value: Any) -> T:
    try:
        return read(value)
    except _Unfit as unfit:
        raise _wrong(layer, key, str(unfit), value) from None


def _wrong(layer: _Layer, key: tuple[str, ...], expected: str, value: Any) -> MisuseError:
    return misuse(
        "config.value",
        f"{'.'.join(key)} in {layer.name} is wrong",
        expected=expected,
        found=reprlib.repr(value)[:80],
    )


def _string(value: Any, expected: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise _Unfit(expected)
    return value


def _path(value: Any) -> Path:
    return Path(_string(value, "a path"))


def _disks(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Unfit("a list of mount points")
    # A set upstream: one line per mount point, however often it is named.
    return tuple(dict.fromkeys(_string(disk, "a list of mount points") for disk in value))


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Unfit("true or false")
    return value


def _whole(value: Any, most: int, expected: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _Unfit(expected)
    return value


def _port(value: Any) -> int:
    return _whole(value, 0xFFFFFFFF, "a port number")


def _seconds(value: Any) -> int:
    return _whole(value, 86400, "whole seconds from 0 to 86400")


def _ident(value: Any) -> str:
    text = _string(value, "printable ASCII text")
    if not (text.isascii() and text.isprintable()):
        raise _Unfit("printable ASCII text")  # it goes into a response header
    return text


def _size(value: Any) -> int:
    """Bytes as a number, or as text with a unit ("10 MiB")."""
    expected = 'a size below 4 GiB, e.g. 1048576 or "10 MiB"'
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,12}) *([a-z]{0,3})", value.strip().lower())
        if match is None or (match[2] or "b") not in _UNITS:
            raise _Unfit(expected)
        value = int(match[1]) * _UNITS[match[2] or "b"]
    return _whole(value, 0xFFFFFFFF, expected)


def _address(value: Any, port: int) -> Address:
    """`unix:PATH`, `vsock:CID` (decimal or 0x…), or a host; the port is a key of its own."""
    expected = "unix:PATH, vsock:CID or a host, with its port in the key `port`"
    text = _string(value, expected)
    if text.startswith("unix:"):
        return UnixAddress(Path(_string(text.removeprefix("unix:"), expected)))
    if text.startswith("vsock:"):
        match = re.fullmatch(r"0x([0-9a-fA-F]{1,8})|([0-9]{1,10})", text.removeprefix("vsock:"))
        if match is None:
            raise _Unfit(expected)
        cid = int(match[1], 16) if match[1] else int(match[2])
        return VsockAddress(_whole(cid, 0xFFFFFFFF, expected), port)
    if port > 0xFFFF or any(sign in text for sign in "/ "):
        raise _Unfit(expected)
    return TcpAddress(text, port)
