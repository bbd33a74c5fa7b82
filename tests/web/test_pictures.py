"""README's pictures of the board: there, and small."""

from __future__ import annotations

import struct

import pytest
import web_pictures


@pytest.mark.parametrize("name", web_pictures.PICTURES)
def test_pictures_of_the_board_are_small_and_say_nothing_of_their_machine(name: str) -> None:
    """PNG with a palette, of at most 60 kB, without a word beside the picture."""
    data = (web_pictures.FOLDER / f"web-{name}.png").read_bytes()
    assert data.startswith(web_pictures.SIGNATURE)
    assert len(data) <= web_pictures.MOST_BYTES
    kinds, place = [], len(web_pictures.SIGNATURE)
    while place < len(data):
        (length,), kind = struct.unpack_from(">I", data, place), data[place + 4 : place + 8]
        kinds.append(kind)
        place += 12 + length
    assert kinds == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, depth, colours = struct.unpack_from(">IIBB", data, len(web_pictures.SIGNATURE) + 8)
    assert (depth, colours) == (8, 3)
    assert max(width, height) <= 2400
