"""Requests that no browser makes: refused in one line, at a bounded cost, and the board goes on."""

from __future__ import annotations

import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_from_bytes, urlsplit
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.board import ServedBoard, showing, store
from support.bodies import gap_of, lines_of, whole_run

from sqstee.web.access import Access
from sqstee.web.board import Board

REQUESTS = 1000
SEARCHES = 25  # of these: each is a process
MOST_GROWTH = 64 * 1024  # KiB of memory
SLOWEST = 30.0  # seconds, on a machine with other work

VALUES = [
    *(
        b"",
        b"0",
        b"1",
        b"-1",
        b"2",
        b"1.5",
        b"1e400",
        b"1e400d",
        b"9" * 30,
        b"9" * 5000,
        b"NaN",
        b"inf",
        b"0x10",
        b"1_0",
    ),
    *(b"\xff", b"\x00", b"\xd9\xa1", b"\xe2\x80\xae", b"\xed\xa0\x80", b"\xf0\x9f\x92\xa9", b" 5", b"5 ", b"\r\nX: y"),
    *(b"RUN00", b"ODD", b"A/B", b"..", b"../../etc/passwd", b"' OR 1=1 --", b"<script>alert(1)</script>", b"%", b"*"),
    *(b"[", b"[!-z]" * 90, b"*a" * 400 + b"b", b"?" * 900, b"a=" + b"*" * 500, b"=", b"=x", b"a", b"a=b=c"),
    *(b"~", b"x~y", b"nan~x", b"-inf~", b"1e308~" + b"z" * 3000, b"1~\xff", b"0~0~0"),
    *(b"9223372036854775807", b"-9223372036854775808", b"9223372036854775808", b"18446744073709551616"),
    *(b"2h", b"soon", b"0001-01-01", b"9999-12-31T23:59:59.999999-23:59", b"24:61", b"99999999999d", b"yesterday"),
]
PATTERNS = [
    *(b"(a+)+$", b"(", b"*", b"[", b"\\1", b"(?P<a>", b"(" * 240, b"a{99999999999}", b"(?:a{1,9999}){1,9999}", b"\\"),
    *(b"(?i)" + b"[\x20-\xf4\x8f\xbf\xbf]" * 70, b"(?<=a*)b", b"\x00", b"\xff", b"a" * 500, b"a" * 501, b"line", b"."),
]
NAMES = [
    *(
        b"limit",
        b"before",
        b"after",
        b"last",
        b"since",
        b"until",
        b"job",
        b"host",
        b"label",
        b"silent_after",
        b"totals",
    ),
    *(b"failed", b"running", b"missing", b"silent", b"gone", b"form", b"stream", b"q", b"regex", b"nocase", b"errors"),
    *(b"run", b"id", b"token", b"x", b"", b"\xff", b"__proto__", b"a" * 300),
]
PLACES = [
    *(b"", b"run", b"search", b"metrics", b"health", b"api", b"api/", b"api/runs", b"api/runs/", b"api/runs//lines"),
    *(b"api/runs/RUN00", b"api/runs/ODD/lines", b"api/runs/ODD/download", b"api/runs/NO/lines", b"api/runs/lines"),
    *(b"api/runs/%00/lines", b"api/runs/%ff", b"api/runs/" + b"x" * 3000, b"api/nothing", b"static/run.js", b"static/"),
    *(
        b"static/../board.py",
        b"static/%2e%2e%2fboard.py",
        b"static/\\..\\board.py",
        b"/evil.example/",
        b"%",
        b"%zz",
        b"*",
    ),
    *(b".git/config", b"..;/", b"%c0%ae%c0%ae/", b"\xff\xfe", b"a" * 20_000, b"?" * 50, b"api/runs?#", b"login.html"),
]
METHODS = [
    *(
        b"POST",
        b"PUT",
        b"DELETE",
        b"PATCH",
        b"OPTIONS",
        b"TRACE",
        b"CONNECT",
        b"get",
        b"G\xc3\x89T",
        b"X" * 4000,
        b"\x00",
    ),
]
HEADERS = [
    *(b"Host: evil.example", b"Host:", b"Host: [::1", b"Host: 127.0.0.1:1:2", b"Host: a\x00b", b"Host: " + b"h" * 9000),
    *(
        b"Authorization: Bearer",
        b"Authorization: Basic YTpi",
        b"Authorization: \xff\xfe",
        b"Authorization: " + b"B" * 60_000,
    ),
    *(
        b"Cookie: =",
        b"Cookie: ;;;=;",
        b"Cookie: \xff=\xff",
        b"Cookie: " + b"a=b; " * 3000,
        b"Cookie: sqstee-00000000=x",
    ),
    *(b'If-None-Match: "', b"If-None-Match: *", b"If-None-Match: \xff,,W/", b"If-None-Match: " + b'"a",' * 5000),
    *(b"Content-Length: -1", b"Content-Length: 1e3", b"Content-Length: " + b"9" * 30, b"Content-Length: 0, 0"),
    *(
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: \xff",
        b"Expect: 100-continue",
    ),
    *(b"Range: bytes=0-1,0-1,-", b"Accept-Encoding: " + b"gzip;q=0.001, " * 800, b"Upgrade: websocket", b"TE: x"),
    *(
        b"X-Forwarded-For: ::1",
        b"X-Forwarded-Host: evil",
        b"Sec-Fetch-Site: cross-site",
        b"no colon",
        b" folded",
        b": x",
    ),
    *(b"X Y: z", b"X\x00: y", b"X: " + b"y" * 70_000, b"\xc3\x84: x", b"Host: localhost\r\nHost: evil.example"),
]
VERSIONS = [
    *(
        *[b" HTTP/1.1"] * 9,
        b" HTTP/1.0",
        b" HTTP/0.9",
        b" HTTP/2.0",
        b"",
        b" HTTP/1.1 x",
        b" http/1.1",
        b" HTTP/1." + b"9" * 99,
    )
]
BODIES = (b"Content-Length:", b"Transfer-Encoding:", b"Expect:")  # what announces a body


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedBoard]:
    """A board over some runs."""
    path = tmp_path_factory.mktemp("hostile") / "store.db"
    for number in range(20):
        store(path, *whole_run(50, f"RUN{number:02d}", status=number % 2, job=f"job{number % 3}"))
    store(path, lines_of(0, 9, "ODD"), gap_of(10, 2**62, "ODD"), lines_of(2**62 + 5, 2**62 + 9, "ODD"))
    with showing(path) as found:
        yield found


