"""The Lambda handler, with events of the shape that SQS event sources have, checked by Powertools' models."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import uuid
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
from fakes.s3 import S3Server
from hypothesis import given
from support.bodies import RUN, event_of, gap_of, lines_of
from support.odd_bodies import bodies

from sqstee.aws_lambda import handler
from sqstee.errors import SqsteeError
from sqstee.record import CONTENT_ENCODING, Body, Encoder
from sqstee.run_summary import RunSummary
from sqstee.transports.batch_index import read_index
from sqstee.transports.layouts import BATCH, index_of_batch, recognise
from sqstee.transports.s3 import Bucket, key_of
from sqstee.transports.sqs_extended import POINTER_CLASS
from sqstee.wire import decode


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 with a bucket, which the handler writes to."""
    with S3Server() as server:
        for name, value in (server.environ() | {"SQSTEE_LAMBDA_TO": "s3://bkt/logs"}).items():
            monkeypatch.setenv(name, value)
        yield server


def body(run: str, first: int, last: int, host: str = "node17", day: int = 0) -> Body:
    """A body of the records `first`..`last` of a day after 2026-11-21."""
    lines = b"".join(b"line %d\n" % seq for seq in range(first, last + 1))
    time_ns = (1_795_219_200 + 86_400 * day) * 10**9
    return Body(Encoder(run, host).lines(lines, "stdout", time_ns, first), run, host, first, last)


def record(number: int, text: str, attributes: dict[str, str], group: str = "") -> dict[str, Any]:
    """One record of an event, as AWS's documentation shows it; Powertools' model must take it."""
    more = {"MessageGroupId": group, "MessageDeduplicationId": "1", "SequenceNumber": "18849496460467696128"}
    return {
        "messageId": f"059f36b4-87a3-44ab-83d2-{number:012d}",
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
        "body": text,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1545082649183",
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": "1545082649185",
            **(more if group else {}),
        },
        "messageAttributes": {
            name: {
                "stringValue": value,
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "Number" if name == "ExtendedPayloadSize" else "String",
            }
            for name, value in attributes.items()
        },
        "md5OfBody": hashlib.md5(text.encode()).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-2:123456789012:my-queue{'.fifo' if group else ''}",
        "awsRegion": "us-east-2",
    }


def event(*records: dict[str, Any]) -> dict[str, Any]:
    """An event, after Powertools' models have taken it."""
    from aws_lambda_powertools.utilities.data_classes import SQSEvent
    from aws_lambda_powertools.utilities.parser.models import SqsModel

    found = {"Records": list(records)}
    parsed = SqsModel.model_validate(found)
    assert [one.messageId for one in parsed.Records] == [one.message_id for one in SQSEvent(found).records]
    return found


def message(number: int, one: Body, group: str = "") -> dict[str, Any]:
    """A record that carries a body."""
    return record(number, one.data.decode(), one.attributes, group)


def failed(answer: dict[str, list[dict[str, str]]]) -> list[int]:
    """The numbers of the messages that an answer names; its form is what ReportBatchItemFailures wants."""
    assert list(answer) == ["batchItemFailures"]
    assert all(list(item) == ["itemIdentifier"] for item in answer["batchItemFailures"])
    return [int(item["itemIdentifier"].rpartition("-")[2]) for item in answer["batchItemFailures"]]


def data_names(s3: S3Server) -> list[str]:
    """The names of the objects with records, each of which has its index."""
    names = [name.removeprefix("logs/") for name in s3.names() if name.startswith("logs/")]
    data = [name for name in names if recognise(name).kind == BATCH]
    assert sorted(names) == sorted([*data, *map(index_of_batch, data)])
    return data


def written(s3: S3Server) -> dict[str, list[tuple[str, int]]]:
    """The records of each hour, as (run, seq)."""
    found: dict[str, list[tuple[str, int]]] = {}
    for name in data_names(s3):
        items = decode(gzip.decompress(s3.get(f"logs/{name}")))
        found.setdefault(name.rpartition("/")[0], []).extend((item.run, item.seq) for item in items)
    return found


def indexed(s3: S3Server) -> list[RunSummary]:
    """What the indexes have of each run."""
    found = [s3.get(f"logs/{index_of_batch(name)}") for name in data_names(s3)]
    return [one for data in found for one in read_index(data)]


