"""`sqstee serve --web`: senders and readers at one address, each with tokens of their own."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pytest
from support import Sqstee
from support.board import ServedBoard
from support.bodies import whole_run
from support.collector import collecting

from sqstee import collector
from sqstee.destination import parse
from sqstee.transports.errors import TransportError
from sqstee.transports.http import HttpSender
from sqstee.web.board import Board

SENDERS, READERS = "senders-token-0123456789", "readers-token-0123456789"


@contextmanager
def serving(folder: Path, *words: str, **environ: str) -> Iterator[ServedBoard]:
    """`sqstee serve --web` over a new store, as a board."""
    more = {"SQSTEE_TOKEN": SENDERS, "SQSTEE_WEB_TOKEN": READERS} | environ
    with collecting(folder / "store.db", "--web", *words, environ=more) as (process, url):
        assert process.stderr
        line = process.stderr.readline().decode()
        found = re.fullmatch(r"the board is at (http://[^?]+)(?:\?token=(\S+))?\n", line)
        assert found, line
        assert found[1] == url
        yield ServedBoard(process, url, found[2] or more["SQSTEE_WEB_TOKEN"])


def post(url: str, monkeypatch: pytest.MonkeyPatch, token: str = SENDERS) -> None:
    """Send a whole run."""
    monkeypatch.setenv("SQSTEE_TOKEN", token)
    with closing(HttpSender(parse(url))) as sender:
        assert sender.send(whole_run(3, "RUN")) == []


def test_the_board_is_at_the_collectors_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was posted is shown; pages, files and the API are there, and the collector's own pages as well."""
    with serving(tmp_path) as board:
        post(board.url, monkeypatch)
        assert [run["run"] for run in board.ask("api/runs").json["runs"]] == ["RUN"]
        assert [line["message"] for line in board.lines("RUN")["lines"]][1:-1] == ["line 1", "line 2", "line 3"]
        assert b"<html" in board.ask("").body
        assert board.ask("static/style.css", token="").status == 200
        assert board.ask("health", token="").body == b"ok\n"
        found, end = board.search("q=line%202")
        assert ([hit["seq"] for hit in found], end["end"]) == ([2], "all")


def test_senders_may_not_read_and_readers_may_not_post(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token is good for its own half."""
    with serving(tmp_path) as board:
        post(board.url, monkeypatch)
        for path in ("api/runs", "api/runs/RUN", "api/search?q=x"):
            assert board.ask(path, token=SENDERS).status == 401
            assert board.ask(path, token="").status == 401
        with pytest.raises(TransportError, match="bearer token"):
            post(board.url, monkeypatch, READERS)
        assert board.ask("api/runs", "POST").status == 401
        assert board.ask("api/runs", "DELETE").status == 405


def test_the_form_of_the_boards_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to the board; records that are posted to that path are stored as ever."""
    with serving(tmp_path) as board:
        reply = board.ask("login", token="", data=f"token={READERS}&next=search".encode())
        assert (reply.status, reply.headers["Location"]) == (303, "/search")
        assert reply.headers["Set-Cookie"].startswith("sqstee-")
        assert board.ask("login", token="", data=f"token={SENDERS}".encode()).status == 401
        post(f"{board.url}login", monkeypatch)
        assert [run["run"] for run in board.ask("api/runs").json["runs"]] == ["RUN"]


def test_metrics_count_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the collector's: a sender's token opens them."""
    with serving(tmp_path) as board:
        post(board.url, monkeypatch)
        board.ask("api/runs")
        assert board.ask("metrics").status == 401
        text = board.ask("metrics", token=SENDERS).body.decode()
        assert re.search(r'^sqstee_requests_total{status="200"} [1-9]', text, re.MULTILINE)
        assert 'sqstee_web_requests_total{status="200"} 1\n' in text
        names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
        assert len(names) == len(set(names))


def test_without_a_token_one_is_made(tmp_path: Path) -> None:
    """It is in the address that is printed."""
    with serving(tmp_path, SQSTEE_WEB_TOKEN="") as board:
        assert len(board.token) >= 32
        assert board.ask("api/runs").json["runs"] == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--web",), "a token of the board is a sender's too"),
        (("--web-token-file", "f"), "--web-token-file needs --web"),
    ],
)
def test_refused_tokens(sqstee: Sqstee, tmp_path: Path, words: Sequence[str], problem: str) -> None:
    """One line and one hint."""
    environ = {"SQSTEE_TOKEN": SENDERS, "SQSTEE_WEB_TOKEN": SENDERS}
    found = sqstee.run("serve", "--port", "0", "--store", f"local:{tmp_path}/s.db", *words, environ=environ)
    lines = found.stderr.decode().splitlines()
    assert (found.returncode, lines[0]) == (125, f"sqstee: {problem}")
    assert len(lines) == 2


def test_searches_end_with_the_collector(tmp_path: Path) -> None:
    """SIGTERM ends it with status 0, also while a page waits."""
    with serving(tmp_path) as board:
        peer = board.sending("api/search?q=x")
        board.process.terminate()
        assert board.process.wait(30) == 0
        peer.close()


def test_without_the_switch_there_is_no_board(tmp_path: Path) -> None:
    """A GET is refused as ever."""
    with collecting(tmp_path / "store.db", environ={"SQSTEE_WEB_TOKEN": READERS}) as (process, url):
        assert ServedBoard(process, url, READERS).ask("api/runs").status == 405


def test_the_wsgi_application_shows_the_board_where_it_has_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sqstee.collector:application` in any server."""
    statuses: list[str] = []

    def ask(path: str, token: str) -> bytes:
        environ = {"PATH_INFO": path, "HTTP_AUTHORIZATION": f"Bearer {token}", "wsgi.errors": io.StringIO()}
        setup_testing_defaults(environ)
        parts = collector.application(environ, lambda status, headers: statuses.append(status))
        return b"".join(parts)

    monkeypatch.setenv("SQSTEE_STORE", f"local:{tmp_path}/store.db")
    monkeypatch.setenv("SQSTEE_TOKEN", SENDERS)
    monkeypatch.setenv("SQSTEE_WEB_TOKEN", READERS)
    collector._from_environment.cache_clear()
    try:
        assert b'"runs":[]' in ask("/api/runs", READERS).replace(b" ", b"")
        ask("/api/runs", SENDERS)
        assert statuses == ["200 OK", "401 Unauthorized"]
        made = collector._from_environment()
        assert isinstance(made._board, Board)
        made._board.close()
    finally:
        collector._from_environment.cache_clear()
