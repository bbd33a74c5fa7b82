"""`sqstee show`: one run, from its command to its verdict."""

from __future__ import annotations

import shlex
import sys
import time
from typing import TYPE_CHECKING, Protocol

import typer

from sqstee.errors import EXIT_FAILURE, EXIT_OPEN, SqsteeError
from sqstee.text import count, short_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqstee.read.printer import Style
    from sqstee.read.stop_signal import StopSignal
    from sqstee.run_summary import RunSummary

_SILENT_SECONDS = 60.0
_MOST_NAMED = 5  # runs in the message about an ambiguous beginning


def show(
    words: list[str] = typer.Argument(
        None,
        metavar="[RUN] [SOURCE]…",
        help="The beginning of a run's id, or a job for its last run; where to look (default: as --to of run).",
    ),
    last: bool = typer.Option(False, "--last", help="The newest run."),
    last_failed: bool = typer.Option(False, "--last-failed", help="The newest run that failed."),
    stream: list[str] = typer.Option(
        [], "--stream", metavar="NAME", help="Only this stream: stdout, stderr, output, stdin."
    ),
    times: bool = typer.Option(False, "-t", "--times", help="Print the local time before each line."),
    utc: bool = typer.Option(False, "--utc", help="Times in UTC."),
    exit_status: bool = typer.Option(False, "--exit-status", help="Exit as the run ended."),
    output: str = typer.Option("default", "-o", "--output", metavar="default|raw|json", help="The format of a line."),
    color: str = typer.Option("auto", "--color", metavar="auto|always|never", help="When to use colours."),
    pager: bool = typer.Option(True, "--pager/--no-pager", help="On a terminal: through $PAGER, or less."),
) -> int:
    """Show one run: its command, its end, its missing lines, and its lines.

    `-o raw` writes the bytes that the command wrote, `-o json` its records; neither has the head.

    Exit status with --exit-status: the command's own, 128 + N for signal N, 4 for a run that has not ended, 1 where
    the status is unknown because sqstee was killed.
    """
    from sqstee.cli.pager import paging
    from sqstee.cli.sources import check_choice, check_stream, reporting_errors, use_colour
    from sqstee.read.printer import FORMATS, Style
    from sqstee.read.stop_signal import StopSignal

    for name in stream:
        check_stream(name, "show")
    check_choice(output, "-o", FORMATS, "show")
    check_choice(color, "--color", ("auto", "always", "never"), "show")
    text, sources = _run_and_sources(words or [], last, last_failed)
    is_coloured, is_safe = use_colour(color), sys.stdout.isatty()
    zone = "utc" if utc else "local" if times else ""
    is_bare = "event" not in stream
    style = Style(output, is_coloured, is_safe, coloured_notices=is_coloured, times=zone, bare=is_bare)
    with reporting_errors("show"), StopSignal() as stop:
        run = _find(text, last_failed, sources, stop)
        status = 0
        with paging(pager and output == "default"):
            status = _print(run, sources, stream, style, stop)
    return stop.status or status or (_status_of(run) if exit_status else 0)


def _run_and_sources(words: Sequence[str], last: bool, last_failed: bool) -> tuple[str, Sequence[str]]:
    """The run that is asked for, and the sources to look in; the run is empty with --last and --last-failed."""
    if last and last_failed:
        raise SqsteeError("--last and --last-failed exclude each other", "leave one of them out")
    if last or last_failed:
        return "", words
    if not words or not words[0]:
        raise SqsteeError("no run is given", "sqstee show --last shows the newest one, sqstee runs lists all")
    return words[0], words[1:]


def _find(text: str, last_failed: bool, sources: Sequence[str], stop: StopSignal) -> RunSummary:
    """The run that is meant. Raises SqsteeError where there is none, or more than one."""
    known = _known_runs(text, sources, stop)
    if not text:
        found = known.latest((lambda run: run.is_failed) if last_failed else (lambda run: True))
        problem = "no run has failed" if last_failed else "there is no run"
    else:
        begun = known.beginning_with(text) or known.beginning_with(text.upper())
        found = [run for run in begun if run.run == text] or begun or known.latest(lambda run: run.title == text)
        problem = f"no run or job {short_name(text)!r}"
    if not found:
        where = f" in {', '.join(sources)}" if sources else ""
        raise SqsteeError(f"{problem}{where}", f"sqstee runs {' '.join(sources)} lists the runs".replace("  ", " "))
    if len(found) > 1:
        named = ", ".join(f"{short_name(run.run)} ({short_name(run.title)})" for run in found[:_MOST_NAMED])
        more = ", …" if len(found) > _MOST_NAMED else ""
        raise SqsteeError(f"{count(len(found), 'run')} begin with {text!r}: {named}{more}", "add characters of the id")
    return found[0]


class _KnownRuns(Protocol):
    """The runs of a source, newest first."""

    def beginning_with(self, text: str) -> list[RunSummary]: ...

    def latest(self, wanted: Callable[[RunSummary], bool]) -> list[RunSummary]: ...


class _ListedRuns:
    """Runs that have been read."""

    def __init__(self, found: Sequence[RunSummary]) -> None:
        self._found = found

    def beginning_with(self, text: str) -> list[RunSummary]:
        """The runs whose ids begin with `text`."""
        return [run for run in self._found if run.run.startswith(text)]

    def latest(self, wanted: Callable[[RunSummary], bool]) -> list[RunSummary]:
        """The newest run that is wanted, if there is one."""
        return [run for run in self._found if wanted(run)][:1]


