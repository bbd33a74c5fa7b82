"""The sender of the HTTP transport: against scripted answers, and by the real command against the real collector."""

from __future__ import annotations

import base64
import contextlib
import gzip
import re
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from email.message import Message
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support import TIMEOUT, Rebuilt, Sqstee, clean_environment, python, reserved, running, wait_for
from support.collector import body, collecting, stored

from sqstee.destination import parse
from sqstee.ship.backoff import Backoff
from sqstee.transports.errors import OPEN, POISON, REFRESH, RETRY, SIZE, TransportError
from sqstee.transports.http import HttpAnswer, HttpSender
from sqstee.wire import decode

MANY = python("import sys\nfor n in range(50000): sys.stdout.write('line %06d ' % n + 'x' * 107 + '\\n')")
Answer = tuple[int, dict[str, str], bytes]


class Scripted:
    """A server that answers 200, or what `answers` holds; `close` ends the connection without an answer."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.most = 0  # a larger request is refused
        self.connections = 0
        self.close_after_answer = False
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def setup(self) -> None:
                owner.connections += 1
                super().setup()

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                owner.got.append((self.path, {name.lower(): text for name, text in self.headers.items()}, data))
                status, headers, text = owner.answers.popleft() if owner.answers else (200, {}, b"")
                if 0 < owner.most < len(data):
                    status = 413
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)
                self.close_connection = owner.close_after_answer or "Content-Length" in headers

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """A scripted server."""
    found = Scripted()
    threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def sending(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., HttpSender]]:
    """Makes senders to the scripted server, without a token."""
    monkeypatch.delenv("SQSTEE_TOKEN", raising=False)
    with contextlib.ExitStack() as stack:

        def make(path: str = "/", token_file: str = "") -> HttpSender:
            return stack.enter_context(contextlib.closing(HttpSender(parse(scripted.url + path), token_file)))

        yield make


Sending = Callable[..., HttpSender]


def test_a_body_is_posted_as_it_is(scripted: Scripted, sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """NDJSON with its type, the path and query of the URL, the token; compressed with Content-Encoding gzip."""
    monkeypatch.setenv("SQSTEE_TOKEN", "secret")
    one = body("RUN", 0, 99)
    sending("/v1/lines?team=a").send([one, one.compressed()])
    (path, headers, data), (_, packed_headers, packed) = scripted.got
    assert (path, data) == ("/v1/lines?team=a", one.data)
    assert (headers["content-type"], headers["authorization"]) == ("application/x-ndjson", "Bearer secret")
    assert "content-encoding" not in headers
    assert packed_headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed) == one.data
    assert len(decode(data)) == 100  # newline_delimited, json


def test_a_connection_is_kept(scripted: Scripted, sending: Sending) -> None:
    """Many posts, one connection."""
    sender = sending()
    for seq in range(20):
        sender.send([body("RUN", seq, seq)])
    assert (len(scripted.got), scripted.connections) == (20, 1)


def test_a_connection_that_was_closed_while_idle_is_replaced(scripted: Scripted, sending: Sending) -> None:
    """A server that closes after each answer, without saying so, costs no failure."""
    scripted.close_after_answer = True
    sender = sending()
    for seq in range(5):
        sender.send([body("RUN", seq, seq)])
    assert len(scripted.got) == 5


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, POISON),
        (401, REFRESH),
        (403, OPEN),
        (404, OPEN),
        (405, OPEN),
        (408, RETRY),
        (413, SIZE),
        (415, OPEN),
        (422, POISON),
        (429, RETRY),
        (301, OPEN),
        (308, OPEN),
        (500, RETRY),
        (502, RETRY),
        (503, RETRY),
    ],
)
def test_answers_have_their_class(scripted: Scripted, sending: Sending, status: int, kind: str) -> None:
    """The one table; the server's own words are in the message, on one line."""
    scripted.answers.append((status, {}, b"what is\nwrong\x1b[31m"))
    with pytest.raises(TransportError) as raised:
        sending().send([body("RUN", 0, 0)])
    assert (raised.value.kind, raised.value.code) == (kind, f"Http{status}")
    assert str(raised.value).endswith("what is wrong\ufffd[31m")


