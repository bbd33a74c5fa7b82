"""sqstee.run_summary: the same facts from bodies as from items, in any order of bodies."""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqstee.record import Body, Encoder
from sqstee.run_summary import STDERR_MARK, RunSummary, last_message
from sqstee.wire import by_run, decode

RUN, TIME = "01K0000000000000000000000", 1_790_000_000 * 10**9
OBJECT = '{"stream":"stderr","event":"exit","message":"an object with keys that records have","eol":1}'
ODD = ['"stream":"stderr"', '"event":"exit"', 'say "eol":false', "", "plain", "\x00\x1b[31m", "caf\u00e9", OBJECT]
PIECES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.lists(st.sampled_from(ODD), min_size=1, max_size=4)),
        st.tuples(st.just("piece"), st.lists(st.sampled_from(["some", "more"]), min_size=1, max_size=1)),
        st.tuples(st.just("alive"), st.just([])),
    ),
    max_size=8,
)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)


def bodies_of(pieces: list[tuple[str, list[str]]], labels: dict[str, str], exit_code: int | None) -> list[Body]:
    """The run as bodies: its start, then one body a piece, then its exit."""
    encoder = Encoder(RUN, "node", "nightly", labels)
    encoder.most_object_bytes = 4096  # as with --parse-json
    parts = [(0, encoder.event(b'{"event":"start","message":"nightly started","name":"python3"}', TIME, 0))]
    seq = 1
    for at, (kind, lines) in enumerate(pieces, 1):
        block = "".join(f"{line}\n" for line in lines).encode()
        if kind == "alive":
            parts.append((seq, encoder.event(b'{"event":"alive","message":"still running"}', TIME + at, seq)))
        elif kind == "piece":
            parts.append((seq, encoder.lines(block[:-1], "stderr", TIME + at, seq, eol=False)))
        else:
            parts.append((seq, encoder.lines(block, kind, TIME + at, seq)))
        seq += len(lines) or 1
    if exit_code is not None:
        fields = {"event": "exit", "message": "it ended", "exit_code": exit_code, "duration_s": 2.5, "bytes": 7}
        parts.append((seq, encoder.event(json.dumps(fields).encode(), TIME + 10**9, seq)))
    return [Body(data, RUN, "node", first, first + data.count(b"\n") - 1) for first, data in parts]


@given(
    PIECES,
    st.sampled_from([{}, {"stream": "stdout"}, {"event": "x"}, {"seq": "1", "stream": "stdout"}]),
    st.sampled_from([None, 0, 3]),
)
def test_bodies_and_items_tell_the_same(
    pieces: list[tuple[str, list[str]]], labels: dict[str, str], exit_code: int | None
) -> None:
    """Whatever texts the lines and labels have: counting a body's bytes gives what decoding it gives."""
    counted, decoded = RunSummary(RUN), RunSummary(RUN)
    for body in bodies_of(pieces, labels, exit_code):
        counted.add_body(body.data, body.first, body.last, 5.0)
        decoded.add_items(decode(body.data), 5.0)
    assert counted.dump() == decoded.dump()
    again = RunSummary.load(RUN, counted.dump())
    assert again
    assert again.dump() == counted.dump()
    assert (counted.title, counted.host, counted.labels) == ("nightly", "node", labels)
    assert counted.is_failed == (exit_code == 3)
    assert counted.missing == 0
    last = [line for kind, lines in pieces for line in lines if kind in ("stderr", "piece") and line]
    assert counted.last_stderr == (last[-1] if last else "")


def test_an_object_in_a_line_hides_no_event() -> None:
    """Its keys are not the record's: counted as marks of a stream, they made up for the exit event."""
    encoder = Encoder(RUN, "node")
    encoder.most_object_bytes = 4096
    data = encoder.lines(b"failed\n", "stderr", TIME, 0) + encoder.lines(f"{OBJECT}\n".encode(), "stdout", TIME, 1)
    data += encoder.event(b'{"event":"exit","message":"it ended","exit_code":3}', TIME, 2)
    found = RunSummary(RUN)
    found.add_body(data, 0, 2, 5.0)
    assert (found.is_failed, found.lines) == (True, {"stdout": 1, "stderr": 1})
    assert (found.last_stderr, found.last_line) == ("failed", OBJECT)
    assert last_message(data, STDERR_MARK) == "failed"


def test_lines_that_come_again_in_other_bodies_count_once() -> None:
    """Whoever takes a run over packs what was in flight again; the last lines are those of the highest seqs."""
    encoder = Encoder(RUN, "node")
    found = RunSummary(RUN)
    for first in (6, 0, 3):
        block = "".join(f"{seq}\n" for seq in range(first, first + 5)).encode()
        found.add_body(encoder.lines(block, "stderr", TIME, first), first, first + 4, 1.0)
    assert (found.lines, found.missing) == ({"stderr": 11}, 0)
    assert (found.last_line, found.last_stderr) == ("10", "10")


