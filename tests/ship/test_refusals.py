"""What a destination may answer: every error in its class, and what becomes of the lines that it refuses."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.sqs import ACCESS_KEY, SECRET_KEY, FakeSqs
from hypothesis import given
from hypothesis import strategies as st
from support import TIMEOUT as LONGEST
from support import Rebuilt, Sqstee, injecting, python, running, wait_for
from support.scripted import Scripted, settings

from sqstee.destination import parse
from sqstee.record import Body, Encoder
from sqstee.ship.backoff import Backoff
from sqstee.ship.pack import divide, records, refit
from sqstee.ship.request import BILLED_UNIT_BYTES, MAX_REQUEST_BYTES, RequestLimits
from sqstee.ship.sender_pool import SenderPool
from sqstee.ship.shipper import Shipper
from sqstee.ship.shipper_handle import CLOSE
from sqstee.spool.run_folder import create
from sqstee.spool.writer import Writer
from sqstee.transports.aws import refusal_of
from sqstee.transports.base import Sender
from sqstee.transports.errors import (
    OPEN,
    POISON,
    REFRESH,
    RETRY,
    SIZE,
    TIMEOUT,
    Failure,
    TransportError,
    classify,
    limit_in,
)
from sqstee.transports.factory import open_sender
from sqstee.transports.fallback import FallbackSender
from sqstee.transports.sqs import SqsReceiver, SqsSender

LINES = 10_000
POISONOUS = {"contains": "poisonous", "code": "InvalidMessageContents", "sender_fault": True, "message": "no"}

# Class, code, HTTP status: what SQS, its neighbours in front of it, and emulators answer to a whole call.
CALLS = [
    (RETRY, "InternalError", 500),
    (RETRY, "InternalFailure", 500),
    (RETRY, "ServiceUnavailable", 503),
    (RETRY, "RequestThrottled", 403),
    (RETRY, "Throttling", 400),
    (RETRY, "ThrottlingException", 400),
    (RETRY, "KmsThrottled", 400),
    (RETRY, "TooManyRequestsException", 429),
    (RETRY, "RequestTimeout", 408),
    (RETRY, "BandwidthLimitExceeded", 509),
    (RETRY, "SlowDown", 503),
    (RETRY, "OverLimit", 403),
    (RETRY, "SomethingNew", 500),
    (REFRESH, "ExpiredToken", 403),
    (REFRESH, "ExpiredTokenException", 400),
    (REFRESH, "RequestExpired", 400),
    (REFRESH, "InvalidClientTokenId", 403),
    (REFRESH, "UnrecognizedClientException", 403),
    (REFRESH, "InvalidSecurity", 403),
    (REFRESH, "SignatureDoesNotMatch", 403),
    (REFRESH, "IncompleteSignature", 400),
    (REFRESH, "MissingAuthenticationToken", 403),
    (REFRESH, "InvalidIdentityToken", 400),
    (RETRY, "IDPCommunicationError", 400),
    (OPEN, "AccessDenied", 403),
    (OPEN, "AccessDeniedException", 400),
    (OPEN, "QueueDoesNotExist", 400),
    (OPEN, "AWS.SimpleQueueService.NonExistentQueue", 400),
    (OPEN, "QueueDeletedRecently", 400),
    (OPEN, "InvalidAddress", 400),
    (OPEN, "KmsAccessDenied", 400),
    (OPEN, "KmsDisabled", 400),
    (OPEN, "KmsInvalidState", 400),
    (OPEN, "KmsNotFound", 400),
    (OPEN, "KmsOptInRequired", 403),
    (OPEN, "OptInRequired", 403),
    (OPEN, "UnsupportedOperation", 400),
    (OPEN, "InvalidAction", 400),
    (OPEN, "SomethingNew", 400),
    (SIZE, "AWS.SimpleQueueService.BatchRequestTooLong", 400),
    (SIZE, "BatchRequestTooLongException", 400),
    (SIZE, "RequestEntityTooLarge", 413),
    (SIZE, "SomethingNew", 413),
    (POISON, "InvalidMessageContents", 400),
    (POISON, "InvalidParameterValue", 400),
    (POISON, "InvalidAttributeValue", 400),
    (POISON, "MissingParameter", 400),
    (POISON, "ValidationError", 400),
]

# Class, code, whether the entry says that it is the sender's fault.
ENTRIES = [
    (RETRY, "InternalError", False),
    (RETRY, "SomethingNew", False),
    (RETRY, "RequestThrottled", True),
    (OPEN, "KmsAccessDenied", True),
    (OPEN, "KMS.InvalidStateException", True),
    (RETRY, "KMS.ThrottlingException", True),
    (SIZE, "BatchRequestTooLong", True),
    (POISON, "InvalidMessageContents", True),
    (POISON, "InvalidParameterValue", True),
    (POISON, "SomethingNew", True),
]


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeSqs]:
    """One server for the rows of the table."""
    with FakeSqs("q") as server:
        yield server


@pytest.fixture(scope="module")
def opened(shared: FakeSqs) -> SqsSender:
    """A sender to it, that has reached its queue: building its client takes longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        lead_to(shared, patch)
        found = SqsSender(parse("q"))
        found.open()
    return found


