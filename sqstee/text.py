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
    """`text` without the user and password of each URL in it (a password may hold any character but blanks)."""
    return " ".join(map(masked_url, text.split(" ")))


def masked_url(url: str) -> str:
    """A URL or destination, which may be mistyped, without its user and password."""
    head, separator, rest = url.partition("://")
    if separator:
        authority, slash, path = rest.partition("/")
        rest = authority.replace("%40", "@") + slash + path  # an @ that was encoded by mistake
        return f"{head}{separator}{rest[rest.rfind('@') + 1 :]}"
    before, at, behind = url.rpartition("@")
    is_arn = "arn:" in before  # of a session that is named after an e-mail address
    return f"…@{behind}" if at and ":" in before and not is_arn else url


def count(number: int, noun: str) -> str:
    """`1 line`, `2,000 lines`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def columns_of(text: str) -> int:
    """The columns that a text takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def aligned(text: str, columns: int, is_number: bool = False) -> str:
    """A text in exactly `columns` columns of a terminal: cut, or padded with blanks, which precede a number."""
    size = columns_of(text)
    if size > columns:
        text, size = _cut(text, columns - 1), columns
    padding = " " * (columns - size)
    return f"{padding}{text}" if is_number else f"{text}{padding}"


def _cut(text: str, columns: int) -> str:
    """The first `columns` columns of a text, and an ellipsis; a blank replaces half of a wide character."""
    if text.isascii():
        return f"{text[:columns]}…"
    size = 0
    for at, char in enumerate(text):
        size += _columns_of(char)
        if size > columns:
            return f"{text[:at]}…{' ' * (columns - size + _columns_of(char))}"
    return text


def _columns_of(char: str) -> int:
    from unicodedata import combining, east_asian_width

    return 0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1
