"""`sqstee check`: test the path step by step, and print the one thing to do about each failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError, did_you_mean

if TYPE_CHECKING:
    from sqstee.destination import Destination
    from sqstee.settings import Settings
    from sqstee.transports.probe import Step
    from sqstee.transports.s3_probe import BucketProbe
    from sqstee.transports.sqs_probe import QueueProbe

_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "ceph", "glusterfs", "fuse.sshfs", "afs", "beegfs")
_OTHER_VARIABLES = (
    *("SQSTEE_TOKEN", "SQSTEE_DEBUG", "SQSTEE_PAGER", "SQSTEE_NEST", "SQSTEE_WEB_TOKEN", "SQSTEE_WEB_TOKEN_FILE"),
    *("SQSTEE_STORE", "SQSTEE_LAMBDA_TO", "SQSTEE_LAMBDA_VIA_S3"),
    *("SQSTEE_STORE_MAX", "SQSTEE_STORE_DAYS", "SQSTEE_KEEP_FAILED"),
)
_SPOOL_BYTES = 1024**3  # the default size of a spool


def check(
    dest: str = typer.Argument("", metavar="[DEST]", help="The destination to check (default: that of --to)."),
    role: str = typer.Option("both", "--for", metavar="send|receive|both", help="The permissions to check."),
    round_trip: bool = typer.Option(False, "--round-trip", help="Send one message and receive it again."),
    output: str = typer.Option("default", "-o", "--output", metavar="default|json", help="The output format."),
    spool: str = typer.Option("", "--spool", metavar="DIR", help="The spool folder (default: as for run)."),
) -> int:
    """Test the path: configuration, credentials, network, clock, each permission, limits, spool.

    Nothing is sent without --round-trip. Status: 0 if no step failed, 1 otherwise.
    """
    from sqstee.cli.sources import check_choice, check_destination
    from sqstee.destination import parse, parse_source
    from sqstee.settings import load_settings
    from sqstee.spool.location import check_folder

    check_choice(output, "--output", ("default", "json"), "check")
    check_choice(role, "--for", ("send", "receive", "both"), "check")
    settings = load_settings((), os.environ)
    destination = parse_source(dest) if dest else parse(settings.to or "local")
    if destination.kind == "folder":
        check_destination(destination)
    else:
        check_folder(destination, spool or settings.spool)
    failed = False
    for step in _steps(destination, settings, role, round_trip, spool, given=bool(dest)):
        failed = failed or step.state == "failed"
        _print_step(step, output == "json")
    return EXIT_FAILURE if failed else 0


def _steps(
    destination: Destination, settings: Settings, role: str, round_trip: bool, spool: str, given: bool
) -> Iterator[Step]:
    from sqstee.destination import parse

    yield from _configuration(destination, given)
    if destination.kind == "folder":
        yield from _stored_steps(destination)
        return
    yield from _destination_steps(destination, settings, role, round_trip)
    if settings.via_s3 and destination.kind == "sqs":
        yield from _named("via-s3", _destination_steps(parse(settings.via_s3), settings, role, round_trip, True))
    for number, fallback in enumerate(settings.fallback if role != "receive" else (), 1):
        name = "fallback" if len(settings.fallback) == 1 else f"fallback {number}"
        yield from _named(name, _destination_steps(parse(fallback), settings, "send", round_trip))
    yield from _spool(destination, settings, spool)


def _destination_steps(
    destination: Destination, settings: Settings, role: str, round_trip: bool, is_payload_store: bool = False
) -> Iterator[Step]:
    """The steps of one destination, of whatever kind; `is_payload_store` marks the bucket of --via-s3."""
    from sqstee.transports.probe import FAILED, WARNING, Step
    from sqstee.transports.s3_probe import LIST

    if destination.kind == "http":
        yield _collector_step(destination, settings.token_file)
    elif destination.kind == "local":
        yield _contents_step(destination)
    else:
        probe = _probe(destination, role, is_payload_store)
        reached = may_list = True
        for step in probe.steps():
            reached = reached and (step.state != FAILED or step.name == LIST)  # a round trip lists nothing
            may_list = may_list and step.state != FAILED
            yield step
        if destination.kind == "s3" and role != "send" and may_list and not is_payload_store:
            yield from _stored_steps(destination)
        if round_trip and reached:
            yield probe.round_trip()
        return
    if round_trip:
        finding = f"nothing was sent to {destination.text}: --round-trip works for SQS queues and S3 buckets only"
        yield Step("round trip", WARNING, finding, "send a line with: sqstee -- echo hello; read it with: sqstee tail")


def _probe(destination: Destination, role: str, is_payload_store: bool) -> QueueProbe | BucketProbe:
    if destination.kind == "sqs":
        from sqstee.transports.sqs_probe import ROLES, QueueProbe

        return QueueProbe(destination, ROLES[role])
    from sqstee.transports.s3_probe import BUCKET_ROLES, PAYLOAD_ROLES, BucketProbe

    return BucketProbe(destination, (PAYLOAD_ROLES if is_payload_store else BUCKET_ROLES)[role])


def _named(name: str, steps: Iterator[Step]) -> Iterator[Step]:
    """The steps of a second destination: their names begin with `name`."""
    for step in steps:
        step.name = f"{name} {step.name}"
        yield step


def _configuration(destination: Destination, given: bool) -> Iterator[Step]:
    """Each configured value and its source; the last source wins."""
    from sqstee import config_file
    from sqstee.settings import configuration_files, in_force
    from sqstee.transports.probe import OK, WARNING, Step

    found: dict[str, tuple[str, str]] = {}
    for one in in_force((), os.environ):
        before, source = found.get(one.option.name, ("", ""))
        adds = one.option.repeat and before and (source == one.source or not one.option.replaces)
        found[one.option.name] = f"{before}, {one.text}" if adds else one.text, one.source
    _, source = found.pop("to", ("", "the default"))
    where = "the command line" if given else source
    yield Step("destination", OK, f"{destination.text} ({destination.kind}), from {where}")
    for name, (text, source) in found.items():
        yield Step(name, OK, f"{text}, from {source}")
    for path in configuration_files(os.environ):
        try:
            config_file.read_config(path).agent_destinations()
        except SqsteeError as error:  # a run does not read that table
            yield Step("configuration", WARNING, error.message, error.hint)
    known = known_variables()
    for name in sorted(name for name in os.environ if name.startswith("SQSTEE_") and name not in known):
        yield Step(name, WARNING, f"has no effect{did_you_mean(name, known)}", f"unset {name}")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_CA_BUNDLE"):
        if os.environ.get(name):
            yield Step(name, OK, os.environ[name])
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        if os.environ.get(name.lower()) or os.environ.get(name):
            yield Step(name, OK, "is set")


def known_variables() -> set[str]:
    """Every variable of the environment that sqstee reads, or sets for a command of alert, but for other programs'."""
    from sqstee.options import RUN_OPTIONS
    from sqstee.read.alerts import variables

    return {*(option.variable for option in RUN_OPTIONS), *_OTHER_VARIABLES, *variables({})}


