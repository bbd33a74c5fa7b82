"""The report of an experiment: its figures as data, and as text. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqstee.measure.analyse import CLASSES, Arm
from sqstee.measure.records import Experiment
from sqstee.measure.statistics import compare, dispersion, percentile, poisson_interval

ORIGINAL = {  # duplicates by the number of messages received, as published in 2013
    "short": {100_000: 10, 200_000: 14, 300_000: 29},
    "long": {100_000: 3, 200_000: 5, 300_000: 6},
}
ORIGINAL_GAPS = "7 to 796 ms, mean 119 ms"
CHANCE_NOTE = "Counts of this size differ by chance from seed to seed; --seeds shows by how much."
_NAMES = {"short": "normal polling", "long": "long polling"}
_GAP_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_CHECKPOINTS = 3
_DOUBTFUL = 0.05

MODEL_NOTE = "The model is an illustration, fitted to two figures of the original; it does not show how SQS works."
CROWDING_NOTE = (
    "The model starts with the whole backlog, and its duplicates crowd at the end, when many receivers compete for the "
    "last copies; the original sent while it received and had no such end. So the earlier cells are not reproduced."
)


def figures(experiment: Experiment, arms: Sequence[Arm], torn: Sequence[str] = ()) -> dict[str, Any]:
    """The whole report as a JSON object; rates in ppm of the messages received, times in ms."""
    found: dict[str, Any] = {
        "experiment": experiment.id,
        "queue": experiment.queue,
        "simulated": experiment.simulated,
        "parameters": experiment.parameters,
        "blocks": list(experiment.blocks),
        "modes": {arm.mode: _mode(arm) for arm in arms},
        "comparison": _comparison(arms),
        "table": table(arms),
    }
    found["notes"] = list(_notes(found, torn))
    return found


def _mode(arm: Arm) -> dict[str, Any]:
    low, high = poisson_interval(arm.duplicates)
    spread = dispersion([count for _, count in arm.blocks], [size for size, _ in arm.blocks])
    calls = arm.sends + arm.receives + arm.deletes
    return {
        "messages": arm.messages,
        "sent": arm.sent,
        "not_received": arm.lost,
        "duplicates": arm.duplicates,
        "ppm": _ppm(arm.duplicates, arm.messages),
        "ppm_low": _ppm(low, arm.messages),
        "ppm_high": _ppm(high, arm.messages),
        "classes": {name: arm.classes[name] for name in CLASSES},
        "producer_duplicates": arm.producer,
        "counted_by_sqs": arm.recounted,
        "gap_ms": _times(arm.gaps),
        "delay_ms": _times(arm.delays),
        "sends": arm.sends,
        "receives": arm.receives,
        "empty_receives": arm.empty,
        "deletes": arm.deletes,
        "errors": arm.errors,
        "calls_a_message": calls / arm.messages if arm.messages and arm.sends else None,
        "blocks": [{"messages": size, "duplicates": count} for size, count in arm.blocks],
        "incomplete_blocks": arm.incomplete,
        "dispersion": {"index": spread.index, "p": spread.p} if spread else None,
    }


def _ppm(count: float, messages: int) -> float | None:
    return count / messages * 1e6 if messages else None


def _times(seconds: Iterable[float]) -> dict[str, float] | None:
    ordered = sorted(seconds)
    if not ordered:
        return None
    found = {"min": ordered[0], "mean": math.fsum(ordered) / len(ordered)}
    found |= {name: percentile(ordered, share) for name, share in _GAP_SHARES.items()}
    found["max"] = ordered[-1]
    return {name: value * 1000.0 for name, value in found.items()}


def _comparison(arms: Sequence[Arm]) -> dict[str, Any] | None:
    if len(arms) != 2:
        return None
    a, b = arms
    result = compare(a.duplicates, a.messages, b.duplicates, b.messages)
    if result is None:
        return None
    high = result.high if math.isfinite(result.high) else None
    return {"of": a.mode, "to": b.mode, "ratio": result.ratio, "low": result.low, "high": high, "p": result.p}


def table(arms: Sequence[Arm]) -> list[dict[str, int | None]]:
    """The original's layout: duplicates of each mode after a third, two thirds and all of the messages.

    The original published three rows without saying whether they are one run; here they are checkpoints of one run.
    """
    most = max((arm.messages for arm in arms), default=0)
    rows = sorted({most * at // _CHECKPOINTS for at in range(1, _CHECKPOINTS + 1)} - {0})
    return [
        {"messages": row, **{arm.mode: arm.until(row) if arm.messages >= row else None for arm in arms}} for row in rows
    ]


def _notes(found: Mapping[str, Any], torn: Sequence[str]) -> Iterable[str]:
    """The caveats about the figures."""
    for mode, arm in found["modes"].items():
        if arm["incomplete_blocks"]:
            yield f"{mode}: {arm['incomplete_blocks']} of {len(arm['blocks'])} blocks did not run to their end"
        if arm["not_received"]:
            yield f"{mode}: {arm['not_received']:,} messages were not received before their block ended"
        spread = arm["dispersion"]
        if spread and spread["p"] < _DOUBTFUL:
            yield (
                f"{mode}: the counts of the blocks vary more than Poisson counts do (variance / mean "
                f"{spread['index']:.1f}, p = {number(spread['p'])}): the interval is too narrow"
            )
    for path in torn:
        yield f"{path}: the last line is torn and was ignored"
    if found["simulated"]:
        yield MODEL_NOTE
        missed = unreproduced([found["table"]])
        if missed:
            yield _missed(missed)


def _missed(cells: Sequence[str]) -> str:
    """The note on the cells that a simulation misses, with the reason."""
    early = any(f"at {max(ORIGINAL['short']):,}" not in cell for cell in cells)
    return f"Not reproduced: {'; '.join(cells)}. {CROWDING_NOTE if early else CHANCE_NOTE}"


def unreproduced(tables: Sequence[Sequence[Mapping[str, int | None]]]) -> list[str]:
    """The original's cells outside the range of several simulations, or rejected by the exact test for a single one."""
    missed = []
    for mode, cells in ORIGINAL.items():
        for messages, original in cells.items():
            got = [row[mode] for rows in tables for row in rows if row["messages"] == messages and mode in row]
            counts = [count for count in got if count is not None]
            if not counts:
                continue
            result = compare(original, messages, counts[0], messages)
            alone = len(counts) == 1 and result is not None and result.p < _DOUBTFUL
            if alone or (len(counts) > 1 and not min(counts) <= original <= max(counts)):
                span = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)}-{max(counts)}"
                missed.append(f"{_NAMES[mode]} at {messages:,} ({original}, here {span})")
    return missed


