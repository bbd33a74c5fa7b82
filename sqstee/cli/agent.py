"""`sqstee agent`: ship for every run of a spool folder or a host."""

from __future__ import annotations

import os
import typing

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError

if typing.TYPE_CHECKING:
    from sqstee.agent.config import AgentConfig

_STOP_SECONDS = 30.0  # beyond the time in which a shipper delivers the rest
_POLL_SECONDS = 0.01


def agent(
    to: list[str] = typer.Option((), "--to", metavar="DEST", help="Ship only to this destination; repeatable."),
    spool: str = typer.Option("", "--spool", metavar="DIR", help="The spool folder (default: as for run)."),
    once: bool = typer.Option(False, "--once", help="Ship all waiting runs, then exit: for cron."),
    status: bool = typer.Option(False, "--status", help="Show the state of the agent and of shared shippers."),
    stop: bool = typer.Option(False, "--stop", help="End shared shippers, after delivering as much as they can."),
    flush_timeout: str = typer.Option(
        "", "--flush-timeout", metavar="TIME", help="Time for delivery at exit (default: 10s)."
    ),
) -> int:
    """Ship for every run on this host: one process, one connection pool, the lines of all runs packed together.

    Without --to, and without [agent] in a configuration file, it ships its own user's runs to any destination. As root,
    with /var/spool/sqstee created for all users (mode 1777), it serves them all, and needs one of the two.
    """
    from sqstee.settings import load_settings
    from sqstee.spool.location import open_root

    folder = _folder(spool or load_settings((), os.environ).spool)
    if status:
        return _show(folder)
    if stop:
        return _stop(folder)
    config = _config(to, flush_timeout, folder)
    if not _of_all_users(folder):
        folder = open_root(folder)
    os.umask(0o077)
    return _once(folder, config) if once else _serve(folder, config, lambda: _config(to, flush_timeout, folder))


def _folder(configured: str) -> str:
    """The spool folder to serve: for root the one of all users, if it exists."""
    from sqstee.spool.location import SHARED, default_root

    if configured:
        return os.path.abspath(configured)
    return SHARED if os.geteuid() == 0 and _of_all_users(SHARED) else default_root()


def _of_all_users(folder: str) -> bool:
    from sqstee.spool.agent_file import serves_all_users

    return serves_all_users(folder)


def _config(to: list[str], flush_timeout: str, folder: str) -> AgentConfig:
    """The destinations to serve: those of the command line, else of the [agent] table, else all."""
    from sqstee.agent.config import AgentConfig
    from sqstee.destination import parse
    from sqstee.settings import load_settings
    from sqstee.spool.location import check_folder, with_absolute_path

    settings = load_settings(("--flush-timeout", flush_timeout) if flush_timeout else (), os.environ)
    configured = _configured()  # read with --to as well: a mistake in the file must not go unnoticed
    found = list(to) or configured
    names = set()
    for destination in map(parse, found):
        check_folder(destination, folder)
        if destination.kind != "local" or (not destination.name and _of_all_users(folder)):
            names.add(destination.text)
        else:  # a run's spool holds the absolute path
            names.add(with_absolute_path(destination.text, folder))
    return AgentConfig(frozenset(names) if found else None, settings)


def _configured() -> list[str]:
    """`to` of the [agent] table in the strongest configuration file that sets it."""
    from sqstee import config_file
    from sqstee.settings import configuration_files

    found: list[str] = []
    for path in configuration_files(os.environ):
        found = config_file.read_config(path).agent_destinations() or found
    return found


def _report(notice: str) -> None:
    from sqstee.fds import write_stderr

    write_stderr(f"sqstee: {notice}\n")


def _once(folder: str, config: AgentConfig) -> int:
    from sqstee.agent.advertisement import Advertisement
    from sqstee.agent.agent import Agent

    agent = Agent(folder, config, Advertisement(folder, os.environ), _report)
    left = agent.once()
    for run in agent.delivered:
        typer.echo(f"{run}: shipped")
    for run in agent.busy:
        typer.echo(f"{run}: another process is shipping it")
    for run, reason in sorted(left.items()):
        typer.echo(f"{run}: stays in the spool: {reason}")
    return EXIT_FAILURE if left else 0


def _serve(folder: str, config: AgentConfig, configuration: typing.Callable[[], AgentConfig]) -> int:
    import signal

    from sqstee.agent.advertisement import Advertisement
    from sqstee.agent.agent import Agent
    from sqstee.ship import priority

    priority.lower()
    caught: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: caught.add(number))
    agent = Agent(folder, config, Advertisement(folder, os.environ), _report)

    def stop() -> bool:
        return signal.SIGTERM in caught or signal.SIGINT in caught

    def reload() -> AgentConfig | None:
        if signal.SIGHUP not in caught:
            return None
        caught.discard(signal.SIGHUP)
        try:
            return configuration()
        except SqsteeError as error:
            typer.echo(f"{error}\nsqstee: the agent keeps its configuration", err=True)
            return None

    agent.serve(stop, reload)
    return 0


def _stop(folder: str) -> int:
    """Tell every shared shipper of a folder to end, and wait until it has."""
    import signal
    import time

    from sqstee.spool import agent_file

    told: list[int] = []
    for path in filter(agent_file.is_shared, agent_file.files(folder)):
        pid = agent_file.holder(path)
        try:
            if pid > 0:
                os.kill(pid, signal.SIGTERM)
                told.append(pid)
        except OSError as error:
            hint = "stop it as the user who owns it"
            raise SqsteeError(f"process {pid} cannot be stopped: {error.strerror}", hint, EXIT_FAILURE) from None
    if not told:
        raise SqsteeError(f"no shared shipper serves {folder}", "sqstee agent --status shows who does", EXIT_FAILURE)
    deadline = time.monotonic() + _STOP_SECONDS
    for pid in told:
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        typer.echo(f"process {pid}: {'still delivers' if os.path.exists(f'/proc/{pid}') else 'ended'}")
    return 0


def _show(folder: str) -> int:
    from sqstee.agent.advertisement import read_status
    from sqstee.spool import agent_file

    found = {path: status for path in agent_file.files(folder) if (status := read_status(path)) is not None}
    if not found:
        raise SqsteeError(f"no agent serves {folder}", "start one: sqstee agent", EXIT_FAILURE)
    for path, status in found.items():
        _show_status("shipper" if agent_file.is_shared(path) else "agent", folder, status)
    return 0


def _show_status(kind: str, folder: str, found: dict[str, object]) -> None:
    import json

    served = found.get("destinations")
    to = ", ".join(served) if isinstance(served, list) else "any"
    shipping, refusals = found.get("shipping_to"), found.get("refusals")
    rows = (
        (kind, f"{found.get('pid', '?')}, version {found.get('version', '?')}, serves {folder}"),
        ("destinations", f"{to}; in use: {', '.join(shipping) if isinstance(shipping, list) and shipping else 'none'}"),
        ("runs", found.get("runs", "?")),
        ("waiting", f"{found.get('waiting_bytes', '?')} bytes, {found.get('waiting_records', '?')} records read"),
        ("delivered", f"{found.get('records', '?')} records in {found.get('requests', '?')} requests"),
        ("rate", f"{found.get('records_per_second', '?')} records/s over the last 10 seconds"),
        *(("refused", notice) for notice in (refusals.values() if isinstance(refusals, dict) else ())),
        ("last error", found.get("error") or "none"),
    )
    for name, value in rows:
        text = value if isinstance(value, str) else json.dumps(value)
        typer.echo(f"{name:13}{''.join(char if char.isprintable() else '?' for char in text)}")
