"""README and the manual's pages, as tests read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "man").glob("*.md"))
DOCUMENTS = [README, *PAGES]


def page(name: str) -> str:
    """The Markdown of a page, such as `sqstee-run.1`."""
    return (ROOT / f"man/{name}.md").read_text()


def section(text: str, title: str) -> str:
    """The text under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def in_tables(text: str) -> set[str]:
    """The options that the first column of a table names."""
    cells = re.findall(r"^\| (`-.*?`) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"(?<![\w\[-])--?[a-zA-Z0-9][a-z0-9-]*", cell)}
