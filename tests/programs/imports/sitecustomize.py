"""Put on PYTHONPATH by a test: writes the name of every imported module, and by which process, to $IMPORTS_LOG."""

import os
import sys


def _write(text: str) -> None:
    log = os.open(os.environ["IMPORTS_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(log, text.encode())
    os.close(log)


def _log(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import":
        _write(f"{os.getpid()} {arguments[0]}\n")
    elif event == "os.fork":
        _write(f"{os.getpid()} -fork\n")


_write("".join(f"{os.getpid()} {name}\n" for name in sorted(sys.modules)))
sys.addaudithook(_log)
