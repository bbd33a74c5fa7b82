"""The one table of `run` options: flag, environment variable, configuration key, type, default and help. Pure.

Everything else derives from RUN_OPTIONS: the parser here, `sqstee run --help`, the man page and the completions. The
parser is our own because it runs before every wrapped command: typer alone would take 200 ms.
"""

from __future__ import annotations

from sqstee.errors import SqsteeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqstee.destination import Destination

_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_TIMES = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_SECONDS = 365 * 24 * 3600.0
LEAST_MESSAGE_BYTES = 1024  # SQS, SetQueueAttributes: the smallest MaximumMessageSize that a queue can have


def size(text: str) -> int:
    """Bytes: a whole number with K, M or G (powers of 1024)."""
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    number = text[: len(text) - len(unit)]
    if unit not in _SIZES or not (number.isascii() and number.isdigit()) or int(number) == 0:
        raise ValueError("a size is a whole number with K, M or G, as 256K")
    return int(number) * _SIZES[unit]


def size_text(number: int) -> str:
    """A size as `size` takes it, with the largest unit that leaves it whole."""
    for unit in ("G", "M", "K"):
        if number % _SIZES[unit] == 0:
            return f"{number // _SIZES[unit]}{unit}"
    return str(number)


def duration(text: str) -> float:
    """Seconds: a number with s, m or h, at most a year."""
    unit = text[-1:] if text[-1:].isalpha() else ""
    number = text[: len(text) - len(unit)]
    if unit not in _TIMES or not (number.isascii() and number.replace(".", "", 1).isdigit()):
        raise ValueError("a time is a number with s, m or h, as 10s")
    seconds = float(number) * _TIMES[unit]
    if seconds > LONGEST_SECONDS:
        raise ValueError(f"a time is at most {LONGEST_SECONDS / _TIMES['h']:.0f}h")
    return seconds


