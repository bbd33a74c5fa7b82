"""Every way there is carries the same records."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
from fakes.web import Application, FakeWeb, HttpRequest, HttpResponse
from support import Rebuilt, Sqstee, children, kill, python, running, targets, wait_for

from sqstee.transports.http import COLLECTOR_HEADER

NOISY = python(r"""
import os
for part in range(40):
    os.write(1, b"".join(b"out %d \xff\x85\n" % n for n in range(part * 50, part * 50 + 50)))
    os.write(2, b"err %d\x01\n" % part)
os.write(1, b"no newline")
""")


@pytest.fixture(scope="module")
def by_way(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rebuilt]:
    """What the same command left at each kind of destination, compressed and not."""
    found = {}
    for kind in ("local", *targets.FAULTS):
        for compress in ("none", "gzip"):
            folder = tmp_path_factory.mktemp(f"{kind}-{compress}")
            found[f"{kind} {compress}"] = _left(Sqstee(folder), kind, compress, folder)
    return found


def _left(sqstee: Sqstee, kind: str, compress: str, folder: Path) -> Rebuilt:
    words = ("--host", "h", "--job", "j", "--label", "a=b", "--message-bytes", "16K", "--compress", compress)
    if kind == "local":
        found = sqstee.run(*words, "--", *NOISY)
        assert (found.returncode, sqstee.waiting_runs()) == (0, [])
        return sqstee.local()
    with targets.target(kind, folder) as target:
        found = sqstee.run(*words, "--to", target.to, "--", *NOISY, environ=target.environ)
        assert (found.returncode, sqstee.waiting_runs()) == (0, [])
        return Rebuilt(target.bodies())


def _shape(got: Rebuilt) -> dict[str, object]:
    """All that does not depend on when, where and in which run something was written."""
    return {
        "seqs": [item.seq for item in got.items],
        "events": [event.event for event in got.events],
        "lines": {
            stream: [
                (record.data, record.message, record.host, record.job, record.labels)
                for record in got.records
                if record.stream == stream
            ]
            for stream in ("stdout", "stderr")
        },
    }


def test_the_same_records_everywhere(by_way: dict[str, Rebuilt]) -> None:
    """Streams, seqs, tags and events are those of the local queue; nothing is missing, and nothing is there twice."""
    expected = _shape(by_way["local none"])
    by_way["local none"].assert_whole()
    assert len(by_way["local none"].records) == 2041
    for way, got in by_way.items():
        assert (_shape(got), got.duplicates) == (expected, 0), way


class Picky:
    """Refuses a line, takes the gap event in its place, and does not answer that; well again when `go_on` is set."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self.refusal = application.refusal
        self.took_gap = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, asked: HttpRequest) -> HttpResponse:
        """Carry a request out."""
        if b"poisonous" in asked.body and not self.go_on.is_set():
            refused = self.refusal("InvalidParameterValue", 422, "no")
            refused.headers[COLLECTOR_HEADER] = "1"  # the collector itself refuses, not something before it
            return refused
        answer = self._application(asked)
        if b'"event":"gap"' in asked.body and not self.go_on.is_set():
            self.took_gap.set()
            self.go_on.wait(60)
        return answer


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_a_gap_event_does_not_stand_for_its_records(sqstee: Sqstee, tmp_path: Path, kind: str) -> None:
    """Killed before its answer came: the record was put aside nowhere, is sent again, and must not count as there."""
    lines = ["0", "1", "2", "3", "4", "poisonous", "6", "7", "the last"]
    code = python(f"import os\nfor line in {lines}: os.write(1, line.encode() + b'\\n')\nos.read(0, 1)")
    with targets.target(kind, tmp_path) as target:
        assert isinstance(target.server, FakeWeb)
        picky = target.server.serve(Picky)
        environ = sqstee.environ | target.environ
        words = sqstee.words("--to", target.to, "--linger", "0", "--", *code)
        with running(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environ) as wrapper:
            assert picky.took_gap.wait(40)
            wait_for(lambda: b"the last\n" in sqstee.spooled(), "all lines")
            kill(*children(wrapper.pid), wrapper.pid)
        picky.go_on.set()
        wait_for(lambda: target.active == 0, "end of the held answer")
        assert sqstee.run("flush", environ=target.environ).returncode == 0
        bodies = target.bodies()
        read = "s3://bkt/logs" if kind == "s3" else f"local:{tmp_path}/collected.db"
        shown = sqstee.run("tail", read, "--no-follow", "-o", "raw", "--stream", "stdout", environ=target.environ)
    assert any(b'"event":"gap"' in data for data, _ in bodies if isinstance(data, bytes))
    got = Rebuilt(bodies)
    got.assert_whole()
    assert got.stdout.decode().splitlines() == lines
    assert b"poisonous\n" in shown.stdout
    assert not (sqstee.spool / "quarantine").exists()
