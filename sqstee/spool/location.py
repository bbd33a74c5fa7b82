"""The paths of the spool folder and the local queue, and the check that the spool folder is ours."""

from __future__ import annotations

import os
import stat

from sqstee.destination import parse
from sqstee.errors import SqsteeError, did_you_mean
from sqstee.options import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqstee.destination import Destination
    from sqstee.options import Settings

SHARED = "/var/spool/sqstee"  # holds a folder for each user if the administrator created it with mode 1777
OTHER_FOLDER = "choose another folder with --spool DIR or SQSTEE_SPOOL"
_LOCAL_QUEUE = "local.db"


def default_root() -> str:
    """The spool folder where none is configured, on the node's own disk.

    It is the user's folder in SHARED if the administrator created that with mode 1777, otherwise one in /var/tmp.
    """
    try:
        if stat.S_IMODE(os.lstat(SHARED).st_mode) == 0o1777:
            return f"{SHARED}/{os.getuid()}"
    except OSError:
        pass
    return f"/var/tmp/sqstee-{os.getuid()}"


def root_path(configured: str) -> str:
    """The absolute path of the spool folder, which need not exist: `configured`, or the default if that is empty."""
    return os.path.abspath(configured or default_root())


def open_root(configured: str) -> str:
    """Create the spool folder (mode 0700) if it does not exist, verify that it is ours, and return its absolute path.

    Raises SqsteeError if it cannot be used: it belongs to another user, is a symlink, or others can read it.
    """
    path = root_path(configured)
    hint = OTHER_FOLDER
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise SqsteeError(f"the spool folder {path} cannot be created: {error.strerror}", hint) from None
    if not stat.S_ISDIR(found.st_mode):
        raise SqsteeError(f"the spool folder {path} is a symlink or a file", hint)
    if found.st_uid != os.getuid():
        raise SqsteeError(f"the spool folder {path} belongs to another user", hint)
    if stat.S_IMODE(found.st_mode) & 0o077:
        hint = f"chmod 700 {path} if it holds nothing else; otherwise use a folder in it: --spool {path}/sqstee"
        raise SqsteeError(f"the spool folder {path} can be read by others", hint)
    return path


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
    settings.to, settings.fallback = with_absolute_path(settings.to), with_absolute_path(settings.fallback)
    destination = parse(settings.to or "local")
    check_folder(destination, settings.spool)
    if settings.fallback:
        check_folder(parse(settings.fallback), settings.spool)
    check(settings, destination)
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