@pytest.fixture
def sender(shared: FakeSqs, opened: SqsSender, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqsSender]:
    """That sender, to a server without faults."""
    lead_to(shared, monkeypatch)  # expired credentials have it build another client
    shared.clear_faults()
    yield opened
    shared.clear_faults()


def lead_to(server: FakeSqs, patch: pytest.MonkeyPatch) -> None:
    """Set the variables that lead boto3 to this server, and no others of its."""
    for name in os.environ:
        if name.startswith("AWS_"):
            patch.delenv(name)
    for name, value in server.environ().items():
        patch.setenv(name, value)


def some_body() -> Body:
    """One line."""
    return Body(Encoder("RUN", "host").lines(b"hi\n", "stdout", 0, 0), "RUN", "host", 0, 0)


@pytest.mark.parametrize(("kind", "code", "status"), CALLS)
def test_an_error_of_a_whole_call(shared: FakeSqs, sender: SqsSender, kind: str, code: str, status: int) -> None:
    """Every code is of the class that the table gives it, and says so in the server's words."""
    shared.faults(errors=[{"operation": "SendMessageBatch", "code": code, "status": status, "message": "why"}])
    with pytest.raises(TransportError, match="why") as caught:
        sender.send([some_body()])
    assert caught.value.kind == kind


@pytest.mark.parametrize("dialect", ["short-codes", "exception-suffix", "prefixed-codes"])
@pytest.mark.parametrize(("kind", "code"), [(OPEN, "QueueDoesNotExist"), (RETRY, "RequestThrottled")])
def test_an_error_in_an_emulators_words(shared: FakeSqs, sender: SqsSender, dialect: str, kind: str, code: str) -> None:
    """With and without prefix and suffix it is the same error."""
    shared.faults(emulator=[dialect], errors=[{"operation": "SendMessageBatch", "code": code}])
    with pytest.raises(TransportError) as caught:
        sender.send([some_body()])
    assert caught.value.kind == kind


@pytest.mark.parametrize(("kind", "code", "fault"), ENTRIES)
def test_an_error_of_one_entry(shared: FakeSqs, sender: SqsSender, kind: str, code: str, fault: bool) -> None:
    """HTTP 200 with Failed entries is not success: these alone were not taken."""
    shared.faults(failed_entries=[{"code": code, "sender_fault": fault, "contains": '"seq":7'}])
    seventh = Body(Encoder("RUN", "host").lines(b"hi\n", "stdout", 0, 7), "RUN", "host", 7, 7)
    (failure,) = sender.send([some_body(), seventh, some_body()])
    assert (failure.index, failure.kind, failure.code) == (1, kind, code)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (RETRY, {"reset": True}),
        (RETRY, {"refuse": True}),
        (RETRY, {"dropped": True}),
        (RETRY, {"errors": [{"code": "garbled", "status": 502}]}),
    ],
    ids=["reset", "refused", "dropped", "bad gateway"],
)
def test_an_error_of_the_network(shared: FakeSqs, sender: SqsSender, kind: str, fault: dict[str, Any]) -> None:
    """The network's troubles pass."""
    shared.faults(**fault)
    with pytest.raises(TransportError) as caught:
        sender.send([some_body()])
    assert caught.value.kind == kind


@pytest.mark.parametrize("destination", ["http://{}/123456789012/q", "s3://bkt/p"])
def test_an_upload_that_stalls_took_too_long(
    sender: SqsSender, monkeypatch: pytest.MonkeyPatch, destination: str
) -> None:
    """So that the next request is smaller: a slow line would otherwise be offered the same one for ever."""
    monkeypatch.setattr("sqstee.transports.aws.CONNECT_SECONDS", 0.5)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = "{}:{}".format(*server.getsockname())
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{address}")
        stalled = open_sender(parse(destination.format(address)), "", 0)
        with pytest.raises(TransportError) as caught:  # more than the kernel takes for a server that does not read
            stalled.send([Body(b"-" * 16 * 1024 * 1024, "RUN", "host", 0, 0)])
    assert (caught.value.kind, caught.value.code) == (RETRY, TIMEOUT)


@pytest.mark.parametrize("fault", [{"garbage": True}, {"truncated": True}], ids=["made up", "cut"])
def test_an_answer_that_names_nothing(shared: FakeSqs, sender: SqsSender, fault: dict[str, Any]) -> None:
    """An HTTP 200 that a proxy made up or cut short: nothing counts as taken."""
    shared.faults(**fault)
    try:
        kinds = [failure.kind for failure in sender.send([some_body(), some_body()])]
    except TransportError as error:
        kinds = [error.kind] * 2
    assert kinds == [RETRY, RETRY]


