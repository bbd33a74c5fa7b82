"""Converters from text to an option's value: sizes, times, rates, switches and names. Pure.

A converter raises ValueError with the form that it expects, such as "a time such as 10s": messages quote it.
"""

from __future__ import annotations

from sqstee.errors import SqsteeError, closest, invalid_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_TIMES = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPELLED_UNITS = ("sec", "second", "min", "minute", "hr", "hour", "day", "kb", "mb", "gb", "kib", "mib", "gib")
LONGEST_SECONDS = 365 * 24 * 3600.0


def size(text: str) -> int:
    """Bytes, from a whole number and optionally K, M or G (powers of 1024)."""
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    number = text[: len(text) - len(unit)]
    if unit not in _SIZES or not (number.isascii() and number.isdigit()) or int(number) == 0:
        raise ValueError("a size such as 256K, 4M, 1G")
    return int(number) * _SIZES[unit]


def size_text(number: int) -> str:
    """The inverse of `size`, in the largest unit that leaves a whole number."""
    for unit in ("G", "M", "K"):
        if number % _SIZES[unit] == 0:
            return f"{number // _SIZES[unit]}{unit}"
    return str(number)


def duration(text: str) -> float:
    """Seconds, from a number and optionally s, m, h or d; at most a year."""
    unit = text[-1:] if text[-1:].isalpha() else ""
    number = text[: len(text) - len(unit)]
    if unit not in _TIMES or not (number.isascii() and number.replace(".", "", 1).isdigit()):
        raise ValueError("a time such as 10s, 5m, 1h")
    seconds = float(number) * _TIMES[unit]
    if seconds > LONGEST_SECONDS:
        raise ValueError(f"at most {LONGEST_SECONDS / _TIMES['d']:.0f}d")
    return seconds


def interval(text: str) -> float:
    """As `duration`, but 0 or at least a second."""
    seconds = duration(text)
    if 0 < seconds < 1:
        raise ValueError("0, or at least 1s")
    return seconds


def rate(text: str) -> tuple[int, float]:
    """A number of lines, and the seconds of the period in which that many are allowed."""
    number, _, unit = text.partition("/")
    is_number = number.isascii() and number.isdigit() and len(number) <= 12
    if not unit or unit not in _TIMES or not is_number or int(number) == 0:
        raise ValueError("a rate such as 1000/s, 100/m")
    return int(number), _TIMES[unit]


def seconds_of(text: str, flag: str) -> float:
    """The seconds of a verb's TIME option; raises SqsteeError that names the flag."""
    try:
        return duration(text)
    except ValueError as error:
        raise invalid_value(text, flag, str(error), f"the form is {flag} TIME", near_value(text, duration)) from None


def near_value(text: str, convert: Callable[[str], object], choices: str = "") -> str:
    """The value that was probably meant by one that `convert` refuses: a choice, or a number with a unit of ours.

    `choices` are separated by `|`. Empty if there is none.
    """
    if guess := closest(text, choices.split("|")):
        return guess
    compact = text.replace(" ", "")
    if not compact[:1].isdigit():
        return ""
    unit = compact.lstrip("0123456789.").lower()
    number = compact[: len(compact) - len(unit)]
    candidates = [compact, f"{compact}/s"]
    if unit == "ms" and number.isdigit():
        candidates = [f"{int(number) / 1000:g}s"]
    elif unit.rstrip("s") in _SPELLED_UNITS:
        candidates = [number + (unit[0].upper() if unit.endswith("b") else unit[0])]
    for candidate in candidates:
        try:
            convert(candidate)
        except (ValueError, SqsteeError):
            continue
        return candidate
    return ""


def switch(text: str) -> bool:
    """On or off, as an environment variable or a configuration key gives it."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("", "0", "false", "no", "off"):
        return False
    raise ValueError("true or false")


def label(text: str) -> str:
    """KEY=VALUE."""
    if not text.partition("=")[0] or "=" not in text:
        raise ValueError("KEY=VALUE")
    return text


def one_of(*words: str) -> Callable[[str], str]:
    """A converter that accepts only these words."""

    def convert(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return convert


def size_within(smallest: int = 1, largest: int = 0) -> Callable[[str], int]:
    """A converter of sizes with a lower and, unless it is 0, an upper bound."""

    def convert(text: str) -> int:
        found = size(text)
        if found < smallest:
            raise ValueError(f"at least {size_text(smallest)}")
        if largest and found > largest:
            raise ValueError(f"at most {size_text(largest)}")
        return found

    return convert


def host(text: str) -> str:
    """A host name that fits a message attribute: printable, and short enough to leave room for lines."""
    if not text or len(text) > 255 or not text.isprintable():
        raise ValueError("1 to 255 printable characters")
    return text


def filled(text: str) -> str:
    """Any text that is not empty."""
    if not text:
        raise ValueError("a value that is not empty")
    return text


def destination(text: str) -> str:
    from sqstee.destination import parse

    return parse(text).text


def bucket(text: str) -> str:
    from sqstee.destination import parse

    if parse(text).kind != "s3":
        raise ValueError("s3://BUCKET/PREFIX")
    return text


def group(text: str) -> str:
    """A message group id: 1 to 128 letters, digits and punctuation (SQS API reference, SendMessage)."""
    if not (0 < len(text) <= 128 and text.isascii() and text.isprintable() and " " not in text):
        raise ValueError("1 to 128 letters, digits and punctuation characters")
    return text
