"""sqstee.Handler with the shared shipper: the program ships nothing itself, whatever becomes of the shipper."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import zipapp
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import ROOT, Sqstee, running, wait_for
from support.processes import is_running
from support.shared import SharedNode

START = "import logging, os, signal, sys, threading, time, sqstee\nlog = logging.getLogger('job')\n"
PIPES = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
NO_THREAD = (
    "def settle():\n"
    "    while threading.active_count() > 1: time.sleep(0.001)\n"  # the one that starts a shipper ends
    "def loaded():\n"
    "    return [name for name in ('boto3', 'botocore', 'sqlite3', 'sqstee.ship.shipper') if name in sys.modules]\n"
)


@pytest.fixture
def node(sqstee: Sqstee, fake_sqs: FakeSqs) -> Iterator[SharedNode]:
    """A node whose runs share a shipper; none is left at the end."""
    sqstee.environ["SQSTEE_SHARE"] = "auto"
    node = SharedNode(sqstee, fake_sqs)
    yield node
    node.end()


def program(tmp_path: Path, code: str) -> list[str]:
    """A program that logs, in a file, because multiprocessing's spawn needs one."""
    path = tmp_path / "job.py"
    path.write_text(START + NO_THREAD + code)
    return [sys.executable, "-W", "error", str(path)]


