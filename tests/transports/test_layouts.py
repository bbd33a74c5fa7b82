"""What is at rest, in whatever layout, in a bucket or in a folder: readers give the same lines and verdicts."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.bucket import FakeS3
from fakes.web import FakeWeb, HttpResponse
from support import Sqstee
from support.bodies import at_present, event_of, gap_of, lines_of, whole_run
from support.drain import FAST, index
from support.lake import (
    Objects,
    batch_objects,
    drained_files,
    queue_objects,
    run_range_objects,
    store_objects,
    without_indexes,
    write_files,
)

from sqstee.cli.run_sources import collect_runs
from sqstee.cli.sources import narrow_to_runs
from sqstee.destination import parse_source
from sqstee.extras import install_command
from sqstee.read.decode import Item, read
from sqstee.read.stop_signal import StopSignal
from sqstee.record import Body, Encoder
from sqstee.run_summary import RunSummary
from sqstee.spark.parts import ParquetPart, add_message
from sqstee.transports.base import ReceivedMessage, Receiver
from sqstee.transports.errors import TransportError
from sqstee.transports.factory import open_receiver
from sqstee.transports.file_tree import FolderTree
from sqstee.transports.lake import LakeReceiver
from sqstee.transports.layouts import (
    BATCH,
    BATCH_INDEX,
    DRAINED,
    FOREIGN,
    HIDDEN_NAME,
    PARQUET,
    QUEUE,
    RECORDS,
    RUN_RANGE,
    Strays,
    index_of_batch,
    inner_folder,
    recognise,
)
from sqstee.transports.s3_source import BucketReceiver
from sqstee.wire import Record, decode

SAME = ("run", "job", "name", "host", "labels", "ended", "duration_s", "exit_code", "signal", "state", "result",
        "lines", "bytes", "missing", "dropped", "elsewhere")  # fmt: skip


def backlog() -> list[Body]:
    """Runs that ended well, failed, lack lines, dropped lines, have not ended, and wrote what is no text."""
    binary = Encoder("01BINARY", "node1").lines(b"\xff\xfe\0\n\xc3\n", "stdout", 1_700_000_000_000_000_000, 1)
    pieces = Encoder("01PIECES", "node1")
    first = pieces.lines(b"half", "stderr", 1_700_000_000_000_000_000, 1, eol=False)
    rest = pieces.lines(b" and half\nnext\n", "stderr", 1_700_000_000_000_000_000, 2)
    return [
        *whole_run(20, "01GOOD", job="good"),
        *whole_run(3, "01FAILED", status=3),
        *(event_of("start", 0, "01HOLES"), lines_of(1, 4, "01HOLES"), lines_of(9, 9, "01HOLES", stream="stderr")),
        event_of("exit", 12, "01HOLES", exit_code=0),
        *(event_of("start", 0, "01DROPPED"), gap_of(1, 5, "01DROPPED", reason="full")),
        event_of("exit", 6, "01DROPPED", exit_code=0),
        *(event_of("start", 0, "01OPEN"), lines_of(1, 2, "01OPEN")),
        *(event_of("start", 0, "01BINARY"), Body(binary, "01BINARY", "node1", 1, 2)),
        event_of("exit", 3, "01BINARY", exit_code=0),
        *(event_of("start", 0, "01PIECES"), Body(first, "01PIECES", "node1", 1, 1)),
        *(Body(rest, "01PIECES", "node1", 2, 3), event_of("exit", 4, "01PIECES", exit_code=0)),
    ]  # fmt: skip


def _packed(objects: Objects) -> Objects:
    return {f"{name}.gz": gzip.compress(data) for name, data in objects.items()}


def _plain(objects: Objects) -> Objects:
    return {name.removesuffix(".gz"): gzip.decompress(data) if name.endswith(".gz") else data
            for name, data in objects.items()}  # fmt: skip


def _batches(bodies: list[Body]) -> Objects:
    """Two batches, of which the second has some of the first's messages again."""
    return batch_objects(bodies[::2], bodies[1::2] + bodies[:6:2])


