"""Shared by the verbs that list runs: collecting the runs of sources."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sqstee.errors import EXIT_FAILURE, SqsteeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqstee.cli.sources import Sources
    from sqstee.read.run_filter import RunFilter
    from sqstee.read.stop_signal import StopSignal
    from sqstee.run_summary import RunSummary
    from sqstee.transports.base import Receiver

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
    begin_with: Sequence[str] = (),
) -> CollectedRuns:
    """Collect the runs of sources: a store, a folder and a data lake list them, all others are read to their end.

    A run that several sources know is one run. With `begin_with`, a source that can find runs by the beginning of their
    names is asked for these alone.
    """
    from sqstee.cli.sources import absent_stores, local_path, readable
    from sqstee.transports.folder import open_folder
    from sqstee.transports.local_store import LocalStore

    found = readable(texts)
    notices = absent_stores(found)
    problems: list[str] = []  # files that cannot be read
    merged: dict[str, RunSummary] = {}
    others = []
    for one in found:
        if one.kind == "folder":
            folder = open_folder(one.name, one.text)
            _merge(merged, folder.summaries(problems))
            notices += folder.remarks()
        elif one.kind == "local" and not consume:
            store = LocalStore(one.name or local_path())
            _merge(merged, store.runs())
            notices += _strays_of(one.text, {"": store.other_lines()})
        else:
            others.append(one.text)
    status = 0
    if others:
        runs, status, more = _read_runs(others, stop, consume, peek, via_s3, start_timeout, begin_with, problems)
        _merge(merged, runs)
        notices += more
    return CollectedRuns(list(merged.values()), status or (EXIT_FAILURE if problems else 0), [*notices, *problems])


def _merge(merged: dict[str, RunSummary], runs: Iterable[RunSummary]) -> None:
    for run in runs:
        if run.run in merged:
            merged[run.run].merge(run)
        else:
            merged[run.run] = run


def _read_runs(
    texts: Sequence[str],
    stop: StopSignal,
    consume: bool,
    peek: bool,
    via_s3: Sequence[str],
    start_timeout: float,
    begin_with: Sequence[str],
    problems: list[str],
) -> tuple[Sequence[RunSummary], int, list[str]]:
    from sqstee.cli.sources import narrow_to_runs, status_of
    from sqstee.read.follower import Follower
    from sqstee.read.run_table import RunTable

    sources = open_run_sources(texts, stop, consume, peek, via_s3, start_timeout)
    if begin_with:
        narrow_to_runs(sources.receivers, begin_with)
    known = [] if consume else _indexed_runs(sources, stop, start_timeout, problems)
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
    notices = [*table.notices, *_other_lines(sources.receivers, table.other_lines)]
    return [*known, *table.runs(0.0)], stop.status or status_of(follower), notices


def _other_lines(receivers: Sequence[Receiver], by_message: Mapping[str, int]) -> list[str]:
    """Remarks about the lines that are not sqstee's, by the ids of messages: that of an object has its name."""
    found: dict[str, dict[str, int]] = {}
    for message, lines in by_message.items():
        name = next((one.name for one in receivers if message.startswith(f"{one.name.rstrip('/')}/")), "")
        path = message[len(name.rstrip("/")) + 1 :].rpartition("@")[0] if name else ""
        in_source = found.setdefault(name or ", ".join(one.name for one in receivers), {})
        in_source[path] = in_source.get(path, 0) + lines
    return [remark for name, in_source in found.items() for remark in _strays_of(name, in_source)]


def _strays_of(name: str, lines: Mapping[str, int]) -> list[str]:
    from sqstee.transports.layouts import Strays

    strays = Strays()
    for path, number in lines.items():
        strays.add_lines(path, number)
    return strays.remarks(name, "object")


def _indexed_runs(sources: Sources, stop: StopSignal, start_timeout: float, problems: list[str]) -> list[RunSummary]:
    """The runs of which buckets have an index, so that their lines need not be read."""
    from sqstee.fds import write_stderr
    from sqstee.read.trouble import Trouble, persist
    from sqstee.transports.errors import TransportError
    from sqstee.transports.s3_source import BucketReceiver

    found: list[RunSummary] = []
    for receiver in sources.receivers:
        if isinstance(receiver, BucketReceiver):
            trouble = Trouble(f"{receiver.name}: reading", lambda text: write_stderr(f"sqstee: {text}\n"))
            try:
                found += persist(partial(receiver.take_summaries, problems), trouble, stop.pause, start_timeout)
            except TransportError as error:
                error.args = (f"{receiver.name}: {error}",)
                raise
    return found


def check_read_twice(texts: Sequence[str] | None, consume: bool, number: int) -> None:
    """Raise SqsteeError where lines would be gone after the first reading: of a queue, and where they are consumed."""
    from sqstee.cli.sources import destinations

    for one in destinations(texts):
        if one.kind == "sqs" or (consume and one.kind != "folder"):
            hint = f"sqstee drain {one.text} -O logs, then sqstee runs ./logs --tail {number}"
            raise SqsteeError(f"{one.text}: --tail needs a source that can be read twice", hint)


def last_stderr_lines(
    texts: Sequence[str] | None, runs: Sequence[RunSummary], number: int, stop: StopSignal
) -> dict[str, list[str]]:
    """The last lines on stderr of each run, by its id, from sources that can be read twice."""
    from sqstee.cli.sources import narrow_to_runs, open_sources
    from sqstee.read.follower import Follower
    from sqstee.read.last_lines import LastLines

    sink = LastLines([run.run for run in runs], number)
    receivers = open_sources(texts, consume=False, peek=False, stop=stop).receivers
    narrow_to_runs(receivers, list(sink.lines))
    if runs:
        Follower(receivers, sink, stop, False, from_start=True, wait=1.0).drain()
    return {run: list(lines) for run, lines in sink.lines.items()}


def open_run_sources(
    texts: Sequence[str] | None,
    stop: StopSignal,
    consume: bool,
    peek: bool,
    via_s3: Sequence[str],
    start_timeout: float,
) -> Sources:
    """Open sources whose runs are collected by reading them; report the cost of --peek on stderr."""
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
    from sqstee.cli.sources import parse_labels, parse_moment
    from sqstee.read.run_filter import RunFilter

    earliest, latest = parse_moment(since, "--since"), parse_moment(until, "--until")
    return RunFilter(states, jobs, hosts, parse_labels(labels), earliest, latest)
