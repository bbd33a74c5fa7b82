"""A command that writes faster than anyone could ship is let pass first; nothing is lost or kept for longer by it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import Rebuilt, Sqstee, python
from support.scripted import Scripted, settings

from sqstee.record import Body
from sqstee.ship.shipper import Shipper
from sqstee.ship.shipper_handle import CLOSE
from sqstee.ship.throttle import Throttle
from sqstee.spool.quota import SEGMENT_BYTES
from sqstee.spool.run_folder import create
from sqstee.spool.segments import segment_name
from sqstee.transports.errors import Failure

MIB = 1024 * 1024


class Growing:
    """A run's folder that grows, and a clock."""

    def __init__(self, folder: Path, spool_max: int = 1024 * MIB, on_full: str = "auto") -> None:
        self.folder = folder
        self.now = 100.0
        self.flood = Throttle(str(folder), spool_max, on_full, lambda: self.now)

    def after(self, seconds: float, **sizes: int) -> float:
        """What is said once the segments have these sizes (0: freed); seconds from then until the next look."""
        self.now += seconds
        for name, size in sizes.items():
            path = self.folder / segment_name(int(name.removeprefix("s")))
            if size:
                path.touch()
                os.truncate(path, size)
            else:
                path.unlink()
        until = self.flood.until()
        return until - self.now if until else 0.0


def test_a_flood_is_more_than_anyone_ships(tmp_path: Path) -> None:
    """Within one segment or over several, in a look of a tenth of a second; a steady flow is none."""
    run = Growing(tmp_path)
    assert run.after(0.125, s1=MIB) == 0
    assert run.after(0.125, s1=2 * MIB) == 0
    assert run.after(0.125, s1=11 * MIB) == pytest.approx(0.1)
    assert run.after(0.125, s1=SEGMENT_BYTES, s2=4 * MIB) == pytest.approx(0.1)
    assert run.after(0.125, s2=5 * MIB) == 0
    assert run.after(0.125, s2=SEGMENT_BYTES, s3=SEGMENT_BYTES, s4=1) == pytest.approx(0.1)
    assert run.after(0.125) == 0


def test_a_look_is_worth_a_tenth_of_a_second(tmp_path: Path) -> None:
    """Asked more often it says the same; a late look counts by the time that has passed."""
    run = Growing(tmp_path)
    assert run.after(0.125, s1=9 * MIB) == pytest.approx(0.1)
    assert run.after(0.04) == pytest.approx(0.06)
    assert run.after(1.0, s1=15 * MIB) == 0


def test_what_was_freed_does_not_count(tmp_path: Path) -> None:
    """Shipping frees segments while others are written."""
    run = Growing(tmp_path)
    run.after(0.125, s1=SEGMENT_BYTES, s2=MIB)
    assert run.after(0.125, s1=0, s2=3 * MIB) == 0
    assert run.after(0.125, s2=0, s3=9 * MIB) == pytest.approx(0.1)


@pytest.mark.parametrize(("spool_max", "on_full"), [(64 * MIB, "auto"), (1024 * MIB, "drop")])
def test_waiting_never_fills_the_spool(tmp_path: Path, spool_max: int, on_full: str) -> None:
    """Above half of the bound there is no flood, and none at all where lines would be dropped."""
    run = Growing(tmp_path, spool_max, on_full)
    sizes = dict.fromkeys(("s1", "s2", "s3"), SEGMENT_BYTES)
    assert run.after(0.125, **sizes) == 0


def ship(folder: Path, sender: Scripted, flood: Any, close: bool) -> tuple[Shipper, int]:
    """A shipper of a hundred lines, and the end of its wake-up pipe."""
    writer, *locks = create(str(folder), "RUN", b'{"run":"RUN","host":"h"}', 32768, 1024**3, "auto")
    writer.write(0, b"".join(b"%d\n" % n for n in range(100)))
    writer.close()
    for fd in locks:
        os.close(fd)
    wake, waking = os.pipe()
    if close:
        os.write(waking, CLOSE)
    options = settings(linger=0.0, message_bytes=262144)
    return Shipper(writer.folder, sender, wake, options, flush_timeout=20.0, throttled_until=flood), waking


def test_nothing_is_read_while_it_lasts(tmp_path: Path) -> None:
    """Three looks later it is over, and everything is shipped."""
    looks: list[int] = []
    sent_at: list[int] = []

    def flood() -> float:
        looks.append(len(looks))
        if len(looks) == 4:
            os.write(waking, CLOSE)  # what ends the run; by then it is read
        return time.monotonic() + 0.01 if len(looks) <= 3 else 0.0

    def answer(bodies: Sequence[Body]) -> list[Failure]:
        sent_at.append(len(looks))
        return []

    sender = Scripted(answer)
    shipper, waking = ship(tmp_path, sender, flood, close=False)
    assert shipper.run()
    shipper.close()
    assert sent_at[0] >= 4
    assert Rebuilt((body.data, body.attributes) for body in sender.taken).stdout.count(b"\n") == 100


def test_the_end_of_the_command_ends_the_waiting(tmp_path: Path) -> None:
    """A flood that never ends delays nothing once the run is closed."""
    sender = Scripted(lambda bodies: [])
    shipper, _ = ship(tmp_path, sender, lambda: float("inf"), close=True)
    assert shipper.run()
    shipper.close()
    assert Rebuilt((body.data, body.attributes) for body in sender.taken).stdout.count(b"\n") == 100


def test_a_real_flood_arrives(sqstee: Sqstee) -> None:
    """Sixty megabytes, half of them before a pause: all of it, in order."""
    flood = "for n in range(3000): os.write(1, b'x' * 9_999 + b'\\n')"
    code = f"import os, time\n{flood}\ntime.sleep(0.2)\n{flood}"
    found = sqstee.run("--to", "local", "--flush-timeout", "200s", "--", *python(code), timeout=250)
    assert found.stderr == b""
    got = sqstee.local()
    got.assert_whole()
    assert got.stdout == found.stdout
    assert len(found.stdout) == 60_000_000
