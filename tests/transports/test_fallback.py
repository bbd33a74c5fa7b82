"""--fallback: what the first destination does not accept goes to the second, and the first gets gap events."""

from __future__ import annotations

import os
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import Rebuilt, Sqstee, children, kill, python, running, targets, wait_for

from sqstee.record import Body, Encoder
from sqstee.spool.checkpoint import Checkpoint
from sqstee.transports.base import BatchLimits
from sqstee.transports.errors import OPEN, POISON, RETRY, SIZE, Failure, TransportError
from sqstee.transports.fallback import FallbackSender
from sqstee.transports.fallback_ledger import FallbackLedger
from sqstee.wire import Event, decode


class Scripted(BatchLimits):
    """A destination that accepts everything, or answers with `trouble`."""

    ordered = False

    def __init__(self) -> None:
        self.trouble: TransportError | None = None
        self.refuses, self.failing = b"\0", POISON
        self.calls = 0
        self.taken: list[Body] = []

    def open(self) -> int:
        if self.trouble:
            raise self.trouble
        return 1024 * 1024

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        self.calls += 1
        if self.trouble:
            raise self.trouble
        failed = [at for at, body in enumerate(bodies) if self.refuses in body.data]
        self.taken += [body for at, body in enumerate(bodies) if at not in failed]
        return [Failure(at, self.failing, "Code", "no") for at in failed]

    def close(self) -> None:
        pass


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def two() -> tuple[FallbackSender, Scripted, Scripted, Clock]:
    """A sender with 10 s of patience, its two destinations, and the clock."""
    clock, primary, fallback = Clock(), Scripted(), Scripted()
    return FallbackSender(primary, fallback, "s3://bucket/there", 10.0, clock), primary, fallback, clock


def line(seq: int, text: bytes = b"hi") -> Body:
    """A body of one line."""
    return Body(Encoder("RUN", "host").lines(text + b"\n", "stdout", 0, seq), "RUN", "host", seq, seq)


def test_temporary_trouble_is_left_to_the_caller_for_a_while(
    two: tuple[FallbackSender, Scripted, Scripted, Clock],
) -> None:
    """The caller tries again, until nothing was accepted for `after` seconds from the first try on."""
    sender, primary, fallback, clock = two
    assert sender.send([line(0)]) == []
    primary.trouble = TransportError(RETRY, "InternalError", "why")
    for clock.now in (0.0, 9.9):
        with pytest.raises(TransportError):
            sender.send([line(1)])
    assert fallback.taken == []
    clock.now = 10.1
    assert sender.send([line(1)]) == []
    assert [body.first for body in fallback.taken] == [1]


