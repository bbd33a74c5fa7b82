"""An agent's files in its folder: the one it locks and publishes itself in, its status file, and its FIFO."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from sqstee import __version__
from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.jsonbytes import decode_object, encode_object
from sqstee.spool import agent_file
from sqstee.spool.agent_file import ANY, FILE_NAME, SHARED_PREFIX, STATUS_SUFFIX, WAKE_SUFFIX
from sqstee.trace import trace

TYPE_CHECKING = False
if TYPE_CHECKING:  # a shared shipper publishes itself before it loads what shipping needs
    from collections.abc import Iterable, Mapping

_NEW_STATUS_SUFFIX = f"{STATUS_SUFFIX}.new"
_WORDS_BYTES = 65536


class HeldError(SqsteeError):
    """Another process serves already."""


class Advertisement:
    """Holds the lock of an agent's file in `folder`: of the agent's, or, with `identity`, of a shared shipper's.

    `wake_fd` becomes readable when runs have written to the FIFO; -1 without one. Raises HeldError if another process
    holds the lock, and SqsteeError if the file cannot be used.
    """

    def __init__(self, folder: str, environ: Mapping[str, str], identity: str = "") -> None:
        self.folder = folder
        self.identity = identity
        self.withdrawn = False
        self._environ_selectors = agent_file.selectors(environ)
        self._selectors_digest = agent_file.selectors_digest(environ)
        self._path = f"{folder}/{SHARED_PREFIX}{identity}" if identity else f"{folder}/{FILE_NAME}"
        self._published = b""
        self._unpublished = b""  # text that the disk has refused so far
        self._fd = self._lock_file()
        self.wake_fd = self._make_fifo()

    def publish(self, destinations: Iterable[str] | None) -> None:
        """Publish the destinations that the agent ships to: these, any (None), or none from now on (empty).

        If the disk refuses, `renew` tries again; until then runs ship by themselves.
        """
        names = [ANY] if destinations is None else sorted(destinations)
        trace("agent", f"publishes destinations: {' '.join(names) or 'none'}")
        if self.identity and not names:
            os.ftruncate(self._fd, 0)
            self._published = b""
            return
        text = encode_object(
            {
                "pid": os.getpid(),
                "version": __version__,
                "destinations": None if destinations is None else names,
                "accepts": []
                if self.identity
                else [agent_file.digest(self._environ_selectors, name) for name in names],
            }
        )
        if text + b"\n" != self._published:
            self._unpublished = text + b"\n"
            self.renew()

    def recognises(self, meta: Mapping[str, object]) -> bool:
        """Whether a run with this META frame relies on this agent, if it relies on one."""
        if self.identity:
            return meta.get("identity", self.identity) == self.identity
        return meta.get("selectors", self._selectors_digest) == self._selectors_digest

    def renew(self) -> str:
        """Publish text that the disk has refused so far; returns why it still refuses, or ''."""
        if not self._unpublished:
            return ""
        os.ftruncate(self._fd, 0)  # a run that reads it now finds it empty, and ships by itself
        try:
            if os.pwrite(self._fd, self._unpublished, 0) == len(self._unpublished):
                self._published, self._unpublished = self._unpublished, b""
                return ""
            why = os.strerror(errno.ENOSPC)
        except OSError as error:
            why = error.strerror or "cannot be written"
        os.ftruncate(self._fd, 0)
        return f"{self._path}: {why}"

    def beat(self) -> None:
        """Show that this process runs (see `agent_file.heartbeat`)."""
        try:
            os.utime(self._fd)
        except OSError:  # the disk has become read-only
            pass

    def write_status(self, status: Mapping[str, object]) -> None:
        """Replace the status file; a full disk is no reason to stop."""
        if self.withdrawn:
            return
        temporary = self._path + _NEW_STATUS_SUFFIX
        try:
            _unlink(temporary)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                os.fchmod(fd, 0o644)
                os.write(fd, encode_object(dict(status)) + b"\n")
            finally:
                os.close(fd)
            os.rename(temporary, self._path + STATUS_SUFFIX)
        except OSError:
            _unlink(temporary)

    @property
    def in_place(self) -> bool:
        """Whether runs can still find the agent's file: it, or the folder, may have been removed."""
        return self.withdrawn or _is_same_file(self._fd, self._path)

    def read_words(self) -> list[bytes]:
        """The words that runs have written to the FIFO since the last call (see `agent_file.wake`)."""
        try:
            return os.read(self.wake_fd, _WORDS_BYTES).split(b"\n") if self.wake_fd >= 0 else []
        except BlockingIOError:
            return []

    def withdraw(self) -> None:
        """Have runs that start from now on find another agent; this process finishes the runs it has claimed."""
        trace("agent", "withdraws")
        self._unlink_files()
        self.withdrawn = True

    def leave(self) -> None:
        """Withdraw the advertisement and release the lock."""
        if not self.withdrawn:
            self._unlink_files()
        os.ftruncate(self._fd, 0)
        os.close(self._fd)
        if self.wake_fd >= 0:
            os.close(self.wake_fd)

    def remove_stale(self) -> None:
        """Remove the files that killed shared shippers of other identities have left."""
        for identity in agent_file.identities(self.folder):
            if identity != self.identity:  # to close our own file would release its lock
                try:
                    Advertisement(self.folder, {}, identity).leave()
                except SqsteeError:  # it serves
                    pass

    def _unlink_files(self) -> None:
        if not _is_same_file(self._fd, self._path):  # ours was removed, and the others may be a successor's
            return
        for suffix in (STATUS_SUFFIX, _NEW_STATUS_SUFFIX, WAKE_SUFFIX, *([""] if self.identity else [])):
            _unlink(self._path + suffix)

    def _make_fifo(self) -> int:
        """Make the FIFO; without one, runs wait for the next scan."""
        path = self._path + WAKE_SUFFIX
        try:
            _unlink(path)
            os.mkfifo(path, 0o600)
            if agent_file.serves_all_users(self.folder):
                os.chmod(path, 0o622)
            return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            trace("agent", f"has no FIFO: {error.strerror}")
            return -1

    def _lock_file(self) -> int:
        path = self._path
        for _ in range(3):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
            except OSError as error:
                if error.errno == errno.ELOOP:  # a symlink is not ours
                    _unlink(path)
                    continue
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
                hint = "to see its state, run: sqstee agent --status"
                raise HeldError(f"an agent already serves {self.folder}{who}", hint, EXIT_FAILURE)
            if mine and not pid:  # it was removed, or released, since it was opened
                continue
            _unlink(path)  # another user's file, or locked by a process that is no agent of ours
        raise SqsteeError(f"{path} cannot be locked", "", EXIT_FAILURE)


