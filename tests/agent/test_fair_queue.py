"""Many runs shipped as one supply: packed together, each whole, none at another's expense."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import Rebuilt
from support.scripted import Scripted, settings

from sqstee.agent.fair_queue import FairQueue
from sqstee.agent.flow import QUANTUM_BYTES, ServedRun
from sqstee.jsonbytes import encode_object
from sqstee.record import Body
from sqstee.ship.request import MAX_REQUEST_BYTES, PendingBody, RequestLimits
from sqstee.ship.sender_pool import IN_FLIGHT
from sqstee.ship.shipper import Shipper
from sqstee.ship.shipper_handle import CLOSE
from sqstee.spool.run_folder import create
from sqstee.spool.segments import Segments
from sqstee.spool.writer import Writer
from sqstee.transports.errors import OPEN, POISON, RETRY, SIZE, TIMEOUT, Failure, TransportError

LOCKS: dict[str, list[int]] = {}


def spooled(root: Path, name: str, host: str = "h", **options: bool) -> tuple[Writer, ServedRun]:
    """A run's spool; its locks are let go when it is shipped."""
    meta = encode_object({"run": name, "host": host, **options})
    writer, *locks = create(str(root), name, meta, 32768, 1024**3, "auto")
    run = ServedRun(name, f"{root}/{name}", str(root))
    LOCKS[run.folder] = locks
    return writer, run


def lines(name: str, first: int, count: int, length: int = 100) -> bytes:
    """Lines that tell their run and number."""
    return b"".join(f"{name} {number}".encode().ljust(length - 1) + b"\n" for number in range(first, first + count))


def ship(
    runs: Sequence[ServedRun],
    sender: Scripted,
    mixing: bool = True,
    compress: str = "none",
    message_bytes: int = 262144,
    in_flight: int = IN_FLIGHT,
) -> bool:
    """Ship these runs to their end; whether everything was taken."""
    inbox = deque(runs)
    for run in runs:
        run.ended = True
        for fd in LOCKS.pop(run.folder, ()):
            os.close(fd)
    wake, closing = os.pipe()
    os.write(closing, CLOSE)
    shipper = Shipper(
        "",
        sender,
        wake,
        settings(linger=0.0, message_bytes=message_bytes, compress=compress),
        flush_timeout=60.0,
        in_flight=in_flight,
        make_source=lambda limits: FairQueue(limits, message_bytes, compress, mixing, inbox),
    )
    try:
        return shipper.run()
    finally:
        os.close(wake)
        os.close(closing)


def taken(sender: Scripted) -> dict[str, bytes]:
    """The stdout of each run in what a destination took."""
    everything = Rebuilt.of_many((body.data, body.attributes) for body in sender.taken)
    return {run: found.stdout for run, found in everything.items()}


def write(root: Path, counts: dict[str, int]) -> tuple[list[ServedRun], dict[str, bytes]]:
    """So many lines of each run, in chunks as they are captured."""
    runs, expected = [], {}
    for name, count in counts.items():
        writer, run = spooled(root, name)
        expected[name] = lines(name, 0, count)
        for at in range(0, len(expected[name]), 65536):
            writer.write(0, expected[name][at : at + 65536])
        writer.end({"event": "exit", "message": ""})
        runs.append(run)
    return runs, expected


@pytest.mark.parametrize("compress", ["none", "auto", "gzip"])
@pytest.mark.parametrize("mixing", [True, False])
def test_many_runs_arrive_whole_in_few_requests(tmp_path: Path, mixing: bool, compress: str) -> None:
    """Small and large ones; a body has several runs' lines only where that is wanted, and the folders are gone."""
    runs, expected = write(tmp_path, {f"R{number}": number * 50 for number in range(1, 41)} | {"FLOOD": 30_000})
    sender = Scripted()
    assert ship(runs, sender, mixing, compress)
    assert taken(sender) == expected
    assert any("run" not in body.attributes for body in sender.taken) == mixing
    assert all("seq" in body.attributes for body in sender.taken if "run" in body.attributes)
    assert all(sum(sizes) <= MAX_REQUEST_BYTES and len(sizes) <= 10 for sizes in sender.sizes)
    if mixing and compress == "none":
        total = sum(sum(sizes) for sizes in sender.sizes)
        assert len(sender.sizes) <= total / (0.8 * MAX_REQUEST_BYTES) + 2
    assert set(os.listdir(tmp_path)) <= {"usage"}  # the total that the quota keeps
    assert all(run.gone and not run.failure for run in runs)


