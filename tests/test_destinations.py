"""Every way there is carries the same records."""

from __future__ import annotations

from pathlib import Path

import pytest
import targets
from support import Rebuilt, Sqstee, python

NOISY = python(r"""
import os
for part in range(40):
    os.write(1, b"".join(b"out %d \xff\x85\n" % n for n in range(part * 50, part * 50 + 50)))
    os.write(2, b"err %d\x01\n" % part)
os.write(1, b"no newline")
""")


@pytest.fixture(scope="module")
def by_way(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rebuilt]:
    """What the same command left at each kind of destination, compressed and not."""
    found = {}
    for kind in ("local", *targets.FAULTS):
        for compress in ("none", "gzip"):
            folder = tmp_path_factory.mktemp(f"{kind}-{compress}")
            found[f"{kind} {compress}"] = _left(Sqstee(folder), kind, compress, folder)
    return found


def _left(sqstee: Sqstee, kind: str, compress: str, folder: Path) -> Rebuilt:
    words = ("--host", "h", "--job", "j", "--label", "a=b", "--message-bytes", "16K", "--compress", compress)
    if kind == "local":
        found = sqstee.run(*words, "--", *NOISY)
        assert (found.returncode, sqstee.waiting_runs()) == (0, [])
        return sqstee.local()
    with targets.target(kind, folder) as target:
        found = sqstee.run(*words, "--to", target.to, "--", *NOISY, environ=target.environ)
        assert (found.returncode, sqstee.waiting_runs()) == (0, [])
        return Rebuilt(target.bodies())


def _shape(got: Rebuilt) -> dict[str, object]:
    """All that does not depend on when, where and in which run something was written."""
    return {
        "seqs": [item.seq for item in got.items],
        "events": [event.event for event in got.events],
        "lines": {
            stream: [
                (record.data, record.message, record.host, record.job, record.labels)
                for record in got.records
                if record.stream == stream
            ]
            for stream in ("stdout", "stderr")
        },
    }


def test_the_same_records_everywhere(by_way: dict[str, Rebuilt]) -> None:
    """Streams, seqs, tags and events are those of the local queue; nothing is missing, and nothing is there twice."""
    expected = _shape(by_way["local none"])
    by_way["local none"].assert_whole()
    assert len(by_way["local none"].records) == 2041
    for way, got in by_way.items():
        assert (_shape(got), got.duplicates) == (expected, 0), way
