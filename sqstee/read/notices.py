"""What is said about the lines beside them: what is missing, late, dropped by the sender, or lost. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqstee.read.decode import Foreign, Item
from sqstee.read.order import Gap, Late, Missing
from sqstee.wire import Event


class Speaker(Protocol):
    """Who says things beside the lines."""

    def remark(self, text: str, **fields: object) -> None:
        """Take a remark about what was read."""


class Sink(Speaker, Protocol):
    """Where items go in their order: a printer, a board, the rest that a filter leaves."""

    def items(self, items: Sequence[Item | Foreign], late: bool = False) -> None:
        """Take items; `late` ones belong further up."""

    def flush(self) -> None:
        """Have everything written; raises OSError where that fails."""


def missing(speaker: Speaker, hole: Missing) -> None:
    """Lines that have not come so far."""
    text = f"{_lines(hole.first, hole.last)} missing so far {_of(hole)}, waited for {hole.age:.1f} s"
    _say(speaker, text, "missing", hole, age_s=round(hole.age, 3))


def late(speaker: Speaker, lines: Late[Item]) -> None:
    """Lines that have come after those above them."""
    _say(speaker, f"{_lines(lines.first, lines.last)} came late {_of(lines)}", "late", lines)


def gap(speaker: Speaker, found: Gap[Item]) -> None:
    """Lines that the sender had to drop."""
    assert isinstance(found.item, Event)
    reason = str(found.item.fields.get("reason", ""))
    count = _lines(found.first, found.last)
    text = f"{count} dropped by the sender {_of(found)}: {found.item.message or reason}"
    _say(speaker, text, "gap", found, reason=reason)


def lost(speaker: Speaker, run: str, first: int, last: int) -> None:
    """Lines that will not come any more."""
    hole = Missing(run, first, last, 0.0)
    _say(speaker, f"{_lines(first, last)} lost {_of(hole)}: the run has ended, and the queue is empty", "lost", hole)


def _say(speaker: Speaker, text: str, kind: str, span: Missing | Late[Item] | Gap[Item], **more: object) -> None:
    speaker.remark(text, kind=kind, run=span.run, first=span.first, last=span.last, **more)


def _lines(first: int, last: int) -> str:
    return f"{last - first + 1} line{'s' if last > first else ''}"


def _of(span: Missing | Late[Item] | Gap[Item]) -> str:
    seqs = f"seq {span.first}" if span.first == span.last else f"seq {span.first}-{span.last}"
    return f"of run {span.run} ({seqs})"