def test_levels_and_objects_are_written_as_they_came(s3: S3Server) -> None:
    """A line's `level`, and the JSON object that --parse-json found, whose own keys mean nothing here."""
    encoder = Encoder("R", "node17")
    encoder.most_object_bytes = 4096
    data = encoder.lines(b'{"level":"warn","event":"gap","seq":-1}\nplain\n', "stdout", 0, 0)
    assert failed(handler(event(message(1, Body(data, "R", "node17", 0, 1))))) == []
    (name,) = data_names(s3)
    assert gzip.decompress(s3.get(f"logs/{name}")) == data


def test_records_of_an_hour_are_one_object(s3: S3Server) -> None:
    """Plain and compressed, of all runs, each in its order; a body over midnight goes to two days."""
    late = Body(body("A", 0, 1).data + body("A", 2, 3, day=1).data, "A", "node17", 0, 3)
    parts = (body("B", 5, 9, "node/18"), late.compressed(), body("A", 4, 4, day=1))
    answer = handler(event(*(message(number, part) for number, part in enumerate(parts))))
    assert failed(answer) == []
    assert written(s3) == {
        "date=2026-11-21/hour=00": [("A", 0), ("A", 1), *(("B", seq) for seq in range(5, 10))],
        "date=2026-11-22/hour=00": [("A", 2), ("A", 3), ("A", 4)],
    }
    found = [(one.run, one.host, one.records.intervals, one.lines) for one in indexed(s3)]
    assert found == [
        ("A", "node17", [(0, 1)], {"stdout": 2}),
        ("B", "node/18", [(5, 9)], {"stdout": 5}),
        ("A", "node17", [(2, 4)], {"stdout": 3}),
    ]


def test_the_index_tells_how_a_run_went(s3: S3Server) -> None:
    """As its records do: the start, the exit, what is missing, what went elsewhere."""
    moved = gap_of(2, 4, reason="fallback", at="s3://bkt/other")
    bodies = [event_of("start", 0, version="1", name="make"), lines_of(1, 1), moved, event_of("exit", 7, exit_code=3)]
    assert failed(handler(event(*(message(number, one) for number, one in enumerate(bodies))))) == []
    (one,) = indexed(s3)
    whole = RunSummary(RUN)
    whole.merge(one)
    read = RunSummary(RUN)
    read.add_items([item for body in bodies for item in decode(body.data)], one.heard)
    assert whole.fields(0.0, 1e9) == read.fields(0.0, 1e9)
    assert (whole.missing_ranges(), whole.elsewhere, whole.exit_code, whole.name) == ([(5, 6)], 3, 3, "make")


@pytest.mark.parametrize("turn", [1, -1], ids=["same order", "other order"])
def test_the_same_batch_again_writes_the_same_objects(s3: S3Server, turn: int) -> None:
    """Standard queues deliver at least once, and duplicates within a batch are dropped."""
    records = [message(0, body("A", 0, 4)), message(1, body("A", 0, 4)), message(2, body("A", 3, 6))]
    for batch in (records, records[::turn]):
        assert failed(handler(event(*batch))) == []
    assert written(s3) == {"date=2026-11-21/hour=00": [("A", seq) for seq in range(7)]}
    assert len(data_names(s3)) == 1


def test_where_conditional_writes_are_unknown_the_same_bytes_are_written(s3: S3Server) -> None:
    """As on emulators: the objects of a batch that comes again are equal to the first."""
    s3.conditional = False
    batch = event(message(0, body("A", 0, 4)))
    handler(batch)
    before = {name: s3.get(name) for name in s3.names()}
    handler(batch)
    assert {name: s3.get(name) for name in s3.names()} == before


