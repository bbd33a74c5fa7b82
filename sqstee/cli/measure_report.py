"""The report that `sqstee measure` prints, of record files or of a model, and the histogram."""

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
        raise SqsteeError("no record files given", "sqstee measure --report sqstee-measure-ID/*.ndjson")
    reader = RecordReader(paths)
    return show(reader.experiment, analyse(reader.blocks()), reader.torn, output, histogram)


def show(header: Experiment, arms: Sequence[Arm], torn: Sequence[str], output: str, histogram: str) -> int:
    """Print the report, and draw the histogram if a file is given for it."""
    import json

    from sqstee.measure.report import figures, text

    found = figures(header, arms, torn)
    typer.echo(json.dumps(found, indent=2) if output == "json" else text(found))
    if histogram:
        _draw(header, arms, histogram)
    return 0


def _draw(header: Experiment, arms: Sequence[Arm], path: str) -> None:
    from sqstee.measure.histogram import svg

    source = "a simulation" if header.simulated else header.queue
    picture = svg({arm.mode: [gap * 1000.0 for gap in arm.gaps] for arm in arms}, f"Gaps to duplicates, {source}")
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(picture)
    except OSError as error:
        hint = "choose another file: --histogram FILE.svg"
        raise SqsteeError(f"cannot write {path}: {error.strerror}", hint, EXIT_FAILURE) from None


def show_seeds(reports: Sequence[dict[str, Any]], seeds: Sequence[int], output: str) -> None:
    """Print the figures of the model with several seeds, beside those of the original."""
    import json

    from sqstee.measure.report import seeds_text

    typer.echo(json.dumps(reports, indent=2) if output == "json" else seeds_text(reports, seeds))