@pytest.mark.parametrize("content_type", ["text/html", "text/plain", "application/x-amz-json-1.0"])
def test_a_made_up_answer_does_not_say_what_waits(shared: FakeSqs, sender: SqsSender, content_type: str) -> None:
    """A proxy's page, whatever its type, is neither a queue's URL nor an empty queue."""
    for reached in (False, True):
        receiver = SqsReceiver(parse("q"))
        if reached:
            receiver.stat()
        shared.faults(garbage={"type": content_type})
        with pytest.raises(TransportError, match="a proxy's HTML page"):
            receiver.stat()
        with pytest.raises(TransportError, match="a proxy's HTML page"):
            receiver.receive(10, 0)
        shared.clear_faults()


@pytest.mark.parametrize(
    ("credentials", "kind"),
    [
        ({}, REFRESH),
        ({"AWS_ACCESS_KEY_ID": "AKIA"}, REFRESH),
        ({"AWS_PROFILE": "nobody"}, OPEN),
        ({"AWS_ENDPOINT_URL_SQS": "", "AWS_DEFAULT_REGION": ""}, OPEN),
    ],
    ids=["none", "half", "no such profile", "no region"],
)
def test_an_error_before_any_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials: dict[str, str], kind: str
) -> None:
    """Credentials that are missing may yet appear; a profile or a region that is missing is a mistake."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9")
    for name, value in ({"AWS_DEFAULT_REGION": "us-east-1"} | credentials).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TransportError) as caught:
        SqsSender(parse("q")).open()
    assert caught.value.kind == kind


@pytest.mark.parametrize("name", ["UnauthorizedSSOTokenError", "LoginRefreshRequired", "MetadataRetrievalError"])
def test_a_session_that_has_ended_may_be_begun_anew(name: str) -> None:
    """`aws sso login`, `aws login` and a container's agent bring new credentials: a new client finds them."""
    from botocore import exceptions

    kind = getattr(exceptions, name, exceptions.SSOError)
    refusal = refusal_of(kind(error_msg="why"))
    code = "CredentialRetrieval" if name == "MetadataRetrievalError" else "NoCredentials"
    assert (refusal.kind, refusal.code) == (REFRESH, code)


def test_what_an_answer_says_about_sizes() -> None:
    """The number in SQS's own sentences, and none where there is none."""
    assert limit_in("Batch requests cannot be longer than 262144 bytes. You have sent 300000 bytes.") == 262144
    assert limit_in("One or more parameters are invalid. Reason: Message must be shorter than 1024 bytes.") == 1024
    assert limit_in("Value 5 for parameter DelaySeconds is invalid. Reason: it has 12 bytes.") is None


def test_backoff_is_full_jitter_up_to_half_a_minute() -> None:
    """Each wait is drawn from nought to a bound that doubles up to 30 s; it never gives up."""
    bounds: list[float] = []

    def jitter(low: float, high: float) -> float:
        assert low == 0.0
        bounds.append(high)
        return high

    backoff = Backoff(jitter)
    for _ in range(20):
        backoff.failure(RETRY, "trouble", 100.0)
        assert backoff.not_before == 100.0 + bounds[-1]
        assert not backoff.permanent
    assert bounds[:4] == [0.4, 0.8, 1.6, 3.2]
    assert bounds[-1] == 30.0
    backoff.success()
    assert backoff.healthy


def test_a_partly_failed_answer_costs_no_wait() -> None:
    """Half a minute was spent on 20,000 lines of which one in ten entries failed: the destination took the others."""
    backoff = Backoff(lambda low, high: high)
    backoff.failure(RETRY, "internal error", 100.0, answered=True)
    assert backoff.not_before == 100.0
    backoff.failure(RETRY, "internal error", 100.0, answered=True)
    assert backoff.not_before == 100.8
    backoff.success()
    backoff.failure(OPEN, "no such key", 100.0, answered=True)
    assert backoff.not_before == 130.0


def test_at_the_end_what_was_final_is_tried_once_more() -> None:
    """Unless it was refused just now, or has asked to be left alone: it may have been mended since."""
    backoff = Backoff()
    backoff.failure(OPEN, "no such queue", 100.0)
    backoff.allow_last_try(100.5)
    assert backoff.not_before == 130.0
    backoff.allow_last_try(110.0)
    assert backoff.not_before == 110.0
    backoff.failure(OPEN, "no such queue", 120.0, after=20.0)
    backoff.allow_last_try(125.0)
    assert backoff.not_before == 140.0


def test_somebody_waits_for_what_was_refused_for_now() -> None:
    """The next try comes within a second, the ones after it at the usual pace."""
    backoff = Backoff(lambda low, high: high)
    for _ in range(10):
        backoff.failure(RETRY, "trouble", 100.0)
    backoff.allow_last_try(100.0)
    assert backoff.not_before == 101.0
    backoff.failure(RETRY, "trouble", 101.0)
    assert backoff.not_before == 131.0


