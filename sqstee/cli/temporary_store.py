"""A store in $TMPDIR that is removed at the end, and after a kill by the next process that makes one."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PREFIX = "sqstee-web-"
_FILES = ("store.db", "store.db-journal", "store.db-shm", "store.db-wal")


@contextmanager
def temporary_store() -> Iterator[str]:
    """The path of a new store, in a folder whose lock is held while it is in use; those that nobody holds go first."""
    with suppress(OSError):  # a folder that may not be listed
        _sweep(tempfile.gettempdir())
    folder, lock = _locked_folder()
    try:
        yield os.path.join(folder, _FILES[0])
    finally:
        _remove(folder)
        os.close(lock)


def _locked_folder() -> tuple[str, int]:
    """A new folder and its lock; one more where another process has swept it before it was locked."""
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        with suppress(FileNotFoundError):
            lock = _open(folder)
            try:
                if _lock(lock) and os.path.isdir(folder):
                    return folder, lock
            except OSError:  # a network file system without locks: nobody can take this folder for a dead one
                return folder, lock
            os.close(lock)


def _sweep(parent: str) -> None:
    """Remove folders of this user that killed processes left; in each, remove only the files of a store."""
    for name in os.listdir(parent):
        if name.startswith(_PREFIX):
            with suppress(OSError):
                path = os.path.join(parent, name)
                folder = _open(path)
                try:
                    if os.fstat(folder).st_uid == os.geteuid() and _lock(folder):
                        _remove(path)
                finally:
                    os.close(folder)


def _open(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(folder: int) -> bool:
    """Whether the lock is ours from now on. Raises OSError where there are no locks."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(folder: str) -> None:
    for name in _FILES:
        with suppress(OSError):
            os.unlink(os.path.join(folder, name))
    with suppress(OSError):
        os.rmdir(folder)


__all__ = ["temporary_store"]
