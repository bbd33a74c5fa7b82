"""The wire format (version 1), encoded: the records and events of a run, and message bodies. Pure.

A body is NDJSON in UTF-8: one self-contained JSON object per line, each ending in a newline. Lines are encoded in
whole blocks with `bytes.replace`, because the shipper handles hundreds of thousands per second. wire.py decodes.
"""

from __future__ import annotations

import binascii
import time

from sqstee.jsonbytes import encode_object, escape, quote

FORMAT_VERSION = "1"
CONTENT_TYPE = "application/x-ndjson"
CONTENT_ENCODING = "gzip,base64"  # JustSaying's convention for a compressed SQS body

STREAMS = ("stdout", "stderr", "output", "stdin")  # in the order of their numbers in the spool
MAX_SEQ = 2**63 - 2  # seq + 1 must fit into a signed 64-bit integer too
MAX_UNPACKED_BYTES = 8 * 1024 * 1024  # per body: twice the most that a sender packs into one
NO_RUN = "-"  # the run of a body whose lines are no records, where it needs one
LEVELS = ("", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")  # of lines from Python's logging


def timestamp(time_ns: int) -> str:
    """RFC 3339 in UTC with microseconds, from nanoseconds since the epoch."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06d}Z"


class Encoder:
    """Encodes the lines and events of one run.

    A line that is a JSON object of at most `most_object_bytes` gets it as `data`, and its level; 0 for no line.
    """

    most_object_bytes = 0

    def __init__(self, run: str, host: str, job: str = "", labels: dict[str, str] | None = None) -> None:
        self.run = run
        self.host = host
        self._host = b',"host":%s' % quote(host)
        self._run = b',"run":%s' % quote(run)
        if job:
            self._run += b',"job":%s' % quote(job)
        if labels:
            self._run += b',"labels":%s' % encode_object(dict(labels))

    def lines(
        self,
        block: bytes,
        stream: str,
        time_ns: int,
        first: int,
        eol: bool = True,
        level: str = "",
        continues: bool = False,
    ) -> bytes:
        """The records of the lines in `block` as NDJSON, numbered from `first`, with `level` if it is not empty.

        Every line in `block` ends in a newline. With `eol` false the last one does not, and its record has eol false.
        With `continues` the first one is the rest of a line.
        """
        if self.most_object_bytes and b"{" in block:
            return self._parsed(block, stream, time_ns, first, eol, level, continues)
        head = self._head(stream, time_ns, level)
        if not eol:
            cut = block.rfind(b"\n") + 1
            whole = self._whole(block[:cut], head, first) if cut else b""
            return whole + self._line(block[cut:], head, first + block.count(b"\n"), eol=False)
        return self._whole(block, head, first)

    def event(self, payload: bytes, time_ns: int, seq: int) -> bytes:
        """An event's record: the common fields, then those of `payload`, a JSON object."""
        head = b'{"timestamp":"%s"%s%s,"seq":%d,' % (timestamp(time_ns).encode(), self._host, self._run, seq)
        return head + payload[1:] + b"\n"

    def record(self, payload: bytes, time_ns: int, seq: int) -> bytes:
        """The record of a line with fields of its own: the common ones, then those of `payload`, a JSON object."""
        return self.event(payload, time_ns, seq)

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
        # one join: seq and message of each line, between constant texts
        pieces = [b'"}\n' + head] * (4 * count)
        pieces[0] = head
        pieces[1::4] = [b"%d" % seq for seq in range(first, first + count)]
        pieces[2::4] = [b',"message":"'] * count
        pieces[3::4] = lines[:count]
        pieces.append(b'"}\n')
        return b"".join(pieces)

    def _parsed(
        self, block: bytes, stream: str, time_ns: int, first: int, eol: bool, level: str, continues: bool
    ) -> bytes:
        """As `lines`, with `data` where a line is a JSON object, and with its level where `level` is empty."""
        from sqstee.json_line import object_in  # loaded only if --parse-json asks for it

        lines = block.split(b"\n")
        if eol:
            lines.pop()
        last = first + len(lines) - 1
        heads: dict[str, bytes] = {}
        records = []
        for seq, line in enumerate(lines, first):
            is_whole = (seq > first or not continues) and (seq < last or eol)
            data, own = object_in(line, self.most_object_bytes) if is_whole else (b"", "")
            own = level or own
            head = heads.get(own)
            if head is None:
                head = heads[own] = self._head(stream, time_ns, own)
            records.append(self._line(line, head, seq, seq < last or eol, data))
        return b"".join(records)

    @staticmethod
    def _line(line: bytes, head: bytes, seq: int, eol: bool, data: bytes = b"") -> bytes:
        tail = b',"data":%s' % data if data else b""
        if not eol:
            tail += b',"eol":false'
        if not is_utf8(line):
            tail += b',"raw":"%s"' % binascii.b2a_base64(line, newline=False)
            line = line.decode("utf-8", "replace").encode()
        return b'%s%d,"message":"%s"%s}\n' % (head, seq, escape(line), tail)


def event_of(line: bytes) -> str:
    """The event that one line of NDJSON is; empty for a record, whose `data` may have an `event` too."""
    import json

    try:
        found = json.loads(line)
        return str(found.get("event", "")) if isinstance(found, dict) else ""
    except (ValueError, RecursionError):
        return ""


def is_utf8(data: bytes) -> bool:
    """Whether `data` is valid UTF-8 (without surrogates), as SQS and JSON require."""
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

    In a body of several runs `run` is empty, `first` and `last` have no meaning, and `host` is empty unless all runs
    share it.
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
        """The message's bytes as SQS counts them against its limits: the body and its attributes."""
        return len(self.data) + attributes_size(self.attributes)

    @property
    def is_gap(self) -> bool:
        """Whether the body is one gap event and nothing else.

        Destinations store each range of seqs once. A gap event must not count as its range: its records, which may
        still arrive later, would be dropped as duplicates.
        """
        if len(self.data) > _MOST_GAP_BYTES:
            return False
        data = self.plain().data
        return b'"event":"gap"' in data and data.count(b"\n") == 1 and event_of(data) == "gap"

    def compressed(self) -> Body:
        """This body as base64(gzip(NDJSON)), the same bytes each time; itself if that is not smaller."""
        data = binascii.b2a_base64(_compress(self.data), newline=False)
        found = Body(data, self.run, self.host, self.first, self.last, CONTENT_ENCODING)
        return found if found.size < self.size else self  # including the attribute that names the encoding

    def plain(self) -> Body:
        """This body as NDJSON: the inverse of `compressed`."""
        if not self.encoding:
            return self
        return Body(gunzip(binascii.a2b_base64(self.data)), self.run, self.host, self.first, self.last)


def attributes_size(attributes: dict[str, str]) -> int:
    """Bytes of message attributes as SQS counts them: name, type and value of each (all of type String)."""
    return sum(len(name.encode()) + len("String") + len(value.encode()) for name, value in attributes.items())


def _compress(data: bytes) -> bytes:
    """gzip at level 1; ISA-L, an optional extra, takes a quarter of the time and packs slightly smaller."""
    try:
        from isal import igzip
    except ImportError:
        import gzip

        return gzip.compress(data, compresslevel=1, mtime=0)
    return bytes(igzip.compress(data, compresslevel=1, mtime=0))


def gunzip(packed: bytes, limit: int = MAX_UNPACKED_BYTES) -> bytes:
    """All members of a gzip file; raises ValueError if it is invalid, or once it exceeds `limit` (a bomb)."""
    import gzip
    import io
    import zlib

    parts, rest = [], limit
    try:
        file = gzip.GzipFile(fileobj=io.BytesIO(packed))
        while part := file.read(65536):  # GzipFile allocates the whole size of a larger read
            parts.append(part)
            rest -= len(part)
            if rest < 0:
                raise ValueError(f"more than {limit} bytes when unpacked")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    return b"".join(parts)
