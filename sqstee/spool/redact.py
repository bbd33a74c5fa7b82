"""Masking secrets in the shipped copy: between capture and the spool, never in the command's own output.

The engine is RE2, whose time is linear in the text; Python's `re` can take exponential time. Only whole lines are
spooled, since a secret may be split over two chunks. Lines that cannot be masked are dropped, never spooled unmasked.
"""

from __future__ import annotations

import sys
import time

from sqstee.errors import SqsteeError
from sqstee.spool.frame import STREAM_COUNT
from sqstee.spool.segments import Segments
from sqstee.spool.writer import Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    Span = tuple[int, int]

MASK = b"***"
HELD_BYTES = 1024 * 1024  # an unfinished line is held back up to this length
OVERLAP_BYTES = 64 * 1024  # secrets up to this long are found across the cuts of a longer line
_MOST_INSTRUCTIONS = 4000  # of a pattern's RE2 program: each costs up to 1 µs per KiB of text
_ENGINE_BYTES = 2 * 1024 * 1024  # RE2's memory for each pattern
# Each search is linear, but a text with many matches takes many: beyond this time the rest of the line is masked.
_SEARCH_SECONDS, _SEARCH_SECONDS_PER_BYTE = 0.05, 3e-6
# Texts in which a pattern that can match the empty string does so: before, behind, between and in words. An empty match
# would come first, and hide the real match at the same place.
_PROBES = (b"", b"a", b"b_", b"0", b" ", b"  ", b"--", b"a b", b"--bb--", b"\t00\t")


class Masker:
    """Finds matches of any of the given patterns, in RE2's syntax; a match never crosses the end of its line.

    Raises SqsteeError if RE2 is not installed, or refuses a pattern.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        try:
            import re2
        except ImportError:
            from sqstee.extras import install_command

            hint = install_command("redact")
            if sys.version_info >= (3, 15):
                hint = "google-re2 has no wheel for Python 3.15 yet: use Python 3.14, or pip install google-re2"
            raise SqsteeError("--redact needs the package google-re2, which is not installed", hint) from None
        self._multi_line: list[Any] = []
        self._single_line: list[Any] = []
        self._byte_wise: list[Any] = []
        for number, text in enumerate(patterns, 1):
            pattern, name = text.encode("utf-8", "surrogateescape"), f"--redact, pattern {number}"
            multi_line = _can_search_many_lines(pattern)
            whole = b"(?m:%s)" % pattern if multi_line else pattern
            _compile(re2, pattern, "UTF8", name)  # alone first: the text put around it must not complete it
            (self._multi_line if multi_line else self._single_line).append(_compile(re2, whole, "UTF8", name))
            self._byte_wise.append(_compile(re2, pattern, "LATIN1", name))

    def mask(self, text: bytes, start: int = 0, end: int | None = None) -> bytes:
        """`text` from `start` to `end`, masked; matches may begin and end outside that part."""
        return masked(text, self.spans(text), start, len(text) if end is None else end)

    def mask_word(self, word: str) -> str:
        """A word of the command, masked: all of it where that fails."""
        try:
            return self.mask(word.encode(errors="replace")).decode(errors="replace")
        except Exception:
            return MASK.decode()

    def spans(self, text: bytes) -> list[Span]:
        """The spans to mask, ascending and without overlaps."""
        if not text.isascii() and not _is_utf8(text):
            return merged(self._spans_by_line(text, self._multi_line + self._single_line))
        found = self._spans_by_line(text, self._single_line) if self._single_line else []
        for pattern in self._multi_line:
            found += self._search(pattern, text)
        return merged(found)

    def _spans_by_line(self, text: bytes, patterns: Sequence[Any]) -> list[Span]:
        """As `spans`, line by line; a line that is not UTF-8 is also searched with each byte as a character."""
        found, at = [], 0
        for line in text.split(b"\n"):
            more = () if line.isascii() or _is_utf8(line) else self._byte_wise
            for pattern in (*patterns, *more):
                found += [(at + start, at + end) for start, end in self._search(pattern, line)]
            at += len(line) + 1
        return found

    @staticmethod
    def _search(pattern: Any, text: bytes) -> list[Span]:
        found: list[Span] = []
        at, size = 0, len(text)
        begun, begun_at = 0.0, 0
        while at < size:
            match = pattern.search(text, at)
            if match is None:
                break
            begun = begun or time.thread_time()  # not read before the first match: most texts have none
            start, end = match.span()
            if end > start:
                found.append((start, end))
            at = max(end, start + 1)
            if time.thread_time() - begun > _SEARCH_SECONDS + (at - begun_at) * _SEARCH_SECONDS_PER_BYTE:
                line_end = text.find(b"\n", at)
                found.append((at, size if line_end < 0 else line_end))
                at = begun_at = found[-1][1]
                begun = time.thread_time()
        return found


def _compile(re2: Any, pattern: bytes, encoding: str, name: str) -> Any:
    """A compiled RE2 pattern; raises SqsteeError if it is not valid."""
    options = re2.Options()
    options.encoding = getattr(re2.Options.Encoding, encoding)
    options.never_nl = options.never_capture = True
    options.log_errors = False
    options.max_mem = _ENGINE_BYTES
    hint = "the syntax is RE2's: no look-around, no backreferences"
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:  # without the quoted part: a pattern may be a secret itself
        reason = error.args[0] if error.args else b""
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise SqsteeError(f"{name}: {reason.partition(':')[0]}", hint) from None
    if compiled.programsize > _MOST_INSTRUCTIONS:
        raise SqsteeError(f"{name}: it is too complex", "use fewer repetitions, or several patterns")
    if any(match.span()[0] == match.span()[1] for text in _PROBES for match in compiled.finditer(text)):
        raise SqsteeError(f"{name}: it matches the empty string", "make it match at least one character")
    return compiled


def _can_search_many_lines(pattern: bytes) -> bool:
    """Whether several lines can be searched at once: a pattern without \\A and \\z, without \\Q, which would quote the
    text put behind the pattern, and without a group that may switch the flag m."""
    if any(word in pattern for word in (b"\\A", b"\\z", b"\\Q")):
        return False
    return all(group[:1] in (b":", b"P", b"<") or group[:2] in (b"i)", b"i:") for group in pattern.split(b"(?")[1:])


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def merged(spans: Iterable[Span]) -> list[Span]:
    """Merge spans in any order into ascending ones without overlaps."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def masked(text: bytes, spans: Iterable[Span], start: int, end: int) -> bytes:
    """`text` from `start` to `end`, each part inside a span replaced by the mask, the rest byte for byte."""
    pieces: list[bytes] = []
    at = start
    for first, last in spans:
        if last > at and first < end:
            pieces += (text[at:first], MASK)
            at = last
    pieces.append(text[at:end])
    return b"".join(pieces)