def _known_runs(text: str, sources: Sequence[str], stop: StopSignal) -> _KnownRuns:
    """The runs of the sources; where the ids of some begin with `text`, maybe these alone, which are found sooner."""
    from sqstee.cli.run_sources import collect_runs
    from sqstee.cli.sources import folder_hint, local_path, readable
    from sqstee.transports.local_store import LocalStore

    found = readable(sources)
    if queue := next((one for one in found if one.kind == "sqs"), None):
        hint = (
            f"sqstee tail {queue.text} --peek --run RUN, or sqstee drain {queue.text} -O logs; sqstee show RUN ./logs"
        )
        raise SqsteeError(f"{queue.text}: a queue cannot be searched for a run", f"{folder_hint(queue.text)}{hint}")
    if len(found) == 1 and found[0].kind == "local":
        return LocalStore(found[0].name or local_path())
    if text:
        begun = _ListedRuns(collect_runs(sources, stop, begin_with=[text, text.upper()]).runs)
        if begun.beginning_with(text) or begun.beginning_with(text.upper()):
            return begun
    return _ListedRuns(collect_runs(sources, stop).runs)


def _print(run: RunSummary, sources: Sequence[str], streams: Sequence[str], style: Style, stop: StopSignal) -> int:
    """Print the head, where the format has one, and the run's lines; the exit status that reading deserves."""
    from sqstee.cli.sources import narrow_to_runs, open_sources, status_of
    from sqstee.read.filter import Filter
    from sqstee.read.follower import Follower
    from sqstee.read.printer import BufferedOutput, Printer

    out, kept_from = BufferedOutput(1), _kept_from(run, sources)
    if style.form == "default":
        facts = head(run, style.colour, kept_from)
        out.write("".join(f"{line}\n" for line in facts).encode("utf-8", "replace") + b"\n")
        out.flush()
    receivers = open_sources(sources, consume=False, peek=False, stop=stop).receivers
    narrow_to_runs(receivers, [run.run])
    follower = Follower(
        receivers,
        Printer(out, out if style.form == "default" else BufferedOutput(2), style),
        stop,
        False,
        wanted=Filter(runs=[run.run], streams=streams),
        from_start=run.first == kept_from == 0,
        wait=1.0,
    )
    follower.drain()
    return status_of(follower)


def _kept_from(run: RunSummary, sources: Sequence[str]) -> int:
    """The seq before which a store has deleted lines of a run, as it does above --local-max; 0 where it has not."""
    from sqstee.cli.sources import local_path, readable
    from sqstee.transports.local_store import LocalStore

    found = readable(sources)
    if len(found) > 1 or found[0].kind != "local":
        return 0
    first = LocalStore(found[0].name or local_path()).first_seq(run.run)
    return first if run.records.intervals and run.records.intervals[0][0] < first else 0


def head(run: RunSummary, is_coloured: bool, kept_from: int = 0) -> list[str]:
    """The known facts of a run, one per line. The store has deleted the run's lines before the seq `kept_from`."""
    from sqstee.cli.runs import STATE_COLOURS, format_age, local_time
    from sqstee.read.printer import format_duration, neutral
    from sqstee.run_summary import seconds_of

    now = time.time()
    state = run.state(now, _SILENT_SECONDS)
    shown = f"\x1b[{STATE_COLOURS[state]}m{state}\x1b[0m" if is_coloured else state
    began = seconds_of(run.started)
    age = f" ({format_age(now - began)} ago)" if began else ""
    facts = {
        "run": short_name(run.run),
        "job": short_name(run.job or run.name),
        "host": short_name(run.host),
        "command": neutral(shlex.join(run.command)),
        "labels": neutral(" ".join(f"{name}={text}" for name, text in run.labels.items())),
        "started": f"{local_time(run.started)}{age}",
    }
    if run.is_ended:
        took = "" if run.duration_s is None else f" after {format_duration(run.duration_s)}"
        facts["ended"] = f"{local_time(run.ended)}{took}"
    result = neutral(run.result) if run.is_ended else "it has not ended"
    if state == "gone":
        result = f"no message from it for {format_age(now - run.heard)}"
    facts["state"] = f"{shown}: {result}" if result else shown
    lines = ", ".join(f"{number:,} {short_name(stream)}" for stream, number in run.lines.items()) or "none"
    facts["lines"] = f"{lines}; {lacking(run)}"
    if kept_from:
        facts["lines"] += f"; the store has deleted those before seq {kept_from}"
    return [f"{name:8} {text}" for name, text in facts.items() if text]


def lacking(run: RunSummary) -> str:
    """The lines that a run lacks, in words."""
    parts = []
    if run.missing:
        ranges = [f"{first}" if first == last else f"{first}-{last}" for first, last in run.missing_ranges(6)]
        shown = ", ".join([*ranges[:5], *["…" for _ in ranges[5:]]])
        parts.append(f"{run.missing:,} missing (seq {shown})")
    if run.dropped:
        parts.append(f"{run.dropped:,} dropped by the sender")
    if run.elsewhere:
        parts.append(f"{run.elsewhere:,} went to {short_name(run.fallback)}")
    return ", ".join(parts) or ("nothing is missing" if run.is_ended else "nothing is missing so far")


def _status_of(run: RunSummary) -> int:
    """The exit status that a run had, as a shell reports it."""
    if not run.is_ended:
        return EXIT_OPEN
    if run.signal is not None and 0 < run.signal < 128:
        return 128 + run.signal
    return (run.exit_code or 0) % 256 or (EXIT_FAILURE if run.is_failed else 0)
