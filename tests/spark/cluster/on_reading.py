"""read and verdicts: the same lines and the same verdicts from every layout, and what is not ours left out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.backlog import Backlog
from support.bodies import RUN, event_of, gap_of, lines_of, piece_of, whole_run
from support.drain import assembled, index, journal
from support.spark import as_objects, check_backlog, judged, pairs

from sqstee.errors import SqsteeError
from sqstee.record import Body
from sqstee.spark import read

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

COMPARED = ("verdict", "missing", "dropped", "elsewhere", "fallbacks", "exit_code", "signal", "lines", "host", "result")


@pytest.mark.parametrize("layout", ["ndjson", "parquet", "objects"])
def test_every_layout_holds_the_same(
    spark: SparkSession, drained: Path, backlog: Backlog, bodies: list[Body], tmp_path: Path, layout: str
) -> None:
    """Drained folders, and objects of --to s3://."""
    source = as_objects(tmp_path, bodies) if layout == "objects" else drained / layout
    check_backlog(read(spark, str(source)), backlog)


def test_lines_that_are_in_several_sources_come_once(spark: SparkSession, drained: Path, tmp_path: Path) -> None:
    """By run and seq."""
    bodies = whole_run(20)
    one, other = as_objects(tmp_path / "one", bodies), as_objects(tmp_path / "other", bodies[:2])
    frame = read(spark, str(one), other.as_uri())
    assert sorted(row.seq for row in frame.select("seq").collect()) == [*range(22)]
    assert frame.where("event = 'exit'").first().exit_code == 0  # type: ignore[union-attr]


def test_verdicts_are_those_of_drain(spark: SparkSession, tmp_path: Path) -> None:
    """Holes, gap events, a fallback, overlaps, late records, a run that goes on without its command."""
    found = [
        *(lines_of(1, 9, "LOST0"), lines_of(15, 20, "LOST0"), event_of("exit", 25, "LOST0", exit_code=1)),
        *(lines_of(0, 5, "GAPS0"), gap_of(6, 9, "GAPS0", reason="full"), lines_of(8, 8, "GAPS0")),
        *(gap_of(6, 12, "GAPS0", reason="full"), lines_of(15, 15, "GAPS0"), event_of("end", 16, "GAPS0")),
        *(gap_of(0, 3, "ELSE0", reason="fallback", at="s3://b/p"), event_of("exit", 4, "ELSE0", signal=9)),
        *(gap_of(2, 7, "OPEN0", reason="full"), lines_of(4, 5, "OPEN0")),
        *(event_of("start", 0, "HEIR0"), event_of("exit", 1, "HEIR0", exit_code=0, open=["stdout"])),
        *(piece_of(0, "a", "CUT00", eol=False), piece_of(1, "b", "CUT00"), piece_of(2, "c", "CUT00", eol=False)),
        event_of("exit", 3, "CUT00", cause="wrapper-died"),
        *whole_run(3, "GOOD0"),
        gap_of(0, 4, "ONLY0", reason="full"),
    ]
    journal(tmp_path / "out", *(body.data for body in found))
    assembled(tmp_path / "out", "ndjson")
    wanted = index(tmp_path / "out")
    got = judged(read(spark, str(as_objects(tmp_path / "objects", found))))
    assert got.keys() == wanted.keys()
    for run, verdict in wanted.items():
        assert {name: got[run][name] for name in COMPARED} == {name: verdict[name] for name in COMPARED}, run
        assert pairs(got[run]["missing_ranges"]) == pairs(verdict["missing_ranges"]), run
        assert got[run]["failed"] == (verdict["state"] == "failed"), run


def test_what_is_not_ours_is_left_out(spark: SparkSession, tmp_path: Path) -> None:
    """Other programs' lines, damaged ones, an object that is no gzip: the rest is read."""
    folder = as_objects(tmp_path, [lines_of(0, 4)])
    odd: list[Any] = [{"a": 1}, {"run": RUN, "host": "h", "seq": -1, "stream": "s", "message": "m"}, 7, "text", None]
    odd += [{"run": RUN, "host": "h", "seq": "5", "stream": "s", "message": "m"}, {"run": RUN, "seq": 6, "event": "x"}]
    odd += [
        {"run": RUN, "host": "h", "seq": 9, "event": "gap", "from": 8, "to": 9},
        {"run": RUN, "host": "h", "seq": 7},
    ]
    (folder / "odd.ndjson").write_text("".join(f"{json.dumps(one)}\n" for one in odd) + '{"run":\n\n')
    (folder / "damaged.ndjson.gz").write_bytes(b"no gzip" + gzip.compress(lines_of(5, 6).data))
    (folder / "notes.md").write_text("not read")
    assert sorted(row.seq for row in read(spark, str(folder)).select("seq").collect()) == [*range(5)]


def test_dates_are_those_of_utc(spark: SparkSession, drained: Path) -> None:
    """Whatever the session's time zone; a condition on them reads the partitions of that day."""
    rows = read(spark, str(drained / "ndjson")).groupBy("date").count().collect()
    days = {row.date.isoformat(): row["count"] for row in rows}
    assert sorted(days) == ["2026-11-21", "2026-11-22"]
    (row,) = (
        read(spark, str(drained / "parquet"), where="date = '2026-11-22' AND eol").groupBy("date").count().collect()
    )
    assert row["count"] > 0


@pytest.mark.parametrize("name", ["nothing", "empty", "streams"])
def test_a_source_without_lines_is_an_error(spark: SparkSession, tmp_path: Path, name: str) -> None:
    """One line and one hint."""
    if name != "nothing":
        (tmp_path / name).mkdir()
    if name == "streams":
        journal(tmp_path / name, lines_of(0, 3).data)
        assembled(tmp_path / name, "streams")
    with pytest.raises(SqsteeError) as found:
        read(spark, str(tmp_path / name))
    assert "\n" not in found.value.message
    assert found.value.hint
