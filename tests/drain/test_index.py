"""`runs.ndjson`: what is known of every run that was drained into a folder."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fakes.sqs import FakeSqs
from support import Sqstee
from support.bodies import RUN, event_of, lines_of, whole_run
from support.drain import FAST, assembled, drained, files, index, journal

from sqstee.drain.store import Store


class TestFacts:
    @pytest.mark.parametrize("words", [(), ("--layout", "ndjson", "--gzip")])
    def test_a_command_as_it_ran(self, sqstee: Sqstee, fake_sqs: FakeSqs, words: tuple[str, ...]) -> None:
        """Names, labels, times, status, lines by stream and the last line of stderr, in the folder and in -o json."""
        run = ("--to", "q", "--host", "node1", "--job", "j", "--label", "a=b")
        command = ("sh", "-c", "echo 1; echo 2; echo why >&2; exit 3")
        sqstee.run(*run, "--", *command, environ=fake_sqs.environ())
        found = drained(sqstee, fake_sqs, "-o", "json", *words)
        assert found.returncode == 0
        fields = json.loads(found.stdout)
        assert index(sqstee.folder / "out") == {fields["run"]: fields}
        expected: dict[str, Any] = {
            "host": "node1",
            "job": "j",
            "labels": {"a": "b"},
            "state": "failed",
            "verdict": "complete",
        }
        expected |= {"exit_code": 3, "signal": None, "lines": {"stdout": 2, "stderr": 1}, "last_stderr": "why"}
        expected |= {"missing": 0, "dropped": 0, "elsewhere": 0, "duplicates": 0, "bytes": 8}
        assert {name: fields[name] for name in expected} == expected
        assert fields["started"] <= fields["ended"] <= fields["heard"]
        assert fields["duration_s"] >= 0
        assert sorted(fields["files"]) == sorted(files(sqstee.folder / "out"))

    def test_events_far_from_each_other(self, tmp_path: Path) -> None:
        """A run over several drains, with a hole that is filled: the facts of each part are kept."""
        start = event_of("start", 0, name="prog", version="1")
        error = lines_of(1, 2, stream="stderr")
        journal(tmp_path, start.data, error.data, lines_of(6, 9).data)
        assembled(tmp_path)
        fields = index(tmp_path)[RUN]
        assert (fields["name"], fields["lines"], fields["missing"]) == ("prog", {"stderr": 2, "stdout": 4}, 3)
        assert (fields["missing_ranges"], fields["verdict"], fields["state"]) == ([[3, 5]], "missing", "missing")
        journal(tmp_path, event_of("exit", 10, signal=9, duration_s=2.5, bytes=77).data, lines_of(3, 5).data)
        assembled(tmp_path)
        fields = index(tmp_path)[RUN]
        assert (fields["name"], fields["lines"], fields["missing"]) == ("prog", {"stderr": 2, "stdout": 7}, 0)
        assert (fields["exit_code"], fields["signal"], fields["duration_s"], fields["bytes"]) == (None, 9, 2.5, 77)
        assert (fields["last_stderr"], fields["last_line"], fields["state"]) == ("line 2", "line 9", "failed")

    def test_what_a_gap_event_covers(self, tmp_path: Path) -> None:
        """Lines that were dropped, and lines that are at the fallback."""
        dropped: dict[str, Any] = {"from": 1, "to": 3, "reason": "full"}
        moved: dict[str, Any] = {"from": 4, "to": 5, "reason": "fallback", "at": "local:x"}
        bodies = [event_of("start", 0), event_of("gap", 1, **dropped), event_of("gap", 4, **moved), lines_of(6, 6)]
        journal(tmp_path, *(body.data for body in bodies))
        assembled(tmp_path)
        fields = index(tmp_path)[RUN]
        assert (fields["dropped"], fields["elsewhere"], fields["fallbacks"]) == (3, 2, {"local:x": 2})
        assert (fields["missing"], fields["verdict"]) == (0, "open")

    def test_a_hole_behind_every_line(self, tmp_path: Path) -> None:
        """However many there are: they are counted in bounded memory, and the first ones named."""
        journal(tmp_path, *(lines_of(seq, seq).data for seq in range(0, 6000, 2)))
        assembled(tmp_path)
        fields = index(tmp_path)[RUN]
        assert (fields["missing"], sum(fields["lines"].values()), fields["missing_ranges"][0]) == (2999, 3000, [1, 1])

    @pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "t", ""])
    def test_whatever_time_a_record_has(self, tmp_path: Path, moment: str) -> None:
        """A sender's clock may be wrong in any way."""
        data = lines_of(0, 2).data + event_of("exit", 3, exit_code=0).data
        journal(tmp_path, re.sub(rb'"timestamp":"[^"]*"', b'"timestamp":"%s"' % moment.encode(), data))
        assert assembled(tmp_path)[RUN].outcome == "complete"
        assert index(tmp_path)[RUN]["ended"] == moment

    def test_records_without_a_time(self, tmp_path: Path) -> None:
        """The files take what only misses that, once the run is known."""
        journal(tmp_path, lines_of(0, 2).data)
        journal(tmp_path, re.sub(rb'"timestamp":"[^"]*",', b"", lines_of(3, 5).data))
        assert assembled(tmp_path)[RUN].lines == 6


