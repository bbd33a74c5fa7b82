"""`sqstee stat`: what is queued, in flight, oldest, and spooled on this host."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.text import Text

    from sqstee.destination import Destination
    from sqstee.read.queue_trend import Gauge
    from sqstee.transports.base import Receiver

FORMATS = ("default", "json", "prometheus")
_WORDS = {"visible": "ready to be received", "in_flight": "with consumers", "delayed": "not to be received yet"}


def stat(
    dest: list[str] = typer.Argument(None, metavar="[DEST]…", help="What to look at (default: what --to would be)."),
    watch: bool = typer.Option(False, "--watch", help="Go on looking, until ^C."),
    interval: str = typer.Option("1s", "--interval", metavar="TIME", help="Between two looks; 0 for one look only."),
    cloudwatch: bool = typer.Option(False, "--cloudwatch", help="Ask CloudWatch too: oldest message, traffic."),
    shards: str = typer.Option("", "--shards", metavar="XX[-XX]", help="Of S3 this part of 00-ff only, as 00-7f."),
    output: str = typer.Option("default", "-o", "--output", metavar="default|json|prometheus", help="The form."),
    spool: str = typer.Option("", "--spool", metavar="DIR", help="The spool folder (default: as for run)."),
) -> int:
    """What is queued, in flight and dead; how fast, and until when; and what waits in this host's spool.

    Rates need two looks, an interval apart. A status of 1 says that a destination could not be asked.
    """
    from sqstee.cli.sources import check_shards, destinations, seconds_of
    from sqstee.read.stop_signal import Stop

    if output not in FORMATS:
        raise SqsteeError(f"{output!r} is not a form of output", f"the form is -o {'|'.join(FORMATS)}")
    seconds = seconds_of(interval, "--interval")
    found = destinations(dest)
    check_shards(shards, found)
    looks = [_Look(one, cloudwatch, shards) for one in found]
    with Stop() as stop:
        if watch and output == "default":
            _watch(looks, spool, max(0.2, seconds), stop)
        while not stop.signal:
            for look in looks:
                look.take()
            if seconds and not watch and _sleep(seconds, stop):
                for look in looks:
                    look.take()
            _print(looks, spool, output)
            if not watch or not _sleep(max(0.2, seconds), stop):
                break
    if stop.signal:
        return 0 if watch and stop.signal == signal.SIGINT else stop.status
    return EXIT_FAILURE if any(look.problem for look in looks) else 0


def _sleep(seconds: float, stop: object) -> bool:
    """Wait; whether nobody has asked to stop."""
    deadline = time.monotonic() + seconds
    while not getattr(stop, "signal", 0) and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(0.1, left))
    return not getattr(stop, "signal", 0)


class _Look:
    """One destination, looked at again and again."""

    def __init__(self, destination: Destination, cloudwatch: bool, shards: str) -> None:
        from sqstee.cli.sources import local_path
        from sqstee.read.queue_trend import Gauge
        from sqstee.transports.errors import TransportError
        from sqstee.transports.factory import open_receiver

        self.destination = destination
        self.gauge: Gauge = Gauge()
        self.problem = ""
        self.metrics: dict[str, float] = {}
        self._cloudwatch = cloudwatch
        self._dead: Receiver | None = None
        try:
            self._receiver: Receiver | None = open_receiver(destination, local_path(), shards=shards)
        except TransportError as error:
            self._receiver, self.problem = None, str(error)

    def take(self) -> None:
        """Take a sample."""
        from sqstee.transports.errors import TransportError

        if self._receiver is None:
            return
        try:
            state = self._receiver.stat()
            if self._cloudwatch and self.destination.kind == "sqs":
                self._ask_cloudwatch()
                state.oldest = self.metrics.get("oldest")
            self.gauge.add(time.monotonic(), state)
            self.problem = ""
        except TransportError as error:
            self.problem = str(error)
            return
        if state.dead_letter:
            self._look_at_dead(state.dead_letter)

    def _ask_cloudwatch(self) -> None:
        from sqstee.transports.cloudwatch import metrics

        self.metrics = metrics(self.destination)

    def _look_at_dead(self, arn: str) -> None:
        from sqstee.destination import parse
        from sqstee.transports.errors import TransportError
        from sqstee.transports.factory import open_receiver

        try:
            if self._dead is None:
                url, name = self.destination.url, arn.rpartition(":")[2]
                emulated = url and ".amazonaws." not in url
                self._dead = open_receiver(parse(f"{url.rpartition('/')[0]}/{name}" if emulated else arn), "")
            self.gauge.dead_letters = self._dead.stat().visible
        except (TransportError, SqsteeError):
            self.gauge.dead_letters = None  # one may look at a queue and not at its dead letters

    @property
    def fields(self) -> dict[str, object]:
        """For a program."""
        if self.problem or not self.gauge.history:
            return {"destination": self.destination.text, "problem": self.problem}
        gauge, state = self.gauge, self.gauge.state
        found: dict[str, object] = {"destination": self.destination.text}
        found |= {name: getattr(state, name) for name in state.__slots__ if getattr(state, name) not in (None, "")}
        derived = {
            "rate": gauge.rate,
            "seconds_to_empty": gauge.seconds_to_empty,
            "in_flight_share": gauge.in_flight_share,
            "dead_letters": gauge.dead_letters,
        }
        found |= {name: value for name, value in derived.items() if value is not None}
        if self.metrics:
            found["cloudwatch"] = self.metrics
        found["warnings"] = gauge.warnings()
        return found


def _spool(spool: str) -> dict[str, object]:
    """This host's spool: runs that wait, runs that are alive, records and bytes; and what its agent says."""
    from sqstee import options
    from sqstee.agent.advertisement import read_status
    from sqstee.spool.location import default_root
    from sqstee.spool.waiting import WaitingRun, waiting_runs

    settings = options.load((), os.environ)
    root = os.path.abspath(spool or settings.spool or default_root())
    runs = []
    for run in waiting_runs(root):
        try:
            runs.append(WaitingRun(root, run))
        except FileNotFoundError:
            pass  # shipped meanwhile
    return {
        "spool": root,
        "running": sum(run.alive for run in runs),
        "waiting": sum(not run.alive for run in runs),
        "records": sum(run.records for run in runs),
        "bytes": sum(run.bytes for run in runs),
        "agent": read_status(root),
    }