def switch(text: str) -> bool:
    """On or off, for an environment variable or a configuration key."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("", "0", "false", "no", "off"):
        return False
    raise ValueError("it takes true or false")


def label(text: str) -> str:
    """KEY=VALUE."""
    if not text.partition("=")[0] or "=" not in text:
        raise ValueError("a label is KEY=VALUE")
    return text


def one_of(*words: str) -> Callable[[str], str]:
    """One of a few words."""

    def convert(text: str) -> str:
        if text not in words:
            raise ValueError(f"it takes one of {', '.join(words)}")
        return text

    return convert


def size_within(smallest: int = 1, largest: int = 0) -> Callable[[str], int]:
    """A size with a lower and, unless it is 0, an upper bound."""

    def convert(text: str) -> int:
        found = size(text)
        if found < smallest:
            raise ValueError(f"it is at least {size_text(smallest)}")
        if largest and found > largest:
            raise ValueError(f"it is at most {size_text(largest)}")
        return found

    return convert


def host(text: str) -> str:
    """A name that can be a message attribute: printable characters, few enough to leave room for lines."""
    if not text or len(text) > 255 or not text.isprintable():
        raise ValueError("a host's name has 1 to 255 printable characters")
    return text


def filled(text: str) -> str:
    """Any text but the empty one."""
    if not text:
        raise ValueError("it must not be empty")
    return text


def _destination(text: str) -> str:
    from sqstee.destination import parse

    return parse(text).text


def _bucket(text: str) -> str:
    from sqstee.destination import parse

    if parse(text).kind != "s3":
        raise ValueError("it takes a bucket")
    return text


def group(text: str) -> str:
    """A message group id: 1 to 128 letters, digits and punctuation (SQS API reference, SendMessage)."""
    if not (0 < len(text) <= 128 and text.isascii() and text.isprintable() and " " not in text):
        raise ValueError("a group has 1 to 128 letters, digits and punctuation characters")
    return text


class Option:
    """One option: `--name`, SQSTEE_NAME and `name = …` mean the same.

    `metavar` is empty for a switch. `repeat` options collect, in a variable separated by `separator`.
    """

    __slots__ = ("convert", "default", "help", "metavar", "name", "repeat", "separator")

    def __init__(
        self,
        name: str,
        metavar: str,
        convert: Callable[[str], object],
        default: object,
        help: str,
        repeat: bool = False,
        separator: str = ",",
    ) -> None:
        self.name = name
        self.metavar = metavar
        self.convert = convert
        self.default = default
        self.help = help
        self.repeat = repeat
        self.separator = separator

    @property
    def flag(self) -> str:
        """As on the command line."""
        return f"--{self.name}"

    @property
    def shown(self) -> str:
        """As in help and documents: what a switch is given for, where it is on by default, is its opposite."""
        return f"--no-{self.name}" if not self.metavar and self.default else self.flag

    @property
    def variable(self) -> str:
        """As in the environment."""
        return f"SQSTEE_{self.attribute.upper()}"

    @property
    def attribute(self) -> str:
        """As in Settings."""
        return self.name.replace("-", "_")


RUN_OPTIONS = (
    Option(
        "to",
        "DEST",
        _destination,
        "",
        "where the lines go: queue name, URL or ARN, s3://BUCKET/PREFIX, http(s)://HOST, local[:PATH] (default: local)",
    ),
    Option("profile", "NAME", filled, "", "take the settings of [profile.NAME] in the configuration files as well"),
    Option("job", "NAME", str, "", "a name for this job, on every line"),
    Option("label", "KEY=VALUE", label, (), "a label, on every line", repeat=True),
    Option(
        "auto-labels",
        "",
        switch,
        True,
        "no labels from the surroundings (batch systems, Spark, Kubernetes, cron: sqstee(1) lists them)",
    ),
    Option("host", "NAME", host, "", "the host's name on every line (default: the node's own)"),
    Option("spool", "DIR", filled, "", "where captured lines wait until they are delivered, on a local disk"),
    Option(
        "spool-max",
        "SIZE",
        size_within(1024**2),
        1024**3,
        "how much all runs together may keep in the spool folder (default: 1G)",
    ),
    Option(
        "on-full",
        "auto|block|drop",
        one_of("auto", "block", "drop"),
        "auto",
        "when the spool is full: wait while delivery makes progress and then drop lines, wait, or drop (default: auto)",
    ),
    Option(
        "linger",
        "TIME",
        duration,
        None,
        "how long a partial request may wait for more lines (default: 1s; for S3 10s)",
    ),
    Option(
        "flush-timeout", "TIME", duration, 10.0, "how long to deliver the rest after the command's end (default: 10s)"
    ),
    Option(
        "message-bytes",
        "SIZE",
        size_within(LEAST_MESSAGE_BYTES, 4 * 1024**2),
        None,
        "NDJSON packed into one message, before compression (default: 256K; for S3 4M)",
    ),
    Option(
        "max-line",
        "SIZE",
        size_within(largest=128 * 1024),
        32 * 1024,
        "longer lines are sent in pieces of this size (default: 32K)",
    ),
    Option(
        "compress", "auto|gzip|none", one_of("auto", "gzip", "none"), "none", "compress message bodies (default: none)"
    ),
    Option(
        "fallback",
        "DEST",
        _destination,
        "",
        "where lines go that the destination refuses, or cannot take for --fallback-after",
    ),
    Option("fallback-after", "TIME", duration, 30.0, "how long a destination may take nothing before (default: 30s)"),
    Option("via-s3", "s3://BUCKET/PREFIX", _bucket, "", "store bodies there and send pointers to them, uncompressed"),
    Option(
        "group",
        "NAME",
        group,
        "",
        "the message group on a standard queue, for fair queues (on a FIFO queue it is the run)",
    ),
    Option("token-file", "FILE", filled, "", "a file with the bearer token for a collector (else SQSTEE_TOKEN)"),
    Option("local-max", "SIZE", size, 1024**3, "the local queue's size; above it the oldest lines go (default: 1G)"),
    Option(
        "tty",
        "auto|always|never|pass",
        one_of("auto", "always", "never", "pass"),
        "auto",
        "give the command a terminal: where ours is one, always, never, or leave ours alone uncaptured (default: auto)",
    ),
    Option("merge", "", switch, False, "capture both streams as one, `output`, in exact order; it goes to stdout"),
    Option("unbuffer", "", switch, False, "have the command write each line at once (PYTHONUNBUFFERED, stdbuf)"),
    Option("send-command", "", switch, False, "put the command and its arguments into the start event"),
    Option("fsync", "", switch, False, "have captured lines survive a power cut, but for the last tenth of a second"),
    Option(
        "redact",
        "REGEX",
        filled,
        (),
        "mask what matches, in the shipped copy only; repeatable (SQSTEE_REDACT: one a line)",
        repeat=True,
        separator="\n",
    ),
    Option("strict", "", switch, False, "exit with 122 in the place of 0 where not every line was delivered"),
    Option("summary", "", switch, False, "say at the end, in one line, what was captured and delivered"),
)
# Kept with the run for its shipper (ship/policy), which needs the first ones itself and the others to open the sender.
SHIPPER_OPTIONS = ("linger", "message_bytes", "compress")
SENDER_OPTIONS = ("local_max", "token_file", "via_s3", "group", "fallback", "fallback_after")
_BY_FLAG = {option.flag: option for option in RUN_OPTIONS}


class Settings:
    """The values of the `run` options, by attribute."""

    to: str
    profile: str
    job: str
    label: tuple[str, ...]
    auto_labels: bool
    host: str
    spool: str
    spool_max: int
    on_full: str
    linger: float | None
    flush_timeout: float
    message_bytes: int | None
    max_line: int
    compress: str
    fallback: str
    fallback_after: float
    via_s3: str
    group: str
    token_file: str
    local_max: int
    tty: str
    merge: bool
    unbuffer: bool
    send_command: bool
    fsync: bool
    redact: tuple[str, ...]
    strict: bool
    summary: bool

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}  # where a value came from, by attribute; what is not here is a default
        self.surroundings: Mapping[str, str] = {}  # the environment to take labels from
        for option in RUN_OPTIONS:
            setattr(self, option.attribute, option.default)

    def take(self, option: Option, text: str, source: str) -> None:
        """Set one option from text; raises SqsteeError that names `source` where the text is wrong."""
        try:
            value = option.convert(text)
        except ValueError as error:
            form = f"{option.flag} {option.metavar}".rstrip()
            raise SqsteeError(f"{source}: {text!r} is not right: {error}", f"the form is {form}") from None
        except SqsteeError as error:
            raise SqsteeError(f"{source}: {error.message}", error.hint) from None
        if option.repeat:
            value = (*getattr(self, option.attribute), value)
        setattr(self, option.attribute, value)
        self.sources[option.attribute] = source

    @property
    def labels(self) -> dict[str, str]:
        """The labels as a mapping: those of the surroundings, then those that were given, which win."""
        from sqstee.auto_labels import labels  # once the command runs

        given = {key: value for key, _, value in (text.partition("=") for text in self.label)}
        return labels(self.surroundings) | given


class Given:
    """One value as text, and where it stands: a flag, a variable, or file and line."""

    __slots__ = ("option", "source", "text")

    def __init__(self, option: Option, text: str, source: str) -> None:
        self.option = option
        self.text = text
        self.source = source


def from_words(words: Iterable[str]) -> list[Given]:
    """The options of a command line: `--name VALUE`, `--name=VALUE`, `--switch`, `--no-switch`."""
    found: list[Given] = []
    rest = iter(words)
    for word in rest:
        flag, equals, text = word.partition("=")
        option = _BY_FLAG.get(flag)
        if option is None:
            option = _BY_FLAG.get("--" + flag.removeprefix("--no-"))
            if equals or option is None or option.metavar or not flag.startswith("--no-"):
                raise _unknown(word)
            text = "false"
        elif not option.metavar:
            text = text if equals else "true"
        elif not equals:
            following = next(rest, None)
            if following is None:
                raise SqsteeError(f"{flag} needs a value", f"the form is {flag} {option.metavar}")
            text = following
        found.append(Given(option, text, flag))
    return found


def _unknown(word: str) -> SqsteeError:
    if word.startswith("-"):
        hint = "sqstee run --help lists the options; the command's own go after --"
        return SqsteeError(f"unknown option {word.partition('=')[0]!r}", hint)
    return SqsteeError(f"{word!r} is not an option", f"the command goes after --, as in: sqstee -- {word}")


def from_environment(environ: Mapping[str, str]) -> list[Given]:
    """The SQSTEE_* variables; an empty one counts as unset."""
    found = []
    for option in RUN_OPTIONS:
        text = environ.get(option.variable)
        if text:
            parts = text.split(option.separator) if option.repeat else (text,)
            found += [Given(option, part, option.variable) for part in parts]
    return found


class File:
    """A configuration file: the values outside of any table, and those of each profile."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.values: list[Given] = []
        self.profiles: dict[str, list[tuple[str, str, str]]] = {}  # key, text and source: read when it is chosen

    def profile(self, name: str) -> list[Given]:
        """The values of a profile, none where the file has no such one."""
        return [given for line in self.profiles.get(name, ()) for given in _line(*line, in_profile=True)]


