"""`sqstee stat`: messages queued, in flight and dead, the oldest one, and this host's spool."""

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
    from sqstee.read.queue_trend import QueueTrend
    from sqstee.transports.base import Receiver

FORMATS = ("default", "json", "prometheus")
_HELP = {"visible": "ready to be received", "in_flight": "with consumers", "delayed": "not to be received yet"}


def stat(
    dest: list[str] = typer.Argument(None, metavar="[DEST]…", help="Where to look (default: as --to of run)."),
    watch: bool = typer.Option(False, "--watch", help="Update the view until ^C."),
    interval: str = typer.Option("1s", "--interval", metavar="TIME", help="Between two samples; 0 takes only one."),
    cloudwatch: bool = typer.Option(False, "--cloudwatch", help="Also ask CloudWatch: oldest message, traffic."),
    shards: str = typer.Option(
        "", "--shards", metavar="XX[-XX]", help="With s3://: read only these of the shards 00-ff."
    ),
    output: str = typer.Option(
        "default", "-o", "--output", metavar="default|json|prometheus", help="The output format."
    ),
    spool: str = typer.Option("", "--spool", metavar="DIR", help="The spool folder (default: as for run)."),
) -> int:
    """Messages queued, in flight and dead; their rate and the time to empty; runs waiting in this host's spool.

    A rate needs two samples, an interval apart. The exit status is 1 where a destination could not be queried.
    """
    from sqstee.cli.sources import check_choice, check_shards, destinations, parse_seconds
    from sqstee.read.stop_signal import StopSignal

    check_choice(output, "-o", FORMATS, "stat")
    seconds = parse_seconds(interval, "--interval")
    found = destinations(dest)
    check_shards(shards, found)
    probes = [_QueueProbe(one, cloudwatch, shards) for one in found]
    with StopSignal() as stop:
        if watch and output == "default":
            _watch(probes, spool, max(0.2, seconds), stop)
        while not stop.signal:
            for probe in probes:
                probe.sample()
            if seconds and not watch and _sleep(seconds, stop):
                for probe in probes:
                    probe.sample()
            _print(probes, spool, output)
            if not watch or not _sleep(max(0.2, seconds), stop):
                break
    if stop.signal:
        return 0 if watch and stop.signal == signal.SIGINT else stop.status
    return EXIT_FAILURE if any(probe.problem for probe in probes) else 0


def _sleep(seconds: float, stop: object) -> bool:
    """Wait; False where a signal asked to stop. Raises BrokenPipeError where nobody reads stdout any more."""
    from sqstee.read.printer import check_reader

    deadline = time.monotonic() + seconds
    while not getattr(stop, "signal", 0) and (left := deadline - time.monotonic()) > 0:
        check_reader(1)
        time.sleep(min(0.1, left))
    return not getattr(stop, "signal", 0)


class _QueueProbe:
    """Samples one destination."""

    def __init__(self, destination: Destination, cloudwatch: bool, shards: str) -> None:
        from sqstee.cli.sources import local_path
        from sqstee.read.queue_trend import QueueTrend
        from sqstee.transports.errors import TransportError
        from sqstee.transports.factory import open_receiver

        self.destination = destination
        self.trend = QueueTrend()
        self.problem = ""
        self.metrics: dict[str, float] = {}
        self._cloudwatch = cloudwatch
        self._dead: Receiver | None = None
        try:
            self._receiver: Receiver | None = open_receiver(destination, local_path(), shards=shards)
        except TransportError as error:
            self._receiver, self.problem = None, str(error)

    def sample(self) -> None:
        """Add a sample to the trend."""
        from sqstee.transports.errors import TransportError

        if self._receiver is None:
            return
        try:
            state = self._receiver.stat()
            if self._cloudwatch and self.destination.kind == "sqs":
                self._query_cloudwatch()
                state.oldest = self.metrics.get("oldest")
            self.trend.add(time.monotonic(), state)
            self.problem = ""
        except TransportError as error:
            self.problem = str(error)
            return
        if state.dead_letter:
            self._count_dead_letters(state.dead_letter)

    def _query_cloudwatch(self) -> None:
        from sqstee.transports.cloudwatch import metrics

        self.metrics = metrics(self.destination)

    def _count_dead_letters(self, arn: str) -> None:
        from sqstee.destination import parse
        from sqstee.transports.errors import TransportError
        from sqstee.transports.factory import open_receiver

        try:
            if self._dead is None:
                url, name = self.destination.url, arn.rpartition(":")[2]
                emulated = url and ".amazonaws." not in url
                self._dead = open_receiver(parse(f"{url.rpartition('/')[0]}/{name}" if emulated else arn), "")
            self.trend.dead_letters = self._dead.stat().visible
        except (TransportError, SqsteeError):
            self.trend.dead_letters = None  # the dead-letter queue may be denied to us

    @property
    def fields(self) -> dict[str, object]:
        """For programs."""
        if self.problem or not self.trend.history:
            return {"destination": self.destination.text, "problem": self.problem}
        trend, state = self.trend, self.trend.state
        found: dict[str, object] = {"destination": self.destination.text}
        found |= {name: getattr(state, name) for name in state.__slots__ if getattr(state, name) not in (None, "")}
        derived = {
            "rate": trend.rate,
            "seconds_to_empty": trend.seconds_to_empty,
            "in_flight_share": trend.in_flight_share,
            "dead_letters": trend.dead_letters,
        }
        found |= {name: value for name, value in derived.items() if value is not None}
        if self.metrics:
            found["cloudwatch"] = self.metrics
        found["warnings"] = trend.warnings()
        return found


