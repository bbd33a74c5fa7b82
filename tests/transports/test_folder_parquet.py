"""A folder with Parquet files as a source: what it holds comes back, and nothing else is trusted."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from support.bodies import RUN, lines_of, whole_run
from support.drain import assembled, index, journal

from sqstee.extras import install_command
from sqstee.read.decode import read
from sqstee.transports.base import ReceivedMessage
from sqstee.transports.errors import TransportError
from sqstee.transports.folder import FolderReceiver


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A folder with two runs on two hosts."""
    folder = tmp_path / "logs"
    journal(folder, *(body.data for run, host in (("A", "h1"), ("B", "h2")) for body in whole_run(3, run, host=host)))
    assembled(folder, "parquet")
    return folder


def received(receiver: FolderReceiver) -> list[ReceivedMessage]:
    """All messages that there are now."""
    found = []
    while some := receiver.receive(10, 0.0):
        found += some
    return found


def seqs(messages: list[ReceivedMessage]) -> list[tuple[str, int]]:
    """The run and seq of each item."""
    blocks = [block for message in messages if not message.problem for block in read(message)[0]]
    return sorted((item.run, item.seq) for block in blocks for item in block)


def part(logs: Path, host: str) -> Path:
    """The file of a host."""
    (path,) = logs.glob(f"lines/*/host={host}/*.parquet")
    return path


def test_everything_and_one_run_alone(logs: Path) -> None:
    """`sqstee show` opens the partitions of its run only."""
    receiver = FolderReceiver(str(logs), "logs")
    assert seqs(received(receiver)) == [(run, seq) for run in "AB" for seq in range(5)]
    receiver = FolderReceiver(str(logs), "logs")
    part(logs, "h2").write_bytes(b"damaged")
    receiver.narrow(["A"])
    assert seqs(received(receiver)) == [("A", seq) for seq in range(5)]


def test_size_and_strays(logs: Path) -> None:
    """Each file counts once; what drain did not leave there is named."""
    receiver = FolderReceiver(str(logs), "logs")
    state = receiver.stat()
    assert (state.visible, state.bytes) == (2, sum(part(logs, host).stat().st_size for host in ("h1", "h2")))
    assert receiver.remarks() == []
    (logs / "lines/notes").touch()
    (remark,) = FolderReceiver(str(logs), "logs").remarks()
    assert "1 file not in runs.ndjson, left out: lines/notes" in remark


def test_a_new_index_brings_new_rows(logs: Path) -> None:
    """While the folder is followed: those of new files."""
    receiver = FolderReceiver(str(logs), "logs")
    received(receiver)
    journal(logs, lines_of(0, 2, RUN, "h1").data)
    assembled(logs, "parquet")
    assert seqs(received(receiver)) == [(RUN, seq) for seq in range(3)]
    assert received(receiver) == []


@pytest.mark.parametrize("kind", ["damaged", "link", "folder link", "other columns"])
def test_a_file_that_is_not_drains(logs: Path, kind: str, tmp_path: Path) -> None:
    """It is named or left out, and the other run comes."""
    path = part(logs, "h2")
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder link":
        path.parent.rename(tmp_path / "elsewhere")
        path.parent.symlink_to(tmp_path / "elsewhere")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"run": [["B"]], "seq": ["x"], "other": [1]}), path)
    messages = received(FolderReceiver(str(logs), "logs"))
    problems = [message.problem for message in messages if message.problem]
    assert seqs(messages) == [("A", seq) for seq in range(5)]
    assert len(problems) == (kind != "folder link")
    assert all(problem.startswith(str(path)) and "\n" not in problem for problem in problems)


@pytest.mark.parametrize(
    "name",
    ["../lines/date=a/host=b", "lines/date=a/host=b/..", "lines/date=a/../host=b", "/lines/date=a/host=b",
     "lines/.sqstee/host=b", "h1/x", "lines", 7, "lines/date=a/host=\0"],
)  # fmt: skip
def test_an_index_cannot_name_other_folders(logs: Path, name: object) -> None:
    """Only partitions inside the folder are read."""
    lines = [json.dumps(fields | {"files": [name]}) for fields in index(logs).values()]
    (logs / "runs.ndjson").write_text("".join(f"{line}\n" for line in lines))
    assert received(FolderReceiver(str(logs), "logs")) == []


def test_rows_of_a_run_that_the_index_does_not_name(logs: Path) -> None:
    """They are left out: somebody may have copied the file there."""
    path = part(logs, "h2")
    path.rename(part(logs, "h1").with_name("copied.parquet"))
    path.parent.rmdir()
    fields = index(logs)["A"]
    (logs / "runs.ndjson").write_text(json.dumps(fields) + "\n")
    assert seqs(received(FolderReceiver(str(logs), "logs"))) == [("A", seq) for seq in range(5)]


def test_without_pyarrow(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runs` needs only the index; lines need the extra, which the error names."""
    receiver = FolderReceiver(str(logs), "logs")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "sqstee.transports.folder_parquet", raising=False)
    assert [summary.run for summary in receiver.summaries()] == ["A", "B"]
    with pytest.raises(TransportError, match=re.escape(install_command("parquet"))):
        received(receiver)
