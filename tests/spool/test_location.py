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
from support import TIMEOUT, Sqstee

from sqstee.settings import load_settings
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
        self._environ = {name: text for name, text in sqstee.environ.items() if name != "SQSTEE_SPOOL"}
        self._environ |= {"PLACES": ":".join(map(str, self.all)), "MEMORY": str(self.memory.parent)}

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
            env=self._environ | dict(environ or {}),
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


DISKS = {"ro": "its file system is read-only", "size=512k": "its disk is full", "nr_inodes=1": "its disk is full"}


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


def test_a_bound_of_the_users_own_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever it is."""
    monkeypatch.setattr(location, "default_roots", lambda: ["/none/such", str(tmp_path / "sqstee")])
    monkeypatch.setattr(location, "_MEMORY", str(tmp_path))
    settings = load_settings(("--spool-max", "2M"), {})
    root, notice = location.open_for_run(settings)
    assert (root, settings.spool_max) == (str(tmp_path / "sqstee"), 2 * 1024 * 1024)
    assert "at most 2M, in memory" in notice
    assert settings.local_max == location.MEMORY_BYTES
