"""Spools that are intact and odd, of a newer version or with frames that no version writes: one run's trouble."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import deque
from contextlib import closing, suppress
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from support import Sqstee

from sqstee.agent.flow import Flow
from sqstee.errors import SqsteeError
from sqstee.jsonbytes import encode_object
from sqstee.ship.request import RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool import checkpoint, frame
from sqstee.spool.checkpoint import Checkpoint
from sqstee.spool.frame import EVENT, GAP, LINES, META, pack_frame_header
from sqstee.spool.reader import FrameReader, read_meta
from sqstee.spool.recovery import SpoolTail, close_dead_run
from sqstee.spool.waiting import WaitingRun

RUN = "01JD0000000000000000000000"
META_JSON = encode_object({"run": RUN, "host": "h", "to": "local"})
ODD = {
    "an event that is a list": (EVENT, 0, 1, b"[1]"),
    "an event that is no JSON": (EVENT, 0, 1, b"{"),
    "an event nested too deeply": (EVENT, 0, 1, b"[" * 100_000),
    "an event of two lines": (EVENT, 0, 2, b'{"event":"x"}'),
    "stream 9": (LINES, 9, 1, b"line\n"),
    "kind 9": (9, 0, 1, b"line\n"),
    "lines beyond number": (LINES, 0, 2**32 - 1, b"line\n"),
}


def packed(kind: int, stream: int, lines: int, payload: bytes, first: int = 0, flags: int = 0) -> bytes:
    """One frame with valid checksums."""
    return pack_frame_header(kind, flags, stream, 0, first, lines, payload) + payload


def spool(root: Path, data: bytes) -> Path:
    """A run's folder with one segment."""
    folder = root / RUN
    folder.mkdir(mode=0o700, parents=True)
    root.chmod(0o700)
    (folder / "00000001.seg").write_bytes(data)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """The files of a run that hold anything; locks are empty."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.stat().st_size}


def newer(data: bytes) -> bytes:
    """A frame with the number of the next version."""
    header = data[:4] + bytes([frame.VERSION + 1]) + data[5 : frame.HEADER.size]
    return header + struct.pack("<I", zlib.crc32(header)) + data[frame.HEADER_BYTES :]


NEWER = {
    "its first frame": newer(packed(META, 0, 0, META_JSON)) + newer(packed(LINES, 0, 1, b"line\n")),
    "a later frame": packed(META, 0, 0, META_JSON) + newer(packed(LINES, 0, 1, b"line\n")),
    "its file names": b"",
    "its checkpoint": packed(META, 0, 0, META_JSON) + packed(LINES, 0, 1, b"line\n"),
}


@pytest.mark.parametrize("what", NEWER)
def test_a_newer_versions_run_stays_untouched(sqstee: Sqstee, what: str) -> None:
    """Flush read its frames as damage, shipped gap events in their place and removed the run, with status 0."""
    folder = spool(sqstee.spool, NEWER[what])
    if what == "its file names":
        (folder / "00000001.segment").write_bytes(b"sqtg")
    if what == "its checkpoint":
        Checkpoint(str(folder)).save(1, (1, 0), [])
        slot = bytearray((folder / "state").read_bytes()[2048 : 2048 + checkpoint._SLOT.size])
        slot[4] += 1
        (folder / "state").write_bytes(bytes(slot) + struct.pack("<I", zlib.crc32(slot)))
    before = content(folder)
    for words in (
        ("flush",),
        ("flush", "--list"),
        ("flush", "--dry-run"),
        ("agent", "--once"),
        ("stat", "--interval", "0"),
    ):
        found = sqstee.run(*words)
        assert {name: data for name, data in content(folder).items() if name in before} == before, words
        assert found.returncode == (words[0] != "stat"), (words, found)
        if what != "its file names" and words[0] != "stat":
            assert b"written by a newer sqstee" in found.stdout + found.stderr
            assert b"would ship" not in found.stdout
        assert b"Error" not in found.stdout + found.stderr
    assert sqstee.wrap("echo", "other").stderr.count(b"\n") <= 1
    assert {name: data for name, data in content(folder).items() if name in before} == before


def test_an_odd_frame_is_the_trouble_of_its_run_alone(sqstee: Sqstee) -> None:
    """flush and stat ended with a traceback, and the runs behind it stayed."""
    bad = []
    for number, odd in enumerate(ODD.values()):
        folder = sqstee.spool / f"{RUN[:-1]}{number}"
        folder.mkdir(parents=True)
        meta = encode_object({"run": folder.name, "host": "h", "to": "local"})
        folder.joinpath("00000001.seg").write_bytes(packed(META, 0, 0, meta) + packed(*odd))
        bad.append(folder.name)
    sqstee.spool.chmod(0o700)
    good = sqstee.spool / f"{RUN[:-1]}Z"
    good.mkdir()
    meta = encode_object({"run": good.name, "host": "h", "to": "local"})
    good.joinpath("00000001.seg").write_bytes(packed(META, 0, 0, meta) + packed(LINES, 0, 1, b"good\n"))
    stat = sqstee.run("stat", "--interval", "0", "-o", "json")
    assert (stat.returncode, stat.stderr) == (0, b"")
    assert json.loads(stat.stdout.splitlines()[-1])["waiting"] == len(bad) + 1
    flush = sqstee.run("flush")
    assert flush.returncode == 1
    said = flush.stderr.decode().splitlines()
    assert [line.partition(": stays in the spool, everything: its spool cannot be read: ")[0] for line in said] == bad
    assert "Error: " not in flush.stderr.decode()
    assert sorted(sqstee.waiting_runs()) == bad
    assert sqstee.local().stdout == b"good\n"


payloads = st.one_of(
    st.binary(max_size=40),
    st.text("ab\n", max_size=40).map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"event": st.sampled_from(["exit", "end", "gap", "start", "", 5, None])},
        optional={"open": st.sampled_from([[], ["stdout"], 1]), "from": st.integers(), "to": st.integers()},
    ).map(lambda value: json.dumps(value).encode()),
)
metas = st.fixed_dictionaries(
    {},
    optional={
        "run": st.sampled_from([RUN, "", 5, None, "../x"]),
        "host": st.sampled_from(["h", "", 5, None, "\n"]),
        "to": st.sampled_from(["local", "", "x y", 5, None]),
        "labels": st.sampled_from([{}, {"a": 1}, [], 5]),
        "job": st.sampled_from(["j", 5, None]),
        "exited": st.booleans(),
        "linger": st.sampled_from([1.0, "x", [], None]),
    },
).map(lambda value: json.dumps(value).encode())
frames = st.builds(
    packed,
    st.sampled_from([LINES, LINES, EVENT, EVENT, GAP, META]) | st.integers(0, 255),
    st.integers(0, 3) | st.integers(0, 255),
    st.integers(0, 3) | st.integers(0, 2**32 - 1),
    payloads,
    st.integers(0, 8) | st.integers(0, 2**64 - 1),
    st.integers(0, 3) | st.integers(0, 255),
)
positions = st.integers(0, 3) | st.integers(0, 2**32 - 1)
states = st.tuples(
    st.integers(0, 5) | st.integers(0, 2**64 - 1),
    positions,
    st.integers(0, 100) | st.integers(0, 2**64 - 1),
    st.integers(0, 255),
    st.lists(st.integers(0, 9) | st.integers(0, 2**64 - 1), max_size=6),
)


def state_file(next_seq: int, segment: int, offset: int, count: int, plan: list[int]) -> bytes:
    """A checkpoint with a valid checksum."""
    numbers = plan + [0] * (2 * checkpoint.PLAN_SLOTS - len(plan))
    slot = checkpoint._SLOT.pack(b"sqts", frame.VERSION, count, 1, next_seq, segment, offset, *numbers)
    return slot + struct.pack("<I", zlib.crc32(slot))


@given(
    meta=st.just(META_JSON) | metas | payloads,
    data=st.lists(frames, max_size=6).map(b"".join),
    second=st.none() | st.lists(frames, max_size=4).map(b"".join),
    state=st.none() | states,
)
@settings(max_examples=300)
def test_readers_of_the_spool_raise_what_their_callers_expect(
    tmp_path_factory: pytest.TempPathFactory,
    meta: bytes,
    data: bytes,
    second: bytes | None,
    state: tuple[int, ...] | None,
) -> None:
    """Whatever is in frames with valid checksums: OSError, ValueError or SqsteeError, which concern the run alone."""
    root = tmp_path_factory.mktemp("root")
    folder = spool(root, packed(META, 0, 0, meta) + data)
    if second is not None:
        (folder / "00000002.seg").write_bytes(packed(META, 0, 0, meta, first=3) + second)
    if state is not None:
        (folder / "state").write_bytes(state_file(*state))  # type: ignore[arg-type]
    path = str(folder)

    def read(source: RunSource) -> None:
        try:
            for _ in range(5):
                source.read()
                source.close_open_body()
                bodies = source.partial_request().bodies
                source.plan(bodies)
                source.acknowledge(bodies)
            source.remove()
        finally:
            source.close()

    def frames_of() -> None:
        with closing(FrameReader(path)) as reader:
            deque(reader.frames(), 0)

    def ship() -> None:
        read(RunSource(path, 500, RequestLimits(), "none"))

    def serve() -> None:
        flow = Flow(path, RequestLimits(), str(root))
        flow._wanted_slices = 10
        read(flow)

    WaitingRun(str(root), RUN)
    for reader in (
        lambda: read_meta(path),
        frames_of,
        lambda: SpoolTail(path),
        lambda: close_dead_run(path),
        ship,
        serve,
    ):
        if os.path.isdir(path):
            with suppress(OSError, ValueError, SqsteeError):
                reader()
