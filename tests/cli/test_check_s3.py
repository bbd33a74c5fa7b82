"""sqstee check of buckets: each permission by itself, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from fakes.bucket import FakeS3
from fakes.sqs import FakeSqs
from fakes.web import FakeWeb, HttpRequest
from support import Sqstee
from support.bodies import whole_run
from support.lake import batch_objects, queue_objects, store_objects, write_files

from sqstee.destination import parse
from sqstee.transports.probe import Step
from sqstee.transports.s3_probe import BUCKET_ROLES, BucketProbe

PUT, LIST, GET, DELETE = "s3:PutObject", "s3:ListBucket", "s3:GetObject", "s3:DeleteObject"
ALL = {PUT, LIST, GET, DELETE}


@pytest.fixture
def bucket() -> FakeS3:
    """An empty bucket `bkt`."""
    return FakeS3("bkt")


@pytest.fixture
def web(bucket: FakeS3) -> Iterator[FakeWeb]:
    """Its server."""
    with FakeWeb(bucket) as found:
        yield found


def checked(sqstee: Sqstee, web: FakeWeb, *words: str, **environ: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The status of the real command, and the steps by name."""
    found = sqstee.run("check", *words, "-o", "json", environ=web.environ() | environ)
    assert found.stderr == b""
    steps = [json.loads(line) for line in found.stdout.splitlines()]
    return found.returncode, {step["name"]: step for step in steps}


@pytest.fixture
def probed(web: FakeWeb, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Step]]:
    """The steps of a probe in this process, by name."""
    for name, value in web.environ().items():
        monkeypatch.setenv(name, value)
    return lambda role: {step.name: step for step in BucketProbe(parse("s3://bkt/p"), BUCKET_ROLES[role]).steps()}


@pytest.mark.parametrize(
    ("role", "allowed", "states"),
    [
        ("send", {PUT}, {PUT: "ok"}),
        ("send", {LIST}, {PUT: "failed"}),
        ("receive", {LIST, GET}, {LIST: "ok", GET: "ok", DELETE: "warning"}),
        ("receive", {LIST, DELETE}, {LIST: "ok", GET: "failed", DELETE: "ok"}),
        ("receive", {GET}, {LIST: "failed", GET: "ok", DELETE: "warning"}),
        ("both", ALL, {PUT: "ok", LIST: "ok", GET: "ok", DELETE: "ok"}),
    ],
)
def test_each_permission_of_a_bucket_is_proved_by_itself(
    probed: Callable[[str], dict[str, Step]], bucket: FakeS3, role: str, allowed: set[str], states: dict[str, str]
) -> None:
    """Regression: one listing decided, so that `--for send` was right only where listing was allowed as well."""
    bucket.denied = ALL - allowed
    steps = probed(role)
    assert {name: step.state for name, step in steps.items() if name in ALL} == states
    assert bucket.objects == {}
    for name in (name for name, state in states.items() if state != "ok"):
        statement = json.loads(steps[name].advice.partition(": ")[2])
        assert statement["Action"] == name
        assert statement["Resource"].startswith("arn:aws:s3:::bkt")
    assert steps["clock"].state == steps["connection"].state == steps["bucket"].state == "ok"


def test_an_object_is_read_where_there_is_one(probed: Callable[[str], dict[str, Step]], bucket: FakeS3) -> None:
    """It stays as it is."""
    bucket(_put("p/00/R/000000000000-000000000000.ndjson"))
    assert probed("both")[GET].state == "ok"
    assert list(bucket.objects) == ["p/00/R/000000000000-000000000000.ndjson"]


def test_credentials_that_the_bucket_refuses(probed: Callable[[str], dict[str, Step]], web: FakeWeb) -> None:
    """As for a queue: renew them, or set the clock."""
    web.faults(errors=[{"code": "InvalidAccessKeyId", "status": 403}])
    step = probed("both")["bucket"]
    assert step.state == "failed"
    assert "check this machine's clock" in step.advice


def test_a_refusal_that_names_no_action_is_no_proof(sqstee: Sqstee, bucket: FakeS3, web: FakeWeb) -> None:
    """A missing object looks forbidden to who may not list; only a round trip can tell."""
    bucket.denied, bucket.terse = {LIST}, True
    status, steps = checked(sqstee, web, "s3://bkt/p", "--round-trip")
    assert (status, steps[GET]["state"], steps["round trip"]["state"]) == (1, "warning", "ok")
    assert "--round-trip" in steps[GET]["text"]
    assert bucket.objects == {}


def test_an_object_that_cannot_be_deleted_is_named(sqstee: Sqstee, bucket: FakeS3, web: FakeWeb) -> None:
    """A round trip by a caller that may not delete leaves one object, says so, and how to remove it."""
    bucket.denied = {DELETE}
    _, steps = checked(sqstee, web, "s3://bkt/p", "--round-trip")
    (key,) = bucket.objects
    assert steps["round trip"]["state"] == "warning"
    assert f"s3://bkt/{key} stays" in steps["round trip"]["text"]
    assert steps["round trip"]["advice"] == f"aws s3 rm s3://bkt/{key}"


@pytest.mark.parametrize("words", [(), ("--round-trip",)])
@pytest.mark.parametrize("option", ["via_s3", "fallback"])
def test_a_second_bucket_that_does_not_exist_is_found(
    sqstee: Sqstee, web: FakeWeb, fake_sqs: FakeSqs, option: str, words: tuple[str, ...]
) -> None:
    """Regression: --via-s3 and --fallback were not looked at, not even by --round-trip."""
    environ = fake_sqs.environ() | {f"SQSTEE_{option.upper()}": "s3://none/p", "AWS_ENDPOINT_URL_S3": web.url}
    status, steps = checked(sqstee, web, "q", *words, **environ)
    step = steps[f"{option.replace('_', '-')} bucket"]
    assert (status, step["state"]) == (1, "failed")
    assert "NoSuchBucket" in step["text"]
    assert "aws s3 mb" in step["advice"]
    assert not words or steps["round trip"]["state"] == "ok"


def _put(key: str) -> HttpRequest:
    headers = {"content-length": "3", "authorization": "AWS4-HMAC-SHA256"}
    return HttpRequest("PUT", f"/bkt/{key}", {}, headers, b"{}\n")


def test_what_is_stored_is_told(sqstee: Sqstee, web: FakeWeb, bucket: FakeS3) -> None:
    """The layouts behind a prefix or in a folder, and what readers leave out; of a sender nothing is listed."""
    objects = batch_objects(whole_run(2)) | {"notes.txt": b""}
    store_objects(bucket, "p/", queue_objects(whole_run(2)) | objects)
    write_files(sqstee.folder / "lake", objects)
    left_out = ": 1 {} not written by sqstee, left out: notes.txt"
    for source, text, remark in (
        ("s3://bkt/p", "bodies, as of a queue, objects of a data lake", f"s3://bkt/p{left_out.format('object')}"),
        (f"{sqstee.folder}/lake", "a data lake: 1 file with records", f"{sqstee.folder}/lake{left_out.format('file')}"),
    ):
        found = sqstee.run("check", source, "-o", "json", environ=web.environ())
        steps = [json.loads(line) for line in found.stdout.splitlines()]
        contents = [(step["state"], step["text"]) for step in steps if step["name"] == "contents"]
        assert contents == [("ok", text), ("warning", remark)]
        assert found.returncode == 0
    assert "contents" not in checked(sqstee, web, "s3://bkt/p", "--for", "send")[1]
    assert checked(sqstee, web, "s3://bkt/none")[1]["contents"]["text"].endswith("nothing has been stored there yet")
