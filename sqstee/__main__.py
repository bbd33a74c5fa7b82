"""Routing: with `--` a command is wrapped; without it, cli handles the verb. Nothing heavy is imported here."""

from __future__ import annotations

import gc
import os
import sys

from sqstee.errors import SqsteeError, reason_of

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

        try:
            from sqstee.cli.slips import correct

            correct(error, words, VERBS)
        except Exception:  # no memory, a deleted installation: the error matters more than its hint
            pass
        write_stderr(f"{error}\n")
        return error.exit_code


def route(words: list[str]) -> int:
    """Route by the first word and the first `--`, before any parsing.

    `sqstee -- tail -f x` therefore wraps the Unix program, and a new verb cannot change an existing script.
    """
    first = words[0] if words else ""
    if first in VERBS and first != "run":
        return _verb(words)
    given, dashes, command = _split(words[1:] if first == "run" else words)
    if not dashes and first in ("--help", "-h", "--version", "-V"):
        return _verb(words)
    is_run = dashes or first == "run" or first.startswith("-")
    if is_run and {"--help", "-h"} & set(given):
        return _verb(["run", "--help"])
    if dashes and not command:
        raise SqsteeError("no command after --", "the form is: sqstee [OPTIONS] -- COMMAND [ARG…]")
    if dashes:
        return _run(given, command)
    from sqstee.fds import reads_stdin

    if (is_run or not words) and reads_stdin():
        return _run(given, command)
    from sqstee.cli.slips import without_command

    raise without_command(words, VERBS)


def _split(words: list[str]) -> tuple[list[str], bool, list[str]]:
    """The options, whether there is a `--`, and the command."""
    if "--" not in words:
        return words, False, []
    at = words.index("--")
    return words[:at], True, words[at + 1 :]


def _run(given: list[str], command: list[str]) -> int:
    """Wrap a command; without one, ship stdin."""
    settings = None
    gc.disable()  # while modules are loaded there is nothing to collect; see Supervisor for the end of it
    try:
        from sqstee.settings import load_settings

        settings = load_settings(given, os.environ)
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


if __name__ == "__main__":
    sys.exit(main())
