"""sqstee drain --layout parquet: files that are never appended to, each row once, whatever happens on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fakes.sqs import FakeSqs
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Rebuilt, Sqstee
from support.at_rest import VERDICTS, backlog, digest, digests
from support.bodies import RUN, event_of, expected, gap_of, lines_of, put, whole_run
from support.drain import FAST, assembled, drained, files, index, journal
from support.odd_bodies import bodies as odd_bodies

from sqstee.at_rest.arrow import SCHEMA, ndjson_of
from sqstee.drain import parquet
from sqstee.drain.files import check_layout
from sqstee.errors import SqsteeError
from sqstee.extras import install_command
from sqstee.fds import open_fds


def parts(folder: Path) -> list[Path]:
    """The Parquet files that an engine finds."""
    return sorted((folder / "lines").glob("*/*/*.parquet"))


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows, by run and seq."""
    found = [row for path in parts(folder) for row in pq.ParquetFile(path).read().to_pylist()]
    return sorted(found, key=lambda row: (row["run"], row["seq"]))


def seqs(folder: Path, run: str = RUN) -> list[int]:
    """The seqs of a run, of each row."""
    return [row["seq"] for row in rows(folder) if row["run"] == run]


def rebuilt(folder: Path) -> dict[str, Rebuilt]:
    """The runs in the rows."""
    hosts = {run: fields["host"] for run, fields in index(folder).items()}
    batches = [batch for path in parts(folder) for batch in pq.ParquetFile(path).iter_batches()]
    return Rebuilt.of_many((line, {}) for batch in batches for line in ndjson_of(batch, hosts))


