"""The board in a browser: the runs of a store, their lines as they come, and a search over all of them.

WSGI servers load `sqstee.web:application`, which is configured by environment variables: SQSTEE_STORE (local:PATH) and
SQSTEE_WEB_TOKEN or SQSTEE_WEB_TOKEN_FILE, without which it shows nothing to anybody.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqstee.destination import parse
from sqstee.errors import SqsteeError
from sqstee.web.access import Access
from sqstee.web.answers import REASONS, TEXT, Answer
from sqstee.web.board import Board

_configuring = threading.Lock()


def store_path(text: str, default: str) -> str:
    """The path of the store that a destination names; raises SqsteeError where it is no local store."""
    destination = parse(text)
    if destination.kind != "local" or not (destination.name or default):
        problem = f"the board reads a local store only, not {text!r}"
        raise SqsteeError(problem, "sqstee web local:/var/lib/sqstee.db")
    return os.path.abspath(destination.name or default)


def tokens(path: str, senders: Sequence[str] = ()) -> list[str]:
    """The tokens in a file (one per line), or else the one in SQSTEE_WEB_TOKEN; raises SqsteeError.

    That of a sender is refused: whoever may post may not read.
    """
    hint = "give a file with one token per line, of at least 16 printable ASCII characters"
    path = path or os.environ.get("SQSTEE_WEB_TOKEN_FILE", "")
    try:
        if path:
            with open(path, encoding="ascii") as file:
                found = [line.strip() for line in file if line.strip()]
        else:
            found = [token] if (token := os.environ.get("SQSTEE_WEB_TOKEN", "").strip()) else []
    except OSError as error:
        raise SqsteeError(f"cannot read the tokens: {path}: {error.strerror}", hint) from None
    except UnicodeDecodeError:
        raise SqsteeError(f"cannot read the tokens: {path} has other characters than ASCII", hint) from None
    if path and not found:
        raise SqsteeError(f"cannot read the tokens: {path} has none", hint)
    if not all(token.isascii() and token.isprintable() and len(token) >= 16 for token in found):
        raise SqsteeError("a token is too short, or has other characters", hint)
    if set(found) & set(senders):
        raise SqsteeError("a token of the board is a sender's too", "give readers a token of their own")
    return found


@functools.cache
def _from_environment() -> Board:
    accepted = tokens("")
    if not accepted:
        raise SqsteeError("no token is configured", "set SQSTEE_WEB_TOKEN or SQSTEE_WEB_TOKEN_FILE")
    return Board(store_path(os.environ.get("SQSTEE_STORE", "local"), ""), Access(accepted))


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application that mod_wsgi, gunicorn, granian or waitress loads; configured at the first request."""
    try:
        with _configuring:  # threads with a board each would each have counts of their own
            board = _from_environment()
    except SqsteeError as error:
        environ["wsgi.errors"].write(f"sqstee: {error.message} ({error.hint})\n")
        environ["wsgi.errors"].flush()
        answer = Answer(b"the board is not configured\n", TEXT, 503, [("Retry-After", "30")])
        start_response(REASONS[503], answer.headers)
        return [b"the board is not configured\n"]
    return board(environ, start_response)
