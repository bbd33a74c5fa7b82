"""The board's pages in a real browser: what people see, and that no text of another host is more than text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys
from support import wait_for
from support.board import ServedBoard, showing, store, store_at, text_of
from support.bodies import event_of, gap_of, lines_of, whole_run
from support.command import ROOT

from sqstee.record import Body

MARKUP = b"<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"></span>"

COLOURS = b"\x1b[31mred\x1b[0m plain \x1b]0;title\x07\x1b[2J\x1b[38;2;1;2;3mrgb\x1b[48;5;208m on\x1b[m \x1b[99999;x\n"
HIDDEN = "abc \u202eevil\u202c \u2066x\u2069 \u200bzero\r\x07 Z" + "\u0301" * 50 + "\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of some runs."""
    found = tmp_path_factory.mktemp("pages") / "store.db"
    for number in range(8):
        store(found, *whole_run(5, f"RUN{number}", status=int(number == 3), job=f"job{number % 2}"))
    odd = [
        event_of("start", 0, "ODD", job=MARKUP.decode()),
        text_of(1, MARKUP + b"\n", "ODD"),
        text_of(2, COLOURS, "ODD"),
        text_of(3, HIDDEN.encode(), "ODD", "stderr"),
        gap_of(4, 99, "ODD", reason="<b>rate-limit</b>"),
        text_of(120, b"\xff" + b"x" * 30_000 + b"\n", "ODD"),
        event_of("exit", 121, "ODD", exit_code=3, duration_s=3661.0, job=MARKUP.decode()),
    ]
    store(found, *odd)
    half = lines_of(0, 1, "HALF", job="half").data.replace(b"half", b"\\ud800 a character")
    store(found, Body(half, "HALF", "node1", 0, 1))
    store(found, *(lines_of(first, first + 999, "BIG", job="big") for first in range(0, 200_000, 1000)))
    return found


@pytest.fixture(scope="module")
def board(path: Path) -> Iterator[ServedBoard]:
    """The board over it."""
    with showing(path) as found:
        yield found


class Window:
    """The browser, logged in to a board. Each wait is for a state of the page."""

    def __init__(self, browser: Chrome, board: ServedBoard) -> None:
        self._browser = browser
        self._url = board.url
        browser.get_log("browser")  # type: ignore[no-untyped-call]
        browser.get(f"{board.url}?token={board.token}")

    def open(self, page: str) -> None:
        """Load a page."""
        self._browser.get("about:blank")  # an address that differs in its fragment alone is not loaded
        self._browser.get(self._url + page)

    def do(self, code: str, *values: object) -> Any:
        """What JavaScript returns."""
        return self._browser.execute_script(code, *values)

    def text(self, selector: str) -> str:
        """The text of an element as people see it."""
        return str(self._browser.find_element("css selector", selector).text)

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements."""
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
        return list(self.do(script, selector))

    def type(self, keys: str, selector: str = "body") -> None:
        """Press keys."""
        self._browser.find_element("css selector", selector).send_keys(keys)

    def click(self, selector: str) -> None:
        """Click on an element."""
        self._browser.find_element("css selector", selector).click()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a state; elements may be replaced meanwhile."""

        def holds() -> object:
            try:
                return condition()
            except StaleElementReferenceException:
                return False

        wait_for(holds, what)

    def row(self, seq: int) -> str:
        """The text of the row of a seq; empty if it is not in sight."""
        found = self.texts(f'.row[data-seq="{seq}"] .message')
        return found[0] if found else ""

    @property
    def complaints(self) -> list[str]:
        """What the console says: errors of scripts, refusals of the policy."""
        found = self._browser.get_log("browser")  # type: ignore[no-untyped-call]
        return [one["message"] for one in found]


@pytest.fixture
def window(browser: Chrome, board: ServedBoard) -> Iterator[Window]:
    """A window that is logged in; at the end nothing has complained."""
    found = Window(browser, board)
    yield found
    assert found.complaints == []


