"""`sqstee agent` itself: its beginning and end, its configuration, and what it does for all users of a host."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, SCRIPT, children, injecting, kill, running, wait_for
from support.node import Node

from sqstee.agent.advertisement import Advertisement
from sqstee.agent.agent import Agent
from sqstee.agent.config import AgentConfig
from sqstee.cli.agent import _folder as served
from sqstee.settings import Settings
from sqstee.spool.run_folder import create
from sqstee.transports.fallback import FallbackSender

POISONOUS = {"contains": "poisonous", "code": "InvalidMessageContents", "sender_fault": True, "message": "no"}


def test_an_agent_that_is_started_late_takes_what_is_there(node: Node) -> None:
    """Orphans: one that ended undelivered, one whose sqstee was killed, which is closed as flush does."""
    node.wrap("echo", "ended", to="later")
    with node.wrapping("sh", "-c", "echo killed; exec tail -f /dev/null", to="later") as process:
        wait_for(lambda: b"killed" in node.sqstee.spooled(), "spool")
        wait_for(lambda: len(children(process.pid)) == 2, "shipper")
        command, shipper = children(process.pid)
        kill(shipper, process.pid, command)
    node.server.create_queue("later")
    with node.agent():
        wait_for(node.idle, "delivery")
    found = node.shipped("later")
    assert sorted(one.stdout for one in found.values()) == [b"ended\n", b"killed\n"]
    assert [one.events[-1].fields.get("cause") for one in found.values() if one.stdout == b"killed\n"] == [
        "wrapper-died"
    ]
    for one in found.values():
        one.assert_whole()


def test_once(node: Node) -> None:
    """For cron: what is there is shipped, the status says whether something is left; no run relies on it."""
    for number in range(3):
        node.wrap("echo", str(number), to="later")
    assert len(node.sqstee.waiting_runs()) == 3
    words = ("agent", "--once", "--flush-timeout", "20s")
    found = node.sqstee.run(*words, environ=node.server.environ())
    assert found.returncode == 1
    assert found.stdout.count(b"stays in the spool: ") == 3
    assert b"QueueDoesNotExist" in found.stdout
    node.server.create_queue("later")
    node.server.faults(black_hole=True)
    with running(node.sqstee.words(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=node.environ) as agent:
        wait_for(
            lambda: (node.sqstee.spool / "agent.status").exists() or agent.poll() is not None, "charge of all runs"
        )
        node.server.clear_faults()
        assert agent.stdout
        shipped, said = agent.communicate(timeout=40)
    assert (agent.returncode, said) == (0, b"")
    assert shipped.count(b": shipped\n") == 3
    assert node.outputs("later") == [b"0\n", b"1\n", b"2\n"]
    assert node.idle()
    assert len(node.server.sent("later")) == 1
    assert node.sqstee.run(*words, environ=node.server.environ()).returncode == 0


def test_once_with_more_runs_than_descriptors(node: Node) -> None:
    """Those that had no place are said, and have one the next time."""
    for number in range(5):
        node.wrap("echo", str(number), to="later")
    node.server.create_queue("later")
    words = ["bash", "-c", 'ulimit -n 275; exec "$@"', "bash", *node.sqstee.words("agent", "--once")]
    for status, taken in ((1, 3), (0, 2)):
        found = subprocess.run(words, env=node.environ, capture_output=True, timeout=60, check=False)
        assert (found.returncode, found.stdout.count(b": shipped\n")) == (status, taken)
        assert found.stdout.count(b"stays in the spool: more runs than") == (2 if status else 0)
    assert node.idle()


def test_a_disk_that_is_full_when_the_agent_starts(node: Node, tmp_path: Path) -> None:
    """It ships all the same, which makes room; runs rely on it once it could say that it is there."""
    node.wrap("echo", "before", to="later")
    node.server.create_queue("later")
    with node.agent("--to", "later", environ=injecting(tmp_path, "os:pwrite:full:1-1")) as agent:
        assert (tmp_path / "injected").exists()
        wait_for(node.idle, "delivery")
        assert agent.poll() is None
        assert node.published()["destinations"] == ["later"]
    assert node.outputs("later") == [b"before\n"]


def test_sigterm_delivers_the_rest(node: Node) -> None:
    """What runs left to it is delivered before it ends; runs that go on take over."""
    with node.wrapping("sh", "-c", "seq 500; read x") as process:
        with node.agent("--to", "q", "--flush-timeout", "20s") as agent:
            pass
        assert agent.returncode == 0
        process.communicate(b"\n", timeout=40)
    with node.agent("--to", "q", "--flush-timeout", "20s") as agent:
        node.server.faults(latency_ms=500)
        for number in range(3):
            node.wrap("echo", str(number))
        agent.terminate()
        agent.wait(40)
    assert agent.returncode == 0
    assert node.idle()
    assert node.outputs() == sorted([b"0\n", b"1\n", b"2\n", b"".join(b"%d\n" % n for n in range(1, 501))])
    assert node.sqstee.run("agent", "--status").returncode == 1


def test_sighup_reads_the_configuration_again(node: Node) -> None:
    """A destination more, and one less, whose running run ships itself from then on; a mistake changes nothing."""
    folder = node.sqstee.folder / ".config"
    folder.mkdir()
    path = folder / "sqstee.toml"
    path.write_text('linger = 0.1s\n[agent]\nto = ["q"]\n')
    node.server.create_queue("other")
    with node.agent() as agent, node.wrapping("sh", "-c", "echo one; read x; echo two") as process:
        assert node.published()["destinations"] == ["q"]
        wait_for(lambda: node.outputs() == [b"one\n"], "first line")
        (run,) = node.sqstee.waiting_runs()
        path.write_text('[ "agent" ]  # as TOML allows\nto = "other"\n')
        agent.send_signal(signal.SIGHUP)
        wait_for(lambda: (node.published() or {}).get("destinations") == ["other"], "new configuration")
        wait_for(lambda: not node.held(run), "release")
        node.wrap("echo", "three", to="other")
        wait_for(lambda: node.outputs("other") == [b"three\n"], "delivery")
        path.write_text("[agent]\nto = 7\n")
        agent.send_signal(signal.SIGHUP)
        assert agent.stderr
        assert b"invalid value '7' for to in [agent]" in agent.stderr.readline()
        assert node.published()["destinations"] == ["other"]
        process.communicate(b"\n", timeout=40)
    assert node.outputs() == [b"one\ntwo\n"]


def test_a_second_agent_refuses(node: Node) -> None:
    """One line and a hint; the first one goes on."""
    with node.agent("--to", "q") as agent:
        for words in (("agent",), ("agent", "--once")):
            found = node.sqstee.run(*words, environ=node.server.environ())
            assert found.returncode == 1
            assert found.stderr.decode().splitlines() == [
                f"sqstee: an agent already serves {node.sqstee.spool} (process {agent.pid})",
                "hint: to see its state, run: sqstee agent --status",
            ]
        assert agent.poll() is None


def test_status(node: Node) -> None:
    """What waits and what is wrong while the queue is missing, what was delivered once it is there."""
    found = node.sqstee.run("agent", "--status")
    assert (found.returncode, found.stdout) == (1, b"")
    assert b"no agent serves" in found.stderr

    def status() -> str:
        return node.sqstee.run("agent", "--status").stdout.decode()

    node.server.faults(errors=[{"code": "InternalError"}])
    with node.agent("--to", "q"):
        node.wrap("seq", "100")
        wait_for(lambda: "InternalFailure" in status(), "error")
        assert "runs         1\n" in status()
        assert "waiting      0 bytes" not in status()
        node.server.clear_faults()
        wait_for(lambda: "delivered    102 records in 1 requests" in status(), "delivery", 60)
        wait_for(lambda: "runs         0\n" in status() and "last error   none" in status(), "rest")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a spool of all users")
USER = 4242


class Host:
    """A spool of all users, with one user's run in it, as the user's own sqstee would have made it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.shared = node.sqstee.spool
        self.shared.mkdir()
        self.shared.chmod(0o1777)
        self.own = self.shared / str(USER)
        self.own.mkdir(0o700)

    def run(self, name: str = "01JD0000000000000000000001", text: bytes = b"hi\n", folder: Path | None = None) -> Path:
        """A run with one line, dead, owned by the user; it is there at once, as a whole."""
        root, making = folder or self.own, self.shared / "making"
        making.mkdir()
        meta = {"run": name, "host": "h", "to": "q", "message_bytes": 262144, "compress": "none", "local_max": 1}
        writer, *locks = create(str(making), name, json.dumps(meta).encode(), 32768, 1024**3, "auto")
        writer.write(0, text)
        writer.close()
        for fd in locks:
            os.close(fd)
        if root == self.own:
            os.chown(root, USER, USER)
            self.give(making)
        (making / name).rename(root / name)
        making.rmdir()
        return root / name

    def give(self, root: Path | None = None) -> None:
        """Everything in the user's folder, or another one, to the user."""
        for folder, folders, files in os.walk(root or self.own):
            os.chown(folder, USER, USER)
            for name in (*folders, *files):
                os.chown(f"{folder}/{name}", USER, USER, follow_symlinks=False)

    def agent(self, *words: str) -> Any:
        """The host's agent."""
        return self.node.agent("--spool", str(self.shared), *words)


