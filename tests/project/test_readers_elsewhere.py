"""What reads runs where there is no Linux: on a developer's macOS, say.

Wrapping needs Linux. Readers may use nothing that POSIX systems lack, so they are run without it here.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import Sqstee

# What macOS and the BSDs do not have, in Python's own names. /proc stays: to look for a file there is no error.
_WITHOUT = """
import ctypes, fcntl, os, select, signal, socket, sys, sysconfig
sysconfig.get_config_vars()  # it looks for a file that is named after the platform
for module, names in {
    os: "eventfd eventfd_read eventfd_write pidfd_open memfd_create splice copy_file_range sched_setaffinity "
        "sched_getaffinity posix_fadvise posix_fallocate pipe2 getresuid getresgid setresuid setresgid waitid "
        "fdatasync getrandom O_TMPFILE O_PATH O_DIRECT EFD_CLOEXEC EFD_NONBLOCK P_PIDFD setns unshare",
    select: "epoll EPOLLIN EPOLLOUT EPOLLHUP EPOLLET",
    signal: "pidfd_send_signal sigtimedwait sigwaitinfo SIGPOLL SIGPWR SIGSTKFLT SIGRTMIN SIGRTMAX",
    fcntl: "F_SETPIPE_SZ F_GETPIPE_SZ F_OFD_SETLK F_OFD_GETLK F_OFD_SETLKW F_ADD_SEALS F_NOTIFY",
    socket: "AF_NETLINK SO_PEERCRED SOCK_CLOEXEC SOCK_NONBLOCK",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
class NoPrctl(ctypes.CDLL):
    def __getattr__(self, name):
        raise AttributeError(name)
ctypes.CDLL = NoPrctl
sys.platform = "freebsd14"
"""
_RUN = """
from sqstee.__main__ import main
sys.exit(main())
"""
# Every module of the readers' rooms.
_IMPORT = """
import importlib, pkgutil, sqstee
for name in "cli drain read transports web".split():
    package = importlib.import_module(f"sqstee.{name}")
    for found in pkgutil.iter_modules(package.__path__, f"sqstee.{name}."):
        importlib.import_module(found.name)
        print(found.name)
"""

_VERBS = {
    "tail": ["tail", "{to}", "--no-follow"],
    "tail json": ["tail", "{to}", "--no-follow", "-o", "json"],
    "runs": ["runs", "{to}"],
    "show": ["show", "--last", "{to}"],
    "drain": ["drain", "{to}", "-O", "{out}"],
    "stat": ["stat", "{to}"],
    "top": ["top", "{to}", "--no-follow"],
    "check": ["check", "{to}"],
    "web": ["web", "{to}", "--check-store"],
}


@pytest.mark.parametrize("verb", _VERBS)
def test_readers_need_nothing_that_only_linux_has(verb: str, tmp_path: Path, sqstee: Sqstee) -> None:
    """Each reads a run that was wrapped here."""
    store, environ = f"local:{tmp_path}/queue", sqstee.environ
    assert (
        sqstee.run("--to", store, "--job", "nightly", "--", "sh", "-c", "echo out; echo err >&2; exit 3").returncode
        == 3
    )
    words = [word.format(to=store, out=f"{tmp_path}/out") for word in _VERBS[verb]]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT + _RUN, *words],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    shown = done.stdout + "".join(path.read_text() for path in tmp_path.glob("out/**/*.stderr*"))
    assert {"stat": "1", "check": "ok", "web": "sound"}.get(
        verb, "nightly" if verb in ("runs", "top") else "err"
    ) in shown


def test_their_modules_import_nothing_that_only_linux_has() -> None:
    """Also those that no test above needs, such as the web board's."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT + _IMPORT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "sqstee.web.board" in done.stdout.split()
