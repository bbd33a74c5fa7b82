"""Other services under the faults of the fake SQS: a strict Amazon S3, a WSGI application, any HTTP server.

    with FakeWeb(FakeS3("bkt")) as web:
        web.faults(errors=[{"probability": 0.4, "code": "SlowDown", "status": 503}])
        subprocess.run([...], env=os.environ | web.environ())

An application is a function from a request to a response; it runs in threads of the test's process. An operation, for
the faults, is the request's method. The application writes injected errors as its own.
"""

from __future__ import annotations

import http.client
import io
import sys
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, Unpack

from .sqs.errors import InjectedError
from .sqs.faults import Faults
from .sqs.recorder import Call
from .sqs.server import Server
from .sqs.service import Service
from .sqs.signature import ACCESS_KEY, REGION, SECRET_KEY

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


@dataclass(slots=True)
class HttpRequest:
    """A request: `path` is unquoted, `query` parsed, header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class HttpResponse:
    """A response."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Application(Protocol):
    """A service: a function, and its way to write errors."""

    def __call__(self, request: HttpRequest, /) -> HttpResponse:
        """Execute a request."""

    def refusal(self, code: str, status: int, message: str) -> HttpResponse:
        """An error as the service writes it."""


A = TypeVar("A", bound=Application)


class Web(Service):
    """The service behind the connections: it adds faults and counters to an application."""

    def __init__(self, application: Application, faults: Mapping[str, Any]) -> None:
        super().__init__(faults)
        self.application = application

    @staticmethod
    def operation(method: str, path: str, headers: Mapping[str, str]) -> str:
        """The method."""
        return method

    def respond(self, call: Call, headers: Mapping[str, str], path: str, body: bytearray) -> bytes:
        """Execute a request and count it; the whole HTTP response."""
        url = urllib.parse.urlsplit(path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        request = HttpRequest(call.operation, urllib.parse.unquote(url.path), query, headers, bytes(body))
        try:
            self.faults.raise_error(call.operation)
            found = self.application(request)
        except InjectedError as error:
            if error.given.get("stored"):
                self.application(request)
            found = self.application.refusal(error.given["code"], error.status, error.message)
            found.headers |= error.given.get("headers", {})
        self.recorder.finished(call, len(body), len(found.body), found.status, "")
        head = [f"HTTP/1.1 {found.status} {http.client.responses.get(found.status, 'Unknown')}"]
        headers = {"Content-Length": str(len(found.body)), "Date": formatdate(usegmt=True), **found.headers}
        head += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join((*head, "", "")).encode("latin-1") + (b"" if call.operation == "HEAD" else found.body)


class FakeWeb:
    """An application on a port of 127.0.0.1, with the faults of `FakeSqs`."""

    def __init__(self, application: Application, latency_ms: float = 0.0) -> None:
        self._service = Web(application, {"latency_ms": latency_ms})
        self._server = Server(self._service)
        self.url = self._service.endpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear_faults()
        self._server.close()

    def serve(self, around: Callable[[Application], A]) -> A:
        """Put another application in front of the present one; the new one."""
        self._service.application = found = around(self._service.application)
        return found

    def environ(self) -> dict[str, str]:
        """Environment variables that lead boto3's S3 here."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
        }

    def faults(self, **changes: Unpack[Faults]) -> None:
        """Put faults in force; other fields stay as they are."""
        self._service.faults.update(changes)

    def clear_faults(self) -> None:
        """Remove all faults, and release the black hole."""
        self._service.faults.clear()

    def release(self) -> None:
        """Close the black hole, and let the requests in it go on."""
        self._service.faults.release()

    @property
    def active(self) -> int:
        """Running requests."""
        return self._service.recorder.active

    @property
    def injected(self) -> Mapping[str, int]:
        """How often each fault struck."""
        return dict(self._service.recorder.injected)

    @property
    def calls(self) -> Mapping[str, int]:
        """Finished requests, by method."""
        return dict(self._service.recorder.calls)


class Wsgi:
    """A WSGI application in this process."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Execute a request."""
        found = HttpResponse(0)

        def start(status: str, headers: list[tuple[str, str]], failure: object = None) -> Callable[[bytes], object]:
            found.status, found.headers = int(status.split()[0]), dict(headers)
            return lambda data: None

        environ = {
            "REQUEST_METHOD": request.method,
            "PATH_INFO": request.path,
            "CONTENT_LENGTH": request.headers.get("content-length", ""),
            "wsgi.input": io.BytesIO(request.body),
            "wsgi.errors": sys.stderr,
        }
        environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()}
        found.body = b"".join(self._application(environ, start))
        return found

    refusal = staticmethod(lambda code, status, message: plain(code, status, message))


class Forward:
    """An HTTP server elsewhere; each thread keeps a connection to it."""

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("http://").rstrip("/")
        self._own = threading.local()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Execute a request."""
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = http.client.HTTPConnection(self._address, timeout=60)
        connection.request(request.method, request.path, request.body, dict(request.headers))
        answer = connection.getresponse()
        return HttpResponse(answer.status, answer.read(), {"Content-Type": answer.getheader("Content-Type", "")})

    refusal = staticmethod(lambda code, status, message: plain(code, status, message))


def plain(code: str, status: int, message: str) -> HttpResponse:
    """An error as plain text."""
    return HttpResponse(status, f"{code}: {message}\n".encode(), {"Content-Type": "text/plain"})
