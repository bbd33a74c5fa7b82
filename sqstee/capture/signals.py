"""Signals of the front: what the command must get from us, what it already got, and dying as it died."""

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
_OF_THE_TERMINAL = frozenset((_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGCONT, *JOB_STOPS))
_TO_A_LEADER_ALONE = frozenset((_signal.SIGHUP, _signal.SIGCONT))
_WITNESS_STEPS = (0.0, 0.0001, 0.0002, 0.0007, 0.001, 0.002, 0.003, 0.005, 0.008)  # 20 ms in all
_POLL_SECONDS = 0.001
_CLEARED_SECONDS = 0.1


def block() -> set[int]:
    """Block every signal; the mask that was in force."""
    return _signal.pthread_sigmask(_signal.SIG_BLOCK, ALL)


def missed_by_fork() -> set[int]:
    """Those of the terminal's signals that are pending for us: a process that is forked now would not get them."""
    return set(_signal.sigpending()) & (_OF_THE_TERMINAL - {_signal.SIGCONT})


def keep_children() -> None:
    """An inherited ignored SIGCHLD would take the command's status away from us; it stays ignored in the command."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)


class Relay:
    """Forwards to the command what it did not get itself.

    The witness is the shipper: it is in our process group and has every signal blocked, so that a signal to the group
    stays pending in it, where /proc shows it.
    """

    def __init__(self, pid: int, witness: ShipperHandle | None) -> None:
        self._pid = pid
        self._witness = witness
        self._leader = os.getsid(0) == os.getpid()
        self._stale: set[int] = set()  # signals that the witness was asked to take off its pending ones
        self._stops: set[int] = set()  # stop signals that reached us since the command last went on

    def handle(self, info: _signal.struct_siginfo) -> None:
        """Decide about one signal, and forward it where that is right."""
        number = info.si_signo
        if info.si_pid == os.getpid() and info.si_code <= 0:
            return  # our own: a broken pipe, WINCH to the group
        if number in JOB_STOPS:
            self._stops.add(number)
        elif number == _signal.SIGCONT:
            self._stops.clear()
        if info.si_code == SI_KERNEL:
            self._handle_from_kernel(number)
        elif not self._group_got(number, info.si_pid):
            self._forward(number)

    def stop_with(self, number: int) -> None:
        """The command was stopped: stop as well, by the same signal, so that the shell sees its job stopped.

        By SIGSTOP only if a stop was meant for the job (a program that catches TSTP to tidy up stops itself so): others
        who stop the command, a debugger for one, will have it go on without telling us.
        """
        meant = bool(self._stops or _signal.sigpending() & JOB_STOPS)
        if number in JOB_STOPS or meant:
            self._stops.clear()
            if not self._command_goes_on():
                stop(number)

    def _command_goes_on(self) -> bool:
        """Whether the stopped command runs again by now: if we stopped then, nobody would have us go on as well.

        A SIGCONT that came to us alone is still to be forwarded: it would be lost with our stop.
        """
        info = _signal.sigtimedwait({_signal.SIGCONT}, 0)
        if info is not None:
            self.handle(info)
        changes = os.WEXITED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._pid, changes) is not None

    def _handle_from_kernel(self, number: int) -> None:
        if number == _signal.SIGWINCH:
            return
        if number not in _OF_THE_TERMINAL or (self._leader and number in _TO_A_LEADER_ALONE):
            self._forward(number)
        else:
            self._clear(number)

    def _forward(self, number: int) -> None:
        try:
            os.kill(self._pid, number)
        except OSError:
            pass

    def _group_got(self, number: int, sender: int) -> bool:
        """Whether a signal that a process sent went to the whole group, the command included."""
        if self._witness is None or not self._witness.pid or not self._command_is_in_our_group():
            return False
        self._await_cleared(number)
        for step in _WITNESS_STEPS:
            time.sleep(step)
            if self._witness_has(number):
                self._drop_double(number, sender)
                self._clear(number)
                return True
        return False

    def _drop_double(self, number: int, sender: int) -> None:
        """timeout(1) signals its child and then the group: the second of the two may be waiting for us by now."""
        time.sleep(_WITNESS_STEPS[1])
        info = _signal.sigtimedwait({number}, 0)
        if info is not None and info.si_pid != sender:
            self._forward(number)

    def _command_is_in_our_group(self) -> bool:
        try:
            return os.getpgid(self._pid) == os.getpgrp()
        except OSError:
            return False

    def _witness_has(self, number: int) -> bool:
        assert self._witness
        return bool(pending(self._witness.pid) >> number - 1 & 1)

    def _clear(self, number: int) -> None:
        """Have the witness take the signal, so that the next one shows."""
        if self._witness and self._witness.pid:
            self._stale.add(number)
            self._witness.notify(bytes([number]))

    def _await_cleared(self, number: int) -> None:
        deadline = time.monotonic() + _CLEARED_SECONDS
        while number in self._stale and self._witness_has(number) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self._stale.discard(number)


def pending(pid: int) -> int:
    """The signals that are pending for a whole process, as a bit mask (bit 0 is signal 1); 0 where it is unknown."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    start = text.find(b"\nShdPnd:")
    return int(text[start + 8 : text.index(b"\n", start + 1)], 16) if start >= 0 else 0


def stop(number: int) -> None:
    """Stop this process by a signal that it has blocked; returns when it goes on."""
    for pending in JOB_STOPS:
        _signal.sigtimedwait({pending}, 0)  # one that is pending would stop us a second time
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, {number})


def wait_for_command(pid: int, work: Callable[[], None]) -> int:
    """Do `work` while the command `pid` runs, and send it what processes send to us; its wait status, once both are
    done. The plainest way there is: without a thread the signals come after the work."""
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
    """End by the signal that ended the command, without a core of our own; as PID 1, which cannot, with 128 + n."""
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
