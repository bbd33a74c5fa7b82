"""`sqstee measure` against the strict fake, whose duplicates are known; its records, its classes, and the model."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fake_sqs import ACCESS_KEY, SECRET_KEY, FakeSqs
from hypothesis import given
from hypothesis import strategies as st
from support import Sqstee, running, wait_for

from sqstee.errors import SqsteeError
from sqstee.measure.analyse import AFTER_DELETE, CONCURRENT, EXPIRY, SAME_BATCH, analyse, classify
from sqstee.measure.design import block_order, estimate, queue_name, schedule
from sqstee.measure.experiment import Conductor, Settings
from sqstee.measure.histogram import bins, svg
from sqstee.measure.receivers import Polling
from sqstee.measure.records import Block, BlockRecords, Calls, Delivery, Reader, Sent, fields_of, parse
from sqstee.measure.report import table, unreproduced
from sqstee.measure.sender import Sending
from sqstee.measure.simulate import Model, run_block
from sqstee.measure.statistics import poisson_interval
from sqstee.transports.destination import parse as parse_destination
from sqstee.transports.experiment import Queues

QUICK = ("--wait", "1s", "--settle", "0.4s", "--receivers", "4", "--yes")
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
    """At a confidence of 95 %, over one hundred experiments with fixed seeds, in at least ninety of them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with ThreadPoolExecutor(4) as pool:
        shares = pool.map(lambda first: list(covers(range(first, 100, 4), tmp_path)), range(4))
        covered = [one for share in shares for one in share]
    assert len(covered) == 100
    assert sum(covered) >= 90


def covers(seeds: range, folder: Path) -> Iterator[bool]:
    """Whether the interval of each seed's experiment holds the rate; a server of its own makes a seed decide all."""
    rate, messages = 0.1, 80
    with FakeSqs(faults={"duplicates": rate}) as server:
        queues = Queues(parse_destination(server.url("q")), connections=6)
        for seed in seeds:
            server.faults(seed=seed)
            server.reset_counters()
            settings = Settings(
                queue=server.url("q"),
                id=f"seed{seed}",
                messages=messages,
                schedule=(("short", messages),),
                polling=Polling(receivers=2, pause=0.03),
                sending=Sending(threads=2),
                settle=0.25,  # the fake delivers its duplicates within 0.2 s
                folder=str(folder / f"{seed}"),
            )
            conductor = Conductor(settings, threading.Event(), lambda progress: None, queues)
            conductor.run()
            conductor.close()
            (arm,) = analyse(Reader([conductor.sink.path]).blocks())
            assert arm.duplicates == server.counters().injected.get("duplicates", 0)
            low, high = poisson_interval(arm.duplicates)
            yield low <= rate * arm.messages <= high


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


def test_an_interrupt_ends_cleanly_with_what_there_is(sqstee: Sqstee) -> None:
    """^C: the queues go, the report comes, the status is 130."""
    words = ("measure", "q", *QUICK, "--messages", "100000", "--rate", "200", "--blocks", "1", "-o", "json")
    with duplicating() as server:
        environ = sqstee.environ | server.environ()
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": sqstee.folder}
        with running(sqstee.words(*words), env=environ, **options) as process:
            wait_for(lambda: server.counters().calls.get("DeleteMessageBatch", 0) > 5, "deliveries")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert (queues_left(server), made_minus_removed(server)) == ([], 0)
    assert process.returncode == 130, err.decode()
    report = json.loads(out)
    (arm,) = report["modes"].values()
    assert 0 < arm["messages"] < 100_000
    assert arm["incomplete_blocks"] == 1
    assert any("did not come to their end" in note for note in report["notes"])
    assert b"Traceback" not in err


