"""Cuts lines over --max-line where it is more than always fits into a message: by the size of the record. Pure.

A byte of a line takes up to six in a record (a control character), and in a line that is not UTF-8 four thirds more,
for its base64. So a line is cut where --max-line says, or where its record would become too large for SQS.
"""

from __future__ import annotations

from sqstee.jsonbytes import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECORD_BYTES = 960 * 1024  # of a message's 1 MiB; the rest is for timestamp, host, run, job, labels and attributes
_MOST_PER_BYTE = 7.5  # 6 + 4/3, rounded up


class _Line:
    """The size of an unfinished line's record: its `bytes`, escaped, and whether the line may need base64."""

    __slots__ = ("bytes", "escaped", "is_ascii")

    def __init__(self, bytes: int = 0, escaped: int = 0, is_ascii: bool = True) -> None:
        self.bytes = bytes
        self.escaped = escaped
        self.is_ascii = is_ascii

    @property
    def record_bytes(self) -> float:
        return self.escaped + (0 if self.is_ascii else self.bytes * 4 / 3 + 4)

    def __add__(self, text: bytes) -> _Line:
        escaped = len(escape(text.decode("utf-8", "replace").encode()))
        return _Line(self.bytes + len(text), self.escaped + escaped, self.is_ascii and text.isascii())


class LongLines:
    """Where to cut the lines of each stream."""

    def __init__(self, max_line: int, streams: int) -> None:
        self._max_line = max_line
        self._lines = [_Line() for _ in range(streams)]

    def pieces(
        self, stream: int, chunk: bytes, partial: int, character_start: Callable[[bytes, int, int], int]
    ) -> Iterator[tuple[bytes, bool]]:
        """Split `chunk`: pieces, each with whether its last line is cut off.

        `partial`: the bytes of the stream's unfinished line that are spooled. `character_start` moves a cut, if need
        be, to where a character begins.
        """
        line = self._lines[stream] if partial else _Line()
        start = at = 0
        while at < len(chunk):
            free = self._max_line - line.bytes
            sure = max(0, min(free, int((RECORD_BYTES - line.record_bytes) / _MOST_PER_BYTE)))
            if end := chunk.rfind(b"\n", at, at + sure + 1) + 1:
                at, line = end, _Line()
                continue
            end = chunk.find(b"\n", at)
            text = chunk[at : len(chunk) if end < 0 else end]
            fits = _fitting(line, text[:free])
            if fits == len(text):
                at, line = (len(chunk), line + text) if end < 0 else (end + 1, _Line())
                continue
            end = character_start(chunk, at + fits, at)
            yield chunk[start:end], True
            start, at, line = end, end, _Line()
        if start < len(chunk):
            yield (chunk[start:] if start else chunk), False
        self._lines[stream] = line


def _fitting(line: _Line, text: bytes) -> int:
    """How many bytes of `text` the line's record has room for."""
    if (line + text).record_bytes <= RECORD_BYTES:
        return len(text)
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        if (line + text[:middle]).record_bytes <= RECORD_BYTES:
            low = middle
        else:
            high = middle
    return low
