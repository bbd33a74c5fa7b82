"""A stand-in for PySpark's daemon (python/pyspark/daemon.py), as far as its caller meets it.

It puts itself into a process group of its own, listens, writes the port to stdout as four bytes, waits for connections
and for its stdin at once, and forks a worker for each connection. A worker answers with its pid and what it was sent,
and prints to both streams. Four bytes on stdin are the pid of a worker to kill; the end of stdin is the end of all.
"""

import os
import select
import signal
import socket
import struct
import sys


def work(connection: socket.socket) -> None:
    """A worker: a number in, its pid and the number's square out."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    connection.sendall(struct.pack("!i", os.getpid()))
    (number,) = struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))
    print(f"worker got {number}", flush=True)
    print(f"worker warns of {number}", file=sys.stderr, flush=True)
    connection.sendall(struct.pack("!i", number * number))
    connection.recv(1)  # until the caller leaves


def main() -> None:
    """Serve until stdin ends."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        os.write(1, struct.pack("!i", listening.getsockname()[1]))
        while True:
            ready, _, _ = select.select([0, listening.fileno()], [], [])
            if 0 in ready:
                word = os.read(0, 4)
                if not word:
                    break
                os.kill(struct.unpack("!i", word)[0], signal.SIGKILL)
            if listening.fileno() in ready:
                connection, _ = listening.accept()
                if os.fork() == 0:
                    listening.close()
                    work(connection)
                    os._exit(0)
                connection.close()
    print("daemon ends", flush=True)


main()
