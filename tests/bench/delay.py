"""Milliseconds from a message's arrival in the strict SQS to its line on `sqstee tail`'s stdout.

python tests/bench/delay.py [MESSAGES]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fakes.sqs import FakeSqs
from support import SCRIPT, clean_environment
from support.bodies import lines_of, put


def main() -> None:
    """One message after the other, 50 ms apart, at a round trip of 0 and of 20 ms."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    for latency in (0.0, 20.0):
        with tempfile.TemporaryDirectory() as spool, FakeSqs("q", latency_ms=latency) as server:
            environ = clean_environment() | server.environ() | {"SQSTEE_SPOOL": spool}
            command = [SCRIPT, "tail", "q", "--consume", "-o", "raw"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
                assert process.stdout
                delays = []
                for seq in range(count + 1):
                    started = time.perf_counter()
                    put(server, [lines_of(seq, seq)])
                    process.stdout.readline()
                    delays.append((time.perf_counter() - started) * 1000)
                    time.sleep(0.05)
                process.terminate()
            delays = sorted(delays[1:])  # the first one waits for the process to start
            print(
                f"round trip {latency:g} ms: median {delays[len(delays) // 2]:.1f} ms, "
                f"95 of 100 within {delays[int(len(delays) * 0.95)]:.1f} ms"
            )


if __name__ == "__main__":
    main()
