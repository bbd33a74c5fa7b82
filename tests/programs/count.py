"""Counts signals: `count.py NAME…` says `ready`, then a line for each; USR2 ends it, its status is their number."""

import os
import signal
import sys
import time

seen = 0


def note(number: int, frame: object) -> None:
    """Say which one came."""
    global seen
    seen += 1
    os.write(1, f"got {number}\n".encode())


for name in sys.argv[1:]:
    signal.signal(int(name[2:]) + signal.SIGRTMIN if name.startswith("RT") else signal.Signals[f"SIG{name}"], note)
signal.signal(signal.SIGUSR2, lambda number, frame: os._exit(seen))
os.write(1, b"ready\n")
while True:
    time.sleep(0.05)
