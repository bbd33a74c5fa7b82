"""moto's S3 with a bucket `bkt`, in threads of the test's process: it records calls, fails on demand, and restarts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import boto3
from support import Rebuilt, reserved
from werkzeug.serving import BaseWSGIServer, make_server

from sqstee.wire import decode

ANSWERS = {
    "SlowDown": "503 Slow Down",
    "InternalError": "500 Internal Server Error",
    "AccessDenied": "403 Forbidden",
    "NotImplemented": "501 Not Implemented",
    "EntityTooLarge": "400 Bad Request",
    "ExpiredToken": "400 Bad Request",
}
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class S3Server:
    """`faults` holds the errors of the next PUTs: a code of ANSWERS, and whether the PUT is executed all the same."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._application: Application = DomainDispatcherApplication(create_backend_app)
        self._reserved = reserved()  # keeps the port while the server is stopped
        self._port: int = self._reserved.getsockname()[1]
        self._server: BaseWSGIServer | None = None
        self.calls: list[tuple[str, str, dict[str, str]]] = []  # method, path, headers
        self.faults: deque[tuple[str, bool]] = deque()
        self.too_large = 0  # PUTs of more bytes are refused; 0: no limit
        self.conditional = True
        self.pages = 0  # number of requests that a login portal answers with its page
        self.page_type = "text/html"

    def __enter__(self) -> S3Server:
        from moto.s3.models import s3_backends

        s3_backends.reset()
        self.start()
        self.client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.client.create_bucket(Bucket="bkt")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.stop()
        self._reserved.close()

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, always on the same port."""
        self._server = make_server("127.0.0.1", self._port, self._serve, threaded=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections; objects are kept."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def environ(self) -> dict[str, str]:
        """Environment variables that lead boto3's S3 here."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def puts(self) -> list[dict[str, str]]:
        """The headers of all PUTs of objects, refused ones included."""
        return [headers for method, path, headers in self.calls if method == "PUT" and path.count("/") > 1]

    def names(self) -> list[str]:
        """The keys of all objects."""
        return [entry["Key"] for entry in self.client.list_objects_v2(Bucket="bkt").get("Contents", ())]

    def get(self, key: str) -> bytes:
        """An object."""
        data: bytes = self.client.get_object(Bucket="bkt", Key=key)["Body"].read()
        return data

    def rebuilt(self) -> Rebuilt:
        """The streams from all objects."""
        import gzip

        found = {key: self.get(key) for key in self.names()}
        bodies = [gzip.decompress(data) if key.endswith(".gz") else data for key, data in found.items()]
        assert all(decode(body) for body in bodies)
        return Rebuilt((body, {}) for body in bodies)

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name[:5] == "HTTP_"}
        self.calls.append((method, path, headers))
        if self.pages:
            self.pages -= 1
            return _show_page(environ, start_response, self.page_type)
        if method == "PUT" and path.count("/") > 1:
            if not self.conditional and "if-none-match" in headers:
                return _refuse("NotImplemented", environ, start_response)
            if self.faults:
                code, done = self.faults.popleft()
                if done:
                    list(self._application(environ, lambda *_: None))
                    environ = environ | {"CONTENT_LENGTH": ""}
                return _refuse(code, environ, start_response)
            if 0 < self.too_large < int(environ.get("CONTENT_LENGTH") or 0):
                return _refuse("EntityTooLarge", environ, start_response)
        return self._application(environ, start_response)


def _refuse(code: str, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as asked</Message></Error>".encode()
    start_response(ANSWERS[code], [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def _show_page(environ: dict[str, Any], start_response: Callable[..., Any], content_type: str) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = b"<html><body>Please log in</body></html>"
    start_response("200 OK", [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]
