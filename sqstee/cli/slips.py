"""Hints for slips of the fingers: each is the corrected command line, ready to be copied.

An error names the word that is wrong and the one that was probably meant (`SqsteeError.meant`); habits from other
programs are in `habits`. Words that only a shell understands are recognised once the command has not been found.
"""

from __future__ import annotations

import os
import shlex
import shutil

from sqstee.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, SqsteeError, closest, suggestion, unknown_name
from sqstee.options import flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_FORM = "the form is: sqstee [OPTIONS] -- COMMAND [ARG…]"
_LONGEST_LINE = 400  # a longer one would fill the screen
_DASHES = ("—", "–", "-")  # what an editor, or a finger, makes of --
_SHELL_CHARACTERS = frozenset("|&;<>()$`*?[]{}~#")
_BUILTINS = frozenset(("cd", "pushd", "popd", "export", "unset", "source", ".", "set", "shopt", "ulimit", "umask"))
_KEYWORDS = frozenset(("for", "while", "until", "if", "case", "{", "(", "!", "[[", "function", "eval"))


def correct(error: SqsteeError, words: Sequence[str], verbs: Sequence[str]) -> None:
    """Make the corrected line the hint of the error that the command line `words` has caused, where it is known."""
    given, command = _split(words)
    if error.exit_code == EXIT_NOT_FOUND and command:
        error.hint = _hint_for_missing(given, command) or error.hint
    elif error.exit_code == EXIT_NOT_EXECUTABLE and command:
        error.hint = _hint_for_denied(command) or error.hint
    elif error.meant[0]:
        _add_correction(error, words, words[0] if words[0] in verbs else "run")


def _add_correction(error: SqsteeError, words: Sequence[str], verb: str) -> None:
    """Add the hint for another program's option, or the whole line with the right word."""
    from sqstee.cli import habits

    wrong, guess = error.meant
    if wrong == "--to" and verb != "run":  # a source is named without it
        error.message, error.hint = f"unknown option {wrong!r}", _line(_replaced(words, wrong, "")) or error.hint
        return
    if wrong.startswith("-"):
        if hint := habits.option_hint(verb, wrong):
            error.message, error.hint = f"unknown option {wrong!r}", hint
            return
        if verb == "run" and wrong in habits.RUN_FLAGS:
            guess = habits.RUN_FLAGS[wrong]
            error.message = f"unknown option {wrong!r}{suggestion(guess)}"
    if guess == wrong and "--" not in words and not shutil.which(wrong) and (line := _tee(words[words.index(wrong) :])):
        error.hint = line
        return
    if guess and (found := _replaced(words, wrong, guess)):
        error.hint = _line(_with_dashes(found) if verb == "run" else found) or error.hint


def without_command(words: Sequence[str], verbs: Sequence[str]) -> SqsteeError:
    """The error of a line that begins with no verb and has no `--`."""
    if not words or words == ["run"]:
        return SqsteeError("no command", f"{_FORM}; the verbs: sqstee --help")
    if words[0] == "run" or words[0].startswith("-"):
        return _without_dashes(words)
    return _unknown_verb(words, verbs)


def _without_dashes(words: Sequence[str]) -> SqsteeError:
    line = _with_dashes(words)
    for word in _split(line or words)[0]:
        if word.startswith("-") and word.partition("=")[0] not in flags():
            return unknown_name("option", word.partition("=")[0], flags(), _FORM)
    own = _line([*words])
    form = f"the form is: {own} -- COMMAND [ARG…]" if own and not flags().get(words[-1]) else _FORM
    return SqsteeError("no -- before the command", _line(line) or form)


def _unknown_verb(words: Sequence[str], verbs: Sequence[str]) -> SqsteeError:
    from sqstee.cli import habits

    first, rest = words[0], list(words[1:])
    message, wrapped = f"unknown verb {first!r}", _line(["--", *words])
    if first in _DASHES and rest:
        return SqsteeError(f"{message}; did you mean '--'?", _line(["--", *rest]) or _FORM)
    habit = habits.verb_hint(first)
    is_program = bool(shutil.which(first))
    if is_program and wrapped and not habit:
        return SqsteeError(message, wrapped)
    if (guess := "" if is_program or habit else closest(first, verbs)) and (line := _line([guess, *rest])):
        return SqsteeError(f"{message}{suggestion(guess)}", line)
    if habit and not is_program:
        return SqsteeError(message, habit)
    if not (habit or is_program) and (line := _tee(words)):
        return SqsteeError(message, line)
    other = habit or "the verbs: sqstee --help"
    return SqsteeError(message, f"{other}; to wrap a command: {wrapped}" if wrapped else f"{other}; {_FORM}")


