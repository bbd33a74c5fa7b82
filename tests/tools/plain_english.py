"""Finds the countable slips from plain English in documents and help texts: `python tests/tools/plain_english.py`.

Each slip has a name, a pattern of a sentence, and the way to write it. A sentence that a native reader must read twice
can still pass: this finds the habits, not the exceptions.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

MOST_WORDS = 45
SLIPS = {
    "'what' as a noun": (r"\bwhat\b(?!.*\?$)", "name the thing: 'dropped lines', not 'what was dropped'"),
    "'is said', 'is told'": (
        r"\b(is|are|was|were|be|been) (said|told)\b|, and said\b",
        "'is reported'",
    ),
    "'a' for 'per'": (
        r"\b(requests?|lines?|messages?|bytes|[KMG]iB|objects?|dollars?|\$[\d.]+|\d[\d,.]*|one|files?|rows?|runs?) an? "
        r"(second|minute|hour|day|million|line|node|host|run|request|message|verb|task)\b",
        "'requests per million lines'",
    ),
    "an everyday verb as a term": (r"\b(mend(s|ed)?|puts? aside|looks? into|heard of)\b", "the field's own term"),
    "'so long' without 'as' or 'that'": (
        r"\bso (long|many|much)\b(?! (as|that))(?!.*\bthat\b)",
        "'this long'",
    ),
    "a sentence that begins with 'Of'": (r"^Of (?!course)", "subject first"),
    "'behind' for 'after'": (r"\bbehind (it|them|each|the last|an? newline|the value)\b", "'after'"),
    "'there is not', 'there is to'": (r"\bthere (is|are) (not|to)\b", "name the thing"),
    "'in the place of'": (r"\bin the place of\b", "'instead of', 'in place of'"),
    "ideas chained by colons": (r":\s.*[^\d]:\s", "two sentences"),
    "a long sentence": (rf"^(\S+\s+){{{MOST_WORDS},}}", "two sentences"),
}
_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, (pattern, _) in SLIPS.items()}


def slips(text: str) -> Iterator[tuple[str, str]]:
    """The slips of a document in Markdown, each with its sentence."""
    for sentence in sentences(text):
        without_asides = re.sub(r"\([^()]*\)", "", sentence)
        for name, pattern in _PATTERNS.items():
            if pattern.search(without_asides if "colons" in name else sentence):
                yield name, sentence


def sentences(text: str) -> Iterator[str]:
    """The sentences of a document, without code, markup and links' addresses. Each cell and item stands by itself."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "CODE", text)
    text = re.sub(r"\*+", "", text.replace("\\|", "/"))
    text = re.sub(r"^\|(.*)\|$", lambda row: row[1].replace("|", "\n\n"), text, flags=re.MULTILINE)
    text = re.sub(r"^(#+ |- |\d+\. )", r"\n\n", text, flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n", text):
        yield from re.split(r"(?<=[.!?])\s+(?=[A-Z(])", " ".join(paragraph.split()))


def main() -> int:
    """Print the slips of the files that are given, or of all documents."""
    root = Path(__file__).parent.parent.parent
    paths = [Path(word) for word in sys.argv[1:]] or [root / "README.md", *sorted((root / "man").glob("*.md"))]
    found = [(path.name, name, sentence) for path in paths for name, sentence in slips(path.read_text())]
    for file, name, sentence in found:
        print(f"{file}: {name} (better: {SLIPS[name][1]})\n    {sentence}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
