"""The spool: what is written comes out again as records, from any acknowledged position, and past damage."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Rebuilt

from sqstee.errors import SqsteeError
from sqstee.jsonbytes import encode_object
from sqstee.record import Encoder
from sqstee.ship.pack import Packer
from sqstee.ship.request import PendingBody
from sqstee.spool import location, run_folder, segments
from sqstee.spool.checkpoint import Checkpoint
from sqstee.spool.frame import GAP, HEADER_BYTES, LINES, META, Frame, gap_fields
from sqstee.spool.quota import UnboundedQuota
from sqstee.spool.reader import FrameReader, read_meta
from sqstee.spool.segments import Segments, segment_name, segment_numbers
from sqstee.spool.writer import Writer

ENCODER = Encoder("RUN", "h")
META_JSON = encode_object({"run": "RUN", "host": "h"})

chunks = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(st.binary(max_size=60), st.text("ab\né☃", max_size=60).map(str.encode), st.just(b"\n" * 5)),
        st.booleans(),
    ),
    max_size=40,
)


def new_writer(folder: Path, max_line: int = 20, limit: int = 300) -> Writer:
    """A writer with small segments and short lines."""
    folder.mkdir(parents=True, exist_ok=True)
    return Writer(Segments(str(folder), META_JSON, UnboundedQuota(limit)), max_line)


def write(writer: Writer, pieces: list[tuple[int, bytes, bool]]) -> tuple[bytes, bytes]:
    """Write chunks (stream, bytes, cut afterwards) between a start and an exit event; what each stream holds."""
    expected = [b"", b""]
    writer.event({"event": "start", "message": ""})
    for stream, chunk, cut in pieces:
        if chunk:
            writer.write(stream, chunk)
            expected[stream] += chunk
        if cut:
            writer.cut(stream)
    writer.cut(0)
    writer.cut(1)
    writer.event({"event": "exit", "message": ""})
    writer.close()
    return expected[0], expected[1]


def pack(folder: Path, limit: int = 2000) -> list[PendingBody]:
    """Everything that the spool holds behind its state, as bodies."""
    state = Checkpoint(str(folder))
    packer = Packer(ENCODER, limit, state.next, state.plan)
    reader = FrameReader(str(folder), state.position)
    found = [planned for frame in reader.frames() for planned in packer.add(frame)]
    reader.close()
    state.close()
    return found + packer.flush()


def rebuilt(bodies: list[PendingBody]) -> Rebuilt:
    """The streams in these bodies."""
    return Rebuilt((planned.body.data, {}) for planned in bodies)


@given(chunks)
@settings(max_examples=200)
def test_any_chunks_on_both_streams_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes, bool]]
) -> None:
    """Whatever is written, in whatever pieces, across segments: the streams are rebuilt and no seq is missing."""
    folder = tmp_path_factory.mktemp("run")
    expected = write(new_writer(folder), pieces)
    found = rebuilt(pack(folder))
    found.assert_whole()
    assert (found.stdout, found.stderr) == expected
    assert all(len(record.data) <= 21 for record in found.records)


@given(chunks, st.integers(0, 100), st.integers(1, 4))
@settings(max_examples=200)
def test_a_restart_sends_the_plan_unchanged_and_the_rest_anew(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes, bool]], acknowledged: int, planned: int
) -> None:
    """From any acknowledged body on, with any plan: the planned bodies are the same bytes, and nothing is missing."""
    folder = tmp_path_factory.mktemp("run")
    expected = write(new_writer(folder), pieces)
    bodies = pack(folder, 500)
    done = min(acknowledged, len(bodies) - 1)
    ahead = bodies[done : done + planned]
    position = (done and bodies[done - 1].resume) or (1, 0)
    state = Checkpoint(str(folder))
    state.save(bodies[done].body.first, position, [(one.body.first, one.body.last) for one in ahead])
    state.close()
    again = pack(folder, 350)  # another limit than before: the plan holds all the same
    assert [one.body.data for one in again[: len(ahead)]] == [one.body.data for one in ahead]
    found = rebuilt(bodies[:done] + again)
    found.assert_whole()
    assert found.duplicates == 0
    assert (found.stdout, found.stderr) == expected


def test_a_multibyte_character_is_not_cut_in_two(tmp_path: Path) -> None:
    """A piece that is cut at the longest line ends between characters."""
    writer = new_writer(tmp_path, max_line=4)
    write(writer, [(0, "ééééé\n".encode(), False)])
    assert [record.message for record in rebuilt(pack(tmp_path)).records] == ["éé", "éé", "é"]


def test_a_line_of_exactly_the_longest_size_is_one_record(tmp_path: Path) -> None:
    """Only one byte more makes a piece without newline."""
    writer = new_writer(tmp_path, max_line=4)
    write(writer, [(0, b"abcd\nabcde\n", False)])
    found = [(record.message, record.eol) for record in rebuilt(pack(tmp_path)).records]
    assert found == [("abcd", True), ("abcd", False), ("e", True)]


def test_every_segment_begins_with_the_meta_frame(tmp_path: Path) -> None:
    """So that a later segment says whose it is after the earlier ones are freed."""
    write(new_writer(tmp_path), [(0, b"x" * 19 + b"\n", False)] * 30)
    numbers = segment_numbers(str(tmp_path))
    assert len(numbers) > 2
    os.unlink(tmp_path / segment_name(numbers[0]))
    assert json.loads(read_meta(str(tmp_path))) == json.loads(META_JSON)
    first = (tmp_path / segment_name(numbers[1])).read_bytes()
    assert first[5] == META


@pytest.mark.parametrize("damage", ["payload", "zeros", "empty"])
def test_another_segments_meta_frame_serves_where_the_first_is_damaged(tmp_path: Path, damage: str) -> None:
    """Whose the run is, and where to, must not hang on one block of the disk."""
    write(new_writer(tmp_path), [(0, b"x" * 19 + b"\n", False)] * 30)
    path = tmp_path / segment_name(1)
    data = path.read_bytes()
    damaged = {"payload": data.replace(b"RUN", b"NUR", 1), "zeros": bytes(len(data)), "empty": b""}
    path.write_bytes(damaged[damage])
    assert json.loads(read_meta(str(tmp_path))) == json.loads(META_JSON)
    found = rebuilt(pack(tmp_path))
    found.assert_without_holes()
    assert found.stdout.count(b"\n") == 30 if damage == "payload" else 0 < found.stdout.count(b"\n") < 30


class FailingSegments(Segments):
    """Segments on a disk that is full for a while."""

    full = False

    def append(self, *arguments: object, **named: object) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().append(*arguments, **named)  # type: ignore[arg-type]


@given(chunks, st.lists(st.booleans(), min_size=40, max_size=40))
@settings(max_examples=200)
def test_a_full_disk_drops_whole_lines_and_says_so(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes, bool]], full: list[bool]
) -> None:
    """What could not be written is covered by gap events; what is shipped are whole lines of the original."""
    folder = tmp_path_factory.mktemp("run")
    disk = FailingSegments(str(folder), META_JSON, UnboundedQuota(300))
    writer = Writer(disk, 20)
    written = [b"", b""]
    writer.event({"event": "start", "message": ""})
    taken = 0
    for (stream, chunk, event), disk.full in zip(pieces, full, strict=False):
        if chunk:
            writer.write(stream, chunk)
            written[stream] += chunk
        if event:
            taken += writer.event({"event": "note", "message": ""})
    disk.full = False
    writer.cut(0)
    writer.cut(1)
    writer.event({"event": "exit", "message": ""})
    writer.close()
    found = rebuilt(pack(folder))
    found.assert_without_holes()
    gaps = [event for event in found.events if event.event == "gap"]
    assert [event.event for event in found.events].count("note") == taken
    dropped = sum(event.last - event.seq + 1 for event in gaps)
    assert len(found.records) + dropped + len(found.events) - len(gaps) == writer.next_seq
    lines = sum(len(text.removesuffix(b"\n").split(b"\n")) for text in written if text)
    assert writer.lines == lines  # each line once, not each piece; a carriage return ends none
    assert writer.dropped <= dropped
    assert bool(writer.dropped) == bool(dropped)
    for stream, name in enumerate(("stdout", "stderr")):
        records = [record.data for record in found.records if record.stream == name]
        if not writer.dropped:
            assert b"".join(records) == written[stream]
        assert is_subsequence(records, written[stream])


def is_subsequence(records: list[bytes], whole: bytes) -> bool:
    """Whether the records stand in `whole` in their order, apart from one another."""
    at = 0
    for record in records:
        at = whole.find(record, at)
        if at < 0:
            return False
        at += len(record)
    return True


@pytest.mark.parametrize("part", ["header", "payload"])
def test_damage_becomes_a_gap_and_never_garbage(tmp_path: Path, part: str) -> None:
    """A flipped byte costs the lines of its frame, and the line that goes on from it; all else arrives."""
    writer = new_writer(tmp_path, max_line=100, limit=10**6)
    write(writer, [(0, b"line %d\n" % number, False) for number in range(10)] + [(1, b"err\n", False)])
    path = tmp_path / segment_name(1)
    data = bytearray(path.read_bytes())
    at = data.index(b"line 4")
    data[at if part == "payload" else at - 30] ^= 0xFF
    path.write_bytes(data)
    found = rebuilt(pack(tmp_path))
    found.assert_whole()
    (gap,) = [event for event in found.events if event.event == "gap" and event.seq == 5]
    assert gap.last <= 6
    assert found.stdout.startswith(b"line 0\nline 1\nline 2\nline 3\n")
    assert found.stdout.endswith(b"line 7\nline 8\nline 9\n")
    assert found.stderr in (b"err\n", b"")


@pytest.mark.parametrize("part", range(4))
def test_wherever_the_damage_is_no_line_is_made_up(tmp_path: Path, part: int) -> None:
    """Lines of both streams in small chunks, over several segments: every byte in turn, and no two lines are joined."""
    texts = [b"".join(b"%s %d\n" % (name, number) for number in range(20)) for name in (b"out", b"err")]
    chance, at = random.Random(part), [0, 0]
    pieces = []
    while at[0] < len(texts[0]) or at[1] < len(texts[1]):
        stream, size = chance.randrange(2), chance.randrange(1, 12)
        pieces.append((stream, texts[stream][at[stream] : at[stream] + size], False))
        at[stream] += size
    write(new_writer(tmp_path, max_line=100, limit=900), pieces)
    lines = {line for text in texts for line in text.splitlines(keepends=True)}
    for number in segment_numbers(str(tmp_path)):
        path = tmp_path / segment_name(number)
        data = path.read_bytes()
        for place in range(part, len(data), 8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
            found = rebuilt(pack(tmp_path))
            found.assert_without_holes()
            assert {record.data for record in found.records} <= lines
        path.write_bytes(data)


def test_a_line_that_the_next_segment_repeats_outlives_damage(tmp_path: Path) -> None:
    """It begins in a damaged frame; the segment behind that one holds it from its beginning."""
    writer = new_writer(tmp_path, limit=130)
    writer.write(0, b"one\ntwo")
    writer.write(0, b" and more\n")
    writer.close()
    assert segment_numbers(str(tmp_path)) == [1, 2]
    path = tmp_path / segment_name(1)
    path.write_bytes(path.read_bytes().replace(b"one", b"eno"))
    found = rebuilt(pack(tmp_path))
    found.assert_without_holes()
    assert found.stdout == b"two and more\n"


@pytest.mark.parametrize("kept", ["nothing", "its first frame"])
def test_a_segment_that_a_power_cut_emptied(tmp_path: Path, kept: str) -> None:
    """The line that went on in it is lost with it, and is not joined to the one that begins behind it."""
    writer = new_writer(tmp_path, limit=130)
    for chunk in (b"one\ntwo", b" and more\n", b"three\n"):
        writer.write(0, chunk)
    writer.close()
    assert segment_numbers(str(tmp_path)) == [1, 2, 3]
    size = 0 if kept == "nothing" else HEADER_BYTES + len(META_JSON)
    os.truncate(tmp_path / segment_name(2), size)
    found = rebuilt(pack(tmp_path))
    found.assert_without_holes()
    assert found.stdout == b"one\nthree\n"
    assert [(event.seq, event.last) for event in found.events] == [(1, 1)]


def test_a_damaged_event_costs_no_line(tmp_path: Path) -> None:
    """No line goes on from an event, nor from a segment's first frame."""
    write(new_writer(tmp_path, limit=10**6), [(0, b"one\ntwo\n", False)])
    path = tmp_path / segment_name(1)
    path.write_bytes(path.read_bytes().replace(b'"event":"start"', b'"event":"stuff"', 1).replace(b"RUN", b"NUR", 1))
    found = rebuilt(pack(tmp_path))
    found.assert_without_holes()
    assert found.stdout == b"one\ntwo\n"
    assert [(event.seq, event.last) for event in found.events if event.event == "gap"] == [(0, 0)]


