"""Tells alerts to a command or to a webhook, in a thread, again and again until it succeeds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from sqstee.backoff import full_jitter
from sqstee.errors import EXIT_FAILURE, SqsteeError, reason_of
from sqstee.read.alert_memory import AlertMemory
from sqstee.read.alerts import Alert, variables
from sqstee.read.trouble import Trouble
from sqstee.text import count
from sqstee.transports.errors import TransportError
from sqstee.transports.webhook import Webhook

COMMAND_SECONDS = 60.0  # that a command may take
_BACKOFF_FIRST_SECONDS = 1.0
_BACKOFF_MOST_SECONDS = 60.0
_POLL_SECONDS = 0.05
_LAST_SECONDS = 2.0  # that a delivery may still take when sqstee ends


class UndeliveredError(Exception):
    """An alert was not delivered; the text says why."""


class AlertCommand:
    """Runs a shell command for each alert: facts in its environment and, as JSON, on its stdin; its output is ours."""

    name = "the --exec command"

    def __init__(self, text: str, seconds: float = COMMAND_SECONDS) -> None:
        self._text, self._seconds = text, seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, alert: Alert) -> None:
        """Run the command. Raises UndeliveredError unless it succeeds."""
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("SQSTEE_ALERT_")}
        try:
            self._process = process = subprocess.Popen(
                ["/bin/sh", "-c", self._text],
                stdin=subprocess.PIPE,
                stdout=2,
                env=inherited | variables(alert.facts),
                start_new_session=True,
            )
        except OSError as error:
            raise UndeliveredError(f"/bin/sh: {error.strerror}") from None
        try:
            process.communicate(json.dumps(alert.facts).encode() + b"\n", self._seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            process.wait()
            raise UndeliveredError(f"killed, since it took longer than {self._seconds:g} s") from None
        except BaseException:  # a signal ends us
            self.kill()
            process.wait()
            raise
        if process.returncode:
            how = f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
            raise UndeliveredError(how)

    def kill(self) -> None:
        """Kill the command that runs, with its children."""
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


class AlertWebhook:
    """Posts the facts of each alert to a webhook, as JSON."""

    def __init__(self, webhook: Webhook) -> None:
        self._webhook = webhook
        self.name = webhook.name

    def __call__(self, alert: Alert) -> None:
        """Post. Raises UndeliveredError unless the answer is a success."""
        try:
            self._webhook.post(json.dumps(alert.facts).encode())
        except TransportError as error:
            raise UndeliveredError(str(error)) from None

    def kill(self) -> None:
        """Nothing can end a request under way but the end of the process."""


class _Attempts:
    """The attempts at one alert: their number, when the first was and when the next one is due."""

    def __init__(self, now: float) -> None:
        self.failed = 0
        self.first = self.due = now


class AlertDelivery:
    """Delivers the alerts of a memory, one after the other, and records each one there once it is delivered.

    An alert that fails is tried again, with growing pauses, for `retry_for` seconds; the next process goes on with it.
    `notice` gets the messages for people about failures.
    """

    def __init__(
        self,
        memory: AlertMemory,
        tell: AlertCommand | AlertWebhook,
        notice: Callable[[str], None],
        retry_for: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._memory, self._tell, self._notice = memory, tell, notice
        self._retry_for, self._clock = retry_for, clock
        self._trouble = Trouble(tell.name, notice)
        self._waiting: dict[str, tuple[Alert, _Attempts]] = {}
        self._condition = threading.Condition()
        self._is_ending = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.failure: SqsteeError | None = None  # nothing is told any more
        self._given_up = 0
        self.add(memory.untold())

    def add(self, alerts: Sequence[Alert]) -> None:
        """Tell these, too."""
        with self._condition:
            now = self._clock()
            self._waiting |= {alert.key: (alert, _Attempts(now)) for alert in alerts if alert.key not in self._waiting}
            self._condition.notify()

    def start(self) -> None:
        """Begin to tell, in a thread."""
        self._thread.start()

    def tell_once(self) -> None:
        """Try each alert once, in this thread."""
        failure = ""
        for alert, _ in list(self._waiting.values()):
            try:
                self._tell(alert)
            except UndeliveredError as error:
                failure = failure or str(error)
            else:
                self._done(alert)
        if failure:
            self._notice(f"{self._tell.name} failed: {failure}")

    @property
    def untold(self) -> int:
        """The number of alerts that are not delivered so far."""
        return self._given_up + len(self._waiting)

    def close(self) -> None:
        """End the thread; a delivery under way has a few seconds."""
        with self._condition:
            self._is_ending = True
            self._condition.notify()
        if self._thread.ident is not None:
            self._thread.join(_LAST_SECONDS)
            self._tell.kill()
            self._thread.join(1.0)
        if self.untold:
            self._notice(f"{count(self.untold, 'alert')} not delivered; the next start will try again")

    def _work(self) -> None:
        while (found := self._next()) is not None:
            try:
                self._attempt(*found)
            except SqsteeError as error:
                self.failure = error
                return
            except Exception as error:  # a thread that ended in silence would tell nothing any more
                self.failure = SqsteeError(f"{self._tell.name} failed: {reason_of(error)}", "", EXIT_FAILURE)
                return

    def _next(self) -> tuple[Alert, _Attempts] | None:
        """Wait for an alert that is due; None at the end."""
        with self._condition:
            while not self._is_ending:
                soonest = min((attempts.due for _, attempts in self._waiting.values()), default=None)
                left = None if soonest is None else soonest - self._clock()
                if left is not None and left <= 0:
                    return next(one for one in self._waiting.values() if one[1].due == soonest)
                self._condition.wait(left)
        return None

    def _attempt(self, alert: Alert, attempts: _Attempts) -> None:
        try:
            self._tell(alert)
        except UndeliveredError as error:
            attempts.failed += 1
            now = self._clock()
            left = attempts.first + self._retry_for - now
            self._trouble.failed(error, max(0.0, left))
            attempts.due = now + full_jitter(attempts.failed - 1, _BACKOFF_FIRST_SECONDS, _BACKOFF_MOST_SECONDS)
            if left > 0:
                return
            if not self._given_up:
                self._notice(f"{self._tell.name} failed, the alert waits for the next start: {error}")
            with self._condition:
                self._given_up += 1
                del self._waiting[alert.key]
        else:
            self._trouble.succeeded()
            self._done(alert)

    def _done(self, alert: Alert) -> None:
        self._memory.told(alert, time.time())
        with self._condition:
            del self._waiting[alert.key]
