"""The shared shipper: started by a run, for all runs of its identity; it ends by itself and leaves nothing."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import SCRIPT, Sqstee, children, injecting, is_running, running, wait_for
from support.processes import python
from support.shared import SharedNode

from sqstee.agent import shared
from sqstee.errors import EXIT_UNDELIVERED
from sqstee.spool import agent_file
from sqstee.spool.run_folder import DeliveryTrouble


@pytest.fixture
def node(sqstee: Sqstee, fake_sqs: FakeSqs) -> Iterator[SharedNode]:
    """A node whose runs share a shipper; none is left at the end."""
    sqstee.environ |= {"SQSTEE_SHARE": "auto", "SQSTEE_KEEP_SHIPPER": "60s"}
    node = SharedNode(sqstee, fake_sqs)
    yield node
    node.end()


def seen(node: SharedNode) -> list[bytes]:
    """The stdout of all runs, each whole and once."""
    for one in node.shipped().values():
        one.assert_whole()
    return node.outputs()


def test_one_shipper_for_a_loop_of_runs(node: SharedNode) -> None:
    """Each run is delivered when it ends, by the process that the first one has started."""
    pids = set()
    for n in range(4):
        assert node.wrap("echo", str(n)).stderr == b""
        assert node.idle()
        pids.add(node.shipper())
    assert len(pids) == 1
    assert seen(node) == [b"0\n", b"1\n", b"2\n", b"3\n"]
    assert 4 <= len(node.server.requests("SendMessageBatch")) <= 8  # two of a run that lasts: its start, and the rest


@pytest.mark.parametrize("keep", ["0", "0.3s"])
def test_it_ends_behind_the_last_run_and_leaves_nothing(node: SharedNode, keep: str) -> None:
    """No process, no file, no folder."""
    with node.wrapping("sh", "-c", "echo hi; read x", env=node.environ | {"SQSTEE_KEEP_SHIPPER": keep}) as process:
        wait_for(node.outputs, "line")
        pid = node.shipper()
        process.communicate(b"\n", timeout=40)
    wait_for(lambda: not is_running(pid), "end of the shipper")
    assert node.left_behind() == []
    assert seen(node) == [b"hi\n"]


def test_many_cold_starts_make_one_shipper(node: SharedNode) -> None:
    """They agree on one, and rely on it from the start."""
    with ExitStack() as stack:
        processes = [stack.enter_context(node.wrapping("sh", "-c", f"echo {n}; read x")) for n in range(12)]
        wait_for(lambda: len(node.outputs()) == 12, "lines")
        pid = node.shipper()
        for process in processes:
            process.communicate(b"\n", timeout=60)
        assert node.shipper() == pid
    assert seen(node) == sorted(b"%d\n" % n for n in range(12))


def test_it_has_nothing_of_the_run_that_started_it(node: SharedNode, tmp_path: Path) -> None:
    """Its own session, /, no descriptor, no environment beyond the identity, no soft limit, no name of the job."""
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.umask(0)

    environ = node.environ | {"SECRET_OF_THE_JOB": "x", "BUILD_ID": "7"}
    words = node.sqstee.words("--to", "q", "--", "echo", "precious")
    found = subprocess.run(
        words, env=environ, cwd=tmp_path, preexec_fn=prepare, pass_fds=(write_end,), capture_output=True, timeout=60
    )
    assert found.stdout == b"precious\n"
    os.close(write_end)
    assert os.read(read_end, 1) == b""  # nobody holds it
    os.close(read_end)
    pid = node.shipper()
    proc = Path(f"/proc/{pid}")
    assert os.getsid(pid) not in (os.getsid(0), pid)  # nor may it get a terminal
    assert os.readlink(proc / "cwd") == "/"
    assert (proc / "cmdline").read_bytes().rstrip(b"\0") == b"sqstee shipper"
    assert (proc / "comm").read_text() == "sqstee shipper\n"
    assert (proc / "environ").read_bytes().strip(b"\0") == b""
    assert {os.readlink(proc / "fd" / str(fd)) for fd in (0, 1, 2)} == {"/dev/null"}
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert soft == hard
    assert os.sched_getaffinity(pid) >= os.sched_getaffinity(0)
    status = dict(line.split(":\t") for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    assert status["Umask"] == "0077"
    assert int(status["SigBlk"], 16) == 0


def test_who_waits_for_pipes_does_not_wait_for_it(node: SharedNode) -> None:
    """A shell's substitution, and a CI runner that reads to the end."""
    script = f'found=$("$@"); echo "$found"; {SCRIPT} --to q -- true'
    words = ["sh", "-c", script, "sh", *node.sqstee.words("--to", "q", "--", "echo", "hi")]
    found = subprocess.run(words, env=node.environ, capture_output=True, timeout=60, check=True)
    assert (found.stdout, found.stderr) == (b"hi\n", b"")
    assert node.shippers()