def test_login(browser: Chrome, path: Path) -> None:
    """Without a cookie there is a form; the right token leads to the page that was asked for."""
    with showing(path) as board:
        browser.get(board.url + "search")
        assert browser.find_elements("css selector", "input[type=password]")
        browser.find_element("css selector", "#token").send_keys("wrong" + Keys.ENTER)
        wait_for(lambda: "not the board" in browser.page_source, "refusal")
        assert browser.current_url == board.url + "login"  # the token is in no address
        browser.find_element("css selector", "#token").send_keys(board.token + Keys.ENTER)
        wait_for(lambda: "Search over all" in browser.page_source, "page")
        assert browser.current_url == board.url + "search"
        assert browser.execute_script("return document.cookie") == ""


def test_the_board_lists_runs_and_filters_them(window: Window) -> None:
    """Newest first, with states in words; filters stand in the address, and work without a mouse."""
    window.wait(lambda: len(window.texts("#runs tbody tr")) == 11, "runs")
    states = window.texts("#runs tbody .state")
    assert states.count("✗ failed") == 2
    assert states.count("✓ ok") == 7
    window.type("f")
    window.wait(lambda: len(window.texts("#runs tbody tr")) == 2, "failed runs")
    assert window.do("return location.search") == "?failed=1"
    window.open("?job=job1&failed=1")
    window.wait(lambda: window.texts("#runs tbody td:nth-child(2)") == ["job1"], "one run")
    assert window.do("return document.querySelector('[name=job]').value") == "job1"
    window.click("#totals summary")
    window.wait(lambda: "1 failed" in window.text("#groups"), "totals")
    window.type("j")
    window.wait(lambda: window.do("return document.activeElement.textContent") == "job1", "focus on the run")
    window.type(Keys.ENTER, "#runs a")
    window.wait(lambda: "job1" in window.text("h1"), "page of the run")


def test_totals_lead_to_filters(window: Window) -> None:
    """By job and host, and by state within them; the other filters stay, and so does the view of the totals."""
    window.open("?host=node*&totals=1")
    window.wait(lambda: window.texts("#groups a"), "totals")
    links = window.do("return [...document.querySelectorAll('#groups a')].map((one) => [one.innerText, one.search])")
    assert ["job1", "?host=node*&totals=1&job=job1"] in links
    assert ["1 failed", "?host=node*&totals=1&job=job1&failed=1"] in links
    assert ["node1", "?host=node1&totals=1"] in links
    assert ["", "?job=job1"] in links  # its history
    window.do("[...document.querySelectorAll('#groups a')].find((one) => one.search.endsWith('failed=1')).click()")
    window.wait(lambda: window.texts("#runs .is-job") in (["job1"], [MARKUP.decode()]), "filtered runs")
    assert window.texts("#runs .state") == ["✗ failed"]


def test_lines_per_second(window: Window, path: Path) -> None:
    """A plot of a run's life, with a name for those who do not see it, and what came in the last seconds."""
    now = time.time()
    store_at(path, now - 40, event_of("start", 0, "FLOW", job="flow"), lines_of(1, 100, "FLOW", job="flow"))
    store_at(path, now - 20, lines_of(101, 110, "FLOW", job="flow"))
    row = '[data-run="FLOW"] .is-rate'

    def rate() -> str:
        return next(iter(window.texts(f"{row} span")), "")

    window.open("?job=flow")
    window.wait(lambda: rate() == "0", "rate of nothing")
    assert window.do(f"return document.querySelector('{row} title').textContent") == "at most 100 lines per second"
    steps = window.do(f"return document.querySelector('{row} path').getAttribute('d')")
    assert 20 < steps.count("V") < 100
    seqs = count(111)

    def grows() -> bool:
        seq = next(seqs)
        store(path, lines_of(seq, seq, "FLOW", job="flow"))
        return rate() not in ("", "0")

    window.wait(grows, "rate of the last seconds")
    end = next(seqs)
    store(path, event_of("exit", end, "FLOW", exit_code=0, duration_s=(end - 1) / 4, job="flow"))
    window.wait(lambda: rate() == "4", "average at the end")
    window.open("run?id=FLOW")
    window.wait(lambda: window.texts("#facts svg"), "plot on its page")
    assert [text.strip() for text in window.texts("#facts .is-rate")] == ["4"]


