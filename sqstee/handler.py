"""`sqstee.Handler`: Python's logging into the same spool, shipped by the same process as wrapped commands' lines.

    import logging, sqstee

    sqstee.configure(to="my-queue", job="nightly")
    logging.info("hello")

Settings come from the same configuration files and SQSTEE_* variables as for the command; arguments win.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqstee.errors import SqsteeError
from sqstee.log_fields import fields_of
from sqstee.logging_run import LoggingRun, report
from sqstee.record import LEVELS
from sqstee.settings import settings_from
from sqstee.ship.sender_pool import THREADS
from sqstee.spool.location import resolve
from sqstee.text import count

if TYPE_CHECKING:
    from typing import Unpack

    from sqstee.handler_settings import HandlerSettings

_TRY_AGAIN_SECONDS = 10.0  # after opening a spool failed
_LEVEL_OF = {number: number // 10 for number in range(10, 10 * len(LEVELS), 10)}  # of logging's own numbers

_handlers: weakref.WeakSet[Handler] = weakref.WeakSet()


class Handler(logging.Handler):
    """A logging handler that appends each line to the spool and returns; the shared shipper or an agent ships.

    Where neither may or can, with share="never" for example, a daemon thread of this process ships.

    `settings` are the options of `sqstee run` by their names with underscores (to, job, label, host, spool, linger,
    flush_timeout, …), as Python values or as text; `label` may be a mapping. Raises SqsteeError for an invalid value,
    TypeError for an unknown name.

    A record is sent as one line, even if it has several, as a traceback has, with its level, on the stream `stderr`,
    where logging would write it. Its `data` has the logger's name, the exception and the fields that the program
    gave as `extra` or as a dict in place of a message (see log_fields).

    The run begins with the first line, so a process that never logs costs nothing. A forked child gets a run of its
    own, and so does a process that unpickles the handler. At exit the remaining lines are delivered within the flush
    timeout; lines that are not stay in the spool, for `sqstee flush` and the next run on the host. After `close` the
    next line begins a new run.
    """

    terminator = "\n"

    def __init__(self, to: str = "", *, level: int | str = logging.NOTSET, **settings: Unpack[HandlerSettings]) -> None:
        self.given: dict[str, object] = {**({"to": to} if to else {}), **settings}
        self._settings = settings_from(self.given, os.environ)
        resolve(self._settings)  # here: a daemon goes to / before its first line
        # Not logging's own lock of the handler: that is held during `close` by logging.shutdown, which also
        # logging.config calls, and would be held while a record is formatted, which runs code of the program.
        self._writes = threading.RLock()
        super().__init__(level)  # from here on logging closes it at exit
        self._pid = os.getpid()
        self._run: LoggingRun | None = None
        self._closing: list[LoggingRun] = []
        self._ended: list[LoggingRun] = []  # whose delivery `close` is to wait for
        self._was_closed = False
        self._pending: deque[tuple[int, bytes, dict[str, object]]] = deque()
        self._writing = False
        self._not_before = 0.0
        self._lost = 0
        self.configured_in = 0  # the process in which `configure` has made it
        _handlers.add(self)

    def __reduce__(self) -> tuple[Callable[..., Handler], tuple[object, ...]]:
        return _rebuild, (type(self), self.given, self.level, self.formatter)

    @property
    def run(self) -> str:
        """The id of the current run; empty before its first line."""
        return self._run.id if self._run and self._pid == os.getpid() else ""

    def handle(self, record: logging.LogRecord) -> bool:
        """As in any handler, but ignore records that the shipping threads log themselves.

        Shipping them would log more, without end, and a shipping thread must not wait for the lock of a handler that
        is being closed.
        """
        if THREADS and threading.get_ident() in THREADS:
            return False
        found: Any = self.filter(record)  # since 3.12 it may return another record
        if found:
            self.emit(record if found is True else found)
        return bool(found)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record to the spool."""
        try:
            data = _encode(self.format(record) + self.terminator)
            fields = fields_of(record)
            level = _LEVEL_OF.get(record.levelno) or _level_of(record.levelno)
            with self._writes:
                if record.process != self._pid:  # the record's own pid saves a call of getpid
                    self._current()
                if self._writing:  # a signal handler has interrupted _write, which goes on with this record
                    self._pending.append((level, data, fields))
                else:
                    self._write(level, data, fields)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wake whoever ships, without waiting for it."""
        with self._writes:
            if self._run and self._pid == os.getpid():
                self._run.wake()

    def close(self) -> None:
        """End the run and deliver its remaining lines, for at most the flush timeout.

        Where logging.config closes it, to configure anew, only the end of the process waits for them.
        """
        with self._writes:
            if run := self._current():
                self._ended.append(run)
            self._run = None
            lost, self._lost = self._lost, 0
            self._was_closed = True
        if lost:
            report(self._settings, f"{count(lost, 'log record')} dropped: the spool could not be opened")
        try:
            if _is_configuring():
                for handler in list(_handlers):
                    handler._close_done()
                for run in self._ended:
                    run.end()
                if self._ended:
                    atexit.register(self.close)
            else:
                self._deliver()
        except KeyboardInterrupt:
            pass
        super().close()

    def _deliver(self) -> None:
        atexit.unregister(self.close)
        deadline = time.monotonic() + self._settings.flush_timeout
        closing = self._closing = self._ended
        self._ended = []
        for run in closing:
            run.end()
        for notice in filter(None, dict.fromkeys(run.close(deadline) for run in closing)):
            report(self._settings, notice)
        self._closing = []

    def _close_done(self) -> None:
        """Close the ended runs that are delivered, unless another thread writes."""
        if self._writes.acquire(blocking=False):
            for run in [run for run in self._ended if run.is_done]:
                self._ended.remove(run)
                run.end()
                run.close(time.monotonic())
            if not (self._ended or self._run):
                atexit.unregister(self.close)
            self._writes.release()

    def forget(self) -> None:
        """In a forked child: abandon the parent's run."""
        self._pid = os.getpid()
        for run in (self._run, *self._closing, *self._ended):
            if run:
                run.abandon()
        self._run = None
        self._closing, self._ended = [], []
        self._writes = threading.RLock()  # another thread may have held it
        self._pending.clear()
        self._writing, self._lost = False, 0

    def _current(self) -> LoggingRun | None:
        if self._pid != os.getpid():  # forked by code that does not call Python's hooks
            self.forget()
        return self._run

    def _write(self, level: int, data: bytes, fields: dict[str, object]) -> None:
        self._writing = True
        try:
            while True:
                if run := self._run or self._open():
                    if data.endswith(b"\n") and (fields or data.count(b"\n") > 1):
                        run.record(level, data, fields)
                    else:
                        run.write(level, data)
                else:
                    self._lost += 1
                if not self._pending:
                    break
                level, data, fields = self._pending.popleft()
        except BaseException:  # raised by a signal handler, such as ^C; or stack or memory is used up
            self._break_off()
            raise
        finally:
            self._writing = False

    def _break_off(self) -> None:
        """Write on in a new run if an exception has left the present one's files at an unknown step."""
        run = self._run
        if run and run.is_torn:
            self._run = None
            self._close_done()
            self._ended.append(run)
            run.break_off()
        if self._pending:  # logged by the signal handler
            self._write(*self._pending.popleft())

    def _open(self) -> LoggingRun | None:
        if time.monotonic() < self._not_before:
            return None
        try:
            self._run = run = LoggingRun(self._settings, self._writes)
            run.start()
        except (SqsteeError, OSError) as error:
            if not self._lost:
                text = f"the log is not shipped: {error}".replace("\nhint: ", "; ").replace("sqstee: ", "")
                report(self._settings, text)
            self._not_before = time.monotonic() + _TRY_AGAIN_SECONDS
            return None
        if self._was_closed:  # logging closes no handler twice
            atexit.register(self.close)
        _close_with_worker(self)
        return run


