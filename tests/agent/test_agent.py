"""Runs under an agent leave as soon as their commands do, and lose nothing by it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import PROGRAMS, Rebuilt, Sqstee, children, injecting, is_running, python, running, wait_for
from support.node import Node

from sqstee.agent.claimed_run import checked_meta
from sqstee.errors import EXIT_UNDELIVERED
from sqstee.settings import load_settings
from sqstee.ship.policy import DeliveryPolicy
from sqstee.ship.sender_pool import IN_FLIGHT
from sqstee.ship.shipper_handle import CLOSE, ShipperHandle
from sqstee.ship.standby import StandBy
from sqstee.spool import agent_file, run_events
from sqstee.spool.quota import used_bytes
from sqstee.spool.run_folder import create

POISONOUS = {"contains": "poisonous", "code": "InvalidMessageContents", "sender_fault": True, "message": "no"}


def test_several_runs_are_packed_together(node: Node) -> None:
    """Four commands at once: each arrives whole, with both streams, and bodies hold the lines of more than one."""
    script = "seq 300; echo oops >&2; read x; seq 301 600"
    node.server.faults(black_hole=True)
    with node.agent("--to", "q"), ExitStack() as stack:
        running_ones = [
            stack.enter_context(node.wrapping("sh", "-c", script, stderr=subprocess.DEVNULL)) for _ in range(4)
        ]
        wait_for(lambda: node.sqstee.spooled().count(b"oops\n") == 4, "lines")
        node.wait_for_claims(4)
        node.server.clear_faults()
        for process in running_ones:
            process.communicate(b"\n", timeout=40)
            assert process.returncode == 0
        wait_for(node.idle, "delivery")
    found = node.shipped()
    assert len(found) == 4
    for one in found.values():
        one.assert_whole()
        assert one.stdout == b"".join(b"%d\n" % n for n in range(1, 601))
        assert one.stderr == b"oops\n"
        assert one.duplicates == 0
    assert any("run" not in message.attributes for message in node.server.sent("q"))
    assert node.server.counters().rejected == 0


def test_a_run_leaves_when_its_command_does_and_never_loads_boto3(node: Node, tmp_path: Path) -> None:
    """Although the destination takes its time: nothing heavy is imported, and nothing for shipping at all."""
    log = tmp_path / "imports"
    environ = {"PYTHONPATH": str(PROGRAMS / "imports"), "IMPORTS_LOG": str(log)}
    node.server.faults(black_hole=True)
    with node.agent("--to", "q"):
        found = node.wrap("seq", "1000", **environ)
        assert (found.returncode, found.stderr, found.stdout.count(b"\n")) == (0, b"", 1000)
        assert not node.idle()
        names = {line.split()[1] for line in log.read_text().splitlines()}
        assert "sqstee.ship.standby" in names
        heavy = (
            "boto3",
            "json",
            "hashlib",
            "random",
            "threading",
            "sqstee.ship.shipper",
            "sqstee.agent.shipper_process",
        )
        assert [name for name in heavy if name in names] == []
        node.server.clear_faults()
        node.server.release()
        wait_for(node.idle, "delivery", 60)
    assert node.outputs() == [b"".join(b"%d\n" % n for n in range(1, 1001))]


def test_a_killed_agent_loses_nothing(node: Node) -> None:
    """kill -9 with requests in flight: the runs take over; what comes twice are whole ranges with the same bytes."""
    script = "seq 5000; read x; seq 5001 5100"
    node.server.faults(latency_ms=50)
    with ExitStack() as stack:
        with node.agent("--to", "q") as agent:
            code = "import select, sys\nwhile not select.select([0], [], [], 0.02)[0]: print('busy', flush=True)"
            busy = stack.enter_context(node.wrapping(*python(code)))
            wrapped = [stack.enter_context(node.wrapping("sh", "-c", script)) for _ in range(3)]
            wait_for(lambda: len(found := node.outputs()) > 1 and found[-1].startswith(b"busy"), "lines")
            wait_for(lambda: node.server.counters().active > 0, "requests in flight")
            agent.kill()
        node.server.clear_faults()
        expected = b"".join(b"%d\n" % n for n in range(1, 5001))
        before = len(node.outputs()[-1])
        wait_for(lambda: node.outputs()[:3] == [expected] * 3 and len(node.outputs()[-1]) > before, "take-over", 120)
        for process in (*wrapped, busy):
            process.communicate(b"\n", timeout=40)
    assert node.outputs()[:3] == [b"".join(b"%d\n" % n for n in range(1, 5101))] * 3
    for one in node.shipped().values():
        one.assert_whole()
    lines = [line for message in node.server.sent("q") for line in message.body.splitlines()]
    by_seq: dict[tuple[str, int], set[str]] = {}
    for line in lines:
        fields = json.loads(line)
        by_seq.setdefault((fields["run"], fields["seq"]), set()).add(line)
    assert all(len(versions) == 1 for versions in by_seq.values())
    assert node.idle()


def test_a_run_that_ends_as_the_agent_dies_ships_itself(node: Node) -> None:
    """At its end a run asks once more whether the agent is there."""
    with node.agent("--to", "q") as agent, node.wrapping("sh", "-c", "echo one; read x; echo two") as process:
        wait_for(lambda: node.outputs() == [b"one\n"], "first line")
        agent.kill()
        agent.wait(40)
        process.communicate(b"\n", timeout=40)
        assert process.returncode == 0
        assert node.idle()
        assert node.outputs() == [b"one\ntwo\n"]


def test_a_run_that_begins_just_when_it_was_found_empty(node: Node, tmp_path: Path) -> None:
    """It comes to its end before the agent, which means to remove it, has its locks: it is shipped, not removed."""
    for name in ("front", "agent"):
        (tmp_path / name).mkdir()
    slow_front = injecting(tmp_path / "front", "sqstee.spool.segments:Segments._rotate:hang:1")
    slow_agent = injecting(tmp_path / "agent", "sqstee.agent.claiming:lock:hang:1")
    with node.agent("--to", "q", environ=slow_agent):
        with node.wrapping("echo", "hi", env=node.environ | slow_front) as process:
            wait_for((tmp_path / "agent" / "injected").exists, "look at a run without a segment")
            (tmp_path / "front" / "injected.go").touch()
            assert process.wait(40) == 0
            (tmp_path / "agent" / "injected.go").touch()
        wait_for(node.idle, "delivery")
    assert node.outputs() == [b"hi\n"]


def test_a_killed_front_under_an_agent(node: Node) -> None:
    """The command dies with it, the agent closes the run and delivers it."""
    with node.agent("--to", "q"):
        with node.wrapping("sh", "-c", "echo $$; exec tail -f /dev/null") as process:
            wait_for(lambda: any(node.outputs()), "first line")
            command = int(node.outputs()[0])
            process.kill()
        wait_for(lambda: not is_running(command), "end of the command")
        wait_for(node.idle, "delivery")
    (found,) = node.shipped().values()
    found.assert_whole()
    assert found.events[-1].fields["cause"] == "wrapper-died"


def test_an_end_that_the_disk_refuses_is_no_death(node: Node, tmp_path: Path) -> None:
    """The agent closes the run, and says of its end what it knows."""
    with node.agent("--to", "q"):
        fault = injecting(tmp_path, "sqstee.spool.segments:Segments.append:full:3-1000000")
        found = node.wrap("echo", "one", **fault)
        assert (found.returncode, found.stdout) == (0, b"one\n")
        assert b"the exit event is missing" in found.stderr
        wait_for(node.idle, "delivery")
    (one,) = node.shipped().values()
    one.assert_whole()
    assert one.events[-1].message == (
        "the run has ended; its last lines and its exit event may not have been written: its disk was full"
    )
    assert one.events[-1].fields["cause"] == "wrapper-died"


def test_poison_in_one_run_costs_no_other(node: Node) -> None:
    """What the queue refuses is put aside and reported as a gap in its own run; every other run is untouched."""
    node.server.faults(failed_entries=[POISONOUS])
    code = "for n in range(500): print('poisonous' if n == 250 else f'line {n}')"
    with node.agent("--to", "q"):
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(node.wrapping("seq", "500"))
            stack.enter_context(node.wrapping(*python(code)))
        wait_for(node.idle, "delivery")
    outputs = node.outputs()
    assert outputs.count(b"".join(b"%d\n" % n for n in range(1, 501))) == 5
    (hurt,) = [one for one in node.shipped().values() if b"line" in one.stdout]
    hurt.assert_whole()
    assert hurt.stdout == b"".join(b"line %d\n" % n for n in range(500) if n != 250)
    assert [event.event for one in node.shipped().values() for event in one.events].count("gap") == 1
    (kept,) = (node.sqstee.spool / "quarantine").iterdir()
    assert Rebuilt([(kept.read_bytes(), {})]).stdout == b"poisonous\n"


def test_strict_and_summary_know_what_the_agent_put_aside(node: Node) -> None:
    """The run's folder has gone, and not every line was delivered: this is said as if the run had shipped itself."""
    node.server.faults(failed_entries=[POISONOUS])
    words = ("--to", "q", "--strict", "--summary", "--", "sh", "-c", "echo one; echo poisonous; echo two")
    with node.agent("--to", "q"):
        found = node.sqstee.run(*words, environ=node.server.environ())
    aside, summary = found.stderr.splitlines()
    assert b"1 line larger than the destination takes, or refused by it: kept in" in aside
    assert b": 2 delivered, 0 waiting, 0 dropped, 1 quarantined; to q" in summary
    assert found.returncode == EXIT_UNDELIVERED


