"""`python -m fakes.sqs`; see the package's docstring."""

from __future__ import annotations

import sys

from .process import serve, serve_forks

if __name__ == "__main__":
    if sys.argv[1:] == ["--fork-server"]:
        serve_forks()
    serve(sys.argv[1:])
