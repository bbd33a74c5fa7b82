"""What broke once, each under the name of what broke."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.sqs import FakeSqs
from support import TIMEOUT, Rebuilt, Sqstee, children, injecting, python, running, wait_for

from sqstee.jsonbytes import encode_object
from sqstee.record import Body, Encoder
from sqstee.ship.pack import Packer
from sqstee.ship.request import RequestLimits
from sqstee.ship.source import RunSource
from sqstee.spool import segments
from sqstee.spool.checkpoint import Checkpoint
from sqstee.spool.frame import GAP, LINES, Frame, gap_fields
from sqstee.spool.quota import UnboundedQuota
from sqstee.spool.reader import FrameReader
from sqstee.spool.segments import Segments, segment_name
from sqstee.spool.writer import Writer
from sqstee.transports.errors import OPEN, POISON, REFRESH, RETRY, SIZE, TransportError, classify
from sqstee.transports.local import LocalSender

ENCODER = Encoder("RUN", "h")
BROKEN_LOCAL = "sqstee.transports.local:LocalSender.send:bug:1"
META = encode_object({"run": "RUN", "host": "h"})


def shell(sqstee: Sqstee, script: str, *words: str, timeout: float = TIMEOUT) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script in which `"$@"` is the command."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *words], capture_output=True, env=sqstee.environ, timeout=timeout, check=False
    )


LOCAL = ("--to", "local")


@pytest.mark.parametrize("limit", range(6, 24))
def test_few_descriptors(sqstee: Sqstee, limit: int) -> None:
    """EMFILE after the fork once killed the front; now the command runs, captured or not."""
    found = shell(sqstee, f'ulimit -n {limit}; "$@"', *sqstee.words(*LOCAL, "--", "sh", "-c", "echo hi; exit 3"))
    assert (found.stdout, found.returncode) == (b"hi\n", 3)
    assert b"Traceback" not in found.stderr


def test_no_proc(sqstee: Sqstee) -> None:
    """Without /proc the command was not run."""
    script = 'unshare -m sh -c \'mount --make-rprivate / && umount -l /proc && "$@"\' sh "$@"'
    if shell(sqstee, script, "true").returncode:
        pytest.skip("no mount namespaces here")
    found = shell(sqstee, script, *sqstee.words(*LOCAL, "--", "sh", "-c", "echo hi; exit 3"))
    assert (found.stdout, found.returncode) == (b"hi\n", 3)


@pytest.mark.parametrize("name", ["select", "queue", "random", "stat", "json", "boto3"])
def test_modules_of_the_jobs_pythonpath(sqstee: Sqstee, tmp_path: Path, name: str) -> None:
    """A module of the job's with a name of the standard library's stood in for ours."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / f"{name}.py").write_text("raise RuntimeError('the job's own')\n")
    found = sqstee.run(*LOCAL, "--", "echo", "hi", environ={"PYTHONPATH": str(tmp_path / "path")})
    assert (found.stdout, found.stderr, found.returncode) == (b"hi\n", b"", 0)


def test_an_environment_entry_without_a_name(sqstee: Sqstee) -> None:
    """`=x=y` in the environment gave 126."""
    found = shell(sqstee, 'env "=x=y" "$@"', *sqstee.words(*LOCAL, "--", "echo", "hi"))
    assert (found.stdout, found.returncode) == (b"hi\n", 0)


def test_a_full_stderr_that_nobody_reads(sqstee: Sqstee) -> None:
    """A notice of ours waited for room in the caller's stderr, for ever."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    assert subprocess.run(sqstee.words("--", "true"), stderr=writing, env=sqstee.environ, timeout=40, check=False)
    os.close(reading)
    os.close(writing)


def test_bodies_that_compression_makes_larger(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """base64(gzip) of what cannot be compressed exceeded 1 MiB, and nothing behind it was ever sent."""
    words = ("--to", "q", "--message-bytes", "1M", "--compress", "gzip")
    code = "import base64, os\nfor n in range(100): print(base64.b64encode(os.urandom(22500)).decode())"
    found = sqstee.run(*words, "--", *python(code), environ=fake_sqs.environ())
    assert found.stderr == b""
    shipped = Rebuilt((message.body, message.attributes) for message in fake_sqs.sent("q"))
    shipped.assert_whole()
    assert shipped.stdout == found.stdout


def test_a_record_larger_than_the_queue_takes(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """One oversized line ended all delivery; now it is kept in a file, a gap event in its place, all else arrives."""
    fake_sqs.create_queue("tiny", MaximumMessageSize=2048)
    code = "print('before'); print('x' * 5000); print('after')"
    found = sqstee.run("--to", "tiny", "--", *python(code), environ=fake_sqs.environ())
    assert found.stderr.startswith(b"sqstee: 1 line larger than the destination takes, or refused by it: kept in ")
    shipped = Rebuilt((message.body, message.attributes) for message in fake_sqs.sent("tiny"))
    shipped.assert_whole()
    assert shipped.stdout == b"before\nafter\n"
    (kept,) = (sqstee.spool / "quarantine").iterdir()
    assert json.loads(kept.read_text())["message"] == "x" * 5000
    assert sqstee.waiting_runs() == ["quarantine"]


@pytest.mark.parametrize("option", ["--flush-timeout", "--linger"])
def test_very_long_times(sqstee: Sqstee, option: str) -> None:
    """Milliseconds beyond an int ended the shipper."""
    found = sqstee.run(*LOCAL, option, "1000h", "--", "seq", "5")
    assert found.stderr == b""
    assert sqstee.local().stdout == b"1\n2\n3\n4\n5\n"


def test_a_tiny_local_queue_keeps_what_was_just_stored(sqstee: Sqstee) -> None:
    """--local-max below SQLite's own pages dropped every line and said it was delivered."""
    sqstee.run(*LOCAL, "--local-max", "10K", "--", "seq", "5")
    assert sqstee.local_bodies()


def test_the_local_queue_drops_its_oldest(sqstee: Sqstee) -> None:
    """Above --local-max the oldest rows go, the newest stay."""
    for job in ("one", "two", "three"):
        sqstee.run(*LOCAL, "--local-max", "2M", "--job", job, "--", "seq", "8000")
    bodies = sqstee.local_bodies()
    assert b'"job":"one"' not in b"".join(body.data for body in bodies)
    assert b'"event":"exit"' in bodies[-1].data


def test_credentials_that_expire_at_the_end(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """One ExpiredToken at the end gave up without a new session."""
    fake_sqs.faults(errors=[{"operation": "SendMessageBatch", "code": "ExpiredToken", "status": 403, "times": 1}])
    assert sqstee.run("--to", "q", "--", "seq", "5", environ=fake_sqs.environ()).stderr == b""


def test_a_disk_that_is_full_at_the_first_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A META frame that failed left a segment without one, which nobody could read later."""
    writer = Writer(Segments(str(tmp_path), META), 100)
    real = segments.write_whole
    monkeypatch.setattr(segments, "write_whole", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    writer.event({"event": "start", "message": ""})
    writer.write(0, b"lost\n")
    monkeypatch.setattr(segments, "write_whole", real)
    writer.write(0, b"kept\n")
    writer.close()
    frames = list(FrameReader(str(tmp_path)).frames())
    assert [(frame.kind, frame.first, frame.lines) for frame in frames] == [
        (GAP, 0, 1),
        (LINES, 1, 1),
    ]  # the event takes no seq
    assert json.loads(spool_meta(tmp_path)) == json.loads(META)


def spool_meta(folder: Path) -> bytes:
    """The META payload of the first segment."""
    from sqstee.spool.reader import read_meta

    return read_meta(str(folder))


def written(folder: Path, lines: int = 5, limit: int = 10**6) -> None:
    """A spool with a frame a line."""
    writer = Writer(Segments(str(folder), META, UnboundedQuota(limit)), 100)
    for number in range(lines):
        writer.write(0, b"line %d\n" % number)
    writer.close()


def test_a_damaged_header_in_the_last_frame(tmp_path: Path) -> None:
    """Resynchronising at the end of the file left the reader with an impossible offset."""
    written(tmp_path)
    path = tmp_path / segment_name(1)
    data = bytearray(path.read_bytes())
    data[data.index(b"line 4") - 20] ^= 0xFF
    path.write_bytes(data)
    reader = FrameReader(str(tmp_path))
    assert len(list(reader.frames())) == 4
    assert list(reader.frames()) == []


def test_a_frame_that_was_truncated_away(tmp_path: Path) -> None:
    """The reader kept the header of half a frame, although another frame was written in its place."""
    written(tmp_path, 1)
    path = tmp_path / segment_name(1)
    whole = path.read_bytes()
    (tmp_path / "other").mkdir()
    written(tmp_path / "other", 3)
    longer = (tmp_path / "other" / segment_name(1)).read_bytes()
    reader = FrameReader(str(tmp_path))
    path.write_bytes(whole + b"sqtf" + b"\1\2\0\0" + b"\0" * 30)
    assert len(list(reader.frames())) == 1
    path.write_bytes(longer)
    assert [frame.first for frame in reader.frames()] == [1, 2]


def test_a_segment_that_is_gone(tmp_path: Path) -> None:
    """A missing segment was taken for the end of the spool."""
    written(tmp_path, 30, limit=300)
    numbers = sorted(path.name for path in tmp_path.glob("*.seg"))
    assert len(numbers) > 4
    (tmp_path / numbers[0]).unlink()
    (tmp_path / numbers[2]).unlink()
    frames = list(FrameReader(str(tmp_path)).frames())
    assert [frame.kind for frame in frames].count(GAP) == 2
    assert frames[0].first == 0
    assert frames[-1].first + frames[-1].lines == 30
    assert sum(frame.lines for frame in frames) == 30


def test_what_was_in_the_pipe_when_the_reader_left(sqstee: Sqstee, tmp_path: Path) -> None:
    """The command had written it: it is shipped, although nobody reads stdout any more."""
    code = (
        "import os, signal\nsignal.signal(signal.SIGPIPE, signal.SIG_IGN)\nwritten = 0\n"
        "try:\n    for n in range(20000): written += os.write(1, b'%06d ' % n + b'x' * 92 + b'\\n')\n"
        f"except BrokenPipeError: pass\nopen({str(tmp_path / 'written')!r}, 'w').write(str(written))"
    )
    shell(sqstee, '"$@" | head -c 10 > /dev/null', *sqstee.words(*LOCAL, "--", *python(code)))
    wait_for(lambda: sqstee.local().events[-1].event == "exit", "exit event")
    shipped = sqstee.local()
    shipped.assert_whole()
    # what is written between the last look into the pipe and its close cannot be had any more
    assert 0 <= int((tmp_path / "written").read_text()) - len(shipped.stdout) < 65536
    assert shipped.events[-1].fields["bytes"] == len(shipped.stdout)
    assert shipped.stdout.startswith(b"000000 x")


def test_term_after_the_end_with_a_stalled_output(sqstee: Sqstee) -> None:
    """The command has ended, nobody takes its output: TERM ends us, and not with the command's success."""
    command = sqstee.words(*LOCAL, "--", "sh", "-c", "head -c 100000 /dev/zero; echo end >&2")
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=sqstee.environ) as process:
        assert process.stderr
        assert process.stderr.readline() == b"end\n"
        wait_for(lambda: len(children(process.pid)) == 1, "end of the command")
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == -signal.SIGTERM


def test_both_outputs_closed(sqstee: Sqstee) -> None:
    """Nothing to capture: an exec, and nothing stays in the spool."""
    assert shell(sqstee, '"$@" >&- 2>&-; echo $?', *sqstee.words(*LOCAL, "--", "sh", "-c", "exit 3")).stdout == b"3\n"
    assert sqstee.waiting_runs() == []


def test_a_fifo_queue_keeps_its_order(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Four requests of one group were in flight at once."""
    fake_sqs.create_queue("q.fifo", FifoQueue="true")
    failing: dict[str, Any] = {"code": "InternalError", "status": 500, "probability": 0.3}
    fake_sqs.faults(latency_ms=10, seed=1, errors=[{"operation": "SendMessageBatch", **failing}])
    words = ("--to", "q.fifo", "--message-bytes", "16K", "--flush-timeout", "60s")
    found = sqstee.run(*words, "--", "seq", "20000", environ=fake_sqs.environ())
    assert found.stderr == b""
    firsts = [int(message.attributes["seq"].split("-")[0]) for message in fake_sqs.sent("q.fifo")]
    assert firsts == sorted(firsts)
    assert fake_sqs.counters().max_in_flight == 1


def test_the_plan_survives_a_second_restart(tmp_path: Path) -> None:
    """After a restart only what was handed out again stayed in the plan."""
    written(tmp_path, 40)
    plan = [(first, first + 3) for first in range(0, 40, 4)]
    state = Checkpoint(str(tmp_path))
    state.save(0, (1, 0), plan)
    state.close()
    source = RunSource(str(tmp_path), 500, RequestLimits(), "none")
    source.read()
    source.close_open_body()
    source.plan([source.ready.popleft(), source.ready.popleft()])
    source.close()
    assert Checkpoint(str(tmp_path)).plan == plan


def test_a_host_that_no_attribute_can_hold(sqstee: Sqstee, tmp_path: Path) -> None:
    """A control character in --host made every message of the run be refused."""
    for name in ("a\tb", "\ufffe", "x" * 300, ""):
        found = sqstee.run(*LOCAL, "--host", name, "--", "touch", str(tmp_path / "ran"))
        assert found.returncode == 125
        assert found.stderr.startswith(b"sqstee: --host: ")
    assert not (tmp_path / "ran").exists()


def test_a_gap_over_planned_ranges() -> None:
    """It made an empty body with the first seq -1."""
    packer = Packer(ENCODER, 10**6, 0, [(0, 4), (5, 9), (10, 12)])
    frames = [
        Frame(GAP, 0, 10, encode_object(gap_fields(0, 9, "damaged")), 0, (1, 0), (1, 10)),
        Frame(LINES, 10, 3, b"a\nb\nc\n", 0, (1, 10), (1, 20)),
    ]
    bodies = [planned.body for frame in frames for planned in packer.add(frame)]
    assert [(body.first, body.last) for body in bodies] == [(0, 9), (10, 12)]
    assert all(body.data for body in bodies)


def test_memory_of_many_empty_lines(sqstee: Sqstee) -> None:
    """Megabytes of empty lines with a long label took 320 MiB: 128 KiB become 140 MB of JSON."""
    code = "import os\nfor _ in range(2): os.write(1, b'\\n' * 65536)\nos.read(0, 1)"
    command = sqstee.words(*LOCAL, "--label", "x=" + "y" * 1000, "--flush-timeout", "200s", "--", *python(code))
    peak = 0
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=sqstee.environ) as process:
        assert process.stdin
        wait_for(lambda: any(map(peak_kib, children(process.pid))), "children")
        process.stdin.close()
        while process.poll() is None:
            for pid in children(process.pid):
                peak = max(peak, peak_kib(pid))
            time.sleep(0.02)  # the shipper is niced: whoever polls without a pause starves it
        assert process.wait() == 0
    assert 0 < peak < 75 * 1024
    assert len(sqstee.local().records) == 2 * 65536


def peak_kib(pid: int) -> int:
    """The most memory that a process has had, in KiB."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def test_auto_compresses_full_requests_of_small_messages(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """--compress auto looked at partial requests only."""
    words = ("--to", "q", "--compress", "auto", "--message-bytes", "32K")
    found = sqstee.run(*words, "--", "seq", "20000", environ=fake_sqs.environ())
    shipped = Rebuilt((message.body, message.attributes) for message in fake_sqs.sent("q"))
    assert shipped.stdout == found.stdout
    assert max(request.payload for request in fake_sqs.requests("SendMessageBatch")) < 100_000


def test_a_notice_after_an_unfinished_line_in_one_place(sqstee: Sqstee) -> None:
    """With 2>&1 our notice went on in the command's last line."""
    found = shell(sqstee, '"$@" 2>&1', *sqstee.words("--", "printf", "abc"))
    assert found.stdout.startswith(b"abc\nsqstee: ")


def test_a_servers_words_are_one_harmless_line(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A message with newlines and escape codes came through as it was."""
    words = "first line\nsecond\x1b[31m line"
    fake_sqs.faults(errors=[{"operation": "SendMessageBatch", "code": "AccessDenied", "status": 403, "message": words}])
    found = sqstee.run("--to", "q", "--", "echo", "hi", environ=fake_sqs.environ())
    assert found.stderr.count(b"\n") == 1
    assert b"\x1b" not in found.stderr
    assert b"first line second" in found.stderr


def test_the_job_is_in_the_start_event_once(sqstee: Sqstee) -> None:
    """The key stood twice in the object."""
    sqstee.run(*LOCAL, "--job", "J", "--", "true")
    assert sqstee.local_bodies()[0].data.splitlines()[0].count(b'"job"') == 1


@contextmanager
def waiting(sqstee: Sqstee, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A wrapper whose command waits for a line, and the pid of its shipper."""
    with running(
        sqstee.words(*LOCAL, *words, "--", "sh", "-c", "echo $$; read x"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=sqstee.environ,
    ) as process:
        assert process.stdout
        command = int(process.stdout.readline())
        wait_for(lambda: len(children(process.pid)) == 2, "shipper")
        (shipper,) = [pid for pid in children(process.pid) if pid != command]
        yield process, shipper


def test_a_shipper_that_was_stopped_is_not_dead(sqstee: Sqstee) -> None:
    """SIGSTOP and SIGCONT of the shipper counted as its end."""
    with waiting(sqstee) as (process, shipper):
        os.kill(shipper, signal.SIGSTOP)
        os.kill(shipper, signal.SIGCONT)
        _, errors = process.communicate(b"\n", timeout=40)
        assert errors == b""


def test_a_shipper_that_hangs_is_late_not_ended(sqstee: Sqstee) -> None:
    """It does not end in its time: the reason named our own kill in the place of why."""
    with waiting(sqstee, "--flush-timeout", "0.5s") as (process, shipper):
        os.kill(shipper, signal.SIGSTOP)
        _, errors = process.communicate(b"\n", timeout=40)
    assert process.returncode == 0
    assert b"not delivered yet (not done within 0.5 s): kept in " in errors


def test_a_full_local_queue_is_passing_trouble(tmp_path: Path) -> None:
    """SQLite rolls back by itself: our own ROLLBACK hid that the disk was full."""
    sender = LocalSender(str(tmp_path / "q.db"), 10**9)
    sender.open()
    assert sender._connection
    sender._connection.execute("PRAGMA max_page_count = 20")
    with pytest.raises(TransportError) as caught:
        sender.send([Body(b"x" * 200_000, "R", "h", 0, 0)])
    assert caught.value.kind == RETRY
    assert "full" in str(caught.value)
    sender.close()


def test_the_local_queue_survives_a_reader_while_leftovers_are_shipped(sqstee: Sqstee, tmp_path: Path) -> None:
    """Another run's leftovers opened the file a second time: that took the locks of the run's own connection, the next
    reader to leave removed its log, and what was delivered from then on was nowhere."""
    assert sqstee.run("--flush-timeout", "0", "--", "echo", "left", environ=injecting(tmp_path, BROKEN_LOCAL)).stderr
    assert len(sqstee.waiting_runs()) == 1
    code = "echo one; until [ -e next ]; do sleep 0.02; done; echo two; until [ -e end ]; do sleep 0.02; done; echo end"
    words = sqstee.words("--to", "local", "--linger", "0", "--", "sh", "-c", f"cd {tmp_path}; {code}")

    def is_there(text: bytes) -> bool:
        return any(b'"message":"%s"' % text in body.data for body in sqstee.local_bodies())

    with running(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=sqstee.environ) as process:
        wait_for(lambda: sqstee.spool.joinpath("local.db").exists() and is_there(b"left"), "delivery of the leftovers")
        wait_for(lambda: len(sqstee.waiting_runs()) == 1, "removal of the leftovers")
        for name, line in (("next", b"two"), ("end", b"end")):
            assert sqstee.run("tail", "--no-follow").returncode == 0
            (tmp_path / name).touch()
            wait_for(functools.partial(is_there, line), f"{line!r} in the queue")
        out, errors = process.communicate(timeout=60)
    assert (out, errors, sqstee.waiting_runs()) == (b"one\ntwo\nend\n", b"", [])


@pytest.mark.parametrize(
    ("code", "status", "fault", "kind"),
    [
        ("RequestThrottled", 403, False, RETRY),
        ("AWS.SimpleQueueService.RequestThrottled", 403, False, RETRY),
        ("RequestLimitExceeded", 400, False, RETRY),
        ("ThrottlingException", 400, False, RETRY),
        ("SlowDown", 503, False, RETRY),
        ("RequestTimeout", 400, False, RETRY),
        ("InternalError", 0, False, RETRY),
        ("SomethingNew", 500, False, RETRY),
        ("ExpiredToken", 403, False, REFRESH),
        ("ExpiredTokenException", 400, False, REFRESH),
        ("InvalidClientTokenId", 403, False, REFRESH),
        ("AccessDeniedException", 400, False, OPEN),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, False, OPEN),
        ("com.amazonaws.sqs#QueueDoesNotExist", 400, False, OPEN),
        ("SomethingNew", 400, False, OPEN),
        ("AWS.SimpleQueueService.BatchRequestTooLong", 400, False, SIZE),
        ("BatchRequestTooLongException", 400, False, SIZE),
        ("Whatever", 413, False, SIZE),
        ("InvalidMessageContents", 0, True, POISON),
        ("SomethingNew", 0, True, POISON),
    ],
)
def test_error_classes(code: str, status: int, fault: bool, kind: str) -> None:
    """Codes with and without prefix and suffix; throttling is never the destination's refusal."""
    assert classify(code, status, fault) == kind


def test_flush_of_a_file(sqstee: Sqstee) -> None:
    """--spool with a file gave a traceback."""
    found = sqstee.run("flush", "--spool", "/etc/passwd")
    assert found.returncode == 125
    assert found.stderr.startswith(b"sqstee: the spool folder /etc/passwd cannot be read")


def test_an_interrupt_at_the_very_start(sqstee: Sqstee) -> None:
    """^C in the first milliseconds gave a traceback."""
    for step in range(12):
        with running(
            sqstee.words(*LOCAL, "--", "sleep", "20"), stderr=subprocess.PIPE, env=sqstee.environ, process_group=0
        ) as process:
            try:
                process.wait(0.004 + 0.003 * step)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGINT)
            assert process.stderr
            errors = process.stderr.read()
            process.wait(40)
            assert b"/sqstee/" not in errors  # before our first instruction Python itself may answer
