"""The experiment: fresh queues, a sender and receivers, block by block; and how another host joins it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from sqstee.destination import parse
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.measure.design import queue_name
from sqstee.measure.queues import Queues
from sqstee.measure.receivers import Polling, ReceiverThreads
from sqstee.measure.records import Block, Experiment
from sqstee.measure.sender import LoadSender, Sending
from sqstee.measure.sink import host_name, open_sink, record_path
from sqstee.measure.workers import ReceiverProcess
from sqstee.transports.errors import RETRY, TransportError

RETENTION_SECONDS = 3600  # what a killed experiment leaves behind does not stay for days
_VISIBILITY_SECONDS = 30.0  # SQS's default
_TICK_SECONDS = 0.05
_REMOVALS = 3
_LOOK_SECONDS = 1.0
_IDLE_FACTOR = 3
STOP_SLACK_SECONDS = 5.0
HASTY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ExperimentSettings:
    """What to do. Times in seconds.

    A block ends when `settle` has passed since the last delivery and every message is here, or when the queue has
    been empty for three times that (other hosts receive too); or, incomplete, `timeout` after the last send.
    """

    queue: str
    id: str
    messages: int
    schedule: tuple[tuple[str, int], ...]
    polling: Polling
    sending: Sending = field(default_factory=Sending)
    processes: int = 1
    settle: float = 5.0
    timeout: float = 600.0
    folder: str = ""
    table: str = ""


@dataclass(slots=True)
class BlockProgress:
    """How far a block is."""

    block: int
    blocks: int
    mode: str
    messages: int
    sent: int = 0
    received: int = 0
    again: int = 0


class _ReceiverGroup(Protocol):
    """A group, here or in a process."""

    failure: TransportError | None

    def start(self, block: int, url: str, mode: str) -> None: ...
    def stop(self, complete: bool, patience: float) -> None: ...


def header_of(settings: ExperimentSettings, messages: int) -> Experiment:
    """The first record of this host's files; a host that joins has 0 messages of its own."""
    return Experiment(
        id=settings.id,
        host=host_name(),
        queue=settings.queue,
        messages=messages,
        receivers=settings.polling.receivers,
        blocks=tuple(mode for mode, _ in settings.schedule),
        started=time.time(),
        parameters={
            **{f"receive_{name}": value for name, value in asdict(settings.polling).items() if name != "receivers"},
            **{f"send_{name}": value for name, value in asdict(settings.sending).items()},
            "processes": settings.processes,
            "settle": settings.settle,
        },
    )


class ReceivedSeqs:
    """Which messages of the block have been received by this host's receivers."""

    def __init__(self, progress: BlockProgress) -> None:
        self.progress = progress
        self.latest = time.monotonic()
        self.seen = bytearray(progress.messages)
        self._lock = threading.Lock()

    def received(self, seqs: Sequence[int]) -> None:
        with self._lock:
            self.latest = time.monotonic()
            for seq in seqs:
                if seq < len(self.seen) and not self.seen[seq]:
                    self.seen[seq] = 1
                    self.progress.received += 1
                else:
                    self.progress.again += 1

    @property
    def all(self) -> bool:
        return self.progress.received == self.progress.messages