@pytest.mark.parametrize("victims", [1, 2])
def test_a_killed_one_has_one_successor(node: SharedNode, victims: int) -> None:
    """kill -9 while it serves many: the runs agree on a new one, no line is lost."""
    with ExitStack() as stack:
        script = "seq 300; read x; seq 301 400"
        processes = [stack.enter_context(node.wrapping("sh", "-c", script)) for _ in range(6)]
        first = b"".join(b"%d\n" % n for n in range(1, 301))
        wait_for(lambda: node.outputs() == [first] * 6, "lines")
        for _ in range(victims):
            pid = node.shipper()
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: node.shippers() not in ([], [pid]), "successor")  # type: ignore[misc]
        (successor,) = node.shippers()
        for process in processes:
            process.communicate(b"\n", timeout=60)
        assert node.shippers() == [successor]
    assert seen(node) == [b"".join(b"%d\n" % n for n in range(1, 401))] * 6
    assert node.idle()


def test_a_loop_of_runs_while_shippers_leave(node: SharedNode) -> None:
    """Runs that begin just as a shipper ends: --keep-shipper 0 ends one behind every run."""
    for n in range(15):
        assert node.wrap("echo", str(n), SQSTEE_KEEP_SHIPPER="0").stderr == b""
        assert node.idle(), n
    assert seen(node) == sorted(b"%d\n" % n for n in range(15))


def test_a_run_that_comes_while_one_leaves(node: SharedNode, tmp_path: Path) -> None:
    """It has withdrawn and not ended yet, since a request of its own hangs."""
    node.server.faults(black_hole=True)
    with node.wrapping("echo", "one", env=node.environ | {"SQSTEE_FLUSH_TIMEOUT": "0"}) as process:
        assert process.wait(40) == 0
    pid = node.shipper()
    wait_for(lambda: node.server.counters().active > 0, "request in flight")
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not node.files(), "withdrawal")
    assert is_running(pid)
    with node.wrapping("echo", "two") as process:
        wait_for(node.shippers, "another one")
        node.server.clear_faults()
        assert process.wait(60) == 0
    wait_for(node.idle, "delivery")
    assert seen(node) == [b"one\n", b"two\n"]


def test_each_identity_has_its_own(node: SharedNode) -> None:
    """What selects the server and the account, and what a limit of its caller would do to others."""
    keys = ("AKIDAAAAAAAAAAAAAAAA", "AKIDBBBBBBBBBBBBBBBB")
    with ExitStack() as stack:
        for key in keys:
            environ = node.environ | {"AWS_ACCESS_KEY_ID": key}
            stack.enter_context(node.wrapping("sh", "-c", f"echo {key}; read x", env=environ))
        wait_for(lambda: len(node.outputs()) == 2, "lines")
        assert len(node.shippers()) == 2
        for name in sorted(os.listdir(node.sqstee.spool)):
            if len(name) == 26:
                assert node.held(name)
    assert len(seen(node)) == 2
    low = subprocess.run(["nice", *node.sqstee.words("--to", "q", "--", "true")], env=node.environ, timeout=60)
    assert low.returncode == 0
    assert len(node.shippers()) == 3


def test_what_an_identity_covers(tmp_path: Path) -> None:
    """The account and the server; no secret, and nothing of the job."""
    base = {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "A"}
    plain = agent_file.identity(base)
    for kept in (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_SECURITY_TOKEN",
    ):
        assert agent_file.identity(base | {kept: "x"}) == plain
        assert agent_file.shared_environment(base | {kept: "x"})[kept] == "x"
    for harmless in ("AWS_BATCH_JOB_ID", "PATH", "SPARK_HOME", "PYTHONPATH"):
        assert agent_file.identity(base | {harmless: "x"}) == plain
    for telling in (
        "AWS_ACCESS_KEY_ID",
        "AWS_STS_REGIONAL_ENDPOINTS",
        "AWS_REGION",
        "HTTPS_PROXY",
        "AWS_ENDPOINT_URL_SQS",
        "SQSTEE_TOKEN",
        "HOME",
    ):
        assert agent_file.identity(base | {telling: "x"}) != plain
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("")
    with_files = agent_file.identity(base)
    assert with_files != plain
    assert agent_file.identity(base | {"PATH": "/x"}) != with_files  # where a program that gives credentials is


