"""The columns of lines and events at rest. Every form of the schema is derived from COLUMNS. Pure.

One row is one record or event of the wire format (record.py), with the names of that format. Three columns differ:
`time` is the format's `timestamp`; `last` is the last seq that the row covers (`to` of a gap event, else `seq`); and
`fields` holds, as JSON, every key that has no column, and every value that does not fit into its column. So a row has
all that its line had.

A row's `date` (UTC) and `host` are in its path (date=2026-11-21/host=node17), as Hive partitions, not in its file.
Rows of one run are in the order of `seq`, and each seq is covered once: a hole is a row whose `seq` is greater than
the `last` of the row before it, plus one. Lines that the sender dropped are covered by a row with `event` gap.

Times are instants in microseconds, stored as adjusted to UTC: Spark, DuckDB, Athena, pandas and pyarrow read these
without an option, but not nanoseconds (Spark) or text.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

# Kinds of columns. They are the names of the types in Spark, Hive and Athena.
STRING, BIGINT, DOUBLE, BOOLEAN = "string", "bigint", "double", "boolean"
TIMESTAMP, DATE, MAP, ARRAY = "timestamp", "date", "map<string,string>", "array<string>"
_DUCKDB = {
    STRING: "VARCHAR",
    BIGINT: "BIGINT",
    DOUBLE: "DOUBLE",
    BOOLEAN: "BOOLEAN",
    TIMESTAMP: "TIMESTAMPTZ",
    DATE: "DATE",
    MAP: "MAP(VARCHAR, VARCHAR)",
    ARRAY: "VARCHAR[]",
}

BOTH, LINES, EVENTS = "both", "lines", "events"  # the rows that can have a value in a column
NO_HOST = "__HIVE_DEFAULT_PARTITION__"  # what engines read as null
NO_DATE = "1970-01-01"  # of rows whose time is null
_LONGEST_HOST = 100  # characters, escaped; a host's name has 64 at most


class Column(NamedTuple):
    """A column. `on` says which rows may have a value in it, `nullable` whether it may be null there."""

    name: str
    kind: str
    on: str
    nullable: bool
    text: str


COLUMNS = (
    Column("run", STRING, BOTH, False, "the run's id, a ULID"),
    Column("seq", BIGINT, BOTH, False, "the number of the line or event in its run, from 0, over all streams"),
    Column("last", BIGINT, BOTH, False, "the last seq that the row covers: `to` of a gap event, else `seq`"),
    Column("time", TIMESTAMP, BOTH, True, "`timestamp`, in UTC, in microseconds; null where it is not a time"),
    Column("stream", STRING, LINES, False, "`stdout`, `stderr`, `output` or `stdin`; null for an event"),
    Column("job", STRING, BOTH, True, "the job"),
    Column("labels", MAP, BOTH, True, "the labels"),
    Column("level", STRING, LINES, True, "`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`"),
    Column("message", STRING, BOTH, False, "the line without its newline, U+FFFD for bytes that are not UTF-8"),
    Column("raw", STRING, LINES, True, "the line's bytes in base64, where they are not UTF-8"),
    Column("eol", BOOLEAN, LINES, False, "false where the piece of a line did not end in a newline"),
    Column("data", STRING, LINES, True, "the line, where `--parse-json` found that it is a JSON object"),
    Column("event", STRING, EVENTS, False, "`start`, `alive`, `exit`, `end` or `gap`; null for a line"),
    Column("name", STRING, EVENTS, True, "start, exit: the command's base name, where there is no job"),
    Column("version", STRING, EVENTS, True, "start: the version of sqstee"),
    Column("pid", BIGINT, EVENTS, True, "start: the command's process id"),
    Column("command", ARRAY, EVENTS, True, "start: the command's words, with `--send-command`"),
    Column("cleaned", ARRAY, EVENTS, True, "start: `ansi` and `cr`, where the lines were cleaned of them"),
    Column("heartbeat_s", DOUBLE, EVENTS, True, "start: the seconds without a line after which `alive` is sent"),
    Column("exit_code", BIGINT, EVENTS, True, "exit: the command's exit status"),
    Column("signal", BIGINT, EVENTS, True, "exit: the signal that ended the command"),
    Column("cause", STRING, EVENTS, True, "exit: `wrapper-died` or `process-ended`, where no status is known"),
    Column("open", ARRAY, EVENTS, True, "exit: the streams that go on; an `end` event follows"),
    Column("duration_s", DOUBLE, EVENTS, True, "exit: the seconds that the command took"),
    Column("lines", BIGINT, EVENTS, True, "alive, exit, end: the lines so far"),
    Column("bytes", BIGINT, EVENTS, True, "exit, end: the bytes of all lines"),
    Column("dropped", BIGINT, EVENTS, True, "exit, end: the lines that the sender dropped"),
    Column("cpu_s", DOUBLE, EVENTS, True, "alive, exit: the seconds of CPU time"),
    Column("max_rss", BIGINT, EVENTS, True, "alive, exit: the most memory, in bytes"),
    Column("reason", STRING, EVENTS, True, "gap: why the lines are not there"),
    Column("at", STRING, EVENTS, True, "gap: the destination that has the lines instead"),
    Column("fields", STRING, BOTH, True, "as JSON: keys without a column, and values that do not fit theirs"),
)
PARTITIONS = (
    Column("date", DATE, BOTH, False, f"in the path: the day of `time` (UTC); {NO_DATE} where `time` is null"),
    Column("host", STRING, BOTH, True, "in the path: the host"),
)
MOST_DATES = 1000  # of a run that have partitions of their own: a sender may put another date into every line
PARQUET_FOLDER = "lines"  # of a drained folder: the partitions are in it
DICTIONARY = ("run", "stream", "job", "level", "event")  # columns with few different values

# The keys of the wire format that are no columns, and the columns that are none of its keys.
_WIRE_ONLY = (("timestamp", TIMESTAMP), ("host", STRING), ("from", BIGINT), ("to", BIGINT))
_AT_REST_ONLY = frozenset(("time", "fields"))
# Keys that every line of NDJSON has. All others may be absent, which a reader's schema turns into null: null itself is
# never written, since readers of the format take it for a value.
ALWAYS = {LINES: ("timestamp", "host", "stream", "run", "seq", "message"),
          EVENTS: ("timestamp", "host", "run", "seq", "event", "message")}  # fmt: skip

# Columns whose names are reserved words somewhere: quote them ("last", or `last` in Spark and in Athena's DDL).
RESERVED = ("at", "date", "last", "open", "time")


def wire_keys() -> tuple[tuple[str, str], ...]:
    """The keys of NDJSON with their kinds; of `from`, `to` and `last` each is on few lines."""
    return _WIRE_ONLY + tuple((one.name, one.kind) for one in COLUMNS if one.name not in _AT_REST_ONLY)


def spark_ddl(partitions: bool = True) -> str:
    """The schema as Spark takes it in `spark.read.schema(…)`, with the partition columns last."""
    return ", ".join(f"`{one.name}` {one.kind.upper()}" for one in COLUMNS + (PARTITIONS if partitions else ()))


def spark_wire_ddl() -> str:
    """The schema of NDJSON (objects as they are sent) for `spark.read.schema(…).json(…)`."""
    return ", ".join(f"`{name}` {kind.upper()}" for name, kind in wire_keys())


def duckdb_wire_columns() -> str:
    """The schema of NDJSON as DuckDB takes it in `read_json(…, columns = …)`; `data` is there as JSON text."""
    kinds = ((name, "JSON" if name == "data" else _DUCKDB[kind]) for name, kind in wire_keys())
    lines = ",\n".join(f"  '{name}': '{kind}'" for name, kind in kinds)
    return f"{{\n{lines}\n}}"


def athena_columns() -> str:
    """The columns of CREATE EXTERNAL TABLE in Athena, without the partitions."""
    return ",\n".join(f"  `{one.name}` {one.kind}" for one in COLUMNS)


def markdown_table() -> str:
    """The columns as a table for the manual."""
    rows = ["| column | type | rows | |", "|---|---|---|---|"]
    for one in COLUMNS + PARTITIONS:
        rows.append(f"| `{one.name}` | `{one.kind}` | {one.on} | {one.text} |")
    return "\n".join(rows) + "\n"


def partition_of(date: str, host: str) -> str:
    """The path of a partition, such as date=2026-11-21/host=node17.

    A host is percent-encoded, as Hive does: it is one name, never a path. Engines decode it.
    """
    return f"date={date}/host={_escaped(host)}"


def _escaped(host: str) -> str:
    name = quote(host.encode("utf-8", "surrogatepass"), safe="") or NO_HOST
    if len(name) <= _LONGEST_HOST:
        return name
    import hashlib

    head = name[:_LONGEST_HOST]
    cut = head.rfind("%", _LONGEST_HOST - 2)  # an escape that would be cut in two
    digest = hashlib.sha256(host.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{head[:cut] if cut >= 0 else head}~{digest}"
