"""The rules that keep the parts apart and the start fast."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PROGRAMS, Sqstee

import sqstee as package

ROOT = Path(package.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
PURE = {
    "sqstee.record",
    "sqstee.errors",
    "sqstee.options",
    "sqstee.text",
    "sqstee.surroundings",
    "sqstee.run.frame",
    "sqstee.run.pack",
    "sqstee.read.order",
    "sqstee.transports.destination",
    "sqstee.measure.analyse",
    "sqstee.measure.design",
    "sqstee.measure.histogram",
    "sqstee.measure.options",
    "sqstee.measure.records",
    "sqstee.measure.report",
    "sqstee.measure.simulate",
    "sqstee.measure.statistics",
}
BOTO3 = {
    "sqstee.transports.aws",
    "sqstee.transports.sqs_probe",
    "sqstee.transports.cloudwatch",
    "sqstee.transports.experiment",
    "sqstee.cli.demo",
}
HEAVY = {
    "boto3",
    "botocore",
    "typer",
    "rich",
    "json",
    "subprocess",
    "logging",
    "tomllib",
    "typing",
    "re",
    "socket",
    "signal",
    "contextlib",
    "threading",
    "enum",
    "dataclasses",
    "functools",
    "collections",
    "inspect",
    "importlib.metadata",
    "random",
    "shutil",
    "tempfile",
    "sqlite3",
    "datetime",
    "argparse",
    "asyncio",
    "concurrent",
}


def name_of(path: Path) -> str:
    """The module's dotted name."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports anywhere, and whether at its top level at run time."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for branch in node.body
        for inner in ast.walk(branch)
    }
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            yield node.module, id(node) in top
            yield from ((f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)


def belongs(name: str, *parents: str) -> bool:
    """Whether a module is one of these or inside one."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_who_may_import_whom(path: Path) -> None:
    """run and read are apart; only the transports use boto3, only cli typer, only cli and show rich."""
    name = name_of(path)
    for imported, _ in imports(path):
        if belongs(imported, "boto3", "botocore"):
            assert name in BOTO3, imported
        if belongs(imported, "typer"):
            assert belongs(name, "sqstee.cli"), imported
        if belongs(imported, "rich"):
            assert belongs(name, "sqstee.cli", "sqstee.read.show"), imported
        if belongs(imported, "sqstee.run"):
            assert belongs(name, "sqstee.run", "sqstee.cli", "sqstee.__main__", "sqstee.handler"), imported
        if belongs(imported, "sqstee.read"):
            assert belongs(name, "sqstee.read", "sqstee.cli"), imported
        if belongs(imported, "sqstee.measure"):
            assert belongs(name, "sqstee.measure", "sqstee.cli"), imported
        if belongs(name, "sqstee.measure"):
            assert not belongs(imported, "sqstee.run", "sqstee.read"), imported
        if belongs(imported, "scipy", "numpy"):
            pytest.fail(f"{name} needs {imported}, which only the tests may")
        if belongs(imported, "sqstee.cli"):
            assert belongs(name, "sqstee.cli", "sqstee.__main__"), imported


OPTIONAL = {"isal"}  # a faster gzip, where it is installed


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path) in PURE], ids=name_of)
def test_pure_modules_import_the_standard_library_and_each_other(path: Path) -> None:
    """Functions of values: no transport, no process, no disk."""
    for imported, _ in imports(path):
        if belongs(imported, "sqstee"):
            assert belongs(imported, *PURE), imported
        else:
            assert imported.split(".")[0] in sys.stdlib_module_names | OPTIONAL, imported
            assert not belongs(imported, "os", "socket", "subprocess", "threading", "select"), imported


@pytest.mark.parametrize("name", ["delivery", "durable", "ending", "messages", "replay", "run"])
def test_what_the_front_may_load_late_is_light_too(name: str) -> None:
    """For progress, heirs and failures, which the next test does not meet."""
    for imported, at_top in imports(ROOT / "run" / f"{name}.py"):
        assert not (at_top and belongs(imported, *HEAVY)), imported


@pytest.mark.parametrize("path", [path for path in MODULES if belongs(name_of(path), "sqstee.cli")], ids=name_of)
def test_the_verbs_import_inside_functions(path: Path) -> None:
    """A verb pays for its own parts only."""
    if name_of(path) in ("sqstee.cli.app", "sqstee.cli.tree"):
        return
    light = ("sqstee.errors", "sqstee.options", "sqstee.text")
    for imported, at_top in imports(path):
        if at_top and belongs(imported, "sqstee"):
            assert belongs(imported, *light), imported


def test_the_front_never_loads_anything_heavy(sqstee: Sqstee, tmp_path: Path) -> None:
    """From its first instruction to its last, with options: an audit hook writes down every import of every process."""
    log = tmp_path / "imports"
    environ = {"PYTHONPATH": str(PROGRAMS / "imports"), "IMPORTS_LOG": str(log)}
    words = ("--job", "j", "--label", "a=b", "--linger", "2s", "--fsync", "--strict", "--summary", "--", "echo", "hi")
    command = sqstee.words(*words)
    process = subprocess.Popen(command, env=sqstee.environ | environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"hi\n", 0), err
    front = [line.split()[1] for line in log.read_text().splitlines() if int(line.split()[0]) == process.pid]
    assert front.count("-fork") == 2  # the command, the shipper
    assert [name for name in front if belongs(name, *HEAVY)] == []
    assert any(belongs(name, "sqstee.run.capture") for name in front)
    others = {line.split()[1] for line in log.read_text().splitlines() if int(line.split()[0]) != process.pid}
    assert "json" in others  # the hook sees the shipper's


def test_the_shipper_loads_no_boto3_for_a_local_queue(sqstee: Sqstee, tmp_path: Path) -> None:
    """What is not needed is not loaded."""
    log = tmp_path / "imports"
    environ = {"PYTHONPATH": str(PROGRAMS / "imports"), "IMPORTS_LOG": str(log)}
    assert sqstee.run("--", "true", environ=environ).returncode == 0
    names = {line.split()[1] for line in log.read_text().splitlines()}
    assert "sqlite3" in names
    assert not any(belongs(name, "boto3", "typer", "rich") for name in names)


def test_the_package_names_its_public_parts_lazily() -> None:
    """`import sqstee` alone loads nothing of it."""
    code = "import sys, sqstee; print([n for n in sys.modules if n.startswith('sqstee.')]); print(sqstee.decode)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert found.stdout.startswith("[]\n<function decode")


# Where the wall clock is read, and why: all waits and deadlines are by the monotonic clock, which no change can move.
WALL_CLOCK = {
    "sqstee.record": {"gmtime"},  # writes a timestamp out
    "sqstee.run.supervision": {"time_ns"},  # the ULID of the run
    "sqstee.run.logged": {"time_ns"},  # the same
    "sqstee.run.segments": {"time_ns"},  # the timestamps of frames
    "sqstee.run.writer": {"time_ns"},  # the same
    "sqstee.run.source": {"time_ns"},  # that of a gap event
    "sqstee.run.flush": {"time"},  # the age of a folder by its modification time
    "sqstee.run.room": {"time_ns"},  # how long ago a state file was written, by its modification time
    "sqstee.measure.experiment": {"time"},  # these three: timestamps that several hosts compare
    "sqstee.measure.receivers": {"time"},
    "sqstee.measure.sender": {"time"},
    "sqstee.run.agent": {"time"},  # in the status, for people
    "sqstee.transports.local": {"time"},  # when a body was put into the queue
    "sqstee.transports.http": {"time"},  # a Retry-After that names a date
    "sqstee.transports.fallback": {"time_ns"},  # the timestamp of a gap event
    "sqstee.transports.owed": {"time"},  # the age of a file by its modification time
    "sqstee.transports.s3": {"time"},  # the age of an object
    "sqstee.cli.tail": {"time"},  # --since counts back from now
    "sqstee.read.journal": {"time_ns"},  # the name of a segment
    "sqstee.transports.cloudwatch": {"time"},  # the minutes to ask about
    "sqstee.transports.sqs_probe": {"time", "time_ns"},  # the clock against the server's; a timestamp
}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_waits_are_by_the_monotonic_clock(path: Path) -> None:
    """A jump of the clock, or a suspended machine, shortens or lengthens no wait: time.time() is for timestamps."""
    used = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
    }
    wall = used & {"time", "time_ns", "localtime", "gmtime", "ctime", "clock_gettime"}
    assert wall <= WALL_CLOCK.get(name_of(path), set())
    assert not {name for name, _ in imports(path) if name.startswith("time.")}  # `from time import` would hide it
