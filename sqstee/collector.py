"""The HTTP collector: a WSGI application that stores posted NDJSON in a local queue, and answers once it is on disk.

WSGI servers load `application`, which is configured by environment variables: SQSTEE_STORE (local:PATH), SQSTEE_TOKEN
or SQSTEE_TOKEN_FILE, SQSTEE_LOCAL_MAX, or SQSTEE_STORE_MAX, SQSTEE_STORE_DAYS and SQSTEE_KEEP_FAILED. A POST to any
path except /health and /metrics stores its records. With SQSTEE_WEB_TOKEN or SQSTEE_WEB_TOKEN_FILE a GET of any other
path shows the board of the store (see sqstee.web).
"""

from __future__ import annotations

import functools
import hmac
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sqstee.destination import parse
from sqstee.errors import SqsteeError
from sqstee.fds import write_stderr
from sqstee.metrics import exposition
from sqstee.record import FORMAT_VERSION, Body, gunzip
from sqstee.text import count, one_line
from sqstee.transports.base import Sender
from sqstee.transports.errors import RETRY, TransportError
from sqstee.transports.http import APACHE_OPTION, COLLECTOR_HEADER, tokens
from sqstee.transports.local import FULL, LocalSender
from sqstee.transports.retention import Retention, configured
from sqstee.wire import DecodeError, by_run

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

MAX_POST_BYTES = 4 * 1024 * 1024  # as sent, compressed or not
MAX_RECORDS_BYTES = 8 * 1024 * 1024  # decompressed
MAX_ROWS = 10_000  # of one request; a sender divides what is refused with 413
MAX_BUSY = 64  # concurrent requests; beyond it the answer is 503
_MAX_DECODING = 2  # requests decoded at a time; more would share one interpreter, and need more memory
_COMMIT_SECONDS = 10.0  # the longest that a request waits for the disk
_MAX_RUN = 128
_LONGEST_LENGTH = 18  # digits; Python refuses to parse more than 4300
_RETRY_AFTER_SECONDS = 2
_REPORT_AGAIN_SECONDS = 3600.0
_LEAST_STORE_BYTES = 1024 * 1024

_REASONS = {
    200: "200 OK",
    400: "400 Bad Request",
    401: "401 Unauthorized",
    404: "404 Not Found",
    405: "405 Method Not Allowed",
    411: "411 Length Required",
    413: "413 Content Too Large",
    415: "415 Unsupported Media Type",
    503: "503 Service Unavailable",
}
_TEXT = "text/plain; charset=utf-8"
_FORM = "application/x-www-form-urlencoded"
_NO_TOKEN = f"no bearer token arrived (Apache's mod_wsgi passes it on with {APACHE_OPTION} only)"
_METRICS = {
    "sqstee_bytes_total": ("counter", "Bytes of accepted posts, as sent, repeated ones included."),
    "sqstee_records_total": ("counter", "Records stored: a gap event is one, and a repeated record none."),
    "sqstee_requests_total": ("counter", "Requests answered, by status."),
    "sqstee_requests_waiting": ("gauge", "Posts that are being read, decoded or stored."),
    "sqstee_rows_stored_total": ("counter", "Rows stored: each holds consecutive records of a run."),
    "sqstee_runs_removed_total": ("counter", "Runs that the store's retention has removed."),
    "sqstee_store_bytes": ("gauge", "Space that the rows in the store occupy."),
    "sqstee_store_limit_bytes": ("gauge", "Space from which the store refuses records (SQSTEE_LOCAL_MAX)."),
    "sqstee_store_refuses": ("gauge", "1 if the store refused the latest records, otherwise 0."),
}
_OF_STORE = ("sqstee_store_bytes", "sqstee_store_limit_bytes")  # the same in each process