def test_a_refusal_is_one_line_and_leaves_no_queue(sqstee: Sqstee) -> None:
    """Who may not receive is told so."""
    errors = [{"operation": "ReceiveMessage", "code": "AccessDeniedException", "message": "no"}]
    with FakeSqs(faults={"errors": errors}) as server:
        words = ("measure", "q", *QUICK, "--messages", "50", "--records", str(sqstee.folder / "records"))
        found = sqstee.run(*words, environ=server.environ())
        assert (queues_left(server), made_minus_removed(server)) == ([], 0)
    assert found.returncode == 1
    assert b"sqstee: q: AccessDeniedException: ReceiveMessage: no\nhint: it takes sqs:CreateQueue" in found.stderr
    assert b"Traceback" not in found.stderr


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
        report = measured(sqstee, server, "--messages", "300", "--blocks", "1", "--mode", "short", "--processes", "2")
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
        words = ("measure", "q", *QUICK, "--join", "e1", "--records", other, "--pause", "0.02s")
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with running(sqstee.words(*words), env=environ, **options) as joined:
            wait_for(lambda: server.counters().calls.get("ListQueues", 0) > 0, "the other host")
            more = ("--messages", "150", "--blocks", "1", "--id", "e1", "--rate", "100", "--pause", "0.02s")
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
    assert sum(arm["messages"] for arm in merged["modes"].values()) == 300
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
        again = sqstee.run("measure", "q", *QUICK, "--id", "e2", "--records", "new", environ=environ)
        assert again.returncode == 1
        assert b"an experiment e2 is there already" in again.stderr
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


# -- records and classes


def delivery(seq: int = 0, t0: float = 0.0, t1: float = 0.1, **more: Any) -> Delivery:
    """A delivery, not deleted."""
    fields = {"message_id": f"m{seq}", "call": f"c{t0}", "deleted_t0": None, "deleted_t1": None}
    return Delivery(1, seq, t0=t0, t1=t1, **{**fields, "receive_count": 1, "first_received": 0.0, **more})


@pytest.mark.parametrize(
    ("again", "expected"),
    [
        (delivery(t0=0.0, t1=0.1), SAME_BATCH),
        (delivery(t0=0.05, t1=0.15), CONCURRENT),  # asked before the deletion began
        (delivery(t0=0.11, t1=0.13), CONCURRENT),  # the deletion was not acknowledged yet
        (delivery(t0=0.21, t1=0.25), AFTER_DELETE),
        (delivery(t0=0.05, t1=9.0), AFTER_DELETE),  # a long poll that began before, answered long after
        (delivery(t0=40.0, t1=40.1), AFTER_DELETE),
    ],
)
def test_classes_of_a_deleted_message(again: Delivery, expected: str) -> None:
    """Received until 0.1, deleted from 0.1 to 0.2."""
    first = delivery(t0=0.0, t1=0.1, deleted_t0=0.1, deleted_t1=0.2)
    assert classify([first], again, 30.0) == expected


def test_what_was_not_deleted_comes_again_after_its_visibility_timeout() -> None:
    """Before that it is a second copy; a timeout after the latest delivery, however many there were, it is none."""
    first, second = delivery(t0=0.0, t1=0.1), delivery(t0=29.0, t1=29.1)
    assert classify([first], second, 30.0) == CONCURRENT
    assert classify([first], delivery(t0=30.0, t1=30.1), 30.0) == EXPIRY
    assert classify([first, second], delivery(t0=31.0, t1=31.1), 30.0) == CONCURRENT
    assert classify([first], delivery(t0=1e6, t1=1e6), None) == CONCURRENT


def test_a_message_that_comes_three_times_is_two_duplicates() -> None:
    """Gaps are between one delivery and the next, whatever the order of the records."""
    found = [delivery(t0=2.0, t1=2.5), delivery(t0=0.0, t1=0.5), delivery(t0=1.0, t1=1.25), delivery(1, t0=5.0, t1=5.0)]
    block = BlockRecords(Block(1, "long", "q", 2, 30.0), [Sent(1, 0, "m0", 0.0, 0.1)], found, [Calls(1)])
    (arm,) = analyse([block])
    assert (arm.messages, arm.duplicates, arm.gaps, arm.at) == (2, 2, [0.75, 1.25], [1, 1])
    assert list(arm.delays) == [0.5]
    assert table([arm])[-1] == {"messages": 2, "long": 2}


def test_records_survive_their_file() -> None:
    """To JSON and back."""
    for record in (delivery(), Sent(1, 2, "m", 0.1, 0.2), Block(1, "short", "q", 5, None), Calls(1, receives=3)):
        assert parse(json.dumps(fields_of(record))) == record