class TestFolder:
    def test_every_drain_adds_to_it(self, sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
        """Runs of earlier drains stay in it, in the order of their ids; an empty drain keeps it."""
        for run in ("01B", "01A"):
            for body in whole_run(2, run):
                fake_sqs.put("q", body.data.decode())
            assert drained(sqstee, fake_sqs).returncode == 0
        assert drained(sqstee, fake_sqs).returncode == 0
        assert list(index(sqstee.folder / "out")) == ["01A", "01B"]

    def test_a_host_of_its_name(self, tmp_path: Path) -> None:
        """The index is not in the way of that host's folder."""
        journal(tmp_path, *(body.data for body in whole_run(2, host="runs.ndjson")))
        assembled(tmp_path)
        assert index(tmp_path)[RUN]["files"] == [f"%72uns.ndjson/{RUN}.stdout"]
        assert list(files(tmp_path)) == [f"%72uns.ndjson/{RUN}.stdout"]

    def test_a_state_without_summaries_is_upgraded(self, tmp_path: Path) -> None:
        """What it knows is in the index, and the runs go on where they stopped."""
        journal(tmp_path, *(body.data for body in (event_of("start", 0), lines_of(1, 4))))
        assembled(tmp_path)
        database = sqlite3.connect(tmp_path / ".sqstee" / "state.db")
        (sizes,) = database.execute("SELECT sizes FROM assembled_run").fetchone()
        database.executescript(
            "DROP TABLE assembled_run; CREATE TABLE unfinished (run TEXT PRIMARY KEY, streams TEXT NOT NULL);"
            "CREATE TABLE run (run TEXT PRIMARY KEY, host TEXT NOT NULL, job TEXT NOT NULL, next INTEGER NOT NULL,"
            "lines INTEGER NOT NULL, sizes TEXT NOT NULL, ended INTEGER NOT NULL, result TEXT NOT NULL)"
        )
        database.execute("INSERT INTO run VALUES (?, 'node1', 'j', 5, 4, ?, 0, '')", (RUN, sizes))
        database.execute("INSERT INTO run VALUES ('OLD', 'node1', 'j', 5, 4, '{}', 1, 'exited with status 3')")
        database.commit()
        database.close()
        journal(tmp_path, lines_of(5, 6).data, event_of("exit", 7, exit_code=0).data)
        assert assembled(tmp_path)[RUN].outcome == "complete"
        found = index(tmp_path)
        assert (found["OLD"]["exit_code"], found["OLD"]["state"], found["OLD"]["job"]) == (3, "failed", "j")
        assert (found[RUN]["lines"], found[RUN]["missing"]) == ({"stdout": 6}, 0)
        assert files(tmp_path)[f"node1/{RUN}.stdout"].count(b"\n") == 6

    def test_an_index_that_cannot_be_written(self, sqstee: Sqstee, tmp_path: Path) -> None:
        """The verdicts are printed all the same, and the next drain writes it."""
        sqstee.run("--host", "h", "--", "echo", "hi")
        out = tmp_path / "out"
        Store(str(out), "streams", False).close()
        (out / "runs.ndjson").mkdir()
        found = sqstee.run("drain", "local", "-O", str(out), *FAST)
        assert found.returncode == 1
        assert b": 1 line, exited with status 0\n" in found.stdout
        assert found.stderr.startswith(b"sqstee: ")
        (out / "runs.ndjson").rmdir()
        assert sqstee.run("drain", "local", "-O", str(out), *FAST).returncode == 0
        assert len(index(out)) == 1
