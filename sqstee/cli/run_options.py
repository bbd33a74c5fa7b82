"""Options that several verbs about runs have."""

from __future__ import annotations

import typer

FAILED = typer.Option(False, "--failed", help="Only runs that failed.")
RUNNING = typer.Option(False, "--running", help="Only runs that have not ended.")
MISSING = typer.Option(False, "--missing", help="Only runs of which lines are missing.")
SILENT = typer.Option(False, "--silent", help="Only runs that have written nothing for --silent-after.")
GONE = typer.Option(False, "--gone", help="Only runs whose heartbeat has stopped.")
JOB = typer.Option([], "--job", metavar="GLOB", help="Only runs of these jobs or commands.")
HOST = typer.Option([], "--host", metavar="GLOB", help="Only runs on these hosts.")
LABEL = typer.Option([], "--label", metavar="NAME=GLOB", help="Only runs with this label.")
SILENT_AFTER = typer.Option("60s", "--silent-after", metavar="TIME", help="When a run counts as silent.")
CONSUME = typer.Option(False, "--consume", help="Delete each message once its lines are counted.")
PEEK = typer.Option(False, "--peek", help="Read the queue once; release every message at the end.")
VIA_S3 = typer.Option(
    [], "--via-s3", metavar="s3://BUCKET/PREFIX", help="Follow pointers there only (default: as --via-s3 of run)."
)
START_TIMEOUT = typer.Option("30s", "--start-timeout", metavar="TIME", help="Give up if nothing answers this long.")
STORE_MAX = typer.Option(
    "", "--store-max", metavar="SIZE", help="Keep the store below this: remove whole runs, oldest first."
)
STORE_DAYS = typer.Option(
    "", "--store-days", metavar="NUMBER", help="Remove runs whose last message is older, in days."
)
KEEP_FAILED = typer.Option(False, "--keep-failed", help="With --store-max: remove failed and lost runs last.")