def _tee(words: Sequence[str]) -> str:
    """The hint where data is piped to us, and the words may be files for it, as of tee; else empty."""
    from sqstee.fds import reads_stdin

    line = shlex.join(["tee", *words])
    is_shown = line.isprintable() and len(line) <= _LONGEST_LINE
    return f"to write a file as well: … | {line} | sqstee" if is_shown and reads_stdin() else ""


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options and the command of a line."""
    at = words.index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at + 1 :])


def _with_dashes(words: Sequence[str]) -> list[str]:
    """A line of `run` with its `--`, which comes before the first word that is neither an option nor a value of one.

    Empty if there is no such word.
    """
    takes_value = flags()
    head, rest = [], list(words)
    if rest[:1] == ["run"]:
        head.append(rest.pop(0))
    while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
        head.append(rest.pop(0))
        if takes_value.get(head[-1]) and rest:
            head.append(rest.pop(0))
    if "--" in rest and rest[0] != "--":  # the word before it belongs to the command
        rest.remove("--")
    if rest and (rest[0] in _DASHES or rest[0] == "--"):
        rest.pop(0)
    return [*head, "--", *rest] if rest else []


def _replaced(words: Sequence[str], wrong: str, right: str) -> list[str]:
    """The line with the last `wrong` among its options replaced, as an option, a value or an argument; else empty.

    An empty `right` leaves an option out, and not its value.
    """
    given, command = _split(words)
    tail = ["--", *command] if "--" in words else []
    for at in reversed(range(len(given))):
        name, equals, value = given[at].partition("=")
        if given[at] == wrong:
            changed = right
        elif equals and wrong == name:
            changed = f"{right}={value}" if right else value
        elif equals and wrong == value:
            changed = f"{name}={right}"
        else:
            continue
        return [*given[:at], *([changed] if changed else []), *given[at + 1 :], *tail]
    return []


def _line(words: Sequence[str]) -> str:
    """A command line of ours that a shell reads back as these words; empty if there are none, or it cannot be shown."""
    line = shlex.join(["sqstee", *words]) if words else ""
    return line if line.isprintable() and len(line) <= _LONGEST_LINE else ""


def _hint_for_missing(given: list[str], command: list[str]) -> str:
    """The hint where no program has the command's name."""
    name = command[0]
    if not name:
        return ""
    if name.startswith("-"):
        return _line(_with_dashes([*given, *command]))
    if len(command) == 1 and set(name) & _SHELL_CHARACTERS:
        return _line([*given, "--", "sh", "-c", name])
    if len(command) == 1 and " " in name.strip():
        return _line([*given, "--", *name.split()])
    if "=" in name and name.partition("=")[0].isidentifier():
        return _line([*given, "--", "env", *command])
    if name in _BUILTINS:
        return _line([*given, "--", "sh", "-c", f"{shlex.join(command)} && COMMAND"])
    if name in _KEYWORDS:
        return _line([*given, "--", "sh", "-c", "SCRIPT"])
    if name == "exec" and command[1:]:
        return _line([*given, "--", *command[1:]])
    if name == "time" and command[1:]:
        return f"time {line}" if (line := _line([*given, "--", *command[1:]])) else ""
    if "/" in name:
        missing = f"the interpreter in its first line does not exist: head -n 1 {shlex.quote(name)}"
        return missing if os.path.exists(name) else "check the path, which starts in the working folder, or at /"
    shell = os.path.basename(os.environ.get("SHELL", ""))
    shell = shell if shell in ("bash", "zsh", "fish") else "bash"
    line = _line([*given, "--", shell, "-ic", shlex.join(command)])
    known = "check its name and PATH; aliases and functions of a shell are not seen here"
    return f"{known}: {line}" if line else known


def _hint_for_denied(command: list[str]) -> str:
    """The hint where a file may not be executed."""
    name = shlex.quote(command[0])
    return f"chmod +x {name}" if "/" in command[0] and os.path.isfile(command[0]) and name.isprintable() else ""
