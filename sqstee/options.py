"""The one table of `run` options: flag, environment variable, configuration key, type, default and help. Pure.

RUN_OPTIONS is the source of the parser here, `sqstee run --help`, the manual page and the completions. The parser is
our own because it runs before every wrapped command: typer alone would take 200 ms.

A converter raises ValueError with the form that it expects, such as "a time such as 10s": messages quote it.
"""

from __future__ import annotations

from sqstee.errors import SqsteeError, closest, did_you_mean, invalid_value, unknown_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqstee.config_file import ConfigFile, Entry
    from sqstee.destination import Destination

_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_TIMES = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPELLED_UNITS = ("sec", "second", "min", "minute", "hr", "hour", "day", "kb", "mb", "gb", "kib", "mib", "gib")
LONGEST_SECONDS = 365 * 24 * 3600.0
MOST_FALLBACKS = 8  # each takes connections of its own
LEAST_MESSAGE_BYTES = 1024  # SQS, SetQueueAttributes: the smallest MaximumMessageSize that a queue can have


def size(text: str) -> int:
    """Bytes, from a whole number and optionally K, M or G (powers of 1024)."""
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    number = text[: len(text) - len(unit)]
    if unit not in _SIZES or not (number.isascii() and number.isdigit()) or int(number) == 0:
        raise ValueError("a size such as 256K, 4M, 1G")
    return int(number) * _SIZES[unit]


def size_text(number: int) -> str:
    """The inverse of `size`, in the largest unit that leaves a whole number."""
    for unit in ("G", "M", "K"):
        if number % _SIZES[unit] == 0:
            return f"{number // _SIZES[unit]}{unit}"
    return str(number)


def duration(text: str) -> float:
    """Seconds, from a number and optionally s, m, h or d; at most a year."""
    unit = text[-1:] if text[-1:].isalpha() else ""
    number = text[: len(text) - len(unit)]
    if unit not in _TIMES or not (number.isascii() and number.replace(".", "", 1).isdigit()):
        raise ValueError("a time such as 10s, 5m, 1h")
    seconds = float(number) * _TIMES[unit]
    if seconds > LONGEST_SECONDS:
        raise ValueError(f"at most {LONGEST_SECONDS / _TIMES['d']:.0f}d")
    return seconds


def _interval(text: str) -> float:
    """As `duration`, but 0 or at least a second."""
    seconds = duration(text)
    if 0 < seconds < 1:
        raise ValueError("0, or at least 1s")
    return seconds


def rate(text: str) -> tuple[int, float]:
    """A number of lines, and the seconds of the period in which that many are allowed."""
    number, _, unit = text.partition("/")
    is_number = number.isascii() and number.isdigit() and len(number) <= 12
    if not unit or unit not in _TIMES or not is_number or int(number) == 0:
        raise ValueError("a rate such as 1000/s, 100/m")
    return int(number), _TIMES[unit]


def seconds_of(text: str, flag: str) -> float:
    """The seconds of a verb's TIME option; raises SqsteeError that names the flag."""
    try:
        return duration(text)
    except ValueError as error:
        raise invalid_value(text, flag, str(error), f"the form is {flag} TIME", near_value(text, duration)) from None


def near_value(text: str, convert: Callable[[str], object], choices: str = "") -> str:
    """The value that was probably meant by one that `convert` refuses: a choice, or a number with a unit of ours.

    `choices` are separated by `|`. Empty if there is none.
    """
    if guess := closest(text, choices.split("|")):
        return guess
    compact = text.replace(" ", "")
    if not compact[:1].isdigit():
        return ""
    unit = compact.lstrip("0123456789.").lower()
    number = compact[: len(compact) - len(unit)]
    candidates = [compact, f"{compact}/s"]
    if unit == "ms" and number.isdigit():
        candidates = [f"{int(number) / 1000:g}s"]
    elif unit.rstrip("s") in _SPELLED_UNITS:
        candidates = [number + (unit[0].upper() if unit.endswith("b") else unit[0])]
    for candidate in candidates:
        try:
            convert(candidate)
        except (ValueError, SqsteeError):
            continue
        return candidate
    return ""


