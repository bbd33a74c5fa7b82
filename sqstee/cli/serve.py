"""`sqstee serve`: run the HTTP collector, with waitress."""

from __future__ import annotations

import os
import sys

import typer

from sqstee.cli.run_options import KEEP_FAILED, STORE_DAYS, STORE_MAX
from sqstee.errors import EXIT_FAILURE, SqsteeError

_MOST_CONNECTIONS = 4096
_OTHER_DESCRIPTORS = 128  # for the store, and for the temporary files of large requests
_BOARD_THREADS = 10  # for downloads and searches, so that senders never wait for a reader


def serve(
    host: str = typer.Option("127.0.0.1", "--host", metavar="ADDRESS", help="The address to listen on."),
    port: int = typer.Option(8080, "--port", min=0, max=65535, help="The port to listen on (0: any free port)."),
    store: str = typer.Option("local", "--store", metavar="DEST", help="The local queue to store into."),
    token_file: str = typer.Option(
        "", "--token-file", metavar="FILE", help="The bearer tokens to accept, one per line (default: SQSTEE_TOKEN)."
    ),
    threads: int = typer.Option(8, "--threads", min=1, help="The number of requests handled in parallel."),
    store_max: str = STORE_MAX,
    store_days: str = STORE_DAYS,
    keep_failed: bool = KEEP_FAILED,
    web: bool = typer.Option(False, "--web", help="Show the board of the store at the same address, as `web` does."),
    web_token_file: str = typer.Option(
        "",
        "--web-token-file",
        metavar="FILE",
        help="The tokens of the board's readers, one per line (default: SQSTEE_WEB_TOKEN, or one that is printed).",
    ),
) -> int:
    """Collect lines from `--to http://HOST:PORT/` into a local queue, for `sqstee tail` and `sqstee web` to read.

    A full store (SQSTEE_LOCAL_MAX, 1G) refuses lines, which senders keep. With --store-max or --store-days it removes
    runs instead; those that go on are spared. They are the settings SQSTEE_STORE_MAX, SQSTEE_STORE_DAYS and
    SQSTEE_KEEP_FAILED of the WSGI application.
    """
    from sqstee.cli.web import end_on_signals, make_board, print_addresses
    from sqstee.collector import MAX_POST_BYTES, Collector, open_store
    from sqstee.settings import load_settings
    from sqstee.spool.location import local_queue, open_for_run
    from sqstee.transports.http import tokens
    from sqstee.transports.retention import configured, tidy_regularly

    try:
        from waitress.server import create_server
    except ImportError:
        from sqstee.extras import install_command

        hint = f"{install_command('serve')}, or load sqstee.collector:application into another WSGI server"
        raise SqsteeError("sqstee serve needs waitress", hint, EXIT_FAILURE) from None
    settings = load_settings((), os.environ)
    try:
        accepted = tokens(token_file or settings.token_file)
    except ValueError as error:
        hint = "give a file with one token per line: sqstee serve --token-file FILE"
        raise SqsteeError(f"cannot read the tokens: {error}", hint) from None
    root, notice = open_for_run(settings) if store == "local" else ("", "")
    if notice:
        typer.echo(f"sqstee: {notice}", err=True)
    place = local_queue(root)
    if web_token_file and not web:
        raise SqsteeError("--web-token-file needs --web", "sqstee serve --web --web-token-file FILE")
    retention = configured(store_max, store_days, keep_failed)
    opened = open_store(store, place, settings.local_max, retention)
    board, made = make_board(opened.path, host, web_token_file, accepted) if web else (None, "")
    collector = Collector(opened, accepted, board)
    try:
        server = create_server(
            collector,
            host=host,
            port=port,
            threads=threads + (_BOARD_THREADS if web else 0),
            ident="sqstee",
            max_request_body_size=MAX_POST_BYTES,
            connection_limit=_connections(),
            backlog=1024,
            asyncore_use_poll=True,  # select() cannot watch descriptors above 1023
            recv_bytes=65536,
            channel_request_lookahead=int(web),  # with it a search notices that its client has left
        )
    except (OSError, ValueError, OverflowError) as error:
        hint = "choose another port, or any free one: sqstee serve --port 0"
        reason = getattr(error, "strerror", None) or error
        raise SqsteeError(f"cannot listen on {host}:{port}: {reason}", hint, EXIT_FAILURE) from None
    if retention:
        tidy_regularly(opened.tidy)
    if board:
        end_on_signals(board)
    else:
        _end_on_sigterm()
    _print_addresses(server, accepted)
    if board:
        print_addresses(server, made)
    try:
        server.run()
    finally:
        if board:
            board.close()
    return 0


def _connections() -> int:
    """The most connections open at a time, as far as descriptors allow: senders keep theirs, further ones wait."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    return max(1, allowed - _OTHER_DESCRIPTORS)


def _print_addresses(server: object, accepted: list[str]) -> None:
    """Print the addresses, with a warning if anybody on another host may post."""
    addresses = getattr(server, "effective_listen", None)
    if addresses is None:
        addresses = [(server.effective_host, server.effective_port)]  # type: ignore[attr-defined]
    for host, port in addresses:
        typer.echo(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}/", err=True)
        if not accepted and not host.startswith("127.") and host not in ("::1", "localhost"):
            hint = "require a token with --token-file or SQSTEE_TOKEN"
            typer.echo(f"sqstee: anybody who reaches {host} may post: {hint}", err=True)
    sys.stderr.flush()


def _end_on_sigterm() -> None:
    """End on SIGTERM as on ^C: requests under way are answered."""
    import signal

    from sqstee.cli.web import quieten_waitress

    quieten_waitress()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