def test_the_history_of_a_job(window: Window, path: Path) -> None:
    """Its last runs, the oldest first, as bars: how long each took, and a mark where it did not go well."""
    for number, (status, seconds) in enumerate([(0, 60.0), (1, 20.0), (0, 120.0)]):
        more: dict[str, Any] = {"run": f"HISTORY{number}", "job": "back*up"}
        store(path, event_of("start", 0, **more), event_of("exit", 1, exit_code=status, duration_s=seconds, **more))
    window.open("?job=back[*]up")
    window.wait(lambda: len(window.texts("#runs .history")) == 3, "runs")
    window.click("#runs .history")
    window.wait(lambda: window.texts("#plot .bar"), "plot")
    assert (window.text("h1"), window.text("#summary")) == ("back*up", "3 runs: 2 ok, 1 failed")
    assert window.do("return [...document.querySelectorAll('.bar text')].map((one) => one.textContent)") == [
        "",
        "✗",
        "",
    ]
    script = "return [...document.querySelectorAll('.bar rect:not(.whole)')].map((one) => one.height.baseVal.value)"
    heights = window.do(script)
    assert [round(height / heights[1], 3) for height in heights] == [3, 1, 6]
    assert "last 3 runs" in window.do("return document.querySelector('#plot svg').getAttribute('aria-label')")
    assert window.texts("#runs .is-took") == ["2 min 0 s", "20 s", "1 min 0 s"]
    assert window.texts("#runs .state") == ["✓ ok", "✗ failed", "✓ ok"]
    window.click('.bar[data-run="HISTORY1"] .whole')
    window.wait(lambda: "failed" in window.text("h1"), "page of the run")
    window.click("h1 .history")
    window.wait(lambda: window.texts("#plot .bar"), "plot again")
    window.open("job?job=nothing")
    window.wait(lambda: window.text("#summary") == "0 runs", "a job without runs")


def test_a_live_run_grows(window: Window, path: Path) -> None:
    """Lines appear as they come and the view stays at the end; the verdict follows."""
    store(path, event_of("start", 0, "LIVE", job="live"), lines_of(1, 100, "LIVE", job="live"))
    window.open("run?id=LIVE")
    window.wait(lambda: window.row(100) == "line 100", "last line")
    assert "running" in window.text("h1")
    window.do("window.kept = document.querySelector('.row[data-seq=\"99\"]')")
    store(path, lines_of(101, 105, "LIVE", job="live"))
    window.wait(lambda: window.row(105) == "line 105", "new line")
    assert window.do("return window.kept.isConnected")  # what somebody marks in it stays marked
    window.type("g")
    window.wait(lambda: window.row(0), "first line")
    store(path, lines_of(106, 108, "LIVE", job="live"), event_of("exit", 110, "LIVE", exit_code=1, job="live"))
    window.wait(lambda: "failed" in window.text("h1"), "verdict")
    assert not window.row(108)  # who reads further up stays there
    assert "1 line missing" in window.text("#verdict")
    store(path, lines_of(109, 109, "LIVE", job="live"))  # late
    window.wait(lambda: "no line is missing" in window.text("#verdict"), "verdict without the gap")
    window.type("G")
    window.wait(lambda: window.row(109) == "line 109", "late line")