def _spool(spool: str) -> dict[str, object]:
    """This host's spool: waiting and running runs, records and bytes, and the status of its agent."""
    from sqstee.agent.advertisement import read_status
    from sqstee.settings import load_settings
    from sqstee.spool import agent_file
    from sqstee.spool.location import existing_roots
    from sqstee.spool.waiting import WaitingRun, waiting_runs

    settings = load_settings((), os.environ)
    roots = existing_roots(spool or settings.spool)
    runs = []
    for root in roots:
        for run in waiting_runs(root):
            try:
                runs.append(WaitingRun(root, run))
            except FileNotFoundError:
                pass  # shipped meanwhile
    files = [path for root in roots for path in agent_file.files(root)]
    return {
        "spool": ", ".join(roots),
        "running": sum(run.alive for run in runs),
        "waiting": sum(not run.alive for run in runs),
        "records": sum(run.records for run in runs),
        "bytes": sum(run.bytes for run in runs),
        "agent": next((found for path in files if (found := read_status(path)) is not None), None),
    }


def _print(probes: Sequence[_QueueProbe], spool: str, output: str) -> None:
    if output == "json":
        import json

        for fields in (*(probe.fields for probe in probes), _spool(spool)):
            typer.echo(json.dumps(fields))
    elif output == "prometheus":
        typer.echo("\n".join(_prometheus(probes, _spool(spool))))
    else:
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True)
        console.print(_render(probes, _spool(spool), 0))
        console.file.flush()


def _watch(probes: Sequence[_QueueProbe], spool: str, seconds: float, stop: object) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, screen=console.is_terminal, vertical_overflow="crop") as live:
        while True:
            for probe in probes:
                probe.sample()
            live.update(_render(probes, _spool(spool), _bars(console)), refresh=True)
            if not _sleep(seconds, stop):
                return


def _bars(console: Console) -> int:
    """The number of bars of a sparkline that fit."""
    return max(10, min(120, console.width - 20))


def _render(probes: Sequence[_QueueProbe], spool: dict[str, object], bars: int) -> Text:
    from rich.text import Text

    text = Text(no_wrap=bars > 0, overflow="ellipsis")
    for probe in probes:
        text.append(f"{probe.destination.text}\n", "bold")
        if probe.problem:
            text.append(f"  {probe.problem}\n", "red")
        else:
            _add_queue(text, probe.trend, probe.metrics, bars)
        text.append("\n")
    text.append(f"spool {spool['spool']}\n", "bold")
    _add_row(text, "running", f"{spool['running']:,}", "runs whose command is running")
    _add_row(text, "waiting", f"{spool['waiting']:,}", "runs for sqstee flush to ship")
    _add_row(text, "records", f"{spool['records']:,}", f"not acknowledged; {_size(int(str(spool['bytes'])))} on disk")
    agent = spool["agent"]
    if isinstance(agent, dict):
        did = f"{agent.get('records', '?')} records in {agent.get('requests', '?')} requests"
        _add_row(text, "agent", str(agent.get("pid", "?")), f"serves {agent.get('runs', '?')} runs; {did}")
    else:
        _add_row(text, "agent", "none", "nor a shared shipper")
    text.rstrip()
    return text


