"""`sqstee serve`: the HTTP collector, behind waitress."""

from __future__ import annotations

import os
import sys

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError

_MOST_CONNECTIONS = 4096
_OTHER_DESCRIPTORS = 128  # the store's, and the files of requests that are too large for memory


def serve(
    host: str = typer.Option("127.0.0.1", "--host", metavar="ADDRESS", help="The address to listen on."),
    port: int = typer.Option(8080, "--port", min=0, max=65535, help="The port to listen on; 0 takes a free one."),
    store: str = typer.Option("local", "--store", metavar="DEST", help="The local queue to store into."),
    token_file: str = typer.Option(
        "", "--token-file", metavar="FILE", help="The bearer tokens to accept, one a line (else SQSTEE_TOKEN)."
    ),
    threads: int = typer.Option(8, "--threads", min=1, help="Requests that are handled at once."),
) -> int:
    """Collect what `--to http://HOST:PORT/` posts, into a local queue that `sqstee tail` reads."""
    from sqstee import options
    from sqstee.collector import MAX_POST_BYTES, Collector, open_store
    from sqstee.destination import LOCAL_FILE_NAME
    from sqstee.spool.location import default_root
    from sqstee.transports.http import tokens

    try:
        from waitress.server import create_server
    except ImportError:
        hint = "pip install 'sqstee[serve]', or load sqstee.collector:application into a WSGI server of yours"
        raise SqsteeError("sqstee serve needs waitress", hint, EXIT_FAILURE) from None
    settings = options.load((), os.environ)
    try:
        accepted = tokens(token_file or settings.token_file)
    except ValueError as error:
        hint = "the form is --token-file FILE, a token a line"
        raise SqsteeError(f"the tokens cannot be read: {error}", hint) from None
    place = f"{os.path.abspath(settings.spool or default_root())}/{LOCAL_FILE_NAME}"
    collector = Collector(open_store(store, place, settings.local_max), accepted)
    try:
        server = create_server(
            collector,
            host=host,
            port=port,
            threads=threads,
            ident="sqstee",
            max_request_body_size=MAX_POST_BYTES,
            connection_limit=_connections(),
            backlog=1024,
            asyncore_use_poll=True,  # select() takes no descriptor above 1023
            recv_bytes=65536,
        )
    except (OSError, ValueError, OverflowError) as error:
        hint = "the form is --host ADDRESS --port PORT"
        why = getattr(error, "strerror", None) or error
        raise SqsteeError(f"{host}:{port} cannot be listened on: {why}", hint, EXIT_FAILURE) from None
    _end_on_sigterm()
    _say(server, accepted)
    server.run()
    return 0


def _connections() -> int:
    """How many may be open at a time, as far as descriptors allow: senders keep theirs, and those above it wait."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    return max(1, allowed - _OTHER_DESCRIPTORS)


def _say(server: object, accepted: list[str]) -> None:
    """Where it listens; and that anybody may post, where that is so."""
    addresses = getattr(server, "effective_listen", None)
    if addresses is None:
        addresses = [(server.effective_host, server.effective_port)]  # type: ignore[attr-defined]
    for host, port in addresses:
        typer.echo(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}/", err=True)
        if not accepted and not host.startswith("127.") and host not in ("::1", "localhost"):
            hint = "--token-file or SQSTEE_TOKEN would ask for a token"
            typer.echo(f"sqstee: anybody who reaches {host} may post: {hint}", err=True)
    sys.stderr.flush()


def _end_on_sigterm() -> None:
    """As on ^C: what has been begun is answered."""
    import logging
    import signal

    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # that requests wait for a thread is no news
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
