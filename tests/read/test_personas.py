"""What people come with: each job from the first command typed to the answer, with real runs where one is enough."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from fakes.sqs import FakeSqs
from support import TIMEOUT, Sqstee, children, kill, running, wait_for
from support.bodies import event_of, lines_of, put, whole_run

BUILD = """
printf '\033[32mcompiling\033[0m a.c\n'
printf '\r50%%\r100%%\n'
echo 'a.c:3: error: no such type' >&2
exit 2
"""
BUILT = b"\x1b[32mcompiling\x1b[0m a.c\n\r50%\r100%\n"


def shell(sqstee: Sqstee, script: str, folder: Path, **more: str) -> subprocess.CompletedProcess[bytes]:
    """A script of a person's own, in which `sqstee` is the command."""
    path = f"{Path(sqstee.words()[0]).parent}:{os.environ['PATH']}"
    environ = sqstee.environ | {"PATH": path} | more
    words = ["sh", "-c", script]
    return subprocess.run(words, env=environ, cwd=folder, capture_output=True, check=False, timeout=TIMEOUT)


def test_an_array_of_64_tasks_is_collected_by_cron(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """One task failed: cron's mail names it, though few of the others are listed, and it can be read again."""
    for task in range(64):
        more: dict[str, Any] = {"job": f"task-{task}", "host": f"node{task % 8}"}
        run = f"01RUN{task:02d}"
        put(fake_sqs, whole_run(1, run, **more) if task != 63 else [])
    put(
        fake_sqs,
        [
            event_of("start", 0, run, **more),
            lines_of(1, 12, run, stream="stderr", **more),
            event_of("exit", 13, run, exit_code=3, message="exited with status 3", **more),
        ],
    )
    crontab = "sqstee drain q -O logs --idle-timeout 1s --fail-on failed || echo status $?"
    mail = shell(sqstee, crontab, tmp_path, **fake_sqs.environ()).stdout.decode().splitlines()
    assert "complete node7 task-63: 12 lines, exited with status 3" in mail
    assert mail[-2:] == ["64 runs: 64 complete; 1 failed; 75 lines", "status 5"]
    rows = sqstee.run("runs", f"{tmp_path}/logs/", "--failed", "--tail", "10").stdout.decode().splitlines()
    assert rows[2:] == [f"    line {number}" for number in range(3, 13)]
    shown = sqstee.run("show", "--last-failed", f"{tmp_path}/logs/", "--exit-status")
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (3, b"line 12")


def test_yesterdays_build_on_a_laptop(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Drained on one machine, copied to another, and read there without a queue or a spool, byte for byte."""
    sqstee.run("--to", "q", "--job", "build", "--", "sh", "-c", BUILD, environ=fake_sqs.environ())
    sqstee.run("drain", "q", "-O", str(tmp_path / "logs"), "--idle-timeout", "1s", environ=fake_sqs.environ())
    laptop = tmp_path / "laptop"
    (tmp_path / "logs").rename(laptop)
    there = {"SQSTEE_SPOOL": str(tmp_path / "none"), "HOME": str(tmp_path / "home")}
    listed = shell(sqstee, "sqstee runs . --since yesterday --job build", laptop, **there).stdout.splitlines()
    assert len(listed) == 2
    assert listed[1].endswith(b"a.c:3: error: no such type")
    raw = shell(sqstee, "sqstee show build . -o raw --stream stdout", laptop, **there)
    assert (raw.stdout, raw.stderr) == (BUILT, b"")
    text = shell(sqstee, "sqstee show build . --exit-status", laptop, **there)
    assert text.returncode == 2
    assert text.stdout.endswith(b"\n\ncompiling a.c\n100%\na.c:3: error: no such type\n")
    assert not (tmp_path / "none").exists()


def test_a_host_whose_every_process_is_killed(sqstee: Sqstee, tmp_path: Path) -> None:
    """Somebody is told after two and a half heartbeats; runs and show say it too."""
    store = f"local:{tmp_path}/store.db"
    words = ("--to", store, "--heartbeat", "1s", "--job", "render", "--", "sh", "-c", "echo begun; exec sleep 1000")
    with running(sqstee.words(*words), env=sqstee.environ, stdout=subprocess.DEVNULL) as front:
        wait_for(lambda: b"begun" in sqstee.run("tail", store, "--no-follow").stdout, "line")
        kill(front.pid, *children(front.pid))
    (tmp_path / "cron").write_text(
        f"sqstee alert {store} --once --since 1h --on gone --exec 'echo \"$SQSTEE_ALERT_TEXT\" >> told'"
    )

    def told() -> str:
        assert shell(sqstee, ". ./cron", tmp_path).stderr == b""
        return (tmp_path / "told").read_text() if (tmp_path / "told").exists() else ""

    wait_for(told, "alert")
    assert re.fullmatch(r"render on \S+ is gone: neither a line nor a heartbeat for \d s\n", told())
    (run,) = map(json.loads, sqstee.run("runs", store, "--gone", "-o", "json").stdout.splitlines())
    assert (run["job"], run["state"], run["ended"], run["exit_code"]) == ("render", "gone", "", None)
    assert b"state    gone: no message from it for " in sqstee.run("show", "render", store).stdout


def test_a_dashboard_reads_json(sqstee: Sqstee, tmp_path: Path) -> None:
    """An object a line, with numbers as numbers, null for what is not known, and times that programs parse."""
    sqstee.run("--job", "etl", "--label", "team=data", "--", "sh", "-c", "echo x; echo y >&2; exit 4")
    sqstee.run("--", "true")
    script = """
import collections, datetime, json, subprocess
printed = subprocess.check_output(["sqstee", "runs", "-o", "json", "--since", "1h"])
runs = [json.loads(line) for line in printed.splitlines()]
print(dict(collections.Counter(run["state"] for run in runs)))
for run in runs:
    took = datetime.datetime.fromisoformat(run["ended"]) - datetime.datetime.fromisoformat(run["started"])
    assert datetime.timedelta(0) <= took <= datetime.timedelta(seconds=60)
    lines = sum(run["lines"].values())
    print(run["job"] or run["name"], run["exit_code"], run["signal"], lines, run["labels"].get("team"))
"""
    (tmp_path / "dashboard.py").write_text(script)
    found = shell(sqstee, "python3 dashboard.py", tmp_path)
    assert found.stdout.decode().splitlines() == [
        "{'ok': 1, 'failed': 1}",
        "true 0 None 0 None",
        "etl 4 None 2 data",
    ], found.stderr


def test_a_service_is_followed_by_the_name_of_its_command(sqstee: Sqstee, tmp_path: Path) -> None:
    """As `journalctl -f -n 1 -u` and `docker logs -f`: without --job, and behind the event that names the run."""
    service = tmp_path / "served"
    service.write_text('#!/bin/sh\nseq 50\nwhile read line; do echo "$line"; done\n')
    service.chmod(0o700)
    sqstee.run("--", "echo", "another")
    with running(sqstee.words("--", str(service)), env=sqstee.environ, stdin=-1, stdout=-3) as front:
        wait_for(lambda: b"\n50\n" in sqstee.run("tail", "--no-follow", "-o", "raw").stdout, "lines")
        tail = sqstee.words("tail", "-f", "-n", "1", "--job", "served", "-o", "raw")
        with running(tail, env=sqstee.environ, stdout=subprocess.PIPE) as reader:
            assert front.stdin is not None
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"50\n"
            front.stdin.write(b"request\n")
            front.stdin.flush()
            assert reader.stdout.readline() == b"request\n"
            reader.terminate()
        front.stdin.close()
        assert front.wait(TIMEOUT) == 0
    assert sqstee.run("tail", "--no-follow", "--job", "serv*", "-o", "raw").stdout.count(b"\n") == 51
    assert sqstee.run("tail", "--no-follow", "--job", "other").stdout == b""


def test_a_traceback_is_found_by_its_last_line(sqstee: Sqstee) -> None:
    """The line that names the exception is not indented, and belongs to the traceback all the same."""
    code = """
import logging, sys
try:
    int("x")
except ValueError:
    logging.exception("row 17")
print("next", file=sys.stderr)
"""
    sqstee.run("--", "python3", "-c", code)
    words = ("tail", "--no-follow", "-i", "invalid literal", "--multiline", "indented", "-o", "raw")
    lines = sqstee.run(*words).stdout.decode().splitlines()
    assert (lines[0], lines[-1][:10]) == ("Traceback (most recent call last):", "ValueError")
    assert sqstee.run(*words, "-B", "1", "-A", "1").stdout.decode().splitlines() == [
        "ERROR:root:row 17",
        *lines,
        "next",
    ]
