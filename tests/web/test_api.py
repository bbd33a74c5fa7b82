"""The board's API and its headers: what is shown to whom, and that nothing that comes over the network does harm."""

from __future__ import annotations

import html
import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Sqstee, children, clean_environment, is_running, kill, wait_for
from support.board import Reply, ServedBoard, showing, store, store_at, text_of, whole
from support.bodies import event_of, gap_of, lines_of, piece_of, whole_run
from support.odd_bodies import bodies as odd_bodies
from support.workers import workers

from sqstee.record import Body, Encoder
from sqstee.transports.errors import OPEN, TransportError
from sqstee.transports.local_store import LocalStore
from sqstee.web import answers
from sqstee.web.access import Access
from sqstee.web.answers import RequestError
from sqstee.web.board import Board
from sqstee.web.run_lines import entries
from sqstee.wire import DecodeError, by_run

RUNS = 12  # as whole runs, of which each fourth failed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of runs."""
    found = tmp_path_factory.mktemp("board")
    for number in range(RUNS):
        more: dict[str, Any] = {"job": f"job{number % 3}", "host": f"node{number % 2}"}
        store(found / "store.db", *whole_run(5, f"RUN{number:02d}", status=int(number % 4 == 0), **more))
    odd = [
        event_of("start", 0, "ODD"),
        lines_of(1, 10, "ODD"),
        lines_of(5, 12, "ODD"),  # which overlaps
        gap_of(8, 30, "ODD", reason="rate-limit"),
        lines_of(20, 21, "ODD", stream="stderr"),
        text_of(40, b'Zeile \xc3\xa4\xe2\x82\xac "quoted" \\ tab\tend\n', "ODD"),
        text_of(41, b"\xff raw\n", "ODD"),
        piece_of(42, "a piece,", "ODD", eol=False),
        piece_of(43, " its end", "ODD"),
        text_of(44, b"levelled\n", "ODD", level="ERROR"),
    ]
    store(found / "store.db", *odd)
    return found


@pytest.fixture(scope="module")
def board(folder: Path) -> Iterator[ServedBoard]:
    """The board over it."""
    with showing(folder / "store.db") as found:
        yield found


def cookie_of(reply: Reply) -> str:
    """The cookie that an answer sets, as a browser sends it."""
    ((name, one),) = SimpleCookie(reply.headers["Set-Cookie"]).items()
    assert (one["httponly"], one["samesite"], one["path"]) == (True, "Strict", "/")
    return f"{name}={one.value}"


def test_the_address_with_the_token_logs_in(board: ServedBoard) -> None:
    """It sets a cookie and leads to the same page without the token; the cookie is not the token."""
    reply = board.ask(f"run?id=a%2Fb&token={board.token}", token="")
    assert (reply.status, reply.headers["Location"]) == (303, "/run?id=a%2Fb")
    cookie = cookie_of(reply)
    assert board.token not in cookie
    for path in ("", "run", "search", "api/runs", "metrics"):
        assert board.ask(path, token="", Cookie=f"a=b; {cookie}").status == 200
        assert board.ask(path, token="", Cookie=f"{cookie}0").status == 401
        assert board.ask(path, token="").status == 401
        assert board.ask(path, token=board.token + "x").status == 401
    for word in ("token=", "token=wrong", f"token={board.token[:-1]}", f"token={board.token}&token=x"):
        reply = board.ask(f"?{word}", token="")
        assert (reply.status, "Set-Cookie" in reply.headers) == (401, False)
        assert (b"not the board" in reply.body) == (b"password" in reply.body)


def form_of(**fields: str) -> bytes:
    """What a browser sends for a form."""
    return urlencode(fields).encode()


def test_the_form_logs_in(board: ServedBoard) -> None:
    """A POST with the token sets the cookie and leads to the page that was asked for; the token is in no address."""
    page = board.ask("run?id=a%2Fb&x=%3Cb%3E", token="")
    assert (page.status, b'method="post" action="login"' in page.body) == (401, True)
    wanted = html.unescape(re.findall(rb'name="next" value="([^"]*)"', page.body)[0].decode())
    reply = board.ask("login", token="", data=form_of(token=f" {board.token}\n", next=wanted))
    assert (reply.status, reply.headers["Location"]) == (303, "/run?id=a%2Fb&x=%3Cb%3E")
    assert board.ask("api/runs", token="", Cookie=cookie_of(reply)).status == 200
    wrong = board.ask("login", token="", data=form_of(token=board.token[:-1], next=wanted))
    assert (wrong.status, wrong.headers["Set-Cookie"]) == (401, None)
    assert b"not the board" in wrong.body
    assert f'name="next" value="{html.escape(wanted)}"'.encode() in wrong.body
    assert board.token[:-1].encode() not in wrong.body
    assert board.ask("login").headers["Location"] == "/"  # GET changes nothing
    assert board.ask("login", "PUT").status == 405


