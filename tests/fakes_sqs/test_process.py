"""The counters, and the server as a process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from fakes.sqs import FakeSqs
from fakes.sqs.fork_server import TESTS

from .helpers import client_of, entries, in_thread, until

if TYPE_CHECKING:
    pass


def test_counters(sqs: FakeSqs, queue: str) -> None:
    """Calls, connections, bytes and the bill: one request per started 64 KiB."""
    own = client_of(sqs)
    own.send_message_batch(QueueUrl=queue, Entries=entries("x" * 65536, "y"))
    own.send_message(QueueUrl=queue, MessageBody="z" * 65536)
    own.receive_message(QueueUrl=queue, MaxNumberOfMessages=3)
    own.receive_message(QueueUrl=queue)
    with pytest.raises(ClientError):
        own.send_message_batch(QueueUrl=queue, Entries=[])
    counters = sqs.counters()
    assert counters.calls == {"SendMessageBatch": 2, "SendMessage": 1, "ReceiveMessage": 2}
    assert counters.billed == 2 + 1 + 3 + 1 + 1
    assert (counters.connections, counters.open_connections >= 1, counters.max_in_flight) == (1, True, 1)
    assert counters.payload_bytes == 2 * (2 * 65536 + 1)
    assert min(counters.bytes_in, counters.bytes_out) > 2 * 65536
    assert counters.stored[queue.rpartition("/")[2]] == 3
    assert [r["code"] for r in counters.rejections] == ["AWS.SimpleQueueService.EmptyBatchRequest"]
    sends = sqs.requests("SendMessageBatch")
    assert [(r.entries, r.status, r.code.rpartition(".")[2]) for r in sends] == [
        (2, 200, ""),
        (0, 400, "EmptyBatchRequest"),
    ]
    assert abs(sends[0].at - time.time()) < 60


def test_sink_answers_every_id(sqs: FakeSqs) -> None:
    """The sink checks nothing and answers each id, but not the text of an id inside a body."""
    with FakeSqs("q", sink=True) as sink:
        answer = client_of(sink).send_message_batch(
            QueueUrl=sink.url("q"), Entries=entries('{"Id": "no"}', '\\"Id": "no"', "\x00")
        )
        assert [item["Id"] for item in answer["Successful"]] == ["0", "1", "2"]
        assert sink.requests("SendMessageBatch")[0].entries == 3
        assert sink.messages("q") == []


def test_discard_keeps_ranges(sqs: FakeSqs) -> None:
    """With discard the rules hold; only the attributes run and seq of a message are kept."""
    with FakeSqs("q=MaximumMessageSize:1024,DelaySeconds:0", discard=True) as server:
        more: Any = {
            "MessageAttributes": {
                "run": {"DataType": "String", "StringValue": "r1"},
                "seq": {"DataType": "String", "StringValue": "0-9"},
            }
        }
        given = [*entries("x", "y" * 1025, **more), {"Id": "plain", "MessageBody": "z"}]
        answer = client_of(server).send_message_batch(QueueUrl=server.url("q"), Entries=given)
        assert [item["Id"] for item in answer["Failed"]] == ["1"]
        assert server.ranges("q") == [("r1", "0-9"), ("", "")]
        assert server.counters().stored == {"q": 2}
        assert server.messages("q") == server.sent("q") == []


def test_environment_leads_boto3_to_the_server(sqs: FakeSqs, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variables alone lead a client to the server, whatever proxy the environment names."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in sqs.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    boto3.session.Session().client("sqs").send_message(QueueUrl=queue, MessageBody="x")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert len(sqs.messages(queue)) == 1


def start() -> tuple[subprocess.Popen[bytes], str]:
    """A server as a shell starts it, and its endpoint."""
    command = [
        sys.executable,
        "-m",
        "fakes.sqs",
        "--queue",
        "a.fifo",
        "--queue",
        "b=VisibilityTimeout:5",
        "--latency-ms",
        "1",
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TESTS)
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    assert ready["pid"] == process.pid
    return process, ready["endpoint"]


@pytest.mark.parametrize("how", ["eof", "term"])
def test_process_ends(how: str) -> None:
    """The process serves 127.0.0.1 and ends, with status 0, at EOF on its stdin or by SIGTERM."""
    process, endpoint = start()
    with process:
        assert endpoint.startswith("http://127.0.0.1:")
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=60)
        connection.request("POST", "/_control/counters", "{}")
        assert set(json.loads(connection.getresponse().read())["stored"]) == {"a.fifo", "b"}
        connection.close()
        assert process.stdin is not None
        if how == "eof":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_stop_twice() -> None:
    """Stopping is prompt, even with requests in the black hole, and harmless when repeated."""
    server = FakeSqs("q", faults={"black_hole": True})
    with in_thread(lambda: client_of(server).send_message(QueueUrl=server.url("q"), MessageBody="x")) as results:
        until(lambda: server.counters().active == 1)
        server.stop()
    assert isinstance(results[0], ConnectionClosedError)
    server.stop()
    assert server.status == 0