def lines_of(*records: Any) -> str:
    """Records as the text of a file."""
    return "".join(json.dumps(fields_of(record)) + "\n" for record in records)


HEADER = {"record": "experiment", "id": "a", "host": "h", "queue": "q", "messages": 2, "receivers": 1}
HEADER |= {"blocks": ["long"], "started": 0.0}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no file has the records"),
        ("hello\n", "line 1"),
        ('{"record": "delivery", "block": 1}\n', "line 1"),
        (json.dumps(HEADER) + '\n{"record": "calls", "block": "x"}\n', "line 2: block is no number"),
        (json.dumps(HEADER) + "\n" + json.dumps({**HEADER, "id": "b"}) + "\n", "several experiments: a, b"),
        (json.dumps(HEADER) + "\n" + lines_of(delivery()), "the host that started the experiment"),
        ("[" * 100_000 + "\n", "line 1"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """One line that says what is wrong, and where."""
    path = tmp_path / "x.ndjson"
    path.write_text(text)
    with pytest.raises(SqsteeError, match=problem):
        Reader([str(path)])


def test_files_may_be_joined_in_any_order(tmp_path: Path) -> None:
    """Two hosts' files in one file: the blocks are put together again."""
    blocks = [Block(number, "long", "q", 1, 30.0) for number in (1, 2)]
    deliveries = [delivery(t0=float(n))._replace(block=block) for n, block in enumerate((1, 2, 1, 2))]
    header = json.dumps(HEADER) + "\n"
    text = header + lines_of(blocks[0], deliveries[0], blocks[1], deliveries[1]) + header + lines_of(*deliveries[2:])
    path = tmp_path / "x.ndjson"
    path.write_text(text)
    found = {records.block.block: records.deliveries for records in Reader([str(path), str(path)]).blocks()}
    assert found == {1: [deliveries[0], deliveries[2]], 2: [deliveries[1], deliveries[3]]}


# -- the design


@given(st.integers(1, 20), st.integers(), st.integers(1, 500))
def test_blocks_are_abba(blocks: int, seed: int, messages: int) -> None:
    """As many of each mode, each four ABBA or BAAB; all messages, as equally shared as can be."""
    order = block_order(("short", "long"), blocks, Random(seed))
    assert order.count("short") == order.count("long") == blocks
    for at in range(0, len(order) - 3, 4):
        four = order[at : at + 4]
        assert four == four[::-1]
        assert four[0] != four[1]
    sizes = [size for mode, size in schedule(("short", "long"), blocks, messages, Random(seed)) if mode == "long"]
    assert sum(sizes) == messages
    assert max(sizes) - min(sizes) <= 1


def test_both_orders_come_up() -> None:
    """Otherwise it would not be random."""
    assert len({tuple(block_order(("short", "long"), 2, Random(seed))) for seed in range(20)}) == 2


def test_the_bill_is_requests_by_their_64_kib() -> None:
    """A send, a receive and a delete for each ten messages at best, a receive and a delete for each at worst."""
    assert estimate(1_000_000, 1, 100, 10, False).low == pytest.approx(0.3 * 0.4)
    assert estimate(1_000_000, 1, 100, 10, False).high == pytest.approx(2.1 * 0.4)
    assert estimate(1_000_000, 1, 100_000, 1, False).low == pytest.approx((2 + 1.6 + 0.1) * 0.4)
    assert estimate(1_000_000, 2, 100, 10, True).low == pytest.approx(2 * (0.3 * 0.4 + 2 * 0.625))


def test_queue_names_are_short_enough() -> None:
    """At most 80 letters, whatever the queue's own name."""
    assert len(queue_name("q" * 80, "x" * 16, 1000, "short")) <= 80


def test_a_plan_says_how_many_messages(sqstee: Sqstee) -> None:
    """With the ratio and the power that were asked for; a hopeless one is an error."""
    found = sqstee.run("measure", "--plan", "--ratio", "2", "--power", "0.8", "-o", "json")
    plan = json.loads(found.stdout)
    assert 1_100_000 < plan["messages"] < 1_400_000
    assert b"messages for each mode" in sqstee.run("measure", "--plan", "--ratio", "5").stdout
    wrong = sqstee.run("measure", "--plan", "--ratio", "1")
    assert (wrong.returncode, wrong.stdout) == (125, b"")
    assert b"hint: " in wrong.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "no queue"),
        (("a", "b"), "more than one queue"),
        (("local",), "no SQS queue"),
        (("q.fifo",), "FIFO"),
        (("q", "--mode", "fast"), "--mode"),
        (("q", "--mode", "short,short"), "--mode"),
        (("q", "--messages", "-1"), "--messages"),
        (("q", "--messages", "3", "--blocks", "4"), "--blocks"),
        (("q", "--processes", "9", "--receivers", "4"), "--processes"),
        (("q", "--batch", "11"), "--batch"),
        (("q", "--size", "200000"), "--size"),
        (("q", "--wait", "21s"), "--wait"),
        (("q", "--settle", "x"), "--settle"),
        (("q", "--id", "A b"), "--id"),
        (("q", "--join", "x", "--remove", "y"), "only one of"),
        (("--simulate", "--miss", "1"), "--miss"),
        (("--simulate", "--replicas", "30"), "--replicas"),
        (("--simulate", "--rate", "nan"), "--rate"),
        (("--simulate", "--histogram", "x.png"), "--histogram"),
        (("--report",), "no record files"),
        (("--report", "/does/not/exist"), "No such file"),
    ],
)
def test_wrong_words_are_one_line_and_a_hint(sqstee: Sqstee, words: tuple[str, ...], problem: str) -> None:
    """Status 125, and nothing is done."""
    found = sqstee.run("measure", *words)
    assert (found.returncode, found.stdout) == (125, b"")
    assert problem in found.stderr.decode()
    assert found.stderr.count(b"\n") == 2
    assert b"\nhint: " in found.stderr


