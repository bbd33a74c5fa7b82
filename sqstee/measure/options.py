"""The options of `sqstee measure`, checked. Pure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from sqstee.destination import parse
from sqstee.errors import SqsteeError
from sqstee.measure.records import MODES
from sqstee.option_values import seconds_of

_DEFAULTS = {
    "messages": {"measure": 100_000, "simulate": 300_000},
    "receivers": {"measure": 20, "simulate": 300},
    "blocks": {"measure": 4, "simulate": 1},
}
_MOST_BLOCKS = 1000
_LEAST_DIFFERENCE = 0.02
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_MOST_ID = 16
_HELP = "sqstee measure --help"


def check(given: dict[str, Any]) -> None:
    """Refuse invalid options, and fill in the defaults; `given` has the options by the names of their parameters."""
    kind = "simulate" if given["simulate"] else "measure"
    for name, defaults in _DEFAULTS.items():
        given[name] = given[name] or defaults[kind]
    if given["output"] not in ("text", "json"):
        raise _invalid("--output", given["output"], "text or json")
    chosen = [f"--{name}" for name in ("simulate", "plan", "report", "join", "remove") if given[name]]
    if len(chosen) > 1:
        raise SqsteeError(f"only one of {' and '.join(chosen)} can be given", _HELP)
    if given["histogram"] and not given["histogram"].endswith(".svg"):
        hint = "write an SVG file, and convert it: rsvg-convert gaps.svg -o gaps.png"
        raise _invalid("--histogram", given["histogram"], "a name that ends in .svg", hint)
    for name in ("id", "join", "remove"):
        _check_id(name, given["ident" if name == "id" else name])
    given["modes"] = [name for name in MODES if name in given["mode"].split(",")]
    if not given["modes"] or len(given["modes"]) != len(given["mode"].split(",")):
        raise _invalid("--mode", given["mode"], "short, long, or short,long")
    if given["words"] and (given["plan"] or given["simulate"]):
        flag = "--plan" if given["plan"] else "--simulate"
        raise SqsteeError(f"{flag} takes no queue", f"sqstee measure {flag}")
    if abs(given["ratio"] - 1.0) < _LEAST_DIFFERENCE:
        bounds = f"below {1 - _LEAST_DIFFERENCE:g} or above {1 + _LEAST_DIFFERENCE:g}"
        hint = "a smaller difference would take too many messages; for example: sqstee measure --plan --ratio 2"
        raise _invalid("--ratio", f"{given['ratio']:g}", f"a ratio {bounds}", hint)
    for name in ("wait", "pause", "settle", "timeout"):
        given[name] = seconds_of(given[name], f"--{name}")
    _check_numbers(given)


def _invalid(flag: str, text: str, expected: str, hint: str = _HELP) -> SqsteeError:
    return SqsteeError(f"invalid value {text!r} for {flag} (expected {expected})", hint)


def _check_id(option: str, text: str) -> None:
    if len(text) > _MOST_ID or set(text) - _ID_CHARACTERS:
        raise _invalid(f"--{option}", text, f"up to {_MOST_ID} characters of a-z and 0-9")


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
            raise _invalid(f"--{name.replace('_', '-')}", f"{given[name]:g}", f"{low:g} to {high:g}")


def queue_of(words: Sequence[str]) -> str:
    """The only argument, the name of a standard queue; raises SqsteeError."""
    if len(words) != 1:
        problem = "no queue given" if not words else "more than one queue given"
        raise SqsteeError(problem, "sqstee measure QUEUE, or without a queue: sqstee measure --simulate")
    destination = parse(words[0])
    if destination.kind != "sqs":
        raise SqsteeError(f"{words[0]!r} is not an SQS queue", "give the name, URL or ARN of a queue")
    if destination.name.endswith(".fifo"):
        raise SqsteeError("a FIFO queue drops duplicates itself", "give the name of a standard queue")
    return words[0]