PAGES = [
    b"<html><body>Please log in</body></html>",
    b"\r\n  <!DOCTYPE html>\n<title>Hotel</title>",
    b"\xef\xbb\xbf<HTML>",
    b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">',
    "\ufeff<html>Hôtel</html>".encode("utf-16-le"),
    "<html>Hôtel</html>".encode("utf-16-be"),
    b"<!-- portal --><html>",
    b'<meta http-equiv="refresh" content="0; url=http://portal/">',
    b"<script>location = 'http://portal/'</script>",
]
ANSWERS = [
    b"",
    b"ok",
    b"10 records\n",
    b'{"text":"Success","code":0}',
    b'<?xml version="1.0"?><response/>',
    b"<3",
    b"\xff",
]


def test_a_portals_page_has_taken_nothing(scripted: Scripted, sending: Sending) -> None:
    """HTTP 200 with HTML, whatever its type, is sent again, and a success with it is none; the page's title is told."""
    for page in PAGES:
        for content_type in ("text/html", "text/plain", "application/json", ""):
            scripted.answers.append((200, {"Content-Type": content_type} if content_type else {}, page))
            with pytest.raises(TransportError, match="an HTML page") as raised:
                sending().send([body("RUN", 0, 0)])
            assert (raised.value.kind, raised.value.code) == (RETRY, "NoAnswer")
    scripted.answers.append((502, {}, b"<html><head><title>\n502 of the\x1b proxy</title>"))
    with pytest.raises(TransportError, match=r'an HTML page "502 of the\uFFFD proxy"$'):
        sending().send([body("RUN", 0, 0)])


def test_an_answer_in_the_type_of_a_page_is_one(scripted: Scripted, sending: Sending) -> None:
    """Frameworks send "ok" as text/html: only a body that is HTML makes a page of it."""
    for text in ANSWERS:
        scripted.answers.append((200, {"Content-Type": "text/plain"}, text))
        sending().send([body("RUN", 0, 0)])
    for text, status in ((b"", 200), (b"ok", 200), (b"", 202), (b"", 204)):
        scripted.answers.append((status, {"Content-Type": "text/html; charset=utf-8"}, text))
        sending().send([body("RUN", 0, 0)])
    scripted.answers.append((200, {"Content-Type": "text/html"}, b"Welcome to our <b>Hotel</b>"))
    scripted.answers.append((200, {"Content-Type": "text/html", "Content-Encoding": "gzip"}, gzip.compress(PAGES[0])))
    for _ in range(2):
        with pytest.raises(TransportError, match="NoAnswer"):
            sending().send([body("RUN", 0, 0)])


def test_a_collector_that_names_itself_is_not_taken_for_another(scripted: Scripted, sending: Sending) -> None:
    """Once an answer had the header of `sqstee serve`, one without it neither takes records nor condemns them."""
    ours = {"Sqstee-Collector": "1"}
    sender = sending()
    scripted.answers.extend([(200, {}, b"ok"), (200, ours, b"1 records"), (200, {}, b"please log in"), (400, {}, b"")])
    sender.send([body("RUN", 0, 0), body("RUN", 1, 1)])
    for _ in range(2):
        with pytest.raises(TransportError, match="no header Sqstee-Collector, unlike before") as raised:
            sender.send([body("RUN", 2, 2)])
        assert (raised.value.kind, raised.value.code) == (RETRY, "NoAnswer")
    for status, kind in ((413, SIZE), (403, OPEN), (503, RETRY)):  # a proxy before it may say so too
        scripted.answers.append((status, {}, b"<html>"))
        with pytest.raises(TransportError, match=f"Http{status}") as raised:
            sender.send([body("RUN", 2, 2)])
        assert raised.value.kind == kind
    scripted.answers.append((400, ours, b"not a record"))
    with pytest.raises(TransportError, match="Http400") as raised:
        sender.send([body("RUN", 2, 2)])
    assert raised.value.kind == POISON
    scripted.answers.append((200, ours, b""))
    sender.send([body("RUN", 2, 2)])


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        *(("7", 7, 7), ("0", 0, 0), ("", 0, 0), ("soon", 0, 0), ("-1", 0, 0), ("in ten minutes", 30, 600)),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", 0, 0),
    ],
)
def test_retry_after_is_read(scripted: Scripted, sending: Sending, text: str, least: float, most: float) -> None:
    """Seconds or a date; anything else is as if it were not there."""
    if text == "in ten minutes":
        text = formatdate(time.time() + 600)
    scripted.answers.append((503, {"Retry-After": text}, b""))
    with pytest.raises(TransportError) as raised:
        sending().send([body("RUN", 0, 0)])
    assert least <= raised.value.after <= most


