"""`sqstee web` over what is no store: a queue that it empties, a drained folder, and s3://."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from fakes.s3 import S3Server
from fakes.sqs import FakeSqs
from support import Sqstee, wait_for
from support.board import ServedBoard, showing_source
from support.bodies import in_flight, lines_of, put, put_local, whole_run
from support.collector import stored
from support.lake import batch_objects, write_files

from sqstee.wire import decode

MANY = 150  # bodies of ten lines each


@contextmanager
def consuming(folder: Path, server: FakeSqs, *words: str, **environ: str) -> Iterator[ServedBoard]:
    """`sqstee web q --consume` into `store.db`."""
    more = server.environ() | environ
    with showing_source(folder, "q", "--consume", "--store", f"local:{folder}/store.db", *words, environ=more) as found:
        yield found


def is_empty(server: FakeSqs) -> bool:
    """Whether nothing is left in the queue."""
    return not server.messages("q")


def has_fewer_than(server: FakeSqs, number: int) -> bool:
    """Whether fewer messages are left in the queue."""
    return len(server.messages("q")) < number


def seqs(store: Path, run: str = "RUN") -> list[int]:
    """The seqs of a run's records in a store, as they lie there."""
    return sorted(item.seq for row in stored(store) for item in decode(row.data, row.attributes) if item.run == run)


def test_a_queue_is_emptied_into_the_store_and_shown(tmp_path: Path, fake_sqs: FakeSqs) -> None:
    """Lines come as they are sent; compressed bodies, and what is sent twice, as well."""
    put(fake_sqs, whole_run(5, "RUN"))
    with consuming(tmp_path, fake_sqs) as board:
        wait_for(lambda: is_empty(fake_sqs), "the queue is empty")
        assert [run["state"] for run in board.ask("api/runs").json["runs"]] == ["ok"]
        put(fake_sqs, [lines_of(1, 9, "NEXT").compressed(), *whole_run(5, "RUN")])
        wait_for(lambda: is_empty(fake_sqs), "the queue is empty again")
        assert [one["seq"] for one in board.lines("NEXT")["lines"]][-1] == 9
        board.process.terminate()
        assert board.process.wait(30) == 0
    assert seqs(tmp_path / "store.db") == list(range(7))


def test_what_is_not_sqstees_stays_in_the_queue(tmp_path: Path, fake_sqs: FakeSqs) -> None:
    """It is said once, and released at the end."""
    foreign = ["hello", '{"a":1}', lines_of(1, 2, "R" * 200).data.decode()]
    fake_sqs.put("q", *foreign)
    put(fake_sqs, whole_run(5, "RUN"))
    with consuming(tmp_path, fake_sqs) as board:
        wait_for(lambda: in_flight(fake_sqs) == len(fake_sqs.messages("q")) == 3, "the others are stored")
        board.process.terminate()
        assert board.process.wait(30) == 0
        assert board.process.stderr
        (line,) = board.process.stderr.read().decode().splitlines()
    assert line.startswith("sqstee: q: messages that are not sqstee's stay there: ")
    assert sorted(one.body for one in fake_sqs.messages("q")) == sorted(foreign)
    assert in_flight(fake_sqs) == 0


def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path, fake_sqs: FakeSqs) -> None:
    """Killed again and again while it empties the queue, it stores every line once."""
    for part in range(4):
        bodies = range(part * MANY, (part + 1) * MANY)
        put(fake_sqs, [lines_of(10 * number, 10 * number + 9, "RUN") for number in bodies])
        before = len(fake_sqs.messages("q"))
        with consuming(tmp_path, fake_sqs) as board:
            wait_for(partial(has_fewer_than, fake_sqs, before), "some are deleted")
            board.process.kill()
            board.process.wait()
        gone = len(bodies) * (part + 1) - len(fake_sqs.messages("q"))
        assert len(seqs(tmp_path / "store.db")) >= 10 * gone > 0
        fake_sqs.advance(60)  # what was in flight is visible again
    with consuming(tmp_path, fake_sqs):
        wait_for(lambda: is_empty(fake_sqs), "the queue is empty")
    assert seqs(tmp_path / "store.db") == list(range(4 * 10 * MANY))


def test_a_full_store_stops_receiving(tmp_path: Path, fake_sqs: FakeSqs) -> None:
    """What does not fit stays in the queue, which is said, and the board goes on; later it is stored."""
    large = [lines_of(3000 * number, 3000 * number + 2999, "RUN") for number in range(12)]
    put(fake_sqs, large[:2])
    with consuming(tmp_path, fake_sqs, SQSTEE_LOCAL_MAX="1M") as board:
        put(fake_sqs, large[2:])
        assert board.process.stderr
        line = board.process.stderr.readline().decode()
        assert "store.db is full (1,048,576 bytes): receiving waits" in line
        assert board.ask("api/runs").json["runs"][0]["run"] == "RUN"
        board.process.terminate()
        assert board.process.wait(30) == 0
    assert fake_sqs.messages("q")
    assert in_flight(fake_sqs) == 0
    with consuming(tmp_path, fake_sqs):
        wait_for(lambda: is_empty(fake_sqs), "the rest is stored")
    assert seqs(tmp_path / "store.db") == list(range(36_000))


