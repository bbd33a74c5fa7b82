"""The bound on the spool folder (--spool-max), kept by many runs at once without a lock that a stopped run could hold.

Every run announces, by the size of its `writer` lock file (one byte for each 4 KiB), how large its open segment may
become. A run that needs more announces it first and then adds up the whole folder, counting each open segment as large
as announced; above the bound it withdraws its announcement. If several runs do so at the same time, the last one to
announce sees the announcements of all others, so the grants together never exceed the bound.

Adding up takes 50 µs for each run that waits. Where many wait, the sum is kept as the size of the file SPOOL/usage (one
byte for each 4 KiB), and every grant is appended to it before it is used. Freed blocks are not subtracted, so the kept
total is never too low; the folder is added up again once the kept total exceeds the bound. The new sum takes the place
of the old one in a file of its own, which cannot be read (mode 0200) until everything is in it that was appended to the
old one meanwhile. An unreadable total collects grants but counts for nothing: who meets it adds the folder up.

Files count by their size, rounded up to 4 KiB: st_blocks would be the disk's own number, but file systems that allocate
ahead (XFS) report up to twice the written size. The local queue in the same folder has a bound of its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from sqstee.errors import SqsteeError
from sqstee.option_values import size_text
from sqstee.trace import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SEGMENT_BYTES = 16 * 1024 * 1024
SEGMENT_SUFFIX = ".seg"
_FIRST_SEGMENT = f"00000001{SEGMENT_SUFFIX}"
STALLED_SECONDS = 10.0  # without progress for this long the destination is not waited for (--on-full auto)
RECOUNT_SECONDS = 0.1  # a full folder is added up again at most this often
_MAX_RECOUNT_SECONDS = 2.0
_RECOUNT_SHARE = 200  # with many runs less often: adding up takes at most 1/200 of each run's time
_BLOCK = 4096
_KEPT_TOTAL = "usage"
_KEPT_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_INCOMPLETE, _READABLE = 0o200, 0o400  # modes of the kept total
_KEPT_FROM_RUNS = 32  # with fewer runs the folder is added up each time
_OTHER_FILES_BYTES = 2 * _BLOCK  # a run's state and its reserve
_BLOCKS_OF_A_RUN = 4  # its folder, these files, and one for rounding
_FIRST_GRANT_BYTES = 128 * 1024  # doubled with each grant, so that many small runs hold back little from the others
_RESERVE_BYTES = (8 * 1024, 64 * 1024)  # of each run, for its gap and exit frames; the smaller for a small bound
_RESERVE_SHARE = 1024  # a run's reserve is 1/1024 of the bound, within these limits
_GRANT_SHARE = 64  # one grant is at most 1/64 of the free space
_NEW_RUNS_SHARE = 16  # 1/16 of the bound is kept for the reserves of runs that start in a full folder


class FullError(OSError):
    """The spool folder has reached its bound."""

    def __init__(self, bound: int) -> None:
        super().__init__(errno.ENOSPC, f"full (--spool-max {size_text(bound)})")


class UnboundedQuota:
    """The quota of a spool folder without a bound: segments of at most `segment_bytes`."""

    reserve = 1 << 40  # bytes above the open segment's limit that gap frames and events may use

    def __init__(self, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._segment_bytes = segment_bytes

    def grant(self, size: int, need: int, ceiling: int) -> int:
        """The new limit of the open segment, which has `size` bytes; raises FullError if `need` more do not fit.

        `ceiling` is the size announced for the segment.
        """
        return max(self._segment_bytes, size + need)

    def left_over(self, ceiling: int, size: int) -> int:
        """The part of `ceiling`, announced for a segment that ends with `size` bytes, that is left for the next one."""
        return _blocks(ceiling) * _BLOCK - _blocks(size) * _BLOCK

    def announce(self, ceiling: int) -> None:
        """Have other runs count the open segment as `ceiling` bytes; 0 once the run is closed."""

    def should_wait(self) -> bool:
        """Whether to wait for room rather than drop lines; asked after FullError."""
        return False


class Quota(UnboundedQuota):
    """A run's share of the spool folder `root`; `announcing` is the descriptor of its `writer` file."""

    def __init__(
        self,
        root: str,
        run: str,
        announcing: int,
        bound: int,
        on_full: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        least, most = _RESERVE_BYTES
        self.reserve = max(least, min(most, bound // _RESERVE_SHARE))
        self._root = root
        self._folder = f"{root}/{run}"
        self._announcing = announcing
        self._bound = bound
        self._on_full = on_full
        self._clock = clock
        self._next_grant = _FIRST_GRANT_BYTES
        self._recount_at = 0.0
        self._full = False
        self._lowest = 0  # the least bytes that the folder held since it became full
        self._saved_at = 0  # the state file's time when the folder was last found full, in ns
        self._progress_at = -STALLED_SECONDS
        self._waiting: bool | None = None  # the last decision in a full folder, for the trace

    def claim_reserve(self) -> None:
        """Claim the reserve; raises SqsteeError if not even that much is free."""
        self.announce(self.reserve)
        kept = add_to_kept_total(self._root, _blocks(self.reserve) + _BLOCKS_OF_A_RUN)
        if (kept is None or kept > self._bound) and used_bytes(self._root) > self._bound:
            self.announce(0)
            hint = "`sqstee flush` ships the waiting lines; --spool-max raises the bound"
            raise SqsteeError(f"the spool folder {self._root} is full (--spool-max {size_text(self._bound)})", hint)

    def grant(self, size: int, need: int, ceiling: int) -> int:
        now = self._clock()
        if now < self._recount_at:
            raise FullError(self._bound)
        most = self._bound - self._bound // _NEW_RUNS_SHARE
        kept = add_to_kept_total(self._root, 0)
        exact = kept is None or size + need + self.reserve - ceiling > most - kept
        taken = used_bytes(self._root) if exact or kept is None else kept
        free = most - taken
        more = max(need, min(self._next_grant, free // _GRANT_SHARE))
        if size + more + self.reserve - ceiling > free or not self._try_to_announce(size + more, ceiling):
            self._found_full(now, taken if exact else used_bytes(self._root))
            raise FullError(self._bound)
        if self._full:
            trace("spool", f"has room again: {taken} of {self._bound} bytes are used")
        self._full, self._waiting = False, None
        self._next_grant = min(2 * self._next_grant, SEGMENT_BYTES)
        return size + more

    def announce(self, ceiling: int) -> None:
        os.ftruncate(self._announcing, _blocks(ceiling))

    def should_wait(self) -> bool:
        waiting = self._on_full == "block"
        if self._on_full == "auto":
            waiting = self._full and self._clock() - self._progress_at < STALLED_SECONDS
        if waiting != self._waiting:
            self._waiting = waiting
            trace("spool", f"is full, --on-full {self._on_full}: {'waits for room' if waiting else 'drops lines'}")
        return waiting

    def _try_to_announce(self, limit: int, ceiling: int) -> bool:
        """Announce a limit; withdraw it and return False if the runs' announcements together exceed the bound."""
        self.announce(limit + self.reserve)
        most = self._bound - self._bound // _NEW_RUNS_SHARE
        kept = add_to_kept_total(self._root, max(0, _blocks(limit + self.reserve) - _blocks(ceiling)))
        if (kept is not None and kept <= most) or used_bytes(self._root) <= most:
            return True
        self.announce(ceiling)
        return False

    def _found_full(self, now: float, taken: int) -> None:
        """Note progress, if any: this run's shipper has saved its state, or the folder holds less than before."""
        saved_at = modified_at(f"{self._folder}/state")
        if not self._full:
            self._lowest = taken
            self._progress_at = max(self._progress_at, now - self._age_of_progress(saved_at))
        elif saved_at != self._saved_at or taken < self._lowest:
            self._lowest = min(self._lowest, taken)
            self._progress_at = now
        self._saved_at = saved_at
        self._full = True
        elapsed = self._clock() - now
        self._recount_at = now + min(_MAX_RECOUNT_SECONDS, max(RECOUNT_SECONDS, _RECOUNT_SHARE * elapsed))

    def _age_of_progress(self, saved_at: int) -> float:
        """Seconds since the last possible progress, judged from the folder alone when it is first found full.

        Progress is a saved state, or a freed segment of another run. If this run's segments are large enough to matter,
        the last write to the oldest of them counts too: the destination may still accept such young lines.
        """
        times = [saved_at, freed_at(self._root, self._folder)]
        own = sorted(_segments(self._folder))
        if sum(map(os.path.getsize, own)) > self.reserve:
            times.append(modified_at(own[0]))
        return max(0.0, (time.time_ns() - max(times)) / 1e9)


def modified_at(path: str) -> int:
    """When a file was last modified, in ns since the epoch; 0 if there is no such file."""
    try:
        return os.stat(path, follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0


def freed_at(root: str, own: str) -> int:
    """The latest time at which a segment of a run other than the one in `own` can have been freed, in ns; else 0.

    It is the mtime of a run's folder in which the first segment is missing.
    """
    times = [0]
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.path != own and entry.is_dir(follow_symlinks=False) and (names := _segments(entry.path)):
                times.append(modified_at(entry.path) if min(names) > f"{entry.path}/{_FIRST_SEGMENT}" else 0)
    return max(times)


def _segments(folder: str) -> list[str]:
    try:
        return [f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(SEGMENT_SUFFIX)]
    except OSError:
        return []


def used_bytes(root: str) -> int:
    """Bytes of all folders in a spool folder, with each open segment as large as its run has announced."""
    total = runs = 0
    kept = _open_kept_total(root)
    before = _size_of(kept)
    with os.scandir(root) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    total += _BLOCK + _used_by_run(entry.path)
                    runs += 1
            except (FileNotFoundError, PermissionError):  # shipped meanwhile; lost+found of a disk that is mounted here
                pass
    try:
        if kept >= 0:
            _keep_total(root, _blocks(total), kept, before)
        elif runs >= _KEPT_FROM_RUNS:  # grants that this sum may have missed are in the next one
            os.close(os.open(f"{root}/{_KEPT_TOTAL}", _KEPT_FLAGS | os.O_CREAT | os.O_EXCL, _INCOMPLETE))
    except OSError:  # the disk is full: every sum is exact then
        pass
    finally:
        if kept >= 0:
            os.close(kept)
    return total


def add_to_kept_total(root: str, blocks: int) -> int | None:
    """Add to the kept total of a spool folder; returns it in bytes, or None if no total is kept or it is incomplete."""
    while (fd := _open_kept_total(root)) >= 0:
        try:
            if blocks and os.write(fd, bytes(blocks)) < blocks:
                return None
            found = os.fstat(fd)
            if found.st_ino == os.stat(f"{root}/{_KEPT_TOTAL}").st_ino:  # else it was added up meanwhile: add again
                return found.st_size * _BLOCK if found.st_mode & _READABLE else None
        except OSError:  # the disk is full, or the file was removed by hand
            return None
        finally:
            os.close(fd)
    return None


def _keep_total(root: str, blocks: int, old: int, before: int) -> None:
    """Replace the kept total with a new sum, plus all grants added to the `old` one since it had the size `before`.

    Whoever adds to the old one after that sees that it was replaced, and adds again. Raises OSError, BlockingIOError
    if another process is replacing it.
    """
    path = f"{root}/{_KEPT_TOTAL}"
    made = f"{root}/.{_KEPT_TOTAL}-{os.urandom(8).hex()}"  # processes in two containers may have one pid
    fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)  # never waited for: a stopped run may hold it
    if os.stat(path).st_ino != os.fstat(old).st_ino:  # another process has just replaced it
        return
    fd = os.open(made, _KEPT_FLAGS | os.O_CREAT | os.O_EXCL, _INCOMPLETE)
    try:
        carried = _size_of(old)
        try:
            os.ftruncate(fd, blocks + carried - before)
            os.rename(made, path)
        except OSError:
            os.unlink(made)
            raise
        os.write(fd, bytes(_size_of(old) - carried))
        os.fchmod(fd, _INCOMPLETE | _READABLE)
    finally:
        os.close(fd)


def _open_kept_total(root: str) -> int:
    try:
        return os.open(f"{root}/{_KEPT_TOTAL}", _KEPT_FLAGS)
    except OSError:
        return -1


def _size_of(fd: int) -> int:
    return os.fstat(fd).st_size if fd >= 0 else 0


def _used_by_run(folder: str) -> int:
    """Bytes of one folder; during a rotation the result is too high rather than too low.

    A run creates its next segment before it announces anything for it, so the announcement is read before the names.
    """
    try:
        announced = os.stat(f"{folder}/writer", follow_symlinks=False).st_size * _BLOCK
    except FileNotFoundError:  # the quarantine
        announced = 0
    total = last_size = other = 0
    last = ""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == "writer":
                continue
            try:
                size = _blocks(entry.stat(follow_symlinks=False).st_size) * _BLOCK
            except FileNotFoundError:  # freed meanwhile: the others still count
                continue
            total += size
            if not entry.name.endswith(SEGMENT_SUFFIX):
                other += size
            if entry.name.endswith(SEGMENT_SUFFIX) and entry.name > last:
                last, last_size = entry.name, size
    soon = _OTHER_FILES_BYTES - other if announced else 0  # a live run will have these
    return total + max(0, soon) + max(0, announced - last_size)


def _blocks(size: int) -> int:
    return -(-size // _BLOCK)