@pytest.mark.parametrize("step", [11, 12])
def test_a_run_of_many_ranges_has_a_row_of_bounded_size(step: int) -> None:
    """As --rate-limit makes them, or a hostile sender: the counts stay exact, and so do the newest ranges."""
    encoder = Encoder(RUN, "node")
    found = RunSummary(RUN)
    for seq in range(0, 10_000 * step, step):
        data = encoder.lines(b"x\n", "stdout", TIME, seq)
        gap = b'{"event":"gap","from":%d,"to":%d,"message":"dropped"}' % (seq + 1, seq + 10)
        found.add_body(data + encoder.event(gap, TIME, seq + 1), seq, seq + 10, 1.0)
        found.settle()
    assert (found.lines, found.dropped) == ({"stdout": 10_000}, 100_000)
    assert found.missing == (9_999 if step == 12 else 0)
    assert found.records.intervals[-3:] == [(seq, seq) for seq in range(9_997 * step, 10_000 * step, step)]
    assert len(found.dump()) < 30_000


def test_every_field_is_in_the_manual() -> None:
    """Programs read these objects: sqstee-format(5) says what each field is."""
    page = (Path(__file__).parents[2] / "man/sqstee-format.5.md").read_text()
    named = set(re.findall(r"[a-z_]+", page.partition("\n## Runs\n")[2]))
    assert RunSummary("R").fields(0.0, 60.0).keys() <= named


def test_what_is_missing_comes_in_any_order() -> None:
    """Holes, gap events, lines that come after a gap event, and lines that are at a fallback."""
    encoder = Encoder(RUN, "node")
    lines = {first: encoder.lines(b"a\nb\n", "stdout", TIME, first) for first in range(0, 12, 2)}
    gap = encoder.event(b'{"event":"gap","from":2,"to":5,"message":"dropped"}', TIME, 2)
    there = encoder.event(b'{"event":"gap","from":6,"to":7,"reason":"fallback","at":"s3://b"}', TIME, 6)
    found = RunSummary(RUN)
    found.add_body(lines[0], 0, 1, 1.0)
    found.add_body(lines[10], 10, 11, 1.0)
    assert (found.missing, found.missing_ranges()) == (8, [(2, 9)])
    found.add_items(decode(gap + there), 1.0)
    assert (found.missing, found.dropped, found.elsewhere, found.fallback) == (2, 4, 2, "s3://b")
    assert found.missing_ranges() == [(8, 9)]
    for first in (4, 6, 8):
        found.add_body(lines[first], first, first + 1, 1.0)
    assert (found.missing, found.dropped, found.elsewhere, found.fallback) == (0, 2, 0, "")
    found.add_items(decode(gap), 1.0)  # once more: it covers only what has not come
    assert (found.missing, found.dropped) == (0, 2)


def test_a_run_that_was_met_in_its_middle_misses_nothing_before() -> None:
    """Without its beginning nobody knows what came before."""
    encoder = Encoder(RUN, "node")
    found = RunSummary(RUN, is_whole=False)
    found.add_body(encoder.lines(b"a\nb\n", "stdout", TIME, 100), 100, 101, 1.0)
    assert (found.missing, found.first) == (0, 100)
    whole = RunSummary(RUN)
    whole.add_body(encoder.lines(b"a\nb\n", "stdout", TIME, 100), 100, 101, 1.0)
    assert whole.missing == 100


@pytest.mark.parametrize(
    ("fields", "after", "state"),
    [
        ({}, 1.0, "running"),
        ({}, 61.0, "silent"),
        ({"heartbeat_s": 10}, 24.0, "running"),
        ({"heartbeat_s": 10}, 26.0, "gone"),
        ({"heartbeat_s": "soon"}, 26.0, "running"),
    ],
)
def test_the_state_of_a_run_that_goes_on(fields: dict[str, object], after: float, state: str) -> None:
    """Silent by its lines, gone by its missing heartbeat."""
    start = Encoder(RUN, "node").event(json.dumps({"event": "start", **fields}).encode(), TIME, 0)
    found = RunSummary(RUN)
    found.add_body(start, 0, 0, TIME / 1e9)
    assert found.state(TIME / 1e9 + after, 60.0) == state


