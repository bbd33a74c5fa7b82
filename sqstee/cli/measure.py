"""`sqstee measure`: how often does a queue deliver a message twice, and how late?"""

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
    processes: int = typer.Option(1, help="Processes that share the receivers (or the seeds of the model)."),
    mode: str = typer.Option("short,long", metavar="short,long", help="Normal polling, long polling, or both."),
    blocks: int = typer.Option(
        0, show_default=False, help="Blocks of each mode, each with a fresh queue (default: 4; the model: 1)."
    ),
    yes: bool = typer.Option(False, "--yes", help="Do not ask for confirmation of the cost."),
    rate: float = typer.Option(0.0, help="Messages sent per second (0: no limit)."),
    batch: int = typer.Option(10, help="Messages per send, 1 to 10; in the model, the most per receive."),
    size: int = typer.Option(128, help="Approximate bytes of a message."),
    senders: int = typer.Option(4, help="Parallel senders."),
    wait: str = typer.Option("20s", metavar="TIME", help="Wait time of a long poll."),
    pause: str = typer.Option("0s", metavar="TIME", help="Pause between two polls of a receiver."),
    settle: str = typer.Option("5s", metavar="TIME", help="End a block this long after the last delivery."),
    timeout: str = typer.Option("10m", metavar="TIME", help="Give a block up this long after its last send."),
    records: str = typer.Option("", metavar="DIR", help="Write the records here (default: sqstee-measure-ID)."),
    dynamodb: str = typer.Option("", metavar="TABLE", help="Keep the records in this DynamoDB table too."),
    ident: str = typer.Option("", "--id", metavar="ID", help="The experiment's name, for other hosts to join."),
    join: str = typer.Option("", metavar="ID", help="Only receive, in an experiment that another host conducts."),
    remove: str = typer.Option("", metavar="ID", help="Remove the queues that a killed experiment left behind."),
    report: bool = typer.Option(False, "--report", help="Report from record files, of one or several hosts."),
    histogram: str = typer.Option("", metavar="FILE.svg", help="Draw the gaps between message and duplicate."),
    output: str = typer.Option("text", "-o", "--output", metavar="text|json", help="The format of the report."),
    seed: int = typer.Option(0, help="Seed of the block order and the model (0: random; for the model, 1)."),
    simulate: bool = typer.Option(False, "--simulate", help="Simulate a queue instead of using one."),
    seeds: int = typer.Option(1, help="Simulate with this many seeds, beside the original's figures."),
    hosts: int = typer.Option(20, help="Model: hosts of a queue."),
    replicas: int = typer.Option(3, help="Model: hosts that hold a message."),
    sample: int = typer.Option(3, help="Model: hosts that a short poll asks."),
    miss: float = typer.Option(0.2, help="Model: probability that a long poll misses a host."),
    lag_probability: float = typer.Option(0.0025, help="Model: probability that replicas learn late of a claim."),
    lag_median: float = typer.Option(90.0, help="Model: median of that lag, ms."),
    lag_sigma: float = typer.Option(0.8, help="Model: sigma of that lag, lognormal."),
    interval: float = typer.Option(100.0, help="Model: mean time between a receiver's polls, ms."),
    plan: bool = typer.Option(False, "--plan", help="Compute the number of messages needed to find a difference."),
    ratio: float = typer.Option(2.0, help="Plan: ratio of the two rates."),
    power: float = typer.Option(0.8, help="Plan: probability of finding the difference."),
    alpha: float = typer.Option(0.05, help="Plan: probability of finding a difference where there is none."),
    base_ppm: float = typer.Option(20.0, help="Plan: the base rate, ppm (the original's long polling: 20)."),
) -> int:
    """Measure how often a queue delivers a message twice, and how late.

    Sends messages to fresh queues beside QUEUE, receives them with many receivers, and counts the duplicates.
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
        hint = "sqstee measure --plan --ratio 2 --power 0.8"
        raise SqsteeError(f"cannot plan the experiment: {error}", hint) from None
    cost = estimate(needed, 2, given["size"], given["batch"], bool(given["dynamodb"]))
    if given["output"] == "json":
        fields = {name: given[name] for name in ("base_ppm", "ratio", "power", "alpha")}
        typer.echo(json.dumps({**fields, "messages": needed, "dollars_low": cost.low, "dollars_high": cost.high}))
        return 0
    typer.echo(
        f"{needed:,} messages for each mode: with them, rates of {rate * 1e6:g} and {rate * ratio * 1e6:g} ppm\n"
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
        hint = "simulate with one seed: sqstee measure --simulate --seed 1"
        raise SqsteeError("--records and --histogram cannot be used with --seeds", hint)
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
    """A function that writes records into a file in this folder; without a folder it drops them."""
    from sqstee.measure.records import RecordFile

    if not folder:
        yield lambda records: None
        return
    try:
        os.makedirs(folder, exist_ok=True)
        file = RecordFile(os.path.join(folder, f"{header.id}.ndjson"))
    except OSError as error:
        hint = "choose another folder: --records DIR"
        raise SqsteeError(f"cannot write {error.filename}: {error.strerror}", hint, EXIT_FAILURE) from None
    try:
        yield file.write
    finally:
        file.close()
