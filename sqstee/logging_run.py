"""A run whose lines come from this process's own logging, shipped by the shared shipper or an agent.

It takes the front's place, without a command, a fork or capture. A thread starts the shared shipper where none serves;
it ships itself where no other process may or can. Only `close` waits for the network, no longer than the flush timeout.
"""

from __future__ import annotations

import _thread
import concurrent.futures.thread  # noqa: F401  # boto3 needs it; at the interpreter's end it cannot be imported
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from sqstee.destination import parse
from sqstee.fds import write_stderr
from sqstee.log_fields import encode, shortened
from sqstee.record import LEVELS, STREAMS
from sqstee.settings import Settings
from sqstee.ship import sharing
from sqstee.ship.delegated_run import DelegatedRun
from sqstee.ship.policy import DeliveryPolicy
from sqstee.ship.sender_pool import THREADS
from sqstee.ship.shipper_handle import CLOSE, WAKE
from sqstee.ship.spawn_shared import spawn
from sqstee.spool import agent_file, run_events
from sqstee.spool.agent_file import GROWN
from sqstee.spool.heartbeat import Heartbeat, process_usage
from sqstee.spool.location import flush_command, open_for_run
from sqstee.spool.quarantine import quarantine_notice, quarantined_records
from sqstee.spool.recovery import close_dead_run
from sqstee.spool.spooled_run import SpooledRun
from sqstee.spool.writer import RATE_LIMIT
from sqstee.text import count, one_line
from sqstee.transports.factory import load

if TYPE_CHECKING:
    from sqstee.ship.shipper import Shipper
    from sqstee.spool.fsync import Syncer
    from sqstee.spool.redact import Masker

_STREAM = STREAMS.index("stderr")  # where logging writes by default
_WAKE_SECONDS = 0.1  # the shipper is woken at most this often; by itself it looks again a little later
_CHECK_SECONDS = 1.0  # a line looks at most this often whether another process still ships
_GRACE_SECONDS = 1.0  # beyond the flush timeout, for the shipper to return
_FORK_SECONDS = 10.0  # how long a fork waits at most for modules to be loaded
_monotonic = time.monotonic

# Held while the shipping thread imports: a child forked meanwhile would wait forever for a module's import lock.
_loading = threading.Lock()
_forking = threading.local()


