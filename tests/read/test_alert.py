"""sqstee alert: each alert once, told until it succeeds, whatever comes over the network."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.bucket import FakeS3
from fakes.sqs import FakeSqs
from fakes.web import FakeWeb
from support import TIMEOUT, Sqstee, children, is_running, kill, running, wait_for
from support.bodies import at_present, event_of, gap_of, in_flight, lines_of, put, whole_run

from sqstee.errors import SqsteeError
from sqstee.read.alert_delivery import AlertCommand, AlertDelivery, UndeliveredError
from sqstee.read.alert_memory import AlertMemory
from sqstee.read.alert_watch import AlertRules, AlertWatch
from sqstee.read.alerts import Alert, key_of, occurrences, parse_expectation, run_alert, variables
from sqstee.read.run_filter import RunFilter
from sqstee.record import Body
from sqstee.run_summary import RunSummary
from sqstee.transports.errors import TransportError
from sqstee.transports.local import LocalSender
from sqstee.transports.local_store import RunWatch
from sqstee.transports.webhook import Webhook
from sqstee.wire import decode

NOW = 1_800_000_000.0


def summary_of(*bodies: Body, at: float = NOW) -> RunSummary:
    """A run whose bodies have come `at`."""
    found = RunSummary(bodies[0].run)
    for body in bodies:
        found.add_items(decode(body.data), at)
    return found


def states_at(run: RunSummary, now: float, received: float = 0.0) -> list[str]:
    """What is wrong with a run."""
    return [state for state, _ in occurrences(run, now, 60.0, received)]


@pytest.mark.parametrize(
    ("bodies", "after", "states"),
    [
        (whole_run(3), 1e6, []),
        (whole_run(3, status=2), 0.0, ["failed"]),
        ([event_of("start", 0), event_of("exit", 5, exit_code=0)], 5.0, []),  # lines may be on their way
        ([event_of("start", 0), event_of("exit", 5, exit_code=0)], 11.0, ["missing"]),
        ([event_of("start", 0), gap_of(1, 4), event_of("exit", 5, exit_code=1)], 0.0, ["failed", "missing"]),
        ([event_of("start", 0)], 59.0, []),
        ([event_of("start", 0)], 61.0, ["silent"]),
        ([event_of("start", 0, heartbeat_s=2)], 4.9, []),
        ([event_of("start", 0, heartbeat_s=2)], 5.1, ["gone"]),
        ([event_of("start", 0, heartbeat_s=2), lines_of(5, 5)], 11.0, ["missing", "gone"]),
    ],
)
def test_what_is_wrong_with_a_run(bodies: list[Body], after: float, states: list[str]) -> None:
    """Of a host that vanished with lines both are told."""
    assert states_at(summary_of(*bodies), NOW + after) == states


def test_a_message_that_waited_in_a_queue_is_no_sign_of_a_host_that_vanished() -> None:
    """The next one may wait behind it."""
    run = summary_of(event_of("start", 0, heartbeat_s=2))
    assert states_at(run, NOW + 1000, NOW + 999) == []
    assert states_at(run, NOW + 1010, NOW + 999) == ["gone"]


@pytest.mark.parametrize("text", ["", "backup", "=24h", "@h=1h", "backup@=1h", "backup=0", "backup=soon", "backup=-1h"])
def test_what_is_no_expectation(text: str) -> None:
    """One line and a form to use."""
    with pytest.raises(SqsteeError, match="--expect") as caught:
        parse_expectation(text)
    assert "--expect 'backup@*=24h'" in caught.value.hint


def test_an_expectation_is_of_a_job_on_hosts() -> None:
    """Both are globs; a job's name may have any character."""
    assert (parse_expectation("a=b@c@node*=90s").job, parse_expectation("backup=1h").host) == ("a=b@c", "*")
    assert parse_expectation("weekly=7d").seconds == 7 * 86400
    expected = parse_expectation("line*@node?=1h")
    assert expected.is_met_by(summary_of(lines_of(0, 0, job="liner")))
    assert not expected.is_met_by(summary_of(lines_of(0, 0, job="liner", host="other")))


HOSTILE = "$(touch owned)`touch owned`';touch owned;\"\n\x00\x1b[2J\ud800" + "x" * 100_000


