"""What the board's pages cost its server: milliseconds of an answer, seconds of a search, the processor of many pages.

    python tests/bench/board.py [RUNS [LINES [PAGES]]]

A store of RUNS ended runs and one more of LINES lines of 80 bytes. `new` is an answer that nobody has asked for before,
`same` one of a page that asks again while nothing has come. The pages ask once a second, of a store that grows.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import Row, machine, median, table
from support.board import ServedBoard, showing, text_of
from support.bodies import lines_of, whole_run

from sqstee.transports.local import LocalSender

TIMES = 15
SECONDS = 10.0
_BODY = 1000  # lines


def fill(sender: LocalSender, runs: int, lines: int) -> None:
    """Store the runs."""
    for first in range(0, runs, 500):
        numbers = range(first, min(runs, first + 500))
        bodies = [whole_run(3, f"R{at:06d}", at % 30 == 0, job=f"j{at % 20}", host=f"h{at % 50}") for at in numbers]
        sender.send([body for run in bodies for body in run])
    for first in range(0, lines, _BODY):
        text = b"".join(b"%09d %s\n" % (seq, b"some words " * 6) for seq in range(first, min(lines, first + _BODY)))
        sender.send([text_of(first, text, "LONG")])


def answers(board: ServedBoard, lines: int) -> list[Row]:
    """Rows of single answers: in milliseconds, the median, new and the same again."""

    def took(ask: Callable[[int], object]) -> float:
        found = []
        for number in range(TIMES):
            started = time.perf_counter()
            ask(number)
            found.append((time.perf_counter() - started) * 1000)
        return median(found)

    def row(name: str, path: Callable[[int], str]) -> Row:
        tag = board.ask(path(0)).headers["ETag"]
        again = took(lambda number: board.ask(path(0), If_None_Match=tag))
        return name, took(lambda number: board.ask(path(number))), again

    return [
        row("the latest 100 runs", lambda number: f"api/runs?limit={100 + number}"),
        row("failed runs, with totals", lambda number: f"api/runs?failed=1&totals=1&limit={100 + number}"),
        row("500 lines in the middle", lambda number: f"api/runs/LONG/lines?after={lines // 2 + number}"),
        row("the last 500 lines", lambda number: f"api/runs/LONG/lines?last={500 + number}"),
    ]


def searches(board: ServedBoard, lines: int) -> list[Row]:
    """Rows of searches for one line: seconds until it was found, and until the end."""
    queries = {"literal": f"q={lines // 2:09d}", "any case": f"q={lines // 2:09d}&nocase=1"}
    found: list[Row] = []
    for name, query in {**queries, "regex": f"q={lines // 2:08d}[0-9]*&regex=1"}.items():
        started, first, data = time.perf_counter(), 0.0, b""
        with board.sending(f"api/search?{query}") as peer:
            while b'{"end":' not in data:
                data += peer.recv(65536)
                if not first and b'{"run":' in data:
                    first = time.perf_counter() - started
        found.append((name, first, time.perf_counter() - started))
    return found


def many_pages(board: ServedBoard, sender: LocalSender, pages: int) -> Row:
    """The share of a core that the server takes."""
    deadline = time.monotonic() + SECONDS

    def page() -> None:
        tag = ""
        while time.monotonic() < deadline:
            tag = board.ask("api/runs?limit=100", If_None_Match=tag).headers["ETag"]
            time.sleep(1)

    threads = [threading.Thread(target=page) for _ in range(pages)]
    before, started = _processor(board.process.pid), time.monotonic()
    for thread in threads:
        thread.start()
    number = 0
    while time.monotonic() < deadline:
        sender.send([lines_of(number, number, "GROWS")])
        number += 1
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    return pages, 100 * (_processor(board.process.pid) - before) / (time.monotonic() - started)


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the tables."""
    runs, lines, pages = [*map(int, sys.argv[1:]), *(10_000, 1_000_000, 50)[len(sys.argv) - 1 :]]
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        sender = LocalSender(str(path), 1 << 40)
        fill(sender, runs, lines)
        with showing(path) as board:
            print(table(("answer", "ms, new", "ms, same"), answers(board, lines)))
            size = path.stat().st_size / 2**20
            print()
            print(table((f"search of {size:,.0f} MiB", "s, found", "s, all"), searches(board, lines)))
            print()
            print(table(("pages", "% of a core"), [many_pages(board, sender, pages)]))
        sender.close()


if __name__ == "__main__":
    main()
