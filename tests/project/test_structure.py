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
    "sqstee.at_rest.schema",
    "sqstee.backoff",
    "sqstee.record",
    "sqstee.wire",
    "sqstee.errors",
    "sqstee.json_line",
    "sqstee.jsonbytes",
    "sqstee.log_fields",
    "sqstee.option_values",
    "sqstee.options",
    "sqstee.config_file",
    "sqstee.text",
    "sqstee.auto_labels",
    "sqstee.spool.clean_lines",
    "sqstee.spool.frame",
    "sqstee.ship.pack",
    "sqstee.ship.request",
    "sqstee.ship.pace",
    "sqstee.intervals",
    "sqstee.lines_by_time",
    "sqstee.metrics",
    "sqstee.run_summary",
    "sqstee.transports.layouts",
    "sqstee.transports.run_blocks",
    "sqstee.read.order",
    "sqstee.read.run_filter",
    "sqstee.destination",
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
    "sqstee.transports.aws_models",
    "sqstee.transports.probe",
    "sqstee.transports.cloudwatch",
    "sqstee.measure.queues",
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


FOUNDATION = {
    *("errors", "record", "wire", "jsonbytes", "text", "fds", "trace", "config_file", "destination"),
    *("option_values", "options", "settings"),
    *("auto_labels", "backoff", "extras", "intervals", "json_line", "lines_by_time", "log_fields", "metrics"),
    "run_summary",
}
# Each room, or module beside the rooms, and the rooms that it may import besides the foundation and itself.
MAY_IMPORT = {
    "foundation": set(),
    "spool": set(),
    "at_rest": set(),
    "transports": {"at_rest"},
    "ship": {"spool", "transports"},
    "capture": {"spool", "ship"},
    "agent": {"spool", "ship", "transports"},
    "logging_run": {"spool", "ship", "transports"},
    "handler": {"spool", "ship", "logging_run", "handler_settings"},
    "handler_settings": set(),
    "read": {"transports"},
    "drain": {"read", "transports", "at_rest"},
    "measure": {"transports"},
    "collector": {"transports", "web"},
    "web": {"transports", "read"},
    "aws_lambda": {"transports"},
    "spark": {"transports", "read", "drain", "at_rest"},
    "cli": {"spool", "ship", "agent", "transports", "read", "drain", "measure", "collector", "web"},
    "__main__": {"capture", "agent", "cli"},
    "__init__": {"handler"},  # the public names, loaded when they are first used
}


def room_of(name: str) -> str:
    """The room, or the module beside the rooms, that a module of the package is in."""
    first = name.split(".")[1] if "." in name else "__init__"
    return "foundation" if first in FOUNDATION else first