# -- the model


def block_of(messages: int, mode: str) -> Block:
    """A block of the model."""
    return Block(1, mode, "model", messages, None)


@given(
    st.builds(
        Model,
        receivers=st.integers(1, 50),
        hosts=st.integers(5, 20),
        replicas=st.integers(1, 5),
        sample=st.integers(1, 5),
        miss=st.floats(0, 0.9),
        lag_probability=st.sampled_from([0.0, 0.1, 1.0]),
        batch=st.integers(1, 10),
    ),
    st.sampled_from(["short", "long"]),
    st.text(max_size=3),
)
def test_the_model_delivers_every_message(model: Model, mode: str, seed: str) -> None:
    """At least once; exactly once where a single host holds it; at most as often as hosts hold it."""
    found = run_block(model, block_of(60, mode), seed).deliveries
    times = dict.fromkeys(range(60), 0)
    for one in found:
        times[one.seq] += 1
    assert min(times.values()) == 1 or model.replicas > 1
    assert 1 <= min(times.values()) <= max(times.values()) <= model.replicas
    if model.lag_probability == 0.0:
        assert max(times.values()) == 1
    assert found == run_block(model, block_of(60, mode), seed).deliveries


def test_the_model_comes_near_the_original(sqstee: Sqstee) -> None:
    """With the original's setting: near 29 and 6 of 300,000, with gaps near 100 ms."""
    found = json.loads(sqstee.run("measure", "--simulate", "-o", "json").stdout)
    short, long = found["modes"]["short"], found["modes"]["long"]
    assert (short["messages"], long["messages"]) == (300_000, 300_000)
    assert 20 <= short["duplicates"] <= 45
    assert 1 <= long["duplicates"] <= 16
    assert 60 <= short["gap_ms"]["mean"] <= 150
    assert [row["messages"] for row in found["table"]] == [100_000, 200_000, 300_000]
    assert found["parameters"]["receivers"] == 300


def test_what_is_not_reproduced_is_said_with_its_reason() -> None:
    """A cell that no seed reaches; of a single run, one that the exact test tells apart."""
    rows = [{"messages": 100_000, "short": 1, "long": 1}, {"messages": 300_000, "short": 33, "long": 7}]
    more = [{"messages": 100_000, "short": 4, "long": 3}, {"messages": 300_000, "short": 25, "long": 5}]
    assert unreproduced([rows]) == ["normal polling at 100,000 (10, here 1)"]
    assert unreproduced([rows, more]) == ["normal polling at 100,000 (10, here 1-4)"]
    assert unreproduced([more]) == []


