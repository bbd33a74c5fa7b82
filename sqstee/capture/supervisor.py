"""While the command runs: connects capture, spool and shipper, relays signals, and waits for the command's status."""

from __future__ import annotations

import _thread
import gc
import os
import resource  # noqa: F401  # os.wait3 imports it, and later there may be no descriptor left for that

from sqstee.capture import child, signals
from sqstee.capture.live_notices import LiveNotices
from sqstee.capture.loop import SpoolFeed
from sqstee.capture.stream import pass_through
from sqstee.capture.teardown import Teardown
from sqstee.errors import SqsteeError, reason_of
from sqstee.ship import sharing, shipper_handle
from sqstee.ship.policy import DeliveryPolicy
from sqstee.spool import run_events
from sqstee.spool.location import open_for_run
from sqstee.spool.spooled_run import SpooledRun
from sqstee.trace import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from resource import struct_rusage
    from typing import NoReturn

    from sqstee.capture.wrapped_run import WrappedRun
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

_HEARTBEAT_SECONDS = 60.0  # to S3 none unless asked for: an object for each event costs
_DRAIN_SECONDS = 0.1  # how long passing on the command's last output, before a stop or at its end, may take
_CAPTURED_SECONDS = 5.0  # how long the capture thread may take to get the processor while no output holds it up


