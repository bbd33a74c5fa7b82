"""Hints about extras: the command for the way in which sqstee was installed."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from sqstee.extras import install_command, packages


def test_the_packages_of_an_extra_are_those_of_pyproject() -> None:
    """By the installation's own metadata; a marker beside the extra's does no harm."""
    assert packages("serve") == ["waitress"]
    assert packages("redact") == ["google-re2"]
    assert packages("demo") == ["flask-cors", "flask", "moto"]
    assert packages("no-such") == []


def test_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the environment that sqstee runs in, whether it is activated or not."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/my env/bin/python")
    assert install_command("serve") == "'/my env/bin/python' -m pip install waitress"
    assert install_command("demo").endswith("install flask-cors flask moto")


def test_by_pipx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venv of pipx's own."""
    (tmp_path / "pipx_metadata.json").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert install_command("serve") == "pipx inject sqstee waitress"


@pytest.mark.parametrize(
    ("url", "source"),
    [("file:///home/me/my%20clone", "'/home/me/my clone'"), ("https://host/sqstee.whl", "sqstee"), ("", "sqstee")],
)
def test_by_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, source: str) -> None:
    """A tool of uv's is installed anew with more packages, from a clone where it came from one."""
    (tmp_path / "uv-receipt.toml").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    found = {
        "requires": metadata.requires("sqstee"),
        "read_text": lambda name: json.dumps({"url": url}) if url else None,
    }
    distribution = SimpleNamespace(**found)
    monkeypatch.setattr(metadata, "distribution", lambda name: distribution)
    assert install_command("serve") == f"uv tool install --with waitress {source}"


def test_of_the_single_file() -> None:
    """It holds packages of pure Python alone, and nothing can be added to it."""
    command = install_command("redact", "/var/tmp/sqstee-app-0/0123-cpython-311/sqstee/extras.py")
    assert command.startswith("pipx install 'sqstee[redact]'")
