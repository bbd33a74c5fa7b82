"""S3 as a queue: objects put once, listed in order, read in shards, deleted; by the real command and alone."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes.s3 import S3Server
from hypothesis import given
from hypothesis import strategies as st
from support import Sqstee, children, kill, python, running, wait_for

from sqstee.destination import Destination, parse
from sqstee.errors import SqsteeError
from sqstee.record import Body, Encoder
from sqstee.transports.base import ReceivedMessage
from sqstee.transports.errors import OPEN, REFRESH, RETRY, SIZE, TransportError, classify
from sqstee.transports.s3 import S3Sender, key_of, shard, shard_range
from sqstee.transports.s3_listing import ListedRanges
from sqstee.transports.s3_receiver import S3Receiver
from sqstee.transports.sqs_extended import Payloads, Pointer
from sqstee.wire import decode

MANY = python("import sys\nfor n in range(50000): sys.stdout.write('line %06d ' % n + 'x' * 107 + '\\n')")


@pytest.fixture
def s3() -> Iterator[S3Server]:
    """A server with a bucket `bkt`."""
    with S3Server() as server:
        yield server


@pytest.fixture
def client(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The same, with this process's environment set for it; receivers are closed at the end."""
    made: list[S3Receiver] = []
    make = S3Receiver.__init__

    def noted(self: S3Receiver, *given: Any, **named: Any) -> None:
        make(self, *given, **named)
        made.append(self)

    monkeypatch.setattr(S3Receiver, "__init__", noted)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in s3.environ().items():
        monkeypatch.setenv(name, value)
    yield s3
    for receiver in made:
        receiver.close()


def body(run: str, first: int, last: int) -> Body:
    """A body of the records `first`..`last`."""
    lines = b"".join(b"%d\n" % seq for seq in range(first, last + 1))
    return Body(Encoder(run, "host").lines(lines, "stdout", 0, first), run, "host", first, last)


def seqs(messages: list[ReceivedMessage]) -> list[tuple[str, int]]:
    """The records in messages."""
    return [(item.run, item.seq) for message in messages for item in decode(message.data, message.attributes)]


@pytest.mark.parametrize("compress", ["none", "gzip", "auto"])
def test_a_command_is_stored_bit_for_bit(sqstee: Sqstee, s3: S3Server, compress: str) -> None:
    """Both streams come back from the objects, the status is the command's, the keys say what is in them."""
    words = ("--compress", compress, "--to", "s3://bkt/logs/here", "--", "sh", "-c")
    found = sqstee.run(*words, "printf 'out\\n\\377\\0'; echo err >&2; exit 3", environ=s3.environ())
    assert (found.stdout, found.stderr, found.returncode) == (b"out\n\xff\0", b"err\n", 3)
    got = s3.rebuilt()
    got.assert_whole()
    assert (got.stdout, got.stderr, got.duplicates) == (b"out\n\xff\0", b"err\n", 0)
    run = got.items[0].run
    folder = f"logs/here/{hashlib.sha256(run.encode()).hexdigest()[:2]}/{run}"
    for key in s3.names():
        assert re.fullmatch(rf"{folder}/\d{{12}}-\d{{12}}\.ndjson(\.gz)?", key)
    assert any(key.endswith(".gz") for key in s3.names()) == (compress == "gzip")
    assert sqstee.waiting_runs() == []