def test_hostile_bodies_are_counted_or_ignored() -> None:
    """Numbers beyond reason, labels of megabytes, ranges that do not fit, text that is no record."""
    encoder = Encoder(RUN, "node", "", {"big": "x" * 100_000})
    found = RunSummary(RUN)
    found.add_body(encoder.lines(b"a\n", "stdout", TIME, 0), 0, 0, 1.0)
    wild = {"event": "exit", "exit_code": 10**400, "signal": True, "duration_s": 1e300, "heartbeat_s": -1, "command": 7}
    found.add_body(encoder.event(json.dumps(wild).encode(), TIME, 1), 1, 1, 1.0)
    found.add_body(b"no record\n", 2, 2, 1.0)
    found.add_body(encoder.lines(b"a\nb\n", "stdout", TIME, 3), 3, 1000, 1.0)
    assert len(found.dump()) < 2000
    assert (found.exit_code, found.duration_s, found.lines) == (None, None, {"stdout": 3})
    assert found.is_failed
    assert found.missing == 1


def test_names_and_times_of_megabytes_are_cut() -> None:
    """A row is read and written again with each body of its run, and stays when these are gone."""
    found = RunSummary(RUN)
    for seq in range(0, 100, 2):
        encoder = Encoder(RUN, "h" * 5000, "j" * 5000)
        found.add_body(encoder.lines(b"a\n", f"{seq}" + 5000 * "s", TIME, seq), seq, seq, 1.0)
        gap = {"event": "gap", "from": seq + 1, "to": seq + 1, "reason": "fallback", "at": f"{seq}" + 5000 * "s"}
        found.add_items(decode(encoder.event(json.dumps(gap).encode(), TIME, seq + 1)), 1.0)
    late = {"timestamp": 5000 * "2", "host": "h", "run": RUN, "seq": 100, "event": "exit", "exit_code": 0}
    found.add_body(json.dumps(late).encode() + b"\n", 100, 100, 1.0)
    assert len(found.dump()) < 25_000
    assert (sum(found.lines.values()), found.elsewhere, found.missing, found.is_ended) == (50, 50, 0, True)


@given(
    st.sampled_from(["host", "heard", "lines", "records", "gaps", "labels", "command", "exit_code", "unfinished"]),
    st.one_of(JSON, st.just(10**400)),
)
def test_a_row_that_somebody_else_wrote_is_none_or_harmless(name: str, value: object) -> None:
    """Whatever is in it: it can be shown, added to and written again."""
    text = json.dumps(json.loads(RunSummary(RUN).dump()) | {name: value})
    if found := RunSummary.load(RUN, text):
        found.add_body(Encoder(RUN, "node").lines(b"a\n", "stdout", TIME, 7), 7, 7, 1.0)
        json.dumps(found.fields(1.0, 60.0))
        found.dump()


def test_random_stretches_of_a_run_add_up() -> None:
    """In whatever order and pieces the bodies of a run come, once or twice."""
    whole = b"".join(body.data for body in bodies_of([("stdout", ["x"] * 50), ("stderr", ["y"] * 50)], {}, 0))
    lines = whole.splitlines(keepends=True)
    draw = random.Random(5)
    for _ in range(20):
        found = RunSummary(RUN)
        cuts = sorted({0, len(lines), *draw.sample(range(len(lines)), 6)})
        parts = [by_run(b"".join(lines[a:b]))[0] for a, b in pairwise(cuts)]
        draw.shuffle(parts)
        for part in parts:
            found.add_body(part.data, part.first, part.last, 1.0)
        assert (found.missing, found.lines, found.is_ended) == (0, {"stdout": 50, "stderr": 50}, True)


@given(
    st.lists(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.sampled_from(["", "x"]), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
    st.permutations(range(4)),
)
def test_parts_of_a_run_merge_into_the_whole(
    records: list[tuple[str, str, bool]], parts: list[int], order: list[int]
) -> None:
    """However its records, pieces of lines among them, are divided, and in whatever order the parts come."""
    encoder = Encoder(RUN, "node")
    lines = [
        encoder.lines(text.encode() + b"\n" * eol, stream, TIME + seq * 10**9, seq, eol)
        for seq, (stream, text, eol) in enumerate(records)
        if text or eol
    ]
    start = encoder.event(b'{"event":"start","version":"1","name":"make"}', TIME - 10**9, 100)
    exit_event = encoder.event(b'{"event":"exit","exit_code":3,"bytes":7,"open":["stdout"]}', TIME + 10**11, 101)
    end = encoder.event(b'{"event":"end","bytes":9}', TIME + 2 * 10**11, 102)
    items = [item for data in (*lines, start, exit_event, end) for item in decode(data)]
    whole = RunSummary(RUN)
    whole.add_items(items, 1.0)
    merged = RunSummary(RUN)
    for number in order:
        one = RunSummary(RUN, is_whole=False)
        one.add_items([item for place, item in enumerate(items) if parts[place % 12] == number], 1.0)
        again = RunSummary.load(RUN, one.dump())
        assert again is not None
        assert not merged.overlaps(again)
        merged.merge(again)
    assert merged.fields(2.0, 9.0) == whole.fields(2.0, 9.0)
    assert merged.unfinished == whole.unfinished
    assert all(merged.overlaps(part) for part in (merged, whole))