@pytest.mark.parametrize(
    ("wanted", "address"),
    [
        *(
            ("", "/"),
            ("search?q=a+b", "/search?q=a+b"),
            ("job?job=a%26b", "/job?job=a%26b"),
            ("?failed=1", "/?failed=1"),
        ),
        *(("//evil.example/", "/"), ("https://evil.example/", "/"), ("/run", "/"), ("login", "/"), ("api/runs", "/")),
        *(("run\r\nSet-Cookie: a=b", "/"), ("run?a\r\nX: y", "/run?a%0D%0AX%3A+y="), ("../run", "/"), ("\\evil", "/")),
    ],
)
def test_the_form_leads_to_pages_of_the_board_alone(board: ServedBoard, wanted: str, address: str) -> None:
    """Whatever a form of somebody else says."""
    reply = board.ask("login", token="", data=form_of(token=board.token, next=wanted))
    assert (reply.status, reply.headers["Location"]) == (303, address)


def test_forms_that_are_refused(board: ServedBoard) -> None:
    """Another site's, which would use up its visitor's attempts; what is no form, or too large a one."""
    form = form_of(token=board.token)
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 303), ("none", 303)):
        assert board.ask("login", token="", data=form, Sec_Fetch_Site=site).status == status
    assert board.ask("login", token="", data=form, Content_Type="application/json").status == 400
    assert board.ask("login", token="", data=form, Host="evil.example").status == 421
    for data in (b"token=" + b"x" * 9000, b"x=1", b"token=%ff", b"&" * 5000, b"token=a&token=b", b"\x00\xff", b""):
        reply = board.ask("login", token="", data=data)
        assert (reply.status, reply.headers["Set-Cookie"]) in ((400, None), (401, None)), data
    assert board.ask("login", token="", data=b"x" * 100_000).status in (400, 413)


def test_the_form_in_other_servers(tmp_path: Path) -> None:
    """One without a length, one whose upload is cut off: a line each, no traceback."""
    board, _ = in_process(tmp_path / "store.db")
    kind = {"REQUEST_METHOD": "POST", "CONTENT_TYPE": "application/x-www-form-urlencoded; charset=utf-8"}
    for length in ("", "x", "-1", "999999999999", "٣"):
        with pytest.raises(RequestError, match="a form of at most"):
            answers.form_of(kind | {"CONTENT_LENGTH": length})
    cut = type("Cut", (io.BytesIO,), {"read": lambda *words: (_ for _ in ()).throw(OSError("gone"))})()
    assert ask(board, "/login", **kind, CONTENT_LENGTH="9", **{"wsgi.input": cut})[0] == 400
    form = form_of(token="t" * 16, next="run?id=A")
    more: dict[str, Any] = {"CONTENT_LENGTH": str(len(form)), "wsgi.input": io.BytesIO(form), "SCRIPT_NAME": "/logs"}
    status, headers, _ = ask(board, "/login", **kind, **more)
    assert (status, headers["Location"]) == (303, "/logs/run?id=A")
    assert "Path=/logs/;" in headers["Set-Cookie"]


def test_a_link_on_another_site_leads_to_its_page(board: ServedBoard) -> None:
    """Such a request has no cookie; the next one, from a page of ours, has it. Nothing of the address is markup."""
    address = 'run?id="><script>&x=%0D%0ASet-Cookie: a'.replace(" ", "%20")
    reply = board.ask(address, token="", Sec_Fetch_Site="cross-site")
    assert reply.status == 401
    assert b'content="0; url=/run?id=%22%3E%3Cscript%3E&amp;x=%0D%0ASet-Cookie%3A+a"' in reply.body
    assert b"refresh" not in board.ask(address, token="", Sec_Fetch_Site="none").body


def test_tokens_cannot_be_tried_at_will(tmp_path: Path) -> None:
    """After twenty wrong ones of an address in a minute its next ones are not compared; who is logged in stays so."""
    with showing(tmp_path / "store.db") as board:
        cookie = cookie_of(board.ask(f"?token={board.token}", token=""))
        statuses = [board.ask("api/runs", token=f"wrong{number}").status for number in range(22)]
        assert statuses == [401] * 20 + [429] * 2
        assert board.ask(f"?token={board.token}", token="").status == 429
        reply = board.ask("login", token="", data=form_of(token=board.token))
        assert (reply.status, b"try again in a minute" in reply.body) == (429, True)
        assert reply.headers["Retry-After"]
        assert board.ask("api/runs", token="", Cookie=cookie).status == 200


def test_tokens_of_ones_own(tmp_path: Path) -> None:
    """From a file or a variable; then none is printed. One that is too short is refused."""
    (tmp_path / "tokens").write_text("a" * 16 + "\n" + "b" * 20 + "\n")
    with showing(tmp_path / "store.db", "--token-file", str(tmp_path / "tokens")) as board:
        assert board.token == ""
        assert [board.ask("api/runs", token=one).status for one in ("a" * 16, "b" * 20, "c" * 16)] == [200, 200, 401]
    with showing(tmp_path / "store.db", environ={"SQSTEE_WEB_TOKEN": "c" * 16}) as board:
        assert board.ask("api/runs", token="c" * 16).json == {"runs": [], "next": "", "matched": 0}


