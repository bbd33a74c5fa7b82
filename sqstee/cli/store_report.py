"""`sqstee web --check-store`: check a store, and print the findings."""

from __future__ import annotations

import os

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError
from sqstee.text import count, one_line


def report(source: str, is_alone: bool) -> int:
    """Check a store and print a few lines; the exit status. Raises SqsteeError."""
    from sqstee.cli.sources import destinations, local_path, reporting_errors
    from sqstee.transports.store_check import check_store

    (destination,) = destinations([source] if source else None)
    hint = "sqstee web --check-store local:/var/lib/sqstee.db"
    if destination.kind != "local" or not is_alone:
        raise SqsteeError("--check-store is for a local store, by itself", hint)
    path = os.path.abspath(destination.name or local_path())
    if not os.path.exists(path):
        raise SqsteeError(f"{path}: no such store", hint, EXIT_FAILURE)
    with reporting_errors("web"):
        found = check_store(path)
    for problem in found.problems:
        typer.echo(f"damaged: {one_line(problem)[:200]}")
    if found.problems:
        typer.echo(f"save the readable part: sqlite3 {path} .recover | sqlite3 NEW.db")
        return EXIT_FAILURE
    size = f"{count(found.bodies, 'message')} of {count(found.runs, 'run')}, {int(found.bytes):,} bytes"
    typer.echo(f"the file is sound: {size}")
    typer.echo(f"rows of runs: {found.rebuilt} rebuilt from their messages, {found.removed} without any removed")
    if found.unreadable:
        typer.echo(f"damaged: {count(found.unreadable, 'message')} cannot be read")
    return EXIT_FAILURE if found.is_damaged else 0
