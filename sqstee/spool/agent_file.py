"""The file of an agent: how a run finds out whether an agent ships for it.

    SPOOL/agent         locked (fcntl) by the agent while it serves; JSON for people, digests for runs
    SPOOL/agent.status  the agent's status, updated about once a second

An agent serves one spool folder, or, as root, every user's folder in /var/spool/sqstee (mode 1777). A run trusts a file
that root or its own user owns, while the lock is held, and only if it contains the digest of the run's AWS settings and
destination. The lock is queried (F_GETLK), never taken: a query disturbs nobody and needs no more than read permission;
and as it asks for a read lock, only a write lock conflicts, which needs write permission to hold.
"""

from __future__ import annotations

import fcntl
import os
import stat
from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_NAME = "agent"
STATUS_NAME = "agent.status"
ANY = "*"
_FORMAT = b"1"  # version of the digests, and of everything else in the file that a run relies on
_LARGEST = 1024 * 1024
_FLOCK = Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid

# Variables that select the server and the identity. Of the secrets only the collector's token is one: nothing else
# identifies its owner.
_SELECTORS = (
    "SQSTEE_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)
_ENDPOINTS = "AWS_ENDPOINT_URL"
_FILES = (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials"))


def selectors(environ: Mapping[str, str]) -> bytes:
    """The settings of an environment that select where boto3 sends, and as whom; an empty variable counts as unset.

    The shared files count by their paths, and only if they exist: so a service with a home of its own equals a user
    without such files, but not a user with a profile.
    """
    names = [*_SELECTORS, *sorted(name for name in environ if name.startswith(_ENDPOINTS))]
    found = [f"{name}={environ[name]}" for name in names if environ.get(name)]
    for variable, name in _FILES:
        path = environ.get(variable) or f"{environ.get('HOME', '')}/.aws/{name}"
        if os.path.isfile(path):
            found.append(f"{variable}={path}")
    return "\0".join(found).encode("utf-8", "surrogateescape")


def digest(environ_selectors: bytes, destination: str) -> str:
    """The entry in an agent's file for runs with these selectors and `destination` (or ANY)."""
    data = b"\0\0".join((_FORMAT, environ_selectors, destination.encode("utf-8", "surrogateescape")))
    return _sha256(data)


def _sha256(data: bytes) -> str:
    """SHA-256 without hashlib, which the front must not load."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found,unused-ignore]  # since 3.12
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore,no-redef]
        except ImportError:
            from hashlib import sha256
    return str(sha256(data).hexdigest())


def serves(root: str, destination: str, environ: Mapping[str, str]) -> bool:
    """Whether an agent ships, at present, for runs in the spool folder `root` with this destination."""
    folders = [root]
    if os.path.basename(root) == str(os.getuid()):
        folders.append(os.path.dirname(root))
    wanted: list[bytes] = []
    for folder in folders:
        text = published(folder)
        if not text:
            continue
        if not wanted:
            mine = selectors(environ)
            wanted = [digest(mine, name).encode() for name in (destination, ANY)]
        if any(one in text for one in wanted):
            return True
    return False


def published(folder: str) -> bytes:
    """The content of the file of a live agent in `folder`; empty if there is none, or none to trust."""
    try:
        fd = os.open(f"{folder}/{FILE_NAME}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        found = os.fstat(fd)
        if found.st_uid not in (0, os.getuid()) or not stat.S_ISREG(found.st_mode) or not lock_holder(fd):
            return b""
        return os.pread(fd, _LARGEST, 0)
    except OSError:
        return b""
    finally:
        os.close(fd)


def lock_holder(fd: int) -> int:
    """The pid that holds a write lock on an agent's file; 0 if none does, -1 if it has no pid in our namespace."""
    asked = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return 0 if kind == fcntl.F_UNLCK else int(pid) or -1


def serves_all_users(root: str) -> bool:
    """Whether a folder belongs to root and has mode 1777: then it holds a spool folder for each user."""
    try:
        found = os.lstat(root)
    except OSError:
        return False
    return found.st_uid == 0 and stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o1777
