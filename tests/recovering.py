"""Runs that a death left behind, for the tests: made, shipped, and looked at."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fake_sqs import FakeSqs
from support import Rebuilt, Sqstee, children, kill, running, wait_for

LINES = b"".join(b"%d\n" % n for n in range(1, 2001))


def shipped(server: FakeSqs, queue: str) -> Rebuilt:
    """The streams in everything that the queue ever accepted."""
    return Rebuilt((message.body, message.attributes) for message in server.sent(queue))


@contextmanager
def unfinished(
    sqstee: Sqstee, environ: Mapping[str, str], to: str
) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A run of LINES and an unfinished one, all spooled, that goes on: its front, command and shipper."""
    script = "seq 2000; printf unfinished; exec tail -f /dev/null"
    words = sqstee.words("--to", to, "--", "sh", "-c", script)
    with running(words, stdout=subprocess.DEVNULL, env=sqstee.environ | dict(environ)) as process:
        wait_for(lambda: b"unfinished" in sqstee.spooled(), "spool")
        wait_for(lambda: len(children(process.pid)) == 2, "shipper")
        command, shipper = children(process.pid)
        yield process, command, shipper


def leave_behind(sqstee: Sqstee, server: FakeSqs, to: str) -> str:
    """Kill front and shipper of a run to a queue that is not there yet; the run's name. It ends in `unfinished`."""
    with unfinished(sqstee, server.environ(), to) as (process, command, shipper):
        kill(shipper, process.pid, command)
    (run,) = sqstee.waiting_runs()
    return run


def assert_recovered(found: Rebuilt) -> None:
    """Every line, the unfinished one too, and an exit event that says how the run ended."""
    found.assert_whole()
    assert found.stdout == LINES + b"unfinished"
    assert found.events[-1].fields["cause"] == "wrapper-died"


def flush(sqstee: Sqstee, server: FakeSqs) -> None:
    """What is left is shipped, by whoever has it, and nothing stays."""

    def flushed() -> bool:
        return sqstee.run("flush", environ=server.environ()).returncode == 0 and not sqstee.waiting_runs()

    wait_for(flushed, "end of everything", 40)