def test_objects_are_rolled_by_size(sqstee: Sqstee, s3: S3Server) -> None:
    """12 MB of records become a handful of objects of at most 4 MiB, each put once and only if it is not there."""
    found = sqstee.run("--host", "h", "--to", "s3://bkt", "--", *MANY, environ=s3.environ())
    assert (found.returncode, found.stderr) == (0, b"")
    got = s3.rebuilt()
    got.assert_whole()
    assert got.stdout == found.stdout
    sizes = [len(s3.get(key)) for key in s3.names()]
    assert max(sizes) <= 4 * 1024 * 1024
    assert len(sizes) <= -(-sum(sizes) // (4 * 1024 * 1024)) + 3  # the first lines and the last leave early
    assert [headers["if-none-match"] for headers in s3.puts()] == ["*"] * len(sizes)


def test_a_trickle_is_rolled_by_time(sqstee: Sqstee, s3: S3Server) -> None:
    """Lines over more than a linger of a queue's cost no object each: the first at once, the rest at the end."""
    code = python("import time\nfor n in range(25): print(n, flush=True); time.sleep(0.1)")
    assert sqstee.run("--to", "s3://bkt", "--", *code, environ=s3.environ()).stderr == b""
    assert s3.rebuilt().stdout == b"".join(b"%d\n" % n for n in range(25))
    assert len(s3.names()) <= 3


@pytest.mark.parametrize("done", [True, False], ids=["done", "refused"])
@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "ExpiredToken"])
def test_passing_trouble_loses_and_doubles_nothing(sqstee: Sqstee, s3: S3Server, code: str, done: bool) -> None:
    """A PUT that failed is repeated under its key; where it had been carried out it is there already."""
    s3.faults.extend([(code, done)] * (1 if code == "ExpiredToken" else 2))  # the new session is in order
    found = sqstee.run("--to", "s3://bkt", "--", *MANY, environ=s3.environ())
    assert (found.returncode, found.stderr) == (0, b"")
    got = s3.rebuilt()
    got.assert_whole()
    assert (got.stdout, got.duplicates) == (found.stdout, 0)
    assert len(s3.puts()) > len(s3.names())


@pytest.mark.parametrize("content_type", ["text/html", "text/plain"])
def test_a_portals_page_is_no_answer(sqstee: Sqstee, s3: S3Server, content_type: str) -> None:
    """HTTP 200 from somebody in between stores nothing, whatever type he gives his page."""
    s3.pages, s3.page_type = 2, content_type
    assert sqstee.run("--to", "s3://bkt", "--", "seq", "9", environ=s3.environ()).stderr == b""
    found = s3.rebuilt()
    found.assert_whole()
    assert len(found.records) == 9


@pytest.mark.parametrize("content_type", ["text/html", "text/plain"])
@pytest.mark.parametrize(
    "call",
    [
        lambda receiver: receiver.receive(10, 0),
        lambda receiver: receiver.stat(),
        lambda receiver: receiver.delete([ReceivedMessage(b"", {}, "k")]),
        lambda receiver: Payloads([parse("s3://bkt")]).read(Pointer("bkt", "k")),
    ],
    ids=["list", "stat", "delete", "get"],
)
def test_a_portals_page_tells_a_reader_nothing(
    client: S3Server, call: Callable[[S3Receiver], object], content_type: str
) -> None:
    """Neither that there is nothing, nor what is in an object, nor that it is gone."""
    client.pages, client.page_type = 1, content_type
    with pytest.raises(TransportError, match="a proxy's HTML page") as raised:
        call(S3Receiver(parse("s3://bkt"), consume=True))
    assert raised.value.kind == RETRY


def connections_to(port: int) -> int:
    """The number of this process's connections to a port of 127.0.0.1."""
    count = 0
    for descriptor in [one for one in Path("/dev/fd").iterdir() if one.is_socket()]:
        with suppress(OSError), socket.socket(fileno=os.dup(int(descriptor.name))) as one:  # or a listener, or closed
            count += one.getpeername() == ("127.0.0.1", port)
    return count


def test_a_portals_page_holds_no_connection(client: S3Server) -> None:
    """A page in the place of an object is not read: its connection is closed before anybody drops the error."""
    client.pages = 1
    with pytest.raises(TransportError) as raised:
        Payloads([parse("s3://bkt")]).read(Pointer("bkt", "k"))
    assert raised.value.kind == RETRY
    assert connections_to(int(client.url.rpartition(":")[2])) == 0


