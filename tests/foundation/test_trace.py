"""SQSTEE_DEBUG: what front, shipper and agent decide, in a file for bug reports; nothing of it is in the way."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import SCRIPT, Sqstee
from support.node import Node

from sqstee.trace import trace

LINE = re.compile(r"(\d+\.\d{6}) (\d+) ([a-z]+): (.+)")


def decisions(path: Path) -> list[tuple[float, int, str, str]]:
    """Time, process, part and text of each line, all of which have the form."""
    found = []
    for line in path.read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        found.append((float(match[1]), int(match[2]), match[3], match[4]))
    return found


def test_a_run_is_traced_from_start_to_delivery(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Two processes, each in its own time, and nothing of what the command was or wrote."""
    path = tmp_path / "trace"
    environ = sqstee.environ | fake_sqs.environ() | {"SQSTEE_DEBUG": "trace"}
    command = sqstee.words("--to", "q", "--", "sh", "-c", "echo precious; exit 3")
    process = subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"precious\n", 3)
    found = decisions(path)
    front = [text for _, pid, part, text in found if part == "front" and pid == process.pid]
    assert any("runs the command" in text for text in front)
    assert any(text.startswith("the command has ended: wait status 768") for text in front)
    assert any(text.startswith("delivery: 0 lines wait, 0 dropped") for text in front)
    shipper = {pid for _, pid, part, _ in found if part == "shipper"}
    assert len(shipper) == 1
    assert process.pid not in shipper
    for pid in (process.pid, *shipper):
        times = [time for time, of, _, _ in found if of == pid]
        assert times == sorted(times)
    assert "precious" not in path.read_text()
    assert fake_sqs.environ()["AWS_SECRET_ACCESS_KEY"] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_refusal_is_traced_with_its_class_and_the_wait(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """What the destination answered, and when it is tried again."""
    environ = fake_sqs.environ() | {"SQSTEE_DEBUG": str(tmp_path / "trace")}
    found = sqstee.run("--to", "missing", "--", "echo", "hi", environ=environ)
    assert found.returncode == 0
    refusals = [text for _, _, part, text in decisions(tmp_path / "trace") if part == "shipper" and "refused" in text]
    assert any("(open)" in text and "QueueDoesNotExist" in text for text in refusals), refusals


def test_the_agent_traces_the_runs_that_it_claims(node: Node, tmp_path: Path) -> None:
    """In the same file as the runs themselves."""
    environ = {"SQSTEE_DEBUG": str(tmp_path / "trace")}
    with node.agent("--to", "q", environ=environ):
        node.sqstee.run("--to", "q", "--strict", "--", "echo", "hi", environ=node.server.environ() | environ)
    found = decisions(tmp_path / "trace")
    assert any(text.endswith("stands by") for _, _, part, text in found if part == "front")
    assert any("claim" in text for _, _, part, text in found if part == "agent")


@pytest.mark.parametrize("place", ["/nonexistent/trace", "/dev/full", ""])
def test_a_trace_that_cannot_be_written_is_no_reason_to_fail(sqstee: Sqstee, place: str) -> None:
    """No message either: it was asked for to find out about something else."""
    found = sqstee.run("--to", "local", "--", "echo", "hi", environ={"SQSTEE_DEBUG": place})
    assert (found.stdout, found.stderr, found.returncode) == (b"hi\n", b"", 0)


def test_a_trace_that_cannot_be_written_leaks_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk during an outage: each line would cost one."""
    monkeypatch.setattr("sqstee.trace._PATH", "/dev/full")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        trace("test", "text")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_relative_trace_in_a_removed_folder_costs_no_line(sqstee: Sqstee) -> None:
    """The trace is given up, not the capture."""
    script = f'mkdir gone && cd gone && rmdir ../gone && exec "{SCRIPT}" --to local -- echo hi'
    environ = sqstee.environ | {"SQSTEE_DEBUG": "trace"}
    found = subprocess.run(["sh", "-c", script], env=environ, cwd=sqstee.folder, capture_output=True, timeout=60)
    assert (found.stdout, found.stderr, found.returncode) == (b"hi\n", b"", 0)
    assert sqstee.local().stdout == b"hi\n"
