"""The verbs' command line, and the one place where their errors are printed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

import typer

from sqstee.cli.tree import app
from sqstee.errors import EXIT_FAILURE, EXIT_INTERRUPTED, SqsteeError

_BROKEN_PIPE = 128 + signal.SIGPIPE  # as a process that the signal ends


def main(words: list[str]) -> int:
    """Run a verb: its exit status."""
    _hold_streams()
    try:
        with _interruptible():
            status = _run(words)
            sys.stdout.flush()
        return status
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _BROKEN_PIPE
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # which typer turns into this
            raise
        return _BROKEN_PIPE
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not error.filename:  # of getcwd(2) alone
            raise SqsteeError("the working folder is gone", "cd to one that is there", EXIT_FAILURE) from None
        what = f"{error.filename}: {error.strerror}" if error.filename else f"writing failed: {error.strerror or error}"
        raise SqsteeError(what, "see where the output goes, and whether there is room", EXIT_FAILURE) from None
    finally:
        _give_stdout_up()


def _run(words: list[str]) -> int:
    if set(words[: words.index("--") if "--" in words else None]) & {"-h", "--help"}:
        return _help(words[0])
    try:
        return int(app(words, prog_name="sqstee", standalone_mode=False) or 0)
    except (SqsteeError, typer.Abort, OSError):
        raise
    except Exception as error:
        # typer vendors its parser since 0.26: a usage error is known by what it can do, not by its class
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        verb = words[0] if words and not words[0].startswith("-") else ""
        message = " ".join(str(explain()).split()).rstrip(".")
        raise SqsteeError(message, f"see: sqstee {verb} --help".replace("  ", " ")) from None


def _help(word: str) -> int:
    from sqstee.cli import help

    width = help.columns()
    verb = next((verb for verb in help.verbs() if verb.name == word), None)
    typer.echo(help.of_verb(verb, width) if verb else help.root(width))
    return 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """^C is a KeyboardInterrupt from here on; until here, as the launcher left it, it ends us as any program."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _hold_streams() -> None:
    """Where a standard stream was closed /dev/null takes its number, which a file of ours would get otherwise.

    What is said goes nowhere then, but lines, which a verb writes to descriptor 1 itself, cannot be written to it: a
    consumer would delete them.
    """
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)
    for name, way in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, way, encoding="utf-8"))  # noqa: SIM115  # for as long as we live
        elif way == "w" and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a locale or a path's bytes cannot say fails nothing


def _give_stdout_up() -> None:
    """What could not be written, and has been said, shall not be tried again when the interpreter ends."""
    try:
        if sys.__stdout__:
            sys.__stdout__.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