def test_variables_are_one_printable_line_of_bounded_length(tmp_path: Path) -> None:
    """Whatever a host, a job or a line is called: nothing of it becomes a part of the command."""
    run = summary_of(event_of("exit", 0, exit_code=1))
    run.host = run.job = run.last_stderr = HOSTILE
    alert = run_alert(run, "failed", NOW, 60.0)
    found = variables(alert.facts)
    assert all(text.isprintable() and len(text) <= 1000 for text in found.values())
    assert found["SQSTEE_ALERT_LAST_STDERR"].startswith("$(touch owned)`touch owned`';touch owned;\" ")
    assert (found["SQSTEE_ALERT_EXIT_CODE"], found["SQSTEE_ALERT_SIGNAL"]) == ("1", "")
    AlertCommand(f'cd {tmp_path} && cat > facts && echo "$SQSTEE_ALERT_HOST" > host')(alert)
    assert sorted(os.listdir(tmp_path)) == ["facts", "host"]
    assert json.loads((tmp_path / "facts").read_text())["host"] == HOSTILE


def test_a_command_is_killed_with_its_children(tmp_path: Path) -> None:
    """One that does not end is not waited for."""
    command = AlertCommand(f"sleep 1000 & echo $! > {tmp_path}/child; wait", seconds=1.0)
    with pytest.raises(UndeliveredError, match="longer than 1 s"):
        command(Alert("k", {}))
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not is_running(child), "end of the command's child")


def test_a_command_need_not_read_its_stdin() -> None:
    """Facts of any size; a status other than 0 is a failure."""
    AlertCommand("exit 0")(Alert("k", {"text": "x" * 1_000_000}))
    with pytest.raises(UndeliveredError, match="status 3"):
        AlertCommand("exit 3")(Alert("k", {"text": "x" * 1_000_000}))


class Watched:
    """A store and a memory in a folder, and a clock that the test sets."""

    def __init__(self, folder: Path) -> None:
        self.now = time.time()
        self.folder = folder
        self._sender = LocalSender(str(folder / "store.db"), 1 << 30)

    def put(self, *bodies: Body) -> None:
        """Store bodies; they come at the real time."""
        self._sender.send(bodies)

    @contextmanager
    def process(self, *states: str, expect: Sequence[str] = (), since: float | None = None) -> Iterator[AlertWatch]:
        """An alerting process that starts now."""
        memory = AlertMemory(str(self.folder / "memory.db"), self.now)
        expected = [parse_expectation(text) for text in expect]
        rules = AlertRules(states, RunFilter(), expected, 60.0, since)
        store = RunWatch(str(self.folder / "store.db"))
        try:
            yield AlertWatch(rules, memory, [store], print, clock=lambda: self.now)
        finally:
            store.close()
            memory.close()


def texts(alerts: Sequence[Alert]) -> list[tuple[object, object]]:
    """The states and the runs of alerts."""
    return [(alert.facts["alert"], alert.facts["run"]) for alert in alerts]


def test_each_state_of_a_run_is_told_once(tmp_path: Path) -> None:
    """Also over restarts; what was before the first start is told with --since alone."""
    store = Watched(tmp_path)
    store.put(*whole_run(1, "01OLD", status=1))
    store.now = time.time()
    with store.process("failed", "missing") as watch:
        assert texts(watch.look()) == []
        store.put(event_of("start", 0, "01NEW"))
        assert texts(watch.look()) == []
        store.put(event_of("exit", 3, "01NEW", exit_code=1))
        assert texts(watch.look()) == [("failed", "01NEW")]
        assert texts(watch.look()) == []
        store.now += 20
        assert texts(watch.look()) == [("missing", "01NEW")]
    store.put(*whole_run(1, "01DOWN", status=1))  # while nobody watched
    with store.process("failed", "missing") as watch:
        assert texts(watch.look()) == [("failed", "01DOWN")]
    with store.process("failed", "missing", since=store.now - 3600) as watch:
        assert texts(watch.look()) == [("failed", "01OLD")]


