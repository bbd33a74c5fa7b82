"""The collector: what it answers, that nothing acknowledged is lost, and that nothing wrong is stored or does harm."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from hypothesis import given
from support import Sqstee, wait_for
from support.collector import body, collecting, stored
from support.odd_bodies import bodies
from support.workers import workers

from sqstee.collector import MAX_POST_BYTES, Collector, Committer, open_store
from sqstee.destination import parse
from sqstee.errors import SqsteeError
from sqstee.record import Body, Encoder
from sqstee.transports.base import BatchLimits
from sqstee.transports.errors import RETRY, Failure, TransportError
from sqstee.transports.http import HttpSender
from sqstee.transports.local import LocalSender
from sqstee.transports.local_receiver import LocalReceiver

GOOD = body("RUN", 0, 9).data


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalSender]:
    """A store in the test's folder."""
    found = open_store(f"local:{tmp_path}/store.db", "", 1 << 30)
    yield found
    found.close()


def ask(
    collector: Collector, data: bytes = b"", method: str = "POST", path: str = "/", **more: Any
) -> tuple[int, dict[str, str], str]:
    """One request through wsgiref's validator: status, headers, text."""
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": str(len(data))}
    environ["QUERY_STRING"] = environ["SCRIPT_NAME"] = ""
    environ["wsgi.input"] = io.BytesIO(data)
    environ["wsgi.errors"] = io.StringIO()
    environ |= more
    setup_testing_defaults(environ)
    got: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        got.extend((int(status[:3]), dict(headers)))
        return lambda data: None

    length = more.get("CONTENT_LENGTH", "")
    checked = not length or (length.isascii() and length.isdigit())  # the validator refuses what is to be tested here
    answer = (validator(collector) if checked else collector)(environ, start_response)
    text = b"".join(answer).decode()
    if checked:
        answer.close()  # type: ignore[attr-defined]
    return got[0], got[1], text


def test_a_post_is_stored_and_posting_it_again_is_not(store: LocalSender, tmp_path: Path) -> None:
    """200 both times; one row, with the range that is in it; gzip makes no difference."""
    collector = Collector(store)
    assert ask(collector, GOOD)[::2] == (200, "10 records\n")
    assert ask(collector, GOOD)[::2] == (200, "10 records\n")
    assert ask(collector, gzip.compress(GOOD), HTTP_CONTENT_ENCODING="gzip")[0] == 200
    (row,) = stored(tmp_path / "store.db")
    assert (row.data, row.attributes["run"], row.attributes["seq"]) == (GOOD, "RUN", "0-9")


def test_each_answer_names_the_collector(store: LocalSender) -> None:
    """So that a sender can tell it from the page of a proxy; refusals too."""
    collector = Collector(store, ["secret"])
    for more in ({}, {"HTTP_AUTHORIZATION": "Bearer secret"}, {"method": "GET", "path": "/health"}, {"method": "PUT"}):
        assert ask(collector, GOOD, **more)[1]["Sqstee-Collector"] == "1"


def test_a_gap_event_does_not_keep_its_records_out(store: LocalSender, tmp_path: Path) -> None:
    """The same range, and something else in it: both are stored, once each."""
    gap = Encoder("RUN", "host").event(b'{"event":"gap","from":0,"to":9,"message":"m","reason":"r"}', 0, 0)
    other = gap.replace(b'"m"', b'"later"')
    for data in (gap, GOOD, gap, GOOD):
        assert ask(Collector(store), data)[0] == 200
    assert [row.data for row in stored(tmp_path / "store.db")] == [gap, GOOD]
    store.send([Body(GOOD, "RUN", "host", 0, 9).compressed()])  # the same in another form is the same
    assert len(stored(tmp_path / "store.db")) == 2
    assert ask(Collector(store), other)[0] == 200  # what readers drop


