"""Text for people: one line, printable, without credentials. Pure."""

from __future__ import annotations

_MOST_CHARACTERS = 400
_LONGEST_NAME = 100  # characters; a host's name has 64 at most
# SignatureDoesNotMatch goes on with the request's headers after these words, including the session token.
_CANONICAL = "The Canonical String"


def one_line(text: str) -> str:
    """Foreign text (of a server or library, or a path) on one line of bounded length, without terminal escapes.

    Secrets that must not get into a log are removed: the user and password of a URL, and the request headers that SQS
    repeats when it refuses a signature.
    """
    text = " ".join(text.partition(_CANONICAL)[0].split())
    text = without_userinfo("".join(char if char.isprintable() else "\ufffd" for char in text))
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def short_name(name: str) -> str:
    """A name from another host (of a host, run, job or stream) as it is shown: neutral, of bounded length."""
    if len(name) <= _LONGEST_NAME and name.isprintable():
        return name
    shown = "".join(char if char.isprintable() else "\ufffd" for char in name[:_LONGEST_NAME])
    return shown if len(name) <= _LONGEST_NAME else f"{shown}…"


def without_userinfo(text: str) -> str:
    """`text` with the user and password of each URL removed (a password may hold any character but blanks)."""
    head, *rest = text.split("://")
    return "://".join((head, *(_behind_userinfo(part) for part in rest)))


def _behind_userinfo(part: str) -> str:
    """The text after a `://` without userinfo, which ends at the last @ of the first word."""
    word = part.split(maxsplit=1)[0] if part[:1].strip() else ""
    return part[word.rfind("@") + 1 :]


def count(number: int, noun: str) -> str:
    """`1 line`, `2,000 lines`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