class Supervisor:
    """The process that the caller sees, once the command runs: it relays signals, and ends as the command ended."""

    def __init__(self, run: WrappedRun) -> None:
        self._run = run
        self._loop = run.loop
        self._notices = run.notices
        if run.destination.is_exposed and (run.settings.token_file or os.environ.get("SQSTEE_TOKEN")):
            self._notices.add(f"the token goes to {run.destination.name} unencrypted: use https:// to protect it")
        self._heartbeat = 0.0 if run.destination.kind == "s3" or run.settings.via_s3 else _HEARTBEAT_SECONDS
        if run.settings.heartbeat is not None:
            self._heartbeat = run.settings.heartbeat
        self._capturing = self._captured = False
        self._relay: signals.Relay | None = None
        self._seen: set[int] = set()  # signals that reached us while the command ran

    def run(self) -> NoReturn:
        """Serve the command until the last exit."""
        try:
            self._supervise()
        except SqsteeError:  # the command could not be executed
            raise
        except BaseException as error:
            self._rescue(error)

    def _rescue(self, error: BaseException) -> NoReturn:
        """After a bug of ours: pass the command's output through, wait for it, and end with its status."""
        run = self._run
        if run.status is None:
            run.status = signals.wait_for_command(run.child.pid, self._pass_rest_through)
        else:
            self._pass_rest_through()
        try:
            failure = f"sqstee failed while the command ran: {reason_of(error)}"
            self._notices.add(f"{failure}; the command is not affected, `sqstee flush` ships the lines in the spool")
            self._notices.print(unfinished=False)
        except Exception:  # the status matters more than the notice
            pass
        self._teardown().exit()

    def _pass_rest_through(self) -> None:
        if not self._capturing:
            pass_through(self._loop.remaining())
        signals.wait_until(lambda: self._captured or not self._capturing, float("inf"))

    def _supervise(self) -> NoReturn:
        """Serve the command; a failure of ours from here on must not affect it."""
        run, guarded, flush = self._run, self._guarded, "`sqstee flush` ships the lines in the spool"
        guarded("the output was not captured", "choose another folder with --spool DIR", self._open_spool)
        failure = run.child.wait_for_exec()
        if failure is not None:
            if run.spooled:
                guarded("the spool of this run was not removed", "`sqstee flush` removes it", run.spooled.delete)
            raise child.failure_to_start(run.command, failure)
        trace(
            "front", f"process {run.child.pid} runs the command; streams {sorted(s.fd for s in run.streams)} captured"
        )
        guarded("the working directory stays in use", "its disk cannot be unmounted meanwhile", lambda: os.chdir("/"))
        guarded("nothing is shipped in the background", flush, self._start_shipper)
        guarded("signals may not be relayed", "send signals to the command itself", self._make_relay)
        guarded("keys may not reach a pager", "give it the terminal with --tty pass", self._watch_keys)
        if run.spooled and run.spooled.syncer:
            guarded("--fsync has no effect", "lines are kept as without it", run.spooled.syncer.start)
        writer = run.spooled.writer if run.spooled else None
        guarded("trouble with the destination is reported at the end", flush, self._watch_shipper)
        self._loop.feed = SpoolFeed(writer, run.shipper, run.settings.flush_timeout)
        guarded("there is no heartbeat", "while it writes nothing readers may take it for gone", self._start_beating)
        self._start_capture()
        self._wait_for_end()
        teardown = self._teardown()
        teardown.run()
        teardown.exit()

    def _guarded(self, failure: str, advice: str, step: Callable[[], None]) -> None:
        """Take a step of the preparation, and look at the outputs: the command runs already."""
        self._notices.guarded(failure, advice, step)
        self._loop.look()

    def _teardown(self) -> Teardown:
        return Teardown(self._run, self._run_capture, self._handle_while_delivering)

    def _watch_keys(self) -> None:
        self._loop.watch_keys(self._run.child.pid)

    def _watch_shipper(self) -> None:
        run = self._run
        if run.shipper:
            streams = [stream for stream in run.streams if stream.fd in run.stdio.sharing_stderr]
            self._loop.watch_shipper(LiveNotices(self._notices, run.shipper, streams))

    def _start_beating(self) -> None:
        if self._heartbeat:
            from sqstee.spool.heartbeat import Heartbeat, process_usage

            # the process that reads stdin is idle: its usage would say nothing about the program that writes it
            usage = (lambda: process_usage(self._run.child.pid)) if self._run.command else dict
            self._loop.heartbeat = Heartbeat(self._heartbeat, usage)

    def _make_relay(self) -> None:
        self._relay = signals.Relay(self._run.child.pid, self._run.shipper)

    def _open_spool(self) -> None:
        run = self._run
        root, notice = open_for_run(run.settings)
        if notice:
            self._notices.add(notice)
        run.policy = DeliveryPolicy.of(run.settings, root)
        run.identity = sharing.identity(run.settings, os.environ)
        if run.identity and not (sharing.may_start() or run.served_by(root)):
            run.identity = ""
        fields = run.policy.to_meta() | sharing.meta(run.identity, run.settings, os.environ)
        run.spooled = SpooledRun(root, run.settings, fields, run.masker, run.program)
        trace("front", f"run {run.spooled.id} in {root}, to {run.policy.to}")

    def _start_shipper(self) -> None:
        """Write the start event and fork the shipper, or a stand-by where an agent ships."""
        run = self._run
        gc.freeze()  # what is loaded stays: a collection, here or in the shipper, would copy its pages
        gc.enable()
        if run.spooled is None or run.policy is None:
            return
        command = run.command if run.command and run.settings.send_command else None
        event = run_events.start(run.settings, run.spooled.name, run.child.pid, command, self._heartbeat)
        run.spooled.writer.event(event)
        kept = {run.spooled.ship_lock, run.child.pidfd, *run.stdio.terminals()}
        stands_by = bool(run.identity or run.served_by(run.spooled.root))
        run.shipper = shipper_handle.fork(kept, self._stand_by if stands_by else self._ship)
        run.spooled.close_ship_lock()
        trace("front", f"process {run.shipper.pid} {'stands by' if stands_by else 'ships'}")

    def _stand_by(self, wake: int, report: int) -> None:
        """The body of the process that stands by in the shipper's place while an agent ships."""
        from sqstee.ship.standby import StandBy

        run, settings, spooled = self._run, self._run.settings, self._run.spooled
        assert spooled
        spooled.close_ship_lock()

        def start(wait: Callable[[int, float], None]) -> bool:
            return sharing.may_start() and run.start_shared(spooled.root, run.identity, wait)

        StandBy(
            spooled.folder,
            wake,
            report,
            serving=lambda: run.served_by(spooled.root),
            start=start if run.identity else None,
            on_front_death=self._kill_command,
            ship=lambda woken_by: self._ship(woken_by, report),
            flush_timeout=settings.flush_timeout,
            agent_timeout=settings.flush_timeout if run.awaits_agent else 0.0,
        ).run()

    def _ship(self, wake: int, report: int) -> None:
        """The body of the shipper process."""
        run = self._run
        assert run.spooled
        assert run.policy
        run.ship_run(run.spooled.folder, run.settings, run.policy, wake, report, self._kill_command)

    def _kill_command(self) -> None:
        child.kill_command(self._run.child.pidfd, self._run.stdio.terminals())

    def _start_capture(self) -> None:
        main = _thread.get_ident()

        def work() -> None:
            self._run_capture()
            _signal.pthread_kill(main, _signal.SIGCHLD)

        self._capturing = True
        try:
            _thread.start_new_thread(work, ())
        except RuntimeError:  # no thread available: handle signals between chunks
            self._run_capture(self._handle_pending_signals)

    def _run_capture(self, tick: Callable[[], None] | None = None) -> None:
        try:
            self._loop.run(tick)
        except Exception as error:
            self._loop.feed.fail(error)
            pass_through(self._loop.remaining())
        finally:
            self._captured = True

    def _handle_pending_signals(self) -> None:
        while (info := _signal.sigtimedwait(signals.WAITED, 0)) is not None:
            self._handle(info)

    def _wait_for_end(self) -> None:
        """Relay signals until the command has ended and its output has been passed on."""
        run = self._run
        while run.status is None or not self._captured:
            info = _signal.sigwaitinfo(signals.WAITED)
            if run.status is not None and run.is_cut_short_by(info.si_signo):
                if not self._loop.stop_waiting_for_room():
                    self._end_by_signal(info.si_signo)
                continue
            try:
                self._handle(info)
            except Exception as error:
                advice = f"send signals to the command, process {run.child.pid}"
                self._notices.add(f"a signal was not relayed: {reason_of(error)}; {advice}")
                pid, status, usage = os.wait4(run.child.pid, os.WNOHANG)
                if pid:
                    self._command_changed(status, usage)

    def _end_by_signal(self, number: int) -> None:
        """Handle a termination signal that came after the command's end.

        If an output holds up the rest of the command's output, end by the signal; otherwise it ends the delivery.
        """
        signals.wait_until(lambda: self._captured or self._stalled(), _CAPTURED_SECONDS)
        signals.wait_until(lambda: self._captured, _DRAIN_SECONDS)
        if not self._captured:
            signals.die_by(number)
        os.kill(os.getpid(), number)

    def _handle(self, info: _signal.struct_siginfo) -> None:
        if info.si_signo == _signal.SIGCHLD:
            self._reap()
        elif self._run.status is None:
            self._seen.add(info.si_signo)
            if info.si_signo == _signal.SIGWINCH:
                self._run.stdio.copy_sizes()
            if self._relay:
                self._relay.handle(info)
            elif info.si_code != signals.SI_KERNEL:
                os.kill(self._run.child.pid, info.si_signo)

    def _reap(self) -> None:
        """Reap every child that has ended; PID 1 gets other processes' children too.

        Signals that came before the command's end are noted before anybody can see that it has ended, so that
        they are distinguished from later ones.
        """
        run = self._run
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        has_ended = run.status is None and os.waitid(os.P_PID, run.child.pid, ended) is not None
        if has_ended:
            self._note_pending_signals()
        while True:
            try:
                pid, status, usage = os.wait3(os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == run.child.pid:
                if not (has_ended or os.WIFSTOPPED(status)):
                    self._note_pending_signals()
                self._command_changed(status, usage)
            elif run.shipper and pid == run.shipper.pid and not os.WIFSTOPPED(status):
                trace("front", f"process {pid}, the shipper, has ended: wait status {status}")
                run.shipper.pid = 0

    def _note_pending_signals(self) -> None:
        """Note the pending signals.

        They came before the command's end, and asked for it: SIGCHLD overtakes a signal to the whole group.
        """
        while (info := _signal.sigtimedwait(self._run.termination_signals, 0)) is not None:
            self._seen.add(info.si_signo)

    def _command_changed(self, status: int, usage: struct_rusage) -> None:
        run = self._run
        if os.WIFSTOPPED(status):
            trace("front", f"the command was stopped by signal {os.WSTOPSIG(status)}")
            signals.wait_until(self._loop.is_drained, _DRAIN_SECONDS)
            if self._relay:
                self._relay.stop_like_command(os.WSTOPSIG(status))
            run.stdio.copy_modes()
            return
        run.end(status, usage, self._seen)
        trace("front", f"the command has ended: wait status {status}")
        self._loop.finish()

    def _stalled(self) -> bool:
        """Whether an output does not accept the command's output."""
        return any(stream.stalled for stream in self._loop.open)

    def _handle_while_delivering(self, number: int) -> None:
        if number in signals.JOB_STOPS:
            signals.stop(number)
        elif number == _signal.SIGCHLD:
            self._reap()