def test_a_primary_that_answers_and_accepts_nothing(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """Answers in which every message failed for now are no progress either."""
    sender, primary, fallback, clock = two
    assert sender.send([line(0)]) == []
    primary.refuses, primary.failing = b"hi", RETRY
    for clock.now in (0.0, 9.9):
        assert len(sender.send([line(1), line(2)])) == 2
    assert fallback.taken == []
    clock.now = 10.1
    assert sender.send([line(1), line(2)]) == []
    assert [body.first for body in fallback.taken] == [1, 2]


def test_a_refusal_names_the_destination_that_refused(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """Regression: the first destination was blamed for a mistyped fallback."""
    sender, primary, fallback, _ = two
    primary.trouble = TransportError(OPEN, "Gone", "no queue")
    for refused in (sender.open, lambda: sender.send([line(0)])):
        fallback.trouble = TransportError(OPEN, "NoSuchBucket", "no bucket")
        with pytest.raises(TransportError) as caught:
            refused()
        assert (caught.value.at, str(caught.value)) == (
            "s3://bucket/there",
            "s3://bucket/there: NoSuchBucket: no bucket",
        )
    assert sender.refusal == ("Gone: no queue", "")
    fallback.trouble = None
    fallback.refuses, fallback.failing = b"hi", OPEN
    (failure,) = sender.send([line(0)])
    assert (failure.at, str(failure)) == ("s3://bucket/there", "s3://bucket/there: Code: no")


def test_silence_is_no_outage(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """A job that is quiet for an hour and then meets one temporary error has not been refused for an hour."""
    sender, primary, fallback, clock = two
    assert sender.send([line(0)]) == []
    clock.now = 3600.0
    primary.trouble = TransportError(RETRY, "InternalError", "why")
    with pytest.raises(TransportError):
        sender.send([line(1)])
    primary.trouble, clock.now = None, 3601.0
    assert sender.send([line(1)]) == []
    assert fallback.taken == []


def test_a_permanent_refusal_opens_the_circuit_at_once(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """And the primary is not tried for half a minute."""
    sender, primary, fallback, clock = two
    primary.trouble = TransportError(OPEN, "AccessDenied", "why")
    sender.open()
    for clock.now in (0.0, 10.0, 29.0):
        assert sender.send([line(int(clock.now))]) == []
    assert primary.calls == 0
    assert len(fallback.taken) == 3
    clock.now = 31.0
    sender.send([line(31)])
    assert (primary.calls, len(fallback.taken)) == (1, 4)


def test_the_primary_gets_a_gap_event_when_it_recovers(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """The next real bodies try it, and a gap event names the lines that went elsewhere, and the place."""
    sender, primary, fallback, clock = two
    primary.trouble = TransportError(OPEN, "AccessDenied", "why")
    for seq in range(5):
        sender.send([line(seq)])
    primary.trouble, clock.now = None, 31.0
    assert sender.send([line(5)]) == []
    assert [body.first for body in fallback.taken] == [0, 1, 2, 3, 4]
    (gap,) = [item for body in primary.taken for item in decode(body.data) if isinstance(item, Event)]
    assert (gap.fields["from"], gap.fields["to"]) == (0, 4)
    assert (gap.fields["reason"], gap.fields["at"]) == ("fallback", "s3://bucket/there")
    sender.send([line(6)])
    assert len(primary.taken) == 3  # one gap event only


def test_a_record_refused_for_good_goes_to_the_fallback(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """By itself; a body of many is divided by the caller first."""
    sender, primary, fallback, _ = two
    primary.refuses = b"poison"
    assert sender.send([line(0), line(1, b"poison"), line(2)]) == []
    assert [body.first for body in fallback.taken] == [1]
    many = Body(line(3, b"poison").data + line(4).data, "RUN", "host", 3, 4)
    (failure,) = sender.send([many])
    assert failure.kind == POISON


class Raising(Scripted):
    """A destination with one body per call, which raises what it refuses, as a collector and a bucket do."""

    max_entries = 1

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        for failure in super().send(bodies):
            raise TransportError(failure.kind, failure.code, failure.message)
        return []


def test_a_record_that_a_call_of_its_own_refuses_goes_to_the_fallback() -> None:
    """Regression: one that a collector refused for good went to the quarantine. A start event is a record as well."""
    primary, fallback = Raising(), Scripted()
    sender = FallbackSender(primary, fallback, "there", 10.0)
    primary.refuses = b"poison"
    event = Body(Encoder("RUN", "host").event(b'{"event":"start","message":"poison"}', 0, 0), "RUN", "host", 0, 0)
    assert sender.send([event]) == sender.send([line(1)]) == sender.send([line(2, b"poison")]) == []
    assert [body.first for body in fallback.taken] == [0, 2]
    several = Body(line(3, b"poison").data + line(4).data, "RUN", "host", 3, 4)
    (failure,) = sender.send([several])
    assert failure.kind == POISON  # divided first


@pytest.mark.parametrize("kind", [POISON, SIZE])
@pytest.mark.parametrize("destination", [Scripted, Raising])
def test_a_primary_that_finds_fault_with_everything(destination: type[Scripted], kind: str) -> None:
    """Regression: of a collector that answers 400 or 413 to each request nothing ever reached the fallback."""
    primary, fallback = destination(), Scripted()
    sender = FallbackSender(primary, fallback, "there", 10.0)
    primary.refuses, primary.failing = b"", kind
    for seq in range(20):
        assert sender.send([line(seq)]) == []
    assert [body.first for body in fallback.taken] == list(range(20))
    assert primary.calls == 8
    assert sender.refusals == [("Code: no", "")]


def test_a_primary_that_refuses_some_is_kept(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """However many they are, as long as it accepts others."""
    sender, primary, fallback, _ = two
    primary.refuses = b"poison"
    for seq in range(0, 80, 4):
        assert sender.send([line(seq), *(line(seq + at, b"poison") for at in (1, 2, 3))]) == []
    assert len(fallback.taken) == 60
    assert sum(not body.is_gap for body in primary.taken) == 20


def test_a_fallback_that_keeps_the_order_gets_it() -> None:
    """Regression: a FIFO queue behind a collector got several requests at a time, and a run's bodies in disorder."""
    fifo = Scripted()
    fifo.ordered = True
    assert FallbackSender(Scripted(), fifo, "there", 10.0).ordered
    assert not FallbackSender(Scripted(), Scripted(), "there", 10.0).ordered


def test_a_primary_that_asks_for_a_long_wait(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """Regression: the fallback waited for as long, and a run that ended meanwhile left its lines in the spool."""
    sender, primary, fallback, clock = two
    primary.trouble = TransportError(RETRY, "Http503", "later", after=9.0)
    with pytest.raises(TransportError) as caught:
        sender.send([line(0)])
    assert caught.value.after == 0.0  # until the fallback's turn the usual pace of retries is slow enough
    clock.now = 2.0
    assert sender.send([line(0)]) == []
    assert [body.first for body in fallback.taken] == [0]


def test_a_body_of_several_runs_is_divided_first(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """An agent's body has no range of its own: one poisonous line does not take the others elsewhere."""
    sender, primary, fallback, _ = two
    primary.refuses = b"poison"
    lines = [Encoder(run, "host").lines(b"poison\n", "stdout", 0, 0) for run in ("A", "B")]
    (failure,) = sender.send([Body(b"".join(lines), "", "host", 0, 0)])
    assert (failure.kind, fallback.taken) == (POISON, [])


def test_the_fallback_gets_bodies_of_its_own_size(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """If it accepts one body per call, consecutive ones are joined, and its own linger applies."""
    sender, primary, fallback, clock = two
    fallback.max_entries, fallback.linger = 1, 10.0
    primary.trouble = TransportError(OPEN, "AccessDenied", "why")
    assert sender.linger == 1.0
    other = Body(Encoder("OTHER", "host").lines(b"hi\n", "stdout", 0, 7), "OTHER", "host", 7, 7)
    assert sender.send([line(0), line(1), line(2), other, line(5), line(6, b"x" * 500).compressed()]) == []
    assert sender.linger == 10.0
    ranges = [(body.run, body.first, body.last) for body in fallback.taken]
    assert ranges == [("RUN", 0, 2), ("OTHER", 7, 7), ("RUN", 5, 5), ("RUN", 6, 6)]
    assert [item.seq for item in decode(fallback.taken[0].data)] == [0, 1, 2]
    fallback.body_bytes = 2 * len(line(10).data)
    sender.send([line(seq) for seq in range(10, 15)])
    assert [(body.first, body.last) for body in fallback.taken[4:]] == [(10, 11), (12, 13), (14, 14)]
    primary.trouble, clock.now = None, 31.0
    assert sender.send([line(20)]) == []
    assert sender.linger == 1.0


def test_joined_bodies_that_are_refused_go_alone(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """Only the body at fault is refused."""
    sender, primary, fallback, _ = two
    fallback.max_entries, fallback.refuses = 1, b"poison"
    primary.trouble = TransportError(OPEN, "AccessDenied", "why")
    (failure,) = sender.send([line(0), line(1, b"poison"), line(2)])
    assert (failure.index, failure.kind) == (1, POISON)
    assert [body.first for body in fallback.taken] == [0, 2]


LEDGER = """
import sys
from sqstee.record import Body
from sqstee.transports.fallback_ledger import FallbackLedger
ledger = FallbackLedger(sys.argv[1], {"to": "pair"})
for first in (0, 10, 50):
    ledger.add([Body(b"", "RUN", "host", first, first + 9)])
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_ledger_outlives_its_owner_and_nobody_adopts_it_before(tmp_path: Path) -> None:
    """It is locked while the process lives; once that is killed, the next process with the same pair adopts it."""
    command = [*python(LEDGER), str(tmp_path)]
    next_one, stranger = FallbackLedger(str(tmp_path), {"to": "pair"}), FallbackLedger(str(tmp_path), {"to": "another"})
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == b"ready\n"
        assert FallbackLedger(str(tmp_path), {"to": "pair"}).unreported(10) == []
        owner.kill()
    assert stranger.unreported(10) == []
    found = next_one.unreported(10)
    assert [(one.run, one.first, one.last) for one in found] == [("RUN", 0, 19), ("RUN", 50, 59)]
    assert FallbackLedger(str(tmp_path), {"to": "pair"}).unreported(10) == []
    next_one.mark_reported(found)
    assert list((tmp_path / ".owed").iterdir()) == []


def open_files() -> Iterator[str]:
    """The paths of what this process has open."""
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{fd}")


def test_a_sender_that_is_gone_leaves_its_ledger_to_the_next_in_its_process(tmp_path: Path) -> None:
    """A run that ended in a process that goes on kept the lock and a descriptor until the process ended."""
    for first in (0, 10, 20):
        ledger = FallbackLedger(str(tmp_path), {"to": "pair"})
        ledger.add([Body(b"", "RUN", "host", first, first + 4)])
        del ledger
    assert [path for path in open_files() if path.startswith(str(tmp_path))] == []
    found = FallbackLedger(str(tmp_path), {"to": "pair"}).unreported(10)
    assert sorted(body.first for body in found) == [0, 10, 20]


def test_adjacent_ranges_are_joined_in_any_order(tmp_path: Path) -> None:
    """Of several bodies in flight the first one sent may be the last one accepted."""
    ledger = FallbackLedger(str(tmp_path), {"to": "pair"})
    for first in (20, 0, 40, 10, 30):
        ledger.add([Body(b"", "RUN", "host", first, first + 9), Body(b"", "OTHER", "host", first, first + 4)])
    found = [(one.run, one.first, one.last) for one in ledger.unreported(10)]
    assert [one for one in found if one[0] == "RUN"] == [("RUN", 0, 49)]
    assert len(found) == 6


def test_a_torn_or_old_ledger_does_no_harm(tmp_path: Path) -> None:
    """Whole lines count; a file older than a fortnight is removed, whatever its pair."""
    folder = tmp_path / ".owed"
    FallbackLedger(str(tmp_path), {"to": "pair"}).add([Body(b"", "RUN", "host", 3, 4)])
    (mine,) = folder.iterdir()
    whole = mine.read_bytes()
    pair = mine.name.partition("-")[0]
    mad = (b'{"run":"R","host":5,"from":0,"to":1}', b'{"run":"R","host":"h","from":9,"to":1}', b"[]", b"{", b"[" * 9999)
    torn = b"".join(b"%08x %s\n" % (zlib.crc32(line), line) for line in mad)
    torn += whole + whole.replace(b"3", b"1") + b"{}\n\0\xff" + whole[:-5]
    (folder / f"{pair}-torn").write_bytes(torn)
    (folder / "other-old").write_bytes(whole)
    os.utime(folder / "other-old", (0, 0))
    mine.unlink()
    assert [(one.first, one.last) for one in FallbackLedger(str(tmp_path), {"to": "pair"}).unreported(10)] == [(3, 4)]
    assert not (folder / "other-old").exists()


def test_killed_while_the_fallback_stood_in(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """kill -9 of all processes: once the queue exists, flush ships the rest, and the gap events for the other lines."""
    path = tmp_path / "second.db"
    code = python("import sys\nfor n in range(500): print(n)\nsys.stdout.flush(); sys.stdin.read()")
    words = sqstee.words("--to", "late", "--fallback", f"local:{path}", "--", *code)
    environ = sqstee.environ | fake_sqs.environ()
    with running(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environ) as wrapper:
        wait_for(lambda: path.exists() and len(sqstee.local(path).records) == 500, "lines")
        folder = sqstee.spool / ".owed"
        wait_for(lambda: any(b'"to": 500}' in path.read_bytes() for path in folder.glob("[!.]*-*")), "ranges")
        (run,) = sqstee.waiting_runs()
        # killed before that all is sent again: the queue would have the lines, and no need of a gap event
        wait_for(lambda: Checkpoint(str(sqstee.spool / run)).next == 501, "acknowledgement")
        kill(*children(wrapper.pid), wrapper.pid)
    fake_sqs.create_queue("late")
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    queued = [(message.body, message.attributes) for message in fake_sqs.sent("late")]
    gaps = [event for event in Rebuilt(queued).events if event.event == "gap"]
    elsewhere = [item.seq for item in sqstee.local(path).items]
    assert [(gap.seq, gap.last) for gap in gaps] == [(elsewhere[0], elsewhere[-1])]
    assert gaps[0].fields["at"] == f"local:{path}"
    got = Rebuilt([*((body.data, body.attributes) for body in sqstee.local_bodies(path)), *queued])
    got.assert_whole()
    assert got.stdout == b"".join(b"%d\n" % n for n in range(500))
    assert list((sqstee.spool / ".owed").iterdir()) == []


def test_flush_reports_diverted_lines(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Even if there is nothing to ship; while the queue is missing, nothing is printed and nothing forgotten."""
    words = ("--to", "late", "--fallback", f"local:{tmp_path}/second.db", "--", "seq", "9")
    assert sqstee.run(*words, environ=fake_sqs.environ()).returncode == 0
    assert sqstee.waiting_runs() == []
    found = sqstee.run("flush", environ=fake_sqs.environ())
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")
    fake_sqs.create_queue("late")
    found = sqstee.run("flush", environ=fake_sqs.environ())
    assert (found.returncode, found.stdout) == (0, b"late: sent gap events for the lines at its fallback\n")
    (message,) = fake_sqs.sent("late")
    (gap,) = decode(message.body)
    assert isinstance(gap, Event)
    assert (gap.event, gap.seq, gap.last) == ("gap", 0, 10)
    assert sqstee.run("flush", environ=fake_sqs.environ()).stdout == b""


def assert_diverted(stderr: bytes, to: str, fallback: str) -> None:
    """One line reports that the destination refuses everything, and where the lines go."""
    start = f"sqstee: {to} refuses the lines, which go to {fallback}; `sqstee check {to}` looks for the cause: "
    assert stderr.decode().startswith(start)
    assert stderr.count(b"\n") == 1


def test_a_trickle_to_the_fallback_is_few_objects(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """As many as S3 would get as the only destination, not one per second."""
    code = python("import time\nfor n in range(20): print(n, flush=True); time.sleep(0.25)")
    with targets.target("s3", tmp_path) as bucket:
        environ = fake_sqs.environ() | bucket.environ
        found = sqstee.run("--to", "missing", "--fallback", bucket.to, "--", *code, environ=environ)
        got = Rebuilt(bucket.bodies())
        assert len(bucket.bodies()) <= 3
    got.assert_whole()
    assert got.stdout == found.stdout
    assert_diverted(found.stderr, "missing", bucket.to)


def test_neither_accepts_it(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """Then the fallback's error is raised, as from a single destination."""
    sender, primary, fallback, _ = two
    primary.trouble = TransportError(OPEN, "AccessDenied", "why")
    fallback.trouble = TransportError(RETRY, "InternalError", "why")
    with pytest.raises(TransportError, match="InternalError"):
        sender.send([line(0)])


def test_at_the_end_half_of_the_time_is_the_fallbacks(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """The command has ended: waiting for the primary must not use up the time that is left."""
    sender, primary, fallback, clock = two
    primary.trouble = TransportError(RETRY, "InternalError", "why")
    sender.shorten_waits(6.0)
    clock.now = 2.9
    with pytest.raises(TransportError):
        sender.send([line(0)])
    clock.now = 3.1
    assert sender.send([line(0)]) == []
    assert len(fallback.taken) == 1


def test_a_shortened_wait_passes(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """A run waits for its delivery, and others of the host go on: afterwards they wait as long as before."""
    sender, primary, fallback, clock = two
    primary.trouble = TransportError(RETRY, "InternalError", "why")
    sender.shorten_waits(6.0, 2.0)
    clock.now = 3.1
    with pytest.raises(TransportError):
        sender.send([line(0)])
    sender.shorten_waits(6.0, 2.0)
    assert sender.send([line(0)]) == []
    assert len(fallback.taken) == 1
    sender.shorten_waits(8.0)
    sender.shorten_waits(2.0, 2.0)  # the shipper ends: that stays
    primary.trouble, clock.now = None, 40.0
    assert sender.send([line(1)]) == []
    primary.trouble = TransportError(RETRY, "InternalError", "why")
    for clock.now in (50.0, 53.9):
        with pytest.raises(TransportError):
            sender.send([line(2)])
    clock.now = 54.0
    assert sender.send([line(2)]) == []


def test_a_queue_that_is_not_there(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Everything is in the fallback, bit for bit, and nothing stays behind."""
    path = tmp_path / "second.db"
    code = python("for n in range(30000): print('line', n)")
    words = ("--to", "missing", "--fallback", f"local:{path}", "--")
    found = sqstee.run(*words, *code, environ=fake_sqs.environ())
    assert found.returncode == 0
    assert_diverted(found.stderr, "missing", f"local:{path}")
    got = sqstee.local(path)
    got.assert_whole()
    assert got.stdout == found.stdout
    assert sqstee.waiting_runs() == []


def test_an_outage_at_the_end_of_a_short_job(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Half of the flush time belongs to the fallback, however long --fallback-after is."""
    path = tmp_path / "second.db"
    fake_sqs.faults(refuse=True)
    words = ("--to", "q", "--fallback", f"local:{path}", "--fallback-after", "1h", "--flush-timeout", "30s", "--")
    found = sqstee.run(*words, "seq", "1000", environ=fake_sqs.environ())
    assert (found.returncode, found.stderr) == (0, b"")
    got = sqstee.local(path)
    got.assert_whole()
    assert got.stdout == found.stdout


@pytest.mark.parametrize("verb", ["flush --timeout 10s", "agent --once --flush-timeout 10s"])
def test_an_outage_when_a_spool_is_emptied(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, verb: str) -> None:
    """Half of that time belongs to the fallback as well, even if it is shorter than --fallback-after."""
    path = tmp_path / "second.db"
    fake_sqs.faults(refuse=True)
    words = ("--to", "q", "--fallback", f"local:{path}", "--fallback-after", "1h", "--flush-timeout", "0")
    assert sqstee.run(*words, "--", "seq", "1000", environ=fake_sqs.environ()).returncode == 0
    assert len(sqstee.waiting_runs()) == 1
    assert sqstee.run(*verb.split(), environ=fake_sqs.environ()).returncode == 0
    assert sqstee.waiting_runs() == []
    sqstee.local(path).assert_whole()


def test_no_credentials_at_the_end_of_a_short_job(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Missing credentials do not end the run before the fallback's turn."""
    environ = {name: value for name, value in fake_sqs.environ().items() if "KEY" not in name}
    words = ("--to", "q", "--fallback", f"local:{tmp_path}/there.db", "--fallback-after", "2s")
    found = sqstee.run(*words, "--", "seq", "3", environ=environ)
    assert found.returncode == 0
    assert_diverted(found.stderr, "q", f"local:{tmp_path}/there.db")
    assert sqstee.local(tmp_path / "there.db").stdout == b"1\n2\n3\n"
    assert sqstee.waiting_runs() == []


def test_a_fallback_by_a_relative_path(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is relative to the caller's folder, not the shipper's, nor that of a later flush."""
    monkeypatch.chdir(tmp_path)
    words = ("--to", "missing", "--fallback", "local:sqstee-test-second.db", "--")
    found = sqstee.run(*words, "seq", "10", environ=fake_sqs.environ())
    assert found.returncode == 0
    assert_diverted(found.stderr, "missing", f"local:{tmp_path}/sqstee-test-second.db")
    assert sqstee.local(tmp_path / "sqstee-test-second.db").stdout == found.stdout


def test_both_together_are_the_whole(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """A poisonous line among ten thousand: the queue has the others, the fallback has it, nothing is quarantined."""
    path = tmp_path / "second.db"
    fault = {"contains": "poisonous", "code": "InvalidMessageContents", "sender_fault": True}
    fake_sqs.faults(failed_entries=[fault])
    code = python("for n in range(10000): print('poisonous' if n == 7000 else f'line {n}')")
    found = sqstee.run("--to", "q", "--fallback", f"local:{path}", "--", *code, environ=fake_sqs.environ())
    assert found.stderr == b""
    bodies: list[tuple[str | bytes, dict[str, str]]] = [
        (body.data, body.attributes) for body in sqstee.local_bodies(path)
    ]
    bodies += [(message.body, message.attributes) for message in fake_sqs.sent("q")]
    got = Rebuilt(bodies)
    got.assert_whole()
    assert got.stdout == found.stdout
    assert sqstee.local(path).stdout == b"poisonous\n"
    assert not (sqstee.spool / "quarantine").exists()


def test_the_destination_itself_is_no_fallback(sqstee: Sqstee) -> None:
    """One line and a hint, and nothing is run."""
    found = sqstee.run("--to", "q", "--fallback", "q", "--", "echo", "hi")
    assert (found.returncode, found.stdout) == (125, b"")
    assert found.stderr.startswith(b"sqstee: --fallback and --to are the same destination\nhint: ")


def test_a_gap_event_that_was_refused_for_good_is_dropped(
    two: tuple[FallbackSender, Scripted, Scripted, Clock],
) -> None:
    """A gap event that the primary will never accept does not block the others."""
    sender, primary, fallback, clock = two
    primary.trouble = TransportError(OPEN, "NoSuchQueue", "no")
    sender.send([line(0)])
    primary.trouble, primary.refuses = None, b'"event":"gap"'
    clock.now = 31.0
    sender.send([line(1)])
    calls = primary.calls
    sender.send([line(2)])
    assert primary.calls == calls + 1
    assert len(fallback.taken) == 1


def test_a_ledger_that_cannot_be_adopted_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk has no room for the new file, the old one is kept for the next process."""
    dead, next_one = FallbackLedger(str(tmp_path), {"to": "pair"}), FallbackLedger(str(tmp_path), {"to": "pair"})
    dead.add([Body(b"", "RUN", "host", 3, 4)])
    del dead
    with monkeypatch.context() as full:
        full.setattr(next_one, "_make", lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert len(next_one.unreported(10)) == 1
    assert [(one.first, one.last) for one in FallbackLedger(str(tmp_path), {"to": "pair"}).unreported(10)] == [(3, 4)]


@pytest.fixture
def three() -> tuple[FallbackSender, Scripted, Scripted, Scripted, Clock]:
    """A sender with two fallbacks, its three destinations, and the clock; each gets 10 s."""
    clock, first, second, third = Clock(), Scripted(), Scripted(), Scripted()
    inner = FallbackSender(second, third, "third", 10.0, clock, standing_by=True)
    return FallbackSender(first, inner, "second", 10.0, clock), first, second, third, clock


def gaps_at(destination: Scripted) -> list[tuple[int, int, str]]:
    """From, to and place of each gap event that a destination got."""
    items = [item for body in destination.taken for item in decode(body.data)]
    return [
        (int(str(item.fields["from"])), int(str(item.fields["to"])), str(item.fields["at"]))
        for item in items
        if isinstance(item, Event) and item.event == "gap"
    ]


Three = tuple[FallbackSender, Scripted, Scripted, Scripted, Clock]


def test_fallbacks_are_tried_in_order_and_each_is_told_where_the_rest_is(three: Three) -> None:
    """The first learns for every line which of the others has it; the second what went to the third."""
    sender, first, second, third, clock = three
    first.trouble = TransportError(OPEN, "Gone", "no")
    assert sender.send([line(0), line(1)]) == []
    second.trouble = TransportError(OPEN, "Denied", "no")
    assert sender.send([line(2), line(3)]) == []
    assert sender.refusals == [("Gone: no", ""), ("Denied: no", "second")]
    clock.now, second.trouble = 31.0, None
    assert sender.send([line(4)]) == []
    assert [[body.first for body in one.taken if not body.is_gap] for one in (first, second, third)] == [
        [],
        [0, 1, 4],
        [2, 3],
    ]
    assert gaps_at(second) == [(2, 3, "third")]
    clock.now, first.trouble = 62.0, None
    assert sender.send([line(5)]) == []
    assert sorted(gaps_at(first)) == [(0, 1, "second"), (2, 3, "third"), (4, 4, "second")]
    assert sender.refusals == []


def test_the_second_has_its_own_time_without_progress(three: Three) -> None:
    """From its first call on: it stood by for as long as the first one worked."""
    sender, first, second, third, clock = three
    assert sender.send([line(0)]) == []
    clock.now = 1000.0
    first.trouble = second.trouble = TransportError(RETRY, "Busy", "why")
    for clock.now in (1000.0, 1009.0, 1011.0, 1020.0):
        with pytest.raises(TransportError):
            sender.send([line(1)])
    clock.now = 1022.0
    assert sender.send([line(1)]) == []
    assert [body.first for body in third.taken] == [1]


def test_at_the_end_each_has_a_share_of_the_time(three: Three) -> None:
    """Half for the first, a quarter for the second, and the rest for the third."""
    sender, first, second, third, clock = three
    first.trouble = second.trouble = TransportError(RETRY, "Busy", "why")
    sender.shorten_waits(8.0)
    for clock.now in (0.0, 3.9, 4.1, 6.0):
        with pytest.raises(TransportError):
            sender.send([line(0)])
    clock.now = 6.2
    assert sender.send([line(0)]) == []
    assert len(third.taken) == 1


def test_none_of_three_accepts_it(three: Three) -> None:
    """The last one is to blame, by its own name."""
    sender, first, second, third, _ = three
    for at, one in enumerate((first, second, third)):
        one.trouble = TransportError(OPEN, f"No{at}", "no")
    with pytest.raises(TransportError) as caught:
        sender.send([line(0)])
    assert (caught.value.at, str(caught.value)) == ("third", "third: No2: no")
    third.trouble = None
    third.refuses, third.failing = b"hi", OPEN
    (failure,) = sender.send([line(0)])
    assert str(failure) == "third: Code: no"


def test_the_linger_is_that_of_the_destination_in_use(three: Three) -> None:
    """Objects in S3 at the end of the chain are as few as right behind the queue."""
    sender, first, second, third, _ = three
    second.linger, third.linger, third.max_entries = 2.0, 10.0, 1
    first.trouble = TransportError(OPEN, "Gone", "no")
    sender.send([line(0)])
    assert sender.linger == 2.0
    second.trouble = TransportError(OPEN, "Gone", "no")
    assert sender.send([line(1), line(2)]) == []
    assert sender.linger == 10.0
    assert [(body.first, body.last) for body in third.taken] == [(1, 2)]


def test_a_poisonous_line_goes_down_the_chain(three: Three) -> None:
    """It alone, and the others are told where it is."""
    sender, first, second, third, _ = three
    first.refuses = second.refuses = b"poison"
    assert sender.send([line(0), line(1, b"poison"), line(2)]) == []
    assert [body.first for body in third.taken] == [1]
    sender.send([line(3)])
    assert gaps_at(first) == [(1, 1, "third")]


def test_ranges_at_two_places_are_kept_apart_on_disk(tmp_path: Path) -> None:
    """Adjacent ones are joined only where they are at one place; the file of an older version says no place."""
    ledger = FallbackLedger(str(tmp_path), {"to": "pair"})
    ledger.add([Body(b"", "RUN", "host", 0, 4), Body(b"", "RUN", "host", 5, 9)])
    ledger.add([Body(b"", "RUN", "host", 10, 14)], "third")
    ledger.add([Body(b"", "RUN", "host", 15, 19)])
    del ledger
    found = FallbackLedger(str(tmp_path), {"to": "pair"}).unreported(10)
    assert sorted((one.first, one.last, one.at) for one in found) == [(0, 9, ""), (10, 14, "third"), (15, 19, "")]


def test_a_chain_from_rest_over_sqs_to_s3(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """The collector is down and the queue does not exist: everything is at the third, bit for bit, and flush tells."""
    path = tmp_path / "third.db"
    chain = f"--to http://127.0.0.1:1/ --fallback late --fallback local:{path} --fallback-after 0 --"
    found = sqstee.run(*chain.split(), "seq", "1000", environ=fake_sqs.environ())
    assert (found.returncode, found.stdout.count(b"\n")) == (0, 1000)
    assert_diverted(found.stderr, "late", f"local:{path}")
    got = sqstee.local(path)
    got.assert_whole()
    assert got.stdout == found.stdout
    assert sqstee.waiting_runs() == []
    fake_sqs.create_queue("late")
    flush = sqstee.run("flush", environ=fake_sqs.environ())
    assert flush.stdout == b"late: sent gap events for the lines at its fallback\n"
    (message,) = fake_sqs.sent("late")
    (gap,) = decode(message.body)
    assert isinstance(gap, Event)
    assert (gap.seq, gap.last, gap.fields["at"]) == (0, 1001, f"local:{path}")


def test_a_chain_is_kept_for_whoever_ships_it(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """A run that was left in the spool goes down the chain as well; a variable separates its parts by commas."""
    path = tmp_path / "third.db"
    environ = fake_sqs.environ() | {"SQSTEE_FALLBACK": f"missing,local:{path}", "SQSTEE_FALLBACK_AFTER": "0"}
    words = ("--to", "absent", "--flush-timeout", "0", "--", "seq", "9")
    fake_sqs.faults(refuse=True)
    assert sqstee.run(*words, environ=environ).returncode == 0
    assert len(sqstee.waiting_runs()) == 1
    fake_sqs.faults()
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    sqstee.local(path).assert_whole()


@pytest.mark.parametrize(
    ("fallbacks", "message"),
    [
        (("b", "b"), "--fallback names one destination twice"),
        (("b", "q"), "--fallback and --to are the same destination"),
        (tuple("abcdefghi"), "--fallback is given more than 8 times"),
        (("b", "local:/none/such/x.db"), "local:/none/such/x.db: the folder /none/such does not exist"),
    ],
)
def test_a_chain_that_makes_no_sense(sqstee: Sqstee, fallbacks: tuple[str, ...], message: str) -> None:
    """One line and a hint, and nothing is run."""
    words = [word for fallback in fallbacks for word in ("--fallback", fallback)]
    found = sqstee.run("--to", "q", *words, "--", "echo", "hi")
    assert (found.returncode, found.stdout) == (125, b"")
    assert found.stderr.startswith(f"sqstee: {message}".encode())
    assert b"\nhint: " in found.stderr
