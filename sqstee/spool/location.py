"""The paths of the spool folder and the local queue, and the check that the spool folder is ours."""

from __future__ import annotations

import os
import stat

from sqstee.destination import parse
from sqstee.errors import SqsteeError, did_you_mean
from sqstee.option_values import size_text
from sqstee.settings import check_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqstee.destination import Destination
    from sqstee.settings import Settings

SHARED = "/var/spool/sqstee"  # holds a folder for each user if the administrator created it with mode 1777
OTHER_FOLDER = "choose another folder with --spool DIR or SQSTEE_SPOOL"
_LOCAL_QUEUE = "local.db"
_MEMORY = "/dev/shm"
# In _MEMORY, for all runs together, and as much for the local queue: containers have 64 MiB of it by default, and the
# command needs the rest.
MEMORY_BYTES = 24 * 1024 * 1024
_MEMORY_SHARE = 3 / 8  # of a smaller one
_LEAST_FREE_BYTES = 1024 * 1024  # with less, a disk counts as full
_LEAST_FREE_FILES = 16  # a run has six, the local queue three


def default_roots() -> list[str]:
    """The spool folders where none is configured, the best one first: a later one is for when none before can be used.

    The best is on the node's own disk: the user's folder in SHARED if the administrator created that with mode 1777,
    otherwise one in /var/tmp.
    """
    first, *others = _usual_roots()
    folder = os.environ.get("TMPDIR")
    own = [os.path.join(absolute(folder), f"sqstee-{os.getuid()}")] if folder else []
    return list(dict.fromkeys((first, *own, *others)))


def _usual_roots() -> list[str]:
    """Those of the default folders that are the same in every shell."""
    uid = os.getuid()
    first = f"/var/tmp/sqstee-{uid}"
    try:
        if stat.S_IMODE(os.lstat(SHARED).st_mode) == 0o1777:
            first = f"{SHARED}/{uid}"
    except OSError:
        pass
    return [first, f"/tmp/sqstee-{uid}", f"{_MEMORY}/sqstee-{uid}"]


def flush_command(root: str, settings: Settings) -> str:
    """The command that ships the lines in a spool folder, also from a shell where TMPDIR is another one."""
    source = settings.sources.get("spool", "--spool")
    if root in _usual_roots() or source not in ("--spool", "spool"):  # the second is a program's own choice
        return "sqstee flush"
    import shlex

    return f"sqstee flush --spool {shlex.quote(root)}"


def default_root() -> str:
    """The spool folder where none is configured: the first one that can be used, or else the best one."""
    roots = default_roots()
    return next((root for root in roots if not obstacle(root)), roots[0])


def root_path(configured: str) -> str:
    """The absolute path of the spool folder, which need not exist: `configured`, or the default if that is empty."""
    return os.path.abspath(configured or default_root())


def existing_roots(configured: str) -> list[str]:
    """The spool folder, and if none is configured those that earlier runs used in its place: where runs may wait."""
    root = root_path(configured)
    others = [] if configured else [other for other in default_roots() if other != root and _is_ours(other)]
    return [root, *others]


def obstacle(root: str) -> str:
    """Why a spool folder cannot be used, or made; empty where nothing is in its way."""
    try:
        found = os.lstat(root)
        problem, place = _problem(found), root
    except OSError:  # it is to be made
        problem, place = "", os.path.dirname(root)
    try:
        disk = os.statvfs(place)
    except OSError as error:
        return problem or str(error.strerror)
    if disk.f_flag & os.ST_RDONLY:
        return problem or "its file system is read-only"
    if not os.access(place, os.W_OK | os.X_OK):
        return problem or "no permission"
    full = disk.f_bavail * disk.f_frsize < _LEAST_FREE_BYTES or (disk.f_files and disk.f_favail < _LEAST_FREE_FILES)
    return problem or ("its disk is full" if full else "")


def _is_ours(root: str) -> bool:
    try:
        return not _problem(os.lstat(root))
    except OSError:
        return False


def _problem(found: os.stat_result) -> str:
    """Why the file with a spool folder's name is not a spool folder of ours; empty if it is one."""
    if not stat.S_ISDIR(found.st_mode):
        return "is a symlink or a file"
    if found.st_uid != os.getuid():
        return "belongs to another user"
    return "can be read by others" if stat.S_IMODE(found.st_mode) & 0o077 else ""


