"""The file of an agent: how a run finds out which process ships for it, and wakes that process.

    SPOOL/agent          locked (fcntl) by the agent while it serves; JSON for people, digests for runs.
    SPOOL/agent.status   the agent's status, updated about once a second.
    SPOOL/agent.wake     a FIFO: a run writes its name there when it has grown, or waits for its delivery (see `wake`).
    SPOOL/agent-<id>…    the same three files of a shared shipper, which one of the runs has started.

An agent serves one spool folder, or, as root, every user's folder in /var/spool/sqstee (mode 1777). A run trusts a file
that root or its own user owns, while the lock is held, and only if it contains the digest of the run's AWS settings and
destination. The lock is queried (F_GETLK), never taken: a query disturbs nobody and needs no more than read permission;
and as it asks for a read lock, only a write lock conflicts, which needs write permission to hold.

A shared shipper serves the runs of one identity, to any destination: its file is named after the identity (see
`identity`), and counts while it is locked and not empty. The shipper touches it once a second: if it is stopped with
the job that has started it, it must not hold up the runs of others (see `heartbeat`).
"""

from __future__ import annotations

import fcntl
import os
import stat
from _struct import Struct

from sqstee import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FILE_NAME = "agent"
SHARED_PREFIX = "agent-"
STATUS_SUFFIX, WAKE_SUFFIX = ".status", ".wake"
GROWN, AWAITED = b"+", b"-"  # what a run writes to the FIFO in front of its name
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
# Variables that a shared shipper keeps besides: all of AWS but those that number jobs, and what clients look at. Of the
# secrets none counts for its identity: the access key's id, or the address that gives credentials, tells them apart.
_AWS, _AWS_JOB = "AWS_", "AWS_BATCH_"
_SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
)
_OTHERS = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONUTF8", "TZ", "SQSTEE_DEBUG")
_IDENTITY_DIGITS = 16
_NAMESPACES = ("net", "mnt", "user")  # what is reached, and what paths mean, depends on them


def selectors(environ: Mapping[str, str]) -> bytes:
    """The settings of an environment that select where boto3 sends, and as whom; an empty variable counts as unset.

    The shared files count by their paths, and only if they exist: so a service with a home of its own equals a user
    without such files, but not a user with a profile.
    """
    found = [f"{name}={environ[name]}" for name in _selecting(environ)]
    found += [f"{variable}={path}" for variable, path in _shared_files(environ)]
    return "\0".join(found).encode("utf-8", "surrogateescape")


def _selecting(environ: Mapping[str, str]) -> list[str]:
    names = [*_SELECTORS, *sorted(name for name in environ if name.startswith(_ENDPOINTS))]
    return [name for name in names if environ.get(name)]


