"""The recipes of sqstee-recipes(7), run as they stand, with stand-ins for cron, Slurm, Spark and so on where needed."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import PROGRAMS, ROOT, SCRIPT, Rebuilt, Sqstee, is_running, running, wait_for

from sqstee.wire import Record, decode

PAGE = (ROOT / "man/sqstee-recipes.7.md").read_text()


def blocks(title: str, language: str) -> list[str]:
    """The blocks of one language under a heading of the page."""
    section = re.split(r"^##", PAGE.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


@pytest.fixture
def queue(sqstee: Sqstee, fake_sqs: FakeSqs) -> Iterator[FakeSqs]:
    """A server with the recipes' queue, known to `sqstee.environ`, where the command is on PATH."""
    fake_sqs.create_queue("my-queue")
    sqstee.environ |= fake_sqs.environ() | {"PATH": f"{Path(SCRIPT).parent}:{sqstee.environ['PATH']}"}
    yield fake_sqs
    assert fake_sqs.counters().rejections == []


def run(sqstee: Sqstee, words: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the test's folder."""
    return run_within(60, sqstee, words, more)


def run_within(
    seconds: float, sqstee: Sqstee, words: list[str], more: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """The same, where it may take longer."""
    environ = {**sqstee.environ, **more}
    return subprocess.run(
        words, capture_output=True, text=True, env=environ, cwd=sqstee.folder, timeout=seconds, check=False
    )


def script(sqstee: Sqstee, name: str, text: str) -> str:
    """A file that can be executed."""
    path = sqstee.folder / name
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def shipped(server: FakeSqs) -> list[Record]:
    """All lines on the queue, run by run in their order: which message comes first is not told."""
    items = [item for message in server.sent("my-queue") for item in decode(message.body, message.attributes)]
    return sorted((item for item in items if isinstance(item, Record)), key=lambda record: (record.run, record.seq))


def test_an_alias(sqstee: Sqstee, queue: FakeSqs) -> None:
    """Also of an alias behind it."""
    (text,) = blocks("In an interactive shell", "sh")
    text = text.replace("q make all", "alias hello='echo hi there'\nq hello")
    code = script(sqstee, "rc", "shopt -s expand_aliases\n" + text)
    assert run(sqstee, ["bash", code]).stdout == "hi there\n"
    assert [record.message for record in shipped(queue)] == ["hi there"]


def test_cron(sqstee: Sqstee, queue: FakeSqs) -> None:
    """Both lines, by sh with the environment that cron gives."""
    (text,) = blocks("Cron", "crontab")
    commands = [re.sub(r"^(@\w+|(\S+ ){4}\S+)\s+", "", line) for line in text.splitlines()]
    assert commands[1] == "sqstee flush"
    backup = script(sqstee, "backup", "#!/bin/sh\necho saved; echo 1 skipped >&2\n")
    given = {name: value for name, value in sqstee.environ.items() if name.startswith(("SQSTEE_", "AWS_"))}
    environ = given | {"HOME": str(sqstee.folder), "LOGNAME": "me", "SHELL": "/bin/sh"}
    environ["PATH"] = f"{Path(SCRIPT).parent}:/usr/bin:/bin"
    for command in commands:
        words = ["/bin/sh", "-c", command.replace("/usr/local/bin/backup", backup)]
        found = subprocess.run(words, env=environ, capture_output=True, text=True, check=True, cwd="/", timeout=60)
        if command != commands[1]:
            assert (found.stdout, found.stderr) == ("saved\n", "1 skipped\n")
    assert [(record.stream, record.job) for record in shipped(queue)] == [("stdout", "backup"), ("stderr", "backup")]


def test_a_systemd_unit(sqstee: Sqstee, queue: FakeSqs) -> None:
    """systemd accepts it, and at its stop signal the last line is shipped."""
    (text,) = blocks("A systemd unit", "ini")
    code = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye')))\n"
    program = script(sqstee, "etl.py", code + "print('up', flush=True)\nwhile True: signal.pause()\n")
    text = text.replace("/usr/bin/sqstee", SCRIPT).replace("/usr/bin/python3", sys.executable)
    text = text.replace("/srv/etl.py", program)
    if shutil.which("systemd-analyze"):
        unit = script(sqstee, "etl.service", text)
        found = run(sqstee, ["systemd-analyze", "verify", unit])
        assert "etl.service:" not in found.stderr.replace(f"{unit}:0", ""), found.stderr
    command = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)[0].split()
    with running(command, env=sqstee.environ, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[0] == b"bye\n"
    assert process.returncode == 0
    assert [record.message for record in shipped(queue)] == ["up", "bye"]


def test_slurm(sqstee: Sqstee, queue: FakeSqs) -> None:
    """The batch script with a stand-in for srun, the TaskProlog as Slurm reads it, the Epilog."""
    batch, prolog, epilog = blocks("Slurm", "sh")
    loop = 'for n in 0 1 2 3; do SLURM_STEP_ID=0 SLURM_PROCID=$n "$@" & done; wait'
    folder = sqstee.folder / "bin"
    folder.mkdir()
    script(sqstee, "bin/srun", f"#!/bin/sh\n{loop}\n")
    script(sqstee, "bin/runuser", '#!/bin/sh\n[ "$1$2$3" = -ume-- ] && shift 3 && exec "$@"\n')
    (sqstee.folder / "step.py").write_text("import os; os.write(1, b'rank %s\\n' % os.environb[b'SLURM_PROCID'])\n")
    slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_JOB_USER": "me"}
    slurm["PATH"] = f"{folder}:{sqstee.environ['PATH']}"
    found = run(sqstee, [script(sqstee, "job", batch)], **slurm)
    assert sorted(found.stdout.splitlines()) == [f"rank {n}" for n in range(4)]
    for record in shipped(queue):
        assert record.labels == {"slurm_job_id": "77", "slurm_procid": record.message.split()[1]}
        assert record.job == "train"
    assert len(shipped(queue)) == 4
    told = run(sqstee, [script(sqstee, "prolog", prolog)]).stdout
    assert re.fullmatch(r"export (\w+)=(\S+)\n", told)
    assert run(sqstee, [script(sqstee, "epilog", epilog)], **slurm).returncode == 0


def test_spark(sqstee: Sqstee, queue: FakeSqs) -> None:
    """The launcher before a daemon that speaks as PySpark's does: port, workers, a kill by stdin, the end."""
    (text,) = blocks("Spark", "sh")
    words = [script(sqstee, "launcher", text), "-u", str(PROGRAMS / "pyspark_daemon.py")]
    environ = sqstee.environ | {"PATH": f"{Path(sys.executable).parent}:{sqstee.environ['PATH']}"}
    with running(words, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as daemon:
        assert daemon.stdin
        assert daemon.stdout
        (port,) = struct.unpack("!i", daemon.stdout.read(4))
        workers = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(3)]
        pids = [struct.unpack("!i", worker.recv(4, socket.MSG_WAITALL))[0] for worker in workers]
        daemon.stdin.write(struct.pack("!i", pids[2]))
        daemon.stdin.flush()
        wait_for(lambda: not is_running(pids[2]), "end of the killed worker")
        for number, worker in enumerate(workers[:2], 5):
            worker.sendall(struct.pack("!i", number))
            assert struct.unpack("!i", worker.recv(4, socket.MSG_WAITALL)) == (number * number,)
        for worker in workers:
            worker.close()
        wait_for(lambda: not any(map(is_running, pids)), "end of the workers, which hold the streams")
        out, err = daemon.communicate(timeout=60)
    assert daemon.returncode == 0
    assert sorted(out.splitlines()) == [b"daemon ends", b"worker got 5", b"worker got 6"]
    assert sorted(err.splitlines()) == [b"worker warns of 5", b"worker warns of 6"]
    got = Rebuilt((message.body, message.attributes) for message in queue.sent("my-queue"))
    got.assert_whole()
    assert got.stdout == struct.pack("!i", port) + out
    assert got.stderr == err


@pytest.mark.skipif(
    not (importlib.util.find_spec("pyspark") and shutil.which("java")), reason="pyspark and java are not installed"
)
@pytest.mark.slow
def test_a_real_spark(sqstee: Sqstee, queue: FakeSqs) -> None:
    """Spark itself computes what it should through the launcher, and what its workers print is on the queue."""
    (text,) = blocks("Spark", "sh")
    code = (
        "from pyspark import SparkConf, SparkContext\n"
        "def square(n):\n"
        "    import os\n"
        "    os.write(1, b'worker got %d\\n' % n)\n"
        "    return n * n\n"
        "conf = SparkConf().setMaster('local[2]').set('spark.driver.host', '127.0.0.1')\n"
        "context = SparkContext(conf=conf)\n"
        "print('sum', context.parallelize(range(8), 4).map(square).sum())\n"
        "context.stop()\n"
    )
    program = script(sqstee, "job.py", code)
    path = f"{Path(sys.executable).parent}:{sqstee.environ['PATH']}"
    more = {"PATH": path, "PYSPARK_PYTHON": script(sqstee, "launcher", text)}
    found = run_within(300, sqstee, [sys.executable, program], more)  # a JVM and its workers, beside many other tests
    assert "sum 140\n" in found.stdout, found.stderr
    wait_for(lambda: len(shipped(queue)) >= 8, "lines of the workers")
    got = sorted(re.findall(r"worker got \d", "\n".join(record.message for record in shipped(queue))))
    assert got == [f"worker got {n}" for n in range(8)]


@pytest.mark.parametrize("tool", ["xargs", "parallel"])
def test_xargs_and_parallel(sqstee: Sqstee, queue: FakeSqs, tool: str) -> None:
    """A run for each file, its job the file's name."""
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    (text,) = (block for block in blocks("xargs and GNU parallel", "sh") if tool in block)
    for name in "abcdef":
        (sqstee.folder / f"{name}.txt").write_text(name * 1000)
    text = text.replace("gzip -k {}", "sh -c 'gzip -k {}; echo done {}'")
    found = run(sqstee, ["bash", "-c", text])
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) == 6
    assert sorted(record.job for record in shipped(queue)) == [f"{name}.txt" for name in "abcdef"]
    assert len({record.run for record in shipped(queue)}) == 6


def test_a_container(sqstee: Sqstee, queue: FakeSqs) -> None:
    """ENTRYPOINT and CMD as process 1 of a PID namespace of its own."""
    (text,) = blocks("A container", "dockerfile")
    given = dict(word.split("=") for word in re.findall(r"^ENV (.*)$", text, re.MULTILINE)[0].split())
    both = [re.findall(rf"^{name} (.*)$", text, re.MULTILINE)[0] for name in ("ENTRYPOINT", "CMD")]
    entry, command = map(json.loads, both)
    code = "import os, sys; print('pid', os.getppid()); sys.exit(7)\n"
    (sqstee.folder / "job.py").write_text(code)
    words = [*entry, *command]
    if subprocess.run(["unshare", "-fp", "true"], capture_output=True, check=False).returncode == 0:
        words = ["unshare", "-fp", "--kill-child", *words]
    found = run(sqstee, words, **given)
    assert found.returncode == 7, found.stderr
    assert found.stdout == ("pid 1\n" if words[0] == "unshare" else found.stdout)
    assert [record.message for record in shipped(queue)] == [found.stdout.strip()]


def test_make(sqstee: Sqstee, queue: FakeSqs) -> None:
    """Every line of every rule is a run, and its status is make's."""
    (text,) = blocks("Make", "make")
    (sqstee.folder / "Makefile").write_text(text + "\t@exit 3\n")
    found = run(sqstee, ["make"])
    assert found.stdout == "echo building all\nbuilding all\n"
    assert found.returncode == 2
    assert "Error 3" in found.stderr
    assert [(record.job, record.message) for record in shipped(queue)] == [("all", "building all")]


def test_airflow(sqstee: Sqstee, queue: FakeSqs) -> None:
    """The command, with the variables that BashOperator sets."""
    (text,) = blocks("Airflow", "python")
    command = re.findall(r'bash_command="(.*)"', text)[0]
    (sqstee.folder / "etl.py").write_text("print('loaded')\n")
    context = {"AIRFLOW_CTX_DAG_ID": "d", "AIRFLOW_CTX_TASK_ID": "etl", "AIRFLOW_CTX_DAG_RUN_ID": "r"}
    assert run(sqstee, ["bash", "-c", command], **context).stdout == "loaded\n"
    (record,) = shipped(queue)
    assert record.labels == {"airflow_dag_id": "d", "airflow_task_id": "etl", "airflow_run_id": "r"}


def test_the_queue(fake_sqs: FakeSqs) -> None:
    """Terraform's and CloudFormation's say the same, within what SQS takes."""
    (terraform,) = blocks("The queue", "hcl")
    (cloud,) = blocks("The queue", "yaml")
    wanted = {"MaximumMessageSize": "1048576", "MessageRetentionPeriod": "1209600", "SqsManagedSseEnabled": "true"}
    for name, value in wanted.items():
        assert re.search(rf"\b{name}: {value}\b", cloud)
    for value in wanted.values():
        assert f"= {value}\n" in terraform
    fake_sqs.create_queue("my-queue", **wanted)
    for action in re.findall(r'"sqs:(\w+)"', terraform):
        assert f"sqs:{action}" in (ROOT / "man/sqstee-run.1.md").read_text()
