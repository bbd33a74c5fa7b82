"""Writes the generated files: the manual page's tables, the completions, README's options.

Run it by `make generate`. With --check it writes nothing, and the status is 1 if a file is stale.
"""

from __future__ import annotations

import functools
import sys

from program import ROOT

import completions
import man
from sqstee.options import RUN_OPTIONS

COMMAND = "make generate"


@functools.cache
def files() -> dict[str, str]:
    """The text that each generated file should have, by its name."""
    page = (ROOT / "man/sqstee.1").read_text()
    for name, body in man.sections().items():
        page = _replaced(page, f'.\\" generated: {name}\n', '.\\" end\n', body)
    readme = (ROOT / "README.md").read_text()
    return {
        "man/sqstee.1": page,
        "README.md": _replaced(readme, "<!-- generated: options -->\n", "<!-- end -->\n", options_table()),
        "completions/sqstee.bash": completions.bash(),
        "completions/_sqstee": completions.zsh(),
        "completions/sqstee.fish": completions.fish(),
    }


def options_table() -> str:
    """The options of `run` as a table for README."""
    rows = ["| option | |", "|---|---|"]
    for option in RUN_OPTIONS:
        form = f"{option.shown} {option.metavar}".strip().replace("|", "\\|")
        rows.append(f"| `{form}` | {option.help.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def _replaced(text: str, begin: str, end: str, body: str) -> str:
    before, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"the lines {begin.strip()!r} and {end.strip()!r} are missing")
    return before + begin + body + end + rest.partition(end)[2]


def main() -> int:
    """Write the files, or with --check compare them."""
    stale = [name for name, text in files().items() if _current(name) != text]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"{name} is stale; run: {COMMAND}")
        return 1 if stale else 0
    for name, text in files().items():
        if name in stale:
            (ROOT / name).write_text(text)
            print(f"wrote {name}")
    return 0


def _current(name: str) -> str:
    path = ROOT / name
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