def test_the_heartbeats_of_many_runs_can_wait_for_each_other(tmp_path: Path) -> None:
    """Until one of the runs writes a line: they leave in one body."""
    inbox: deque[ServedRun] = deque()
    queue = FairQueue(RequestLimits(MAX_REQUEST_BYTES, 10, False), 65536, "none", True, inbox)
    writers, runs = zip(*(spooled(tmp_path, name) for name in "ABC"), strict=True)
    states, bodies = [], []

    def grow(number: int, *, line: bool) -> None:
        if line:
            writers[number].write(0, b"line\n")
        else:
            writers[number].alive({"event": "alive", "message": "still running"})
        inbox.append(runs[number])
        queue.read()
        states.append(queue.can_wait)

    def hand_out() -> None:
        queue.close_open_body()
        request = queue.partial_request()
        queue.plan(request.bodies)
        bodies.append([pending.body.run for pending in request.bodies])

    for number in range(3):
        grow(number, line=False)
    hand_out()
    grow(0, line=False)
    grow(1, line=True)
    grow(2, line=False)
    hand_out()
    grow(1, line=False)
    assert states == [True, True, True, True, False, False, True]
    assert bodies == [[""], [""]]
    queue.close()


def test_each_run_is_packed_as_it_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cleaned, and its objects and their levels found, beside runs that are not; also if its buffers were released."""
    monkeypatch.setattr("sqstee.agent.fair_queue._MAX_OPEN_RUNS", 0)
    text = b'\x1b[31mold\rred\x1b[0m\n{"level":"warn"}\n'
    inbox: deque[ServedRun] = deque()
    queue = FairQueue(RequestLimits(MAX_REQUEST_BYTES, 10, False), 65536, "none", True, inbox)
    parsing, one = spooled(tmp_path, "A", strip_ansi=True, collapse_cr=True, parse_json=True)
    plain, two = spooled(tmp_path, "B")
    sent = []
    for _ in range(3):
        for writer, run in ((parsing, one), (plain, two)):
            writer.write(0, text)
            inbox.append(run)
        queue.read()
        queue.close_open_body()
        request = queue.partial_request()
        queue.plan(request.bodies)
        sent += [(pending.body.data, pending.body.attributes) for pending in request.bodies]
        queue.acknowledge(request.bodies)
    found = Rebuilt.of_many(sent)
    assert found["A"].stdout == b'red\n{"level":"warn"}\n' * 3
    assert [(record.level, record.parsed) for record in found["A"].records] == [
        ("", None),
        ("WARNING", {"level": "warn"}),
    ] * 3
    assert found["B"].stdout == text * 3
    assert {record.level for record in found["B"].records} == {""}
    queue.close()


class Fifo(Scripted):
    """A destination that keeps the order of what it takes, and of each request refuses entries at random."""

    ordered = True

    def __init__(self) -> None:
        super().__init__(self._refuse)
        self._chance = random.Random(1)

    def _refuse(self, bodies: Sequence[Body]) -> list[Failure]:
        return [Failure(at, RETRY, "InternalError", "") for at in range(len(bodies)) if self._chance.random() < 0.2]


def test_an_entry_that_fails_is_not_overtaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in ten messages of a FIFO queue was out of order: those behind the failed one of a request were taken."""
    monkeypatch.setattr("sqstee.ship.backoff._MAX_SECONDS", 0.0)
    runs, expected = write(tmp_path, dict.fromkeys("ABCD", 1000))
    sender = Fifo()
    assert ship(runs, sender, mixing=False, message_bytes=4096)
    assert taken(sender) == expected
    for name in expected:
        firsts = [body.first for body in sender.taken if body.run == name]
        assert firsts == sorted(firsts)
    assert max(map(len, sender.sizes)) > 1  # of different runs


