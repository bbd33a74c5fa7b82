"""--via-s3 and --group: what is stored and sent, and what an independent Extended Client Library makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from fakes.s3 import S3Server
from fakes.sqs import FakeSqs
from support import Rebuilt, Sqstee, python
from support.bodies import in_flight, lines_of

from sqstee.destination import parse
from sqstee.record import Body, Encoder
from sqstee.transports.errors import TransportError
from sqstee.transports.s3 import key_of
from sqstee.transports.sqs import SqsSender
from sqstee.transports.sqs_extended import POINTER_CLASS, OffloadingSender, Payloads, Pointer, pointer_in

_PLAIN_SESSION = boto3.session.Session
from sqs_extended_client.client import SQSExtendedClientSession  # noqa: E402  # it puts itself into boto3's place

boto3.session.Session = boto3.Session = _PLAIN_SESSION  # type: ignore[misc]  # where other tests want boto3 itself

STORES = [parse("s3://bkt")]
MANY = python("import sys\nfor n in range(30000): sys.stdout.write('line %06d ' % n + 'x' * 107 + '\\n')")


@pytest.fixture
def environ(fake_sqs: FakeSqs, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The strict SQS and an S3 with a bucket, and the environment that finds both, for us and for the command."""
    with S3Server() as server:
        found = server.environ() | fake_sqs.environ()
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def client(environ: dict[str, str]) -> Iterator[Any]:
    """boto3's SQS client with the Extended Client Library's support."""
    found: Any = SQSExtendedClientSession().client(  # type: ignore[no-untyped-call]
        "sqs", endpoint_url=environ["AWS_ENDPOINT_URL_SQS"]
    )
    found.large_payload_support = "bkt"
    found.delete_payload_from_s3 = True
    found.s3_client = boto3.client("s3", endpoint_url=environ["AWS_ENDPOINT_URL_S3"])
    yield found
    found.s3_client.close()
    found.close()


def stored(environ: dict[str, str]) -> list[str]:
    """The keys in the bucket."""
    with_s3 = boto3.client("s3", endpoint_url=environ["AWS_ENDPOINT_URL_S3"])
    keys = [entry["Key"] for entry in with_s3.list_objects_v2(Bucket="bkt").get("Contents", ())]
    with_s3.close()
    return keys


def received(client: Any, url: str) -> list[Any]:
    """All messages in a queue."""
    found: list[Any] = []
    while messages := client.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0, MessageAttributeNames=["All"]
    ).get("Messages", []):
        found += messages
    return found


@pytest.mark.parametrize("queue", ["q", "q.fifo"])
def test_the_extended_client_reads_what_we_send(
    sqstee: Sqstee, fake_sqs: FakeSqs, environ: dict[str, str], client: Any, queue: str
) -> None:
    """Bodies of up to 4 MiB behind pointers: bit for bit, and its delete takes the object along."""
    if queue != "q":
        fake_sqs.create_queue(queue, FifoQueue="true")
    words = ("--via-s3", "s3://bkt/bodies", "--compress", "gzip", "--to", queue)
    found = sqstee.run(*words, "--", *MANY, environ=environ)
    assert (found.returncode, found.stderr) == (0, b"")
    assert fake_sqs.counters().rejections == []
    messages = []
    for _ in range(10):  # of a FIFO group only so many are given at once
        some = received(client, fake_sqs.url(queue))
        for message in some:
            client.delete_message(QueueUrl=fake_sqs.url(queue), ReceiptHandle=message["ReceiptHandle"])
        messages += some
    got = Rebuilt((message["Body"], {}) for message in messages)
    got.assert_whole()
    assert got.stdout == found.stdout
    assert len(messages) <= 5
    assert stored(environ) == []


@pytest.mark.usefixtures("environ")
def test_a_refusal_by_the_bucket_names_the_bucket() -> None:
    """Regression: the queue was blamed for a bucket that does not exist."""
    sender = OffloadingSender(SqsSender(parse("q")), parse("s3://none/p"))
    sender.open()
    with pytest.raises(TransportError) as caught:
        sender.send([Body(Encoder("RUN", "host").lines(b"a\n", "stdout", 0, 0), "RUN", "host", 0, 0)])
    sender.close()
    assert caught.value.at == "s3://none/p"
    assert str(caught.value).startswith("s3://none/p: NoSuchBucket: ")


def test_we_read_what_the_extended_client_sends(fake_sqs: FakeSqs, environ: dict[str, str], client: Any) -> None:
    """Its pointer resolves to the body that it was given; afterwards the object can be deleted, once or twice."""
    data = Encoder("RUN", "host").lines(b"x" * 300_000 + b"\n", "stdout", 0, 0)
    client.send_message(QueueUrl=fake_sqs.url("q"), MessageBody=data.decode(), MessageAttributes={})
    (message,) = fake_sqs.sent("q")
    pointer = pointer_in(message.body, message.attributes)
    assert pointer
    payloads = Payloads(STORES)
    assert payloads.read(pointer) == data
    payloads.delete(pointer)
    payloads.delete(pointer)
    assert payloads.read(pointer) is None
    assert stored(environ) == []