def test_an_alert_that_nobody_was_told_waits_for_the_next_process(tmp_path: Path) -> None:
    """It is remembered as told only after the command has succeeded."""
    memory = AlertMemory(str(tmp_path / "memory.db"), NOW)
    memory.save([Alert("a", {"text": "one"}), Alert("b", {"text": "two"})])
    memory.told(Alert("a", {}), NOW)
    with pytest.raises(SqsteeError, match="another sqstee alert"):
        AlertMemory(str(tmp_path / "memory.db"), NOW)
    memory.close()
    memory = AlertMemory(str(tmp_path / "memory.db"), NOW)
    assert ("a" in memory, "b" in memory, "c" in memory) == (True, True, False)
    assert [(alert.key, alert.facts) for alert in memory.untold()] == [("b", {"text": "two"})]
    memory.close()


def test_a_new_state_is_not_told_of_the_past(tmp_path: Path) -> None:
    """One that is added to --on later begins then."""
    store = Watched(tmp_path)
    with store.process("failed") as watch:
        watch.look()
    store.put(event_of("start", 0), gap_of(1, 4), event_of("exit", 5, exit_code=1))
    store.now = time.time() + 1
    with store.process("failed", "missing") as watch:
        assert texts(watch.look()) == [("failed", "01JDRUNAAAAAAAAAAAAAAAAAAA")]


def test_a_job_that_does_not_come_is_told_once_until_it_comes(tmp_path: Path) -> None:
    """A run begins the time anew."""
    store = Watched(tmp_path)

    def late(after: float) -> int:
        store.now += after
        with store.process("late", expect=["backup@node*=24h"]) as watch:
            found = watch.look()
        assert all(alert.facts["job"] == "backup" for alert in found)
        return len(found)

    assert [late(0), late(80_000), late(8_000), late(100_000)] == [0, 0, 1, 0]
    body = event_of("start", 0, job="backup")
    wrong = body.data.replace(b"2023-11-14", b"2099-11-14")  # a clock that is ahead is not believed
    assert wrong != body.data
    store.put(Body(wrong, body.run, body.host, 0, 0), event_of("start", 0, "01ANOTHER", job="other"))
    store.now = time.time()
    assert [late(0), late(80_000), late(8_000), late(100_000)] == [0, 0, 1, 0]


def test_a_store_that_comes_later_or_is_replaced(tmp_path: Path) -> None:
    """Its runs are all new."""
    path = tmp_path / "store.db"
    watch = RunWatch(str(path))
    assert watch.changed() == []
    for name in ("01ONE", "01TWO"):
        sender = LocalSender(str(path), 1 << 30)
        sender.send(whole_run(1, name)[:1])
        assert [run.run for run in watch.changed()] == [name]
        assert watch.changed() == []
        sender.send(whole_run(1, name)[1:])
        sender.send(whole_run(1, f"{name}B"))
        assert {run.run: run.is_ended for run in watch.changed()} == {name: True, f"{name}B": True}
        sender.close()
        for file in tmp_path.iterdir():
            file.unlink()
    watch.close()


@contextmanager
def alerting(sqstee: Sqstee, *words: str, environ: dict[str, str] | None = None) -> Iterator[None]:
    """`sqstee alert` in the background, which has begun to watch; SIGTERM ends it. Its stderr is in the file `said`."""
    words = ("alert", "--memory", str(sqstee.folder / "memory.db"), *words)
    environ = sqstee.environ | (environ or {})
    with (
        (sqstee.folder / "said").open("wb") as said,
        running(sqstee.words(*words), env=environ, stderr=said) as process,
    ):
        wait_for((sqstee.folder / "memory.db").exists, "memory")
        wait_for(lambda: _is_watching(process.pid), "watch")
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 143


def _is_watching(pid: int) -> bool:
    """Whether it tells alerts: in a thread of its own."""
    return len(os.listdir(f"/proc/{pid}/task")) > 1


