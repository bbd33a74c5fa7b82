"""The generated parts of the manual's pages: tables in Markdown, from the program itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from program import ROOT, Verb, exit_statuses, verbs
from roff import RoffPage

from sqstee import auto_labels
from sqstee.options import RUN_OPTIONS, Option

FOLDER = ROOT / "man"  # the sources
BEGIN, END = "<!-- generated: {} -->\n", "<!-- end -->\n"


def pages() -> dict[str, str]:
    """Each page in Markdown with its generated parts fresh, by the name of its file."""
    return {path.name: fresh(path) for path in sorted(FOLDER.glob("*.md"))}


def roff_path(name: str) -> str:
    """Where the roff of a page belongs, below the root: in a tree as man searches it."""
    page = name.removesuffix(".md")
    return f"man/man{page[-1]}/{page}"


def roff(markdown: str) -> str:
    """A page in man(7)."""
    return RoffPage().write(markdown)


def fresh(path: Path) -> str:
    """A page with its generated parts replaced."""
    verb = next((verb for verb in verbs() if path.name == f"sqstee-{verb.name}.1.md"), None)
    makers = {
        "exit statuses": lambda: _table("status", ((f"`{status}`", what) for status, what in exit_statuses())),
        "verbs": lambda: _table("verb", ((_link(verb.name), verb.summary) for verb in verbs())),
        "keys": _keys,
        "labels": _labels,
    }
    if verb:
        makers |= {"synopsis": lambda: _synopsis(verb), "options": lambda: _options(verb)}

    def replaced(found: re.Match[str]) -> str:
        name = found[1]
        if name not in makers:
            raise SystemExit(f"{path}: nothing generates {name!r}")
        return BEGIN.format(name) + makers[name]() + END

    text = path.read_text()
    return re.sub(rf"{BEGIN.format('([a-z ]+)')}(?:.*?\n)??{END}", replaced, text, flags=re.DOTALL)


def sentence(words: str) -> str:
    """Help text as a sentence."""
    words = " ".join(words.split())
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def _link(verb: str) -> str:
    return f"[sqstee-{verb}(1)](sqstee-{verb}.1.md)"


def _table(head: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {head} | |", "|---|---|"]
    lines += [f"| {_cell(left)} | {_cell(sentence(right))} |" for left, right in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _synopsis(verb: Verb) -> str:
    form = f"sqstee {verb.name} [OPTIONS] " + " ".join(one.shown for one in verb.arguments)
    if verb.name == "run":
        form = "sqstee [run] [OPTIONS] -- COMMAND [ARG…]"
    return f"```\n{form.rstrip()}\n```\n"


def _options(verb: Verb) -> str:
    arguments = [(f"`{one.shown}`", one.help) for one in verb.arguments if one.help]
    return _table("option", [*arguments, *((f"`{flag.shown}`", flag.help) for flag in verb.flags)])


def _keys() -> str:
    return _table("key", ((f"`{option.name}`", _key(option)) for option in RUN_OPTIONS))


def _key(option: Option) -> str:
    value = f"`{option.metavar}`" if option.metavar else "`true` or `false`"
    between = ", separated by commas" if option.separator == "," else ", one per line"
    several = ", or an array of them" if option.repeat else ""
    return f"{value}{several}; `{option.variable}`{between if option.repeat else ''}; see `{option.shown}`"


def _labels() -> str:
    rows = []
    for label, variable, also, what in auto_labels.TABLE:
        where = f" (if `{also}` is set)" if also else ""
        rows.append((f"`{label}`", f"{what}, from `{variable}`{where}"))
    label, what = auto_labels.STARTED_BY
    return _table("label", [*rows, (f"`{label}`", what)])
