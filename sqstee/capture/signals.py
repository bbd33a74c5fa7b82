"""Signals of the front: relaying to the command those that it did not get, job control, and dying by a signal."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import NoReturn

    from sqstee.ship.shipper_handle import ShipperHandle
else:  # the Python half of signal costs 8 ms (enum)
    import _signal

SI_KERNEL = 128
ALL = _signal.valid_signals()
WAITED = ALL - {_signal.SIGKILL, _signal.SIGSTOP}
TERMINATION_SIGNALS = frozenset((_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM))
JOB_STOPS = frozenset((_signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU))
# The kernel gives these to the terminal's whole foreground group, so that the command has them already.
_TERMINAL_SIGNALS = frozenset((_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGCONT, *JOB_STOPS))
_ONLY_TO_SESSION_LEADER = frozenset((_signal.SIGHUP, _signal.SIGCONT))
_WITNESS_STEPS = (0.0, 0.0001, 0.0002, 0.0007, 0.001, 0.002, 0.003, 0.005, 0.008)  # 20 ms in all
_POLL_SECONDS = 0.001
_CLEARED_SECONDS = 0.1


def block() -> set[int]:
    """Block every signal; returns the previous mask."""
    return _signal.pthread_sigmask(_signal.SIG_BLOCK, ALL)


def pending_terminal_signals() -> set[int]:
    """The terminal's signals that are pending for us: a process forked now does not inherit them."""
    return set(_signal.sigpending()) & (_TERMINAL_SIGNALS - {_signal.SIGCONT})


def reset_sigchld() -> None:
    """Undo an inherited SIG_IGN, which would discard the command's status; the command still inherits it."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)


class Relay:
    """Forwards to the command the signals that it did not get itself.

    The witness is the shipper process: it is in our process group and has every signal blocked, so a signal to the
    whole group stays pending in it, where /proc shows it.
    """

    def __init__(self, pid: int, witness: ShipperHandle | None) -> None:
        self._pid = pid
        self._witness = witness
        self._is_session_leader = os.getsid(0) == os.getpid()
        self._stale: set[int] = set()  # signals that the witness was asked to clear
        self._stops: set[int] = set()  # stop signals that reached us since the command last continued

    def handle(self, info: _signal.struct_siginfo) -> None:
        """Forward a signal, unless the command got it too."""
        number = info.si_signo
        if info.si_pid == os.getpid() and info.si_code <= 0:
            return  # our own: a broken pipe, WINCH to the group
        if number in JOB_STOPS:
            self._stops.add(number)
        elif number == _signal.SIGCONT:
            self._stops.clear()
        if info.si_code == SI_KERNEL:
            self._handle_from_kernel(number)
        elif not self._reached_group(number, info.si_pid):
            self._forward(number)

    def stop_like_command(self, number: int) -> None:
        """Stop by the same signal as the command was stopped, so that the shell sees its job stopped.

        After SIGSTOP stop only if a stop signal was sent to the job too: a program that catches SIGTSTP stops itself
        with SIGSTOP. If only the command was stopped, by a debugger for example, nobody will continue us.
        """
        meant = bool(self._stops or _signal.sigpending() & JOB_STOPS)
        if number in JOB_STOPS or meant:
            self._stops.clear()
            if not self._command_continued():
                stop(number)

    def _command_continued(self) -> bool:
        """Whether the stopped command has continued already; if we stopped now, nobody would continue us.

        A SIGCONT that was sent to us alone is forwarded first: our stop would discard it.
        """
        info = _signal.sigtimedwait({_signal.SIGCONT}, 0)
        if info is not None:
            self.handle(info)
        changes = os.WEXITED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._pid, changes) is not None or not _is_stopped(self._pid)

    def _handle_from_kernel(self, number: int) -> None:
        if number == _signal.SIGWINCH:
            return
        if number not in _TERMINAL_SIGNALS or (self._is_session_leader and number in _ONLY_TO_SESSION_LEADER):
            self._forward(number)
        else:
            self._clear(number)

    def _forward(self, number: int) -> None:
        if number == _signal.SIGCONT and _signal.sigpending() & JOB_STOPS:
            return  # a later stop discards it, as in the kernel: the command may have been stopped meanwhile
        try:
            os.kill(self._pid, number)
        except OSError:
            pass

    def _reached_group(self, number: int, sender: int) -> bool:
        """Whether a process sent the signal to the whole group, the command included."""
        if self._witness is None or not self._witness.pid or not self._command_is_in_our_group():
            return False
        self._wait_until_cleared(number)
        for step in _WITNESS_STEPS:
            time.sleep(step)
            if self._is_pending_in_witness(number):
                self._forward_second_sender(number, sender)
                self._clear(number)
                return True
        return False

    def _forward_second_sender(self, number: int, sender: int) -> None:
        """Forward the same signal from another sender: timeout(1), for one, signals its child and then the group."""
        time.sleep(_WITNESS_STEPS[1])
        info = _signal.sigtimedwait({number}, 0)
        if info is not None and info.si_pid != sender:
            self._forward(number)

    def _command_is_in_our_group(self) -> bool:
        try:
            return os.getpgid(self._pid) == os.getpgrp()
        except OSError:
            return False

    def _is_pending_in_witness(self, number: int) -> bool:
        assert self._witness
        return bool(pending(self._witness.pid) >> number - 1 & 1)

    def _clear(self, number: int) -> None:
        """Have the witness clear the signal, so that the next one can be seen."""
        if self._witness and self._witness.pid:
            self._stale.add(number)
            self._witness.notify(bytes([number]))

    def _wait_until_cleared(self, number: int) -> None:
        deadline = time.monotonic() + _CLEARED_SECONDS
        while number in self._stale and self._is_pending_in_witness(number) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self._stale.discard(number)


def pending(pid: int) -> int:
    """The signals pending for a process as a whole, as a bit mask (bit 0 is signal 1); 0 where they are unknown."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    start = text.find(b"\nShdPnd:")
    return int(text[start + 8 : text.index(b"\n", start + 1)], 16) if start >= 0 else 0