def test_a_queue_that_does_not_exist_ends_it(sqstee: Sqstee, tmp_path: Path, fake_sqs: FakeSqs) -> None:
    """One line, and a failure."""
    words = ("web", "nope", "--consume", "--store", f"local:{tmp_path}/store.db", "--listen", "127.0.0.1:0")
    found = sqstee.run(*words, environ=fake_sqs.environ())
    assert found.returncode == 1
    assert b"sqstee: nope: " in found.stderr
    assert b"Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("q",), "q: a queue has one reader, which empties it: --consume"),
        (("q", "--consume"), "--consume needs a store"),
        (("local:AT/a.db", "--store", "local:AT/b.db"), "--store needs --consume"),
        (
            ("local:AT/a.db", "--store-days", "3"),
            "a store that is only shown keeps its runs: --store-max and --store-days are for whoever fills it",
        ),
        (("local:AT/a.db", "--consume", "--store", "local:AT/./a.db"), "the store is the source"),
        (("q", "--consume", "--store", "s3://bkt"), "invalid value 's3://bkt' for --store (expected local:PATH)"),
        (("http://127.0.0.1:1/",), "a collector cannot be read: http://127.0.0.1:1/"),
    ],
)
def test_what_does_not_go_together(sqstee: Sqstee, tmp_path: Path, words: Sequence[str], problem: str) -> None:
    """One line and one hint."""
    found = sqstee.run("web", *(word.replace("AT", str(tmp_path)) for word in words))
    lines = found.stderr.decode().splitlines()
    assert lines[0] == f"sqstee: {problem}"
    assert lines[1].startswith("hint: ")
    assert len(lines) == 2
    assert found.returncode


def test_a_drained_folder_is_shown(sqstee: Sqstee, tmp_path: Path) -> None:
    """What a later drain adds follows; the copy is gone at the end."""
    source = put_local(tmp_path / "source.db", *whole_run(5, "RUN"))
    assert sqstee.run("drain", source, "-O", str(tmp_path / "out")).returncode == 0
    (tmp_path / "tmp").mkdir()
    with showing_source(tmp_path, str(tmp_path / "out"), environ={"TMPDIR": str(tmp_path / "tmp")}) as board:
        wait_for(lambda: board.ask("api/runs").json["matched"] == 1, "the run is shown")
        (run,) = board.ask("api/runs").json["runs"]
        assert (run["run"], run["state"]) == ("RUN", "ok")
        put_local(tmp_path / "source.db", *whole_run(5, "NEXT", status=3))
        sqstee.run("drain", source, "-O", str(tmp_path / "out"))
        wait_for(lambda: board.ask("api/runs?failed=1").json["matched"] == 1, "the next run is shown")
        board.process.terminate()
        assert board.process.wait(30) == 0
    assert os.listdir(tmp_path / "tmp") == []


def test_objects_in_s3_are_shown_and_stay(tmp_path: Path, sqstee: Sqstee) -> None:
    """New ones follow."""
    with S3Server() as s3:
        words = ("--to", "s3://bkt/logs", "--job", "first", "--", "echo", "one")
        assert sqstee.run(*words, environ=s3.environ()).returncode == 0
        before = s3.names()
        with showing_source(tmp_path, "s3://bkt/logs", environ=s3.environ()) as board:
            wait_for(lambda: board.ask("api/runs").json["matched"] == 1, "the run is shown")
            assert sqstee.run(*words, environ=s3.environ()).returncode == 0
            wait_for(lambda: board.ask("api/runs").json["matched"] == 2, "the next run is shown")
        assert set(before) < set(s3.names())


def test_a_data_lake_is_shown(tmp_path: Path) -> None:
    """A copy of a Lambda function's objects: the runs of each batch; what is synchronised later follows."""
    write_files(tmp_path / "lake", batch_objects([*whole_run(5, "01A"), *whole_run(4, "01B", status=3)]))
    with showing_source(tmp_path, str(tmp_path / "lake")) as board:
        wait_for(lambda: board.ask("api/runs").json["matched"] == 2, "the runs are shown")
        states = {run["run"]: run["state"] for run in board.ask("api/runs").json["runs"]}
        assert states == {"01A": "ok", "01B": "failed"}
        write_files(tmp_path / "lake", batch_objects(whole_run(2, "01C")))
        wait_for(lambda: board.ask("api/runs").json["matched"] == 3, "the next run is shown")