def test_an_emulator_without_conditions_is_served_without(sqstee: Sqstee, s3: S3Server) -> None:
    """Who does not know If-None-Match gets the same object without it."""
    s3.conditional = False
    assert sqstee.run("--to", "s3://bkt", "--", "echo", "hi", environ=s3.environ()).stderr == b""
    s3.rebuilt().assert_whole()
    assert s3.rebuilt().stdout == b"hi\n"


def test_an_object_that_is_too_large_is_divided(sqstee: Sqstee, s3: S3Server) -> None:
    """EntityTooLarge makes the bodies smaller; everything arrives."""
    s3.too_large = 1024 * 1024
    found = sqstee.run("--to", "s3://bkt", "--", *MANY, environ=s3.environ())
    assert (found.returncode, found.stderr) == (0, b"")
    assert len([path for _, path, _ in s3.calls if "-" in path]) < 40  # half of what was refused, no less
    s3.rebuilt().assert_whole()
    assert s3.rebuilt().stdout == found.stdout


@pytest.mark.parametrize("bucket", ["missing", "bkt"])
def test_what_is_refused_stays_and_is_flushed(sqstee: Sqstee, s3: S3Server, bucket: str) -> None:
    """No such bucket, no permission: said in one line, kept, and shipped once the cause is gone."""
    code = "NoSuchBucket"
    if bucket == "bkt":
        code = "AccessDenied"
        s3.faults.extend([(code, False)] * 50)
    to = f"s3://{bucket}"
    found = sqstee.run("--to", to, "--", "sh", "-c", "echo hi; exit 7", environ=s3.environ())
    assert (found.stdout, found.returncode) == (b"hi\n", 7)
    assert re.match(rf"sqstee: 1 line not delivered yet \({code}.*\): kept in .*\n$", found.stderr.decode())
    if bucket == "missing":
        s3.client.create_bucket(Bucket=bucket)
    s3.faults.clear()
    flushed = sqstee.run("flush", environ=s3.environ())
    assert (flushed.returncode, flushed.stdout.split(b" ", 1)[1]) == (0, f"shipped to {to}\n".encode())
    assert sqstee.waiting_runs() == []
    if bucket == "bkt":
        s3.rebuilt().assert_whole()


def test_a_server_that_went_away_and_came_back_gets_everything(sqstee: Sqstee, s3: S3Server) -> None:
    """Killed in the middle of a run, started again after it: flush ships the rest, nothing is lost."""
    environ = s3.environ()
    words = ("--flush-timeout", "1s", "--message-bytes", "16K", "--to", "s3://bkt")
    code = python("import sys\nfor n in range(2000): print(n)\nsys.stdout.flush(); sys.stdin.read(); print('last')")
    with running(
        sqstee.words(*words, "--", *code),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=sqstee.environ | environ,
    ) as process:
        wait_for(lambda: len(s3.names()) >= 3, "objects")
        s3.stop()
        out, err = process.communicate(timeout=40)
    assert process.returncode == 0
    assert b"not delivered yet (" in err
    s3.start()
    assert sqstee.run("flush", environ=environ).returncode == 0
    got = s3.rebuilt()
    got.assert_whole()
    assert (got.stdout, got.duplicates) == (out, 0)


def test_a_killed_run_is_shipped_by_flush_without_doubles(sqstee: Sqstee, s3: S3Server) -> None:
    """kill -9 of front and shipper while objects are on their way: the rest follows, under the keys of the plan."""
    code = python("import sys\nfor n in range(20000): print(n, 'x' * 200)\nsys.stdout.flush(); sys.stdin.read()")
    s3.faults.extend([("SlowDown", True), ("SlowDown", False)] * 2)
    with running(
        sqstee.words("--message-bytes", "64K", "--to", "s3://bkt", "--", *code),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=sqstee.environ | s3.environ(),
    ) as process:
        wait_for(lambda: len(s3.names()) >= 5, "objects")
        kill(process.pid, *children(process.pid))
    wait_for(lambda: sqstee.run("flush", environ=s3.environ()).returncode == 0, "shipped rest")
    got = s3.rebuilt()
    got.assert_whole()
    assert got.duplicates == 0
    assert got.events[-1].fields["cause"] == "wrapper-died"
    assert [line.split()[0] for line in got.stdout.splitlines()] == [b"%d" % n for n in range(len(got.records))]


