"""Where the spool folder is, and that it is ours."""

from __future__ import annotations

import os
import stat

from sqstee.errors import SqsteeError

SHARED = "/var/spool/sqstee"  # where each user has a folder, if the administrator has made it for all (1777)
OTHER_FOLDER = "choose another folder with --spool DIR or SQSTEE_SPOOL"


def default_root() -> str:
    """The spool folder where none is configured: node-local, and the administrator's if it was made for all (1777)."""
    try:
        if stat.S_IMODE(os.lstat(SHARED).st_mode) == 0o1777:
            return f"{SHARED}/{os.getuid()}"
    except OSError:
        pass
    return f"/var/tmp/sqstee-{os.getuid()}"


def open_root(path: str) -> str:
    """Make the spool folder (0700) where it is missing and verify that it is ours; returns its absolute path.

    Raises SqsteeError where it cannot be used: somebody else's, a symlink, readable by others.
    """
    path = os.path.abspath(path)
    hint = OTHER_FOLDER
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise SqsteeError(f"the spool folder {path} cannot be made: {error.strerror}", hint) from None
    if not stat.S_ISDIR(found.st_mode):
        raise SqsteeError(f"the spool folder {path} is a symlink or a file", hint)
    if found.st_uid != os.getuid():
        raise SqsteeError(f"the spool folder {path} belongs to another user", hint)
    if stat.S_IMODE(found.st_mode) & 0o077:
        hint = f"chmod 700 {path} where it holds nothing else; if not, a folder in it: --spool {path}/sqstee"
        raise SqsteeError(f"the spool folder {path} can be read by others", hint)
    return path


def absolute(path: str) -> str:
    """A path that holds wherever we go; as it is where the folder that we are in is gone."""
    try:
        return os.path.abspath(path)
    except OSError:
        return path


def with_absolute_path(destination: str) -> str:
    """A destination as anybody may read it later: a local queue's by a path that holds wherever they are."""
    kind, colon, path = destination.partition(":")
    return f"local:{absolute(path)}" if colon and kind == "local" else destination