def test_at_the_end_the_waits_are_short() -> None:
    """What is left of the flush time is used; what a destination asked for is kept to."""
    backoff = Backoff(lambda low, high: high)
    for _ in range(10):
        backoff.failure(RETRY, "trouble", 100.0)
    assert backoff.not_before == 130.0
    backoff.shorten(100.0)
    assert backoff.not_before == 101.0
    backoff.failure(RETRY, "trouble", 101.0)
    assert backoff.not_before == 102.0
    backoff.failure(RETRY, "trouble", 102.0, after=20.0)
    backoff.shorten(102.0)
    assert backoff.not_before == 122.0


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=60), st.integers(300, 3000))
def test_refitting_a_body_keeps_every_record(lines: list[bytes], limit: int) -> None:
    """As few bodies as fit the limit, but for records that are larger by themselves."""
    block = b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines)
    data = Encoder("RUN", "host").lines(block, "stdout", 0, 5)
    body = Body(data, "RUN", "host", 5, 4 + len(lines))
    found = refit(body, limit)
    assert b"".join(one.data for one in found) == data
    assert all(one.size <= limit or one.first == one.last for one in found)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=60), st.integers(2, 12), st.booleans())
def test_dividing_a_body_keeps_every_record(lines: list[bytes], parts: int, compressed: bool) -> None:
    """The parts are the body's records in order, their ranges side by side, at most as many as asked for."""
    block = b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines)
    encoder = Encoder("RUN", "host", "job", {"seq": "9"})
    data = encoder.lines(block, "stdout", 0, 5)
    gap = encoder.event(b'{"event":"gap","from":%d,"to":%d,"message":""}' % (5 + len(lines), 99), 0, 5 + len(lines))
    body = Body(data + gap, "RUN", "host", 5, 99)
    found = divide(body.compressed() if compressed else body, parts)
    assert b"".join(one.data for one in found) == body.data
    assert 1 < len(found) <= parts
    assert [one.first for one in found[1:]] == [one.last + 1 for one in found[:-1]]
    assert (found[0].first, found[-1].last) == (5, 99)
    assert sum(len(records(one)) for one in found) == len(lines) + 1


def test_a_request_that_took_too_long_is_halved_and_grows_again() -> None:
    """Down to one billed unit, and back up to what the destination is known to take."""
    limits = RequestLimits()
    sizes = []
    for _ in range(6):
        limits.too_slow(limits.request)
        sizes.append(limits.request)
    assert sizes == [524288, 262144, 131072, 65536, 65536, 65536]
    limits.request_at_most(262144)
    for _ in range(5):
        limits.success([1000, 2000])
    assert limits.request == 262144 < MAX_REQUEST_BYTES


def test_what_is_guessed_is_no_less_than_what_was_taken() -> None:
    """Who calls something too large and does not say what it takes is believed, but for what it has taken before."""
    limits = RequestLimits()
    limits.success([300_000, 400_000])
    limits.message_refused(1_000_000)
    assert (limits.packed, limits.message, limits.request) == (500_000, MAX_REQUEST_BYTES, 700_000)
    limits.message_refused(2000)
    limits.request_refused(1_000_000)
    assert (limits.packed, limits.message, limits.request) == (400_000, MAX_REQUEST_BYTES, 700_000)


@pytest.mark.parametrize("several", [True, False])
def test_a_small_body_that_was_called_too_large(tmp_path: Path, several: bool) -> None:
    """By whoever stands between, once: what comes later is packed, in a billed unit at least, and long lines arrive."""
    writer, *locks = create(str(tmp_path), "RUN", b'{"run":"RUN","host":"h"}', 32768, 1024**3, "auto")
    line = b"x" * 20_000 + b"\n"
    wake, closing = os.pipe()
    calls = 0

    def answer(bodies: Sequence[Body]) -> list[Failure]:
        nonlocal calls
        calls += 1
        if calls > 1:
            return []
        for _ in range(100):
            writer.write(0, line)
        writer.close()
        os.write(closing, CLOSE)
        raise TransportError(SIZE, "Http413", "Request Entity Too Large")

    writer.write(0, b"first\n" + b"second\n" * several)
    sender = Scripted(answer)
    try:
        shipper = shipper_of(writer, sender, wake)
        assert shipper.run()
    finally:
        for fd in (*locks, wake, closing):
            os.close(fd)
    assert len(sender.sizes[0]) == 1
    got = taken(sender)
    got.assert_without_holes()
    assert got.stdout == (b"first\nsecond\n" if several else b"") + line * 100
    assert shipper.quarantined == (0 if several else 1)
    assert len(sender.sizes) < (45 if several else 20)


def shipper_of(
    writer: Writer, sender: Sender, wake: int, flush_timeout: float = 60.0, message_bytes: int = 262144
) -> Shipper:
    """A shipper of what is spooled, which `wake` closes."""
    return Shipper(
        writer.folder,
        sender,
        wake,
        settings(linger=0.0, message_bytes=message_bytes),
        flush_timeout=flush_timeout,
    )


