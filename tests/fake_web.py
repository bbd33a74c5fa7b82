"""Other services behind the faults of the fake SQS: a strict Amazon S3, a WSGI application, any HTTP server.

    with FakeWeb(FakeS3("bkt")) as web:
        web.faults(errors=[{"probability": 0.4, "code": "SlowDown", "status": 503}])
        subprocess.run([...], env=os.environ | web.environ())

What is served is a function of a request; it runs in threads of the test's own process. Faults strike by operation:
the request's method. An error that they ask for is written as the service writes its own.
"""

from __future__ import annotations

import base64
import http.client
import io
import sys
import threading
import urllib.parse
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, Unpack
from xml.sax.saxutils import escape

from fake_sqs import ACCESS_KEY, REGION, SECRET_KEY, Call, Faults, InjectedError, Server, Service

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


@dataclass(slots=True)
class Asked:
    """A request: `path` is unquoted, `query` parsed, header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Answer:
    """What is answered."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Application(Protocol):
    """What is served."""

    def __call__(self, asked: Asked) -> Answer:
        """Carry a request out."""

    def refusal(self, code: str, status: int, message: str) -> Answer:
        """An error as this service writes it."""


A = TypeVar("A", bound=Application)


class Web(Service):
    """The service behind the connections: the faults of the fake SQS, the application's answers."""

    def __init__(self, application: Application, faults: Mapping[str, Any]) -> None:
        super().__init__(faults=faults)
        self.application = application

    @staticmethod
    def operation(method: str, path: str, headers: Mapping[str, str]) -> str:
        """The method."""
        return method

    def respond(self, call: Call, headers: Mapping[str, str], path: str, body: bytearray) -> bytes:
        """Carry a request out, and count it: the whole response."""
        url = urllib.parse.urlsplit(path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        asked = Asked(call.operation, urllib.parse.unquote(url.path), query, headers, bytes(body))
        try:
            self.inject(call.operation)
            found = self.application(asked)
        except InjectedError as error:
            if error.given.get("stored"):
                self.application(asked)
            found = self.application.refusal(error.given["code"], error.status, error.message)
            found.headers |= error.given.get("headers", {})
        self.note(call, len(body), len(found.body), found.status, "")
        head = [f"HTTP/1.1 {found.status} {http.client.responses.get(found.status, 'Unknown')}"]
        headers = {"Content-Length": str(len(found.body)), **found.headers}
        head += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join((*head, "", "")).encode("latin-1") + (b"" if call.operation == "HEAD" else found.body)


class FakeWeb:
    """An application on a port of 127.0.0.1, with faults; its faults are put in force as those of `FakeSqs` are."""

    def __init__(self, application: Application, latency_ms: float = 0.0) -> None:
        self._service = Web(application, {"latency_ms": latency_ms})
        self._server = Server(self._service)
        self.url = self._service.endpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear_faults()
        self._server.refuse()
        self._server.reserved.close()

    def serve(self, around: Callable[[Application], A]) -> A:
        """Have the application behind another one; that."""
        self._service.application = found = around(self._service.application)
        return found

    def environ(self) -> dict[str, str]:
        """Environment variables that send boto3's S3 to it."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
        }

    def faults(self, **changes: Unpack[Faults]) -> None:
        """Put faults in force; fields not named stay as they are."""
        self._server.control_faults(**changes)

    def clear_faults(self) -> None:
        """Back to none; what the black hole holds goes on."""
        self._server.control_clear_faults()

    def release(self) -> None:
        """Let what the black hole holds go on, and close the hole."""
        self._server.control_release()

    @property
    def active(self) -> int:
        """Requests under way."""
        return self._service.active

    @property
    def injected(self) -> Mapping[str, int]:
        """Faults that struck, by their names."""
        return dict(self._service.injected)

    @property
    def calls(self) -> Mapping[str, int]:
        """Finished requests, by method."""
        return dict(self._service.calls)


class FakeS3:
    """One bucket of a strict Amazon S3: what it takes is whole, what it lists is in order; path-style, no signatures.

    Modelled from the API reference: PutObject with If-None-Match, Content-MD5 and checksums, GetObject, DeleteObject,
    DeleteObjects, ListObjectsV2 with StartAfter, MaxKeys and a continuation token. With `discard` objects are checked,
    and empty afterwards.
    """

    def __init__(self, bucket: str, discard: bool = False) -> None:
        self.bucket = bucket
        self._discard = discard
        self.objects: dict[str, bytes] = {}
        self._modified: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Answer:
        """Carry a request out."""
        bucket, _, key = asked.path.lstrip("/").partition("/")
        if bucket != self.bucket:
            return self.refusal("NoSuchBucket", 404, "The specified bucket does not exist")
        if "AWS4-HMAC-SHA256" not in asked.headers.get("authorization", ""):
            return self.refusal("AccessDenied", 403, "Access Denied")
        with self._lock:
            if asked.method == "PUT" and key:
                return self._put(key, asked)
            if asked.method == "GET" and key:
                return self._get(key)
            if asked.method == "DELETE" and key:
                self.objects.pop(key, None)
                return Answer(204)
            if asked.method == "GET" and asked.query.get("list-type") == "2":
                return self._list(asked.query)
            if asked.method == "POST" and "delete" in asked.query:
                return self._delete(asked)
        return self.refusal("NotImplemented", 501, "not modelled")

    @staticmethod
    def refusal(code: str, status: int, message: str) -> Answer:
        """S3's XML."""
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        return Answer(status, text.encode(), {"Content-Type": "application/xml"})

    def _put(self, key: str, asked: Asked) -> Answer:
        if "content-length" not in asked.headers:
            return self.refusal("MissingContentLength", 411, "You must provide the Content-Length HTTP header.")
        if not _intact(asked):
            return self.refusal("BadDigest", 400, "The checksum you specified did not match what we received.")
        condition = asked.headers.get("if-none-match")
        if condition not in (None, "*"):
            return self.refusal("NotImplemented", 501, "A header you provided implies functionality")
        if condition and key in self.objects:
            return self.refusal("PreconditionFailed", 412, "At least one of the pre-conditions did not hold")
        self.objects[key] = b"" if self._discard else asked.body
        self._modified[key] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        return Answer(200, b"", {"ETag": f'"{_etag(asked.body)}"'})

    def _get(self, key: str) -> Answer:
        if key not in self.objects:
            return self.refusal("NoSuchKey", 404, "The specified key does not exist.")
        headers = {"ETag": f'"{_etag(self.objects[key])}"', "Content-Type": "binary/octet-stream"}
        return Answer(200, self.objects[key], headers)

    def _list(self, query: Mapping[str, str]) -> Answer:
        after = query.get("continuation-token") or query.get("start-after", "")
        names = sorted(name for name in self.objects if name.startswith(query.get("prefix", "")) and name > after)
        most = min(1000, int(query.get("max-keys", "1000")))
        listed, more = names[:most], len(names) > most
        entries = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>{self._modified[name]}</LastModified>"
            f"<Size>{len(self.objects[name])}</Size></Contents>"
            for name in listed
        )
        token = f"<NextContinuationToken>{escape(listed[-1])}</NextContinuationToken>" if more else ""
        text = (
            "<?xml version='1.0'?><ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(listed)}</KeyCount>{token}{entries}"
            "</ListBucketResult>"
        )
        return Answer(200, text.encode(), {"Content-Type": "application/xml"})

    def _delete(self, asked: Asked) -> Answer:
        if not _intact(asked):
            return self.refusal("BadDigest", 400, "The checksum you specified did not match what we received.")
        for element in ET.fromstring(asked.body).iter():
            if element.tag.endswith("Key"):
                self.objects.pop(element.text or "", None)
        text = "<?xml version='1.0'?><DeleteResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'/>"
        return Answer(200, text.encode(), {"Content-Type": "application/xml"})


