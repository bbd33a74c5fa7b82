"""The heap of a drain's threads."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from sqstee.drain.heap import use_one_heap


def test_one_heap_that_keeps_what_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the numbers in glibc's malloc.h."""
    calls: dict[int, int] = {}
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=calls.__setitem__))
    use_one_heap()
    assert calls == {-8: 1, -1: 2**25, -3: 2**25}


def test_another_c_library_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl has no such settings."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    use_one_heap()
