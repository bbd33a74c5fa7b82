"""Senders and pages on a collector with a board under gunicorn, of which a worker is killed every few seconds.

    python tests/bench/kills.py [SENDERS [PAGES [SECONDS [EVERY]]]]

Each sender posts 100 lines ten times a second, each page asks once a second for the runs and for the lines of one run.
A post or a question that a kill has cut off is repeated. At the end the store and what each page has seen are compared
with what was sent: any difference is an error.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import machine, table
from support import children, kill
from support.board import ServedBoard
from support.traffic import traffic
from support.workers import workers

WORKERS = 3
POSTING, READING = "senders-token-0123456789", "readers-token-0123456789"


def main() -> None:
    """Print the table."""
    senders, pages, seconds, every = [*map(int, sys.argv[1:]), *(20, 10, 60, 5)[len(sys.argv) - 1 :]]
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "token").write_text(POSTING)
        tokens = {"SQSTEE_TOKEN": POSTING, "SQSTEE_WEB_TOKEN": READING}
        words = ("--workers", str(WORKERS), "--threads", "16")
        with workers("sqstee.collector:application", folder, *words, **tokens) as (process, url):
            board = ServedBoard(process, url, READING)
            kills, started = 0, time.monotonic()
            with traffic(board, folder / "token", senders, pages, post_every=0.1, poll_every=1.0) as work:
                while time.monotonic() - started < seconds:
                    time.sleep(every)
                    kill(random.choice(children(process.pid)))
                    kills += 1
            elapsed = time.monotonic() - started
            lost, doubled = work.check(folder / "store.db")
    lines = sum(work.lasts.values())
    print(
        table(
            ("senders", "posts", "again", "lines/s", "kills", "lost", "doubled"),
            [(senders, sum(work.posts.values()), work.posted_again, lines / elapsed, kills, lost, doubled)],
        )
    )
    print()
    head = ("pages", "answers", "asked again", "longest s without an answer")
    print(table(head, [(pages, sum(work.polls.values()), work.polled_again, work.longest)]))


if __name__ == "__main__":
    main()
