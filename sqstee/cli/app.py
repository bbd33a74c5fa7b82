"""The command line of the verbs: parse errors, interruptions and broken pipes become errors or exit statuses."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

import typer

from sqstee.cli.tree import app
from sqstee.errors import EXIT_FAILURE, EXIT_INTERRUPTED, SqsteeError, unknown_name

_BROKEN_PIPE = 128 + signal.SIGPIPE  # as shells report death by SIGPIPE


def main(words: list[str]) -> int:
    """Execute a verb and return its exit status."""
    _open_closed_streams()
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
        if not isinstance(end.__context__, BrokenPipeError):  # typer exits on one
            raise
        return _BROKEN_PIPE
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not error.filename:  # only getcwd(2) names no file
            raise SqsteeError("the working folder was deleted", "cd to an existing one", EXIT_FAILURE) from None
        text = f"{error.filename}: {error.strerror}" if error.filename else f"writing failed: {error.strerror or error}"
        raise SqsteeError(text, "check the destination of the output and its free space", EXIT_FAILURE) from None
    finally:
        _drop_unwritten_output()


def _run(words: list[str]) -> int:
    if set(words[: words.index("--") if "--" in words else None]) & {"-h", "--help"}:
        return _help(words[0])
    if words[:1] == ["help"] and len(words) <= 2:
        return _help_of(words[1] if len(words) > 1 else "")
    try:
        return int(app(words, prog_name="sqstee", standalone_mode=False) or 0)
    except (SqsteeError, typer.Abort, OSError):
        raise
    except Exception as error:
        # typer vendors its parser since 0.26: a usage error is recognised by its method, not by its class
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        verb = words[0] if words and not words[0].startswith("-") else ""
        if hasattr(error, "possibilities"):  # of an unknown option alone
            raise _unknown_option(verb, str(getattr(error, "option_name", ""))) from None
        message = _own_words(" ".join(str(explain()).split()).rstrip("."))
        raise SqsteeError(message, _see(verb)) from None


def _unknown_option(verb: str, name: str) -> SqsteeError:
    from sqstee.cli import help

    known = [name for one in help.verbs() if one.name == verb for flag in one.flags for name in flag.names]
    return unknown_name("option", name, known, _see(verb))


def _see(verb: str) -> str:
    return f"see: sqstee {verb} --help".replace("  ", " ")


def _own_words(text: str) -> str:
    """The parser's messages in the form of ours."""
    import re

    text = re.sub(r"^Option '(\S+)' requires an argument$", r"\1 needs a value", text)
    text = re.sub(r"^Got unexpected extra arguments?(?:\(s\))? \((.*)\)$", r"unexpected argument: \1", text)
    text = re.sub(r"^Missing option '(\S+)'.*", r"\1 is missing", text)
    text = re.sub(r"^Missing argument '\[?([^'\]…]+).*", r"\1 is missing", text)
    form = r"^Invalid value for '(-\S+)'[^:]*: (?:Input should be|'?\S*'? is not) a valid (?:integer|number).*"
    text = re.sub(form, r"invalid value for \1 (expected a number)", text)
    form = r"^Invalid value for '(-\S+)'[^:]*: Input should be (.*)"
    return re.sub(form, r"invalid value for \1 (expected a number \2)", text)


def _help_of(word: str) -> int:
    """`sqstee help [VERB]`."""
    from sqstee.cli import habits, help

    known = [verb.name for verb in help.verbs()]
    if word and word not in known:
        hint = habits.verb_hint(word) or "the verbs: sqstee help"
        raise unknown_name("verb", word, known, hint)
    return _help(word)


def _help(word: str) -> int:
    from sqstee.cli import help
    from sqstee.cli.page_writer import columns

    width = columns()
    verb = next((verb for verb in help.verbs() if verb.name == word), None)
    typer.echo(help.of_verb(verb, width) if verb else help.root(width))
    return 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn ^C into KeyboardInterrupt. The launcher leaves SIGINT at its default, so before this ^C just kills us."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _open_closed_streams() -> None:
    """Open /dev/null in place of each closed standard stream: otherwise a file of ours would get its number.

    Messages then go nowhere. Descriptor 1 is opened for reading only, so that lines, which verbs write to it directly,
    fail instead: a consumer would delete them from the queue.
    """
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)
    for name, way in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, way, encoding="utf-8"))  # noqa: SIM115  # open until the process ends
        elif way == "w" and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no locale or path makes print() fail


def _drop_unwritten_output() -> None:
    """Discard output that failed to be written and was reported: the interpreter would try it again at exit."""
    try:
        if sys.__stdout__:
            sys.__stdout__.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
