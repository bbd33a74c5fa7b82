"""`sqstee --version`, and with --verbose the details for a bug report. No values that could be secret."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator

_PACKAGES = ("boto3", "botocore", "urllib3", "rich", "typer")
_OTHER_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "NO_COLOR", "TERM", "LANG", "LC_ALL", "PYTHONPATH")


def lines(verbose: bool) -> Iterator[str]:
    """The version; if `verbose`, also the packages, the configuration and the names of variables."""
    from sqstee import __version__

    yield f"sqstee {__version__}"
    if verbose:
        for name, text in _details():
            yield f"{name:16}{text}"


def _details() -> Iterator[tuple[str, str]]:
    import sqstee
    from sqstee import trace
    from sqstee.settings import configuration_files, load_settings
    from sqstee.spool.location import root_path

    yield "installed in", os.path.dirname(os.path.abspath(sqstee.__file__))
    yield "started as", sys.argv[0]
    yield "Python", f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    yield "platform", platform.platform()
    for name in _PACKAGES:
        yield name, _version_of(name)
    for path in configuration_files(os.environ):
        yield "configuration", path if os.path.exists(path) else f"{path} (missing)"
    settings = load_settings((), os.environ)
    for name, source in sorted(settings.sources.items()):
        yield "set", f"{name.replace('_', '-')} ({source})"
    root = root_path(settings.spool)
    yield "spool", root if os.path.isdir(root) else f"{root} (not created yet)"
    names = [name for name in sorted(os.environ) if name.startswith(("AWS_", "SQSTEE_")) or name in _OTHER_VARIABLES]
    yield "variables", " ".join(names) or "none"
    yield "trace", os.environ.get(trace.VARIABLE) or f"off; to write one for a bug report: {trace.VARIABLE}=FILE"


def _version_of(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