def ship(folder: Path, sender: Scripted, lines: int = LINES, flush_timeout: float = 60.0) -> tuple[Shipper, bool]:
    """Spool lines of 100 bytes and ship them; the shipper and whether it shipped everything."""
    writer, *locks = create(str(folder), "RUN", b'{"run":"RUN","host":"h"}', 32768, 1024**3, "auto")
    for number in range(0, lines, 100):
        writer.write(0, b"".join(b"%099d\n" % n for n in range(number, min(lines, number + 100))))
    writer.close()
    wake, closing = os.pipe()
    os.write(closing, CLOSE)
    shipper = shipper_of(writer, sender, wake, flush_timeout)
    try:
        return shipper, shipper.run()
    finally:
        for fd in (*locks, wake, closing):
            os.close(fd)


def taken(sender: Scripted) -> Rebuilt:
    """The streams in what a scripted destination took."""
    return Rebuilt((body.data, body.attributes) for body in sender.taken)


def test_slow_uploads_shrink_to_what_gets_through(tmp_path: Path) -> None:
    """Whatever is above 64 KiB times out: everything arrives in requests of at most that."""

    def answer(bodies: Sequence[Body]) -> list[Failure]:
        if sum(body.size for body in bodies) > BILLED_UNIT_BYTES:
            raise TransportError(RETRY, TIMEOUT, "Read timed out")
        return []

    sender = Scripted(answer)
    _, complete = ship(tmp_path, sender, 3000)
    assert complete
    assert taken(sender).stdout == b"".join(b"%099d\n" % n for n in range(3000))


@pytest.mark.parametrize("message", ["Batch requests cannot be longer than 100000 bytes.", "too large"])
def test_too_large_a_request_is_repacked(tmp_path: Path, message: str) -> None:
    """At the number in the answer, else at half: nothing is lost, and nothing is sent that large again."""

    def answer(bodies: Sequence[Body]) -> list[Failure]:
        if sum(body.size for body in bodies) > 100_000:
            raise TransportError(SIZE, "BatchRequestTooLong", message)
        return []

    sender = Scripted(answer)
    shipper, complete = ship(tmp_path, sender)
    assert complete
    assert shipper.quarantined == 0
    assert taken(sender).stdout == b"".join(b"%099d\n" % n for n in range(LINES))
    assert sum(sum(sizes) > 100_000 for sizes in sender.sizes) < 20


@pytest.mark.parametrize("refused", [10, 4])
def test_an_answer_is_one_failure_however_many_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    """Ten throttled messages of one request are waited out as one: not for half a minute."""
    steps = []
    left = 1

    def jitter(least: float, most: float) -> float:
        steps.append(most)
        return least

    def answer(bodies: Sequence[Body]) -> list[Failure]:
        nonlocal left
        left -= 1
        return [Failure(at, RETRY, "ThrottlingException", "slow down") for at in range(refused)] if left >= 0 else []

    monkeypatch.setattr("sqstee.ship.shipper.Backoff", lambda: Backoff(jitter))
    writer, *locks = create(str(tmp_path), "RUN", b'{"run":"RUN","host":"h"}', 32768, 1024**3, "auto")
    for number in range(10):
        writer.write(0, b"%d" % number * 20_000 + b"\n")
    writer.close()
    sender = Scripted(answer)
    wake, closing = os.pipe()
    os.write(closing, CLOSE)
    shipper = shipper_of(writer, sender, wake, message_bytes=21_000)
    try:
        assert shipper.run()
    finally:
        for fd in (*locks, wake, closing):
            os.close(fd)
    assert len(sender.sizes[0]) == 10
    assert steps == [0.4]
    taken(sender).assert_without_holes()


def test_a_destination_that_takes_no_record_is_at_fault(tmp_path: Path) -> None:
    """Eight records refused one by one, and none taken: they stay, whatever it says of our events."""

    def answer(bodies: Sequence[Body]) -> list[Failure]:
        records = [at for at, body in enumerate(bodies) if b'"stream"' in body.data]
        return [Failure(at, POISON, "InvalidMessageContents", "no") for at in records]

    shipper, complete = ship(tmp_path, Scripted(answer))
    assert not complete
    assert shipper.quarantined == 0
    assert "InvalidMessageContents" in shipper.reason
    assert not (tmp_path / "quarantine").exists()


def test_a_new_session_that_is_refused_as_well_is_final(tmp_path: Path) -> None:
    """At the end of a run nobody waits for credentials that are not there."""

    def answer(bodies: Sequence[Body]) -> list[Failure]:
        raise TransportError(REFRESH, "ExpiredToken", "The security token included in the request is expired")

    sender = Scripted(answer)
    shipper, complete = ship(tmp_path, sender, 10, flush_timeout=3600.0)
    assert not complete
    assert "ExpiredToken" in shipper.reason
    assert len(sender.sizes) == 2


