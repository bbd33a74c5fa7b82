"""The real command against the strict SQS: complete, within every rule, cheap; and what is said when it fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fakes.sqs import FakeSqs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import (
    Rebuilt,
    Sqstee,
    children,
    clean_environment,
    injecting,
    is_running,
    python,
    running,
    wait_for,
)

from sqstee import __version__
from sqstee.destination import parse
from sqstee.record import Body, Encoder
from sqstee.spool.checkpoint import Checkpoint
from sqstee.transports.aws import RenewedClient
from sqstee.transports.errors import REFRESH, RETRY, TransportError
from sqstee.transports.sqs import SqsSender, client_for, request_json

MANY = python("for n in range(20000): print('line %06d ' % n + 'x' * 106)")  # 119 bytes and a newline


def shipped(server: FakeSqs, queue: str = "q") -> Rebuilt:
    """The streams in everything that the queue ever accepted."""
    return Rebuilt((message.body, message.attributes) for message in server.sent(queue))


def refused(server: FakeSqs) -> list[Any]:
    """What the rules refused."""
    return list(server.counters().rejections)


@pytest.mark.parametrize("form", ["name", "url", "arn"])
def test_every_form_of_a_queue_is_found(sqstee: Sqstee, fake_sqs: FakeSqs, form: str) -> None:
    """Name, URL and ARN name the same queue."""
    url = fake_sqs.url("q")
    to = {"name": "q", "url": url, "arn": f"arn:aws:sqs:us-east-1:{url.split('/')[-2]}:q"}[form]
    found = sqstee.run("--to", to, "--", "sh", "-c", "echo out; echo err >&2; exit 3", environ=fake_sqs.environ())
    assert (found.stdout, found.stderr, found.returncode) == (b"out\n", b"err\n", 3)
    got = shipped(fake_sqs)
    got.assert_whole()
    assert (got.stdout, got.stderr) == (b"out\n", b"err\n")
    assert refused(fake_sqs) == []
    assert sqstee.waiting_runs() == []


def test_a_queue_url_alone_is_enough_for_an_emulator(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """An http URL of /<account>/<queue> is both the endpoint and the queue."""
    environ = fake_sqs.environ()
    del environ["AWS_ENDPOINT_URL_SQS"]
    assert sqstee.run("--to", fake_sqs.url("q"), "--", "echo", "hi", environ=environ).stderr == b""
    assert shipped(fake_sqs).stdout == b"hi\n"


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=300)), min_size=20, max_size=50))
@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_whatever_the_bytes_nothing_is_refused(
    sqstee: Sqstee, fake_sqs: FakeSqs, writes: list[tuple[int, bytes]]
) -> None:
    """Any bytes on both streams: no rejection, and bit for bit from the stored messages. Few runs of many writes."""
    queue = f"any-{len(fake_sqs.counters().calls)}-{abs(hash(str(writes)))}"[:80]
    fake_sqs.create_queue(queue)
    code = f"import os\nfor fd, data in {writes!r}: os.write(fd, data)"
    found = sqstee.run("--to", queue, "--", *python(code), environ=fake_sqs.environ())
    expected = [b"".join(data for fd, data in writes if fd == which) for which in (1, 2)]
    assert [found.stdout, found.stderr] == expected
    got = shipped(fake_sqs, queue)
    got.assert_whole()
    assert [got.stdout, got.stderr] == expected
    assert refused(fake_sqs) == []


def test_every_byte_value_and_difficult_character_is_taken(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """All 256 bytes, every control, surrogates, non-characters, separators; in long lines as in short ones."""
    code = (
        "import os\n"
        "data = bytes(range(256)) * 300 + b'\\n'\n"
        "odd = [0x85, 0x2028, 0x2029, 0xd800, 0xdfff, 0xfdd0, 0xfffe, 0xffff, 0x1fffe, 0x10ffff]\n"
        "data += b''.join(chr(c).encode('utf-8', 'surrogatepass') + b'\\n' for c in [*range(0x100), *odd])\n"
        "data += b'\\0' * 200000 + b'\\xff' * 200000 + b'\"' * 100000 + b'\\n'\n"
        "os.write(1, data[:60000]); os.write(1, data[60000:])"
    )
    found = sqstee.run("--to", "q", "--", *python(code), environ=fake_sqs.environ())
    assert len(found.stdout) > 500_000
    got = shipped(fake_sqs)
    got.assert_whole()
    assert got.stdout == found.stdout
    assert refused(fake_sqs) == []


@pytest.mark.parametrize("limit", [1048576, 262144, 4096])
def test_bodies_keep_to_the_queues_own_limit(sqstee: Sqstee, fake_sqs: FakeSqs, limit: int) -> None:
    """MaximumMessageSize is asked for and kept to, attributes included; so are ten entries and 1 MiB a request."""
    fake_sqs.create_queue("small", MaximumMessageSize=limit)
    found = sqstee.run("--to", "small", "--", *MANY, environ=fake_sqs.environ())
    got = shipped(fake_sqs, "small")
    got.assert_whole()
    assert got.stdout == found.stdout
    assert refused(fake_sqs) == []


def test_who_may_not_ask_for_the_limit_ships_all_the_same(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """sqs:GetQueueAttributes is not needed for sending."""
    denied = {"operation": "GetQueueAttributes", "code": "AccessDenied", "status": 403}
    fake_sqs.faults(errors=[denied])
    assert sqstee.run("--to", fake_sqs.url("q"), "--", "echo", "hi", environ=fake_sqs.environ()).stderr == b""
    assert shipped(fake_sqs).stdout == b"hi\n"


@pytest.mark.parametrize("compress", ["none", "auto", "gzip"])
def test_packing_is_cheap(sqstee: Sqstee, fake_sqs: FakeSqs, compress: str) -> None:
    """A million 120-byte lines cost at most 4,500 billed requests plain (here 100,000 lines: 450), less compressed."""
    code = python("import sys\nfor n in range(100000): sys.stdout.write('line %06d ' % n + 'x' * 107 + '\\n')")
    words = ("--host", "node-0123456789", "--to", "q", "--compress", compress)
    found = sqstee.run(*words, "--", *code, environ=fake_sqs.environ())
    assert found.stdout.count(b"\n") == 100_000
    got = shipped(fake_sqs)
    got.assert_whole()
    assert got.stdout == found.stdout
    billed = sum(request.billed for request in sends(fake_sqs))
    assert billed <= (450 if compress == "none" else 100)


class Send:
    """One SendMessageBatch request."""

    def __init__(self, payload: int) -> None:
        self.billed = max(1, -(-payload // 65536))


def sends(server: FakeSqs) -> list[Send]:
    """The requests that carried messages."""
    return [Send(request.payload) for request in server.requests("SendMessageBatch")]


def test_a_gap_event_has_a_deduplication_id_of_its_own(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """So that the record in whose place it was sent can still come, within the five minutes."""
    fake_sqs.create_queue("q.fifo", FifoQueue="true")
    fault = {"contains": "poisonous", "code": "InvalidMessageContents", "sender_fault": True}
    fake_sqs.faults(failed_entries=[fault])
    sqstee.run("--to", "q.fifo", "--", "sh", "-c", "echo a; echo poisonous; echo b", environ=fake_sqs.environ())
    ids = {message.dedup_id for message in fake_sqs.sent("q.fifo") if '"event":"gap"' in message.body}
    (message,) = [message for message in fake_sqs.sent("q.fifo") if '"event":"gap"' in message.body]
    assert ids == {f"{message.group}:{message.attributes['seq']}:gap"}


def test_a_fifo_queue_gets_group_and_deduplication_ids(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Group = run, deduplication id = run:first-last."""
    fake_sqs.create_queue("q.fifo", FifoQueue="true")
    assert sqstee.run("--to", "q.fifo", "--", "echo", "hi", environ=fake_sqs.environ()).stderr == b""
    for message in fake_sqs.sent("q.fifo"):
        assert message.group == message.attributes["run"]
        assert message.dedup_id == f"{message.group}:{message.attributes['seq']}"
    assert refused(fake_sqs) == []


