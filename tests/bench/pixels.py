"""Milliseconds from the print of a line to its pixels: a wrapped command, a collector with a board, a real browser.

    python tests/bench/pixels.py [LINES]

The command prints what time it is, five times a second; the run's page follows it in Chromium, which notes the time
when the frame with the line has been drawn.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import Row, machine, median, table
from selenium.webdriver import Chrome
from support import Sqstee, running, wait_for
from support.board import ServedBoard
from support.browser import chromium
from support.collector import collecting

LINES = 150
READING = "readers-token-0123456789"
_PROGRAM = """
import time
for _ in range(%d):
    print(f"printed {time.time():.3f}", flush=True)
    time.sleep(0.2)
"""
# Of two frames in a row the second one begins once the first has been drawn.
_WATCH = """
window.drawn = new Map();
const look = () => {
  for (const row of document.querySelectorAll("#rows .row .message")) {
    const found = /^printed ([0-9.]+)$/.exec(row.textContent);
    if (found && !drawn.has(found[1])) drawn.set(found[1], 1000 * (Date.now() / 1000 - Number(found[1])));
  }
};
const later = () => requestAnimationFrame(() => requestAnimationFrame(look));
new MutationObserver(later).observe(document.getElementById("rows"), { childList: true, subtree: true });
"""


def delays(browser: Chrome, lines: int, share: str) -> list[float]:
    """Milliseconds for each line that the page has shown while it followed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environ = {"SQSTEE_WEB_TOKEN": READING}
        with collecting(folder / "store.db", "--web", environ=environ) as (process, url):
            board = ServedBoard(process, f"{url.rstrip('/')}/", READING)
            sqstee = Sqstee(folder)
            words = sqstee.words(
                "--to", url, "--share", share, "--keep-shipper", "0.1s", "--", sys.executable, "-c", _PROGRAM % lines
            )
            with running(words, env=sqstee.environ, stdout=subprocess.DEVNULL) as command:
                wait_for(lambda: board.ask("api/runs").json["runs"], "run")
                run = board.ask("api/runs").json["runs"][0]["run"]
                browser.get(f"{board.url}?token={READING}")
                browser.get(f"{board.url}run?id={run}")
                browser.execute_script(_WATCH)
                began = time.time()
                command.wait()
            wait_for(lambda: board.ask("api/runs").json["runs"][0]["state"] == "ok", "end of the run")
            time.sleep(2)  # the page asks once a second
            found = dict(browser.execute_script("return [...drawn]"))
    return [delay for printed, delay in found.items() if float(printed) > began]


def main() -> None:
    """Print the table."""
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else LINES
    print(machine())
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        for name, share in (("by itself", "never"), ("shared shipper", "auto")):
            found = sorted(delays(browser, lines, share))
            rows.append((name, len(found), median(found), found[len(found) * 95 // 100]))
    print(table(("the run ships", "lines", "p50 ms", "p95 ms"), rows))


if __name__ == "__main__":
    main()