def told(path: Path) -> list[dict[str, Any]]:
    """The alerts that a command has appended to a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_failing_command_is_told_once(sqstee: Sqstee, tmp_path: Path) -> None:
    """As typed: one alert, and none again after a restart."""
    file = tmp_path / "alerts"
    words = ("--on", "failed", "--exec", f'cat >> {file}; echo "told $SQSTEE_ALERT_TEXT" >&2')
    with alerting(sqstee, *words):
        sqstee.run("--job", "good", "--", "true")
        sqstee.run("--job", "nightly", "--host", "n7", "--", "sh", "-c", "echo 'no space left' >&2; exit 3")
        wait_for(lambda: told(file), "alert", 5.0)
    first_start, text = (tmp_path / "said").read_bytes().splitlines()
    assert (b"--since" in first_start, text[:47]) == (True, b"told nightly on n7 failed: exit status 3 after ")
    assert sqstee.run("alert", "--memory", str(tmp_path / "memory.db"), "--once", *words).returncode == 0
    sqstee.run("--job", "again", "--", "false")
    for _ in range(2):
        assert sqstee.run("alert", "--memory", str(tmp_path / "memory.db"), "--once", *words).returncode == 0
    first, second = told(file)
    assert (first["alert"], first["job"], first["host"], first["exit_code"]) == ("failed", "nightly", "n7", 3)
    assert (first["last_stderr"], first["lines"], second["job"]) == ("no space left", {"stderr": 1}, "again")


def test_the_memory_is_in_the_state_folder_and_private(sqstee: Sqstee, tmp_path: Path) -> None:
    """Neither the name nor the file tells a webhook's URL."""
    sqstee.run("alert", "--once", "--webhook", "https://hooks.example/T000/SECRET")
    sqstee.run("alert", "--once", "--exec", "true", environ={"XDG_STATE_HOME": str(tmp_path / "state")})
    (one,) = (tmp_path / ".local/state/sqstee").iterdir()
    (two,) = (tmp_path / "state/sqstee").iterdir()
    assert one.name != two.name
    assert one.stat().st_mode & 0o077 == one.parent.stat().st_mode & 0o077 == 0
    assert b"SECRET" not in one.read_bytes()


def test_a_job_that_never_came(sqstee: Sqstee, tmp_path: Path) -> None:
    """--expect needs no run at all."""
    file = tmp_path / "alerts"
    with alerting(sqstee, "--expect", "backup@*=1s", "--exec", f"cat >> {file}"):
        wait_for(lambda: told(file), "alert")
    (late,) = told(file)
    assert (late["alert"], late["job"], late["state"]) == ("late", "backup", "late")
    assert late["text"] == "backup is late: no run has been seen, expected every 1 s"


def test_a_host_that_vanished(sqstee: Sqstee, tmp_path: Path) -> None:
    """kill -9 of everything: nobody is left to close the run, and its heartbeat stops."""
    file = tmp_path / "alerts"
    with alerting(sqstee, "--on", "gone", "--exec", f"cat >> {file}"):
        words = ("--heartbeat", "1s", "--job", "etl", "--", "sh", "-c", "echo last words >&2; exec sleep 1000")
        null = subprocess.DEVNULL
        with running(sqstee.words(*words), env=sqstee.environ, stdout=null, stderr=null) as process:
            wait_for((sqstee.spool / "local.db").exists, "store")
            wait_for(lambda: any(b"last words" in body.data for body in sqstee.local_bodies()), "line")
            kill(*family(process.pid))
        wait_for(lambda: told(file), "alert")
    (gone,) = told(file)
    assert (gone["alert"], gone["job"], gone["last_stderr"]) == ("gone", "etl", "last words")


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    return [pid, *(one for child in children(pid) for one in family(child))]


