"""Collector and board in several worker processes, one of which is killed again and again."""

from __future__ import annotations

from pathlib import Path

from support import children, kill, wait_for
from support.board import ServedBoard
from support.traffic import Traffic, traffic
from support.workers import LOG, workers

SENDERS, PAGES, WORKERS, KILLS = 4, 3, 2, 4
POSTING, READING = "senders-token-0123456789", "readers-token-0123456789"


def all_go_on(work: Traffic, before: list[int]) -> bool:
    """Whether every sender and every page has got an answer since."""
    now = work.progress
    return len(now) == SENDERS + PAGES and all(more > less for more, less in zip(now, before, strict=True))


def test_kills_of_workers_lose_and_double_nothing(tmp_path: Path) -> None:
    """What was acknowledged is stored once, pages see each line once, and all go on after each kill."""
    (tmp_path / "token").write_text(POSTING)
    tokens = {"SQSTEE_TOKEN": POSTING, "SQSTEE_WEB_TOKEN": READING}
    words = ("--workers", str(WORKERS), "--threads", "4")
    with workers("sqstee.collector:application", tmp_path, *words, **tokens) as (process, url):
        board = ServedBoard(process, url, READING)
        with traffic(board, tmp_path / "token", SENDERS, PAGES, post_every=0.02, poll_every=0.05) as work:
            for _ in range(KILLS):
                before = [0] * (SENDERS + PAGES) if len(work.progress) < SENDERS + PAGES else work.progress
                wait_for(lambda: all_go_on(work, before), "progress")  # noqa: B023
                victim = children(process.pid)[0]  # the oldest: each kill meets another one
                kill(victim)
                wait_for(lambda: len(set(children(process.pid)) - {victim}) == WORKERS, "new worker")  # noqa: B023
        assert work.check(tmp_path / "store.db") == (0, 0)
    assert "Traceback" not in (tmp_path / LOG).read_text()
