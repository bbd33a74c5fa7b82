"""`sqstee measure` against the strict fake, whose duplicates are known."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.sqs import ACCESS_KEY, SECRET_KEY, FakeSqs
from support import Sqstee, children, running, wait_for
from support.terminal import Terminal

from sqstee.backoff import full_jitter
from sqstee.destination import parse as parse_destination
from sqstee.measure.analyse import Arm, analyse
from sqstee.measure.experiment import Conductor, ExperimentSettings
from sqstee.measure.queues import Queues
from sqstee.measure.receivers import Polling
from sqstee.measure.records import RecordReader
from sqstee.measure.sender import Sending
from sqstee.measure.statistics import poisson_interval

# A pause between polls: a receiver of short polls that makes none takes the processor from the server and the others.
QUICK = ("--wait", "1s", "--settle", "0.4s", "--receivers", "4", "--pause", "0.02s", "--yes")
RATE = 0.05


@contextmanager
def duplicating(**more: Any) -> Iterator[FakeSqs]:
    """A strict SQS that delivers RATE of the messages twice."""
    faults: Any = {"duplicates": RATE, "seed": 1, **more}
    with FakeSqs(faults=faults) as server:
        yield server


def measured(sqstee: Sqstee, server: FakeSqs, *words: str, folder: str = "records") -> dict[str, Any]:
    """The JSON report of an experiment that ends well."""
    words = ("measure", "q", *QUICK, "--records", str(sqstee.folder / folder), "-o", "json", *words)
    found = sqstee.run(*words, environ=server.environ())
    assert found.returncode == 0, found.stderr.decode()
    report: dict[str, Any] = json.loads(found.stdout)
    return report


def queues_left(server: FakeSqs) -> list[str]:
    """The queues of experiments that are there."""
    return [name for name in server.counters().stored if "-measure-" in name]


def made_minus_removed(server: FakeSqs) -> int:
    """Queues made and not removed."""
    calls = server.counters().calls
    return calls["CreateQueue"] - calls["DeleteQueue"]


def test_the_range_of_a_wait_doubles_up_to_its_limit() -> None:
    """Uniform from 0, however many tries have failed."""
    ends = [full_jitter(attempt, 0.1, 5.0, lambda low, high: high) for attempt in (0, 1, 2, 10, 5000)]
    assert ends == [0.1, 0.2, 0.4, 5.0, 5.0]
    assert full_jitter(3, 0.1, 5.0, lambda low, high: low) == 0.0
    assert all(0.0 <= full_jitter(2, 0.1, 5.0) <= 0.4 for _ in range(100))


# -- the experiment


def test_what_is_counted_is_what_the_server_did(sqstee: Sqstee) -> None:
    """Both modes, in ABBA blocks: each injected duplicate is found once, and nothing else is one."""
    with duplicating() as server:
        report = measured(sqstee, server, "--messages", "400", "--blocks", "2")
        injected = server.counters().injected["duplicates"]
        assert (queues_left(server), made_minus_removed(server)) == ([], 0)
        billed = server.counters().calls
    arms = report["modes"].values()
    assert injected > 0
    assert sum(arm["duplicates"] for arm in arms) == injected
    assert report["blocks"] in (["short", "long", "long", "short"], ["long", "short", "short", "long"])
    for arm in arms:
        assert (arm["messages"], arm["sent"], arm["not_received"], arm["producer_duplicates"]) == (400, 400, 0, 0)
        assert sum(arm["classes"].values()) == arm["duplicates"]
        assert arm["ppm_low"] < arm["ppm"] < arm["ppm_high"]
        assert arm["incomplete_blocks"] == arm["errors"] == 0
        assert 0 <= arm["gap_ms"]["min"] <= arm["gap_ms"]["p50"] <= arm["gap_ms"]["max"]
        assert 0 < arm["delay_ms"]["p50"] <= arm["delay_ms"]["p99"]
    assert sum(arm["sends"] for arm in arms) == billed["SendMessageBatch"]
    assert sum(arm["receives"] for arm in arms) == billed["ReceiveMessage"]
    assert sum(arm["deletes"] for arm in arms) == billed["DeleteMessageBatch"]
    assert [row["messages"] for row in report["table"]] == [133, 266, 400]
    assert [row["short"] for row in report["table"]][-1] == report["modes"]["short"]["duplicates"]


def test_the_interval_covers_the_injected_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a confidence of 95 %, over 24 experiments with fixed seeds, in at least 22 of them.

    An interval that covers in 70 % would pass once in a hundred times. That it is exact, test_statistics shows without
    a server; here the counts are those of experiments.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with ThreadPoolExecutor(4) as pool:
        shares = pool.map(lambda first: list(covers(range(first, 24, 4), tmp_path)), range(4))
        covered = [one for share in shares for one in share]
    assert len(covered) == 24
    assert sum(covered) >= 22


def covers(seeds: range, folder: Path) -> Iterator[bool]:
    """Whether the interval of each seed's experiment holds the rate; a server of its own makes a seed decide all."""
    rate = 0.1
    with FakeSqs(faults={"duplicates": rate}) as server:
        queues = Queues(parse_destination(server.url("q")), connections=6)
        for seed in seeds:
            server.faults(seed=seed)
            server.reset_counters()
            arm = short_experiment(server, queues, f"seed{seed}", folder, 80, pause=0.03)
            assert arm.duplicates == server.counters().injected.get("duplicates", 0)
            low, high = poisson_interval(arm.duplicates)
            yield low <= rate * arm.messages <= high


