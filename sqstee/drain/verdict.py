"""The verdict on one run at the end of a drain. Pure."""

from __future__ import annotations

from typing import Any

from sqstee.record import timestamp
from sqstee.run_summary import RunSummary

_MOST_RANGES = 20  # ranges of missing seqs that a verdict names


class Verdict:
    """The verdict on one run: `fields` is its object in `runs.ndjson` and in `drain -o json`.

    `verdict` in it is complete, missing (lines never came, or were dropped in an ended run) or open; `state` is that of
    `sqstee runs` at the time of the drain. `open`: the event that ends it has not come. `duplicates` counts the seqs
    that came again in this drain, `fallbacks` the lines that went to each other destination, `heard` is the time of
    the last record, by the sender's clock. `files` are relative to the folder.
    """

    __slots__ = ("fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    @classmethod
    def of(cls, summary: RunSummary, duplicates: int, layout: str, files: list[str], now: float) -> Verdict:
        """The verdict on a run of which `summary` is known, at `now` in seconds since the epoch."""
        fields = summary.fields(now, float("inf"))
        gapped = summary.dropped + summary.elsewhere
        is_missing = summary.missing or (gapped and summary.is_ended)
        fields["verdict"] = "missing" if is_missing else "complete" if summary.is_ended else "open"
        fields["missing_ranges"] = summary.missing_ranges(_MOST_RANGES)
        fields["fallbacks"] = {at: lines.size for at, lines in summary.gaps.items() if at and lines.size}
        for name in ("version", "heartbeat_s", "cause"):
            if value := getattr(summary, name):
                fields[name] = value
        if summary.heard:
            fields["heard"] = timestamp(round(summary.heard * 1e6) * 1000)
        fields |= {"open": not summary.is_ended, "duplicates": duplicates, "layout": layout, "files": files}
        return cls(fields)

    @property
    def run(self) -> str:
        """The run's id."""
        return str(self.fields["run"])

    @property
    def outcome(self) -> str:
        """complete, missing or open."""
        return str(self.fields["verdict"])

    @property
    def is_failed(self) -> bool:
        """Whether the command did not succeed."""
        return bool(self.fields["state"] == "failed")

    @property
    def lines(self) -> int:
        """The lines of all streams."""
        return int(sum(self.fields["lines"].values()))

    @property
    def missing(self) -> int:
        """The number of seqs that never came."""
        return int(self.fields["missing"])

    @property
    def gapped(self) -> int:
        """The number of seqs that only a gap event of the sender covers."""
        return int(self.fields["dropped"]) + int(self.fields["elsewhere"])

    @property
    def duplicates(self) -> int:
        """The number of seqs that came again."""
        return int(self.fields["duplicates"])

    @property
    def result(self) -> str:
        """How the command ended, if known."""
        return str(self.fields["result"])