@pytest.mark.parametrize("how", ["option", "limit", "init", "no proc", "own namespace"])
def test_a_run_that_ships_by_itself(node: SharedNode, how: str) -> None:
    """It asked for it; or a limit of its own would bind the others' shipper; or nothing may outlive it."""
    words = node.sqstee.words("--to", "q", "--", "echo", "hi")
    if how == "option":
        words[1:1] = ["--share", "never"]
    elif how == "limit":
        words = ["sh", "-c", 'ulimit -t 1000; exec "$@"', "sh", *words]
    else:
        kinds = {"init": ["--pid", "--fork"], "no proc": ["--mount"], "own namespace": ["--net", "--map-root-user"]}
        inside = kinds[how]
        if not shutil.which("unshare") or subprocess.run(["unshare", *inside, "true"], check=False).returncode:
            pytest.skip("no namespaces here")
        if how == "own namespace":
            assert node.wrap("true").returncode == 0
            words = ["unshare", *inside, *python("import os; print(os.stat('/proc/self/ns/net').st_ino)")]
            found = subprocess.run(words, env=node.environ, capture_output=True, timeout=60, check=True)
            assert int(found.stdout) != os.stat("/proc/self/ns/net").st_ino
            return
        if how == "no proc":
            words = ["sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh", *words]
        words = ["unshare", *inside, *words]
    found = subprocess.run(words, env=node.environ, capture_output=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, b"hi\n")
    assert node.shippers() == []
    assert seen(node) == [b"hi\n"]


def test_an_agent_comes_first(node: SharedNode) -> None:
    """An administrator's agent that serves the run is preferred."""
    with node.agent("--to", "q"):
        assert node.wrap("echo", "hi").returncode == 0
        wait_for(node.idle, "delivery")
        assert node.files() == []
    assert seen(node) == [b"hi\n"]


def test_refused_credentials_cost_later_runs_nothing(node: SharedNode) -> None:
    """It withdraws, and the next run starts one with its own; what the first one holds is delivered in the end."""
    node.server.faults(errors=[{"code": "InvalidClientTokenId", "status": 403}])
    with node.wrapping("sh", "-c", "echo one; read x", stderr=subprocess.PIPE) as process:
        wait_for(node.shippers, "shipper")
        first = node.shipper()
        wait_for(lambda: not node.files(), "withdrawal")
        assert is_running(first)
        assert process.stderr
        assert b"refuses the lines" in process.stderr.readline()  # before the queue accepts them
        node.server.clear_faults()
        assert node.wrap("echo", "two").returncode == 0
        assert b"two\n" in node.outputs()
        wait_for(lambda: b"one\n" in node.outputs(), "delivery", 120)
        wait_for(lambda: not list(node.sqstee.spool.glob("*/trouble")), "end of the trouble")
        assert process.communicate(b"\n", timeout=60)[1] == b""  # it is over, and the run waits for its end again
        assert process.returncode == 0
    assert node.idle()
    assert seen(node) == [b"one\n", b"two\n"]


def test_a_refusal_is_told_while_the_command_runs(node: SharedNode) -> None:
    """Within seconds, once; at its end the run does not wait for what no retry can mend."""
    words = node.sqstee.words("--to", "nowhere", "--strict", "--", "sh", "-c", "echo one; read x")
    with running(words, env=node.environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=-1) as process:
        assert process.stderr
        assert b"nowhere refuses the lines" in process.stderr.readline()
        _, rest = process.communicate(b"\n", timeout=60)
    assert process.returncode == EXIT_UNDELIVERED
    assert rest.count(b"refuses the lines") == 0
    assert b"not delivered yet" in rest