@pytest.mark.parametrize(
    "fault",
    [
        {"errors": [{"operation": "SendMessageBatch", "code": "InternalError", "status": 500, "times": 2}]},
        {"errors": [{"operation": "SendMessageBatch", "code": "RequestThrottled", "status": 403, "times": 2}]},
        {"failed_entries": [{"code": "InternalError", "sender_fault": False, "times": 2}]},
        {"dropped": {"operation": "SendMessageBatch", "times": 1}},
        {"reset": {"operation": "SendMessageBatch", "times": 2}},
        {"truncated": {"operation": "SendMessageBatch", "times": 1}},
        {"garbage": {"operation": "SendMessageBatch", "times": 1}},
        {"errors": [{"operation": "GetQueueAttributes", "code": "ServiceUnavailable", "status": 503, "times": 2}]},
        {"latency_ms": 50},
    ],
    ids=lambda fault: "-".join(fault),
)
def test_passing_trouble_loses_nothing(sqstee: Sqstee, fake_sqs: FakeSqs, fault: dict[str, Any]) -> None:
    """What passes is waited out: everything arrives, perhaps twice, and nothing is said."""
    fake_sqs.faults(**fault)
    found = sqstee.run("--to", "q", "--", *MANY, environ=fake_sqs.environ())
    assert (found.returncode, found.stderr) == (0, b"")
    got = shipped(fake_sqs)
    got.assert_whole()
    assert got.stdout == found.stdout
    assert refused(fake_sqs) == []