def test_tail_follows_without_consuming_and_in_order(sqstee: Sqstee, s3: S3Server) -> None:
    """The objects of a prefix, printed; they stay, and others' objects beside them do no harm."""
    s3.client.put_object(Bucket="bkt", Key="logs/readme.txt", Body=b"not ours")
    s3.client.put_object(Bucket="bkt", Key="logs/00/x/000000000000-000000000001.ndjson.tmp", Body=b"not ours")
    out = sqstee.run("--compress", "gzip", "--to", "s3://bkt/logs", "--", "seq", "3000", environ=s3.environ()).stdout
    before = s3.names()
    for _ in range(2):
        found = sqstee.run("tail", "s3://bkt/logs", "--no-follow", "-o", "raw", environ=s3.environ())
        assert (found.stdout, found.returncode) == (out, 0), found.stderr
    assert s3.names() == before


def test_shards_divide_the_work(client: S3Server) -> None:
    """Two consumers of half the shards each get every object exactly once, in the order of its run."""
    sender = S3Sender(parse("s3://bkt/p"))
    for run in range(20):
        sender.send([body(f"RUN{run}", 0, 4), body(f"RUN{run}", 5, 5), body(f"RUN{run}", 6, 1000)])
    halves = [S3Receiver(parse("s3://bkt/p"), shards=shards) for shards in ("00-7f", "80-ff")]
    found = [[message for _ in range(20) for message in half.receive(10, 0)] for half in halves]
    assert all(len(seqs(half)) >= 1001 for half in found)
    assert sorted(seqs(found[0] + found[1])) == sorted((f"RUN{run}", seq) for run in range(20) for seq in range(1001))
    for half in found:
        for name in {name for name, _ in seqs(half)}:
            assert [seq for one, seq in seqs(half) if one == name] == list(range(1001))
    assert [half.stat().visible for half in halves] == [len(half) for half in found]


def test_a_gap_event_and_its_records_are_both_given(client: S3Server) -> None:
    """Whichever comes first, and once each: readers let the record win."""
    payload = b'{"event":"gap","message":"m","from":3,"to":3,"reason":"r"}'
    gap = Body(Encoder("RUN", "host").event(payload, 0, 3), "RUN", "host", 3, 3)
    sender, follower = S3Sender(parse("s3://bkt")), S3Receiver(parse("s3://bkt"))
    sender.send([gap, gap, body("RUN", 0, 2)])
    assert seqs(follower.receive(10, 0)) == [("RUN", 0), ("RUN", 1), ("RUN", 2), ("RUN", 3)]
    sender.send([body("RUN", 3, 3), gap, gap.compressed()])
    (record,) = follower.receive(10, 0)
    assert record.data == body("RUN", 3, 3).data
    assert follower.receive(10, 0) == []
    assert len(client.names()) == 3


