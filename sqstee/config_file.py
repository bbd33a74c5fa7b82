"""The one parser of configuration files: the part of TOML that sqstee's own tables use. Pure but for open().

It runs before every wrapped command, so it is our own: tomllib would cost 27 ms. A file holds `key = value` lines
outside of any table, in [profile.NAME] tables, and in [agent]; other tables are skipped, unless their name is close to
one of these. Values stay text here: option_values.py converts them.
"""

from __future__ import annotations

from sqstee.errors import SqsteeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PROFILE = "profile."
_AGENT_FORM = 'write it as to = ["DEST"], under [agent]'


class Entry:
    """A `key = value` line as written, and its place in the file as path:line."""

    __slots__ = ("line", "source")

    def __init__(self, line: str, source: str) -> None:
        self.line = line
        self.source = source

    @property
    def key(self) -> str:
        """The text before the equals sign."""
        return self.line.partition("=")[0].strip()

    @property
    def text(self) -> str:
        """The value as written."""
        return self.line.partition("=")[2].strip()

    def values(self, bare: bool = True) -> list[str]:
        """The strings of the value; unless `bare`, all must be quoted. Raises SqsteeError for a malformed value."""
        found, is_finished = _values(self.text, self.source, bare)
        if not is_finished:
            raise SqsteeError(f"{self.source}: the array has no end", 'write it on one line: key = ["…", "…"]')
        return found


class ConfigFile:
    """The entries of a configuration file: those outside of any table, those of each profile, and those of [agent]."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.profiles: dict[str, list[Entry]] = {}
        self.agent: list[Entry] = []
        self.agent_problem: SqsteeError | None = None  # its header is malformed: for the agent to say, not for runs

    def agent_destinations(self) -> list[str]:
        """`to` of the [agent] table, its only key: a string or an array of strings; empty without one."""
        if self.agent_problem:
            raise self.agent_problem
        found: list[str] = []
        for number, entry in enumerate(_with_long_arrays(self.agent)):
            if entry.key != "to" or number:
                problem = "a second" if entry.key == "to" else "unknown"
                raise SqsteeError(f"{entry.source}: {problem} key {entry.key!r} in [agent]", _AGENT_FORM)
            if entry.text[:1] not in ("[", '"', "'"):
                raise SqsteeError(f"{entry.source}: invalid value {entry.text!r} for to in [agent]", _AGENT_FORM)
            found = entry.values(bare=False)
        return found


def read_config(path: str) -> ConfigFile:
    """Read a configuration file; a missing one has no entries.

    Raises SqsteeError for a malformed table header, and for a file that exists but cannot be read: without its
    settings lines would go to the wrong destination.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().split("\n")
    except (FileNotFoundError, NotADirectoryError):
        lines = []
    except OSError as error:
        if _exists(path):
            hint = "make it readable or move it away; HOME and XDG_CONFIG_HOME select the folder"
            raise SqsteeError(f"{path} cannot be read: {error.strerror}", hint) from None
        lines = []
    return _parsed(path, lines)


def _exists(path: str) -> bool:
    """Whether an unreadable path exists, as far as this user can see: under sudo HOME may be another user's."""
    try:
        open(f"{path}/.", "rb").close()
    except (NotADirectoryError, IsADirectoryError):  # the kernel reached the path itself
        return True
    except OSError:
        pass
    return False


def _parsed(path: str, lines: Iterable[str]) -> ConfigFile:
    found = ConfigFile(path)
    entries: list[Entry] | None = found.entries
    is_ours = True  # outside of tables and in profiles; in other tables a line with [ may be a row of an array
    for number, line in enumerate(lines, 1):
        line = line.strip()
        source = f"{path}:{number}"
        if line.startswith("["):
            table = _table(line, source, strict=is_ours)
            word = line.partition("#")[0].strip("[] ").partition(".")[0].strip()
            if word == "agent" and table != "agent":  # [[agent]], [agent.more], or a bracket is missing
                found.agent_problem = _malformed(source)
            elif table != "[]" and table != "agent" and not table.startswith(_PROFILE):
                _check_name(word, source)
            is_ours = table.startswith(_PROFILE)
            entries = found.agent if table == "agent" else None
            if is_ours:
                entries = found.profiles.setdefault(table.removeprefix(_PROFILE), [])
        elif line and not line.startswith("#") and entries is not None:
            entries.append(Entry(line, source))
    return found


