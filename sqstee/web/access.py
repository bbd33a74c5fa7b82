"""Who may read: a token in the URL or a form, in a cookie that a token has set, or in the Authorization header.

The cookie does not hold the token but a value that only the token yields, so that any worker process can check it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
from collections.abc import Mapping, Sequence

from sqstee.web.answers import RequestError

_PURPOSE = b"sqstee board, version 1"
_MOST_FAILURES = 20  # of one address, within _WINDOW_SECONDS
_WINDOW_SECONDS = 60.0
_MOST_ADDRESSES = 1000  # whose failures are counted
_MOST_COOKIES = 8192  # characters of all that a browser sends


class Access:
    """Checks tokens and, where `hosts` is not empty, the names by which the board was called.

    A page elsewhere can make its own name lead to 127.0.0.1 (DNS rebinding): the Host header then has that name.
    """

    def __init__(self, tokens: Sequence[str], hosts: Sequence[str] = ()) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._cookies = [hmac.new(token, _PURPOSE, hashlib.sha256).hexdigest() for token in self._tokens]
        self._hosts = frozenset(hosts)
        self._lock = threading.Lock()
        self._failures: dict[str, list[float]] = {}

    def check_host(self, environ: Mapping[str, str]) -> None:
        """Raise RequestError for a name that is not ours."""
        if self._hosts and _host_of(environ.get("HTTP_HOST", "")) not in self._hosts:
            raise RequestError(421, f"this board answers to {', '.join(sorted(self._hosts))} only")

    def cookie_for(self, environ: Mapping[str, str], token: str) -> str | None:
        """The Set-Cookie header for a token; None for a wrong one. Raises RequestError after too many of those."""
        self._check_failures(environ)
        given = token.encode("utf-8", "replace")
        matches = [hmac.compare_digest(given, accepted) for accepted in self._tokens]
        if not any(matches):
            self._count_failure(environ)
            return None
        value = self._cookies[matches.index(True)]
        path = (environ.get("SCRIPT_NAME", "") or "") + "/"
        secure = "; Secure" if environ.get("wsgi.url_scheme") == "https" else ""
        return f"{_cookie_name(value)}={value}; Path={path}; HttpOnly; SameSite=Strict{secure}"

    def is_allowed(self, environ: Mapping[str, str]) -> bool:
        """Whether a request has a right cookie, or a right bearer token."""
        if environ.get("HTTP_AUTHORIZATION"):
            scheme, _, token = environ["HTTP_AUTHORIZATION"].partition(" ")
            return scheme.lower() == "bearer" and self.cookie_for(environ, token.strip()) is not None
        given = _cookies(environ.get("HTTP_COOKIE", ""))
        matches = [
            hmac.compare_digest(given.get(_cookie_name(value), "").encode(), value.encode()) for value in self._cookies
        ]
        return any(matches)

    def _check_failures(self, environ: Mapping[str, str]) -> None:
        with self._lock:
            failures = self._failures.get(environ.get("REMOTE_ADDR", ""), [])
            if len(failures) >= _MOST_FAILURES and time.monotonic() - failures[0] < _WINDOW_SECONDS:
                raise RequestError(429, "too many wrong tokens", ("Retry-After", str(int(_WINDOW_SECONDS))))

    def _count_failure(self, environ: Mapping[str, str]) -> None:
        now = time.monotonic()
        with self._lock:
            if len(self._failures) >= _MOST_ADDRESSES:
                self._failures = {
                    address: failures
                    for address, failures in self._failures.items()
                    if now - failures[-1] < _WINDOW_SECONDS
                }
            if len(self._failures) >= _MOST_ADDRESSES:
                self._failures.clear()
            failures = self._failures.setdefault(environ.get("REMOTE_ADDR", ""), [])
            failures.append(now)
            del failures[:-_MOST_FAILURES]


def _cookie_name(value: str) -> str:
    """Boards on other ports of a host get each other's cookies: each has a name of its own."""
    return f"sqstee-{hashlib.sha256(value.encode()).hexdigest()[:8]}"


def _cookies(header: str) -> dict[str, str]:
    if len(header) > _MOST_COOKIES:
        return {}
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return {name: value for name, _, value in pairs}


def _host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]*)?", header.strip().lower())
    return found[1] if found else ""
