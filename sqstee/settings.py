"""The settings of a run: from the command line, the environment, the configuration files and a program's values.

The parser is our own because it runs before every wrapped command: typer alone would take 200 ms.
"""

from __future__ import annotations

from sqstee.errors import SqsteeError, did_you_mean, unknown_name
from sqstee.options import BY_FLAG, MOST_FALLBACKS, RUN_OPTIONS, Option, flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqstee.config_file import ConfigFile, Entry
    from sqstee.destination import Destination


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
        option = BY_FLAG.get(flag)
        if option is None:
            option = BY_FLAG.get("--" + flag.removeprefix("--no-"))
            if equals or option is None or option.metavar or not flag.startswith("--no-"):
                raise _unknown_word(word)
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


def _unknown_word(word: str) -> SqsteeError:
    if word.startswith("-"):
        hint = "sqstee run --help lists the options; the command's own options go after --"
        return unknown_name("option", word.partition("=")[0], flags(), hint)
    hint = f"the command goes after --, as in: sqstee -- {word}"
    return SqsteeError(f"{word!r} is not an option", hint, meant=(word, word))


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
    option = BY_FLAG.get("--" + entry.key.replace("_", "-"))
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


def settings_from(values: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """The settings of a program that passes Python values, by attribute; they win over environment and files.

    `label` may be a mapping. Raises TypeError for an unknown name, SqsteeError for an invalid value.
    """
    settings = load_settings((), environ, str(values.get("profile", "")))
    for name, value in values.items():
        option = BY_FLAG.get("--" + name.replace("_", "-"))
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


def load_settings(words: Iterable[str], environ: Mapping[str, str], profile: str = "") -> Settings:
    """The settings of a command line, its environment and the configuration files."""
    settings = Settings()
    for given in in_force(words, environ, profile):
        settings.set(given.option, given.text, given.source)
    if settings.auto_labels:
        settings.label_environ = environ
    return settings


def check_options(settings: Settings, destination: Destination) -> None:
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