def test_a_flood_in_one_run_starves_no_other(node: Node) -> None:
    """A small run's line arrives while megabytes of another's wait."""
    big = 20_000_000
    script = f"echo first; read x; yes {'x' * 400} | head -c {big}; read x"
    with node.agent("--to", "q"), node.wrapping("sh", "-c", script) as flood:
        wait_for(lambda: node.outputs() == [b"first\n"], "first line")
        node.server.faults(black_hole=True)
        flood.stdin.write(b"\n")
        flood.stdin.flush()
        wait_for(
            lambda: used_bytes(str(node.sqstee.spool)) > big and node.server.counters().active == IN_FLIGHT, "flood"
        )
        node.wrap("echo", "small")
        node.wait_for_claims(2)
        node.server.faults(black_hole=False, latency_ms=1000)
        wait_for(lambda: any('"small"' in message.body for message in node.server.sent("q")), "small run's line")
        node.server.clear_faults()
        flood.communicate(b"\n", timeout=60)
        wait_for(node.idle, "delivery", 60)
    bodies = [message.body for message in node.server.sent("q")]
    (at,) = [at for at, body in enumerate(bodies) if '"small"' in body]
    assert sum(map(len, bodies[at + 1 :])) > 5_000_000
    assert [len(one) for one in node.outputs()] == [6 + big, 6]