def _check_name(word: str, source: str) -> None:
    """Refuse a table whose name is mistyped: its settings would not apply, and nobody would notice."""
    for form in ("[profile.NAME]", "[agent]"):
        name = form.strip("[]").partition(".")[0]
        if _without_a_letter(word.lower()) & _without_a_letter(name):
            raise SqsteeError(f"{source}: unknown table [{word}]; did you mean {form}?", f"write it as {form}")


def _without_a_letter(word: str) -> set[str]:
    """A word, and all its forms with one letter removed: two words that share a form differ by a typo."""
    return {word, *(word[:at] + word[at + 1 :] for at in range(len(word)))}


def _with_long_arrays(lines: Iterable[Entry]) -> list[Entry]:
    """The entries of these lines, each array that takes several lines as one entry."""
    found: list[Entry] = []
    for line in lines:
        if found and _is_unfinished(found[-1]):
            found[-1] = Entry(f"{found[-1].line}\n{line.line}", found[-1].source)
        else:
            found.append(line)
    return found


def _is_unfinished(entry: Entry) -> bool:
    """Whether its array goes on in the next line."""
    try:
        return entry.text.startswith("[") and not _values(entry.text, entry.source)[1]
    except SqsteeError:
        return False


def _table(line: str, source: str, strict: bool) -> str:
    """The name in a table's header, without quotes; `[]` for an array of tables.

    A malformed header raises SqsteeError if `strict`; otherwise it may be a row of an array, in a table of another
    program, and `[]` is returned.
    """
    name, bracket, rest = line[1:].partition("]")
    first, dot, second = name.partition(".")
    table = _unquoted(first) + dot + second.strip().strip("\"'")
    is_malformed = not bracket or (rest.strip() and not rest.strip().startswith("#"))
    if line.startswith("[[") or (is_malformed and not strict):
        return "[]"
    if is_malformed:
        raise _malformed(source)
    return table


def _malformed(source: str) -> SqsteeError:
    return SqsteeError(f"{source}: malformed table header", "write it as [profile.NAME] or [agent]")


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if text[:1] in ("'", '"') and text[-1:] == text[:1] else text


def _values(text: str, source: str, bare: bool = True) -> tuple[list[str], bool]:
    """The strings of a TOML value, and whether it is complete: an array without its end is not.

    A value is a basic or literal string, where `bare` allows it a number or word without quotes, or an array of these.
    """
    found: list[str] = []
    is_array = text.startswith("[")
    rest = text[1:] if is_array else text
    while True:
        rest = rest.lstrip(" \t,\n") if is_array else rest.lstrip(" \t,")
        if is_array and rest.startswith("]"):
            _check_end(rest[1:], source)
            return found, True
        if rest.startswith("#") and is_array and "\n" in rest:
            rest = rest.partition("\n")[2]
            continue
        if not rest or rest.startswith("#"):
            return found, not is_array
        if rest[0] in "\"'":
            value, quote, rest = rest[1:].partition(rest[0])
            if not quote or (quote == '"' and "\\" in value):  # a literal string may hold backslashes
                raise SqsteeError(f"{source}: malformed string", 'write it as key = "value", without escapes')
        else:
            value = rest.partition("#")[0].partition(",")[0].partition("]")[0].strip()
            rest = rest[len(value) :]
            if not bare:
                raise SqsteeError(f"{source}: missing quotes around {value!r}", 'write it as key = "value"')
            if value.startswith("{"):
                raise SqsteeError(f"{source}: a value cannot be a table", 'write it as key = ["…", "…"]')
        found.append(value)
        if not is_array:
            _check_end(rest, source)
            return found, True
        if rest.lstrip(" \t")[:1] not in (",", "]", "#", "", "\n"):
            _check_end(rest, source)


def _check_end(rest: str, source: str) -> None:
    """Refuse text behind a value: a second value would be lost, and three quotes would read as an empty string."""
    if rest.strip() and not rest.strip().startswith("#"):
        raise SqsteeError(f"{source}: unexpected {rest.strip()!r} after the value", 'write it as key = "value"')