def switch(text: str) -> bool:
    """On or off, as an environment variable or a configuration key gives it."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("", "0", "false", "no", "off"):
        return False
    raise ValueError("true or false")


def label(text: str) -> str:
    """KEY=VALUE."""
    if not text.partition("=")[0] or "=" not in text:
        raise ValueError("KEY=VALUE")
    return text


def one_of(*words: str) -> Callable[[str], str]:
    """A converter that accepts only these words."""

    def convert(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return convert


def size_within(smallest: int = 1, largest: int = 0) -> Callable[[str], int]:
    """A converter of sizes with a lower and, unless it is 0, an upper bound."""

    def convert(text: str) -> int:
        found = size(text)
        if found < smallest:
            raise ValueError(f"at least {size_text(smallest)}")
        if largest and found > largest:
            raise ValueError(f"at most {size_text(largest)}")
        return found

    return convert


def host(text: str) -> str:
    """A host name that fits a message attribute: printable, and short enough to leave room for lines."""
    if not text or len(text) > 255 or not text.isprintable():
        raise ValueError("1 to 255 printable characters")
    return text


def filled(text: str) -> str:
    """Any text that is not empty."""
    if not text:
        raise ValueError("a value that is not empty")
    return text


def _destination(text: str) -> str:
    from sqstee.destination import parse

    return parse(text).text


def _bucket(text: str) -> str:
    from sqstee.destination import parse

    if parse(text).kind != "s3":
        raise ValueError("s3://BUCKET/PREFIX")
    return text


def group(text: str) -> str:
    """A message group id: 1 to 128 letters, digits and punctuation (SQS API reference, SendMessage)."""
    if not (0 < len(text) <= 128 and text.isascii() and text.isprintable() and " " not in text):
        raise ValueError("1 to 128 letters, digits and punctuation characters")
    return text


class Option:
    """One option: `--name`, SQSTEE_NAME and `name = …` are equivalent.

    `metavar` is empty for a switch. A `repeat` option collects its values, one that `replaces` those of the strongest
    source alone; in a variable `separator` stands between them. `delivery` is "shipper", "sender" or "packer" for an
    option that the run's META frame keeps for whoever ships it (ship/policy), since the shipper, the sender or the
    packer of the lines needs it.
    """

    __slots__ = ("convert", "default", "delivery", "help", "metavar", "name", "repeat", "replaces", "separator")

    def __init__(
        self,
        name: str,
        metavar: str,
        convert: Callable[[str], object],
        default: object,
        help: str,
        repeat: bool = False,
        separator: str = ",",
        delivery: str = "",
        replaces: bool = False,
    ) -> None:
        self.name = name
        self.metavar = metavar
        self.convert = convert
        self.default = default
        self.help = help
        self.repeat = repeat
        self.separator = separator
        self.delivery = delivery
        self.replaces = replaces

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return f"--{self.name}"

    @property
    def shown(self) -> str:
        """The flag as in help and documents: `--no-name` for a switch that is on by default."""
        return f"--no-{self.name}" if not self.metavar and self.default else self.flag

    @property
    def variable(self) -> str:
        """The name in the environment."""
        return f"SQSTEE_{self.attribute.upper()}"

    @property
    def attribute(self) -> str:
        """The name in Settings."""
        return self.name.replace("-", "_")

    def invalid(self, text: str, source: str, expected: str) -> SqsteeError:
        """The error for a value that `convert` refused; `source` is a flag, a variable, an argument, or path:line."""
        value = self.metavar or "true"
        guess = near_value(text, self.convert, self.metavar if "|" in self.metavar else "")
        if source.startswith("--"):
            return invalid_value(text, source, expected, f"the form is {source} {self.metavar}".rstrip(), guess)
        if source == self.variable:
            return invalid_value(text, source, expected, f"the form is {source}={value}", guess)
        if source == self.attribute:
            return invalid_value(text, source, expected, f"the form is {source}={value!r}", guess)
        error = invalid_value(text, self.name, expected, f'the form is {self.name} = "{value}"', guess)
        error.message = f"{source}: {error.message}"
        return error


RUN_OPTIONS = (
    Option(
        "to",
        "DEST",
        _destination,
        "",
        "destination: queue name, URL or ARN, s3://BUCKET/PREFIX, http(s)://HOST, local[:PATH] (default: local)",
    ),
    Option("profile", "NAME", filled, "", "add the settings of [profile.NAME] in the configuration files"),
    Option("job", "NAME", str, "", "name of this job, sent with every line"),
    Option(
        "auto-name",
        "",
        switch,
        True,
        "without --job: do not send the base name of the command, which readers show instead of a job",
    ),
    Option("label", "KEY=VALUE", label, (), "label sent with every line; repeatable", repeat=True),
    Option(
        "auto-labels",
        "",
        switch,
        True,
        "add no labels from the environment (batch systems, Spark, Kubernetes, cron: sqstee(1) lists them)",
    ),
    Option("host", "NAME", host, "", "host name sent with every line (default: the node's own)"),
    Option("spool", "DIR", filled, "", "folder on a local disk where captured lines wait for delivery"),
    Option(
        "spool-max",
        "SIZE",
        size_within(1024**2),
        1024**3,
        "limit on the spool folder, over all runs (default: 1G)",
    ),
    Option(
        "on-full",
        "auto|block|drop",
        one_of("auto", "block", "drop"),
        "auto",
        "when the spool is full: auto blocks the command until delivery stalls, then drops lines (default: auto)",
    ),
    Option(
        "linger",
        "TIME",
        duration,
        None,
        "how long a partial request may wait for more lines (default: 1s; for S3 10s)",
        delivery="shipper",
    ),
    Option(
        "flush-timeout", "TIME", duration, 10.0, "how long to wait for delivery after the command ends (default: 10s)"
    ),
    Option(
        "message-bytes",
        "SIZE",
        size_within(LEAST_MESSAGE_BYTES, 4 * 1024**2),
        None,
        "NDJSON bytes packed into one message, before compression (default: 256K; for a FIFO queue 1M, for S3 4M)",
        delivery="shipper",
    ),
    Option(
        "max-line",
        "SIZE",
        size_within(largest=960 * 1024),
        32 * 1024,
        "split longer lines into pieces of this size, or smaller where SQS requires it (default: 32K)",
    ),
    Option(
        "compress",
        "auto|gzip|none",
        one_of("auto", "gzip", "none"),
        "none",
        "compress message bodies (default: none)",
        delivery="shipper",
    ),
    Option(
        "fallback",
        "DEST",
        _destination,
        (),
        "send here when the destination refuses lines, or makes no progress for --fallback-after; repeatable, tried in "
        "order",
        repeat=True,
        replaces=True,
        delivery="sender",
    ),
    Option(
        "fallback-after",
        "TIME",
        duration,
        30.0,
        "time without progress before --fallback is used (default: 30s)",
        delivery="sender",
    ),
    Option(
        "via-s3",
        "s3://BUCKET/PREFIX",
        _bucket,
        "",
        "store bodies in S3, uncompressed, and send pointers to them",
        delivery="sender",
    ),
    Option(
        "group",
        "NAME",
        group,
        "",
        "message group on a standard queue, for fair queues (on a FIFO queue the group is the run)",
        delivery="sender",
    ),
    Option(
        "token-file",
        "FILE",
        filled,
        "",
        "file with the bearer token for a collector (default: SQSTEE_TOKEN)",
        delivery="sender",
    ),
    Option(
        "local-max",
        "SIZE",
        size,
        1024**3,
        "limit on the local queue; the oldest lines are deleted (default: 1G)",
        delivery="sender",
    ),
    Option(
        "heartbeat",
        "TIME",
        _interval,
        None,
        "send an `alive` event after this long without a line (0: never) (default: 60s; with S3 and in logging 0)",
    ),
    Option(
        "tty",
        "auto|always|never|pass",
        one_of("auto", "always", "never", "pass"),
        "auto",
        "give the command a pty (auto: if sqstee has a terminal; pass: the real terminal, uncaptured) (default: auto)",
    ),
    Option("merge", "", switch, False, "capture both streams as one, `output`, in exact order, and pass it to stdout"),
    Option("unbuffer", "", switch, False, "make the command write each line at once (PYTHONUNBUFFERED, stdbuf)"),
    Option("send-command", "", switch, False, "include the command and its arguments in the start event"),
    Option("fsync", "", switch, False, "sync the spool to disk: a power cut loses at most the last tenth of a second"),
    Option(
        "redact",
        "REGEX",
        filled,
        (),
        "mask matching text, in the shipped copy only; repeatable (SQSTEE_REDACT: one per line)",
        repeat=True,
        separator="\n",
    ),
    Option(
        "strip-ansi",
        "",
        switch,
        False,
        "ship lines without their terminal escape sequences (colours, titles, cursor movements)",
        delivery="packer",
    ),
    Option(
        "collapse-cr",
        "",
        switch,
        False,
        "ship only the text after the last carriage return of a line, so that a progress bar is one line",
        delivery="packer",
    ),
    Option(
        "parse-json",
        "",
        switch,
        False,
        "also ship a line that is a JSON object as `data`, and its field `level` as the level of the line",
        delivery="packer",
    ),
    Option(
        "rate-limit",
        "N/s",
        rate,
        None,
        "ship at most N lines per second (N/m: minute, N/h: hour); the others are dropped and counted",
    ),
    Option(
        "share",
        "auto|never",
        one_of("auto", "never"),
        "auto",
        "auto: the first run starts one shipper per host for all; with never this run ships by itself (default: auto)",
    ),
    Option(
        "keep-shipper",
        "TIME",
        duration,
        10.0,
        "how long the shared shipper waits for another run after the last one (default: 10s)",
    ),
    Option("strict", "", switch, False, "exit with 122 instead of 0 if not every line was delivered"),
    Option("summary", "", switch, False, "report at the end, in one line, the lines captured and delivered"),
    Option("quiet", "", switch, False, "print nothing of sqstee's own but usage errors (the exit status still tells)"),
)
SHIPPER_OPTIONS = tuple(option.attribute for option in RUN_OPTIONS if option.delivery == "shipper")
SENDER_OPTIONS = tuple(option.attribute for option in RUN_OPTIONS if option.delivery == "sender")
PACKER_OPTIONS = tuple(option.attribute for option in RUN_OPTIONS if option.delivery == "packer")
_BY_FLAG = {option.flag: option for option in RUN_OPTIONS}


class Settings:
    """The values of the `run` options, by attribute."""

    to: str
    profile: str
    job: str
    auto_name: bool
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
    fallback: tuple[str, ...]
    fallback_after: float
    via_s3: str
    group: str
    token_file: str
    local_max: int
    heartbeat: float | None
    tty: str
    merge: bool
    unbuffer: bool
    send_command: bool
    fsync: bool
    redact: tuple[str, ...]
    strip_ansi: bool
    collapse_cr: bool
    parse_json: bool
    rate_limit: tuple[int, float] | None
    share: str
    keep_shipper: float
    strict: bool
    summary: bool
    quiet: bool

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}  # the source of each value, by attribute; defaults have none
        self.label_environ: Mapping[str, str] = {}  # the environment that automatic labels are read from
        for option in RUN_OPTIONS:
            setattr(self, option.attribute, option.default)

    def set(self, option: Option, text: str, source: str) -> None:
        """Set one option from text; raises SqsteeError that names `source` for an invalid value."""
        try:
            value = option.convert(text)
        except ValueError as error:
            raise option.invalid(text, source, str(error)) from None
        except SqsteeError as error:
            raise SqsteeError(f"{source}: {error.message}", error.hint, meant=error.meant) from None
        if option.repeat:
            is_new = option.replaces and self.sources.get(option.attribute) != source
            value = (*(() if is_new else getattr(self, option.attribute)), value)
        setattr(self, option.attribute, value)
        self.sources[option.attribute] = source

    @property
    def labels(self) -> dict[str, str]:
        """The labels as a mapping: automatic ones, and those of --label, which win."""
        from sqstee.auto_labels import labels  # loaded once the command runs

        given = {key: value for key, _, value in (text.partition("=") for text in self.label)}
        return labels(self.label_environ) | given


class Given:
    """One value as text, and its source: a flag, a variable, or path:line."""

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
                raise _unknown_word(word)
            text = "false"
        elif not option.metavar:
            text = text if equals else "true"
        elif not equals:
            following = next(rest, None)
            if following is None or following.partition("=")[0] in _BY_FLAG:  # --job=--to is one, if that is meant
                raise SqsteeError(f"{flag} needs a value", f"the form is {flag} {option.metavar}")
            text = following
        found.append(Given(option, text, flag))
    return found


def _unknown_word(word: str) -> SqsteeError:
    if word.startswith("-"):
        hint = "sqstee run --help lists the options; the command's own options go after --"
        return unknown_name("option", word.partition("=")[0], flags(), hint)
    hint = f"the command goes after --, as in: sqstee -- {word}"
    return SqsteeError(f"{word!r} is not an option", hint, meant=(word, word))


def flags() -> dict[str, bool]:
    """Every flag of `run`, and whether a value follows it."""
    negated = {f"--no-{option.name}": False for option in RUN_OPTIONS if not option.metavar}
    return {flag: bool(option.metavar) for flag, option in _BY_FLAG.items()} | negated


def from_environment(environ: Mapping[str, str]) -> list[Given]:
    """The SQSTEE_* variables; an empty one counts as unset."""
    found = []
    for option in RUN_OPTIONS:
        text = environ.get(option.variable)
        if text:
            parts = text.split(option.separator) if option.repeat else (text,)
            found += [Given(option, part, option.variable) for part in parts]
    return found


def _from_entry(entry: Entry, in_profile: bool = False) -> list[Given]:
    """The values of a configuration file's entry, whose key is an option's name."""
    option = _BY_FLAG.get("--" + entry.key.replace("_", "-"))
    if option is None or (in_profile and option.name == "profile"):
        known = [option.name for option in RUN_OPTIONS if not in_profile or option.name != "profile"]
        meant = did_you_mean(entry.key.replace("_", "-"), known)
        raise SqsteeError(f"{entry.source}: unknown key {entry.key!r}{meant}", "sqstee run --help lists the options")
    values = entry.values()
    if len(values) != 1 and not option.repeat:
        hint = f'the form is {option.name} = "{option.metavar or "true"}"'
        raise SqsteeError(f"{entry.source}: {option.name} needs exactly one value", hint)
    return [Given(option, value, entry.source) for value in values]


def configuration_files(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The configuration files, the stronger one last: the node's, then the user's."""
    home = environ.get("HOME", "")
    folder = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    return ("/etc/sqstee.toml", f"{folder}/sqstee.toml") if folder else ("/etc/sqstee.toml",)