@pytest.mark.parametrize("difference", ["credentials", "destination", "profile"])
def test_a_run_that_the_agent_does_not_fit_ships_itself(node: Node, difference: str) -> None:
    """Other credentials, another destination: the lines are there when the run ends, the agent had no part in it."""
    node.server.create_queue("other")
    to = "other" if difference == "destination" else "q"
    environ = {"AWS_ACCESS_KEY_ID": "AKIAOTHER"} if difference == "credentials" else {}
    if difference == "profile":
        path = node.sqstee.folder / "credentials"
        path.write_text("[default]\n")
        environ = {"AWS_SHARED_CREDENTIALS_FILE": str(path)}
    with node.agent("--to", "q"):
        node.wrap("echo", "mine", to=to, **environ)
        assert node.outputs(to) == [b"mine\n"]
        wait_for(node.idle, "removal")  # by the agent, if it had come to a folder that is just being emptied
        assert "run" in node.server.sent(to)[0].attributes
    if difference == "credentials":
        assert set(node.server.counters().access_keys) == {"AKIAOTHER"}


def test_sixty_four_runs_at_once(node: Node) -> None:
    """All arrive whole in few requests, and none of the fronts waits."""
    script = "for i in 1 2 3; do seq 100; sleep 0.1; done"
    started = time.monotonic()
    with node.agent("--to", "q"):
        with ExitStack() as stack:
            for _ in range(64):
                stack.enter_context(node.wrapping("sh", "-c", script))
        wait_for(node.idle, "delivery", 60)
    lingers = time.monotonic() - started  # of a second each: on a crowded machine the runs take their time
    expected = b"".join(b"%d\n" % n for n in range(1, 101)) * 3
    assert node.outputs() == [expected] * 64
    assert node.server.counters().calls["SendMessageBatch"] < 6 + lingers
    for one in node.shipped().values():
        one.assert_whole()


def test_a_fifo_queue_gets_bodies_of_one_run(node: Node) -> None:
    """There the group is the run: every message has its group, and within it the order."""
    node.server.create_queue("q.fifo")
    with node.agent():
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(node.wrapping("seq", "2000", to="q.fifo"))
        wait_for(node.idle, "delivery")
    messages = node.server.sent("q.fifo")
    assert all(message.group == message.attributes["run"] for message in messages)
    assert node.outputs("q.fifo") == [b"".join(b"%d\n" % n for n in range(1, 2001))] * 3


def test_the_local_queue_works_under_an_agent(node: Node) -> None:
    """With nothing configured at all."""
    with node.agent("--to", "local"):
        assert node.sqstee.wrap("seq", "10").returncode == 0
        wait_for(lambda: node.idle() and (node.sqstee.spool / "local.db").exists(), "delivery")
        assert node.sqstee.run("tail", "--no-follow", "-o", "raw").stdout == b"".join(b"%d\n" % n for n in range(1, 11))