class RefusedError(Exception):
    """A refusal, answered with `status` and one line with the `reason`."""

    def __init__(self, status: int, reason: str, *headers: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class Reading(Protocol):
    """The WSGI application that readers of the store get, and its metrics."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """WSGI (PEP 3333)."""

    def metrics(self, environ: WSGIEnvironment) -> str:
        """Its metrics in Prometheus' text format."""


class Collector:
    """The WSGI application for one store and a set of tokens (none: anybody may post).

    `board`, if there is one, answers requests other than a POST of records and the collector's own pages.
    """

    def __init__(self, store: Sender, accepted: Sequence[str] = (), board: Reading | None = None) -> None:
        self._board = board
        self._committer = Committer(store)
        self._store = store
        self._tokens = [token.encode() for token in accepted]
        self._decoding = threading.BoundedSemaphore(_MAX_DECODING)
        self._lock = threading.Lock()
        self._busy = 0
        self._refused = False  # whether the store refused the latest records
        self._reported = ""
        self._report_again_at = 0.0
        self._answers: Counter[int] = Counter()
        self._accepted_bytes = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """WSGI (PEP 3333)."""
        if self._board and _is_readers(environ):
            return self._board(environ, start_response)
        headers: tuple[tuple[str, str], ...] = ()
        try:
            status, text = 200, self._answer(environ)
        except RefusedError as refusal:
            status, text, headers = refusal.status, f"{refusal.reason}\n", refusal.headers
        body = text.encode()
        with self._lock:
            self._answers[status] += 1
        start_response(_REASONS[status], _head(body, *headers))
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _answer(self, environ: WSGIEnvironment) -> str:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if _is_own(environ):
            if method not in ("GET", "HEAD"):
                raise RefusedError(405, f"{path} allows GET and HEAD only", ("Allow", "GET, HEAD"))
            if path == "/health":
                return "ok\n"
            self._authorize(environ)
            return self._metrics(environ) + (self._board.metrics(environ) if self._board else "")
        if method != "POST":
            raise RefusedError(405, "send records with POST", ("Allow", "POST"))
        self._authorize(environ)
        return self._post(environ)

    def _authorize(self, environ: WSGIEnvironment) -> None:
        """Compare the bearer token with each accepted one, in a time that does not depend on them."""
        if not self._tokens:
            return
        if not environ.get("HTTP_AUTHORIZATION"):
            raise RefusedError(401, _NO_TOKEN, ("WWW-Authenticate", "Bearer"))
        scheme, _, given = environ["HTTP_AUTHORIZATION"].partition(" ")
        token = given.strip().encode("latin-1", "replace")
        if scheme.lower() != "bearer" or not token:
            reason = "the Authorization header holds no bearer token"
            raise RefusedError(401, reason, ("WWW-Authenticate", "Bearer"))
        matches = [hmac.compare_digest(token, accepted) for accepted in self._tokens]
        if not any(matches):
            error = 'Bearer error="invalid_token"'
            raise RefusedError(401, "the bearer token is not one of the collector's", ("WWW-Authenticate", error))

    def _post(self, environ: WSGIEnvironment) -> str:
        with self._lock:
            if self._busy >= MAX_BUSY:
                raise _unavailable("too many requests")
            self._busy += 1
        try:
            sent = _read(environ)
            with self._decoding:
                bodies = _bodies(_decompressed(sent, environ.get("HTTP_CONTENT_ENCODING", "")))
            try:
                self._committer.commit(bodies)
            except TransportError as error:
                self._report(environ, _advice(error, self._store) if error.code == FULL else str(error))
                raise _unavailable("the records could not be stored", round(error.after)) from None
            self._report(environ, "")
        finally:
            with self._lock:
                self._busy -= 1
        with self._lock:
            self._accepted_bytes += len(sent)
        records = sum(body.data.count(b"\n") for body in bodies)
        return f"{records} records\n"

    def _report(self, environ: WSGIEnvironment, problem: str) -> None:
        """Note the store's problem, or its absence; log a new problem at once, the same one again every hour."""
        now = time.monotonic()
        with self._lock:
            self._refused = bool(problem)
            if not problem or (problem == self._reported and now < self._report_again_at):
                return
            self._reported, self._report_again_at = problem, now + _REPORT_AGAIN_SECONDS
        _log(environ, problem)

    def _metrics(self, environ: WSGIEnvironment) -> str:
        """The metrics of this process since its start, in Prometheus' text format."""
        with self._lock:
            found = {
                "sqstee_bytes_total": {"": self._accepted_bytes},
                "sqstee_requests_total": {f'status="{status}"': times for status, times in self._answers.items()},
                "sqstee_requests_waiting": {"": self._busy},
                "sqstee_store_refuses": {"": int(self._refused)},
            }
        if isinstance(self._store, LocalSender):
            found |= {
                "sqstee_records_total": {"": self._store.stored_records},
                "sqstee_rows_stored_total": {"": self._store.stored},
                "sqstee_store_bytes": {"": self._store.present_size()},
                "sqstee_store_limit_bytes": {"": self._store.limit},
            }
            if self._store.retention:
                found["sqstee_runs_removed_total"] = {"": self._store.retention.removed}
        return exposition(_METRICS, found, os.getpid() if environ["wsgi.multiprocess"] else 0, _OF_STORE)


def _is_own(environ: WSGIEnvironment) -> bool:
    """Whether a request is for a page of the collector's own."""
    return environ.get("PATH_INFO", "") in ("/health", "/metrics")


def _is_readers(environ: WSGIEnvironment) -> bool:
    """Whether a request is for the board: any page but the collector's own, or the form of the board's login."""
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return not _is_own(environ)
    kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    return (environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), kind) == ("POST", "/login", _FORM)