def test_an_outage_at_the_end(node: SharedNode) -> None:
    """The run says what stays and why, and leaves; the shipper stays until it is delivered."""
    node.server.faults(errors=[{"code": "InternalError", "status": 500}])
    environ = node.environ | {"SQSTEE_FLUSH_TIMEOUT": "0.5s", "SQSTEE_KEEP_SHIPPER": "0"}
    with node.wrapping("sh", "-c", "echo hi; read x", env=environ, stderr=subprocess.PIPE) as process:
        wait_for(lambda: "InternalFailure" in node.troubles(), "refusal")
        _, errors = process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert b"1 line not delivered yet (InternalFailure: " in errors
    pid = node.shipper()
    node.server.clear_faults()
    wait_for(lambda: not is_running(pid), "end of the shipper", 120)
    assert seen(node) == [b"hi\n"]
    assert node.left_behind() == []


def test_a_fallback_has_its_turn_while_the_run_waits(node: SharedNode, tmp_path: Path) -> None:
    """Regression: it came after --fallback-after, when the run had long left its lines in the spool.

    The flush time is longer than half of what the shipper takes the wait to be, and shorter than that option.
    """
    node.server.faults(refuse=True)
    words = ("--fallback", f"local:{tmp_path}/second.db", "--fallback-after", "1h", "--flush-timeout", "60s")
    found = node.sqstee.run("--to", "q", *words, "--", "seq", "9", environ=node.server.environ())
    assert (found.returncode, found.stderr) == (0, b"")
    got = node.sqstee.local(tmp_path / "second.db")
    got.assert_whole()
    assert got.stdout == found.stdout


def test_flush_has_the_shipper_deliver_what_it_holds(node: SharedNode) -> None:
    """At once, whatever it is waiting for; it says why where it cannot."""
    node.server.faults(errors=[{"code": "QueueDoesNotExist"}])
    with node.wrapping("sh", "-c", "echo hi; read x", env=node.environ | {"SQSTEE_FLUSH_TIMEOUT": "0"}) as process:
        wait_for(lambda: "NonExistentQueue" in node.troubles() or "QueueDoesNotExist" in node.troubles(), "refusal")
        process.communicate(b"\n", timeout=60)
    refused = node.sqstee.run("flush", environ=node.environ)
    assert refused.returncode == 1
    assert b"QueueDoesNotExist" in refused.stderr
    node.server.clear_faults()
    flushed = node.sqstee.run("flush", environ=node.environ)
    assert (flushed.returncode, flushed.stderr) == (0, b"")
    assert seen(node) == [b"hi\n"]


def test_a_local_queue_that_is_removed_meanwhile(node: SharedNode) -> None:
    """The shipper has it open: what comes later is in a new one, not in the file that is gone."""
    for name in ("one", "two"):
        assert node.sqstee.run("--to", "local", "--", "echo", name, environ=node.environ).returncode == 0
        assert node.sqstee.local().stdout == f"{name}\n".encode()
        (node.sqstee.spool / "local.db").unlink()


def test_without_a_flush_timeout_a_run_leaves_at_once(node: SharedNode) -> None:
    """As with an agent: the shipper has the rest."""
    node.server.faults(black_hole=True)
    found = node.wrap("echo", "hi", SQSTEE_FLUSH_TIMEOUT="0")
    assert (found.returncode, found.stderr) == (0, b"")
    node.server.clear_faults()
    wait_for(node.idle, "delivery")
    assert seen(node) == [b"hi\n"]


def test_strict_and_summary_know_what_it_delivered(node: SharedNode) -> None:
    """The run waits for its delivery, and reports it."""
    found = node.sqstee.run("--to", "q", "--strict", "--summary", "--", "seq", "100", environ=node.environ)
    assert found.returncode == 0
    assert b"100 delivered" in found.stderr


def test_it_is_shown_and_stopped(node: SharedNode) -> None:
    """`agent --status`, `check` and `stat` show it, `agent --stop` ends it, and a later run starts another."""
    refused = node.sqstee.run("agent", "--stop", environ=node.environ)
    assert (refused.returncode, b"hint: " in refused.stderr) == (1, True)
    with node.wrapping("sh", "-c", "echo one; read x; echo two") as process:
        wait_for(node.outputs, "line")
        pid = node.shipper()
        status = node.sqstee.run("agent", "--status", environ=node.environ).stdout.decode()
        assert f"shipper      {pid}" in status
        assert b"shared shipper" in node.sqstee.run("check", "q", environ=node.environ).stdout
        assert f"{pid}" in node.sqstee.run("stat", environ=node.environ).stdout.decode()
        stopped = node.sqstee.run("agent", "--stop", environ=node.environ)
        assert (stopped.returncode, stopped.stdout) == (0, f"process {pid}: ended\n".encode())
        assert not is_running(pid)
        process.communicate(b"\n", timeout=60)
    assert seen(node) == [b"one\ntwo\n"]
    assert node.idle()


