"""sqstee: wrap a command, pass its output through byte for byte, and ship every line to Amazon SQS.

The public names are loaded when they are first used, so that a wrapped command does not pay for them.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Event", "Handler", "Record", "configure", "decode"]
_IN_HANDLER = ("Handler", "configure")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqstee.handler import Handler, configure
    from sqstee.wire import Event, Record, decode


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    if name in __all__:
        import importlib

        return getattr(importlib.import_module("sqstee.handler" if name in _IN_HANDLER else "sqstee.wire"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
