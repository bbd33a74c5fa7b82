"""Passing trouble while reading: how long it is borne, and how often it is reported."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support import wait_for
from support.bodies import expected, lines_of
from support.reading import Queue, printed

from sqstee.read.ack_pool import AckPool
from sqstee.read.receiver_pool import ReceiverPool
from sqstee.read.trouble import Trouble, persist
from sqstee.read.unmatched import UnmatchedSender
from sqstee.transports.base import QueueState, ReceivedMessage
from sqstee.transports.errors import NOT_RETRIEVED, OPEN, REFRESH, RETRY, Failure, TransportError
from sqstee.transports.local import LocalSender
from sqstee.wire import decode


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """No back-off takes long."""
    monkeypatch.setattr("sqstee.read.trouble.BACKOFF_MOST_SECONDS", 0.001)


class Refusing(Queue):
    """A queue whose first calls fail."""

    def __init__(self, refusals: int, error: TransportError) -> None:
        super().__init__([ReceivedMessage(lines_of(0, 1).data, {}, "a", "a")])
        self.refusals, self.error = refusals, error

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Fail, or give the next answer."""
        if self.refusals:
            self.refusals -= 1
            raise TransportError(self.error.kind, self.error.code, self.error.message)
        return super().receive(limit, wait)


def test_trouble_is_reported_once_when_it_begins_and_once_when_it_is_over() -> None:
    """However often calls fail and succeed in between; a lone failure is not worth a word."""
    said: list[str] = []
    now = 0.0
    trouble = Trouble("q: receiving", said.append, lambda: now)
    trouble.failed("Throttled")
    for second in range(6, 26):
        now = float(second)
        trouble.succeeded()
    assert said == []
    for second in range(30, 45):
        now = float(second)
        trouble.failed("Throttled")
        trouble.succeeded()
    assert said == ["q: receiving fails, and is tried again: Throttled"]
    now = 49.5
    trouble.check()
    assert said[1:] == ["q: receiving works again, after 14 s of trouble"]
    trouble.failed("Throttled")
    trouble.failed("Throttled", 29.3)
    assert said[2:] == ["q: receiving fails, and is tried again for up to 30 s: Throttled"]


@pytest.mark.parametrize(
    "error",
    [
        TransportError(RETRY, "ServiceUnavailable", "503"),
        TransportError(RETRY, "RequestThrottled", "slower"),
        TransportError(REFRESH, NOT_RETRIEVED, "the credential_process failed"),
    ],
    ids=lambda error: error.code,
)
def test_a_passing_answer_at_the_start_is_borne(tmp_path: Path, error: TransportError) -> None:
    """A service that refuses the first calls is read once it answers."""
    out, said = printed(tmp_path, Refusing(20, error))
    assert out == expected(0, 1)
    assert said.count(b"receiving fails, and is tried again for up to 30 s") == 1


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (TransportError(OPEN, "AccessDenied", "no"), 1),
        (TransportError(REFRESH, "NoCredentials", "none"), 2),
        (TransportError(REFRESH, "InvalidClientTokenId", "wrong"), 2),
    ],
    ids=lambda value: value.code if isinstance(value, TransportError) else "",
)
def test_a_mistake_ends_a_reading_at_once(tmp_path: Path, error: TransportError, calls: int) -> None:
    """Without a word about trying again."""
    queue = Refusing(1000, error)
    with pytest.raises(TransportError, match=f"memory: {error.code}"):
        printed(tmp_path, queue)
    assert 1000 - queue.refusals <= calls + 4  # each of four threads may have had a call out
    assert (tmp_path / "err").read_bytes() == b""


def test_the_start_has_an_end() -> None:
    """Nothing has answered within --start-timeout: the pool fails with the last error."""
    queue = Refusing(10**9, TransportError(RETRY, "ServiceUnavailable", "503"))
    pool = ReceiverPool([queue], lambda receiver, messages: None, lambda text: None, 1, 0.0, start_timeout=0.02)
    pool.start()
    wait_for(lambda: pool.is_over, "the end")
    pool.stop()
    assert "memory: ServiceUnavailable" in str(pool.failure)