def _contents_step(destination: Destination) -> Step:
    """The bodies in a local queue."""
    from sqstee.cli.sources import local_path
    from sqstee.transports.errors import TransportError
    from sqstee.transports.factory import open_receiver
    from sqstee.transports.probe import FAILED, OK, Step

    try:
        state = open_receiver(destination, local_path()).stat()
    except TransportError as error:
        return Step("contents", FAILED, str(error), "choose another file with --to local:PATH")
    return Step("contents", OK, f"{state.visible:,} bodies in {destination.name or local_path()}")


def _stored_steps(destination: Destination) -> Iterator[Step]:
    """Check which layouts readers would find under a prefix or in a folder, and which data they would leave out."""
    from sqstee.transports.errors import TransportError
    from sqstee.transports.factory import open_receiver
    from sqstee.transports.folder import FolderReceiver
    from sqstee.transports.lake import LakeReceiver
    from sqstee.transports.probe import OK, WARNING, Step
    from sqstee.transports.s3_source import NOTHING_YET, BucketReceiver

    receiver = open_receiver(destination, "")
    assert isinstance(receiver, FolderReceiver | LakeReceiver | BucketReceiver)
    try:
        found, remarks = receiver.layouts(), receiver.remarks()
    except TransportError as error:
        yield Step("contents", WARNING, str(error), "who reads needs s3:ListBucket on the bucket")
        return
    finally:
        receiver.close()
    if found:
        yield Step("contents", OK, ", ".join(found))
    for remark in remarks:
        is_empty = remark.endswith(NOTHING_YET)
        yield Step("contents", OK if is_empty else WARNING, remark, "readers leave these out, and say so")


