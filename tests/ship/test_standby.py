"""The stand-by while it starts the shared shipper: it goes on listening to the front."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import kill, wait_for

from sqstee.capture.signals import pending
from sqstee.ship import shipper_handle
from sqstee.ship.shipper_handle import ShipperHandle
from sqstee.ship.standby import StandBy

FRONT_DIED, SHIPS = 3, 4  # exit statuses


class Starting:
    """A stand-by that waits for a shared shipper, whose start ends when `ready` is closed."""

    def __init__(self, folder: str) -> None:
        reading, self.ready = os.pipe()
        writing = self.ready

        def body(wake: int, report: int) -> None:
            os.close(writing)
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

            def start(wait: Callable[[int, float], None]) -> bool:
                wait(reading, 60)
                return False

            StandBy(
                folder,
                wake,
                report,
                serving=lambda: "",
                start=start,
                on_front_death=lambda: os._exit(FRONT_DIED),
                ship=lambda wake: os._exit(SHIPS),
                flush_timeout=60,
            ).run()

        self.process: ShipperHandle = shipper_handle.fork({reading, writing}, body)
        os.close(reading)
        self.pid = self.process.pid

    def status(self) -> int:
        """How it ended, as soon as it has."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return status


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[Starting]:
    """A stand-by that starts a shared shipper."""
    (tmp_path / "ship").touch()
    found = Starting(str(tmp_path))
    yield found
    if found.pid:
        kill(found.pid)
        found.status()


def test_it_clears_signals(starting: Starting) -> None:
    """One that stayed pending would be taken for a later one's, which only the wrapper got."""

    def is_pending() -> bool:
        return bool(pending(starting.pid) & 1 << signal.SIGUSR1 - 1)

    status = Path(f"/proc/{starting.pid}/status")
    wait_for(lambda: f"SigBlk:\t{0:016x}" not in status.read_text(), "its start")
    for _ in range(2):
        os.kill(starting.pid, signal.SIGUSR1)
        wait_for(is_pending, "signal")
        starting.process.notify(bytes([signal.SIGUSR1]))
        wait_for(lambda: not is_pending(), "clearing")
    starting.process.close()
    os.close(starting.ready)
    assert starting.status() == SHIPS


def test_the_end_of_the_run(starting: Starting) -> None:
    """It waits for the shipper all the same; that the front says nothing further is not its death."""
    starting.process.close()
    os.close(starting.ready)
    assert starting.status() == SHIPS


def test_the_death_of_the_front(starting: Starting) -> None:
    """The command ends at once."""
    os.close(starting.process.wake)
    assert starting.status() == FRONT_DIED
    os.close(starting.ready)