def test_bodies_of_several_hosts_name_none(tmp_path: Path) -> None:
    """Every line names its own; the attribute is there only where it is true of all."""
    (one, first), (two, second) = spooled(tmp_path, "A", "node1"), spooled(tmp_path, "B", "node2")
    for writer in (one, two):
        writer.write(0, b"hi\n")
        writer.close()
    sender = Scripted()
    assert ship([first, second], sender)
    (body,) = sender.taken
    assert "host" not in body.attributes
    assert b'"host":"node1"' in body.data
    assert b'"host":"node2"' in body.data


@pytest.mark.parametrize("seed", range(3))
def test_every_kind_of_refusal_in_any_order(tmp_path: Path, seed: int) -> None:
    """Calls and entries that fail, shrink, time out and poison at random: each run arrives whole but for its poison."""
    chance = random.Random(seed)
    counts = {f"R{number}": chance.choice((1, 10, 300, 3000)) for number in range(30)}
    runs, expected = write(tmp_path, counts)

    def answer(bodies: Sequence[Body]) -> list[Failure]:
        if any(body.size > 100_000 for body in bodies):
            raise TransportError(SIZE, "BatchRequestTooLong", "")
        kind = chance.random()
        if kind < 0.1:
            raise TransportError(RETRY, TIMEOUT, "Read timed out")
        if kind < 0.15 and len(bodies) > 1:
            raise TransportError(POISON, "ValidationError", "")
        bad = [at for at, body in enumerate(bodies) if b'"R3 7 ' in body.data]
        failures = [Failure(at, POISON, "InvalidMessageContents", "no") for at in bad]
        for at in range(len(bodies)):
            if at not in bad and chance.random() < 0.1:
                failures.append(Failure(at, RETRY, "InternalError", ""))
        return failures

    expected["R3"] = b"".join(
        line for line in expected["R3"].splitlines(keepends=True) if not line.startswith(b"R3 7 ")
    )
    sender = Scripted(answer)
    assert ship(runs, sender)
    assert taken(sender) == expected
    assert os.listdir(tmp_path) in ([], ["quarantine"])