def test_a_torn_tail_is_left_for_later(tmp_path: Path) -> None:
    """Half a frame at the end is not read until the rest of it is there."""
    write(new_writer(tmp_path, limit=10**6), [(0, b"whole\n", False)])
    path = tmp_path / segment_name(1)
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    reader = FrameReader(str(tmp_path))
    assert [frame.first for frame in reader.frames()] == [0, 1]
    path.write_bytes(data)
    assert [frame.first for frame in reader.frames()] == [2]


def test_the_state_survives_a_torn_write(tmp_path: Path) -> None:
    """Two slots alternate: when the newer one is damaged, the one before is in force."""
    state = Checkpoint(str(tmp_path))
    state.save(5, (1, 100), [(5, 9)])
    state.save(10, (2, 0), [])
    data = bytearray((tmp_path / "state").read_bytes())
    assert Checkpoint(str(tmp_path)).next == 10
    data[20] ^= 0xFF  # the second save went to the first slot
    (tmp_path / "state").write_bytes(data)
    old = Checkpoint(str(tmp_path))
    assert (old.next, old.position, old.plan) == (5, (1, 100), [(5, 9)])


def test_a_state_that_is_written_in_part_is_not_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes half of it: as if it had taken nothing, so that no segment is freed for it."""
    state = Checkpoint(str(tmp_path))
    state.save(7, (1, 70), [])
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[: len(data) // 2], offset))
    with pytest.raises(OSError, match="No space left"):
        state.save(8, (2, 80), [])
    assert (state.next, Checkpoint(str(tmp_path)).next) == (7, 7)
    monkeypatch.undo()
    state.save(9, (2, 90), [])
    assert Checkpoint(str(tmp_path)).position == (2, 90)


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    """A second taker gets nothing, until the first lets go."""
    first = run_folder.lock(str(tmp_path), "ship")
    assert first is not None
    assert run_folder.lock(str(tmp_path), "ship") is None
    os.close(first)
    second = run_folder.lock(str(tmp_path), "ship")
    assert second is not None
    os.close(second)


def test_a_spool_folder_of_others_is_refused(tmp_path: Path) -> None:
    """A symlink, a file, and a folder that others can read are not used."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "file").touch()
    for name in ("link", "open", "file"):
        with pytest.raises(SqsteeError):
            location.open_root(str(tmp_path / name))
    assert location.open_root(str(tmp_path / "real")) == str(tmp_path / "real")