def _print(looks: Sequence[_Look], spool: str, output: str) -> None:
    if output == "json":
        import json

        for fields in (*(look.fields for look in looks), _spool(spool)):
            typer.echo(json.dumps(fields))
    elif output == "prometheus":
        typer.echo("\n".join(_prometheus(looks, _spool(spool))))
    else:
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True)
        console.print(_picture(looks, _spool(spool), 0))
        console.file.flush()


def _watch(looks: Sequence[_Look], spool: str, seconds: float, stop: object) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, screen=console.is_terminal, vertical_overflow="crop") as live:
        while True:
            for look in looks:
                look.take()
            live.update(_picture(looks, _spool(spool), _bars(console)), refresh=True)
            if not _sleep(seconds, stop):
                return


def _bars(console: Console) -> int:
    """How many bars of a sparkline fit."""
    return max(10, min(120, console.width - 20))


def _picture(looks: Sequence[_Look], spool: dict[str, object], bars: int) -> Text:
    from rich.text import Text

    text = Text(no_wrap=bars > 0, overflow="ellipsis")
    for look in looks:
        text.append(f"{look.destination.text}\n", "bold")
        if look.problem:
            text.append(f"  {look.problem}\n", "red")
        else:
            _block(text, look.gauge, look.metrics, bars)
        text.append("\n")
    text.append(f"spool {spool['spool']}\n", "bold")
    _row(text, "running", f"{spool['running']:,}", "runs that a wrapper is writing")
    _row(text, "waiting", f"{spool['waiting']:,}", "runs that sqstee flush ships")
    _row(text, "records", f"{spool['records']:,}", f"not acknowledged yet; {_size(int(str(spool['bytes'])))} on disk")
    agent = spool["agent"]
    if isinstance(agent, dict):
        did = f"{agent.get('records', '?')} records in {agent.get('requests', '?')} requests"
        _row(text, "agent", str(agent.get("pid", "?")), f"serves {agent.get('runs', '?')} runs; {did}")
    else:
        _row(text, "agent", "none", "each run ships for itself")
    text.rstrip()
    return text


