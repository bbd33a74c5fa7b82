"""`sqstee measure QUEUE`: conduct an experiment, join one, or delete the queues of a killed one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError

if TYPE_CHECKING:
    from sqstee.measure.experiment import BlockProgress, ExperimentSettings
    from sqstee.transports.errors import TransportError


def remove_left(queue: str, ident: str) -> int:
    """Delete the queues that a killed experiment left behind."""
    from sqstee.measure.join import remove
    from sqstee.transports.errors import TransportError

    try:
        names = remove(queue, ident)
    except TransportError as error:
        raise _refused(queue, error) from None
    typer.echo("\n".join(f"removed {name}" for name in names) or f"experiment {ident} has no queues")
    return 0


def _refused(queue: str, error: TransportError) -> SqsteeError:
    if error.code == "Records":
        return SqsteeError(error.message, "choose another folder: --records DIR", EXIT_FAILURE)
    hint = f"sqstee check {queue}"
    if "AccessDenied" in error.code:
        hint = (
            "allow sqs:CreateQueue, DeleteQueue, GetQueueUrl, GetQueueAttributes, SendMessage, ReceiveMessage and "
            "DeleteMessage; for --join and --remove, ListQueues as well"
        )
    return SqsteeError(f"{queue}: {error}", hint, EXIT_FAILURE)


def conduct(queue: str, given: dict[str, Any]) -> int:
    """Conduct or join an experiment, and report the records, even if it ended early or SQS refused."""
    from sqstee.cli.measure_report import report
    from sqstee.measure.experiment import Conductor
    from sqstee.measure.join import Joiner
    from sqstee.transports.errors import TransportError

    settings = _settings(queue, given)
    if not given["join"]:
        _confirm(settings, given["yes"])
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
        report(host.paths(), given["output"], given["histogram"])
    left = getattr(host, "left", [])
    if left and failure is None:
        hint = f"sqstee measure {queue} --remove {settings.id}"
        raise SqsteeError(f"cannot remove {', '.join(left)}", hint, EXIT_FAILURE)
    if left:
        typer.echo(f"left behind: {', '.join(left)}; sqstee measure {queue} --remove {settings.id}", err=True)
    if isinstance(failure, TransportError):
        raise _refused(queue, failure) from None
    if failure:
        raise failure
    return 128 + stop.number if stop.number else 0


def _settings(queue: str, given: dict[str, Any]) -> ExperimentSettings:
    import random
    import secrets

    from sqstee.measure.design import schedule
    from sqstee.measure.experiment import ExperimentSettings
    from sqstee.measure.receivers import Polling
    from sqstee.measure.sender import Sending

    ident = given["join"] or given["ident"] or secrets.token_hex(4)
    rng = random.Random(given["seed"] or None)
    order = () if given["join"] else schedule(given["modes"], given["blocks"], given["messages"], rng)
    return ExperimentSettings(
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


def _confirm(settings: ExperimentSettings, yes: bool) -> None:
    """Print the plan and its cost, and ask for confirmation."""
    from sqstee.measure.design import estimate

    sending = settings.sending
    arms = len({mode for mode, _ in settings.schedule})
    cost = estimate(settings.messages, arms, sending.size, sending.batch, bool(settings.table))
    typer.echo(
        f"experiment {settings.id}: {settings.messages:,} messages for each mode ({arms}), in "
        f"{len(settings.schedule)} blocks, each on a queue of its own that is removed after the block;\n"
        f"it costs {cost}. On other hosts, join it: sqstee measure {settings.queue} --join {settings.id}",
        err=True,
    )
    if yes:
        return
    if not sys.stdin.isatty():
        raise SqsteeError("the experiment costs money, and there is no terminal to confirm it", "add --yes")
    if not typer.confirm("Go on?", err=True):
        raise SqsteeError("cancelled", "", EXIT_FAILURE)


class _Stop:
    """The event that ends an experiment early, and the number of the signal that set it."""

    def __init__(self) -> None:
        import threading

        self.event = threading.Event()
        self.number = 0

    def __call__(self, number: int, frame: object) -> None:
        """Handle a signal; a second one changes nothing, since the queues are being removed."""
        self.number = self.number or number
        self.event.set()


@contextmanager
def _stopping() -> Iterator[_Stop]:
    """Within this context, ^C, TERM and HUP end the experiment cleanly."""
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
def _bar(joined: str) -> Iterator[Callable[[BlockProgress], None]]:
    """A function that shows the progress: as a bar, on a terminal only."""
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

        def show(progress: BlockProgress) -> None:
            bar.update(
                task,
                description=f"block {progress.block} of {progress.blocks}, {progress.mode}",
                total=progress.messages,
                completed=progress.received,
                counts=_counts(progress, narrow),
            )

        yield show


def _counts(progress: BlockProgress, narrow: bool) -> str:
    if narrow:
        return f"{progress.received:,}/{progress.messages:,}"
    return f"sent {progress.sent:,}  received {progress.received:,}  again {progress.again:,}"
