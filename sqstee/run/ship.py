"""The shipper: reads, packs, sends and frees a run's spool, in a process beside the front."""

from __future__ import annotations

import _thread
import os
import random
import select
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from sqstee.options import Settings
from sqstee.run import signals
from sqstee.run.pack import Pace, Planned, Request
from sqstee.run.recover import close_dead_run
from sqstee.run.shipment import CLOSE
from sqstee.run.source import Source
from sqstee.transports.base import REFRESH, RETRY, Failure, Sender, TransportError, open_sender
from sqstee.transports.destination import Destination

IN_FLIGHT = 4
_NICENESS = 15  # where shipper and command compete for the cores the command wins
_BACKOFF_FIRST_SECONDS = 0.2
_BACKOFF_MOST_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 3600.0  # poll takes milliseconds that fit an int
_LAST_SIGNAL = 64
_FREE_SECONDS = 1.0
_LOOK_AGAIN_SECONDS = 0.11  # a little over the tenth of a second for which the front may keep a wake-up back


class Senders:
    """Background threads that call the transport; results come back through a descriptor that can be polled.

    They are plain daemon threads: a ThreadPoolExecutor would join them at exit and defeat the flush budget.
    """

    def __init__(self, sender: Sender, threads: int = IN_FLIGHT) -> None:
        self._sender = sender
        self._jobs: SimpleQueue[list[Planned] | None] = SimpleQueue()
        self._results: deque[tuple[list[Planned], list[Failure] | int | TransportError]] = deque()
        self.ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._threads = threads
        self._running = 0
        self.ordered = sender.ordered
        self.busy = 0

    def submit(self, bodies: list[Planned] | None) -> None:
        """Send bodies, or, with None, reach the destination."""
        self.busy += 1
        if self._running < min(self.busy, self._threads):
            self._running += 1
            _thread.start_new_thread(self._work, ())
        self._jobs.put(bodies)

    def collect(self) -> list[tuple[list[Planned], list[Failure] | int | TransportError]]:
        """What has ended since the last call: the bodies with their failures, or the limit that `open` answered."""
        try:
            os.eventfd_read(self.ready)
        except BlockingIOError:
            return []
        found = []
        while self._results:
            found.append(self._results.popleft())
            self.busy -= 1
        return found

    def _work(self) -> None:
        while True:
            bodies = self._jobs.get()
            self._results.append((bodies or [], self._call(bodies)))
            os.eventfd_write(self.ready, 1)

    def _call(self, bodies: list[Planned] | None) -> list[Failure] | int | TransportError:
        try:
            if bodies is None:
                return self._sender.open()
            return self._sender.send([planned.body for planned in bodies])
        except TransportError as error:
            return error
        except Exception as error:  # a bug of ours or of a library: as passing trouble, so that nothing is lost
            return TransportError(RETRY, type(error).__name__, str(error))


class Health:
    """Whether the destination takes anything, and when to try again: full jitter, never a give-up."""

    def __init__(self, jitter: Callable[[float, float], float] = random.uniform) -> None:
        self._jitter = jitter
        self._failures = 0
        self._last_kind = ""
        self.not_before = 0.0
        self.reason = ""
        self.permanent = False

    @property
    def well(self) -> bool:
        """Whether the last answer was a success (or there was none yet)."""
        return not self._failures

    def success(self) -> None:
        """Something was taken."""
        self._failures = 0
        self._last_kind = ""
        self.not_before = 0.0
        self.reason = ""
        self.permanent = False

    def failure(self, kind: str, reason: str, now: float) -> None:
        """Something was refused."""
        self._failures += 1
        self.reason = reason
        # credentials may have just expired: only a new session that fails as well is final
        self.permanent = kind not in (RETRY, REFRESH) or (kind == REFRESH and self._last_kind == REFRESH)
        self._last_kind = kind
        most = min(_BACKOFF_MOST_SECONDS, _BACKOFF_FIRST_SECONDS * 2 ** min(self._failures, 12))
        wait = _BACKOFF_MOST_SECONDS if kind not in (RETRY, REFRESH) else self._jitter(0.0, most)
        self.not_before = now + wait