def _collector_step(destination: Destination, token_file: str) -> Step:
    """Post nothing: a collector that has accepted the token refuses that as empty, and stores nothing."""
    from sqstee.record import Body
    from sqstee.transports.advice import advice_on_the_way
    from sqstee.transports.errors import TransportError
    from sqstee.transports.http import APACHE_OPTION, HTML_PAGE, HttpSender
    from sqstee.transports.probe import FAILED, OK, WARNING, Step

    sender, authorized = HttpSender(destination, token_file), False
    try:
        sender.open()
        authorized = sender.authorized
        sender.send([Body(b"", "", "", 0, 0)])
    except TransportError as error:
        if error.code not in ("Http400", "Http422") or HTML_PAGE in error.message:
            advice = {
                "Configuration": "give a readable file with --token-file, or none",
                "Http400": "check scheme and port of the URL: a proxy or another server may have answered",
                "Http401": "set SQSTEE_TOKEN, or --token-file FILE, to one of the collector's tokens",
                "Http403": "set SQSTEE_TOKEN, or --token-file FILE, to one of the collector's tokens",
                "Http404": "check the path in the URL",
            }
            if authorized and APACHE_OPTION in error.message:
                advice["Http401"] = f"have the collector's server pass the token on: in Apache, {APACHE_OPTION}"
            state = WARNING if error.code in ("Http400", "Http429", "Http503") else FAILED
            busy = "the collector is busy: lines that it refuses now wait in the spool"
            reach = "check host and port, and that the collector is running"
            if error.code.startswith("Http3"):
                reach = "give the URL that this one redirects to; if that is a login page, log in to this network"
            elif error.code.startswith("Http"):
                reach = "a server answers, but not as a collector: check the path in the URL, and that server's log"
            found = advice.get(error.code) or advice_on_the_way(error, "SSL_CERT_FILE or AWS_CA_BUNDLE")
            return Step("collector", state, str(error), found or (busy if state == WARNING else reach))
    finally:
        sender.close()
    return Step("collector", OK, f"{destination.text} accepts posts{' with this token' if authorized else ''}")


def _spool(destination: Destination, settings: Settings, spool: str) -> Iterator[Step]:
    """Whether a run could spool its lines: the folder, its free space, its disk."""
    from sqstee.spool.location import default_roots, obstacle, root_path
    from sqstee.transports.probe import FAILED, OK, WARNING, Step

    root = root_path(spool or settings.spool)
    advice = "choose another folder with --spool DIR or SQSTEE_SPOOL"
    best = default_roots()[0]
    if not (spool or settings.spool) and root != best:
        yield Step("spool", WARNING, f"{best} cannot be used: {obstacle(best)}; {root} stands in for it", advice)
    existing = root
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing) or not os.access(existing, os.W_OK | os.X_OK):
        yield Step("spool", FAILED, f"cannot write to {existing}", advice)
        return
    if existing == root and os.stat(root).st_uid != os.getuid():
        yield Step("spool", FAILED, f"{root} belongs to another user", advice)
        return
    kind = _filesystem(existing)
    if kind in _REMOTE:
        local = "put the spool on a local disk: SQSTEE_SPOOL=/var/tmp/…"
        yield Step("spool", WARNING, f"{root} is on {kind}", local)
    found = os.statvfs(existing)
    free = found.f_bavail * found.f_frsize
    state = OK if free > _SPOOL_BYTES else WARNING
    yield Step("spool", state, f"{root}, {free / 2**30:,.1f} GiB free", "free some space, or choose another disk")
    yield _agent(destination, root)


def _agent(destination: Destination, root: str) -> Step:
    """Whether an agent ships for runs with this destination and environment."""
    from sqstee.agent.advertisement import read_status
    from sqstee.settings import load_settings
    from sqstee.ship import sharing
    from sqstee.spool import agent_file
    from sqstee.spool.location import with_absolute_path
    from sqstee.transports.probe import OK, WARNING, Step

    identity = sharing.identity(load_settings((), os.environ), os.environ)
    path = agent_file.serving(root, with_absolute_path(destination.text, root), os.environ, identity)
    if path:
        kind = "process" if not agent_file.is_shared(path) else "the shared shipper, process"
        return Step("agent", OK, f"{kind} {agent_file.holder(path)}, ships for runs like this one")
    found = read_status(f"{root}/{agent_file.FILE_NAME}")
    if found is None:
        others = "the first run starts a shared shipper" if identity else "each run ships its own lines"
        return Step("agent", OK, f"none; {others}")
    name = f"process {found.get('pid', '?')}"
    advice = "start it with the same --to and AWS settings, or do nothing: such runs ship their own lines"
    return Step("agent", WARNING, f"{name} does not serve this destination with these AWS settings", advice)


def _filesystem(path: str) -> str:
    """The type of the file system of a path (proc(5), mountinfo)."""
    best, kind = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            point = fields.split()[4]
            if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, kind = point, rest.split()[0]
    return kind


def _print_step(step: Step, as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps({name: getattr(step, name) for name in ("name", "state", "text", "advice")}))
        return
    from sqstee.read.printer import neutral

    state = f"{step.state:7}"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        code = {"ok": "32", "warning": "33", "failed": "31"}[step.state]
        state = f"\033[{code}m{state}\033[0m"
    typer.echo(f"{state} {step.name}: {neutral(step.text)}")
    if step.advice and step.state != "ok":
        typer.echo(f"        → {neutral(step.advice)}")
    sys.stdout.flush()
