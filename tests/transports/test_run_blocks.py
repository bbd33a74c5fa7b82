"""NDJSON divided by run and seq: no byte is lost, and what is packed comes apart from the rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.bodies import event_of, lines_of

from sqstee.drain.spans import body_spans
from sqstee.transports.run_blocks import blocks_by_run


def test_runs_and_holes_are_borders() -> None:
    """Each part is one span, which is judged without decoding its lines."""
    parts = [lines_of(0, 99, "01A"), lines_of(200, 299, "01A"), lines_of(0, 49, "01B"), lines_of(7, 600, "01C")]
    found = list(blocks_by_run(b"".join(part.data for part in parts)))
    assert found == [part.data for part in parts]
    assert [len(body_spans(data)[0]) for data in found] == [1, 1, 1, 1]


def test_parts_of_few_lines_stay_together() -> None:
    """A batch of a thousand short runs is no thousand messages."""
    short = b"".join(lines_of(0, 2, f"01S{n:03d}").data for n in range(50))
    long = lines_of(0, 99, "01T").data
    assert list(blocks_by_run(short + long + short)) == [short, long, short]


@given(
    st.lists(
        st.sampled_from(
            [
                *(lines_of(first, first + 20, run).data for run in ("01A", "01B") for first in (0, 21, 50)),
                event_of("start", 0, "01A", labels={"seq": "7"}).data,
                b"foreign\n",
                b"\n",
                b'{"run":"x","seq":99999999999999999999999}\n',
                b"\xff" * 9 + b"\n",
            ]
        )
    ),
    st.booleans(),
)
def test_no_byte_is_lost(parts: list[bytes], is_cut: bool) -> None:
    """Whatever the lines are, and however they are mixed: only between two lines they are divided."""
    data = b"".join(parts)
    data = data[:-1] if is_cut else data
    found = list(blocks_by_run(data))
    assert b"".join(found) == data
    assert all(part.endswith(b"\n") for part in found[:-1])
    assert all(found)