class LoggingRun:
    """One run, from its first line to `end` and `close`.

    `lock` is the handler's; it is held by the callers of all methods but these two.
    """

    def __init__(self, settings: Settings, lock: threading.RLock) -> None:
        self._settings = settings
        self._lock = lock
        self._ended = threading.Event()
        self._started = time.monotonic()
        self._wake_at = 0.0
        self._check_at = self._started + _CHECK_SECONDS
        self._flush_timeout = settings.flush_timeout
        self._max_line = settings.max_line
        self._only_lines = settings.strip_ansi or settings.collapse_cr
        self._reason = ""
        self._refusals_reported: set[tuple[bool, str]] = set()
        self._settled = 0  # the writer's bytes when its last call began, or returned
        self._broken_off = False
        self._shipper: Shipper | None = None
        self._thread: threading.Thread | None = None  # while it starts the shared shipper, or ships
        self._ships_here = False  # this process holds the `ship` lock
        self.root, notice = open_for_run(settings)
        if notice:
            report(settings, notice)
        self._policy = DeliveryPolicy.of(settings, self.root)
        self._destination = parse(self._policy.to)
        self._identity = sharing.identity(settings, os.environ)
        self._agent = self._serving()  # the file of the process that ships, as last looked up
        if not (self._agent or sharing.may_start()):
            self._identity = ""
        self._wake_reading, self._wake = os.pipe()
        try:
            self._delegated = self._open()
        except BaseException:  # of a signal handler, too
            self._ended.set()
            self._close_fds("_wake_reading", "_wake")
            if spooled := getattr(self, "_spooled", None):
                spooled.abandon()
            raise

    def start(self) -> None:
        """Have the run shipped."""
        if self._delegated and self._agent:
            self._delegated.wake(self._agent, GROWN)
        else:
            self._start_thread()

    @property
    def id(self) -> str:
        """The run's ULID."""
        return self._spooled.id

    def _open(self) -> DelegatedRun | None:
        """Create the run; returns the delegated run if another process is to ship it, else None."""
        settings, identity = self._settings, self._identity
        fields = self._policy.to_meta() | sharing.meta(identity, settings, os.environ) | run_events.LOGGING
        self._spooled = SpooledRun(self.root, settings, fields, _masker(settings.redact), _program())
        self._writer = self._spooled.writer
        if self._spooled.syncer:
            self._start_syncer(self._spooled.syncer)
        interval = settings.heartbeat or 0.0
        self._writer.event(run_events.start(settings, self._spooled.name, os.getpid(), heartbeat=interval))
        if interval:
            self._start_beating(interval)
        os.set_blocking(self._wake, False)
        if identity or self._agent:
            self._spooled.close_ship_lock()
            return DelegatedRun(
                self._writer.folder,
                serving=self._serving,
                start=(lambda: sharing.may_start() and spawn(self.root, identity)) if identity else None,
                on_refusal=lambda notice, keeps: report(settings, notice),
            )
        self._ships_here = True
        if self._destination.kind == "local":
            load(self._destination)  # its fork hooks must be in place before any fork
        return None

    def _serving(self) -> str:
        """The file of the agent that ships for this run, or ''."""
        return agent_file.serving(self.root, self._policy.to, os.environ, self._identity)

    def write(self, level: int, data: bytes) -> None:
        """Spool whole lines of one level (an index into record.LEVELS)."""
        writer = self._writer
        self._settled = writer.bytes
        writer.level = level
        writer.write(_STREAM, data)
        if _monotonic() >= self._wake_at:
            self.wake()

    def record(self, level: int, data: bytes, fields: dict[str, object]) -> None:
        """Spool a log record, which may have several lines, as one line of the run with `fields` as its data.

        Fields that are too long are shortened. The record is sent as plain lines instead if it is not UTF-8, if it is
        too long, or if an option asks for processing that only plain lines get.
        """
        if self._only_lines or len(data) > self._max_line or (self._settings.parse_json and data[:1] == b"{"):
            return self.write(level, data)
        try:
            message = data[:-1].decode()
        except UnicodeDecodeError:
            return self.write(level, data)
        line: dict[str, object] = {"stream": STREAMS[_STREAM], "level": LEVELS[level], "message": message}
        if fields:
            line["data"] = fields
        writer = self._writer
        self._settled = writer.bytes
        if not writer.record(_STREAM, line, encode, shortened):
            return self.write(level, data)
        if _monotonic() >= self._wake_at:
            self.wake()
        return None

    def wake(self) -> None:
        """Notify the shipper that there is something to ship."""
        self._settled = self._writer.bytes
        now = _monotonic()
        if now >= self._wake_at:
            self._wake_at = now + _WAKE_SECONDS
            if self._delegated and not (self._ships_here or self._thread):
                if now >= self._check_at:
                    self._check_at = now + _CHECK_SECONDS
                    self._check_shipper(self._delegated)
                self._delegated.wake(self._agent, GROWN)
            else:
                self._notify(WAKE)

    def _check_shipper(self, delegated: DelegatedRun) -> None:
        """Report the trouble of the process that ships, and make sure that one does."""
        self._agent = self._serving()
        delegated.pass_notices_on()
        if self._agent or not self._identity:  # an agent that has just died may be started again
            if (shipping := delegated.lock_if_unattended()) is not None:
                self._take_over(shipping)
        elif delegated.is_free():
            self._start_thread()

    def _take_over(self, shipping: int) -> None:
        """Ship in this process, which holds the `ship` lock as the descriptor `shipping`."""
        self._spooled.ship_lock = shipping
        self._ships_here = True
        self._start_thread()

    def end(self) -> None:
        """End the run, if it has not ended; `close` must follow."""
        with self._lock:
            had_ended = self._ended.is_set()
            self._ended.set()
        if self._broken_off:
            self.break_off()  # a second exception may have interrupted it
        elif not had_ended:
            seconds = time.monotonic() - self._started
            if not self._writer.end(run_events.process_exit(seconds, self._writer, self._spooled.name)):
                self._writer.close()
        if self._spooled.syncer:
            self._spooled.syncer.finish()
        self._spooled.close_writer_lock()
        self._notify(CLOSE)

    def close(self, deadline: float) -> str:
        """Deliver the rest until `deadline`, a time of the monotonic clock; returns a notice to the user, or ''."""
        self._finish(deadline)
        if self._delegated and not (self._ships_here or self._thread):
            left = max(0.0, deadline - time.monotonic())
            self._reason, shipping = self._delegated.await_delivery(left, left)
            if shipping is not None:
                self._flush_timeout = max(0.0, deadline - time.monotonic())
                self._take_over(shipping)
                self._finish(deadline)
        self._close_fds("_wake", *([] if self._ships_here else ["_wake_reading"]))
        return self._notice()

    @property
    def is_torn(self) -> bool:
        """Whether an exception has left the writer within a call, with its files at an unknown step."""
        return self._writer.bytes != self._settled

    def break_off(self) -> None:
        """Write nothing more, as if the process had been killed: whoever ships closes the run; see `is_done`."""
        self._broken_off = True
        self._ended.set()
        self._writer.abandon()
        self._spooled.close_writer_lock()
        if self._ships_here:
            self._close_as_dead()
        if self._delegated:
            self._delegated.wake(self._agent, GROWN)
        self._notify(WAKE)

    @property
    def is_done(self) -> bool:
        """Whether a run that has ended is delivered: `close` will not have to wait."""
        if self._ships_here:
            return self._shipper is not None and not self._is_waiting()
        return not self._thread and not os.path.exists(self._writer.folder)

    def _close_as_dead(self) -> None:
        try:
            close_dead_run(self._writer.folder)
        except (OSError, ValueError):  # the next process that ships for this user tries again
            pass

    def abandon(self) -> None:
        """Release the run in a forked child: it belongs to the parent."""
        self._close_fds("_wake", "_wake_reading")
        self._spooled.abandon()

    def _close_fds(self, *names: str) -> None:
        """Close descriptors, each once: afterwards the number may stand for another file."""
        for name in names:
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)

    def _start_beating(self, interval: float) -> None:
        """Start a thread that beats while the process logs nothing (see Heartbeat); a forked child has none."""
        heartbeat = Heartbeat(interval, lambda: process_usage(os.getpid()))

        def work() -> None:
            while not self._ended.wait(heartbeat.due - _monotonic()):
                with self._lock:
                    if not self._ended.is_set():
                        heartbeat.beat(self._writer)
                        self.wake()

        try:
            threading.Thread(target=work, name="sqstee heartbeat", daemon=True).start()
        except RuntimeError:  # no thread available: readers go by its lines
            pass

    @staticmethod
    def _start_syncer(syncer: Syncer) -> None:
        try:
            syncer.start()
        except RuntimeError:  # no thread available: `close` syncs
            pass

    def _notify(self, word: bytes) -> None:
        try:
            os.write(self._wake, word)
        except OSError:
            pass

    def _start_thread(self) -> None:
        self._thread = thread = threading.Thread(target=self._work, name="sqstee", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, or no more threads are allowed: `close` sees to it
            self._thread = None
        except BaseException:
            if not thread.is_alive():  # it would never be joined
                self._thread = None
            raise

    def _finish(self, deadline: float) -> None:
        """Wait for the thread's end, or ship without one."""
        thread = self._thread
        left = max(0.0, deadline - time.monotonic())
        if thread:
            thread.join(left + _GRACE_SECONDS)
        elif self._ships_here:
            self._flush_timeout = left
            self._ship()

    def _work(self) -> None:
        """The body of the thread."""
        try:
            if self._ships_here or not self._find_shipper():
                self._ship()
        except Exception as error:  # a later line tries again
            self._reason = f"{type(error).__name__}: {error}"
        if not self._ships_here:
            self._thread = None

    def _find_shipper(self) -> bool:
        """Start the shared shipper if no process serves this run; False if this one is to ship."""
        assert self._delegated
        self._agent = self._delegated.ensure_shipper()
        if not self._agent and (shipping := self._delegated.lock()) is not None:
            self._spooled.ship_lock = shipping
            self._ships_here = True
        return not self._ships_here

    def _ship(self) -> None:
        THREADS.add(_thread.get_ident())
        try:
            if self._broken_off:
                self._close_as_dead()
            with _loading:
                from sqstee.ship.shipper import Shipper  # not at the top: few programs ship themselves

                sender = self._policy.open_sender(self.root)
                self._load()
            self._shipper = shipper = Shipper(
                self._writer.folder,
                sender,
                self._wake_reading,
                self._policy.options,
                flush_timeout=self._flush_timeout,
                on_refusal=self._report_refusal,
            )
            try:
                if shipper.run():
                    shipper.remove()
            finally:
                shipper.close()
        except Exception as error:
            self._reason = f"{type(error).__name__}: {error}"
        finally:
            self._spooled.close_ship_lock()
            self._close_fds("_wake_reading")
            THREADS.discard(_thread.get_ident())

    def _report_refusal(self, reason: str, diverted: bool, at: str) -> None:
        """Report once for the run, and for each destination that refuses."""
        if (diverted, at) not in self._refusals_reported:
            self._refusals_reported.add((diverted, at))
            with _loading:
                notice = self._policy.refusal_notice(reason, diverted, self.root, at)
            report(self._settings, one_line(notice))

    def _load(self) -> None:
        """Load the transport; on an error, such as a missing profile, leave it to the sender to report or to retry."""
        try:
            load(self._destination)
        except Exception:
            pass

    def _notice(self) -> str:
        why = self._reason or (self._shipper.reason if self._shipper else "")
        found, flush = [], flush_command(self.root, self._settings)
        for reason, number in self._writer.reasons.items():
            why_dropped = f"the spool could not be written ({reason})"
            if reason == RATE_LIMIT:
                why_dropped = "--rate-limit allows no more"
            found.append(f"{count(number, 'log line')} dropped: {why_dropped}")
        if quarantined := quarantined_records(self._writer.folder):
            found.append(quarantine_notice(count(quarantined, "log line"), self.root, flush))
        if self._is_waiting():
            why = f" ({why})" if why else ""
            found.append(f"the log is not fully delivered yet{why}: kept in {self.root}, `{flush}` ships it")
        return "; ".join(found)

    def _is_waiting(self) -> bool:
        """Whether lines are not delivered, and were not left to another process either."""
        if not self._ships_here:
            return bool(self._reason or self._thread)
        return self._writer.spooled > (self._shipper.acknowledged if self._shipper else 0)


def report(settings: Settings, text: str) -> None:
    """Print a line of our own, unless --quiet is set."""
    if not settings.quiet:
        write_stderr(f"sqstee: {text}\n")


def _program() -> str:
    """This process's program: a script or an executable; for `python -m PACKAGE` the package; else the interpreter."""
    path = sys.argv[0] if sys.argv else ""
    if path in ("", "-", "-c", "-m"):
        return sys.executable
    return path.removesuffix("/__main__.py")


def _masker(patterns: tuple[str, ...]) -> Masker | None:
    if not patterns:
        return None
    from sqstee.spool.redact import Masker

    return Masker(patterns)


def _before_fork() -> None:
    _forking.held = _thread.get_ident() not in THREADS and _loading.acquire(timeout=_FORK_SECONDS)


def _after_fork() -> None:
    if _forking.held:
        _loading.release()


def _after_fork_in_child() -> None:
    global _loading
    _loading = threading.Lock()
    THREADS.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
