"""Which lines a search finds: those that the pattern matches, however few of them are decoded for it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from support.board import text_of

from sqstee.web.search_process import LineSearch

# Letters that match others where case is ignored (K: the sign of the unit), and what JSON escapes.
_texts = st.lists(st.text('abKkKıİßS s\\"\t0-', max_size=12), min_size=1, max_size=8)
_patterns = st.sampled_from(
    [
        *("ab", "ab k", "k", "kk", "ss", "s s", "i", "ab|kk", "(?:ab)?kk", "a?bk", "ab*", "[ab]k+k", "a{2}b"),
        *("(a|b)kk", "^ab", "ab$", "kk\\b", "a.b", "\\\\a", 'a"b', "a\tb", "(?i:ab)", "(?!ab)kk", "ab(?=kk)"),
        *("-0", "ab-"),
    ]
)


@given(texts=_texts, pattern=_patterns, is_regex=st.booleans(), ignores_case=st.booleans())
def test_lines_are_those_that_match(texts: list[str], pattern: str, is_regex: bool, ignores_case: bool) -> None:
    """As if each line were decoded and searched."""
    body = text_of(0, "".join(f"{text}\n" for text in texts).encode())
    query = {"q": pattern, "regex": is_regex, "nocase": ignores_case, "stream": "", "errors": False}
    found = LineSearch(query | {"since": "", "until": ""}).hits(body)
    wanted = re.compile(pattern if is_regex else re.escape(pattern), re.IGNORECASE if ignores_case else 0)
    assert [hit["seq"] for hit in found] == [seq for seq, text in enumerate(texts) if wanted.search(text)]
