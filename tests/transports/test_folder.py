"""A folder that drain made, as a source: what its files and its index know comes back, and nothing else is trusted."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Sqstee
from support.bodies import RUN, event_of, lines_of, whole_run
from support.drain import FAST, assembled, files, index, journal

from sqstee.destination import parse, parse_source
from sqstee.errors import SqsteeError
from sqstee.read.decode import ForeignLine, Item, read
from sqstee.read.line_joiner import join_pieces
from sqstee.record import Encoder
from sqstee.run_summary import RunSummary
from sqstee.transports.folder import FolderReceiver
from sqstee.wire import Event, Record

KINDS = [("streams", False), ("streams", True), ("ndjson", False), ("ndjson", True), ("parquet", False)]


def messages(folder: Path) -> tuple[list[Item], list[ForeignLine], list[str]]:
    """All that a drained folder gives: items, the first of each seq and in order, foreign lines, and problems."""
    receiver = FolderReceiver(str(folder), "logs")
    items: list[Item] = []
    foreign: list[ForeignLine] = []
    problems: list[str] = []
    while found := receiver.receive(10, 0.0):
        for message in found:
            if message.problem:
                problems.append(message.problem)
                continue
            blocks, lines = read(message)
            items += [item for block in blocks for item in block]
            foreign += lines
    receiver.close()
    firsts: dict[tuple[str, int], Item] = {}
    for item in items:
        firsts.setdefault((item.run, item.seq), item)
    return [firsts[key] for key in sorted(firsts)], foreign, problems


def bytes_of(items: list[Item]) -> dict[str, bytes]:
    """The bytes of each stream."""
    found: dict[str, list[bytes]] = {}
    for item in items:
        if isinstance(item, Record):
            found.setdefault(item.stream, []).append(item.data)
    return {stream: b"".join(parts) for stream, parts in found.items()}


def summary_of(items: list[Item]) -> dict[str, object]:
    """What a reader knows of a run from its items."""
    found = RunSummary(RUN)
    found.add_items(items, 0.0)
    return found.fields(0.0, 1e9)


SAME = ("run", "job", "name", "host", "labels", "ended", "duration_s", "exit_code", "signal", "state", "result",
        "lines", "bytes", "missing", "dropped", "elsewhere")  # fmt: skip


class TestReading:
    @pytest.mark.parametrize(("layout", "packed"), KINDS)
    @given(
        chunks=st.lists(
            st.tuples(st.sampled_from(["stdout", "stderr"]), st.lists(st.binary(max_size=9)), st.booleans()), max_size=6
        ),
        exit_code=st.sampled_from([None, 0, 3]),
    )
    @settings(max_examples=8, deadline=None)
    def test_what_was_written_comes_back(
        self,
        layout: str,
        packed: bool,
        chunks: list[tuple[str, list[bytes], bool]],
        exit_code: int | None,
    ) -> None:
        """The bytes of each stream, without a false gap, and what is known of the run, from the index as well."""
        encoder = Encoder(RUN, "h", "j", {"a": "b"})
        sent = event_of("start", 0, name="prog", version="1", host="h", job="j").data
        sent = sent.replace(b',"seq"', b',"labels":{"a":"b"},"seq"', 1)
        seq = 1
        for stream, lines, eol in chunks:
            if block := b"\n".join(line.replace(b"\n", b"") for line in lines) + b"\n" * eol:
                sent += encoder.lines(block, stream, 1_700_000_000_000_000_000, seq, eol=block.endswith(b"\n"))
                seq += block.count(b"\n") + (not block.endswith(b"\n"))
        if exit_code is not None:
            sent += event_of("exit", seq, host="h", job="j", exit_code=exit_code, duration_s=1.5, bytes=seq).data
        folder = Path(tempfile.mkdtemp())
        try:
            journal(folder, sent)
            assembled(folder, layout, packed)
            items, foreign, problems = messages(folder)
            (known,) = FolderReceiver(str(folder), "logs").summaries()
            journal(folder / "again", *(json.dumps(item.fields).encode() + b"\n" for item in items))
            assembled(folder / "again", layout, packed)
            again = files(folder / "again")
            first = {name: data for name, data in files(folder).items() if not name.startswith("again")}
        finally:
            shutil.rmtree(folder)
        original, _ = read_all(sent)
        assert (foreign, problems) == ([], [])
        assert bytes_of(items) == bytes_of(original)
        assert [item.seq for item in items] == [*range(len(items))]
        before, after = summary_of(original), summary_of(items)
        assert {name: after[name] for name in SAME} == {name: before[name] for name in SAME}
        listed = known.fields(0.0, 1e9)
        assert {name: listed[name] for name in SAME} == {name: before[name] for name in SAME}
        if layout == "streams" and not packed:
            assert again == first

    @pytest.mark.parametrize(("layout", "packed"), KINDS)
    def test_what_is_missing_stays_missing(self, tmp_path: Path, layout: str, packed: bool) -> None:
        """As many lines as never came, were dropped, or went elsewhere, and no other."""
        moved: dict[str, Any] = {"from": 6, "to": 9, "reason": "fallback", "at": "local:x"}
        dropped: dict[str, Any] = {"from": 10, "to": 10, "reason": "full"}
        gaps = [event_of("gap", 6, **moved), event_of("gap", 10, **dropped)]
        bodies = [event_of("start", 0, version="1"), lines_of(1, 2), *gaps, lines_of(11, 12), event_of("exit", 15)]
        journal(tmp_path, *(body.data for body in bodies))
        assembled(tmp_path, layout, packed)
        items, _, problems = messages(tmp_path)
        (known,) = FolderReceiver(str(tmp_path), "logs").summaries()
        assert problems == []
        for fields in (summary_of(items), known.fields(0.0, 1e9)):
            assert (fields["missing"], fields["elsewhere"], fields["dropped"]) == (5, 4, 1)
            assert fields["fallback"] == "local:x"
        assert known.missing_ranges() == [(3, 5), (13, 14)]

    def test_a_line_that_came_in_pieces(self, tmp_path: Path) -> None:
        """It is one record in the NDJSON layout, and covers as many seqs as it had pieces."""
        encoder = Encoder(RUN, "node1")
        parts = [(b"\xc3", 1, False), (b"\xa9 and", 2, False), (b" end\n", 3, True), (b"next\n", 4, True)]
        data = b"".join(encoder.lines(text, "stdout", 0, seq, eol=eol) for text, seq, eol in parts)
        journal(tmp_path, event_of("start", 0).data + data + event_of("exit", 5).data)
        assembled(tmp_path, "ndjson")
        assert b'"last":3' in files(tmp_path)[f"node1/{RUN}.ndjson"]
        items, foreign, _ = messages(tmp_path)
        assert [item.seq for item in items] == [*range(6)]
        joined = [item for item in join_pieces(items) if isinstance(item, Record)]
        assert [line.data for line in joined] == ["é and end\n".encode(), b"next\n"]
        assert foreign == []

    @pytest.mark.parametrize("packed", [False, True])
    def test_a_long_line_and_many_short_ones(self, tmp_path: Path, packed: bool) -> None:
        """Bodies are of bounded size, whatever the lines are."""
        text = "é".encode() * 60_000 + b"\n" + b"\n" * 60_000
        journal(tmp_path, Encoder(RUN, "h").lines(b"x\n", "stdout", 0, 0))
        assembled(tmp_path, "streams", packed)
        (path,) = (tmp_path / name for name in files(tmp_path))
        path.write_bytes(gzip.compress(text) if packed else text)
        receiver = FolderReceiver(str(tmp_path), "logs")
        found = []
        while some := receiver.receive(10, 0.0):
            assert max(len(one.data) for one in some) < 1_000_000
            found += [item for one in some for block in read(one)[0] for item in block]
        assert bytes_of(found) == {"stdout": text}
        assert all(item.raw is None for item in found if isinstance(item, Record))

    def test_lines_in_pieces_that_were_given_up_at_the_exit(self, tmp_path: Path) -> None:
        """Their seqs lie within each other's, and the bytes of each are there."""
        encoder = Encoder(RUN, "node1")
        order = [("a", b"a1"), ("b", b"b1"), ("c", b"c1"), ("c", b"c2"), ("b", b"b2"), ("d", b"d\n"), ("a", b"a2")]
        data = b"".join(
            encoder.lines(text, stream, 0, seq, eol=text.endswith(b"\n")) for seq, (stream, text) in enumerate(order, 1)
        )
        journal(tmp_path, event_of("start", 0).data + data + event_of("exit", 8).data)
        assembled(tmp_path, "ndjson")
        items, _, _ = messages(tmp_path)
        assert [item.seq for item in items] == [*range(9)]
        assert bytes_of(items) == {"a": b"a1a2", "b": b"b1b2", "c": b"c1c2", "d": b"d\n"}

    def test_foreign_lines_are_foreign_again(self, tmp_path: Path) -> None:
        """With the time, the attributes and the bytes that they came with."""
        journal(tmp_path, b"plain text\n", id="a")
        journal(tmp_path, b"\xff\n", id="b")
        assembled(tmp_path)
        items, foreign, problems = messages(tmp_path)
        assert (items, problems) == ([], [])
        assert [(line.data, line.sent) for line in foreign] == [
            (b"plain text", "1970-01-01T00:00:01.500000Z"),
            (b"\xff", "1970-01-01T00:00:01.500000Z"),
        ]

    def test_a_new_index_brings_new_runs(self, tmp_path: Path) -> None:
        """A drain into the folder while it is followed: each run once."""
        for number, run in enumerate(("01A", "01B")):
            journal(tmp_path, *(body.data for body in whole_run(2, run)))
            assembled(tmp_path)
            if not number:
                receiver = FolderReceiver(str(tmp_path), "logs")
            found = {item.run for one in receiver.receive(10, 0.0) for block in read(one)[0] for item in block}
            assert found == {run}
        assert receiver.receive(10, 0.0) == []


