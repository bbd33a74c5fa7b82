"""--rate-limit: what is above it is dropped, counted, covered and reported; the command's own output is not touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Rebuilt, Sqstee, paced

from sqstee.errors import EXIT_UNDELIVERED, SqsteeError
from sqstee.jsonbytes import encode_object
from sqstee.option_values import rate
from sqstee.settings import load_settings
from sqstee.ship.request import RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool.quota import FullError, UnboundedQuota
from sqstee.spool.rate_limit import RateLimit
from sqstee.spool.segments import Segments
from sqstee.spool.writer import RATE_LIMIT, Writer

PERIOD = 10.0


class Clock:
    """Time that stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def limited(folder: Path, lines: int, clock: Clock, quota: UnboundedQuota | None = None) -> Writer:
    """The writer of a run with a limit."""
    folder.mkdir(exist_ok=True)
    writer = Writer(Segments(str(folder), encode_object({"run": "R", "host": "h"}), quota), 50)
    writer.rate_limit = RateLimit(lines, PERIOD, clock)
    return writer


def shipped(folder: Path) -> Rebuilt:
    """What is shipped of the run."""
    source = RunSource(str(folder), 1024**2, RequestLimits(1024**2, 10, False), "none")
    source.read()
    source.close_open_body()
    bodies = source.partial_request().bodies
    source.close()
    return Rebuilt((pending.body.data, pending.body.attributes) for pending in bodies)


def numbered(first: int, last: int) -> bytes:
    """Lines with these numbers."""
    return b"".join(b"%d\n" % number for number in range(first, last + 1))


def test_a_period_has_so_many_lines_and_one_gap(tmp_path: Path) -> None:
    """All at once if need be; the next period begins with the next line."""
    clock = Clock()
    writer = limited(tmp_path / "run", 3, clock)
    for first in (1, 3, 5):
        writer.write(0, numbered(first, first + 1))
    clock.now += PERIOD + 7
    writer.write(0, numbered(7, 12))
    clock.now += PERIOD - 0.5
    writer.write(0, numbered(13, 13))
    writer.close()
    assert (writer.lines, writer.dropped, writer.reasons) == (13, 7, {RATE_LIMIT: 7})
    found = shipped(tmp_path / "run")
    found.assert_without_holes()
    assert found.stdout == numbered(1, 3) + numbered(7, 9)
    assert {event.fields["reason"] for event in found.events} == {RATE_LIMIT}
    assert [event.message for event in found.events] == ["3 lines dropped: rate-limit", "4 lines dropped: rate-limit"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.lists(st.sampled_from([b"a", b"bc", b"\n", b"x" * 60, b"line\n"]), max_size=12).map(b"".join),
            st.booleans(),
        ),
        min_size=1,
        max_size=25,
    ).filter(lambda writes: any(chunk for _, chunk, _ in writes)),
    st.integers(1, 4),
)
def test_any_writes(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, bytes, bool]], lines: int
) -> None:
    """Whole lines alone are dropped, every seq is covered once, and the counts add up."""
    clock = Clock()
    folder = tmp_path_factory.mktemp("run") / "run"
    writer = limited(folder, lines, clock)
    written: dict[int, bytes] = {0: b"", 1: b"", 2: b""}
    for stream, chunk, pause in writes:
        writer.write(stream, chunk)
        written[stream] += chunk
        clock.now += PERIOD * pause
    for stream in range(3):
        writer.cut(stream, closing=True)
    writer.close()
    found = shipped(folder)
    found.assert_without_holes()
    kept = 0
    for stream, name in enumerate(("stdout", "stderr", "output")):
        rest = iter(written[stream].split(b"\n"))
        shipped_lines = found.stream(name).split(b"\n")
        kept += len(shipped_lines) - (shipped_lines[-1] == b"")
        for line in shipped_lines[:-1]:
            assert line in rest  # in their order
    total = sum(len(data.split(b"\n")) - data.endswith(b"\n") - (not data) for data in written.values())
    assert (writer.lines, writer.lines - writer.dropped) == (total, kept)
    periods = 1 + sum(pause for _, _, pause in writes)
    assert kept <= periods * lines + 3


def test_lines_that_wait_for_room_are_not_counted_twice(tmp_path: Path) -> None:
    """A full spool gives them back; what is above the limit is dropped behind them, in their order."""

    class Full(UnboundedQuota):
        full = False

        def grant(self, size: int, need: int, ceiling: int) -> int:
            if self.full:
                raise FullError(1)
            return size + need

        def should_wait(self) -> bool:
            return True

    quota = Full()
    writer = limited(tmp_path / "run", 5, Clock(), quota)
    writer.write(0, numbered(1, 2), wait=True)
    quota.full = True
    chunk = numbered(3, 9)
    assert writer.write(0, chunk, wait=True) == chunk
    quota.full = False
    assert writer.write(0, chunk, wait=True) == b""
    writer.close()
    assert shipped(tmp_path / "run").stdout == numbered(1, 5)
    assert (writer.lines, writer.dropped, writer.bytes) == (9, 4, 18)


def test_what_the_run_says(sqstee: Sqstee) -> None:
    """The output passes through whole; the rest is in the summary, the exit event, --strict and a gap event."""
    text = numbered(1, 500)
    found = sqstee.run("--to", "local", "--rate-limit", "10/h", "--summary", "--strict", "--", *paced(text))
    assert (found.stdout, found.returncode) == (text, EXIT_UNDELIVERED)
    notice, summary = found.stderr.decode().splitlines()
    assert notice == (
        "sqstee: 490 lines dropped: --rate-limit allows no more; a gap event says which lines; raise it to ship more"
    )
    assert ": 10 delivered in " in summary
    assert ", 490 dropped" in summary
    rebuilt = sqstee.local()
    rebuilt.assert_whole()
    assert rebuilt.stdout == numbered(1, 10)
    assert (rebuilt.events[-1].fields["lines"], rebuilt.events[-1].fields["dropped"]) == (500, 490)
    gaps = [event for event in rebuilt.events if event.event == "gap"]
    assert sum(event.last - event.seq + 1 for event in gaps) == 490


@pytest.mark.parametrize(
    ("text", "value"), [("1000/s", (1000, 1.0)), ("100/m", (100, 60.0)), ("5/h", (5, 3600.0)), ("1/d", (1, 86400.0))]
)
def test_rates(text: str, value: tuple[int, float]) -> None:
    assert rate(text) == value


@pytest.mark.parametrize("text", ["1000", "0/s", "-1/s", "1.5/s", "1/", "/s", "1/w", "1/s/s", "²/s", "9" * 5000 + "/s"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(SqsteeError, match="a rate such as 1000/s, 100/m"):
        load_settings(("--rate-limit", text), {})
