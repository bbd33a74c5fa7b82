"""The state of each run that was met, however many they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.bodies import event_of, lines_of
from support.reading import Queue, printed

from sqstee.read.decode import Item, blocks
from sqstee.read.order import Order
from sqstee.read.run_states import RunStates
from sqstee.record import Body
from sqstee.transports.base import ReceivedMessage

RUNS = 12_000


def test_runs_that_interleave_are_all_known_to_their_end() -> None:
    """With more than ten thousand runs open at a time none is forgotten: no line of theirs is reported as missing."""
    order: Order[Item] = Order(from_start=True)
    states = RunStates(order)
    for first in (lines_of(0, 1), event_of("exit", 2, exit_code=0)):
        (block,) = blocks(ReceivedMessage(first.data, {}, ""))
        for number in range(RUNS):
            run = f"R{number}"
            emissions = order.block(run, block[0].seq, block, 0.0)
            assert [type(one).__name__ for one in emissions] == ["Emit"]
            block[-1].run = run
            states.observe(block)
    assert states.surplus() is None
    assert states.states() == {"complete"}


def test_where_runs_are_forgotten_those_that_are_over_go_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is said, once; nothing of the open ones is missing, and no later run lacks its start."""
    monkeypatch.setattr("sqstee.read.run_states._MAX_RUNS", 2)
    bodies = [lines_of(0, 1, "A"), lines_of(0, 1, "B"), event_of("exit", 2, "B", exit_code=0), lines_of(0, 1, "C")]
    bodies += [event_of("exit", 2, "A", exit_code=0), lines_of(0, 1, "D"), event_of("exit", 2, "C", exit_code=0)]
    out, said = printed(tmp_path, Queue(*([received(body)] for body in bodies)), style="json", from_start=True)
    seqs = [(one["run"], one["seq"]) for one in map(json.loads, out.splitlines())]
    assert sorted(seqs) == [(run, seq) for run in "ABC" for seq in range(3)] + [("D", 0), ("D", 1)]
    assert [text for text in said.splitlines() if b"missing so far" in text] == []
    assert said.count(b"more than 2 runs at a time") == 1


def received(body: Body) -> ReceivedMessage:
    """A body as a message."""
    return ReceivedMessage(body.data, {}, body.data.decode(), body.data.decode())
