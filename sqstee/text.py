"""Text for people: one line, printable, without credentials. Pure."""

from __future__ import annotations

_MOST_CHARACTERS = 400
# What SQS adds to SignatureDoesNotMatch: the request's headers, a session token among them.
_CANONICAL = "The Canonical String"


def one_line(text: str) -> str:
    """Somebody's words (a server's, a library's, a path) on one line, without what a terminal would obey.

    Bounded in length, and without what must not get into a log: the user and password of a URL, and the request's
    headers that SQS repeats when it refuses a signature.
    """
    text = " ".join(text.partition(_CANONICAL)[0].split())
    text = without_userinfo("".join(char if char.isprintable() else "\ufffd" for char in text))
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def without_userinfo(text: str) -> str:
    """Every `://user:password@` without its user and password (a password may hold any character but blanks)."""
    head, *rest = text.split("://")
    return "://".join((head, *(_behind_userinfo(part) for part in rest)))


def _behind_userinfo(part: str) -> str:
    """What follows `://`, without userinfo: up to the last @ of its first word."""
    word = part.split(maxsplit=1)[0] if part[:1].strip() else ""
    return part[word.rfind("@") + 1 :]


def count(number: int, noun: str) -> str:
    """`1 line`, `2,000 lines`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
