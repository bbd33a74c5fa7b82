"""A run that another process ships: what it costs those who wait for its delivery."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sqstee.ship.delegated_run import DelegatedRun


def test_whoever_waits_looks_less_and_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look costs half a millisecond of processor time, and hundreds of runs of a node may end together."""
    clock = [1000.0]
    looks: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    def serving() -> str:
        looks.append(clock[0] - 1000.0)
        return str(tmp_path / "agent")

    folder = tmp_path / "01KXVQ4Z3C6ZK9D1V0WJ8E5R7M"
    folder.mkdir()
    (folder / "ship").touch()
    run = DelegatedRun(str(folder), serving=serving, start=None, on_refusal=lambda notice, keeps: None)
    reason, shipping = run.await_delivery(60.0, 60.0)
    assert (reason, shipping) == ("another process has not delivered it yet", None)
    assert len([at for at in looks if at < 1]) >= 15  # a warm shipper takes milliseconds
    assert len([at for at in looks if at >= 20]) <= 2 * 40 + 2
    assert 60 <= looks[-1] <= 60.2