def test_renewal_in_the_middle_may_fail_for_long() -> None:
    """Credentials that have expired are renewed sooner or later: whatever has answered once is tried for ever."""
    got: list[ReceivedMessage] = []
    queue = Refusing(0, TransportError(REFRESH, "ExpiredToken", "expired"))
    pool = ReceiverPool([queue], lambda _, messages: got.extend(messages), lambda text: None, 1, 0.0, start_timeout=0.0)
    pool.start()
    wait_for(lambda: len(got) == 1, "the first message")
    queue.answers.append([ReceivedMessage(b"", {}, "b", "b")])
    queue.refusals = 50
    wait_for(lambda: len(got) == 2, "the second message")
    pool.stop()
    assert pool.failure is None


def test_a_queue_that_does_not_answer_is_not_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty answers from before the trouble say nothing about the time after it."""
    monkeypatch.setattr("sqstee.read.receiver_pool._GIVE_UP_SECONDS", 0.0)
    queue = Refusing(0, TransportError(RETRY, "ServiceUnavailable", "503"))
    queue.answers = []
    pool = ReceiverPool([queue], lambda receiver, messages: None, lambda text: None, 1, 0.0)
    pool.start()
    wait_for(lambda: pool.is_empty(0.0), "two empty answers")
    queue.refusals = 10**9
    wait_for(lambda: not pool.is_empty(0.0), "the trouble")
    pool.stop()


def failures() -> list[Failure]:
    """A refusal that may pass, of the only message of a call."""
    return [Failure(0, RETRY, "InternalError", "later")]


def test_deletes_are_tried_for_as_long_as_the_reader_lives() -> None:
    """More failures than six do not end them, and people hear of it once."""
    queue = Queue()
    queue.failures = [failures() for _ in range(40)]
    said: list[str] = []
    acks = AckPool(1, notice=said.append)
    acks.delete(queue, [ReceivedMessage(b"", {}, "a", "a")])
    wait_for(lambda: acks.deleted == 1, "the deletion")
    acks.close()
    assert (acks.failed, len(queue.deleted), len(said)) == (0, 41, 1)
    assert said[0].startswith("memory: deleting fails, and is tried again: InternalError")


def test_a_reader_that_may_end_waits_for_deletes_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """`drain` ended while a queue refused them for a few seconds: 134 of 134 messages would come again."""
    monkeypatch.setattr("sqstee.read.trouble.BACKOFF_MOST_SECONDS", 0.0)
    queue = Queue()
    queue.failures = [failures() for _ in range(10**6)]
    acks = AckPool(1)
    assert not acks.is_patient
    acks.delete(queue, [ReceivedMessage(b"", {}, "a", "a")])
    wait_for(lambda: acks.is_patient, "a delete that failed")
    monkeypatch.setattr("sqstee.read.ack_pool._PATIENCE_SECONDS", 0.0)
    assert not acks.is_patient
    monkeypatch.undo()
    queue.failures.clear()
    wait_for(lambda: acks.deleted == 1 and not acks.is_patient, "the deletion")
    acks.close()


def test_at_the_end_a_delete_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end cuts the back-off short; what is refused then is counted."""
    monkeypatch.setattr("sqstee.read.trouble.BACKOFF_MOST_SECONDS", 0.0)
    queue = Queue()
    queue.failures = [failures() for _ in range(10**6)]
    acks = AckPool(1)
    acks.delete(queue, [ReceivedMessage(b"", {}, "a", "a")])
    wait_for(lambda: len(queue.deleted) > 10, "many attempts")
    monkeypatch.setattr("sqstee.read.ack_pool.pause_after", lambda attempt: 600.0)
    acks.close()
    assert (acks.deleted, acks.failed) == (0, 1)


@pytest.mark.parametrize(("most", "calls"), [(10, [10, 10, 5]), (1000, [25])])
def test_one_call_deletes_as_many_as_the_receiver_can(most: int, calls: list[int]) -> None:
    """S3 a thousand, SQS ten, which is what counts where a receiver does not say."""
    queue = Queue()
    if most != 10:
        queue.max_delete = most  # type: ignore[attr-defined]
    acks = AckPool(1)
    acks.delete(queue, [ReceivedMessage(b"", {}, str(number), str(number)) for number in range(25)])
    acks.close()
    assert [len(batch) for batch in queue.deleted] == calls