def _config_files(environ: Mapping[str, str]) -> list[ConfigFile]:
    """The configuration files that exist. Most nodes have none: the parser is loaded for them alone."""
    found = []
    for path in configuration_files(environ):
        try:
            open(path, "rb").close()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # read_config finds out whether it exists
            pass
        from sqstee.config_file import read_config

        found.append(read_config(path))
    return found


def given(values: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """The settings of a program that passes Python values, by attribute; they win over environment and files.

    `label` may be a mapping. Raises TypeError for an unknown name, SqsteeError for an invalid value.
    """
    settings = load((), environ, str(values.get("profile", "")))
    for name, value in values.items():
        option = _BY_FLAG.get("--" + name.replace("_", "-"))
        if option is None:
            raise TypeError(f"{name!r} is not an option of sqstee")
        if not option.repeat:
            settings.set(option, str(value), option.attribute)
            continue
        texts = [f"{key}={text}" for key, text in value.items()] if isinstance(value, dict) else value
        for text in texts if isinstance(texts, list | tuple) else (texts,):
            settings.set(option, str(text), option.attribute)
    return settings


def in_force(words: Iterable[str], environ: Mapping[str, str], profile: str = "") -> list[Given]:
    """The values from configuration files, environment and command line, in this order: later ones win.

    A profile counts as part of the files: the values of the chosen one win over those outside of tables. `profile` is
    a program's choice, which wins over all others.
    """
    files = _config_files(environ)
    chosen = [*from_environment(environ), *from_words(words)]
    flat = [given for file in files for entry in file.entries for given in _from_entry(entry)]
    for given in (*flat, *chosen) if not profile else ():
        if given.option.name == "profile":
            profile = given.text
    return [*flat, *_from_profile(files, profile, environ), *chosen]


def load(words: Iterable[str], environ: Mapping[str, str], profile: str = "") -> Settings:
    """The settings of a command line, its environment and the configuration files."""
    settings = Settings()
    for given in in_force(words, environ, profile):
        settings.set(given.option, given.text, given.source)
    if settings.auto_labels:
        settings.label_environ = environ
    return settings


def check(settings: Settings, destination: Destination) -> None:
    """Refuse options that do not apply to a destination."""
    if destination.text in settings.fallback:
        raise SqsteeError("--fallback and --to are the same destination", "name another one: --fallback DEST")
    if len(set(settings.fallback)) < len(settings.fallback):
        raise SqsteeError("--fallback names one destination twice", "name another one: --fallback DEST")
    if len(settings.fallback) > MOST_FALLBACKS:
        raise SqsteeError(f"--fallback is given more than {MOST_FALLBACKS} times", "leave out the last ones")
    if destination.kind != "sqs" and (settings.via_s3 or settings.group):
        option = "--via-s3" if settings.via_s3 else "--group"
        raise SqsteeError(f"{option} needs a queue, not {destination.text}", "the form is --to QUEUE")
    if settings.group and destination.name.endswith(".fifo"):
        raise SqsteeError("--group needs a standard queue", "leave it out: on a FIFO queue the group is the run")


def _from_profile(files: list[ConfigFile], name: str, environ: Mapping[str, str]) -> list[Given]:
    if name and not any(name in file.profiles for file in files):
        known = sorted({known for file in files for known in file.profiles})
        places = " or ".join(configuration_files(environ))
        hint = f"the profiles are {', '.join(known)}" if known else f"add [profile.{name}] to {places}"
        raise SqsteeError(f"unknown profile {name!r}{did_you_mean(name, known)}", hint)
    entries = [entry for file in files for entry in file.profiles.get(name, ())]
    return [given for entry in entries for given in _from_entry(entry, in_profile=True)]