class Attacker:
    """Makes requests by a seed: each one is wrong in some ways and right in others, so that it gets far."""

    def __init__(self, seed: int, host: bytes, cookie: bytes) -> None:
        self._chance = random.Random(seed)
        self._host, self._cookie = host, cookie
        self._searches = 0

    def request(self) -> bytes:
        """All of one request."""
        chance = self._chance
        method = chance.choice(METHODS) if chance.random() < 0.1 else chance.choice((b"GET", b"GET", b"GET", b"HEAD"))
        place = chance.choice(PLACES)
        if chance.random() < 0.1 and self._searches < SEARCHES:
            self._searches += 1
            place = b"api/search?regex=1&q=" + quote_from_bytes(chance.choice(PATTERNS)).encode()
        elif chance.random() < 0.7:
            pairs = [self._name() + b"=" + self._value() for _ in range(chance.choice((1, 1, 2, 3, 120)))]
            place += b"?" + b"&".join(pairs)
        headers = [chance.choice(HEADERS) for _ in range(chance.choice((0, 1, 1, 2)))]
        if not any(header.startswith(b"Host:") for header in headers):
            headers.append(b"Host: " + self._host)
        if chance.random() < 0.9:
            headers.append(b"Cookie: " + self._cookie)
        chance.shuffle(headers)
        head = [method + b" /" + place.replace(b" ", b"%20") + chance.choice(VERSIONS), *headers, b"Connection: close"]
        return b"\r\n".join((*head, b"", b"")) + chance.choice((b"", b"", b"", b"0\r\n\r\n", b"ff\r\n" + b"x" * 5000))

    def _name(self) -> bytes:
        return quote_from_bytes(self._chance.choice(NAMES)).encode()

    def _value(self) -> bytes:
        found = self._chance.choice(VALUES)
        return quote_from_bytes(found).encode() if self._chance.random() < 0.9 else found.replace(b"\r\n", b"")


def answer_to(board: ServedBoard, data: bytes) -> bytes:
    """What comes back until the board closes the connection; nothing where it was closed at once."""
    parts, found = urlsplit(board.url), b""
    with socket.create_connection((parts.hostname or "", parts.port or 0), SLOWEST) as peer:
        try:
            peer.sendall(data)
            if any(name in data for name in BODIES):
                peer.shutdown(socket.SHUT_WR)  # or it waits for the rest; without an answer then
            while part := peer.recv(65536):
                found += part
        except (BrokenPipeError, ConnectionResetError):  # refused before all of it was read
            pass
    return found


