"""Answers of the board: their statuses and headers, and the parameters of requests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

_Result = TypeVar("_Result")

REASONS = {
    200: "200 OK",
    303: "303 See Other",
    304: "304 Not Modified",
    400: "400 Bad Request",
    401: "401 Unauthorized",
    403: "403 Forbidden",
    404: "404 Not Found",
    405: "405 Method Not Allowed",
    421: "421 Misdirected Request",
    429: "429 Too Many Requests",
    503: "503 Service Unavailable",
}
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
JSON = "application/json"
NDJSON = "application/x-ndjson"
FORM = "application/x-www-form-urlencoded"
MOST_FORM = 8192  # bytes
_MOST_QUERY = 8192  # characters
_MOST_PARAMETERS = 100
# The pages consist of files of this package alone: no inline script or style, nothing from elsewhere, in no frame.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_SECURITY = (
    ("Content-Security-Policy", _POLICY),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class RequestError(Exception):
    """A request that is refused with `status` and one line, the `reason`."""

    def __init__(self, status: int, reason: str, *headers: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class Answer:
    """An answer: a body at once, or parts of one that are sent as they come."""

    def __init__(
        self,
        body: bytes | Iterable[bytes],
        kind: str = JSON,
        status: int = 200,
        headers: Sequence[tuple[str, str]] = (),
        is_kept: bool = False,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = [("Content-Type", kind), *headers, *_SECURITY]
        if isinstance(body, bytes) and status != 304:
            self.headers.append(("Content-Length", str(len(body))))
        # a browser asks each time, and a page compares the tag by itself: nothing of a run is kept on its disk
        self.headers.append(("Cache-Control", "no-cache" if is_kept else "no-store"))


def tag_of(*parts: bytes) -> str:
    """The ETag of a content."""
    return f'"{hashlib.blake2b(b" ".join(parts), digest_size=12).hexdigest()}"'


def unchanged(environ: Mapping[str, str], tag: str) -> bool:
    """Whether the client has the content with this tag."""
    asked = environ.get("HTTP_IF_NONE_MATCH", "")
    return any(one.strip().removeprefix("W/") == tag for one in asked.split(","))


def form_of(environ: Mapping[str, Any]) -> str:
    """The fields of a form that a request sends, as in a query string. Raises RequestError if it sends none."""
    kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    length = environ.get("CONTENT_LENGTH") or ""
    if kind != FORM or not (length.isascii() and length.isdigit() and len(length) < 6 and int(length) <= MOST_FORM):
        raise RequestError(400, f"a form of at most {MOST_FORM} bytes is expected")
    try:
        data: bytes = environ["wsgi.input"].read(int(length))
    except Exception as error:  # each server has errors of its own for an upload that was cut off
        raise RequestError(400, f"the form cannot be read: {type(error).__name__}") from None
    return data.decode("ascii", "replace")


class HeldStream:
    """Parts of an answer. Its end releases their resources, even if the client leaves before the first part."""

    def __init__(self, parts: Iterator[bytes], release: Callable[[], None]) -> None:
        self._parts = parts
        self._release = release
        self._is_closed = False

    def __iter__(self) -> HeldStream:
        return self

    def __next__(self) -> bytes:
        return next(self._parts)

    def close(self) -> None:
        """Called by every WSGI server at the end of an answer."""
        if not self._is_closed:
            self._is_closed = True
            self._release()


class Parameters:
    """The parameters of a request's query string. Raises RequestError for unknown or invalid ones."""

    def __init__(self, query: str, known: Iterable[str], repeated: Iterable[str] = ()) -> None:
        self._known, self._repeated = frozenset(known), frozenset(repeated)
        if len(query) > _MOST_QUERY:
            raise RequestError(400, f"a query string must have at most {_MOST_QUERY} characters")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
        except ValueError:
            raise RequestError(400, "the query string is not valid UTF-8, or has too many parameters") from None
        self._values: dict[str, list[str]] = {}
        for name, text in pairs:
            if name not in self._known | self._repeated:
                raise RequestError(400, f"unknown parameter {name[:40]!r} (known: {', '.join(self.names)})")
            self._values.setdefault(name, []).append(text)
            if name in self._known and len(self._values[name]) > 1:
                raise RequestError(400, f"the parameter {name} must be given once")

    @property
    def names(self) -> list[str]:
        """The parameters that are known here."""
        return sorted(self._known | self._repeated)

    def text(self, name: str) -> str:
        """A parameter, or an empty string."""
        return self._values.get(name, [""])[0]

    def texts(self, *names: str) -> list[str]:
        """All values of repeated parameters that are not empty."""
        return [text for name in names for text in self._values.get(name, []) if text]

    def switch(self, name: str) -> bool:
        """Whether a parameter is 1; it may be 0 or absent."""
        return self.parsed(name, lambda text: {"1": True, "0": False, "": False}[text], "1 or 0") or False

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A parameter that is a number from `least` on; more than `most` counts as `most`."""

        def parse(text: str) -> int:
            if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) <= 20) or int(text) < least:
                raise ValueError
            return min(int(text), most)

        found = self.parsed(name, parse, f"a number from {least}")
        return default if found is None else found

    def parsed(self, name: str, parse: Callable[[str], _Result], form: str) -> _Result | None:
        """A parameter as `parse` reads it, which raises ValueError; None where it is absent or empty."""
        text = self.text(name)
        if not text:
            return None
        try:
            return parse(text)
        except (ValueError, KeyError, OverflowError):
            raise RequestError(400, f"invalid value {text[:40]!r} for {name} (expected {form})") from None
