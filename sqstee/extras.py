"""The command that adds an extra to this installation; it depends on the tool that installed sqstee."""

from __future__ import annotations

import os
import shlex
import sys

_UNPACKED = "/var/tmp/sqstee-app-"  # where sqstee.pyz unpacks itself


def install_command(extra: str, package: str = __file__) -> str:
    """The command that adds the packages of an extra to this environment, to stand in a hint."""
    names = " ".join(packages(extra)) or f"'sqstee[{extra}]'"
    if package.startswith(_UNPACKED):
        return f"pipx install 'sqstee[{extra}]' (sqstee.pyz cannot be extended)"
    if os.path.exists(f"{sys.prefix}/pipx_metadata.json"):
        return f"pipx inject sqstee {names}"
    if os.path.exists(f"{sys.prefix}/uv-receipt.toml"):
        given = "".join(f"--with {name} " for name in names.split())
        return f"uv tool install {given}{shlex.quote(_source())}"
    return f"{shlex.quote(sys.executable)} -m pip install {names}"


def packages(extra: str) -> list[str]:
    """The names of the packages of an extra, in this installation's own metadata."""
    import re
    from importlib import metadata

    try:
        needed = metadata.requires("sqstee") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for text in needed:
        name, _, marker = text.partition(";")
        if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", marker):
            found.append(re.split(r"[^\w.-]", name.strip())[0])
    return found


def _source() -> str:
    """The folder of the clone that was installed, or the package's name."""
    import json
    from importlib import metadata
    from urllib.parse import unquote, urlsplit

    try:
        text = metadata.distribution("sqstee").read_text("direct_url.json")
        url = urlsplit(json.loads(text or "{}").get("url", ""))
    except (metadata.PackageNotFoundError, ValueError):
        return "sqstee"
    return unquote(url.path) if url.scheme == "file" else "sqstee"