def _shared_files(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    paths = [(variable, environ.get(variable) or f"{environ.get('HOME', '')}/.aws/{name}") for variable, name in _FILES]
    return [(variable, path) for variable, path in paths if os.path.isfile(path)]


def shared_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of a run's environment that a shared shipper keeps; all of it but the secrets counts for `identity`.

    PATH belongs to it where there are files of AWS, which may name a program that gives credentials.
    """
    of_aws = sorted(name for name in environ if name.startswith(_AWS) and not name.startswith(_AWS_JOB))
    names = [*_selecting(environ), *of_aws, *_OTHERS]
    if _shared_files(environ):
        names.append("PATH")
    return {name: environ[name] for name in names if environ.get(name)}


def identity(environ: Mapping[str, str]) -> str:
    """Names the shared shipper of runs in this environment: 16 hex digits.

    It covers everything that decides where lines go and as whom, the root folder and the namespaces of this process,
    its priority, and the version.
    """
    kept = [f"{name}={text}" for name, text in shared_environment(environ).items() if name not in _SECRETS]
    root = os.stat("/")
    spaces = [f"root:{root.st_dev}:{root.st_ino}", *(f"{name}:{_namespace(name)}" for name in _NAMESPACES)]
    priority = f"{os.getpriority(os.PRIO_PROCESS, 0)} {os.sched_getscheduler(0)}"
    text = "\0".join([__version__, priority, *spaces, *kept])
    return digest(selectors(environ), text)[:_IDENTITY_DIGITS]


def _namespace(name: str) -> int:
    """The number of our namespace of a kind; 0 if the kernel has none."""
    try:
        return os.stat(f"/proc/self/ns/{name}").st_ino
    except OSError:
        return 0


def digest(environ_selectors: bytes, destination: str) -> str:
    """The entry in an agent's file for runs with these selectors and `destination` (or ANY)."""
    data = b"\0\0".join((_FORMAT, environ_selectors, destination.encode("utf-8", "surrogateescape")))
    return _sha256(data)


def selectors_digest(environ: Mapping[str, str]) -> str:
    """Identifies the settings of an environment as `selectors` finds them."""
    return digest(selectors(environ), "")[:_IDENTITY_DIGITS]


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


def serving(root: str, destination: str, environ: Mapping[str, str], identity: str = "") -> str:
    """The path of the file of the process that ships, at present, for runs in `root` to this destination, or ''.

    That is an agent, else the shared shipper of `identity`.
    """
    folders = [root]
    if os.path.basename(root) == str(os.getuid()):
        folders.append(os.path.dirname(root))
    wanted: list[bytes] = []
    for folder in folders:
        path = f"{folder}/{FILE_NAME}"
        text = published(path)
        if not text:
            continue
        if not wanted:
            mine = selectors(environ)
            wanted = [digest(mine, name).encode() for name in (destination, ANY)]
        if any(one in text for one in wanted):
            return path
    shared = f"{root}/{SHARED_PREFIX}{identity}"
    return shared if identity and published(shared) else ""


def is_shared(path: str) -> bool:
    """Whether an agent's file is that of a shared shipper."""
    return os.path.basename(path).startswith(SHARED_PREFIX)


def files(folder: str) -> list[str]:
    """The paths of the agent's file and of those of shared shippers in `folder`, whether they are locked or not."""
    names = [FILE_NAME, *(f"{SHARED_PREFIX}{identity}" for identity in identities(folder))]
    return [path for name in names if os.path.lexists(path := f"{folder}/{name}")]


def identities(folder: str) -> list[str]:
    """The identities of the shared shippers that have files in `folder`, whether they live or not."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found = {name.removeprefix(SHARED_PREFIX).partition(".")[0] for name in names if name.startswith(SHARED_PREFIX)}
    return sorted(identity for identity in found if len(identity) == _IDENTITY_DIGITS)


def published(path: str) -> bytes:
    """The content of an agent's file; empty if no process holds it, or none to trust."""
    fd = _open(path, os.O_RDONLY)
    if fd is None:
        return b""
    try:
        return os.pread(fd, _LARGEST, 0) if lock_holder(fd) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)


def holder(path: str) -> int:
    """The pid that holds an agent's file; 0 if none does, -1 if it has no pid in our namespace."""
    fd = _open(path, os.O_RDONLY)
    if fd is None:
        return 0
    try:
        return lock_holder(fd)
    finally:
        os.close(fd)


def heartbeat(path: str) -> tuple[int, int]:
    """The inode and mtime of `path`.

    At least one of them changes once a second while the process that holds an agent's file runs.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def remove(path: str) -> None:
    """Remove an agent's file: no run relies on the process that holds it any more, and another one can start."""
    try:
        os.unlink(path)
    except OSError:
        pass


def status(path: str) -> bytes:
    """The content of an agent's status file; empty if there is none, or none to trust."""
    fd = _open(path + STATUS_SUFFIX, os.O_RDONLY)
    if fd is None:
        return b""
    try:
        return os.pread(fd, _LARGEST, 0)
    except OSError:
        return b""
    finally:
        os.close(fd)


def wake(path: str, word: bytes, run: str) -> bool:
    """Wake the process that holds an agent's file, for `run`; returns whether it will notice.

    `word` is GROWN, the run has new lines, or AWAITED, somebody waits for its delivery. Never waits.
    """
    fd = _open(path + WAKE_SUFFIX, os.O_WRONLY, stat.S_ISFIFO)
    if fd is None:
        return False
    try:
        return os.write(fd, b"%s%s\n" % (word, run.encode())) > 0
    except OSError:  # it is full: its reader has words enough to look by itself
        return False
    finally:
        os.close(fd)


def _open(path: str, mode: int, is_right_kind: Callable[[int], bool] = stat.S_ISREG) -> int | None:
    """Open a file that root or our own user owns; None if there is none."""
    try:
        fd = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    found = os.fstat(fd)
    if found.st_uid in (0, os.getuid()) and is_right_kind(found.st_mode):
        return fd
    os.close(fd)
    return None


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