def short_experiment(server: FakeSqs, queues: Queues, name: str, folder: Path, messages: int, pause: float) -> Arm:
    """One block of short polls."""
    settings = ExperimentSettings(
        queue=server.url("q"),
        id=name,
        messages=messages,
        schedule=(("short", messages),),
        polling=Polling(receivers=2, pause=pause),
        sending=Sending(threads=2),
        settle=0.25,  # the fake delivers its duplicates within 0.2 s
        folder=str(folder / name),
    )
    conductor = Conductor(settings, threading.Event(), lambda progress: None, queues)
    conductor.run()
    conductor.close()
    (arm,) = analyse(RecordReader([conductor.sink.path]).blocks())
    return arm


def test_receivers_look_once_more_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that did not poll while the block was quiet finds what came meanwhile before its end."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with FakeSqs(faults={"duplicates": 1.0}) as server:
        queues = Queues(parse_destination(server.url("q")), connections=6)
        arm = short_experiment(server, queues, "slow", tmp_path, 30, pause=1.0)
    assert (arm.sent, arm.duplicates, arm.incomplete) == (30, 30, 0)


def test_new_queues_are_like_the_one_that_is_named(sqstee: Sqstee) -> None:
    """Its visibility timeout is theirs, and the queue itself is left alone."""
    with FakeSqs() as server:
        url = server.create_queue("q", VisibilityTimeout=77)
        server.put("q", "mine")
        measured(sqstee, server, "--messages", "20", "--blocks", "1", "--mode", "short")
        assert [message.receives for message in server.messages("q")] == [0]
        assert url.endswith("/q")
    (path,) = (sqstee.folder / "records").iterdir()
    block = [json.loads(line) for line in path.read_text().splitlines() if '"block", "block"' in line]
    assert block[0]["visibility_timeout"] == 77


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGINT, "1"), (signal.SIGTERM, "2")])
def test_an_interrupt_ends_cleanly_with_what_there_is(sqstee: Sqstee, number: signal.Signals, processes: str) -> None:
    """^C and TERM: the queues go, the report comes, the status tells which."""
    plenty = ("--messages", "100000", "--rate", "200", "--blocks", "1", "-o", "json")
    words = ("measure", "q", *QUICK, *plenty, "--processes", processes)
    with duplicating() as server:
        environ = sqstee.environ | server.environ()
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": sqstee.folder}
        with running(sqstee.words(*words), env=environ, **options) as process:
            wait_for(lambda: server.counters().calls.get("DeleteMessageBatch", 0) > 5, "deliveries")
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        assert (queues_left(server), made_minus_removed(server)) == ([], 0)
    assert process.returncode == 128 + number, err.decode()
    report = json.loads(out)
    (arm,) = report["modes"].values()
    assert 0 < arm["messages"] < 100_000
    assert arm["incomplete_blocks"] == 1
    assert any("did not run to their end" in note for note in report["notes"])
    assert b"Traceback" not in err


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_refusal_is_one_line_and_leaves_no_queue(sqstee: Sqstee, processes: str) -> None:
    """Who may not receive is told so."""
    errors = [{"operation": "ReceiveMessage", "code": "AccessDeniedException", "message": "no"}]
    with FakeSqs(faults={"errors": errors}) as server:
        words = ("measure", "q", *QUICK, "--messages", "50", "--records", str(sqstee.folder / "records"))
        found = sqstee.run(*words, "--processes", processes, environ=server.environ())
        assert (queues_left(server), made_minus_removed(server)) == ([], 0)
    assert found.returncode == 1
    assert b"sqstee: q: AccessDeniedException: ReceiveMessage: no\nhint: allow sqs:CreateQueue" in found.stderr
    assert b"Traceback" not in found.stderr


def test_a_full_disk_ends_it(sqstee: Sqstee) -> None:
    """Records that cannot be written are no measurement: one line, and no queue is left."""
    words = sqstee.words("measure", "q", *QUICK, "--messages", "2000", "--records", str(sqstee.folder / "records"))
    with FakeSqs() as server:
        command = ["bash", "-c", 'ulimit -f 64; exec "$@"', "limited", *words]  # 64 KiB
        environ = sqstee.environ | server.environ()
        found = subprocess.run(command, env=environ, capture_output=True, timeout=60, check=False)
        assert (queues_left(server), made_minus_removed(server)) == ([], 0)
    assert found.returncode == 1
    assert b"File too large\nhint: choose another folder: --records DIR" in found.stderr
    assert b"Traceback" not in found.stderr


