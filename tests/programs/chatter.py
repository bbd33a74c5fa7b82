"""Writes what it is told to on stdin: `1 LINES LENGTH` or `2 LINES LENGTH` (one write), `part TEXT`, `exit STATUS`."""

import os
import sys

written = {1: 0, 2: 0}


def lines(fd: int, count: int, length: int) -> bytes:
    """The next `count` lines of a stream, each `length` bytes with its newline."""
    first = written[fd]
    written[fd] += count
    return b"".join(b"%0*d\n" % (length - 1, number) for number in range(first, first + count))


def main() -> None:
    """Obey until the end of stdin."""
    for order in sys.stdin:
        word, *rest = order.split()
        if word == "exit":
            sys.exit(int(rest[0]))
        if word == "part":
            os.write(1, rest[0].encode())
            continue
        data = memoryview(lines(int(word), int(rest[0]), int(rest[1])))
        while data:
            data = data[os.write(int(word), data) :]


if __name__ == "__main__":
    main()
