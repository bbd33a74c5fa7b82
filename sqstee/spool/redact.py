"""Masking secrets in the shipped copy: between capture and the spool, never in the command's own output.

The engine is RE2, which takes time linear in the text; Python's `re` can take exponential time. Only whole lines are
given on, since a secret may come in two chunks; what cannot be masked is dropped, never spooled as it is.
"""

from __future__ import annotations

import time

from sqstee.errors import SqsteeError
from sqstee.spool.segments import Segments
from sqstee.spool.writer import Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    Span = tuple[int, int]

MASK = b"***"
HELD_BYTES = 1024 * 1024  # how much of an unfinished line is held back
OVERLAP_BYTES = 64 * 1024  # a secret up to this long is found wherever a longer line had to be cut
_MOST_INSTRUCTIONS = 4000  # of RE2's program: each costs up to 1 µs per KiB of text
_ENGINE_BYTES = 2 * 1024 * 1024  # of memory, for each pattern
# Each search is linear, but a text with many matches takes many: what takes more than this is masked to its line's end.
_SEARCH_SECONDS, _SEARCH_SECONDS_PER_BYTE = 0.05, 3e-6
# Places where a pattern that may match nothing does so: before, behind, between and in words of several letters. Such a
# match would come first, and hide the one behind it.
_PROBES = (b"", b"a", b"b_", b"0", b" ", b"  ", b"--", b"a b", b"--bb--", b"\t00\t")


class Masker:
    """Finds what matches one of some patterns, in RE2's syntax; a match never goes beyond its line.

    Raises SqsteeError where RE2 is not installed, or does not take a pattern.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        try:
            import re2
        except ImportError:
            hint = "pip install 'sqstee[redact]'"
            raise SqsteeError("--redact needs the package google-re2, which is not installed", hint) from None
        self._by_chunk: list[Any] = []
        self._by_line: list[Any] = []
        self._of_bytes: list[Any] = []
        for number, text in enumerate(patterns, 1):
            pattern, name = text.encode("utf-8", "surrogateescape"), f"--redact, pattern {number}"
            by_chunk = _is_the_same_in_any_line(pattern)
            whole = b"(?m:%s)" % pattern if by_chunk else pattern
            _compile(re2, pattern, "UTF8", name)  # by itself first: what is put around it must not complete it
            (self._by_chunk if by_chunk else self._by_line).append(_compile(re2, whole, "UTF8", name))
            self._of_bytes.append(_compile(re2, pattern, "LATIN1", name))

    def mask(self, text: bytes, start: int = 0, end: int | None = None) -> bytes:
        """`text` from `start` to `end`, masked; what is around it counts for what matches."""
        return masked(text, self.spans(text), start, len(text) if end is None else end)

    def spans(self, text: bytes) -> list[Span]:
        """Where something is to be masked: ascending, without overlaps."""
        if not text.isascii() and not _is_utf8(text):
            return joined(self._spans_by_line(text, self._by_chunk + self._by_line))
        found = self._spans_by_line(text, self._by_line) if self._by_line else []
        for pattern in self._by_chunk:
            found += self._search(pattern, text)
        return joined(found)

    def _spans_by_line(self, text: bytes, patterns: Sequence[Any]) -> list[Span]:
        """As `spans`; where a line is not UTF-8 each of its bytes is a character as well."""
        found, at = [], 0
        for line in text.split(b"\n"):
            more = () if line.isascii() or _is_utf8(line) else self._of_bytes
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
            begun = begun or time.thread_time()  # most texts hold no match
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
    """A pattern of RE2's; raises SqsteeError where it is not right."""
    options = re2.Options()
    options.encoding = getattr(re2.Options.Encoding, encoding)
    options.never_nl = options.never_capture = True
    options.log_errors = False
    options.max_mem = _ENGINE_BYTES
    hint = "the syntax is RE2's: no look-around, no back references"
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:  # not the part in question: a pattern may be a secret itself
        reason = error.args[0] if error.args else b""
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise SqsteeError(f"{name}: {reason.partition(':')[0]}", hint) from None
    if compiled.programsize > _MOST_INSTRUCTIONS:
        raise SqsteeError(f"{name}: it is too large", "repeat less, or give several patterns")
    if any(match.span()[0] == match.span()[1] for text in _PROBES for match in compiled.finditer(text)):
        raise SqsteeError(f"{name}: it matches the empty text", "have it match at least one character")
    return compiled


