"""Start-up: from the exec of sqstee to the command's first instruction, beside a bare `python3 -c pass`.

    python tests/bench/startup.py [ROUNDS]

The command is a shell that opens a named pipe; what the same shell takes by itself is taken off. All are run in turn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import median
from support import SCRIPT, clean_environment

ROUNDS = 400
OPTIONS = [
    *("--job", "nightly", "--label", "team=a", "--host", "node17"),
    *("--linger", "1s", "--message-bytes", "256K", "--compress", "auto"),
]


def until_open(prefix: list[str], fifo: str, environ: dict[str, str]) -> float:
    """Milliseconds from the fork until the command opens the named pipe."""
    started = time.perf_counter()
    with subprocess.Popen(
        [*prefix, "/bin/sh", "-c", f": > {fifo}"], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        os.close(os.open(fifo, os.O_RDONLY))
        elapsed = time.perf_counter() - started
        process.wait()
    return elapsed * 1000


def until_end(words: list[str], environ: dict[str, str]) -> float:
    """Milliseconds from the fork to the end."""
    started = time.perf_counter()
    subprocess.run(words, env=environ, check=True)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        fifo = f"{folder}/fifo"
        os.mkfifo(fifo)
        environ = clean_environment() | {"SQSTEE_SPOOL": f"{folder}/spool", "HOME": folder}
        plain = [SCRIPT, "--"]
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            rows: dict[str, Callable[[], float]] = {
                "python3 -c pass": lambda: until_end([sys.executable, "-c", "pass"], environ),
                "the shell alone": lambda: until_open([], fifo, environ),
                "sqstee --": lambda: until_open(plain, fifo, environ),
                "sqstee with six options --": lambda: until_open([SCRIPT, *OPTIONS, "--"], fifo, environ),
            }
            for name, measure in rows.items():
                times.setdefault(name, []).append(measure())
        bare, shell = median(times["python3 -c pass"]), median(times["the shell alone"])
        print(f"{'milliseconds':30}{'median':>8}{'least':>8}{'to python3 -c pass':>20}")
        for name, found in times.items():
            own = 0.0 if name in ("python3 -c pass", "the shell alone") else shell
            print(f"{name:30}{median(found) - own:8.1f}{min(found) - own:8.1f}{(median(found) - own) / bare:20.2f}")


if __name__ == "__main__":
    main()
