"""Draining a queue, reading the files, and assembling runs from a journal."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from fakes.sqs import FakeSqs

from sqstee.drain.journal import Journal, meta_of
from sqstee.drain.store import Store
from sqstee.drain.verdict import Verdict

from .command import Sqstee

FAST = ("--idle-timeout", "0.5s")


def drained(sqstee: Sqstee, server: FakeSqs, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Drain the queue `q` into the folder `out`."""
    out = str(sqstee.folder / "out")
    return sqstee.run("drain", "q", "-O", out, *FAST, *words, environ=server.environ(), **options)


def files(folder: Path) -> dict[str, bytes]:
    """The drained files, by their paths in the folder, without its index."""
    found = (path for path in folder.rglob("*") if path.is_file() and ".sqstee" not in path.parts)
    found = (path for path in found if path.name != "runs.ndjson")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def index(folder: Path) -> dict[str, dict[str, Any]]:
    """The objects in `runs.ndjson`, by run."""
    lines = (folder / "runs.ndjson").read_text().splitlines()
    return {fields["run"]: fields for fields in map(json.loads, lines)}


def at_most(server: FakeSqs, queue: str, left: int) -> bool:
    """Whether a queue holds at most `left` messages."""
    return len(server.messages(queue)) <= left


def journal(folder: Path, *bodies: bytes, id: str = "") -> None:
    """Write bodies to the journal, as a drain does."""
    (folder / ".sqstee").mkdir(parents=True, exist_ok=True)
    writer = Journal(str(folder / ".sqstee"))
    writer.append([(meta_of(id or f"id{hash(body)}", 1.5, {}), body) for body in bodies])
    writer.close()


def assembled(folder: Path, layout: str = "streams", packed: bool = False) -> dict[str, Verdict]:
    """Assemble the runs in the journal; the verdicts by run."""
    found: dict[str, Verdict] = {}
    store = Store(str(folder), layout, packed)
    try:
        store.assemble(lambda verdict: found.update({verdict.run: verdict}))
    finally:
        store.close()
    return found