def test_a_library_that_fails_is_passing_trouble() -> None:
    """An exception that nobody foresaw loses nothing: it is tried again."""

    def answer(bodies: Sequence[Body]) -> list[Failure]:
        raise ZeroDivisionError("in a library")

    senders = SenderPool(Scripted(answer), 1)
    senders.submit([])
    assert select.select([senders.ready], [], [], LONGEST)[0]
    ((_, refusal),) = senders.collect()
    assert isinstance(refusal, TransportError)
    assert refusal.kind == RETRY


def shipped(server: FakeSqs, queue: str = "q") -> Rebuilt:
    """The streams in everything that the queue ever accepted."""
    return Rebuilt((message.body, message.attributes) for message in server.sent(queue))


def test_a_poisonous_record_costs_nobody_else(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Its 9,999 neighbours arrive; it is in the quarantine file, which flush --list shows, a gap event in its place."""
    fake_sqs.faults(failed_entries=[POISONOUS])
    code = python(f"for n in range({LINES}): print('poisonous' if n == 7000 else f'line {{n}}')")
    found = sqstee.run("--to", "q", "--", *code, environ=fake_sqs.environ())
    assert found.stdout.count(b"\n") == LINES
    got = shipped(fake_sqs)
    got.assert_whole()
    assert got.stdout == found.stdout.replace(b"poisonous\n", b"")
    (gap,) = [event for event in got.events if event.event == "gap"]
    assert gap.fields["from"] == gap.fields["to"]
    assert "InvalidMessageContents" in str(gap.fields["reason"])
    (kept,) = (sqstee.spool / "quarantine").iterdir()
    assert Rebuilt([(kept.read_bytes(), {})]).stdout == b"poisonous\n"
    assert re.fullmatch(rb"sqstee: 1 line .*quarantine.*\n", found.stderr)
    assert str(kept).encode() in sqstee.run("flush", "--list").stdout


def test_several_poisonous_records(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Two side by side, the first, the last, and one alone at the end of the run: each by itself."""
    fake_sqs.faults(failed_entries=[POISONOUS])
    bad = (0, 500, 501, 1999)
    code = python(f"for n in range(2000): print(f'poisonous {{n}}' if n in {bad} else f'line {{n}}')")
    found = sqstee.run("--to", "q", "--", *code, environ=fake_sqs.environ())
    got = shipped(fake_sqs)
    got.assert_whole()
    kept = b"".join(path.read_bytes() for path in (sqstee.spool / "quarantine").iterdir())
    assert Rebuilt([(kept, {})]).stdout == b"".join(b"poisonous %d\n" % n for n in bad)
    assert sorted((got.stdout + Rebuilt([(kept, {})]).stdout).splitlines()) == sorted(found.stdout.splitlines())


@pytest.mark.parametrize(
    "moment",
    [
        "sqstee.ship.source:RunSource._replace:kill:1",  # refused, and not divided yet
        "sqstee.ship.source:RunSource._replace:kill-after:2",  # divided and planned, and not sent again yet
        "sqstee.ship.source:RunSource.substitute:kill-after:1",  # known to be the one, and the gap event not sent yet
        "sqstee.ship.source:quarantine:kill:1",  # the gap event was taken, and the record is not put aside yet
        "sqstee.spool.quarantine:write_whole:kill:1",  # its file is there, and empty
        "sqstee.spool.quarantine:write_whole:kill-after:1",  # put aside, and not acknowledged yet
    ],
)
def test_killed_at_the_worst_moment(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, moment: str) -> None:
    """kill -9 between any two steps of putting a record aside: flush ends it, and every line is in one place."""
    fake_sqs.faults(failed_entries=[POISONOUS])
    code = python("for n in range(2000): print('poisonous' if n == 700 else f'line {n}')")
    environ = fake_sqs.environ() | injecting(tmp_path, moment)
    found = sqstee.run("--to", "q", "--", *code, environ=environ)
    assert (tmp_path / "injected").exists(), "the moment never came"
    assert b"the background process ended early" in found.stderr
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    assert sqstee.waiting_runs() == ["quarantine"]
    got = shipped(fake_sqs)
    got.assert_whole()
    assert got.stdout == found.stdout.replace(b"poisonous\n", b"")
    (kept,) = (sqstee.spool / "quarantine").iterdir()
    assert Rebuilt([(kept.read_bytes(), {})]).stdout == b"poisonous\n"


def test_a_disk_that_takes_half_of_what_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written in part is taken back, and the record stays in the spool until there is room for it."""
    write = os.pwrite
    partly: list[int] = []

    def writev(fd: int, parts: Sequence[bytes], offset: int) -> int:
        data = b"".join(parts)
        if not data.startswith(b"{") or partly:
            return write(fd, data, offset)
        partly.append(write(fd, data[:30], offset))
        monkeypatch.setattr(os, "pwrite", full)
        return 30

    def full(fd: int, data: bytes, offset: int) -> int:
        monkeypatch.setattr(os, "pwrite", write)
        raise OSError(28, "No space left on device")

    def answer(bodies: Sequence[Body]) -> list[Failure]:
        bad = [at for at, body in enumerate(bodies) if b"%099d" % 7 in body.data]
        return [Failure(at, POISON, "InvalidMessageContents", "no") for at in bad]

    monkeypatch.setattr(os, "pwritev", writev)
    sender = Scripted(answer)
    shipper, complete = ship(tmp_path, sender, 100)
    assert (complete, shipper.quarantined, partly) == (True, 1, [30])
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert Rebuilt([(kept.read_bytes(), {})]).stdout == b"%099d\n" % 7


def test_a_queue_smaller_than_it_says(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Who may not ask for MaximumMessageSize learns it from the refusals; a line above it is put aside."""
    fake_sqs.create_queue("small", MaximumMessageSize=2048)
    fake_sqs.faults(errors=[{"operation": "GetQueueAttributes", "code": "AccessDenied", "status": 403}])
    code = python("for n in range(3000): print('x' * 5000 if n == 1500 else f'line {n}')")
    found = sqstee.run("--to", "small", "--", *code, environ=fake_sqs.environ())
    got = shipped(fake_sqs, "small")
    got.assert_whole()
    assert got.stdout == found.stdout.replace(b"x" * 5000 + b"\n", b"")
    assert fake_sqs.counters().rejected < 30
    (kept,) = (sqstee.spool / "quarantine").iterdir()
    assert Rebuilt([(kept.read_bytes(), {})]).stdout == b"x" * 5000 + b"\n"


class Growing(Scripted):
    """A queue whose MaximumMessageSize is `limit`; `asked` is called each time that it is asked for it."""

    def __init__(self, limit: int, accepted: Callable[[Body], None], asked: Callable[[], None]) -> None:
        super().__init__(self._judge)
        self.limit = limit
        self._accepted = accepted
        self._asked = asked

    def open(self) -> int:
        self._asked()
        return self.limit

    def _judge(self, bodies: Sequence[Body]) -> list[Failure]:
        message = f"One or more parameters are invalid. Reason: Message must be shorter than {self.limit} bytes."
        large = {at for at, body in enumerate(bodies) if body.size > self.limit}
        for body in (body for at, body in enumerate(bodies) if at not in large):
            self._accepted(body)
        return [Failure(at, SIZE, "InvalidParameterValue", message) for at in sorted(large)]


@pytest.mark.parametrize("long_line", [True, False])
def test_a_limit_that_is_raised_while_the_sender_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_line: bool
) -> None:
    """An agent lives for months. A long line is offered before it is put aside, and the limit is asked for at times."""
    monkeypatch.setattr("sqstee.ship.shipper._ASK_AGAIN_SECONDS", 3600.0 if long_line else 0.0)
    writer, *locks = create(str(tmp_path), "RUN", b'{"run":"RUN","host":"h"}', 32768, 1024**3, "auto")
    wake, closing = os.pipe()
    many = b"".join(b"%099d\n" % number for number in range(100))
    asked = 0
    behind: list[bytes] = [b"\n"] * 5 + [many]  # one after the other: the answer about the limit is heard meanwhile

    def accepted(body: Body) -> None:
        if queue.limit == 2048 and (body.is_gap or not long_line):
            queue.limit = 100_000
            writer.write(0, b"y" * 5000 * long_line + b"\n")
        elif asked > 1 and behind:
            writer.write(0, behind.pop(0))
            if not behind:
                writer.close()
                os.write(closing, CLOSE)

    def count() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            writer.write(0, b"\n")

    queue = Growing(2048, accepted, count)
    writer.write(0, b"x" * 5000 * long_line + b"\n")
    try:
        shipper = shipper_of(writer, queue, wake)
        assert shipper.run()
    finally:
        for fd in (*locks, wake, closing):
            os.close(fd)
    assert shipper.quarantined == long_line
    assert taken(queue).stdout == (b"y" * 5000 if long_line else b"\n") + b"\n" * 7 + many
    assert max(size for sizes in queue.sizes[-2:] for size in sizes) > 10_000


