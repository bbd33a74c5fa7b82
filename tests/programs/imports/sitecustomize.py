"""Put on PYTHONPATH by a test: writes the name of every imported module, and by which process, to $IMPORTS_LOG."""

import os
import sys


def _log(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import":
        os.write(_FD, f"{os.getpid()} {arguments[0]}\n".encode())
    elif event == "os.fork":
        os.write(_FD, f"{os.getpid()} -fork\n".encode())


_FD = os.open(os.environ["IMPORTS_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
os.dup2(_FD, 99)  # out of the way of what the program finds open
os.close(_FD)
_FD = 99
os.set_inheritable(_FD, False)
for _name in sorted(sys.modules):
    os.write(_FD, f"{os.getpid()} {_name}\n".encode())
sys.addaudithook(_log)
