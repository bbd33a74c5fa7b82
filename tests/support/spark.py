"""A Spark cluster on this machine: a driver with its master and workers in one JVM, and an executor a worker."""

from __future__ import annotations

import gzip
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqstee.record import Body
from sqstee.transports.s3 import key_of

from .backlog import Backlog
from .processes import is_running, wait_for

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

LACKING = ", ".join(
    name
    for name, is_there in (
        ("pyspark", importlib.util.find_spec("pyspark")),
        ("pyarrow", importlib.util.find_spec("pyarrow")),
        ("java (Debian: openjdk-17-jre-headless)", shutil.which("java")),
    )
    if not is_there
)
# Short-lived JVMs: the optimising compiler, several collector threads and the verifier would cost more than they earn.
_JAVA = "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xss2m"
_FOLDERS = ("bin", "jars", "python", "sbin")
# The bytes of a row, and of a stream in order: what the command wrote.
_BYTES = "concat(coalesce(unbase64(raw), CAST(message AS BINARY)), IF(eol, X'0A', X''))"
_DIGEST = (
    "sha2(unhex(array_join(transform(sort_array(collect_list(struct(seq, hex(bytes) AS text))), one -> one.text), '')),"
    " 256) AS digest"
)


@contextmanager
def spark_session(folder: Path, master: str = "local-cluster[2,1,1024]", **settings: str) -> Iterator[SparkSession]:
    """A session, whose executors have the caller's environment; everything that Spark writes is in `folder`."""
    import pyspark
    from pyspark.sql import SparkSession

    home = folder / "home"  # executors work in a folder of it
    home.mkdir()
    for name in _FOLDERS:
        source = Path(pyspark.__file__).parent / name
        if source.exists():
            (home / name).symlink_to(source)
    environ = {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "PYTHONWARNINGS": ""}
    environ["PYSPARK_PYTHON"] = sys.executable  # of the executors, which would take the first python3 in PATH
    before = {name: os.environ.get(name) for name in environ}
    os.environ.update(environ)
    options = {
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.local.dir": str(folder / "local"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "America/New_York",  # no date may depend on it
        "spark.driver.extraJavaOptions": _JAVA,
        "spark.executor.extraJavaOptions": _JAVA,
        "spark.sql.adaptive.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": "1g",
        "spark.log.level": "ERROR",
        **settings,
    }
    builder = SparkSession.builder.master(master)
    for name, value in options.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
        pids = [pid for pid in descendants(os.getpid()) if b"java" in _command(pid)]
        try:
            yield session
        finally:
            gateway: Any = session.sparkContext._gateway
            session.stop()
            gateway.shutdown()
            gateway.proc.stdin.close()  # the JVM ends with it
            gateway.proc.wait(60)
            wait_for(lambda: not any(map(is_running, pids)), "end of Spark's processes")
    finally:
        for name, text in before.items():
            os.environ.pop(name, None)
            if text is not None:
                os.environ[name] = text


def executors() -> list[int]:
    """The pids of the executors of this process's session."""
    return [pid for pid in descendants(os.getpid()) if b"CoarseGrainedExecutorBackend" in _command(pid)]


def digests(frame: DataFrame) -> dict[tuple[str, str], str]:
    """The SHA-256 of each stream of each run in a frame, by run and stream."""
    from pyspark.sql.functions import expr

    lines = frame.where("stream IS NOT NULL").selectExpr("run", "stream", "seq", f"{_BYTES} AS bytes")
    rows = lines.groupBy("run", "stream").agg(expr(_DIGEST)).collect()
    return {(row.run, row.stream): row.digest for row in rows}


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(pid: int) -> Iterator[int]:
    """The processes below one, whichever of its threads has started them."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = path.read_text().split()
        except OSError:  # the thread has ended
            continue
        for child in map(int, found):
            yield child
            yield from descendants(child)


def judged(frame: DataFrame) -> dict[str, dict[str, Any]]:
    """The verdicts on the runs of a frame, by run."""
    from sqstee.spark import verdicts

    return {row.run: row.asDict(recursive=True) for row in verdicts(frame).collect()}


def pairs(ranges: Any) -> list[tuple[int, int]]:
    """Ranges of seqs, of drain's verdict or of Spark's."""
    return [(one["first"], one["last"]) if isinstance(one, dict) else tuple(one) for one in ranges]


def check_backlog(frame: DataFrame, backlog: Backlog) -> None:
    """A frame holds the backlog: verdicts, and the bytes of each stream."""
    found = judged(frame)
    assert found.keys() == backlog.expected.keys()
    wanted_digests = {}
    for run, wanted in backlog.expected.items():
        got = found[run]
        assert (got["verdict"], pairs(got["missing_ranges"]), got["dropped"]) == wanted[:3], run
        assert (got["failed"], got["exit_code"], got["lines"]) == wanted[3:6], run
        wanted_digests.update({(run, stream): digest for stream, digest in wanted.digests.items()})
    assert digests(frame) == wanted_digests


def as_objects(folder: Path, bodies: Sequence[Body]) -> Path:
    """Bodies in files that are named as `--to s3://` names its objects, every third one compressed."""
    for number, body in enumerate(bodies):
        one = body if number % 3 else body.compressed()
        path = folder / key_of("", one)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(body.data) if one.encoding else body.data)
    return folder