@pytest.fixture
def hook() -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """A webhook that answers 500 twice; its URL, and the status and the body of each request."""
    seen: list[tuple[int, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((500 if len(seen) < 2 else 200, body))
            self.send_response(seen[-1][0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/T000/SECRET", seen
        server.shutdown()


def test_a_webhook_gets_an_alert_until_it_takes_it(sqstee: Sqstee, hook: tuple[str, list[tuple[int, bytes]]]) -> None:
    """The trouble is reported once, without the URL, which is all that protects it."""
    url, seen = hook
    with alerting(sqstee, "--on", "failed", "--webhook", url):
        sqstee.run("--job", "nightly", "--", "sh", "-c", "exit 4")
        wait_for(lambda: len(seen) == 3, "third request")
    assert [status for status, _ in seen] == [500, 500, 200]
    assert len({body for _, body in seen}) == 1
    fact = json.loads(seen[0][1])
    assert (fact["alert"], fact["exit_code"]) == ("failed", 4)
    assert fact["text"].startswith("nightly on ")
    said = (sqstee.folder / "said").read_bytes()
    assert said.count(b"Http500") == 1
    assert b"SECRET" not in said
    memory = AlertMemory(str(sqstee.folder / "memory.db"), NOW)
    assert memory.untold() == []
    memory.close()


def test_a_webhook_that_redirects_has_not_taken_the_alert(sqstee: Sqstee) -> None:
    """Following would turn the POST into a GET."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        sqstee.run("--", "false")
        found = sqstee.run("alert", "--once", "--since", "1h", "--webhook", url)
        server.shutdown()
    assert found.returncode == 1
    assert b"Http302" in found.stderr
    assert b"1 alert not delivered; the next start will try again" in found.stderr


def test_what_fails_is_given_up_after_a_time_and_told_by_the_next_process(tmp_path: Path) -> None:
    """The others are told meanwhile."""
    memory = AlertMemory(str(tmp_path / "memory.db"), NOW)
    memory.save([Alert("bad", {"text": "bad"}), Alert("good", {"text": "good"})])
    said: list[str] = []
    command = AlertCommand('[ "$SQSTEE_ALERT_TEXT" = good ]')
    delivery = AlertDelivery(memory, command, said.append, retry_for=0.0)
    delivery.start()
    wait_for(lambda: [alert.key for alert in memory.untold()] == ["bad"] and said, "delivery")
    delivery.close()
    assert said == [
        "the --exec command failed, the alert waits for the next start: exit status 1",
        "1 alert not delivered; the next start will try again",
    ]
    memory.close()


def test_a_queue_is_consumed_and_watched(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """What runs when the watcher ends is known to the next one, though its messages are deleted."""
    file = tmp_path / "alerts"
    environ = fake_sqs.environ()
    words = ("q", "--consume", "--on", "failed,gone", "--exec", f"cat >> {file}")
    start, *rest = whole_run(2, "01BAD", status=2, job="bad")
    with alerting(sqstee, *words, environ=environ):
        put(fake_sqs, map(at_present, [start, event_of("start", 0, "01GONE", job="vanished", heartbeat_s=2)]))
        wait_for(lambda: known_runs(tmp_path / "memory.db") == {"01BAD", "01GONE"}, "runs in the memory")
    assert fake_sqs.messages("q") == []
    put(fake_sqs, map(at_present, rest))
    with alerting(sqstee, *words, environ=environ):
        wait_for(lambda: len(told(file)) == 2, "alerts")
    bad, gone = sorted(told(file), key=lambda one: str(one["alert"]))
    assert (bad["alert"], bad["job"], bad["missing"], bad["lines"]) == ("failed", "bad", 0, {"stdout": 2})
    assert (gone["alert"], gone["job"]) == ("gone", "vanished")
    assert in_flight(fake_sqs) == 0


def test_a_run_may_be_called_anything(tmp_path: Path) -> None:
    """Text that no file can have is remembered all the same."""
    memory = AlertMemory(str(tmp_path / "memory.db"), NOW)
    odd = RunSummary("\ud800" * 1000)
    odd.add_items(decode(event_of("start", 0).data), NOW)
    memory.save([run_alert(odd, "gone", NOW, 60.0)], runs=[odd])
    assert (key_of(odd, "gone") in memory, key_of(odd, "failed") in memory) == (True, False)
    ((name, text),) = memory.runs(10)
    again = RunSummary.load(name, text)
    assert (name, again and again.dump()) == (odd.run, odd.dump())
    odd.is_ended = True
    memory.save([], runs=[odd])
    assert memory.runs(10) == []
    memory.close()


def test_sigterm_ends_a_command_that_does_not_end(sqstee: Sqstee, tmp_path: Path) -> None:
    """The next process tells that alert."""
    word = f"echo $$ > {tmp_path}/pid; sleep 1000"
    with alerting(sqstee, "--on", "failed", "--exec", word):
        sqstee.run("--", "false")
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "command")
    assert not is_running(int((tmp_path / "pid").read_text()))
    assert b"1 alert not delivered; the next start will try again" in (tmp_path / "said").read_bytes()
    memory = AlertMemory(str(tmp_path / "memory.db"), NOW)
    assert len(memory.untold()) == 1
    memory.close()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/SECRET", "http://127.0.0.1:1/SECRET a\x7f", "https://127.0.0.1:1/\u00e9SECRET?k=SECRET"]
)
def test_a_webhook_that_cannot_be_reached(url: str) -> None:
    """What is said of it has nothing of its path."""
    with pytest.raises(TransportError) as caught:
        Webhook(url).post(b"{}")
    assert "SECRET" not in str(caught.value)


def test_lines_that_another_source_has_are_not_missing(tmp_path: Path) -> None:
    """A destination and its fallback are watched together."""
    sent = [
        event_of("start", 0),
        gap_of(1, 4, reason="fallback", at="local:second.db"),
        event_of("exit", 5, exit_code=0),
    ]
    for fallback, states in ((lines_of(1, 4), []), (lines_of(1, 3), ["missing"])):
        folder = tmp_path / fallback.data[-20:].hex()
        folder.mkdir()
        memory = AlertMemory(str(folder / "memory.db"), NOW)
        stores = [str(folder / "first.db"), str(folder / "second.db")]
        rules = AlertRules(["missing"], RunFilter(), [], 60.0)
        watch = AlertWatch(rules, memory, [RunWatch(path) for path in stores], print)
        LocalSender(stores[0], 1 << 30).send(sent)
        LocalSender(stores[1], 1 << 30).send([fallback])
        assert [alert.facts["alert"] for alert in watch.look()] == states
        memory.close()


def test_very_many_runs_are_not_all_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were heard of longest ago are forgotten."""
    monkeypatch.setattr("sqstee.read.alert_watch._MAX_RUNS", 20)
    monkeypatch.setattr("sqstee.read.alert_watch._FORGOTTEN_AT_ONCE", 5)
    store = Watched(tmp_path)
    with store.process("failed") as watch:
        for number in range(50):
            store.put(event_of("start", 0, f"01R{number:02d}"))
            watch.look()
        store.put(event_of("exit", 1, "01R00", exit_code=1))
        store.now = time.time()
        assert texts(watch.look()) == [("failed", "01R00")]


def test_a_bucket_is_followed(sqstee: Sqstee, tmp_path: Path) -> None:
    """Its objects stay."""
    file = tmp_path / "alerts"
    with FakeWeb(FakeS3("bkt")) as web:
        environ = web.environ()
        with alerting(sqstee, "s3://bkt/logs", "--on", "failed", "--exec", f"cat >> {file}", environ=environ):
            sqstee.run("--to", "s3://bkt/logs", "--job", "etl", "--", "sh", "-c", "exit 9", environ=environ)
            wait_for(lambda: told(file), "alert")
    assert [(one["job"], one["exit_code"]) for one in told(file)] == [("etl", 9)]


def known_runs(path: Path) -> set[str]:
    """Those of the test's runs that a memory has, though another process holds it."""
    text = path.read_bytes()
    return {run for run in ("01BAD", "01GONE") if run.encode() in text}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "an alert needs --exec or --webhook"),
        (("--exec", "true", "--webhook", "https://h/"), "exclude each other"),
        (("--exec", "true", "--on", "late"), "--on late needs --expect"),
        (("--exec", "true", "--on", "fialed"), "did you mean 'failed'?"),
        (("--exec", "true", "--expect", "backup"), "invalid value 'backup' for --expect"),
        (("--webhook", "ftp://h/SECRET"), "invalid URL for --webhook"),
        (("--webhook", "https://u:SECRET@h/"), "invalid URL for --webhook"),
        (("--webhook", "https://h:port/SECRET"), "invalid URL for --webhook"),
        (("--exec", "true", "--memory", "/proc/none"), "the memory /proc/none cannot be used"),
        (("--exec", "true", "q"), "reading a queue needs --consume or --peek"),
    ],
)
def test_mistakes(sqstee: Sqstee, words: Sequence[str], problem: str) -> None:
    """One line, and one hint."""
    found = sqstee.run("alert", "--once", *words)
    assert found.returncode in (1, 125)
    assert problem in found.stderr.decode()
    assert found.stderr.count(b"\n") == 2
    assert b"SECRET" not in found.stderr
