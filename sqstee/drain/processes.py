"""Receives into journals with one process, or with several that are forked before anything heavy is loaded.

Each process has a journal of its own. One pipe to each says when to stop, also by closing if the parent dies; one pipe
from each reports progress, notices and problems as JSON lines.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from collections.abc import Callable, Sequence

from sqstee.drain.heap import use_one_heap
from sqstee.drain.journal import Journal
from sqstee.drain.journaling import DrainLimits, DrainProgress, Journaler
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.read.stop_signal import StopSignal
from sqstee.transports.base import Receiver
from sqstee.transports.errors import TransportError

_POLL_SECONDS = 0.1


def collect(
    folder: str,
    open_receivers: Callable[[], Sequence[Receiver]],
    limits: DrainLimits,
    processes: int,
    stop: StopSignal,
    on_progress: Callable[[DrainProgress], None],
    notice: Callable[[str], None],
    count_waiting: bool = False,
    open_shared: Callable[[], Sequence[Receiver]] | None = None,
) -> DrainProgress:
    """Empty the receivers that `open_receivers` opens into journals in `folder`; the progress at the end.

    With several processes, the first uses `open_receivers` and the others `open_shared`. Raises TransportError,
    OSError, or SqsteeError for a problem in another process.
    """
    if processes == 1:
        return _collect(folder, open_receivers, limits, stop, on_progress, notice, count_waiting)
    workers: list[_Worker] = []
    try:
        for number in range(processes):
            share = _share(limits, processes, number)
            opens = open_shared if open_shared and number else open_receivers
            workers.append(_Worker(folder, opens, share, stop, count_waiting and number == 0, workers))
        problem = _watch(workers, stop, on_progress, notice)
    finally:  # also where a fork failed: no worker may write to the journals that are assembled next
        for worker in workers:
            worker.stop()
        problems = [worker.join() for worker in workers]
    problem = problem or next(filter(None, problems), "")
    if problem:
        hint = "fix that and drain again; messages received so far are in the folder"
        raise SqsteeError(problem, hint, EXIT_FAILURE)
    return _sum(workers)


def _collect(
    folder: str,
    open_receivers: Callable[[], Sequence[Receiver]],
    limits: DrainLimits,
    stop: StopSignal,
    on_progress: Callable[[DrainProgress], None],
    notice: Callable[[str], None],
    count_waiting: bool,
) -> DrainProgress:
    use_one_heap()
    journal = Journal(folder)
    try:
        journaler = Journaler(open_receivers(), journal, limits, notice)
        journaler.run(stop, on_progress, count_waiting)
    finally:
        journal.close()
    return journaler.progress


def _sum(workers: Sequence[_Worker]) -> DrainProgress:
    return sum((worker.progress for worker in workers), DrainProgress())


def _share(limits: DrainLimits, processes: int, number: int) -> DrainLimits:
    """The limits of one process: its part of `max_messages`."""
    max_messages = limits.max_messages
    if max_messages is not None:
        max_messages = max_messages // processes + (number < max_messages % processes)
    return DrainLimits(limits.threads, limits.wait, limits.idle, max_messages, limits.start_timeout)


class _Worker:
    """A forked process, as its parent sees it."""

    def __init__(
        self,
        folder: str,
        open_receivers: Callable[[], Sequence[Receiver]],
        limits: DrainLimits,
        stop: StopSignal,
        count_waiting: bool,
        others: Sequence[_Worker],
    ) -> None:
        self.progress = DrainProgress()
        self._unfinished = b""
        stop_end, self.stop_fd = os.pipe()
        self.report_fd, report_end = os.pipe()
        try:
            self.pid = os.fork()
        except OSError:
            for fd in (stop_end, self.stop_fd, self.report_fd, report_end):
                os.close(fd)
            raise
        if self.pid == 0:
            for worker in (self, *others):  # a pipe whose other end is held here too would never reach its end
                os.close(worker.stop_fd)
                os.close(worker.report_fd)
            _run_worker(folder, open_receivers, limits, stop, count_waiting, stop_end, report_end)
        os.close(stop_end)
        os.close(report_end)

    def reports(self) -> list[dict[str, object]] | None:
        """The reports that it has sent since the last call; None once it has ended."""
        data = os.read(self.report_fd, 65536)
        if not data:
            return None
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        """Ask it to stop in good order."""
        if self.stop_fd >= 0:
            os.close(self.stop_fd)
            self.stop_fd = -1

    def join(self) -> str:
        """Wait for its end; the problem if it failed, else nothing."""
        os.close(self.report_fd)
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return f"a drain process ended with status {code}" if code else ""


def _run_worker(
    folder: str,
    open_receivers: Callable[[], Sequence[Receiver]],
    limits: DrainLimits,
    stop: StopSignal,
    count_waiting: bool,
    stop_fd: int,
    report_fd: int,
) -> None:
    """The whole life of a forked process."""
    lock = threading.Lock()

    def report(**fields: object) -> None:
        with lock:
            os.write(report_fd, json.dumps(fields).encode() + b"\n")

    def await_stop() -> None:
        os.read(stop_fd, 1)
        stop.signal = stop.signal or signal.SIGTERM

    def report_notice(text: str) -> None:
        report(notice=text)

    def report_progress(progress: DrainProgress) -> None:
        report(**{name: getattr(progress, name) for name in DrainProgress.__slots__})

    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C in the terminal is handled by the first process
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        threading.Thread(target=await_stop, daemon=True).start()
        _collect(folder, open_receivers, limits, stop, report_progress, report_notice, count_waiting)
        status = 0
    except (TransportError, SqsteeError) as error:
        report(problem=error.message if isinstance(error, SqsteeError) else str(error))
    except Exception as error:
        report(problem=f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _watch(
    workers: Sequence[_Worker],
    stop: StopSignal,
    on_progress: Callable[[DrainProgress], None],
    notice: Callable[[str], None],
) -> str:
    """Pass on the workers' reports until all have ended; the first problem, or nothing."""
    problem = ""
    running = {worker.report_fd: worker for worker in workers}
    while running:
        if stop.signal or problem:
            for worker in workers:
                worker.stop()
        for fd in select.select(list(running), [], [], _POLL_SECONDS)[0]:
            reports = running[fd].reports()
            if reports is None:
                del running[fd]
                continue
            for report in reports:
                if "problem" in report:
                    problem = problem or str(report["problem"])
                elif "notice" in report:
                    notice(str(report["notice"]))
                else:
                    running[fd].progress = DrainProgress(**report)  # type: ignore[arg-type]
        on_progress(_sum(workers))
    return problem
