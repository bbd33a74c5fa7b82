"""`sqstee alert`: notify somebody of runs that need attention, and of jobs that do not start."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import typer

from sqstee.cli import run_options
from sqstee.errors import EXIT_FAILURE, SqsteeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqstee.destination import Destination
    from sqstee.read.alert_delivery import AlertCommand, AlertDelivery, AlertWebhook
    from sqstee.read.alert_memory import AlertMemory
    from sqstee.read.alert_watch import AlertRules, AlertWatch
    from sqstee.read.alerts import Alert, Expectation
    from sqstee.read.stop_signal import StopSignal


def alert(
    source: list[str] = typer.Argument(
        None,
        metavar="[SOURCE]…",
        help="Where to look (default: as --to of run): a store, s3://, a folder, a queue.",
    ),
    on: str = typer.Option(
        "", "--on", metavar="STATES", help="Some of failed,missing,silent,gone,late (default: failed,missing,gone)."
    ),
    command: str = typer.Option("", "--exec", metavar="CMD", help="Run this shell command for each alert."),
    webhook: str = typer.Option("", "--webhook", metavar="URL", help="Post each alert to this URL as JSON."),
    expect: list[str] = typer.Option(
        [],
        "--expect",
        metavar="JOB[@HOST]=TIME",
        help="Alert when no run of this job (globs) has started for this long.",
    ),
    once: bool = typer.Option(False, "--once", help="Look once and exit, for cron."),
    job: list[str] = run_options.JOB,
    host: list[str] = run_options.HOST,
    label: list[str] = run_options.LABEL,
    since: str = typer.Option(
        "", "--since", metavar="TIME", help="Also report earlier runs since then: 2h, yesterday."
    ),
    silent_after: str = run_options.SILENT_AFTER,
    retry: str = typer.Option("1h", "--retry-for", metavar="TIME", help="How long to retry an alert that fails."),
    memory: str = typer.Option(
        "", "--memory", metavar="FILE", help="Where to remember alerts (default: in $XDG_STATE_HOME/sqstee)."
    ),
    consume: bool = run_options.CONSUME,
    peek: bool = run_options.PEEK,
    via_s3: list[str] = run_options.VIA_S3,
    start: str = run_options.START_TIMEOUT,
) -> int:
    """Notify a command or a webhook of runs that failed, lack lines or vanished, and of jobs that did not start.

    failed, missing (lines), silent (no line for --silent-after), gone (no heartbeat either) and late (see --expect) are
    each reported once per run, also across restarts: an alert counts as reported once CMD or the webhook has
    succeeded. Until then it is retried, for --retry-for and after each start; with --once only at each start. Runs that
    a store held before the first start are reported only with --since. The memory is one file for each combination of
    sources and CMD or URL, in $XDG_STATE_HOME/sqstee or ~/.local/state/sqstee, unless --memory names another.

    CMD runs in sh for at most 60 s. It gets the facts as JSON on stdin and in variables, each one printable line:
    SQSTEE_ALERT_STATE, _TEXT (a summary), _RUN, _JOB, _NAME, _HOST, _STARTED, _ENDED, _EXIT_CODE, _SIGNAL, _DURATION_S,
    _LINES, _BYTES, _MISSING, _DROPPED, _RESULT, _LAST_LINE, _LAST_STDERR. The webhook gets the same JSON in a POST.
    """
    from sqstee.cli.run_sources import run_filter
    from sqstee.cli.sources import (
        absent_stores,
        destinations,
        local_path,
        parse_moment,
        parse_seconds,
        reporting_errors,
    )
    from sqstee.read.alert_delivery import AlertDelivery
    from sqstee.read.alert_memory import AlertMemory
    from sqstee.read.alert_watch import AlertRules
    from sqstee.read.alerts import parse_expectation
    from sqstee.read.stop_signal import StopSignal
    from sqstee.run_summary import seconds_of

    expected = [parse_expectation(text) for text in expect]
    states = _states(on, expected)
    tell = _target(command, webhook)
    retry_for = parse_seconds(retry, "--retry-for")
    wanted = run_filter([], job, host, label, "", "")
    past = seconds_of(parse_moment(since, "--since")) if since else None
    rules = AlertRules(states, wanted, expected, parse_seconds(silent_after, "--silent-after"), past)
    start_timeout = parse_seconds(start, "--start-timeout")
    found = destinations(source)
    path = memory or _default_memory(found, command or webhook)
    with reporting_errors("alert"), StopSignal() as stop:
        remembered = AlertMemory(os.path.abspath(path), time.time())
        for notice in absent_stores(found):
            _notice(notice)
        delivery = AlertDelivery(remembered, tell, _notice, retry_for)
        try:
            watched = _Watched(rules, remembered, delivery, stop, once or peek)
            stores = [one.name or local_path() for one in found if one.kind == "local" and not consume]
            others = [one.text for one in found if one.kind != "local" or consume]
            watched.run(stores, others, consume, peek, via_s3, start_timeout)
        finally:
            delivery.close()
            remembered.close()
    if stop.signal:
        return stop.status
    return EXIT_FAILURE if delivery.untold or watched.status else 0


def _states(text: str, expected: Sequence[Expectation]) -> list[str]:
    from sqstee.cli.sources import check_choice
    from sqstee.read.alerts import ALERTS, DEFAULT_ALERTS

    found = [word.strip() for word in text.split(",")] if text else list(DEFAULT_ALERTS)
    for word in found:
        check_choice(word, "--on", ALERTS, "alert")
    if "late" in found and not expected:
        raise SqsteeError("--on late needs --expect", "for example: --expect 'backup@*=24h'")
    return found


def _target(command: str, webhook: str) -> AlertCommand | AlertWebhook:
    from sqstee.read.alert_delivery import AlertCommand, AlertWebhook
    from sqstee.transports.webhook import Webhook

    if bool(command) == bool(webhook):
        problem = "--exec and --webhook exclude each other" if command else "an alert needs --exec or --webhook"
        raise SqsteeError(problem, "for example: sqstee alert --exec 'echo \"$SQSTEE_ALERT_TEXT\"'")
    if command:
        if "\0" in command:
            raise SqsteeError("a command cannot contain a NUL", "sqstee alert --help")
        return AlertCommand(command)
    try:
        return AlertWebhook(Webhook(webhook))
    except ValueError:
        hint = "the form is --webhook https://HOST/PATH, without a user and password"
        raise SqsteeError("invalid URL for --webhook", hint) from None  # most of them are secrets


def _default_memory(found: Sequence[Destination], target: str) -> str:
    """A file for these sources and this target, whose text may hold a secret."""
    import hashlib

    from sqstee.cli.sources import local_path
    from sqstee.spool.location import with_absolute_path

    folder = os.environ.get("XDG_STATE_HOME", "")
    if not folder and not os.environ.get("HOME"):
        raise SqsteeError("neither HOME nor XDG_STATE_HOME is set", "name a file to remember alerts in: --memory FILE")
    folder = folder or os.path.join(os.environ["HOME"], ".local", "state")
    names = [f"local:{local_path()}" if one.text == "local" else with_absolute_path(one.text) for one in found]
    text = "\0".join([*sorted(names), target])
    return os.path.join(folder, "sqstee", f"alert-{hashlib.sha256(os.fsencode(text)).hexdigest()[:16]}.db")


def _notice(text: str) -> None:
    from sqstee.fds import write_stderr
    from sqstee.text import one_line

    write_stderr(f"sqstee: {one_line(text)}\n")


class _Watched:
    """Sources that are watched: once, or until a signal comes."""

    def __init__(
        self, rules: AlertRules, memory: AlertMemory, delivery: AlertDelivery, stop: StopSignal, once: bool
    ) -> None:
        self._rules, self._memory, self._delivery = rules, memory, delivery
        self._stop, self._once = stop, once
        self._skips_past = not memory.moments and rules.since is None
        self.status = 0

    def run(
        self,
        stores: Sequence[str],
        others: Sequence[str],
        consume: bool,
        peek: bool,
        via_s3: Sequence[str],
        start_timeout: float,
    ) -> None:
        """Watch local stores by their rows of runs, and other sources by reading them."""
        from sqstee.read.alert_watch import LOOK_SECONDS, AlertWatch
        from sqstee.transports.local_store import RunWatch

        watch = AlertWatch(
            self._rules,
            self._memory,
            [RunWatch(path) for path in stores],
            _notice,
            has_table=bool(others),
            is_read_whole=self._once,
        )
        if not self._once:
            self._delivery.start()
        if others:
            self._follow(others, watch, consume, peek, via_s3, start_timeout)
        else:
            if self._skips_past:
                _notice("first start: earlier runs are not reported (--since 2h reports the last two hours)")
            self._tell(watch.look())
            while not self._once:
                self._stop.pause(LOOK_SECONDS)
                self._tell(watch.look())
        if self._once and not self._stop.signal:
            with self._stop.interruptible():
                self._delivery.tell_once()

    def _follow(
        self, texts: Sequence[str], watch: AlertWatch, consume: bool, peek: bool, via_s3: Sequence[str], start: float
    ) -> None:
        from sqstee.cli.run_sources import open_run_sources
        from sqstee.cli.sources import status_of
        from sqstee.read.alert_watch import WatchedRuns
        from sqstee.read.follower import Follower

        sources = open_run_sources(texts, self._stop, consume, peek, via_s3, start)
        is_whole = all(one.follows for one in sources.receivers)
        table = WatchedRuns(watch, self._tell, is_whole, _notice, self._memory if consume else None)
        follower = Follower(
            sources.receivers,
            table,
            self._stop,
            sources.consumed,
            from_start=is_whole,
            wait=1.0,
            records_only=True,
            start_timeout=start,
        )
        if self._once:
            follower.drain()
            table.look()
        else:
            follower.follow()
        self.status = status_of(follower)

    def _tell(self, alerts: Sequence[Alert]) -> None:
        """Tell these. Raises SqsteeError where the memory cannot be written any more."""
        if self._delivery.failure:
            raise self._delivery.failure
        if alerts:
            self._delivery.add(alerts)
