"""`sqstee measure`: how often does a queue deliver twice, and how late?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError

if TYPE_CHECKING:
    from sqstee.measure.analyse import Arm
    from sqstee.measure.experiment import Progress, Settings
    from sqstee.measure.records import Experiment
    from sqstee.transports.base import TransportError


def measure(
    words: list[str] = typer.Argument(None, metavar="QUEUE|FILE", help="A queue; with --report, record files."),
    messages: int = typer.Option(
        0, show_default=False, help="Messages of each mode (default: 100,000; the model: 300,000)."
    ),
    receivers: int = typer.Option(
        0, show_default=False, help="Parallel receivers on this host (default: 20; the model: 300)."
    ),
    processes: int = typer.Option(1, help="Share the receivers among so many processes; the model's seeds as well."),
    mode: str = typer.Option("short,long", metavar="short,long", help="Normal polling, long polling, or both."),
    blocks: int = typer.Option(
        0, show_default=False, help="Blocks of each mode, each with a fresh queue (default: 4; the model: 1)."
    ),
    yes: bool = typer.Option(False, "--yes", help="Do not ask, whatever it costs."),
    rate: float = typer.Option(0.0, help="Messages sent a second (0: as fast as it goes)."),
    batch: int = typer.Option(10, help="Messages a send, 1 to 10; in the model the most of one receive."),
    size: int = typer.Option(128, help="Bytes of a message, about."),
    senders: int = typer.Option(4, help="Parallel senders."),
    wait: str = typer.Option("20s", metavar="TIME", help="How long a long poll waits."),
    pause: str = typer.Option("0s", metavar="TIME", help="Pause of a receiver between its polls."),
    settle: str = typer.Option("5s", metavar="TIME", help="How long receivers go on after the last delivery."),
    timeout: str = typer.Option("10m", metavar="TIME", help="The longest a block goes on after its last send."),
    records: str = typer.Option("", metavar="DIR", help="Where the records go (default: sqstee-measure-ID)."),
    dynamodb: str = typer.Option("", metavar="TABLE", help="Keep the records in this DynamoDB table too."),
    ident: str = typer.Option("", "--id", metavar="ID", help="The experiment's name, for others to join."),
    join: str = typer.Option("", metavar="ID", help="Only receive, in the experiment that another host conducts."),
    remove: str = typer.Option("", metavar="ID", help="Remove the queues that a killed experiment has left."),
    report: bool = typer.Option(False, "--report", help="Report from record files, of one or several hosts."),
    histogram: str = typer.Option("", metavar="FILE.svg", help="Draw the gaps between message and duplicate."),
    output: str = typer.Option("text", "-o", "--output", metavar="text|json", help="The form of the report."),
    seed: int = typer.Option(0, help="For the order of the blocks, and for the model (0: any; the model: 1)."),
    simulate: bool = typer.Option(False, "--simulate", help="No queue: a model of one."),
    seeds: int = typer.Option(1, help="Simulate with so many seeds, beside the original's figures."),
    hosts: int = typer.Option(20, help="The model: hosts of a queue."),
    replicas: int = typer.Option(3, help="The model: hosts that hold a message."),
    sample: int = typer.Option(3, help="The model: hosts that a short poll looks at."),
    miss: float = typer.Option(0.2, help="The model: how probably a long poll misses a host."),
    lag_probability: float = typer.Option(0.0025, help="The model: how probably a claim is late at the replicas."),
    lag_median: float = typer.Option(90.0, help="The model: median of that lag, ms."),
    lag_sigma: float = typer.Option(0.8, help="The model: sigma of that lag, lognormal."),
    interval: float = typer.Option(100.0, help="The model: mean time between a receiver's polls, ms."),
    plan: bool = typer.Option(False, "--plan", help="How many messages does it take to find a difference?"),
    ratio: float = typer.Option(2.0, help="The plan: the ratio of the two rates."),
    power: float = typer.Option(0.8, help="The plan: how probably the difference shall be found."),
    alpha: float = typer.Option(0.05, help="The plan: how probably one may be found that is none."),
    base_ppm: float = typer.Option(20.0, help="The plan: the one rate, ppm (the original's long polling: 20)."),
) -> int:
    """How often does a queue deliver twice, and how late?

    Sends messages to fresh queues beside QUEUE, receives them with many receivers, and counts what comes twice.
    """
    given = dict(locals())
    from sqstee.measure.options import check, queue_of

    check(given)
    if plan:
        return _plan(given)
    if simulate:
        return _simulate(given)
    if report:
        return _report(words or [], output, histogram)
    queue = queue_of(words or [])
    if remove:
        return _remove(queue, remove)
    return _measure(queue, given)


# -- the plan


def _plan(given: dict[str, Any]) -> int:
    import json

    from sqstee.measure.design import estimate
    from sqstee.measure.statistics import messages_needed

    rate, ratio = given["base_ppm"] / 1e6, given["ratio"]
    try:
        needed = messages_needed(rate, ratio, given["power"], given["alpha"])
    except ValueError as error:
        raise SqsteeError(f"that cannot be planned: it takes {error}", "as in --plan --ratio 2 --power 0.8") from None
    cost = estimate(needed, 2, given["size"], given["batch"], bool(given["dynamodb"]))
    if given["output"] == "json":
        fields = {name: given[name] for name in ("base_ppm", "ratio", "power", "alpha")}
        typer.echo(json.dumps({**fields, "messages": needed, "dollars_low": cost.low, "dollars_high": cost.high}))
        return 0
    typer.echo(
        f"{needed:,} messages for each mode: then rates of {rate * 1e6:g} and {rate * ratio * 1e6:g} ppm\n"
        f"are found to differ with a probability of {given['power']:g} (two-sided exact conditional test at "
        f"{given['alpha']:g}),\nwith about {needed * rate:,.0f} and {needed * rate * ratio:,.0f} duplicates. "
        f"Both modes cost {_dollars(cost)}."
    )
    return 0


def _dollars(cost: Any) -> str:
    low, high = (f"${value:.2f}" if value >= 0.1 else f"${value:.4f}" for value in (cost.low, cost.high))
    return f"{low} to {high}, and empty receives on top ($0.40 a million)"


# -- the model


def _simulate(given: dict[str, Any]) -> int:
    import multiprocessing

    seeds = [given["seed"] or 1]
    seeds = [seeds[0] + at for at in range(given["seeds"])]
    if len(seeds) == 1:
        header, arms = _simulated(given, seeds[0])
        return _show(header, arms, (), given["output"], given["histogram"])
    if given["records"] or given["histogram"]:
        raise SqsteeError("several seeds have no records and no histogram", "give one --seed")
    todo = [(given, seed) for seed in seeds]
    if given["processes"] == 1:
        reports = [_seed_figures(one) for one in todo]
    else:
        with multiprocessing.get_context("fork").Pool(given["processes"]) as pool:
            reports = pool.map(_seed_figures, todo, chunksize=1)
    _show_seeds(reports, seeds, given["output"])
    return 0


def _seed_figures(one: tuple[dict[str, Any], int]) -> dict[str, Any]:
    from sqstee.measure.report import figures

    return figures(*_simulated(*one))


def _simulated(given: dict[str, Any], seed: int) -> tuple[Experiment, list[Arm]]:
    """One simulated experiment, through the records of a measured one."""
    from sqstee.measure.analyse import analyse
    from sqstee.measure.simulate import Model, header_of, run

    names = ("receivers", "hosts", "replicas", "sample", "miss", "lag_probability", "lag_sigma", "batch")
    milliseconds = {name: given[name] / 1000.0 for name in ("lag_median", "interval")}
    model = Model(**{name: given[name] for name in names}, **milliseconds)
    header = header_of(model, given["modes"], given["blocks"], given["messages"], seed)
    with _file(given["records"], header) as write:
        return header, analyse(run(model, header, seed, write))


@contextmanager
def _file(folder: str, header: Experiment) -> Iterator[Callable[[Any], None]]:
    """What writes the records into a file of this folder; nothing where there is none."""
    from sqstee.measure.records import File

    if not folder:
        yield lambda records: None
        return
    try:
        os.makedirs(folder, exist_ok=True)
        file = File(os.path.join(folder, f"{header.id}.ndjson"))
    except OSError as error:
        raise SqsteeError(f"{error.filename}: {error.strerror}", "choose another --records DIR", EXIT_FAILURE) from None
    try:
        yield file.write
    finally:
        file.close()


# -- the experiment


def _remove(queue: str, ident: str) -> int:
    from sqstee.measure.join import remove
    from sqstee.transports.base import TransportError

    try:
        names = remove(queue, ident)
    except TransportError as error:
        raise _refused(queue, error) from None
    typer.echo("\n".join(f"removed {name}" for name in names) or f"there is no queue of an experiment {ident}")
    return 0


def _refused(queue: str, error: TransportError) -> SqsteeError:
    if error.code == "Records":
        return SqsteeError(error.message, "choose another --records DIR", EXIT_FAILURE)
    hint = "AWS_* variables and profiles work as for boto3"
    if "AccessDenied" in error.code:
        hint = (
            "it takes sqs:CreateQueue, DeleteQueue, GetQueueUrl, GetQueueAttributes, SendMessage, ReceiveMessage, "
            "DeleteMessage; to join or remove, ListQueues"
        )
    return SqsteeError(f"{queue}: {error}", hint, EXIT_FAILURE)


def _measure(queue: str, given: dict[str, Any]) -> int:
    """Conduct or join; report what there is, also when it was ended early or refused."""
    from sqstee.measure.experiment import Conductor
    from sqstee.measure.join import Joiner
    from sqstee.transports.base import TransportError

    settings = _settings(queue, given)
    if not given["join"]:
        _agree(settings, given["yes"])
    failure: Exception | None = None
    with _stopping() as stop, _bar(given["join"]) as show:
        try:
            host = (Joiner if given["join"] else Conductor)(settings, stop.event, show)
        except TransportError as error:
            raise _refused(queue, error) from None
        try:
            host.run()
        except (TransportError, SqsteeError) as error:
            failure = error
        try:
            host.close()
        except TransportError as error:
            failure = failure or error
    typer.echo(f"records in {settings.folder}", err=True)
    if not given["join"] and not isinstance(failure, SqsteeError):
        _report(host.paths(), given["output"], given["histogram"])
    left = getattr(host, "left", [])
    if left and failure is None:
        hint = f"sqstee measure {queue} --remove {settings.id}"
        raise SqsteeError(f"{', '.join(left)} could not be removed", hint, EXIT_FAILURE)
    if left:
        typer.echo(f"left behind: {', '.join(left)}; --remove {settings.id} removes them", err=True)
    if isinstance(failure, TransportError):
        raise _refused(queue, failure) from None
    if failure:
        raise failure
    return 128 + stop.number if stop.number else 0


def _settings(queue: str, given: dict[str, Any]) -> Settings:
    import random
    import secrets

    from sqstee.measure.design import schedule
    from sqstee.measure.experiment import Settings
    from sqstee.measure.receivers import Polling
    from sqstee.measure.sender import Sending

    ident = given["join"] or given["ident"] or secrets.token_hex(4)
    rng = random.Random(given["seed"] or None)
    order = () if given["join"] else schedule(given["modes"], given["blocks"], given["messages"], rng)
    return Settings(
        queue=queue,
        id=ident,
        messages=given["messages"],
        schedule=tuple(order),
        polling=Polling(given["receivers"], given["wait"], given["pause"]),
        sending=Sending(given["senders"], given["batch"], given["size"], given["rate"]),
        processes=given["processes"],
        settle=given["settle"],
        timeout=given["timeout"],
        folder=os.path.abspath(given["records"] or f"sqstee-measure-{ident}"),
        table=given["dynamodb"],
    )


def _agree(settings: Settings, yes: bool) -> None:
    """Say what it will do and cost, and have it agreed to."""
    from sqstee.measure.design import estimate

    sending = settings.sending
    arms = len({mode for mode, _ in settings.schedule})
    cost = estimate(settings.messages, arms, sending.size, sending.batch, bool(settings.table))
    typer.echo(
        f"experiment {settings.id}: {settings.messages:,} messages for each mode ({arms}), in "
        f"{len(settings.schedule)} blocks, each with a queue of its own that is removed at its end;\n"
        f"it costs {_dollars(cost)}. Other hosts can join with --join {settings.id}",
        err=True,
    )
    if yes:
        return
    if not sys.stdin.isatty():
        raise SqsteeError("it costs money, and there is no terminal to ask at", "add --yes")
    if not typer.confirm("Go on?", err=True):
        raise SqsteeError("nothing was done", "", EXIT_FAILURE)


class _Stop:
    """The event that ends an experiment early, and the signal that asked for it."""

    def __init__(self) -> None:
        import threading

        self.event = threading.Event()
        self.number = 0

    def __call__(self, number: int, frame: object) -> None:
        """A signal handler: a second signal changes nothing, since the queues are being removed."""
        self.number = self.number or number
        self.event.set()


@contextmanager
def _stopping() -> Iterator[_Stop]:
    """From here on ^C, TERM and HUP end the experiment cleanly."""
    import signal

    stop = _Stop()
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, stop) for number in numbers if number not in ignored}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bar(joined: str) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    from sqstee.cli.progress import NARROW_BELOW

    console = Console(stderr=True)
    if joined:
        yield lambda progress: typer.echo(f"receiving in block {progress.block}, {progress.mode}", err=True)
        return
    if not console.is_terminal:
        yield lambda progress: None
        return
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}")]
    narrow = console.width < NARROW_BELOW
    if narrow:
        del columns[1]
    with Bar(*columns, console=console, refresh_per_second=5) as bar:
        task = bar.add_task("", total=None, counts="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                description=f"block {progress.block} of {progress.blocks}, {progress.mode}",
                total=progress.messages,
                completed=progress.received,
                counts=_counts(progress, narrow),
            )

        yield show


def _counts(progress: Progress, narrow: bool) -> str:
    if narrow:
        return f"{progress.received:,}/{progress.messages:,}"
    return f"sent {progress.sent:,}  received {progress.received:,}  again {progress.again:,}"


# -- the report


def _report(paths: list[str], output: str, histogram: str) -> int:
    from sqstee.measure.analyse import analyse
    from sqstee.measure.records import Reader

    if not paths:
        raise SqsteeError("no record files", "the form is: sqstee measure --report FILE…")
    reader = Reader(paths)
    return _show(reader.experiment, analyse(reader.blocks()), reader.torn, output, histogram)


def _show(header: Experiment, arms: Sequence[Arm], torn: Sequence[str], output: str, histogram: str) -> int:
    import json

    from sqstee.measure.report import figures, text

    found = figures(header, arms, torn)
    typer.echo(json.dumps(found, indent=2) if output == "json" else text(found))
    if histogram:
        _draw(header, arms, histogram)
    return 0


def _draw(header: Experiment, arms: Sequence[Arm], path: str) -> None:
    from sqstee.measure.histogram import svg

    what = "a simulation" if header.simulated else header.queue
    picture = svg({arm.mode: [gap * 1000.0 for gap in arm.gaps] for arm in arms}, f"Gaps to duplicates, {what}")
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(picture)
    except OSError as error:
        raise SqsteeError(f"{path}: {error.strerror}", "choose another --histogram FILE.svg", EXIT_FAILURE) from None


def _show_seeds(reports: Sequence[dict[str, Any]], seeds: Sequence[int], output: str) -> None:
    import json

    from sqstee.measure.report import seeds_text

    typer.echo(json.dumps(reports, indent=2) if output == "json" else seeds_text(reports, seeds))
