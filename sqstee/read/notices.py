"""Notices beside the lines: lines that are missing, late, dropped by the sender, or lost. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqstee.read.decode import ForeignLine, Item
from sqstee.read.order import Gap, Late, Missing
from sqstee.text import count, one_line, short_name
from sqstee.wire import Event, elsewhere


class NoticeSink(Protocol):
    """Accepts notices."""

    def notice(self, text: str, **fields: object) -> None:
        """Accept a notice: a text for people, fields for programs."""


class ItemSink(NoticeSink, Protocol):
    """Accepts items in their order: a printer, or the table of runs."""

    def items(self, items: Sequence[Item | ForeignLine], late: bool = False) -> None:
        """Accept items; `late` ones belong before items that were accepted already."""

    def flush(self) -> None:
        """Write everything; raises OSError where that fails."""


ANOTHER_READER = "another reader may have received the missing lines"
_SHARED = "; another reader of the queue may have received them"


def report_missing(sink: NoticeSink, hole: Missing, shared: bool) -> None:
    """Report lines that have not arrived so far; `shared`: a message that another reader receives never arrives."""
    more = f", waited {hole.age:.1f} s{_SHARED if shared else ''}"
    _report(sink, "missing so far", more, "missing", hole, age_s=round(hole.age, 3))


def report_late(sink: NoticeSink, lines: Late[Item]) -> None:
    """Report lines that arrived after their successors were shown."""
    _report(sink, "arrived late", "", "late", lines)


def report_gap(sink: NoticeSink, gap: Gap[Item]) -> None:
    """Report lines that the sender had to drop, or sent to its fallback."""
    assert isinstance(gap.item, Event)
    reason = str(gap.item.fields.get("reason", ""))
    if at := elsewhere(gap.item.fields):
        _report(sink, f"went to {at}", ": read that destination as well", "gap", gap, reason=reason, at=at)
        return
    _report(sink, "dropped by the sender", f": {one_line(gap.item.message or reason)}", "gap", gap, reason=reason)


def report_lost(sink: NoticeSink, run: str, first: int, last: int) -> None:
    """Report lines that will never arrive."""
    why = f": the run has ended, and the queue is empty{_SHARED}"
    _report(sink, "lost", why, "lost", Missing(run, first, last, 0.0))


def _report(
    sink: NoticeSink, what: str, more: str, kind: str, span: Missing | Late[Item] | Gap[Item], **fields: object
) -> None:
    seqs = f"seq {span.first}" if span.first == span.last else f"seq {span.first}-{span.last}"
    text = f"{count(span.last - span.first + 1, 'line')} {what} in run {short_name(span.run)} ({seqs}){more}"
    sink.notice(text, kind=kind, run=span.run, first=span.first, last=span.last, **fields)
