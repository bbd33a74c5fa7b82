"""The payload of a run's META frame, and the fields of its own events."""

from __future__ import annotations

import os

from sqstee import __version__
from sqstee.jsonbytes import encode_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from resource import struct_rusage

    from sqstee.settings import Settings
    from sqstee.spool.writer import Writer


LOGGING: dict[str, object] = {"logging": True}  # in the META frame of a run without a command: a process's own log
WRAPPER_DIED, PROCESS_ENDED = "wrapper-died", "process-ended"
_NAME_CHARACTERS = 64


def program_name(path: str) -> str:
    """The base name of a program, printable and bounded: the name of a run that has no job."""
    name = path.rstrip("/").rpartition("/")[2][:_NAME_CHARACTERS]
    return "".join(character if character.isprintable() else "?" for character in name)


def meta(settings: Settings, run: str, delivery: dict[str, object], name: str = "") -> bytes:
    """The payload of a run's META frames: all that its shipper needs to know, and no secret.

    `delivery` has the fields of the run's delivery policy; `name` is for the event of whoever finds the run dead.
    """
    fields: dict[str, object] = {
        "version": __version__,
        "run": run,
        "host": settings.host or os.uname().nodename,
        "job": settings.job,
        "labels": dict(settings.labels),
        **_named(name),
        **delivery,
    }
    return encode_object(fields)


def start(
    settings: Settings, name: str, pid: int, command: Sequence[str] | None = None, heartbeat: float = 0.0
) -> dict[str, object]:
    """The start event; `command` is None unless its arguments may be sent (they can hold secrets)."""
    fields: dict[str, object] = {"event": "start", "message": f"{settings.job or name or 'run'} started"}
    fields |= _named(name)
    fields["pid"] = pid
    fields["version"] = __version__
    if heartbeat:
        fields["heartbeat_s"] = heartbeat
    if settings.strip_ansi or settings.collapse_cr:
        fields["cleaned"] = ["ansi"] * settings.strip_ansi + ["cr"] * settings.collapse_cr
    if command is not None:
        fields["command"] = [os.fsencode(word).decode("utf-8", "replace") for word in command]
    return fields


def command_exit(
    status: int,
    usage: struct_rusage | None,
    duration_s: float,
    writer: Writer,
    still_open: Sequence[str],
    name: str = "",
) -> dict[str, object]:
    """The command's exit event: `status` is from wait(2), `still_open` names the streams that are still open.

    `usage` is None where stdin was read: the program that wrote it is not ours to wait for.
    """
    fields: dict[str, object] = {"event": "exit", **_named(name)}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        fields["message"] = f"killed by signal {number}"
        fields["signal"] = number
    else:
        has_ended = usage is None and status == 0
        fields["message"] = "stdin has ended" if has_ended else f"exited with status {os.WEXITSTATUS(status)}"
        fields["exit_code"] = os.WEXITSTATUS(status)
    fields["duration_s"] = round(duration_s, 3)
    fields |= _totals(writer)
    if usage:
        fields["max_rss"] = usage.ru_maxrss * 1024
        fields["cpu_s"] = round(usage.ru_utime + usage.ru_stime, 3)
    if still_open:
        fields["open"] = list(still_open)
    return fields


def alive(writer: Writer, usage: dict[str, object]) -> dict[str, object]:
    """The event of a run that lives and has written nothing for a while; `usage` is its resource usage so far."""
    return {"event": "alive", "message": "still running", **usage, "lines": writer.lines}


def is_alive(payload: bytes) -> bool:
    """Whether an event's payload is one that `alive` has made: nothing is due to be sent because of it."""
    return payload.startswith(b'{"event":"alive",')


def process_exit(duration_s: float, writer: Writer, name: str = "") -> dict[str, object]:
    """The exit event of a process that logs: it has ended or closed its handler; its exit status is unknown."""
    fields: dict[str, object] = {"event": "exit", "message": "the log was closed", **_named(name)}
    return fields | {"duration_s": round(duration_s, 3)} | _totals(writer)


def closed_by_finder(is_log: bool, after_exit: bool, killed: bool, name: str = "") -> dict[str, object]:
    """The event that whoever finds a run without its last event closes it with.

    `is_log`: a process's own log, which a signal ends without harm. `after_exit`: the command's exit event is there.
    `killed`: the writer did not reach its end, otherwise the disk refused the event.
    """
    if not killed:
        message = "the run has ended; its last lines and its exit event may not have been written: its disk was full"
    elif is_log:
        message = "the process has ended without closing its log"
    else:
        message = "sqstee was killed" if after_exit else "sqstee was killed, and the command with it"
    fields: dict[str, object] = {"event": "end"} if after_exit else {"event": "exit", **_named(name)}
    return fields | {"message": message, "cause": PROCESS_ENDED if is_log else WRAPPER_DIED}


def streams_end(writer: Writer) -> dict[str, object]:
    """The end event: the streams that were open at the command's exit have been closed."""
    return {"event": "end", "message": "the last writer has gone", **_totals(writer)}


def _totals(writer: Writer) -> dict[str, object]:
    return {"lines": writer.lines, "bytes": writer.bytes, "dropped": writer.dropped}


def _named(name: str) -> dict[str, object]:
    """The field `name` of an event, where the run has one."""
    return {"name": name} if name else {}
