"""Records and events, and the wire format (version 1) in both directions. Pure.

A body is NDJSON: one self-contained JSON object a line, a newline after each, UTF-8. Encoding works on whole blocks
of lines with `bytes.replace`, because the shipper meets hundreds of thousands of lines a second; decoding takes json.
"""

from __future__ import annotations

import binascii
import time

from sqstee.jsonbytes import encode_object, escape, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

FORMAT_VERSION = "1"
CONTENT_TYPE = "application/x-ndjson"
CONTENT_ENCODING = "gzip,base64"  # JustSaying's convention for a compressed SQS body

STREAMS = ("stdout", "stderr", "output")
MAX_SEQ = 2**63 - 2  # what every store of numbers can hold, and one more
MAX_UNPACKED_BYTES = 8 * 1024 * 1024  # of one body: twice what a sender packs into a message at most
LEVELS = ("", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")  # of a line that came from Python's logging


def timestamp(time_ns: int) -> str:
    """RFC 3339 in UTC with microseconds, of nanoseconds since the epoch."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06d}Z"


class Encoder:
    """Encodes the lines and events of one run."""

    def __init__(self, run: str, host: str, job: str = "", labels: dict[str, str] | None = None) -> None:
        self.run = run
        self.host = host
        self._host = b',"host":%s' % quote(host)
        self._run = b',"run":%s' % quote(run)
        if job:
            self._run += b',"job":%s' % quote(job)
        if labels:
            self._run += b',"labels":%s' % encode_object(dict(labels))

    def lines(self, block: bytes, stream: str, time_ns: int, first: int, eol: bool = True, level: str = "") -> bytes:
        """The records of the lines in `block`, numbered from `first`, as NDJSON; with a `level` where one is given.

        Every line in `block` ends in a newline; with `eol` false the last one does not, and its record says so.
        """
        head = self._head(stream, time_ns, level)
        if not eol:
            cut = block.rfind(b"\n") + 1
            whole = self._whole(block[:cut], head, first) if cut else b""
            return whole + self._line(block[cut:], head, first + block.count(b"\n"), eol=False)
        return self._whole(block, head, first)

    def event(self, payload: bytes, time_ns: int, seq: int) -> bytes:
        """An event's record: `payload` is a JSON object, which the common fields precede."""
        head = b'{"timestamp":"%s"%s%s,"seq":%d,' % (timestamp(time_ns).encode(), self._host, self._run, seq)
        return head + payload[1:] + b"\n"

    def _head(self, stream: str, time_ns: int, level: str) -> bytes:
        stamp = timestamp(time_ns).encode()
        kind = b'"%s","level":"%s"' % (stream.encode(), level.encode()) if level else b'"%s"' % stream.encode()
        return b'{"timestamp":"%s"%s,"stream":%s%s,"seq":' % (stamp, self._host, kind, self._run)

    def _whole(self, block: bytes, head: bytes, first: int) -> bytes:
        if not is_utf8(block):
            lines = block[:-1].split(b"\n")
            return b"".join(self._line(line, head, seq, eol=True) for seq, line in enumerate(lines, first))
        lines = escape(block).split(b"\n")
        count = len(lines) - 1
        # seq and message of each line between constant texts, in one join
        pieces = [b'"}\n' + head] * (4 * count)
        pieces[0] = head
        pieces[1::4] = [b"%d" % seq for seq in range(first, first + count)]
        pieces[2::4] = [b',"message":"'] * count
        pieces[3::4] = lines[:count]
        pieces.append(b'"}\n')
        return b"".join(pieces)

    @staticmethod
    def _line(line: bytes, head: bytes, seq: int, eol: bool) -> bytes:
        tail = b"" if eol else b',"eol":false'
        if not is_utf8(line):
            tail += b',"raw":"%s"' % binascii.b2a_base64(line, newline=False)
            line = line.decode("utf-8", "replace").encode()
        return b'%s%d,"message":"%s"%s}\n' % (head, seq, escape(line), tail)


def is_utf8(data: bytes) -> bool:
    """Whether `data` is valid UTF-8 (no surrogates), as SQS and JSON want it."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


_MOST_GAP_BYTES = 65536  # host, job and labels included


class Body:
    """One message body: the records `first`..`last` of one run (a gap's record covers many seqs).

    A body with records of several runs has no `run`, no `host` where theirs differ, and its `first` and `last` mean
    nothing.
    """

    __slots__ = ("data", "encoding", "first", "host", "last", "run")

    def __init__(self, data: bytes, run: str, host: str, first: int, last: int, encoding: str = "") -> None:
        self.data = data
        self.run = run
        self.host = host
        self.first = first
        self.last = last
        self.encoding = encoding

    @property
    def attributes(self) -> dict[str, str]:
        """The message attributes, all of type String."""
        found = {"content-type": CONTENT_TYPE, "sqstee": FORMAT_VERSION}
        if self.host:
            found["host"] = self.host
        if self.run:
            found["run"] = self.run
            found["seq"] = f"{self.first}-{self.last}"
        if self.encoding:
            found["Content-Encoding"] = self.encoding
        return found

    @property
    def size(self) -> int:
        """What the message counts against SQS's limits, in bytes: the body and its attributes."""
        return len(self.data) + attributes_size(self.attributes)

    @property
    def is_gap(self) -> bool:
        """Whether it is one gap event and nothing else: it must not stand for the records of its range.

        A destination that takes each range once would take it for them, if it came first and they come after all.
        """
        if len(self.data) > _MOST_GAP_BYTES:
            return False
        data = self.plain().data
        return b'"event":"gap"' in data and data.count(b"\n") == 1

    def compressed(self) -> Body:
        """This body as base64(gzip(NDJSON)), the same bytes each time; itself where that is no smaller."""
        data = binascii.b2a_base64(_compress(self.data), newline=False)
        found = Body(data, self.run, self.host, self.first, self.last, CONTENT_ENCODING)
        return found if found.size < self.size else self  # the attribute that names the encoding counts as well

    def plain(self) -> Body:
        """This body as NDJSON: the inverse of `compressed`."""
        if not self.encoding:
            return self
        return Body(gunzip(binascii.a2b_base64(self.data)), self.run, self.host, self.first, self.last)


def attributes_size(attributes: dict[str, str]) -> int:
    """Bytes of message attributes as SQS counts them: name, type and value of each (all of type String)."""
    return sum(len(name.encode()) + len("String") + len(value.encode()) for name, value in attributes.items())


def _compress(data: bytes) -> bytes:
    """gzip at level 1; with ISA-L, an optional extra, in a quarter of the time and somewhat smaller."""
    try:
        from isal import igzip
    except ImportError:
        import gzip

        return gzip.compress(data, compresslevel=1, mtime=0)
    return bytes(igzip.compress(data, compresslevel=1, mtime=0))


def gunzip(packed: bytes, limit: int = MAX_UNPACKED_BYTES) -> bytes:
    """All members of a gzip file; raises ValueError where it is none, or a bomb, which is not unpacked any further."""
    import gzip
    import io
    import zlib

    parts, rest = [], limit
    try:
        file = gzip.GzipFile(fileobj=io.BytesIO(packed))
        while part := file.read(65536):  # a larger read would take its whole size at once
            parts.append(part)
            rest -= len(part)
            if rest < 0:
                raise ValueError(f"more than {limit} bytes when unpacked")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    return b"".join(parts)
