"""The columns at rest: every form of the schema has them all, and a host is one name in a path."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.at_rest import statements

from sqstee.at_rest import schema
from sqstee.at_rest.arrow import SCHEMA
from sqstee.at_rest.schema import COLUMNS, PARTITIONS


def test_names_are_there_once() -> None:
    """In rows and in paths together."""
    names = [one.name for one in COLUMNS + PARTITIONS]
    assert len(names) == len(set(names))
    assert [SCHEMA.names, SCHEMA.field("time").type] == [names[:-2], pa.timestamp("us", tz="UTC")]
    assert {*schema.DICTIONARY, *schema.RESERVED} <= set(names)


def test_athena_has_the_same_columns() -> None:
    """The statement of the manual, type by type; the host is in the view."""
    (columns,) = re.findall(r"\(\n(.*?)\n\)\nPARTITIONED", statements("athena")["table"], re.DOTALL)
    assert columns == schema.athena_columns()
    assert "AS host" in statements("athena")["view"]


def test_duckdb_has_the_same_keys_for_ndjson() -> None:
    """The statement of the manual, type by type."""
    assert f"columns = {schema.duckdb_wire_columns()})" in statements("duckdb_ndjson")["view"]


def test_spark_has_the_same_columns() -> None:
    """As DDL, for rows and for NDJSON."""
    assert re.findall(r"`(\w+)` ", schema.spark_ddl()) == [one.name for one in COLUMNS + PARTITIONS]
    assert "`labels` MAP<STRING,STRING>" in schema.spark_ddl(False)
    assert re.findall(r"`(\w+)` ", schema.spark_wire_ddl()) == [name for name, _ in schema.wire_keys()]


def test_keys_that_are_always_there_are_keys() -> None:
    """Of lines and of events."""
    names = {name for name, _ in schema.wire_keys()}
    assert set(schema.ALWAYS["lines"]) | set(schema.ALWAYS["events"]) <= names


def test_the_manuals_table_has_a_row_for_each_column() -> None:
    """With its type."""
    rows = schema.markdown_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [one.name for one in COLUMNS + PARTITIONS]


@given(st.text(max_size=120))
def test_a_host_is_one_name(host: str) -> None:
    """Never a path, never two hosts under one name, and readable again unless it is very long."""
    date, _, name = schema.partition_of("2026-11-21", host).partition("/")
    name = name.removeprefix("host=")
    assert date == "date=2026-11-21"
    assert re.fullmatch(r"[\w.~%-]+", name, re.ASCII)
    assert len(name) < 130
    assert "~" in name or not host or unquote(name) == host


@pytest.mark.parametrize("host", ["é" * 40, "x" * 99 + "é", "x" * 98 + "é", "x" * 300])
def test_a_very_long_host_ends_in_a_digest(host: str) -> None:
    """No escape is cut in two."""
    name = schema.partition_of("d", host).partition("host=")[2]
    head = name.rpartition("~")[0]
    assert host.startswith(unquote(head, errors="ignore"))
    assert re.fullmatch(r"(%[0-9A-F]{2}|[^%])+", head)
    assert name != schema.partition_of("d", host + "y").partition("host=")[2]