def _is_the_same_in_any_line(pattern: bytes) -> bool:
    """Whether many lines can be searched at once: no \\A and \\z, no \\Q, which quotes what is put behind the pattern,
    and no group that may switch the flag m."""
    if any(word in pattern for word in (b"\\A", b"\\z", b"\\Q")):
        return False
    return all(group[:1] in (b":", b"P", b"<") or group[:2] in (b"i)", b"i:") for group in pattern.split(b"(?")[1:])


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def joined(spans: Iterable[Span]) -> list[Span]:
    """Spans in any order, as ascending ones without overlaps."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def masked(text: bytes, spans: Iterable[Span], start: int, end: int) -> bytes:
    """`text` from `start` to `end` with the mask in the place of what lies in a span; the rest byte for byte."""
    pieces: list[bytes] = []
    at = start
    for first, last in spans:
        if last > at and first < end:
            pieces += (text[at:first], MASK)
            at = last
    pieces.append(text[at:end])
    return b"".join(pieces)


class _Held:
    """A stream's unfinished line: what is not spooled of it, and the end of what is, which counts for matches."""

    __slots__ = ("context", "rest", "text", "waiting")

    def __init__(self) -> None:
        self.text = bytearray()
        self.context = b""
        self.rest = False  # the line's rest is masked already, whatever it is
        self.waiting = b""  # masked, and waiting for room in the spool

    def restore(self, text: bytes, context: bytes, rest: bool) -> None:
        """Be again as before something was taken."""
        self.text[:] = text
        self.context, self.rest = context, rest

    def spooled(self, text: bytes) -> None:
        """`text`, context included, is spooled."""
        self.context = text[-OVERLAP_BYTES:]


class RedactingWriter(Writer):
    """Spools what is captured with the secrets masked; an unfinished line is held back in memory, up to 1 MiB of it.

    A longer line goes on in pieces, and is masked to its end where a match may go on beyond such a piece.
    """

    def __init__(self, segments: Segments, max_line: int, masker: Masker, streams: int = 3) -> None:
        super().__init__(segments, max_line, streams)
        self._masker = masker
        self._held = [_Held() for _ in range(streams)]

    def write(self, stream: int, chunk: bytes, wait: bool = False) -> bytes:
        held = self._held[stream]
        if held.waiting:
            held.waiting = super().write(stream, held.waiting, wait)
            if held.waiting:
                return chunk
        if b"\n" not in chunk and len(held.text) + len(chunk) <= HELD_BYTES:
            held.text += b"" if held.rest else chunk
            return b""
        before = bytes(held.text), held.context, held.rest
        for number, (text, start, end) in enumerate(self._ready(held, chunk)):
            clean = self._masked(stream, text, start, end)
            rest = clean if held.waiting else super().write(stream, clean, wait)
            if rest == clean and clean and not number:  # no room for anything: as if nothing had come
                held.restore(*before)
                return chunk
            held.waiting += rest
        return b""

    def cut(self, stream: int) -> None:
        held = self._held[stream]
        super().write(stream, held.waiting)
        held.waiting = b""
        if held.text:
            text = held.context + held.text
            super().write(stream, self._masked(stream, text, len(held.context), len(text)))
            held.spooled(text)
            held.text.clear()
        super().cut(stream)

    def event(self, fields: dict[str, object]) -> bool:
        command = fields.get("command")
        if isinstance(command, list):
            fields = {**fields, "command": [self._word(word) for word in command]}
        return super().event(fields)

    def unfinished(self, stream: int) -> bool:
        held = self._held[stream]
        return not held.waiting and (bool(held.text) or super().unfinished(stream))

    def _word(self, word: str) -> str:
        """An argument of the command's, masked."""
        try:
            return self._masker.mask(word.encode(errors="replace")).decode(errors="replace")
        except Exception:
            return MASK.decode()

    def _ready(self, held: _Held, chunk: bytes) -> Iterator[tuple[bytes, int, int]]:
        """What can be masked now that `chunk` has come: texts, and from where to where they are to be spooled."""
        end = chunk.rfind(b"\n") + 1
        if end:
            if held.rest:  # the newline itself is not masked
                text, start = chunk[chunk.index(b"\n") : end], 0
            else:
                text, start = held.context + held.text + chunk[:end], len(held.context)
            held.text.clear()
            held.context, held.rest = b"", False
            yield text, start, len(text)
        if not held.rest:
            held.text += chunk[end:]
        if len(held.text) > HELD_BYTES:
            yield from self._piece(held)

    def _piece(self, held: _Held) -> Iterator[tuple[bytes, int, int]]:
        """The part of a long line in which no match can begin that goes on beyond it."""
        text, start = held.context + held.text, len(held.context)
        end = cut = len(text) - OVERLAP_BYTES
        spans = self._spans_or_all(text)
        for first, last in spans:
            if first < cut < last:
                end = max(first, start)
        if end - start < OVERLAP_BYTES:  # too little to go on with: a match covers nearly all
            held.rest = True
            held.text.clear()
            yield text, start, len(text)
            if not spans or spans[-1][1] < len(text):
                yield MASK, 0, len(MASK)
            return
        del held.text[: end - start]
        held.spooled(text[:end])
        yield text, start, end

    def _spans_or_all(self, text: bytes) -> list[Span]:
        try:
            return self._masker.spans(text)
        except Exception:
            return [(0, len(text))]

    def _masked(self, stream: int, text: bytes, start: int, end: int) -> bytes:
        """A part of `text`, masked; where that fails its lines are dropped, and a gap event says so."""
        try:
            return self._masker.mask(text, start, end)
        except Exception as error:
            self.drop(stream, text[start:end], f"masking failed ({type(error).__name__})")
            return b""
