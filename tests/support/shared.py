"""Shared shippers of a spool folder: who they are, and their end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sqstee.spool import agent_file
from sqstee.spool.run_folder import DeliveryTrouble

from .node import Node
from .processes import is_running, wait_for


class SharedNode(Node):
    """A node whose runs share a shipper."""

    def shippers(self) -> list[int]:
        """The shared shippers that runs can rely on."""
        return [pid for path in self.files() if (pid := agent_file.holder(path)) > 0 and agent_file.published(path)]

    def shipper(self) -> int:
        """The one shared shipper."""
        (found,) = self.shippers()
        return found

    def files(self) -> list[str]:
        """The files of shared shippers."""
        return [path for path in agent_file.files(str(self.sqstee.spool)) if agent_file.is_shared(path)]

    def processes(self) -> set[int]:
        """Every process that holds a file of the spool open, withdrawn shippers included."""
        return set(self._holding())

    def _holding(self) -> Iterator[int]:
        spool = str(self.sqstee.spool)
        for name in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                for fd in Path(f"/proc/{name}/fd").iterdir():
                    if os.readlink(fd).startswith(f"{spool}/"):
                        yield int(name)
                        break

    def troubles(self) -> str:
        """What the shipper has left for its runs about why they are not delivered."""
        folders = [self.sqstee.spool / name for name in self.waiting()]
        return " ".join(DeliveryTrouble.read(str(folder)).reason for folder in folders)

    def waiting(self) -> list[str]:
        """The runs in the spool."""
        return [name for name in self.sqstee.waiting_runs() if len(name) == 26]

    def end(self) -> None:
        """Kill what is left."""
        for pid in self.processes() - {os.getpid()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: not is_running(pid), "death")  # type: ignore[misc]

    def left_behind(self) -> list[str]:
        """What a shipper that has ended should not have left in the spool folder."""
        names = os.listdir(self.sqstee.spool)
        return [name for name in names if name.startswith("agent") or len(name) == 26]
