"""The experiment: block by block, a fresh queue, a sender and receivers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from sqstee.backoff import full_jitter
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

RETENTION_SECONDS = 3600  # so that the messages of a killed experiment do not stay for days
_VISIBILITY_SECONDS = 30.0  # SQS's default
_TICK_SECONDS = 0.05
_REMOVALS = 3
_REMOVAL_BACKOFF_SECONDS, _MOST_REMOVAL_BACKOFF_SECONDS = 0.2, 0.8
_LOOK_SECONDS = 1.0
_IDLE_FACTOR = 3
STOP_SLACK_SECONDS = 5.0
HASTY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ExperimentSettings:
    """The settings of one host's part in an experiment. Times in seconds.

    A block ends `settle` after the last delivery once every message has been received here, or when the queue has
    been empty for three times `settle` (other hosts receive too); or, incomplete, `timeout` after the last send.
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
    """The progress of a block: messages sent, received for the first time, and received again."""

    block: int
    blocks: int
    mode: str
    messages: int
    sent: int = 0
    received: int = 0
    again: int = 0


class _ReceiverPool(Protocol):
    """Receivers as threads of this process, or in a process of their own."""

    failure: TransportError | None

    def start(self, block: int, url: str, mode: str) -> None: ...
    def stop(self, complete: bool, patience: float) -> None: ...


def header_of(settings: ExperimentSettings, messages: int) -> Experiment:
    """The first record of this host's files; a host that joins sends 0 messages."""
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
    """The seqs of one block that this host's receivers have received."""

    def __init__(self, progress: BlockProgress) -> None:
        self.progress = progress
        self.latest = time.monotonic()
        self._flags = bytearray(progress.messages)
        self._lock = threading.Lock()

    def add(self, seqs: Sequence[int]) -> None:
        """Count the messages of one answer."""
        with self._lock:
            self.latest = time.monotonic()
            for seq in seqs:
                if seq < len(self._flags) and not self._flags[seq]:
                    self._flags[seq] = 1
                    self.progress.received += 1
                else:
                    self.progress.again += 1

    @property
    def complete(self) -> bool:
        """Whether every message of the block has been received."""
        return self.progress.received == self.progress.messages


class Host:
    """The base of Conductor and Joiner: this host's receivers, records and connections."""

    def __init__(
        self, settings: ExperimentSettings, stop: threading.Event, messages: int, queues: Queues | None = None
    ) -> None:
        self.settings, self.stop = settings, stop
        self.destination = parse(settings.queue)
        connections = settings.polling.receivers + settings.sending.threads + 2
        self.queues = queues or Queues(self.destination, connections)
        self.received: ReceivedSeqs | None = None
        self.control = queue_name(self.destination.name, settings.id)
        header = header_of(settings, messages)
        self.sink = open_sink(settings.folder, settings.table, header, self.destination.region)
        self.workers: list[ReceiverProcess] = []
        self.pools: list[_ReceiverPool] = []
        self._make_receivers(header)

    def _make_receivers(self, header: Experiment) -> None:
        polling = self.settings.polling
        if self.settings.processes == 1:
            self.pools = [ReceiverThreads(self.queues, self.sink, polling, self.sink.name, self._count)]
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
            self.workers.append(ReceiverProcess(setup, self._count))
        for worker in self.workers:
            worker.wait_until_ready()
        self.pools = list(self.workers)

    def _count(self, block: int, seqs: list[int]) -> None:
        """Called by each receiver; a late one may still report messages of an earlier block."""
        if self.received and self.received.progress.block == block:
            self.received.add(seqs)

    def check(self) -> None:
        """Raise the error that ended the receivers, if there is one."""
        for pool in self.pools:
            if pool.failure:
                raise pool.failure

    def start_receivers(self, block: int, url: str, mode: str) -> None:
        for pool in self.pools:
            pool.start(block, url, mode)

    def stop_receivers(self, complete: bool, patience: float) -> None:
        """Stop all receivers at the same time."""

        def stop(pool: _ReceiverPool) -> None:
            try:
                pool.stop(complete, patience)
            except TransportError as error:
                pool.failure = pool.failure or error

        threads = [threading.Thread(target=stop, args=(pool,)) for pool in self.pools]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def close(self) -> None:
        """End the processes and close the records; raises TransportError if the table did not accept all of them."""
        for worker in self.workers:
            worker.close()
        self.sink.close()
        self.check()

    def paths(self) -> list[str]:
        """The record files of this host that exist."""
        names = [self.sink.path, *(record_path(self.settings.folder, worker.pid) for worker in self.workers)]
        return [name for name in names if os.path.exists(name)]


class Conductor(Host):
    """The host that creates the queues, sends the messages, and deletes the queues.

    `stop` ends the experiment early but cleanly; `show` is called with the progress several times per second.
    """

    def __init__(
        self,
        settings: ExperimentSettings,
        stop: threading.Event,
        show: Callable[[BlockProgress], None],
        queues: Queues | None = None,
    ) -> None:
        super().__init__(settings, stop, settings.messages, queues)
        self.left: list[str] = []  # queues that could not be deleted
        self._show = show

    def run(self) -> None:
        """Run all blocks. Raises TransportError if SQS refuses; the queues are deleted in any case."""
        attributes = self.queues.attributes()
        fresh = attributes | {"MessageRetentionPeriod": str(RETENTION_SECONDS)}
        if self.queues.url(self.control):
            queue, name = self.settings.queue, self.settings.id
            hint = f"use another --id, or delete its queues: sqstee measure {queue} --remove {name}"
            raise SqsteeError(f"experiment {name} already exists", hint, EXIT_FAILURE)
        control = self.queues.create(self.control, fresh)
        try:
            for number, (mode, messages) in enumerate(self.settings.schedule, 1):
                if self.stop.is_set():
                    return
                self._block(number, mode, messages, fresh)
        finally:
            self._remove(self.control, control)

    def _remove(self, name: str, url: str) -> None:
        """Delete a queue, or note it in `left`: an error here must not hide another one."""
        for attempt in range(_REMOVALS):
            try:
                self.queues.remove(url)
                return
            except TransportError as error:
                if error.kind != RETRY:
                    break
                time.sleep(full_jitter(attempt, _REMOVAL_BACKOFF_SECONDS, _MOST_REMOVAL_BACKOFF_SECONDS))
        self.left.append(name)

    def _block(self, number: int, mode: str, messages: int, attributes: dict[str, str]) -> None:
        """Run one block, on a queue of its own."""
        name = queue_name(self.destination.name, self.settings.id, number, mode)
        timeout = float(attributes.get("VisibilityTimeout", _VISIBILITY_SECONDS))
        self.sink.write([Block(number, mode, name, messages, timeout)])
        progress = BlockProgress(number, len(self.settings.schedule), mode, messages)
        self.received = ReceivedSeqs(progress)
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
        """Wait for the end of the block; whether it is complete."""
        assert self.received
        received, settle = self.received, self.settings.settle
        sent_at = looked_at = empty_since = None
        while not self.stop.wait(_TICK_SECONDS):
            self.check()
            if sender.failure:
                raise sender.failure
            progress.sent = sender.accepted
            self._show(progress)
            now = time.monotonic()
            if not sender.done:
                continue
            sent_at = sent_at or now
            quiet = now - max(received.latest, sent_at)
            if received.complete and quiet >= settle:
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
            return False  # asked again a second later