def test_every_answer_has_the_headers(board: ServedBoard) -> None:
    """Pages, files, the API, refusals: in no frame, no script from elsewhere, no address in a referrer."""
    for path in ("", "static/run.js", "static/style.css", "api/runs", "api/runs/NO", "nothing", "health", "metrics"):
        for token in (None, ""):
            reply = board.ask(path, token=token)
            policy = reply.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; ")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert reply.headers["X-Frame-Options"] == "DENY"
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert reply.headers["Referrer-Policy"] == "no-referrer"
            assert reply.headers["Cache-Control"] in ("no-store", "no-cache")
            assert "Access-Control-Allow-Origin" not in reply.headers
    assert board.ask("api/runs").headers["Cache-Control"] == "no-store"  # nothing of a run on a browser's disk


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil", "[::1", "0"])
def test_another_hosts_name_is_refused(board: ServedBoard, host: str) -> None:
    """A page elsewhere could make its own name lead here (DNS rebinding)."""
    assert board.ask("api/runs", Host=f"{host}:{urlsplit(board.url).port}").status == 421
    assert board.ask("", Host=host, token="").status == 421
    assert board.ask("api/runs", Host="LOCALHOST:1").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
def test_it_only_shows(board: ServedBoard, method: str) -> None:
    """Every other method is refused; HEAD is GET without a body."""
    for path in ("", "api/runs", "health"):
        assert board.ask(path, method=method).status == 405
    reply = board.ask("api/runs", method="HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["Content-Length"]) == len(board.ask("api/runs").body)
    assert board.ask("api/search?q=line", method="HEAD").body == b""
    assert board.ask("api/runs/ODD/download", method="HEAD").body == b""


def test_runs_are_those_of_sqstee_runs(board: ServedBoard, folder: Path) -> None:
    """The same objects in the same order, and the same filters."""
    listed = Sqstee(folder).run("runs", f"local:{folder}/store.db", "-o", "json").stdout.splitlines()
    found = board.ask("api/runs").json
    assert found["matched"] == RUNS + 1
    assert all(set(run.pop("lines_by_time")) == {"from", "seconds", "lines"} for run in found["runs"])
    assert found["runs"] == [json.loads(line) for line in listed]

    def names(query: str) -> list[str]:
        return [run["run"] for run in board.ask(f"api/runs?{query}").json["runs"]]

    assert names("failed=1") == ["RUN08", "RUN04", "RUN00"]
    assert names("failed=1&host=node1") == []
    assert names("job=job1&job=job2&limit=3") == ["RUN11", "RUN10", "RUN08"]
    assert names("job=job0&failed=1") == ["RUN00"]
    assert names("until=2020-01-01") == names("label=a%3Db") == names("since=1h&failed=0&job=job*") == []


def test_lines_by_time(tmp_path: Path) -> None:
    """In stretches of equal length, from the first to the last line; none for a row that an older version wrote."""
    path, began = tmp_path / "store.db", 1_790_000_000
    store_at(path, began, event_of("start", 0, "A"), lines_of(1, 5, "A"))
    store_at(path, began + 2.5, lines_of(6, 9, "A"))
    store_at(path, began, lines_of(0, 4, "OLD"))
    connection = sqlite3.connect(path)
    (text,) = connection.execute("SELECT summary FROM run WHERE run = 'OLD'").fetchone()
    old = json.loads(text)
    del old["lines_by_time"]
    connection.execute("UPDATE run SET summary = ? WHERE run = 'OLD'", (json.dumps(old),))
    connection.commit()
    connection.close()
    with showing(path) as board:
        found = {run["run"]: run["lines_by_time"] for run in board.ask("api/runs").json["runs"]}
        assert found == {"OLD": None, "A": {"from": "2026-09-21T14:13:20.000000Z", "seconds": 1, "lines": [5, 0, 4]}}
        assert board.ask("api/runs/A").json["lines_by_time"] == found["A"]
        store_at(path, began + 100, lines_of(10, 12, "A"), lines_of(5, 6, "OLD"))
        assert board.ask("api/runs/A").json["lines_by_time"]["seconds"] == 4
        assert board.ask("api/runs/OLD").json["lines_by_time"]["lines"] == [2]


def test_the_history_of_a_job(tmp_path: Path) -> None:
    """Its runs alone, whatever its name has of globs."""
    for run, job in (("A", "a[1]*"), ("B", "a1x"), ("C", "a[1]*"), ("D", "a[1]*b")):
        store(tmp_path / "store.db", *whole_run(1, run, job=job))
    with showing(tmp_path / "store.db") as board:
        found = board.ask("api/runs?" + urlencode({"job": "a[[]1][*]", "limit": 1})).json
        assert (found["matched"], [run["run"] for run in found["runs"]]) == (2, ["C"])


def test_pages_by_cursor(board: ServedBoard) -> None:
    """Each run once, whatever the size of a page; totals count all that match."""
    seen, before = [], ""
    while True:
        found = board.ask(f"api/runs?limit=5&totals=1&{urlencode({'before': before})}").json
        seen += [run["run"] for run in found["runs"]]
        assert found["totals"]["states"] == {"failed": 3, "missing": 1, "ok": RUNS - 3}
        assert found["totals"]["jobs"]["job0"] == {"failed": 1, "ok": 3}
        before = found["next"]
        if not before:
            break
    assert seen == sorted([*(f"RUN{number:02d}" for number in range(RUNS)), "ODD"], reverse=True)


def test_lines_of_a_run_each_once_with_its_gaps(board: ServedBoard) -> None:
    """In the order of their seqs, from overlapping bodies; a gap event is cut down to what did not come."""
    found = board.lines("ODD")
    assert (found["run"], found["more"], found["next"]) == ("ODD", False, 44)
    ranges = [(seq, seq) for seq in range(13)] + [(13, 19), (20, 20), (21, 21), (22, 30), (31, 39)]
    assert whole(found["lines"]) == [*ranges, *((seq, seq) for seq in range(40, 45))]
    kinds = {one["seq"]: (one["event"], one.get("reason")) for one in found["lines"] if "event" in one}
    assert kinds == {0: ("start", None), 13: ("gap", "rate-limit"), 22: ("gap", "rate-limit"), 31: ("missing", None)}
    by_seq = {one["seq"]: one for one in found["lines"]}
    assert by_seq[40]["message"] == 'Zeile ä€ "quoted" \\ tab\tend'
    assert (by_seq[41]["raw"], by_seq[42]["eol"], by_seq[44]["level"]) == ("/yByYXc=", False, "ERROR")
    assert board.ask("api/runs/ODD").json["holes"] == [[13, 19], [22, 30], [31, 39]]


def test_lines_by_cursor(board: ServedBoard) -> None:
    """`next` of an answer is the `after` of the next one; `last` counts from the end; a cursor may stand in a gap."""
    everything = board.lines("ODD")["lines"]
    found, after = list[Any](), -1
    while (answer := board.lines("ODD", f"after={after}&limit=4"))["more"]:
        assert len(answer["lines"]) == 4
        found += answer["lines"]
        after = answer["next"]
    assert found + answer["lines"] == everything
    assert whole(board.lines("ODD", "after=15&limit=2")["lines"]) == [(16, 19), (20, 20)]
    assert whole(board.lines("ODD", "last=3")["lines"]) == [(42, 42), (43, 43), (44, 44)]
    assert board.lines("ODD", "after=44")["lines"] == []
    assert whole(board.lines("ODD", "after=9223372036854775807")["lines"]) == []


def test_an_answer_is_of_bounded_size(tmp_path: Path) -> None:
    """Lines of 32 KiB each, with as many in an answer as a megabyte holds."""
    store(tmp_path / "store.db", text_of(0, (b"x" * 32000 + b"\n") * 100))
    with showing(tmp_path / "store.db") as board:
        run = board.ask("api/runs").json["runs"][0]["run"]
        reply = board.ask(f"api/runs/{run}/lines?limit=5000")
        assert len(reply.body) < 1_100_000
        assert reply.json["more"]
        assert len(board.lines(run, f"after={reply.json['next']}")["lines"]) == 33


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12), st.booleans()), max_size=12), st.integers(-1, 50))
def test_each_seq_is_in_one_entry(parts: list[tuple[int, int, bool]], after: int) -> None:
    """Whatever overlaps: entries follow each other without a hole, and a record is never hidden by a gap."""
    found = [gap_of(first, first + size) if is_gap else lines_of(first, first + size) for first, size, is_gap in parts]
    shown = list(entries(sorted(found, key=lambda body: body.first), after, 45))
    covered = [seq for entry in shown for seq in range(entry.first, entry.last + 1)]
    last = max([45, *(body.last for body in found)])
    assert covered == list(range(after + 1, last + 1))
    records = {seq for first, size, is_gap in parts if not is_gap for seq in range(first, first + size + 1)}
    gaps = {seq for first, size, is_gap in parts if is_gap for seq in range(first, first + size + 1)} - records
    kinds = {seq: json.loads(entry.json).get("event") for entry in shown for seq in range(entry.first, entry.last + 1)}
    assert {seq for seq, kind in kinds.items() if kind is None} == {seq for seq in records if seq > after}
    assert {seq for seq, kind in kinds.items() if kind == "gap"} == {seq for seq in gaps if seq > after}


