"""The real board in a process of its own, and a store for it."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from sqstee.record import Body, Encoder
from sqstee.transports.local import LocalSender

from .bodies import RUN, TIME_NS
from .command import SCRIPT, clean_environment
from .processes import running


def store(path: Path, *bodies: Body) -> None:
    """Add bodies to a store."""
    sender = LocalSender(str(path), 1 << 30)
    sender.send(bodies)
    sender.close()


def store_at(path: Path, at: float, *bodies: Body) -> None:
    """Add bodies to a store as if they had come at that time."""
    sender = LocalSender(str(path), 1 << 30)
    sender.send_dated([(body, at) for body in bodies])
    sender.close()


def change(path: Path, *statements: str) -> None:
    """Change a store behind sqstee's back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for one in statements:
            connection.execute(one)


def text_of(first: int, text: bytes, run: str = RUN, stream: str = "stdout", job: str = "", level: str = "") -> Body:
    """A body with the lines of a text."""
    data = Encoder(run, "node1", job).lines(text, stream, TIME_NS, first, level=level)
    return Body(data, run, "node1", first, first + text.count(b"\n") - 1)


class Reply(NamedTuple):
    """An answer of the board."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        """Its JSON; what no browser could read is an error."""
        return json.loads(self.body, parse_constant=refused_constant)

    @property
    def objects(self) -> list[Any]:
        """The objects of its NDJSON."""
        return [json.loads(line, parse_constant=refused_constant) for line in self.body.split(b"\n") if line]


def refused_constant(text: str) -> None:
    """Called for NaN and Infinity."""
    raise AssertionError(f"{text} is no JSON")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *words: Any, **more: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))


class ServedBoard:
    """A board: its process, its URL without the token, and the token."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, token: str) -> None:
        self.process = process
        self.url = url
        self.token = token

    def ask(
        self, path: str, method: str = "", token: str | None = None, data: bytes | None = None, **headers: str
    ) -> Reply:
        """One request, with the token unless another is given (an empty one is none); with data a POST of a form."""
        given = self.token if token is None else token
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if given:
            named["Authorization"] = f"Bearer {given}"
        method = method or ("GET" if data is None else "POST")
        request = urllib.request.Request(self.url + path, data, named, method=method)
        try:
            with _opener.open(request, timeout=60) as answer:
                return Reply(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as answer:
            with answer:
                return Reply(answer.code, answer.headers, answer.read())

    def metric(self, name: str) -> str:
        """A metric's value, as it stands there."""
        lines = dict(line.rsplit(" ", 1) for line in self.ask("metrics").body.decode().splitlines())
        return str(lines[name])

    def sending(self, path: str) -> socket.socket:
        """A connection on which a request was sent, and whose answer nobody has read."""
        parts = urlsplit(self.url)
        peer = socket.create_connection((parts.hostname or "", parts.port or 0), 60)
        host = f"Host: {parts.netloc}\r\nAuthorization: Bearer {self.token}\r\n\r\n"
        peer.sendall(f"GET /{path} HTTP/1.1\r\n{host}".encode())
        return peer

    def lines(self, run: str, query: str = "") -> Any:
        """The answer for the lines of a run."""
        return self.ask(f"api/runs/{quote(run, safe='')}/lines?{query}").json

    def search(self, query: str) -> tuple[list[Any], dict[str, Any]]:
        """The hits of a search, and its last line."""
        *found, end = self.ask(f"api/search?{query}").objects
        return [one for one in found if "run" in one], end


@contextmanager
def showing(path: Path, *words: str, environ: Mapping[str, str] | None = None) -> Iterator[ServedBoard]:
    """`sqstee web` over a store, on a free port."""
    with showing_source(path.parent, f"local:{path}", *words, environ=environ) as found:
        yield found


@contextmanager
def showing_source(home: Path, *words: str, environ: Mapping[str, str] | None = None) -> Iterator[ServedBoard]:
    """`sqstee web` with these words, on a free port."""
    listen = () if "--listen" in words else ("--listen", "127.0.0.1:0")
    env = clean_environment() | {"HOME": str(home)} | dict(environ or {})
    with running([SCRIPT, "web", *words, *listen], stderr=subprocess.PIPE, env=env) as process:
        assert process.stderr
        line = process.stderr.readline().decode()
        found = re.fullmatch(r"the board is at (http://[^?]+)(?:\?token=(\S+))?\n", line)
        assert found, line + process.stderr.read().decode()
        yield ServedBoard(process, found[1], found[2] or "")
        process.kill()


def whole(entries: Iterable[Any]) -> list[tuple[int, int]]:
    """The ranges of seqs that entries of a run cover."""
    return [(one.get("from", one["seq"]), one.get("to", one["seq"])) for one in entries]
