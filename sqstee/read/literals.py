"""The literal text that a regular expression cannot match without. Pure.

Looking for it in undecoded bodies costs a hundredth of decoding them.
"""

from __future__ import annotations

import re

_KNOWN_FLAGS = re.UNICODE | re.IGNORECASE
_FEWEST = 2  # characters of a literal that is worth looking for
_ESCAPE_OR_CLASS = re.compile(r"\\[^xuUN0-9]|\[\^?\]?(?:\\.|[^\]\\])*\]")
_GROUP = re.compile(r"\([^()]*\)")
_REPEATED = re.compile(r".(?:[*?]|\{[^}]*\})", re.DOTALL)  # with what may be there no time
# Never escaped in JSON, and none of them means more than itself in an expression.
_LITERAL = re.compile(r"[A-Za-z0-9 _:=,/@%~;<>!&'`-]+")
_CUT = "\0"


class Literals:
    """Texts one of which is in every match."""

    __slots__ = ("ignores_case", "texts")

    def __init__(self, texts: tuple[bytes, ...], ignores_case: bool) -> None:
        self.texts = texts
        self.ignores_case = ignores_case

    def offsets(self, data: bytes, most: int) -> set[int] | None:
        """The offsets of those lines of NDJSON in which a text occurs; None where there are more than `most`.

        None as well where case is ignored and the data are not ASCII: other letters match those of ASCII then.
        """
        if self.ignores_case:
            if not data.isascii():
                return None
            data = data.lower()
        found: set[int] = set()
        for text in self.texts:
            at = data.find(text)
            while at >= 0:
                found.add(data.rfind(b"\n", 0, at) + 1)
                if len(found) > most:
                    return None
                end = data.find(b"\n", at)
                at = data.find(text, end) if end >= 0 else -1
        return found


def literals_of(pattern: re.Pattern[str]) -> Literals | None:
    """The literals of a pattern; None where it has none, or is too intricate to tell.

    Wrong guesses in one direction only are allowed: a line that matches must contain one of the texts.
    """
    text = pattern.pattern
    if pattern.flags & ~_KNOWN_FLAGS or _CUT in text:
        return None
    text = _ESCAPE_OR_CLASS.sub(_CUT, text)
    before = ""
    while before != text:
        before, text = text, _GROUP.sub(_CUT, text)
    if set(text) & set("\\()[]"):
        return None
    found = []
    for branch in text.split("|"):
        parts: list[str] = _LITERAL.findall(_REPEATED.sub(_CUT, branch))
        longest = max(parts, key=len, default="")
        if len(longest) < _FEWEST:
            return None
        found.append(longest)
    ignores_case = bool(pattern.flags & re.IGNORECASE)
    return Literals(tuple((one.lower() if ignores_case else one).encode() for one in found), ignores_case)
