"""The forms in which a log is sent (guest-agent.md 13.2).

Rules:

1. Without `bare` a frame is one line of compact JSON with `channel` and `message`, which keeps its own line end and
   its ANSI sequences. With it the message stands alone: as text that is all, in base64 a line feed comes after each.
2. Without `text` the message is in standard padded base64.
3. As text it is UTF-8, and bytes that are none become U+FFFD. A character or a sequence that the frames of one channel
   cut in two is put together again.
4. Bare text without `ansi` loses its ANSI sequences: control sequences (ESC [), strings (ESC ], P, X, ^, _) up to
   their end or that of the line, and all other escapes. Of what only begins like one, or has more than 4096
   characters, the ESC is lost: none ever reaches the reader.
5. An error that comes after the first piece is a line of its own: an object with `error`.
"""

import codecs
import json
import re
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring  # JSON text that leaves non-ASCII characters as they are

from teehouse.guest.logs_query import LogQuery
from teehouse.guest.logs_source import Frame

HOLD_LIMIT = 4096  # characters of a sequence whose end has not come
_STRING = r"[\]PX^_][^\x07\x1b\n]*"
_SEQUENCE = re.compile(
    rf"\x1b(?:\[[0-?]*[ -/]*[@-~]|{_STRING}(?:\x07|\x1b\\|(?=\n))|[ -/]*[0-OQ-WYZ\\`-~])|\x1b"
)
_BEGUN = re.compile(rf"\x1b(?:\[[0-?]*[ -/]*|{_STRING}\x1b?|[ -/]*)\Z")
_decoder = codecs.getincrementaldecoder("utf-8")


class Plain:
    """Text without ANSI sequences, as it arrives (rule 4)."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """What is certain to be no part of a sequence. What is held at the end is none of the text."""
        if self._held:
            text = self._held + text
            self._held = ""
        elif "\x1b" not in text:
            return text
        begun = _BEGUN.search(text, max(0, len(text) - HOLD_LIMIT))
        if begun is not None:
            self._held = begun[0]
            text = text[: begun.start()]
        return _SEQUENCE.sub("", text)


class _Channel:
    """The text of one channel (rules 3 and 4)."""

    def __init__(self, plain: bool) -> None:
        self._decode = _decoder("replace").decode
        self._plain = Plain() if plain else None

    def feed(self, data: bytes) -> str:
        text = self._decode(data)
        return text if self._plain is None else self._plain.feed(text)

    def finish(self) -> str:
        text = self._decode(b"", True)
        return text if self._plain is None else self._plain.feed(text)


class LogWriter:
    """The form that a query asks for."""

    def __init__(self, query: LogQuery) -> None:
        self._query = query
        self._channels: dict[str, _Channel] = {}
        self._line_open = False
        self._form: Callable[[Sequence[Frame]], bytes]
        if query.text:
            self._form = self._bare_text if query.bare else self._json_text
        else:
            self._form = _bare_base64 if query.bare else _json_base64

    def write(self, frames: Sequence[Frame]) -> bytes:
        """The frames in their form; may be empty."""
        content = self._form(frames)
        if content:
            self._line_open = not content.endswith(b"\n")
        return content

    def finish(self) -> bytes:
        """What was held back of characters, at the end of a log."""
        content = ""
        for name, channel in self._channels.items():
            if text := channel.finish():
                content += text if self._query.bare else _json(name, text)
        return content.encode()

    def error(self, text: str) -> bytes:
        """Rule 5, after all that was held back."""
        held = self.finish()
        line_open = not held.endswith(b"\n") if held else self._line_open
        return held + b"\n" * line_open + json.dumps({"error": text}, separators=(",", ":")).encode() + b"\n"

    def _channel(self, name: str) -> _Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(self._query.bare and not self._query.ansi)
        return channel

    def _bare_text(self, frames: Sequence[Frame]) -> bytes:
        """Frames of one channel that follow each other are handled as one."""
        out: list[str] = []
        run: list[bytes] = []
        last = ""
        for name, data in frames:
            if name != last:
                if run:
                    out.append(self._channel(last).feed(b"".join(run)))
                    run = []
                last = name
            run.append(data)
        if run:
            out.append(self._channel(last).feed(b"".join(run)))
        return "".join(out).encode()

    def _json_text(self, frames: Sequence[Frame]) -> bytes:
        out: list[str] = []
        for name, data in frames:
            text = self._channel(name).feed(data)
            if text or not data:
                out.append(_json(name, text))
        return "".join(out).encode()


def _json(channel: str, text: str) -> str:
    return f'{{"channel":"{channel}","message":{encode_basestring(text)}}}\n'


def _json_base64(frames: Sequence[Frame]) -> bytes:
    return b"".join(
        [
            b'{"channel":"%b","message":"%b"}\n' % (name.encode(), b2a_base64(data, newline=False))
            for name, data in frames
        ]
    )


def _bare_base64(frames: Sequence[Frame]) -> bytes:
    return b"".join([b2a_base64(data) for _, data in frames])
