"""A node with an agent, for the tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fake_sqs import FakeSqs
from support import Rebuilt, Sqstee, running, wait_for

from sqstee.agent.advertisement import read_status


class Node:
    """A spool folder with an agent, and a queue to speak to."""

    def __init__(self, sqstee: Sqstee, server: FakeSqs) -> None:
        self.sqstee = sqstee
        self.server = server
        self.environ = sqstee.environ | server.environ()

    @contextmanager
    def agent(self, *words: str, environ: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """A running agent, that is asked to end afterwards if it is still there."""
        command = self.sqstee.words("agent", *words)
        with running(command, env=self.environ | dict(environ or {}), stderr=subprocess.PIPE) as process:
            wait_for(lambda: self.published() or process.poll() is not None, "agent")
            yield process
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=30)

    def published(self) -> Any:
        """What the agent's file says by now."""
        try:
            return json.loads((self.sqstee.spool / "agent").read_bytes() or b"null")
        except (FileNotFoundError, ValueError):
            return None

    def status(self) -> dict[str, Any]:
        """What the agent said last that it does; nothing before it has looked around for the first time."""
        return read_status(str(self.sqstee.spool)) or {}

    def wait_for_charge_of(self, count: int) -> None:
        """Until the agent has taken so many runs, and told who ships them."""
        wait_for(lambda: self.status().get("runs") == count, f"charge of {count} runs")

    def wrap(self, *command: str, to: str = "q", **environ: str) -> subprocess.CompletedProcess[bytes]:
        """A wrapped command, to its end."""
        return self.sqstee.run("--to", to, "--", *command, environ=self.server.environ() | environ)

    def wrapping(self, *command: str, to: str = "q", **options: Any) -> Any:
        """A wrapped command that goes on."""
        words = self.sqstee.words("--to", to, "--", *command)
        return running(words, **({"env": self.environ, "stdin": -1, "stdout": subprocess.DEVNULL} | options))

    def shipped(self, queue: str = "q") -> dict[str, Rebuilt]:
        """The streams of each run in everything that the queue ever accepted."""
        return Rebuilt.of_many((message.body, message.attributes) for message in self.server.sent(queue))

    def outputs(self, queue: str = "q") -> list[bytes]:
        """What each run wrote, as far as it arrived."""
        return sorted(found.stdout for found in self.shipped(queue).values())

    def idle(self) -> bool:
        """Whether no run is left in the spool."""
        return not [name for name in self.sqstee.waiting_runs() if len(name) == 26]

    def held(self, run: str) -> bool:
        """Whether somebody ships a run."""
        return self.sqstee.held(run)