def test_without_its_index_a_batch_is_written_all_the_same(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Readers read the records then, and the messages are done with; a batch that comes again stores what lacks."""
    put = Bucket.put

    def refuse(self: Bucket, key: str, data: bytes, content_type: str) -> None:
        s3.faults += [("AccessDenied", False)] * ("/_index/" in key)
        put(self, key, data, content_type)

    batch = event(message(0, body("A", 0, 4)))
    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "put", refuse)
        assert failed(handler(batch)) == []
    (name,) = s3.names()
    assert name.startswith("logs/date=")
    assert "cannot store the index of date=2026-11-21/hour=00/" in capsys.readouterr().err
    handler(batch)
    assert written(s3) == {"date=2026-11-21/hour=00": [("A", seq) for seq in range(5)]}


def test_an_hour_that_is_none(s3: S3Server) -> None:
    """No sender can make partitions of other names: what is no time is of the epoch, other zones are converted."""
    times = ["2026-11-21T23:30:00.000000-02:00", "2026-13-41T99:00:00Z", "../../x", "0001-01-01T00:00:00Z"]
    lines = b"".join(body("A", seq, seq).data for seq in range(4))
    for time in times:
        lines = lines.replace(b"2026-11-21T00:00:00.000000Z", time.encode(), 1)
    assert failed(handler(event(message(0, Body(lines, "A", "h", 0, 3))))) == []
    assert written(s3) == {
        "date=0001-01-01/hour=00": [("A", 3)],
        "date=1970-01-01/hour=00": [("A", 1), ("A", 2)],
        "date=2026-11-22/hour=01": [("A", 0)],
    }


def test_no_message_makes_objects_without_end(s3: S3Server) -> None:
    """Each hour is an object: a message with thousands of them fails, alone."""
    stamps = [f'"2026-{1 + n // 672:02d}-{1 + n // 24 % 28:02d}T{n % 24:02d}:00:00Z"'.encode() for n in range(800)]
    one = body("A", 0, 0).data
    lines = b"".join(one.replace(b'"2026-11-21T00:00:00.000000Z"', stamp) for stamp in stamps)
    answer = handler(event(message(0, Body(lines, "A", "h", 0, 0)), message(1, body("B", 0, 0))))
    assert failed(answer) == [0]
    assert written(s3) == {"date=2026-11-21/hour=00": [("B", 0)]}


BAD = [
    "not ours",
    "",
    "{}",
    "[]",
    '{"timestamp":1}',
    "[" * 100_000,
    body("A", 0, 0).data.decode()[:-10],
    '{"timestamp":"2026-11-21T00:00:00Z","host":"\\ud800","run":"r","seq":1,"stream":"stdout","message":"m"}',
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_one_bad_message_fails_alone(s3: S3Server, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """It is named, and said on stderr; the others are written. An empty body holds no record, and is no failure."""
    answer = handler(event(message(0, body("A", 0, 0)), record(1, text, {}), message(2, body("A", 1, 1))))
    assert failed(answer) == ([1] if text else [])
    assert written(s3) == {"date=2026-11-21/hour=00": [("A", 0), ("A", 1)]}
    assert ("message 059f36b4-87a3-44ab-83d2-000000000001 failed" in capsys.readouterr().err) == bool(text)


def test_a_message_without_its_body_is_not_taken_for_one_that_is_written(s3: S3Server) -> None:
    """Of an event that somebody has cut: it comes again, or ends where bad ones do."""
    records: list[dict[str, Any]] = [record(number, "", {}) | {"body": None} for number in range(2)]
    del records[1]["body"]
    assert failed(handler({"Records": [*records, message(2, body("A", 0, 0))]})) == [0, 1]
    assert written(s3) == {"date=2026-11-21/hour=00": [("A", 0)]}


def test_a_bad_compressed_body_fails_alone(s3: S3Server) -> None:
    """Also when its attributes promise what it is not."""
    bad = record(0, "no base64!", {"Content-Encoding": "gzip,base64"})
    assert failed(handler(event(bad, message(1, body("A", 0, 0))))) == [0]
    assert len(data_names(s3)) == 1


def test_all_messages_may_fail(s3: S3Server) -> None:
    """Then all of them are named, and nothing is raised."""
    assert failed(handler(event(record(0, "x", {}), record(1, "y", {})))) == [0, 1]


def test_behind_a_failure_a_fifo_group_waits(s3: S3Server) -> None:
    """What follows in its group would overtake it; other groups go on."""
    batch = event(
        message(0, body("A", 0, 0), "A"),
        record(1, "bad", {}, "A"),
        message(2, body("A", 2, 2), "A"),
        message(3, body("B", 0, 0), "B"),
    )
    assert failed(handler(batch)) == [1, 2]
    assert written(s3) == {"date=2026-11-21/hour=00": [("A", 0), ("B", 0)]}


def test_what_waits_behind_a_failure_takes_no_line_along(s3: S3Server) -> None:
    """A line that came twice, in a message that waits and in one that does not, is written with the latter."""
    batch = event(record(0, "bad", {}, "A"), message(1, body("A", 0, 1), "A"), message(2, body("A", 1, 1), "B"))
    assert failed(handler(batch)) == [0, 1]
    assert written(s3) == {"date=2026-11-21/hour=00": [("A", 1)]}


def test_what_cannot_be_written_fails_with_its_messages(s3: S3Server) -> None:
    """One hour is refused: the messages with records in it come again, the others do not."""
    s3.faults.append(("InternalError", False))
    batch = event(message(0, body("A", 0, 0)), message(1, body("B", 0, 0, day=1)), message(2, body("A", 1, 1)))
    assert failed(handler(batch)) == [0, 2]
    assert written(s3) == {"date=2026-11-22/hour=00": [("B", 0)]}


def pointer(number: int, key: str) -> dict[str, Any]:
    """A record that points to an object in the bucket."""
    text = json.dumps([POINTER_CLASS, {"s3BucketName": "bkt", "s3Key": key}])
    return record(number, text, {"ExtendedPayloadSize": "100"})


def test_pointers_are_followed_and_their_objects_deleted(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body is read from S3; a pointer to what is gone already was handled before; a failed one is kept."""
    monkeypatch.setenv("SQSTEE_LAMBDA_VIA_S3", "s3://third, s3://bkt/bodies")
    one, two = f"bodies/{uuid.uuid4()}", f"bodies/{uuid.uuid4()}"
    s3.client.put_object(Bucket="bkt", Key=one, Body=body("A", 0, 4).data)
    s3.client.put_object(Bucket="bkt", Key=two, Body=b"bad")
    batch = event(pointer(0, one), pointer(1, two), pointer(2, f"bodies/{uuid.uuid4()}"))
    assert failed(handler(batch)) == [1]
    assert written(s3) == {"date=2026-11-21/hour=00": [("A", seq) for seq in range(5)]}
    assert [name for name in s3.names() if name.startswith("bodies/")] == [two]
    assert failed(handler(batch)) == [1]


@pytest.mark.parametrize("given", ["", "s3://bkt/bodies,s3://third"])
def test_a_pointer_to_anywhere_else_fails_and_its_object_stays(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    """A message must not have the function delete any object that it may delete."""
    monkeypatch.setenv("SQSTEE_LAMBDA_VIA_S3", given)
    keys = [f"other/{uuid.uuid4()}", key_of("other/", body("A", 0, 4))]
    for key in keys:
        s3.client.put_object(Bucket="bkt", Key=key, Body=body("A", 0, 4).data)
    assert failed(handler(event(*(pointer(number, key) for number, key in enumerate(keys))))) == [0, 1]
    assert s3.names() == sorted(keys)
    assert f"s3://bkt/{keys[0]} is in none of the places given" in capsys.readouterr().err


def test_a_place_for_bodies_that_is_no_bucket_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the template, not a message's."""
    monkeypatch.setenv("SQSTEE_LAMBDA_VIA_S3", "bucket/bodies")
    with pytest.raises(SqsteeError, match="not a destination"):
        handler({"Records": []})
    monkeypatch.setenv("SQSTEE_LAMBDA_VIA_S3", "queue")
    with pytest.raises(ValueError, match="SQSTEE_LAMBDA_VIA_S3"):
        handler({"Records": []})


def test_stdout_is_the_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines themselves, for CloudWatch Logs."""
    monkeypatch.delenv("SQSTEE_LAMBDA_TO", raising=False)
    one = body("A", 0, 2)
    assert failed(handler(event(message(0, one)))) == []
    assert capsys.readouterr().out == one.data.decode()


def test_what_is_no_batch_is_said() -> None:
    """Another event source is a mistake in the template, not a message's."""
    with pytest.raises(ValueError, match="not from an SQS event source"):
        handler({"detail": {}})


@given(bodies)
def test_an_odd_body_fails_alone(body: bytes) -> None:
    """Whatever a message holds, the others of its batch are written, and each line that is written is JSON."""
    good, text = Encoder("GOOD", "node17").lines(b"good\n", "stdout", 0, 0).decode(), body.decode("utf-8", "replace")
    packed = base64.b64encode(gzip.compress(body)).decode()
    records = [record(0, text, {}), record(1, good, {}), record(2, packed, {"Content-Encoding": CONTENT_ENCODING})]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        failed = handler({"Records": records})["batchItemFailures"]
    assert records[1]["messageId"] not in {failure["itemIdentifier"] for failure in failed}
    lines = out.getvalue().split("\n")
    assert good.strip("\n") in lines
    assert all(json.loads(line) for line in lines if line)
    assert len(err.getvalue().splitlines()) == len(failed)
