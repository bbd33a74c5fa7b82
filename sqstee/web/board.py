"""The board as a WSGI application: access, paths and metrics."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from sqstee.metrics import exposition
from sqstee.text import one_line
from sqstee.transports.errors import TransportError
from sqstee.web.access import Access
from sqstee.web.answers import REASONS, TEXT, Answer, Parameters, RequestError, form_of
from sqstee.web.api import Api
from sqstee.web.pages import Pages

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from sqstee.read.store_pump import StorePump

LOGIN = "login"  # to which the form of the login posts; nothing else of the board takes a POST
_WRONG = "This token is not the board's."
_TOO_MANY = "Too many wrong tokens: try again in a minute."
_METRICS = {
    "sqstee_web_duplicates_total": ("counter", "Stretches of records received that the store had already."),
    "sqstee_web_messages_deleted_total": ("counter", "Messages deleted from the source, stored durably before."),
    "sqstee_web_messages_held": ("gauge", "Messages received that are not stored: they wait, or are not sqstee's."),
    "sqstee_web_messages_received_total": ("counter", "Messages received from the source."),
    "sqstee_web_polls_total": ("counter", "Answers on runs, one run and its lines; 304: unchanged=1."),
    "sqstee_web_requests_total": ("counter", "Requests answered, by status."),
    "sqstee_web_searches": ("gauge", "Searches under way."),
    "sqstee_web_trouble": ("gauge", "1 if receiving, storing or deleting fails at present, otherwise 0."),
}


class Board:
    """The WSGI application over the local store in the file `path`. It only reads; `pump` may fill the store."""

    def __init__(self, path: str, access: Access, pump: StorePump | None = None) -> None:
        self._access = access
        self._pump = pump
        self._api = Api(path)
        self._pages = Pages()
        self._lock = threading.Lock()
        self._answers: Counter[int] = Counter()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """WSGI (PEP 3333)."""
        try:
            answer = self._answer(environ)
        except RequestError as refusal:
            answer = Answer(f"{refusal.reason}\n".encode(), TEXT, refusal.status, refusal.headers)
        except TransportError as error:
            _log(environ, str(error))
            headers = [("Retry-After", "2")]
            answer = Answer(b"the store cannot be read\n", TEXT, 503, headers)
        with self._lock:
            self._answers[answer.status] += 1
        start_response(REASONS[answer.status], answer.headers)
        if isinstance(answer.body, bytes):
            return [b"" if environ["REQUEST_METHOD"] == "HEAD" else answer.body]
        return answer.body

    def close(self) -> None:
        """Stop the searches, and close the store."""
        self._api.close()

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        path = _path_of(environ)
        is_login = path == f"/{LOGIN}"
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD", *(["POST"] if is_login else [])):
            raise RequestError(405, "the board only shows: GET and HEAD", ("Allow", "GET, HEAD"))
        if path == "/health":
            return Answer(b"ok\n", TEXT)
        self._access.check_host(environ)
        if not path:
            return _moved(f"{_root_of(environ)}/")
        if is_login:
            return self._log_in(environ)
        path = path.removeprefix("/")
        if path.startswith("static/"):
            return _found(self._pages.file(path.removeprefix("static/"), environ))
        query = environ.get("QUERY_STRING", "")
        if (page := self._pages.page(path, environ)) is not None:
            return self._way_to(environ, path, query) or page
        if not self._access.is_allowed(environ):
            raise RequestError(401, "a token is needed: Authorization: Bearer TOKEN", ("WWW-Authenticate", "Bearer"))
        if path == "metrics":
            return Answer(self.metrics(environ).encode(), TEXT)
        if path.startswith("api/"):
            return self._api.answer(environ, path.removeprefix("api/"), query)
        raise RequestError(404, "no such page")

    def _way_to(self, environ: WSGIEnvironment, path: str, query: str) -> Answer | None:
        """The way to a page: with a token in its address to the same without it, without a cookie to the login."""
        pairs = parse_qsl(query, keep_blank_values=True, errors="replace")
        tokens = [text for name, text in pairs if name == "token"]
        wanted = _address(path, [pair for pair in pairs if pair[0] != "token"])
        address = f"{_root_of(environ)}/{wanted}"
        if tokens:
            cookie = self._access.cookie_for(environ, tokens[-1].strip())
            return _moved(address, ("Set-Cookie", cookie)) if cookie else self._pages.login(_WRONG, wanted)
        if self._access.is_allowed(environ):
            return None
        is_elsewhere = environ.get("HTTP_SEC_FETCH_SITE", "") == "cross-site"
        return self._pages.login("", wanted, again=address if is_elsewhere else "")

    def _log_in(self, environ: WSGIEnvironment) -> Answer:
        """Handle the login's form: the right token leads to the page that was asked for."""
        root = _root_of(environ)
        if environ["REQUEST_METHOD"] != "POST":
            return _moved(f"{root}/")
        if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none"):
            raise RequestError(403, "a form of another site")  # which could use up the attempts of its visitor
        form = Parameters(form_of(environ), ("token", "next"))
        path, _, query = form.text("next").partition("?")
        # made anew from its parts: it leads to a page of ours, whatever it says
        pairs = parse_qsl(query, keep_blank_values=True, errors="replace")
        wanted = _address(path, pairs) if path in self._pages.paths else ""
        try:
            cookie = self._access.cookie_for(environ, form.text("token").strip())
        except RequestError as refusal:
            return self._pages.login(_TOO_MANY, wanted, refusal.status, refusal.headers)
        return _moved(f"{root}/{wanted}", ("Set-Cookie", cookie)) if cookie else self._pages.login(_WRONG, wanted)

    def metrics(self, environ: WSGIEnvironment) -> str:
        """The metrics of this process since its start, in Prometheus' text format."""
        with self._lock:
            found = {"sqstee_web_requests_total": {f'status="{one}"': times for one, times in self._answers.items()}}
        found["sqstee_web_searches"] = {"": self._api.searches.running}
        found["sqstee_web_polls_total"] = {
            f'path="{path}",unchanged="{int(is_unchanged)}"': times
            for (path, is_unchanged), times in self._api.polls.items()
        }
        if self._pump:
            counts = self._pump.counts
            found["sqstee_web_messages_received_total"] = {"": counts.received}
            found["sqstee_web_messages_deleted_total"] = {"": counts.deleted}
            found["sqstee_web_messages_held"] = {"": counts.held}
            found["sqstee_web_duplicates_total"] = {"": counts.duplicates}
            found["sqstee_web_trouble"] = {f'of="{part}"': int(fails) for part, fails in counts.trouble.items()}
        return exposition(_METRICS, found, os.getpid() if environ["wsgi.multiprocess"] else 0)