class Shipper:
    """Ships one run until it is closed and empty, or its time is over."""

    def __init__(
        self,
        folder: str,
        sender: Sender,
        wake: int,
        *,
        linger: float,
        message_bytes: int,
        flush_timeout: float,
        compress: str,
        orphaned: Callable[[], None] = lambda: None,
        reached: Callable[[], None] = lambda: None,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self._folder = folder
        self._senders = Senders(sender, in_flight)
        self._in_flight = 1 if sender.ordered else in_flight
        self._reached = reached
        self._wake = wake
        self._message_bytes = message_bytes
        self._flush_timeout = flush_timeout
        self._compress = compress
        self._orphaned = orphaned
        self._pace = Pace(linger)
        self._health = Health()
        self._source: Source | None = None
        self._again: list[Planned] = []  # refused, to be sent again unchanged
        self._awake_until = 0.0
        self._close_at: float | None = None
        self._poll = select.poll()
        self._poll.register(self._senders.ready, select.POLLIN)
        self._poll.register(wake, select.POLLIN)

    @property
    def reason(self) -> str:
        """Why lines stayed behind, if they did."""
        return self._health.reason

    @property
    def acknowledged(self) -> int:
        """Every seq below this one was taken by the destination."""
        return self._source.acknowledged if self._source else 0

    @property
    def quarantined(self) -> int:
        """How many records no message could hold."""
        return self._source.quarantined if self._source else 0

    def run(self) -> bool:
        """Ship; whether everything was taken."""
        while True:
            now = time.monotonic()
            self._step(now)
            if self._complete():
                return True
            if self._close_at is not None and self._hopeless(now):
                return False
            self._wait(now)
            self._collect()

    def remove(self) -> None:
        """Delete the run's folder, once it is shipped."""
        if self._source:
            self._source.close()
            self._source.remove()

    def _step(self, now: float) -> None:
        if now < self._health.not_before or (not self._health.well and self._senders.busy):
            return
        if self._source is None:
            if not self._senders.busy:
                self._senders.submit(None)
            return
        self._source.read()
        if self._source.waiting:
            self._pace.waiting(now)
        self._send_again(self._source)
        self._send_full(self._source, now)
        self._send_partial(self._source, now)

    def _send_again(self, source: Source) -> None:
        while self._again and self._may_send():
            request = Request()
            while self._again and request.fits(self._again[0].body):
                request.add(self._again.pop(0))
            self._submit(source, request)

    def _send_full(self, source: Source, now: float) -> None:
        while self._may_send() and not (self._again and self._senders.ordered):
            request = source.full_request()
            if request is None:
                return
            self._submit(source, request)
            self._pace.full_left(now, source.waiting)

    def _send_partial(self, source: Source, now: float) -> None:
        due = now if self._close_at is not None else self._pace.due(self._senders.busy)
        if not source.caught_up or due is None or due > now:
            return
        source.close_open_body()
        while self._may_send():
            request = source.partial_request()
            if not request.planned:
                return
            self._submit(source, request)
            self._pace.partial_left(now, source.waiting)

    def _may_send(self) -> bool:
        return self._senders.busy < (self._in_flight if self._health.well else 1)

    def _submit(self, source: Source, request: Request) -> None:
        source.plan(request.planned)
        self._senders.submit(request.planned)

    def _wait(self, now: float) -> None:
        times = [self._close_at] if self._close_at is not None else []
        if self._health.not_before > now:
            times.append(self._health.not_before)
        elif self._source:
            due = self._pace.due(self._senders.busy)
            if due is not None and self._may_send() and self._source.caught_up:
                times.append(due)
        if self._awake_until > now:
            times.append(self._awake_until)
        timeout = min(_LONGEST_WAIT_SECONDS, max(0.0, min(times) - now)) * 1000 if times else None
        for fd, _ in self._poll.poll(timeout):
            if fd == self._wake:
                self._woken()

    def _woken(self) -> None:
        words = os.read(self._wake, 4096)
        for number in words:
            if number <= _LAST_SIGNAL:
                signals.take_pending(number)
        now = time.monotonic()
        self._awake_until = now + _LOOK_AGAIN_SECONDS
        if words and CLOSE not in words:
            return
        self._poll.unregister(self._wake)
        if not words:
            self._orphaned()
        self._close_at = now + self._flush_timeout

    def _collect(self) -> None:
        for bodies, answer in self._senders.collect():
            now = time.monotonic()
            if isinstance(answer, int):
                self._source = Source(self._folder, self._message_bytes, answer, self._compress)
                self._health.success()
                self._reached()
            elif isinstance(answer, TransportError):
                self._refused(bodies, answer.kind, str(answer), now)
            else:
                self._answered(bodies, answer, now)

    def _answered(self, bodies: list[Planned], failures: list[Failure], now: float) -> None:
        assert self._source is not None
        failed = {failure.index for failure in failures}
        taken = [planned for at, planned in enumerate(bodies) if at not in failed]
        if taken:
            self._health.success()
            self._source.acknowledge(taken)
        if failures:
            worst = min(failures, key=lambda failure: failure.kind == RETRY)
            self._refused([bodies[at] for at in sorted(failed)], worst.kind, str(worst), now)

    def _refused(self, bodies: list[Planned], kind: str, reason: str, now: float) -> None:
        self._again = sorted(self._again + bodies, key=lambda planned: planned.body.first)
        self._health.failure(kind, reason, now)

    def _complete(self) -> bool:
        if self._close_at is None or self._source is None or self._senders.busy or self._again:
            return False
        if self._source.done:
            self._source.read()
        return self._source.done

    def _hopeless(self, now: float) -> bool:
        assert self._close_at is not None
        return now >= self._close_at or (self._health.permanent and not self._senders.busy)


def background(
    folder: str,
    settings: Settings,
    destination: Destination,
    local_path: str,
    wake: int,
    report: int,
    command: int,
    terminals: dict[int, list[object]],
) -> None:
    """The body of the shipper process, forked from the front: ships the run in `folder`, then says how it went.

    `wake` is read, `report` written: one line with the first seq that was not taken, and the reason. `command` is the
    wrapped command's pidfd: it is killed if the front dies without a status, because nobody would read its output, and
    the `terminals` get the modes back that they had.
    """
    os.nice(_NICENESS)
    from sqstee.run import flush  # which runs shippers itself

    def orphaned() -> None:
        _kill(command)
        for real, saved in terminals.items():
            from sqstee.run.terminal import restore

            restore(real, saved)
        _close_when_free(folder)

    def reached() -> None:
        try:
            _thread.start_new_thread(flush.flush_others, (folder,))
        except RuntimeError:  # no thread can be had: the next run tries again
            pass

    shipper = Shipper(
        folder,
        open_sender(destination, local_path, settings.local_max),
        wake,
        linger=settings.linger,
        message_bytes=settings.message_bytes,
        flush_timeout=settings.flush_timeout,
        compress=settings.compress,
        orphaned=orphaned,
        reached=reached,
    )
    reason = ""
    try:
        if shipper.run():
            shipper.remove()
        reason = shipper.reason
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    os.write(report, f"{shipper.acknowledged}\t{shipper.quarantined}\t{reason}\n".encode(errors="replace"))


def _kill(pidfd: int) -> None:
    import signal

    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass


def _close_when_free(folder: str) -> None:
    """Close a dead front's run once the kernel has let go of its lock; an heir keeps it, and closes it itself."""
    deadline = time.monotonic() + _FREE_SECONDS
    try:
        while not close_dead_run(folder) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN_SECONDS)
    except (OSError, ValueError):
        pass  # the next run on this host tries again