def test_records_of_several_runs_are_stored_apart(store: LocalSender, tmp_path: Path) -> None:
    """A row for each run, and for each stretch without a hole; a gap event covers what it says."""
    gap = Encoder("A", "host").event(b'{"event":"gap","from":12,"to":20,"message":"m","reason":"r"}', 0, 12)
    parts = [body("A", 0, 3), body("B", 7, 7), body("A", 10, 11), Body(gap, "A", "host", 12, 20), body("A", 30, 30)]
    assert ask(Collector(store), b"".join(part.data for part in parts))[0] == 200
    rows = [(row.attributes["run"], row.attributes["seq"]) for row in stored(tmp_path / "store.db")]
    assert rows == [("A", "0-3"), ("B", "7-7"), ("A", "10-20"), ("A", "30-30")]
    assert b"".join(row.data for row in stored(tmp_path / "store.db")) == b"".join(part.data for part in parts)


def metrics_of(collector: Collector, **more: Any) -> dict[str, int]:
    """The samples of /metrics by name and labels; their text obeys Prometheus' text format (0.0.4).

    HELP and TYPE once for each metric and before its samples, which stand together and of which no two are the same;
    `promtool check metrics`, where it is installed, agrees.
    """
    status, headers, text = ask(collector, method="GET", path="/metrics", **more)
    assert (status, headers["Content-Type"], text[-1]) == (200, "text/plain; charset=utf-8", "\n")
    described: list[tuple[str, str]] = []
    samples: dict[str, int] = {}
    for line in text.splitlines():
        if found := re.fullmatch(r"# (HELP|TYPE) ([a-z_]+) (\S.*)", line):
            described.append((found[1], found[2]))
            assert found[1] == "HELP" or found[3] == ("counter" if found[2].endswith("_total") else "gauge")
            continue
        found = re.fullmatch(r'(([a-z_]+)(?:\{[a-z]+="[^"\\]*"(?:,[a-z]+="[^"\\]*")*\})?) (\d+)', line)
        assert found, line
        assert described[-2:] == [("HELP", found[2]), ("TYPE", found[2])]
        assert found[1] not in samples
        samples[found[1]] = int(found[3])
    assert len(described) == len(set(described)) == 16
    if promtool := shutil.which("promtool"):
        words = [promtool, "check", "metrics"]
        checked = subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=60)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    return samples


def test_metrics_are_in_prometheus_format(store: LocalSender) -> None:
    """From the first request on; whatever has been answered; with a label where several processes serve."""
    collector = Collector(store)
    fresh = metrics_of(collector)
    assert fresh["sqstee_records_total"] == fresh["sqstee_store_refuses"] == 0
    for data in (GOOD, b"x", b""):
        ask(collector, data)
    assert {'sqstee_requests_total{status="200"}', 'sqstee_requests_total{status="400"}'} <= set(metrics_of(collector))
    several = metrics_of(collector, **{"wsgi.multiprocess": True})
    process = f'process="{os.getpid()}"'
    assert several[f'sqstee_requests_total{{status="400",{process}}}'] == 2
    assert [name for name in several if process not in name] == ["sqstee_store_bytes", "sqstee_store_limit_bytes"]


def test_counters_count_what_came(store: LocalSender) -> None:
    """A gap event is one record, whatever it spans; a repeated post is none; what was refused is none."""
    collector = Collector(store)
    gap = Encoder("RUN", "host").event(b'{"event":"gap","from":10,"to":%d,"message":"m"}' % (2**62), 0, 10)
    for _ in range(3):
        assert ask(collector, GOOD + gap)[::2] == (200, "11 records\n")
        ask(collector, GOOD + b"{}")
    found = metrics_of(collector)
    assert (found["sqstee_records_total"], found["sqstee_rows_stored_total"]) == (11, 1)
    assert found["sqstee_bytes_total"] == 3 * len(GOOD + gap)


