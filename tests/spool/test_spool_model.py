"""The spool against a simple model, by random histories: what a disk, a kill and a restart may do, in any order.

The model knows the lines that were written to each stream, cut at the longest line. Whatever happens, every seq is in
exactly one record, event or gap event; a record is one of these lines, unaltered and in order; and a body that comes
again is the same. Where nothing was lost the records are all the lines.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sqstee.jsonbytes import encode_object
from sqstee.ship.request import PendingBody, RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool import frame, segments
from sqstee.spool.quota import UnboundedQuota
from sqstee.spool.recovery import close_dead_run
from sqstee.spool.segments import Segments
from sqstee.spool.writer import Writer
from sqstee.wire import Event, Record, decode

RUN = "RUN"
META = encode_object({"run": RUN, "host": "h"})
MAX_LINE = 20
SEGMENT_BYTES = 300
STREAMS = ("stdout", "stderr")

write_whole = segments.write_whole
posix_fallocate = os.posix_fallocate
TEXT = st.text("ab\n", min_size=1, max_size=70).map(str.encode)


class KilledError(BaseException):
    """The writer dies here; no handler of the code under test may catch it."""


class Model:
    """The lines of one stream, each at most MAX_LINE bytes and its newline; `unfinished` is what has no end yet."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.unfinished = b""

    def write(self, chunk: bytes) -> None:
        """A line ends at its newline, or before the byte that would make it too long."""
        self.unfinished += chunk
        while True:
            end = self.unfinished.find(b"\n", 0, MAX_LINE + 1) + 1
            if not end and len(self.unfinished) <= MAX_LINE:
                return
            end = end or MAX_LINE
            self.lines.append(self.unfinished[:end])
            self.unfinished = self.unfinished[end:]

    def cut(self) -> None:
        """The unfinished line ends here."""
        if self.unfinished:
            self.lines.append(self.unfinished)
        self.unfinished = b""


def write_to_a_disk_without_a_free_block(fd: int, header: bytes, payload: bytes, size: int) -> None:
    """Only blocks that are allocated already can be written."""
    if size + len(header) + len(payload) > os.fstat(fd).st_size:
        raise OSError(errno.ENOSPC, "full")
    write_whole(fd, header, payload, size)


def refuse_to_allocate(fd: int, offset: int, size: int) -> None:
    """posix_fallocate(3) on a full disk."""
    raise OSError(errno.ENOSPC, "full")


def is_in_order(found: list[bytes], lines: list[bytes], torn: bool) -> bool:
    """Whether `found` are some of `lines`, in their order; the last one may be the beginning of a line that is torn."""
    rest = iter(lines)
    whole, last = (found[:-1], found[-1:]) if torn else (found, [])
    return all(any(line == one for one in rest) for line in whole) and all(
        any(one.startswith(line) for one in rest) for line in last
    )