def test_downloads(board: ServedBoard) -> None:
    """What the command wrote, byte for byte, with a line for each gap; or records, one a line."""
    reply = board.ask("api/runs/ODD/download?form=text")
    assert reply.headers["Content-Disposition"] == 'attachment; filename="ODD.log"'
    text = b"".join(b"line %d\n" % seq for seq in range(1, 13))
    text += b"[sqstee: 7 lines dropped or elsewhere]\nline 20\nline 21\n[sqstee: 9 lines dropped or elsewhere]\n"
    text += b"[sqstee: 9 lines missing]\n" + 'Zeile ä€ "quoted" \\ tab\tend\n'.encode()
    assert reply.body == text + b"\xff raw\na piece, its end\nlevelled\n"
    assert board.ask("api/runs/ODD/download?stream=stderr").body == b"line 20\nline 21\na piece, its end\n"
    assert board.ask("api/runs/ODD/download?form=ndjson").objects == board.lines("ODD")["lines"]


def test_search(board: ServedBoard) -> None:
    """Literal or by a pattern, over all runs or one; each hit once, although its line is stored twice."""

    def seqs(**query: object) -> list[tuple[str, int]]:
        hits, end = board.search(urlencode(query))
        assert end == {"end": "all", "hits": len(hits)}
        return sorted((hit["run"], hit["seq"]) for hit in hits)

    assert seqs(q="line 5") == [("ODD", 5), *((f"RUN{number:02d}", 5) for number in range(RUNS))]
    assert seqs(q="line 7") == seqs(q="^LINE [67]$", regex=1, nocase=1)[1:] == [("ODD", 7)]
    assert seqs(q="LINE 7") == seqs(q="line.7") == seqs(q="node1") == seqs(q="exit of it") == []
    assert seqs(q='ä€ "quoted" \\') == seqs(q="tab\tend") == seqs(q="ZEILE", nocase=1) == [("ODD", 40)]
    assert seqs(q="line", run="RUN03") == [("RUN03", seq) for seq in range(1, 6)]
    assert seqs(q="line", run="ODD", after=19, stream="stderr") == [("ODD", 20), ("ODD", 21)]
    assert [seq for _, seq in seqs(errors=1)] == [20, 21, 42, 43, 44]
    assert seqs(q="line", since="2h") == seqs(q="line", until="2020-01-01") == []
    (hit,), _ = board.search("q=quoted")
    assert hit["message"][slice(*hit["at"])] == "quoted"
    assert (hit["host"], hit["stream"], hit["timestamp"][:4]) == ("node1", "stdout", "2023")