class _Ticket:
    """The bodies of one request on their way to the disk."""

    __slots__ = ("bodies", "done", "error")

    def __init__(self, bodies: list[Body]) -> None:
        self.bodies = bodies
        self.done = False
        self.error: TransportError | None = None


class Committer:
    """Stores the bodies of all waiting requests in one transaction: one wait for the disk serves all of them."""

    def __init__(self, store: Sender) -> None:
        self._store = store
        self._waiting: list[_Ticket] = []
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def commit(self, bodies: list[Body]) -> None:
        """Return once the bodies are on disk. Raises TransportError if they are not, or may not be."""
        ticket = _Ticket(bodies)
        with self._lock:
            self._waiting.append(ticket)
        if not self._turn.acquire(timeout=_COMMIT_SECONDS):
            self._give_up(ticket)
            raise TransportError(RETRY, "Busy", "the disk is too slow")
        try:
            if not ticket.done:  # no other request has committed it meanwhile
                self._commit_all()
        finally:
            self._turn.release()
        if ticket.error:
            raise ticket.error

    def _give_up(self, ticket: _Ticket) -> None:
        """Drop a request whose sender will repeat it: while the disk hangs, memory must not fill up with requests."""
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def _commit_all(self) -> None:
        with self._lock:
            tickets, self._waiting = self._waiting, []
        error = None
        try:
            self._store.send([body for ticket in tickets for body in ticket.bodies])
        except TransportError as refusal:
            error = refusal
        except Exception as problem:
            error = TransportError(RETRY, type(problem).__name__, str(problem))
        for ticket in tickets:
            ticket.error, ticket.done = error, True


def _unavailable(reason: str, seconds: int = 0) -> RefusedError:
    return RefusedError(503, reason, ("Retry-After", str(seconds or _RETRY_AFTER_SECONDS)))


def _advice(full: TransportError, store: Sender) -> str:
    if isinstance(store, LocalSender) and store.retention and store.retention.most_bytes:
        return f"{full.message}, records are refused: all its runs go on; raise SQSTEE_STORE_MAX"
    return f"{full.message}, records are refused: make room with `sqstee drain`, or raise SQSTEE_LOCAL_MAX"


