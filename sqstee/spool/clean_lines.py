"""Cleans the shipped copy of lines: terminal escape sequences, and all but the last state of a progress bar. Pure."""

from __future__ import annotations

import re

ESC = b"\x1b"
_STRING_END = rb"(?:\x07|\x1b\\)"
_SEQUENCE = re.compile(
    rb"\x1b(?:"
    rb"\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movements, erasing
    rb"|[\]PX^_][^\x07\x1b\n]*" + _STRING_END + rb"|"  # OSC and other strings: titles, links
    rb"[ -/]+[0-~]"  # character sets
    rb"|[0-OQ-WYZ\\`-~]"  # two bytes: saving and restoring the cursor, reset
    rb")?"  # of anything else the ESC alone, so that none is left
)
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\n]*\x1b?|[ -/]*)\Z")
_LONGEST_UNFINISHED = 4096


class LineCleaner:
    """Cleans blocks of lines: `strips` escape sequences, `collapses` lines with carriage returns."""

    def __init__(self, strips: bool, collapses: bool) -> None:
        self.strips = strips
        self.collapses = collapses

    def clean(self, block: bytes, continues: bool, cut: bool) -> bytes:
        """The block with as many lines. Its first line `continues` one that was cut; its last piece is `cut` off."""
        if self.collapses and b"\r" in block:
            block = collapsed(block, continues, cut)
        return stripped(block) if self.strips else block

    def tail(self, piece: bytes) -> bytes:
        """The escape sequence that is unfinished at the end of a piece: the line goes on with its rest."""
        if not self.strips or ESC not in piece[-_LONGEST_UNFINISHED:]:
            return b""
        found = _UNFINISHED.search(piece, max(0, len(piece) - _LONGEST_UNFINISHED))
        return found[0] if found else b""


def stripped(block: bytes) -> bytes:
    """The block without escape sequences (ECMA-48, in their 7-bit form) and without any ESC.

    No sequence extends beyond its line. An unfinished one loses only its ESC.
    """
    return _SEQUENCE.sub(b"", block) if ESC in block else block


def collapsed(block: bytes, continues: bool = False, cut: bool = False) -> bytes:
    """The text of each line after its last carriage return; those at its end do not count, and are removed.

    Pieces of one line can be joined: a piece that replaces those before it begins with a carriage return, and a piece
    that is cut off after a carriage return ends with it.
    """
    block = block.replace(b"\r\n", b"\n")
    if b"\r" not in block:
        return block
    lines = block.split(b"\n")
    first, last = lines[0], lines[-1]
    lines = [_last_state(line) if b"\r" in line else line for line in lines]
    if continues and b"\r" in first.rstrip(b"\r"):
        lines[0] = b"\r" + lines[0]
    if cut and last.endswith(b"\r"):
        lines[-1] += b"\r"
    return b"\n".join(lines)


def _last_state(line: bytes) -> bytes:
    text = line.rstrip(b"\r")
    return text[text.rfind(b"\r") + 1 :]