def open_root(configured: str) -> str:
    """Create the spool folder (mode 0700) if it does not exist, verify that it is ours, and return its absolute path.

    Raises SqsteeError if it cannot be used: it belongs to another user, is a symlink, or others can read it.
    """
    path = root_path(configured)
    hint = OTHER_FOLDER
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        problem = _problem(os.lstat(path))
    except OSError as error:
        raise SqsteeError(f"the spool folder {path} cannot be created: {error.strerror}", hint) from None
    if problem.startswith("can be read"):
        hint = f"chmod 700 {path} if it holds nothing else; otherwise use a folder in it: --spool {path}/sqstee"
    if problem:
        raise SqsteeError(f"the spool folder {path} {problem}", hint)
    return path


def open_for_run(settings: Settings) -> tuple[str, str]:
    """The spool folder for a run with these settings, as of `open_root`, and a notice if it is not the best one.

    Bounds the spool where that is in memory. The notice is empty if the user has seen it before.
    """
    root = open_root(settings.spool)
    best = default_roots()[0]
    if settings.spool or root == best:
        return root, ""
    bound = ""
    if root.startswith(f"{_MEMORY}/"):
        disk = os.statvfs(root)
        most = min(MEMORY_BYTES, int(disk.f_blocks * disk.f_frsize * _MEMORY_SHARE) // 1024 * 1024)
        for name in ("spool_max", "local_max"):
            if name not in settings.sources:  # else the user has chosen it
                setattr(settings, name, most)
        bound = f", at most {size_text(settings.spool_max)}, in memory,"
    if not is_first_time(root, "place"):
        return root, ""
    return root, f"{best} cannot be the spool folder ({obstacle(best)}): lines wait{bound} in {root}; {OTHER_FOLDER}"


def is_first_time(root: str, what: str) -> bool:
    """Whether this hint has not been given to the user of this spool folder before; from now on it has."""
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(f"{root}/.{what}-told", flags, 0o600))
    except OSError:
        return False
    return True


def local_queue(root: str) -> str:
    """The path of the local queue, a SQLite database in the spool folder `root`."""
    return f"{root}/{_LOCAL_QUEUE}"


def resolve(settings: Settings) -> Destination:
    """Make every path in `settings` absolute, since we leave the caller's folder, and return the parsed destination.

    `spool` and `to` stay empty if they are not set. Raises SqsteeError for settings that contradict each other.
    """
    for name in ("spool", "token_file"):
        if path := getattr(settings, name):
            setattr(settings, name, absolute(path))
    settings.to = with_absolute_path(settings.to)
    settings.fallback = tuple(map(with_absolute_path, settings.fallback))
    destination = parse(settings.to or "local")
    for one in (destination, *map(parse, settings.fallback)):
        check_folder(one, settings.spool)
    check_options(settings, destination)
    return destination


def check_folder(destination: Destination, spool: str = "") -> None:
    """Raise SqsteeError if a local queue's folder does not exist, or is a file: a mistyped path would hide the lines.

    The spool folder may come into being later: the one in `spool`, or the default one.
    """
    if destination.kind != "local" or not destination.name:
        return
    folder = os.path.dirname(absolute(destination.name))
    if os.path.isdir(folder) or folder == root_path(spool):
        return
    known, missing = os.path.dirname(folder), folder
    while not os.path.isdir(known):
        known, missing = os.path.dirname(known), known
    if os.path.lexists(missing):
        hint = f"name a file in a folder, such as local:{os.path.join(known, os.path.basename(destination.name))}"
        raise SqsteeError(f"{destination.text}: {missing} is not a folder", hint)
    try:
        names = os.listdir(known)
    except OSError:
        names = []
    meant = did_you_mean(missing, [os.path.join(known, name) for name in names])
    import shlex

    raise SqsteeError(
        f"{destination.text}: the folder {folder} does not exist{meant}", f"mkdir -p {shlex.quote(folder)}"
    )


def with_absolute_path(destination: str, root: str = "") -> str:
    """A destination that means the same in every working directory: a local queue is named by its absolute path.

    With `root`, `local` without a path becomes the path of the local queue in that spool folder.
    """
    kind, _, path = destination.partition(":")
    if kind != "local" or not (path or root):
        return destination
    return f"local:{absolute(path or local_queue(root))}"


def absolute(path: str) -> str:
    """`path` as an absolute path; unchanged where the working directory has been removed."""
    try:
        return os.path.abspath(path)
    except OSError:
        return path
