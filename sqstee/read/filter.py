"""Which lines a reader wants. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from sqstee.read.decode import ForeignLine, Item, stream_of

_OWN_LENGTH = len("2026-11-21T19:30:00.123456Z")


class Filter:
    """Selects lines by host, stream, run and job, by regular expressions, and by age.

    Hosts, streams, runs and jobs are names or globs; a run may also be given by its first characters. A line must match
    one of `include` and none of `exclude`. `since` is the earliest timestamp, RFC 3339 in UTC.
    """

    def __init__(
        self,
        hosts: Sequence[str] = (),
        streams: Sequence[str] = (),
        runs: Sequence[str] = (),
        jobs: Sequence[str] = (),
        include: Sequence[re.Pattern[str]] = (),
        exclude: Sequence[re.Pattern[str]] = (),
        since: str = "",
    ) -> None:
        self._hosts, self._streams, self._jobs = hosts, streams, jobs
        self._runs = [run if set(run) & set("*?[") else f"{run}*" for run in runs]
        self._include, self._exclude = include, exclude
        self._since = since

    @property
    def is_active(self) -> bool:
        """Whether it can hide any line."""
        names = (self._hosts, self._streams, self._jobs, self._runs, self._include, self._exclude, self._since)
        return any(names)

    def __call__(self, item: Item | ForeignLine) -> bool:
        """Whether the line is wanted."""
        return (
            _matches_any(item.host, self._hosts)
            and _matches_any(stream_of(item), self._streams)
            and _matches_any(item.job, self._jobs)
            and _matches_any(item.run, self._runs)
            and (not self._since or _written_at(item) >= self._since)
            and (not self._include or any(pattern.search(item.message) for pattern in self._include))
            and not any(pattern.search(item.message) for pattern in self._exclude)
        )


def _written_at(item: Item | ForeignLine) -> str:
    """When a line was written, in the form of sqstee's own timestamps, which compare as text.

    Another program's timestamp may have any form; a line whose timestamp cannot be parsed is as old as its message.
    """
    text = item.timestamp
    if len(text) == _OWN_LENGTH and text.endswith("Z"):
        return text
    try:
        return _rfc3339(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return item.sent if isinstance(item, ForeignLine) else text


def _matches_any(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def parse_since(text: str, now: float) -> str:
    """`--since` as a timestamp: an age (10m) or a date and time of RFC 3339 (local time without an offset).

    `now` is in seconds since the epoch. Raises ValueError where the text is neither.
    """
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    number = text[:-1]
    if unit and number.replace(".", "", 1).isdigit() and number.isascii():
        moment = datetime.fromtimestamp(max(0.0, now - float(number) * unit), UTC)
    else:
        moment = datetime.fromisoformat(text)
    return _rfc3339(moment)


def _rfc3339(moment: datetime) -> str:
    """In UTC with microseconds, as sqstee's own timestamps."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