def imported_modules(path: Path, at_runtime: bool) -> set[str]:
    """The package's own modules that a file imports, in functions too; unless `at_runtime`, for types alone too."""
    names = {name_of(path) for path in MODULES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and belongs(node.module or "", "sqstee"):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & names or {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & names
    if at_runtime:
        found &= {imported for imported, _ in imports(path)}
    return found - {name_of(path)}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_who_may_import_whom(path: Path) -> None:
    """Data flows from room to room, and nobody imports a room above its own, not even for a type.

    Only the transports use boto3, only cli typer, only cli and the printer rich.
    """
    name = name_of(path)
    room = room_of(name)
    for imported in imported_modules(path, at_runtime=False) - {"sqstee"}:  # which has the version
        assert room_of(imported) in {room, "foundation"} | MAY_IMPORT[room], imported
    for imported, _ in imports(path):
        if belongs(imported, "boto3", "botocore"):
            assert name in BOTO3, imported
        if belongs(imported, "typer"):
            assert room == "cli", imported
        if belongs(imported, "rich"):
            assert room == "cli" or name == "sqstee.read.printer", imported
        if belongs(imported, "scipy", "numpy"):
            pytest.fail(f"{name} needs {imported}, which only the tests may")


def test_the_rooms_are_all_there() -> None:
    """A new room, or a new module beside the rooms, says first what it may import."""
    assert {room_of(name_of(path)) for path in MODULES} == set(MAY_IMPORT)


def test_no_module_is_imported_in_a_circle() -> None:
    """Not even through an import that is for a type alone, or in a function."""
    todo = {name_of(path): imported_modules(path, at_runtime=False) - {"sqstee"} for path in MODULES}
    while free := [name for name, imported in todo.items() if not imported & set(todo)]:
        for name in free:
            del todo[name]
    assert todo == {}


def test_no_class_name_stands_for_two_things() -> None:
    """A search for a name finds one thing."""
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name_of(path))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


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


@pytest.mark.parametrize(
    "name",
    [
        *("capture.final_flush", "capture.teardown", "capture.notices", "capture.front"),
        *("spool.fsync", "spool.reader", "spool.checkpoint"),
    ],
)
def test_what_the_front_may_load_late_is_light_too(name: str) -> None:
    """For progress, heirs and failures, which the next test does not meet."""
    for imported, at_top in imports(ROOT / f"{name.replace('.', '/')}.py"):
        assert not (at_top and belongs(imported, *HEAVY)), imported


@pytest.mark.parametrize("path", [path for path in MODULES if belongs(name_of(path), "sqstee.cli")], ids=name_of)
def test_the_verbs_import_inside_functions(path: Path) -> None:
    """A verb pays for its own parts only."""
    if name_of(path) in ("sqstee.cli.app", "sqstee.cli.tree"):
        return
    names = "errors", "option_values", "options", "settings", "text", "cli.run_options"
    light = [f"sqstee.{name}" for name in names]
    for imported, at_top in imports(path):
        if at_top and belongs(imported, "sqstee"):
            assert imported == "sqstee.cli" or belongs(imported, *light), imported


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
    assert any(belongs(name, "sqstee.capture.loop") for name in front)
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
    "sqstee.spool.spooled_run": {"time_ns"},  # the ULID of the run
    "sqstee.spool.heartbeat": {"time"},  # all runs of a host beat together; the wait itself is monotonic
    "sqstee.spool.segments": {"time_ns"},  # the timestamps of frames
    "sqstee.spool.writer": {"time_ns"},  # the same
    "sqstee.ship.source": {"time_ns"},  # that of a gap event
    "sqstee.agent.other_runs": {"time"},  # when a run was tried, by a modification time
    "sqstee.spool.waiting": {"time"},  # the age of a folder by its modification time
    "sqstee.spool.quota": {"time_ns"},  # how long ago a state file was written, by its modification time
    "sqstee.measure.experiment": {"time"},  # these three: timestamps that several hosts compare
    "sqstee.measure.receivers": {"time"},
    "sqstee.measure.sender": {"time"},
    "sqstee.agent.status": {"time"},  # in the status, for people
    "sqstee.transports.local": {"time"},  # when a body was put into the queue
    "sqstee.transports.local_receiver": {"time"},  # how old a body is, by that time
    "sqstee.transports.http": {"time"},  # a Retry-After that names a date
    "sqstee.transports.fallback": {"time_ns"},  # the timestamp of a gap event
    "sqstee.transports.fallback_ledger": {"time"},  # the age of a file by its modification time
    "sqstee.transports.lake": {"time", "gmtime"},  # the age of an object; the hours that are written now
    "sqstee.transports.s3_listing": {"time"},  # the same age
    "sqstee.transports.s3_receiver": {"time"},  # the same
    "sqstee.cli.runs": {"time", "localtime"},  # the ages of runs
    "sqstee.cli.sources": {"time"},  # --since counts back from now
    "sqstee.cli.top": {"time"},  # the ages of runs
    "sqstee.cli.alert": {"time"},  # the same
    "sqstee.read.run_table": {"time"},  # when a run was heard of, which is compared with timestamps
    "sqstee.read.alert_watch": {"time"},  # the same
    "sqstee.read.alert_delivery": {"time"},  # when an alert was told, for the memory
    "sqstee.read.store_pump": {"time"},  # no later than now is what a sender's clock says
    "sqstee.transports.retention": {"time"},  # the ages of runs
    "sqstee.cli.show": {"time"},  # the same
    "sqstee.web.api": {"time"},  # the same
    "sqstee.drain.journal": {"time_ns"},  # the name of a segment
    "sqstee.drain.store": {"time"},  # how long ago an open run was heard of
    "sqstee.transports.cloudwatch": {"time"},  # the minutes to ask about
    "sqstee.transports.probe": {"time"},  # the clock against the server's
    "sqstee.transports.sqs_probe": {"time", "time_ns"},  # the same; a timestamp
    "sqstee.transports.s3_probe": {"time", "time_ns"},  # the same; the name of an object
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
