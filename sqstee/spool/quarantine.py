"""The quarantine: records that no destination takes, in a file for each run."""

from __future__ import annotations

import os

QUARANTINE = "quarantine"  # the folder in the spool folder


def quarantined_records(folder: str) -> int:
    """How many records of the run in `folder` are in quarantine."""
    root, run = os.path.split(folder)
    try:
        with open(f"{root}/{QUARANTINE}/{run}.ndjson", "rb") as file:
            return file.read().count(b"\n")
    except OSError:
        return 0


def quarantine_notice(what: str, root: str) -> str:
    """What to say about records in quarantine."""
    refused = f"{what} larger than the destination takes, or refused by it"
    return f"{refused}: kept in {root}/{QUARANTINE}, `sqstee flush --list` shows them"
