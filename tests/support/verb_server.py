"""Starting verbs by fork: that takes 10 ms, where a new interpreter spends 150 to 350 ms on typer and botocore.

What runs is the installed launcher, in a process of its own with the descriptors, environment, folder and umask of its
caller. Only the imports are done already, so tests of what is imported, and of an interpreter's own settings, start
the command itself (see `can_serve`), as do all tests that start it with `subprocess`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

VERBS = (
    *("alert", "check", "completion", "drain", "flush", "help", "man", "measure"),
    *("runs", "show", "stat", "tail", "top", "web"),
)
READ_ONCE = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "FORCE_COLOR", "NO_COLOR")  # by an interpreter, or at an import


class VerbServer:
    """The client side: one server per test process, started with its first verb."""

    _shared: ClassVar[VerbServer | None] = None
    _starting: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._environ = dict(os.environ)
        self._folder = tempfile.TemporaryDirectory(prefix="sqstee-verbs-")
        self._address = str(Path(self._folder.name) / "socket")
        listener = socket.socket(socket.AF_UNIX)
        with listener:
            listener.bind(self._address)
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,  # what a pipe can do is known from here on, in each verb as well
                stderr=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )

    @classmethod
    def shared(cls) -> VerbServer:
        """The server of this process."""
        with cls._starting:
            if cls._shared is None or cls._shared._owner != os.getpid():
                cls._shared = cls()
                atexit.register(cls._shared._close)
            return cls._shared

    def can_serve(self, words: tuple[str, ...], environ: Mapping[str, str]) -> bool:
        """Whether these words are a verb's, and the interpreter would start as the server's did."""
        names = {name for name in {*environ, *self._environ} if name.startswith(READ_ONCE)}
        return words[:1] in [(verb,) for verb in VERBS] and all(
            environ.get(name) == self._environ.get(name) for name in names
        )

    def run(
        self, command: list[str], stdin: bytes | None, environ: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a verb to its end, as subprocess.run() does."""
        umask = os.umask(0o077)
        os.umask(umask)
        request = {"argv": command, "environ": dict(environ), "folder": os.getcwd(), "umask": umask}
        read_stdin, written_stdin = os.pipe()
        read_stdout, written_stdout = os.pipe()
        read_stderr, written_stderr = os.pipe()
        if stdin is None:
            os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), read_stdin, inheritable=False)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._address)
            theirs = [read_stdin, written_stdout, written_stderr]
            socket.send_fds(connection, [b"\0"], theirs)
            for fd in theirs:
                os.close(fd)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                pid = int(answers.readline())
                streams = [_Stream(read_stdout), _Stream(read_stderr)]
                with suppress(BrokenPipeError), open(written_stdin, "wb") as pipe:
                    pipe.write(stdin or b"")
                connection.settimeout(timeout)
                try:
                    status = os.waitstatus_to_exitcode(int(answers.readline()))
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(command, timeout) from None
        stdout, stderr = (stream.content() for stream in streams)
        return subprocess.CompletedProcess(command, status, stdout, stderr)

    def _close(self) -> None:
        if self._owner == os.getpid():
            self._process.communicate(timeout=60)
            self._folder.cleanup()


class _Stream(threading.Thread):
    """What comes through a pipe, up to its end."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self._fd = fd
        self._content = b""
        self.start()

    def run(self) -> None:
        with open(self._fd, "rb") as pipe:
            self._content = pipe.read()

    def content(self) -> bytes:
        self.join()
        return self._content


def serve(listener: socket.socket) -> None:
    """Serve until stdin ends. Returns in the process of each verb as well, which is then set up as its caller wants."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for the verbs
    gc.freeze()  # a collection in a verb would copy the pages of all imported modules
    while 0 not in select.select([0, listener.fileno()], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _start(connection)
        connection.close()
    sys.exit()


def _start(connection: socket.socket) -> None:
    """Start a verb, tell its pid and its wait status, and exit; returns in the verb's process."""
    _, fds, _, _ = socket.recv_fds(connection, 1, 3)
    with connection, connection.makefile("rb") as requests:
        request = json.loads(requests.readline())
        pid = os.fork()
        if pid != 0:
            connection.sendall(b"%d\n" % pid)
            connection.sendall(b"%d\n" % os.waitpid(pid, 0)[1])
            os._exit(0)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["folder"])
    os.umask(request["umask"])
    sys.argv[:] = request["argv"]
    sys.path[0] = os.path.dirname(sys.argv[0])


def keep_descriptions() -> None:
    """Have botocore list and parse its descriptions of services once per process, not for every client.

    A client takes 10 ms of the processor then, instead of 90.
    """
    from botocore.loaders import JSONFileLoader, Loader

    load, listed = functools.cache(JSONFileLoader().load_file), Loader.list_available_services
    lists: dict[tuple[str, ...], list[str]] = {}

    def load_file(self: JSONFileLoader, file_path: str) -> Any:
        return load(file_path)

    def list_available_services(self: Loader, type_name: str) -> list[str]:
        key = (type_name, *self.search_paths)
        if key not in lists:
            lists[key] = listed(self, type_name)
        return lists[key]

    JSONFileLoader.load_file = load_file  # type: ignore[method-assign]
    Loader.list_available_services = list_available_services  # type: ignore[method-assign]


def _import() -> None:
    """Import what verbs need, and make the objects whose making imports more."""
    import rich.console
    import rich.live
    import rich.table  # noqa: F401
    import typer.main

    import sqstee.cli.tree
    from sqstee.transports import aws

    typer.main.get_command(sqstee.cli.tree.app)
    keep_descriptions()
    for service in ("sqs", "s3"):
        aws.load(service)


if __name__ == "__main__":
    _import()
    serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_path(sys.argv[0], run_name="__main__")