def test_verbs_read_their_shards(sqstee: Sqstee, client: S3Server) -> None:
    """tail, stat and drain see what lies in their part of the bucket; two drains with half of it each see all."""
    bodies = [body(f"RUN{run}", 0, 4) for run in range(12)]
    S3Sender(parse("s3://bkt/p")).send(bodies)
    below = {one.run for one in bodies if shard(one.run) <= "7f"}
    assert 0 < len(below) < 12
    environ = client.environ()
    shown = sqstee.run("tail", "s3://bkt/p", "--no-follow", "-o", "json", "--shards", "00-7f", environ=environ)
    assert {item.run for item in decode(shown.stdout)} == below
    told = sqstee.run("stat", "s3://bkt/p", "-o", "json", "--interval", "0", "--shards", "80-FF", environ=environ)
    assert f'"visible": {12 - len(below)},'.encode() in told.stdout
    for shards in ("00-7f", "80-ff"):
        words = ("s3://bkt/p", "-O", str(sqstee.folder / shards), "--layout", "ndjson", "--shards", shards)
        sqstee.run("drain", *words, "--idle-timeout", "0.5s", environ=environ)
    halves = [{path.stem for path in (sqstee.folder / shards).glob("*/*.ndjson")} for shards in ("00-7f", "80-ff")]
    assert halves == [below, {one.run for one in bodies} - below]
    assert client.names() == []


@pytest.mark.parametrize("words", [("tail",), ("stat",), ("drain", "-O", "/nowhere/out")])
def test_shards_are_of_s3_alone(sqstee: Sqstee, words: tuple[str, ...]) -> None:
    """Other destinations, and invalid ranges, are refused: one line, one hint, 125, and nothing is made."""
    for dest, shards, problem in (
        ("local", "00-7f", b"--shards needs an s3:// source"),
        ("s3://bkt", "7f-00", b"invalid value '7f-00' for --shards"),
    ):
        found = sqstee.run(*words, dest, "--shards", shards)
        assert (found.returncode, found.stdout) == (125, b"")
        first, second = found.stderr.splitlines()
        assert first.startswith(b"sqstee: " + problem)
        assert second.startswith(b"hint: ")


def test_a_body_of_several_runs_is_stored_by_run(client: S3Server) -> None:
    """Its key must say what is in it: an object for each run, and for each stretch without a hole."""
    parts = [body("A", 0, 5), body("B", 3, 9), body("A", 6, 9)]
    joined = Body(b"".join(part.data for part in parts), "", "", 0, 0)
    for one in (joined, joined.compressed()):
        S3Sender(parse("s3://bkt")).send([one])
    expected = {key_of("", part): part.data for part in parts}
    plain = [name for name in client.names() if name.endswith(".ndjson")]
    assert {name: client.get(name) for name in plain} == expected
    packed = {name[:-3]: gzip.decompress(client.get(name)) for name in client.names() if name.endswith(".gz")}
    assert packed == expected


