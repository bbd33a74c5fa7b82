"""Which runs a reader wants. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from sqstee.run_summary import RunSummary, seconds_of


class RunFilter:
    """Selects runs by their state, job, host, labels and times.

    `states`: failed, running, missing, silent, gone; a run must be in one of them. Jobs and hosts are globs; a job is
    also the name of a run's command. A label's value is a glob. `since` and `until`, RFC 3339: a run is wanted if it
    ran at any moment between them.
    """

    def __init__(
        self,
        states: Sequence[str] = (),
        jobs: Sequence[str] = (),
        hosts: Sequence[str] = (),
        labels: Sequence[tuple[str, str]] = (),
        since: str = "",
        until: str = "",
    ) -> None:
        self._states, self._jobs, self._hosts = states, jobs, hosts
        self._labels = labels
        self._since = seconds_of(since)
        self._until = seconds_of(until) or float("inf")
        self._is_timed = bool(since or until)  # reading the times of very many runs takes long

    def __call__(self, run: RunSummary, now: float, silent: float) -> bool:
        """Whether a run is wanted at `now`, in seconds since the epoch.

        A run is silent after `silent` seconds without lines.
        """
        return (
            (not self._jobs or any(fnmatchcase(run.title, job) for job in self._jobs))
            and (not self._hosts or any(fnmatchcase(run.host, host) for host in self._hosts))
            and all(fnmatchcase(run.labels.get(name, ""), text) for name, text in self._labels)
            and (not self._is_timed or self._ran(run))
            and (not self._states or any(is_in(run, state, now, silent) for state in self._states))
        )

    def _ran(self, run: RunSummary) -> bool:
        started = seconds_of(run.started)
        ended = seconds_of(run.ended) if run.is_ended and run.ended else max(run.heard, started)
        return ended >= self._since and started <= self._until


def is_in(run: RunSummary, state: str, now: float, silent: float) -> bool:
    """Whether a run is failed, running, missing (lines of it), silent or gone at `now`: it may be several of these."""
    if state == "failed":
        return run.is_failed
    if state == "running":
        return not run.is_ended
    if state == "gone":
        return now > run.gone_at
    found = run.state(now, silent)
    if state == "missing":
        return found == "missing" or bool(run.is_failed and (run.missing or run.dropped or run.elsewhere))
    return found == state