def _row(text: Text, name: str, number: str, more: str = "", style: str = "") -> None:
    text.append(f"  {name:<13}")
    text.append(f"{number:>10}", style or "cyan")
    text.append(f"   {more}\n" if more else "\n", "dim")


def _block(text: Text, gauge: Gauge, metrics: dict[str, float], bars: int) -> None:
    from sqstee.read.printer import duration
    from sqstee.read.queue_trend import sparkline

    state = gauge.state
    _row(text, "visible", f"{state.visible:,}", _rate(gauge))
    if state.in_flight_limit:
        share = gauge.in_flight_share or 0.0
        _row(text, "in flight", f"{state.in_flight:,}", f"{share:.2%} of {state.in_flight_limit:,}")
        _row(text, "delayed", f"{state.delayed:,}")
    if state.bytes is not None:
        _row(text, "size", _size(state.bytes))
    if state.oldest is not None:
        limit = f"of {duration(state.retention)}" if state.retention else ""
        _row(text, "oldest", duration(round(state.oldest)), limit)
    for name in ("sent", "received", "deleted", "empty_receives"):
        if name in metrics:
            _row(text, name.replace("_", " "), f"{metrics[name]:,.0f}", "in the latest minute of CloudWatch")
    if gauge.dead_letters is not None and state.dead_letter:
        name = state.dead_letter.rpartition(":")[2]
        style = "red" if gauge.dead_letters else ""
        _row(text, "dead letters", f"{gauge.dead_letters:,}", f"in {name}, after {state.max_receives} receives", style)
    if bars:
        text.append("  history       ")
        text.append(f"{sparkline(gauge.history, bars)}\n", "cyan")
    for warning in gauge.warnings():
        text.append(f"  warning: {warning}\n", "yellow")


def _rate(gauge: Gauge) -> str:
    from sqstee.read.printer import duration

    if gauge.rate is None:
        return ""
    rate = f"{gauge.rate:+,.1f}/s" if abs(gauge.rate) >= 0.05 else "steady"
    left = gauge.seconds_to_empty
    return f"{rate}, empty in about {duration(round(left))}" if left is not None else rate


def _size(count: float) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while count >= 1024 and power < len(units) - 1:
        count /= 1024
        power += 1
    return f"{count:,.1f} {units[power]}" if power else f"{count:g} B"


def _prometheus(looks: Sequence[_Look], spool: dict[str, object]) -> list[str]:
    """The text exposition format of Prometheus, version 0.0.4, which has each sample once."""
    looks = list({look.destination.text: look for look in looks}.values())
    lines: list[str] = []
    names = ("visible", "in_flight", "delayed", "bytes", "oldest", "dead_letters", "in_flight_share", "retention")
    units = {"oldest": "_seconds", "retention": "_seconds"}
    for name in names:
        rows = [(look.destination.text, look.fields.get(name)) for look in looks]
        rows = [row for row in rows if isinstance(row[1], int | float)]
        if rows:
            metric = f"sqstee_queue_{name}{units.get(name, '')}"
            lines += [f"# HELP {metric} {_WORDS.get(name, name.replace('_', ' '))}", f"# TYPE {metric} gauge"]
            lines += [f'{metric}{{destination="{_label(text)}"}} {value}' for text, value in rows]
    lines += ["# HELP sqstee_up whether the destination could be asked", "# TYPE sqstee_up gauge"]
    lines += [f'sqstee_up{{destination="{_label(look.destination.text)}"}} {int(not look.problem)}' for look in looks]
    for name in ("running", "waiting", "records", "bytes"):
        lines += [f"# TYPE sqstee_spool_{name} gauge", f"sqstee_spool_{name} {spool[name]}"]
    lines += ["# TYPE sqstee_agent_up gauge", f"sqstee_agent_up {int(spool['agent'] is not None)}"]
    return lines


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
