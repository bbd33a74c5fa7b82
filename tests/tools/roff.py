"""The manual's pages in man(7), from their Markdown.

markdown-it-py parses, and what is written here is the part of man(7) that mandoc and groff both take without a warning.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from sqstee.cli.page_writer import PageWriter, Span

_DATE = "2026-11-30"
_VOLUMES = {"1": "User Commands", "5": "File Formats", "7": "Miscellaneous Information"}
_FONTS = {"b": "B", "i": "I"}
_AS_TYPED = {"\\": "\\e", "-": "\\-", "~": "\\(ti", "^": "\\(ha", "`": "\\(ga"}  # not what typesetters make of them


class RoffPage(PageWriter):
    """A page in man(7)."""

    def __init__(self) -> None:
        super().__init__()
        self._is_first = True  # below a heading no macro begins the paragraph

    def title(self, name: str, section: str, summary: str) -> None:
        self.lines.append('.\\" Written by `make generate`, from man/*.md.')
        self.lines.append(f'.TH {escape(name.upper())} {section} {_DATE} sqstee "{_VOLUMES[section]}"')
        self.lines += [".ad l", ".SH NAME", f"{escape(name)} \\- {escape(summary)}"]

    def heading(self, level: int, text: str) -> None:
        self.lines.append(f".SS {escape(text)}" if level > 2 else f".SH {escape(text.upper())}")
        self._is_first = True

    def paragraph(self, text: Sequence[Span]) -> None:
        if not self._is_first:
            self.lines.append(".PP")
        self._text(text)

    def item(self, mark: str, text: Sequence[Span]) -> None:
        self.lines.append(f".IP {mark} 3" if mark else ".IP \\(bu 2")
        self._text(text)

    def definition(self, term: Sequence[Span], text: Sequence[Span]) -> None:
        self.lines += [".TP", _line(_styled(term))]
        self._text(text)

    def code(self, lines: Iterable[str]) -> None:
        text = (escape(line).replace("'", "\\(aq") for line in lines)
        self.lines += ['.IP "" 4', ".EX", *map(_line, text), ".EE"]
        self._is_first = False

    def _text(self, text: Sequence[Span]) -> None:
        lines = textwrap.wrap(_styled(text), 78, break_on_hyphens=False, break_long_words=False)
        self.lines += map(_line, lines)
        self._is_first = False


def escape(words: str) -> str:
    """Plain text, so that groff and mandoc print it as it is."""
    words = "".join(_AS_TYPED.get(char, char) for char in words)
    return "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in words)


def _styled(text: Iterable[Span]) -> str:
    return "".join(f"\\f{_FONTS[style]}{escape(part)}\\fR" if style else escape(part) for style, part in text)


def _line(line: str) -> str:
    """A line of text, which must not be read as a macro."""
    return f"\\&{line}" if line[:1] in (".", "'") else line
