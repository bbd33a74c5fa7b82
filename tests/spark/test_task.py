"""A task of sqstee.spark.receive, without Spark: what it writes, and when it deletes."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.s3 import S3Server
from fakes.sqs import FakeSqs
from hypothesis import given
from pyarrow.fs import FileSelector
from support.bodies import gap_of, in_flight, lines_of, put, whole_run
from support.odd_bodies import bodies as odd_bodies

from sqstee.errors import SqsteeError
from sqstee.record import Body
from sqstee.spark.output import ArrowOutput, LocalOutput, open_output
from sqstee.spark.parts import LAYOUTS, NdjsonPart, ParquetPart, add_message
from sqstee.spark.task import Receipt, ReceivePlan, run_task
from sqstee.transports.base import ReceivedMessage
from sqstee.wire import DecodeError, decode


@pytest.fixture
def queue(fake_sqs: FakeSqs, monkeypatch: pytest.MonkeyPatch) -> FakeSqs:
    """An SQS that this process reaches."""
    for name, value in fake_sqs.environ().items():
        monkeypatch.setenv(name, value)
    return fake_sqs


def plan(to: object, layout: str = "ndjson", queue: str = "q") -> ReceivePlan:
    """Two threads until the queue is empty."""
    return ReceivePlan(queue, str(to), layout, 2, 0.2, 0.2, None, 60, ())


def seqs_in(folder: Path) -> list[int]:
    """The seqs of all records in the files of a folder."""
    found = []
    for path in folder.rglob("date=*/*"):
        assert not path.name.startswith("."), path
        if path.suffix == ".parquet":
            found += pq.ParquetFile(path).read(["seq"]).column("seq").to_pylist()
        else:
            found += [item.seq for item in decode(gzip.decompress(path.read_bytes()))]
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_deleted(queue: FakeSqs, tmp_path: Path, layout: str) -> None:
    """Records by date, other programs' lines apart, and nothing else is left in the folder."""
    put(queue, whole_run(500))
    queue.put("q", "text\n\nmore", '{"a": 1}')
    found = run_task(plan(tmp_path, layout), 3)
    assert found == Receipt(messages=5, records=502, foreign=3, files=2, deleted=5)
    assert queue.messages("q") == []
    assert sorted(seqs_in(tmp_path)) == [*range(502)]
    assert {path.parent.name for path in tmp_path.rglob("part-00003-*")} == {"date=2023-11-14", "_foreign"}
    (foreign,) = (tmp_path / "_foreign").iterdir()
    assert [json.loads(line)["line"] for line in foreign.read_text().splitlines()] == ["text", "more", '{"a": 1}']


def test_nothing_is_deleted_where_nothing_can_be_written(
    queue: FakeSqs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: the messages are visible again at once, and the next task writes them."""
    put(queue, [lines_of(0, 99)])

    def refuse(self: LocalOutput, name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalOutput, "put", refuse)
        found = run_task(plan(tmp_path), 0)
    assert found.problem == f"{tmp_path}: No space left on device"
    assert (found.deleted, in_flight(queue)) == (0, 0)
    assert run_task(plan(tmp_path), 0).deleted == 1
    assert seqs_in(tmp_path) == [*range(100)]


def test_a_speculative_copy_of_a_task_loses_nothing(queue: FakeSqs, tmp_path: Path) -> None:
    """Two of the same number at once, on a queue that delivers twice: all of it is there, in files of their own."""
    put(queue, [lines_of(first, first + 9) for first in range(0, 2000, 10)])
    queue.faults(duplicates=0.3, latency_ms=2)
    threads = [threading.Thread(target=run_task, args=(plan(tmp_path, "parquet"), 0)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.messages("q") == []
    assert {*seqs_in(tmp_path)} == {*range(2000)}


def test_a_task_writes_to_s3(queue: FakeSqs, monkeypatch: pytest.MonkeyPatch) -> None:
    """One object a date; s3a:// is what Spark calls it."""
    put(queue, [lines_of(0, 9)])
    with S3Server() as server:
        for name, value in server.environ().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", queue.endpoint)
        assert run_task(plan("s3a://bkt/logs"), 0).files == 1
        (name,) = server.names()
        assert name.startswith("logs/date=2023-11-14/part-00000-")
        assert [item.seq for item in decode(gzip.decompress(server.get(name)))] == [*range(10)]


def test_pyarrow_writes_to_the_rest() -> None:
    """Under a hidden name first; here into its file system in memory."""
    output = open_output("mock:///folder")
    assert isinstance(output, ArrowOutput)
    output.put("date=2026-11-21/a.parquet", b"data")
    found = output._files.get_file_info(FileSelector("folder", recursive=True))
    assert [one.path for one in found if one.is_file] == ["folder/date=2026-11-21/a.parquet"]
    with pytest.raises(SqsteeError, match="cannot write to nonsense://x"):
        open_output("nonsense://x")


@pytest.mark.parametrize("url", ["file:///", "file:/", ""])
def test_a_local_folder_has_several_names(tmp_path: Path, url: str) -> None:
    """As a path, and as Hadoop and Python write it as a URL."""
    to = f"{url}{str(tmp_path)[1:]}" if url else str(tmp_path)
    open_output(f"{to}/new").put("a/b", b"1")
    assert (tmp_path / "new/a/b").read_bytes() == b"1"


def test_dates_and_hosts_are_those_of_the_lines() -> None:
    """A part of many hosts over midnight."""
    bodies = [lines_of(0, 3, "A", "node1"), lines_of(0, 3, "B", "node2"), gap_of(4, 9, "A")]
    later = Body(bodies[1].data.replace(b"2023-11-14", b"2023-11-15").replace(b'"B"', b'"C"'), "C", "node2", 0, 3)
    part = ParquetPart()
    for body in [*bodies, later]:
        assert add_message(part, ReceivedMessage(body.data, {}, "h"))[1] == []
    files = {date: pq.read_table(pa.BufferReader(data)).to_pylist() for date, data in part.files()}
    rows = {
        date: [(row["run"], row["host"], row["seq"], row["last"]) for row in found] for date, found in files.items()
    }
    assert rows == {
        "2023-11-14": [
            *(("A", "node1", seq, seq) for seq in range(4)),
            ("A", "node1", 4, 9),
            *(("B", "node2", seq, seq) for seq in range(4)),
        ],
        "2023-11-15": [("C", "node2", seq, seq) for seq in range(4)],
    }


@given(odd_bodies)
def test_no_line_of_an_odd_body_is_lost(body: bytes) -> None:
    """Each is a record, or is kept as another program's line."""
    message = ReceivedMessage(body, {}, "h")
    lines = [line for line in message.data.split(b"\n") if line]
    part = ParquetPart()
    foreign = add_message(part, message)[1]
    rows = sum(batch.num_rows for batch in part.batches())
    assert (rows, len(foreign)) == (sum(map(_is_ours, lines)), len(lines) - rows)
    text = NdjsonPart()  # does not look into lines that look like sqstee's
    foreign = add_message(text, message)[1]
    files = [gzip.decompress(data) for _, data in text.files()]
    assert sum(len([line for line in data.split(b"\n") if line]) for data in files) + len(foreign) == len(lines)


def _is_ours(line: bytes) -> bool:
    try:
        return bool(decode(line))
    except DecodeError:
        return False
