"""Builds dist/sqstee.pyz: sqstee and its dependencies in one file, for nodes that have Python but not pip.

It holds packages of pure Python only, so it runs with every Python from 3.11 on, on every architecture. Of botocore's
service descriptions it holds those that sqstee uses. These must be files on disk, and modules should be compiled only
once, so the archive unpacks itself into /var/tmp on its first run: unpack.py is its __main__.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NO_PACKAGES = 3  # exit status: pip could not install the dependencies
_SERVICES = {"sqs", "s3", "sts", "sso", "sso-oidc", "signin", "cloudwatch"}
_CONSTRAINTS = ["typer<0.29"]  # 0.29 needs pydantic, which is compiled code
_PURE = ["--only-binary=:all:", "--platform=any", "--implementation=py", "--abi=none", "--python-version=3.11"]
_EPOCH = (1980, 1, 1, 0, 0, 0)


def collect(folder: Path) -> None:
    """Fill `folder` with the content of the archive."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    found = subprocess.run([*pip, *_PURE, "--target", str(folder), *needed, *_CONSTRAINTS], check=False)
    if found.returncode:
        raise SystemExit(NO_PACKAGES)
    for service in (folder / "botocore/data").iterdir():
        if service.is_dir() and service.name not in _SERVICES:
            shutil.rmtree(service)
    shutil.rmtree(folder / "bin", ignore_errors=True)
    shutil.copytree(ROOT / "sqstee", folder / "sqstee", ignore=shutil.ignore_patterns("__pycache__", "launcher"))
    for name in ("man", "completions"):
        shutil.copytree(ROOT / name, folder / "sqstee" / name, ignore=shutil.ignore_patterns("man?"))


def packed(folder: Path) -> bytes:
    """A zip of the folder: the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(str(path.relative_to(folder)), _EPOCH)
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def build(target: Path) -> None:
    """Write the archive."""
    with tempfile.TemporaryDirectory() as name:
        collect(Path(name))
        payload = packed(Path(name))
    main = (ROOT / "tests/tools/unpack.py").read_text().replace("@DIGEST@", hashlib.sha256(payload).hexdigest()[:16])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _EPOCH), main)
        archive.writestr(zipfile.ZipInfo("payload.zip", _EPOCH), payload)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"#!/usr/bin/env python3\n" + buffer.getvalue())
    target.chmod(0o755)


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist/sqstee.pyz"
    build(out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
