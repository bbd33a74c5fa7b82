"""The files of a folder, for readers that also read a bucket's objects: by paths in it, in the order of these paths.

A folder may be shared, so nothing in it is trusted: no symbolic link is followed, and no FIFO waited for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Protocol

NO_FILE = -2  # the size of a file that is not there
_MOST_DEPTH = 8  # folders within folders


class TreeFile:
    """A file in a listing: its path with slashes, its bytes, and when it was written, in seconds since the epoch.

    `tag` changes with the content, where the tree knows one.
    """

    __slots__ = ("modified", "path", "size", "tag")

    def __init__(self, path: str, size: int, modified: float, tag: str = "") -> None:
        self.path = path
        self.size = size
        self.modified = modified
        self.tag = tag


class FileTree(Protocol):
    """Files by their paths. Methods raise OSError (FileNotFoundError where a file is gone) or TransportError."""

    name: str  # as the user wrote it
    noun: str  # what to call a file
    at_once: int  # files that are opened at a time with profit
    poll_seconds: float  # between two looks for new files

    def page(self, under: str = "", after: str = "") -> tuple[list[TreeFile], str]:
        """Files whose paths begin with `under`, in order; the value of `after` for the next ones, '' at the end."""

    def open(self, path: str) -> BinaryIO:
        """A file, from its beginning."""

    def size(self, path: str) -> int:
        """The size of a file; less than 0 where it cannot be read, NO_FILE where there is none."""

    def identity(self, path: str) -> tuple[object, ...]:
        """A value that changes when a file is written again."""


def files_of(tree: FileTree, unders: Iterable[str] = ("",)) -> Iterator[TreeFile]:
    """All files whose paths begin with one of `unders`."""
    for under in unders:
        after = ""
        while True:
            found, after = tree.page(under, after)
            yield from found
            if not after:
                break


class FolderTree:
    """The files of a folder; `name` is how the user wrote its path."""

    noun = "file"
    at_once = 1
    poll_seconds = 0.1

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        self._path = path

    def page(self, under: str = "", after: str = "") -> tuple[list[TreeFile], str]:
        """The files of the next name in the folder, or in that part of it which `under` names."""
        folder, _, beginning = under.rpartition("/")
        try:
            fd = self._open_folder(folder)
        except (FileNotFoundError, NotADirectoryError):
            if folder:
                return [], ""
            raise
        try:
            names = sorted(name for name in os.listdir(fd) if name.startswith(beginning) and name > after)
            if not names:
                return [], ""
            found = list(_walk(fd, names[0], f"{folder}/" if folder else "", _MOST_DEPTH))
            return found, names[0] if len(names) > 1 else ""
        finally:
            os.close(fd)

    def open(self, path: str) -> BinaryIO:
        """A regular file, unbuffered."""
        folder, _, name = path.rpartition("/")
        parent = self._open_folder(folder)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
        finally:
            os.close(parent)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(0, "no regular file", path)
        return open(fd, "rb", buffering=0)

    def size(self, path: str) -> int:
        """The size of a regular file."""
        try:
            with self.open(path) as file:
                return os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return NO_FILE
        except OSError:
            return -1

    def identity(self, path: str) -> tuple[object, ...]:
        """Its inode, time and size."""
        found = os.stat(f"{self._path}/{path}")
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _open_folder(self, path: str) -> int:
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for name in filter(None, path.split("/")):
            try:
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        return fd


def _walk(folder: int, name: str, before: str, depth: int) -> Iterator[TreeFile]:
    """The file `name` of a folder, or all that are in the folder of this name; `before` is the path up to it."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return  # it is gone
    if not stat.S_ISDIR(found.st_mode):
        yield TreeFile(f"{before}{name}", found.st_size, found.st_mtime, f"{found.st_ino:x}")
        return
    try:
        if not depth:
            raise OSError("too deep")
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:  # what is in it is not known, so it is no file of anybody's
        yield TreeFile(f"{before}{name}", -1, found.st_mtime)
        return
    try:
        for inner in sorted(os.listdir(fd)):
            yield from _walk(fd, inner, f"{before}{name}/", depth - 1)
    finally:
        os.close(fd)