def test_a_message_that_came_again_waits_for_its_deletion_once() -> None:
    """While deletes fail each redelivery replaces the last one: memory does not grow, and the latest handle counts."""
    started, go = threading.Event(), threading.Event()

    class Slow(Queue):
        def delete(self, messages: object) -> list[Failure]:
            started.set()
            go.wait(30)
            return super().delete(messages)

    queue = Slow()
    queue.failures = [failures()]
    acks = AckPool(1)
    acks.delete(queue, [ReceivedMessage(b"", {}, "0", "m")])
    started.wait(30)
    for handle in range(1, 1000):
        acks.delete(queue, [ReceivedMessage(b"", {}, str(handle), "m")])
    go.set()
    acks.close()
    assert [[one.handle for one in batch] for batch in queue.deleted] == [["0"], ["999"]]


def test_refused_deletes_are_reported_while_the_reader_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, not only at its end: it may follow for weeks, and receive the same messages again and again."""
    now, said = [0.0], list[str]()
    trouble = Trouble("it", said.append, lambda: now[0])
    trouble.refused("AccessDenied")
    now[0] = 29.0
    trouble.check()
    assert said == []
    now[0] = 31.0
    trouble.check()
    trouble.refused("AccessDenied")
    now[0] = 99.0
    trouble.check()
    assert said == ["it is refused: AccessDenied"]

    monkeypatch.setattr("sqstee.read.trouble._REFUSED_SECONDS", 0.0)
    queue = Queue()
    queue.failures = [[Failure(0, OPEN, "AccessDenied", "no")]]
    acks = AckPool(1, notice=said.append)
    acks.delete(queue, [ReceivedMessage(b"", {}, "handle", "id")])
    wait_for(lambda: len(said) == 2, "the notice of the refusal")
    acks.close()
    assert said[1] == "memory: deleting is refused: AccessDenied: no"


def test_lines_for_keep_unmatched_wait_for_a_destination_that_refuses_them(tmp_path: Path) -> None:
    """Passing trouble behind --keep-unmatched does not end the reader; a mistake does."""

    class Throttled(LocalSender):
        refusals = 5

        def send(self, bodies: object) -> list[Failure]:
            if self.refusals:
                self.refusals -= 1
                raise TransportError(RETRY, "Throttled", "slower")
            return super().send(bodies)  # type: ignore[arg-type]

    said: list[str] = []
    sender = Throttled(str(tmp_path / "kept.db"), 1 << 30)
    store = UnmatchedSender(sender, said.append, lambda seconds: None)
    store.add(decode(lines_of(0, 2).data))
    store.flush()
    assert said == ["storing for --keep-unmatched fails, and is tried again: Throttled: slower"]
    sender.close()
    with pytest.raises(TransportError, match="AccessDenied"):
        persist(_refuse, Trouble("it", said.append), lambda seconds: None)


def test_a_mistake_behind_keep_unmatched_is_named_as_that() -> None:
    """The reader's own source is another destination."""

    class Denied(LocalSender):
        def open(self) -> int:
            _refuse()
            return 0

    with pytest.raises(TransportError, match=r"^--keep-unmatched: AccessDenied: no$"):
        UnmatchedSender(Denied("kept.db", 1 << 30), lambda text: None, lambda seconds: None)


def _refuse() -> None:
    raise TransportError(OPEN, "AccessDenied", "no")


class Full(Queue):
    """A queue that gives nothing, although a message is visible to some."""

    lists_all = False

    def stat(self) -> QueueState:
        """The state with that message."""
        return QueueState(1)


def test_an_empty_answer_is_final_where_nothing_is_polled_for() -> None:
    """A store or a listing hides no messages; a queue may, so empty answers alone prove nothing."""
    for lists_all in (True, False):
        queue = Full()
        queue.lists_all = lists_all
        pool = ReceiverPool([queue], lambda receiver, messages: None, lambda text: None, 1, 0.01)
        pool.start()
        wait_for(lambda queue=queue: len(queue.limits) > 3, "three empty answers")  # type: ignore[misc]
        assert pool.is_empty(0.0) == lists_all
        pool.stop()
