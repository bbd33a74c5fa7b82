"""`sqstee web --check-store`: is the file sound, and do the rows of runs say what the bodies do?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Sqstee
from support.board import change
from support.bodies import event_of, gap_of, lines_of, piece_of, put_local, whole_run
from support.odd_bodies import bodies as odd_bodies

from sqstee.transports.local import LocalSender
from sqstee.transports.local_receiver import LocalReceiver
from sqstee.transports.local_store import LocalStore
from sqstee.transports.store_check import check_store
from sqstee.wire import DecodeError, by_run


def check(sqstee: Sqstee, path: Path) -> tuple[int, list[str]]:
    """The exit status and the lines of a check."""
    found = sqstee.run("web", "--check-store", f"local:{path}")
    assert found.stderr == b""
    return found.returncode, found.stdout.decode().splitlines()


def fill(path: Path) -> None:
    """A store with runs of all kinds."""
    put_local(
        path, *whole_run(5, "OK"), *whole_run(5, "BAD", status=3), event_of("start", 0, "GOES"), lines_of(1, 3, "GOES")
    )
    put_local(
        path, lines_of(5, 9, "ODD"), gap_of(2, 20, "ODD"), lines_of(7, 12, "ODD"), piece_of(22, "x", "ODD", eol=False)
    )


def test_a_sound_store(sqstee: Sqstee, tmp_path: Path) -> None:
    """Nothing to do."""
    fill(tmp_path / "s.db")
    assert check(sqstee, tmp_path / "s.db") == (
        0,
        [
            f"the file is sound: 12 messages of 4 runs, {check_store(str(tmp_path / 's.db')).bytes:,.0f} bytes",
            "rows of runs: 0 rebuilt from their messages, 0 without any removed",
        ],
    )


def test_rows_that_differ_are_rebuilt(sqstee: Sqstee, tmp_path: Path) -> None:
    """A missing one, a broken one, and one that says something else; ended runs without a message lose theirs."""
    path = tmp_path / "s.db"
    fill(path)
    before = [one.fields(0, 60) for one in LocalStore(str(path)).runs()]
    change(
        path,
        "DELETE FROM run WHERE run = 'OK'",
        "UPDATE run SET summary = '{' WHERE run = 'BAD'",
        "UPDATE run SET summary = replace(summary, '\"last\": 3', '\"last\": 2') WHERE run = 'GOES'",
        "INSERT INTO run SELECT 'GHOST', started, 1, summary FROM run WHERE run = 'ODD'",
    )
    status, lines = check(sqstee, path)
    assert (status, lines[1]) == (0, "rows of runs: 3 rebuilt from their messages, 1 without any removed")
    assert sorted(map(str, before)) == sorted(str(one.fields(0, 60)) for one in LocalStore(str(path)).runs())
    assert check_store(str(path)).rebuilt == 0


def test_deleted_messages_are_no_difference(tmp_path: Path) -> None:
    """A row says what came, also where a reader has consumed some of it."""
    path = tmp_path / "s.db"
    fill(path)
    receiver = LocalReceiver(str(path), consume=True)
    receiver.delete(receiver.receive(7, 0))
    receiver.close()
    found = check_store(str(path))
    assert (found.rebuilt, found.removed, found.is_damaged) == (0, 0, False)


@given(st.lists(odd_bodies, max_size=4))
def test_odd_bodies_are_no_difference(found: list[bytes]) -> None:
    """What was noted of them once is noted the same again."""
    with TemporaryDirectory() as folder:
        store = LocalSender(f"{folder}/s.db", 1 << 30)
        store.open()
        for data in found:
            with suppress(DecodeError):
                store.send(by_run(data))
        store.close()
        assert check_store(f"{folder}/s.db").rebuilt == 0


def test_a_damaged_file(sqstee: Sqstee, tmp_path: Path) -> None:
    """It is said, and the status is 1."""
    path = tmp_path / "s.db"
    fill(path)
    change(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(data)
    status, lines = check(sqstee, path)
    assert status == 1
    assert lines[0].startswith("damaged: ")
    path.write_bytes(b"no database at all\n" * 500)
    status, lines = check(sqstee, path)
    assert (status, lines[0]) == (1, "damaged: file is not a database")


def test_a_message_that_cannot_be_unpacked(sqstee: Sqstee, tmp_path: Path) -> None:
    """It is counted."""
    path = tmp_path / "s.db"
    fill(path)
    change(path, "UPDATE body SET encoding = 'gzip,base64' WHERE run = 'OK' AND first = 1")
    status, lines = check(sqstee, path)
    assert (status, lines[-1]) == (1, "damaged: 1 message cannot be read")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("local:AT/none.db",), "AT/none.db: no such store"),
        (("q",), "--check-store is for a local store, by itself"),
        (("local:AT/s.db", "--consume", "--store", "local:AT/b.db"), "--check-store is for a local store, by itself"),
    ],
)
def test_what_is_no_store(sqstee: Sqstee, tmp_path: Path, words: Sequence[str], problem: str) -> None:
    """One line and one hint; nothing is created."""
    found = sqstee.run("web", "--check-store", *(word.replace("AT", str(tmp_path)) for word in words))
    assert found.returncode
    lines = found.stderr.decode().splitlines()
    assert (lines[0], len(lines)) == (f"sqstee: {problem.replace('AT', str(tmp_path))}", 2)
    assert not list(tmp_path.glob("*.db"))
