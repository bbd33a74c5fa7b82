"""The bound on the spool folder (--spool-max), kept by many runs at once without a lock that a stopped one could hold.

Every run announces, in the size of its `writer` lock file (one byte for each 4 KiB), how large its open segment may
become. A run that wants more announces it first and then adds up the whole folder, each open segment counted as large
as announced; above the bound it takes its announcement back. Of any runs that do so at the same time the last one to
announce sees what all others did, so that what was granted never exceeds the bound.

Files count by their size, rounded up to 4 KiB: st_blocks would be the disk's own figure, but file systems that allocate
ahead (XFS) report up to twice of what is written. The local queue in the same folder has a bound of its own.
"""

from __future__ import annotations

import errno
import os
import time

from sqstee.errors import SqsteeError
from sqstee.options import size_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SEGMENT_BYTES = 16 * 1024 * 1024
SEGMENT_SUFFIX = ".seg"
_FIRST_SEGMENT = f"00000001{SEGMENT_SUFFIX}"
STALLED_SECONDS = 10.0  # a destination that took nothing for so long is not waited for (--on-full auto)
RECOUNT_SECONDS = 0.1  # how often a full folder is added up again
_MAX_RECOUNT_SECONDS = 2.0
_RECOUNT_SHARE = 200  # with many runs looks are rarer: they take at most this part of each run's time
_BLOCK = 4096
_FIRST_GRANT_BYTES = 128 * 1024  # doubled with each grant, so that many small runs keep little from the others
_RESERVE_BYTES = (8 * 1024, 64 * 1024)  # of each run, for its gap and exit frames; the lower one where the bound is low
_RESERVE_SHARE = 1024  # the part of a bound that a run's reserve is, within these limits
_GRANT_SHARE = 64  # the part of what is free that one grant may be
_NEW_RUNS_SHARE = 16  # the part of a bound that is kept for the reserves of runs that come when it is full


class FullError(OSError):
    """The spool folder has reached its bound."""

    def __init__(self, bound: int) -> None:
        super().__init__(errno.ENOSPC, f"full (--spool-max {size_text(bound)})")


class UnboundedQuota:
    """Room without a bound of the folder: segments of at most `segment_bytes`."""

    reserve = 1 << 40  # bytes of the open segment above its limit that gap frames and events may use

    def __init__(self, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._segment_bytes = segment_bytes

    def grant(self, size: int, need: int, ceiling: int) -> int:
        """How large the open segment, of `size` bytes now, may become; raises FullError where `need` more is too much.

        `ceiling` is what was announced for it.
        """
        return max(self._segment_bytes, size + need)

    def left_over(self, ceiling: int, size: int) -> int:
        """What is left for the next segment of what was announced for one that ends with `size` bytes."""
        return _blocks(ceiling) * _BLOCK - _blocks(size) * _BLOCK

    def announce(self, ceiling: int) -> None:
        """Have other runs count the open segment as `ceiling` bytes; 0 once the run is closed."""

    def should_wait(self) -> bool:
        """Whether to wait for room rather than drop; asked after FullError."""
        return False


class Quota(UnboundedQuota):
    """A run's part of the spool folder `root`; `announcing` is the descriptor of its `writer` file."""

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
        self._lowest = 0  # the least that the folder held since it is full
        self._saved_at = 0  # the state file's time when the folder was last found full
        self._progress_at = -STALLED_SECONDS

    def claim_reserve(self) -> None:
        """Take the reserve; raises SqsteeError where not even that is free."""
        self.announce(self.reserve)
        if used_bytes(self._root) > self._bound:
            self.announce(0)
            hint = "`sqstee flush` ships what waits in it; --spool-max gives it more room"
            raise SqsteeError(f"the spool folder {self._root} is full (--spool-max {size_text(self._bound)})", hint)

    def grant(self, size: int, need: int, ceiling: int) -> int:
        now = self._clock()
        if now < self._recount_at:
            raise FullError(self._bound)
        taken = used_bytes(self._root)
        free = self._bound - self._bound // _NEW_RUNS_SHARE - taken
        more = max(need, min(self._next_grant, free // _GRANT_SHARE))
        if size + more + self.reserve - ceiling > free or not self._try_to_announce(size + more, ceiling):
            self._found_full(now, taken)
            raise FullError(self._bound)
        self._full = False
        self._next_grant = min(2 * self._next_grant, SEGMENT_BYTES)
        return size + more

    def announce(self, ceiling: int) -> None:
        os.ftruncate(self._announcing, _blocks(ceiling))

    def should_wait(self) -> bool:
        if self._on_full == "auto":
            return self._full and self._clock() - self._progress_at < STALLED_SECONDS
        return self._on_full == "block"

    def _try_to_announce(self, limit: int, ceiling: int) -> bool:
        """Announce a limit; taken back where others announced theirs meanwhile, and together it is too much."""
        self.announce(limit + self.reserve)
        if used_bytes(self._root) <= self._bound - self._bound // _NEW_RUNS_SHARE:
            return True
        self.announce(ceiling)
        return False

    def _found_full(self, now: float, taken: int) -> None:
        """Note when there was progress: this run's shipper saved its state, or the folder holds less than before."""
        saved_at = modified_at(f"{self._folder}/state")
        if not self._full:
            self._lowest = taken
            self._progress_at = max(self._progress_at, now - self._age_of_progress(saved_at))
        elif saved_at != self._saved_at or taken < self._lowest:
            self._lowest = min(self._lowest, taken)
            self._progress_at = now
        self._saved_at = saved_at
        self._full = True
        took = self._clock() - now
        self._recount_at = now + min(_MAX_RECOUNT_SECONDS, max(RECOUNT_SECONDS, _RECOUNT_SHARE * took))

    def _age_of_progress(self, saved_at: int) -> float:
        """Seconds since there may have been progress, as far as the folder tells one that did not look before.

        That is when the state was saved, when another run's segment was freed, or, since what is young may be taken
        yet, when this run's oldest segment was last written, if its segments are large enough to matter.
        """
        times = [saved_at, freed_at(self._root, self._folder)]
        own = sorted(_segments(self._folder))
        if sum(map(os.path.getsize, own)) > self.reserve:
            times.append(modified_at(own[0]))
        return max(0.0, (time.time_ns() - max(times)) / 1e9)


def modified_at(path: str) -> int:
    """When a file was last modified, in ns since the epoch; 0 where there is none."""
    try:
        return os.stat(path, follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0


def freed_at(root: str, own: str) -> int:
    """When a run other than the one in `own` last had a segment freed, at the latest, in ns since the epoch; else 0.

    Its folder tells the time, and that its first segment is missing.
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
    """Bytes of all folders in a spool folder, the open segments as large as their runs announced that they may be."""
    total = 0
    with os.scandir(root) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    total += _BLOCK + _used_by_run(entry.path)
            except (FileNotFoundError, PermissionError):  # shipped meanwhile; lost+found, where a disk is mounted here
                pass
    return total


def _used_by_run(folder: str) -> int:
    """What one folder holds; a rotation meanwhile is counted too high rather than too low.

    A run makes its next segment before it announces anything for it, so the announcement is read before the names are.
    """
    try:
        announced = os.stat(f"{folder}/writer", follow_symlinks=False).st_size * _BLOCK
    except FileNotFoundError:  # the quarantine
        announced = 0
    total = last_size = 0
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
            if entry.name.endswith(SEGMENT_SUFFIX) and entry.name > last:
                last, last_size = entry.name, size
    return total + max(0, announced - last_size)


def _blocks(size: int) -> int:
    return -(-size // _BLOCK)
