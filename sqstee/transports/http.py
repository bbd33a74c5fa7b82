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
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence

from sqstee import __version__
from sqstee.destination import Destination
from sqstee.record import CONTENT_TYPE, Body
from sqstee.transports.base import BatchLimits
from sqstee.transports.errors import OPEN, REFRESH, RETRY, TIMEOUT, Failure, TransportError, classify

TOKEN_VARIABLE = "SQSTEE_TOKEN"
CONNECT_SECONDS = 10.0  # also bounds the upload of a request
READ_SECONDS = 20.0
_ANSWER_BYTES = 65536  # the most that is read of an answer
_SHOWN_BYTES = 200  # the most of it that an error message shows
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


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


class HttpSender(BatchLimits):
    """Posts each body; posting one again does no harm, since its records have a run and seqs."""

    ordered = False
    max_entries = 1

    def __init__(self, destination: Destination, token_file: str = "") -> None:
        self._url = urllib.parse.urlsplit(destination.url)
        self._token_file = token_file
        self._tls = ssl.create_default_context() if self._url.scheme == "https" else None
        self._own = threading.local()  # one connection per thread
        self._authorization: str | None = None

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
        try:
            return _proxy(self._url)
        except ValueError as error:  # its text may hold a part of the password
            problem = f"invalid {self._url.scheme.upper()}_PROXY: expected http://HOST:PORT"
            raise TransportError(OPEN, "Proxy", problem) from error

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
            headers |= _credentials(self._proxy)
        data = body.data
        if body.encoding:
            data, headers["Content-Encoding"] = binascii.a2b_base64(data), "gzip"
        authorization = self._read_token() if self._authorization is None else self._authorization
        if authorization:
            headers["Authorization"] = authorization
        try:
            status, reason, answer, after = self._call(data, headers)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            if isinstance(error, TimeoutError):
                raise TransportError(RETRY, TIMEOUT, str(error) or "no answer in time") from error
            if isinstance(error, ssl.SSLCertVerificationError):
                raise TransportError(OPEN, "Certificate", error.verify_message) from error
            raise TransportError(RETRY, "Network", str(error) or type(error).__name__) from error
        except UnicodeError as error:  # the host's name cannot be encoded as IDNA
            raise TransportError(OPEN, "Host", str(error)) from error
        if not 200 <= status < 300:
            raise self._refusal(status, reason, answer, after, authorization)

    def _call(self, data: bytes, headers: dict[str, str]) -> tuple[int, str, bytes, float]:
        """Send one request; status, reason, the first bytes of the answer, and the seconds of Retry-After.

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

    def _exchange(
        self, connection: http.client.HTTPConnection, data: bytes, headers: dict[str, str]
    ) -> tuple[int, str, bytes, float]:
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
        answer = connection.getresponse()
        text = answer.read(_ANSWER_BYTES)
        after = _seconds(answer.getheader("Retry-After", ""))
        if answer.will_close or not answer.isclosed():
            self._drop()
        return answer.status, answer.reason, text, after

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
            host, port = self._proxy.hostname, self._proxy.port or 80
        if self._tls is None:
            return http.client.HTTPConnection(host or "", port)
        connection = http.client.HTTPSConnection(host or "", port, context=self._tls)
        if self._proxy:
            connection.set_tunnel(self._url.hostname or "", self._url.port or 443, _credentials(self._proxy))
        return connection

    def _drop(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            self._own.connection = None

    def _refusal(self, status: int, reason: str, answer: bytes, after: float, authorization: str) -> TransportError:
        code = f"Http{status}"
        kind = classify(code, status)
        if kind == REFRESH and authorization != self._authorization:
            kind = RETRY  # another thread has dropped that token already: the current one was not refused
        elif kind == REFRESH:
            self._authorization = None  # the next request reads the file again: it may have a new token
        text = answer[:_SHOWN_BYTES].decode("utf-8", "replace").strip()
        return TransportError(kind, code, f"{reason}: {text}" if text else reason, after)


def _seconds(text: str) -> float:
    """The seconds of a Retry-After header: a number or a date (RFC 9110, 10.2.3); 0 for anything else."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _proxy(url: urllib.parse.SplitResult) -> urllib.parse.SplitResult | None:
    """The proxy for a URL by HTTP_PROXY, HTTPS_PROXY and NO_PROXY. Raises ValueError if the proxy's URL is invalid."""
    found = urllib.request.getproxies().get(url.scheme, "")
    if not found or urllib.request.proxy_bypass(url.netloc):
        return None
    proxy = urllib.parse.urlsplit(found if "://" in found else f"http://{found}")
    _ = proxy.port  # raises ValueError if it is not a port
    return proxy


def _credentials(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    """The header with the user and password in a proxy's URL, if it has them (RFC 7617)."""
    if proxy.username is None:
        return {}
    pair = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {binascii.b2a_base64(pair.encode(), newline=False).decode()}"}
