"""An agent's files in its folder: the one it locks and publishes its destinations in, and its status file."""

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
from sqstee.trace import trace


class Advertisement:
    """Holds the agent's lock in `folder`. Raises SqsteeError if another agent holds it."""

    def __init__(self, folder: str, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self._selectors = agent_file.selectors(environ)
        self._unpublished = b""  # text that the disk has refused so far
        self._fd = self._lock_file()

    def publish(self, destinations: Iterable[str] | None) -> None:
        """Publish the destinations that the agent ships to: these, any (None), or none from now on (empty).

        If the disk refuses, `renew` tries again; until then runs ship by themselves.
        """
        names = [ANY] if destinations is None else sorted(destinations)
        trace("agent", f"publishes destinations: {' '.join(names) or 'none'}")
        text = json.dumps(
            {
                "pid": os.getpid(),
                "version": __version__,
                "destinations": None if destinations is None else names,
                "accepts": [agent_file.digest(self._selectors, name) for name in names],
            },
            indent=2,
        )
        self._unpublished = f"{text}\n".encode()
        self.renew()

    def renew(self) -> str:
        """Publish text that the disk has refused so far; returns why it still refuses, or ''."""
        if not self._unpublished:
            return ""
        os.ftruncate(self._fd, 0)  # a run that reads it now finds it empty, and ships by itself
        try:
            if os.pwrite(self._fd, self._unpublished, 0) == len(self._unpublished):
                self._unpublished = b""
                return ""
            why = os.strerror(errno.ENOSPC)
        except OSError as error:
            why = error.strerror or "cannot be written"
        os.ftruncate(self._fd, 0)
        return f"{self.folder}/{FILE_NAME}: {why}"

    def write_status(self, status: Mapping[str, object]) -> None:
        """Replace the status file; a full disk is no reason to stop."""
        path = f"{self.folder}/{STATUS_NAME}"
        temporary = f"{path}.{os.getpid()}"
        try:
            _unlink(temporary)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                os.fchmod(fd, 0o644)
                os.write(fd, json.dumps(status, indent=2).encode() + b"\n")
            finally:
                os.close(fd)
            os.rename(temporary, path)
        except OSError:
            pass

    @property
    def in_place(self) -> bool:
        """Whether runs can still find the agent's file: it, or the folder, may have been removed."""
        return _is_same_file(self._fd, f"{self.folder}/{FILE_NAME}")

    def leave(self) -> None:
        """Withdraw the advertisement and release the lock."""
        _unlink(f"{self.folder}/{STATUS_NAME}")
        os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def _lock_file(self) -> int:
        path = f"{self.folder}/{FILE_NAME}"
        for _ in range(3):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
            except OSError as error:
                raise _unusable(path, error) from None
            if _lock(fd) and _is_same_file(fd, path):
                os.fchmod(fd, 0o644)
                os.ftruncate(fd, 0)  # a killed agent's destinations
                return fd
            pid = agent_file.lock_holder(fd)
            mine = _is_ours(fd)
            os.close(fd)
            if pid and mine:
                who = f" (process {pid})" if pid > 0 else ""
                hint = "to see what it does, run: sqstee agent --status"
                raise SqsteeError(f"an agent already serves {self.folder}{who}", hint, EXIT_FAILURE)
            _unlink(path)  # another user's file, or locked by a process that is no agent of ours
        raise SqsteeError(f"{path} cannot be locked", "", EXIT_FAILURE)


class NoAdvertisement:
    """In an advertisement's place: a process that ships what is there and ends, which no run relies on."""

    in_place = True

    def publish(self, destinations: Iterable[str] | None) -> None:
        """Publish nothing."""

    def renew(self) -> str:
        """Report no trouble."""
        return ""

    def write_status(self, status: Mapping[str, object]) -> None:
        """Write nothing."""

    def leave(self) -> None:
        """Withdraw nothing."""


def read_status(folder: str) -> dict[str, object] | None:
    """The status that the agent of `folder` writes; None if there is no agent."""
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
    hint = f"remove it, then start the agent again: rm -r {path}"
    return SqsteeError(f"the agent's file {path} cannot be used: {error.strerror}", hint, EXIT_FAILURE)


def _lock(fd: int) -> bool:
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


def _is_same_file(fd: int, path: str) -> bool:
    """Whether `path` is still the file that was opened as `fd`."""
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
