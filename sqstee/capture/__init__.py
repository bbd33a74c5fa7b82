"""The front: start the command, pass its output through, spool a copy, end as it ended."""
