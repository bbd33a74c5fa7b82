"""Put on PYTHONPATH by a test: writes to $SYNC_LOG what is synced, and how large it is then.

Each sync waits while $SYNC_HOLD exists, and fails with $SYNC_FAIL.
"""

import os
import time
from collections.abc import Callable


def _logged(sync: Callable[[int], None]) -> Callable[[int], None]:
    def call(fd: int) -> None:
        size = os.fstat(fd).st_size
        path = os.readlink(f"/proc/self/fd/{fd}")
        _write(f"begun {path}\n")
        while os.path.exists(os.environ["SYNC_HOLD"]):
            time.sleep(0.01)
        if os.environ.get("SYNC_FAIL"):
            raise OSError(5, "Input/output error")
        sync(fd)
        _write(f"{size} {path}\n")

    return call


def _write(text: str) -> None:
    log = os.open(os.environ["SYNC_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(log, text.encode())
    os.close(log)


setattr(os, "fsync", _logged(os.fsync))  # noqa: B010  # an assignment would not type-check
setattr(os, "fdatasync", _logged(os.fdatasync))  # noqa: B010