class _UnfinishedLine:
    """A stream's unfinished line.

    `text` is its part that is not masked yet; `context` is the end of the spooled part, which may belong to a match.
    `masked_to_end` says that the mask already stands for the rest of the line; `unspooled` is masked, and waits for
    room in the spool.
    """

    __slots__ = ("context", "masked_to_end", "text", "unspooled")

    def __init__(self) -> None:
        self.text = bytearray()
        self.context = b""
        self.masked_to_end = False
        self.unspooled = b""

    def restore(self, text: bytes, context: bytes, masked_to_end: bool) -> None:
        """Go back to an earlier state."""
        self.text[:] = text
        self.context, self.masked_to_end = context, masked_to_end

    def set_context(self, text: bytes) -> None:
        """Note that `text`, which includes the previous context, is spooled."""
        self.context = text[-OVERLAP_BYTES:]


class RedactingWriter(Writer):
    """Spools captured lines with their secrets masked; keeps an unfinished line in memory, up to 1 MiB of it.

    A longer line is spooled in pieces; if a match may extend beyond a piece, the line is masked to its end. With
    `strips` escape sequences, which are not to be shipped, are removed before lines are masked: a colour inside a
    secret hides it from a pattern.
    """

    def __init__(
        self, segments: Segments, max_line: int, masker: Masker, streams: int = STREAM_COUNT, strips: bool = False
    ) -> None:
        super().__init__(segments, max_line, streams)
        self._masker = masker
        self._strips = strips
        self._lines = [_UnfinishedLine() for _ in range(streams)]

    def write(self, stream: int, chunk: bytes, wait: bool = False) -> bytes:
        line = self._lines[stream]
        if line.unspooled:
            line.unspooled = super().write(stream, line.unspooled, wait)
            if line.unspooled:
                return chunk
        if b"\n" not in chunk and len(line.text) + len(chunk) <= HELD_BYTES:
            line.text += b"" if line.masked_to_end else chunk
            return b""
        before = bytes(line.text), line.context, line.masked_to_end
        for number, (text, start, end) in enumerate(self._ready(line, chunk)):
            clean = self._masked(stream, text, start, end)
            rest = clean if line.unspooled else super().write(stream, clean, wait)
            if rest == clean and clean and not number:  # no room at all: as if no chunk had come
                line.restore(*before)
                return chunk
            line.unspooled += rest
        return b""

    def record(
        self,
        stream: int,
        fields: dict[str, object],
        encode: Callable[[dict[str, object]], bytes],
        shortened: Callable[[dict[str, object]], Iterable[dict[str, object]]],
    ) -> bool:
        masked = {name: self._masked_value(fields[name]) for name in ("message", "data") if name in fields}
        return super().record(stream, fields | masked, encode, shortened)

    def _masked_value(self, value: object) -> object:
        if isinstance(value, str):
            return self._masker.mask_word(value)
        if isinstance(value, dict):
            return {self._masker.mask_word(name): self._masked_value(member) for name, member in value.items()}
        if isinstance(value, list):
            return [self._masked_value(member) for member in value]
        if value is None or isinstance(value, bool):
            return value
        text = str(value)  # a number: of a card, for example
        return value if (masked := self._masker.mask_word(text)) == text else masked

    def cut(self, stream: int, closing: bool = False) -> None:
        line = self._lines[stream]
        super().write(stream, line.unspooled)
        line.unspooled = b""
        if line.text:
            text = line.context + self._plain(bytes(line.text))
            super().write(stream, self._masked(stream, text, len(line.context), len(text)))
            line.set_context(text)
            line.text.clear()
        super().cut(stream, closing)

    def event(self, fields: dict[str, object], closing: bool = False) -> bool:
        command = fields.get("command")
        if isinstance(command, list):
            fields = {**fields, "command": [self._masker.mask_word(word) for word in command]}
        return super().event(fields, closing)

    def unfinished(self, stream: int) -> bool:
        line = self._lines[stream]
        return not line.unspooled and (bool(line.text) or super().unfinished(stream))

    def _ready(self, line: _UnfinishedLine, chunk: bytes) -> Iterator[tuple[bytes, int, int]]:
        """The texts that can be masked once `chunk` has come, each with the start and end of its part to spool."""
        end = chunk.rfind(b"\n") + 1
        if end:
            if line.masked_to_end:  # the newline itself is not masked
                text, start = chunk[chunk.index(b"\n") : end], 0
            else:
                text, start = line.context + self._plain(bytes(line.text) + chunk[:end]), len(line.context)
            line.text.clear()
            line.context, line.masked_to_end = b"", False
            yield text, start, len(text)
        if not line.masked_to_end:
            line.text += chunk[end:]
        if len(line.text) > HELD_BYTES:
            yield from self._piece(line)

    def _plain(self, text: bytes) -> bytes:
        if not self._strips:
            return text
        from sqstee.spool.clean_lines import stripped

        return stripped(text)

    def _piece(self, line: _UnfinishedLine) -> Iterator[tuple[bytes, int, int]]:
        """The part of a long line in which no match can begin that extends beyond it."""
        text, start = line.context + line.text, len(line.context)
        end = cut = len(text) - OVERLAP_BYTES
        spans = self._spans_or_all(text)
        for first, last in spans:
            if first < cut < last:
                end = max(first, start)
        if end - start < OVERLAP_BYTES:  # too little: a match covers nearly everything
            line.masked_to_end = True
            line.text.clear()
            yield text, start, len(text)
            if not spans or spans[-1][1] < len(text):
                yield MASK, 0, len(MASK)
            return
        del line.text[: end - start]
        line.set_context(text[:end])
        yield text, start, end

    def _spans_or_all(self, text: bytes) -> list[Span]:
        try:
            return self._masker.spans(text)
        except Exception:
            return [(0, len(text))]

    def _masked(self, stream: int, text: bytes, start: int, end: int) -> bytes:
        """A part of `text`, masked; if that fails its lines are dropped, with a gap event in their place."""
        try:
            return self._masker.mask(text, start, end)
        except Exception as error:
            self.drop(stream, text[start:end], f"masking failed ({type(error).__name__})")
            return b""
