"""What the tests share: running the real command, and putting streams together again from what was shipped."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqstee.record import Body
from sqstee.wire import Event, Record, decode

SCRIPT = str(Path(sysconfig.get_path("scripts")) / "sqstee")
PROGRAMS = Path(__file__).parent / "programs"
TIMEOUT = 60.0
UNTIL_THE_FRONT_ENDS = "while [ -e /proc/$PPID/exe ]; do sleep 0.02; done"  # for a grandchild that outlives the command


def clean_environment() -> dict[str, str]:
    """This process's environment without what configures sqstee, AWS clients, or a make below this one."""
    ours = ("SQSTEE_", "AWS_", "MAKE", "MFLAGS")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def time_to_meet(fault: str) -> tuple[str, str]:
    """The flush time with a fault injected, see `until_met`: one in sending takes all of it, being tried again."""
    return ("--flush-timeout", "1s" if "Sender.send" in fault else "60s")


def until_met(folder: Path, fault: str) -> str:
    """What a shell script waits with until an injected fault in sending was met; every other one is in time anyway."""
    return f"until [ -e {folder}/injected ]; do sleep 0.02; done" if "Sender.send" in fault else ":"


class Sqstee:
    """The installed command, in an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self.environ = clean_environment() | {
            "SQSTEE_SPOOL": str(self.spool),
            "HOME": str(folder),
            "AWS_EC2_METADATA_DISABLED": "true",
            "SQSTEE_FLUSH_TIMEOUT": "60s",  # where machines are crowded no test may end for want of time
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
        """Run it to its end."""
        return subprocess.run(
            self.words(*words),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=self.environ | dict(environ or {}),
            timeout=timeout,
            check=False,
        )

    def wrap(self, *command: str, timeout: float = TIMEOUT) -> subprocess.CompletedProcess[bytes]:
        """Wrap a command, with nothing configured: it ships to the local queue."""
        return self.run("--", *command, timeout=timeout)

    def local_bodies(self, path: Path | None = None) -> list[Body]:
        """What is in a local queue, in order."""
        connection = sqlite3.connect(path or self.spool / "local.db", timeout=TIMEOUT)
        try:
            rows = connection.execute("SELECT data, run, first, last, encoding FROM body ORDER BY id").fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return []  # it is just being made
        finally:
            connection.close()
        return [Body(data, run, "", first, last, encoding) for data, run, first, last, encoding in rows]

    def local(self, path: Path | None = None) -> Rebuilt:
        """The streams in a local queue."""
        return Rebuilt((body.data, body.attributes) for body in self.local_bodies(path))

    def spooled(self) -> bytes:
        """All that the segments of all runs hold by now; folders come and go meanwhile."""
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
        """Whether somebody ships a run; one who was killed does so until it has got the processor to die."""
        return self._is_locked(run, "ship")

    def left_alone(self, run: str) -> bool:
        """Whether nobody writes or ships a run."""
        return not self.held(run) and not self._is_locked(run, "writer")

    def _is_locked(self, run: str, name: str) -> bool:
        try:
            fd = os.open(self.spool / run / name, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # it is shipped
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def waiting_runs(self) -> list[str]:
        """The runs that are in the spool."""
        return [name for name in _listed(self.spool) if not name.startswith(".") and (self.spool / name).is_dir()]


class Rebuilt:
    """Both streams and the events of one run, from the bodies that were shipped.

    Duplicates are dropped by seq, as readers do, and counted; every seq must be covered exactly once.
    """

    def __init__(self, bodies: Iterable[tuple[str | bytes, Mapping[str, str]]]) -> None:
        found: dict[int, Record | Event] = {}
        self.duplicates = 0
        for data, attributes in bodies:
            for item in decode(data, dict(attributes)):
                self.duplicates += item.seq in found
                if isinstance(found.setdefault(item.seq, item), Event) and isinstance(item, Record):
                    found[item.seq] = item  # a record beats the gap event in its place
        self.items = [found[seq] for seq in sorted(found)]
        self.events = [item for item in self.items if isinstance(item, Event)]
        self.records = [item for item in self.items if isinstance(item, Record)]

    @classmethod
    def of_many(cls, bodies: Iterable[tuple[str | bytes, Mapping[str, str]]]) -> dict[str, Rebuilt]:
        """The same of each run, where bodies hold the lines of several."""
        lines: dict[str, list[bytes]] = {}
        for data, attributes in bodies:
            plain = Body(data if isinstance(data, bytes) else data.encode(), "", "", 0, 0)
            plain.encoding = attributes.get("Content-Encoding", "")
            for line in plain.plain().data.splitlines(keepends=True):
                lines.setdefault(decode(line)[0].run, []).append(line)
        return {run: cls([(b"".join(found), {})]) for run, found in lines.items()}

    def stream(self, name: str) -> bytes:
        """The bytes of one stream."""
        return b"".join(record.data for record in self.records if record.stream == name)

    @property
    def stdout(self) -> bytes:
        """The bytes of stdout."""
        return self.stream("stdout")

    @property
    def stderr(self) -> bytes:
        """The bytes of stderr."""
        return self.stream("stderr")

    def assert_whole(self) -> None:
        """One run, its seqs without a hole, from its start event to its exit event."""
        self.assert_without_holes()
        assert [event.event for event in self.events if event.event != "gap"] == ["start", "exit"]
        assert isinstance(self.items[-1], Event)

    def assert_without_holes(self) -> None:
        """One run, every seq from the first on in a record or an event."""
        assert len({item.run for item in self.items}) == 1
        expected = 0
        for item in self.items:
            assert item.seq == expected
            expected = (item.last if isinstance(item, Event) else item.seq) + 1


def wait_for(condition: Callable[[], object], what: str, seconds: float = TIMEOUT) -> None:
    """Poll until `condition` is true, half of the time at most: what is waited for needs the processor too."""
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if condition():
            return
        now = time.monotonic()
        assert now < deadline, f"no {what} within {seconds} s"
        time.sleep(max(0.01, now - asked))


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


@contextmanager
def running(words: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed, with its children, if the test fails before it has ended."""
    with subprocess.Popen(words, **options) as process:
        try:
            yield process
        except BaseException:
            for pid in (*children(process.pid), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise


def python(code: str) -> list[str]:
    """A command that runs Python code."""
    return [sys.executable, "-c", code]


def paced(*lines: bytes) -> list[str]:
    """A command that writes each line to its stdout, a pipe, once the one before was read: no two come in one read."""
    unread = "fcntl.ioctl(1, termios.FIONREAD, bytes(4)) != bytes(4)"
    return python(
        "import fcntl, os, termios, time\n"
        f"for line in {list(lines)!r}:\n"
        "    os.write(1, line)\n"
        f"    while {unread}: time.sleep(0.001)\n"
    )


def injecting(folder: Path, fault: str) -> dict[str, str]:
    """The environment with a fault injected (see programs/inject); `folder`/injected is there once it was met."""
    return {"PYTHONPATH": str(PROGRAMS / "inject"), "INJECT": fault, "INJECTED": str(folder / "injected")}


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie; one whose threads are still dying holds its locks."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            is_zombie = file.read().rpartition(")")[2].split()[0] == "Z"
        return not is_zombie or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def reserved() -> socket.socket:
    """A free port of 127.0.0.1 that a server may listen on, again and again, and that nobody else is given."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", 0))
    return found


def states(pid: int) -> set[str]:
    """The states of a process's threads, one letter each: R has or wants the processor; none where it has ended."""
    found = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/task/{thread}/stat") as file:
                found.add(file.read().rpartition(")")[2].split()[0])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def kill(*pids: int) -> None:
    """kill -9 of all of them at once, until their locks are free.

    They are stopped before, parents first: else one could see another's death and tell it, or do its work.
    """
    for pid in sorted(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        wait_for(lambda pid=pid: states(pid) <= set("TtZX"), "stop of who is to be killed")  # type: ignore[misc]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(is_running, pids)), "end of the killed")


def children(pid: int) -> list[int]:
    """The pids of a process's children, the oldest first: of a front the command, then the shipper."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
