"""Bodies as an attacker, or a program with a fault, would send them: records and events, wrong in almost every way."""

from __future__ import annotations

import json

from hypothesis import strategies as st

ODD_VALUES = (
    *("null", "true", "false", "0", "9", "-1", "-0", "1.5", "1e400", "NaN", "-Infinity", '""', "[]", "{}", '["event"]'),
    *("9223372036854775806", "9223372036854775807", "18446744073709551616", "1" * 4300, "1" * 5000, "0." + "1" * 400),
    *(r'"\ud800"', r'"\udfff\ud800"', r'"\u0000"', r'"\u2028\u0085\n\r"', r'"\u001b[31m"', '"-rf"', '"../../x"'),
    *('"a/b"', '"gap"', '"exit"', '"alive"', '"stdout"', '"stream 9"', '"A=="', '"A"', json.dumps("x" * 50_000)),
    *("[" * depth + "]" * depth for depth in (10, 300, 900, 1100, 100_000)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (300, 900, 100_000)),
    r'[{"event":"gap"},["event"],{"a":[null,1e999,"\ud800"]}]',
    r'{"\ud800":"\ud800","":null}',
)
NAMES = (
    *("timestamp", "host", "stream", "run", "seq", "message", "eol", "raw", "job", "labels", "level", "fields", "data"),
    *("event", "from", "to", "reason", "exit_code", "signal", "duration_s", "lines", "bytes", "dropped", "open", "at"),
    *("cause", "name", "pid", "cpu_s", "max_rss", "error", "command", r"\ud800"),
)
_COMMON = {"timestamp": '"2026-11-21T19:30:00.123456Z"', "host": '"node17"', "run": '"RUN"'}

_seqs = st.integers(0, 30)
_nested = st.recursive(st.none() | st.integers() | st.text(), st.lists)
_values = st.sampled_from(ODD_VALUES) | _nested.map(json.dumps)
_changes = st.dictionaries(st.sampled_from(NAMES), _values, max_size=2)


def _object(fields: dict[str, str]) -> bytes:
    return b"{%s}" % ",".join(f'"{name}":{text}' for name, text in fields.items()).encode()


def _record(seq: int, changes: dict[str, str]) -> bytes:
    return _object({**_COMMON, "stream": '"stdout"', "seq": str(seq), "message": f'"line {seq}"', **changes})


def _event(seq: int, event: str, changes: dict[str, str]) -> bytes:
    more = {"from": str(seq), "to": str(seq + 3)} if event == "gap" else {}
    return _object({**_COMMON, "seq": str(seq), "event": f'"{event}"', "message": '"m"', **more, **changes})


_not_objects = (b"", b" ", b"\r", b"null", b"[]", b'"event"', b'["event"]', b"7", b"\xff\xfe", b"{}", b"[" * 100_000)
_lines = st.one_of(
    st.builds(_record, _seqs, st.just({})),
    st.builds(_record, _seqs, _changes),
    st.builds(_event, _seqs, st.sampled_from(["start", "exit", "end", "gap", "alive", "stop"]), _changes),
    st.sampled_from(_not_objects),
    st.binary(max_size=30),
)
_ends = st.sampled_from([b"\n", b"\n", b"\n", b"\n\n", b"\r\n", b",", b""])

bodies = st.lists(st.tuples(_lines, _ends), max_size=6).map(lambda parts: b"".join(line + end for line, end in parts))
"""NDJSON of records, events, and what is almost one of them."""
