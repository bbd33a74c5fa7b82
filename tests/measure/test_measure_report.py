"""The records of `sqstee measure`, the classes of duplicates, the design, the model, and the report."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Sqstee

from sqstee.errors import SqsteeError
from sqstee.measure.analyse import AFTER_DELETE, CONCURRENT, EXPIRY, SAME_BATCH, analyse, classify
from sqstee.measure.design import block_order, estimate, queue_name, schedule
from sqstee.measure.histogram import bins, svg
from sqstee.measure.records import Block, BlockRecords, Calls, DeliveryRecord, RecordReader, Sent, fields_of, parse
from sqstee.measure.report import table, unreproduced
from sqstee.measure.simulate import Model, run_block

# -- records and classes


def delivery(seq: int = 0, t0: float = 0.0, t1: float = 0.1, **more: Any) -> DeliveryRecord:
    """A delivery, not deleted."""
    fields = {"message_id": f"m{seq}", "call": f"c{t0}", "deleted_t0": None, "deleted_t1": None}
    return DeliveryRecord(1, seq, t0=t0, t1=t1, **{**fields, "receive_count": 1, "first_received": 0.0, **more})


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
def test_classes_of_a_deleted_message(again: DeliveryRecord, expected: str) -> None:
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
        ("", "the files have no records"),
        ("hello\n", "line 1"),
        ('{"record": "delivery", "block": 1}\n', "line 1"),
        (json.dumps(HEADER) + '\n{"record": "calls", "block": "x"}\n', "line 2: block is not a number"),
        (json.dumps(HEADER) + '\n{"record": "calls", "block": NaN}\n', "line 2: block is not a number"),
        (json.dumps(HEADER) + '\n{"record": ["calls"], "block": 1}\n', "line 2: not a record of an experiment"),
        (json.dumps(HEADER) + "\n" + lines_of(delivery(message_id=[])), "line 2: message_id is not a string"),
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
        RecordReader([str(path)])


def test_files_may_be_joined_in_any_order(tmp_path: Path) -> None:
    """Two hosts' files in one file: the blocks are put together again."""
    blocks = [Block(number, "long", "q", 1, 30.0) for number in (1, 2)]
    deliveries = [delivery(t0=float(n))._replace(block=block) for n, block in enumerate((1, 2, 1, 2))]
    header = json.dumps(HEADER) + "\n"
    text = header + lines_of(blocks[0], deliveries[0], blocks[1], deliveries[1]) + header + lines_of(*deliveries[2:])
    path = tmp_path / "x.ndjson"
    path.write_text(text)
    found = {records.block.block: records.deliveries for records in RecordReader([str(path), str(path)]).blocks()}
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
        (("local",), "not an SQS queue"),
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
    assert [line.split()[0] for line in lines[7:13]] == ["seed", "1", "2", "3", "mean", "original"]
    assert max(len(line) for line in lines[:13]) < 80
    assert "does not show how SQS works" in found.stdout.decode()


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
    tables = [line for line in text.splitlines()[2:] if "   " in line]
    assert max(map(len, tables)) < 80
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
    assert "did not run to their end" in found.stdout.decode()
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
