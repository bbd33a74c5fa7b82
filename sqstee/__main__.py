"""Routing: `--` means run, a verb means cli. Nothing heavy is imported here."""

from __future__ import annotations

import os
import sys

from sqstee.errors import EXIT_USAGE, SqsteeError

VERBS = ("run", "tail", "drain", "top", "stat", "check", "flush", "agent", "serve", "measure", "demo")


def main() -> int:
    """The command line: the exit status, where this process is still there to give one."""
    words = sys.argv[1:]
    try:
        return route(words)
    except SqsteeError as error:
        from sqstee.fds import write_stderr

        write_stderr(f"{error}\n")
        return error.exit_code


def route(words: list[str]) -> int:
    """Decide by the first word, and by the first `--`, before anything is parsed.

    So `sqstee -- tail -f x` wraps the Unix program, and a new verb can never change an old script.
    """
    first = words[0] if words else ""
    if first == "run" and "--" in words:
        words = words[1:]
    elif first in VERBS:
        return _verb(words)
    if "--" in words:
        return _run(words)
    if first in ("--help", "-h", "--version"):
        return _verb(words)
    raise _without_command(words)


def _run(words: list[str]) -> int:
    at = words.index("--")
    given, command = words[:at], words[at + 1 :]
    if "--help" in given:
        return _verb(["run", "--help"])
    try:
        from sqstee import options

        settings = options.load(given, os.environ)
        if not command:
            raise SqsteeError("no command after --", "the form is: sqstee [OPTIONS] -- COMMAND [ARG…]")
        from sqstee.capture.front import Front

        front = Front(settings, command)
    except SqsteeError:
        raise
    except Exception as error:  # a bug of ours, no memory, files of ours that have gone: the command comes first
        from sqstee.capture.child import run_uncaptured

        raise run_uncaptured(command, f"{type(error).__name__}: {error}") from None
    return front.run()


def _verb(words: list[str]) -> int:
    from sqstee.cli.app import main as cli

    return cli(words)


def _without_command(words: list[str]) -> SqsteeError:
    if not words:
        return SqsteeError("no command", "the form is: sqstee [OPTIONS] -- COMMAND [ARG…]; sqstee --help", EXIT_USAGE)
    if words[0].startswith("-"):
        hint = "the form is: sqstee [OPTIONS] -- COMMAND [ARG…]"
        return SqsteeError("no -- before the command", hint, EXIT_USAGE)
    hint = f"to wrap a command: sqstee -- {' '.join(words)}; the verbs are {', '.join(VERBS)}"
    return SqsteeError(f"unknown verb {words[0]!r}", hint, EXIT_USAGE)


if __name__ == "__main__":
    sys.exit(main())
