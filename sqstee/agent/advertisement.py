"""An agent's place in its folder: the lock that says it is there, what it publishes, and its status file."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterable, Mapping

from sqstee import __version__
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.spool import agent_file
from sqstee.spool.agent_file import ANY, FILE_NAME, STATUS_NAME


class Advertisement:
    """Holds the agent's lock in `folder`. Raises SqsteeError where another agent does."""

    def __init__(self, folder: str, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self._selectors = agent_file.selectors(environ)
        self._unsaid = b""  # what is to be published and is not yet
        self._fd = self._take()

    def publish(self, destinations: Iterable[str] | None) -> None:
        """Say whom runs may rely on for what: these destinations, any (None), or, with none, nothing from now on.

        Where the disk refuses it is for `renew` to say it; until then runs rely on nobody.
        """
        names = [ANY] if destinations is None else sorted(destinations)
        text = json.dumps(
            {
                "pid": os.getpid(),
                "version": __version__,
                "destinations": None if destinations is None else names,
                "accepts": [agent_file.digest(self._selectors, name) for name in names],
            },
            indent=2,
        )
        self._unsaid = f"{text}\n".encode()
        self.renew()

    def renew(self) -> str:
        """Publish what the disk has refused so far; why it still does, or ''."""
        if not self._unsaid:
            return ""
        os.ftruncate(self._fd, 0)  # who reads meanwhile finds nothing, and ships by itself
        try:
            if os.pwrite(self._fd, self._unsaid, 0) == len(self._unsaid):
                self._unsaid = b""
                return ""
            why = os.strerror(errno.ENOSPC)
        except OSError as error:
            why = error.strerror or "it cannot be written"
        os.ftruncate(self._fd, 0)
        return f"{self.folder}/{FILE_NAME}: {why}"

    def write_status(self, status: Mapping[str, object]) -> None:
        """Replace the status file; a full disk is no reason to stop."""
        path = f"{self.folder}/{STATUS_NAME}"
        fresh = f"{path}.{os.getpid()}"
        try:
            _unlink(fresh)
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                os.fchmod(fd, 0o644)
                os.write(fd, json.dumps(status, indent=2).encode() + b"\n")
            finally:
                os.close(fd)
            os.rename(fresh, path)
        except OSError:
            pass

    @property
    def in_place(self) -> bool:
        """Whether runs can still find it: the folder may have been removed."""
        return _same(self._fd, f"{self.folder}/{FILE_NAME}")

    def leave(self) -> None:
        """Give the place up."""
        _unlink(f"{self.folder}/{STATUS_NAME}")
        os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def _take(self) -> int:
        path = f"{self.folder}/{FILE_NAME}"
        for _ in range(3):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
            except OSError as error:
                raise _unusable(path, error) from None
            if _locked(fd) and _same(fd, path):
                os.fchmod(fd, 0o644)
                os.ftruncate(fd, 0)  # what a killed agent published
                return fd
            pid = agent_file.lock_holder(fd)
            mine = _is_ours(fd)
            os.close(fd)
            if pid and mine:
                who = f" (process {pid})" if pid > 0 else ""
                hint = "sqstee agent --status shows what it does"
                raise SqsteeError(f"an agent serves {self.folder} already{who}", hint, EXIT_FAILURE)
            _unlink(path)  # another user's, or held by somebody who may only read it
        raise SqsteeError(f"{path} cannot be locked", "", EXIT_FAILURE)


def read_status(folder: str) -> dict[str, object] | None:
    """What the agent of `folder` says that it does; None where there is no agent."""
    if not agent_file.published(folder):
        return None
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(f"{folder}/{STATUS_NAME}", flags)
    except OSError:
        return {}
    with open(fd, "rb") as file:
        if os.fstat(fd).st_uid not in (0, os.getuid()):
            return {}
        try:
            found = json.load(file)
        except ValueError:
            return {}
    return found if isinstance(found, dict) else {}


def _unusable(path: str, error: OSError) -> SqsteeError:
    return SqsteeError(f"{path} cannot be used: {error.strerror}", "it is the agent's own; remove it", EXIT_FAILURE)


def _locked(fd: int) -> bool:
    if not _is_ours(fd):
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_ours(fd: int) -> bool:
    found = os.fstat(fd)
    return found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode)


def _same(fd: int, path: str) -> bool:
    """Whether the file has not been replaced since it was opened."""
    try:
        there, here = os.lstat(path), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
