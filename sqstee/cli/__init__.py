"""The verbs: one file each, the only users of typer."""