class Host:
    """What starting and joining have in common: this host's receivers, records and connections."""

    def __init__(
        self, settings: ExperimentSettings, stop: threading.Event, messages: int, queues: Queues | None = None
    ) -> None:
        self.settings, self.stop = settings, stop
        self.destination = parse(settings.queue)
        connections = settings.polling.receivers + settings.sending.threads + 2
        self.queues = queues or Queues(self.destination, connections)
        self.seen: ReceivedSeqs | None = None
        self.control = queue_name(self.destination.name, settings.id)
        header = header_of(settings, messages)
        self.sink = open_sink(settings.folder, settings.table, header, self.destination.region)
        self.workers: list[ReceiverProcess] = []
        self.receivers: list[_ReceiverGroup] = []
        self._make_receivers(header)

    def _make_receivers(self, header: Experiment) -> None:
        polling = self.settings.polling
        if self.settings.processes == 1:
            self.receivers = [ReceiverThreads(self.queues, self.sink, polling, self.sink.name, self._received)]
            return
        for at in range(self.settings.processes):
            share = polling.receivers // self.settings.processes + (at < polling.receivers % self.settings.processes)
            setup = {
                "header": asdict(header) | {"messages": 0},
                "polling": asdict(polling) | {"receivers": share},
                "queue": self.settings.queue,
                "folder": self.settings.folder,
                "table": self.settings.table,
                "region": self.destination.region,
            }
            self.workers.append(ReceiverProcess(setup, self._received))
        for worker in self.workers:
            worker.wait_until_ready()
        self.receivers = list(self.workers)

    def _received(self, block: int, seqs: list[int]) -> None:
        """From any receiver; one that was not waited for may still tell of an earlier block."""
        if self.seen and self.seen.progress.block == block:
            self.seen.received(seqs)

    def check(self) -> None:
        """Raise what ended the receivers, if anything did."""
        for group in self.receivers:
            if group.failure:
                raise group.failure

    def start_receivers(self, block: int, url: str, mode: str) -> None:
        for group in self.receivers:
            group.start(block, url, mode)

    def stop_receivers(self, complete: bool, patience: float) -> None:
        """End all crews at the same time."""

        def stop(group: _ReceiverGroup) -> None:
            try:
                group.stop(complete, patience)
            except TransportError as error:
                group.failure = group.failure or error

        threads = [threading.Thread(target=stop, args=(group,)) for group in self.receivers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def close(self) -> None:
        """End the processes and the records; raises TransportError where a table did not take them all."""
        for worker in self.workers:
            worker.close()
        self.sink.close()
        self.check()

    def paths(self) -> list[str]:
        """The record files of this host."""
        names = [self.sink.path, *(record_path(self.settings.folder, worker.pid) for worker in self.workers)]
        return [name for name in names if os.path.exists(name)]


class Conductor(Host):
    """The host that makes the queues, sends, and removes the queues.

    `stop` ends the experiment early, and cleanly; `show` is called with the progress some times a second.
    """

    def __init__(
        self,
        settings: ExperimentSettings,
        stop: threading.Event,
        show: Callable[[BlockProgress], None],
        queues: Queues | None = None,
    ) -> None:
        super().__init__(settings, stop, settings.messages, queues)
        self.left: list[str] = []  # queues that could not be removed
        self._show = show

    def run(self) -> None:
        """All blocks. Raises TransportError where SQS refuses; the queues are removed in any case."""
        attributes = self.queues.attributes()
        fresh = attributes | {"MessageRetentionPeriod": str(RETENTION_SECONDS)}
        if self.queues.url(self.control):
            hint = f"choose another --id, or remove what is left of it with --remove {self.settings.id}"
            raise SqsteeError(f"an experiment {self.settings.id} is there already", hint, EXIT_FAILURE)
        control = self.queues.create(self.control, fresh)
        try:
            for number, (mode, messages) in enumerate(self.settings.schedule, 1):
                if self.stop.is_set():
                    return
                self._block(number, mode, messages, fresh)
        finally:
            self._remove(self.control, control)

    def _remove(self, name: str, url: str) -> None:
        """Remove a queue; what fails for good is told at the end, and hides no other error."""
        for again in range(_REMOVALS):
            try:
                self.queues.remove(url)
                return
            except TransportError as error:
                if error.kind != RETRY:
                    break
                time.sleep(0.2 * 2.0**again)
        self.left.append(name)

    def _block(self, number: int, mode: str, messages: int, attributes: dict[str, str]) -> None:
        """One block on a queue of its own."""
        name = queue_name(self.destination.name, self.settings.id, number, mode)
        timeout = float(attributes.get("VisibilityTimeout", _VISIBILITY_SECONDS))
        self.sink.write([Block(number, mode, name, messages, timeout)])
        progress = BlockProgress(number, len(self.settings.schedule), mode, messages)
        self.seen = ReceivedSeqs(progress)
        url = self.queues.create(name, attributes)
        sender = LoadSender(self.queues, self.sink, self.settings.sending, self.settings.id, number, url, messages)
        complete = False
        try:
            self.start_receivers(number, url, mode)
            sender.start()
            complete = self._wait(sender, progress, url)
        finally:
            try:
                sender.stop(complete, HASTY_SECONDS)
                long = self.settings.polling.wait if mode == "long" else 0.0
                self.stop_receivers(complete, long + STOP_SLACK_SECONDS if complete else HASTY_SECONDS)
            finally:
                self._remove(name, url)

    def _wait(self, sender: LoadSender, progress: BlockProgress, url: str) -> bool:
        """Until the block has ended: whether it came to its end."""
        assert self.seen
        seen, settle = self.seen, self.settings.settle
        sent_at = looked_at = empty_since = None
        while not self.stop.wait(_TICK_SECONDS):
            self.check()
            if sender.failure:
                raise sender.failure
            progress.sent = sender.taken
            self._show(progress)
            now = time.monotonic()
            if not sender.done:
                continue
            sent_at = sent_at or now
            quiet = now - max(seen.latest, sent_at)
            if seen.all and quiet >= settle:
                return True
            if looked_at is None or now - looked_at >= min(_LOOK_SECONDS, settle):
                looked_at = now
                empty_since = (empty_since or now) if self._is_empty(url) else None
            if empty_since and now - empty_since >= _IDLE_FACTOR * settle and quiet >= settle:
                return True
            if now - sent_at >= self.settings.timeout:
                return False
        return False

    def _is_empty(self, url: str) -> bool:
        try:
            return self.queues.depth(url) == 0
        except TransportError:
            return False  # the next look will tell