# -- text


def number(value: float | None) -> str:
    """A figure in three digits, or in all digits of its integer part."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align rows in columns: the first column to the left, the others to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "   ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def text(found: Mapping[str, Any]) -> str:
    """The whole report as text."""
    place = "simulated" if found["simulated"] else f"on queues beside {found['queue']}"
    lines = [f"experiment {found['experiment']}, {place}; blocks: {' '.join(found['blocks'])}", ""]
    if not found["modes"]:
        return "\n".join([*lines, "no messages received", ""])
    lines += columns(list(_rows(found["modes"])))
    lines += ["", *_compared(found["comparison"], found["modes"]), "", *_table_lines(found["table"], found["modes"])]
    lines += ["", *(f"note: {note}" for note in found["notes"])] if found["notes"] else []
    return "\n".join(lines)


def _rows(modes: Mapping[str, Any]) -> Iterable[list[str]]:
    arms = list(modes.values())
    yield ["", *(_NAMES[mode] for mode in modes)]
    yield ["messages received", *(f"{arm['messages']:,}" for arm in arms)]
    yield ["duplicates", *(f"{arm['duplicates']:,}" for arm in arms)]
    yield ["  ppm", *(number(arm["ppm"]) for arm in arms)]
    yield ["  95% interval", *(f"{number(arm['ppm_low'])} to {number(arm['ppm_high'])}" for arm in arms)]
    for name in CLASSES:
        yield [f"  {name}", *(f"{arm['classes'][name]:,}" for arm in arms)]
    yield ["  SQS's own receive count above 1", *(f"{arm['counted_by_sqs']:,}" for arm in arms)]
    yield ["sent twice by the producer", *(f"{arm['producer_duplicates']:,}" for arm in arms)]
    for key, name in (("gap_ms", "gap to the duplicate"), ("delay_ms", "delivery delay")):
        if not any(arm[key] for arm in arms):
            continue
        for part in ("min", "mean", "p50", "p90", "p99", "max"):
            yield [f"{name}, {part}, ms", *(number((arm[key] or {}).get(part)) for arm in arms)]
    yield ["receives", *(f"{arm['receives']:,}" for arm in arms)]
    yield ["  empty", *(f"{arm['empty_receives']:,}" for arm in arms)]
    if any(arm["calls_a_message"] for arm in arms):
        yield ["calls per message", *(number(arm["calls_a_message"]) for arm in arms)]
    yield ["errors", *(f"{arm['errors']:,}" for arm in arms)]


def _compared(found: Mapping[str, Any] | None, modes: Mapping[str, Any]) -> list[str]:
    if found is None:
        return ["no duplicates to compare"] if len(modes) == 2 else []
    high = "infinity" if found["high"] is None else number(found["high"])
    ratio = "without an upper end" if found["ratio"] is None else number(found["ratio"])
    return [
        f"{_NAMES[found['of']]} against {_NAMES[found['to']]}: ratio {ratio} "
        f"(95% {number(found['low'])} to {high}), p = {p_value(found['p'])} (exact conditional binomial test)"
    ]


def p_value(p: float) -> str:
    """p in two significant digits."""
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.1e}"


def _table_lines(rows: Sequence[Mapping[str, int | None]], modes: Mapping[str, Any]) -> list[str]:
    """Duplicates by messages and mode, beside the original's."""
    kinds = {mode: name.partition(" ")[0] for mode, name in _NAMES.items()}
    head = ["duplicates within", *(kinds[mode] for mode in modes), *(f"{kinds[mode]}, original" for mode in ORIGINAL)]
    body = []
    for row, published in zip(rows[-_CHECKPOINTS:], (100_000, 200_000, 300_000), strict=False):
        cells = ["-" if row[mode] is None else f"{row[mode]:,}" for mode in modes]
        original = [f"{ORIGINAL[mode][published]} of {published // 1000}k" for mode in ORIGINAL]
        body.append([f"{row['messages']:,} messages", *cells, *original])
    return [*columns([head, *body]), f"gaps of the original: {ORIGINAL_GAPS}"]


