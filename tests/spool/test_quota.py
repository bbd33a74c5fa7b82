"""The spool folder stays under its bound, and what does not fit is waited for or dropped, counted and said."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import termios
import time
from contextlib import nullcontext
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from fakes.sqs import FakeSqs
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TIMEOUT, Rebuilt, Sqstee, children, is_running, python, running, states, wait_for

from sqstee.capture.stream import CHUNK_BYTES
from sqstee.errors import SqsteeError
from sqstee.jsonbytes import encode_object
from sqstee.record import Body, Encoder
from sqstee.ship.pack import Packer
from sqstee.spool import quota as quotas
from sqstee.spool import run_folder
from sqstee.spool.quota import FullError, Quota, UnboundedQuota, used_bytes
from sqstee.spool.reader import FrameReader
from sqstee.spool.segments import Segments, delete_segments_before, segment_name, segment_numbers
from sqstee.spool.writer import Writer

META = encode_object({"run": "RUN", "host": "h"})
MIB = 1024 * 1024
LINES = [b"%07d" % n + b" x" * 50 + b"\n" for n in range(30000)]
MANY = python("import sys\nfor n in range(30000): sys.stdout.write('%07d' % n + ' x' * 50 + '\\n')")  # 3.2 MB


def shipped(server: FakeSqs, queue: str = "q") -> Rebuilt:
    """The streams in everything that the queue ever accepted."""
    return Rebuilt((message.body, message.attributes) for message in server.sent(queue))


def dropped_in(found: Rebuilt) -> int:
    """How many lines gap events cover."""
    return sum(event.last - event.seq + 1 for event in found.events if event.event == "gap")


def assert_accounted_for(found: Rebuilt, lines: list[bytes]) -> None:
    """Every line of stdout is there under its own seq, or covered by a gap event that says why."""
    found.assert_whole()
    assert [(record.seq, record.data) for record in found.records] == [
        (record.seq, lines[record.seq - 1]) for record in found.records
    ]
    assert len(found.records) + dropped_in(found) == len(lines)
    reasons = {event.fields["reason"] for event in found.events if event.event == "gap"}
    assert reasons <= {"spool: full (--spool-max 1M)"}


def flushed(sqstee: Sqstee, server: FakeSqs) -> None:
    """Heal the destination, and ship everything."""
    server.clear_faults()
    found = sqstee.run("flush", environ=server.environ())
    assert (found.returncode, sqstee.waiting_runs()) == (0, []), found.stdout


def spool_bytes(sqstee: Sqstee) -> int:
    """What the spool folder holds, as its bound counts it; 0 before it is made."""
    return used_bytes(str(sqstee.spool)) if sqstee.spool.exists() else 0


def is_writing(pid: int) -> bool:
    """Whether a process waits in write(2)."""
    try:
        return Path(f"/proc/{pid}/syscall").read_text().split()[0] == str({"x86_64": 1}.get(os.uname().machine, 64))
    except OSError:
        return False


def waits_for_room(sqstee: Sqstee, front: subprocess.Popen[bytes]) -> bool:
    """Whether a front whose command has filled its pipe waits for room in the spool, and not for the processor.

    What it reads at once, as much as a pipe holds, has no room; all that it read before is out, and it sleeps.
    """
    free = MIB - MIB // 16 - spool_bytes(sqstee)
    assert front.stdout
    unread = fcntl.ioctl(front.stdout, termios.FIONREAD, bytes(4))
    return free <= CHUNK_BYTES and unread == bytes(4) and states(front.pid) == {"S"}


def wait_until_blocked(sqstee: Sqstee, front: subprocess.Popen[bytes]) -> int:
    """Wait until the spool is full and the wrapped command, whose pid is answered, waits in write(2)."""
    wait_for(lambda: len(children(front.pid)) == 2 and spool_bytes(sqstee) > 0.7 * MIB, "full spool")
    command = children(front.pid)[0]
    wait_for(lambda: is_writing(command) and waits_for_room(sqstee, front), "command that waits")
    return command


def test_drop_loses_the_newest_lines_and_says_how_many(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """The command is not held up; records and gap events together are what it wrote; one line on stderr."""
    fake_sqs.faults(refuse=True)
    words = ("--to", "q", "--spool-max", "1M", "--on-full", "drop", "--flush-timeout", "0", "--", *MANY)
    found = sqstee.run(*words, environ=fake_sqs.environ())
    assert (found.stdout, found.returncode) == (b"".join(LINES), 0)
    assert spool_bytes(sqstee) <= MIB
    flushed(sqstee, fake_sqs)
    got = shipped(fake_sqs)
    assert_accounted_for(got, LINES)
    count = dropped_in(got)
    assert 0 < count < 30000
    said = [line for line in found.stderr.splitlines() if b"dropped" in line]
    assert said == [
        f"sqstee: {count:,} lines dropped: the spool is full (--spool-max 1M): `sqstee flush` ships the waiting lines, "
        "--spool-max raises the bound".encode()
    ]


def test_block_holds_the_command_until_there_is_room(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """The command waits in its write, nothing is lost, and it goes on by itself once the destination is back."""
    fake_sqs.faults(refuse=True)
    words = sqstee.words("--to", "q", "--spool-max", "1M", "--on-full", "block", "--", *MANY)
    environ = sqstee.environ | fake_sqs.environ()
    with running(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        received: list[bytes] = []
        reading = Thread(target=lambda: received.extend(process.stdout))  # type: ignore[arg-type]
        reading.start()
        wait_until_blocked(sqstee, process)
        assert spool_bytes(sqstee) <= MIB
        spooled = sqstee.spooled()
        wait_for(lambda: received and received[-1] in LINES and received[-1] not in spooled, "lines that came through")
        assert len(received) < 30000  # what was read is out, although the spool has not taken all of it
        fake_sqs.clear_faults()
        reading.join(60)
        assert (process.wait(40), received == LINES) == (0, True)
        assert process.stderr
        assert process.stderr.read() == b""
    got = shipped(fake_sqs)
    got.assert_whole()
    assert got.stdout == b"".join(LINES)
    assert sqstee.waiting_runs() == []


def test_signals_work_while_the_command_is_held(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """SIGTERM ends the command and sqstee; what waited for room is dropped, counted and reported."""
    fake_sqs.faults(refuse=True)
    options = ("--to", "q", "--spool-max", "1M", "--on-full", "block", "--flush-timeout", "1s")
    environ = sqstee.environ | fake_sqs.environ()
    words = sqstee.words(*options, "--", *MANY)
    with running(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        output: list[bytes] = []
        assert process.stdout
        reading = Thread(target=lambda: output.append(process.stdout.read()))  # type: ignore[union-attr]
        reading.start()
        command = wait_until_blocked(sqstee, process)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(40) == -signal.SIGTERM
        assert not is_running(command)
        reading.join(10)
    flushed(sqstee, fake_sqs)
    got = shipped(fake_sqs)
    lines = output[0].splitlines(keepends=True)
    assert lines[:-1] == LINES[: len(lines) - 1]
    assert_accounted_for(got, lines)
    assert dropped_in(got) > 0


def test_the_end_of_the_command_waits_for_room_and_a_signal_ends_that(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A command that ended with its last lines in the pipe: SIGTERM has them passed on, and dropped in the copy."""
    fake_sqs.faults(refuse=True)
    code = """if True:
        import os, sys, time
        os.set_blocking(1, False)
        while True:
            try:
                os.write(1, (b'x' * 63 + b'\\n') * 64)
            except BlockingIOError:
                if os.path.exists(sys.argv[1]):
                    break
                time.sleep(0.01)
        """
    enough = sqstee.folder / "enough"
    options = ("--to", "q", "--spool-max", "1M", "--on-full", "block", "--flush-timeout", "100s")
    environ = sqstee.environ | fake_sqs.environ()
    words = sqstee.words(*options, "--", *python(code), str(enough))
    with running(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ) as process:
        assert process.stdout
        output: list[bytes] = []
        reading = Thread(target=lambda: output.append(process.stdout.read()))  # type: ignore[union-attr]
        reading.start()
        wait_for(lambda: waits_for_room(sqstee, process), "full spool")
        enough.touch()
        wait_for(lambda: len(children(process.pid)) == 1 and waits_for_room(sqstee, process), "command's end")
        assert reading.is_alive()
        os.kill(process.pid, signal.SIGTERM)  # no more waiting for room
        reading.join(20)
        assert output[0]
        assert output[0] == (b"x" * 63 + b"\n") * (len(output[0]) // 64)
        wait_for(lambda: b'"exit"' in sqstee.spooled(), "exit event")
        os.kill(process.pid, signal.SIGTERM)  # no more waiting for delivery
        assert process.wait(40) == 0
    flushed(sqstee, fake_sqs)
    got = shipped(fake_sqs)
    assert_accounted_for(got, output[0].splitlines(keepends=True))
    assert dropped_in(got) > 0


def test_auto_waits_while_the_destination_makes_progress(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A destination that is slower than the command holds it back; no line is dropped."""
    words = sqstee.words("--to", "q", "--spool-max", "1M", "--", "sh", "-c", 'echo; read x; exec "$@"', "sh", *MANY)
    environ = sqstee.environ | fake_sqs.environ()
    pipe = subprocess.PIPE
    with running(words, stdin=pipe, stdout=pipe, stderr=pipe, env=environ) as process:
        wait_for(lambda: shipped(fake_sqs).stdout == b"\n", "first line")  # with boto3 loaded, which may take its time
        fake_sqs.faults(latency_ms=400)
        found = process.communicate(b"\n", timeout=TIMEOUT)
    assert (found, process.returncode) == ((b"\n" + b"".join(LINES), b""), 0)
    got = shipped(fake_sqs)
    got.assert_whole()
    assert got.stdout == found[0]


@pytest.mark.slow
def test_auto_drops_once_there_is_no_progress(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """An outage: the command goes on after ten seconds; the run that comes next to the full folder drops at once."""
    fake_sqs.faults(refuse=True)
    words = ("--to", "q", "--spool-max", "1M", "--flush-timeout", "0", "--", *MANY)
    for _ in range(2):
        found = sqstee.run(*words, environ=fake_sqs.environ())
        assert (found.stdout, found.returncode) == (b"".join(LINES), 0)
        assert b"lines dropped: the spool is full (--spool-max 1M)" in found.stderr
    assert spool_bytes(sqstee) <= MIB
    flushed(sqstee, fake_sqs)
    by_run: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for message in fake_sqs.sent("q"):
        by_run.setdefault(message.attributes["run"], []).append((message.body, message.attributes))
    assert len(by_run) == 2
    for bodies in by_run.values():
        assert_accounted_for(Rebuilt(bodies), LINES)


def test_room_that_comes_back_is_used(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Dropping ends when the destination is back, while the command runs: later lines arrive behind the gap."""
    fake_sqs.faults(refuse=True)
    command = python(
        "import os, select, sys\nfor n in range(30000): sys.stdout.write('%07d' % n + ' x' * 50 + '\\n')\n"
        "sys.stdout.flush()\nsys.stderr.write('full\\n')\nos.read(0, 1)\n"
        "while not select.select([0], [], [], 0.05)[0]: print('after', flush=True)"
    )
    options = ("--to", "q", "--spool-max", "1M", "--on-full", "drop")
    with running(
        sqstee.words(*options, "--", *command),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=sqstee.environ | fake_sqs.environ(),
    ) as process:
        assert process.stderr
        assert process.stderr.readline() == b"full\n"
        fake_sqs.clear_faults()
        wait_for(lambda: spool_bytes(sqstee) < 0.5 * MIB, "room", 60)
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
        # a full folder is looked at now and then only: some more may be dropped
        wait_for(lambda: b"after\n" in shipped(fake_sqs).stdout, "later line", 60)
        process.communicate(timeout=40)
    got = shipped(fake_sqs)
    got.assert_whole()
    assert got.records[-1].message == "after"
    assert got.stderr in (b"full\n", b"")
    assert len(got.records) + dropped_in(got) == got.events[-1].fields["lines"]
    assert dropped_in(got) > 0


@pytest.mark.slow
def test_64_runs_at_once_stay_under_the_bound(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """64 runs of 500 KB in one folder of 8 MiB, in an outage: never above it, and every line is accounted for.

    The sixteenth of the bound that is kept for those who come when it is full has room for 40; the others say so.
    """
    fake_sqs.faults(refuse=True)
    options = ("--to", "q", "--spool-max", "8M", "--on-full", "drop", "--flush-timeout", "0")
    command = ("sh", "-c", f"yes {'x' * 99} | head -n 5000")
    environ = sqstee.environ | fake_sqs.environ()
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    most, over = 0, Event()

    def sample() -> None:
        nonlocal most
        while not over.wait(0.01):
            most = max(most, blocks(sqstee.spool))

    sampling = Thread(target=sample)
    sampling.start()
    started = [
        subprocess.Popen(sqstee.words(*options, "--", *command), stdout=null, stderr=pipe, env=environ)
        for _ in range(64)
    ]
    try:
        said = [process.communicate(timeout=100)[1] for process in started]
        assert [process.returncode for process in started] == [0] * 64
    finally:
        for process in started:
            process.kill()
        over.set()
        sampling.join()
    most = max(most, blocks(sqstee.spool))
    assert 6 * MIB < most <= 8 * MIB
    runs = sqstee.waiting_runs()
    left_out = sum(b"the output was not captured" in text and b"is full (--spool-max 8M)" in text for text in said)
    assert left_out <= 24
    assert len(runs) == 64 - left_out
    for run in runs:  # nothing was shipped: what the spool holds is all there is
        found = packed(sqstee.spool / run)
        found.assert_whole()
        # a starved producer's half of a line is shipped as a piece of its own
        assert sum(record.eol for record in found.records) + dropped_in(found) == 5000


def packed(folder: Path) -> Rebuilt:
    """The streams and events that a run's segments hold."""
    packer, reader = Packer(Encoder("RUN", "h"), MIB), FrameReader(str(folder))
    bodies = [planned.body for frame in reader.frames() for planned in packer.add(frame)]
    reader.close()
    return Rebuilt((body.data, {}) for body in bodies + [planned.body for planned in packer.flush()])


def blocks(folder: Path) -> int:
    """The disk space that a folder takes, as du(1) counts it."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in (".", *names):
            try:
                total += os.lstat(f"{path}/{name}").st_blocks * 512
            except FileNotFoundError:
                pass
    return total


class Clock:
    """A clock that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def new_quota(root: Path, run: str, on_full: str = "drop", bound: int = MIB, clock: Clock | None = None) -> Quota:
    """The quota of a run whose folder is created here."""
    (root / run).mkdir()
    fd = run_folder.lock(str(root / run), "writer")
    assert fd is not None
    quota = Quota(str(root), run, fd, bound, on_full, clock or Clock())
    quota.claim_reserve()
    return quota


def filled(root: Path, run: str, quota: Quota, most: int = 10**6) -> Writer:
    """A run that writes until its quota is used up, or `most` lines."""
    writer = Writer(Segments(str(root / run), META, quota), 1000)
    writer.event({"event": "start", "message": ""})
    for number in range(most):
        if writer.dropped:
            break
        writer.write(0, (b"%d " % number) * 100 + b"\n")
    return writer


def test_a_run_counts_what_others_may_still_write(tmp_path: Path) -> None:
    """An announcement counts as if it were written already, until the run is closed."""
    first = new_quota(tmp_path, "a")
    assert first.grant(0, 500_000, 0) == 500_000
    second = new_quota(tmp_path, "b")
    with pytest.raises(FullError):
        second.grant(0, 500_000, second.reserve)
    first.announce(0)
    with pytest.raises(FullError):  # it is not looked again for a tenth of a second
        second.grant(0, 500_000, second.reserve)
    clock = second._clock
    assert isinstance(clock, Clock)
    clock.now += quotas.RECOUNT_SECONDS
    assert second.grant(0, 500_000, second.reserve) == 500_000


def crowded(root: Path, runs: int = 40) -> None:
    """A spool folder in which many runs wait."""
    for number in range(runs):
        (root / f"waiting{number}").mkdir()
        (root / f"waiting{number}" / segment_name(1)).write_bytes(b"x" * 5000)


def test_a_start_does_not_depend_on_how_many_runs_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every start added up every folder, three times: half a second with 10,000 of them."""
    crowded(tmp_path)
    filled(tmp_path, "a", new_quota(tmp_path, "a", bound=1024 * MIB), 10)
    monkeypatch.setattr(quotas, "used_bytes", None)
    filled(tmp_path, "b", new_quota(tmp_path, "b", bound=1024 * MIB), 1000)


def test_the_kept_total_is_never_too_low(tmp_path: Path) -> None:
    """Runs begin, write, end and are removed; the folder fills up and is added up again; the bound holds."""
    crowded(tmp_path)
    chance = random.Random(1)
    runs: dict[str, Writer] = {}
    refused = 0
    for number in range(300):
        if len(runs) < 5:
            try:
                runs[f"r{number}"] = filled(tmp_path, f"r{number}", new_quota(tmp_path, f"r{number}"), 3)
            except SqsteeError:
                (tmp_path / f"r{number}" / "writer").unlink()
                (tmp_path / f"r{number}").rmdir()
                refused += 1
                for name in set(os.listdir(tmp_path)) - runs.keys() - {"usage"}:  # flush
                    run_folder.delete(str(tmp_path / name))
                continue
        name = chance.choice(list(runs))
        runs[name].write(0, b"x" * 500 * chance.randrange(1, 20) + b"\n")
        if chance.random() < 0.3:
            writer = runs.pop(name)
            writer.end({"event": "exit", "message": ""})
            writer.close()
            if chance.random() < 0.5:
                run_folder.delete(str(tmp_path / name))
        kept = quotas.add_to_kept_total(str(tmp_path), 0)
        exact = quotas.used_bytes(str(tmp_path))
        assert kept is not None
        assert exact <= kept
        assert exact <= MIB
    for writer in runs.values():
        writer.close()
    assert refused


def test_a_claim_during_the_sum_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may concern a folder that was added up already: the new total has it as well."""
    crowded(tmp_path)
    before = used_bytes(str(tmp_path))
    real = quotas._used_by_run
    claims = [5]

    def used_while_another_claims(folder: str) -> int:
        if claims:
            quotas.add_to_kept_total(str(tmp_path), claims.pop())
        return real(folder)

    monkeypatch.setattr(quotas, "_used_by_run", used_while_another_claims)
    assert used_bytes(str(tmp_path)) == before
    assert quotas.add_to_kept_total(str(tmp_path), 0) == before + 5 * 4096


def test_the_first_sum_is_not_kept(tmp_path: Path) -> None:
    """What others claim meanwhile has nowhere to go: 64 runs that began together got 11 MiB of 8."""
    crowded(tmp_path)
    first = used_bytes(str(tmp_path))
    assert quotas.add_to_kept_total(str(tmp_path), 5) is None
    used_bytes(str(tmp_path))
    assert quotas.add_to_kept_total(str(tmp_path), 5) == first + 5 * 4096


def test_two_that_add_up_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One gives way. Processes of two containers have one pid, 1, and wrote their totals into one file."""
    crowded(tmp_path)
    real = os.rename

    def rename_once_another_has(old: str, new: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", real)
            used_bytes(str(tmp_path))
            quotas.add_to_kept_total(str(tmp_path), 5)
        real(old, new)

    used_bytes(str(tmp_path))
    before = used_bytes(str(tmp_path))
    monkeypatch.setattr(os, "rename", rename_once_another_has)
    assert used_bytes(str(tmp_path)) == before
    assert quotas.add_to_kept_total(str(tmp_path), 0) == before + 5 * 4096
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


def test_what_is_freed_while_it_is_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that goes meanwhile takes no other one of its run out of the sum."""
    for number in (1, 2, 3):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / segment_name(number)).write_bytes(b"x" * 100_000)
    real = os.scandir

    def scandir_as_it_is_freed(path: str) -> Any:
        found = real(path)
        if path.endswith("run"):
            entries = list(found)
            (tmp_path / "run" / segment_name(1)).unlink(missing_ok=True)
            return nullcontext(entries)
        return found

    monkeypatch.setattr(os, "scandir", scandir_as_it_is_freed)
    assert quotas.used_bytes(str(tmp_path)) >= 200_000


def test_a_disk_that_is_mounted_as_the_spool_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lost+found is root's, and nobody else's to look into: it has no part in the sum."""
    (tmp_path / "lost+found").mkdir(mode=0o700)
    real = os.scandir

    def scandir_as_a_user(path: str) -> Any:
        if path.endswith("lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir_as_a_user)
    created = run_folder.create(str(tmp_path), "RUN", META, 100, MIB, "auto")
    assert created[0].event({"event": "start", "message": ""})
    for fd in created[1:]:
        os.close(fd)


def test_of_two_who_announce_at_once_at_most_one_is_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw the room free: whoever sums up again after announcing takes it back."""
    first, second = new_quota(tmp_path, "a"), new_quota(tmp_path, "b")
    real, calls = quotas.used_bytes, 0

    def used_while_another_comes(root: str) -> int:
        nonlocal calls
        calls += 1
        found = real(root)
        if calls == 1:  # between the first look and the announcement of the first
            assert second.grant(0, 600_000, second.reserve) == 600_000
        return found

    monkeypatch.setattr(quotas, "used_bytes", used_while_another_comes)
    with pytest.raises(FullError):
        first.grant(0, 600_000, first.reserve)
    assert real(str(tmp_path)) < MIB


def test_a_run_that_comes_to_a_folder_without_any_room_is_refused(tmp_path: Path) -> None:
    """Its reserve would not fit: one line, one hint, and nothing stays behind."""
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / "x.ndjson").write_bytes(b"x" * MIB)
    with pytest.raises(SqsteeError) as caught:
        run_folder.create(str(tmp_path), "RUN", META, 100, MIB, "auto")
    assert "is full (--spool-max 1M)" in caught.value.message
    assert os.listdir(tmp_path) == ["quarantine"]


def test_auto_waits_for_ten_seconds_without_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved state, and a folder that holds less than before, are progress; then it starts anew."""
    clock, now = Clock(), time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)  # what is written here is as young as it is on a fast machine
    quota = new_quota(tmp_path, "a", "auto", clock=clock)
    writer = filled(tmp_path, "a", quota)  # just written: the destination may take it yet
    assert quota.should_wait()

    def later(seconds: float) -> bool:
        clock.now += seconds
        writer.write(0, b"x\n")
        return quota.should_wait()

    assert later(9)
    assert not later(2)
    (tmp_path / "a" / "state").write_bytes(b"saved")
    assert later(1)
    assert not later(11)
    os.unlink(tmp_path / "a" / segment_name(3))  # one is not enough for everything that is to be written
    clock.now += 1
    with pytest.raises(FullError):
        quota.grant(0, MIB, 0)
    assert quota.should_wait()


def test_a_run_that_finds_the_folder_full_for_long_does_not_wait(tmp_path: Path) -> None:
    """Nothing was freed by anybody for ten seconds: waiting is for nothing."""
    filled(tmp_path, "a", new_quota(tmp_path, "a"))
    late = new_quota(tmp_path, "b", "auto")
    assert filled(tmp_path, "b", late).dropped
    assert not late.should_wait()
    delete_segments_before(str(tmp_path / "a"), 2)
    filled(tmp_path, "c", new_quota(tmp_path, "c"))
    early = new_quota(tmp_path, "d", "auto")
    assert filled(tmp_path, "d", early).dropped
    assert early.should_wait()


@pytest.mark.parametrize("unfinished", [b"", b"begun and "])
def test_all_but_the_open_segment_can_be_freed_when_the_folder_is_full(tmp_path: Path, unfinished: bytes) -> None:
    """What is written is all acknowledged: nothing stays behind that would keep the room for ever."""
    clock = Clock()
    quota = new_quota(tmp_path, "a", "block", clock=clock)
    disk = Segments(str(tmp_path / "a"), META, quota)
    writer = Writer(disk, 1000)
    writer.event({"event": "start", "message": ""})
    packer, reader = Packer(Encoder("RUN", "h"), 10**6), FrameReader(str(tmp_path / "a"))
    bodies: list[Body] = []
    written = b""
    for number in range(5):  # full, all taken, freed, and again
        rest = b""
        while not rest:
            chunk = (b"%d" % number * 500 + b"\n") * 100 + unfinished
            rest = writer.write(0, chunk, wait=True)
            written += chunk
        for frame in reader.frames():
            bodies += [planned.body for planned in packer.add(frame)]
        position = packer.resume(reader.position)
        assert position[0] == segment_numbers(str(tmp_path / "a"))[-1]
        delete_segments_before(str(tmp_path / "a"), position[0])
        clock.now += 1
        assert writer.write(0, rest, wait=True) == b""
    writer.cut(0)
    writer.event({"event": "exit", "message": ""})
    writer.close()
    for frame in reader.frames():
        bodies += [planned.body for planned in packer.add(frame)]
    bodies += [planned.body for planned in packer.flush()]
    found = Rebuilt((body.data, {}) for body in bodies)
    found.assert_whole()
    assert found.stdout == written
    assert writer.bytes == len(written)


class RefusingQuota(UnboundedQuota):
    """Room that is there or not as a test wants it."""

    def __init__(self, seed: int, reserve: int) -> None:
        super().__init__(300)
        self.reserve = reserve
        self.random = random.Random(seed)
        self.waiting = False
        self.refusals = 0.5

    def grant(self, size: int, need: int, ceiling: int) -> int:
        if self.random.random() < self.refusals:
            raise FullError(MIB)
        return max(self._segment_bytes, size + need)

    def should_wait(self) -> bool:
        return self.waiting


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.text("ab\né", min_size=1, max_size=60).map(str.encode), st.booleans()),
        max_size=60,
    ),
    st.integers(0, 1 << 32),
)
@settings(max_examples=300)
def test_refusals_at_random_leave_every_seq_covered_once(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes, bool]], seed: int
) -> None:
    """Refused, waited for or dropped: frames and gaps cover each seq once, and the sum is what was written."""
    folder = tmp_path_factory.mktemp("run")
    quota = RefusingQuota(seed, 8192)
    writer = Writer(Segments(str(folder), META, quota), 20)
    writer.event({"event": "start", "message": ""})
    waited = True
    expected = [b"", b""]
    for stream, chunk, quota.waiting in pieces:
        waited = waited and quota.waiting
        expected[stream] += chunk
        rest = chunk
        while rest:
            rest = writer.write(stream, rest, wait=True)
    writer.cut(0)
    writer.cut(1)
    quota.refusals = 1.0
    writer.event({"event": "exit", "message": ""})
    writer.close()
    covered: list[int] = []
    reader = FrameReader(str(folder))
    for frame in reader.frames():
        covered += range(frame.first, frame.first + frame.lines)
    reader.close()
    assert covered == list(range(writer.next_seq))
    assert writer.bytes == sum(map(len, expected))
    found = packed(folder)
    found.assert_whole()
    assert len(found.records) + dropped_in(found) == writer.next_seq - 1 - (found.events[-1].event == "exit")
    lines = sum(len(written.removesuffix(b"\n").split(b"\n")) for written in expected if written)
    assert writer.lines == lines  # each line once, not each piece; a carriage return ends none
    assert writer.dropped == sum(writer.reasons.values()) <= dropped_in(found)
    assert bool(writer.dropped) == bool(dropped_in(found))
    if waited:
        assert ([found.stdout, found.stderr], writer.dropped) == (expected, 0)


def test_the_bound_has_a_smallest_size(sqstee: Sqstee) -> None:
    """Below it no run could keep even its reserve; and only the three words are modes."""
    for words in (("--spool-max", "100K"), ("--on-full", "wait")):
        found = sqstee.run(*words, "--", "true")
        assert found.returncode == 125
        assert found.stderr.startswith(f"sqstee: invalid value {words[1]!r} for {words[0]} (expected ".encode())