def test_what_earlier_runs_left_is_shipped(node: SharedNode) -> None:
    """By the next run's shipper: of this identity and of another one whose processes are gone."""
    node.server.faults(errors=[{"code": "InternalError", "status": 500}])
    for environ in ({"SQSTEE_SHARE": "never"}, {"AWS_ACCESS_KEY_ID": "AKIDCCCCCCCCCCCCCCCC"}):
        assert node.wrap("echo", "left", SQSTEE_FLUSH_TIMEOUT="0.1s", **environ).returncode == 0
    node.end()
    node.server.clear_faults()
    assert node.wrap("echo", "next").returncode == 0
    wait_for(node.idle, "delivery")
    assert seen(node) == [b"left\n", b"left\n", b"next\n"]


def test_a_fifo_queue_under_kills(node: SharedNode) -> None:
    """No hole, and no second copy of a range: the successor sends the planned ranges again as they were."""
    node.server.create_queue("q.fifo")
    script = "seq 200; while read x; do seq 200; done"
    with node.wrapping("sh", "-c", script, to="q.fifo") as process:
        assert process.stdin
        for _ in range(4):
            sent = len(node.server.sent("q.fifo"))
            process.stdin.write(b"\n")
            process.stdin.flush()
            wait_for(lambda sent=sent: len(node.server.sent("q.fifo")) > sent, "another body")  # type: ignore[misc]
            pid = node.shipper()
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: node.shippers() not in ([], [pid]), "successor")  # type: ignore[misc]
        process.stdin.close()
        assert process.wait(120) == 0
    wait_for(node.idle, "delivery", 120)
    (one,) = node.shipped("q.fifo").values()
    one.assert_whole()
    assert one.stdout == b"".join(b"%d\n" % n for n in range(1, 201)) * 5


@pytest.mark.parametrize("kind", ["link", "fifo", "text", "folder"])
def test_something_else_in_place_of_its_file(node: SharedNode, kind: str, tmp_path: Path) -> None:
    """What is no agent's file gives way; where it cannot, the run ships by itself, and does not try for long."""
    assert node.wrap("echo", "one").returncode == 0
    (path,) = map(Path, node.files())
    node.end()
    path.unlink()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("no JSON")
    assert node.wrap("echo", "two").stderr == b""
    assert seen(node) == [b"one\n", b"two\n"]
    assert len(node.shippers()) == (kind != "folder")
    assert victim.read_text() == "precious"


def test_the_files_of_a_killed_one_are_removed(node: SharedNode) -> None:
    """By the next shipper of whatever identity."""
    environ = {"AWS_ACCESS_KEY_ID": "AKIDCCCCCCCCCCCCCCCC"}
    assert node.wrap("echo", "one", **environ).returncode == 0
    (path,) = node.files()
    node.end()
    Path(f"{path}.status.new").write_text("")
    assert node.wrap("echo", "two").returncode == 0
    wait_for(lambda: path not in node.files(), "removal")
    assert {name.partition(".")[0] for name in node.left_behind()} == {Path(node.files()[0]).name}


def test_a_disk_that_refuses_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up at once: unpublished, it would keep each later run waiting for its end."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        assert shared._advertise(str(tmp_path), "0" * 16) is None
    assert os.listdir(tmp_path) == []
    found = shared._advertise(str(tmp_path), "0" * 16)
    assert found
    found.leave()


def test_no_process_available_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that would have started it goes on."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    assert not shared.start(str(tmp_path), "0" * 16, lambda fd, seconds: None)


@pytest.mark.parametrize("fault", ["kill", "bug"])
@pytest.mark.parametrize(
    "at", ["claiming:Claimer._claim", "agent:Agent._check_claimed", "advertisement:Advertisement.publish"]
)
def test_shippers_that_all_die(node: SharedNode, tmp_path: Path, at: str, fault: str) -> None:
    """After a few of them the run ships by itself."""
    found = node.wrap("echo", "hi", **injecting(tmp_path, f"sqstee.agent.{at}:{fault}:1"))
    assert (found.returncode, found.stdout, found.stderr) == (0, b"hi\n", b"")
    assert (tmp_path / "injected").exists()
    assert seen(node) == [b"hi\n"]
    assert node.idle()