def kib(board: ServedBoard, name: str) -> int:
    """A size in the status of the board's process."""
    text = Path(f"/proc/{board.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:"))


def test_a_thousand_hostile_requests(board: ServedBoard) -> None:
    """Each is answered, or refused in a line; memory and descriptors do not grow, and nothing is logged."""
    cookie = board.ask(f"?token={board.token}", token="").headers["Set-Cookie"].partition(";")[0].encode()
    attacker = Attacker(18, urlsplit(board.url).netloc.encode(), cookie)
    statuses: Counter[str] = Counter()
    fds = memory = 0
    for number in range(REQUESTS):
        data = attacker.request()
        head, _, body = answer_to(board, data).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
        status = head.split(b" ")[1].decode() if head.startswith(b"HTTP/1.") else "none"
        statuses[status] += 1
        assert status in ("none", "200", "303", "304", "501") or status[0] == "4", (data[:200], head, body[:200])
        # 501 is what RFC 9112 asks for where a Transfer-Encoding is unknown
        assert status != "501" or b"Transfer-Encoding" in data
        assert b"Traceback" not in body
        if status[0] == "4" and b"text/html" not in head:
            assert len(body) < 500, (data[:200], body)
            assert body.count(b"\n") <= 1 or body.rstrip().endswith(b"(generated by sqstee)"), (data[:200], body)
        if number == REQUESTS // 4:  # everything has been loaded
            fds, memory = len(os.listdir(f"/proc/{board.process.pid}/fd")), kib(board, "VmHWM")
    assert {"200", "400", "401", "404", "405", "413", "421"} <= set(statuses)
    assert board.ask("api/runs", token="", Cookie=cookie.decode()).json["matched"] == 21
    assert kib(board, "VmHWM") - memory < MOST_GROWTH
    assert len(os.listdir(f"/proc/{board.process.pid}/fd")) <= fds + 20
    board.process.terminate()
    assert board.process.wait(30) == 0
    assert board.process.stderr
    errors = board.process.stderr.read().decode()
    assert errors == "", errors


_any_text = st.text(st.characters(max_codepoint=255), max_size=50)
_paths = st.sampled_from(
    ["/", "/run", "/metrics", "/api/runs", "/api/runs/RUN00", "/api/runs/RUN00/lines"]
) | _any_text.map("/{}".format)
_queries = st.lists(st.tuples(st.sampled_from([name.decode("latin-1") for name in NAMES]) | _any_text, _any_text)).map(
    lambda pairs: "&".join(f"{name}={quote(text, encoding='latin-1') if name else text}" for name, text in pairs)
)
_headers = st.dictionaries(
    st.sampled_from(["HTTP_HOST", "HTTP_COOKIE", "HTTP_AUTHORIZATION", "HTTP_IF_NONE_MATCH", "HTTP_SEC_FETCH_SITE"]),
    _any_text | st.sampled_from(["Bearer " + "t" * 16, "bearer x", "cross-site"]),
)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board in this process."""
    path = tmp_path_factory.mktemp("environs") / "store.db"
    store(path, *whole_run(5, "RUN00"))
    found = Board(str(path), Access(["t" * 16]))
    yield found
    found.close()


@given(path=_paths, query=_queries, headers=_headers, address=st.ip_addresses().map(str))
def test_whatever_a_server_hands_over(
    application: Board, path: str, query: str, headers: dict[str, str], address: str
) -> None:
    """Texts of latin-1, as WSGI has them: each answer obeys the rules of WSGI, and refuses with one line."""
    environ: dict[str, object] = {"PATH_INFO": path, "QUERY_STRING": query, "REMOTE_ADDR": address, **headers}
    environ["SCRIPT_NAME"] = ""
    setup_testing_defaults(environ)
    statuses: list[str] = []

    def start_response(status: str, headers: object, exc_info: object = None) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda data: None

    answer = validator(application)(environ, start_response)
    body = b"".join(answer)
    answer.close()  # type: ignore[attr-defined]
    assert statuses[0][:3] in ("200", "303", "304") or statuses[0][0] == "4"
    if statuses[0][0] == "4" and b"<html" not in body:
        assert (body[-1:], body.count(b"\n")) == (b"\n", 1)