def run(node: SharedNode, words: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    environ = node.environ | environ
    return subprocess.run(words, env=environ, cwd="/", capture_output=True, text=True, timeout=60, check=False)


def lines(node: SharedNode) -> list[bytes]:
    """The lines of all runs, each whole and once."""
    found = node.shipped().values()
    for one in found:
        one.assert_whole()
    return sorted(one.stderr for one in found)


def test_a_program_leaves_its_lines_to_the_shared_shipper(node: SharedNode, tmp_path: Path) -> None:
    """The first program starts it, the next one finds it: no thread stays, and nothing of shipping is loaded."""
    code = (
        "sqstee.configure(to='q')\nlog.info('hello'); settle(); log.info('again')\n"
        "logging.shutdown(); print(threading.active_count(), loaded())\n"
    )
    pids = set()
    for _ in range(2):
        found = run(node, program(tmp_path, code))
        assert (found.returncode, found.stdout, found.stderr) == (0, "1 []\n", "")
        assert node.idle()
        pids.add(node.shipper())
    assert len(pids) == 1
    assert lines(node) == [b"hello\nagain\n"] * 2


def test_lines_leave_while_the_program_runs(node: SharedNode, tmp_path: Path) -> None:
    """Without a further line or call, from the first program as from one that finds a shipper."""
    code = "sqstee.configure(to='q')\nlog.info('hello')\nsys.stdin.read()\n"
    for n in (1, 2):
        with running(program(tmp_path, code), env=node.environ, **PIPES) as process:
            wait_for(lambda n=n: lines_so_far(node) == [b"hello\n"] * n, "line")  # type: ignore[misc]
            process.communicate(timeout=60)
    assert node.idle()


def lines_so_far(node: SharedNode) -> list[bytes]:
    """The lines of all runs, as far as they have arrived."""
    return sorted(one.stderr for one in node.shipped().values())


def test_what_the_program_hands_down(node: SharedNode, tmp_path: Path) -> None:
    """No descriptor, folder, session, environment or child process of the program reaches the shipper or stays."""
    code = (
        "fd = os.open(sys.argv[0], os.O_RDONLY); os.set_inheritable(fd, True)\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "sqstee.configure(to='q')\nlog.info('hello'); settle()\n"
        "try:\n    print(os.waitpid(-1, os.WNOHANG))\nexcept ChildProcessError:\n    print('no child')\n"
        "sys.stdout.flush(); sys.stdin.read()\n"
    )
    environ = node.environ | {"SECRET_OF_THE_JOB": "x", "PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": "x"}
    with running(program(tmp_path, code), env=environ, cwd=tmp_path, **PIPES) as process:
        assert process.stdout
        assert process.stdout.readline() == b"no child\n"
        pid = node.shipper()
        proc = Path(f"/proc/{pid}")
        assert os.getsid(pid) not in (os.getsid(0), os.getsid(process.pid), pid)
        assert os.readlink(proc / "cwd") == "/"
        assert (proc / "cmdline").read_bytes().rstrip(b"\0") == b"sqstee shipper"
        assert (proc / "environ").read_bytes().strip(b"\0") == b""
        opened = {os.readlink(path) for path in (proc / "fd").iterdir() if path.exists()}
        assert not [path for path in opened if path.startswith(f"{tmp_path}/job")]
        assert {os.readlink(proc / "fd" / str(fd)) for fd in (0, 1, 2)} == {"/dev/null"}
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert lines(node) == [b"hello\n"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing_share_one(node: SharedNode, tmp_path: Path, method: str) -> None:
    """None of them starts another, even if all log their first line at once and there is none yet."""
    code = (
        "import multiprocessing\n"
        "def work(n):\n"
        "    sqstee.configure(to='q')\n"
        "    log.info('line')\n"
        "    return bool(loaded())\n"
        "if __name__ == '__main__':\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    with context.Pool(6) as pool:\n"
        "        print(sum(pool.map(work, range(6), 1)))\n"
        "        pool.close(); pool.join()\n"
    )
    trace = tmp_path / "trace"
    found = run(node, program(tmp_path, code), SQSTEE_DEBUG=str(trace))
    assert (found.returncode, found.stdout, found.stderr) == (0, "0\n", "")
    assert node.shipper()
    told = [line.split(None, 2)[1:] for line in trace.read_text().splitlines()]
    assert {pid for pid, text in told if text == "agent: publishes destinations: *"} == {str(node.shipper())}
    assert "no shared shipper is started" not in trace.read_text()
    assert b"".join(lines(node)) == b"line\n" * 6
    assert node.idle()


def test_a_forked_child_has_a_run_of_its_own(node: SharedNode, tmp_path: Path) -> None:
    """It abandons its parent's, which goes on; the child of a child as well."""
    code = (
        "handler = sqstee.configure(to='q')\nlog.info('parent'); settle()\n"
        "def child(depth):\n"
        "    pid = os.fork()\n"
        "    if pid:\n        os.waitpid(pid, 0); return\n"
        "    log.info('child %d', depth)\n"
        "    if depth: child(depth - 1)\n"
        "    handler.close(); os._exit(0)\n"
        "child(1)\nlog.info('parent again')\n"
    )
    found = run(node, program(tmp_path, code))
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert lines(node) == [b"child 0\n", b"child 1\n", b"parent\nparent again\n"]
    assert node.idle()


def test_a_killed_shipper_has_a_successor(node: SharedNode, tmp_path: Path) -> None:
    """A line that finds none starts another; so does the closing, if no line comes."""
    code = "sqstee.configure(to='q')\nfor line in sys.stdin:\n    log.info(line.strip())\n"
    with running(program(tmp_path, code), env=node.environ, **PIPES) as process:
        assert process.stdin
        process.stdin.write(b"one\n")
        process.stdin.flush()
        wait_for(lambda: lines_so_far(node) == [b"one\n"], "line")
        first = node.shipper()
        os.kill(first, signal.SIGKILL)

        def log_until_there_is_another() -> bool:
            assert process.stdin
            process.stdin.write(b"more\n")
            process.stdin.flush()
            return node.shippers() not in ([], [first])

        wait_for(log_until_there_is_another, "successor")
        wait_for(lambda: b"more" in lines_so_far(node)[0], "line")
        second = node.shipper()
        os.kill(second, signal.SIGKILL)
        wait_for(lambda: not is_running(second), "death")
        _, errors = process.communicate(b"last\n", timeout=60)
    assert errors == b""
    (found,) = lines(node)
    assert (found[:9], found[-5:]) == (b"one\nmore\n", b"last\n")
    assert node.shipper() not in (first, second)
    assert node.idle()


def test_a_program_that_finds_no_shipper_at_its_end_ships_itself(node: SharedNode, tmp_path: Path) -> None:
    """The shared shipper was killed, and none can be started any more."""
    code = (
        "sqstee.configure(to='q')\nlog.info('one'); settle(); sys.executable = '/bin/sh'\n"
        "print(flush=True); sys.stdin.readline()\nlog.info('two')\n"
    )
    with running(program(tmp_path, code), env=node.environ, **PIPES) as process:
        assert process.stdout
        assert process.stdout.readline()
        pid = node.shipper()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_running(pid), "death")
        _, errors = process.communicate(b"\n", timeout=60)
    assert (process.returncode, errors, node.shippers()) == (0, b"", [])
    assert lines(node) == [b"one\ntwo\n"]
    assert node.idle()


def test_a_killed_program_is_closed_and_shipped(node: SharedNode, tmp_path: Path) -> None:
    """By the shared shipper, with no further run on the host."""
    code = "sqstee.configure(to='q')\nlog.info('hello')\nprint(flush=True); sys.stdin.read()\n"
    node.server.faults(errors=[{"code": "InternalError", "status": 500}])
    with running(program(tmp_path, code), env=node.environ, **PIPES) as process:
        assert process.stdout
        assert process.stdout.readline()
        wait_for(node.shippers, "shipper")
        process.kill()
        process.wait()
    node.server.clear_faults()
    wait_for(node.idle, "delivery")
    (one,) = node.shipped().values()
    one.assert_whole()
    assert one.stderr == b"hello\n"
    assert one.events[-1].fields["cause"] == "process-ended"


@pytest.mark.parametrize("where", ["limit", "embedded", "broken"])
def test_without_a_shared_shipper_the_program_ships_itself(node: SharedNode, tmp_path: Path, where: str) -> None:
    """A limit of its own would bind the others; the interpreter is the program itself; or the start fails."""
    how = {
        "limit": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))\n",
        "embedded": "sys.executable = '/bin/sh'\n",
        "broken": f"sys.executable = {str(tmp_path / 'python')!r}\n",
    }
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    code = "sqstee.configure(to='q')\nlog.info('hello')\nlogging.shutdown()\nprint(loaded()[-1:])\n"
    found = run(node, program(tmp_path, how[where] + code))
    assert (found.returncode, found.stdout, found.stderr) == (0, "['sqstee.ship.shipper']\n", "")
    assert node.shippers() == []
    assert lines(node) == [b"hello\n"]
    assert node.idle()


