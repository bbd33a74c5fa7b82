"""A model of a queue that delivers twice. Pure: the same seed gives the same deliveries.

It is an illustration that comes near two figures of the original experiment; it does not show how SQS works.

A backlog of messages is on `hosts` hosts: each message has copies on `replicas` of them, and each host's list is
shuffled. The receivers' first polls are uniform in one interval, the next ones follow after interval × U(0.5, 1.5). A
short poll asks `sample` random hosts; a long poll asks all hosts in random order, and misses each with probability
`miss`. A poll pops copies until it has `batch` messages; a popped copy is gone from that host. A copy is skipped if a
polled host that held the message already knows of its claim; otherwise the message is delivered. The delivering host
knows of the claim at once. So do the other replicas with probability 1 - `lag_probability`; otherwise each learns of
it after a lognormal lag of its own.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from sqstee.measure.design import block_order, block_sizes
from sqstee.measure.records import Block, BlockRecords, Calls, DeliveryRecord, Experiment, Record

_NEVER = math.inf
_CLAIMED, _LAGGING = 1, 2  # 0: not delivered yet
_MOST_PLACES = 50_000  # a choice from a list is three times as fast as a sample


@dataclass(frozen=True, slots=True)
class Model:
    """The parameters; `interval` and `lag_median` in seconds. The defaults are those of the original experiment."""

    receivers: int = 300
    hosts: int = 20
    replicas: int = 3
    sample: int = 3
    miss: float = 0.2
    lag_probability: float = 0.0025
    lag_median: float = 0.09
    lag_sigma: float = 0.8
    interval: float = 0.1
    batch: int = 10


class _SimulatedQueue:
    """The lists of the hosts, and the time from which each host knows of a claim."""

    def __init__(self, model: Model, messages: int, rng: random.Random) -> None:
        self.model, self.rng = model, rng
        self.places = _places(model, messages, rng)
        self.lists: list[list[int]] = [[] for _ in range(model.hosts)]
        for message, place in enumerate(self.places):
            for host in place:
                self.lists[host].append(message)
        for copies in self.lists:
            rng.shuffle(copies)
        self.copies = messages * model.replicas
        self.state = bytearray(messages)
        self.known: dict[int, dict[int, float]] = {}  # lagging messages: the time from which each host knows

    def claim(self, message: int, host: int, now: float) -> None:
        """A host delivers a message."""
        model, rng = self.model, self.rng
        if rng.random() >= model.lag_probability:
            self.state[message] = _CLAIMED
            return
        self.state[message] = _LAGGING
        known = self.known.setdefault(message, {})
        for other in self.places[message]:
            lag = model.lag_median * rng.lognormvariate(0.0, model.lag_sigma) if other != host else 0.0
            known[other] = min(known.get(other, _NEVER), now + lag)

    def poll(self, polled: Sequence[int], now: float) -> list[int]:
        """The messages of one answer."""
        taken: list[int] = []
        state, batch = self.state, self.model.batch
        for host in polled:
            copies = self.lists[host]
            while copies:
                message = copies.pop()
                self.copies -= 1
                if state[message] == _CLAIMED or (state[message] == _LAGGING and self._is_known(message, polled, now)):
                    continue
                self.claim(message, host, now)
                taken.append(message)
                if len(taken) == batch:
                    return taken
        return taken

    def _is_known(self, message: int, polled: Sequence[int], now: float) -> bool:
        known = self.known[message]
        return any(known.get(host, _NEVER) <= now for host in polled)


def _places(model: Model, messages: int, rng: random.Random) -> Sequence[Sequence[int]]:
    """The hosts that hold each message."""
    hosts = range(model.hosts)
    if math.comb(model.hosts, model.replicas) <= _MOST_PLACES:
        return rng.choices(list(itertools.combinations(hosts, model.replicas)), k=messages)
    return [rng.sample(hosts, model.replicas) for _ in range(messages)]


def _polled(model: Model, mode: str, rng: random.Random) -> list[int]:
    """The hosts that one poll asks, in order."""
    if mode == "short":
        return rng.sample(range(model.hosts), model.sample)
    hosts = [host for host in range(model.hosts) if rng.random() >= model.miss]
    rng.shuffle(hosts)
    return hosts


def _polls(model: Model, rng: random.Random) -> Iterator[tuple[float, int]]:
    """(time, receiver) of each poll, without end."""
    due = [(rng.uniform(0.0, model.interval), receiver) for receiver in range(model.receivers)]
    heapq.heapify(due)
    while True:
        now, receiver = due[0]
        yield now, receiver
        heapq.heapreplace(due, (now + model.interval * rng.uniform(0.5, 1.5), receiver))


def run_block(model: Model, block: Block, seed: str) -> BlockRecords:
    """Simulate one block, until no copy is left."""
    rng = random.Random(seed)
    queue = _SimulatedQueue(model, block.messages, rng)
    found = BlockRecords(block)
    receives = empty = 0
    for now, receiver in _polls(model, rng):
        taken = queue.poll(_polled(model, block.mode, rng), now)
        receives += 1
        empty += not taken
        call = f"model:{receiver}:{receives}"
        found.deliveries += [
            DeliveryRecord(block.block, seq, str(seq), call, now, now, None, None, 0, 0.0) for seq in taken
        ]
        if not queue.copies:
            break
    found.calls.append(Calls(block.block, receives=receives, empty=empty))
    return found


def header_of(model: Model, modes: Sequence[str], blocks: int, messages: int, seed: int) -> Experiment:
    """The first record of a simulated experiment."""
    return Experiment(
        id=f"simulated{seed}",
        host="model",
        queue="model",
        messages=messages,
        receivers=model.receivers,
        blocks=tuple(block_order(modes, blocks, random.Random(seed))),
        started=0.0,
        parameters={**asdict(model), "seed": seed},
        simulated=True,
    )


def run(
    model: Model, header: Experiment, seed: int, write: Callable[[Iterable[Record]], None]
) -> Iterator[BlockRecords]:
    """Simulate all blocks of an experiment; each is written as soon as it is done."""
    write([header])
    sizes = {mode: block_sizes(header.messages, header.blocks.count(mode)) for mode in set(header.blocks)}
    for number, mode in enumerate(header.blocks, 1):
        block = Block(number, mode, header.queue, sizes[mode].pop(0), visibility_timeout=None)
        records = run_block(model, block, f"{seed}:{number}:{mode}")
        write([block, *records.deliveries, *records.calls])
        yield records
