"""What an agent's look over its runs costs: processor time of one look, with nothing new in any of them.

    python tests/bench/looking.py [RUNS…]

The runs are in a real spool and held by their locks; an agent takes five looks a second, one in five of each run a
close one (whether its front lives, whether a segment was begun).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import Row, machine, table

from sqstee.agent.advertisement import Advertisement
from sqstee.agent.agent import SCAN_SECONDS, Agent
from sqstee.agent.config import AgentConfig
from sqstee.settings import Settings
from sqstee.ship.policy import DeliveryPolicy
from sqstee.spool.run_events import meta
from sqstee.spool.run_folder import create

LOOKS = 200


def look(runs: int) -> Row:
    """One row: milliseconds of a look, and what that is of a core."""
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o700)
        settings, writers = Settings(), []
        for number in range(runs):
            name = f"01JDRUN{number:019d}"
            delivery = DeliveryPolicy(f"local:{root}/q", settings).to_meta()
            writer, _, shipping = create(
                root,
                name,
                meta(settings, name, delivery),
                32768,
                2**30,
                "auto",
            )
            os.close(shipping)
            writer.write(0, b"a line\n")
            writers.append(writer)
        agent = Agent(root, AgentConfig(None, settings), Advertisement(root, os.environ))
        agent.scan()
        worker = next(iter(agent._workers))
        while not (worker.queue and worker.queue.acknowledged == runs):
            agent.scan()
            time.sleep(0.05)
        started = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
        for _ in range(LOOKS):
            agent.scan()
        seconds = (time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) - started) / LOOKS
        for writer in writers:
            writer.close()
        return (runs, seconds * 1000, seconds / SCAN_SECONDS * 100)


def main() -> None:
    """Print the table."""
    print(machine())
    counts = [int(word) for word in sys.argv[1:]] or [1, 16, 256]
    print(table(("runs", "ms a look", "% of a core"), [look(count) for count in counts]))


if __name__ == "__main__":
    main()