def _of_spark(bodies: list[Body]) -> Objects:
    """Parquet files as `sqstee.spark.receive` writes them, with the host as a column."""
    part = ParquetPart()
    for body in bodies:
        assert add_message(part, ReceivedMessage(body.data, {}, "h"))[1] == []
    return {f"date={date}/part-1.parquet": data for date, data in part.files()}


LAYOUTS: dict[str, Callable[[list[Body], Path], Objects]] = {
    "queue": lambda bodies, folder: queue_objects(bodies),
    "queue, gzip": lambda bodies, folder: _packed(queue_objects(bodies)),
    "batches": lambda bodies, folder: _batches(bodies),
    "batches, unpacked": lambda bodies, folder: _plain(_batches(bodies)),
    "batches without indexes": lambda bodies, folder: without_indexes(_batches(bodies)),
    "run ranges": lambda bodies, folder: run_range_objects(bodies),
    "run ranges, gzip": lambda bodies, folder: _packed(run_range_objects(bodies)),
    "an hour alone": lambda bodies, folder: {
        name.rpartition("/")[2]: data for name, data in without_indexes(_batches(bodies)).items()
    },
    "of Spark": lambda bodies, folder: {"date=2023-11-14/part-0.json": b"".join(body.data for body in bodies)},
    "queue and batches": lambda bodies, folder: queue_objects(bodies[:9]) | batch_objects(bodies[6:]),
    "drained": lambda bodies, folder: drained_files(folder, bodies, "streams", False),
    "drained, ndjson, gzip": lambda bodies, folder: drained_files(folder, bodies, "ndjson", True),
    "Parquet of Spark": lambda bodies, folder: _of_spark(bodies),
    "Parquet without an index": lambda bodies, folder: {
        name: data
        for name, data in drained_files(folder, bodies, "parquet", False).items()
        if name.endswith(".parquet")
    },
    "drained, Parquet": lambda bodies, folder: drained_files(folder, bodies, "parquet", False),
}


@pytest.fixture
def s3() -> FakeS3:
    """An empty bucket `bkt`."""
    return FakeS3("bkt")


@pytest.fixture
def web(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWeb]:
    """Its server, which this process reaches."""
    with FakeWeb(s3) as found:
        for name, value in found.environ().items():
            monkeypatch.setenv(name, value)
        yield found


def items_of(receiver: Receiver) -> list[Item]:
    """All that a receiver gives, the first of each seq and in order."""
    firsts: dict[tuple[str, int], Item] = {}
    while messages := receiver.receive(10, 0.0):
        for message in messages:
            assert not message.problem
            blocks, foreign = read(message)
            assert not foreign
            for item in (item for block in blocks for item in block):
                firsts.setdefault((item.run, item.seq), item)
    receiver.close()
    return [firsts[key] for key in sorted(firsts)]


def bytes_of(items: list[Item]) -> dict[tuple[str, str], bytes]:
    """The bytes of each stream of each run."""
    found: dict[tuple[str, str], bytes] = {}
    for item in items:
        if isinstance(item, Record):
            key = item.run, item.stream
            found[key] = found.get(key, b"") + item.data
    return found