def test_hostile_lines_are_text(window: Window) -> None:
    """Markup, escapes, direction marks: no element, no title, no other order; colours alone are kept."""
    window.open("run?id=ODD")
    window.wait(lambda: window.row(121), "rows")
    assert window.row(1) == MARKUP.decode()
    assert window.row(2).startswith("red plain rgb on")
    colours = [window.do("return getComputedStyle(arguments[0]).color", one) for one in spans(window, 2)]
    assert len({*colours[:2], window.do("return getComputedStyle(document.body).color")}) == 3
    assert window.row(3) == "abc <U+202E>evil<U+202C> <U+2066>x<U+2069> <U+200B>zero␍␇ Z" + "\u0301" * 4 + "…"
    assert "E" in window.text('.row[data-seq="3"] .kind')
    assert window.row(4).startswith("96 lines dropped (<b>rate-limit</b>)")
    assert window.row(100) == "20 lines missing: 100 to 119"
    assert len(window.row(120)) < 4100
    assert window.do("return document.querySelectorAll('img, #rows script, #rows b').length") == 0
    assert "owned" not in window.do("return document.title").partition(":")[0]
    window.click('.row[data-seq="120"] .message')
    window.wait(lambda: len(window.text("#whole")) > 30_000, "whole line")
    window.open("")
    window.wait(lambda: len(window.texts("#runs tbody tr")) > 9, "board")
    assert "<U+D800> a character" in window.texts("#runs .is-job")
    assert window.do("return document.querySelectorAll('main img, main script').length") == 0
    assert window.do("return document.title") == "sqstee: runs"


def spans(window: Window, seq: int) -> list[Any]:
    """The spans in a line."""
    return list(window.do(f"return [...document.querySelectorAll('.row[data-seq=\"{seq}\"] .message span')]"))


def test_jumps_within_a_run(window: Window) -> None:
    """To the first error, the first gap, a hit, a line of the address; only what is in sight exists."""
    window.open("run?id=ODD")
    window.wait(lambda: window.row(121), "rows")
    window.type("e")
    window.wait(lambda: window.do("return location.hash") == "#L3", "first error")
    window.type("m")
    window.wait(lambda: window.do("return location.hash") == "#L4", "first gap")
    window.open("run?id=BIG#L123456")
    window.wait(lambda: window.row(123456) == "line 123456", "line of the address")
    assert len(window.texts(".row")) < 100
    window.type("j")
    window.wait(lambda: window.do("return location.hash") == "#L123457", "next line")
    window.type("/")
    window.type("line 77777" + Keys.ENTER, "#text")
    window.wait(lambda: window.texts(".row mark") == ["line 77777"], "hits in the place of all lines")
    window.type(Keys.ESCAPE, "#text")
    window.type("n")
    window.wait(lambda: window.row(77778) == "line 77778", "hit among its neighbours")
    window.type("G")
    window.wait(lambda: window.row(199_999) == "line 199999", "end")
    window.click("#times")
    assert window.text('.row[data-seq="199999"] .time')


def test_a_run_with_the_highest_seq_hangs_no_page(window: Window, path: Path) -> None:
    """JavaScript's numbers are not exact there: what is below is shown, and the page goes on."""
    last = 2**63 - 2
    store(path, lines_of(0, 1, "HIGH"), text_of(last - 1, b"so\nhigh\n", "HIGH"), gap_of(2**62, 2**62 + 9, "HIGH"))
    window.open("run?id=HIGH")
    window.wait(lambda: window.texts(".row"), "some rows")
    window.type("g")
    window.wait(lambda: window.row(1) == "line 1", "first lines")
    window.type("G")
    window.open(f"run?id=HIGH#L{last}")
    window.wait(lambda: window.texts(".row.selected"), "some row")
    window.type("g")
    window.wait(lambda: window.row(1) == "line 1", "first lines again")


