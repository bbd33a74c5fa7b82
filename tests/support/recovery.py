"""Runs that a killed process left behind: make, ship and check them."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from unittest import mock

from fakes.sqs import FakeSqs

from sqstee.cli import flush as cli

from .command import Sqstee
from .processes import children, kill, running, wait_for
from .streams import Rebuilt

LINES = b"".join(b"%d\n" % n for n in range(1, 2001))


def shipped(server: FakeSqs, queue: str) -> Rebuilt:
    """The streams from all messages that the queue has accepted."""
    return Rebuilt((message.body, message.attributes) for message in server.sent(queue))


@contextmanager
def unfinished(
    sqstee: Sqstee, environ: Mapping[str, str], to: str
) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A running run with LINES and an unfinished line in the spool; its front, command and shipper."""
    script = "seq 2000; printf unfinished; exec tail -f /dev/null"
    words = sqstee.words("--to", to, "--", "sh", "-c", script)
    with running(words, stdout=subprocess.DEVNULL, env=sqstee.environ | dict(environ)) as process:
        wait_for(lambda: b"unfinished" in sqstee.spooled(), "spool")
        wait_for(lambda: len(children(process.pid)) == 2, "shipper")
        command, shipper = children(process.pid)
        yield process, command, shipper


def leave_behind(sqstee: Sqstee, server: FakeSqs, to: str) -> str:
    """Kill the processes of an unfinished run whose queue does not exist yet; the run's name."""
    with unfinished(sqstee, server.environ(), to) as (process, command, shipper):
        kill(shipper, process.pid, command)
    (run,) = sqstee.waiting_runs()
    return run


def assert_recovered(found: Rebuilt) -> None:
    """It has every line, the unfinished one included, and an exit event with the cause."""
    found.assert_whole()
    assert found.stdout == LINES + b"unfinished"
    assert found.events[-1].fields["cause"] == "wrapper-died"
    assert found.events[-1].fields["name"] == "sh"


def flush_once(sqstee: Sqstee, environ: Mapping[str, str]) -> str:
    """`sqstee flush` in this process, which has imported boto3 already; what it reports of runs that stay."""
    umask, limit = os.umask(0o077), resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with mock.patch.dict(os.environ, sqstee.environ | dict(environ), clear=True), StringIO() as reported:
            with redirect_stderr(reported):
                status = cli.flush(False, False, "60s", str(sqstee.spool), True)
            assert (status != 0) == ("stays in the spool" in reported.getvalue())
            return reported.getvalue()
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def flush(sqstee: Sqstee, server: FakeSqs) -> None:
    """Flush until the spool is empty; another process may ship part of it."""

    def flushed() -> bool:
        return not flush_once(sqstee, server.environ()) and not sqstee.waiting_runs()

    wait_for(flushed, "empty spool", 40)