def test_what_it_moves_is_counted(tmp_path: Path, fake_sqs: FakeSqs) -> None:
    """In /metrics: what was received, deleted and had come before, what is held, and what fails at present."""
    put(fake_sqs, [*whole_run(5, "RUN"), *whole_run(5, "RUN")])
    fake_sqs.put("q", "hello")
    with consuming(tmp_path, fake_sqs) as board:
        names = ("messages_received_total", "messages_deleted_total", "messages_held", "duplicates_total")
        wait_for(lambda: [board.metric(f"sqstee_web_{name}") for name in names] == ["7", "6", "1", "3"], "all counts")
        parts = [f'sqstee_web_trouble{{of="{part}"}}' for part in ("receiving", "storing", "deleting")]
        assert [board.metric(part) for part in parts] == ["0", "0", "0"]
        fake_sqs.faults(errors=[{"operation": "DeleteMessageBatch", "code": "InternalError"}])
        put(fake_sqs, whole_run(5, "NEXT"))
        wait_for(lambda: board.metric(parts[2]) == "1", "trouble with deleting")
        fake_sqs.clear_faults()
        wait_for(lambda: board.metric(parts[2]) == "0", "the end of the trouble")


def test_bodies_in_s3(sqstee: Sqstee, tmp_path: Path, fake_sqs: FakeSqs) -> None:
    """Pointers into --via-s3 are followed, and their objects deleted with the messages."""
    with S3Server() as s3:
        environ = fake_sqs.environ() | {"AWS_ENDPOINT_URL_S3": s3.url}
        via = ("--via-s3", "s3://bkt/bodies")
        assert sqstee.run(*via, "--to", "q", "--", "seq", "100", environ=environ).returncode == 0
        assert s3.names()
        with consuming(tmp_path, fake_sqs, *via, AWS_ENDPOINT_URL_S3=s3.url) as board:
            wait_for(lambda: is_empty(fake_sqs), "the queue is empty")
            (run,) = board.ask("api/runs").json["runs"]
            assert (run["state"], run["lines"]) == ("ok", {"stdout": 100})
            wait_for(lambda: not s3.names(), "deletion of the objects")  # which follows that of the messages


@pytest.mark.parametrize("source", ["s3://bkt/logs", "q"])
def test_a_source_that_cannot_be_read_is_said_at_once(
    sqstee: Sqstee, tmp_path: Path, fake_sqs: FakeSqs, source: str
) -> None:
    """Before any address is printed: one line and one hint."""
    more = () if source != "q" else ("--consume", "--store", f"local:{tmp_path}/store.db")
    environ = fake_sqs.environ() | {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    found = sqstee.run("web", source, *more, "--listen", "127.0.0.1:0", environ=environ)
    line, hint = found.stderr.decode().splitlines()
    assert (found.returncode, line.partition(": No")[0]) == (1, f"sqstee: {source}")
    assert hint.startswith("hint: sqstee check")


def test_what_a_kill_leaves_behind_goes_with_the_next_start(sqstee: Sqstee, tmp_path: Path) -> None:
    """Copies that nobody uses are removed, those of boards that live are not, and nothing else is."""
    source = put_local(tmp_path / "source.db", *whole_run(5, "RUN"))
    assert sqstee.run("drain", source, "-O", str(tmp_path / "out")).returncode == 0
    others = {"sqstee-web-theirs", "sqstee-web-link"}
    (tmp_path / "tmp" / "sqstee-web-theirs").mkdir(parents=True)
    (tmp_path / "tmp" / "sqstee-web-theirs" / "precious").touch()
    (tmp_path / "tmp" / "sqstee-web-link").symlink_to(tmp_path / "out")

    def copies() -> set[str]:
        return set(os.listdir(tmp_path / "tmp")) - others

    def board() -> AbstractContextManager[ServedBoard]:
        return showing_source(tmp_path, str(tmp_path / "out"), environ={"TMPDIR": str(tmp_path / "tmp")})

    with board() as killed:
        killed.process.kill()
        killed.process.wait()
    (left,) = copies()
    with board() as one, board() as other:
        assert len(copies() - {left}) == len(copies()) == 2
        for shown in (one, other):
            wait_for(lambda: shown.ask("api/runs").json["matched"] == 1, "the run is shown")  # noqa: B023
            shown.process.terminate()
            assert shown.process.wait(30) == 0
    assert copies() == set()
    assert (tmp_path / "tmp" / "sqstee-web-theirs" / "precious").exists()
    assert os.listdir(tmp_path / "out")