class SpoolMachine(RuleBasedStateMachine):
    """One run: a writer that may die and be recovered from, and a shipper that may be replaced at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp(prefix="spool-model-")
        self.folder = f"{self.root}/{RUN}"
        os.mkdir(self.folder)
        self.models = (Model(), Model())
        self.dropped = False  # lines were dropped, so that not all of the model's are to be found
        self.recovered = self.died = False
        self.has_reserve = True  # no fault has taken the blocks that are kept for the run's end
        self.end = -1  # the seq behind the exit event, if the writer wrote it
        self.accepted: dict[int, Record | Event] = {}  # by seq: what the destination has
        self.writer: Writer | None = Writer(Segments(self.folder, META, UnboundedQuota(SEGMENT_BYTES)), MAX_LINE)
        self.writer.event({"event": "start", "message": ""})
        self.write_whole = write_whole
        self.source = self.new_source()
        self.handed: list[PendingBody] = []  # in the plan, and not acknowledged

    def teardown(self) -> None:
        """Whatever the history was, the run can be ended, and everything is there."""
        try:
            if self.writer:
                self.close()
            self.free_the_disk()
            assert close_dead_run(self.folder)
            self.restart()
            self.deliver_everything()
            self.check_everything()
        finally:
            self.free_the_disk()
            self.source.close()
            shutil.rmtree(self.root)

    def new_source(self) -> RunSource:
        """A shipper's view of the run, from the checkpoint on."""
        return RunSource(self.folder, 500, RequestLimits(1500), "none")

    # The writer

    @precondition(lambda self: self.writer)
    @rule(stream=st.integers(0, 1), chunk=TEXT)
    def write(self, stream: int, chunk: bytes) -> None:
        """Lines, and perhaps the beginning of one."""
        assert self.writer
        before = self.writer.dropped
        self.writer.write(stream, chunk)
        self.models[stream].write(chunk)
        self.dropped = self.dropped or self.writer.dropped > before

    @precondition(lambda self: self.writer)
    @rule(stream=st.integers(0, 1))
    def cut(self, stream: int, closing: bool = False) -> None:
        """An unfinished line that is idle is spooled as it is."""
        assert self.writer
        before = self.writer.dropped
        self.writer.cut(stream, closing)
        self.models[stream].cut()
        self.dropped = self.dropped or self.writer.dropped > before

    @precondition(lambda self: self.write_whole == write_whole)
    @rule()
    def fill_the_disk(self) -> None:
        """Others take the last free block of the disk."""
        self.write_whole = segments.write_whole = write_to_a_disk_without_a_free_block
        os.posix_fallocate = refuse_to_allocate

    @rule()
    def free_the_disk(self) -> None:
        """Others have freed some space."""
        self.write_whole = segments.write_whole = write_whole
        os.posix_fallocate = posix_fallocate
        if self.writer:
            self.writer._segments._retry_at = 0.0  # time passes

    @precondition(lambda self: self.writer)
    @rule(stream=st.integers(0, 1), chunk=TEXT, after=st.integers(0, 2), torn=st.booleans())
    def write_to_a_full_disk(self, stream: int, chunk: bytes, after: int, torn: bool) -> None:
        """The disk refuses a frame, or takes a part of it; it has room again at the next call of the writer."""

        def full(fd: int, header: bytes, payload: bytes, size: int) -> None:
            if torn:
                os.pwrite(fd, (header + payload)[: len(header) // 2], size)
                os.ftruncate(fd, size)
            raise OSError(errno.ENOSPC, "full")

        self.has_reserve = False
        self.failing(full, after, lambda: self.write(stream, chunk))

    @precondition(lambda self: self.writer)
    @rule(stream=st.integers(0, 1), chunk=TEXT, after=st.integers(0, 2), part=st.integers(0, 200))
    def die_in_a_write(self, stream: int, chunk: bytes, after: int, part: int) -> None:
        """kill -9 in the middle of a frame; whoever ships next closes the run."""

        def killed(fd: int, header: bytes, payload: bytes, size: int) -> None:
            os.pwrite(fd, (header + payload)[:part], size)
            raise KilledError

        assert self.writer
        writer = self.writer
        self.models[stream].write(chunk)
        before = writer.dropped
        try:
            self.failing(killed, after, lambda: writer.write(stream, chunk))
        except KilledError:
            self.dropped = True  # the rest of the chunk was never spooled
            self.has_reserve = False  # it may have died in there
        self.dropped = self.dropped or writer.dropped > before
        self.writer = None
        self.died = True
        writer.abandon()

    @precondition(lambda self: self.writer)
    @rule(stream=st.integers(0, 1), chunk=TEXT)
    def write_a_version_that_nobody_knows(self, stream: int, chunk: bytes) -> None:
        """Frames of a format before the first are whole, and cannot be read: their lines become a gap."""
        frame.VERSION = 0
        try:
            self.write(stream, chunk)
        finally:
            frame.VERSION = 1
        self.dropped = True

    @precondition(lambda self: self.writer)
    @rule()
    def close(self) -> None:
        """The command has ended."""
        assert self.writer
        for stream in (0, 1):
            self.cut(stream, closing=True)
        if self.writer.end({"event": "exit", "message": ""}):
            self.end = self.writer.next_seq
        else:
            assert not self.has_reserve
            self.writer.close()
        self.writer = None

    @precondition(lambda self: not self.writer and not self.recovered)
    @precondition(lambda self: self.has_reserve or self.write_whole == write_whole)
    @rule()
    def recover(self) -> None:
        """Whoever holds the `ship` lock closes a dead run, once; a run that is closed stays as it is."""
        assert close_dead_run(self.folder)
        self.recovered = True

    # The shipper

    @rule(everything=st.booleans())
    def send(self, everything: bool) -> None:
        """Hand a request out: its ranges are in the plan from then on."""
        self.source.read()
        request = self.source.full_request()
        if request is None:
            if everything:
                self.source.close_open_body()
            request = self.source.partial_request()
        self.source.plan(request.bodies)
        self.handed += request.bodies

    @precondition(lambda self: self.handed)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        """The destination has one of the bodies, in whatever order: what is complete from the front on is freed."""
        body = self.handed.pop(data.draw(st.integers(0, len(self.handed) - 1)))
        self.accept(body)
        self.source.acknowledge([body])

    @precondition(lambda self: self.handed)
    @rule()
    def accept_unnoticed(self) -> None:
        """The destination has a body, and the shipper dies before it hears of that: the same body comes again."""
        self.accept(self.handed[0])
        planned = [(pending.body.first, pending.body.last) for pending in self.handed]
        self.restart()
        self.source.read()
        self.source.close_open_body()
        again = [(pending.body.first, pending.body.last) for pending in self.source.ready]
        assert all(span in again for span in planned if span[1] < (again[-1][1] if again else 0))

    @rule()
    def restart(self) -> None:
        """Another shipper takes over; it knows what the checkpoint says."""
        self.source.close()
        self.source = self.new_source()
        self.handed = []

    def deliver_everything(self) -> None:
        """Send and acknowledge until nothing is left."""
        for _ in range(1000):
            self.send(everything=True)
            if not self.handed and self.source.done:
                return
            while self.handed:
                body = self.handed.pop(0)
                self.accept(body)
                self.source.acknowledge([body])
        raise AssertionError("there is no end to it")

    # What holds

    def accept(self, pending: PendingBody) -> None:
        """What comes again is the same as before."""
        for item in decode(pending.body.data):
            known = self.accepted.setdefault(item.seq, item)
            if isinstance(known, Record) and isinstance(item, Record):
                assert (known.data, known.stream) == (item.data, item.stream)

    @invariant()
    def records_are_lines(self) -> None:
        """Nothing is made up, altered, joined or out of order."""
        for name, model in zip(STREAMS, self.models, strict=True):
            items = [self.accepted[seq] for seq in sorted(self.accepted)]
            records = [item.data for item in items if isinstance(item, Record) and item.stream == name]
            assert is_in_order(records, [*model.lines, model.unfinished], self.died)

    def check_everything(self) -> None:
        """Every seq is there once, from the first to the end; without a loss so is every line."""
        expected = 0
        for seq in sorted(self.accepted):
            item = self.accepted[seq]
            assert item.seq == expected, (item, expected)
            expected = (item.last if isinstance(item, Event) else item.seq) + 1
        assert self.end in (expected, -1)
        events = [item for _, item in sorted(self.accepted.items()) if isinstance(item, Event)]
        ends = [item.event for item in events if item.event != "gap"]
        assert ends == ["start", "exit"]
        if not self.dropped:
            for name, model in zip(STREAMS, self.models, strict=True):
                records = [item for _, item in sorted(self.accepted.items()) if isinstance(item, Record)]
                model.cut()
                assert [record.data for record in records if record.stream == name] == model.lines

    def failing(self, fault: Callable[[int, bytes, bytes, int], None], after: int, step: Callable[[], object]) -> None:
        """Take a step during which the write after so many others fails, and every one behind it."""
        count = 0

        def write(fd: int, header: bytes, payload: bytes, size: int) -> None:
            nonlocal count
            count += 1
            (fault if count > after else self.write_whole)(fd, header, payload, size)

        segments.write_whole = write
        try:
            step()
        finally:
            segments.write_whole = self.write_whole


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=200, stateful_step_count=40)
