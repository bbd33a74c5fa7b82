"""sqstee.Handler: Python's logging to the strict server, through forks, spawns, kills, exits and bad settings."""

from __future__ import annotations

import logging
import logging.config
import pickle
import pydoc
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import ROOT, Rebuilt, Sqstee, running, wait_for
from support.logging_programs import START, arrived, by_run, program, run

import sqstee as package
from sqstee.errors import SqsteeError
from sqstee.handler_settings import HandlerSettings
from sqstee.options import RUN_OPTIONS
from sqstee.read.decode import is_failure
from sqstee.wire import Event, Record, decode


def the_run(sqstee: Sqstee, server: FakeSqs, tmp_path: Path, code: str) -> Rebuilt:
    """The one run of a program that succeeds without output."""
    found = run(sqstee, program(tmp_path, code), server)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    (one,) = arrived(server)
    return one


def test_lines_arrive_with_their_levels(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """One line per record, also for a traceback, any text, without a call of close."""
    code = (
        "more = {'job': 'nightly', 'label': {'team': 'data'}}\n"
        "sqstee.configure(to='q', level='DEBUG', format='%(name)s %(message)s', **more)\n"
        "log.debug('one'); log.warning('two \\udcff \\ud800 \\u2028'); log.log(35, 'thr\\nee')\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('four')\n"
    )
    one = the_run(sqstee, fake_sqs, tmp_path, code)
    assert [(record.level, record.message) for record in one.records[:4]] == [
        ("DEBUG", "job one"),
        ("WARNING", "job two \\udcff \\ud800 \u2028"),
        ("WARNING", "job thr\nee"),
        ("ERROR", one.records[3].message),
    ]
    assert one.records[3].message.startswith("job four\nTraceback (most recent call last):\n")
    assert one.records[3].message.endswith("\nZeroDivisionError: division by zero")
    assert {(item.job, item.labels["team"]) for item in one.items} == {("nightly", "data")}
    assert {record.stream for record in one.records} == {"stderr"}
    assert sqstee.waiting_runs() == []


FIELDS = (
    "import logging\n"
    "log = logging.getLogger('app.db')\n"
    "loop = {}; loop['loop'] = loop\n"
    "class Float(float):\n    def __repr__(self): return 'np.float64(12.5)'\n"
    "class Odd:\n    def __str__(self): raise RuntimeError\n"
    "log.warning('slow', extra={'ms': Float(12.5), 'huge': 10**5000, 'many': {'a': (1, None)}, 'loop': loop,"
    " 'odd': Odd(), 'big': 10**400})\n"
    "log.info({'rows': 3, 'log': 1})\n"
    "try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('boom')\n"
    "logging.info('plain')\n"
    "logging.info('secret-1', extra={'key': 'secret-2', 'in': ['secret-3'], 'card': 4111})\n"
)


def test_a_template_shows_the_level(sqstee: Sqstee, tmp_path: Path) -> None:
    """A line without one has an empty field there."""
    to = f"local:{tmp_path}/queue"
    assert run(sqstee, program(tmp_path, f"sqstee.configure(to={to!r})\nlogging.warning('one')\n")).returncode == 0
    assert sqstee.run("--to", to, "--", "echo", "two").returncode == 0
    shown = sqstee.run(
        "tail", to, "--no-follow", "--stream", "stdout", "--stream", "stderr", "--template", "{level:7} {message}"
    )
    assert shown.stdout == b"WARNING one\n        two\n"


@pytest.mark.parametrize("share", ["auto", "never"])
def test_fields_of_a_record_arrive_as_its_data(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, share: str) -> None:
    """As the Elastic Common Schema names them; also by the shared shipper, which believes nothing that it reads."""
    code = (
        f"sqstee.configure(to='q', share={share!r}, redact=['secret-[0-9]', '4111', 'ERROR'], keep_shipper='0s')\n"
        + FIELDS
    )
    records = the_run(sqstee, fake_sqs, tmp_path, code).records
    slow, rows, boom, plain, masked = [record.parsed for record in records]
    assert slow
    assert rows
    assert boom
    assert str(slow.pop("loop")).count("loop") == 9
    assert slow.pop("huge") == "<int: ValueError>"
    logger, big = {"logger": "app.db"}, "1" + "0" * 400
    assert slow == {"ms": 12.5, "many": {"a": [1, None]}, "odd": "<Odd: RuntimeError>", "big": big, "log": logger}
    assert rows == {"rows": 3, "log": 1, "log.logger": "app.db"}
    error = boom["error"]
    assert isinstance(error, dict)
    assert (error["type"], error["message"]) == ("ZeroDivisionError", "division by zero")
    assert records[2].message == f"boom\n{error['stack_trace']}"
    assert (records[3].message, plain) == ("plain", None)
    assert (records[4].message, masked) == ("***", {"key": "***", "in": ["***"], "card": "***"})


@pytest.mark.parametrize(
    "more", ["strip_ansi=True", "collapse_cr=True", "max_line='1K'", "rate_limit='1/h'", "parse_json=True"]
)
def test_records_that_cannot_be_one_line_lose_nothing(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, more: str
) -> None:
    """Then they are several plain lines, or dropped and counted where that is asked for."""
    code = (
        f"sqstee.configure(to='q', {more})\n"
        "log = logging.getLogger('app')\n"
        'log.info(\'{"level": "error"}\')\n'
        "log.info('a\\n' + 'b' * 1500, extra={'more': 1})\n"
    )
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert (found.returncode, "Traceback" in found.stderr) == (0, False)
    (one,) = arrived(fake_sqs)
    text = "\n".join(record.message for record in one.records)
    if more.startswith("rate"):
        assert text == '{"level": "error"}'
        assert "1 log line dropped: --rate-limit" in found.stderr
        (gap,) = (item for item in one.items if isinstance(item, Event) and item.event == "gap")
        assert (gap.fields["from"], gap.fields["to"]) == (2, 2)
    else:
        assert text.replace("b\nb", "bb") == '{"level": "error"}\na\n' + "b" * 1500
    if more.startswith("parse"):
        assert one.records[0].parsed == {"level": "error"}


def test_fields_that_are_too_long_are_shortened(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """The record keeps its logger, its exception and the others."""
    code = (
        "sqstee.configure(to='q')\n"
        "try:\n    raise ValueError('no')\nexcept ValueError:\n"
        "    logging.getLogger('app').exception('boom', extra={'n': 'x' * 400_000, 'm': ['y' * 300] * 90, 'k': 1})\n"
    )
    (record,) = the_run(sqstee, fake_sqs, tmp_path, code).records
    assert record.message.startswith("boom\nTraceback")
    error = {"type": "ValueError", "message": "no"}
    many = ["y" * 200 + "…"] * 20
    assert record.parsed == {"n": "x" * 200 + "…", "m": many, "k": 1, "log": {"logger": "app"}, "error": error}


def test_fields_that_are_too_many_leave_the_logger_and_the_exception(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path
) -> None:
    """Regression: the record came as the lines of its text, without any field."""
    code = (
        "sqstee.configure(to='q')\n"
        "try:\n    raise ValueError('no')\nexcept ValueError:\n"
        "    log.exception('boom', extra={f'key{n}': n for n in range(10_000)})\n"
    )
    (record,) = the_run(sqstee, fake_sqs, tmp_path, code).records
    assert record.message.endswith("ValueError: no")
    assert record.parsed == {"log": {"logger": "job"}, "error": {"type": "ValueError", "message": "no"}}


def test_secrets_are_masked_before_fields_are_cut(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Regression: the beginning of a secret was sent, since the pattern did not match it any more."""
    code = (
        "sqstee.configure(to='q', redact='key-[0-9]{8}')\n"
        "log.info('x', extra={'n': 'n' * 193 + 'key-12345678' + 'n' * 40_000})\n"
    )
    (record,) = the_run(sqstee, fake_sqs, tmp_path, code).records
    assert record.parsed
    assert record.parsed["n"] == "n" * 193 + "***nnnn…"


def test_any_key_is_a_fields_name(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Regression: a record with a tuple as a key was lost, and logging printed a traceback."""
    code = "sqstee.configure(to='q')\nlog.info('x', extra={('a', 1): 1, b'b': 2, None: 3, 'c\\n.d': 4})\n"
    (record,) = the_run(sqstee, fake_sqs, tmp_path, code).records
    assert record.parsed == {"('a', 1)": 1, "b'b'": 2, "None": 3, "c\n.d": 4, "log": {"logger": "job"}}


def test_without_an_exception_there_is_no_error(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Regression: exc_info=True outside of an except clause gave the record an error, "NoneType: None"."""
    (record,) = the_run(sqstee, fake_sqs, tmp_path, "sqstee.configure(to='q')\nlog.info('x', exc_info=True)\n").records
    assert record.parsed == {"log": {"logger": "job"}}


@pytest.mark.parametrize(
    ("library", "fields"),
    [("structlog", {"ms": 12.5, "log": {"logger": "app.db"}}), ("loguru", {"extra": {"ms": 12.5}})],
)
def test_other_logging_libraries(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, library: str, fields: dict[str, object]
) -> None:
    """As the manual has it: what they bind arrives as fields."""
    page = (ROOT / "man/sqstee-python.7.md").read_text()
    found = re.search(rf"### {library}\n.*?```python\n(.*?)```", page, re.DOTALL)
    assert found
    command = program(tmp_path, found[1].replace("my-queue", "q"))
    assert run(sqstee, command, fake_sqs).returncode == 0
    (one,) = arrived(fake_sqs)
    (record,) = one.records
    assert (record.level, record.message) == ("WARNING", "slow query")
    assert record.parsed
    assert fields.items() <= record.parsed.items()


def test_a_forked_worker_configures_anew_without_doubling_lines(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path
) -> None:
    """The parent's handler came along with the fork, and would ship the same lines."""
    code = (
        "import os\n"
        "sqstee.configure(to='q', job='parent')\n"
        "logging.info('before')\n"
        "if not os.fork():\n"
        "    sqstee.configure(to='q', job='worker'); sqstee.configure(to='q', job='worker')\n"
        "    logging.info('within')\n"
        "    raise SystemExit\n"
        "os.wait()\n"
        "sqstee.configure(to='q', job='second')\n"
        "logging.info('after')\n"
    )
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert (found.returncode, found.stderr) == (0, "")
    lines = {one.items[0].job: [record.message for record in one.records] for one in arrived(fake_sqs)}
    assert lines == {"parent": ["before", "after"], "worker": ["within"], "second": ["after"]}


def test_the_public_names_are_found() -> None:
    """By dir, help and a type checker, though they are loaded when they are first used."""
    assert set(package.__all__) <= set(dir(package))
    assert "configure(" in pydoc.plain(pydoc.render_doc(package))
    assert set(HandlerSettings.__annotations__) == {option.attribute for option in RUN_OPTIONS} - {"to"}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("tool.py",), "tool.py"),
        (("-m", "package"), "package"),
        (("-m", "package.part"), "part.py"),
        (("-c", "import tool"), Path(sys.executable).name),
    ],
)
def test_the_run_is_named_by_the_program(sqstee: Sqstee, tmp_path: Path, words: tuple[str, ...], name: str) -> None:
    """By the script's base name or the package; an inline program by its interpreter."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    for path in ("tool.py", "package/__main__.py", "package/part.py"):
        (tmp_path / path).write_text(START + "sqstee.configure(to='local')\nlog.info('x')\n")
    command = [sys.executable, *words, "SECRET"]
    done = subprocess.run(command, env=sqstee.environ, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    assert done.stderr == b""
    start, end = sqstee.local().events
    assert (start.fields["name"], end.fields["name"], start.message) == (name, name, f"{name} started")


def test_structured_logs(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """--parse-json gives `data` to the lines of a JSON formatter; their level is that of logging."""
    code = (
        'form = \'{"level":"fatal","text":"%(message)s"}\'\n'
        "sqstee.configure(to='q', level='DEBUG', format=form, parse_json=True)\n"
        "log.info('one'); log.error('not \"JSON'); log.debug('two')\n"
    )
    one = the_run(sqstee, fake_sqs, tmp_path, code)
    found = [(record.level, record.parsed) for record in one.records]
    assert found == [
        ("INFO", {"level": "fatal", "text": "one"}),
        ("ERROR", None),
        ("DEBUG", {"level": "fatal", "text": "two"}),
    ]


def test_a_process_that_never_logs_costs_nothing(sqstee: Sqstee, tmp_path: Path) -> None:
    """No run, no folder, no thread before the first line."""
    found = run(sqstee, program(tmp_path, "sqstee.configure(to='q')\nprint(threading.active_count())"))
    assert (found.stdout, found.stderr) == ("1\n", "")
    assert not sqstee.spool.exists()


def test_a_child_forked_while_the_local_queue_is_locked_ships_all_the_same(sqstee: Sqstee, tmp_path: Path) -> None:
    """A thread that waits for another process's lock does not block a fork."""
    holding = (
        "import sqlite3, sys; other = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "other.execute('BEGIN IMMEDIATE'); print(flush=True); sys.stdin.read(); other.execute('COMMIT')"
    )
    code = (
        "import subprocess, time\n"
        "handler = sqstee.configure(to='local', linger=0)\n"
        "log.info('before')\nhandler.close()\n"
        f"words = [sys.executable, '-c', {holding!r}, os.environ['SQSTEE_SPOOL'] + '/local.db']\n"
        "other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "other.stdout.readline()\nlog.info('parent')\n"
        "time.sleep(0.5)\nbefore = time.monotonic()\npid = os.fork()\nassert time.monotonic() - before < 4\n"
        "if not pid:\n"
        "    other.stdin.close()\n    log.info('child')\n    logging.shutdown()\n    os._exit(0)\n"
        "other.communicate()\nos.waitpid(pid, 0)\n"
    )
    found = run(sqstee, program(tmp_path, code))
    assert (found.returncode, found.stderr) == (0, "")
    runs = by_run([(body.data, body.attributes) for body in sqstee.local_bodies()])
    assert sorted(record.message for one in runs for record in one.records) == ["before", "child", "parent"]
    assert sqstee.waiting_runs() == []


def test_a_child_forked_while_the_disk_hangs_leaves_the_local_queue_alone(sqstee: Sqstee, tmp_path: Path) -> None:
    """A fork waits briefly. The child's lines stay in the spool: SQLite would mistake it for its parent."""
    code = (
        "from sqstee.transports import local\nlocal._FORK_SECONDS = 0.1\n"
        "sqstee.configure(to='local', linger=0)\n"
        "hanging = threading.Thread(target=local._gate.acquire); hanging.start(); hanging.join()\n"
        "pid = os.fork()\n"
        "if not pid:\n    log.info('child')\n    logging.shutdown()\n    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
    )
    found = run(sqstee, program(tmp_path, code))
    assert found.returncode == 0
    assert "local.db: this process was forked while its parent used the file" in found.stderr
    assert len(sqstee.waiting_runs()) == 1
    assert sqstee.run("flush").returncode == 0
    assert [record.message for record in sqstee.local().records] == ["child"]


@pytest.mark.parametrize("to", ["q", "local"])
def test_a_forked_child_has_a_run_of_its_own(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, to: str) -> None:
    """Forks at the start and during shipping; the children log, and end by os._exit as they should."""
    code = (
        f"handler = sqstee.configure(to={to!r}, linger=0)\n"
        "for n in range(6):\n"
        "    log.info('parent %d', n)\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        log.info('child %d', n); handler.close(); os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
    )
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert (found.returncode, found.stderr) == (0, "")
    runs = arrived(fake_sqs)
    if to == "local":
        runs = by_run([(body.data, body.attributes) for body in sqstee.local_bodies()])
    assert runs[0].stderr == b"".join(b"parent %d\n" % n for n in range(6))
    assert sorted(one.stderr for one in runs[1:]) == [b"child %d\n" % n for n in range(6)]
    assert sqstee.waiting_runs() == []


@pytest.mark.parametrize("to", ["q", "s3://bucket/logs", "http://127.0.0.1:9/"])
def test_nothing_is_imported_once_it_is_loaded(sqstee: Sqstee, tmp_path: Path, to: str) -> None:
    """A pool's worker hung: it was forked while the shipper's thread imported a module for its first request."""
    code = (
        "from sqstee.logging_run import LoggingRun\n"
        "load, loaded = LoggingRun._load, set()\n"
        "def load_and_note(run):\n"
        "    load(run)\n"
        "    loaded.update(sys.modules)\n"
        "LoggingRun._load = load_and_note\n"
        f"handler = sqstee.Handler({to!r}, flush_timeout='0.5s')\n"
        "log.addHandler(handler)\n"
        "log.warning('refused')\n"
        "handler.close()\n"
        "print(sorted(set(sys.modules) - loaded), bool(loaded))\n"
    )
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    aws = dict.fromkeys(names, "x") | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    environ = sqstee.environ | aws
    found = subprocess.run(
        program(tmp_path, code), capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    assert found.stdout == "[] True\n", found.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing_ship_and_flush(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, method: str
) -> None:
    """A pool of workers; a spawned one gets the handler by pickle. They end without atexit, yet no line stays."""
    code = (
        "import multiprocessing\n"
        "def begin(handler):\n"
        "    logging.getLogger('work').addHandler(handler)\n"
        "def work(n):\n"
        "    logging.getLogger('work').warning('line %d', n)\n"
        "if __name__ == '__main__':\n"
        "    handler = sqstee.Handler('q', job='pool')\n"
        "    logging.getLogger('main').addHandler(handler)\n"
        "    logging.getLogger('main').warning('before')\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    with context.Pool(2, begin, (handler,)) as pool:\n"
        "        pool.map(work, range(20), 1)\n"
        "        pool.close(); pool.join()\n"
    )
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert (found.returncode, found.stderr) == (0, "")
    first, *others = arrived(fake_sqs)
    assert first.stderr == b"before\n"
    assert sorted(b"".join(one.stderr for one in others).split(b"\n")) == sorted(
        [b"", *(b"line %d" % n for n in range(20))]
    )
    assert {item.job for one in (first, *others) for item in one.items} == {"pool"}
    assert sqstee.waiting_runs() == []


def test_many_threads_write_whole_lines(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Each thread's order is kept, no line is broken, and a signal handler may log too."""
    code = (
        "import signal\n"
        "sqstee.configure(to='q')\n"
        "signal.signal(signal.SIGALRM, lambda *_: log.error('alarm'))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)\n"
        "def work(t):\n"
        "    for n in range(500): log.info('%d %d', t, n)\n"
        "threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]\n"
        "[t.start() for t in threads]; work(9); [t.join() for t in threads]\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    one = the_run(sqstee, fake_sqs, tmp_path, code)
    lines = [record.message for record in one.records if record.message != "alarm"]
    assert len(lines) < len(one.records)
    for thread in (0, 1, 2, 3, 9):
        assert [line for line in lines if line.startswith(f"{thread} ")] == [f"{thread} {n}" for n in range(500)]


def test_log_records_of_the_shipping_are_not_shipped(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """At level DEBUG boto3 logs each request: shipping that would never end."""
    code = "sqstee.configure(to='q', level='DEBUG', format='%(name)s %(message)s')\nlog.debug('hi')\n"
    one = the_run(sqstee, fake_sqs, tmp_path, code)
    assert [record.message for record in one.records] == ["job hi"]


def test_a_destination_that_never_answers_blocks_nothing(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Lines go to the spool at once; exit takes the flush timeout at most, and one line reports the rest."""
    fake_sqs.faults(black_hole=True)
    code = "sqstee.configure(to='q', flush_timeout=0.5)\nfor n in range(5000): log.info('line %d', n)\nprint('done')\n"
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert (found.returncode, found.stdout) == (0, "done\n")
    assert re.fullmatch(
        r"sqstee: the log is not fully delivered yet.*: kept in .*, `sqstee flush` ships it\n", found.stderr
    )
    fake_sqs.release()
    fake_sqs.clear_faults()
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    (one,) = arrived(fake_sqs)
    assert len(one.records) == 5000


@pytest.mark.parametrize("quiet", [False, True])
def test_a_refusal_is_reported_while_the_process_runs(sqstee: Sqstee, tmp_path: Path, quiet: bool) -> None:
    """It was reported at exit, and a service never exits."""
    to = "local:/proc/none.db"
    code = f"sqstee.configure(to={to!r}, quiet={quiet})\nlog.warning('hi')\nsys.stdin.read()\nos._exit(0)\n"
    pipes = dict.fromkeys(("stdin", "stderr"), subprocess.PIPE)
    trace = tmp_path / "trace"
    trace.touch()
    environ = sqstee.environ | {"SQSTEE_DEBUG": str(trace)}
    with running(program(tmp_path, code), env=environ, **pipes) as process:
        wait_for(lambda: "refused (open)" in trace.read_text(), "refusal")
        line = b"" if quiet or process.stderr is None else process.stderr.readline()
        rest = process.communicate(timeout=60)[1]
    start = f"sqstee: {to} refuses the lines, which are kept in {sqstee.spool}; `sqstee check {to}` looks for the cause"
    assert line.startswith(b"" if quiet else start.encode())
    assert rest == b""


def test_with_a_missing_aws_profile_the_fallback_is_used(sqstee: Sqstee, tmp_path: Path) -> None:
    """An error of boto3 before any call is a refusal like any other: the thread sends the lines to the fallback."""
    path = tmp_path / "second.db"
    sqstee.environ["AWS_PROFILE"] = "nobody"
    code = f"sqstee.configure(to='q', fallback='local:{path}')\nlog.info('hello')\n"
    found = run(sqstee, program(tmp_path, code))
    assert found.returncode == 0
    assert found.stderr.startswith(f"sqstee: q refuses the lines, which go to local:{path}; `sqstee check q` ")
    assert found.stderr.count("\n") == 1
    sqstee.local(path).assert_whole()
    assert [record.message for record in sqstee.local(path).records] == ["hello"]
    assert sqstee.waiting_runs() == []


def test_after_kill_9_the_spool_has_every_line(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Even if a forked child survives: it holds none of its parent's locks."""
    code = (
        "sqstee.configure(to='q')\n"
        "for n in range(100): log.info('line %d', n)\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    print(os.getpid(), flush=True); sys.stdin.read(); os._exit(0)\n"
        "threading.Event().wait()\n"
    )
    fake_sqs.faults(refuse=True)
    environ = sqstee.environ | fake_sqs.environ()
    with running(program(tmp_path, code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        fake_sqs.clear_faults()
        assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
        process.stdin.close()
    (one,) = arrived(fake_sqs)
    assert one.stderr == b"".join(b"line %d\n" % n for n in range(100))
    assert (one.events[-1].fields["cause"], one.events[-1].event) == ("process-ended", "exit")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_a_signal_ends_is_no_killed_command(
    sqstee: Sqstee, tmp_path: Path, number: signal.Signals
) -> None:
    """Each worker of a healthy Spark job was shown as failed: "sqstee was killed, and the command with it"."""
    code = "sqstee.configure(to='local')\nlog.info('a'); print(flush=True); sys.stdin.read()\n"
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with running(program(tmp_path, code), env=sqstee.environ, **pipes) as process:
        assert process.stdout
        assert process.stdout.readline()
        process.send_signal(number)
        process.wait()
    assert sqstee.run("flush").returncode == 0
    (last,) = [event for event in sqstee.local().events if event.event == "exit"]
    assert last.message == "the process has ended without closing its log"
    assert not is_failure(last)
    shown = sqstee.run("tail", "--no-follow", "--color", "always", "--stream", "event").stdout
    assert b"killed" not in shown
    assert b"\x1b[31m" not in shown


def test_a_line_in_quarantine(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Lines that the queue refuses for good are reported at the end, like waiting ones."""
    fake_sqs.faults(failed_entries=[{"contains": "poisonous", "code": "InvalidMessageContents", "sender_fault": True}])
    code = "sqstee.configure(to='q')\nlog.info('good'); log.info('poisonous')\n"
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert found.returncode == 0
    assert f"1 log line larger than the destination takes, or refused by it: kept in {sqstee.spool}/" in found.stderr


def test_lines_leave_while_the_program_runs_and_after_close_a_new_run_begins(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path
) -> None:
    """The thread ships without a call; `close` delivers, and the next line begins a new run."""
    code = (
        "handler = sqstee.configure(to='q')\n"
        "log.info('first'); first = handler.run; sys.stdin.readline()\n"
        "handler.close(); log.info('second'); assert handler.run not in ('', first)\n"
    )
    environ = sqstee.environ | fake_sqs.environ()
    with running(program(tmp_path, code), stdin=subprocess.PIPE, env=environ) as process:
        wait_for(lambda: any(b'"first"' in message.body.encode() for message in fake_sqs.sent("q")), "first line")
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert [one.stderr for one in arrived(fake_sqs)] == [b"first\n", b"second\n"]


def test_a_spool_that_cannot_be_created_is_reported_once(sqstee: Sqstee, tmp_path: Path) -> None:
    """The program runs on, and at its end the dropped records are counted."""
    (tmp_path / "file").write_text("")
    code = (
        f"sqstee.configure(to='q', spool={str(tmp_path / 'file' / 'spool')!r})\nfor n in range(2000): log.info('x')\n"
    )
    found = run(sqstee, program(tmp_path, code))
    assert found.returncode == 0
    first, last = found.stderr.splitlines()
    assert first.startswith("sqstee: the log is not shipped: the spool folder")
    assert last == "sqstee: 2,000 log records dropped: the spool could not be opened"


def test_a_configuration_travels_by_pickle_and_by_dictionary(sqstee: Sqstee, tmp_path: Path) -> None:
    """As Spark, Dask and logging.config pass it on; the same call again returns the same handler."""
    logger = logging.getLogger("travels")
    handler = package.configure("local", logger="travels", level="WARNING", format="%(message)s!", spool=str(tmp_path))
    try:
        again = package.configure("local", logger="travels", level="WARNING", format="%(message)s", spool=str(tmp_path))
        assert again is handler
        assert logger.handlers == [handler]
        copy = pickle.loads(pickle.dumps(handler))
        assert (copy.given, copy.level) == (handler.given, logging.WARNING)
        handlers = {"h": {"class": "sqstee.Handler", "to": "local", "level": "ERROR", "spool": str(tmp_path)}}
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "handlers": handlers})
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("given", [{"to": "no queue!"}, {"linger": "soon"}, {"label": ["novalue"]}])
def test_an_invalid_setting_is_refused_at_once(given: dict[str, object]) -> None:
    """When the handler is created, not when it first logs."""
    with pytest.raises(SqsteeError, match="|".join(given)):
        package.Handler(**given)  # type: ignore[arg-type]


def test_a_handler_that_could_not_be_created_is_silent_at_exit(sqstee: Sqstee, tmp_path: Path) -> None:
    """Regression: logging had registered it, and flushing it at exit printed a traceback."""
    code = "try:\n    sqstee.configure(linger=-1)\nexcept Exception as error:\n    kept = error\n    print('refused')\n"
    found = run(sqstee, program(tmp_path, code))
    assert (found.returncode, found.stdout, found.stderr) == (0, "refused\n", "")


def test_paths_are_relative_to_the_folder_where_the_handler_is_created(sqstee: Sqstee, tmp_path: Path) -> None:
    """Regression: they were resolved at the first line, when a daemon is in /."""
    away = tmp_path / "away"
    away.mkdir()
    code = f"os.chdir({str(tmp_path)!r}); sqstee.configure(to='local:q.db', spool='sp', fallback='local:other.db')\n"
    found = run(sqstee, program(tmp_path, f"{code}os.chdir({str(away)!r}); log.info('x')\n"))
    assert (found.returncode, found.stderr) == (0, "")
    assert (tmp_path / "q.db").exists()
    assert (tmp_path / "sp").is_dir()
    assert not list(away.iterdir())


def test_an_unknown_setting_is_a_type_error() -> None:
    """Like any wrong keyword."""
    with pytest.raises(TypeError, match="'lingre' is not an option"):
        package.Handler("q", lingre=1)  # type: ignore[call-arg]


def test_public_names_are_typed() -> None:
    """The lazy names exist, with their types."""
    assert sorted(package.__all__) == ["Event", "Handler", "Record", "configure", "decode"]
    assert (package.Event, package.Record, package.decode) == (Event, Record, decode)
    assert issubclass(package.Handler, logging.Handler)
    assert (Path(package.__file__).parent / "py.typed").exists()
