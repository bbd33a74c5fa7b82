"""sqstee stat: counts of queues and of the spool, their trends, and the output formats."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from fakes.sqs import FakeSqs
from hypothesis import given
from hypothesis import strategies as st
from support import SCRIPT, TIMEOUT, Sqstee, running, wait_for
from support.bodies import lines_of, put
from support.terminal import Terminal

from sqstee.read.queue_trend import QueueTrend, sparkline
from sqstee.transports.base import QueueState
from sqstee.transports.sqs import queue_state

DEAD = "arn:aws:sqs:us-east-1:123456789012:dead"


def trend(*samples: tuple[float, int], **attributes: Any) -> QueueTrend:
    """A trend with (time, visible) samples, the same attributes in each."""
    found = QueueTrend()
    for now, visible in samples:
        state = QueueState(visible)
        for name, value in attributes.items():
            setattr(state, name, value)
        found.add(now, state)
    return found


def test_what_waits_is_shown(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Visible, in flight, dead letters, warnings, and this host's spool."""
    account = fake_sqs.url("x").split("/")[-2]
    fake_sqs.create_queue("dead")
    arn = f"arn:aws:sqs:us-east-1:{account}:dead"
    fake_sqs.create_queue("jobs", RedrivePolicy={"deadLetterTargetArn": arn, "maxReceiveCount": 5}, VisibilityTimeout=2)
    put(fake_sqs, [lines_of(n, n) for n in range(7)], "jobs")
    put(fake_sqs, [lines_of(0, 0)], "dead")
    fake_sqs.put("jobs", "later", DelaySeconds=60)
    fake_sqs.faults(refuse=True)
    sqstee.run("--flush-timeout", "0.2s", "--to", "jobs", "--", "seq", "3", environ=fake_sqs.environ())
    fake_sqs.clear_faults()
    (run,) = sqstee.waiting_runs()
    wait_for(lambda: sqstee.left_alone(run), "end of its shipper")
    found = sqstee.run("stat", "jobs", "--interval", "0.2s", environ=fake_sqs.environ())
    text = found.stdout.decode()
    assert found.returncode == 0, found.stderr
    assert re.search(r"visible +7 +steady", text)
    assert re.search(r"in flight +0 +0.00% of 120,000", text)
    assert re.search(r"delayed +1", text)
    assert re.search(r"dead letters +1 +in dead, after 5 receives", text)
    assert "warning: the visibility timeout of 2 s is short" in text
    assert re.search(r"waiting +1 +runs for sqstee flush to ship", text)
    assert re.search(r"records +5 ", text)
    assert "\x1b" not in text


def test_json_and_prometheus(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """One object per destination and one for the spool; metrics with labels."""
    put(fake_sqs, [lines_of(0, 0)])
    words = ("stat", "q", "missing", "local", "--interval", "0", "-o")
    found = sqstee.run(*words, "json", environ=fake_sqs.environ())
    queue, missing, local, spool = (json.loads(line) for line in found.stdout.splitlines())
    assert found.returncode == 1
    assert (queue["destination"], queue["visible"], queue["in_flight_share"]) == ("q", 1, 0.0)
    assert queue["warnings"] == ["no dead-letter queue: an unreadable message is redelivered until its retention ends"]
    assert "QueueDoesNotExist" in missing["problem"]
    assert local["visible"] == 0
    assert spool["spool"] == str(sqstee.spool)
    lines = sqstee.run(*words, "prometheus", environ=fake_sqs.environ()).stdout.decode().splitlines()
    assert 'sqstee_queue_visible{destination="q"} 1' in lines
    assert 'sqstee_up{destination="missing"} 0' in lines
    sample = re.compile(r'[a-z_]+(\{destination="[^"]*"\})? [0-9.e+-]+')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)


def test_a_sample_is_there_once(sqstee: Sqstee) -> None:
    """Prometheus rejects a page with a duplicate sample, so a destination that is named twice has one."""
    found = sqstee.run("stat", "local", "local", "--interval", "0", "-o", "prometheus")
    samples = [line for line in found.stdout.decode().splitlines() if not line.startswith("#")]
    assert 'sqstee_up{destination="local"} 1' in samples
    assert len(samples) == len({*samples})


