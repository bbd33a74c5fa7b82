"""What `sqstee measure` tells at its end: the report of record files or of a model, and the histogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError

if TYPE_CHECKING:
    from sqstee.measure.analyse import Arm
    from sqstee.measure.records import Experiment


def report(paths: list[str], output: str, histogram: str) -> int:
    """Report from record files."""
    from sqstee.measure.analyse import analyse
    from sqstee.measure.records import RecordReader

    if not paths:
        raise SqsteeError("no record files", "the form is: sqstee measure --report FILE…")
    reader = RecordReader(paths)
    return show(reader.experiment, analyse(reader.blocks()), reader.torn, output, histogram)


def show(header: Experiment, arms: Sequence[Arm], torn: Sequence[str], output: str, histogram: str) -> int:
    """Say what was found, and draw it where a file is named."""
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


def show_seeds(reports: Sequence[dict[str, Any]], seeds: Sequence[int], output: str) -> None:
    """Say what the model gives with several seeds, beside the figures of the original."""
    import json

    from sqstee.measure.report import seeds_text

    typer.echo(json.dumps(reports, indent=2) if output == "json" else seeds_text(reports, seeds))