class TestFiles:
    def test_the_same_bytes_as_the_files_of_streams(self, tmp_path: Path) -> None:
        """Run by run, in one row for each seq; the verdicts are the same."""
        for layout in ("streams", "parquet"):
            journal(tmp_path / layout, *(body.data for body in backlog()))
            verdicts = assembled(tmp_path / layout, layout)
            assert {run: verdict.outcome for run, verdict in verdicts.items()} == VERDICTS
        found = rebuilt(tmp_path / "parquet")
        assert {key: digest(found[key[0]].stream(key[1])) for key in digests(backlog())} == digests(backlog())
        assert all(one.duplicates == 0 for one in found.values())
        same = [{**one, "layout": "", "files": []} for folder in ("streams", "parquet")
                for one in index(tmp_path / folder).values()]  # fmt: skip
        assert same[: len(VERDICTS)] == same[len(VERDICTS) :]

    def test_what_engines_find(self, tmp_path: Path) -> None:
        """Partitions by date and host, one schema, rows by run and seq, files of several runs, and nothing beside."""
        for run in ("A", "B"):
            journal(tmp_path, *(body.data for body in whole_run(3, run)))
        assembled(tmp_path, "parquet")
        (path,) = parts(tmp_path)
        assert path.parent == tmp_path / "lines/date=2023-11-14/host=node1"
        assert index(tmp_path)["A"]["files"] == ["lines/date=2023-11-14/host=node1"]
        file = pq.ParquetFile(path)
        assert file.schema_arrow.equals(SCHEMA)
        order = [(row["run"], row["seq"]) for row in file.read().to_pylist()]
        assert order == [(run, seq) for run in "AB" for seq in range(5)]
        kinds = {(column["path_in_schema"], column["compression"]) for column in
                 (file.metadata.row_group(0).column(place).to_dict() for place in range(4))}  # fmt: skip
        assert kinds == {("run", "ZSTD"), ("seq", "ZSTD"), ("last", "ZSTD"), ("time", "ZSTD")}
        everything = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if ".sqstee" not in path.parts}
        parents = {"lines", "lines/date=2023-11-14", "lines/date=2023-11-14/host=node1"}
        assert everything == {"runs.ndjson", str(path.relative_to(tmp_path)), *parents}

    def test_a_hole_that_is_filled(self, tmp_path: Path) -> None:
        """Rows behind a hole are there at once, and replaced later; those before it are never written again."""
        start, _, end = whole_run(9)
        journal(tmp_path, start.data, lines_of(1, 2).data, lines_of(6, 7).data)
        assert assembled(tmp_path, "parquet")[RUN].outcome == "missing"
        assert seqs(tmp_path) == [0, 1, 2, 6, 7]
        first, second = parts(tmp_path)
        assert (first.name.endswith("1.parquet"), second.name.endswith(".open.parquet")) == (True, True)
        before = first.stat()
        journal(tmp_path, lines_of(5, 8).data, lines_of(2, 4).data)
        assert assembled(tmp_path, "parquet")[RUN].outcome == "open"
        assert seqs(tmp_path) == [*range(9)]
        assert parts(tmp_path)[0].stat() == before
        assert second not in parts(tmp_path)
        assert assembled(tmp_path, "parquet")[RUN].outcome == "open"  # nothing came
        journal(tmp_path, lines_of(9, 9).data, end.data, lines_of(0, 9).data)
        assert assembled(tmp_path, "parquet")[RUN].outcome == "complete"
        assert seqs(tmp_path) == [*range(11)]
        assert rebuilt(tmp_path)[RUN].stdout == expected(1, 9)
        assert os.listdir(tmp_path / ".sqstee/parts") == []

    def test_a_gap_event_has_a_row_for_what_it_covers(self, tmp_path: Path) -> None:
        """Records win over its other seqs; when all have come it has none."""
        gap = gap_of(3, 8, reason="full", message="6 lines")
        journal(tmp_path, lines_of(0, 2).data, gap.data, lines_of(5, 6).data, event_of("exit", 9).data)
        assembled(tmp_path, "parquet")
        assert [(row["seq"], row["last"]) for row in rows(tmp_path) if row["event"] == "gap"] == [(3, 4), (7, 8)]
        assert {row["message"] for row in rows(tmp_path) if row["event"] == "gap"} == {"6 lines"}
        journal(tmp_path, lines_of(3, 8).data)
        assert assembled(tmp_path, "parquet")[RUN].outcome == "complete"
        assert seqs(tmp_path) == [*range(10)]

    def test_very_many_partitions(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """However few files may be open, and however little may wait in memory."""
        monkeypatch.setattr(parquet, "_MOST_OPEN", 4)
        monkeypatch.setattr(parquet, "_MOST_PARTS", 50)
        monkeypatch.setattr(parquet, "_PENDING_BYTES", 20_000)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        runs = [whole_run(3, f"R{number:03}", host=f"h{number % 100}") for number in range(200)]
        journal(tmp_path, *(body.data for run in runs for body in run))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_fds()) + 30, before[1]))
        try:
            assembled(tmp_path, "parquet")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert len(rows(tmp_path)) == 1000
        assert len({path.parent for path in parts(tmp_path)}) == 100
        assert {verdict["verdict"] for verdict in index(tmp_path).values()} == {"complete"}

    def test_long_runs_are_in_several_row_groups(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each holds a range of (run, seq)."""
        monkeypatch.setattr(parquet, "_GROUP_ROWS", 100)
        journal(tmp_path, *(lines_of(first, first + 49).data for first in range(0, 1000, 50)))
        assembled(tmp_path, "parquet")
        (path,) = parts(tmp_path)
        metadata = pq.ParquetFile(path).metadata
        assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [100] * 10
        assert metadata.row_group(3).column(1).statistics.min == 300


@settings(max_examples=15)
@given(st.permutations(range(12)), st.sets(st.integers(1, 11), max_size=3), st.sampled_from([1, 3]))
def test_any_order_in_several_drains(order: list[int], cuts: set[int], lines: int) -> None:
    """After each drain every row that came is there once; at the end the run is complete."""
    with tempfile.TemporaryDirectory() as name:
        folder, came = Path(name), 0
        for last in (*sorted(cuts), len(order)):
            bodies = [lines_of(lines * part, lines * (part + 1) - 1).data for part in order[came:last]]
            journal(folder, *bodies, *bodies[:1])
            verdicts = assembled(folder, "parquet")
            came = last
            assert seqs(folder) == sorted(lines * part + one for part in order[:came] for one in range(lines))
        assert (verdicts[RUN].missing, rebuilt(folder)[RUN].stdout) == (0, expected(0, 12 * lines - 1))
        assert not any(path.name.endswith(".open.parquet") for path in parts(folder))


class Killed(BaseException):
    """A kill in the midst of it."""


@pytest.mark.parametrize("name", ["rename", "unlink", "fdatasync"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_kill_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Before the transaction ends nothing is visible; behind it the next drain makes the rest of the moves."""
    start, _, end = whole_run(9)
    journal(tmp_path, start.data, lines_of(1, 2).data, lines_of(6, 7).data, *(one.data for one in whole_run(3, "B")))
    assembled(tmp_path, "parquet")
    journal(tmp_path, lines_of(3, 5).data, lines_of(9, 9).data, *(one.data for one in whole_run(3, "C", host="other")))
    left = number
    call: Callable[..., object] = getattr(os, name)

    def killed(*words: Any) -> object:
        nonlocal left
        left -= 1
        if not left:
            raise Killed
        return call(*words)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, killed)
        try:
            assembled(tmp_path, "parquet")
        except Killed:
            pass
    found = [(row["run"], row["seq"]) for row in rows(tmp_path)]
    assert len(found) == len(set(found))
    journal(tmp_path, lines_of(8, 8).data, end.data)
    (tmp_path / ".sqstee/parts/left-behind.parquet").touch()
    assembled(tmp_path, "parquet")
    assert {fields["verdict"] for fields in index(tmp_path).values()} == {"complete"}
    assert seqs(tmp_path) == [*range(11)]
    assert seqs(tmp_path, "B") == seqs(tmp_path, "C") == [*range(5)]
    assert os.listdir(tmp_path / ".sqstee/parts") == []


