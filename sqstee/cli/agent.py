"""`sqstee agent`: ship for every run of a spool folder, or of a host."""

from __future__ import annotations

import os
import typing

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError

if typing.TYPE_CHECKING:
    from sqstee.agent.agent import AgentConfig


def agent(
    to: list[str] = typer.Option((), "--to", metavar="DEST", help="A destination that it ships to, as runs name it."),
    spool: str = typer.Option("", "--spool", metavar="DIR", help="The spool folder (default: as for run)."),
    once: bool = typer.Option(False, "--once", help="Ship what is there, and end: for cron."),
    status: bool = typer.Option(False, "--status", help="Show what the running agent does."),
    flush_timeout: str = typer.Option("", "--flush-timeout", metavar="TIME", help="How long to deliver at the end."),
) -> int:
    """Ship for every run on this host: one process, one connection pool, the lines of all runs packed together.

    Without --to it ships to whatever its own user's runs name. As root, with /var/spool/sqstee made for all users
    (mode 1777), it serves them all, and only for the destinations that are given.
    """
    from sqstee import options
    from sqstee.spool.location import open_root

    folder = _folder(spool or options.load((), os.environ).spool)
    if status:
        return _show(folder)
    plan = _plan(to, flush_timeout, folder)
    if not _of_all_users(folder):
        folder = open_root(folder)
    os.umask(0o077)
    return _once(folder, plan) if once else _serve(folder, plan, lambda: _plan(to, flush_timeout, folder))


def _folder(configured: str) -> str:
    """The folder that is served: root serves the one of all users where there is one."""
    from sqstee.spool.location import SHARED, default_root

    if configured:
        return os.path.abspath(configured)
    return SHARED if os.geteuid() == 0 and _of_all_users(SHARED) else default_root()


def _of_all_users(folder: str) -> bool:
    from sqstee.spool.agent_file import serves_all_users

    return serves_all_users(folder)


def _plan(to: list[str], flush_timeout: str, folder: str) -> AgentConfig:
    """The destinations of the command line, else of the configuration's [agent] table, else all."""
    from sqstee import options
    from sqstee.agent.agent import AgentConfig
    from sqstee.destination import LOCAL_FILE_NAME, parse

    settings = options.load(("--flush-timeout", flush_timeout) if flush_timeout else (), os.environ)
    found = list(to) or _configured()
    names = set()
    for destination in map(parse, found):
        if destination.kind != "local" or (not destination.name and _of_all_users(folder)):
            names.add(destination.text)
        else:  # as a run names it, once it knows where it is
            names.add(f"local:{os.path.abspath(destination.name or f'{folder}/{LOCAL_FILE_NAME}')}")
    return AgentConfig(frozenset(names) if found else None, settings)


def _configured() -> list[str]:
    """`to` of the table [agent] of the strongest configuration file that has one."""
    import tomllib

    from sqstee import options

    found: list[str] = []
    for path in options.configuration_files(os.environ):
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().split("\n")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise SqsteeError(f"{path} cannot be read: {error}") from None
        tables = [at for at, line in enumerate(lines) if line.lstrip().startswith("[")]
        own = [at for at in tables if lines[at].strip()[1:].partition("]")[0].strip(" \t\"'") == "agent"][:1]
        end = min([at for at in tables if own and at > own[0]], default=len(lines))
        try:  # what is outside of it, as of a profile, is not quite TOML
            table = tomllib.loads("\n".join(lines[own[0] : end])).get("agent", {}) if own else {}
        except tomllib.TOMLDecodeError as error:
            raise SqsteeError(f"{path} cannot be read: {error}", 'the form is to = ["DEST"] under [agent]') from None
        names = table.get("to", []) if isinstance(table, dict) else [0]
        names = [names] if isinstance(names, str) else names
        unknown = set(table) - {"to"} if isinstance(table, dict) else set()
        if unknown or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SqsteeError(f"{path}: [agent] takes `to` alone", 'the form is to = ["DEST"] under [agent]')
        found = names or found
    return found


def _once(folder: str, plan: AgentConfig) -> int:
    from sqstee.agent.agent import Agent

    worker = Agent(folder, plan, os.environ)
    left = worker.once()
    for run in worker.delivered:
        typer.echo(f"{run}: shipped")
    for run in worker.busy:
        typer.echo(f"{run}: being shipped by another process")
    for run, reason in sorted(left.items()):
        typer.echo(f"{run}: stays in the spool: {reason}")
    return EXIT_FAILURE if left else 0


def _serve(folder: str, plan: AgentConfig, configuration: typing.Callable[[], AgentConfig]) -> int:
    import signal

    from sqstee.agent.agent import Agent

    caught: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: caught.add(number))
    worker = Agent(folder, plan, os.environ)

    def stop() -> bool:
        return signal.SIGTERM in caught or signal.SIGINT in caught

    def reload() -> AgentConfig | None:
        if signal.SIGHUP not in caught:
            return None
        caught.discard(signal.SIGHUP)
        try:
            return configuration()
        except SqsteeError as error:
            typer.echo(f"{error}\nsqstee: the agent goes on as it was", err=True)
            return None

    worker.serve(stop, reload)
    return 0


def _show(folder: str) -> int:
    import json

    from sqstee.agent.advertisement import read_status

    found = read_status(folder)
    if found is None:
        raise SqsteeError(f"no agent serves {folder}", "sqstee agent starts one", EXIT_FAILURE)
    takes = found.get("destinations")
    to = ", ".join(takes) if isinstance(takes, list) else "whatever runs ask for"
    shipping = found.get("shipping_to")
    rows = (
        ("agent", f"{found.get('pid', '?')}, version {found.get('version', '?')}, serves {folder}"),
        ("destinations", f"{to}; in use: {', '.join(shipping) if isinstance(shipping, list) and shipping else 'none'}"),
        ("runs", found.get("runs", "?")),
        ("waiting", f"{found.get('waiting_bytes', '?')} bytes, {found.get('waiting_records', '?')} records read"),
        ("delivered", f"{found.get('records', '?')} records in {found.get('requests', '?')} requests"),
        ("rate", f"{found.get('records_per_second', '?')} records/s over the last ten seconds"),
        ("last error", found.get("error") or "none"),
    )
    for name, value in rows:
        text = value if isinstance(value, str) else json.dumps(value)
        typer.echo(f"{name:13}{''.join(char if char.isprintable() else '?' for char in text)}")
    return 0
