"""Joining an experiment that another host conducts, and deleting the queues of a killed one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from sqstee.destination import parse
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.measure.design import queue_name
from sqstee.measure.experiment import (
    HASTY_SECONDS,
    STOP_SLACK_SECONDS,
    BlockProgress,
    ExperimentSettings,
    Host,
    ReceivedSeqs,
)
from sqstee.measure.queues import Queues
from sqstee.measure.records import MODES
from sqstee.transports.errors import RETRY, TransportError

_LOOK_SECONDS = 1.0
_GONE_LOOKS = 3


class Joiner(Host):
    """A host that only receives in an experiment that another one conducts."""

    def __init__(
        self, settings: ExperimentSettings, stop: threading.Event, show: Callable[[BlockProgress], None]
    ) -> None:
        super().__init__(settings, stop, 0)
        self._show = show

    def run(self) -> None:
        """Wait for the experiment to begin, receive in each of its blocks, and end with it."""
        deadline = time.monotonic() + self.settings.timeout
        number, missing, complete = 0, None, False
        try:
            while missing is None or missing < _GONE_LOOKS:
                self.check()
                names = self._names()
                if self.control in names:
                    missing = 0
                elif missing is not None:
                    missing += 1
                elif time.monotonic() > deadline:
                    hint = f"start it on another host: sqstee measure {self.settings.queue} --id {self.settings.id}"
                    raise SqsteeError(f"experiment {self.settings.id} does not exist", hint, EXIT_FAILURE)
                newest, mode, url = self._newest(names)
                if newest > number:
                    self._change(number, newest, mode, url)
                    number = newest
                if self.stop.wait(min(_LOOK_SECONDS, self.settings.settle)):
                    return
            complete = True
        finally:
            if number:
                patience = self.settings.polling.wait + STOP_SLACK_SECONDS
                self.stop_receivers(complete, patience if complete else HASTY_SECONDS)

    def _names(self) -> dict[str, str]:
        """The experiment's queues by name, with their URLs."""
        try:
            return {url.rpartition("/")[2]: url for url in self.queues.urls(self.control)}
        except TransportError as error:
            if error.kind == RETRY:
                return {}
            raise

    def _newest(self, names: Mapping[str, str]) -> tuple[int, str, str]:
        """(number, mode, URL) of the latest block that has a queue; number 0 if there is none."""
        found = [(0, "", "")]
        for name, url in names.items():
            number, _, mode = name.removeprefix(f"{self.control}-").partition("-")
            if number.isdigit() and mode in MODES:
                found.append((int(number), mode, url))
        return max(found)

    def _change(self, before: int, number: int, mode: str, url: str) -> None:
        """Leave block `before` (0: none) for block `number`."""
        if before:
            self.stop_receivers(True, self.settings.polling.wait + STOP_SLACK_SECONDS)
        progress = BlockProgress(number, 0, mode, 0)
        self.received = ReceivedSeqs(progress)
        self.start_receivers(number, url, mode)
        self._show(progress)


def remove(text: str, experiment: str) -> list[str]:
    """Delete the queues that a killed experiment left behind; their names."""
    destination = parse(text)
    queues = Queues(destination, 1)
    names = []
    for url in queues.urls(queue_name(destination.name, experiment)):
        queues.remove(url)
        names.append(url.rpartition("/")[2])
    return names