def test_the_size_of_the_store_is_that_of_all_processes(store: LocalSender, tmp_path: Path) -> None:
    """Another sender's rows, and a reader's deletions, are in the next figure."""
    collector = Collector(store)
    empty = metrics_of(collector)["sqstee_store_bytes"]
    other = LocalSender(str(tmp_path / "store.db"), 1 << 30)
    other.send([body("RUN", 0, 999, b"x" * 100)])
    other.close()
    assert metrics_of(collector)["sqstee_store_bytes"] > empty + 100_000
    consumer = LocalReceiver(str(tmp_path / "store.db"), consume=True)
    consumer.delete(consumer.receive(1, 0))
    consumer.close()
    assert metrics_of(collector)["sqstee_store_bytes"] < empty + 50_000


def test_work_is_bounded_as_bytes_are(store: LocalSender) -> None:
    """A few kilobytes of gzip never cost more than seconds of the processor, whether they are refused or not."""
    collector = Collector(store)
    most = 8 * 1024 * 1024 - 1000
    one, two = body("A", 0, 0).data, body("B", 0, 0).data
    gap = Encoder("RUN", "host").event(b'{"event":"gap","from":0,"to":9,"message":"m %06d"}', 0, 0)
    bombs = [
        (b"\n" * most + one, 200),
        ((b"\n" * 60 + one) * (most // (60 + len(one))), 413),
        ((one + two) * (most // len(one + two)), 413),
        (one[:-2] + b',"labels":{"a":[' + b"[]," * (most // 3) + b"[]]}}", 200),
        *((b"".join(gap % number for number in range(first, first + 9000)), 200) for first in (0, 10_000)),
    ]
    for data, status in bombs:
        packed = gzip.compress(data)
        before = time.process_time()
        assert ask(collector, packed, HTTP_CONTENT_ENCODING="gzip")[0] == status
        assert time.process_time() - before < 5


class Cut(io.BytesIO):
    """An upload that ends in an error of the server's."""

    def read(self, size: int | None = -1) -> bytes:
        """A part, then the error."""
        if part := super().read(size):
            return part
        raise OSError("Apache/mod_wsgi request data read error")


@pytest.mark.parametrize("length", ["100", ""], ids=["length", "chunked"])
def test_an_upload_that_is_cut_off_is_a_bad_request(store: LocalSender, length: str) -> None:
    """Not a traceback in the server's log, whatever the server raises."""
    more: dict[str, Any] = {"CONTENT_LENGTH": length, "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": Cut(GOOD[:50])}
    answer = ask(Collector(store), **more)
    assert answer[::2] == (400, "the request cannot be read: OSError\n")


def test_health_and_metrics(store: LocalSender) -> None:
    """Anybody may ask whether it is well; the figures are for those who hold the token."""
    collector = Collector(store, ["secret"])
    authorized: dict[str, Any] = {"HTTP_AUTHORIZATION": "Bearer secret"}
    ask(collector, GOOD, **authorized)
    ask(collector, GOOD)
    assert ask(collector, method="GET", path="/health")[::2] == (200, "ok\n")
    assert ask(collector, method="HEAD", path="/health")[::2] == (200, "")
    assert ask(collector, method="GET", path="/metrics")[0] == 401
    found = metrics_of(collector, **authorized)
    assert found['sqstee_requests_total{status="401"}'] == 2
    assert (found["sqstee_records_total"], found["sqstee_rows_stored_total"]) == (10, 1)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer one", 200),
        ("bearer  two ", 200),
        ("", 401),
        ("Bearer", 401),
        ("Bearer on", 401),
        ("Bearer onetwo", 401),
        ("Basic one", 401),
        ("Bearer \xff\u0100", 401),
    ],
)
def test_one_of_the_tokens_is_asked_for(store: LocalSender, tmp_path: Path, given: str, status: int) -> None:
    """The whole token, and nothing else; a request without it stores nothing."""
    answer = ask(Collector(store, ["one", "two"]), GOOD, HTTP_AUTHORIZATION=given)
    assert answer[0] == status
    assert ("WWW-Authenticate" in answer[1]) == (status == 401)
    assert ("no bearer token arrived" in answer[2]) == (given == "")  # a server may have withheld it
    assert ("holds no bearer token" in answer[2]) == (given in ("Bearer", "Basic one"))
    assert ("is not one of the collector's" in answer[2]) == (
        given in ("Bearer on", "Bearer onetwo", "Bearer \xff\u0100")
    )
    assert len(stored(tmp_path / "store.db")) == (status == 200)


def record(**fields: object) -> bytes:
    """A record with some fields changed; None leaves one out."""
    found = json.loads(body("RUN", 0, 0).data) | fields
    return json.dumps({name: value for name, value in found.items() if value is not None}).encode() + b"\n"


BAD: list[tuple[bytes, int, dict[str, str]]] = [
    (b"", 400, {}),
    (b"\n\n", 400, {}),
    (b"not json\n", 400, {}),
    (b"[]\n", 400, {}),
    (b"1\n", 400, {}),
    (b'"text"\n', 400, {}),
    (b"null\n", 400, {}),
    (b"{}\n", 400, {}),
    (b"[" * 100_000, 400, {}),
    (b'{"a":' * 100_000, 400, {}),
    (b"9" * 100_000, 400, {}),
    (GOOD[:-20], 400, {}),
    # right as a whole, wrong line by line: two records on one line, and one record on two
    (record(seq=0)[:-1] + b"," + record(seq=1)[:-1] + b',{"a":[{}\n{}],' + record(seq=2)[1:], 400, {}),
    (GOOD + b"\xff\n", 400, {}),
    (GOOD + b"{}\n", 400, {}),
    (record(run=None), 400, {}),
    (record(run=""), 400, {}),
    (record(run="x" * 129), 400, {}),
    (record(run="\ud800"), 400, {}),
    (record(run="a\nb"), 400, {}),
    (record(seq=None), 400, {}),
    (record(seq=-1), 400, {}),
    (record(seq=2**63), 400, {}),
    (record(seq=10**4000), 400, {}),
    (record(seq="1"), 400, {}),
    (record(seq=True), 400, {}),
    (record(seq=1.0), 400, {}),
    (record(event="gap", **{"from": 5, "to": 1}), 400, {}),
    (record(event="gap"), 400, {}),
    (record(stream=None), 400, {}),
    (GOOD, 400, {"CONTENT_LENGTH": "x"}),
    (GOOD, 400, {"CONTENT_LENGTH": "-1"}),
    (GOOD, 400, {"CONTENT_LENGTH": "\u0661"}),
    (GOOD, 411, {"CONTENT_LENGTH": ""}),
    (GOOD, 400, {"CONTENT_LENGTH": str(len(GOOD) + 1)}),
    (GOOD, 413, {"CONTENT_LENGTH": str(MAX_POST_BYTES + 1)}),
    (GOOD, 413, {"CONTENT_LENGTH": "9" * 30}),
    (b" " * (MAX_POST_BYTES + 1), 413, {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}),
    (GOOD, 415, {"HTTP_CONTENT_ENCODING": "br"}),
    (GOOD, 415, {"HTTP_CONTENT_ENCODING": "gzip, gzip"}),
    (GOOD, 400, {"HTTP_CONTENT_ENCODING": "gzip"}),
    (gzip.compress(GOOD)[:-1], 400, {"HTTP_CONTENT_ENCODING": "gzip"}),
    (gzip.compress(GOOD)[:-8] + b"\0" * 8, 400, {"HTTP_CONTENT_ENCODING": "gzip"}),
    (gzip.compress(GOOD) + b"rest", 400, {"HTTP_CONTENT_ENCODING": "gzip"}),
    (zlib.compress(GOOD), 400, {"HTTP_CONTENT_ENCODING": "gzip"}),
    (gzip.compress(b"\0" * 100_000_000, 1), 413, {"HTTP_CONTENT_ENCODING": "gzip"}),
    (gzip.compress(b"a" * 5_000_000) * 4, 413, {"HTTP_CONTENT_ENCODING": "gzip"}),
    (GOOD, 405, {"REQUEST_METHOD": "PUT"}),
    (b"", 405, {"REQUEST_METHOD": "GET"}),
    (GOOD, 405, {"PATH_INFO": "/metrics"}),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_bad_request_is_refused_and_stores_nothing(store: LocalSender, tmp_path: Path, number: int) -> None:
    """Each has its 4xx and one line of reason."""
    data, status, more = BAD[number]
    answer = ask(Collector(store), data, **more)
    assert answer[0] == status
    assert len(answer[2].splitlines()) == 1
    assert stored(tmp_path / "store.db") == []


class Keeping(BatchLimits):
    """A store in memory."""

    ordered = False

    def __init__(self) -> None:
        self.bodies: list[Body] = []

    def open(self) -> int:
        return 1

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        self.bodies += bodies
        return []

    def close(self) -> None:
        pass


@given(bodies)
def test_an_odd_post_is_refused_or_kept_whole(data: bytes) -> None:
    """Whatever is in it: 200 with every line in the store, or 400 with one line of reason and nothing stored."""
    store = Keeping()
    status, _, text = ask(Collector(store), data)
    assert status in (200, 400)
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    kept = [line for body in store.bodies for line in body.data.split(b"\n") if line]
    assert kept == ([line for line in data.split(b"\n") if line] if status == 200 else [])


def test_levels_and_objects_are_stored_as_they_came(store: LocalSender, tmp_path: Path) -> None:
    """A line's `level`, and the JSON object that --parse-json found, whose own keys mean nothing here."""
    encoder = Encoder("RUN", "h")
    encoder.most_object_bytes = 4096
    data = encoder.lines(b'{"level":"warn","event":"gap","from":0,"to":9}\nplain\n', "stdout", 0, 0)
    collector = Collector(store)
    assert ask(collector, data)[0] == ask(collector, data)[0] == 200
    (row,) = stored(tmp_path / "store.db")
    assert (row.data, row.attributes["seq"]) == (data, "0-1")


def test_every_byte_of_the_lines_is_kept(store: LocalSender, tmp_path: Path) -> None:
    """Empty lines aside, and with a newline at the end that was missing."""
    assert ask(Collector(store), b"\n" + GOOD.replace(b"\n", b"\n\n")[:-2])[0] == 200
    assert [(row.data, row.attributes["seq"]) for row in stored(tmp_path / "store.db")] == [(GOOD, "0-9")]


class Gate(BatchLimits):
    """A store that waits to be let through, and may refuse."""

    ordered = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls: list[int] = []
        self.refusal: TransportError | None = None

    def open(self) -> int:
        return 1

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        self.calls.append(len(bodies))
        assert self.gate.wait(40)
        if self.refusal:
            raise self.refusal
        return []

    def close(self) -> None:
        pass


def test_what_waits_is_committed_together() -> None:
    """While one transaction is on its way the others gather: two transactions serve all of them."""
    gate = Gate()
    committer = Committer(gate)
    threads = [threading.Thread(target=committer.commit, args=([body("R", n, n)],)) for n in range(12)]
    threads[0].start()
    wait_for(lambda: gate.calls, "first transaction")
    for thread in threads[1:]:
        thread.start()
    wait_for(lambda: len(committer._waiting) == 11, "all others")
    gate.gate.set()
    for thread in threads:
        thread.join(30)
    assert gate.calls == [1, 11]


def test_what_cannot_be_stored_is_not_acknowledged() -> None:
    """A full disk is 503 with a Retry-After; nobody is told that his records are safe."""
    gate = Gate()
    gate.gate.set()
    gate.refusal = TransportError(RETRY, "SQLite", "database or disk is full")
    status, headers, _ = ask(Collector(gate), GOOD)
    assert (status, headers["Retry-After"]) == (503, "2")


def test_too_many_at_once_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request above the bound is answered at once, while the others wait for the disk."""
    monkeypatch.setattr("sqstee.collector.MAX_BUSY", 1)
    gate = Gate()
    collector = Collector(gate)
    first = threading.Thread(target=ask, args=(collector, GOOD))
    first.start()
    wait_for(lambda: gate.calls, "first request")
    status, headers, _ = ask(collector, GOOD)
    assert (status, headers["Retry-After"]) == (503, "2")
    gate.gate.set()
    first.join(30)
    assert ask(collector, GOOD)[0] == 200


@pytest.mark.parametrize("text", ["q", "s3://bucket", "http://host", "local:"])
def test_a_store_is_a_local_queue(text: str) -> None:
    """Anything else is refused in one line."""
    with pytest.raises(SqsteeError):
        open_store(text, "", 1)


def test_a_full_store_takes_nothing_more_and_loses_nothing(tmp_path: Path) -> None:
    """503 with Retry-After, said once; what it has is acknowledged again; when rows are consumed it goes on."""
    found = open_store(f"local:{tmp_path}/store.db", "", 1)  # a mebibyte at least
    collector, errors = Collector(found), io.StringIO()
    heard: dict[str, Any] = {"wsgi.errors": errors}
    sent = [body("RUN", first, first + 999, b"x" * 100).data for first in range(0, 20_000, 1000)]
    answers = [ask(collector, data, **heard) for data in sent]
    taken = [status for status, _, _ in answers].index(503)
    assert 1 < taken < 20
    assert [status for status, _, _ in answers] == [200] * taken + [503] * (20 - taken)
    assert answers[-1][1]["Retry-After"] == "10"
    assert [row.data for row in stored(tmp_path / "store.db")] == sent[:taken]
    assert errors.getvalue().count("is full") == len(errors.getvalue().splitlines()) == 1
    metrics = metrics_of(collector)
    assert (metrics["sqstee_store_refuses"], metrics["sqstee_store_limit_bytes"]) == (1, 1048576)
    assert (metrics["sqstee_rows_stored_total"], metrics["sqstee_records_total"]) == (taken, 1000 * taken)
    assert ask(collector, sent[0])[0] == 200  # it is there
    consumer = LocalReceiver(f"{tmp_path}/store.db", consume=True)
    consumer.delete(consumer.receive(2, 0))
    consumer.close()
    assert ask(collector, sent[taken], **heard)[0] == 200
    assert [row.data for row in stored(tmp_path / "store.db")] == sent[2 : taken + 1]
    found.close()


def test_one_request_always_fits_an_empty_store(tmp_path: Path) -> None:
    """However small the bound is: else its sender would wait for ever."""
    found = open_store(f"local:{tmp_path}/store.db", "", 1)
    assert ask(Collector(found), body("RUN", 0, 9999, b"x" * 200).data)[0] == 200
    assert found.size > found.limit
    found.close()


def test_a_full_collector_leaves_the_lines_with_their_sender(sqstee: Sqstee, tmp_path: Path) -> None:
    """They stay in its spool, nothing is lost; drained, the store takes the rest, and the two are the whole."""
    store, out = tmp_path / "store.db", tmp_path / "out"
    with collecting(store, environ={"SQSTEE_LOCAL_MAX": "1M"}) as (process, url):
        words = ("--to", url, "--flush-timeout", "5s", "--message-bytes", "64K", "--", "seq", "20000")
        found = sqstee.run(*words)
        assert found.returncode == 0
        assert b"not delivered yet (" in found.stderr  # what the collector says of it is read below
        flushed = 1
        while flushed:
            assert sqstee.run("drain", f"local:{store}", "-O", str(out), "--idle-timeout", "0").returncode in (0, 3, 4)
            flushed = sqstee.run("flush", "--timeout", "3s").returncode
        assert sqstee.run("drain", f"local:{store}", "-O", str(out), "--idle-timeout", "0").returncode == 0
        process.terminate()
        assert process.stderr
        assert process.stderr.read().count(b"is full") >= 1
    assert b"".join(path.read_bytes() for path in out.rglob("*.stdout")) == found.stdout
    assert stored(store) == []


@contextlib.contextmanager
def gunicorn(store: Path, *words: str, **environ: str) -> Iterator[str]:
    """gunicorn with the collector; its URL."""
    with workers("sqstee.collector:application", store.parent, *words, **environ) as (_, url):
        yield url


@pytest.mark.parametrize("words", [("--threads", "4"), ("--workers", "2")], ids=["threads", "processes"])
def test_gunicorn_serves_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    """By its name, configured by the environment: senders post at once, keep their connections, nothing is lost."""
    store = tmp_path / "store.db"
    with gunicorn(store, *words, SQSTEE_TOKEN="secret") as url:
        _post_from_many(url, "secret", 4, 20)
        with pytest.raises(TransportError, match="Http401"), contextlib.closing(HttpSender(parse(url))) as sender:
            sender.send([body("X", 0, 0)])
        with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
            connection.request("GET", "/metrics", headers={"Authorization": "Bearer secret"})
            text = connection.getresponse().read()
        assert (b"process=" in text) == ("--workers" in words)  # each process has its own figures
    assert len(stored(store)) == 80


def test_gunicorn_says_what_is_not_configured(tmp_path: Path) -> None:
    """Without a store it answers 503, which senders repeat."""
    with (
        gunicorn(tmp_path / "store.db", SQSTEE_STORE="nonsense!") as url,
        pytest.raises(TransportError) as raised,
        contextlib.closing(HttpSender(parse(url))) as sender,
    ):
        sender.send([body("X", 0, 0)])
    assert (raised.value.kind, raised.value.code, raised.value.after) == (RETRY, "Http503", 30.0)


def _sender(url: str, token: str) -> HttpSender:
    sender = HttpSender(parse(url))
    sender._authorization = f"Bearer {token}"
    return sender


def _post_from_many(url: str, token: str, senders: int, bodies: int) -> None:
    """Each sender posts its run's bodies; raises what one of them met."""
    errors: list[Exception] = []

    def work(name: str) -> None:
        sender = _sender(url, token)
        try:
            for number in range(bodies):
                sender.send([body(name, 10 * number, 10 * number + 9).compressed()])
        except Exception as error:
            errors.append(error)
        finally:
            sender.close()

    threads = [threading.Thread(target=work, args=(f"RUN{number}",)) for number in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]


def test_a_killed_collector_has_what_it_acknowledged(tmp_path: Path) -> None:
    """kill -9 while eight senders post: every range that was answered with 200 is in the store, exactly once."""
    store, acknowledged = tmp_path / "store.db", set()
    reserved = socket.socket()  # never listens: nobody else is given the port while no collector is there
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    for attempt in range(3):
        with collecting(store, port=reserved.getsockname()[1]) as (process, url):
            stop = threading.Event()

            def work(name: str, url: str = url, stop: threading.Event = stop) -> None:
                sender = HttpSender(parse(url))
                try:
                    for first in range(0, 1_000_000, 10):
                        if stop.is_set():
                            return
                        sender.send([body(name, first, first + 9)])
                        acknowledged.add((name, f"{first}-{first + 9}"))
                except TransportError:
                    pass
                finally:
                    sender.close()

            threads = [threading.Thread(target=work, args=(f"RUN{attempt}-{number}",)) for number in range(8)]
            before = len(acknowledged)
            for thread in threads:
                thread.start()
            while len(acknowledged) < before + 100:
                assert any(thread.is_alive() for thread in threads)
                stop.wait(0.01)
            process.kill()
            process.wait()
            stop.set()
            for thread in threads:
                thread.join(60)
    reserved.close()
    rows = [(row.attributes["run"], row.attributes["seq"]) for row in stored(store)]
    assert len(rows) == len(set(rows))
    assert acknowledged <= set(rows)


def test_a_thousand_bad_requests_do_no_harm(tmp_path: Path) -> None:
    """Malformed, oversized, truncated, bombs, without a token: each a 4xx, memory bounded, nothing stored."""
    store = tmp_path / "store.db"
    with collecting(store, environ={"SQSTEE_TOKEN": "secret"}) as (process, url):
        host = urlsplit(url).netloc
        before = _resident(process.pid)
        connection = http.client.HTTPConnection(host, timeout=40)
        for number in range(1000):
            data, _, more = BAD[number % len(BAD)]
            if "CONTENT_LENGTH" in more:  # the server's parser is asked for those below
                data, more = b" " * (MAX_POST_BYTES + 1) if number < 100 else b"{", {}
            headers = {} if number % 7 == 0 else {"Authorization": "Bearer secret"}
            if "HTTP_CONTENT_ENCODING" in more:
                headers["Content-Encoding"] = more["HTTP_CONTENT_ENCODING"]
            method, path = more.get("REQUEST_METHOD", "POST"), more.get("PATH_INFO", "/")
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                assert 400 <= answer.status < 500, (number, answer.status)
                answer.read()
            except (BrokenPipeError, ConnectionResetError):
                assert len(data) > MAX_POST_BYTES  # refused before all of it was read
            if number % 3 == 0 or len(data) > MAX_POST_BYTES:
                connection.close()
        for raw in (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n{}",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n{}",
            b"nonsense\r\n\r\n",
        ):
            with socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 0), 30) as peer:
                peer.sendall(raw)
                assert peer.recv(100).split()[1].startswith(b"4"), raw
        with socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 0), 30) as peer:
            peer.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + GOOD[:100])  # and no more
        assert stored(store) == []
        sender = _sender(url, "secret")
        sender.send([body("RUN", 0, 9)])
        sender.close()
        assert [row.data for row in stored(store)] == [GOOD]
        assert _resident(process.pid) - before < 150 * 1024 * 1024
        process.terminate()
        assert process.wait(40) == 0