def from_file(path: str) -> File:
    """Read the `key = value` lines of a configuration file that may be missing, and those of its [profile.NAME] tables.

    This is the part of TOML that the front needs: tomllib would cost 27 ms. Other tables are left to others. Raises
    SqsteeError for a mistake, and for a file that is there and cannot be read: lines would go elsewhere.
    """
    found = File(path)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        if not _is_there(path):
            return found
        hint = "let it be read, or move it away; HOME and XDG_CONFIG_HOME say whose it is"
        raise SqsteeError(f"{path} cannot be read: {error.strerror}", hint) from None
    table = ""
    for number, line in enumerate(lines, 1):
        line = line.strip()
        source = f"{path}:{number}"
        if line.startswith("["):
            table = _table(line, source, strict=not table or table.startswith("profile."))
            if table.startswith("profile."):
                found.profiles.setdefault(table[8:], [])
        elif line and not line.startswith("#"):
            key, _, text = line.partition("=")
            if not table:
                found.values += _line(key.strip(), text.strip(), source)
            elif table.startswith("profile."):
                found.profiles[table[8:]].append((key.strip(), text.strip(), source))
    return found


def _is_there(path: str) -> bool:
    """Whether what cannot be read is there, as far as one may look: under sudo HOME may be another user's."""
    try:
        open(f"{path}/.", "rb").close()
    except (NotADirectoryError, IsADirectoryError):  # it was reached
        return True
    except OSError:
        pass
    return False


