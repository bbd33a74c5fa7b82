"""Which alerts runs deserve, and the facts in an alert. Functions of values: the time comes in as an argument."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from math import inf

from sqstee.errors import SqsteeError
from sqstee.option_values import duration
from sqstee.read.printer import format_duration
from sqstee.run_summary import RunSummary, seconds_of
from sqstee.text import count, short_name

ALERTS = ("failed", "missing", "silent", "gone", "late")
DEFAULT_ALERTS = ("failed", "missing", "gone")
_SETTLED_SECONDS = 10.0  # lines may come after the event that ends their run, in messages of their own
_MOST_VARIABLE = 1000  # characters of a variable: an environment has little room (execve(2), MAX_ARG_STRLEN)
_MOST_TEXT = 300
_MOST_KEY = 64  # characters of a run's id; our own have 26
_VARIABLES = (
    *("alert", "text", "run", "job", "name", "host", "started", "ended", "exit_code", "signal", "duration_s"),
    *("lines", "bytes", "missing", "dropped", "result", "last_line", "last_stderr"),
)
_EXPECT_HINT = "the form is --expect JOB[@HOST]=TIME, for example: --expect 'backup@*=24h'"


class Expectation:
    """A run of the job `job` must begin on a host `host` within `seconds` of the one before; both are globs."""

    def __init__(self, job: str, host: str, seconds: float) -> None:
        self.job, self.host, self.seconds = job, host, seconds

    @property
    def name(self) -> str:
        """The job and the host, as in the option."""
        return f"{self.job}@{self.host}"

    def is_met_by(self, run: RunSummary) -> bool:
        """Whether a run is one of these."""
        return fnmatchcase(run.title, self.job) and fnmatchcase(run.host, self.host)


class Alert:
    """An alert for people: `key` identifies it, and `facts` is its content as a JSON object."""

    def __init__(self, key: str, facts: dict[str, object]) -> None:
        self.key, self.facts = key, facts


def parse_expectation(text: str) -> Expectation:
    """`--expect JOB[@HOST]=TIME`. Raises SqsteeError."""
    names, equals, time = text.rpartition("=")
    job, _, host = names.rpartition("@") if "@" in names else (names, "", "*")
    try:
        seconds = duration(time)
    except ValueError:
        seconds = 0.0
    if not (equals and job and host and 0 < seconds < inf):
        raise SqsteeError(f"invalid value {text!r} for --expect", _EXPECT_HINT)
    return Expectation(job, host, seconds)


def occurrences(run: RunSummary, now: float, silent: float, received: float = 0.0) -> Iterator[tuple[str, float]]:
    """The problems of a run at `now`, each with the time when it began, by the reader's clock.

    A run has one state, but may have several problems: a host that vanished often has missing lines as well. A run
    without lines for `silent` seconds is silent. Its last message was `received` then: where messages wait in a queue,
    that may be long after they were sent, and the next one may be about to come.
    """
    if run.is_failed:
        yield "failed", run.heard
    if run.dropped or run.elsewhere or (run.missing and _is_settled(run, now)):
        yield "missing", run.heard
    if now > run.gone_at:
        if now > received + run.gone_at - run.heard:
            yield "gone", run.gone_at
    elif not run.is_ended and now - max(received, run.last_line_at) > silent:
        yield "silent", run.last_line_at + silent


def may_change(run: RunSummary, now: float) -> bool:
    """Whether time alone can bring a run into another state."""
    return not run.is_ended or bool(run.missing and not _is_settled(run, now))


def _is_settled(run: RunSummary, now: float) -> bool:
    return now - run.heard > _SETTLED_SECONDS


def began_at(run: RunSummary) -> float:
    """When a run began; a clock that is ahead counts as the time of its last message."""
    started = seconds_of(run.started)
    return min(started, run.heard) if started else run.heard


def key_of(run: RunSummary, state: str) -> str:
    """The key of an alert on a run, before there is one; short, whatever another host calls its run."""
    name = run.run
    if len(name) > _MOST_KEY or not name.isascii():
        name = sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{state} {name}"


def run_alert(run: RunSummary, state: str, now: float, silent: float) -> Alert:
    """The alert that a run is in a state."""
    facts = {"alert": state, "text": _text(run, state, now)} | run.fields(now, silent)
    return Alert(key_of(run, state), facts)


def late_alert(expected: Expectation, last: float, since: float, now: float) -> Alert | None:
    """The alert that an expected job has not come; None as long as it is not late.

    `last` is when its last run began, 0 where none is known; it has been expected `since` then.
    """
    if now <= (last or since) + expected.seconds:
        return None
    fields = RunSummary("").fields(now, inf)
    ago = f"the last run began {format_duration(round(now - last))} ago" if last else "no run has been seen"
    fields |= {"job": expected.job, "host": expected.host, "state": "late", "expected_s": expected.seconds}
    fields["started"] = datetime.fromtimestamp(last, UTC).isoformat().replace("+00:00", "Z") if last else ""
    on = "" if expected.host == "*" else f" on {short_name(expected.host)}"
    text = f"{short_name(expected.job)}{on} is late: {ago}, expected every {format_duration(expected.seconds)}"
    return Alert(f"late {expected.name} {last}", {"alert": "late", "text": text} | fields)


def _text(run: RunSummary, state: str, now: float) -> str:
    """One printable line."""
    who = f"{short_name(run.title)} on {short_name(run.host)}" if run.host else short_name(run.title)
    if state == "failed":
        took = "" if run.duration_s is None else f" after {format_duration(run.duration_s)}"
        text = f"{who} failed: {_how_it_ended(run)}{took}"
        last = run.last_stderr or run.last_line
        text = f"{text}: {last}" if last else text
    elif state == "missing":
        parts = [f"{count(run.missing, 'line')} missing"] if run.missing else []
        parts += [f"{count(run.dropped, 'line')} dropped"] if run.dropped else []
        parts += [f"{count(run.elsewhere, 'line')} at {run.fallback}"] if run.elsewhere else []
        text = f"{who} lacks lines: {', '.join(parts)}"
    elif state == "gone":
        text = f"{who} is gone: neither a line nor a heartbeat for {format_duration(round(now - run.heard))}"
    else:
        text = f"{who} is silent: no line for {format_duration(round(now - run.last_line_at))}"
    return _printable(text, _MOST_TEXT)


def _how_it_ended(run: RunSummary) -> str:
    if run.signal is not None:
        return f"signal {run.signal}"
    return f"exit status {run.exit_code}" if run.exit_code is not None else "sqstee was killed, the status is unknown"


def variables(facts: dict[str, object]) -> dict[str, str]:
    """The facts for a command's environment; unknown ones are empty.

    The texts come from other hosts: no variable contains a control character, and none is long. The facts themselves
    have all of it.
    """
    found = {}
    for name in _VARIABLES:
        value = facts.get(name)
        if isinstance(value, dict):  # lines by stream
            value = sum(value.values())
        text = "" if value is None else str(value)
        found[f"SQSTEE_ALERT_{'STATE' if name == 'alert' else name.upper()}"] = _printable(text, _MOST_VARIABLE)
    return found


def _printable(text: str, most: int) -> str:
    shown = "".join(char if char.isprintable() else " " if char in "\t\n\r" else "\ufffd" for char in text[:most])
    return shown if len(text) <= most else f"{shown[: most - 1]}…"
