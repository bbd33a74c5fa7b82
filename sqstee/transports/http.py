"""An HTTP collector: one POST of NDJSON per body, over kept connections.

`sqstee serve` and Vector's http_server source (newline_delimited, json) accept the body as it is. It is sent with
http.client, since urllib3's pools take 200 µs of CPU per POST of 64 KiB in place of 110.
"""

from __future__ import annotations

import binascii
import email.utils
import functools
import http.client
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Sequence

from sqstee import __version__
from sqstee.destination import Destination
from sqstee.record import CONTENT_TYPE, Body
from sqstee.transports.base import BatchLimits
from sqstee.transports.connection import (
    COLLECTOR_BUNDLES,
    connection_refusal,
    network_refusal,
    proxy_address,
    proxy_credentials,
    proxy_of,
    proxy_refusal,
    tls_context,
)
from sqstee.transports.errors import OPEN, POISON, REFRESH, RETRY, Failure, TransportError, classify, is_html

TOKEN_VARIABLE = "SQSTEE_TOKEN"
COLLECTOR_HEADER = "Sqstee-Collector"  # in each answer of our own collector; its value is the wire format's version
APACHE_OPTION = "WSGIPassAuthorization On"  # in the answer of a collector that no token has reached
HTML_PAGE = "an HTML page"
CONNECT_SECONDS = 10.0  # also bounds the upload of a request
READ_SECONDS = 20.0
_ANSWER_BYTES = 65536  # the most that is read of an answer
_SHOWN_BYTES = 200  # the most of it that an error message shows
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_TITLE = re.compile(rb"<title[^>]*>([^<]*)", re.IGNORECASE)


def tokens(path: str) -> list[str]:
    """The bearer tokens in a file (one per line), or else the one in SQSTEE_TOKEN; raises ValueError."""
    if path:
        try:
            with open(path, encoding="ascii") as file:
                found = [line.strip() for line in file if line.strip()]
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        if not found:
            raise ValueError(f"{path} has no token")
    else:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        found = [token] if token else []
    if not all(token.isascii() and token.isprintable() for token in found):
        raise ValueError("a token must have printable ASCII characters only")
    return found


class HttpAnswer:
    """An answer, and the start of its body."""

    def __init__(self, status: int, reason: str, headers: email.message.Message, text: bytes) -> None:
        self.status = status
        self.reason = reason
        self.text = text
        self.after = _seconds(headers.get("Retry-After", ""))
        self.by_collector = COLLECTOR_HEADER in headers
        says_html = "html" in headers.get_content_subtype()
        # frameworks give "ok" the type of a page too, so that the type alone says nothing
        looks_html = is_html(text) or (says_html and (b"<" in text or "Content-Encoding" in headers))
        self.is_page = looks_html and not self.by_collector

    def __str__(self) -> str:
        """The reason, and the server's own words: of a page, its title."""
        if self.is_page:
            title = _TITLE.search(self.text)
            text = f'{HTML_PAGE} "{_decoded(title[1][:_SHOWN_BYTES])}"' if title else HTML_PAGE
        else:
            text = _decoded(self.text[:_SHOWN_BYTES])
        return f"{self.reason}: {text}" if text else self.reason