def _line(key: str, text: str, source: str, in_profile: bool = False) -> list[Given]:
    option = _BY_FLAG.get("--" + key.replace("_", "-"))
    if option is None or (in_profile and option.name == "profile"):
        raise SqsteeError(f"{source}: unknown key {key!r}", "sqstee run --help lists the options")
    values = _values(text, source)
    if len(values) != 1 and not option.repeat:
        raise SqsteeError(f"{source}: {key} takes one value", f'the form is {key} = "…"')
    return [Given(option, value, source) for value in values]


def _table(line: str, source: str, strict: bool) -> str:
    """The name in a table's header, each part without its quotes; of an array of tables one that is no profile's.

    Unless `strict`, what is none may be a row of an array, in a table that is not ours to read.
    """
    name, bracket, rest = line[1:].partition("]")
    malformed = not bracket or (rest.strip() and not rest.strip().startswith("#"))
    if line.startswith("[[") or (malformed and not strict):
        return "[]"
    if malformed:
        raise SqsteeError(f"{source}: the table's name cannot be read", "the form is [profile.NAME]")
    first, dot, second = name.partition(".")
    return first.strip() + dot + second.strip().strip("\"'")


def _values(text: str, source: str) -> list[str]:
    """The strings in a TOML value: a basic or literal string, a bare number or word, or an array of these."""
    found: list[str] = []
    array = text.startswith("[")
    rest = text[1:] if array else text
    while True:
        rest = rest.lstrip(" \t,")
        if array and rest.startswith("]"):
            _check_end(rest[1:], source)
            return found
        if not rest or rest.startswith("#"):
            if array:
                raise SqsteeError(f"{source}: the array does not end", "write it on one line")
            return found
        if rest[0] in "\"'":
            value, quote, rest = rest[1:].partition(rest[0])
            if not quote or (quote == '"' and "\\" in value):  # in a literal string a backslash is one
                raise SqsteeError(f"{source}: the value cannot be read", 'write it as key = "value", without escapes')
        else:
            value = rest.partition("#")[0].partition(",")[0].partition("]")[0].strip()
            rest = rest[len(value) :]
            if value.startswith("{"):
                raise SqsteeError(f"{source}: a table is no value", 'write it as key = ["…", "…"]')
        found.append(value)
        if not array:
            _check_end(rest, source)
            return found
        if rest.lstrip(" \t")[:1] not in (",", "]", "#", ""):
            _check_end(rest, source)