def _etag(data: bytes) -> str:
    return md5(data, usedforsecurity=False).hexdigest()


def _intact(asked: Asked) -> bool:
    """Whether the digests that came with a body are its own."""
    crc = base64.b64encode(zlib.crc32(asked.body).to_bytes(4, "big")).decode()
    digest = base64.b64encode(md5(asked.body, usedforsecurity=False).digest()).decode()
    given = asked.headers
    return given.get("x-amz-checksum-crc32", crc) == crc and given.get("content-md5", digest) == digest


class Wsgi:
    """A WSGI application in this process."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, asked: Asked) -> Answer:
        """Carry a request out."""
        found = Answer(0)

        def start(status: str, headers: list[tuple[str, str]], failure: object = None) -> Callable[[bytes], object]:
            found.status, found.headers = int(status.split()[0]), dict(headers)
            return lambda data: None

        environ = {
            "REQUEST_METHOD": asked.method,
            "PATH_INFO": asked.path,
            "CONTENT_LENGTH": asked.headers.get("content-length", ""),
            "wsgi.input": io.BytesIO(asked.body),
            "wsgi.errors": sys.stderr,
        }
        environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in asked.headers.items()}
        found.body = b"".join(self._application(environ, start))
        return found

    refusal = staticmethod(lambda code, status, message: plain(code, status, message))


class Forward:
    """An HTTP server elsewhere; a connection for each thread, which is kept."""

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("http://").rstrip("/")
        self._own = threading.local()

    def __call__(self, asked: Asked) -> Answer:
        """Carry a request out."""
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = http.client.HTTPConnection(self._address, timeout=60)
        connection.request(asked.method, asked.path, asked.body, dict(asked.headers))
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(), {"Content-Type": answer.getheader("Content-Type", "")})

    refusal = staticmethod(lambda code, status, message: plain(code, status, message))


def plain(code: str, status: int, message: str) -> Answer:
    """An error in words."""
    return Answer(status, f"{code}: {message}\n".encode(), {"Content-Type": "text/plain"})
