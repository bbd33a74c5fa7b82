"""`sqstee measure`: how often does a queue deliver twice, and how late?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError

if TYPE_CHECKING:
    from sqstee.measure.analyse import Arm
    from sqstee.measure.records import Experiment


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
    from sqstee.cli.measure_report import report as report_of
    from sqstee.cli.measure_run import conduct, remove_left
    from sqstee.measure.options import check, queue_of

    check(given)
    if plan:
        return _plan(given)
    if simulate:
        return _simulate(given)
    if report:
        return report_of(words or [], output, histogram)
    queue = queue_of(words or [])
    if remove:
        return remove_left(queue, remove)
    return conduct(queue, given)


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
        f"Both modes cost {cost}."
    )
    return 0


def _simulate(given: dict[str, Any]) -> int:
    import multiprocessing

    from sqstee.cli.measure_report import show, show_seeds

    seeds = [given["seed"] or 1]
    seeds = [seeds[0] + at for at in range(given["seeds"])]
    if len(seeds) == 1:
        header, arms = _simulated(given, seeds[0])
        return show(header, arms, (), given["output"], given["histogram"])
    if given["records"] or given["histogram"]:
        raise SqsteeError("several seeds have no records and no histogram", "give one --seed")
    todo = [(given, seed) for seed in seeds]
    if given["processes"] == 1:
        reports = [_seed_figures(one) for one in todo]
    else:
        with multiprocessing.get_context("fork").Pool(given["processes"]) as pool:
            reports = pool.map(_seed_figures, todo, chunksize=1)
    show_seeds(reports, seeds, given["output"])
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
    from sqstee.measure.records import RecordFile

    if not folder:
        yield lambda records: None
        return
    try:
        os.makedirs(folder, exist_ok=True)
        file = RecordFile(os.path.join(folder, f"{header.id}.ndjson"))
    except OSError as error:
        raise SqsteeError(f"{error.filename}: {error.strerror}", "choose another --records DIR", EXIT_FAILURE) from None
    try:
        yield file.write
    finally:
        file.close()