def test_a_full_disk_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal stays, no file is left behind, and the next drain writes everything."""
    journal(tmp_path, *(body.data for body in whole_run(9)))

    def full(part: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parquet._Part, "sync", full)
        with pytest.raises(OSError, match="No space"):
            assembled(tmp_path, "parquet")
    assert parts(tmp_path) == []
    assert os.listdir(tmp_path / ".sqstee/parts") == []
    assert assembled(tmp_path, "parquet")[RUN].outcome == "complete"
    assert seqs(tmp_path) == [*range(11)]


class TestCommands:
    def test_a_command_as_it_ran(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """From the queue into tables, and shown from them: the same lines as from the queue."""
        command = ("sh", "-c", "printf 'a\\n\\377\\376 raw\\n'; echo err >&2; printf 'no newline'; exit 3")
        made = sqstee.run("--to", "q", "--host", "node1", "--job", "j", "--", *command, environ=fake_sqs.environ())
        found = drained(sqstee, fake_sqs, "--layout", "parquet", "--fail-on", "failed,missing,open")
        assert (found.returncode, found.stderr) == (5, b"")
        assert b"complete node1 j: 4 lines, exited with status 3" in found.stdout
        out = str(sqstee.folder / "out/")
        runs = sqstee.run("runs", f"{out}/", "-o", "json")
        assert [json.loads(line)["state"] for line in runs.stdout.splitlines()] == ["failed"]
        shown = sqstee.run("show", "--last", f"{out}/", "-o", "raw")
        assert (shown.returncode, shown.stderr) == (0, b"")
        streams = sqstee.run("drain", f"{out}/", "-O", str(sqstee.folder / "again"), *FAST)
        assert streams.stderr == b""
        got = {Path(name).suffix: data for name, data in files(sqstee.folder / "again").items()}
        assert got == {".stdout": made.stdout, ".stderr": made.stderr}
        tailed = sqstee.run("tail", f"{out}/", "--no-follow")
        assert (tailed.returncode, tailed.stderr) == (0, b"")
        assert b"node1 stderr err\n" in tailed.stdout

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--gzip",), "--gzip is not for --layout parquet"),
            (("--layout", "parquett"), "invalid value 'parquett' for --layout"),
        ],
    )
    def test_bad_input(self, sqstee: Sqstee, words: tuple[str, ...], message: str) -> None:
        """One line and one hint, before anything is received, and without a folder."""
        found = sqstee.run("drain", "q", "-O", "x", "--layout", "parquet", *words)
        assert found.returncode == 125
        assert found.stderr.decode().startswith(f"sqstee: {message}")
        assert found.stderr.count(b"\n") == 2
        assert not Path("x").exists()

    def test_without_pyarrow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is an extra: the hint says how to install it."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SqsteeError) as caught:
            check_layout("parquet", False)
        assert (caught.value.hint, caught.value.exit_code) == (install_command("parquet"), 1)

    def test_another_layout_in_the_same_folder_is_refused(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """As between the others."""
        put(fake_sqs, whole_run(3))
        assert drained(sqstee, fake_sqs, "--layout", "parquet").returncode == 0
        found = drained(sqstee, fake_sqs)
        assert (found.returncode, b"was drained into with --layout parquet" in found.stderr) == (125, True)


@settings(max_examples=30)
@given(odd_bodies)
def test_an_odd_body_is_drained(body: bytes) -> None:
    """Whatever is in it: the run beside it is complete, nothing is written outside the folder, and all can be read."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "out"
        journal(folder, body, *(one.data for one in whole_run(3)), body[::-1])
        verdicts = assembled(folder, "parquet")
        assert verdicts[RUN].outcome == "complete"
        assert os.listdir(parent) == ["out"]
        found = rebuilt(folder)
        assert set(found) == {run for run, verdict in verdicts.items() if verdict.fields["files"]}
        assert all(one.duplicates == 0 for one in found.values())