def test_labels_do_not_mislead_a_search(tmp_path: Path) -> None:
    """Labels may have the names of fields, and any text."""
    labels = {"message": "of a label", "seq": '},"seq":5', "stream": "stderr"}
    data = Encoder("A", "node1", "j", labels).lines(b'of the line\nsaid "so"\n', "stdout", 0, 0)
    store(tmp_path / "store.db", Body(data, "A", "node1", 0, 1))
    with showing(tmp_path / "store.db") as board:
        for query in (
            "q=of+the+line",
            "q=of+the&regex=1",
            "q=OF+THE&nocase=1",
            "q=said&regex=1",
            'q="so"',
            'q="so"&regex=1',
        ):
            assert len(board.search(query)[0]) == 1, query
        for query in ("q=label", "q=label&regex=1", "q=seq&nocase=1", "errors=1", "stream=stderr"):
            assert board.search(query)[0] == [], query


def test_a_search_ends_at_its_limit(board: ServedBoard) -> None:
    """With that many hits, and a word about it."""
    hits, end = board.search("q=line&limit=7")
    assert (len(hits), end) == (7, {"end": "limit", "hits": 7})


def test_excerpts_of_long_lines(tmp_path: Path) -> None:
    """A hit far behind in a line of a megabyte is a few hundred characters."""
    store(tmp_path / "store.db", text_of(0, b"x" * 700_000 + b"needle" + b"y" * 300_000 + b"\n"))
    with showing(tmp_path / "store.db") as board:
        (hit,), _ = board.search("q=needle")
        assert (len(hit["message"]), hit["message"][slice(*hit["at"])], hit["cut"]) == (400, "needle", True)