class HttpSender(BatchLimits):
    """Posts each body; posting one again does no harm, since its records have a run and seqs."""

    ordered = False
    max_entries = 1

    def __init__(self, destination: Destination, token_file: str = "") -> None:
        self._url = urllib.parse.urlsplit(destination.url)
        self._token_file = token_file
        self._tls = tls_context() if self._url.scheme == "https" else None
        self._own = threading.local()  # one connection per thread
        self._authorization: str | None = None
        self._by_collector = False  # once an answer had COLLECTOR_HEADER, others are not the collector's

    def open(self) -> int:
        """Read the token and the proxy's address, without a request to the collector."""
        self._read_token()
        _ = self._proxy
        return self.max_request_bytes

    def send(self, bodies: Sequence[Body]) -> list[Failure]:
        """Make one POST per body."""
        for body in bodies:
            self._post(body)
        return []

    def close(self) -> None:
        """Close this thread's connection; those of other threads close with their threads."""
        self._drop()

    @property
    def authorized(self) -> bool:
        """Whether requests carry a token."""
        return bool(self._authorization)

    @functools.cached_property
    def _proxy(self) -> urllib.parse.SplitResult | None:
        return proxy_of(self._url.geturl(), ("http",))

    def _read_token(self) -> str:
        try:
            found = tokens(self._token_file)
        except ValueError as error:
            raise TransportError(OPEN, "Configuration", f"cannot read the token: {error}") from error
        self._authorization = f"Bearer {found[0]}" if found else ""
        return self._authorization

    def _post(self, body: Body) -> None:
        headers = {"Content-Type": CONTENT_TYPE, "User-Agent": f"sqstee/{__version__}"}
        if self._proxy and self._tls is None:
            headers |= proxy_credentials(self._proxy)
        data = body.data
        if body.encoding:
            data, headers["Content-Encoding"] = binascii.a2b_base64(data), "gzip"
        authorization = self._read_token() if self._authorization is None else self._authorization
        if authorization:
            headers["Authorization"] = authorization
        try:
            answer = self._call(data, headers)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            url = self._url.geturl()
            raise (connection_refusal(error, url, COLLECTOR_BUNDLES) or network_refusal(error, url)) from error
        except UnicodeError as error:  # the host's name cannot be encoded as IDNA
            raise TransportError(OPEN, "Host", str(error)) from error
        refusal = self._refusal(answer, authorization)
        if refusal:
            raise refusal

    def _call(self, data: bytes, headers: dict[str, str]) -> HttpAnswer:
        """Send one request.

        A kept connection that the server closed while it was idle is replaced once, without a pause.
        """
        kept = getattr(self._own, "connection", None) is not None
        try:
            return self._exchange(self._connection(), data, headers)
        except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
            self._drop()
            if not kept:
                raise
            return self._exchange(self._connection(), data, headers)

    def _exchange(self, connection: http.client.HTTPConnection, data: bytes, headers: dict[str, str]) -> HttpAnswer:
        if connection.sock is None:
            connection.timeout = CONNECT_SECONDS
            connection.connect()
        connection.sock.settimeout(CONNECT_SECONDS)
        try:
            connection.request("POST", self._target, data, headers)
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:
                raise
            # a server may refuse before it has read the whole body: then its answer can still be read
        if connection.sock is not None:
            connection.sock.settimeout(READ_SECONDS)
        response = connection.getresponse()
        answer = HttpAnswer(response.status, response.reason, response.headers, response.read(_ANSWER_BYTES))
        if response.will_close or not response.isclosed():
            self._drop()
        return answer

    @property
    def _target(self) -> str:
        target = urllib.parse.urlunsplit(("", "", self._url.path or "/", self._url.query, ""))
        target = urllib.parse.quote(target, safe=_ASCII)
        if self._proxy and self._tls is None:
            return f"http://{self._url.netloc}{target}"
        return target

    def _connection(self) -> http.client.HTTPConnection:
        """This thread's connection; a new one is not connected yet."""
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._new_connection()
        return connection

    def _new_connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname, self._url.port
        if self._proxy:
            host, port = proxy_address(self._proxy)
        if self._tls is None:
            return http.client.HTTPConnection(host or "", port)
        connection = http.client.HTTPSConnection(host or "", port, context=self._tls)
        if self._proxy:
            connection.set_tunnel(self._url.hostname or "", self._url.port or 443, proxy_credentials(self._proxy))
        return connection

    def _drop(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            self._own.connection = None

    def _refusal(self, answer: HttpAnswer, authorization: str) -> TransportError | None:
        """The error that an answer means; None if the collector has accepted the records."""
        if answer.status == 407:
            return proxy_refusal(self._url.geturl(), answer.status, answer.reason)
        code = f"Http{answer.status}"
        kind = "" if 200 <= answer.status < 300 else classify(code, answer.status)
        self._by_collector = self._by_collector or answer.by_collector
        by_another = self._by_collector and not answer.by_collector
        if (kind in ("", POISON) and by_another) or (not kind and answer.is_page):
            why = f" (no header {COLLECTOR_HEADER}, unlike before)" if by_another else ""
            return TransportError(RETRY, "NoAnswer", f"not an answer of the collector{why}: {answer.status} {answer}")
        if not kind:
            return None
        if kind == REFRESH and authorization != self._authorization:
            kind = RETRY  # another thread has dropped that token already: the current one was not refused
        elif kind == REFRESH:
            self._authorization = None  # the next request reads the file again: it may have a new token
        return TransportError(kind, code, str(answer), answer.after)


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace").strip()


def _seconds(text: str) -> float:
    """The seconds of a Retry-After header: a number or a date (RFC 9110, 10.2.3); 0 for anything else."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
