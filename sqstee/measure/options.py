"""What the options of `sqstee measure` may be. Pure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from sqstee.destination import parse
from sqstee.errors import SqsteeError
from sqstee.measure.records import MODES
from sqstee.options import seconds_of

_DEFAULTS = {
    "messages": {"measure": 100_000, "simulate": 300_000},
    "receivers": {"measure": 20, "simulate": 300},
    "blocks": {"measure": 4, "simulate": 1},
}
_MOST_BLOCKS = 1000
_LEAST_DIFFERENCE = 0.02
_ID_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_MOST_ID = 16


def check(given: dict[str, Any]) -> None:
    """Refuse what cannot be, and set what was left to us; `given` are the options by their parameters' names."""
    what = "simulate" if given["simulate"] else "measure"
    for name, defaults in _DEFAULTS.items():
        given[name] = given[name] or defaults[what]
    if given["output"] not in ("text", "json"):
        raise SqsteeError(f"{given['output']!r} is not a form of output", "the form is -o text|json")
    chosen = [f"--{name}" for name in ("simulate", "plan", "report", "join", "remove") if given[name]]
    if len(chosen) > 1:
        raise SqsteeError(f"only one of {' and '.join(chosen)}", "see: sqstee measure --help")
    if given["histogram"] and not given["histogram"].endswith(".svg"):
        hint = "give a name that ends in .svg; rsvg-convert or a browser makes another format of it"
        raise SqsteeError(f"--histogram: {given['histogram']!r} is no SVG file", hint)
    for name in ("id", "join", "remove"):
        _check_id(name, given["ident" if name == "id" else name])
    given["modes"] = [name for name in MODES if name in given["mode"].split(",")]
    if not given["modes"] or len(given["modes"]) != len(given["mode"].split(",")):
        raise SqsteeError(f"--mode: {given['mode']!r} is not right", "the form is --mode short,long")
    if given["words"] and (given["plan"] or given["simulate"]):
        problem = f"--{'plan' if given['plan'] else 'simulate'} takes no queue"
        raise SqsteeError(problem, "the queue is only imagined")
    if abs(given["ratio"] - 1.0) < _LEAST_DIFFERENCE:
        hint = f"the ratio is below {1 - _LEAST_DIFFERENCE:g} or above {1 + _LEAST_DIFFERENCE:g}"
        raise SqsteeError("that cannot be planned: nobody can pay for so small a difference", hint)
    for name in ("wait", "pause", "settle", "timeout"):
        given[name] = seconds_of(given[name], f"--{name}")
    _check_numbers(given)


def _check_id(option: str, text: str) -> None:
    if len(text) > _MOST_ID or set(text) - _ID_LETTERS:
        raise SqsteeError(f"--{option}: {text!r} is not right", f"an ID is up to {_MOST_ID} of a-z and 0-9")


def _check_numbers(given: dict[str, Any]) -> None:
    """Each number within its bounds."""
    most = sys.maxsize
    bounds: dict[str, tuple[float, float]] = {
        "messages": (1, most),
        "receivers": (1, 100_000),
        "processes": (1, given["receivers"]),
        "blocks": (1, min(_MOST_BLOCKS, given["messages"])),
        "batch": (1, 10),
        "size": (1, 1024 * 1024 // given["batch"] if 1 <= given["batch"] <= 10 else most),
        "senders": (1, 1000),
        "rate": (0, most),
        "wait": (1, 20),
        "settle": (0.1, 3600),
        "seeds": (1, 10_000),
        "hosts": (1, 10_000),
        "replicas": (1, given["hosts"]),
        "sample": (1, given["hosts"]),
        "miss": (0, 0.99),
        "lag_probability": (0, 1),
        "lag_median": (0, most),
        "lag_sigma": (0, 10),
        "interval": (0.001, most),
        "base_ppm": (0.001, 100_000),
        "ratio": (0.001, 1000),
    }
    for name, (low, high) in bounds.items():
        if not low <= given[name] <= high:
            flag = name.replace("_", "-")
            raise SqsteeError(f"--{flag}: {given[name]:g} is not right", f"it is from {low:g} to {high:g}")


def queue_of(words: Sequence[str]) -> str:
    """The one queue that is named."""
    if len(words) != 1:
        problem = "no queue" if not words else "more than one queue"
        raise SqsteeError(problem, "the form is: sqstee measure QUEUE; without a queue: sqstee measure --simulate")
    destination = parse(words[0])
    if destination.kind != "sqs":
        raise SqsteeError(f"{words[0]!r} is no SQS queue", "give the name, URL or ARN of a queue")
    if destination.name.endswith(".fifo"):
        raise SqsteeError("a FIFO queue drops duplicates itself", "give the name of a standard queue")
    return words[0]
