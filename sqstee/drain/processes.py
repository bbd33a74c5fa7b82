"""A collection by one process, or by several that are forked before anything heavy is loaded.

Each has its own journal; a pipe to each says when to stop (also if we die), a pipe from each tells how far it is.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from collections.abc import Callable, Sequence

from sqstee.drain.journal import Journal
from sqstee.drain.journaling import Collector, Limits, Progress
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.read.stop_signal import Stop
from sqstee.transports.base import Receiver
from sqstee.transports.errors import TransportError

_LOOK_SECONDS = 0.1


def collect(
    folder: str,
    open_receivers: Callable[[], Sequence[Receiver]],
    limits: Limits,
    processes: int,
    stop: Stop,
    tell: Callable[[Progress], None],
    remark: Callable[[str], None],
    ask: bool = False,
    open_shared: Callable[[], Sequence[Receiver]] | None = None,
) -> None:
    """Empty what `open_receivers` opens into journals in `folder`; all processes but the first what `open_shared` does.

    Raises TransportError, OSError, or SqsteeError for what another process of the crew met.
    """
    if processes == 1:
        _collect(folder, open_receivers, limits, stop, tell, remark, ask)
        return
    crew: list[_Member] = []
    try:
        for number in range(processes):
            share = _share(limits, processes, number)
            opens = open_shared if open_shared and number else open_receivers
            crew.append(_Member(folder, opens, share, stop, ask and number == 0, crew))
        problem = _watch(crew, stop, tell, remark)
    finally:  # also where there is no room for one more: nobody may go on writing into what is put together next
        for member in crew:
            member.dismiss()
        ends = [member.end() for member in crew]
    problem = problem or next(filter(None, ends), "")
    if problem:
        raise SqsteeError(problem, "what came before that is in the folder", EXIT_FAILURE)


def _collect(
    folder: str,
    open_receivers: Callable[[], Sequence[Receiver]],
    limits: Limits,
    stop: Stop,
    tell: Callable[[Progress], None],
    remark: Callable[[str], None],
    ask: bool,
) -> None:
    journal = Journal(folder)
    try:
        Collector(open_receivers(), journal, limits, remark).run(stop, tell, ask)
    finally:
        journal.close()


def _share(limits: Limits, processes: int, number: int) -> Limits:
    """One process's part of what is wanted at most."""
    most = limits.most
    if most is not None:
        most = most // processes + (number < most % processes)
    return Limits(limits.threads, limits.wait, limits.idle, most)


class _Member:
    """A forked process, seen from the one that forked it."""

    def __init__(
        self,
        folder: str,
        open_receivers: Callable[[], Sequence[Receiver]],
        limits: Limits,
        stop: Stop,
        ask: bool,
        others: Sequence[_Member],
    ) -> None:
        self.progress = Progress()
        self._rest = b""
        asked, self.asking = os.pipe()
        self.told, telling = os.pipe()
        try:
            self.pid = os.fork()
        except OSError:
            for fd in (asked, self.asking, self.told, telling):
                os.close(fd)
            raise
        if self.pid == 0:
            for member in (self, *others):  # an end held here too would never be at its end
                os.close(member.asking)
                os.close(member.told)
            _serve(folder, open_receivers, limits, stop, ask, asked, telling)
        os.close(asked)
        os.close(telling)

    def lines(self) -> list[dict[str, object]] | None:
        """What it has told since; None at its end."""
        data = os.read(self.told, 65536)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def dismiss(self) -> None:
        """Ask it to stop, in its own order."""
        if self.asking >= 0:
            os.close(self.asking)
            self.asking = -1

    def end(self) -> str:
        """Await its end; what is to be said about it, if anything."""
        os.close(self.told)
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return f"a process of the crew ended with status {code}" if code else ""


def _serve(
    folder: str,
    open_receivers: Callable[[], Sequence[Receiver]],
    limits: Limits,
    stop: Stop,
    ask: bool,
    asked: int,
    telling: int,
) -> None:
    """The life of a forked process."""
    lock = threading.Lock()

    def say(**fields: object) -> None:
        with lock:
            os.write(telling, json.dumps(fields).encode() + b"\n")

    def obey() -> None:
        os.read(asked, 1)
        stop.signal = stop.signal or signal.SIGTERM

    def tell(progress: Progress) -> None:
        say(**{name: getattr(progress, name) for name in Progress.__slots__})

    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's ^C is the first process's to obey
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        threading.Thread(target=obey, daemon=True).start()
        _collect(folder, open_receivers, limits, stop, tell, lambda text: say(remark=text), ask)
        status = 0
    except (TransportError, SqsteeError) as error:
        say(problem=error.message if isinstance(error, SqsteeError) else str(error))
    except Exception as error:
        say(problem=f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _watch(crew: Sequence[_Member], stop: Stop, tell: Callable[[Progress], None], remark: Callable[[str], None]) -> str:
    """Follow the crew to its end; what went wrong, if anything did."""
    problem = ""
    open_ends = {member.told: member for member in crew}
    while open_ends:
        if stop.signal or problem:
            for member in crew:
                member.dismiss()
        for fd in select.select(list(open_ends), [], [], _LOOK_SECONDS)[0]:
            lines = open_ends[fd].lines()
            if lines is None:
                del open_ends[fd]
                continue
            for line in lines:
                if "problem" in line:
                    problem = problem or str(line["problem"])
                elif "remark" in line:
                    remark(str(line["remark"]))
                else:
                    open_ends[fd].progress = Progress(**line)  # type: ignore[arg-type]
        tell(sum((member.progress for member in crew), Progress()))
    return problem