def stays(found: subprocess.CompletedProcess[bytes], lines: int, word: str) -> None:
    """One line on stderr says how many lines stay, why, and how to ship them."""
    (text,) = found.stderr.decode().splitlines()
    assert re.match(
        rf"sqstee: {lines} lines? not delivered yet \(.*{word}.*\): kept in .*, `sqstee flush` ships (it|them)", text
    )


def test_a_queue_that_does_not_exist_keeps_the_lines(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """The command runs untouched; the lines stay, one line says so; once the queue is there, flush ships them."""
    found = sqstee.run("--to", "missing", "--", "sh", "-c", "echo a; echo b >&2; exit 9", environ=fake_sqs.environ())
    assert (found.stdout, found.returncode) == (b"a\n", 9)
    first, _, rest = found.stderr.partition(b"\n")
    assert first == b"b"
    stays(subprocess.CompletedProcess([], 0, b"", rest), 2, "QueueDoesNotExist")
    (run,) = sqstee.waiting_runs()
    again = sqstee.run("flush", environ=fake_sqs.environ())
    assert again.returncode == 1
    assert again.stderr.decode().startswith(f"{run}: stays in the spool, 4 records for missing: QueueDoesNotExist")
    fake_sqs.create_queue("missing")
    flushed = sqstee.run("flush", environ=fake_sqs.environ())
    assert (flushed.returncode, flushed.stdout.decode()) == (0, f"{run}: shipped to missing\n")
    got = shipped(fake_sqs, "missing")
    got.assert_whole()
    assert (got.stdout, got.stderr) == (b"a\n", b"b\n")
    assert sqstee.waiting_runs() == []


def test_without_credentials_the_lines_stay(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """No credentials: said in one line, within the command's own time."""
    environ = fake_sqs.environ()
    environ["AWS_ACCESS_KEY_ID"] = environ["AWS_SECRET_ACCESS_KEY"] = ""
    found = sqstee.run("--to", "q", "--", "echo", "hi", environ=environ)
    assert (found.stdout, found.returncode) == (b"hi\n", 0)
    stays(found, 1, "NoCredentials")


def test_without_network_the_lines_stay(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Nobody answers any more: the flush time passes, the lines stay, one line says so."""
    # a shipper that finds its time over may need more than its grace to say why, where it hardly gets the processor
    environ = fake_sqs.environ() | injecting(tmp_path, "sqstee.capture.final_flush:FinalFlush._kill:hang:1")
    words = sqstee.words("--to", "q", "--flush-timeout", "6s", "--", "sh", "-c", "echo one; read x; echo hi; exit 2")
    with running(words, stdin=-1, stdout=-1, stderr=-1, env=sqstee.environ | environ) as process:
        wait_for(lambda: shipped(fake_sqs).stdout == b"one\n", "first line")
        (run,) = sqstee.waiting_runs()  # the answer comes later than the line: without it both lines stay
        wait_for(lambda: Checkpoint(str(sqstee.spool / run)).next >= 2, "acknowledgement of the first line")
        shipper = children(process.pid)[-1]
        fake_sqs.faults(refuse=True)
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
        wait_for(lambda: not is_running(shipper), "end of the shipper")
        (tmp_path / "injected.go").touch()
        out, err = process.communicate(timeout=40)
    assert (out, process.returncode) == (b"one\nhi\n", 2)
    stays(subprocess.CompletedProcess([], 2, out, err), 1, "Network")


def test_a_black_hole_does_not_hold_the_command(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A destination that accepts and never answers costs the flush time, no more."""
    fake_sqs.faults(black_hole=True)
    found = sqstee.run("--flush-timeout", "1s", "--to", "q", "--", "echo", "hi", environ=fake_sqs.environ())
    assert (found.stdout, found.returncode) == (b"hi\n", 0)
    assert found.stderr.startswith(b"sqstee: 1 line not delivered yet")
    fake_sqs.release()


def test_lines_are_shipped_while_the_command_runs(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """The first line after silence leaves at once: it is there long before the command's end."""
    command = sqstee.words("--to", "q", "--", "sh", "-c", "echo first; read x; echo last")
    environ = sqstee.environ | fake_sqs.environ()
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environ) as process:
        wait_for(lambda: shipped(fake_sqs).stdout == b"first\n", "first line")
        assert process.poll() is None
        process.communicate(b"\n")
    assert shipped(fake_sqs).stdout == b"first\nlast\n"


def test_the_shipper_goes_on_when_the_front_is_killed(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """kill -9 of the front: what it had captured is shipped, and the command does not linger on."""
    script = "echo $$; seq 1000; exec tail -f /dev/null"
    environ = sqstee.environ | fake_sqs.environ()
    with running(sqstee.words("--to", "q", "--", "sh", "-c", script), stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(1001)]
        # the output comes first: what is in hand at the kill may be missing in the spool, so wait until it is not
        wait_for(lambda: b"\n1000\n" in sqstee.spooled(), "spool")
        process.send_signal(signal.SIGKILL)
        wait_for(lambda: [one.event for one in shipped(fake_sqs).events] == ["start", "exit"], "exit event")
        assert shipped(fake_sqs).events[-1].fields["cause"] == "wrapper-died"
        shipped(fake_sqs).assert_whole()
        assert shipped(fake_sqs).stdout == b"".join(lines)
        child = int(lines[0])
        wait_for(lambda: not is_running(child), "end of the command")


def test_requests_say_who_sends_them(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """As an account's trail shows them: us first, then whose client it is."""
    sqstee.run("--to", "q", "--", "echo", "hi", environ=fake_sqs.environ())
    (agent,) = fake_sqs.counters().user_agents
    assert re.fullmatch(rf"sqstee/{re.escape(__version__)} Botocore/[\d.]+", agent)


def test_the_request_is_what_boto3_would_send(fake_sqs: FakeSqs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our bytes are boto3's own, byte for byte where the body is ASCII, and the same JSON where it is not."""
    for name, value in (clean_environment() | fake_sqs.environ()).items():
        monkeypatch.setenv(name, value)
    import boto3

    client = boto3.client("sqs")
    sent: list[bytes] = []
    client.meta.events.register_last(
        "before-call.sqs.SendMessageBatch", lambda params, **_: sent.append(params["body"])
    )
    encoder = Encoder("RUN", "host")
    for text in (b'plain "quoted" \\ \t\x01\n', "caf\u00e9 \u2028 \U0001f600\n".encode()):
        body = Body(encoder.lines(text, "stdout", 0, 0), "RUN", "host", 0, 0)
        entry = {
            "Id": "0",
            "MessageBody": body.data.decode(),
            "MessageAttributes": {
                name: {"StringValue": value, "DataType": "String"} for name, value in body.attributes.items()
            },
        }
        client.send_message_batch(QueueUrl=fake_sqs.url("q"), Entries=[entry])  # type: ignore[list-item]
        ours = b"".join(request_json(fake_sqs.url("q"), [body], fifo=False))
        assert json.loads(ours) == json.loads(sent[-1])
        if text.isascii():
            assert ours == sent[-1]


def test_a_request_that_waits_for_its_answer_is_held_once(fake_sqs: FakeSqs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its JSON is given up as soon as it is sent: requests wait a round trip long, up to sixteen at once."""
    for name, value in (clean_environment() | fake_sqs.environ()).items():
        monkeypatch.setenv(name, value)
    sender = SqsSender(parse("q"))
    sender.open()
    fake_sqs.faults(black_hole="after")
    bodies = [Body(b'{"seq":0,"message":"%s"}\n' % (b"x" * size), "RUN", "host", 0, 0) for size in (200_000, 10)]
    failures: list[object] = []
    thread = threading.Thread(target=lambda: failures.extend(sender.send(bodies[:1])))
    thread.start()
    wait_for(lambda: len(sender._buffers) == 1, "the request to be sent")
    fake_sqs.clear_faults()
    thread.join()
    failures.extend(sender.send(bodies[1:]))  # by the same buffer
    assert failures == []
    assert [message.body.encode() for message in fake_sqs.sent("q")] == [body.data for body in bodies]
    assert len(sender._buffers) == 1


def test_moto_takes_it_too(sqstee: Sqstee) -> None:
    """The demo, against moto, end to end: its figures say that both ends agree. A command that is not there is said."""
    missing = sqstee.run("demo", "--", "no-such-command")
    assert (missing.returncode, missing.stderr.splitlines()[0]) == (127, b"sqstee: no-such-command: command not found")
    found = sqstee.run("demo", "--", "sh", "-c", "seq 5000; seq 3000 >&2", environ={"COLUMNS": "120"})
    assert found.returncode == 0, found.stderr
    text = found.stdout.decode()
    assert re.search(r"lines out\W+5,000\W+3,000", text)
    assert "lost 0   duplicated 0" in text
    assert "both ends agree" in text


def test_the_demo_is_not_disturbed_by_what_is_set_for_the_real_queue(sqstee: Sqstee) -> None:
    """Regression: a profile or a proxy ended it with a traceback or `writing failed: None`, SQSTEE_MERGE unread."""
    away = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_PROFILE"), "/no/such/one")
    away |= dict.fromkeys(("http_proxy", "HTTP_PROXY"), "http://127.0.0.1:9") | {"no_proxy": "example.org"}
    away |= {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", "SQSTEE_MERGE": "1", "SQSTEE_VIA_S3": "s3://bucket"}
    found = sqstee.run("demo", "--", "sh", "-c", "echo $no_proxy; echo two >&2", environ=away)
    assert found.returncode == 0, found.stderr
    assert b"both ends agree" in found.stdout
    assert b"example.org,127.0.0.1" in found.stdout


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [
        ("vpce-1.sqs.eu-west-1.vpce.amazonaws.com", "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com"),
        ("sqs.eu-west-1.amazonaws.com", "https://sqs.eu-west-1.amazonaws.com"),
        ("sqs.eu-west-1.api.aws", "https://sqs.eu-west-1.api.aws"),
        ("eu-west-1.queue.amazonaws.com", "https://sqs.eu-west-1.amazonaws.com"),
    ],
)
def test_calls_go_where_the_queue_url_says(monkeypatch: pytest.MonkeyPatch, host: str, endpoint: str) -> None:
    """To its region, and through the VPC endpoint that it names: there may be no other way out of the network."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = client_for(parse(f"https://{host}/123456789012/q"), 1, 1.0)
    assert (client.meta.endpoint_url, client.meta.region_name) == (endpoint, "eu-west-1")


def test_a_late_refusal_does_not_cost_the_new_client() -> None:
    """Of two calls in flight with expired credentials the first to fail has the client renewed, once."""
    expired = ClientError({"Error": {"Code": "ExpiredToken"}}, "SendMessageBatch")
    clients = RenewedClient(object)
    given: list[object] = []

    def call(depth: int) -> None:
        with clients.calling() as client:
            given.append(client)
            if depth:
                with pytest.raises(TransportError) as early:
                    call(0)
                assert early.value.kind == REFRESH
                with clients.calling() as renewed:
                    given.append(renewed)
            raise expired

    with pytest.raises(TransportError) as late:
        call(1)
    assert late.value.kind == RETRY
    with clients.calling() as found:
        old, same, renewed = given
        assert old is same
        assert found is renewed is not old


def test_credentials_that_expire_at_the_end(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """One ExpiredToken at the end gave up without a new session."""
    fake_sqs.faults(errors=[{"operation": "SendMessageBatch", "code": "ExpiredToken", "status": 403, "times": 1}])
    assert sqstee.run("--to", "q", "--", "seq", "5", environ=fake_sqs.environ()).stderr == b""


def test_a_fifo_queue_keeps_its_order(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Whether calls fail or entries: no body goes before the one ahead of it is taken."""
    fake_sqs.create_queue("q.fifo", FifoQueue="true")
    failing: dict[str, Any] = {"code": "InternalError", "status": 500, "probability": 0.2}
    entries: dict[str, Any] = {"code": "InternalError", "probability": 0.2}
    errors = [{"operation": "SendMessageBatch", **failing}]
    fake_sqs.faults(latency_ms=10, seed=1, errors=errors, failed_entries=[entries])
    words = ("--to", "q.fifo", "--message-bytes", "16K", "--flush-timeout", "60s")
    found = sqstee.run(*words, "--", "seq", "4000", environ=fake_sqs.environ())
    assert found.stderr == b""
    injected = fake_sqs.counters().injected
    assert injected["errors"] > 0
    assert injected["failed_entries"] > 0
    firsts = [int(message.attributes["seq"].split("-")[0]) for message in fake_sqs.sent("q.fifo")]
    assert len(firsts) > 20
    assert firsts == sorted(firsts)
    assert fake_sqs.counters().max_in_flight == 1
