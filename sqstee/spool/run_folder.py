"""The folder of one run in the spool folder SPOOL.

SPOOL/<run>/writer        lock of the process that appends (the front or its heir); its size is the quota (see `quota`).
SPOOL/<run>/ship          lock of the process that ships (the shipper, flush or the agent).
SPOOL/<run>/state         acknowledged position and plan (see `checkpoint`).
SPOOL/<run>/00000001.seg  checksummed frames (see `segments`).
SPOOL/<run>/trouble       why an agent does not deliver the run (see `DeliveryTrouble`).
SPOOL/<run>/reserve       blocks for the frames that close the run on a full disk (see `segments`).
SPOOL/.new-<run>          the folder while it is being created.
SPOOL/usage               the kept total of all folders' sizes (see `quota`).
SPOOL                     itself the lock of the process that ships the runs that others left (see agent/other_runs).
"""

from __future__ import annotations

import errno
import fcntl
import os

from sqstee.errors import SqsteeError
from sqstee.spool.location import OTHER_FOLDER
from sqstee.spool.quota import Quota
from sqstee.spool.segments import NEXT, RESERVE, Segments, segment_name, segment_numbers
from sqstee.spool.writer import Writer
from sqstee.text import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqstee.spool.redact import Masker


_TROUBLE = "trouble"
_TROUBLE_BYTES = 16384
_OWN_FILES = ("writer", "ship", "state", _TROUBLE, RESERVE, NEXT)  # besides the segments


def new_ulid(time_ns: int) -> str:
    """A ULID: 48 bits of milliseconds and 80 random bits in Crockford's base 32, 26 characters."""
    value = (time_ns // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    return "".join(alphabet[value >> shift & 31] for shift in range(125, -1, -5))


def open_lock(folder: str, name: str) -> int:
    """Open the lock file `name` of a run's folder without locking it."""
    return os.open(f"{folder}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def lock(folder: str, name: str) -> int | None:
    """Lock the file `name` of a run's folder; the descriptor that holds the lock, or None if another process does."""
    return _locked(open_lock(folder, name))


def probe_lock(folder: str, name: str) -> int | None:
    """As `lock`, to find out who holds it: never creates the file, which would keep a folder that is being removed.

    Raises FileNotFoundError if it is gone.
    """
    return _locked(os.open(f"{folder}/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))


def lock_root(root: str) -> int | None:
    """Lock the spool folder itself, to be the one process that ships runs that others left; None if another one is."""
    return _locked(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _locked(fd: int) -> int | None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


class DeliveryTrouble:
    """Why an agent does not deliver a run; it leaves that word in the run's folder for the front, or its stand-by.

    `reason` is empty if there is none but the notices: for the user, one line each, behind the destination that keeps
    the lines in the spool and a tab (see `ShipperHandle.refusals`). `is_final` if waiting for the agent does not help.
    """

    __slots__ = ("is_final", "notices", "reason")

    def __init__(self, reason: str = "", is_final: bool = False, notices: Sequence[str] = ()) -> None:
        self.reason = reason
        self.is_final = is_final
        self.notices = list(notices)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeliveryTrouble) and self._lines() == other._lines()

    def __bool__(self) -> bool:
        return bool(self.reason or self.notices)

    @classmethod
    def read(cls, folder: str) -> DeliveryTrouble:
        """The trouble that an agent left, empty if there is none."""
        try:
            fd = os.open(f"{folder}/{_TROUBLE}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return cls()
        try:
            first, *notices = os.read(fd, _TROUBLE_BYTES).decode(errors="replace").split("\n")[:-1] or [""]
        except OSError:
            return cls()
        finally:
            os.close(fd)
        final, _, reason = first.partition("\t")
        return cls(reason, final == "final", notices)

    def write(self, folder: str) -> None:
        """Leave word; none is left where there is no trouble."""
        path = f"{folder}/{_TROUBLE}"
        try:
            if not self:
                os.unlink(path)
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(path, flags, 0o600)
            try:
                os.write(fd, "".join(f"{line}\n" for line in self._lines()).encode(errors="replace"))
            finally:
                os.close(fd)
        except OSError:  # the run, or the room for it, is gone
            pass

    def _lines(self) -> list[str]:
        return [f"{'final' if self.is_final else ''}\t{one_line(self.reason)}", *self.notices]


def create(
    root: str,
    run: str,
    meta: bytes,
    max_line: int,
    spool_max: int,
    on_full: str,
    make: Callable[[Segments, int], Writer] = Writer,
) -> tuple[Writer, int, int]:
    """Create a run's folder, locked before anyone can see it.

    Returns its writer, made by `make`, and the descriptors of the `writer` and the `ship` lock.
    Raises SqsteeError if the spool folder is full or cannot be written.
    """
    try:
        segments, writing, shipping = _create(root, run, meta, spool_max, on_full)
    except OSError as error:
        raise SqsteeError(f"the spool folder {root} cannot be written: {error.strerror}", OTHER_FOLDER) from None
    return make(segments, max_line), writing, shipping


def writer_for(masker: Masker | None, strips: bool = False) -> Callable[[Segments, int], Writer]:
    """The function that makes a run's writer, which masks if there is a masker; `strips` as of RedactingWriter."""
    if not masker:
        return Writer
    from sqstee.spool.redact import RedactingWriter

    return lambda segments, max_line: RedactingWriter(segments, max_line, masker, strips=strips)


def _create(root: str, run: str, meta: bytes, spool_max: int, on_full: str) -> tuple[Segments, int, int]:
    hidden, folder = f"{root}/.new-{run}", f"{root}/{run}"
    os.mkdir(hidden, 0o700)
    try:
        writing, shipping = lock(hidden, "writer"), lock(hidden, "ship")
        if writing is None or shipping is None:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        quota = Quota(root, run, writing, spool_max, on_full)
        quota.claim_reserve()
        os.rename(hidden, folder)
    except BaseException:
        delete(hidden)  # remove_half_made deletes the rest later
        raise
    return Segments(folder, meta, quota), writing, shipping


def remove(folder: str, path: str = "", *, due: Callable[[], bool]) -> bool:
    """Remove a run's folder, whose `ship` lock the caller holds, unless another process holds its `writer` lock.

    If `folder` is /proc/self/fd/N, to which rmdir does not apply, `path` is its real path. `due` is asked under both
    locks, where no process can be about to write, whether to remove it; the answer is returned. Files that could not be
    deleted stay for the next attempt.
    """
    writing = lock(folder, "writer")
    if writing is None:
        return False
    try:
        over = due()
        if over:
            delete(folder, path)
        return over
    finally:
        os.close(writing)


def delete(folder: str, path: str = "") -> None:
    """Remove a run's folder, whose locks the caller holds both; files that cannot be deleted stay."""
    try:
        for name in sorted(os.listdir(folder)):  # segments first: without the checkpoint they would be sent again
            os.unlink(f"{folder}/{name}")
        os.rmdir(path or folder)
    except OSError:
        pass


def remove_empty(folder: str, path: str = "") -> bool:
    """Remove a run's folder as `remove` does, if no segment has a byte."""
    return holds_nothing(folder) and remove(folder, path, due=lambda: holds_nothing(folder))


def holds_nothing(folder: str) -> bool:
    """Whether no segment of a run has a byte: its front was killed at the start, or the disk was full.

    A file of another name may hold lines of a newer version of sqstee.
    """
    segments = [segment_name(number) for number in segment_numbers(folder)]
    if set(os.listdir(folder)) - {*_OWN_FILES, *segments}:
        return False
    return not any(_size(f"{folder}/{name}") for name in segments)


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0
