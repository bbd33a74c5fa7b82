"""A model of a queue that delivers twice. Pure: the same seed gives the same deliveries.

It is an illustration that comes near two figures of the original experiment; it is not what is inside SQS.

A backlog of messages lies on `hosts` hosts, each message a copy on `replicas` of them, each host's list shuffled. The
receivers' first polls are uniform in one interval, the next ones follow after interval × U(0.5, 1.5). A poll looks at
`sample` random hosts (short) or at all hosts in random order, each missing with probability `miss` (long), and pops
copies until it has `batch` messages; a popped copy is gone from that host. A copy is skipped if any polled host that
held the message knows by now that it was claimed; otherwise it is delivered. On a delivery its host knows of it at
once, the other replicas at once too with probability 1 - `lag_probability`, else after a lognormal lag.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqstee.measure.records import Block, BlockRecords, Calls, Delivery

_NEVER = math.inf
_MOST_PLACES = 50_000  # a choice from a list is three times as fast as a sample


@dataclass(frozen=True, slots=True)
class Model:
    """The parameters; `interval` and `lag_median` in seconds. The defaults are the original's setting."""

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


class _Queue:
    """The hosts' lists, and who knows of which claim from when on."""

    def __init__(self, model: Model, messages: int, rng: random.Random) -> None:
        self.model, self.rng = model, rng
        self.lists = _placed(model, messages, rng)
        self.copies = messages * model.replicas
        self.known = [_NEVER] * messages  # when all replicas know of a claim
        self.claimant = [-1] * messages  # the host that knew at once
        self.again: dict[int, list[int]] = {}  # the hosts of further claims, where there are any

    def claim(self, message: int, host: int, now: float) -> None:
        """A delivery by a host."""
        model, rng = self.model, self.rng
        late = rng.random() < model.lag_probability
        known = now + model.lag_median * rng.lognormvariate(0.0, model.lag_sigma) if late else now
        if self.claimant[message] < 0:
            self.claimant[message], self.known[message] = host, known
        else:
            self.known[message] = min(self.known[message], known)
            self.again.setdefault(message, []).append(host)

    def poll(self, polled: Sequence[int], now: float) -> list[int]:
        """The messages of one answer."""
        taken: list[int] = []
        known, claimant, batch = self.known, self.claimant, self.model.batch
        for host in polled:
            copies = self.lists[host]
            while copies:
                message = copies.pop()
                self.copies -= 1
                if now >= known[message]:
                    continue
                if claimant[message] in polled or any(other in polled for other in self.again.get(message, ())):
                    continue
                self.claim(message, host, now)
                taken.append(message)
                if len(taken) == batch:
                    return taken
        return taken


def _placed(model: Model, messages: int, rng: random.Random) -> list[list[int]]:
    """Each host's copies, in the order in which they will be popped."""
    lists: list[list[int]] = [[] for _ in range(model.hosts)]
    hosts = range(model.hosts)
    if math.comb(model.hosts, model.replicas) <= _MOST_PLACES:
        places = rng.choices(list(itertools.combinations(hosts, model.replicas)), k=messages)
    else:
        places = [tuple(rng.sample(hosts, model.replicas)) for _ in range(messages)]
    for message, place in enumerate(places):
        for host in place:
            lists[host].append(message)
    for copies in lists:
        rng.shuffle(copies)
    return lists


def _polled(model: Model, mode: str, rng: random.Random) -> list[int]:
    """The hosts that one poll looks at, in their order."""
    if mode == "short":
        return rng.sample(range(model.hosts), model.sample)
    hosts = [host for host in range(model.hosts) if rng.random() >= model.miss]
    rng.shuffle(hosts)
    return hosts


def _polls(model: Model, rng: random.Random) -> Iterator[tuple[float, int]]:
    """The times of all receivers' polls, with the receiver, without end."""
    due = [(rng.uniform(0.0, model.interval), receiver) for receiver in range(model.receivers)]
    heapq.heapify(due)
    while True:
        now, receiver = due[0]
        yield now, receiver
        heapq.heapreplace(due, (now + model.interval * rng.uniform(0.5, 1.5), receiver))


def run_block(model: Model, block: Block, seed: str) -> BlockRecords:
    """One block, until no copy is left."""
    rng = random.Random(seed)
    queue = _Queue(model, block.messages, rng)
    found = BlockRecords(block)
    receives = empty = 0
    for now, receiver in _polls(model, rng):
        taken = queue.poll(_polled(model, block.mode, rng), now)
        receives += 1
        empty += not taken
        call = f"model:{receiver}:{receives}"
        found.deliveries += [Delivery(block.block, seq, str(seq), call, now, now, None, None, 0, 0.0) for seq in taken]
        if not queue.copies:
            break
    found.calls.append(Calls(block.block, receives=receives, empty=empty))
    return found
