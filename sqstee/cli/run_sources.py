"""Shared by the verbs that list runs: collecting the runs of sources."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sqstee.errors import SqsteeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqstee.cli.sources import Sources
    from sqstee.read.run_filter import RunFilter
    from sqstee.read.stop_signal import StopSignal
    from sqstee.run_summary import RunSummary

_PEEK_VISIBILITY = 120  # seconds


class CollectedRuns:
    """The runs of sources, newest first. `status`: the exit status that reading them deserves; `notices` about it."""

    def __init__(self, runs: list[RunSummary], status: int = 0, notices: Sequence[str] = ()) -> None:
        self.runs = sorted(runs, key=lambda run: (run.started, run.run), reverse=True)
        self.status = status
        self.notices = list(notices)


def collect_runs(
    texts: Sequence[str] | None,
    stop: StopSignal,
    *,
    consume: bool = False,
    peek: bool = False,
    via_s3: Sequence[str] = (),
    start_timeout: float = 0.0,
) -> CollectedRuns:
    """Collect the runs of sources: a local store lists them, all others are read to their end.

    A run that several sources know is one run.
    """
    from sqstee.cli.sources import destinations, local_path
    from sqstee.transports.local_store import LocalStore

    found = destinations(texts)
    stores = [one for one in found if one.kind == "local" and not consume]
    others = [one.text for one in found if one not in stores]
    merged: dict[str, RunSummary] = {}
    for store in stores:
        _merge(merged, LocalStore(store.name or local_path()).runs())
    status, notices = 0, list[str]()
    if others:
        runs, status, notices = _read_runs(others, stop, consume, peek, via_s3, start_timeout)
        _merge(merged, runs)
    return CollectedRuns(list(merged.values()), status, notices)


def _merge(merged: dict[str, RunSummary], runs: Sequence[RunSummary]) -> None:
    for run in runs:
        if run.run in merged:
            merged[run.run].merge(run)
        else:
            merged[run.run] = run


def _read_runs(
    texts: Sequence[str], stop: StopSignal, consume: bool, peek: bool, via_s3: Sequence[str], start_timeout: float
) -> tuple[Sequence[RunSummary], int, list[str]]:
    from sqstee.cli.sources import status_of
    from sqstee.read.follower import Follower
    from sqstee.read.run_table import RunTable

    sources = open_run_sources(texts, stop, consume, peek, via_s3, start_timeout)
    is_whole = all(one.follows for one in sources.receivers)
    table = RunTable(skew=0.0, is_whole=is_whole)
    follower = Follower(
        sources.receivers,
        table,
        stop,
        sources.consumed,
        from_start=is_whole,
        wait=1.0,
        records_only=True,
        start_timeout=start_timeout,
    )
    follower.drain()
    return table.runs(0.0), stop.status or status_of(follower), list(table.notices)


def open_run_sources(
    texts: Sequence[str] | None,
    stop: StopSignal,
    consume: bool,
    peek: bool,
    via_s3: Sequence[str],
    start_timeout: float,
) -> Sources:
    """Open sources whose runs are collected by reading them; what --peek costs is said on stderr."""
    from sqstee.cli.sources import open_sources, payload_stores
    from sqstee.fds import write_stderr

    sources = open_sources(
        texts,
        consume=consume,
        peek=peek,
        visibility=_PEEK_VISIBILITY if peek else None,
        stores=payload_stores(via_s3),
        stop=stop,
        start_timeout=start_timeout,
    )
    for cost in sources.peek_costs:
        write_stderr(f"sqstee: {cost}\n")
    return sources


def states_asked(**asked: bool) -> list[str]:
    """The states whose switch was given."""
    return [state for state, is_asked in asked.items() if is_asked]


def run_filter(
    states: Sequence[str], jobs: Sequence[str], hosts: Sequence[str], labels: Sequence[str], since: str, until: str
) -> RunFilter:
    """The filter that the options of a command line describe. Raises SqsteeError."""
    from sqstee.read.run_filter import RunFilter

    pairs = {}
    for label in labels:
        name, equals, text = label.partition("=")
        if not name or not equals:
            problem = f"invalid value {label!r} for --label (expected NAME=VALUE)"
            raise SqsteeError(problem, "for example: --label team=data")
        pairs[name] = text
    return RunFilter(states, jobs, hosts, pairs, moment(since, "--since"), moment(until, "--until"))


def moment(text: str, flag: str) -> str:
    """An option's age or date as a timestamp. Raises SqsteeError."""
    from sqstee.read.filter import parse_since

    try:
        return parse_since(text, time.time()) if text else ""
    except (ValueError, OverflowError):
        problem = f"invalid value {text!r} for {flag} (expected an age such as 10m, 2h, 3d, or a date and time)"
        raise SqsteeError(problem, f"for example: {flag} 2026-11-21T19:30:00Z") from None