def test_what_decides_about_the_destination_is_in_the_digest(tmp_path: Path) -> None:
    """Regions, roles, endpoints, proxies and the shared files where they exist; secrets and the rest are not."""
    base = {"HOME": str(tmp_path), "AWS_PROFILE": "a"}
    plain = agent_file.digest(agent_file.selectors(base), "q")
    assert (
        agent_file.digest(
            agent_file.selectors(base | {"AWS_SECRET_ACCESS_KEY": "x", "PATH": "/", "AWS_REGION": ""}), "q"
        )
        == plain
    )
    for name in (
        "AWS_REGION",
        "AWS_ROLE_ARN",
        "AWS_ENDPOINT_URL_SQS",
        "HTTPS_PROXY",
        "AWS_ACCESS_KEY_ID",
        "SSL_CERT_FILE",
    ):
        assert agent_file.digest(agent_file.selectors(base | {name: "x"}), "q") != plain
    assert agent_file.digest(agent_file.selectors(base), "r") != plain
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("")
    assert agent_file.digest(agent_file.selectors(base), "q") != plain


def test_a_file_that_nobody_holds_is_not_trusted(tmp_path: Path) -> None:
    """What a dead agent published, and what a reader's lock pretends, is nothing."""
    import fcntl

    path = tmp_path / "agent"
    text = agent_file.digest(agent_file.selectors({}), agent_file.ANY)
    path.write_text(text)
    assert not agent_file.serving(str(tmp_path), "q", {})
    code = "import fcntl, sys; f = open(*sys.argv[1:3]); fcntl.lockf(f, int(sys.argv[3])); print(flush=True); input()"
    for mode, kind, expected in (("r", fcntl.LOCK_SH, False), ("r+", fcntl.LOCK_EX, True)):
        with running([*python(code), str(path), mode, str(kind)], stdin=-1, stdout=-1) as process:
            assert process.stdout
            process.stdout.readline()
            assert agent_file.serving(str(tmp_path), "q", {}) == (str(path) if expected else "")
            process.communicate(b"\n", timeout=40)


def test_a_wrapper_under_an_agent_is_small(node: Node) -> None:
    """Front and stand-by: at most 12 MiB of proportional set size."""
    with node.agent("--to", "q"), node.wrapping("sh", "-c", "seq 2000; read x") as process:
        wait_for(lambda: any(node.outputs()), "lines")
        pids = [process.pid, children(process.pid)[-1]]
        sizes = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
        kib = [int(line.split()[1]) for text in sizes for line in text.splitlines() if line.startswith("Pss:")]
        assert len(kib) == 2
        assert sum(kib) <= 12 * 1024, kib
        process.communicate(b"\n", timeout=40)


@pytest.mark.parametrize("delivered", [True, False])
def test_a_run_that_waits_for_its_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivered: bool) -> None:
    """Where the front has to know the outcome, the stand-by waits until the agent has removed the run."""
    now = time.monotonic()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("sqstee.ship.standby.time.monotonic", lambda: now)
    monkeypatch.setattr("sqstee.ship.standby.time.sleep", sleep)
    folder = tmp_path / "RUN"
    folder.mkdir()
    (wake, waking), (report, reporting) = os.pipe(), os.pipe()
    asked = []

    def serving() -> str:
        asked.append(True)
        if delivered and len(asked) > 3:
            folder.rmdir()
        return str(tmp_path / "agent")

    os.write(waking, CLOSE)
    try:
        StandBy(
            str(folder),
            wake,
            reporting,
            serving=serving,
            start=None,
            on_front_death=lambda: pytest.fail("the front lives"),
            ship=lambda fd: pytest.fail("the agent ships"),
            flush_timeout=30.0,
            agent_timeout=30.0,
        ).run()
        monkeypatch.undo()
        assert len(asked) > 3
        found = ShipperHandle(0, -1, report).read_report(str(folder), 7, "unsaid")
        assert (found.quarantined, found.requests) == (0, None)
        expected = (7, "") if delivered else (0, "another process has not delivered it yet")
        assert (found.acknowledged, found.reason) == expected
    finally:
        for fd in (wake, waking, report, reporting):
            os.close(fd)


