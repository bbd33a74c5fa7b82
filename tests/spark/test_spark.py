"""sqstee.spark on a cluster of its own: one Spark for all of cluster/, whichever process runs this test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.spark import LACKING

CASES = sorted((Path(__file__).parent / "cluster").glob("on_*.py"))


@pytest.mark.skipif(bool(LACKING), reason=f"not installed: {LACKING}")
@pytest.mark.slow
def test_spark_on_a_cluster() -> None:
    """The cases of cluster/, each of which can be run by itself: python -m pytest tests/spark/cluster/on_reading.py."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *map(str, CASES)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    found = subprocess.run(words, capture_output=True, text=True, check=False, timeout=540, env=environ)
    assert found.returncode == 0, found.stdout + found.stderr
    assert " skipped" not in found.stdout
