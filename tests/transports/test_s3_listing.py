"""What a reader asks S3 for: runs that are over are not listed again, and of one run only its own keys are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from fakes.bucket import FakeS3
from fakes.web import Application, FakeWeb, HttpRequest, HttpResponse
from support import Sqstee
from support.bodies import lines_of, whole_run

from sqstee.destination import parse
from sqstee.record import Body
from sqstee.transports.s3 import key_of
from sqstee.transports.s3_receiver import S3Receiver
from sqstee.wire import decode

OLD = 4000.0  # seconds: older than what counts as quiet


def run_name(number: int) -> str:
    """A run's ULID."""
    return f"01JD{number:02d}{'0' * 20}"


class Asked:
    """A bucket that keeps the requests; with `refuses_groups` it knows no delimiter but /."""

    def __init__(self, bucket: Application) -> None:
        self._bucket = bucket
        self.requests: list[HttpRequest] = []
        self.refuses_groups = False

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Execute a request."""
        self.requests.append(request)
        if self.refuses_groups and request.query.get("delimiter", "/") != "/":
            return self.refusal("NotImplemented", 501, "only / as delimiter")
        return self._bucket(request)

    def refusal(self, code: str, status: int, message: str) -> HttpResponse:
        """An error as S3 writes it."""
        return self._bucket.refusal(code, status, message)

    @property
    def listings(self) -> list[dict[str, str]]:
        """The queries of the listings."""
        return [one.query for one in self.requests if "list-type" in one.query]

    @property
    def keys(self) -> list[str]:
        """The keys of the objects that were read."""
        return [
            one.path.split("/", 2)[2] for one in self.requests if one.method == "GET" and not one.query.get("list-type")
        ]


class World:
    """A bucket `bkt` and what it is asked for."""

    def __init__(self, web: FakeWeb, bucket: FakeS3) -> None:
        self.environ = web.environ()
        self.bucket = bucket
        self.asked = web.serve(Asked)

    def store(self, *bodies: Body, age: float = 0.0) -> None:
        """Store bodies under the prefix `p`."""
        for body in bodies:
            self.bucket.store(key_of("p/", body), body.data, age)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """An empty bucket, for this process as well."""
    bucket = FakeS3("bkt")
    with FakeWeb(bucket) as web:
        for name in list(os.environ):
            if name.startswith("AWS_"):
                monkeypatch.delenv(name)
        found = World(web, bucket)
        for name, value in found.environ.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def receiver(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Receiver]:
    """It has read 20 runs of 5 objects that are over and one that is not; a listing shows 5 keys at a time."""
    monkeypatch.setattr("sqstee.transports.s3_listing._LISTED_AT_ONCE", 5)
    for number in range(20):
        world.store(*(lines_of(seq, seq, run_name(number)) for seq in range(5)), age=OLD)
    world.store(*(lines_of(seq, seq, run_name(20)) for seq in range(5)))
    found = S3Receiver(parse("s3://bkt/p"))
    assert len(received(found)) == 105
    world.asked.requests.clear()
    yield found
    found.close()


def received(receiver: S3Receiver) -> list[tuple[str, int]]:
    """The run and first seq of each object that is there."""
    found = []
    while messages := receiver.receive(10, 0):
        found += [(item.run, item.seq) for one in messages for item in decode(one.data)]
    return found


def test_an_idle_look_lists_what_is_not_over(world: World, receiver: S3Receiver) -> None:
    """The names of the runs, and the rest of the one that had an object of late."""
    assert received(receiver) == []
    assert len(world.asked.listings) == 6
    assert [query["prefix"] for query in world.asked.listings if "delimiter" not in query] == [
        key_of("p/", lines_of(0, 0, run_name(20))).rpartition("/")[0] + "/"
    ]


def test_a_look_finds_what_is_new(world: World, receiver: S3Receiver) -> None:
    """A new run, lines of one that goes on, and, after a while, those of one that was quiet for long."""
    world.store(lines_of(0, 3, run_name(30)), lines_of(5, 5, run_name(20)), lines_of(5, 5, run_name(7)))
    assert sorted(received(receiver)) == [(run_name(20), 5), *((run_name(30), seq) for seq in range(4))]
    receiver._listing._plain_again_at = 0.0
    assert received(receiver) == [(run_name(7), 5)]
    assert received(receiver) == []


def test_a_hole_is_looked_at_from_its_beginning(world: World, receiver: S3Receiver) -> None:
    """An object that was stored before one of lower seqs."""
    world.store(lines_of(7, 9, run_name(20)))
    assert received(receiver) == [(run_name(20), seq) for seq in (7, 8, 9)]
    world.store(lines_of(5, 6, run_name(20)))
    assert received(receiver) == [(run_name(20), seq) for seq in (5, 6)]


def test_names_and_seqs_of_any_length_are_found(world: World, receiver: S3Receiver) -> None:
    """A run whose name begins as seqs do, and one with more than a billion lines."""
    world.store(lines_of(0, 0, "000-nightly"), lines_of(2_000_000_000, 2_000_000_000, run_name(41)))
    assert sorted(received(receiver)) == [("000-nightly", 0), (run_name(41), 2_000_000_000)]
    assert received(receiver) == []


def test_an_emulator_without_groups_is_listed_plainly(world: World, receiver: S3Receiver) -> None:
    """It is asked once."""
    world.asked.refuses_groups = True
    world.store(lines_of(0, 0, run_name(30)), lines_of(5, 5, run_name(7)))
    assert sorted(received(receiver)) == [(run_name(7), 5), (run_name(30), 0)]
    assert sum("delimiter" in query for query in world.asked.listings) == 1


@pytest.mark.parametrize("length", [26, 10], ids=["whole", "beginning"])
def test_of_a_named_run_only_its_own_objects_are_read(sqstee: Sqstee, world: World, length: int) -> None:
    """By tail and by show; a whole name needs no listing of the others."""
    for number in range(30):
        world.store(*whole_run(3, run_name(number)))
    name = run_name(7)[:length]
    expected = sorted(key for key in world.bucket.objects if name in key)
    for words in (("tail", "s3://bkt/p", "--no-follow", "--run", name, "-o", "json"), ("show", name, "s3://bkt/p")):
        world.asked.requests.clear()
        found = sqstee.run(*words, environ=world.environ)
        assert (found.returncode, found.stderr) == (0, b"")
        assert sorted(set(world.asked.keys)) == expected
        if length == 26:
            listings = [
                query for query in world.asked.listings if query.get("delimiter") != "/"
            ]  # what layouts there are
            assert all(run_name(7) in query["prefix"] for query in listings)


def test_a_job_is_shown_as_before(sqstee: Sqstee, world: World) -> None:
    """Its name is no run's, so all runs are read."""
    world.store(*whole_run(3, run_name(1), job="nightly"), *whole_run(3, run_name(2), job="hourly"))
    found = sqstee.run("show", "nightly", "s3://bkt/p", environ=world.environ)
    assert found.returncode == 0
    assert run_name(1).encode() in found.stdout


def test_a_consumer_gets_what_its_filter_hides(sqstee: Sqstee, world: World) -> None:
    """Since it is to delete that."""
    world.store(*whole_run(3, run_name(1)), *whole_run(3, run_name(2)))
    words = ("--consume", "--delete-unmatched", "--no-follow", "-o", "json")
    found = sqstee.run("tail", "s3://bkt/p", "--run", run_name(1), *words, environ=world.environ)
    assert {json.loads(line)["run"] for line in found.stdout.splitlines()} == {run_name(1)}
    assert world.bucket.objects == {}
