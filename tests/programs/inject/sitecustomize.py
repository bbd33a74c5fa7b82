"""Put on PYTHONPATH by a test: makes one function of ours fail. $INJECT is `module:name:error:call`, call from 1.

It fails from that call on, or, with `first-last`, in these calls. `hang` does not fail: the call waits until there is a
file $INJECTED.go; `kill` kills the process before the call, `kill-after` after it; `false` answers so in its place;
`done` only tells that the call was made, once it has returned.
"""

import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType

_MODULE, _PATH, _ERROR, _CALL = os.environ["INJECT"].split(":")
_INJECTED = os.environ["INJECTED"]  # by the time of the call the environment may be another
_ERRORS: dict[str, Exception] = {
    "full": OSError(28, "No space left on device"),
    "quota": OSError(122, "Disk quota exceeded"),
    "read-only": OSError(30, "Read-only file system"),
    "denied": PermissionError(13, "Permission denied"),
    "many": OSError(24, "Too many open files"),
    "memory": MemoryError(),
    "bug": ZeroDivisionError("a bug"),
    "thread": RuntimeError("can't start new thread"),
}


def _patch(module: ModuleType) -> None:
    owner: object = module
    *parents, name = _PATH.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real: Callable[..., object] = getattr(owner, name)
    first, _, last = _CALL.partition("-")
    calls = 0

    def fail(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if int(first) <= calls <= int(last or calls):
            answer = real(*arguments, **named) if _ERROR == "done" else None
            with open(_INJECTED, "w"):
                pass
            if _ERROR in _ERRORS:
                raise _ERRORS[_ERROR]
            if _ERROR == "done":
                return answer
            if _ERROR == "false":
                return False
            if _ERROR == "kill-after":
                real(*arguments, **named)
            if _ERROR != "hang":
                os.kill(os.getpid(), signal.SIGKILL)
            while not os.path.exists(f"{_INJECTED}.go"):
                time.sleep(0.01)
        return real(*arguments, **named)

    setattr(owner, name, fail)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.loader
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if _MODULE in sys.modules:
    _patch(sys.modules[_MODULE])
else:
    sys.meta_path.insert(0, _Finder())