@pytest.fixture
def host(node: Node) -> Host:
    """A host for all users."""
    return Host(node)


@needs_root
def test_what_is_owed_goes_to_no_other_folder(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is kept with the user whose run came first: when that folder is gone its number must not be another's."""
    monkeypatch.setattr(os, "nice", lambda increment: 0)
    to, settings = "http://127.0.0.1:9/nobody", Settings()
    settings.fallback, settings.fallback_after = (f"local:{tmp_path}/second.db",), 0.1
    meta = {"run": "01JD0000000000000000000001", "host": "h", "to": to, "compress": "none", "local_max": 1}
    writer, *locks = create(str(host.own), str(meta["run"]), json.dumps(meta).encode(), 32768, 1024**3, "auto")
    writer.write(0, b"hi\n")
    writer.close()
    for fd in locks:
        os.close(fd)
    host.give()
    agent = Agent(str(host.shared), AgentConfig(frozenset({to}), settings), Advertisement(str(host.shared), {}))
    agent.scan()
    wait_for((host.own / ".owed").exists, "debt")
    assert agent.drain() == {}
    (sender,) = agent._workers._senders.values()
    assert isinstance(sender, FallbackSender)
    shutil.rmtree(host.own)
    agent.scan()
    assert list(agent.folders()) == []
    others = [os.open(tmp_path, os.O_RDONLY) for _ in range(50)]
    sender._ledger.mark_reported(sender._ledger.unreported(10))
    assert not (tmp_path / ".owed").exists()
    for fd in others:
        os.close(fd)


@needs_root
def test_a_host_wide_agent_ships_for_users(host: Host) -> None:
    """Only to its destinations; what it makes in a user's folder is the user's."""
    host.node.server.faults(failed_entries=[POISONOUS])
    host.run(text=b"hi\npoisonous\n")
    with host.agent("--to", "q"):
        wait_for(lambda: os.listdir(host.own) == ["quarantine"], "delivery")
        (kept,) = (host.own / "quarantine").iterdir()
        assert [path.stat().st_uid for path in (kept, kept.parent)] == [USER, USER]
    assert host.node.outputs() == [b"hi\n"]


@needs_root
def test_a_run_relies_on_the_hosts_agent(node: Node, host: Host) -> None:
    """One whose spool folder is the user's own in that of all users leaves the rest to root's agent."""
    own = host.shared / str(os.getuid())
    environ = {"SQSTEE_SPOOL": str(own)}
    node.server.faults(black_hole=True)
    with host.agent("--to", "q"):
        assert node.wrap("echo", "hi", **environ).returncode == 0
        assert len(os.listdir(own)) == 1
        node.server.clear_faults()
        node.server.release()
        wait_for(lambda: not os.listdir(own), "delivery", 60)
    assert node.outputs() == [b"hi\n"]


@needs_root
def test_what_a_host_wide_agent_opens_for_a_run_stays_its_owners(host: Host) -> None:
    """While the queue does not answer: the state file is the user's, so that the run can take over."""
    host.node.server.faults(black_hole=True)
    folder = host.run()
    with host.agent("--to", "q"):
        wait_for(lambda: b"wrapper-died" in (folder / "00000001.seg").read_bytes(), "end of the run")
        assert {path.stat().st_uid for path in folder.iterdir()} == {USER}
        host.node.server.clear_faults()
        wait_for(lambda: not folder.exists(), "delivery")


@needs_root
def test_a_host_wide_agent_is_nobodys_deputy(host: Host, tmp_path: Path) -> None:
    """Links in the place of folders and files, others' folders, FIFOs: left alone, and all else goes on."""
    victim = tmp_path / "victim"
    victim.mkdir()
    secret = host.run("01JD0000000000000000000009", b"secret\n", victim)
    names = [f"01JD000000000000000000000{n}" for n in "2345678"]
    (host.own / names[0]).symlink_to(secret)
    shutil.copytree(secret, host.own / names[1])
    fifo = host.run(names[2])
    (fifo / "00000001.seg").unlink()
    os.mkfifo(fifo / "00000001.seg")
    linked = host.run(names[3])
    (linked / "00000001.seg").unlink()
    (linked / "00000001.seg").symlink_to(secret / "00000001.seg")
    (host.shared / "4343").symlink_to(victim)
    locked = host.run(names[4], b"poisonous\n")
    (host.own / "quarantine").symlink_to(victim)
    host.give()
    os.chown(host.own / names[1], 0, 0)
    host.node.server.faults(failed_entries=[POISONOUS])
    fine = host.run(names[5], b"fine\n")
    with host.agent("--to", "q"):
        wait_for(lambda: not fine.exists(), "delivery", 40)
    assert host.node.outputs() == [b"", b"fine\n"]  # the first has its events only
    assert locked.exists()
    assert sorted(os.listdir(victim)) == [secret.name]
    assert b"secret\n" in (secret / "00000001.seg").read_bytes()


@needs_root
@pytest.mark.parametrize("what", ["fifo", "folder"])
def test_what_is_no_segment_costs_no_other_run(host: Host, what: str) -> None:
    """Behind a run's first segment: nobody waits for it, and the other runs are taken, shipped and closed."""
    odd = host.run() / "00000002.seg"
    if what == "fifo":
        os.mkfifo(odd)
    else:
        odd.mkdir()
    host.give()
    first, second = host.run("01JD0000000000000000000002"), "01JD0000000000000000000003"
    with host.agent("--to", "q"):
        wait_for(lambda: not first.exists(), "delivery", 40)
        later = host.run(second)
        wait_for(lambda: not later.exists(), "another delivery", 40)
    assert host.node.outputs().count(b"hi\n") >= 2


@needs_root
@pytest.mark.parametrize("words", [(), ("--to", "local")])
def test_a_host_wide_agent_needs_destinations(host: Host, words: tuple[str, ...]) -> None:
    """One line and a hint."""
    found = host.node.sqstee.run("agent", "--spool", str(host.shared), *words)
    assert found.returncode == 125
    assert found.stderr.startswith(b"sqstee: an agent for all users ")
    assert found.stderr.count(b"\n") == 2


def test_which_folder_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of all users by root, if it was made for them; /var/tmp, which is everybody's too, is none."""
    shared = tmp_path / "shared"
    monkeypatch.setattr("sqstee.spool.location.SHARED", str(shared))
    assert served("") == f"/var/tmp/sqstee-{os.getuid()}"
    shared.mkdir()
    shared.chmod(0o1777)
    assert served("") == (str(shared) if os.geteuid() == 0 else f"{shared}/{os.getuid()}")
    assert served(str(tmp_path)) == str(tmp_path)


def test_bad_configurations(node: Node) -> None:
    """One line and a hint each."""
    for words in (("--to", "no such:thing"), ("--flush-timeout", "soon"), ("--spool", "/proc/1"), ("extra",)):
        found = node.sqstee.run("agent", *words)
        assert found.returncode == 125, words
        assert found.stderr.startswith(b"sqstee: ")
        assert b"Traceback" not in found.stderr


@pytest.mark.parametrize("unit", sorted(ROOT.glob("sqstee/systemd/*/*.service")), ids=str)
def test_the_units(unit: Path) -> None:
    """They start the verb, restart it before runs take over, and leave it time to deliver; systemd has no complaint."""
    values = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line and line[0] != "#")
    assert values["ExecStart"] == "sqstee agent"
    assert float(values["RestartSec"].rstrip("s")) < 5
    assert float(values["TimeoutStopSec"].rstrip("s")) > Settings().flush_timeout
    checker = shutil.which("systemd-analyze")
    if checker:
        path = f"{Path(SCRIPT).parent}:{os.environ['PATH']}"
        found = subprocess.run(
            [checker, "verify", "--man=no", unit], capture_output=True, text=True, env=os.environ | {"PATH": path}
        )
        complaints = [line for line in found.stderr.splitlines() if unit.name in line and "not executable" not in line]
        assert complaints == []