def test_search_over_all_runs(window: Window) -> None:
    """Hits by run, each with its match marked; a click leads to the line; a bad pattern is said."""
    window.open("search")
    window.type("evil" + Keys.ENTER, "[name=q]")
    window.wait(lambda: window.texts("#hits mark") == ["evil"], "hit")
    assert window.text("#summary") == "1 hit in 1 run. All lines are searched."
    assert "<U+202E>" in window.text("#hits li")
    window.click("#hits li a")
    window.wait(lambda: window.row(3), "line of the hit")
    window.open("search?q=(&regex=1")
    window.wait(lambda: "invalid pattern" in window.text("#summary"), "refusal")
    assert any("400" in complaint for complaint in window.complaints)


def test_it_goes_on_after_the_server_was_killed(browser: Chrome, path: Path, board: ServedBoard) -> None:
    """The page says so, and goes on by itself with the next server at that address."""
    (path.parent / "tokens").write_text("t" * 20)
    listen = ("--token-file", str(path.parent / "tokens"), "--listen")
    with showing(path, *listen, "127.0.0.1:0") as first:
        first.token = "t" * 20
        window = Window(browser, first)
        window.wait(lambda: len(window.texts("#runs tbody tr")) > 9, "runs")
        address = first.url.removeprefix("http://").rstrip("/")
    window.wait(lambda: "does not answer" in window.text("#trouble"), "word about it")
    with showing(path, *listen, address):
        store(path, *whole_run(3, "AFTER", job="after"))
        window.wait(lambda: "after" in window.texts("#runs tbody td:nth-child(2)"), "new run")
        assert window.text("#trouble") == ""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(window: Window, browser: Chrome, theme: str) -> None:
    """Names, roles, contrast: for people who use a screen reader, or see little."""
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    axe = files("axe_core_python").joinpath("axe.min.js").read_text()
    browser.set_script_timeout(60)
    for page in ("?totals=1", "run?id=ODD#L2", "search?q=evil", "job?job=job1"):
        window.open(page)
        window.wait(lambda: window.texts("#runs tbody tr, .row .message, #hits li"), "content")
        window.do(axe)
        found = browser.execute_async_script("axe.run().then(arguments[0])")
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == [], page


def test_on_a_phone(window: Window, browser: Chrome) -> None:
    """Nothing is wider than the screen, on any page."""
    browser.set_window_size(400, 800)
    try:
        for page in ("?totals=1", "run?id=ODD", "search?q=line", "job?job=job1"):
            window.open(page)
            window.wait(lambda: window.texts("#runs tbody tr, .row, #hits li"), "content")
            assert window.do("return document.documentElement.scrollWidth <= innerWidth"), page
    finally:
        browser.set_window_size(1200, 800)


def test_on_a_narrow_screen(browser: Chrome, tmp_path: Path) -> None:
    """The table fits, with long names and large numbers; where it cannot, each run is a card."""
    names = {"job": "nightly-etl-of-everything", "host": "compute-node-0017.cluster.example.org"}
    event = event_of("exit", 1_300_120, "LONG", signal=31, duration_s=86_399.0, **names)
    store(tmp_path / "store.db", event_of("start", 0, "LONG", **names), lines_of(1, 198_000, "LONG", **names), event)
    with showing(tmp_path / "store.db") as board:
        window = Window(browser, board)
        try:
            for width in (1040, 1041, 1100):
                browser.set_window_size(width, 800)
                window.open("")
                window.wait(lambda: window.texts("#runs tbody tr"), "content")
                assert window.do("return document.documentElement.scrollWidth - innerWidth") <= 0, width
                assert window.do("return document.querySelector('thead').offsetHeight > 0") == (width > 1040)
        finally:
            browser.set_window_size(1200, 800)


def test_the_files_are_small() -> None:
    """Under 60 KB in all, and without a way to put text in as markup."""
    files = list((ROOT / "sqstee/web/static").iterdir())
    assert sum(path.stat().st_size for path in files) < 60_000
    for path in files:
        text = path.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", "onclick"):
            assert word not in text, (path.name, word)