def test_watching_on_a_terminal(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A live view with a history, which ^C ends with status 0 and the terminal as it was."""
    put(fake_sqs, [lines_of(n, n) for n in range(3)])
    environ = sqstee.environ | fake_sqs.environ() | {"TERM": "xterm-256color"}
    with Terminal([SCRIPT, "stat", "q", "--watch", "--interval", "0.2s"], environ, (24, 80)) as terminal:
        terminal.expect(b"history")
        terminal.expect("████".encode())
        terminal.type(b"\x03")
        assert terminal.wait() == 0
    assert b"\x1b[?1049l" in terminal.output
    assert b"\x1b[?25h" in terminal.output


@pytest.mark.parametrize(
    ("words", "number", "status"),
    [
        (("--interval", "30s"), signal.SIGINT, 130),
        (("--interval", "30s"), signal.SIGTERM, 143),
        (("--watch", "-o", "json"), signal.SIGINT, 0),
        (("--watch", "-o", "json"), signal.SIGTERM, 143),
    ],
)
def test_who_ends_it(
    sqstee: Sqstee, fake_sqs: FakeSqs, words: tuple[str, ...], number: signal.Signals, status: int
) -> None:
    """^C is the normal end of --watch, but interrupts a command that needs a second sample."""
    environ = sqstee.environ | fake_sqs.environ()
    with running(sqstee.words("stat", "q", *words), env=environ, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: fake_sqs.counters().calls.get("GetQueueAttributes"), "look")
        process.send_signal(number)
        assert process.wait(TIMEOUT) == status


@contextmanager
def cloudwatch() -> Iterator[str]:
    """A CloudWatch that knows the oldest message of any queue; yields its endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            ids = [query["Id"] for query in asked["MetricDataQueries"]]
            results = [{"Id": one, "Values": [345000.0] if one == "oldest" else []} for one in ids]
            answer = json.dumps({"MetricDataResults": results}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_cloudwatch_tells_the_oldest(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """--cloudwatch: the age of the oldest message, and that its retention is about to end."""
    with cloudwatch() as endpoint:
        environ = fake_sqs.environ() | {"AWS_ENDPOINT_URL_CLOUDWATCH": endpoint}
        found = sqstee.run("stat", "q", "--cloudwatch", "--interval", "0", environ=environ)
    text = found.stdout.decode()
    assert re.search(r"oldest +3d23h +of 4d00h", text), found.stderr
    assert "retention at risk" in text


def test_rates_and_the_time_to_empty() -> None:
    """From the first and last of the latest ten samples."""
    assert trend((0.0, 100)).rate is None
    assert trend((0.0, 100), (2.0, 80)).rate == -10.0
    assert trend((0.0, 100), (2.0, 80)).seconds_to_empty == 8.0
    assert trend((0.0, 80), (2.0, 100)).seconds_to_empty is None
    assert trend((0.0, 0), (2.0, 0)).seconds_to_empty is None
    assert trend((1.0, 5), (1.0, 4)).rate is None


@pytest.mark.parametrize(
    ("attributes", "warning"),
    [
        ({"visibility_timeout": 5.0, "dead_letter": DEAD}, "visibility timeout of 5 s is short"),
        ({"visibility_timeout": 30.0}, "no dead-letter queue"),
        ({"in_flight": 100_000, "in_flight_limit": 120_000}, "83% of the in-flight limit"),
        ({"oldest": 340_000.0, "retention": 345_600.0}, "retention at risk"),
    ],
)
def test_warnings(attributes: dict[str, Any], warning: str) -> None:
    """One line for each condition, and none without cause."""
    (found,) = trend((0.0, 10), **attributes).warnings()
    assert warning in found
    assert trend((0.0, 10), visibility_timeout=40.0, dead_letter=DEAD).warnings() == []


@given(st.lists(st.integers(0, 10**9)), st.integers(0, 50))
def test_a_sparkline_fits(values: list[int], width: int) -> None:
    """As many bars as values, at most the width; the largest is the highest bar, 0 the lowest."""
    line = sparkline(values, width)
    shown = values[-width:] if width else []
    assert len(line) == len(shown)
    for value, bar in zip(shown, line, strict=True):
        assert value or bar == "▁"
        assert value < max(shown) or not value or bar == "█"


def test_attributes_of_emulators_are_taken_as_they_come() -> None:
    """A missing or malformed attribute is unknown, not an error."""
    assert queue_state({}).visible == 0
    assert queue_state({"RedrivePolicy": "nonsense", "VisibilityTimeout": "x"}).max_receives is None
    assert queue_state({"RedrivePolicy": "[]"}).dead_letter is None
