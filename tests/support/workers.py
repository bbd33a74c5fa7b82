"""An application of ours in gunicorn, by its name and configured by the environment."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .command import clean_environment
from .processes import running

LOG = "gunicorn.log"  # in the folder


@contextmanager
def workers(
    application: str, folder: Path, *words: str, **environ: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process, whose children are the workers, and its URL; `store.db` in the folder is the store."""
    with socket.socket() as listener, (folder / LOG).open("wb") as log:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        fd, url = listener.fileno(), f"http://127.0.0.1:{listener.getsockname()[1]}/"
        command = [sys.executable, "-m", "gunicorn", "--bind", f"fd://{fd}", "--no-control-socket", *words, application]
        env = clean_environment() | {"SQSTEE_STORE": f"local:{folder}/store.db", "HOME": str(folder)} | environ
        with running(command, env=env, pass_fds=[fd], stderr=log, cwd=folder) as process:
            yield process, url
            process.terminate()