def _check_end(rest: str, source: str) -> None:
    """Refuse what follows a value: another one would be lost, and three quotes are an empty string and more."""
    if rest.strip() and not rest.strip().startswith("#"):
        raise SqsteeError(f"{source}: {rest.strip()!r} follows the value", 'write it as key = "value", on one line')


def configuration_files(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The configuration files, the stronger later: the node's, then the user's."""
    home = environ.get("HOME", "")
    folder = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    return ("/etc/sqstee.toml", f"{folder}/sqstee.toml") if folder else ("/etc/sqstee.toml",)


def given(values: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """The settings for a program that gives them as Python values, by attribute; they win over environment and files.

    `label` may be a mapping. Raises TypeError for a name that is no option, SqsteeError for a value that is not right.
    """
    settings = load((), environ, str(values.get("profile", "")))
    for name, value in values.items():
        option = _BY_FLAG.get("--" + name.replace("_", "-"))
        if option is None:
            raise TypeError(f"{name!r} is not an option of sqstee")
        if not option.repeat:
            settings.take(option, str(value), name)
            continue
        texts = [f"{key}={text}" for key, text in value.items()] if isinstance(value, dict) else value
        for text in texts if isinstance(texts, list | tuple) else (texts,):
            settings.take(option, str(text), name)
    return settings


def in_force(words: Iterable[str], environ: Mapping[str, str], profile: str = "") -> list[Given]:
    """What the configuration files, the environment and the command line say; later ones win.

    A profile counts as part of the files: the chosen one's values win over those outside of tables. `profile` is the
    choice of a program, which wins over all others.
    """
    files = [from_file(path) for path in configuration_files(environ)]
    chosen = [*from_environment(environ), *from_words(words)]
    flat = [given for file in files for given in file.values]
    for given in (*flat, *chosen) if not profile else ():
        if given.option.name == "profile":
            profile = given.text
    return [*flat, *_profile(files, profile), *chosen]


def load(words: Iterable[str], environ: Mapping[str, str], profile: str = "") -> Settings:
    """The settings as they are in force."""
    settings = Settings()
    for given in in_force(words, environ, profile):
        settings.take(given.option, given.text, given.source)
    if settings.auto_labels:
        settings.surroundings = environ
    return settings


def check(settings: Settings, destination: Destination) -> None:
    """Refuse options that make no sense for a destination."""
    if settings.fallback == destination.text:
        raise SqsteeError("--fallback names the destination itself", "the form is --fallback DEST, another one")
    if destination.kind != "sqs" and (settings.via_s3 or settings.group):
        option = "--via-s3" if settings.via_s3 else "--group"
        raise SqsteeError(f"{option} is for queues, not for {destination.text}", "the form is --to QUEUE")
    if settings.group and destination.name.endswith(".fifo"):
        raise SqsteeError("--group is for standard queues", "on a FIFO queue the message group is the run")


def _profile(files: list[File], name: str) -> list[Given]:
    if name and not any(name in file.profiles for file in files):
        known = sorted({known for file in files for known in file.profiles})
        places = " or ".join(file.path for file in files)
        hint = f"the profiles are {', '.join(known)}" if known else f"the form is [profile.{name}], in {places}"
        raise SqsteeError(f"there is no profile {name!r} in the configuration files", hint)
    return [given for file in files for given in file.profile(name)]
