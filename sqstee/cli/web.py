"""`sqstee web`: serve the board in a browser, with waitress."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, Any

import typer

from sqstee.cli.run_options import KEEP_FAILED, STORE_DAYS, STORE_MAX, VIA_S3
from sqstee.errors import EXIT_FAILURE, SqsteeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqstee.read.store_pump import StorePump
    from sqstee.web.board import Board

_HOST, _PORT = "127.0.0.1", 8788
_PORTS = 100  # tried, from _PORT on, where --listen names none
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_TOKEN_BYTES = 24  # of randomness
_CONNECTIONS = 500
_HINT = "sqstee web --listen 127.0.0.1:0 takes any free port"


def web(
    source: str = typer.Argument(
        "",
        metavar="[SOURCE]",
        help="A local store, a drained folder, s3://BUCKET/PREFIX, or with --consume a queue (default: --to of run).",
    ),
    consume: bool = typer.Option(False, "--consume", help="Empty SOURCE into the store, and show that."),
    store: str = typer.Option("", "--store", metavar="DEST", help="The store of --consume, local:PATH."),
    via_s3: list[str] = VIA_S3,
    store_max: str = STORE_MAX,
    store_days: str = STORE_DAYS,
    keep_failed: bool = KEEP_FAILED,
    check_store: bool = typer.Option(
        False, "--check-store", help="Check SOURCE, a store, correct its notes on runs, and end."
    ),
    listen: str = typer.Option(
        "", "--listen", metavar="HOST:PORT", help="Where to listen (default: 127.0.0.1:8788, or the next free port)."
    ),
    token_file: str = typer.Option(
        "", "--token-file", metavar="FILE", help="The tokens to accept, one per line (default: SQSTEE_WEB_TOKEN)."
    ),
    threads: int = typer.Option(
        16,
        "--threads",
        min=10,
        max=256,
        help="The number of requests handled in parallel.",
    ),
) -> int:
    """Show the runs of a store in a browser: states, lines as they come, and a search over all of them.

    It only reads. Whoever knows the token may read; without one of yours it prints an address with a random one.

    With --consume it is a queue's one reader: each message is deleted once its lines are on the disk, in a store that
    receives nothing while it is full (--store-max makes room; else SQSTEE_LOCAL_MAX, 1G). Other programs' messages stay
    in the queue. A drained folder and s3:// are copied into a store of at most that size in $TMPDIR, which is removed
    at the end; new content there follows.

    The exit status of --check-store is 0 for a sound store, also if rows of runs were rebuilt, and 1 for a damaged one.
    """
    from sqstee.cli.sources import reporting_errors
    from sqstee.cli.store_report import report
    from sqstee.cli.web_feed import shown_store
    from sqstee.transports.retention import configured

    if check_store:
        return report(source, is_alone=not (consume or store))
    host, port = _address(listen)
    retention = configured(store_max, store_days, keep_failed)
    is_limited = bool(store_max or store_days or keep_failed)
    shown = shown_store(source, consume, store, retention, is_limited, via_s3)
    with reporting_errors("web"), shown as (place, feed):
        board, made = make_board(place, host, token_file, pump=feed.pump if feed else None)
        try:
            server = _server(board, host, port, threads)
            end_on_signals(board)
            if feed:
                feed.pump.connect()
            print_addresses(server, made)
            if feed:
                feed.begin()
            server.run()
        finally:
            board.close()
    return 0


def make_board(
    place: str, host: str, token_file: str, senders: Sequence[str] = (), pump: StorePump | None = None
) -> tuple[Board, str]:
    """The board of the store at a path, which `pump` fills, and the token made for it where none is configured."""
    import secrets

    from sqstee.web import tokens
    from sqstee.web.access import Access
    from sqstee.web.board import Board

    accepted = tokens(token_file, senders)
    made = "" if accepted else secrets.token_urlsafe(_TOKEN_BYTES)
    hosts = [*_LOOPBACK, _in_url(host)] if _is_loopback(host) else []
    return Board(place, Access(accepted or [made], hosts), pump), made


def _address(text: str) -> tuple[str, int | None]:
    """The host and port of --listen; no port where any from _PORT on will do."""
    if not text:
        return _HOST, None
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5) or int(port) > 65535:
        raise SqsteeError(f"invalid value {text!r} for --listen (expected HOST:PORT)", _HINT)
    return host or _HOST, int(port)


def _server(board: Board, host: str, port: int | None, threads: int) -> Any:
    try:
        from waitress.server import create_server
    except ImportError:
        from sqstee.extras import install_command

        hint = f"{install_command('serve')}, or load sqstee.web:application into another WSGI server"
        raise SqsteeError("sqstee web needs waitress", hint, EXIT_FAILURE) from None
    candidates: Sequence[int] = range(_PORT, _PORT + _PORTS) if port is None else [port]
    for candidate in candidates:
        try:
            return create_server(
                board,
                host=host,
                port=candidate,
                threads=threads,
                ident="sqstee",
                max_request_body_size=16384,  # of the form of the login
                max_request_header_size=65536,
                connection_limit=_CONNECTIONS,
                channel_request_lookahead=1,  # it notices clients that leave while they wait
                asyncore_use_poll=True,  # select() cannot watch descriptors above 1023
            )
        except (OSError, ValueError, OverflowError) as error:
            if getattr(error, "errno", 0) == errno.EADDRINUSE and candidate != candidates[-1]:
                continue
            reason = getattr(error, "strerror", None) or error
            raise SqsteeError(f"cannot listen on {host}:{candidate}: {reason}", _HINT, EXIT_FAILURE) from None
    raise AssertionError


def print_addresses(server: Any, token: str) -> None:
    """Print where the board is, with the token that was made for it, and a warning where others may listen."""
    addresses = getattr(server, "effective_listen", None) or [(server.effective_host, server.effective_port)]
    for host, port in addresses:
        query = f"?token={token}" if token else ""
        typer.echo(f"the board is at http://{_in_url(host)}:{port}/{query}", err=True)
        if not _is_loopback(host):
            typer.echo("sqstee: the board is not encrypted on the way: put a TLS proxy in front of it", err=True)
    sys.stderr.flush()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "localhost")


def end_on_signals(board: Board) -> None:
    """End on SIGTERM and ^C: requests under way are answered, but searches end."""
    import signal

    def end(number: int, frame: object) -> None:
        board.close()
        sys.exit(0)

    quieten_waitress()
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def quieten_waitress() -> None:
    """Let nobody fill the log: no warning for each request that waits for a thread, no traceback for one that is none.

    When a client leaves early waitress names the path of its request; a request that could not be parsed has none.
    """
    import logging

    from waitress.parser import HTTPRequestParser

    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    HTTPRequestParser.path = ""