def configure(
    to: str = "",
    *,
    logger: str = "",
    level: int | str = logging.INFO,
    format: str = "",
    **settings: Unpack[HandlerSettings],
) -> Handler:
    """Make a logger (by default the root logger) ship its lines from `level` up, and return its handler.

    Call it in every process that logs, any number of times: the same call again returns the same handler. All arguments
    can be pickled, so that `client.run(sqstee.configure, to="q")` configures the workers of Dask. In a forked process,
    other arguments replace the parent's configuration; otherwise its lines would be shipped twice.
    """
    target = logging.getLogger(logger or None)
    handler = Handler(to, **settings)
    for found in target.handlers:
        if isinstance(found, Handler) and found.given == handler.given:
            handler = found
    for found in list(target.handlers):
        if isinstance(found, Handler) and found is not handler and found.configured_in not in (0, os.getpid()):
            target.removeHandler(found)
    handler.configured_in = os.getpid()
    handler.setLevel(level)
    if format:
        handler.setFormatter(logging.Formatter(format))
    if target.getEffectiveLevel() > handler.level:
        target.setLevel(handler.level)
    target.addHandler(handler)
    return handler


def _rebuild(kind: type[Handler], given: dict[str, Any], level: int, formatter: logging.Formatter | None) -> Handler:
    handler = kind(**given)
    handler.setLevel(level)
    handler.setFormatter(formatter)
    return handler


def _is_configuring() -> bool:
    """Whether this thread holds logging's lock, as logging.config does: others wait for it, and so does an import."""
    return bool(getattr(getattr(logging, "_lock", None), "_is_owned", bool)())


def _level_of(number: int) -> int:
    """The level that stands for a number of logging's: an index into LEVELS."""
    return min(len(LEVELS) - 1, max(1, number // 10))


def _encode(text: str) -> bytes:
    """UTF-8; bytes of a file name that were not UTF-8 come out unchanged."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _close_with_worker(handler: Handler) -> None:
    """Close the handler in a process of multiprocessing, which ends without atexit but calls its own finalizers."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None and sys.modules["multiprocessing.process"].parent_process() is not None:
        util.Finalize(None, _close, args=(weakref.ref(handler),), exitpriority=-1000)


def _close(reference: weakref.ref[Handler]) -> None:
    handler = reference()
    if handler:
        handler.close()


def _forget_all() -> None:
    for handler in list(_handlers):
        handler.forget()


os.register_at_fork(after_in_child=_forget_all)