def test_a_flood_delays_nobody_by_more_than_a_round(tmp_path: Path) -> None:
    """With a backlog of megabytes in two runs the lines of the others are in the first requests."""
    counts = {"FLOOD1": 60_000, "FLOOD2": 60_000} | {f"R{number}": 5 for number in range(20)}
    runs, expected = write(tmp_path, counts)
    sender = Scripted()
    assert ship(runs, sender, in_flight=1)  # of several the one that left first may arrive last
    assert taken(sender) == expected
    early = Rebuilt.of_many((body.data, body.attributes) for body in sender.taken[:10])
    assert {name: found.stdout for name, found in early.items() if name.startswith("R")} == {
        name: data for name, data in expected.items() if name.startswith("R")
    }
    half = Rebuilt.of_many((body.data, body.attributes) for body in sender.taken[: len(sender.taken) // 2])
    one, two = len(half["FLOOD1"].stdout), len(half["FLOOD2"].stdout)
    assert abs(one - two) <= 8 * 4 * QUANTUM_BYTES


def test_memory_does_not_grow_with_the_number_of_runs(tmp_path: Path) -> None:
    """A backlog in 200 runs: what is packed and in flight is bounded by requests, not by runs."""
    peaks = []
    for number in (20, 200):
        root = tmp_path / str(number)
        root.mkdir()
        runs, expected = write(root, {f"R{n}": 1500 for n in range(number)})
        size = sum(map(len, expected.values()))
        del expected
        sender = Discarding()
        tracemalloc.start()
        assert ship(runs, sender)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sender.bytes > size
    assert max(peaks) < 32_000_000, peaks


class Discarding(Scripted):
    """Keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        self.bytes += sum(len(body.data) for body in bodies)
        return []


def test_damage_in_one_run_is_its_own(tmp_path: Path) -> None:
    """A run that cannot be read is given up, with its spool as it was; the others arrive."""
    runs, expected = write(tmp_path, {"A": 10, "B": 10, "C": 10})
    writer, broken = spooled(tmp_path, "D")
    writer.event({"event": "gap", "from": "x", "message": "forged"})
    writer.close()
    (tmp_path / "B" / "00000001.seg").write_bytes(b"nothing of ours")
    sender = Scripted()
    assert ship([*runs, broken], sender)
    del expected["B"]
    assert taken(sender) == expected
    assert [bool(run.failure) for run in (*runs, broken)] == [False, True, False, True]
    assert sorted(os.listdir(tmp_path)) == ["B", "D"]


def test_a_run_that_cannot_be_removed_stops_no_other(tmp_path: Path) -> None:
    """Its owner replaced a file once it was read: the shipper of all runs with this policy ended."""
    runs, expected = write(tmp_path, {"A": 10, "B": 10})

    def send(bodies: Sequence[Body]) -> list[Failure]:
        (tmp_path / "A" / "writer").unlink()
        (tmp_path / "A" / "writer").symlink_to("/etc/passwd")
        return []

    sender = Scripted(send)
    assert ship(runs, sender)
    assert taken(sender) == expected
    assert [bool(run.failure) for run in runs] == [True, False]
    assert os.listdir(tmp_path) == ["A"]


def test_an_event_cannot_speak_for_another_run(tmp_path: Path) -> None:
    """What a spool holds under an event's name is written anew: no second line, no other run, no refused character."""
    (one, first), (two, second) = spooled(tmp_path, "A"), spooled(tmp_path, "B")
    one.event({"event": "start", "message": "\x01\u2028\ufffe", "run": "B", "seq": 0, "x": 1})
    two.write(0, b"mine\n")
    for writer in (one, two):
        writer.close()
    sender = Scripted()
    assert ship([first, second], sender)
    found = Rebuilt.of_many((body.data, body.attributes) for body in sender.taken)
    assert found["B"].stdout == b"mine\n"
    assert [event.fields["x"] for event in found["A"].events] == [1]


def test_what_is_refused_of_a_run_that_was_given_up(tmp_path: Path) -> None:
    """Nothing can be put aside for it: its refused records once went out again and again, as fast as they could."""
    (tmp_path / "quarantine").touch()
    bad = (100, 900, 1499)  # in bodies that are divided for different times
    (one, hurt), (two, other) = spooled(tmp_path, "A"), spooled(tmp_path, "B")
    for number in range(1500):
        one.write(0, b"poison\n" if number in bad else lines("A", number, 1))
    two.write(0, lines("B", 0, 2000))
    for writer in (one, two):
        writer.close()

    def refuse(bodies: Sequence[Body]) -> list[Failure]:
        if len(sender.sizes) > 100:
            raise TransportError(OPEN, "Enough", "")
        return [Failure(at, POISON, "Poison", "") for at, body in enumerate(bodies) if b"poison" in body.data]

    sender = Scripted(refuse)
    assert ship([hurt, other], sender)
    assert taken(sender)["B"] == lines("B", 0, 2000)
    assert (bool(hurt.failure), bool(other.failure)) == (True, False)


FORGED = {
    "a gap that ends before it begins": {"event": "gap", "from": 1, "to": 0, "message": "x"},
    "another one's gap": {"event": "gap", "from": 7, "to": 9, "message": "x"},
    "a number that there is not": {"event": "gap", "from": 1, "to": 2**70, "message": "x"},
}


@pytest.mark.parametrize("fields", FORGED.values(), ids=list(FORGED))
def test_no_event_makes_a_body_that_cannot_be_read(tmp_path: Path, fields: dict[str, object]) -> None:
    """Its run is given up; a neighbour's line in the same body was once taken for a foreign one."""
    (one, forged), (two, other) = spooled(tmp_path, "A"), spooled(tmp_path, "B")
    for writer in (one, two):
        writer.write(0, b"mine\n")
    one.event(fields)
    for writer in (one, two):
        writer.close()
    sender = Scripted()
    assert ship([forged, other], sender)
    assert taken(sender)["B"] == b"mine\n"
    assert (bool(forged.failure), bool(other.failure)) == (True, False)


FIRST_FRAMES = {
    "another run's name": b'{"run":"B","host":"h"}',
    "a path": b'{"run":"../A","host":"h"}',
    "a host that is none": b'{"run":"A","host":"h\\u0001"}',
}


@pytest.mark.parametrize("meta", FIRST_FRAMES.values(), ids=list(FIRST_FRAMES))
def test_a_first_frame_that_was_another_one_when_it_was_looked_at(tmp_path: Path, meta: bytes) -> None:
    """Whoever owns a spool can write it anew meanwhile: it speaks for no other run, and names no other file."""
    (one, forged), (two, other) = spooled(tmp_path, "A"), spooled(tmp_path, "B")
    one.close()
    two.write(0, lines("B", 0, 3))
    two.end({"event": "exit", "message": ""})
    writer = Writer(Segments(forged.folder, meta), 32768)
    writer.write(0, b"first\nsecond\n")
    writer.close()
    sender = Scripted()
    assert ship([forged, other], sender)
    assert taken(sender) == {"B": lines("B", 0, 3)}
    assert forged.failure
    assert os.listdir(tmp_path) == ["A"]


def test_labels_that_are_no_texts_are_shipped_as_such(tmp_path: Path) -> None:
    """Python's JSON reads numbers that no other reads, which would cost the whole body."""
    writer, run = spooled(tmp_path, "A")
    writer.close()
    meta = b'{"run":"A","host":"h","labels":{"x":NaN}}'
    writer = Writer(Segments(run.folder, meta), 32768)
    writer.write(0, b"mine\n")
    writer.close()
    sender = Scripted()
    assert ship([run], sender)
    assert [record.labels for record in Rebuilt((body.data, {}) for body in sender.taken).records] == [{"x": "nan"}]


def test_what_is_planned_is_sent_again_unchanged(tmp_path: Path) -> None:
    """A fleet that ends between its plan and the answer: the next one sends the same ranges, of each run by itself."""
    runs, expected = write(tmp_path, {"A": 700, "B": 2000, "C": 5})
    fleet = FairQueue(RequestLimits(), 262144, "none", True, deque(runs))
    fleet.read()
    fleet.close_open_body()
    request = fleet.partial_request()
    fleet.plan(request.bodies)
    fleet.close()
    sent = [
        (member.body.run, member.body.first, member.body.last, member.body.data)
        for planned in request.bodies
        for member in getattr(planned, "members", (planned,))
    ]
    again = [ServedRun(run.name, run.folder, run.root) for run in runs]
    sender = Scripted()
    assert ship(again, sender, mixing=False)
    assert taken(sender) == expected
    found = [(body.run, body.first, body.last, body.data) for body in sender.taken]
    assert all(slice_ in found for slice_ in sent)


def test_an_end_that_comes_with_an_answer(tmp_path: Path) -> None:
    """Another thread closes a run while its last request is on its way: it goes once its end is shipped as well."""
    writer, run = spooled(tmp_path, "A")
    writer.write(0, b"first\n")
    inbox = deque([run])
    fleet = FairQueue(RequestLimits(), 262144, "none", True, inbox)

    def planned() -> list[PendingBody]:
        fleet.read()
        fleet.close_open_body()
        request = fleet.partial_request()
        fleet.plan(request.bodies)
        return request.bodies

    under_way = planned()
    writer.event({"event": "exit", "message": ""})
    writer.close()
    for fd in LOCKS.pop(run.folder):
        os.close(fd)
    run.ended = True
    fleet.acknowledge(under_way)
    assert not run.gone
    inbox.append(run)
    (last,) = planned()
    assert b'"event":"exit"' in last.body.data
    fleet.acknowledge([last])
    assert run.gone
    assert set(os.listdir(tmp_path)) <= {"usage"}  # the total that the quota keeps


def test_runs_that_are_put_to_rest_lose_nothing(tmp_path: Path) -> None:
    """More backlogged runs than may keep their buffers, with unfinished lines: every slice goes on where it was."""
    runs = []
    expected = {}
    for number in range(25):
        writer, run = spooled(tmp_path, f"R{number}")
        data = b"".join(b"%d %d" % (number, at) + b"x" * (at % 97) + b"\n" for at in range(6000))
        for at in range(0, len(data), 5001):
            writer.write(at % 2, data[at : at + 5001])
        writer.cut(0)
        writer.cut(1)
        writer.close()
        expected[run.name] = sum(map(len, (data,)))
        runs.append(run)
    sender = Scripted()
    assert ship(runs, sender, message_bytes=65536)
    found = Rebuilt.of_many((body.data, body.attributes) for body in sender.taken)
    assert {name: len(one.stdout) + len(one.stderr) for name, one in found.items()} == expected
    assert all(one.duplicates == 0 for one in found.values())