def searches_of(board: ServedBoard) -> list[int]:
    """The processes of searches: children of any thread."""
    found = []
    for path in Path(f"/proc/{board.process.pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found += [int(word) for word in path.read_text().split()]
    return found


def test_a_pattern_that_needs_ages_stops_nobody(tmp_path: Path) -> None:
    """Its process gives up, others get their answers meanwhile, further searches are told to come again."""
    store(tmp_path / "store.db", text_of(0, b"a" * 5000 + b"\n"))
    with showing(tmp_path / "store.db") as board:
        endless = "api/search?" + urlencode({"q": "(a+)+(a+)+$b", "regex": 1})
        with board.sending(endless), board.sending(endless):
            wait_for(lambda: board.metric("sqstee_web_searches") == "2", "searches")
            busy = board.ask("api/search?q=a")
            assert (busy.status, busy.headers["Retry-After"]) == (503, "2")
        wait_for(lambda: not searches_of(board), "end of the searches")
        assert board.ask(endless).objects[-1] == {"end": "pattern", "hits": 0}
        assert board.search("q=aaa")[1]["end"] == "all"


def test_the_end_ends_searches(tmp_path: Path) -> None:
    """SIGTERM and ^C: the status is 0, nothing is printed, no process stays."""
    store(tmp_path / "store.db", text_of(0, b"a" * 5000 + b"\n"))
    for number in (signal.SIGTERM, signal.SIGINT):
        with showing(tmp_path / "store.db") as board:
            with board.sending("api/search?" + urlencode({"q": "(a+)+(a+)+$b", "regex": 1})):
                wait_for(lambda: searches_of(board), "search")
                (search,) = searches_of(board)
                board.process.send_signal(number)
                assert board.process.wait(30) == 0
            wait_for(lambda: not is_running(search), "end of the search")  # noqa: B023
            assert board.process.stderr
            assert board.process.stderr.read() == b""


def test_an_unchanged_answer_is_304(tmp_path: Path) -> None:
    """The tag is the same in all processes, and another one once something came, or was deleted."""
    path = tmp_path / "store.db"
    store(path, event_of("start", 0, "A"), lines_of(1, 5, "A"))
    queries = ("api/runs", "api/runs/A", "api/runs/A/lines?after=2")
    with showing(path) as board, showing(path) as other:
        tags = {query: board.ask(query).headers["ETag"] for query in queries}
        for query, tag in tags.items():
            for one in (board, other):
                reply = one.ask(query, If_None_Match=f'"x", W/{tag}')
                assert (reply.status, reply.body, reply.headers["ETag"]) == (304, b"", tag)
        store(path, lines_of(6, 9, "A"))
        for query, tag in tags.items():
            reply = board.ask(query, If_None_Match=tag)
            assert (reply.status, reply.headers["ETag"] == tag) == (200, False)
        assert whole(board.lines("A", "after=7")["lines"]) == [(8, 8), (9, 9)]
        assert board.ask("static/run.js", If_None_Match=board.ask("static/run.js").headers["ETag"]).status == 304


def test_a_store_may_come_later_and_be_replaced(tmp_path: Path) -> None:
    """What is shown is what is in the file of that name now; the board itself makes none."""
    path = tmp_path / "store.db"
    with showing(path) as board:
        assert board.ask("api/runs").json["runs"] == []
        assert board.search("q=line")[0] == []
        assert not path.exists()
        for run in ("A", "B"):
            store(tmp_path / run, *whole_run(3, run))
            os.replace(tmp_path / run, path)
            assert [one["run"] for one in board.ask("api/runs").json["runs"]] == [run]
            assert len(board.lines(run)["lines"]) == 5
            assert len(board.search("q=line")[0]) == 3


def test_a_store_of_a_version_without_rows_for_runs(tmp_path: Path) -> None:
    """Its runs are added, once."""
    path = tmp_path / "store.db"
    store(path, *whole_run(3, "A"))
    connection = sqlite3.connect(path)
    connection.executescript("DROP TABLE run; DROP TABLE indexed")
    connection.close()
    with showing(path) as board:
        assert [one["run"] for one in board.ask("api/runs").json["runs"]] == ["A"]


def test_a_store_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector's, of another user: what cannot be added to its rows for runs is not shown, and all else is."""

    def refuse(self: LocalStore) -> None:
        raise TransportError(OPEN, "SQLite", "attempt to write a readonly database")

    path = tmp_path / "store.db"
    store(path, *whole_run(3, "A"))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE indexed SET body = 0")
    connection.commit()
    connection.close()
    monkeypatch.setattr(LocalStore, "catch_up", refuse)
    board, token = in_process(path)
    status, _, body = ask(board, "/api/runs", HTTP_AUTHORIZATION=token)
    assert (status, json.loads(body)["matched"]) == (200, 1)


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    """503 with one line, and one in the log."""
    (tmp_path / "store.db").write_bytes(b"x" * 10_000)
    with showing(tmp_path / "store.db") as board:
        for path in ("api/runs", "api/runs/A", "api/runs/A/lines"):
            reply = board.ask(path)
            assert (reply.status, reply.body) == (503, b"the store cannot be read\n")


BAD = [
    *("runs?x=1", "runs?failed=2", "runs?limit=0", "runs?limit=-1", "runs?limit=x", "runs?limit=1&limit=2"),
    *("runs?limit=%D9%A1", "runs?limit=" + "1" * 5000, "runs?label=a", "runs?label==b", "runs?since=soon"),
    *(
        "runs?since=1e400d",
        "runs?before=x",
        "runs?before=x~y",
        "runs?until=0001-01-01",
    ),
    *("runs?silent_after=0", "runs?job=%FF", "runs?" + "&".join("job=a" for _ in range(200)), "runs?" + "a" * 9000),
    *("runs/ODD?limit=1", "runs/ODD/lines?after=-2", "runs/ODD/lines?after=1.5", "runs/ODD/lines?last=-1"),
    *("runs/ODD/lines?after=99999999999999999999999", "runs/ODD/download?form=html", "runs/ODD/download?form="),
    *(
        "search",
        "search?q=",
        "search?q=%28&regex=1",
        "search?q=*&regex=1",
        "search?q=" + "a" * 501,
        "search?q=a&limit=x",
    ),
    *("search?q=" + "(" * 490 + "&regex=1", "search?q=%5C1&regex=1", "search?q=a%7B99999999999%7D&regex=1"),
]
FINE = ("runs/ODD/lines?after=99999999999999999999999", "runs/ODD/download?form=", "runs?until=0001-01-01")


@pytest.mark.parametrize("query", [one for one in BAD if one not in FINE], ids=lambda query: query[:40])
def test_a_bad_request_is_one_line(board: ServedBoard, query: str) -> None:
    """What is not understood is named."""
    reply = board.ask(f"api/{query}")
    assert reply.status == 400, reply.body
    assert reply.body.count(b"\n") == 1
    assert 10 < len(reply.body) < 400


@pytest.mark.parametrize(
    "path",
    [
        *("api", "api/", "api/runs/", "api/run", "api/runs/NO", "api/runs/NO/lines", "api/runs/NO/download"),
        *("api/runs/%00", "api/runs/..", "api/runs/%2e%2e%2fx", "api/runs/' OR 1=1", "api/search?q=a&run=NO"),
        *(
            "static/",
            "static/../board.py",
            "static/..%2fboard.py",
            "static/%2e%2e/__init__.py",
            "static/login.html",
            "job/",
        ),
        *("index.html", "//evil.example/", "favicon.ico", "login.html", "run/", "job/", "%2e%2e"),
    ],
)
def test_what_is_not_there_is_404(board: ServedBoard, path: str) -> None:
    """Nothing outside of the pages is served."""
    assert board.ask(path.replace(" ", "%20")).status == 404


def test_nothing_that_is_sent_ends_it(board: ServedBoard) -> None:
    """Requests that are none are refused or cut off, and it goes on; no traceback is printed."""
    parts = urlsplit(board.url)
    host = f"Host: {parts.netloc}".encode()
    for raw in [
        *(b"\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n" + host + b"\r\n\r\n"),
        *(
            b"GET /%ff%fe HTTP/1.1\r\n" + host + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET http://[ HTTP/1.1\r\n\r\n",
        ),
        b"GET /api/runs HTTP/1.1\r\n" + host + b"\r\nAuthorization: \xff\xfe\r\n\r\n",
        b"GET /api/runs HTTP/1.1\r\n" + host + b"\r\nAuthorization: Bearer\r\nCookie: \xff=\xff;;=;a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"\r\nCookie: " + b"a=b; " * 5000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /?token=%00%ff HTTP/1.1\r\n" + host + b"\r\nIf-None-Match: \xff,,\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"\r\nContent-Length: 99999999\r\n\r\n",
    ]:
        with socket.create_connection((parts.hostname or "", parts.port or 0), 30) as peer:
            peer.sendall(raw)
            peer.shutdown(socket.SHUT_WR)
            answer = peer.recv(100)
            assert not answer or answer.split()[1].startswith(b"4"), raw
    assert board.ask("api/runs").status == 200


def in_process(path: Path) -> tuple[Board, str]:
    """A board in this process, with a token."""
    return Board(str(path), Access(["t" * 16])), "Bearer " + "t" * 16


def ask(board: Board, path: str, query: str = "", **more: Any) -> tuple[int, dict[str, str], bytes]:
    """One request through wsgiref's validator."""
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query, "SCRIPT_NAME": ""}
    environ |= {"wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO()} | more
    setup_testing_defaults(environ)
    got: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        got.extend((int(status[:3]), dict(headers)))
        return lambda data: None

    answer = validator(board)(environ, start_response)
    body = b"".join(answer)
    answer.close()  # type: ignore[attr-defined]
    return got[0], got[1], body


def test_below_a_path(tmp_path: Path) -> None:
    """Where a server mounts it, addresses and the cookie begin with that path; a path with two slashes is no host."""
    board, _ = in_process(tmp_path / "store.db")
    status, headers, _ = ask(board, "/run", f"id=A&token={'t' * 16}", SCRIPT_NAME="/logs")
    assert (status, headers["Location"]) == (303, "/logs/run?id=A")
    assert "Path=/logs/;" in headers["Set-Cookie"]
    assert ask(board, "", SCRIPT_NAME="/logs")[1]["Location"] == "/logs/"
    assert ask(board, "", SCRIPT_NAME="//evil.example")[1]["Location"] == "/evil.example/"
    secure = ask(board, "/", f"token={'t' * 16}", **{"wsgi.url_scheme": "https"})[1]["Set-Cookie"]
    assert secure.endswith("; Secure")


@given(odd_bodies)
def test_odd_records_are_shown_or_left_out(data: bytes) -> None:
    """Whatever a sender has stored: every answer is JSON that a browser can read, and no request fails."""
    try:
        parts = by_run(data)
    except DecodeError:
        return
    for body in parts:
        for entry in entries([body], -1, body.last if body.last < 1000 else -1):
            json.loads(entry.json, parse_constant=lambda text: pytest.fail(text))
            assert b"\n" not in entry.json


def test_seqs_of_any_size(tmp_path: Path) -> None:
    """A run that begins at once and goes on at the highest seq there is."""
    last = 2**63 - 2
    store(tmp_path / "store.db", lines_of(0, 1, "A"), text_of(last, b"the last\n", "A"))
    with showing(tmp_path / "store.db") as board:
        assert whole(board.lines("A")["lines"]) == [(0, 0), (1, 1), (2, last - 1), (last, last)]
        assert whole(board.lines("A", f"after={last - 1}")["lines"]) == [(last, last)]
        assert board.ask("api/runs/A").json["holes"] == [[2, last - 1]]


def test_odd_names_of_runs(tmp_path: Path) -> None:
    """With slashes, per cent signs, quotes and markup: found by what the page asks for."""
    names = ["a/b", "a%2Fb", "a b?c#d&e=f", "<b>\"'", "~!$()*,;:@[]", "é\u202e"]
    store(tmp_path / "store.db", *(lines_of(0, 2, name) for name in names))
    with showing(tmp_path / "store.db") as board:
        assert {run["run"] for run in board.ask("api/runs").json["runs"]} == set(names)
        for name in names:
            assert len(board.lines(name)["lines"]) == 3
            disposition = board.ask(f"api/runs/{quote(name, safe='')}/download").headers["Content-Disposition"]
            assert re.fullmatch(r'attachment; filename="[\w.-]+"', disposition)


def test_a_name_of_a_megabyte_is_cut(tmp_path: Path) -> None:
    """An answer for 1000 runs stays small, whatever senders call them."""
    store(tmp_path / "store.db", lines_of(0, 1, "A", job="j" * 900_000))
    with showing(tmp_path / "store.db") as board:
        assert len(board.ask("api/runs?totals=1").body) < 3000


def test_as_a_wsgi_application(tmp_path: Path) -> None:
    """Configured by variables, for any server; without a token it shows nothing to anybody."""
    store(tmp_path / "store.db", *whole_run(3, "A"))
    code = (
        "import io, sys; from sqstee.web import application; log = io.StringIO()\n"
        "environ = {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/api/runs', 'QUERY_STRING': '', 'SCRIPT_NAME': '',\n"
        "    'HTTP_AUTHORIZATION': 'Bearer ' + 't' * 16, 'wsgi.errors': log, 'wsgi.multiprocess': True}\n"
        "status = []\n"
        "body = b''.join(application(environ, lambda line, headers: status.append(line)))\n"
        "print(status[0], body.decode(), log.getvalue())"
    )

    def run(**environ: str) -> str:
        env = clean_environment() | {"SQSTEE_STORE": f"local:{tmp_path}/store.db"} | environ
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout

    assert run(SQSTEE_WEB_TOKEN="t" * 16).startswith('200 OK {"runs":[{"run":"A"')
    assert run().startswith("503 Service Unavailable the board is not configured\n")
    assert "no token is configured (set SQSTEE_WEB_TOKEN or SQSTEE_WEB_TOKEN_FILE)" in run()
    assert "too short" in run(SQSTEE_WEB_TOKEN="t")
    assert "a local store only" in run(SQSTEE_WEB_TOKEN="t" * 16, SQSTEE_STORE="q")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["q"], "q: a queue has one reader, which empties it: --consume"),
        (["local:/nowhere/at/all.db"], "does not exist"),
        (["--listen", "x"], "invalid value 'x' for --listen (expected HOST:PORT)"),
        (["--listen", "127.0.0.1:65536"], "invalid value"),
        (["--listen", "203.0.113.1:0"], "cannot listen on 203.0.113.1:0"),
        (["--token-file", "/nowhere"], "cannot read the tokens: /nowhere: No such file"),
        (["--token-file", "/dev/null"], "cannot read the tokens: /dev/null has none"),
    ],
)
def test_mistakes_have_a_hint(sqstee: Sqstee, words: list[str], problem: str) -> None:
    """One line, and one that helps."""
    found = sqstee.run("web", *words)
    assert found.returncode in (1, 125)
    first, hint = found.stderr.decode().splitlines()
    assert problem in first
    assert hint.startswith("hint: ")