def test_several_seeds_stand_beside_the_original(sqstee: Sqstee) -> None:
    """A table of them, the original's row, and a note on what the model is."""
    words = ("--messages", "3000", "--lag-probability", "0.1", "--processes", "2")
    found = sqstee.run("measure", "--simulate", "--seeds", "3", *words)
    lines = found.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["seed", "1", "2", "3", "mean", "original"]
    assert "not what is inside SQS" in found.stdout.decode()


def test_a_simulation_goes_through_the_same_records_and_report(sqstee: Sqstee) -> None:
    """Its record file gives its report again; the seed decides."""
    words = ("measure", "--simulate", "--messages", "2000", "--lag-probability", "0.2", "--blocks", "2", "-o", "json")
    first = sqstee.run(*words, "--seed", "7", "--records", str(sqstee.folder / "r")).stdout
    (path,) = (sqstee.folder / "r").iterdir()
    assert sqstee.run("measure", "--report", str(path), "-o", "json").stdout == first
    assert sqstee.run(*words, "--seed", "7").stdout == first
    assert json.loads(sqstee.run(*words, "--seed", "8").stdout)["modes"] != json.loads(first)["modes"]
    assert json.loads(first)["modes"]["short"]["duplicates"] > 0
    assert len(json.loads(first)["modes"]["short"]["blocks"]) == 2


# -- the report


def test_the_report_has_the_originals_layout(sqstee: Sqstee) -> None:
    """Messages by mode, the published figures beside them."""
    words = ("measure", "--simulate", "--messages", "3000", "--lag-probability", "0.1")
    text = sqstee.run(*words).stdout.decode()
    rows = [line.split() for line in text.splitlines() if line[:1].isdigit()]
    assert [row[0] for row in rows] == ["1,000", "2,000", "3,000"]
    assert [row[4:] for row in rows] == [
        ["10", "of", "100k", "3", "of", "100k"],
        ["14", "of", "200k", "5", "of", "200k"],
        ["29", "of", "300k", "6", "of", "300k"],
    ]
    assert "exact conditional binomial test" in text


def test_a_report_of_nothing_says_so(sqstee: Sqstee) -> None:
    """An experiment that was ended before its first delivery."""
    path = sqstee.folder / "x.ndjson"
    path.write_text(json.dumps(HEADER) + "\n" + lines_of(Block(1, "long", "q", 2, 30.0)))
    found = sqstee.run("measure", "--report", str(path))
    assert found.returncode == 0, found.stderr
    assert "did not come to their end" in found.stdout.decode()
    assert sqstee.run("measure", "--report", str(path), "-o", "json").returncode == 0


def heights(picture: str) -> dict[str, int]:
    """The sums of a histogram's bars, by mode."""
    found: dict[str, int] = {}
    for title in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}title"):
        mode, _, count = str(title.text).partition(": ")
        found[mode] = found.get(mode, 0) + int(count)
    return found


@given(st.dictionaries(st.sampled_from(["short", "long"]), st.lists(st.floats(0, 1e5), max_size=50)))
def test_a_histogram_has_every_gap_once(gaps: Mapping[str, list[float]]) -> None:
    """Well-formed XML whose bars add up, for no gaps too."""
    assert heights(svg(gaps, "a <b> & c")) == {mode: len(values) for mode, values in gaps.items() if values}
    width, count = bins([gap for values in gaps.values() for gap in values])
    assert 1 <= count <= 20
    assert width > 0


def test_the_histogram_is_drawn(sqstee: Sqstee) -> None:
    """As many gaps as duplicates."""
    path = sqstee.folder / "gaps.svg"
    words = ("--simulate", "--messages", "3000", "--lag-probability", "0.1", "--histogram", str(path), "-o", "json")
    modes = json.loads(sqstee.run("measure", *words).stdout)["modes"]
    assert heights(path.read_text()) == {mode: arm["duplicates"] for mode, arm in modes.items()}
