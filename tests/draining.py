"""Shared by the tests of drain: drain a queue, read the files, and assemble a journal."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from fake_sqs import FakeSqs
from support import Sqstee

from sqstee.drain.journal import Journal, meta_of
from sqstee.drain.store import Store
from sqstee.drain.verdict import Verdict

FAST = ("--idle-timeout", "0.5s")


def drained(sqstee: Sqstee, server: FakeSqs, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Drain the queue `q` into the folder `out`."""
    out = str(sqstee.folder / "out")
    return sqstee.run("drain", "q", "-O", out, *FAST, *words, environ=server.environ(), **options)


def files(folder: Path) -> dict[str, bytes]:
    """Every file that a user sees, by its path in the folder."""
    found = (path for path in folder.rglob("*") if path.is_file() and ".sqstee" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def at_most(server: FakeSqs, queue: str, left: int) -> bool:
    """Whether a queue holds at most this many messages."""
    return len(server.messages(queue)) <= left


def journal(folder: Path, *bodies: bytes, id: str = "") -> None:
    """Journal bodies, as a drain would."""
    (folder / ".sqstee").mkdir(parents=True, exist_ok=True)
    writer = Journal(str(folder / ".sqstee"))
    writer.append([(meta_of(id or f"id{hash(body)}", 1.5, {}), body) for body in bodies])
    writer.close()


def assembled(folder: Path, layout: str = "streams", packed: bool = False) -> dict[str, Verdict]:
    """Assemble the journal; the verdicts by run."""
    found: dict[str, Verdict] = {}
    store = Store(str(folder), layout, packed)
    try:
        store.assemble(lambda verdict: found.update({verdict.run: verdict}))
    finally:
        store.close()
    return found