@pytest.mark.parametrize("place", ["folder", "bucket"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(layout: str, place: str, s3: FakeS3, web: FakeWeb, tmp_path: Path) -> None:
    """The bytes of each run, and what is known of it, wherever it lies, with nothing to remark."""
    bodies = backlog()
    objects = LAYOUTS[layout](bodies, tmp_path / "work")
    write_files(tmp_path / "logs", objects)
    store_objects(s3, "logs/", objects)
    text = f"{tmp_path}/logs" if place == "folder" else "s3://bkt/logs"
    receiver = open_receiver(parse_source(text), "")
    assert receiver.follows
    sent = [item for body in bodies for item in decode(body.data)]
    items = items_of(receiver)
    assert bytes_of(items) == bytes_of(sent)
    if "drained" not in layout:
        assert [(item.run, item.seq) for item in items] == sorted((item.run, item.seq) for item in sent)
    with StopSignal() as stop:
        found = collect_runs([text], stop)
    assert (found.status, found.notices) == (0, [])
    known = {run.run: run.fields(0.0, 1e9) for run in found.runs}
    assert sorted(known) == sorted({body.run for body in bodies})
    for run, fields in known.items():
        expected = RunSummary(run)
        expected.add_items([item for item in sent if item.run == run], 0.0)
        assert {name: fields[name] for name in SAME} == {name: expected.fields(0.0, 1e9)[name] for name in SAME}


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_verbs_read_a_data_lake(place: str, sqstee: Sqstee, s3: FakeS3, web: FakeWeb) -> None:
    """By the real command: tail, runs, show, drain, top and stat; nothing in it changes."""
    bodies = backlog()
    objects = batch_objects(bodies[::2], bodies[1::2])
    write_files(sqstee.folder / "lake", objects)
    store_objects(s3, "lake/", objects)
    before = dict(s3.objects)
    source = f"{sqstee.folder}/lake" if place == "folder" else "s3://bkt/lake"

    def run(*words: str) -> bytes:
        found = sqstee.run(*words, environ=web.environ())
        if words[0] == "tail":
            assert {json.loads(line)["run"] for line in found.stderr.splitlines()} == {"01HOLES", "01DROPPED"}
        else:
            assert found.stderr == b""
        assert found.returncode == (3 if words[0] == "drain" else 0)
        return found.stdout

    sent = {(item.run, item.seq) for body in bodies for item in decode(body.data)}
    shown = decode(run("tail", source, "--no-follow", "-o", "json").replace(b'"last":', b'"end":'))
    assert {item.run for item in shown} == {run for run, _ in sent}
    assert run("show", "01GOOD", source, "-o", "raw") == b"".join(b"line %d\n" % seq for seq in range(1, 21))
    states = {
        fields["run"]: fields["state"] for fields in map(json.loads, run("runs", source, "-o", "json").splitlines())
    }
    expected = {"01GOOD": "ok", "01FAILED": "failed", "01HOLES": "missing", "01DROPPED": "missing", "01BINARY": "ok",
                "01PIECES": "ok"}  # fmt: skip
    assert states == expected | {"01OPEN": "silent"}
    assert b"failed" in run("top", source, "--no-follow")
    assert b'"visible": 2,' in run("stat", source, "-o", "json", "--interval", "0")
    run("drain", source, "-O", str(sqstee.folder / "out"), *FAST)
    verdicts = {name: fields["verdict"] for name, fields in index(sqstee.folder / "out").items()}
    assert verdicts == {name: "missing" if state == "missing" else "complete" for name, state in expected.items()} | {
        "01OPEN": "open"
    }
    assert s3.objects == before


def test_a_run_is_found_by_the_indexes(s3: FakeS3, web: FakeWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one run, objects without its lines are not read; for a list of all, none of them is."""
    store_objects(s3, "", batch_objects(whole_run(3, "01A"), whole_run(4, "01B"), whole_run(5, "01A2")))
    read_names: list[str] = []
    get = s3._get

    def noted(key: str, given: Mapping[str, str]) -> HttpResponse:
        read_names.append(key)
        return get(key, given)

    monkeypatch.setattr(s3, "_get", noted)
    receiver = open_receiver(parse_source("s3://bkt"), "")
    receiver.narrow(["01B"])  # type: ignore[attr-defined]
    assert {item.run for item in items_of(receiver)} == {"01B"}
    assert sum(recognise(name).kind == BATCH for name in read_names) == 1
    read_names.clear()
    with StopSignal() as stop:
        assert [run.run for run in collect_runs(["s3://bkt"], stop).runs] == ["01B", "01A2", "01A"]
    assert {recognise(name).kind for name in read_names} == {BATCH_INDEX}


def test_what_is_new_follows(s3: FakeS3, web: FakeWeb, tmp_path: Path) -> None:
    """In a bucket that was empty at first, and in a folder; each object once."""
    first, second = batch_objects(whole_run(2, "01A")), batch_objects(whole_run(2, "01B"))
    receivers = []
    write_files(tmp_path, first)
    for text in ("s3://bkt/p", f"{tmp_path}/"):
        receiver = open_receiver(parse_source(text), "")
        receivers.append(receiver)
    assert receivers[0].receive(10, 0.0) == []
    assert receivers[0].remarks() == ["s3://bkt/p: no objects, nothing has been stored there yet"]  # type: ignore[attr-defined]
    store_objects(s3, "p/", first)
    for receiver in receivers:
        assert {item.run for message in receiver.receive(10, 60.0) for item in decode(message.data)} == {"01A"}
    store_objects(s3, "p/", second)
    write_files(tmp_path, second)
    for receiver in receivers:
        assert {item.run for message in receiver.receive(10, 0.0) for item in decode(message.data)} == {"01B"}
        assert receiver.receive(10, 0.0) == []
        receiver.close()


def runs_in(receiver: Receiver) -> set[str]:
    """The runs whose lines a receiver has not given yet."""
    found: set[str] = set()
    while messages := receiver.receive(10, 0.0):
        found |= {item.run for message in messages for item in decode(message.data)}
    return found


def test_an_idle_look_lists_the_latest_hours(s3: FakeS3, web: FakeWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written long ago and comes late is found by the next whole pass."""
    asked: list[Mapping[str, str]] = []
    listed = s3._list

    def noted(query: Mapping[str, str]) -> HttpResponse:
        asked.append(query)
        return listed(query)

    monkeypatch.setattr(s3, "_list", noted)
    store_objects(s3, "", batch_objects(whole_run(2, "01A")))
    receiver = open_receiver(parse_source("s3://bkt"), "")
    assert runs_in(receiver) == {"01A"}
    asked.clear()
    store_objects(s3, "", batch_objects([at_present(body) for body in whole_run(2, "01NEW")]))
    store_objects(s3, "", batch_objects(whole_run(2, "01LATE")))
    assert runs_in(receiver) == {"01NEW"}
    assert all(query["start-after"] > "date=2026" for query in asked)
    monkeypatch.setattr("sqstee.transports.lake._WHOLE_PASS_SECONDS", 0.0)
    monkeypatch.setattr(receiver._lake, "_whole_pass_at", 0.0)  # type: ignore[attr-defined]
    assert runs_in(receiver) == {"01LATE"}
    receiver.close()


class TestStrange:
    """What is not sqstee's, or cannot be read: one line each, and the rest is read."""

    def stored(self, s3: FakeS3, objects: Objects) -> None:
        """Store a good run and other objects."""
        store_objects(s3, "logs/", batch_objects(whole_run(2, "01GOOD")) | objects)

    def told(self, sqstee: Sqstee, web: FakeWeb, verb: str, source: str = "s3://bkt/logs") -> tuple[int, list[str]]:
        """The status of a verb, and the lines on stderr, without `sqstee: `; the good run must be read."""
        words = {"tail": ("--no-follow",), "runs": (), "drain": ("-O", str(sqstee.folder / "out"), *FAST)}[verb]
        found = sqstee.run(verb, source, *words, environ=web.environ())
        if b"nothing has been stored" not in found.stderr:
            assert (b"line 2" if verb == "tail" else b"01GOOD") in found.stdout
        return found.returncode, [line.removeprefix("sqstee: ") for line in found.stderr.decode().splitlines()]

    @pytest.mark.parametrize("verb", ["tail", "runs", "drain"])
    def test_foreign_objects_are_counted(self, sqstee: Sqstee, s3: FakeS3, web: FakeWeb, verb: str) -> None:
        """Wherever they lie; those that engines hide, or consoles make, are not."""
        foreign = ["notes.txt", "other/a", "other/b", "date=2023-11-14/hour=22/x.csv", "date=2023-11-14/x/y"]
        hidden = ["_SUCCESS", "date=2023-11-14/.part.crc", "date=2023-11-14/_temporary/x", "", "other2/_x"]
        self.stored(s3, dict.fromkeys([*foreign, *hidden], b"x"))
        text = "s3://bkt/logs: 5 objects not written by sqstee, left out: date=2023-11-14/hour=22/x.csv, …"
        assert self.told(sqstee, web, verb) == (0, [text])

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"no gzip", "Not a gzipped file (b'no')"),
            (b"", "it is empty"),
            (gzip.compress(b"x" * 99)[:-9], "Compressed file ended before the end-of-stream marker was reached"),
        ],
        ids=["other", "empty", "truncated"],  # the bytes of a gzip file hold the time
    )
    @pytest.mark.parametrize("verb", ["tail", "runs", "drain"])
    def test_an_object_that_cannot_be_read(
        self, sqstee: Sqstee, s3: FakeS3, web: FakeWeb, verb: str, data: bytes, reason: str
    ) -> None:
        """It is named, and the status is 1."""
        bad = f"date=2023-11-14/hour=22/{'a' * 16}.ndjson.gz"
        self.stored(s3, {bad: data})
        status, lines = self.told(sqstee, web, verb)
        problem = f"s3://bkt/logs/{bad}: {reason}"
        assert (status, lines) == (1, [f"1 file not read: {problem}" if verb == "drain" else problem])

    @pytest.mark.parametrize("verb", ["tail", "runs", "drain"])
    def test_a_parquet_file_of_others(self, sqstee: Sqstee, s3: FakeS3, web: FakeWeb, verb: str) -> None:
        """One with other columns is counted; a damaged one is named, and the status is 1."""
        data = io.BytesIO()
        pq.write_table(pa.table({"run": ["01X"], "seq": [0]}), data)
        path = "date=2023-11-14/host=h/x.parquet"
        self.stored(s3, {path: data.getvalue()})
        text = f"s3://bkt/logs: 1 object not written by sqstee, left out: {path}"
        assert self.told(sqstee, web, verb) == (0, [text])
        self.stored(s3, {path: b"damaged"})
        status, lines = self.told(sqstee, web, verb)
        assert (status, len(lines)) == (1, 1)
        assert f"s3://bkt/logs/{path}: Parquet" in lines[0]

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"run": pa.array([["01X"]])}, "x.parquet: Unsupported cast from list<"),
            ({"seq": pa.array(["x"])}, "x.parquet: Failed to parse string: 'x'"),
            ({"run": pa.array([b"\xff"])}, "x.parquet: Invalid UTF8 payload"),
            ({"run": pa.nulls(1)}, "1 line not written by sqstee, left out: in date=2023-11-14/x.parquet"),
            ({"message": pa.nulls(1)}, "1 line not written by sqstee, left out: in date=2023-11-14/x.parquet"),
        ],
        ids=["lists", "texts", "bytes", "no run", "no message"],
    )
    def test_parquet_columns_with_other_values(self, tmp_path: Path, changed: dict[str, pa.Array], told: str) -> None:
        """Whatever they hold, it is one line, and the rest is read."""
        columns = {"run": ["01X"], "seq": [0], "last": [0], "stream": ["stdout"], "message": ["x"], "eol": [True]}
        write_files(tmp_path / "logs", {"date=2023-11-14/part-0.json": lines_of(0, 1, "01GOOD").data})
        pq.write_table(
            pa.table(columns | {"event": pa.nulls(1)} | changed), tmp_path / "logs/date=2023-11-14/x.parquet"
        )
        with StopSignal() as stop:
            found = collect_runs([f"{tmp_path}/logs"], stop)
        assert [run.run for run in found.runs] == ["01GOOD"]
        (notice,) = found.notices
        assert told in notice

    @pytest.mark.parametrize("verb", ["tail", "runs"])
    def test_parquet_files_without_pyarrow(
        self, s3: FakeS3, web: FakeWeb, monkeypatch: pytest.MonkeyPatch, verb: str
    ) -> None:
        """They are counted, and the hint names the command that installs it."""
        self.stored(s3, _of_spark(whole_run(2, "01A")) | {"lines/date=2023-11-14/host=h/x.parquet": b""})
        for name in ("pyarrow", "sqstee.transports.folder_parquet"):
            monkeypatch.setitem(sys.modules, name, None)
        if verb == "tail":
            receiver = open_receiver(parse_source("s3://bkt/logs"), "")
            assert {item.run for item in items_of(receiver)} == {"01GOOD"}
            assert isinstance(receiver, BucketReceiver)
            notices = receiver.remarks()
        else:
            with StopSignal() as stop:
                found = collect_runs(["s3://bkt/logs"], stop)
            assert [run.run for run in found.runs] == ["01GOOD"]
            notices = found.notices
        hint = f"reading them needs pyarrow: {install_command('parquet')}"
        assert notices == [f"s3://bkt/logs: 2 Parquet objects left out: {hint}"]

    @pytest.mark.parametrize("place", ["folder", "bucket"])
    def test_one_run_of_parquet_files(self, place: str, s3: FakeS3, web: FakeWeb, tmp_path: Path) -> None:
        """Its rows alone, and no file's that cannot have any."""
        objects = _of_spark([*whole_run(3, "01A"), *whole_run(3, "01B", host="node2")])
        write_files(tmp_path / "logs", objects)
        store_objects(s3, "logs/", objects)
        receiver = open_receiver(parse_source(f"{tmp_path}/logs" if place == "folder" else "s3://bkt/logs"), "")
        narrow_to_runs([receiver], ["01B"])
        assert {(item.run, item.host) for item in items_of(receiver)} == {("01B", "node2")}

    @pytest.mark.parametrize("line", [b"\n", b"x\n", b"{}\n"], ids=["empty", "text", "json"])
    @pytest.mark.parametrize("verb", ["tail", "runs", "drain"])
    @pytest.mark.parametrize("layout", ["queue", "batches"])
    def test_an_object_that_unpacks_to_very_many_lines(
        self, sqstee: Sqstee, s3: FakeS3, web: FakeWeb, layout: str, verb: str, line: bytes
    ) -> None:
        """It is named, and costs no more than one of its size: not one of its lines is shown."""
        bomb = gzip.compress(line * 1_000_000, mtime=0)
        name = f"ab/01BOMB/{0:012d}-{9:012d}" if layout == "queue" else f"date=2023-11-14/hour=22/{'a' * 16}"
        self.stored(s3, {f"{name}.ndjson.gz": bomb})
        status, lines = self.told(sqstee, web, verb)
        number, most = f"{len(bomb):,}", f"{len(bomb) + 1000:,}"
        text = f"{number} packed bytes have more than {most} lines not written by sqstee: not read any further"
        assert status == 1
        assert lines[-1].endswith(f"s3://bkt/logs/{name}.ndjson.gz: {text}")
        assert len(lines) == 1

    @pytest.mark.parametrize("verb", ["tail", "runs", "drain"])
    @pytest.mark.parametrize("layout", ["queue", "batches"])
    def test_an_object_that_s3_does_not_give(
        self, sqstee: Sqstee, s3: FakeS3, web: FakeWeb, monkeypatch: pytest.MonkeyPatch, verb: str, layout: str
    ) -> None:
        """As one in an archive: it is named, and stays; the status is 1."""
        make = queue_objects if layout == "queue" else batch_objects
        archived = without_indexes(make([lines_of(0, 0, "01COLD")]))
        self.stored(s3, archived)
        (key,) = (f"logs/{name}" for name in archived)
        get = s3._get

        def archiving(name: str, given: Mapping[str, str]) -> HttpResponse:
            return s3.refusal("InvalidObjectState", 403, "archived") if name == key else get(name, given)

        monkeypatch.setattr(s3, "_get", archiving)
        status, lines = self.told(sqstee, web, verb)
        problem = f"s3://bkt/{key}: InvalidObjectState: GetObject: archived"
        assert status == 1
        assert problem in lines[-1]
        assert key in s3.objects

    def test_an_index_of_another_version(self, sqstee: Sqstee, s3: FakeS3, web: FakeWeb) -> None:
        """The records say the same, as they do where it is damaged."""
        objects = batch_objects(whole_run(2, "01A"), whole_run(3, "01B"), whole_run(4, "01C"))
        batches = [name for name in objects if recognise(name).kind == BATCH]
        for name, data in zip(
            batches, [b'{"sqstee":"9","run":"01X"}\n', b"\x00", b'{"sqstee":"1","run":7}\n'], strict=True
        ):
            objects[index_of_batch(name)] = data
        self.stored(s3, objects)
        found = sqstee.run("runs", "s3://bkt/logs", "-o", "json", environ=web.environ())
        lines = {fields["run"]: fields["lines"] for fields in map(json.loads, found.stdout.splitlines())}
        assert lines == {"01GOOD": {"stdout": 2}, "01A": {"stdout": 2}, "01B": {"stdout": 3}, "01C": {"stdout": 4}}
        assert (found.returncode, found.stderr) == (0, b"")

    @pytest.mark.parametrize("verb", ["tail", "runs", "drain"])
    def test_an_empty_prefix(self, sqstee: Sqstee, web: FakeWeb, verb: str) -> None:
        """Nothing is there yet."""
        text = "s3://bkt/logs: no objects, nothing has been stored there yet"
        assert self.told(sqstee, web, verb) == (0, [text])

    @pytest.mark.parametrize("action", ["s3:ListBucket", "s3:GetObject"])
    @pytest.mark.parametrize("verb", ["tail", "runs"])
    def test_no_permission(self, sqstee: Sqstee, s3: FakeS3, web: FakeWeb, verb: str, action: str) -> None:
        """One line, however many objects there are, and one hint."""
        store_objects(s3, "", batch_objects(*(whole_run(2, f"01{n}") for n in range(20))))
        s3.denied = {action}
        words = ("--no-follow",) if verb == "tail" else ()
        found = sqstee.run(verb, "s3://bkt", *words, environ=web.environ())
        first, second = found.stderr.decode().splitlines()
        assert found.returncode == 1
        assert first.startswith("sqstee: s3://bkt: AccessDenied: ")
        assert second.startswith("hint: ")

    def test_too_short_a_prefix_is_told(self, sqstee: Sqstee, s3: FakeS3, web: FakeWeb) -> None:
        """With the one to name instead."""
        store_objects(s3, "team/logs/", batch_objects(whole_run(2)))
        found = sqstee.run("tail", "s3://bkt/", "--no-follow", environ=web.environ())
        assert b"1 object not written by sqstee, left out: " in found.stderr
        assert found.stderr.endswith(b"; to read that folder: s3://bkt/team/logs\n")

    def test_a_folder_with_nothing_of_ours(self, sqstee: Sqstee) -> None:
        """One line and one hint; that of a folder in it, if there is one."""
        folder = sqstee.folder / "some"
        folder.mkdir()
        for objects, problem, hint in (
            ({}, "is empty", "makes one"),
            ({"a.txt": b""}, "has nothing that sqstee wrote, but 1 file, such as a.txt", "makes one"),
            (queue_objects(whole_run(1)), "", f"can be read: {folder}"),
        ):
            write_files(folder / ("deep/er" if not problem else "."), objects)
            if not problem:
                (folder / "a.txt").unlink()
            found = sqstee.run("runs", f"{folder}/")
            first, second = found.stderr.decode().splitlines()
            assert (found.returncode, found.stdout) == (125, b"")
            assert problem in first
            assert hint in second

    @pytest.mark.parametrize("verb", ["runs", "drain"])
    def test_lines_of_others_are_counted(self, sqstee: Sqstee, verb: str) -> None:
        """A file by whose name its lines may be ours, but are not: never silence."""
        write_files(sqstee.folder, {"logs/part-0.json": b'{"a":1}\n\nplain', "logs/part-1.json": lines_of(0, 2).data})
        more = ["-O", str(sqstee.folder / "out")] if verb == "drain" else []
        found = sqstee.run(verb, f"{sqstee.folder}/logs", *more)
        assert b"2 lines not written by sqstee" in found.stderr

    def test_a_folder_that_may_not_be_read_is_counted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As something that is not known; what is too deep as well."""
        write_files(tmp_path / "logs", batch_objects(whole_run(2, "01GOOD")) | {"/".join("abcdefghijk"): b""})
        opened = os.open

        def refusing(path: str, *words: int, **more: int) -> int:
            if path == "closed":
                raise PermissionError(errno.EACCES, "Permission denied")
            return opened(path, *words, **more)

        (tmp_path / "logs" / "closed").mkdir()
        monkeypatch.setattr(os, "open", refusing)
        receiver = LakeReceiver(FolderTree(str(tmp_path / "logs"), "./logs"))
        assert {item.run for item in items_of(receiver)} == {"01GOOD"}
        assert receiver.remarks() == ["./logs: 2 files not written by sqstee, left out: a/b/c/d/e/f/g/h/i, …"]

    def test_trouble_that_passes_loses_and_doubles_nothing(self, s3: FakeS3, web: FakeWeb) -> None:
        """Answers that are refused or cut off, in the middle of large objects too."""
        text = b"".join(b"%06d %s\n" % (seq, b"x" * 90) for seq in range(40_000))
        data = Encoder("01LONG", "h").lines(text, "stdout", 1_700_000_000_000_000_000, 0)
        objects = batch_objects([Body(data, "01LONG", "h", 0, 39_999)], whole_run(3, "01A"))
        store_objects(s3, "", _plain(objects))
        web.faults(errors=[{"probability": 0.3, "code": "SlowDown", "status": 503}], truncated={"probability": 0.2})
        receiver, found, failures = open_receiver(parse_source("s3://bkt"), ""), list[tuple[str, int]](), 0
        while True:
            try:
                messages = receiver.receive(10, 0.0)
            except TransportError:
                failures += 1
                continue
            if not messages:
                break
            found += [(item.run, item.seq) for message in messages for item in decode(message.data)]
        receiver.close()
        assert failures > 0
        assert sorted(found) == [*(("01A", seq) for seq in range(5)), *(("01LONG", seq) for seq in range(40_000))]


def test_names_are_recognised() -> None:
    """Those of sqstee, and none that only look like them."""
    digest = "0123456789abcdef"
    names = {
        "ab/01RUN/000000000000-000000000009.ndjson": QUEUE,
        "ab/01RUN/000000000000-000000000009-gap.ndjson.gz": QUEUE,
        f"date=2026-11-30/hour=09/{digest}.ndjson.gz": BATCH,
        f"date=2026-11-30/hour=09/{digest}.ndjson": BATCH,
        f"_index/date=2026-11-30/hour=09/{digest}.json": BATCH_INDEX,
        f"date=2026-11-30/host=a%2Fb/run=01RUN/000000000000-000000000009-{digest}.ndjson": RUN_RANGE,
        "date=2026-11-30/part-00000-x.json.gz": RECORDS,
        "part-00000-x.json": RECORDS,
        "date=2026-11-30/host=a/0.parquet": PARQUET,
        "runs.ndjson": DRAINED,
        "_SUCCESS": HIDDEN_NAME,
        "date=2026-11-30/": HIDDEN_NAME,
        "sqstee-check-1-2": HIDDEN_NAME,
        f"_other/date=2026-11-30/hour=09/{digest}.ndjson": HIDDEN_NAME,
        f"x/date=2026-11-30/hour=09/{digest}.ndjson": FOREIGN,
        "AB/01RUN/000000000000-000000000009.ndjson": FOREIGN,
        "ab/01RUN/000000000000-000000000009.ndjson.tmp": FOREIGN,
        "notes.txt": FOREIGN,
    }
    assert {name: recognise(name).kind for name in names} == names
    assert (
        index_of_batch(f"date=2026-11-30/hour=09/{digest}.ndjson.gz") == f"_index/date=2026-11-30/hour=09/{digest}.json"
    )
    assert inner_folder("a/b/runs.ndjson") == "a/b"
    assert inner_folder("a/b/notes.txt") == ""


def test_what_is_left_out_is_counted_once() -> None:
    """However often it is listed."""
    strays = Strays()
    for name in ("b", "a", "b", "x.parquet", "x.parquet"):
        strays.add(name)
    assert strays.remarks("s3://bkt", "object") == [
        "s3://bkt: 3 objects not written by sqstee, left out: a, …",
    ]
