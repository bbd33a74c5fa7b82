"""Bodies compressed beside packing: in order, unchanged in what they say, whatever threads can be had."""

from __future__ import annotations

import _thread

import pytest
from fakes.sqs import FakeSqs
from support import Rebuilt, Sqstee, python

from sqstee.record import Body
from sqstee.ship.compressor_pool import CompressorPool
from sqstee.ship.request import PendingBody


def bodies(count: int) -> list[PendingBody]:
    """Large ones, and a small one among every seven."""
    return [
        PendingBody(Body(b"%d line\n" % number * (20 if number % 7 == 0 else 20_000), "R", "h", number, number), None)
        for number in range(count)
    ]


def through(compressor: CompressorPool, given: list[PendingBody]) -> list[PendingBody]:
    """All of them, as they come out."""
    return [done for planned in given for done in compressor.add(planned)] + list(compressor.drain())


@pytest.mark.parametrize(("mode", "compressed"), [("none", 0), ("auto", 17), ("gzip", 20)])
def test_bodies_come_out_in_order(mode: str, compressed: int) -> None:
    """Compressed where that is wanted, the large ones alone with `auto`; the records are the same."""
    given = bodies(20)
    data = [planned.body.data for planned in given]
    found = through(CompressorPool(mode), given)
    assert [planned.body.first for planned in found] == list(range(20))
    assert [planned.body.plain().data for planned in found] == data
    assert sum(bool(planned.body.encoding) for planned in found) == compressed


def test_without_threads_who_waits_compresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit on threads nothing is lost, and nothing waits for ever."""

    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    found = through(CompressorPool("auto"), bodies(20))
    assert [planned.body.first for planned in found] == list(range(20))
    assert sum(bool(planned.body.encoding) for planned in found) == 17


def test_a_body_that_cannot_be_compressed_goes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of memory, say: it is sent all the same."""

    def fail(_: Body) -> Body:
        raise MemoryError

    monkeypatch.setattr(Body, "compressed", fail)
    found = through(CompressorPool("gzip"), bodies(10))
    assert [planned.body.first for planned in found] == list(range(10))
    assert not any(planned.body.encoding for planned in found)


def test_bodies_that_compression_makes_larger(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """base64(gzip) of what cannot be compressed exceeded 1 MiB, and nothing behind it was ever sent."""
    words = ("--to", "q", "--message-bytes", "1M", "--compress", "gzip")
    code = "import base64, os\nfor n in range(100): print(base64.b64encode(os.urandom(22500)).decode())"
    found = sqstee.run(*words, "--", *python(code), environ=fake_sqs.environ())
    assert found.stderr == b""
    shipped = Rebuilt((message.body, message.attributes) for message in fake_sqs.sent("q"))
    shipped.assert_whole()
    assert shipped.stdout == found.stdout


def test_auto_compresses_full_requests_of_small_messages(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """--compress auto looked at partial requests only."""
    words = ("--to", "q", "--compress", "auto", "--message-bytes", "32K")
    found = sqstee.run(*words, "--", "seq", "20000", environ=fake_sqs.environ())
    shipped = Rebuilt((message.body, message.attributes) for message in fake_sqs.sent("q"))
    assert shipped.stdout == found.stdout
    assert max(request.payload for request in fake_sqs.requests("SendMessageBatch")) < 100_000
