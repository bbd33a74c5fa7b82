"""Documents and help texts are plain English, as far as that can be counted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import plain_english
import pytest
from program import ROOT, verbs
from support.documents import DOCUMENTS


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_documents(path: Path) -> None:
    """Their options' tables included, which are the help."""
    assert list(plain_english.slips(path.read_text())) == []


def test_the_help_of_the_verbs() -> None:
    """The texts above the options."""
    assert {verb.name: found for verb in verbs() if (found := list(plain_english.slips(verb.help)))} == {}


def texts(code: str) -> Iterator[str]:
    """The strings of a module that may be shown: no docstring, and a space in them; values filled in are X."""
    tree = ast.parse(code)
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def test_messages() -> None:
    """Errors, hints and notices, as far as parts of a sentence can tell."""
    of_whole_sentences = {"a long sentence", "ideas chained by colons", "a sentence that begins with 'Of'"}
    found = [
        (path.name, name, sentence)
        for path in sorted((ROOT / "sqstee").rglob("*.py"))
        for text in texts(path.read_text())
        for name, sentence in plain_english.slips(text)
        if " " in text and name not in of_whole_sentences
    ]
    assert found == []


def test_docstrings() -> None:
    """Whoever carries the work on reads them as much as the manual."""
    found = [
        (str(path.relative_to(ROOT)), name, sentence)
        for path in sorted((ROOT / "sqstee").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for name, sentence in plain_english.slips(ast.get_docstring(node) or "")
    ]
    assert found == []


@pytest.mark.parametrize(
    ("sentence", "slip"),
    [
        ("What had to be dropped is counted.", "'what' as a noun"),
        ("The reader must be told.", "'is said', 'is told'"),
        ("It makes 40 requests a second.", "'a' for 'per'"),
        ("Fix it once that is mended.", "an everyday verb as a term"),
        ("Stop when nothing came for so long.", "'so long' without 'as' or 'that'"),
        ("Of a queue it too needs an option.", "a sentence that begins with 'Of'"),
        ("One idea: a second: a third.", "ideas chained by colons"),
        ("word " * 50, "a long sentence"),
    ],
)
def test_a_slip_is_found(sentence: str, slip: str) -> None:
    """In a paragraph, an item and a cell."""
    for form in (f"Fine. {sentence}", f"- {sentence}\n- fine", f"| `--x` | {sentence} |"):
        assert [name for name, _ in plain_english.slips(form)] == [slip]


def test_questions_and_code_are_no_slips() -> None:
    """Nor is idiom."""
    text = "What does it cost? It looks once a second.\n\n```\nwhat is said\n```\n\n`what` as long as it lasts."
    assert list(plain_english.slips(text)) == []