def _path_of(environ: WSGIEnvironment) -> str:
    """The path below the board's root; servers hand it over as latin-1."""
    path: str = environ.get("PATH_INFO", "")
    try:
        return path.encode("latin-1").decode()
    except UnicodeError:
        raise RequestError(400, "the path is not valid UTF-8") from None


def _root_of(environ: WSGIEnvironment) -> str:
    """The path at which the board is mounted, as part of an address. Never the name of another host."""
    root = quote(environ.get("SCRIPT_NAME", "") or "", safe="/", encoding="latin-1").rstrip("/")
    return f"/{root.lstrip('/')}" if root else ""


def _address(path: str, pairs: Sequence[tuple[str, str]]) -> str:
    """An address below the board's root; the text of a query is not copied into it as it came."""
    return f"{path}?{urlencode(pairs)}" if pairs else path


def _moved(address: str, *headers: tuple[str, str]) -> Answer:
    return Answer(b"", TEXT, 303, [("Location", address), *headers])


def _found(answer: Answer | None) -> Answer:
    if answer is None:
        raise RequestError(404, "no such page")
    return answer


def _log(environ: dict[str, Any], text: str) -> None:
    environ["wsgi.errors"].write(f"sqstee: {one_line(text)}\n")
    environ["wsgi.errors"].flush()
