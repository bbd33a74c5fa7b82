"""--fallback: what the first destination refuses or cannot take is at the second, and the first is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_sqs import FakeSqs
from support import Rebuilt, Sqstee, python

from sqstee.record import Body, Encoder, Event, decode
from sqstee.transports.base import OPEN, POISON, RETRY, Batches, Failure, TransportError
from sqstee.transports.fallback import FallbackSender


class Scripted(Batches):
    """A destination that takes everything, or answers with `trouble`."""

    ordered = False

    def __init__(self) -> None:
        self.trouble: TransportError | None = None
        self.refuses = b"\0"
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
        return [Failure(at, POISON, "InvalidMessageContents", "no") for at in failed]

    def close(self) -> None:
        pass


class Clock:
    """A clock that moves when it is told to."""

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


def test_passing_trouble_is_borne_for_a_while(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """It is the caller's to try again, until nothing was taken for so long."""
    sender, primary, fallback, clock = two
    assert sender.send([line(0)]) == []
    primary.trouble = TransportError(RETRY, "InternalError", "why")
    for clock.now in (1.0, 9.9):
        with pytest.raises(TransportError):
            sender.send([line(1)])
    assert fallback.taken == []
    clock.now = 10.1
    assert sender.send([line(1)]) == []
    assert [body.first for body in fallback.taken] == [1]


def test_a_permanent_refusal_opens_the_circuit_at_once(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """And the primary is left alone for half a minute."""
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


def test_the_primary_is_told_when_it_is_well_again(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """The next real bodies try it, and a gap event says which lines went elsewhere, and where."""
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
    assert len(primary.taken) == 3  # it is told once


def test_a_record_refused_for_good_goes_to_the_fallback(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """By itself; a body of many is divided by the caller first."""
    sender, primary, fallback, _ = two
    primary.refuses = b"poison"
    assert sender.send([line(0), line(1, b"poison"), line(2)]) == []
    assert [body.first for body in fallback.taken] == [1]
    many = Body(line(3, b"poison").data + line(4).data, "RUN", "host", 3, 4)
    (failure,) = sender.send([many])
    assert failure.kind == POISON


def test_neither_takes_it(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """Then it is as if there were one destination that does not."""
    sender, primary, fallback, _ = two
    primary.trouble = TransportError(OPEN, "AccessDenied", "why")
    fallback.trouble = TransportError(RETRY, "InternalError", "why")
    with pytest.raises(TransportError, match="InternalError"):
        sender.send([line(0)])


def test_at_the_end_half_of_the_time_is_the_fallbacks(two: tuple[FallbackSender, Scripted, Scripted, Clock]) -> None:
    """The command has ended: what is left is not waited away."""
    sender, primary, fallback, clock = two
    primary.trouble = TransportError(RETRY, "InternalError", "why")
    sender.hurry(6.0)
    clock.now = 2.9
    with pytest.raises(TransportError):
        sender.send([line(0)])
    clock.now = 3.1
    assert sender.send([line(0)]) == []
    assert len(fallback.taken) == 1


def test_a_queue_that_is_not_there(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Everything is in the fallback, bit for bit, and nothing stays behind."""
    path = tmp_path / "second.db"
    code = python("for n in range(30000): print('line', n)")
    words = ("--to", "missing", "--fallback", f"local:{path}", "--")
    found = sqstee.run(*words, *code, environ=fake_sqs.environ())
    assert (found.returncode, found.stderr) == (0, b"")
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


def test_both_together_are_the_whole(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """A poisonous line among ten thousand: the queue has the others, the fallback has it, nothing is put aside."""
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
    assert found.stderr.startswith(b"sqstee: --fallback names the destination itself\nhint: ")