def _means(reports: Sequence[Mapping[str, Any]], mode: str) -> Iterable[str]:
    """The mean of each column over all seeds; that of the gaps over all duplicates."""
    for rows in zip(*(report["table"] for report in reports), strict=True):
        yield number(math.fsum(row[mode] for row in rows) / len(rows))
    arms = [report["modes"][mode] for report in reports if report["modes"][mode]["gap_ms"]]
    total = math.fsum(arm["gap_ms"]["mean"] * arm["duplicates"] for arm in arms)
    yield number(total / sum(arm["duplicates"] for arm in arms) if arms else None)


def _seeds_of(mode: str, reports: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[str]:
    """A table of one mode: duplicates at the checkpoints, and the mean gap in ms, for each seed and the original."""
    checkpoints = [row["messages"] for row in reports[0]["table"]]
    heads = [f"{mode} {row // 1000}k" if row % 1000 == 0 else f"{mode} {row}" for row in checkpoints]
    rows = [["seed", *heads, f"{mode} gap"]]
    for seed, report in zip(seeds, reports, strict=True):
        gap = number((report["modes"][mode]["gap_ms"] or {}).get("mean"))
        rows.append([str(seed), *(str(row[mode]) for row in report["table"]), gap])
    if len(reports) > 1:
        rows.append(["mean", *_means(reports, mode)])
    rows.append(["original", *(str(ORIGINAL[mode].get(row, "-")) for row in checkpoints), "119 (both)"])
    return columns(rows)


def seeds_text(reports: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """Several simulations beside the original, as text: a table for each mode, which fits into 80 columns."""
    lines = [line for mode in reports[0]["modes"] for line in (*_seeds_of(mode, reports, seeds), "")]
    lines.append(f"note: {MODEL_NOTE}")
    missed = unreproduced([report["table"] for report in reports])
    if missed:
        lines.append(f"note: {_missed(missed)}")
    return "\n".join(lines)