def test_the_next_free_port(tmp_path: Path) -> None:
    """Two boards on a host, neither of which names a port."""
    with showing(tmp_path / "store.db", "--listen", "") as one, showing(tmp_path / "store.db", "--listen", "") as other:
        assert one.url != other.url
        assert one.ask("health").body == other.ask("health").body == b"ok\n"


def test_metrics(board: ServedBoard) -> None:
    """Requests by status, and searches under way."""
    board.ask("nothing")  # a status is counted from its first answer on
    before = int(board.metric('sqstee_web_requests_total{status="404"}'))
    board.ask("nothing")
    assert int(board.metric('sqstee_web_requests_total{status="404"}')) == before + 1
    assert board.metric("sqstee_web_searches") == "0"


def test_polls_are_counted(board: ServedBoard) -> None:
    """By what they ask for, and whether it was unchanged."""

    def counts(path: str) -> list[int]:
        return [int(board.metric(f'sqstee_web_polls_total{{path="{path}",unchanged="{one}"}}')) for one in (0, 1)]

    for path, name in (("api/runs", "runs"), ("api/runs/ODD", "run"), ("api/runs/ODD/lines", "lines")):
        made, unchanged = counts(name)
        tag = board.ask(path).headers["ETag"]
        assert board.ask(path, If_None_Match=tag).status == 304
        assert counts(name) == [made + 1, unchanged + 1]


def test_several_worker_processes(tmp_path: Path) -> None:
    """gunicorn with two: a cookie of one holds in the other, tags agree, one that is killed is replaced."""
    store(tmp_path / "store.db", *whole_run(3, "A"))
    words = ("--workers", "2", "--threads", "2")
    with workers("sqstee.web:application", tmp_path, *words, SQSTEE_WEB_TOKEN="t" * 16) as (process, url):
        board = ServedBoard(process, url, "t" * 16)
        cookie = cookie_of(board.ask(f"?token={board.token}", token=""))
        tags, found = set[str](), set[str]()
        while len(found) < 2:
            reply = board.ask("api/runs", token="", Cookie=cookie)
            assert reply.status == 200
            tags.add(reply.headers["ETag"])
            found |= set(re.findall(r'process="(\d+)"', board.ask("metrics").body.decode()))
        assert len(tags) == 1
        kill(int(found.pop()))
        assert board.search("q=line")[1] == {"end": "all", "hits": 3}
        wait_for(lambda: len(children(process.pid)) == 2, "new worker")