def test_ulids_sort_by_time() -> None:
    """26 characters, the time first."""
    earlier, later = run_folder.new_ulid(1_000_000_000), run_folder.new_ulid(2_000_000_000)
    assert len(earlier) == 26
    assert earlier < later


def spool_meta(folder: Path) -> bytes:
    """The META payload of the first segment."""
    from sqstee.spool.reader import read_meta

    return read_meta(str(folder))


def written(folder: Path, lines: int = 5, limit: int = 10**6) -> None:
    """A spool with a frame a line."""
    writer = Writer(Segments(str(folder), META_JSON, UnboundedQuota(limit)), 100)
    for number in range(lines):
        writer.write(0, b"line %d\n" % number)
    writer.close()


def test_a_disk_that_is_full_at_the_first_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A META frame that failed left a segment without one, which nobody could read later."""
    writer = Writer(Segments(str(tmp_path), META_JSON), 100)
    real = segments.write_whole
    monkeypatch.setattr(segments, "write_whole", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    writer.event({"event": "start", "message": ""})
    writer.write(0, b"lost\n")
    monkeypatch.setattr(segments, "write_whole", real)
    writer.write(0, b"kept\n")
    writer.close()
    frames = list(FrameReader(str(tmp_path)).frames())
    assert [(frame.kind, frame.first, frame.lines) for frame in frames] == [
        (GAP, 0, 1),
        (LINES, 1, 1),
    ]  # the event takes no seq
    assert json.loads(spool_meta(tmp_path)) == json.loads(META_JSON)


def test_a_damaged_header_in_the_last_frame(tmp_path: Path) -> None:
    """Resynchronising at the end of the file left the reader with an impossible offset."""
    written(tmp_path)
    path = tmp_path / segment_name(1)
    data = bytearray(path.read_bytes())
    data[data.index(b"line 4") - 20] ^= 0xFF
    path.write_bytes(data)
    reader = FrameReader(str(tmp_path))
    assert len(list(reader.frames())) == 4
    assert list(reader.frames()) == []


def test_a_frame_that_was_truncated_away(tmp_path: Path) -> None:
    """The reader kept the header of half a frame, although another frame was written in its place."""
    written(tmp_path, 1)
    path = tmp_path / segment_name(1)
    whole = path.read_bytes()
    (tmp_path / "other").mkdir()
    written(tmp_path / "other", 3)
    longer = (tmp_path / "other" / segment_name(1)).read_bytes()
    reader = FrameReader(str(tmp_path))
    path.write_bytes(whole + b"sqtf" + b"\1\2\0\0" + b"\0" * 30)
    assert len(list(reader.frames())) == 1
    path.write_bytes(longer)
    assert [frame.first for frame in reader.frames()] == [1, 2]


def test_a_segment_that_is_gone(tmp_path: Path) -> None:
    """A missing segment was taken for the end of the spool."""
    written(tmp_path, 30, limit=300)
    numbers = sorted(path.name for path in tmp_path.glob("*.seg"))
    assert len(numbers) > 4
    (tmp_path / numbers[0]).unlink()
    (tmp_path / numbers[2]).unlink()
    frames = list(FrameReader(str(tmp_path)).frames())
    assert [frame.kind for frame in frames].count(GAP) == 2
    assert frames[0].first == 0
    assert frames[-1].first + frames[-1].lines == 30
    assert sum(frame.lines for frame in frames) == 30


def test_a_gap_over_planned_ranges() -> None:
    """It made an empty body with the first seq -1."""
    packer = Packer(ENCODER, 10**6, 0, [(0, 4), (5, 9), (10, 12)])
    frames = [
        Frame(GAP, 0, 10, encode_object(gap_fields(0, 9, "damaged")), 0, (1, 0), (1, 10)),
        Frame(LINES, 10, 3, b"a\nb\nc\n", 0, (1, 10), (1, 20)),
    ]
    bodies = [planned.body for frame in frames for planned in packer.add(frame)]
    assert [(body.first, body.last) for body in bodies] == [(0, 9), (10, 12)]
    assert all(body.data for body in bodies)