@pytest.mark.parametrize("ending", ["delivered", "left", "refused", "no shipper"])
def test_a_killed_stand_by(node: SharedNode, ending: str) -> None:
    """The shared shipper goes on: the front waits for it alone, and reports what that one says."""
    environ = node.environ | ({"SQSTEE_FLUSH_TIMEOUT": "0"} if ending == "left" else {})
    with node.wrapping("sh", "-c", "echo one; read x; echo two", env=environ, stderr=subprocess.PIPE) as process:
        wait_for(node.outputs, "line")
        (stand_by,) = (pid for pid in children(process.pid) if Path(f"/proc/{pid}/comm").read_text() == "sqstee\n")
        os.kill(stand_by, signal.SIGKILL)
        if ending == "refused":
            node.server.faults(errors=[{"code": "QueueDoesNotExist"}])
        elif ending == "no shipper":
            os.kill(node.shipper(), signal.SIGKILL)
        _, errors = process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    if ending in ("delivered", "left"):
        assert errors == b""
        wait_for(node.idle, "delivery")
    else:
        reason = b"QueueDoesNotExist" if ending == "refused" else b"the background process ended early"
        assert b" not delivered yet (" + reason in errors
        node.server.clear_faults()
        assert node.sqstee.run("flush", environ=node.environ).returncode == 0
    assert seen(node) == [b"one\ntwo\n"]


def test_a_stopped_one_is_replaced(node: SharedNode) -> None:
    """The job that started it may be suspended with all its processes; when it goes on it gives up what it holds."""
    with node.wrapping("sh", "-c", "echo held; read x; echo more") as held:
        wait_for(node.outputs, "line")
        stopped = node.shipper()
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert node.wrap("echo", "hi").stderr == b""
            assert node.shipper() != stopped
            assert b"hi\n" in node.outputs()
        finally:
            os.kill(stopped, signal.SIGCONT)
        wait_for(lambda: not is_running(stopped), "end of the stopped one")
        held.communicate(b"\n", timeout=60)
    wait_for(node.idle, "delivery")
    assert seen(node) == [b"held\nmore\n", b"hi\n"]


def test_a_dead_ones_trouble_is_over(node: SharedNode) -> None:
    """What it has left in a run's folder says nothing about its successor."""
    with node.wrapping("sh", "-c", "echo one; read x", stderr=subprocess.PIPE) as process:
        wait_for(node.outputs, "line")
        (run,) = (node.sqstee.spool / name for name in node.sqstee.waiting_runs() if len(name) == 26)
        pid = node.shipper()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_running(pid), "death")
        DeliveryTrouble("denied").write(str(run))
        wait_for(lambda: node.shippers() not in ([], [pid]), "successor")
        wait_for(lambda: not (run / "trouble").exists(), "end of the trouble")
        assert process.communicate(b"\n", timeout=60)[1] == b""
    assert seen(node) == [b"one\n"]


def test_a_run_of_ones_own_keeps_no_shipper(node: SharedNode) -> None:
    """A run that ships by itself is in nobody else's charge, however long it lives."""
    with node.wrapping("sh", "-c", "echo one; read x", env=node.environ | {"SQSTEE_SHARE": "never"}) as process:
        wait_for(node.outputs, "line")
        assert node.wrap("echo", "two", SQSTEE_KEEP_SHIPPER="0").returncode == 0
        wait_for(lambda: not node.files(), "end of the shipper")
        process.communicate(b"\n", timeout=60)
    assert seen(node) == [b"one\n", b"two\n"]


def test_a_shipper_that_gives_the_run_up(node: SharedNode, tmp_path: Path) -> None:
    """It lives, and does not ship: the run does not leave its lines to it."""
    found = node.wrap("echo", "hi", **injecting(tmp_path, "sqstee.agent.fair_queue:FairQueue.read:bug:1"))
    assert (found.returncode, found.stdout, found.stderr) == (0, b"hi\n", b"")
    assert (tmp_path / "injected").exists()
    assert seen(node) == [b"hi\n"]