class NoAdvertisement:
    """Stands in for an advertisement in a process that ships the waiting runs and ends; no run relies on it."""

    in_place = True
    withdrawn = False
    identity = ""
    wake_fd = -1

    def recognises(self, meta: Mapping[str, object]) -> bool:
        """Whether no agent ships the run while it lives."""
        return "identity" not in meta

    def publish(self, destinations: Iterable[str] | None) -> None:
        """Publish nothing."""

    def renew(self) -> str:
        """Report no trouble."""
        return ""

    def beat(self) -> None:
        """Show nothing."""

    def write_status(self, status: Mapping[str, object]) -> None:
        """Write nothing."""

    def remove_stale(self) -> None:
        """Leave the files to those who publish."""

    def read_words(self) -> list[bytes]:
        """No run has written."""
        return []

    def withdraw(self) -> None:
        """Withdraw nothing."""

    def leave(self) -> None:
        """Withdraw nothing."""


def read_status(path: str) -> dict[str, object] | None:
    """The status of the agent that holds the file at `path`; None if no process does."""
    if not agent_file.published(path):
        return None
    try:
        return decode_object(agent_file.status(path))
    except ValueError:
        return {}


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
    """Remove a file, if there is one and it can be."""
    try:
        os.unlink(path)
    except OSError:
        pass
