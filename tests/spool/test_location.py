"""Where lines wait if nothing is configured: the first folder that can be used, and how readers find it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support import TIMEOUT, Sqstee, running

from sqstee.settings import load_settings, settings_from
from sqstee.spool import location

# The command with other places than /var/tmp, /tmp and /dev/shm: those hold what this machine's user has.
PLACED = (
    "import os, sys\n"
    "from sqstee.spool import location\n"
    "location.default_roots = lambda: os.environ['PLACES'].split(':')\n"
    "location._MEMORY = os.environ['MEMORY']\n"
    "from sqstee.__main__ import main\n"
    "sys.exit(main())\n"
)
STUCK = ("--to", "http://127.0.0.1:1/", "--flush-timeout", "0")


class Places:
    """Three folders in which the spool can be, none of which exists; the last one stands for memory."""

    def __init__(self, sqstee: Sqstee, folder: Path) -> None:
        self.best, self.second, self.memory = (folder / name / "sqstee" for name in ("best", "second", "memory"))
        for root in self.all:
            root.parent.mkdir()
        self.environ = {name: text for name, text in sqstee.environ.items() if name != "SQSTEE_SPOOL"}
        self.environ |= {"PLACES": ":".join(map(str, self.all)), "MEMORY": str(self.memory.parent)}

    @property
    def all(self) -> tuple[Path, Path, Path]:
        """The best one first."""
        return self.best, self.second, self.memory

    def run(self, *words: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run sqstee with nothing configured."""
        return subprocess.run(
            [sys.executable, "-c", PLACED, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self.environ | dict(environ or {}),
            timeout=TIMEOUT,
            check=False,
        )


@pytest.fixture
def places(sqstee: Sqstee, tmp_path: Path) -> Places:
    """Three places for the spool."""
    return Places(sqstee, tmp_path)


def test_the_best_place_is_used_without_a_word(places: Places) -> None:
    """It is made, and nothing is made elsewhere."""
    found = places.run("--to", "local", "--", "echo", "hi")
    assert (found.stdout, found.stderr) == (b"hi\n", b"")
    assert [root.exists() for root in places.all] == [True, False, False]


def test_another_place_stands_in_and_that_is_said_once(places: Places) -> None:
    """The lines are delivered from there, and readers of the local queue look there too."""
    places.best.write_text("in the way")
    notice = (
        f"sqstee: {places.best} cannot be the spool folder (is a symlink or a file): lines wait in {places.second}; "
    )
    first = places.run("--to", "local", "--", "echo", "one")
    assert first.stderr.decode() == f"{notice}{location.OTHER_FOLDER}\n"
    assert places.run("--to", "local", "--", "echo", "two").stderr == b""
    assert places.run("tail", "--no-follow", "-o", "raw").stdout == b"one\ntwo\n"
    assert f"{places.best} cannot be used: is a symlink or a file; {places.second} stands in" in (
        places.run("check").stdout.decode()
    )


def test_flush_and_stat_find_what_was_left_there(places: Places) -> None:
    """Also once the best place can be used again."""
    places.best.write_text("in the way")
    assert places.run(*STUCK, "--", "echo", "one").returncode == 0
    places.best.unlink()
    assert places.run(*STUCK, "--", "echo", "two").returncode == 0
    assert places.run("flush", "--list").stdout.count(b"3 records") == 2
    state = json.loads(places.run("stat", "local", "-o", "json", "--interval", "0").stdout.splitlines()[-1])
    assert (state["waiting"], state["spool"]) == (2, f"{places.best}, {places.second}")
    flush = places.run("flush", "--timeout", "1s")
    assert (flush.returncode, flush.stderr.count(b"stays in the spool, 3 records for http://127.0.0.1:1/")) == (1, 2)


def test_readers_see_the_local_queues_of_all_places(places: Places) -> None:
    """Regression: once the disk had room again, or was full, the lines in the other place were not to be seen."""
    assert places.run("--to", "local", "--", "echo", "one").returncode == 0
    aside = places.best.rename(places.best.parent / "aside")
    places.best.write_text("in the way")
    assert places.run("--to", "local", "--", "echo", "two").returncode == 0
    places.best.unlink()
    aside.rename(places.best)
    assert places.run("tail", "--no-follow", "-o", "raw").stdout == b"one\ntwo\n"
    assert places.run("runs", "-o", "json").stdout.count(b"\n") == 2
    assert places.run("show", "--last", "-o", "raw").stdout == b"two\n"
    assert places.run("drain", "local", "-O", "-").stdout.count(b'"stream"') == 2


def test_the_notice_names_a_folder_that_another_shell_does_not_know(
    places: Places, sqstee: Sqstee, tmp_path: Path
) -> None:
    """Regression: it said `sqstee flush`, which looks into TMPDIR as it is there, and not into --spool's folder."""
    places.best.write_text("in the way")
    flush = f"`sqstee flush --spool {places.second}` ships it"
    assert flush in places.run(*STUCK, "--", "echo", "one").stderr.decode()
    given = tmp_path / "given one"
    notice = sqstee.run("--spool", str(given), *STUCK, "--", "echo", "one").stderr.decode()
    assert f"`sqstee flush --spool '{given}'` ships it" in notice
    assert b"`sqstee flush` ships it" in sqstee.run(*STUCK, "--", "echo", "one").stderr


@pytest.mark.parametrize(
    ("words", "values", "environ", "expected"),
    [
        ((), {}, {"SQSTEE_SPOOL": "/a"}, "sqstee flush"),
        (("--spool", "/a"), {}, {}, "sqstee flush --spool /a"),
        ((), {"spool": "/a"}, {}, "sqstee flush --spool /a"),
    ],
)
def test_the_command_that_ships_a_folder(
    words: tuple[str, ...], values: dict[str, str], environ: dict[str, str], expected: str
) -> None:
    """A variable or a file counts for it as well; what a command line or a program chose does not."""
    settings = settings_from(values, environ) if values else load_settings(words, environ)
    assert location.flush_command("/a", settings) == expected
    assert location.flush_command(f"/dev/shm/sqstee-{os.getuid()}", settings) == "sqstee flush"


def test_a_collector_says_where_it_stores(places: Places) -> None:
    """Regression: it kept the records that it had acknowledged in memory, up to a gigabyte, without a word."""
    for root in (places.best, places.second):
        root.write_text("in the way")
    words = [sys.executable, "-c", PLACED, "serve", "--port", "0"]
    with running(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=places.environ) as process:
        assert process.stderr
        notice = process.stderr.readline().decode()
    assert f"lines wait, at most 24M, in memory, in {places.memory}; choose another folder" in notice


def test_memory_is_the_last_resort_and_bounded(places: Places) -> None:
    """The bound is said, and holds; what does not fit is dropped, counted and said, as on any full spool."""
    for root in (places.best, places.second):
        root.write_text("in the way")
    found = places.run(*STUCK, "--on-full", "drop", "--", "sh", "-c", "yes 0123456789 | head -c 40000000")
    assert len(found.stdout) == 40_000_000
    notices = found.stderr.decode()
    assert f"lines wait, at most 24M, in memory, in {places.memory}; choose another folder" in notices
    assert "lines dropped: the spool is full (--spool-max 24M)" in notices
    used = sum(path.stat().st_size for path in places.memory.rglob("*") if path.name not in ("writer", "usage"))
    assert 16 * 1024 * 1024 < used <= location.MEMORY_BYTES


def test_a_configured_folder_has_no_stand_in(places: Places, tmp_path: Path) -> None:
    """Whoever names a folder means it: the agent that serves it, or its disk."""
    taken = tmp_path / "taken"
    taken.write_text("in the way")
    found = places.run("--to", "local", "--", "echo", "hi", environ={"SQSTEE_SPOOL": str(taken)})
    assert (found.stdout, found.returncode) == (b"hi\n", 0)
    assert b"the output was not captured: the spool folder" in found.stderr
    assert not any(root.exists() for root in places.all)


def test_if_no_place_can_be_used_the_best_one_is_to_blame(places: Places) -> None:
    """The command runs all the same."""
    for root in places.all:
        root.write_text("in the way")
    found = places.run("--to", "local", "--", "echo", "hi")
    assert (found.stdout, found.returncode) == (b"hi\n", 0)
    assert f"the spool folder {places.best} cannot be created: File exists".encode() in found.stderr


def test_the_places_and_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The disk that survives a reboot first, memory last; each folder belongs to one user."""
    monkeypatch.setattr(location, "SHARED", str(tmp_path / "none"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    name = f"sqstee-{os.getuid()}"
    places = [f"/var/tmp/{name}", f"{tmp_path}/{name}", f"/tmp/{name}", f"/dev/shm/{name}"]
    assert location.default_roots() == places
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert location.default_roots() == [places[0], *places[2:]]
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    monkeypatch.setattr(location, "SHARED", str(tmp_path / "shared"))
    assert location.default_roots()[0] == f"{tmp_path}/shared/{os.getuid()}"


def test_what_can_be_in_the_way(tmp_path: Path) -> None:
    """Another's folder, one that others can read, a link, a missing parent; an empty place is none."""
    root = tmp_path / "sqstee"
    assert location.obstacle(str(root)) == ""
    root.mkdir(mode=0o755)
    root.chmod(0o755)
    assert location.obstacle(str(root)) == "can be read by others"
    root.chmod(0o700)
    assert location.obstacle(str(root)) == ""
    (tmp_path / "link").symlink_to(root)
    assert location.obstacle(str(tmp_path / "link")) == "is a symlink or a file"
    assert location.obstacle(str(tmp_path / "none" / "sqstee")) == "No such file or directory"


DISKS = {"ro": "its file system is read-only", "size=512k": "its disk is full", "nr_inodes=8": "its disk is full"}


@pytest.mark.parametrize("options", DISKS)
def test_disks_that_cannot_be_used(tmp_path: Path, options: str) -> None:
    """A container's read-only root, a full disk, one without an inode: real ones, in a mount namespace of its own."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; from sqstee.spool.location import obstacle; "
    code += f"print(obstacle({str(tmp_path / 'sqstee')!r}))"
    script = 'mount -t tmpfs -o "$1" none "$2" && exec "$3" -c "$4"'
    words = ["unshare", "-m", "sh", "-c", script, "sh", options, str(tmp_path), sys.executable, code]
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("cannot mount here")
    found = subprocess.run(words, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    if "mount:" in found.stderr:
        pytest.skip("cannot mount here")
    assert (found.stdout, found.stderr) == (f"{DISKS[options]}\n", "")


def test_a_small_memory_is_not_filled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Regression: of a small /dev/shm nothing was left to the command."""
    monkeypatch.setattr(location, "default_roots", lambda: ["/none/such", str(tmp_path / "sqstee")])
    monkeypatch.setattr(location, "_MEMORY", str(tmp_path))
    disk = os.statvfs(tmp_path)
    small = os.statvfs_result((*disk[:2], 4 * 1024 * 1024 // disk.f_frsize, *disk[3:]))
    monkeypatch.setattr(os, "statvfs", lambda _: small)
    settings = load_settings((), {})
    _, notice = location.open_for_run(settings)
    assert settings.spool_max == settings.local_max == 1536 * 1024
    assert "at most 1536K, in memory" in notice


def test_a_run_on_a_disk_that_is_read_only_now(sqstee: Sqstee) -> None:
    """Regression: flush and stat said that the destination of their output had no space, and nothing of the others."""
    assert sqstee.run(*STUCK, "--", "echo", "one").returncode == 0
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    words = ["unshare", "-m", "sh", "-c", script, "sh", str(sqstee.spool)]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    for verb in (["flush"], ["flush", "--list"], ["stat", "local", "--interval", "0"]):
        found = subprocess.run(
            [*words, *sqstee.words(*verb)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=sqstee.environ,
            timeout=TIMEOUT,
            check=False,
        )
        assert b"hint:" not in found.stderr
        if verb[0] == "flush":
            assert b"Read-only file system" in found.stdout + found.stderr
            assert found.returncode == 1


def test_a_bound_of_the_users_own_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever it is."""
    monkeypatch.setattr(location, "default_roots", lambda: ["/none/such", str(tmp_path / "sqstee")])
    monkeypatch.setattr(location, "_MEMORY", str(tmp_path))
    settings = load_settings(("--spool-max", "2M"), {})
    root, notice = location.open_for_run(settings)
    assert (root, settings.spool_max) == (str(tmp_path / "sqstee"), 2 * 1024 * 1024)
    assert "at most 2M, in memory" in notice
    assert settings.local_max == location.MEMORY_BYTES