def test_what_is_consumed_is_deleted(client: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer deletes what it was given, and nothing else; what somebody else deleted first is no trouble."""
    monkeypatch.setattr("sqstee.transports.s3_receiver._READ_AHEAD_BYTES", 1)  # reads no more than one object ahead
    sender, receiver = S3Sender(parse("s3://bkt")), S3Receiver(parse("s3://bkt"), consume=True)
    sender.send([body("RUN", first, first) for first in range(5)])
    assert not receiver.follows
    messages = receiver.receive(3, 0)
    assert receiver.delete(messages) == []
    assert len(client.names()) == 4
    client.client.delete_object(Bucket="bkt", Key=key_of("", body("RUN", 3, 3)))
    rest = [message for _ in range(3) for message in receiver.receive(10, 0)]
    assert seqs(messages + rest) == [("RUN", seq) for seq in (0, 1, 2, 4)]
    assert receiver.delete(rest * 2) == []
    assert client.names() == []
    assert receiver.receive(10, 0) == []


def test_a_follower_finds_what_comes_later_wherever_it_lies(client: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects that appear before, between and behind the ones that are known, among more than one listing shows."""
    monkeypatch.setattr("sqstee.transports.s3_listing._LISTED_AT_ONCE", 7)
    sender, receiver = S3Sender(parse("s3://bkt")), S3Receiver(parse("s3://bkt"))
    sender.send([body("LONG", seq, seq) for seq in range(60)])
    given = [one for _ in range(20) for one in seqs(receiver.receive(10, 0))]
    assert given == [("LONG", seq) for seq in range(60)]
    later = [body("LONG", 61, 61), body("LONG", 60, 60), *(body(f"R{n}", 0, 0) for n in range(8))]
    expected = set()
    for one in later:
        sender.send([one])
        expected.add((one.run, one.first))
        assert seqs(receiver.receive(10, 0)) == [(one.run, one.first)]
    assert receiver.receive(10, 0) == []


def test_what_is_released_is_given_again(client: S3Server) -> None:
    """A consumer that could not handle a message gets it again; stat says what is there and how old it is."""
    sender, receiver = S3Sender(parse("s3://bkt")), S3Receiver(parse("s3://bkt"), consume=True)
    sender.send([body("RUN", 0, 3), body("RUN", 4, 9)])
    first = receiver.receive(1, 0)
    receiver.release(first)
    assert sorted(seqs(receiver.receive(10, 0) + receiver.receive(10, 0))) == [("RUN", seq) for seq in range(10)]
    state = receiver.stat()
    assert (state.visible, state.bytes) == (2, sum(len(body("RUN", *one).data) for one in ((0, 3), (4, 9))))
    assert state.oldest is not None
    assert 0 <= state.oldest < 120


def test_a_damaged_or_compressed_object_does_not_stop_a_reader(client: S3Server) -> None:
    """A .gz that is none is given as it is, for the reader to say so; a good one is unpacked."""
    for seq, data in ((0, b"no gzip"), (1, gzip.compress(body("RUN", 1, 1).data))):
        key = key_of("", body("RUN", seq, seq)) + ".gz"
        client.client.put_object(Bucket="bkt", Key=key, Body=data)
    bad, good = S3Receiver(parse("s3://bkt")).receive(10, 0)
    assert bad.data == b"no gzip"
    assert seqs([good]) == [("RUN", 1)]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=30), st.integers(0, 40), st.integers(0, 5))
def test_seen_ranges_are_a_set_of_numbers(added: list[tuple[int, int]], first: int, more: int) -> None:
    """Whatever the order: what was added is covered, nothing else is, and removing takes back."""
    seen, model = ListedRanges(), set()
    for start, length in added:
        seen.add("r", start, start + length)
        model |= set(range(start, start + length + 1))
    assert seen.covers("r", first, first + more) == (set(range(first, first + more + 1)) <= model)
    if first in model:
        assert set(range(first, seen.end("r", first) + 1)) <= model
        assert seen.end("r", first) + 1 not in model
    seen.remove("r", first, first + more)
    model -= set(range(first, first + more + 1))
    assert {number for number in range(50) if seen.covers("r", number, number)} == model


@pytest.mark.parametrize("text", ["7", "80-7f", "00-7g", "0-f", "00-7f-ff", "zz"])
def test_shards_that_are_none_are_refused(text: str) -> None:
    """One line and one hint."""
    with pytest.raises(SqsteeError, match=r"invalid value .* for --shards"):
        shard_range(text)


def test_shards_are_read() -> None:
    """One, a range, all."""
    assert [shard_range(text) for text in ("", "0a", "00-7F")] == [("00", "ff"), ("0a", "0a"), ("00", "7f")]


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("SlowDown", 503, RETRY),
        ("InternalError", 500, RETRY),
        ("ConditionalRequestConflict", 409, RETRY),
        ("RequestTimeout", 400, RETRY),
        ("NoSuchBucket", 404, OPEN),
        ("AccessDenied", 403, OPEN),
        ("PermanentRedirect", 301, OPEN),
        ("InvalidAccessKeyId", 403, REFRESH),
        ("ExpiredToken", 400, REFRESH),
        ("EntityTooLarge", 400, SIZE),
        ("Whatever", 413, SIZE),
    ],
)
def test_errors_of_s3_are_in_the_one_table(code: str, status: int, kind: str) -> None:
    """Every code that a PUT can meet has its class."""
    assert classify(code, status) == kind


