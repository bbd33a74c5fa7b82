"""An agent's configuration: its destinations and settings, and the requirements of an agent for all users."""

from __future__ import annotations

import os

from sqstee.destination import parse
from sqstee.errors import SqsteeError
from sqstee.settings import Settings
from sqstee.ship.sender_pool import MAX_IN_FLIGHT


class AgentConfig:
    """An agent's destinations (None: whatever runs ask for), the `run` options, and requests in flight to each."""

    def __init__(self, destinations: frozenset[str] | None, settings: Settings, in_flight: int = MAX_IN_FLIGHT) -> None:
        self.destinations = destinations
        self.settings = settings
        self.in_flight = in_flight

    def accepts(self, destination: str) -> bool:
        """Whether the agent ships to this destination."""
        return self.destinations is None or destination in self.destinations

    def check_for_all_users(self) -> None:
        """Raise SqsteeError unless this process may serve all users' spool folders with this configuration."""
        if os.geteuid():
            hint = "run it as root, or serve a folder of your own: sqstee agent --spool DIR"
            raise SqsteeError("only root can serve all users' spool folders", hint)
        if not self.destinations:
            hint = 'run: sqstee agent --to DEST, or set to = ["DEST"] under [agent] in /etc/sqstee.toml'
            raise SqsteeError("an agent for all users needs a list of destinations", hint)
        if any(parse(name).kind == "local" and not parse(name).name for name in self.destinations):
            hint = "run: sqstee agent --to local:PATH"
            raise SqsteeError("an agent for all users has no local queue of its own", hint)
        try:
            with open("/proc/sys/fs/protected_hardlinks") as file:
                protected = file.read().strip() == "1"
        except OSError:
            protected = False
        if not protected:
            hint = "run: sysctl fs.protected_hardlinks=1"
            raise SqsteeError("an agent for all users needs protected hard links in the kernel", hint)
