"""The wheel, the source archive and the single file, each where no source tree is in sight."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import ROOT, Sqstee

SHARED = (
    *(f"share/{path.relative_to(ROOT)}" for path in sorted((ROOT / "man").glob("man?/*"))),
    "share/bash-completion/completions/sqstee",
    "share/zsh/site-functions/_sqstee",
    "share/fish/vendor_completions.d/sqstee.fish",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel made from what is in that archive."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "tree"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "dist")
    shutil.copytree(ROOT, copy, ignore=ignored)
    _hatchling(copy, "sdist", folder)
    shutil.rmtree(copy)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(copy, filter="data")
    _hatchling(next(copy.iterdir()), "wheel", folder)
    shutil.rmtree(copy)
    return folder


def _hatchling(tree: Path, target: str, folder: Path) -> None:
    words = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    found = subprocess.run(words, cwd=tree, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stderr


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; what it depends on is lent by ours."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    packages = next((folder / "lib").glob("python3*")) / "site-packages"
    (packages / "lent.pth").write_text(str(Path(pytest.__file__).parent.parent))
    wheel = next(built.glob("*.whl"))
    words = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet"]
    subprocess.run([*words, "--no-deps", "--no-index", str(wheel)], check=True, timeout=60)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """As of a new user, with the installed program first on PATH."""
    environ = Sqstee(folder).environ
    environ.pop("PYTHONPATH", None)
    return environ


def test_the_wheel_works_by_itself(installed: Path, tmp_path: Path, fake_sqs: FakeSqs) -> None:
    """Wrap, tail, ship to a queue, import: from the fresh environment alone."""
    environ = environment(tmp_path) | fake_sqs.environ()
    command = str(installed / "bin/sqstee")

    def run(*words: str) -> str:
        found = subprocess.run(words, capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=60, check=True)
        return found.stdout

    assert run(command, "--", "echo", "hi") == "hi\n"
    assert run(command, "tail", "--no-follow", "-o", "raw") == "hi\n"
    run(command, "--to", "q", "--", "echo", "there")
    assert "there" in fake_sqs.sent("q")[0].body
    code = "import sqstee; print(sqstee.__file__, sqstee.Handler.__name__, sqstee.decode.__name__)"
    where, *names = run(str(installed / "bin/python"), "-c", code).split()
    assert where.startswith(str(installed))
    assert names == ["Handler", "decode"]
    assert f"installed in    {installed}" in run(command, "--version", "--verbose")
    assert run(command, "man", "recipes").startswith("sqstee-recipes(7): ")
    assert "complete -F _sqstee sqstee" in run(command, "completion", "bash")


def test_manual_pages_and_completions_come_with_it(installed: Path) -> None:
    """At the paths where man and the shells look, and the marker that it is typed; the pages of the board."""
    for name in SHARED:
        assert (installed / name).stat().st_size > 0, name
    assert list(installed.rglob("sqstee/py.typed"))
    pages = {path.name for path in (ROOT / "sqstee/web/static").iterdir()}
    assert {path.name for path in installed.rglob("sqstee/web/static/*")} == pages


def test_the_tests_pass_on_the_wheel(installed: Path, tmp_path: Path) -> None:
    """A part of them, with nothing of the source tree but the tests."""
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    chosen = ["tests/foundation/test_record.py", "tests/capture/test_wrap.py", "tests/foundation/test_configuration.py"]
    words = [
        str(installed / "bin/python"),
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-k",
        "not any_bytes and not idle and not progress_bar",
        *chosen,
    ]
    found = subprocess.run(
        words, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=250
    )
    assert found.returncode == 0, found.stdout[-3000:]
    assert " passed" in found.stdout


def test_the_source_archive_is_complete(built: Path) -> None:
    """What the tests and the generated files need is in it."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "tests/conftest.py", "tests/tools/generate.py"}
    shipped = {"sqstee/launcher", "completions/_sqstee", "man/sqstee.1.md", "man/man1/sqstee.1"}
    assert expected | shipped <= names


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The single file."""
    import bundle

    target = tmp_path_factory.mktemp("pyz") / "sqstee.pyz"
    found = subprocess.run(
        [sys.executable, str(ROOT / "tests/tools/bundle.py"), str(target)], capture_output=True, text=True, check=False
    )
    if found.returncode == bundle.NO_PACKAGES:
        pytest.skip("pip does not reach the packages that go into the file")
    assert found.returncode == 0, found.stderr
    return target


@pytest.fixture
def unpacked() -> Iterator[Path]:
    """Where it unpacks itself: what was not there before is removed."""
    folder = Path(f"/var/tmp/sqstee-app-{os.getuid()}")
    before = set(folder.iterdir()) if folder.exists() else set()
    yield folder
    for path in set(folder.iterdir()) - before if folder.exists() else ():
        shutil.rmtree(path)


def test_the_single_file_needs_nothing_else(
    pyz: Path, unpacked: Path, sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path
) -> None:
    """A Python without any package, two starts at once: wrap, ship, tail, flush."""
    with zipfile.ZipFile(pyz) as archive:
        assert sorted(archive.namelist()) == ["__main__.py", "payload.zip"]
    python = [os.path.realpath(sys.executable), "-S", str(pyz)]
    environ = sqstee.environ | fake_sqs.environ()
    words = [*python, "--to", "q", "--", "sh", "-c", "echo hi; exit 3"]
    both = [subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, cwd=tmp_path) for _ in range(2)]
    assert [(one.communicate(timeout=60)[0], one.returncode) for one in both] == [(b"hi\n", 3)] * 2
    assert sum(message.body.count('"message":"hi"') for message in fake_sqs.sent("q")) == 2
    for verb in ("flush", "tail q --peek", "run --help", "man tail", "completion zsh", "--version --verbose"):
        command = [*python, *verb.split()]
        found = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert found.returncode == 0, verb
        assert "Traceback" not in found.stderr
    assert str(unpacked) in found.stdout
    assert not list(unpacked.glob("*.old"))


def test_where_it_cannot_unpack_itself_the_command_runs_all_the_same(pyz: Path, tmp_path: Path) -> None:
    """One line says why; the status is the command's own."""
    broken = tmp_path / "broken.pyz"
    with zipfile.ZipFile(pyz) as archive, zipfile.ZipFile(broken, "w") as other:
        main = archive.read("__main__.py").decode()
        other.writestr("__main__.py", main.replace("/var/tmp/sqstee-app", str(tmp_path / "no" / "such")))
    words = [sys.executable, str(broken)]
    found = subprocess.run([*words, "--", "sh", "-c", "echo hi; exit 4"], capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("hi\n", 4)
    assert found.stderr.startswith("sqstee: sqstee.pyz cannot be unpacked: ")
    assert subprocess.run([*words, "tail"], capture_output=True, check=False).returncode == 125
