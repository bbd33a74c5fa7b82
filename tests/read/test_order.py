"""sqstee.read.order: examples of every rule, and a property against a model that handles single seqs only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import inf
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sqstee.read.order import Counters, Emission, Emit, Gap, Late, Missing, Order

WINDOW = 2.0
Line: TypeAlias = tuple[Any, ...]  # (kind, run, seq, item or age)


@pytest.fixture
def drain() -> Order[str]:
    """A run starts at seq 0."""
    return Order(from_start=True, window=WINDOW)


@pytest.fixture
def tail() -> Order[str]:
    """A run may start in the middle."""
    return Order(from_start=False, window=WINDOW)


def lines(first: int, last: int, tag: str = "") -> list[str]:
    """The lines of seqs first..last, which name their seq."""
    return [f"{seq}{tag}" for seq in range(first, last + 1)]


def printed(emissions: Iterable[Emission[str]]) -> list[str]:
    """The lines of all records, in the order of their emission."""
    return [item for emission in emissions if isinstance(emission, (Emit, Late)) for item in emission.items]


class TestInOrder:
    def test_a_block_at_next_is_emitted_at_once(self, drain: Order[str]) -> None:
        """An in-order block waits for nothing and leaves nothing behind."""
        assert drain.block("r", 0, lines(0, 4), 0.0) == [Emit("r", 0, lines(0, 4))]
        assert drain.block("r", 5, lines(5, 5), 0.0) == [Emit("r", 5, ["5"])]
        assert (drain.pending, drain.deadline()) == (0, None)
        assert drain.counters("r") == Counters(emitted=6)

    def test_an_in_order_block_is_handed_on_as_it_is(self, drain: Order[str]) -> None:
        """No per-line work: the very same sequence comes out, not a copy."""
        items = lines(0, 999)
        (emission,) = drain.block("r", 0, items, 0.0)
        assert isinstance(emission, Emit)
        assert emission.items is items

    def test_a_pending_block_is_handed_on_as_it_is(self, drain: Order[str]) -> None:
        """Waiting above a hole copies nothing either."""
        items = lines(1, 999)
        assert drain.block("r", 1, items, 0.0) == []
        _, emission = drain.block("r", 0, ["0"], 0.1)
        assert isinstance(emission, Emit)
        assert emission.items is items

    def test_an_empty_block_is_nothing(self, drain: Order[str]) -> None:
        """A body without records of a run leaves no trace."""
        assert drain.block("r", 7, [], 0.0) == []
        assert drain.deadline() is None

    def test_runs_do_not_wait_for_each_other(self, drain: Order[str]) -> None:
        """A hole in one run holds up that run only."""
        assert drain.block("a", 1, ["1"], 0.0) == []
        assert drain.block("b", 0, ["0"], 0.0) == [Emit("b", 0, ["0"])]

    @pytest.mark.parametrize("from_start", [True, False])
    def test_regression_high_water_mark(self, from_start: bool) -> None:
        """5, 3, 4 must all print: the highest seq seen does not settle lower ones."""
        order = Order[str](from_start=from_start)
        out = order.block("r", 0, lines(0, 2), 0.0)
        for seq in (5, 3, 4):
            out += order.block("r", seq, [str(seq)], 0.0)
        assert printed(out) == ["0", "1", "2", "3", "4", "5"]
        assert order.counters("r") == Counters(emitted=6)

    def test_regression_high_water_mark_after_the_window(self, tail: Order[str]) -> None:
        """5, 3, 4 print even when each comes a window after the other."""
        out: list[Emission[str]] = []
        for now, seq in ((0.0, 5), (10.0, 3), (20.0, 4)):
            out += tail.block("r", seq, [str(seq)], now) + tail.tick(now + WINDOW)
        assert printed(out) == ["5", "3", "4"]
        assert tail.counters("r") == Counters(emitted=1, late=2)


class TestMissing:
    def test_between_5_and_9_three_are_missing(self, drain: Order[str]) -> None:
        """The off-by-one: 6, 7 and 8, which is neither 4 nor 2."""
        drain.block("r", 0, lines(0, 5), 0.0)
        drain.block("r", 9, ["9"], 1.0)
        missing, emit = drain.tick(3.0)
        assert missing == Missing("r", 6, 8, 2.0)
        assert isinstance(missing, Missing)
        assert missing.count == 3
        assert emit == Emit("r", 9, ["9"])
        assert drain.holes("r") == [(6, 8)]
        assert drain.counters("r").missing == 3

    def test_deadline_is_when_tick_has_something_to_do(self, drain: Order[str]) -> None:
        """Just before the deadline nothing happens, at it the hole is reported, and only once."""
        drain.block("r", 1, ["1"], 0.1)
        drain.block("r", 2, ["2"], 1.7)
        deadline = drain.deadline()
        assert deadline == 0.1 + WINDOW
        assert drain.tick(2.09) == []
        assert drain.tick(deadline) == [
            Missing("r", 0, 0, deadline - 0.1),
            Emit("r", 1, ["1"]),
            Emit("r", 2, ["2"]),
        ]
        assert drain.tick(99.0) == []
        assert drain.deadline() is None

    def test_the_window_counts_from_the_first_record_above(self, drain: Order[str]) -> None:
        """A lower record that comes later makes the hole below it no younger, and leaves another hole above it."""
        drain.block("r", 9, ["9"], 0.0)
        drain.block("r", 5, ["5"], 1.9)
        assert drain.tick(2.0) == [
            Missing("r", 0, 4, 2.0),
            Emit("r", 5, ["5"]),
            Missing("r", 6, 8, 2.0),
            Emit("r", 9, ["9"]),
        ]

    def test_each_hole_has_a_window_of_its_own(self, drain: Order[str]) -> None:
        """A hole that opened later is reported later."""
        drain.block("r", 1, ["1"], 0.0)
        drain.block("r", 3, ["3"], 1.0)
        assert drain.tick(2.5) == [Missing("r", 0, 0, 2.5), Emit("r", 1, ["1"])]
        assert drain.deadline() == 3.0
        assert drain.tick(3.0) == [Missing("r", 2, 2, 2.0), Emit("r", 3, ["3"])]

    def test_a_filled_hole_moves_the_deadline(self, drain: Order[str]) -> None:
        """The deadline is that of the oldest hole left in any run."""
        drain.block("a", 1, ["1"], 0.0)
        drain.block("b", 1, ["1"], 0.5)
        drain.block("a", 3, ["3"], 1.0)
        drain.block("a", 0, ["0"], 1.0)
        assert drain.deadline() == 2.5
        drain.block("b", 0, ["0"], 1.0)
        assert drain.deadline() == 3.0

    def test_overdue_but_not_yet_reported_is_in_order(self, drain: Order[str]) -> None:
        """Only tick() gives up a hole: a slow record that comes before it is in order."""
        drain.block("r", 1, ["1"], 0.0)
        assert drain.block("r", 0, ["0"], 50.0) == [Emit("r", 0, ["0"]), Emit("r", 1, ["1"])]


class TestLate:
    def test_late_shrinks_the_hole_and_is_then_a_duplicate(self, drain: Order[str]) -> None:
        """A late record is emitted once; its second copy is counted, never emitted."""
        drain.block("r", 9, ["9"], 0.0)
        drain.tick(2.0)
        assert drain.block("r", 4, lines(4, 5), 3.0) == [Late("r", 4, lines(4, 5))]
        assert drain.holes("r") == [(0, 3), (6, 8)]
        assert drain.block("r", 4, lines(4, 5), 3.0) == []
        assert drain.counters("r") == Counters(emitted=1, late=2, duplicates=2, missing=7)

    def test_late_in_order_and_new_out_of_one_block(self, drain: Order[str]) -> None:
        """One block may hold duplicates, late records and new ones; ranges tell them apart."""
        drain.block("r", 0, lines(0, 2), 0.0)
        drain.block("r", 5, lines(5, 6), 0.0)
        drain.tick(2.0)
        assert drain.block("r", 1, lines(1, 8), 3.0) == [Late("r", 3, lines(3, 4)), Emit("r", 7, lines(7, 8))]
        assert drain.counters("r") == Counters(emitted=7, late=2, duplicates=4)


class TestDuplicates:
    def test_below_next(self, drain: Order[str]) -> None:
        """A block that arrives again is counted and not emitted."""
        drain.block("r", 0, lines(0, 2), 0.0)
        assert drain.block("r", 0, lines(0, 2), 0.0) == []
        assert drain.counters("r") == Counters(emitted=3, duplicates=3)

    def test_partial_overlap_with_what_was_emitted(self, drain: Order[str]) -> None:
        """Only the new end of a block is emitted."""
        drain.block("r", 0, lines(0, 4), 0.0)
        assert drain.block("r", 3, lines(3, 6), 0.0) == [Emit("r", 5, lines(5, 6))]
        assert drain.counters("r").duplicates == 2

    def test_partial_overlap_among_pending(self, drain: Order[str]) -> None:
        """The first copy of every seq wins, however the blocks overlap."""
        drain.block("r", 3, lines(3, 4, "a"), 0.0)
        drain.block("r", 7, lines(7, 8, "a"), 0.0)
        drain.block("r", 1, lines(1, 9, "b"), 0.0)
        assert (drain.pending, drain.counters("r").duplicates) == (9, 4)
        out = drain.block("r", 0, ["0"], 0.0)
        assert printed(out) == ["0", "1b", "2b", "3a", "4a", "5b", "6b", "7a", "8a", "9b"]


class TestGapEvents:
    def test_a_gap_event_takes_its_place_in_the_order(self, drain: Order[str]) -> None:
        """It accounts for its seqs: nothing waits and nothing is missing."""
        drain.block("r", 0, ["0"], 0.0)
        assert drain.gap("r", 1, 3, "gap", 0.0) == [Gap("r", 1, 3, "gap")]
        assert drain.block("r", 4, ["4"], 0.0) == [Emit("r", 4, ["4"])]
        assert drain.counters("r") == Counters(emitted=2, gapped=3)

    def test_a_record_after_its_gap_event_is_late(self, drain: Order[str]) -> None:
        """A record beats the event; its next copy is a duplicate."""
        drain.gap("r", 0, 4, "gap", 0.0)
        assert drain.block("r", 2, ["2"], 0.0) == [Late("r", 2, ["2"])]
        assert drain.block("r", 2, ["2"], 0.0) == []
        assert drain.counters("r") == Counters(late=1, duplicates=1, gapped=4)

    def test_a_gap_event_over_records_is_trimmed(self, drain: Order[str]) -> None:
        """It is emitted for the seqs without a record, and not at all if every seq has one."""
        drain.block("r", 0, lines(0, 2), 0.0)
        assert drain.gap("r", 1, 2, "gap", 0.0) == []
        drain.block("r", 5, ["5"], 0.0)
        assert drain.gap("r", 1, 7, "gap", 0.0) == [
            Gap("r", 3, 4, "gap"),
            Emit("r", 5, ["5"]),
            Gap("r", 6, 7, "gap"),
        ]

    def test_a_record_splits_a_pending_gap_event(self, drain: Order[str]) -> None:
        """While the event waits, a record inside it is in order."""
        drain.gap("r", 1, 5, "gap", 0.0)
        drain.block("r", 3, ["3"], 0.0)
        assert drain.block("r", 0, ["0"], 0.0) == [
            Emit("r", 0, ["0"]),
            Gap("r", 1, 2, "gap"),
            Emit("r", 3, ["3"]),
            Gap("r", 4, 5, "gap"),
        ]
        assert drain.counters("r") == Counters(emitted=2, gapped=4)

    def test_a_gap_event_explains_a_reported_hole(self, drain: Order[str]) -> None:
        """It closes the hole, and a record can still arrive late."""
        drain.block("r", 4, ["4"], 0.0)
        drain.tick(2.0)
        assert drain.gap("r", 1, 3, "gap", 3.0) == [Gap("r", 1, 3, "gap", is_late=True)]
        assert drain.gap("r", 1, 3, "gap", 3.0) == []
        assert drain.holes("r") == [(0, 0)]
        assert drain.block("r", 0, lines(0, 3), 3.0) == [Late("r", 0, lines(0, 3))]
        assert drain.counters("r") == Counters(emitted=1, late=4)

    def test_an_empty_gap_event_is_nothing(self, drain: Order[str]) -> None:
        """An event whose end is below its start covers no seq."""
        assert drain.gap("r", 3, 2, "gap", 0.0) == []
        assert drain.counters("r") == Counters()

    def test_an_endless_gap_event_costs_nothing(self, drain: Order[str]) -> None:
        """Its range is never walked."""
        assert drain.gap("r", 0, 10**15, "gap", 0.0) == [Gap("r", 0, 10**15, "gap")]
        assert drain.block("r", 10**9, ["x"], 0.0) == [Late("r", 10**9, ["x"])]


class TestTailStart:
    def test_starts_at_the_lowest_seq_of_the_first_window(self, tail: Order[str]) -> None:
        """Nothing below the start is missing; what comes from there is late, once."""
        assert tail.block("r", 50, ["50"], 0.0) == []
        assert tail.block("r", 48, lines(48, 49), 1.5) == []
        assert tail.deadline() == WINDOW
        assert tail.tick(1.9) == []
        assert tail.tick(2.0) == [Emit("r", 48, lines(48, 49)), Emit("r", 50, ["50"])]
        assert tail.holes("r") == []
        assert tail.block("r", 46, lines(46, 51), 3.0) == [
            Late("r", 46, lines(46, 47)),
            Emit("r", 51, ["51"]),
        ]
        assert tail.block("r", 46, ["46"], 3.0) == []
        assert tail.counters("r") == Counters(emitted=4, late=2, duplicates=4)

    def test_seq_0_starts_at_once(self, tail: Order[str]) -> None:
        """The run has no lower seq to wait for."""
        assert tail.block("r", 0, ["0"], 0.0) == [Emit("r", 0, ["0"])]

    def test_seq_0_within_the_window_ends_the_wait(self, tail: Order[str]) -> None:
        """No lower seq exists; holes above it keep their age."""
        tail.block("r", 2, ["2"], 0.0)
        assert tail.block("r", 0, ["0"], 1.0) == [Emit("r", 0, ["0"])]
        assert tail.tick(2.0) == [Missing("r", 1, 1, 2.0), Emit("r", 2, ["2"])]

    def test_a_hole_inside_the_first_window(self, tail: Order[str]) -> None:
        """Above the start a hole is a hole, and is reported by the same rule."""
        tail.block("r", 9, ["9"], 0.0)
        tail.block("r", 5, ["5"], 1.0)
        assert tail.tick(2.0) == [Emit("r", 5, ["5"]), Missing("r", 6, 8, 2.0), Emit("r", 9, ["9"])]

    def test_a_gap_event_before_the_start(self, tail: Order[str]) -> None:
        """It is emitted as late, and a record still beats it."""
        tail.block("r", 9, ["9"], 0.0)
        tail.tick(2.0)
        assert tail.gap("r", 5, 6, "gap", 3.0) == [Gap("r", 5, 6, "gap", is_late=True)]
        assert tail.block("r", 4, lines(4, 8), 3.0) == [Late("r", 4, lines(4, 8))]
        assert tail.counters("r") == Counters(emitted=1, late=5)

    def test_flush_ends_the_wait(self, tail: Order[str]) -> None:
        """A reading that ends within the first window prints the records that it has."""
        tail.block("r", 7, ["7"], 0.0)
        assert tail.flush("r", 0.5) == [Emit("r", 7, ["7"])]
        assert tail.deadline() is None


class TestEnd:
    def test_finish_flushes_every_run(self, drain: Order[str]) -> None:
        """At the end everything pending is emitted and every hole is reported."""
        drain.block("a", 1, ["1"], 0.0)
        drain.block("b", 2, ["2"], 0.5)
        assert drain.finish(1.0) == [
            Missing("a", 0, 0, 1.0),
            Emit("a", 1, ["1"]),
            Missing("b", 0, 1, 0.5),
            Emit("b", 2, ["2"]),
        ]
        assert drain.finish(2.0) == []
        assert (drain.pending, drain.deadline()) == (0, None)

    def test_forget(self, drain: Order[str]) -> None:
        """An ended run leaves nothing: no pending items, no deadline, no counters."""
        drain.block("r", 5, ["5"], 0.0)
        drain.forget("r")
        drain.forget("never seen")
        assert (drain.pending, drain.deadline()) == (0, None)
        assert drain.counters("r") == Counters()
        assert drain.holes("r") == []
        assert drain.flush("r", 1.0) == []

    def test_a_forgotten_run_can_start_anew(self, drain: Order[str]) -> None:
        """Its new deadline is not mixed up with the old one."""
        drain.block("r", 5, ["5"], 0.0)
        drain.forget("r")
        drain.block("r", 5, ["5"], 1.0)
        assert drain.deadline() == 3.0


class TestMaxPending:
    def test_the_run_with_the_oldest_hole_gives_way(self) -> None:
        """One hole is given up, with its age, and no more than needed."""
        order = Order[str](from_start=True, max_pending=3)
        order.block("a", 5, ["5"], 0.2)
        order.block("b", 1, ["1"], 0.0)
        order.block("b", 3, ["3"], 0.1)
        assert order.block("a", 6, ["6"], 1.0) == [Missing("b", 0, 0, 1.0), Emit("b", 1, ["1"])]
        assert order.pending == 3

    def test_a_block_larger_than_the_bound(self) -> None:
        """It is emitted after the hole below it was reported."""
        order = Order[str](from_start=True, max_pending=10)
        assert order.block("r", 1, lines(1, 50), 0.0) == [Missing("r", 0, 0, 0.0), Emit("r", 1, lines(1, 50))]
        assert order.pending == 0

    def test_tail_gives_up_waiting_for_a_lower_start(self) -> None:
        """The first window is cut short, and nothing counts as missing."""
        order = Order[str](from_start=False, max_pending=2)
        order.block("r", 7, lines(7, 8), 0.0)
        assert order.block("r", 9, ["9"], 0.5) == [Emit("r", 7, lines(7, 8)), Emit("r", 9, ["9"])]

    def test_memory_follows_holes(self) -> None:
        """A hundred thousand lines in shuffled pairs leave no more than two lines do."""
        order = Order[str](from_start=True)
        for seq in range(0, 100_000, 2):
            order.block("r", seq + 1, ["x"], 0.0)
            order.block("r", seq, ["x"], 0.0)
        state = order._runs["r"]
        kept = (state.pending, state.peaks, state.missing.intervals, state.before.intervals, state.gapped.intervals)
        assert [len(each) for each in kept] == [0, 0, 0, 0, 0]
        assert len(order._waiting) <= 1


class Model:
    """The rules, seq by seq, for one run: slow, and without ranges."""

    def __init__(self, run: str, from_start: bool) -> None:
        self.run = run
        self.next: int | None = 0 if from_start else None
        self.start = 0
        self.waiting: dict[int, tuple[str, str, float]] = {}  # seq → kind, item, arrival
        self.done: dict[int, str] = {}  # seq → record, gap or missing
        self.duplicates = 0

    def take(self, kind: str, seq: int, item: str, now: float) -> list[Line]:
        if self.next is None and seq == 0:
            self.next = 0
        if self.next is None or seq >= self.next:
            self.wait(kind, seq, item, now)
            return []
        old = self.done.get(seq, "missing")
        if old == "record" or (old, kind) == ("gap", "gap"):
            self.duplicates += kind == "record"
            return []
        self.done[seq] = kind
        return [(f"late {kind}", self.run, seq, item)]

    def wait(self, kind: str, seq: int, item: str, now: float) -> None:
        if seq not in self.waiting:
            self.waiting[seq] = (kind, item, now)
        elif kind == "record" and self.waiting[seq][0] == "gap":
            self.waiting[seq] = (kind, item, self.waiting[seq][2])
        else:
            self.duplicates += kind == "record"

    def release(self, now: float, patience: float) -> list[Line]:
        out: list[Line] = []
        while self.waiting:
            age = now - min(arrival for _, _, arrival in self.waiting.values())
            if self.next in self.waiting:
                kind, item, _ = self.waiting.pop(self.next)
                self.done[self.next] = kind
                out.append((kind, self.run, self.next, item))
                self.next += 1
            elif age < patience:
                break
            elif self.next is None:
                self.next = self.start = min(self.waiting)
            else:
                self.done[self.next] = "missing"
                out.append(("missing", self.run, self.next, age))
                self.next += 1
        return out


def flat(emissions: Iterable[Emission[str]]) -> list[Line]:
    """Emissions as one line per seq, in the form of the model."""
    out: list[Line] = []
    for each in emissions:
        if isinstance(each, Missing):
            out += [("missing", each.run, seq, each.age) for seq in range(each.first, each.last + 1)]
        elif isinstance(each, Gap):
            kind = "late gap" if each.is_late else "gap"
            out += [(kind, each.run, seq, each.item) for seq in range(each.first, each.last + 1)]
        else:
            kind = "late record" if isinstance(each, Late) else "record"
            out += [(kind, each.run, each.first + i, item) for i, item in enumerate(each.items)]
    return out


def replay(order: Order[str], kind: str, run: str, first: int, last: int, tag: str, now: float) -> list[Line]:
    """One delivery, to the module under test."""
    if kind == "record":
        return flat(order.block(run, first, lines(first, last, tag), now))
    return flat(order.gap(run, first, last, f"gap{tag}", now))


def by_seq(out: Iterable[Line]) -> list[Line]:
    return sorted(out, key=lambda line: (line[1], line[2]))


TOP = 40
KINDS = st.sampled_from(["record", "record", "record", "gap", "tick"])
STEPS = st.tuples(KINDS, st.sampled_from("ab"), st.integers(0, TOP), st.integers(0, 8), st.integers(0, 12))
# A step: kind, run, first seq, length less 1, and quarter seconds (exact in binary) since the step before.
HISTORIES = st.lists(STEPS, max_size=60)
Step: TypeAlias = tuple[str, str, int, int, int]


@settings(max_examples=400)
@given(HISTORIES, st.booleans())
def test_any_history_equals_the_model(history: Sequence[Step], from_start: bool) -> None:
    """Any order, duplication, loss, overlap, gap event and tick: the same as seq by seq."""
    order = Order[str](from_start=from_start, window=WINDOW)
    models = {run: Model(run, from_start) for run in "ab"}
    now = 0.0
    for number, (kind, run, first, more, quarters) in enumerate(history):
        if kind == "tick":
            now += quarters / 4
            out = flat(order.tick(now))
            assert by_seq(out) == by_seq(line for m in models.values() for line in m.release(now, WINDOW))
        else:
            tag, item = f"@{number}", f"gap@{number}"
            expected: list[Line] = []
            for seq in range(first, first + more + 1):
                line = f"{seq}{tag}" if kind == "record" else item
                expected += models[run].take(kind, seq, line, now)
            expected += models[run].release(now, inf)
            assert replay(order, kind, run, first, first + more, tag, now) == expected
        waiting = [arrival for m in models.values() for _, _, arrival in m.waiting.values()]
        assert order.deadline() == (min(waiting) + WINDOW if waiting else None)
        assert order.pending <= sum(len(m.waiting) for m in models.values())
    out = flat(order.finish(now))
    assert by_seq(out) == by_seq(line for m in models.values() for line in m.release(now, -inf))
    for run, model in models.items():
        missing = [seq for first, last in order.holes(run) for seq in range(first, last + 1)]
        assert missing == [seq for seq, kind in sorted(model.done.items()) if kind == "missing"]
        counters = order.counters(run)
        assert counters.duplicates == model.duplicates
        assert counters.missing == len(missing)
        assert counters.gapped == list(model.done.values()).count("gap")


@settings(max_examples=400)
@given(HISTORIES, st.booleans(), st.integers(0, 12))
def test_whatever_arrives_is_emitted_once(history: Sequence[Step], from_start: bool, max_pending: int) -> None:
    """Even with a bound on memory: each seq once, in ascending order, and exactly those that never came are missing."""
    order = Order[str](from_start=from_start, window=WINDOW, max_pending=max_pending)
    out: list[Line] = []
    came: dict[str, dict[int, str]] = {"a": {}, "b": {}}
    received = {"a": 0, "b": 0}
    now = 0.0
    for number, (kind, run, first, more, quarters) in enumerate(history):
        now += quarters / 4
        if kind == "tick":
            out += flat(order.tick(now))
            continue
        out += replay(order, kind, run, first, first + more, f"@{number}", now)
        assert order.pending <= max_pending
        received[run] += more + 1 if kind == "record" else 0
        for seq in range(first, first + more + 1):
            came[run][seq] = "record" if "record" in (kind, came[run].get(seq)) else "gap"
    out += flat(order.finish(now))
    for run, seqs in came.items():
        mine = [(kind, seq) for kind, its, seq, _ in out if its == run]
        records = [seq for kind, seq in mine if kind in ("record", "late record")]
        assert sorted(records) == [seq for seq in sorted(seqs) if seqs[seq] == "record"]
        ascending = [seq for kind, seq in mine if kind in ("record", "gap", "missing")]
        assert ascending == sorted(set(ascending))
        start = min(ascending, default=0)
        missing = [seq for first, last in order.holes(run) for seq in range(first, last + 1)]
        assert missing == [seq for seq in range(start, max(seqs, default=-1)) if seq not in seqs]
        assert start == 0 or not from_start
        assert {seq for kind, seq in mine if kind == "missing"} >= set(missing)
        counters = order.counters(run)
        assert counters.gapped == list(seqs.values()).count("gap")
        assert counters.emitted + counters.late + counters.duplicates == received[run]
        assert (counters.missing, counters.pending) == (len(missing), 0)


@st.composite
def shipments(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A run as SQS delivers it: cut into bodies, each delivered once or twice, in any order."""
    total = draw(st.integers(1, 200))
    cuts = sorted({0, total, *draw(st.lists(st.integers(1, total), max_size=20))})
    bodies = [(first, after - 1) for first, after in pairwise(cuts)]
    again = draw(st.lists(st.sampled_from(bodies), max_size=10))
    return total, draw(st.permutations(bodies + again))


@given(shipments())
def test_a_whole_run_comes_out_whole(shipment: tuple[int, list[tuple[int, int]]]) -> None:
    """At-least-once delivery in any order within the window prints the run as it was written."""
    total, bodies = shipment
    order = Order[str](from_start=True)
    out = [e for first, last in bodies for e in order.block("r", first, lines(first, last), 0.0)]
    assert printed(out) == lines(0, total - 1)
    duplicates = sum(last - first + 1 for first, last in bodies) - total
    assert order.counters("r") == Counters(emitted=total, duplicates=duplicates)
