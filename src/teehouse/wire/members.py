"""Members of the JSON files that the host gives a CVM, each looked at once, every fault collected."""

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from teehouse.base.findings import Finding, MisuseError, Outcome
from teehouse.wire import jsontext
from teehouse.wire.faults import Fault, Fraction, decode_hex, kind, quoted

_SIZE = re.compile(r"([0-9]{1,15}) ?([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class FileError(MisuseError):
    """A file that cannot be used. `faults` has one finding for each thing that is wrong with it."""

    def __init__(self, file: str, faults: Sequence[Finding]) -> None:
        what = "; ".join(fault.sentence() for fault in faults)
        super().__init__(
            Finding(
                f"{file}.faults", f"{file} cannot be used: {what}", Outcome.MISUSE, remedy=f"correct {file}"
            )
        )
        self.faults = tuple(faults)


def plain(value: object) -> object:
    """A value of `jsontext.parse` with objects as dicts and fractions as floats."""
    if isinstance(value, tuple):
        return {key: plain(item) for key, item in value}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return float(value.literal) if isinstance(value, Fraction) else value


def _is_unicode(value: object) -> bool:
    try:
        json.dumps(plain(value), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def hex_bytes(text: str) -> bytes | None:
    """The bytes of a hex string, or None."""
    try:
        return decode_hex(text)
    except Fault:
        return None


class Members:
    """Reads the members of one JSON object.

    A member that is null counts as absent. A member of the wrong kind is a fault, and reads as its default;
    `finish` raises what was found. Unknown members do no harm.
    """

    def __init__(self, file: str, raw: bytes, *, limit: int) -> None:
        """Parse `raw`. Raises `FileError` when it is over `limit` bytes, no JSON, or no object."""
        self._file = file
        self._faults: list[Finding] = []
        self._members: dict[str, object] = {}
        for key, value in self._parse(raw, limit):
            if key in self._members:
                self.fault(key, "one member of this name", "two")
            self._members[key] = value

    def _parse(self, raw: bytes, limit: int) -> tuple[tuple[str, object], ...]:
        if len(raw) > limit:
            raise FileError(self._file, [self._finding("", f"at most {limit} bytes", str(len(raw)))])
        try:
            value, _ = jsontext.parse(raw)
        except jsontext.BadJsonError as error:
            raise FileError(self._file, [self._finding("", "JSON", str(error))]) from None
        if not isinstance(value, tuple):
            raise FileError(self._file, [self._finding("", "an object", kind(value))])
        if b"\\ud" in raw.lower() and not _is_unicode(value):
            raise FileError(self._file, [self._finding("", "Unicode text", "half a surrogate pair")])
        return value

    def _finding(self, key: str, expected: str, found: str) -> Finding:
        where = f"{self._file}.{key}".rstrip(".")
        return Finding(where, where, Outcome.MISUSE, expected, found)

    def fault(self, key: str, expected: str, found: str) -> None:
        """Note that a member is not what it has to be."""
        self._faults.append(self._finding(key, expected, found))

    def finish(self) -> None:
        """Raise `FileError` when anything was wrong."""
        if self._faults:
            raise FileError(self._file, self._faults)

    def first(self, *keys: str) -> str:
        """The first of a member's names that is there, else the first name: names change over versions."""
        return next((key for key in keys if self._members.get(key) is not None), keys[0])

    def required(self, key: str) -> None:
        """Note a member that has to be there and is not."""
        if self._members.get(key) is None:
            self.fault(key, "a value", "none")

    def value(self, key: str) -> object:
        """A member as `jsontext.parse` gives it; None when it is absent or null."""
        return self._members.get(key)

    def plain(self, key: str) -> object:
        """A member of any kind, objects as dicts; None when it is absent or null."""
        return plain(self._members.get(key))

    def text(self, key: str) -> str | None:
        """A string, or None when absent."""
        value = self._members.get(key)
        return None if value is None or not self._is_text(key, value) else str(value)

    def _is_text(self, key: str, value: object) -> bool:
        if not isinstance(value, str):
            self.fault(key, "a string", kind(value))
            return False
        return True

    def flag(self, key: str, *, default: bool = False) -> bool:
        """A boolean."""
        value = self._members.get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.fault(key, "true or false", kind(value))
        return default

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, empty when absent."""
        value = self._members.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.fault(key, "a list of strings", kind(value))
            return ()
        return tuple(item for item in value if self._is_text(key, item))

    def choice(self, key: str, allowed: Sequence[str]) -> str | None:
        """One of the given words, or None when absent."""
        text = self.text(key)
        if text is None or text in allowed:
            return text
        self.fault(key, " or ".join(allowed), quoted(text))
        return None

    def octets(self, key: str) -> bytes:
        """The bytes of a hex string, empty when absent."""
        found = hex_bytes(text) if (text := self.text(key)) is not None else b""
        if found is None:
            self.fault(key, "hex digits, two for each byte", quoted(text or ""))
        return found or b""

    def size(self, key: str) -> int:
        """A size in bytes, a number or a text such as `1G` (powers of 1024); 0 when absent."""
        value = self._members.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match:
            return int(match[1]) * _FACTORS[match[2].upper()]
        if value is not None:
            self.fault(key, "a size in bytes, such as 1073741824 or 1G", kind(value))
        return 0

    def table(self, key: str) -> Mapping[str, object]:
        """An object, empty when absent."""
        value = self._members.get(key)
        if value is None or isinstance(value, tuple):
            return MappingProxyType({name: plain(item) for name, item in value or ()})
        self.fault(key, "an object", kind(value))
        return MappingProxyType({})
