"""Programs that log with sqstee.Handler, and the runs that arrive from them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fakes.sqs import FakeSqs

from .command import Sqstee
from .streams import Rebuilt

START = "import logging, os, sys, threading, sqstee\nlog = logging.getLogger('job')\n"


def program(tmp_path: Path, code: str) -> list[str]:
    """A program that logs, in a file, because multiprocessing's spawn needs one."""
    path = tmp_path / "job.py"
    path.write_text(START + code)
    return [sys.executable, str(path)]


def run(sqstee: Sqstee, words: list[str], server: FakeSqs | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    environ = sqstee.environ | (server.environ() if server else {})
    environ["PYTHONWARNINGS"] = "ignore:This process:DeprecationWarning"  # since 3.12, for a fork while threads run
    return subprocess.run(words, capture_output=True, text=True, env=environ, timeout=60, check=False)


def by_run(bodies: list[tuple[str | bytes, dict[str, str]]]) -> list[Rebuilt]:
    """The bodies by run, in the order of the runs' start."""
    found = Rebuilt.of_many(bodies)
    return [found[name] for name in sorted(found)]


def arrived(server: FakeSqs) -> list[Rebuilt]:
    """The runs on the queue; each is whole, and no request was refused."""
    runs = by_run([(message.body, message.attributes) for message in server.sent("q")])
    for one in runs:
        one.assert_whole()
    assert server.counters().rejections == []
    return runs
