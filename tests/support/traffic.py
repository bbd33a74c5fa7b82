"""Senders and pages at work on a collector with a board, whose worker processes may be killed meanwhile.

Each sender posts a run of its own, and posts again what was not acknowledged, as the shipper does. Each page follows
one run as a browser does: it asks for what has changed, and asks again where nobody answered.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sqstee.destination import parse
from sqstee.record import Body
from sqstee.transports.errors import RETRY, TransportError
from sqstee.transports.http import HttpSender
from sqstee.transports.local_store import LocalStore, StoreReader

from .board import Reply, ServedBoard
from .bodies import event_of, lines_of

_AGAIN_SECONDS = 0.1  # before a request that failed is repeated
_LINES = 100  # in a body


class Traffic:
    """What goes on: by run the seqs that were acknowledged, and what each page has seen.

    `posts` and `polls` count what was answered, `posted_again` and `polled_again` what was not and is repeated;
    `longest` is the longest time for which a page had no answer.
    """

    def __init__(self, board: ServedBoard, token_file: Path, post_every: float, poll_every: float) -> None:
        self.board, self._token_file = board, token_file
        self._post_every, self._poll_every = post_every, poll_every
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._is_broken = False
        self.lasts: dict[str, int] = {}  # the last seq of a run that has ended
        self.seen: list[tuple[str, list[int]]] = []  # by page, its run and the seqs in the order of their appearance
        self.posts: Counter[str] = Counter()
        self.polls: Counter[int] = Counter()
        self.posted_again = self.polled_again = 0
        self.longest = 0.0

    @property
    def progress(self) -> list[int]:
        """What every sender and every page has done so far."""
        return [*self.posts.values(), *self.polls.values()]

    def end(self) -> None:
        """The senders end their runs; the pages end once they have seen all of them."""
        self._ending.set()

    def send(self, run: str) -> None:
        """Post a run until the end."""
        try:
            with closing(HttpSender(parse(self.board.url), str(self._token_file))) as sender:
                self.lasts[run] = self._post_run(sender, run)
        except BaseException:
            self._is_broken = True  # no page waits for the rest
            raise

    def _post_run(self, sender: HttpSender, run: str) -> int:
        """The last seq."""
        self._post(sender, event_of("start", 0, run))
        seq = 1
        while not self._ending.is_set():
            self._post(sender, lines_of(seq, seq + _LINES - 1, run))
            seq += _LINES
            self._ending.wait(self._post_every)
        self._post(sender, event_of("exit", seq, run, exit_code=0, lines=seq - 1))
        return seq

    def _post(self, sender: HttpSender, body: Body) -> None:
        while True:
            try:
                assert sender.send([body]) == []
            except TransportError as error:
                if error.kind != RETRY:
                    raise
                with self._lock:
                    self.posted_again += 1
                time.sleep(_AGAIN_SECONDS)
            else:
                self.posts[body.run] += 1
                return

    def look(self, page: int, run: str) -> None:
        """Follow a run until all of it was seen."""
        found: list[int] = []
        self.seen.append((run, found))
        after, runs_tag, lines_tag = -1, "", ""
        while found[-1:] != [self.lasts.get(run, -1)] and not self._is_broken:
            runs_tag = self._ask(page, "api/runs?limit=100", runs_tag).headers["ETag"]
            reply = self._ask(page, f"api/runs/{run}/lines?after={after}&limit=5000", lines_tag)
            if reply.status == 200:
                answer = reply.json
                found += [line["seq"] for line in answer["lines"]]
                lines_tag = reply.headers["ETag"] if answer["next"] == after else ""
                after = answer["next"]
                if answer["more"]:
                    continue
            time.sleep(self._poll_every)

    def _ask(self, page: int, path: str, tag: str) -> Reply:
        started = time.monotonic()
        while True:
            with suppress(OSError, http.client.HTTPException):  # its worker was killed
                reply = self.board.ask(path, If_None_Match=tag)
                if reply.status in (200, 304, 404):  # 404: nothing of this run is stored yet
                    self.polls[page] += 1
                    with self._lock:
                        self.longest = max(self.longest, time.monotonic() - started)
                    return reply
                assert reply.status == 503, reply
            with self._lock:
                self.polled_again += 1
            time.sleep(_AGAIN_SECONDS)

    def check(self, store: Path) -> tuple[int, int]:
        """How many seqs the store lacks, and how many it has twice; every page has seen each once, in their order."""
        lost = doubled = 0
        reader = StoreReader(str(store))
        for run, last in self.lasts.items():
            seqs = Counter(seq for body in reader.bodies(run) for seq in range(body.first, body.last + 1))
            assert all(body.data.count(b"\n") == body.last - body.first + 1 for body in reader.bodies(run))
            assert set(seqs) <= set(range(last + 1))
            lost += last + 1 - len(seqs)
            doubled += sum(seqs.values()) - len(seqs)
        reader.close()
        for run, found in self.seen:
            assert found == list(range(self.lasts[run] + 1))
        assert {run.run: (run.is_ended, run.missing, run.last) for run in LocalStore(str(store)).runs()} == {
            run: (True, 0, last) for run, last in self.lasts.items()
        }
        return lost, doubled


@contextmanager
def traffic(
    board: ServedBoard, token_file: Path, senders: int, pages: int, *, post_every: float, poll_every: float
) -> Iterator[Traffic]:
    """So many senders and pages at work; at the end all of them have ended, and what one of them met is raised."""
    found = Traffic(board, token_file, post_every, poll_every)
    runs = [f"RUN{number}" for number in range(senders)]
    with ThreadPoolExecutor(senders + pages) as pool:
        futures: list[Future[None]] = [pool.submit(found.send, run) for run in runs]
        futures += [pool.submit(found.look, number, runs[number % senders]) for number in range(pages)]
        try:
            yield found
        finally:
            found.end()
        for future in futures:
            future.result()
