"""The local queue: what is stored, what is dropped, and who may read it meanwhile."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest
from support import Sqstee, injecting, running, wait_for

from sqstee.record import Body
from sqstee.transports.errors import RETRY, TransportError
from sqstee.transports.local import LocalSender

BROKEN_LOCAL = "sqstee.transports.local:LocalSender.send:bug:1"

LOCAL = ("--to", "local")


def test_a_tiny_local_queue_keeps_what_was_just_stored(sqstee: Sqstee) -> None:
    """--local-max below SQLite's own pages dropped every line and said it was delivered."""
    sqstee.run(*LOCAL, "--local-max", "10K", "--", "seq", "5")
    assert sqstee.local_bodies()


def test_the_local_queue_drops_its_oldest(sqstee: Sqstee) -> None:
    """Above --local-max the oldest rows go, the newest stay."""
    for job in ("one", "two", "three"):
        sqstee.run(*LOCAL, "--local-max", "2M", "--job", job, "--", "seq", "8000")
    bodies = sqstee.local_bodies()
    assert b'"job":"one"' not in b"".join(body.data for body in bodies)
    assert b'"event":"exit"' in bodies[-1].data


def test_a_full_local_queue_is_passing_trouble(tmp_path: Path) -> None:
    """SQLite rolls back by itself: our own ROLLBACK hid that the disk was full."""
    sender = LocalSender(str(tmp_path / "q.db"), 10**9)
    sender.open()
    assert sender._connection
    sender._connection.execute("PRAGMA max_page_count = 20")
    with pytest.raises(TransportError) as caught:
        sender.send([Body(b"x" * 200_000, "R", "h", 0, 0)])
    assert caught.value.kind == RETRY
    assert "full" in str(caught.value)
    sender.close()


def test_the_local_queue_survives_a_reader_while_leftovers_are_shipped(sqstee: Sqstee, tmp_path: Path) -> None:
    """Another run's leftovers opened the file a second time: that took the locks of the run's own connection, the next
    reader to leave removed its log, and what was delivered from then on was nowhere."""
    assert sqstee.run("--flush-timeout", "0", "--", "echo", "left", environ=injecting(tmp_path, BROKEN_LOCAL)).stderr
    assert len(sqstee.waiting_runs()) == 1
    code = "echo one; until [ -e next ]; do sleep 0.02; done; echo two; until [ -e end ]; do sleep 0.02; done; echo end"
    words = sqstee.words("--to", "local", "--linger", "0", "--", "sh", "-c", f"cd {tmp_path}; {code}")

    def is_there(text: bytes) -> bool:
        return any(b'"message":"%s"' % text in body.data for body in sqstee.local_bodies())

    with running(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=sqstee.environ) as process:
        wait_for(lambda: sqstee.spool.joinpath("local.db").exists() and is_there(b"left"), "delivery of the leftovers")
        wait_for(lambda: len(sqstee.waiting_runs()) == 1, "removal of the leftovers")
        for name, line in (("next", b"two"), ("end", b"end")):
            assert sqstee.run("tail", "--no-follow").returncode == 0
            (tmp_path / name).touch()
            wait_for(functools.partial(is_there, line), f"{line!r} in the queue")
        out, errors = process.communicate(timeout=60)
    assert (out, errors, sqstee.waiting_runs()) == (b"one\ntwo\nend\n", b"", [])