def test_a_receiver_says_what_is_wrong(client: S3Server) -> None:
    """A bucket that does not exist is a refusal, not an empty queue."""
    with pytest.raises(TransportError, match="NoSuchBucket") as raised:
        S3Receiver(parse("s3://missing")).receive(10, 0)
    assert raised.value.kind == OPEN


def test_a_bucket_that_can_be_none_is_named(client: S3Server) -> None:
    """boto3 says in its second line what is wrong."""
    with pytest.raises(TransportError, match="Bad_Name!") as raised:
        S3Receiver(Destination("s3", "s3://Bad_Name!", name="Bad_Name!")).receive(10, 0)
    assert raised.value.kind == OPEN


def test_what_lies_within_another_is_consumed_too(client: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored again in other parts, a range is given once the one that covers it is gone, and deleted as well."""
    monkeypatch.setattr("sqstee.transports.s3_listing._LISTED_AT_ONCE", 1)
    sender, receiver = S3Sender(parse("s3://bkt")), S3Receiver(parse("s3://bkt"), consume=True)
    sender.send([body("RUN", 0, 9), body("RUN", 3, 5), body("RUN", 8, 12)])
    assert receiver.stat().visible == 3
    for _ in range(9):
        assert receiver.delete(receiver.receive(10, 0)) == []
    assert client.names() == []


def test_what_is_larger_than_any_sender_makes_it_is_left_alone(
    client: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no object of ours by its size, and would not fit into memory."""
    for module in ("s3", "s3_listing"):
        monkeypatch.setattr(f"sqstee.transports.{module}.MOST_OBJECT_BYTES", 1000)
    small, large = body("RUN", 0, 0), body("RUN", 1, 100)
    S3Sender(parse("s3://bkt")).send([small, large])
    receiver = S3Receiver(parse("s3://bkt"), consume=True)
    assert seqs(receiver.receive(10, 0)) == [("RUN", 0)]
    with pytest.raises(TransportError, match="more than 1,000 bytes"):
        Payloads([parse("s3://bkt")]).read(Pointer("bkt", key_of("", large)))
    assert Payloads([parse("s3://bkt")]).read(Pointer("bkt", key_of("", small))) == small.data


def test_objects_of_one_name_are_two_messages(sqstee: Sqstee, s3: S3Server) -> None:
    """In two buckets, or again after the first was drained: what has no seqs is known by its message, and kept."""
    s3.client.create_bucket(Bucket="two")
    key = key_of("", body("RUN", 0, 0))
    for texts in (("one", "two"), ("three", "four")):
        for bucket, text in zip(("bkt", "two"), texts, strict=True):
            s3.client.put_object(Bucket=bucket, Key=key, Body=text.encode())
        words = ("drain", "s3://bkt", "s3://two", "-O", str(sqstee.folder / "out"), "--idle-timeout", "0.5s")
        assert sqstee.run(*words, environ=s3.environ()).returncode == 0
    lines = (sqstee.folder / "out" / "_foreign" / "messages.ndjson").read_bytes().splitlines()
    assert {json.loads(line)["line"] for line in lines} == {"one", "two", "three", "four"}


def test_a_run_that_is_named_as_anothers_gaps(client: S3Server) -> None:
    """Its records are given, though the other's gap event over the same seqs was."""
    gap = Encoder("x", "host").event(b'{"event":"gap","from":4,"to":4,"message":"gap"}', 0, 4)
    sender, receiver = S3Sender(parse("s3://bkt")), S3Receiver(parse("s3://bkt"))
    for one in (Body(gap, "x", "host", 4, 4), body("x-gap", 4, 4)):
        sender.send([one])
        assert seqs(receiver.receive(10, 3)) == [(one.run, 4)]
