"""Empties a queue into files: receive, journal, index, assemble, with a verdict for each run."""
