"""The real collector in a process of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqstee.record import Body, Encoder
from sqstee.transports.base import ReceivedMessage
from sqstee.transports.local_receiver import LocalReceiver

from .command import SCRIPT, clean_environment
from .processes import running


def body(run: str, first: int, last: int, text: bytes = b"line") -> Body:
    """A body of the records `first`..`last`."""
    lines = b"".join(b"%s %d\n" % (text, seq) for seq in range(first, last + 1))
    return Body(Encoder(run, "host").lines(lines, "stdout", 0, first), run, "host", first, last)


def stored(store: Path) -> list[ReceivedMessage]:
    """All rows of a collector's store."""
    receiver, found = LocalReceiver(str(store)), []
    while messages := receiver.receive(1000, 0):
        found += messages
    receiver.close()
    return found


@contextmanager
def collecting(
    store: Path, *words: str, port: int = 0, environ: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`sqstee serve` on `port` (0: a free one); the process and its URL."""
    command = [SCRIPT, "serve", "--port", str(port), "--store", f"local:{store}", *words]
    env = clean_environment() | {"HOME": str(store.parent)} | dict(environ or {})
    with running(command, stderr=subprocess.PIPE, env=env) as process:
        assert process.stderr
        line = process.stderr.readline().decode()
        found = re.fullmatch(r"listening on (http://\S+)\n", line)
        assert found, line + process.stderr.read().decode()
        yield process, found[1]
        process.kill()
