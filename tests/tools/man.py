"""The generated parts of the manual pages, in man(7)."""

from __future__ import annotations

import textwrap

from program import Flag, Verb, exit_statuses, verbs

from sqstee import auto_labels
from sqstee.options import RUN_OPTIONS


def sections() -> dict[str, str]:
    """The text of each generated section of sqstee(1), by its name."""
    return {
        "OPTIONS": _options(),
        "COMMANDS": "".join(map(_command, verbs()[1:])),
        "EXIT STATUS": "".join(f".TP\n.B {status}\n{text(_sentence(what))}\n" for status, what in exit_statuses()),
        "ENVIRONMENT": _environment(),
        "LABELS": _labels(),
    }


def text(words: str) -> str:
    """Plain text, escaped for groff and mandoc."""
    words = words.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    words = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in words)
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in _wrapped(words))


def _wrapped(words: str) -> list[str]:
    return textwrap.wrap(words, 78, break_on_hyphens=False, break_long_words=False)


def _sentence(words: str) -> str:
    words = " ".join(words.split())
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def _options() -> str:
    parts = []
    for option in RUN_OPTIONS:
        argument = f" \\fI{text(option.metavar)}\\fR" if option.metavar else ""
        parts.append(f".TP\n\\fB{text(option.shown)}\\fR{argument}\n{text(_sentence(option.help))}\n")
    return "".join(parts)


def _command(verb: Verb) -> str:
    arguments = "".join(f" \\fI{text(one.shown)}\\fR" for one in verb.arguments)
    head = f".SS \\fBsqstee {text(verb.name)}\\fR [\\fIOPTIONS\\fR]{arguments}\n{text(_sentence(verb.help))}\n"
    return head + "".join(map(_flag, verb.flags[:-1]))


def _flag(flag: Flag) -> str:
    names = ", ".join(f"\\fB{text(name)}\\fR" for name in flag.names)
    argument = f" \\fI{text(flag.metavar)}\\fR" if flag.metavar else ""
    return f".TP\n{names}{argument}\n{text(_sentence(flag.help))}\n"


def _environment() -> str:
    parts = []
    for option in RUN_OPTIONS:
        what = f"As \\fB{text(option.flag)}\\fR"
        if not option.metavar:
            what += ": true or false"
        elif option.repeat:
            what += ", separated by commas" if option.separator == "," else ", one per line"
        parts.append(f".TP\n.B {option.variable}\n{what}.\n")
    return "".join(parts)


def _labels() -> str:
    parts = []
    for label, variable, also, what in auto_labels.TABLE:
        where = f" (if \\fB{also}\\fR is set)" if also else ""
        parts.append(f".TP\n.B {label}\n{text(what)},\nfrom \\fB{variable}\\fR{where}.\n")
    label, what = auto_labels.STARTED_BY
    return "".join(parts) + f".TP\n.B {label}\n{text(what)}.\n"
