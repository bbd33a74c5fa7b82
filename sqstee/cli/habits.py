"""Options and verbs of other programs that people type by habit, and what they are called here."""

from __future__ import annotations

_LIST = "sqstee runs lists the runs, sqstee show NAME shows one"
_LINES = "sqstee show --last shows the lines of the newest run, sqstee tail follows all runs"
_STATES = "--failed, --running, --missing, --silent and --gone choose by state"
_JSON = "-o json prints JSON"
_ALERT_STATES = "for example: --on failed,missing"

_VERBS = dict.fromkeys(("list", "ls", "ps", "history", "jobs"), _LIST) | dict.fromkeys(
    ("log", "logs", "view", "cat"), _LINES
)

# gh, journalctl, docker logs, kubectl, stern, tail
OPTIONS = {
    "runs": {
        **dict.fromkeys(("--status", "--state", "-s"), _STATES),
        **dict.fromkeys(("-a", "--all"), "-n all lists all"),
        **dict.fromkeys(("-L", "--lines"), "-n N lists N runs"),
        **dict.fromkeys(("-f", "--follow", "--no-follow", "-w", "--watch"), "sqstee top is the live table"),
        **dict.fromkeys(("-u", "--unit", "--name", "-j"), "--job GLOB selects by job"),
        "--json": _JSON,
    },
    "show": {
        **dict.fromkeys(("--log", "--logs"), "without options, show prints the lines as well"),
        **dict.fromkeys(("--log-failed", "--failed"), "sqstee show --last-failed shows the newest run that failed"),
        **dict.fromkeys(("--job", "--run", "-u", "--unit"), "name the run or its job alone: sqstee show NAME"),
        **dict.fromkeys(("-n", "--lines", "--tail"), "for the last lines: sqstee show NAME -o raw | tail -n 10"),
        **dict.fromkeys(("-f", "--follow"), "sqstee tail --run RUN follows a run"),
        **dict.fromkeys(("--stderr", "--stdout"), "--stream stderr shows one stream"),
        **dict.fromkeys(("--timestamps", "--time"), "-t prints the time before each line"),
        "--json": _JSON,
    },
    "tail": {
        **dict.fromkeys(("-F", "--retry"), "tail follows unless --no-follow is given"),
        **dict.fromkeys(("-u", "--unit", "-c", "--container"), "--job GLOB selects by job"),
        **dict.fromkeys(("-g", "--grep"), "-i REGEX selects by text"),
        **dict.fromkeys(("--tail", *(f"-{digit}" for digit in range(10))), "-n 20 begins with the last 20 lines"),
        **dict.fromkeys(("--timestamps", "--time"), "-t prints the time before each line"),
        **dict.fromkeys(("-l", "--selector"), "--label NAME=GLOB selects by label"),
        "--json": _JSON,
    },
    "drain": {
        "--exit-status": "--fail-on failed gives exit status 5 where a command failed",
        "--json": _JSON,
    },
    "alert": {
        **dict.fromkeys(("--failed", "--missing", "--silent", "--gone", "--late"), _ALERT_STATES),
        "--interval": "alert looks at a store once a second; with --once it looks once and exits",
    },
    "top": {"--json": _JSON, **dict.fromkeys(("-n", "-1", "--once"), "--no-follow prints the table once")},
}


def verb_hint(word: str) -> str:
    """What to type instead of another program's verb; empty for any other word."""
    return _VERBS.get(word, "")


def option_hint(verb: str, name: str) -> str:
    """What to type instead of another program's option; empty for any other."""
    return OPTIONS.get(verb, {}).get(name, "")
