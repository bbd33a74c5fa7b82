"""The one table of `run` options: flag, environment variable, configuration key, type, default and help. Pure.

RUN_OPTIONS is the source of the parser in settings.py, `sqstee run --help`, the manual page and the completions.
"""

from __future__ import annotations

from sqstee.errors import SqsteeError, invalid_value
from sqstee.option_values import (
    bucket,
    destination,
    duration,
    filled,
    group,
    host,
    interval,
    label,
    near_value,
    one_of,
    rate,
    size,
    size_within,
    switch,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MOST_FALLBACKS = 8  # each takes connections of its own
LEAST_MESSAGE_BYTES = 1024  # SQS, SetQueueAttributes: the smallest MaximumMessageSize that a queue can have


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
        destination,
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
        destination,
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
        bucket,
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
        interval,
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
BY_FLAG = {option.flag: option for option in RUN_OPTIONS}


def flags() -> dict[str, bool]:
    """Every flag of `run`, and whether a value follows it."""
    negated = {f"--no-{option.name}": False for option in RUN_OPTIONS if not option.metavar}
    return {flag: bool(option.metavar) for flag, option in BY_FLAG.items()} | negated
