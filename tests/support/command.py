"""The real command, with a spool and an environment of its own."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from sqstee.record import Body

from .processes import TIMEOUT
from .streams import Rebuilt
from .verb_server import VerbServer

SCRIPT = str(Path(sysconfig.get_path("scripts")) / "sqstee")
ROOT = Path(__file__).parents[2]  # of the repository
PROGRAMS = ROOT / "tests" / "programs"


def clean_environment() -> dict[str, str]:
    """This process's environment without the variables of sqstee, of AWS clients, and of make.

    A process that stays is for the tests and benches that are about it: runs ship by themselves.
    """
    ours = ("SQSTEE_", "AWS_", "MAKE", "MFLAGS")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"SQSTEE_SHARE": "never"}


class Sqstee:
    """The installed command, in an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self.environ = clean_environment() | {
            "SQSTEE_SPOOL": str(self.spool),
            "HOME": str(folder),
            "AWS_EC2_METADATA_DISABLED": "true",
            "SQSTEE_FLUSH_TIMEOUT": "60s",  # on a crowded machine, too, everything must be shipped
        }

    def words(self, *words: str) -> list[str]:
        """The whole command line."""
        return [SCRIPT, *words]

    def run(
        self,
        *words: str,
        stdin: bytes | None = None,
        environ: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end; a verb in a process that has imported what it needs."""
        whole_environ = self.environ | dict(environ or {})
        verbs = VerbServer.shared()
        if verbs.can_serve(words, whole_environ):
            return verbs.run(self.words(*words), stdin, whole_environ, timeout)
        return subprocess.run(
            self.words(*words),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=whole_environ,
            timeout=timeout,
            check=False,
        )

    def wrap(self, *command: str, timeout: float = TIMEOUT) -> subprocess.CompletedProcess[bytes]:
        """Wrap a command with nothing configured, so it ships to the local queue."""
        return self.run("--", *command, timeout=timeout)

    def local_bodies(self, path: Path | None = None) -> list[Body]:
        """The bodies in a local queue, in order."""
        connection = sqlite3.connect(path or self.spool / "local.db", timeout=TIMEOUT)
        try:
            rows = connection.execute("SELECT data, run, first, last, encoding FROM body ORDER BY id").fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return []  # the database has just been created
        finally:
            connection.close()
        return [Body(data, run, "", first, last, encoding) for data, run, first, last, encoding in rows]

    def local(self, path: Path | None = None) -> Rebuilt:
        """The streams in a local queue."""
        return Rebuilt((body.data, body.attributes) for body in self.local_bodies(path))

    def spooled(self) -> bytes:
        """The present content of all segments of all runs; folders may appear and vanish during the call."""
        found = b""
        for run in self.waiting_runs():
            for name in _listed(self.spool / run):
                if name.endswith(".seg"):
                    try:
                        found += (self.spool / run / name).read_bytes()
                    except FileNotFoundError:
                        pass
        return found

    def held(self, run: str) -> bool:
        """Whether a process ships a run; a killed one holds its lock until the kernel has run its end."""
        return self._is_locked(run, "ship")

    def left_alone(self, run: str) -> bool:
        """Whether no process writes or ships a run."""
        return not self.held(run) and not self._is_locked(run, "writer")

    def _is_locked(self, run: str, name: str) -> bool:
        try:
            fd = os.open(self.spool / run / name, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # the run is shipped
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def waiting_runs(self) -> list[str]:
        """The runs in the spool."""
        return [name for name in _listed(self.spool) if not name.startswith(".") and (self.spool / name).is_dir()]


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