def test_what_no_library_names_so_is_not_deleted(environ: dict[str, str]) -> None:
    """Whoever can send a message must not be able to delete what its reader may: logs of `--to s3://` least of all."""
    s3 = boto3.client("s3", endpoint_url=environ["AWS_ENDPOINT_URL_S3"])
    keys = ["precious/data.csv", "a.ndjson", *(key_of("logs/", one) for one in (lines_of(0, 4), lines_of(0, 4)))]
    for key in keys:
        s3.put_object(Bucket="bkt", Key=key, Body=b"x")
        Payloads(STORES).delete(Pointer("bkt", key))
    s3.close()
    assert stored(environ) == sorted(set(keys))


UUID = "01234567-89ab-cdef-0123-456789abcdef"


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        ("other", f"bodies/{UUID}"),
        ("bkt", UUID),
        ("bkt", f"bodies-of-another/{UUID}"),
        ("bkt", f"bodies/../{UUID}"),
        ("bkt", f"bodies/./../logs/{UUID}"),
        ("bkt/bodies", UUID),
        ("arn:aws:s3:us-east-1:123456789012:accesspoint/bkt", f"bodies/{UUID}"),
    ],
)
def test_a_pointer_leads_into_the_given_places_only(environ: dict[str, str], bucket: str, key: str) -> None:
    """Neither into another bucket, nor beside a prefix, nor out of it again; no request is made."""
    payloads = Payloads([parse("s3://bkt/bodies"), parse("s3://third")])
    for use in (payloads.read, payloads.delete):
        with pytest.raises(TransportError, match="is in none of the places given"):
            use(Pointer(bucket, key))


@pytest.mark.parametrize("words", [("tail", "q", "--consume", "--no-follow"), ("drain", "q", "-O", "out")])
def test_a_message_cannot_have_its_reader_delete_logs(
    sqstee: Sqstee, fake_sqs: FakeSqs, environ: dict[str, str], words: tuple[str, ...]
) -> None:
    """A pointer to anywhere else is reported; its message stays, and so does the object."""
    s3 = boto3.client("s3", endpoint_url=environ["AWS_ENDPOINT_URL_S3"])
    s3.create_bucket(Bucket="prod")
    body = lines_of(0, 4)
    for bucket, key in (("prod", UUID), ("bkt", key_of("logs/", body))):
        s3.put_object(Bucket=bucket, Key=key, Body=body.data)
        text = json.dumps([POINTER_CLASS, {"s3BucketName": bucket, "s3Key": key}])
        fake_sqs.put("q", text, MessageAttributes={"ExtendedPayloadSize": {"DataType": "Number", "StringValue": "9"}})
    out = [str(sqstee.folder / word) if word == "out" else word for word in words]
    found = sqstee.run(*out, "--via-s3", "s3://third", "--via-s3", "s3://bkt", environ=environ)
    assert found.returncode == 1
    assert b"left in the queue" in found.stderr
    assert f"s3://prod/{UUID} is in none of the places given".encode() in found.stderr
    assert b"Traceback" not in found.stderr
    assert ([one["Key"] for one in s3.list_objects_v2(Bucket="prod")["Contents"]]) == [UUID]
    assert stored(environ) == [key_of("logs/", body)]
    assert (len(fake_sqs.messages("q")), in_flight(fake_sqs)) == (1, 0)
    s3.close()


@pytest.mark.parametrize("verb", ["tail", "top", "drain"])
def test_a_place_for_bodies_is_a_bucket(sqstee: Sqstee, verb: str) -> None:
    """Another destination is refused, in one line with a hint."""
    found = sqstee.run(verb, "q", *(("-O", "out") if verb == "drain" else ("--consume",)), "--via-s3", "queue")
    assert (found.returncode, found.stdout) == (125, b"")
    assert b"invalid value 'queue' for --via-s3 (expected s3://BUCKET/PREFIX)" in found.stderr


@pytest.mark.parametrize(
    "body",
    ["", "x", "[]", "{}", "[1,2]", '["other.Class",{"s3BucketName":"b","s3Key":"k"}]', "[" * 100_000, "[null,null]"],
)
def test_a_body_that_only_looks_like_a_pointer_is_none(body: str) -> None:
    """Neither without the attribute, nor with it and another form."""
    assert pointer_in(body, {"ExtendedPayloadSize": "1"}) is None
    right = json.dumps(["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": "b", "s3Key": "k"}])
    assert pointer_in(right, {}) is None
    assert str(pointer_in(right, {"SQSLargePayloadSize": "1"})) == "s3://b/k"


