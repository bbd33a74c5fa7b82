"""The manual's SQL, as printed: what it finds in a drained folder is what is in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot
from support.at_rest import (
    BINARY,
    COMPLETE,
    DROPPED,
    FAILED,
    HOLED,
    OPEN,
    RUN_IN_QUERIES,
    VERDICTS,
    backlog,
    digest,
    digests,
    statements,
)
from support.drain import assembled, files, index, journal

from sqstee.at_rest.schema import COLUMNS, PARTITIONS

LAYOUTS = {"parquet": "duckdb", "ndjson": "duckdb_ndjson"}  # and the file that has its view
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:duckdb")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The backlog in each layout, in a folder `logs`."""
    found = {}
    for layout in ("streams", "ndjson", "parquet"):
        found[layout] = tmp_path_factory.mktemp(layout)
        journal(found[layout] / "logs", *(body.data for body in backlog()))
        assembled(found[layout] / "logs", layout)
    return found


class Database:
    """DuckDB with the view of a drained folder, as somebody has it who works beside that folder."""

    def __init__(self, folder: Path, layout: str) -> None:
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'America/New_York'")  # no answer may depend on it
        before = os.getcwd()
        os.chdir(folder)
        try:
            self._connection.execute(statements(LAYOUTS[layout])["view"])
            self._tables = {title: self._rows(text) for title, text in self._texts()}
        finally:
            os.chdir(before)
            self._connection.close()

    def __getitem__(self, title: str) -> list[tuple[Any, ...]]:
        return self._tables[title]

    def _texts(self) -> list[tuple[str, str]]:
        found = [(title, text) for title, text in statements("duckdb").items() if title not in ("view", "rebuild")]
        rebuild = statements("duckdb")["rebuild"]
        found += [(run, rebuild.replace(RUN_IN_QUERIES, run)) for run in VERDICTS]
        return [
            *found,
            ("columns", "DESCRIBE lines"),
            ("days", "SELECT DISTINCT run, CAST(date AS VARCHAR) FROM lines"),
        ]

    def _rows(self, text: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(text).fetchall()


@pytest.fixture(scope="module", params=list(LAYOUTS))
def database(folders: dict[str, Path], request: pytest.FixtureRequest) -> Database:
    """The answers to all statements, from either layout."""
    return Database(folders[request.param], request.param)


def test_lines_per_host_and_stream(database: Database) -> None:
    """Whole lines: those that end in a newline."""
    assert database["lines"] == [
        ("node1", "stderr", 9),
        ("node1", "stdout", 1500 + 3 + 5 + 4),
        ("node2", "stderr", 1),
        ("node2", "stdout", 4 + 4),
    ]


def test_failed_runs_with_their_last_stderr_lines(database: Database) -> None:
    """A status, a signal; a run that wrote no stderr is there as well."""
    assert [row for row in database["failed"] if row[0] == DROPPED] == [
        (DROPPED, "node1", None, "exit of it", None, None)
    ]
    assert [row for row in database["failed"] if row[0] != DROPPED] == [
        (FAILED, "node1", "train.py", "exit of it", seq, f"line {seq}") for seq in range(8, 13)
    ]


def test_gaps(database: Database) -> None:
    """What never came, also at the beginning of a run, and what its sender dropped."""
    assert database["gaps"] == [
        (HOLED, "node1", 0, 2, "not received"),
        (HOLED, "node1", 6, 8, "not received"),
        (HOLED, "node1", 11, 11, "not received"),
        (DROPPED, "node1", 3, 4, "rate-limit"),
        (DROPPED, "node1", 7, 8, "rate-limit"),
    ]


def test_verdicts_are_those_of_the_drain(database: Database, folders: dict[str, Path]) -> None:
    """Run by run, with as many lines missing and dropped."""
    found = {row[0]: row[4:] for row in database["verdicts"]}
    known = index(folders["parquet"] / "logs")
    assert {run: outcome for run, (_, _, outcome) in found.items()} == VERDICTS
    assert {run: (fields["missing"], fields["dropped"], fields["verdict"]) for run, fields in known.items()} == found


def test_a_run_is_rebuilt_byte_for_byte(database: Database, folders: dict[str, Path]) -> None:
    """The same SHA-256 by the drain's files, and by SQL from either other layout."""
    expected = digests(backlog())
    assert {(run, stream): digest(data) for run in VERDICTS for stream, data in database[run]} == expected
    written = {Path(name).name: digest(data) for name, data in files(folders["streams"] / "logs").items()}
    assert written == {f"{run}.{stream}": found for (run, stream), found in expected.items()}


def test_columns_and_days(database: Database) -> None:
    """The types that the manual names; a run over midnight is in two days, by UTC."""
    types = {name: kind for name, kind, *_ in database["columns"]}
    names = {one.name for one in COLUMNS + PARTITIONS}
    assert set(types) | {"fields"} == names
    assert (types["time"], types["seq"], types["date"]) == ("TIMESTAMP WITH TIME ZONE", "BIGINT", "DATE")
    days = {run: sorted(day for name, day in database["days"] if name == run) for run in (BINARY, COMPLETE, OPEN)}
    assert days == {BINARY: ["2023-11-14", "2023-11-15"], COMPLETE: ["2023-11-14"], OPEN: ["2023-11-14"]}


def test_arrow_reads_the_folder_without_options(folders: dict[str, Path]) -> None:
    """As pandas does, which leaves it to pyarrow; in a process of its own, as pyarrow starts threads."""
    code = "import pyarrow.parquet as pq, json, sys; table = pq.read_table('logs/lines'); "
    code += "json.dump([table.column_names, table.num_rows, sorted(set(table['host'].to_pylist()))], sys.stdout)"
    found = subprocess.run([sys.executable, "-c", code], cwd=folders["parquet"], capture_output=True, check=True)
    names, rows, hosts = json.loads(found.stdout)
    assert set(names) == {one.name for one in COLUMNS + PARTITIONS}
    assert (rows, hosts) == (sum(len(covered(folders["parquet"], run)) for run in VERDICTS), ["node1", "node2"])


def covered(folder: Path, run: str) -> list[bytes]:
    """The lines of NDJSON of a run, one for each row."""
    bodies = [body.data for body in backlog() if body.run == run]
    lines = {json.loads(line)["seq"]: line for data in bodies for line in data.splitlines()}
    return [*lines.values(), *[b""] * (run == DROPPED)]  # two parts of a gap event


@pytest.mark.parametrize(("name", "dialect"), [("athena", "athena"), ("spark", "spark"), ("duckdb", "duckdb")])
def test_statements_are_valid_sql(name: str, dialect: str) -> None:
    """In the dialect of their engine, as far as a parser can tell."""
    for title, text in statements(name).items():
        (parsed,) = sqlglot.parse(text, read=dialect)
        assert parsed is not None
        assert not isinstance(parsed, sqlglot.exp.Command), title
