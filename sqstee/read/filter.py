"""Which lines a reader wants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from sqstee.read.decode import ForeignLine, Item, stream_of
from sqstee.read.literals import literals_of
from sqstee.read.multiline import lines_of
from sqstee.read.raw_lines import RawLines
from sqstee.record import LEVELS
from sqstee.wire import Event

_OWN_LENGTH = len("2026-11-21T19:30:00.123456Z")
_MOST_NAMED = 100_000  # runs without a job that are known by name
_MOST_CANDIDATES = 8  # one line in so many: above it, all lines of a body are looked at together


class Filter:
    """Selects lines by host, stream, run, job and labels, by regular expressions, by level, and by age.

    Hosts, streams, runs, jobs and the values of labels are names or globs; a run may also be given by its first
    characters. A run without a job goes by the name in its events, once one of them has come or `name_runs` was called.
    A line must have all `labels`, match one of `include` and none of `exclude`. `level` is the lowest one; a line
    without a level is hidden where one is asked for. `since` is the earliest timestamp, `until` the first that is too
    late, RFC 3339 in UTC.
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
        until: str = "",
        labels: Sequence[tuple[str, str]] = (),
        level: str = "",
    ) -> None:
        self._hosts, self._streams, self._jobs, self._labels = hosts, streams, jobs, labels
        self._runs = [run if set(run) & set("*?[") else f"{run}*" for run in runs]
        self._ids: frozenset[str] = frozenset()
        self._named: dict[str, None] = {}  # runs without a job whose name is one of `jobs`, the oldest first
        self._include, self._exclude = include, exclude
        self._since, self._until = since, until
        self._levels = LEVELS[LEVELS.index(level) :] if level else ()
        self._literals = [literals_of(pattern) for pattern in include]

    @property
    def is_active(self) -> bool:
        """Whether it can hide any line."""
        return self._has_names or self._looks_at_lines

    @property
    def _has_names(self) -> bool:
        return any((self._hosts, self._runs, self._ids, self._jobs, self._labels))

    @property
    def _looks_at_lines(self) -> bool:
        return any((self._streams, self._include, self._exclude, self._since, self._until, self._levels))

    def __call__(self, item: Item | ForeignLine) -> bool:
        """Whether the line is wanted."""
        written = written_at(item) if self._since or self._until else ""
        return (
            self.wants_run(item)
            and self._wants_stretch(stream_of(item), written, getattr(item, "level", ""))
            and self._wants_text(item.message, *(line.message for line in lines_of(item)))
        )

    def select(self, items: Sequence[Item | ForeignLine]) -> Sequence[Item | ForeignLine]:
        """The wanted ones among items, in order; of undecoded lines as few are decoded as possible."""
        if not isinstance(items, RawLines):
            return [item for item in items if self(item)]
        return self._select_raw(items)

    def _select_raw(self, lines: RawLines) -> Sequence[Item]:
        if self._has_names:
            common = lines.common()
            if common is None:
                return [item for item in lines if self(item)]
            if not self.wants_run(common):
                return ()
        if not self._looks_at_lines:
            return lines
        if not all(self._literals) or not self._include:
            return self._select_all(lines)
        offsets: set[int] = set()
        for literals in self._literals:
            found = literals.offsets(lines.data, len(lines) // _MOST_CANDIDATES) if literals else None
            if found is None:
                return self._select_all(lines)
            offsets |= found
        if not offsets:
            return ()
        return [item for item in lines.starting_at(offsets) if self(item)]

    def _select_all(self, lines: RawLines) -> Sequence[Item]:
        if self._since or self._until:
            times = lines.times()
            if times and (max(times) < self._since or (self._until and min(times) >= self._until)):
                return ()
        stretches = lines.stretches()
        if stretches is None:
            return [item for item in lines if self(item)]
        wanted: list[int] = []
        first = 0
        for stretch in stretches:
            places = range(first, first + len(stretch.messages))
            first = places.stop
            if self._wants_stretch(stretch.stream, stretch.timestamp, stretch.level):
                if self._include or self._exclude:
                    found = zip(places, stretch.messages, strict=True)
                    wanted += [at for at, message in found if self._wants_text(message)]
                else:
                    wanted += places
        return lines if len(wanted) == len(lines) else lines.pick(wanted) if wanted else ()

    def with_runs(self, runs: Sequence[str]) -> Filter:
        """The same filter for these runs alone, given by their whole ids."""
        found = copy(self)
        found._ids = frozenset(runs)
        return found

    def name_runs(self, names: Iterable[tuple[str, str]]) -> None:
        """Note the ids and the names of runs that have no job."""
        for run, name in names:
            if run not in self._named and _matches_any(name, self._jobs):
                self._named[run] = None
                if len(self._named) > _MOST_NAMED:
                    del self._named[next(iter(self._named))]

    def wants_run(self, item: Item | ForeignLine) -> bool:
        """Whether lines of an item's run are wanted, as far as host, job, labels and the run itself decide that."""
        return (
            _matches_any(item.host, self._hosts)
            and (not self._jobs or self._wants_job(item))
            and _matches_any(item.run, self._runs)
            and (not self._ids or item.run in self._ids)
            and (not self._labels or _has_labels(getattr(item, "labels", {}), self._labels))
        )

    def _wants_job(self, item: Item | ForeignLine) -> bool:
        if not item.job and isinstance(item, Event) and (name := item.fields.get("name")):
            self.name_runs([(item.run, str(name))])
        return item.run in self._named or _matches_any(item.job, self._jobs)

    def _wants_stretch(self, stream: str, written: str, level: str) -> bool:
        return (
            (not self._streams or _matches_any(stream, self._streams))
            and self._wants_time(written)
            and (not self._levels or level in self._levels)
        )

    def _wants_text(self, *texts: str) -> bool:
        return (not self._include or _search_any(self._include, texts)) and not _search_any(self._exclude, texts)

    def _wants_time(self, written: str) -> bool:
        return self._since <= written and (not self._until or written < self._until)


def written_at(item: Item | ForeignLine) -> str:
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


def _search_any(patterns: Sequence[re.Pattern[str]], texts: Sequence[str]) -> bool:
    return any(pattern.search(text) for pattern in patterns for text in texts)


def _has_labels(labels: dict[str, str], wanted: Sequence[tuple[str, str]]) -> bool:
    return all(name in labels and fnmatchcase(labels[name], pattern) for name, pattern in wanted)


def parse_since(text: str, now: float) -> str:
    """`--since` or `--until` as a timestamp: an age (10m), yesterday, today, 09:00, or a date and time of RFC 3339.

    All but an age are local time where they name no offset. 09:00 is the last time that it was 09:00. `now` is in
    seconds since the epoch. Raises ValueError where the text is none of these.
    """
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    number = text[:-1]
    if unit and number.replace(".", "", 1).isdigit() and number.isascii():
        return _rfc3339(datetime.fromtimestamp(max(0.0, now - float(number) * unit), UTC))
    local = datetime.fromtimestamp(now)  # without an offset: astimezone() finds that of the day itself
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("today", "yesterday", "now"):
        return _rfc3339({"today": midnight, "yesterday": midnight - timedelta(days=1), "now": local}[text])
    if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?", text):
        hour, minute, second = (*map(int, text.split(":")), 0)[:3]
        moment = midnight.replace(hour=hour, minute=minute, second=second)
        return _rfc3339(moment if moment <= local else moment - timedelta(days=1))
    return _rfc3339(datetime.fromisoformat(text))


def _rfc3339(moment: datetime) -> str:
    """In UTC with microseconds, as sqstee's own timestamps."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