def _add_row(text: Text, name: str, number: str, more: str = "", style: str = "") -> None:
    text.append(f"  {name:<13}")
    text.append(f"{number:>10}", style or "cyan")
    text.append(f"   {more}\n" if more else "\n", "dim")


def _add_queue(text: Text, trend: QueueTrend, metrics: dict[str, float], bars: int) -> None:
    from sqstee.read.printer import format_duration
    from sqstee.read.queue_trend import sparkline

    state = trend.state
    _add_row(text, "visible", f"{state.visible:,}", _rate(trend))
    if state.in_flight_limit:
        share = trend.in_flight_share or 0.0
        _add_row(text, "in flight", f"{state.in_flight:,}", f"{share:.2%} of {state.in_flight_limit:,}")
        _add_row(text, "delayed", f"{state.delayed:,}")
    if state.bytes is not None:
        _add_row(text, "size", _size(state.bytes))
    if state.oldest is not None:
        limit = f"of {format_duration(state.retention)}" if state.retention else ""
        _add_row(text, "oldest", format_duration(round(state.oldest)), limit)
    for name in ("sent", "received", "deleted", "empty_receives"):
        if name in metrics:
            _add_row(text, name.replace("_", " "), f"{metrics[name]:,.0f}", "in CloudWatch's latest minute")
    if trend.dead_letters is not None and state.dead_letter:
        name = state.dead_letter.rpartition(":")[2]
        style = "red" if trend.dead_letters else ""
        _add_row(
            text, "dead letters", f"{trend.dead_letters:,}", f"in {name}, after {state.max_receives} receives", style
        )
    if bars:
        text.append("  history       ")
        text.append(f"{sparkline(trend.history, bars)}\n", "cyan")
    for warning in trend.warnings():
        text.append(f"  warning: {warning}\n", "yellow")


def _rate(trend: QueueTrend) -> str:
    from sqstee.read.printer import format_duration

    if trend.rate is None:
        return ""
    rate = f"{trend.rate:+,.1f}/s" if abs(trend.rate) >= 0.05 else "steady"
    left = trend.seconds_to_empty
    return f"{rate}, empty in about {format_duration(round(left))}" if left is not None else rate


def _size(count: float) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while count >= 1024 and power < len(units) - 1:
        count /= 1024
        power += 1
    return f"{count:,.1f} {units[power]}" if power else f"{count:g} B"


def _prometheus(probes: Sequence[_QueueProbe], spool: dict[str, object]) -> list[str]:
    """Prometheus' text exposition format, version 0.0.4, which allows each sample only once."""
    probes = list({probe.destination.text: probe for probe in probes}.values())
    lines: list[str] = []
    names = ("visible", "in_flight", "delayed", "bytes", "oldest", "dead_letters", "in_flight_share", "retention")
    units = {"oldest": "_seconds", "retention": "_seconds"}
    for name in names:
        rows = [(probe.destination.text, probe.fields.get(name)) for probe in probes]
        rows = [row for row in rows if isinstance(row[1], int | float)]
        if rows:
            metric = f"sqstee_queue_{name}{units.get(name, '')}"
            lines += [f"# HELP {metric} {_HELP.get(name, name.replace('_', ' '))}", f"# TYPE {metric} gauge"]
            lines += [f'{metric}{{destination="{_label(text)}"}} {value}' for text, value in rows]
    lines += ["# HELP sqstee_up whether the destination could be queried", "# TYPE sqstee_up gauge"]
    lines += [
        f'sqstee_up{{destination="{_label(probe.destination.text)}"}} {int(not probe.problem)}' for probe in probes
    ]
    for name in ("running", "waiting", "records", "bytes"):
        lines += [f"# TYPE sqstee_spool_{name} gauge", f"sqstee_spool_{name} {spool[name]}"]
    lines += ["# TYPE sqstee_agent_up gauge", f"sqstee_agent_up {int(spool['agent'] is not None)}"]
    return lines


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