def test_more_senders_than_a_thousand_keep_their_connections(tmp_path: Path) -> None:
    """Nobody waits until somebody else has been idle for minutes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4000), hard))
    with collecting(tmp_path / "store.db") as (_, url), contextlib.ExitStack() as stack:
        for _ in range(1100):
            peer = socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 0), 30)
            stack.enter_context(peer)
        peer.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD)
        assert peer.recv(100).startswith(b"HTTP/1.1 200 ")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _resident(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def test_a_body_of_several_runs_is_stored_by_run(tmp_path: Path) -> None:
    """Each stretch of a run is a row of its own, by which readers find it, and is stored once."""
    found = LocalSender(str(tmp_path / "local.db"), 1 << 30)
    both = body("A", 0, 3).data + body("B", 0, 1).data
    for one in (Body(both, "", "", 0, 0), Body(both, "", "", 0, 0).compressed(), body("B", 0, 1), body("B", 2, 2)):
        found.send([one])
    found.close()
    assert [row.attributes["run"] for row in stored(tmp_path / "local.db")] == ["A", "B", "B"]
    assert b"".join(row.data for row in stored(tmp_path / "local.db")) == both + body("B", 2, 2).data


def test_while_the_disk_hangs_nothing_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that was told to come again is let go of: senders repeat it for as long as it takes."""
    monkeypatch.setattr("sqstee.collector._COMMIT_SECONDS", 0.02)
    gate = Gate()
    committer = Committer(gate)
    first = threading.Thread(target=committer.commit, args=([body("R", 0, 0)],))
    first.start()
    wait_for(lambda: gate.calls, "a transaction that hangs")
    for _ in range(3):
        with pytest.raises(TransportError, match="too slow"):
            committer.commit([body("R", 1, 1)])
    assert committer._waiting == []
    gate.gate.set()
    first.join(30)
    committer.commit([body("R", 1, 1)])
    assert gate.calls == [1, 1]