def test_a_run_that_stayed_behind_is_flushed_the_same_way(
    sqstee: Sqstee, fake_sqs: FakeSqs, environ: dict[str, str], client: Any
) -> None:
    """The bucket and the group are kept with the run."""
    words = ("--via-s3", "s3://bkt", "--group", "tenant-7", "--to", "later")
    assert b"not delivered yet" in sqstee.run(*words, "--", "echo", "hi", environ=environ).stderr
    fake_sqs.create_queue("later")
    assert sqstee.run("flush", environ=environ).returncode == 0
    assert [message.group for message in fake_sqs.sent("later")] == ["tenant-7"] * len(fake_sqs.sent("later"))
    assert Rebuilt((message["Body"], {}) for message in received(client, fake_sqs.url("later"))).stdout == b"hi\n"


def test_a_group_makes_a_fair_queue(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Every message of a standard queue carries it, and no deduplication id."""
    found = sqstee.run("--group", 'a"\\b', "--to", "q", "--", "seq", "5", environ=fake_sqs.environ())
    assert found.stderr == b""
    assert {(message.group, message.dedup_id) for message in fake_sqs.sent("q")} == {('a"\\b', None)}
    assert fake_sqs.counters().rejections == []


@pytest.mark.parametrize(
    "words",
    [
        ("--via-s3", "queue", "--to", "q"),
        ("--via-s3", "s3://bkt", "--to", "s3://bkt"),
        ("--via-s3", "s3://bkt"),
        ("--group", "g", "--to", "http://host/"),
        ("--group", "g", "--to", "q.fifo"),
        ("--group", "a b", "--to", "q"),
        ("--group", "x" * 129, "--to", "q"),
    ],
)
def test_what_makes_no_sense_is_refused(sqstee: Sqstee, words: tuple[str, ...]) -> None:
    """Before the command has started, with the right form."""
    found = sqstee.run(*words, "--", "touch", str(sqstee.folder / "ran"))
    assert found.returncode == 125
    assert len(found.stderr.splitlines()) == 2
    assert not (sqstee.folder / "ran").exists()


def test_pointers_count_their_attributes() -> None:
    """The size attribute is one more of the ten that a message may have."""
    assert len(Body(b"", "R", "h", 0, 0, "gzip,base64").attributes) < 9


def test_our_readers_fetch_and_delete_the_bodies(sqstee: Sqstee, fake_sqs: FakeSqs, environ: dict[str, str]) -> None:
    """tail --peek shows what pointers point to and leaves it; drain stores it, and deletes message and object."""
    words = ("--via-s3", "s3://bkt/p", "--host", "h", "--to", "q", "--", "seq", "500")
    made = sqstee.run(*words, environ=environ)
    there = stored(environ)
    assert there
    found = sqstee.run("tail", "q", "--peek", "-o", "raw", environ=environ | {"SQSTEE_VIA_S3": "s3://bkt/p"})
    assert (found.stdout, stored(environ)) == (made.stdout, there)
    out = sqstee.folder / "out"
    reading = ("--idle-timeout", "0.5s", "--via-s3", "s3://bkt/p")
    found = sqstee.run("drain", "q", "-O", str(out), *reading, environ=environ)
    assert found.returncode == 0, found.stderr
    assert [path.read_bytes() for path in out.glob("h/*.stdout")] == [made.stdout]
    assert (fake_sqs.messages("q"), stored(environ)) == ([], [])


def test_a_body_that_cannot_be_read_stays(sqstee: Sqstee, fake_sqs: FakeSqs, environ: dict[str, str]) -> None:
    """Without its bucket a pointer is left in the queue, and that is said."""
    sqstee.run("--via-s3", "s3://bkt/p", "--to", "q", "--", "seq", "5", environ=environ)
    (message, *_) = fake_sqs.messages("q")
    lost = environ | {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}
    found = sqstee.run("tail", "q", "--consume", "--no-follow", "--via-s3", "s3://bkt", environ=lost)
    assert found.returncode == 1
    assert b"a message is left in the queue: its body in S3 cannot be read: Network" in found.stderr
    assert message.id in [one.id for one in fake_sqs.messages("q") if not one.in_flight]


def test_s3_is_drained(sqstee: Sqstee, environ: dict[str, str]) -> None:
    """Objects become files, and are deleted."""
    made = sqstee.run("--host", "h", "--to", "s3://bkt/d", "--", "seq", "500", environ=environ)
    assert stored(environ)
    out = sqstee.folder / "out"
    found = sqstee.run("drain", "s3://bkt/d", "-O", str(out), "--idle-timeout", "0.5s", environ=environ)
    assert found.returncode == 0, found.stderr
    assert [path.read_bytes() for path in out.glob("h/*.stdout")] == [made.stdout]
    assert stored(environ) == []
