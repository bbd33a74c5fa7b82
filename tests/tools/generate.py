"""Writes the generated files: the tables in the manual's pages, their roff, the completions.

Run it by `make generate`. With --check it writes nothing, and the status is 1 if a file is stale.
"""

from __future__ import annotations

import functools
import sys

from program import ROOT

import completions
import man

COMMAND = "make generate"


@functools.cache
def files() -> dict[str, str]:
    """The text that each generated file should have, by its name."""
    pages = man.pages()
    return {
        **{f"man/{name}": text for name, text in pages.items()},
        **{man.roff_path(name): man.roff(text) for name, text in pages.items()},
        "completions/sqstee.bash": completions.bash(),
        "completions/_sqstee": completions.zsh(),
        "completions/sqstee.fish": completions.fish(),
    }


def main() -> int:
    """Write the files, or with --check compare them."""
    stale = [name for name, text in files().items() if _current(name) != text]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"{name} is stale; run: {COMMAND}")
        return 1 if stale else 0
    for name, text in files().items():
        if name in stale:
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / name).write_text(text)
            print(f"wrote {name}")
    return 0


def _current(name: str) -> str:
    path = ROOT / name
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
