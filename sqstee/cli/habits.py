"""Options and verbs of other programs that people type by habit, and their names in sqstee."""

from __future__ import annotations

_LIST = "sqstee runs lists the runs, sqstee show NAME shows one"
_LINES = "sqstee show --last shows the lines of the newest run, sqstee tail follows all runs"
_STATES = "--failed, --running, --missing, --silent and --gone choose by state"
_JSON = "-o json prints JSON"
_ALERT_STATES = "for example: --on failed,missing"

_VERBS = {
    **dict.fromkeys(("list", "ls", "ps", "history", "jobs"), _LIST),
    **dict.fromkeys(("log", "logs", "view", "cat"), _LINES),
    **dict.fromkeys(("test", "ping", "doctor", "verify", "diagnose"), "sqstee check tests a destination step by step"),
    **dict.fromkeys(("send", "ship", "push", "sync", "retry"), "sqstee flush ships lines that earlier runs left"),
    **dict.fromkeys(("dump", "export", "download", "pull", "receive"), "sqstee drain empties a queue into files"),
    **dict.fromkeys(("dashboard", "ui", "monitor"), "sqstee web is the board in a browser, sqstee top in the terminal"),
    **dict.fromkeys(
        ("init", "config", "configure", "login"), "there is nothing to set up; sqstee check shows settings"
    ),
    "version": "sqstee --version",
}

# Flags of `run` under the names that AWS's command line, docker, systemd-run, logger and tee have for them.
RUN_FLAGS = {
    **dict.fromkeys(("--queue", "--queue-url", "--queue-name", "--dest", "--destination", "--url", "-t"), "--to"),
    **dict.fromkeys(("--name", "--unit", "-n", "-u", "-j"), "--job"),
    **dict.fromkeys(("--tag", "--tags", "-l"), "--label"),
    "--hostname": "--host",
    "--no-share": "--share=never",
    **dict.fromkeys(("-q", "--silent"), "--quiet"),
    **dict.fromkeys(("--gzip", "-z"), "--compress=gzip"),
    **dict.fromkeys(("--pty", "-it"), "--tty=always"),
    **dict.fromkeys(("--no-pty", "--no-tty", "-T"), "--tty=never"),
    **dict.fromkeys(("--line-buffered", "--unbuffered"), "--unbuffer"),
    **dict.fromkeys(("--backup", "--failover"), "--fallback"),
}

# gh, journalctl, docker logs, kubectl, stern, tail
OPTIONS = {
    "run": {
        "-": "leave it out: without a command, stdin is read",
        **dict.fromkeys(("-v", "--verbose", "--debug"), "SQSTEE_DEBUG=FILE writes a trace"),
        **dict.fromkeys(("-a", "--append"), "leave it out: lines are always added to a queue or a store"),
        **dict.fromkeys(("-i", "--ignore-interrupts"), "leave it out: the last lines before and after ^C are shipped"),
        **dict.fromkeys(("-p", "--output-error"), "leave it out: lines are shipped where stdout is full as well"),
        **dict.fromkeys(("-e", "--env"), "variables go before the command: sqstee -- env NAME=VALUE COMMAND"),
        **dict.fromkeys(("-o", "--output", "--file"), "for a file as well: sqstee -- COMMAND | tee FILE"),
        **dict.fromkeys(
            ("--timeout",), "--flush-timeout limits the delivery; for COMMAND: sqstee -- timeout 10s COMMAND"
        ),
        "--region": "AWS_REGION=REGION selects the region, or a queue's URL or ARN does",
        "--aws-profile": "AWS_PROFILE=NAME selects the profile of AWS",
        "--endpoint-url": "AWS_ENDPOINT_URL=URL selects the endpoint",
        "--config": "settings are in /etc/sqstee.toml and ~/.config/sqstee.toml",
    },
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
    """The hint for another program's verb; empty for any other word."""
    return _VERBS.get(word, "")


def option_hint(verb: str, name: str) -> str:
    """The hint for another program's option; empty for any other."""
    return OPTIONS.get(verb, {}).get(name, "")