def _is_stopped(pid: int) -> bool:
    """Whether a process is stopped; waitid(2) has been seen to report a continuation late. True where it is unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in b"Tt"
    except OSError:
        return True


def stop(number: int) -> None:
    """Stop this process by a signal that it has blocked; returns when it is continued."""
    for pending in JOB_STOPS:
        _signal.sigtimedwait({pending}, 0)  # a pending one would stop us a second time
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, {number})


def wait_for_command(pid: int, work: Callable[[], None]) -> int:
    """Do `work` and relay signals until the command `pid` has ended too; returns its wait status.

    This is for when the supervisor has failed, and needs as little as possible: signals that processes sent to us are
    forwarded, others are not; without a thread they wait until the work is done.
    """
    import _thread

    working, main = [True], _thread.get_ident()

    def run() -> None:
        try:
            work()
        finally:
            working.clear()
            _signal.pthread_kill(main, _signal.SIGCHLD)

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:
        run()
    status: int | None = None
    while status is None or working:
        info = _signal.sigwaitinfo(WAITED)
        if info.si_signo == _signal.SIGCHLD:
            ended, found = (0, 0) if status is not None else os.waitpid(pid, os.WNOHANG)
            status = found if ended else status
        elif status is None and info.si_code != SI_KERNEL:
            os.kill(pid, info.si_signo)
    return status


def die_by(number: int) -> NoReturn:
    """End by a signal, without a core dump of our own; PID 1 cannot, and exits with 128 + n."""
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (min(1, hard) if hard >= 0 else 1, hard))  # 1: core(5), no pipe either
        _signal.signal(number, _signal.SIG_DFL)
    except (ImportError, OSError, ValueError):
        pass
    os.kill(os.getpid(), number)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {number})
    os._exit(128 + number)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Poll for a state, for at most `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
