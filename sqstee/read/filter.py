"""Which lines a reader wants. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from sqstee.read.decode import Foreign, Item, stream_of

_OWN_LENGTH = len("2026-11-21T19:30:00.123456Z")


class Filter:
    """Lines by host, stream, run and job (each a list of names or globs; a run also by its beginning), by regular
    expressions that the line must or must not contain, and by age: `since` is the earliest timestamp, RFC 3339 in
    UTC."""

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
        """Whether it may refuse anything."""
        names = (self._hosts, self._streams, self._jobs, self._runs, self._include, self._exclude, self._since)
        return any(names)

    def __call__(self, item: Item | Foreign) -> bool:
        """Whether the line is wanted."""
        return (
            _is_one_of(item.host, self._hosts)
            and _is_one_of(stream_of(item), self._streams)
            and _is_one_of(item.job, self._jobs)
            and _is_one_of(item.run, self._runs)
            and (not self._since or _moment(item) >= self._since)
            and (not self._include or any(pattern.search(item.message) for pattern in self._include))
            and not any(pattern.search(item.message) for pattern in self._exclude)
        )


def _moment(item: Item | Foreign) -> str:
    """When a line was written, as sqstee's own timestamps, which compare as text.

    Another program's are of any form; a line with one that says nothing here is as old as its message.
    """
    text = item.timestamp
    if len(text) == _OWN_LENGTH and text.endswith("Z"):
        return text
    try:
        return _rfc3339(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return item.sent if isinstance(item, Foreign) else text


def _is_one_of(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def earliest(text: str, now: float) -> str:
    """`--since` as a timestamp: an age (10m) or a date and time of RFC 3339 (local where it names no offset).

    Raises ValueError where it is neither. `now` is in seconds since the epoch.
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
