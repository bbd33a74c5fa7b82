"""A node with an agent."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fakes.sqs import FakeSqs

from sqstee.agent.advertisement import read_status

from .command import Sqstee
from .processes import running, wait_for
from .streams import Rebuilt


class Node:
    """A spool folder for an agent, and a queue to ship to."""

    def __init__(self, sqstee: Sqstee, server: FakeSqs) -> None:
        self.sqstee = sqstee
        self.server = server
        self.environ = sqstee.environ | server.environ()

    @contextmanager
    def agent(self, *words: str, environ: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """A running agent, terminated at the end if it still runs."""
        command = self.sqstee.words("agent", *words)
        with running(command, env=self.environ | dict(environ or {}), stderr=subprocess.PIPE) as process:
            wait_for(lambda: self.published() or process.poll() is not None, "agent")
            yield process
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=30)

    def published(self) -> Any:
        """The present content of the agent's file; None before there is one."""
        try:
            return json.loads((self.sqstee.spool / "agent").read_bytes() or b"null")
        except (FileNotFoundError, ValueError):
            return None

    def status(self) -> dict[str, Any]:
        """The status that the agent published last; empty before its first scan."""
        return read_status(f"{self.sqstee.spool}/agent") or {}

    def wait_for_claims(self, count: int) -> None:
        """Wait until the agent ships this many runs, by its own status."""
        wait_for(lambda: self.status().get("runs") == count, f"claim of {count} runs")

    def wrap(self, *command: str, to: str = "q", **environ: str) -> subprocess.CompletedProcess[bytes]:
        """Wrap a command, and wait for its end."""
        return self.sqstee.run("--to", to, "--", *command, environ=self.server.environ() | environ)

    def wrapping(self, *command: str, to: str = "q", **options: Any) -> Any:
        """Wrap a command that goes on running."""
        words = self.sqstee.words("--to", to, "--", *command)
        return running(words, **({"env": self.environ, "stdin": -1, "stdout": subprocess.DEVNULL} | options))

    def shipped(self, queue: str = "q") -> dict[str, Rebuilt]:
        """The streams of each run, from all messages that the queue has accepted."""
        return Rebuilt.of_many((message.body, message.attributes) for message in self.server.sent(queue))

    def outputs(self, queue: str = "q") -> list[bytes]:
        """The stdout of each run, as far as it has arrived."""
        return sorted(found.stdout for found in self.shipped(queue).values())

    def idle(self) -> bool:
        """Whether the spool holds no run."""
        return not [name for name in self.sqstee.waiting_runs() if len(name) == 26]

    def held(self, run: str) -> bool:
        """Whether a process ships a run."""
        return self.sqstee.held(run)
