"""The stream of a container without a terminal: several channels in one (Docker Engine API, ContainerAttach).

Rules:

1. A frame is channel (0 stdin, 1 stdout, 2 stderr), three zero bytes, length (4 bytes, big endian), content.
2. A frame of more than 64 KiB comes in pieces of 64 KiB and a rest. How the bytes arrive changes nothing.
3. Channel 3 is the engine's own: it says why the log breaks off. Any other header, and an end within a frame, are
   faults as well.
4. What came before a fault counts, also the beginning of the frame that was cut off; nothing counts after it.
"""

import struct

from teehouse.base.findings import CollateralError, unavailable
from teehouse.guest.logs_source import Frame

PIECE_LIMIT = 64 * 1024  # bytes
MESSAGE_LIMIT = 1000  # bytes of the engine's words that are passed on
_CHANNELS = ("stdin", "stdout", "stderr")
_ENGINE = 3
_HEADER = struct.Struct(">II")  # the first number holds the channel in its highest byte, and no more
_HEADER_SIZE = 8


class Demultiplexer:
    """Takes a stream as it arrives; holds at most a header and a piece. `fault` says why it broke off (rule 3)."""

    def __init__(self) -> None:
        self.fault: CollateralError | None = None
        self._rest = b""
        self._channel = ""
        self._left = 0  # bytes of a begun frame that is longer than a piece

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now, before a fault if there is one."""
        if self.fault is not None:
            return []
        buffer = self._rest + data if self._rest else data
        frames: list[Frame] = []
        size = len(buffer)
        at = 0
        unpack = _HEADER.unpack_from
        while True:
            if self._left:
                end = at + min(self._left, PIECE_LIMIT)
                if end > size:
                    break
                frames.append((self._channel, buffer[at:end]))
                self._left -= end - at
                at = end
                continue
            start = at + _HEADER_SIZE
            if start > size:
                break
            channel, length = unpack(buffer, at)
            end = start + length
            if channel & 0xFCFF_FFFF or (channel == _ENGINE << 24 and length > PIECE_LIMIT):
                self.fault = _malformed(f"{channel:08x}")
                return frames
            if length > PIECE_LIMIT:
                self._channel, self._left = _CHANNELS[channel >> 24], length
                at = start
                continue
            if end > size:
                break
            if channel == _ENGINE << 24:
                self.fault = _said(buffer[start:end])
                return frames
            frames.append((_CHANNELS[channel >> 24], buffer[start:end]))
            at = end
        self._rest = buffer[at:]
        return frames

    def finish(self) -> list[Frame]:
        """At the end of the stream: the beginning of a frame that was cut off."""
        rest, self._rest = self._rest, b""
        if self.fault is not None or not (rest or self._left):
            return []
        self.fault = _malformed("its end")
        if self._left:
            return [(self._channel, rest)] if rest else []
        if len(rest) <= _HEADER_SIZE:
            return []
        if rest[0] == _ENGINE:
            self.fault = _said(rest[_HEADER_SIZE:])
            return []
        return [(_CHANNELS[rest[0]], rest[_HEADER_SIZE:])]


def _said(message: bytes) -> CollateralError:
    words = message[:MESSAGE_LIMIT].decode(errors="replace").strip()
    return unavailable("logs.engine-stream", words or "the container engine broke the log off")


def _malformed(found: str) -> CollateralError:
    return unavailable(
        "logs.engine-frame",
        "the container engine's log is broken",
        expected="a frame",
        found=found,
        remedy="ask again; if it stays so, another program may answer at the engine's socket",
    )