def test_retry_after_is_waited_for() -> None:
    """At least as long as was asked, but not for ever."""
    backoff = Backoff(jitter=lambda low, high: low)
    backoff.failure(RETRY, "busy", 100.0, 7.0)
    assert backoff.not_before == 107.0
    backoff.failure(RETRY, "busy", 100.0, 1e9)
    assert backoff.not_before == 400.0


def test_a_token_that_was_replaced_is_read_again(scripted: Scripted, sending: Sending, tmp_path: Path) -> None:
    """401 means: look into the file once more. The first line counts."""
    file = tmp_path / "token"
    file.write_text("old\n")
    sender = sending(token_file=str(file))
    sender.send([body("RUN", 0, 0)])
    file.write_text("new\nold\n")
    scripted.answers.append((401, {}, b""))
    with pytest.raises(TransportError):
        sender.send([body("RUN", 1, 1)])
    sender.send([body("RUN", 1, 1)])
    assert [headers["authorization"] for _, headers, _ in scripted.got] == ["Bearer old", "Bearer old", "Bearer new"]


@pytest.mark.parametrize("content", [None, b"", b"caf\xc3\xa9\n", b"a\x07b\n"])
def test_a_token_file_that_cannot_be_used_is_named(sending: Sending, tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty, or not to be put into a header: no traceback, and nothing is sent without its token."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TransportError, match="cannot read the token") as raised:
        sending(token_file=str(file)).open()
    assert raised.value.kind == OPEN


def test_a_proxy_is_used(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY takes the whole URL; NO_PROXY goes past it."""
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "http_proxy", "SQSTEE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", scripted.url)
    with contextlib.closing(HttpSender(parse("http://collector.invalid:99/x"))) as sender:
        sender.send([body("RUN", 0, 0)])
    assert scripted.got[0][0] == "http://collector.invalid:99/x"
    assert scripted.got[0][1]["host"] == "collector.invalid:99"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with contextlib.closing(HttpSender(parse(f"{scripted.url}/y"))) as sender:
        sender.send([body("RUN", 0, 0)])
    assert scripted.got[1][0] == "/y"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_gets_the_credentials_of_its_url(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request carries them, or else the opening of a tunnel; nothing else does."""
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            peer, _ = server.accept()
            with peer:
                heads.append(peer.recv(65536))
                peer.sendall(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        for name in ("no_proxy", "NO_PROXY", "SQSTEE_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(f"{scheme}_proxy", f"http://us%40er:p:w@127.0.0.1:{server.getsockname()[1]}")
        sender = HttpSender(parse(f"{scheme}://collector.invalid/x"))
        with pytest.raises(TransportError, match="407") as raised:
            sender.send([body("RUN", 0, 0)])
        sender.close()
        thread.join(30)
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"us@er:p:w") in heads[0]
    assert heads[0].startswith(b"CONNECT " if scheme == "https" else b"POST http://")
    assert "p:w" not in str(raised.value)


def test_nobody_there_is_passing_trouble() -> None:
    """A refused connection and a name that is not known are repeated."""
    for url in ("http://127.0.0.1:1/", "http://collector.invalid/"):
        with pytest.raises(TransportError, match="Network") as raised:
            HttpSender(parse(url)).send([body("RUN", 0, 0)])
        assert raised.value.kind == RETRY


@pytest.mark.parametrize("compress", ["none", "auto", "gzip"])
def test_a_command_is_collected_bit_for_bit(sqstee: Sqstee, tmp_path: Path, compress: str) -> None:
    """Both streams come back from the collector's store, the status is the command's, tail reads it."""
    store = tmp_path / "store.db"
    with collecting(store) as (_, url):
        words = ("--compress", compress, "--to", url, "--", "sh", "-c")
        found = sqstee.run(*words, "printf 'out\\n\\377\\0'; seq 3000; echo err >&2; exit 3")
    assert (found.stderr, found.returncode) == (b"err\n", 3)
    got = Rebuilt((row.data, row.attributes) for row in stored(store))
    got.assert_whole()
    assert (got.stdout, got.stderr, got.duplicates) == (found.stdout, b"err\n", 0)
    assert sqstee.waiting_runs() == []
    shown = sqstee.run("tail", f"local:{store}", "--no-follow", "-o", "raw")
    assert shown.stdout == found.stdout + b"err\n" or sorted(shown.stdout) == sorted(found.stdout + b"err\n")


@pytest.mark.parametrize(
    "answers",
    [
        [(503, {"Retry-After": "1"}, b"")] * 2,
        [(500, {}, b""), (429, {}, b""), (502, {}, b"")],
        [(0, {}, b"")] * 3,
        [(401, {}, b"")],
        [(200, {"Content-Length": "100"}, b"short")],
        [(200, {"Content-Type": "text/plain"}, PAGES[0])] * 3,
    ],
    ids=["busy", "errors", "dropped", "token", "truncated", "portal"],
)
def test_passing_trouble_loses_nothing(sqstee: Sqstee, scripted: Scripted, answers: list[Answer]) -> None:
    """What passes is waited out: everything arrives, and nothing is said."""
    scripted.answers.extend(answers)
    found = sqstee.run("--to", scripted.url, "--", *MANY)
    assert (found.returncode, found.stderr) == (0, b"")
    got = Rebuilt((data, {}) for _, _, data in scripted.got)
    got.assert_whole()
    assert got.stdout == found.stdout


def test_a_retry_after_beyond_the_flush_time_ends_the_wait(sqstee: Sqstee, scripted: Scripted) -> None:
    """Nothing is gained by waiting: the command's end is reported at once, with the reason, and the lines are kept."""
    scripted.answers.append((503, {"Retry-After": "300"}, b""))
    words = ("--to", scripted.url, "--flush-timeout", "250s", "--", "echo", "hi")
    found = sqstee.run(*words, timeout=TIMEOUT)
    assert found.returncode == 0
    assert b"1 line not delivered yet (Http503" in found.stderr
    assert b"asks to wait for 300 s" in found.stderr
    assert len(sqstee.waiting_runs()) == 1


def test_what_is_too_large_is_divided(sqstee: Sqstee, scripted: Scripted) -> None:
    """Half of what was refused, no less: everything arrives, and nothing is said."""
    scripted.most = 150_000
    found = sqstee.run("--to", scripted.url, "--", *MANY)
    assert (found.returncode, found.stderr) == (0, b"")
    got = Rebuilt((data, {}) for _, _, data in scripted.got if len(data) <= scripted.most)
    got.assert_whole()
    assert got.stdout == found.stdout
    assert len(scripted.got) < 150


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which a server may be started again."""
    with reserved() as found:
        yield found.getsockname()[1]


def test_a_collector_that_was_killed_gets_the_rest_by_flush(sqstee: Sqstee, tmp_path: Path, port: int) -> None:
    """Killed in the middle of a run, started again after it: nothing is lost, nothing is stored twice."""
    store = tmp_path / "store.db"
    code = python("import sys\nfor n in range(2000): print(n)\nsys.stdout.flush(); sys.stdin.read(); print('last')")
    with collecting(store, port=port) as (process, url):
        words = ("--flush-timeout", "1s", "--message-bytes", "16K", "--to", url)
        with running(
            sqstee.words(*words, "--", *code),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=sqstee.environ,
        ) as wrapper:
            wait_for(lambda: len(stored(store)) >= 3, "rows")
            process.kill()
            process.wait()
            out, err = wrapper.communicate(timeout=40)
    assert wrapper.returncode == 0
    assert b"not delivered yet (" in err
    with collecting(store, port=port):
        flushed = sqstee.run("flush")
    assert (flushed.returncode, flushed.stdout.split(b" ", 1)[1]) == (0, f"shipped to {url}\n".encode())
    got = Rebuilt((row.data, row.attributes) for row in stored(store))
    got.assert_whole()
    assert (got.stdout, got.duplicates) == (out, 0)


def test_a_wrong_token_keeps_the_lines(sqstee: Sqstee, tmp_path: Path) -> None:
    """Said in one line; with the right token in the file that the run names, flush ships them."""
    store, file = tmp_path / "store.db", tmp_path / "token"
    file.write_text("wrong\n")
    with collecting(store, environ={"SQSTEE_TOKEN": "right"}) as (_, url):
        words = sqstee.words("--token-file", "token", "--to", url, "--", "echo", "hi")
        found = subprocess.run(words, capture_output=True, env=sqstee.environ, cwd=tmp_path, check=False, timeout=60)
        assert (found.stdout, found.returncode) == (b"hi\n", 0)
        assert re.match(r"sqstee: 1 line not delivered yet \(Http401: .*\): kept in .*\n$", found.stderr.decode())
        file.write_text("right\n")
        assert sqstee.run("flush").returncode == 0
    assert Rebuilt((row.data, row.attributes) for row in stored(store)).stdout == b"hi\n"


@pytest.mark.parametrize(
    ("url", "token", "warned"),
    [
        ("http://collector.invalid/", "secret", True),
        ("http://collector.invalid/", "", False),
        ("https://collector.invalid/", "secret", False),
        ("http://127.0.0.1:1/", "secret", False),
        ("http://localhost:1/", "secret", False),
        ("http://[::1]:1/", "secret", False),
    ],
)
def test_a_token_in_the_clear_is_warned_about(sqstee: Sqstee, url: str, token: str, warned: bool) -> None:
    """Over plain http to another host, and only there; the token itself is never shown."""
    environ = {"SQSTEE_TOKEN": token, "SQSTEE_FLUSH_TIMEOUT": "0"}
    found = sqstee.run("--to", url, "--", "true", environ=environ)
    assert (b"goes to collector.invalid unencrypted" in found.stderr) == warned
    assert b"secret" not in found.stderr
    assert b"secret" not in sqstee.spooled()


@pytest.mark.parametrize(
    "url",
    [
        *("http://user:pw@host/", "http://host:port/", "http://:80/", "http://host:70000/", "http://a:b:80/"),
        *(
            "http://[::1/",
            "http://[::1/123456789012/q",
            "http://[host]/",
            "http://h[x]/",
            "http://::1/",
            "http://[::1]x/",
        ),
        *("http://a..b/", "http://?x", f"http://{64 * 'a'}.invalid/", "https://host\\x/"),
    ],
)
def test_urls_that_cannot_be_used_are_refused(sqstee: Sqstee, url: str) -> None:
    """Before the command has started; a password would end up in the spool."""
    found = sqstee.run("--to", url, "--", "true")
    assert found.returncode == 125
    assert b"is not a destination" in found.stderr


def test_a_path_may_be_any_text(scripted: Scripted, sending: Sending) -> None:
    """What is not ASCII is sent as browsers do; what is encoded already stays as it is."""
    with contextlib.closing(HttpSender(parse(f"{scripted.url}/größe%20a?b=ü&c=%41"))) as sender:
        sender.send([body("RUN", 0, 0)])
    assert scripted.got[0][0] == "/gr%C3%B6%C3%9Fe%20a?b=%C3%BC&c=%41"


@pytest.mark.parametrize(
    ("status", "advice"), [(302, "log in to this network"), (502, "that server's log"), (405, "the path in the URL")]
)
def test_a_server_that_answers_is_not_said_to_be_down(
    sqstee: Sqstee, scripted: Scripted, status: int, advice: str
) -> None:
    """By `check`: a login page that it redirects to, a gateway, something that takes no posts."""
    scripted.answers.append((status, {"Location": "http://portal.invalid/"}, b""))
    found = sqstee.run("check", scripted.url, environ={"no_proxy": "*"})
    assert found.returncode == 1
    assert f"failed  collector: Http{status}: " in found.stdout.decode()
    assert advice in found.stdout.decode()


@pytest.mark.parametrize("proxy", ["http://proxy:port", "http://[::1", "proxy:99999"])
def test_a_proxy_that_is_none_is_said(sqstee: Sqstee, proxy: str) -> None:
    """By `check`, with the variable's name; and the lines stay, for whoever has mended it."""
    environ = {"http_proxy": proxy, "no_proxy": "", "NO_PROXY": ""}
    found = sqstee.run("check", "http://collector.invalid/", environ=environ)
    assert b"invalid HTTP_PROXY: " in found.stdout + found.stderr
    assert b"Traceback" not in found.stderr
    found = sqstee.run("--to", "http://collector.invalid/", "--", "true", environ=environ)
    assert found.returncode == 0
    assert b"invalid HTTP_PROXY: " in found.stderr


def test_serve_says_what_is_wrong(tmp_path: Path) -> None:
    """A port that is taken, a store that is none, a token file that is missing: one line and one hint."""
    sqstee = Sqstee(tmp_path)
    with collecting(tmp_path / "store.db") as (_, url):
        for words in (
            ("--port", str(urlsplit(url).port)),
            ("--store", "queue"),
            ("--store", "local:/dev/null/x"),
            ("--token-file", str(tmp_path / "missing")),
        ):
            found = sqstee.run("serve", *(("--port", "0") if "--port" not in words else ()), *words)
            assert found.returncode in (1, 125)
            assert re.fullmatch(r"sqstee: .*\nhint: .*\n", found.stderr.decode()), found.stderr


def test_a_collector_for_everybody_says_so(tmp_path: Path) -> None:
    """On an address that others reach, without a token."""
    words = [*Sqstee(tmp_path).words("serve", "--host", "0.0.0.0", "--port", "0"), "--store", f"local:{tmp_path}/s.db"]
    with running(words, stderr=subprocess.PIPE, env=clean_environment() | {"HOME": str(tmp_path)}) as process:
        assert process.stderr
        lines = [process.stderr.readline(), process.stderr.readline()]
        process.terminate()
        assert process.wait(40) == 0
    assert b"anybody who reaches" in lines[1]


def test_a_late_refusal_does_not_cost_the_new_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in flight with the old token says nothing about the one that is in the file by now."""
    file = tmp_path / "token"
    file.write_text("old")
    sender = HttpSender(parse("http://127.0.0.1:1/"), str(file))
    sender.open()
    given: list[str] = []

    def call(data: bytes, headers: dict[str, str]) -> HttpAnswer:
        given.append(headers["Authorization"])
        if len(given) == 1:
            with pytest.raises(TransportError) as early:
                sender.send([body("R", 0, 0)])
            assert early.value.kind == REFRESH
            file.write_text("new")
            sender.send([body("R", 0, 0)])
            file.unlink()
        return HttpAnswer(200 if headers["Authorization"] == "Bearer new" else 401, "", Message(), b"")

    monkeypatch.setattr(sender, "_call", call)
    with pytest.raises(TransportError) as late:
        sender.send([body("R", 1, 1)])
    assert late.value.kind == RETRY
    sender.send([body("R", 1, 1)])
    assert given == ["Bearer old", "Bearer old", "Bearer new", "Bearer new"]