def test_a_process_that_is_killed_ends_it(sqstee: Sqstee) -> None:
    """A process of receivers dies: said, and no queue is left."""
    words = ("measure", "q", *QUICK, "--messages", "100000", "--rate", "200", "--processes", "2")
    with FakeSqs() as server:
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": sqstee.folder}
        with running(sqstee.words(*words), env=sqstee.environ | server.environ(), **options) as process:
            wait_for(lambda: server.counters().calls.get("DeleteMessageBatch", 0) > 5, "deliveries")
            os.kill(children(process.pid)[0], signal.SIGKILL)
            _, err = process.communicate(timeout=60)
        assert (queues_left(server), made_minus_removed(server)) == ([], 0)
    assert process.returncode == 1
    assert re.search(rb"receiver process \d+: it ended", err)
    assert b"Traceback" not in err


def test_a_queue_that_cannot_be_removed_is_named(sqstee: Sqstee) -> None:
    """With the command that removes it."""
    errors = [{"operation": "DeleteQueue", "code": "AccessDeniedException", "message": "no", "times": 1}]
    with FakeSqs(faults={"errors": errors}) as server:
        words = ("--messages", "20", "--blocks", "1", "--mode", "short", "--id", "e3", "--records", "r")
        found = subprocess.run(
            sqstee.words("measure", "q", *QUICK, *words),
            env=sqstee.environ | server.environ(),
            cwd=sqstee.folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert queues_left(server) == ["q-measure-e3-1-short"]
    assert found.returncode == 1
    assert b"sqstee: cannot remove q-measure-e3-1-short\nhint: sqstee measure q --remove e3" in found.stderr
    assert found.stdout.startswith(b"experiment e3, ")


def test_trouble_that_passes_is_counted_and_changes_nothing(sqstee: Sqstee) -> None:
    """Internal errors and throttling: every message arrives all the same."""
    errors = [{"operation": ["ReceiveMessage", "SendMessageBatch", "DeleteMessageBatch"], "probability": 0.1}]
    with duplicating(errors=errors) as server:
        report = measured(sqstee, server, "--messages", "300", "--blocks", "1", "--mode", "long")
    arm = report["modes"]["long"]
    assert (arm["messages"], arm["not_received"]) == (300, 0)
    assert arm["errors"] > 0


def test_what_the_producer_sent_twice_is_no_duplicate_of_the_queues(sqstee: Sqstee) -> None:
    """A send that was carried out and yet answered as failed goes again: apart, and not in the rate."""
    failed = [{"probability": 0.1, "stored": True}]
    with FakeSqs(faults={"failed_entries": failed, "seed": 3}) as server:
        report = measured(sqstee, server, "--messages", "300", "--blocks", "1", "--mode", "long")
        again = server.counters().injected["failed_entries"]
    arm = report["modes"]["long"]
    assert arm["producer_duplicates"] == again > 0
    assert arm["duplicates"] == 0
    assert arm["messages"] == 300 + again


def test_without_consent_nothing_is_made(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """The cost is said first; without a terminal, and without --yes, that is all."""
    found = sqstee.run("measure", "q", "--messages", "1000000", environ=fake_sqs.environ())
    assert found.returncode == 125
    assert b"it costs $0.24 to $1.68" in found.stderr
    assert b"hint: add --yes" in found.stderr
    assert fake_sqs.counters().calls == {}


# -- processes and hosts


def test_processes_share_the_receivers(sqstee: Sqstee) -> None:
    """Each writes a file of its own; --report makes the same report of them again."""
    with duplicating() as server:
        slowly = ("--rate", "100")  # so that neither process is too late for all of them
        words = ("--messages", "300", "--blocks", "1", "--mode", "short", "--processes", "2")
        report = measured(sqstee, server, *words, *slowly)
        assert report["modes"]["short"]["duplicates"] == server.counters().injected["duplicates"]
    paths = sorted((sqstee.folder / "records").iterdir())
    assert len(paths) == 3
    assert report["modes"]["short"]["messages"] == 300
    assert sum(_receives(path) for path in paths) == 2
    again = sqstee.run("measure", "--report", *map(str, reversed(paths)), "-o", "json")
    assert json.loads(again.stdout) == report


def _receives(path: Path) -> bool:
    return '"delivery"' in path.read_text()


def test_a_host_that_joins_shares_the_messages(sqstee: Sqstee) -> None:
    """Two hosts, one experiment: the files of both, merged, hold every message and every duplicate."""
    with duplicating() as server:
        environ = sqstee.environ | server.environ()
        other = str(sqstee.folder / "other")
        words = ("measure", "q", *QUICK, "--join", "e1", "--records", other)
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with running(sqstee.words(*words), env=environ, **options) as joined:
            wait_for(lambda: server.counters().calls.get("ListQueues", 0) > 0, "the other host")
            more = ("--messages", "120", "--blocks", "1", "--id", "e1", "--rate", "40")
            measured(sqstee, server, *more)
            _, err = joined.communicate(timeout=60)
        assert joined.returncode == 0, err.decode()
        assert b"receiving in block 1" in err
        injected = server.counters().injected["duplicates"]
        assert (queues_left(server), made_minus_removed(server)) == ([], 0)
    paths = [str(path) for folder in ("records", "other") for path in (sqstee.folder / folder).iterdir()]
    assert len(paths) == 2
    assert all(_receives(Path(path)) for path in paths)
    merged = json.loads(sqstee.run("measure", "--report", *paths, "-o", "json").stdout)
    assert sum(arm["messages"] for arm in merged["modes"].values()) == 240
    assert sum(arm["duplicates"] for arm in merged["modes"].values()) == injected
    alone = sqstee.run("measure", "--report", paths[1])
    assert alone.returncode == 125
    assert b"the host that started the experiment" in alone.stderr


def test_what_a_killed_experiment_leaves_can_be_removed_and_reported(sqstee: Sqstee) -> None:
    """kill -9: its queues stay until --remove; its records are good up to the last whole line."""
    records = sqstee.folder / "records"
    words = ("measure", "q", *QUICK, "--messages", "100000", "--rate", "200", "--id", "e2", "--records", str(records))
    with duplicating() as server:
        environ = sqstee.environ | server.environ()
        with running(sqstee.words(*words), env=environ, stderr=subprocess.PIPE) as process:
            wait_for(lambda: server.counters().calls.get("DeleteMessageBatch", 0) > 5, "deliveries")
            process.kill()
            process.communicate()
        assert len(queues_left(server)) == 2
        again = sqstee.run(
            "measure", "q", *QUICK, "--id", "e2", "--records", str(sqstee.folder / "new"), environ=environ
        )
        assert again.returncode == 1
        assert b"experiment e2 already exists" in again.stderr
        removed = sqstee.run("measure", "q", "--remove", "e2", environ=environ)
        assert removed.stdout.decode().count("removed q-measure-e2") == 2
        assert queues_left(server) == []
    (path,) = records.iterdir()
    with path.open("a") as file:
        file.write('{"record": "deli')
    report = json.loads(sqstee.run("measure", "--report", str(path), "-o", "json").stdout)
    (arm,) = report["modes"].values()
    assert arm["messages"] > 0
    assert [note for note in report["notes"] if "torn" in note]


def test_records_go_to_dynamodb_too(sqstee: Sqstee) -> None:
    """Every record of the file is an item of the table, which is made where it does not exist."""
    import boto3
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        with duplicating() as server:
            environ = server.environ() | {"AWS_ENDPOINT_URL_DYNAMODB": endpoint}
            words = ("--messages", "60", "--blocks", "1", "--mode", "short", "--dynamodb", "records")
            folder = ("--records", str(sqstee.folder / "records"))
            found = sqstee.run("measure", "q", *QUICK, *words, *folder, environ=environ)
            assert found.returncode == 0, found.stderr.decode()
        table = boto3.resource(
            "dynamodb",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",
        ).Table("records")
        items, more = [], table.scan()
        items += more["Items"]
        while "LastEvaluatedKey" in more:
            more = table.scan(ExclusiveStartKey=more["LastEvaluatedKey"])
            items += more["Items"]
    finally:
        moto.stop()
    (path,) = (sqstee.folder / "records").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(items) == len(lines) > 120
    seqs = {(int(item["seq"]), item["message_id"]) for item in items if item["record"] == "delivery"}
    assert seqs == {(line["seq"], line["message_id"]) for line in lines if line["record"] == "delivery"}


def test_progress_fits_a_narrow_terminal(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Where there is no room for a bar: the block and how many came, on a line that is not cut."""
    words = ["measure", "q", "--messages", "20", "--blocks", "1", *QUICK]
    environ = sqstee.environ | fake_sqs.environ() | {"TERM": "xterm", "NO_COLOR": "1"}
    for name in ("COLUMNS", "LINES"):
        environ.pop(name, None)
    with Terminal([*sqstee.words(*words), "--records", str(tmp_path / "records")], environ, (24, 40)) as terminal:
        assert terminal.wait() == 0
    progress = terminal.output.decode().partition("records in")[0]
    assert re.search(r"block \d of 2, \w+ 20/20\r", progress)
    assert "…" not in progress
