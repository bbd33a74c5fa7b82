"""Data at rest as one DataFrame: the Parquet and NDJSON of every layout that sqstee writes, each line once."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from sqstee.at_rest.schema import COLUMNS, PARQUET_FOLDER, PARTITIONS, spark_ddl, spark_wire_ddl
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.record import MAX_SEQ
from sqstee.text import one_line
from sqstee.transports.layouts import INDEX_NAME

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_PARQUET = "*.parquet"
_TEXT = "*.{ndjson,json,txt}*"  # what sqstee writes, and what Spark's own text and JSON sinks do; plain or compressed
_NAMES = [one.name for one in (*COLUMNS, *PARTITIONS)]
_OPTIONS = {"ignoreCorruptFiles": "true"}  # Spark's log names each of these
_KEY = ["run", "seq", "last", "event"]  # a gap event covers a range, and hides no line in it
# A line is ours under the same rules as in wire.decode.
_IS_OURS = f"""
    run IS NOT NULL AND host IS NOT NULL AND seq BETWEEN 0 AND {MAX_SEQ}
    AND IF(event IS NULL, stream IS NOT NULL AND message IS NOT NULL,
           NOT event <=> 'gap' OR (`from` <=> seq AND `to` BETWEEN seq AND {MAX_SEQ}))"""
_FROM_WIRE = {
    "last": "coalesce(IF(event <=> 'gap', `to`, last), seq)",
    "time": "`timestamp`",
    "message": "coalesce(message, '')",
    "eol": "IF(event IS NULL, coalesce(eol, true), NULL)",
    "fields": "CAST(NULL AS STRING)",
    # the day in UTC, whatever the session's time zone is
    "date": "date_from_unix_date(CAST(floor(unix_micros(`timestamp`) / 86400000000) AS INT))",
}


def read(spark: SparkSession, *sources: str, where: str = "") -> DataFrame:
    """The lines and events in `sources`, each once, as a DataFrame with the columns of sqstee-format(5).

    A source is any path that Spark reads and that sqstee wrote to: a folder of `sqstee drain --layout parquet` or
    `ndjson`, the objects of `--to s3://` or of the Lambda function, or the files of `receive`. An s3:// path means
    s3a:// unless the session has a file system of that name. `where` is a condition in SQL; it is applied before
    duplicates are looked for, so that `date >= '2026-11-21'` reads no older partition.

    Lines are the same where run and seq are. Lines that are not in the wire format are left out. From NDJSON
    `fields` is null. Raises SqsteeError for a source that holds neither Parquet nor NDJSON.
    """
    if not sources:
        raise SqsteeError("nothing to read", "name a folder or prefix: sqstee.spark.read(spark, 's3://BUCKET/PREFIX')")
    parts = [part for source in sources for part in _parts_of(spark, source)]
    frame = reduce(lambda one, other: one.unionByName(other), parts)
    return (frame.where(where) if where else frame).dropDuplicates(_KEY)


def _parts_of(spark: SparkSession, source: str) -> list[DataFrame]:
    """The rows of a source's Parquet files, and those of its NDJSON."""
    path = _spark_path(spark, source)
    try:
        parquet = _parquet_in(spark, path)
        text = spark.read.options(**_OPTIONS, recursiveFileLookup=True, pathGlobFilter=_TEXT, lineSep="\n").text(path)
        found = [part for part in (parquet, text) if part is not None and any(map(_is_lines, part.inputFiles()))]
    except Exception as error:
        reason = one_line(str(error).partition("\n")[0].partition(" SQLSTATE")[0])
        hint = "sqstee.spark.read takes paths that Spark reads; a drained folder or a prefix, not a folder of several"
        raise SqsteeError(f"cannot read {source}: {reason}", hint, EXIT_FAILURE) from error
    if not found:
        hint = "sqstee drain SOURCE -O DIR --layout parquet makes such a folder; from a queue receive() does"
        raise SqsteeError(f"{source} holds neither Parquet nor NDJSON", hint, EXIT_FAILURE)
    return [_rows_of(part) if part is text else part.select(*_NAMES) for part in found]


def _parquet_in(spark: SparkSession, path: str) -> DataFrame | None:
    """The Parquet files below a path or, of a drained folder, below its folder of tables; None where there are none.

    Their host and date are in their paths. Spark looks for partitions in the paths of all files, also those that do not
    match the pattern, and refuses those of some folders without Parquet.
    """
    from pyspark.errors import PySparkException

    failure = None
    for folder in (f"{path.rstrip('/')}/{PARQUET_FOLDER}", path):
        reader = spark.read.schema(spark_ddl()).options(**_OPTIONS, pathGlobFilter=_PARQUET)
        try:
            return reader.parquet(folder)
        except PySparkException as error:
            failure = error
    if reader.options(recursiveFileLookup=True).parquet(path).inputFiles():
        assert failure
        raise failure
    return None


def _rows_of(lines: DataFrame) -> DataFrame:
    """The rows of lines of NDJSON, without those that are not in the wire format."""
    from pyspark.sql.functions import expr

    wire = lines.select(expr(f"from_json(value, '{spark_wire_ddl()}')").alias("wire")).select("wire.*")
    return wire.where(_IS_OURS).select(*(expr(_FROM_WIRE.get(name, f"`{name}`")).alias(name) for name in _NAMES))


def _is_lines(name: str) -> bool:
    """Whether a file holds lines: drain's index of runs does not."""
    return not name.endswith(f"/{INDEX_NAME}")


def _spark_path(spark: SparkSession, source: str) -> str:
    """The source as the session's file systems know it: plain Spark has S3 as s3a://, EMR and Databricks as s3://."""
    if source.startswith("s3://") and not spark.conf.get("spark.hadoop.fs.s3.impl", ""):
        return f"s3a://{source[5:]}"
    return source