def _head(body: bytes, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """An answer's headers. One of them tells senders that no proxy has made up the answer."""
    length = ("Content-Length", str(len(body)))
    return [("Content-Type", _TEXT), length, (COLLECTOR_HEADER, FORMAT_VERSION), *more]


def _log(environ: WSGIEnvironment, text: str) -> None:
    environ["wsgi.errors"].write(f"sqstee: {text}\n")
    environ["wsgi.errors"].flush()


def _read(environ: WSGIEnvironment) -> bytes:
    """The body of a request, as sent."""
    length = _length(environ)
    source, parts, rest = environ["wsgi.input"], [], MAX_POST_BYTES + 1 if length is None else length
    while rest > 0:
        try:
            part = source.read(min(rest, 65536))
        except Exception as error:  # each server has errors of its own for an upload that was cut off
            raise RefusedError(400, f"the request cannot be read: {type(error).__name__}") from None
        if not part:
            break
        parts.append(part)
        rest -= len(part)
    if length is None and rest <= 0:
        raise _too_large(MAX_POST_BYTES)
    if length is not None and rest > 0:
        raise RefusedError(400, "the request is shorter than its Content-Length")
    return b"".join(parts)


def _length(environ: WSGIEnvironment) -> int | None:
    """The Content-Length; None if the server itself finds the end (a chunked request)."""
    text = environ.get("CONTENT_LENGTH") or ""
    if not text:
        if environ.get("wsgi.input_terminated") or "HTTP_TRANSFER_ENCODING" in environ:
            return None
        raise RefusedError(411, "the Content-Length is missing")
    if not (text.isascii() and text.isdigit()):
        raise RefusedError(400, "the Content-Length is not a number")
    if len(text) > _LONGEST_LENGTH or int(text) > MAX_POST_BYTES:
        raise _too_large(MAX_POST_BYTES)
    return int(text)


def _too_large(limit: int) -> RefusedError:
    return RefusedError(413, f"a request must be shorter than {limit} bytes")


def _decompressed(sent: bytes, encoding: str) -> bytes:
    if encoding.strip().lower() in ("", "identity"):
        return sent
    if encoding.strip().lower() != "gzip":
        raise RefusedError(415, "the Content-Encoding must be gzip or none", ("Accept-Encoding", "gzip"))
    try:
        return gunzip(sent, MAX_RECORDS_BYTES)
    except ValueError as error:
        if "bytes when unpacked" in str(error):
            raise _too_large(MAX_RECORDS_BYTES) from None
        raise RefusedError(400, f"not gzip: {error}") from None


def _bodies(data: bytes) -> list[Body]:
    """Records as bodies for the store, one per stretch of a run. Raises RefusedError if a line is not a record."""
    try:
        found = by_run(data)
    except DecodeError as error:
        raise RefusedError(400, str(error)[:200]) from None
    if not found:
        raise RefusedError(400, "the request has no records")
    if len(found) > MAX_ROWS:
        raise RefusedError(413, f"a request must have at most {MAX_ROWS} stretches of consecutive records")
    if not all(0 < len(body.run) <= _MAX_RUN and body.run.isascii() and body.run.isprintable() for body in found):
        raise RefusedError(400, "not a record of sqstee: a run has 1 to 128 printable ASCII characters")
    return found


def open_store(text: str, default: str, limit: int, retention: Retention | None = None) -> LocalSender:
    """Open the store that a destination names; raises SqsteeError if it is not a local queue, or cannot be opened.

    The store refuses records beyond `limit`, or beyond the size of the retention, if that has one.
    """
    destination = parse(text)
    if destination.kind != "local" or not (destination.name or default):
        raise SqsteeError(
            f"invalid store {text!r} (expected local:PATH)", "sqstee serve --store local:/var/lib/sqstee.db"
        )
    if retention and retention.most_bytes:
        limit = retention.most_bytes
    limit = max(limit, _LEAST_STORE_BYTES)
    store = LocalSender(destination.name or default, limit, durable=True, keeps=True, retention=retention)
    try:
        store.open()
    except TransportError as error:
        hint = "choose a file in a writable folder: sqstee serve --store local:/var/lib/sqstee.db"
        raise SqsteeError(f"cannot open the store: {error.message}", hint) from None
    if store.rebuilt:
        rows = count(store.rebuilt, "damaged row")
        write_stderr(f"sqstee: {one_line(store.path)}: {rows} of runs rebuilt from their messages\n")
    return store


_configuring = threading.Lock()


@functools.cache
def _from_environment() -> Collector:
    from sqstee.settings import load_settings

    settings = load_settings((), os.environ)
    try:
        accepted = tokens(settings.token_file)
    except ValueError as error:
        raise SqsteeError(f"cannot read the token: {error}", "set SQSTEE_TOKEN or SQSTEE_TOKEN_FILE") from None
    text = os.environ.get("SQSTEE_STORE", "local")
    store = open_store(text, "", settings.local_max, configured())
    return Collector(store, accepted, _board(text, accepted))


def _board(store: str, accepted: Sequence[str]) -> Reading | None:
    """The board of the store, where it has tokens. Raises SqsteeError."""
    if not (os.environ.get("SQSTEE_WEB_TOKEN") or os.environ.get("SQSTEE_WEB_TOKEN_FILE")):
        return None
    from sqstee.web import store_path
    from sqstee.web import tokens as web_tokens
    from sqstee.web.access import Access
    from sqstee.web.board import Board

    return Board(store_path(store, ""), Access(web_tokens("", accepted)))


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application that mod_wsgi, gunicorn, granian or waitress loads; configured at the first request."""
    try:
        with _configuring:  # threads with a collector each would each have counts of their own
            collector = _from_environment()
    except SqsteeError as error:
        _log(environ, f"{error.message} ({error.hint})")
        body = b"the collector is not configured\n"
        start_response(_REASONS[503], _head(body, ("Retry-After", "30")))
        return [body]
    return collector(environ, start_response)