@pytest.mark.parametrize(("lives", "least", "most"), [(True, 30.0, 60.0), (False, 5.0, 10.0)])
def test_a_run_that_nobody_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: bool, least: float, most: float
) -> None:
    """It ships itself: soon where the agent has died, and after some time where it lives and does not come to it."""
    folder = tmp_path / "RUN"
    folder.mkdir()
    (folder / "ship").touch()
    wake, front = os.pipe()
    now = time.monotonic()
    start, until = now, now + 2 * most
    shipped: list[float] = []

    def clock() -> float:
        nonlocal now
        now += 0.5
        if now > until:
            os.close(front)  # it never ships: the front's death ends this
        return now

    monkeypatch.setattr("sqstee.ship.standby.time.monotonic", clock)
    monkeypatch.setattr("sqstee.ship.standby._CHECK_SECONDS", 0.0)
    StandBy(
        str(folder),
        wake,
        wake,
        serving=lambda: "agent" if lives else "",
        start=None,
        on_front_death=lambda: None,
        ship=lambda woken_by: shipped.append(now - start),
        flush_timeout=0.0,
    ).run()
    monkeypatch.undo()
    assert len(shipped) == 1
    assert least <= shipped[0] <= most + 5
    os.close(wake)
    os.close(front)


@pytest.mark.parametrize("extreme", [("--linger", "8760h"), ("--message-bytes", "1K"), ("--message-bytes", "4M")])
def test_what_a_run_may_ask_for_an_agent_does(tmp_path: Path, extreme: tuple[str, str]) -> None:
    """The run relies on it: what only the agent found too much once stayed in the spool, and nobody was told."""
    settings = load_settings(("--to", "q", *extreme), {})
    meta = run_events.meta(settings, "RUN", DeliveryPolicy("q", settings).to_meta())
    writer, *locks = create(str(tmp_path), "RUN", meta, 32768, 1024**3, "auto")
    writer.event(run_events.start(settings, "", 1))
    writer.close()
    found = DeliveryPolicy.from_meta(checked_meta(writer.folder, "RUN")).options
    assert (found.linger, found.message_bytes) == (settings.linger, settings.message_bytes)
    for fd in locks:
        os.close(fd)


def test_strict_and_summary_wait_for_the_agent(node: Node) -> None:
    """They are about the delivery: the run leaves once the agent has removed it, and says what became of its lines."""
    with node.agent("--to", "q"):
        words = ("--to", "q", "--strict", "--summary", "--", "seq", "100")
        found = node.sqstee.run(*words, environ=node.server.environ())
        assert (found.returncode, node.outputs()) == (0, [found.stdout])
        assert b"100 delivered" in found.stderr
        node.server.faults(errors=[{"code": "InternalError"}])
        late = ("--to", "q", "--strict", "--flush-timeout", "1s", "--", "seq", "100")
        found = node.sqstee.run(*late, environ=node.server.environ())
        assert found.returncode == EXIT_UNDELIVERED
        assert b"not delivered yet" in found.stderr
        node.server.clear_faults()
        wait_for(node.idle, "delivery", 60)


def test_stat_and_check_show_the_agent(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Whether there is one, what it does, and whether it ships for runs as this one would be."""
    node = Node(sqstee, fake_sqs)
    environ = fake_sqs.environ()
    assert b"each run ships its own lines" in sqstee.run("check", "q", environ=environ).stdout
    with node.agent("--to", "q") as process:
        wait_for(node.status, "first look around")
        found = sqstee.run("stat", "q", "-o", "json", environ=environ).stdout.splitlines()
        assert json.loads(found[-1])["agent"]["pid"] == process.pid
        assert b"ships for runs like this one" in sqstee.run("check", "q", environ=environ).stdout
        other = environ | {"AWS_PROFILE": "other"}
        assert b"does not serve this destination" in sqstee.run("check", "q", environ=other).stdout
    found = sqstee.run("stat", "q", "-o", "prometheus", environ=environ).stdout.splitlines()
    assert found[-1] == b"sqstee_agent_up 0"


def test_a_destination_that_refuses_everything_is_in_the_agents_log_and_status(node: Node) -> None:
    """An agent that may not send lives for months: nothing but the last error, among others, showed it."""
    to, advice = "local:/proc/none.db", "`sqstee check local:/proc/none.db` looks for the cause"
    with node.agent() as agent:
        for _ in range(2):
            assert node.wrap("echo", "hi", to=to).returncode == 0
        wait_for(lambda: node.status().get("refusals"), "refusal")
        shown = node.sqstee.run("agent", "--status", environ=node.environ).stdout.decode()
        agent.kill()
        log = agent.communicate(timeout=60)[1].decode()
    start = f"{to} refuses the lines, which are kept in {node.sqstee.spool}; {advice}: SQLite: "
    assert any(line.startswith(f"refused      {start}") for line in shown.splitlines())
    assert log.startswith(f"sqstee: {start}")
    assert log.count("\n") == 1