@pytest.mark.parametrize("how", ["zipapp", "PYTHONPATH"])
def test_the_shipper_is_of_the_very_package_that_the_program_uses(node: SharedNode, tmp_path: Path, how: str) -> None:
    """It is found where the program has found it, not where the interpreter would look first."""
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run(["cp", "-r", str(ROOT / "sqstee"), str(place)], check=True)
    init = place / "sqstee" / "__init__.py"
    init.write_text(init.read_text().replace('__version__ = "', '__version__ = "77.'))
    code = f"{START}sqstee.configure(to='q')\nlog.info(sqstee.__version__)\n"
    environ: dict[str, str] = {}
    if how == "zipapp":
        (place / "__main__.py").write_text(code)
        zipapp.create_archive(place, tmp_path / "app.pyz")
        words = [sys.executable, str(tmp_path / "app.pyz")]
    else:
        environ["PYTHONPATH"] = str(place)
        words = [sys.executable, "-c", code]
    found = run(node, words, **environ)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    (line,) = lines(node)
    assert line.startswith(b"77.")
    assert b'"version":"77.' in Path(node.files()[0]).read_bytes()


def test_an_outage_at_the_end_is_reported(node: SharedNode, tmp_path: Path) -> None:
    """What stays, and why; the shipper delivers it once it can."""
    node.server.faults(errors=[{"code": "InternalError", "status": 500}])
    found = run(node, program(tmp_path, "sqstee.configure(to='q', flush_timeout='2s')\nlog.info('hello')\n"))
    assert found.returncode == 0
    assert found.stderr.startswith("sqstee: the log is not fully delivered yet (InternalFailure: ")
    assert found.stderr.count("\n") == 1
    node.server.clear_faults()
    wait_for(node.idle, "delivery")
    assert lines(node) == [b"hello\n"]


def test_a_refusal_is_reported_once_while_the_program_logs(node: SharedNode, tmp_path: Path) -> None:
    """On a line that comes after it, and not again at the end, where the rest is reported."""
    code = "sqstee.configure(to='nowhere')\nfor line in sys.stdin:\n    log.info('hello')\n"
    with running(program(tmp_path, code), env=node.environ, **PIPES) as process:
        assert process.stdin
        assert process.stderr

        def reported_at_another_line() -> bool:
            assert process.stdin
            assert process.stderr
            process.stdin.write(b"\n")
            process.stdin.flush()
            return bool(select.select([process.stderr], [], [], 0)[0])

        wait_for(reported_at_another_line, "notice")
        assert b"nowhere refuses the lines" in process.stderr.readline()
        _, rest = process.communicate(timeout=60)
    assert b"refuses the lines" not in rest
    assert b"the log is not fully delivered yet" in rest


def test_an_agent_comes_first(node: SharedNode, tmp_path: Path) -> None:
    """An administrator's agent that serves the program's run is preferred, and its delivery is waited for."""
    with node.agent("--to", "q"):
        found = run(node, program(tmp_path, "sqstee.configure(to='q')\nlog.info('hello')\n"))
        assert (found.returncode, found.stderr) == (0, "")
        assert node.idle()
        assert node.files() == []
    assert lines(node) == [b"hello\n"]


def test_a_program_whose_agent_dies_ships_itself(node: SharedNode, tmp_path: Path) -> None:
    """At its end, if it must start no shared shipper; until then its lines wait in the spool."""
    code = "sqstee.configure(to='q', share='never')\nfor line in sys.stdin:\n    log.info(line.strip())\n"
    with node.agent("--to", "q") as agent, running(program(tmp_path, code), env=node.environ, **PIPES) as process:
        assert process.stdin
        process.stdin.write(b"one\n")
        process.stdin.flush()
        wait_for(lambda: lines_so_far(node) == [b"one\n"], "line")
        agent.kill()
        agent.wait()
        _, errors = process.communicate(b"two\n", timeout=60)
        assert (process.returncode, errors, node.files()) == (0, b"", [])
    assert lines(node) == [b"one\ntwo\n"]
    assert node.idle()