def test_a_line_too_long_for_the_first_destination_goes_to_the_second(tmp_path: Path) -> None:
    """It went to quarantine untried."""
    writer, *locks = create(str(tmp_path), "RUN", b'{"run":"RUN","host":"h"}', 32768, 1024**3, "auto")
    writer.write(0, b"short\n" + b"x" * 5000 + b"\n")
    writer.close()
    wake, closing = os.pipe()
    os.write(closing, CLOSE)
    first, second = Growing(2048, lambda body: None, lambda: None), Scripted()
    try:
        shipper = shipper_of(writer, FallbackSender(first, second, "second", 30.0), wake)
        assert shipper.run()
    finally:
        for fd in (*locks, wake, closing):
            os.close(fd)
    assert (shipper.quarantined, taken(second).stdout) == (0, b"x" * 5000 + b"\n")


def test_a_whole_call_that_is_refused_for_one_entry(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Some emulators refuse the call for one bad entry: each body then goes alone, and nothing is lost."""
    fault = {"operation": "SendMessageBatch", "code": "ValidationError", "status": 400, "times": 3}
    fake_sqs.faults(errors=[fault])
    found = sqstee.run("--to", "q", "--", "seq", "20000", environ=fake_sqs.environ())
    got = shipped(fake_sqs)
    got.assert_whole()
    assert (found.stderr, got.stdout) == (b"", found.stdout)


def test_a_queue_that_refuses_everything_keeps_everything(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Every entry is the sender's fault, it says: nothing is put aside, and flush delivers once it is well."""
    fake_sqs.faults(failed_entries=[{"code": "InvalidMessageContents", "sender_fault": True}])
    found = sqstee.run("--to", "q", "--flush-timeout", "30s", "--", "seq", "100", environ=fake_sqs.environ())
    assert re.fullmatch(rb"sqstee: 100 lines not delivered yet \(InvalidMessageContents.*\n", found.stderr)
    assert not (sqstee.spool / "quarantine").exists()
    fake_sqs.clear_faults()
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    got = shipped(fake_sqs)
    got.assert_whole()
    assert got.stdout == found.stdout


def test_a_queue_that_is_made_while_the_command_runs(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """The next look at it would come later than the run's end: then there is one more, and the lines arrive."""
    words = sqstee.words("--to", "later", "--", "sh", "-c", "echo early; read x")
    environ = sqstee.environ | fake_sqs.environ() | injecting(tmp_path, "sqstee.ship.backoff:Backoff.failure:done:1")
    with running(words, stdin=-1, stdout=-1, stderr=-1, env=environ) as process:
        wait_for((tmp_path / "injected").exists, "refusal")
        refused_at = time.monotonic()
        wait_for(lambda: time.monotonic() - refused_at > 1.5, "refusal of some age")
        fake_sqs.create_queue("later")
        out, err = process.communicate(b"\n", timeout=30)
    assert out == b"early\n"
    assert err.startswith(b"sqstee: later refuses the lines")
    assert err.count(b"\n") == 1
    assert Rebuilt((message.body, message.attributes) for message in fake_sqs.sent("later")).stdout == b"early\n"


def test_credentials_that_appear_later_are_picked_up(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """A job starts before its node's credentials are there: the same run delivers once they are."""
    environ = sqstee.environ | fake_sqs.environ()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del environ[name]
    path = sqstee.folder / "credentials"
    environ["AWS_SHARED_CREDENTIALS_FILE"] = str(path)
    words = sqstee.words("--to", "q", "--", "sh", "-c", "echo early; read x")
    with running(words, stdin=-1, stdout=-1, env=environ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"early\n"
        path.write_text(f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n")
        wait_for(lambda: shipped(fake_sqs).stdout == b"early\n", "line", 60)
        process.communicate(b"\n", timeout=40)


def test_credentials_that_expire_are_renewed(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """ExpiredToken in the middle: a new session reads the new key, the lines arrive in the same run."""
    path = sqstee.folder / "credentials"
    template = "[default]\naws_access_key_id={}\naws_secret_access_key=" + SECRET_KEY + "\n"
    path.write_text(template.format("AKIAEXPIRED"))
    environ = sqstee.environ | fake_sqs.environ() | {"AWS_SHARED_CREDENTIALS_FILE": str(path)}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del environ[name]
    words = sqstee.words("--to", "q", "--", "sh", "-c", "echo one; read x; echo two")
    with running(words, stdin=-1, stdout=-1, env=environ) as process:
        wait_for(lambda: shipped(fake_sqs).stdout == b"one\n", "first line")
        fake_sqs.faults(expired_keys=["AKIAEXPIRED"])
        path.write_text(template.format(ACCESS_KEY))
        process.communicate(b"\n", timeout=40)
    assert process.returncode == 0
    assert shipped(fake_sqs).stdout == b"one\ntwo\n"


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


@given(
    st.sampled_from(["KMS.", "com.amazonaws.sqs#KMS.", "Kms", "KMS", "AWS.SimpleQueueService.Kms"]),
    st.sampled_from(["InvalidParameterValue", "MessageTooLong", "ExpiredToken", "InvalidState", "Disabled", "New", ""]),
    st.sampled_from(["", "Exception"]),
    st.booleans(),
)
def test_what_kms_refuses_is_never_a_records_fault(service: str, name: str, suffix: str, fault: bool) -> None:
    """Its InvalidStateException lost its prefix, and lines of a queue whose key was disabled went to quarantine."""
    assert classify(f"{service}{name}{suffix}", 0, fault) == OPEN
    assert classify(f"{service}{name}{suffix}", 400, fault) == OPEN
    assert classify(f"{service}Throttling{suffix}", 400, fault) == RETRY
    assert classify(f"{service}Internal{suffix}", 500, fault) == RETRY
