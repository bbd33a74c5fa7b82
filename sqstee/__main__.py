"""Routing: with `--` a command is wrapped, without it cli runs a verb. Nothing heavy is imported here."""

from __future__ import annotations

import gc
import os
import sys

from sqstee.errors import EXIT_USAGE, SqsteeError, did_you_mean, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

VERBS = "run runs show tail web drain top alert stat check flush agent serve measure demo".split()  # noqa: SIM905
VERBS += ["help", "man", "completion"]


def main() -> int:
    """Run the command line and return its exit status, unless another program has replaced this process."""
    words = sys.argv[1:]
    try:
        return route(words)
    except SqsteeError as error:
        from sqstee.fds import write_stderr

        write_stderr(f"{error}\n")
        return error.exit_code


def route(words: list[str]) -> int:
    """Route by the first word and the first `--`, before any parsing.

    `sqstee -- tail -f x` therefore wraps the Unix program, and a new verb cannot change an existing script.
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
    settings = None
    gc.disable()  # while modules are loaded there is nothing to collect; see Supervisor for the end of it
    try:
        from sqstee import options

        settings = options.load(given, os.environ)
        if not command:
            raise SqsteeError("no command after --", "the form is: sqstee [OPTIONS] -- COMMAND [ARG…]")
        from sqstee.capture.front import Front

        front = Front(settings, command, _start_shared, _ship_run)
    except SqsteeError:
        raise
    except Exception as error:  # a bug, no memory, a deleted installation: the command must run all the same
        from sqstee.capture.child import run_uncaptured

        reason = "" if settings and settings.quiet else reason_of(error)
        raise run_uncaptured(command, reason) from None
    return front.run()


def _start_shared(root: str, identity: str, wait: Callable[[int, float], None]) -> bool:
    from sqstee.agent.shared import start

    return start(root, identity, wait)


def _ship_run(*arguments: Any) -> None:
    from sqstee.agent.shipper_process import ship_run  # loads boto3 and more: only ever in the shipper process

    ship_run(*arguments)


def _verb(words: list[str]) -> int:
    from sqstee.cli.app import main as cli

    return cli(words)


def _without_command(words: list[str]) -> SqsteeError:
    if not words:
        hint = "the form is: sqstee [OPTIONS] -- COMMAND [ARG…]; the verbs: sqstee --help"
        return SqsteeError("no command", hint, EXIT_USAGE)
    if words[0].startswith("-"):
        hint = "the form is: sqstee [OPTIONS] -- COMMAND [ARG…]"
        return SqsteeError("no -- before the command", hint, EXIT_USAGE)
    from sqstee.cli.habits import verb_hint

    hint = f"to wrap a command: sqstee -- {' '.join(words)}; {verb_hint(words[0]) or 'the verbs: sqstee --help'}"
    return SqsteeError(f"unknown verb {words[0]!r}{did_you_mean(words[0], VERBS)}", hint, EXIT_USAGE)


if __name__ == "__main__":
    sys.exit(main())
