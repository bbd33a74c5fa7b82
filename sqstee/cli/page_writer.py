"""Pages of the manual: Markdown, walked block by block and written as text for a terminal.

The parser is markdown-it-py, which rich needs anyway. The same walk writes man(7), in tests/tools/roff.py.
"""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Span = tuple[str, str]  # style ("" plain, "b" bold, "i" italic) and text

_PAGE_LINK = re.compile(r"(?P<name>[\w.-]+)\.(?P<section>\d)\.md(#.*)?$")
_TITLE = re.compile(r"(?P<name>[\w.-]+)\((?P<section>\d)\): (?P<summary>.+)")
_MOST_COLUMNS = 100
_WIDEST_TABLE = 74  # columns: a wider table becomes a list, a term for each row
_ANSI = {"b": "\x1b[1m", "i": "\x1b[4m"}
_PLAIN = "\x1b[0m"


def columns() -> int:
    """The width of texts for people, in columns."""
    return min(_MOST_COLUMNS, shutil.get_terminal_size().columns)


class PageWriter(ABC):
    """Walks a page and writes each block; a subclass decides how a block looks.

    Items of lists hold one paragraph each, and a table has a term in its first column unless it is narrow.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, markdown: str) -> str:
        """The whole page."""
        from markdown_it import MarkdownIt
        from markdown_it.tree import SyntaxTreeNode

        for node in SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(markdown)).children:
            self._block(node)
        return "\n".join(self.lines) + "\n"

    def _block(self, node: Any) -> None:
        match node.type:
            case "heading" if node.tag == "h1":
                found = _TITLE.fullmatch(plain(spans(node)))
                if not found:
                    raise ValueError("the title is not of the form: name(1): summary")
                self.title(found["name"], found["section"], found["summary"])
            case "heading":
                self.heading(int(node.tag[1]), plain(spans(node)))
            case "paragraph":
                if found_spans := spans(node):
                    self.paragraph(found_spans)
            case "fence":
                self.code(node.content.splitlines())
            case "bullet_list" | "ordered_list":
                for number, item in enumerate(node.children, 1):
                    (paragraph,) = item.children
                    self.item("" if node.type == "bullet_list" else f"{number}.", spans(paragraph))
            case "table":
                self._table(node)
            case "html_block":  # the marks of generated parts
                pass
            case other:
                raise ValueError(f"a page cannot hold {other}")

    def _table(self, node: Any) -> None:
        cells = [row.children for part in node.children for row in part.children]
        rows = [[spans(cell) for cell in row] for row in cells]
        if len(rows[0]) > 2 and (lines := _columns(cells, rows)):
            self.code(lines)
            return
        head = [plain(cell) for cell in rows[0]]
        for row in rows[1:]:
            text = list(row[1])
            for name, cell in zip(head[2:], row[2:], strict=True):
                text += [("", f". {name[:1].upper()}{name[1:]}: " if name else ". "), *cell] if cell else []
            self.definition(row[0], text)

    @abstractmethod
    def title(self, name: str, section: str, summary: str) -> None:
        """The head of the page."""

    @abstractmethod
    def heading(self, level: int, text: str) -> None:
        """A heading, of level 2 or more."""

    @abstractmethod
    def paragraph(self, text: Sequence[Span]) -> None:
        """A paragraph."""

    @abstractmethod
    def item(self, mark: str, text: Sequence[Span]) -> None:
        """An item of a list; without a mark a bullet stands before it."""

    @abstractmethod
    def definition(self, term: Sequence[Span], text: Sequence[Span]) -> None:
        """A term and its text."""

    @abstractmethod
    def code(self, lines: Iterable[str]) -> None:
        """Lines that stay as they are."""


def spans(node: Any, style: str = "") -> list[Span]:
    """The text within a block, piece by piece with its style. Pictures are left out, and so are links' addresses.

    A link to another page becomes its name and section, as manuals write it.
    """
    found: list[Span] = []
    for one in node.children:
        if one.type == "text":
            found.append((style, one.content))
        elif one.type == "code_inline":
            found.append(("b", one.content))
        elif one.type in ("softbreak", "hardbreak"):
            found.append((style, " "))
        elif one.type == "link" and (page := _PAGE_LINK.search(one.attrs["href"])):
            found += [("b", page["name"]), ("", f"({page['section']})")]
        elif one.type not in ("image", "html_inline"):
            found += spans(one, {"strong": "b", "em": "i"}.get(one.type, style))
    return found


def plain(text: Iterable[Span]) -> str:
    """The text alone."""
    return "".join(part for _, part in text)


def _columns(cells: Sequence[Sequence[Any]], rows: Sequence[Sequence[Sequence[Span]]]) -> list[str]:
    """A table as aligned lines, or nothing if it is too wide."""
    texts = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    if sum(widths) + 2 * len(widths) > _WIDEST_TABLE:
        return []
    is_right = ["right" in str(cell.attrs.get("style", "")) for cell in cells[0]]
    lines = []
    for row in texts:
        columns = zip(row, widths, is_right, strict=True)
        lines.append("  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in columns))
    return [line.rstrip() for line in lines]


class TextPage(PageWriter):
    """A page for a terminal of some width, with bold and underlined text if `is_styled`."""

    def __init__(self, width: int, is_styled: bool) -> None:
        super().__init__()
        self._width = width
        self._is_styled = is_styled

    def title(self, name: str, section: str, summary: str) -> None:
        self.lines += self._filled([("b", f"{name}({section})"), ("", f": {summary}")], "", "    ")

    def heading(self, level: int, text: str) -> None:
        self.lines += ["", self._painted("b", text if level > 2 else text.upper())]

    def paragraph(self, text: Sequence[Span]) -> None:
        self.lines += ["", *self._filled(text, "    ", "    ")]

    def item(self, mark: str, text: Sequence[Span]) -> None:
        head = f"    {mark or '•'} "
        self.lines += ["", *self._filled(text, head, " " * len(head))]

    def definition(self, term: Sequence[Span], text: Sequence[Span]) -> None:
        self.lines += ["", *self._filled(term, "    ", "      "), *self._filled(text, "        ", "        ")]

    def code(self, lines: Iterable[str]) -> None:
        self.lines += ["", *(f"      {line}".rstrip() for line in lines)]

    def _filled(self, text: Sequence[Span], first: str, others: str) -> Iterator[str]:
        """Lines no wider than the page; a word that is wider has a line of its own."""
        line, length = first, len(first)
        is_empty = True
        for word in _words(text):
            size = sum(len(part) for _, part in word)
            if not is_empty and length + 1 + size > self._width:
                yield line
                line, length, is_empty = others, len(others), True
            line += ("" if is_empty else " ") + "".join(self._painted(style, part) for style, part in word)
            length += size + (not is_empty)
            is_empty = False
        if not is_empty:
            yield line

    def _painted(self, style: str, text: str) -> str:
        return f"{_ANSI[style]}{text}{_PLAIN}" if style and self._is_styled else text


def _words(text: Sequence[Span]) -> Iterator[list[Span]]:
    """The words of a text; one word may have several styles."""
    word: list[Span] = []
    for style, part in text:
        for number, piece in enumerate(part.split(" ")):
            if number and word:
                yield word
                word = []
            if piece:
                word.append((style, piece))
    if word:
        yield word