def read_all(data: bytes) -> tuple[list[Item], list[ForeignLine]]:
    """The items of NDJSON."""
    from sqstee.transports.base import ReceivedMessage

    blocks, foreign = read(ReceivedMessage(data, {}, ""))
    return [item for block in blocks for item in block], foreign


def _replace_by_link(folder: Path) -> None:
    (folder / "secret").write_text("secret\n")
    (folder / "logs/node1" / f"{RUN}.stdout").unlink()
    (folder / "logs/node1" / f"{RUN}.stdout").symlink_to(folder / "secret")


def _replace_host_by_link(folder: Path) -> None:
    (folder / "logs/node1").rename(folder / "elsewhere")
    (folder / "logs/node1").symlink_to(folder / "elsewhere")


def _replace_by_fifo(folder: Path) -> None:
    (folder / "logs/node1" / f"{RUN}.stdout").unlink()
    os.mkfifo(folder / "logs/node1" / f"{RUN}.stdout")


def _make_unpackable(folder: Path) -> None:
    (folder / "logs/node1" / f"{RUN}.stdout").rename(folder / "logs/node1" / f"{RUN}.stdout.gz")
    _change_index(folder, lambda fields: {"files": [f"node1/{RUN}.stdout.gz"]})


def _change_index(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    fields = index(folder / "logs")[RUN]
    (folder / "logs/runs.ndjson").write_text(json.dumps(fields | change(fields)) + "\n")


class TestHostile:
    @pytest.mark.parametrize("change", [_replace_by_link, _replace_host_by_link, _replace_by_fifo, _make_unpackable])
    def test_a_file_that_is_not_drains(self, tmp_path: Path, change: Callable[[Path], None]) -> None:
        """No link is followed and no FIFO waited for; the file is named, and the rest of the run comes."""
        journal(tmp_path / "logs", *(body.data for body in [event_of("start", 0, version="1"), *whole_run(2)[1:]]))
        assembled(tmp_path / "logs")
        change(tmp_path)
        items, foreign, (problem,) = messages(tmp_path / "logs")
        assert problem.startswith(f"{tmp_path}/logs/node1/{RUN}.stdout")
        assert [item.event for item in items if isinstance(item, Event)] == ["start", "exit"]
        assert (len(items), foreign) == (2, [])

    @pytest.mark.parametrize(
        "names",
        [["../secret"], ["/etc/passwd"], ["node1/../../secret"], [".sqstee/state.db"], ["secret"], [7, None], ["a/\0"]],
    )
    def test_an_index_cannot_name_other_files(self, tmp_path: Path, names: list[object]) -> None:
        """Whatever it says: only files of the form HOST/FILE in the folder are read."""
        (tmp_path / "secret").write_text("secret\n")
        journal(tmp_path / "logs", *(body.data for body in whole_run(2)))
        assembled(tmp_path / "logs")
        _change_index(tmp_path, lambda fields: {"files": names})
        assert bytes_of(messages(tmp_path / "logs")[0]) == {}

    @settings(max_examples=15, deadline=None)
    @given(st.dictionaries(st.sampled_from(["run", "host", "labels", "lines", "started", "ended", "missing",
        "fallbacks", "missing_ranges", "dropped", "layout", "files", "open", "exit_code", "version", "command", "job",
        "heard"]),
        st.one_of(st.none(), st.integers(), st.text(max_size=3), st.just("\ud800"), st.just(2**70), st.just(-1),
        st.lists(st.integers()), st.just([[5, 2], [1, 2**60]]), st.dictionaries(st.text(max_size=2), st.integers()),
        st.just("9999-12-31T23:59:59Z"), st.just("0001-01-01T00:00:00Z"))))  # fmt: skip
    def test_whatever_an_entry_holds(self, fields: dict[str, Any]) -> None:
        """Nothing is raised, and the run beside it is read."""
        folder = Path(tempfile.mkdtemp())
        try:
            journal(folder / "logs", *(body.data for body in whole_run(2)))
            assembled(folder / "logs")
            _change_index(folder, lambda found: fields)
            journal(folder / "other", *(body.data for body in whole_run(3, "OTHER")))
            assembled(folder / "other")
            shutil.copytree(folder / "other/node1", folder / "logs/node1", dirs_exist_ok=True)
            with (folder / "logs/runs.ndjson").open("a") as file:
                file.write("junk\n[]\n" + "x" * 200_000 + "\n" + (folder / "other/runs.ndjson").read_text())
            items, _, _ = messages(folder / "logs")
            assert sum(item.run == "OTHER" for item in items) >= 4
            assert "OTHER" in [one.run for one in FolderReceiver(str(folder / "logs"), "").summaries()]
        finally:
            shutil.rmtree(folder)


def test_one_run_is_read_alone(tmp_path: Path) -> None:
    """Neither the files of others nor other programs' messages are opened for `sqstee show`."""
    journal(tmp_path, *(body.data for run in ("01A", "01AB") for body in whole_run(2, run)), b"foreign")
    assembled(tmp_path, "streams", False)
    receiver = FolderReceiver(str(tmp_path), "logs")
    receiver.narrow(["01A"])
    found = receiver.receive(100, 0.0)
    assert found
    assert {message.id.partition("/")[0] for message in found} == {"01A"}


class TestNames:
    @pytest.mark.parametrize("text", ["logs/", "./logs", "../x", "/var/log/x", "a/b", ".", ".."])
    def test_a_path_is_a_source_and_no_destination(self, text: str) -> None:
        """Readers take it for a folder; writers refuse it."""
        assert parse_source(text).kind == "folder"
        with pytest.raises(SqsteeError, match="a folder can only be read"):
            parse(text)

    @pytest.mark.parametrize("text", ["logs", "s3://bucket/x", "https://host/x", "local:a/b"])
    def test_other_forms_mean_what_they_always_mean(self, text: str) -> None:
        """A plain name is a queue, whatever is beside it."""
        assert parse_source(text).kind == parse(text).kind != "folder"

    def test_for_people(self, sqstee: Sqstee, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each mistake is one line and a hint; what is right is read, and nothing in it changes."""
        monkeypatch.chdir(sqstee.folder)
        sqstee.run("--host", "h", "--job", "j", "--", "sh", "-c", "echo one; echo two >&2; exit 3")
        assert sqstee.run("drain", "local", "-O", "logs", *FAST).returncode == 0
        before = files(sqstee.folder / "logs")
        for name in ("./none", "./logs/runs.ndjson", "./spool", "logs"):
            found = sqstee.run("tail", name, "--no-follow")
            assert (found.returncode, found.stderr.count(b"\n")) == (125, 2)
            assert b"\nhint: " in found.stderr
        for name in ("./logs", "logs/"):
            found = sqstee.run("tail", name, "--no-follow")
            assert (found.returncode, found.stderr) == (0, b"")
            assert b"h stdout one\nh stderr two\nh event  j: exited with status 3" in found.stdout
        (sqstee.folder / "logs" / "notes").write_text("mine")
        found = sqstee.run("drain", "./logs", "-O", "copy", *FAST)
        assert found.stderr == b"sqstee: ./logs: 1 file not in runs.ndjson, left out: notes\n"
        assert b"complete h j: 2 lines, exited with status 3\n" in found.stdout
        assert files(sqstee.folder / "copy") == before
        assert sqstee.run("drain", "./logs", "-O", "logs").returncode == 125
        assert b"a folder can only be read" in sqstee.run("--to", "logs/", "--", "true").stderr
